//! Sends hosts back from the release that an interrupted run had made live: by a rollback those that had another one before, by undoing
//! the run's switch those that had none or never confirmed it.
//!
//! As many as can be go back: that one host can't is no reason to leave others. Who could not is told, and is in the exit code.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    super::{CommandError, Output, exit, fleet, history::HistoryArgs, rollback::Return},
    Answers, Task,
    ground::{self, Returning},
};
use crate::{
    controller::{
        FleetSettings,
        chore::{self, TakeBack, TakenBack},
    },
    model::{
        FailureBudget, FailureKind, HostFailure, HostName, HostState,
        plan::{FailureBudgets, OnFailure, Pause, RolloutPlan},
    },
    report::{escape, measure},
};

/// How many hosts a warning names.
const MAX_NAMED: usize = 3;
/// The longest shown reason, in characters.
const MAX_TEXT: usize = 500;

/// The way back.
pub(super) struct Back<'a> {
    pub(super) task: &'a Task,
    /// The run's hosts.
    pub(super) fleet: &'a FleetSettings,
    pub(super) history: &'a HistoryArgs,
    pub(super) interrupt: &'a CancellationToken,
    pub(super) output: &'a Output,
}

impl Back<'_> {
    /// Sends back whatever is live on the run's release by the hosts' `answers`, and returns the exit code.
    pub(super) async fn send(&self, answers: &Answers) -> Result<u8, CommandError> {
        let returning = ground::returning(&self.task.release, &self.task.hosts, answers);
        self.tell_unknown(&returning.unknown);
        if returning == Returning::default() {
            self.output.note("no host is live on it: nothing to send back");
        }
        let mut code = exit::SUCCESS;
        if !returning.by_rollback.is_empty() {
            code = self.roll_back(&returning.by_rollback).await?;
        }
        let mut failures: Vec<HostFailure> = returning.unknown.into_iter().map(|(_, failure)| failure).collect();
        if !returning.by_undoing.is_empty() && !self.interrupt.is_cancelled() {
            tokio::select! {
                failed = self.undo(&returning.by_undoing) => failures.extend(failed),
                () = self.interrupt.cancelled() => {}
            }
        }
        if self.interrupt.is_cancelled() {
            return Ok(exit::INTERRUPTED);
        }
        Ok(ground::code_of_return(code, &failures))
    }

    /// Rolls hosts back to the release that they had before.
    async fn roll_back(&self, hosts: &[HostName]) -> Result<u8, CommandError> {
        let mut fleet = self.only(hosts);
        // Who switched last goes first.
        fleet.hosts.reverse();
        fleet.rollout = RolloutPlan {
            pause: Pause::For(Duration::ZERO),
            max_failures: FailureBudgets::of_fleet(FailureBudget::Percent(100)),
            on_failure: OnFailure::Continue,
            ..fleet.rollout
        };
        let asked = &self.task.request.deploy;
        let back = Return {
            fleet,
            app: Some(self.task.app.clone()),
            to: None,
            lost: None,
            inventory: asked.connection.fleet.hosts.clone(),
            pattern: asked.connection.fleet.limit.clone(),
            playbook: asked.playbook.playbook.clone(),
            continues: Some(self.task.run.run.clone()),
        };
        back.begin(self.history, self.interrupt.clone(), self.output).await.map(|summary| summary.exit_code)
    }

    /// Undoes the run's switch of hosts. Returns why it failed where it did.
    async fn undo(&self, hosts: &[HostName]) -> Vec<HostFailure> {
        let reason = format!("run {} is taken back", self.task.run.run);
        let mut left = hosts.to_vec();
        let mut failures = Vec::new();
        // A host's switch may be an earlier run's, with which this one went on.
        for run in &self.task.lineage {
            let fleet = self.only(&std::mem::take(&mut left));
            if fleet.hosts.is_empty() {
                break;
            }
            let chore = TakeBack::of(run.clone(), reason.clone(), &fleet);
            for (host, answer) in chore::on_all(fleet, Some(self.task.app.clone()), chore).await {
                match self.taken_back(&host, answer.map(|answer| answer.answer)) {
                    Ok(true) => {}
                    Ok(false) => left.push(host),
                    Err(failure) => failures.push(self.told(&host, failure)),
                }
            }
        }
        let kept = || HostFailure::new(FailureKind::Failed, HostState::Active, "it is live there by another run");
        failures.extend(left.iter().map(|host| self.told(host, kept())));
        failures
    }

    /// Returns whether a host is not on the release any more; an error if it will stay there.
    fn taken_back(&self, host: &HostName, answer: Result<TakenBack, HostFailure>) -> Result<bool, HostFailure> {
        match answer? {
            TakenBack::Undone { current, reason } => {
                let live = current.map_or("nothing".to_owned(), |current| current.to_string());
                self.output.note(&escape::line(&format!("{host}: {live} is live ({reason})"), MAX_TEXT));
                Ok(true)
            }
            TakenBack::NotIts(status) => Ok(status.current.as_ref() != Some(&self.task.release)),
            TakenBack::Kept(release) => {
                let message = format!("{release} stays live, for the release before it is gone");
                Err(HostFailure::new(FailureKind::Failed, HostState::Active, message))
            }
        }
    }

    /// Warns of a host that stays on the release, and returns why it does.
    fn told(&self, host: &HostName, failure: HostFailure) -> HostFailure {
        let message = format!("{host} was not sent back: {}", failure.message);
        fleet::warn(&escape::line(&message, MAX_TEXT), failure.hint.as_deref(), self.output);
        failure
    }

    /// Warns of hosts that may be on the release and can't be asked.
    fn tell_unknown(&self, unknown: &[(HostName, HostFailure)]) {
        if unknown.is_empty() {
            return;
        }
        let named: Vec<String> =
            unknown.iter().take(MAX_NAMED).map(|(host, failure)| format!("{host} ({})", failure.message)).collect();
        let more = unknown.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let hosts = measure::count(unknown.len(), "host");
        let message = format!("{hosts} may be live on it and can't be asked: {}{more}", named.join(", "));
        let hint = format!("once they can be reached: `fleetdrop resume {} --rollback --force`", self.task.run.run);
        fleet::warn(&escape::line(&message, MAX_TEXT), Some(&hint), self.output);
    }

    fn only(&self, hosts: &[HostName]) -> FleetSettings {
        let mut fleet = self.fleet.clone();
        fleet.hosts.retain(|entry| hosts.contains(&entry.name));
        fleet
    }
}
