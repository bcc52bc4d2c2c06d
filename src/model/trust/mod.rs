//! Whose artifacts count: what a signed manifest says, and when it is refused.
//!
//! A release engineer signs a small text, the [`Statement`], beside the artifact. Where a playbook names keys, the controller
//! refuses an artifact without such a text, with one that none of the keys signed, that is of another artifact, has expired or is older
//! than what a host had; every host decides the same once more. Which keys signed is for `artifact::signature`; what the text has
//! to say is decided here.
//!
//! Never reads a clock or a file: the caller tells the time and what came before.

mod key;

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{AppName, Digest, Manifest};

pub(crate) use key::fingerprint;
pub use key::{KeyKind, Reader, TrustedKey, TrustedKeyError};

/// What signatures of OpenSSH keys are made for (`ssh-keygen -Y sign -n`).
pub const NAMESPACE: &str = "fleetdrop";
/// The most keys that a run trusts.
pub const MOST_KEYS: usize = 64;
/// The longest statement, in bytes.
pub const LONGEST_STATEMENT: usize = 16 << 10;
/// The longest signature as text, in bytes.
pub const LONGEST_SIGNATURE: usize = 16 << 10;
/// The longest version, in bytes.
const LONGEST_VERSION: usize = 128;
/// How far the clock of whoever signed may be ahead.
const SKEW: Duration = Duration::from_secs(300);
/// The format of statements that this version writes and reads.
const FORMAT: u32 = 1;

/// A point in time, to the second; RFC 3339 in UTC as text and in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Stamp(SystemTime);

impl Stamp {
    /// Cuts a time down to the second.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()))
    }

    /// Returns the time so much later; none beyond what can be counted.
    pub fn after(self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).map(Self::of)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

impl FromStr for Stamp {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_rfc3339(text).map(Self::of)
    }
}

impl TryFrom<String> for Stamp {
    type Error = humantime::TimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Stamp> for String {
    fn from(stamp: Stamp) -> Self {
        stamp.to_string()
    }
}

/// What a release is called by those who made it: up to 128 visible ASCII characters. Never compared: the time of signing is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

/// Says what a version is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version has 1 to {LONGEST_VERSION} visible ASCII characters")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        let fits = (1..=LONGEST_VERSION).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err(VersionError) }
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The manifest as it is signed: which artifact it is, and until when it may be deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The format's number.
    fleetdrop_manifest: u32,
    /// The application that it is for.
    pub app: AppName,
    /// What the release is called.
    pub version: Version,
    /// When it was signed: of two statements the later one is the newer.
    pub created: Stamp,
    /// From when on it must not be deployed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Stamp>,
    /// What the artifact is: SHA-256 of the file, or of the directory's listing.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// How many files, directories and links a directory has. The digest covers them all, with path, mode and content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
}

/// Why a text is no statement.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// Longer than [`LONGEST_STATEMENT`].
    #[error("the signed manifest is longer than {LONGEST_STATEMENT} bytes")]
    TooLong,
    /// Not what a statement looks like.
    #[error("the signed manifest can't be read")]
    Json(#[from] serde_json::Error),
    /// Of another version of the format.
    #[error("the signed manifest has format {0}, and this version reads format {FORMAT}")]
    Format(u32),
}

impl Statement {
    /// Says that this is the artifact of that version.
    pub fn new(manifest: &Manifest, version: Version, created: Stamp, expires: Option<Stamp>) -> Self {
        Self {
            fleetdrop_manifest: FORMAT,
            app: manifest.app.clone(),
            version,
            created,
            expires,
            digest: manifest.digest,
            size: manifest.size,
            files: manifest.tree.as_ref().map(|tree| tree.entries),
        }
    }

