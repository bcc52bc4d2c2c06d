//! Who signed an artifact: signatures of minisign and of OpenSSH keys over its statement ([`crate::model::trust`]).
//!
//! Both are checked with *ring*, in the controller and on every host. Promises: no text or signature makes it panic; what is read is
//! bounded before it is decoded; a signature counts only if one of the keys that are trusted made it, for this purpose. Never reads a
//! file and never signs.

mod minisign;
mod ssh;
#[cfg(test)]
mod tests;

use crate::model::trust::{Endorsement, KeyKind, LONGEST_SIGNATURE, NAMESPACE, Statement, StatementError, TrustedKey};

/// Why a signature does not count.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// Neither minisign's nor OpenSSH's.
    #[error("the signature can't be read: {0}")]
    Unreadable(&'static str),
    /// Made for something else, such as git's commits.
    #[error("the signature was made for `{0}`, not for `{NAMESPACE}`")]
    Purpose(String),
    /// Nobody trusts the key.
    #[error("it is signed with a key that is not trusted ({0})")]
    Stranger(String),
    /// The key is trusted, but did not sign this.
    #[error("the signature is not of this manifest: it was changed after {0} signed, or the signature was")]
    Wrong(String),
    /// What was signed makes no sense.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

impl SignatureError {
    /// Returns what to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "`fleetdrop sign` writes it, or `minisign -S`, or `ssh-keygen -Y sign -n fleetdrop`",
            Self::Purpose(_) => "sign with `fleetdrop sign`, or with `ssh-keygen -Y sign -n fleetdrop`",
            Self::Stranger(_) => "if that key may sign, add it to the playbook's `trusted_keys` or to its `allowed_signers`",
            Self::Wrong(_) => "don't deploy it: fetch manifest and signature again from where they were made",
            Self::Statement(_) => "`fleetdrop sign` writes the manifest that is to be signed",
        }
    }
}

/// Checks the signature and returns what was signed, and by whom.
pub fn open(endorsement: &Endorsement) -> Result<(Statement, &TrustedKey), SignatureError> {
    let signer = verify(endorsement.statement.as_bytes(), &endorsement.signature, &endorsement.keys)?;
    Ok((Statement::read(&endorsement.statement)?, signer))
}

/// Returns the key that signed the text, one of `keys`.
pub fn verify<'k>(text: &[u8], signature: &str, keys: &'k [TrustedKey]) -> Result<&'k TrustedKey, SignatureError> {
    if signature.len() > LONGEST_SIGNATURE {
        return Err(SignatureError::Unreadable("it is too long"));
    }
    if signature.trim_start().starts_with(ssh::BEGIN) {
        let signature = ssh::Signature::read(signature)?;
        let key = keys.iter().find(|key| matches!(key.kind(), KeyKind::Ssh(blob) if *blob == signature.key));
        let key = key.ok_or_else(|| SignatureError::Stranger(signature.signer()))?;
        return if signature.is_of(text) { Ok(key) } else { Err(SignatureError::Wrong(key.to_string())) };
    }
    let signature = minisign::Signature::read(signature)?;
    // Ids are chosen at random and need not be different.
    let mut known = None;
    for key in keys {
        let KeyKind::Minisign { id, point } = key.kind() else { continue };
        if *id != signature.id {
            continue;
        }
        if signature.is_of(text, point) {
            return Ok(key);
        }
        known = Some(key);
    }
    Err(match known {
        Some(key) => SignatureError::Wrong(key.to_string()),
        None => SignatureError::Stranger(signature.signer()),
    })
}
