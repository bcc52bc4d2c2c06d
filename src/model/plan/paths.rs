//! Paths on a host that the operator names: the application's root, and what lies below a release.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest path, in bytes.
const MAX_PATH: usize = 1024;

/// Says why a text is not such a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not a directory that is the same from everywhere.
    #[error("must be a directory's absolute path, or start with `~/`")]
    NotAbsolute,
    /// Not below the release.
    #[error("must be a path below the release, without `/` at its start")]
    NotRelative,
    /// With a step that leads up.
    #[error("must not contain `..`")]
    Upwards,
    /// With a step that leads up or nowhere.
    #[error("must not contain `..`, `.` or empty parts")]
    NotPlain,
    /// Longer than 1,024 bytes.
    #[error("must have at most {MAX_PATH} bytes")]
    TooLong,
    /// With a character nobody can read.
    #[error("must not contain control characters")]
    Control,
}

/// An application's root on a host: an absolute path, or one that starts with `~/` for the agent's home directory.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeployTo(Arc<str>);

impl DeployTo {
    /// Checks a path and wraps it.
    pub fn new(text: &str) -> Result<Self, PathError> {
        check_text(text)?;
        let below = text.strip_prefix("~/").or_else(|| text.strip_prefix('/')).ok_or(PathError::NotAbsolute)?;
        if below.split('/').all(str::is_empty) {
            return Err(PathError::NotAbsolute);
        }
        if below.split('/').any(|part| part == "..") {
            return Err(PathError::Upwards);
        }
        Ok(Self(text.into()))
    }
}

/// A file or directory below a release.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkedPath(Arc<str>);

impl LinkedPath {
    /// Checks a path and wraps it.
    pub fn new(text: &str) -> Result<Self, PathError> {
        check_text(text)?;
        if text.is_empty() || text.starts_with(['/', '~']) {
            return Err(PathError::NotRelative);
        }
        if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(PathError::NotPlain);
        }
        Ok(Self(text.into()))
    }

    /// True if one of the two is the other or lies below it, so that not both can be links.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.split('/').zip(other.0.split('/')).all(|(own, other)| own == other)
    }
}

fn check_text(text: &str) -> Result<(), PathError> {
    if text.len() > MAX_PATH {
        return Err(PathError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    Ok(())
}

/// What a path of either kind can do.
macro_rules! path_text {
    ($name:ident) => {
        impl $name {
            /// Returns the path as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = PathError;
            fn from_str(text: &str) -> Result<Self, PathError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = PathError;
            fn try_from(text: String) -> Result<Self, PathError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(path: $name) -> String {
                path.0.as_ref().to_owned()
            }
        }
    };
}

path_text!(DeployTo);
path_text!(LinkedPath);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_absolute_or_below_the_home_directory() {
        for good in ["/srv/shop", "~/apps/shop", "/srv//shop/", "/a b"] {
            assert_eq!(DeployTo::new(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", PathError::NotAbsolute),
            ("/", PathError::NotAbsolute),
            ("~/", PathError::NotAbsolute),
            ("~", PathError::NotAbsolute),
            ("~bob/x", PathError::NotAbsolute),
            ("srv/shop", PathError::NotAbsolute),
            ("/srv/../etc", PathError::Upwards),
            ("/srv/\u{1b}[2J", PathError::Control),
        ] {
            assert_eq!(DeployTo::new(bad), Err(why), "{bad:?}");
        }
        assert_eq!(DeployTo::new(&format!("/{}", "x".repeat(1024))), Err(PathError::TooLong));
    }

    #[test]
    fn a_link_stays_in_its_release() {
        for good in ["log", ".env", "config/database.yml"] {
            assert_eq!(LinkedPath::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/etc/passwd", "~/x", "a/../b", "..", ".", "a//b", "a/", "a\nb"] {
            assert!(LinkedPath::new(bad).is_err(), "{bad:?}");
        }
        let overlap = |a: &str, b: &str| LinkedPath::new(a).unwrap().overlaps(&LinkedPath::new(b).unwrap());
        assert!(overlap("log", "log") && overlap("log", "log/x") && overlap("a/b/c", "a/b"));
        assert!(!overlap("log", "logs") && !overlap("a/b", "a/c"));
        assert!(serde_json::from_str::<LinkedPath>("\"../x\"").is_err(), "also over the wire");
    }
}