    /// Returns the text that is signed.
    pub fn to_text(&self) -> String {
        // Numbers, names and times: nothing in it can fail to become JSON.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a text. Whether somebody signed it is not asked here.
    pub fn read(text: &str) -> Result<Self, StatementError> {
        if text.len() > LONGEST_STATEMENT {
            return Err(StatementError::TooLong);
        }
        let statement: Self = serde_json::from_str(text)?;
        if statement.fleetdrop_manifest != FORMAT {
            return Err(StatementError::Format(statement.fleetdrop_manifest));
        }
        Ok(statement)
    }

    /// Decides whether this artifact may be deployed now, as far as the statement tells.
    pub fn admit(&self, manifest: &Manifest, now: SystemTime) -> Result<(), Refusal> {
        if self.app != manifest.app {
            return Err(Refusal::OtherApp { signed: self.app.clone(), app: manifest.app.clone() });
        }
        let files = manifest.tree.as_ref().map(|tree| tree.entries);
        if (self.digest, self.size, self.files) != (manifest.digest, manifest.size, files) {
            return Err(Refusal::OtherArtifact { signed: self.digest, digest: manifest.digest });
        }
        if self.created > Stamp::of(now + SKEW) {
            return Err(Refusal::NotYet { created: self.created, now: Stamp::of(now) });
        }
        match self.expires {
            Some(expires) if expires <= Stamp::of(now) => Err(Refusal::Expired { expires, now: Stamp::of(now) }),
            _ => Ok(()),
        }
    }

    /// Decides whether it may follow what a host had last.
    pub fn follows(&self, newest: &Newest) -> Result<(), Refusal> {
        if self.created >= newest.created {
            return Ok(());
        }
        Err(Refusal::Older {
            version: self.version.clone(),
            created: self.created,
            newest: newest.version.clone(),
            newest_created: newest.created,
        })
    }
}

/// The newest statement whose artifact was live on a host. Never goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// Its version, to be told.
    pub version: Version,
    /// When it was signed.
    pub created: Stamp,
}

impl From<&Statement> for Newest {
    fn from(statement: &Statement) -> Self {
        Self { version: statement.version.clone(), created: statement.created }
    }
}

/// Why an artifact is not deployed although it was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Signed for another application.
    #[error("the signed manifest is for the application {signed}, not for {app}")]
    OtherApp {
        /// What it says.
        signed: AppName,
        /// What is deployed.
        app: AppName,
    },
    /// Signed for another artifact.
    #[error("the signed manifest is of another artifact: it has SHA-256 {signed}, this one has {digest}")]
    OtherArtifact {
        /// What it says.
        signed: Digest,
        /// What is deployed.
        digest: Digest,
    },
    /// Made in the future.
    #[error("the signed manifest was made at {created}, and here it is only {now}")]
    NotYet {
        /// When it was signed.
        created: Stamp,
        /// The time here.
        now: Stamp,
    },
    /// Too late.
    #[error("the signed manifest expired at {expires}; here it is {now}")]
    Expired {
        /// When it did.
        expires: Stamp,
        /// The time here.
        now: Stamp,
    },
    /// Older than what the host had.
    #[error("version {version}, signed at {created}, is older than {newest}, signed at {newest_created}, which was live here")]
    Older {
        /// What is deployed.
        version: Version,
        /// When it was signed.
        created: Stamp,
        /// The newest that was live.
        newest: Version,
        /// When that was signed.
        newest_created: Stamp,
    },
}

impl Refusal {
    /// Returns what to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::OtherApp { .. } => {
                "sign it for this application (`fleetdrop sign --app`), or deploy it as the one it is signed for"
            }
            Self::OtherArtifact { .. } => {
                "deploy what was signed, or have this artifact signed: it may have been built anew since"
            }
            Self::NotYet { .. } => "set the clocks of this machine and of the one that signs",
            Self::Expired { .. } => {
                "have the artifact signed again (`fleetdrop sign`), or set this machine's clock if it is wrong"
            }
            Self::Older { .. } => "to go back on purpose use `fleetdrop rollback`, or deploy with --allow-downgrade",
        }
    }
}

/// What makes an artifact trusted: the signed text, its signature, and whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endorsement {
    /// The signed text, a [`Statement`].
    pub statement: String,
    /// The signature: minisign's, or OpenSSH's.
    pub signature: String,
    /// The keys of which one must have made it; 1 to [`MOST_KEYS`].
    pub keys: Vec<TrustedKey>,
    /// Hosts may go back to an older version.
    #[serde(default)]
    pub allow_downgrade: bool,
}

#[cfg(test)]
mod tests;
