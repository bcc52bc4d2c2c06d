//! The rules for names and link targets. Pure: bytes in, a path below the release or a [`Rule`] out.

use super::{Rule, UnpackLimits};

/// The longest target of a symbolic link in bytes: what Linux can store.
const MAX_TARGET: usize = 4095;

/// A path below the release: relative, without empty, `.` and `..` components. No components means the release itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath {
    bytes: Vec<u8>,
    depth: usize,
}

impl EntryPath {
    /// Checks a name from an archive.
    pub(super) fn parse(name: &[u8], limits: &UnpackLimits) -> Result<Self, Rule> {
        if name.is_empty() {
            return Err(Rule::EmptyName);
        }
        if name.contains(&0) {
            return Err(Rule::NulInName);
        }
        if name.starts_with(b"/") {
            return Err(Rule::AbsoluteName);
        }
        if name.len() > limits.path {
            return Err(Rule::LongName);
        }
        let mut path = Self { bytes: Vec::with_capacity(name.len()), depth: 0 };
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(Rule::ParentInName),
                _ if component.len() > limits.component => return Err(Rule::LongComponent),
                _ => path.push(component),
            }
        }
        if path.depth > limits.depth { Err(Rule::TooDeep) } else { Ok(path) }
    }

    fn push(&mut self, component: &[u8]) {
        if self.depth > 0 {
            self.bytes.push(b'/');
        }
        self.bytes.extend_from_slice(component);
        self.depth += 1;
    }

    /// Returns the path; empty for the release itself.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the number of components.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Returns the components of the directory it is in, and its own name; none for the release itself.
    pub(super) fn split(&self) -> Option<(impl Iterator<Item = &[u8]>, &[u8])> {
        let mut components = self.bytes.split(|byte| *byte == b'/');
        let name = components.next_back().filter(|name| !name.is_empty())?;
        Some((components, name))
    }

    /// Checks that a symbolic link at this path may have this target.
    ///
    /// The path's own directories are real ones, so as many leading `..` as it is deep stay inside. From there on only names are
    /// allowed: each either exists as itself or is a link that follows the same rule.
    pub(super) fn check_target(&self, target: &[u8]) -> Result<(), Rule> {
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            return Err(Rule::BadLinkTarget);
        }
        if target.starts_with(b"/") {
            return Err(Rule::AbsoluteLink);
        }
        let mut left = self.depth.saturating_sub(1);
        let mut named = 0_usize;
        let mut parent_after_name = false;
        for component in target.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." if named > 0 => {
                    parent_after_name = true;
                    named -= 1;
                }
                b".." => left = left.checked_sub(1).ok_or(Rule::LinkOutside)?,
                _ => named += 1,
            }
        }
        if parent_after_name { Err(Rule::ParentAfterName) } else { Ok(()) }
    }
}
