//! The problems that one reading of a playbook finds.

use crate::yaml::{Diagnostic, Location};

/// The most problems that are told one by one.
const MAX_PROBLEMS: usize = 100;

/// Collects while a playbook is read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    problems: Vec<Diagnostic>,
    left_out: usize,
}

impl Reading {
    pub(super) fn problem(&mut self, problem: Diagnostic) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.left_out += 1;
        }
    }

    /// Returns the problems in the order of the file, if there are any; a last one about the file says how many more there were.
    pub(super) fn finish(mut self, file: &Location) -> Result<(), Vec<Diagnostic>> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| (problem.location.line(), problem.location.column()));
        if self.left_out > 0 {
            self.problems.push(Diagnostic::new(file, format!("{} more problems", self.left_out)));
        }
        Err(self.problems)
    }
}
