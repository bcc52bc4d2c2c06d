//! A bounded collection of warnings.

use std::collections::HashSet;

use super::Warning;
use crate::yaml::Location;

/// The most warnings kept; the rest are counted.
const MAX_WARNINGS: usize = 20;

/// Collects warnings: each once, at most [`MAX_WARNINGS`] of them.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    kept: Vec<Warning>,
    seen: HashSet<String>,
    left_out: usize,
}

impl Warnings {
    pub(super) fn push(&mut self, warning: Warning) {
        if self.kept.len() >= MAX_WARNINGS {
            self.left_out += 1;
        } else if self.seen.insert(warning.to_string()) {
            self.kept.push(warning);
        }
    }

    /// Returns what was collected; a last entry about the file says how many more there were.
    pub(super) fn finish(mut self, file: &Location) -> Vec<Warning> {
        if self.left_out > 0 {
            self.kept.push(Warning::new(file, format!("{} more warnings", self.left_out)));
        }
        self.kept
    }
}
