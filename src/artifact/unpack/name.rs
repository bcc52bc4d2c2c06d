//! The rules for names and link targets. Pure: bytes in, a path below the release or a [`Rule`] out.

use super::{Rule, UnpackLimits};
use crate::model::tree::check_target;

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
    pub(super) fn check_target(&self, target: &[u8]) -> Result<(), Rule> {
        check_target(self.depth, target).map_err(Rule::Link)
    }
}
