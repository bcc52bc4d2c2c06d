//! Whose signature an artifact must have.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::trust::TrustedKey;

/// The keys that may sign. Without any of them no signature is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrustPlan {
    /// The keys; at most [`crate::model::trust::MOST_KEYS`].
    pub keys: Vec<TrustedKey>,
    /// A file with more of them, in OpenSSH's form, that has not been read yet.
    pub allowed_signers: Option<PathBuf>,
}

impl TrustPlan {
    /// True if artifacts must be signed.
    pub fn is_asked_for(&self) -> bool {
        !self.keys.is_empty() || self.allowed_signers.is_some()
    }
}
