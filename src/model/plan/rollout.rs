//! Who switches when, and what a failure leads to.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::{FailureBudgets, Waves};

/// How the fleet goes live once everybody is staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RolloutPlan {
    /// How many hosts switch at a time.
    pub waves: Waves,
    /// How many hosts may drop out.
    pub max_failures: FailureBudgets,
    /// What lies between two waves.
    pub pause: Pause,
    /// In which order hosts come into waves.
    pub order: Order,
    /// What follows when more hosts drop out than the budget allows.
    pub on_failure: OnFailure,
    /// How long a wave may go on without any of its hosts getting further before those that are not active count as failed;
    /// within [`RolloutPlan::PROGRESS_DEADLINE`].
    pub progress_deadline: Duration,
}

impl RolloutPlan {
    /// The bounds of [`RolloutPlan::progress_deadline`].
    pub const PROGRESS_DEADLINE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(24 * 3600);

    /// Returns the plan by which a fleet goes back. One that fails stops where it is: rolled back in turn, the fleet would be on the
    /// release that it has to leave.
    pub fn of_rollback(self) -> Self {
        let on_failure = match self.on_failure {
            OnFailure::Rollback => OnFailure::Stop,
            other => other,
        };
        Self { on_failure, ..self }
    }
}

impl Default for RolloutPlan {
    fn default() -> Self {
        Self {
            waves: Waves::all_at_once(),
            max_failures: FailureBudgets::NONE,
            pause: Pause::default(),
            order: Order::default(),
            on_failure: OnFailure::default(),
            progress_deadline: Duration::from_secs(600),
        }
    }
}

/// What lies between the last confirmation of one wave and the first switch of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// That much time; at most [`Pause::LONGEST`].
    For(Duration),
    /// The operator's word.
    Confirm,
}

impl Pause {
    /// The longest pause.
    pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
}

impl Default for Pause {
    fn default() -> Self {
        Self::For(Duration::ZERO)
    }
}

/// In which order hosts come into waves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As the inventory has them.
    #[default]
    Inventory,
    /// At random, drawn once a run.
    Shuffled,
    /// One zone (`fleetdrop_zone`) after the other, in the order in which the inventory first names them; a wave never has hosts
    /// of two zones. Hosts without a zone are one zone together.
    Zone,
}

/// What follows when more hosts drop out than the budget allows. In each case no further host switches, except with
/// [`OnFailure::Continue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Hosts that this run made live go back to the release they had, in reverse order. A rollback stops instead.
    Rollback,
    /// Hosts that are live stay so.
    #[default]
    Stop,
    /// The next waves switch all the same. Only before anything is switched does the budget stop the run.
    Continue,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_that_fails_never_leads_onto_the_release_that_is_left() {
        let after = |on_failure| RolloutPlan { on_failure, ..RolloutPlan::default() }.of_rollback().on_failure;
        assert_eq!(
            [OnFailure::Rollback, OnFailure::Stop, OnFailure::Continue].map(after),
            [OnFailure::Stop, OnFailure::Stop, OnFailure::Continue]
        );
    }
}
