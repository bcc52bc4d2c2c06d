//! What proves to the others that a process belongs to a run: a certificate of the run's own authority.
//!
//! Plain data: made in the controller's memory, carried to one agent over its SSH channel, never written to a disk.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Digest;

/// One process's certificate and key, and the run's authority. Its `Debug` form shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The authority's certificate (X.509, DER): who has one of its certificates belongs to the run.
    #[serde(with = "base64_bytes")]
    pub authority: Vec<u8>,
    /// This process's certificate (X.509, DER).
    #[serde(with = "base64_bytes")]
    pub certificate: Vec<u8>,
    /// Its private key (PKCS #8, DER).
    #[serde(with = "base64_bytes")]
    pub key: Vec<u8>,
    /// The authority's time when this was handed out, since 1970: certificates are judged by it and by what has passed since, so that a host's
    /// own clock may be wrong.
    pub now: Duration,
}

impl Identity {
    /// The name in the certificate of every process of a run.
    pub const MEMBER: &str = "member.fleetdrop.internal";
    /// The name that only the controller's certificate has as well: seed and tracker.
    pub const CONTROLLER: &str = "controller.fleetdrop.internal";

    /// Returns what tells its certificate from all others.
    pub fn fingerprint(&self) -> Digest {
        fingerprint(&self.certificate)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// Returns what tells a certificate (X.509, DER) from all others.
pub(crate) fn fingerprint(certificate: &[u8]) -> Digest {
    Digest(Sha256::digest(certificate).into())
}

/// Bytes as base64 text.
mod base64_bytes {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        // Its error would show a part of the text.
        BASE64_STANDARD.decode(String::deserialize(deserializer)?).map_err(|_| D::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_travels_as_text_and_shows_nothing_of_itself() {
        let now = Duration::from_secs(10);
        let identity = Identity { authority: vec![1; 3], certificate: vec![2; 3], key: vec![3; 3], now };
        let text = serde_json::to_string(&identity).unwrap();
        assert_eq!(text, r#"{"authority":"AQEB","certificate":"AgIC","key":"AwMD","now":{"secs":10,"nanos":0}}"#);
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), identity);
        assert_eq!(format!("{identity:?}"), "Identity(..)");
        let error = serde_json::from_str::<Identity>(&text.replace("AwMD", "Aw*D")).unwrap_err().to_string();
        assert!(error.starts_with("not base64"), "{error}");
    }
}
