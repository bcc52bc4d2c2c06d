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
    controller::FleetSettings,
    model::{
        FailureBudget, HostFailure, HostName,
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
        if !returning.by_undoing.is_empty() && !self.interrupt.is_cancelled() {
            code = ground::both(code, self.undo(&returning.by_undoing).await?);
        }
        if self.interrupt.is_cancelled() {
            return Ok(exit::INTERRUPTED);
        }
        Ok(ground::code_of_return(code, returning.unknown.iter().map(|(_, failure)| failure)))
    }

    /// Rolls hosts back to the release that they had before.
    async fn roll_back(&self, hosts: &[HostName]) -> Result<u8, CommandError> {
        let mut back = self.of(hosts);
        // Who switched last goes first.
        back.fleet.hosts.reverse();
        back.fleet.rollout = RolloutPlan {
            pause: Pause::For(Duration::ZERO),
            max_failures: FailureBudgets::of_fleet(FailureBudget::Percent(100)),
            on_failure: OnFailure::Continue,
            ..back.fleet.rollout
        };
        back.begin(self.history, self.interrupt.clone(), self.output).await.map(|summary| summary.exit_code)
    }

    /// Undoes the run's switch of hosts.
    async fn undo(&self, hosts: &[HostName]) -> Result<u8, CommandError> {
        let Task { run, release, lineage, .. } = self.task;
        let (what, reason) = ((release.clone(), lineage.clone()), format!("run {} is taken back", run.run));
        let back = self.of(hosts).take_back(what, reason, self.history, self.interrupt.clone(), self.output);
        back.await.map(|summary| summary.exit_code)
    }

    /// Returns the way back of these hosts.
    fn of(&self, hosts: &[HostName]) -> Return {
        let mut fleet = self.fleet.clone();
        fleet.hosts.retain(|entry| hosts.contains(&entry.name));
        let asked = &self.task.request.deploy;
        Return {
            fleet,
            app: Some(self.task.app.clone()),
            to: None,
            lost: None,
            inventory: asked.connection.fleet.hosts.clone(),
            pattern: asked.connection.fleet.limit.clone(),
            playbook: asked.playbook.playbook.clone(),
            continues: Some(self.task.run.run.clone()),
        }
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
}
