//! What one reading of a playbook finds: problems, and the keys that are there.

use crate::yaml::{Diagnostic, Location};

/// The most problems that are told one by one.
const MAX_PROBLEMS: usize = 100;

/// Collects while a playbook is read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    problems: Vec<Diagnostic>,
    left_out: usize,
    given: Vec<(String, Location)>,
}

impl Reading {
    pub(super) fn problem(&mut self, problem: Diagnostic) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.left_out += 1;
        }
    }

    /// Notes that a key is there, by its way from the top: `rollout.waves`.
    pub(super) fn given(&mut self, key: &str, value: &Location) {
        self.given.push((key.to_owned(), value.clone()));
    }

    /// Returns the keys that are there, or the problems in the order of the file; a last one about the file says how many more there were.
    pub(super) fn finish(mut self, file: &Location) -> Result<Vec<(String, Location)>, Vec<Diagnostic>> {
        if self.problems.is_empty() {
            return Ok(self.given);
        }
        self.problems.sort_by_key(|problem| (problem.location.line(), problem.location.column()));
        if self.left_out > 0 {
            self.problems.push(Diagnostic::new(file, format!("{} more problems", self.left_out)));
        }
        Err(self.problems)
    }
}
