//! Whether this host takes an artifact that must be signed, and what it remembers of the newest one that was live. Blocks.
//!
//! The controller has decided the same before; a host decides for itself, with its own clock and its own memory.

use std::{io, path::PathBuf, time::SystemTime};

use super::{
    disk::{self, At as _, DiskError},
    root::Root,
};
use crate::{
    artifact::{SignatureError, open_endorsement},
    model::{
        Manifest,
        trust::{Endorsement, Newest, Refusal, Statement},
    },
};

/// Why a host does not take an artifact.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// Nobody who is trusted signed it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// What was signed does not allow it.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// What was live before can't be told.
    #[error("{} can't be understood, which tells the newest version that was live", .0.display())]
    Memory(PathBuf),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl TrustError {
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Signature(error) => Some(error.hint()),
            Self::Refusal(refusal) => Some(refusal.hint()),
            Self::Memory(_) => Some("check the disk; deploying with --allow-downgrade writes it anew"),
            Self::Disk(_) => None,
        }
    }
}

/// Checks signature, artifact and time. Returns what was signed, if it had to be.
pub(crate) fn check(
    endorsement: Option<&Endorsement>,
    manifest: &Manifest,
    now: SystemTime,
) -> Result<Option<Statement>, TrustError> {
    let Some(endorsement) = endorsement else { return Ok(None) };
    let (statement, signer) = open_endorsement(endorsement)?;
    statement.admit(manifest, now)?;
    tracing::info!("version {} is signed with {signer}", statement.version);
    Ok(Some(statement))
}

/// Checks that nothing newer was live. The lock is held.
pub(crate) fn check_age(root: &Root, statement: &Statement) -> Result<(), TrustError> {
    match newest(root)? {
        Some(newest) => Ok(statement.follows(&newest)?),
        None => Ok(()),
    }
}

/// Remembers a version whose release was confirmed, unless a newer one was. What can't be read gives way.
pub(crate) fn remember(root: &Root, version: &Newest) -> Result<(), DiskError> {
    let is_newer = match newest(root) {
        Ok(Some(newest)) => version.created > newest.created,
        Ok(None) | Err(TrustError::Memory(_)) => true,
        Err(TrustError::Disk(error)) => return Err(error),
        // It is only read there.
        Err(TrustError::Signature(_) | TrustError::Refusal(_)) => false,
    };
    if !is_newer {
        return Ok(());
    }
    let path = root.newest();
    let bytes = serde_json::to_vec(version).map_err(io::Error::from).at("write", &path)?;
    disk::write_atomic(&path, &bytes)
}

fn newest(root: &Root) -> Result<Option<Newest>, TrustError> {
    let path = root.newest();
    let Some(bytes) = disk::read_small(&path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|_| TrustError::Memory(path))
}
