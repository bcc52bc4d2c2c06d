//! Identifiers. Each is a newtype that can only hold a valid value, because some become file names on hosts.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest accepted identifier, in bytes: what a file name allows on every file system in use.
const MAX_NAME: usize = 200;

/// Says why a text is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, too long, or with a character outside the allowed set.
    #[error("`{text}` is not a valid {what}: {rule}")]
    Invalid {
        /// Which identifier was expected.
        what: &'static str,
        /// The offending text, shortened.
        text: String,
        /// The rule it broke.
        rule: &'static str,
    },
}

fn invalid(what: &'static str, text: &str, rule: &'static str) -> IdError {
    IdError::Invalid { what, text: text.chars().take(60).collect(), rule }
}

/// True for names that are safe as one path component: ASCII letters, digits, `.`, `_`, `-`, not starting with `.` or `-`.
fn is_safe_component(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_NAME
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and wraps it.
            pub fn new(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(invalid($what, text, $rule)) }
            }

            /// Returns the identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }
    };
}

string_id!(
    /// One run of the controller, random hexadecimal: `1f9a64c2d03b77e1`.
    RunId,
    "run id",
    "16 lower-case hexadecimal digits",
    |text| text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
);

string_id!(
    /// One release on a host, and the name of its directory: `20261120T031500Z-1a2b3c4d` (UTC time, start of the digest).
    ReleaseId,
    "release id",
    "letters, digits, `.`, `_`, `-`, not starting with `.` or `-`, at most 200 bytes",
    is_safe_component
);

string_id!(
    /// The application's name; part of `deploy_to`'s default.
    AppName,
    "app name",
    "letters, digits, `.`, `_`, `-`, not starting with `.` or `-`, at most 200 bytes",
    is_safe_component
);

string_id!(
    /// A host's name in the inventory. Printable, no white space; not necessarily a DNS name.
    HostName,
    "host name",
    "printable characters without white space, at most 253 bytes",
    |text| !text.is_empty() && text.len() <= 253 && !text.chars().any(|c| c.is_control() || c.is_whitespace())
);

string_id!(
    /// Who is at the controller, as the controller says: `anna@laptop`.
    Operator,
    "operator",
    "visible ASCII characters without blanks, at most 200 bytes",
    |text| !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|b| b.is_ascii_graphic())
);

impl Operator {
    /// Makes the best of any text: what may not be in it becomes `?`.
    pub fn of(text: &str) -> Self {
        let fit = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        let text: String = text.chars().take(MAX_NAME).map(fit).collect();
        Self(if text.is_empty() { "?" } else { &text }.into())
    }
}

impl RunId {
    /// Makes a run id of 8 random bytes, which the caller draws.
    pub fn from_random(random: [u8; 8]) -> Self {
        Self(format!("{:016x}", u64::from_be_bytes(random)).into())
    }
}

impl ReleaseId {
    /// Builds an id from an RFC 3339 UTC time with whole seconds (`2026-11-20T03:15:00Z`) and the artifact's digest.
    pub fn compose(rfc3339_utc: &str, digest: &Digest) -> Result<Self, IdError> {
        let stamp: String = rfc3339_utc.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        Self::new(&format!("{stamp}-{}", &digest.to_string()[..8]))
    }

    /// True if it is the id of a release that is made of the artifact with that digest, as far as the id tells.
    pub fn is_of(&self, digest: &Digest) -> bool {
        self.as_str().rsplit_once('-').is_some_and(|(_, end)| end == &digest.to_string()[..8])
    }

    /// True if it was composed in a later second than `other`: their order within one tells nothing.
    pub fn is_later_than(&self, other: &Self) -> bool {
        self.stamp() > other.stamp()
    }

    fn stamp(&self) -> &str {
        self.as_str().split('-').next().unwrap_or_default()
    }
}

/// A host's index in the run's fleet: dense, stable for the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostId(pub u32);

impl HostId {
    /// Returns the id as an index into per-host tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A SHA-256 digest, 32 bytes; 64 lower-case hexadecimal digits as text and in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || invalid("SHA-256 digest", text, "64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "-rf", ".hidden", "a b", "a\0b", "é"] {
            assert!(ReleaseId::new(bad).is_err(), "{bad:?} was accepted");
            assert!(AppName::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(AppName::new("shop-2.1_rc").is_ok());
    }

    #[test]
    fn an_operators_name_stays_one_word() {
        for (text, name) in [("anna@laptop", "anna@laptop"), ("", "?"), ("a b\nc\u{1b}[2Jé", "a?b?c?[2J?")] {
            assert_eq!(Operator::of(text).as_str(), name);
            assert_eq!(Operator::new(name).unwrap(), Operator::of(text));
        }
        assert_eq!(Operator::of(&"x".repeat(300)).as_str().len(), MAX_NAME);
        assert!(Operator::new("a b").is_err());
    }

    #[test]
    fn release_id_has_time_and_digest() {
        let digest: Digest = "1a2b3c4d".repeat(8).parse().unwrap();
        let id = ReleaseId::compose("2026-11-20T03:15:00Z", &digest).unwrap();
        assert_eq!(id.as_str(), "20261120T031500Z-1a2b3c4d");
        let [same, later] = ["20261120T031500Z-ffffffff", "20261120T031501Z-00000000"].map(|id| ReleaseId::new(id).unwrap());
        assert!(!same.is_later_than(&id) && !id.is_later_than(&same) && later.is_later_than(&same));
    }

    #[test]
    fn digest_round_trips_and_refuses_other_lengths() {
        let text = "00ff".repeat(16);
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert!("00ff".parse::<Digest>().is_err());
        assert!("+0".repeat(32).parse::<Digest>().is_err());
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }
}
