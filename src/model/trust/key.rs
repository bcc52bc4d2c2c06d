//! The public keys that may sign, as text and as bytes. Pure: no signature is checked here.

use std::{fmt, str::FromStr};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The longest key as text, in bytes: an RSA key of 16 Kibit and its comment.
const LONGEST: usize = 4096;
/// The length of a minisign key's id.
const ID: usize = 8;
/// The length of an Ed25519 point.
const POINT: usize = 32;
/// The types of OpenSSH keys whose signatures can be checked.
const SSH_TYPES: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A key that may sign, in the text in which `minisign -G` or `ssh-keygen` gives it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustedKey {
    text: String,
    kind: KeyKind,
}

/// A key's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyKind {
    /// An Ed25519 key of minisign.
    Minisign {
        /// Its id, which signatures repeat.
        id: [u8; ID],
        /// The public key.
        point: [u8; POINT],
    },
    /// An OpenSSH key: its blob (RFC 4253, section 6.6).
    Ssh(Vec<u8>),
}

/// Why a text is no key that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustedKeyError {
    /// Neither of the two forms.
    #[error("must be a minisign public key (`RW...`) or an OpenSSH public key (`ssh-ed25519 AAAA...`)")]
    Unknown,
    /// An OpenSSH key whose type can't be checked.
    #[error("keys of type {0} can't be used here; ed25519, ecdsa (256 and 384 bits), rsa and their FIDO forms can")]
    Type(String),
}

impl TrustedKey {
    /// Returns the key's bytes.
    pub fn kind(&self) -> &KeyKind {
        &self.kind
    }

    /// Returns the key as [`TrustedKey::from_str`] reads it, without a comment.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// As its tools show it: a minisign key's id, or an OpenSSH key's fingerprint.
impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            KeyKind::Minisign { id, .. } => write!(f, "minisign key {:016X}", u64::from_le_bytes(*id)),
            KeyKind::Ssh(blob) => f.write_str(&fingerprint(blob)),
        }
    }
}

/// Returns an OpenSSH key's fingerprint.
pub(crate) fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

impl fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TrustedKey {
    type Err = TrustedKeyError;

    fn from_str(text: &str) -> Result<Self, TrustedKeyError> {
        if text.len() > LONGEST {
            return Err(TrustedKeyError::Unknown);
        }
        let mut words = text.split_ascii_whitespace();
        let (first, second) = (words.next().ok_or(TrustedKeyError::Unknown)?, words.next());
        match second {
            None => minisign(first),
            Some(body) => ssh(first, body),
        }
    }
}

fn minisign(word: &str) -> Result<TrustedKey, TrustedKeyError> {
    let bytes = BASE64_STANDARD.decode(word).map_err(|_| TrustedKeyError::Unknown)?;
    let parts = bytes.strip_prefix(b"Ed").and_then(|rest| rest.split_first_chunk::<ID>());
    let (id, point) = parts.ok_or(TrustedKeyError::Unknown)?;
    let point = point.try_into().map_err(|_| TrustedKeyError::Unknown)?;
    Ok(TrustedKey { text: word.to_owned(), kind: KeyKind::Minisign { id: *id, point } })
}

fn ssh(kind: &str, body: &str) -> Result<TrustedKey, TrustedKeyError> {
    let blob = BASE64_STANDARD.decode(body).map_err(|_| TrustedKeyError::Unknown)?;
    // The type is inside once more.
    if Reader::new(&blob).text() != Some(kind) {
        return Err(TrustedKeyError::Unknown);
    }
    if !SSH_TYPES.contains(&kind) {
        return Err(TrustedKeyError::Type(kind.chars().take(64).collect()));
    }
    Ok(TrustedKey { text: format!("{kind} {body}"), kind: KeyKind::Ssh(blob) })
}

impl TryFrom<String> for TrustedKey {
    type Error = TrustedKeyError;

    fn try_from(text: String) -> Result<Self, TrustedKeyError> {
        text.parse()
    }
}

impl From<TrustedKey> for String {
    fn from(key: TrustedKey) -> Self {
        key.text
    }
}

/// Reads the values that SSH's formats are made of (RFC 4251, section 5), from first to last.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Begins at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Reads so many bytes as they are.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a `uint32`.
    pub fn number(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*taken))
    }

    /// Reads a `string`.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// Reads a `string` that is UTF-8.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?).ok()
    }

    /// Reads an `mpint` that is positive, without the zeros at its front.
    pub fn positive(&mut self) -> Option<&'a [u8]> {
        let bytes = self.string()?;
        if bytes.first().is_none_or(|first| *first >= 0x80) {
            return None;
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(&bytes[zeros..])
    }

    /// True if nothing is left.
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}
