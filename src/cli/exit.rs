//! The exit codes: public, because pipelines decide by them.

use std::collections::BTreeMap;

use crate::model::{HostState, Verdict};

/// Every host is active, or there was nothing to do.
pub const SUCCESS: u8 = 0;
/// An internal error, or a run that could not go on: for example, the artifact changed while it was sent.
pub const INTERNAL: u8 = 1;
/// Hosts failed (or went back by themselves). A bit: together with [`HOSTS_UNREACHABLE`] it makes 6.
pub const HOSTS_FAILED: u8 = 2;
/// Hosts were unreachable. A bit: together with [`HOSTS_FAILED`] it makes 6.
pub const HOSTS_UNREACHABLE: u8 = 4;
/// Bad usage or input: nothing was touched.
pub const BAD_INPUT: u8 = 5;
/// Stopped by the failure budget or because the operator did not let the next wave switch, or rolled back by policy.
pub const STOPPED_BY_BUDGET: u8 = 8;
/// Interrupted by the operator.
pub const INTERRUPTED: u8 = 130;

/// The end of `--help`.
pub const HELP: &str = "\
Exit codes:
  0    every host is active, or there was nothing to do
  1    internal error
  2    hosts failed; 4 hosts were unreachable; 6 both
  5    bad usage or input, nothing was touched
  8    stopped by the failure budget or because a wave was not approved, or rolled back because of either
  130  interrupted";

/// Returns the exit code of a run that ended with `verdict` and so many hosts in each state.
pub fn of_run(verdict: Verdict, counts: &BTreeMap<HostState, usize>) -> u8 {
    let any = |state| counts.get(&state).is_some_and(|hosts| *hosts > 0);
    match verdict {
        Verdict::Aborted => INTERNAL,
        Verdict::StoppedByBudget | Verdict::RolledBack | Verdict::NotApproved => STOPPED_BY_BUDGET,
        Verdict::Interrupted => INTERRUPTED,
        Verdict::Completed => {
            let failed = if any(HostState::Failed) || any(HostState::Reverted) { HOSTS_FAILED } else { SUCCESS };
            let unreachable = if any(HostState::Unreachable) { HOSTS_UNREACHABLE } else { SUCCESS };
            failed | unreachable
        }
    }
}

/// Returns the exit code of a run that took back what another one had switched: hosts that went back did what was wanted.
pub fn of_return(verdict: Verdict, counts: &BTreeMap<HostState, usize>) -> u8 {
    let verdict = if verdict == Verdict::RolledBack { Verdict::Completed } else { verdict };
    let others = counts.iter().filter(|(state, _)| **state != HostState::Reverted);
    of_run(verdict, &others.map(|(state, hosts)| (*state, *hosts)).collect())
}

#[cfg(test)]
mod tests {
    use HostState::{Active, Failed, Reverted, Skipped, Unreachable};
    use Verdict::{Aborted, Completed, Interrupted, NotApproved, RolledBack, StoppedByBudget};

    use super::*;

    #[test]
    fn every_end_has_its_code() {
        type Counts = &'static [(HostState, usize)];
        let table: [(Verdict, Counts, u8); 15] = [
            (Completed, &[], 0),
            (Completed, &[(Active, 16)], 0),
            (Completed, &[(Active, 16), (Failed, 0), (Unreachable, 0)], 0),
            (Completed, &[(Active, 15), (Failed, 1)], 2),
            (Completed, &[(Active, 15), (Reverted, 1)], 2),
            (Completed, &[(Active, 15), (Unreachable, 1)], 4),
            (Completed, &[(Active, 13), (Unreachable, 1), (Failed, 2)], 6),
            (Completed, &[(Unreachable, 1), (Reverted, 2)], 6),
            (StoppedByBudget, &[(Skipped, 15), (Failed, 1)], 8),
            (StoppedByBudget, &[(Skipped, 15), (Unreachable, 1)], 8),
            (RolledBack, &[(Reverted, 16)], 8),
            (NotApproved, &[(Active, 1), (Skipped, 15)], 8),
            (Interrupted, &[(Skipped, 15), (Unreachable, 1)], 130),
            (Aborted, &[(Skipped, 16)], 1),
            (Aborted, &[(Active, 16)], 1),
        ];
        for (verdict, counts, code) in table {
            assert_eq!(of_run(verdict, &counts.iter().copied().collect()), code, "{verdict:?} {counts:?}");
        }
    }

    #[test]
    fn hosts_that_were_to_go_back_and_did_are_no_failure() {
        type Counts = &'static [(HostState, usize)];
        let table: [(Verdict, Counts, u8); 4] = [
            (RolledBack, &[(Reverted, 2)], 0),
            (RolledBack, &[(Reverted, 2), (Failed, 1)], 2),
            (RolledBack, &[(Reverted, 2), (Failed, 1), (Unreachable, 1)], 6),
            (Interrupted, &[(Reverted, 1), (Skipped, 1)], 130),
        ];
        for (verdict, counts, code) in table {
            assert_eq!(of_return(verdict, &counts.iter().copied().collect()), code, "{verdict:?} {counts:?}");
        }
    }
}
