//! The rule for symbolic links in a release: what is inside points inside.

/// The longest target in bytes: what Linux can store.
const MAX_TARGET: usize = 4095;

/// What is wrong with a link's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// Empty, too long or with a NUL byte.
    #[error("it is a symbolic link whose target is empty, too long or holds a NUL byte")]
    Bad,
    /// It starts with `/`.
    #[error("it is a symbolic link to an absolute path")]
    Absolute,
    /// It leads out of the release.
    #[error("it is a symbolic link that leads out of the release")]
    Outside,
    /// `..` after a name: through another link it could lead out.
    #[error("it is a symbolic link with `..` after a name in its target")]
    ParentAfterName,
}

impl LinkFault {
    /// Returns what to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Bad => "repair or remove the link",
            Self::Absolute | Self::Outside => {
                "a release must not depend on what is outside it: put the file itself there, or link it on the host"
            }
            Self::ParentAfterName => "write the link's target in its shortest form, like ../lib/name",
        }
    }
}

/// Checks that a symbolic link `depth` components below the release may have this target.
///
/// The link's own directories are real ones, so as many leading `..` as it is deep stay inside. From there on only names are
/// allowed: each either exists as itself or is a link that follows the same rule.
///
/// # Errors
/// What is wrong with it.
pub fn check_target(depth: usize, target: &[u8]) -> Result<(), LinkFault> {
    if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
        return Err(LinkFault::Bad);
    }
    if target.starts_with(b"/") {
        return Err(LinkFault::Absolute);
    }
    let mut left = depth.saturating_sub(1);
    let mut named = 0_usize;
    let mut parent_after_name = false;
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if named > 0 => {
                parent_after_name = true;
                named -= 1;
            }
            b".." => left = left.checked_sub(1).ok_or(LinkFault::Outside)?,
            _ => named += 1,
        }
    }
    if parent_after_name { Err(LinkFault::ParentAfterName) } else { Ok(()) }
}
