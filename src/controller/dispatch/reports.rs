//! What hosts' tasks report, turned into events for the rollout, notes for the summary and words for the operator.

use super::Dispatcher;
use crate::{
    controller::{
        host::{ADDRESS_HINT, Report},
        push::{Came, FailedFetch},
    },
    model::{FailureKind, HostFailure, HostId, HostState, RunEvent, distribution::Mode, rollout::Event},
    wire::FromAgent,
};

/// How many failed fetches of the agent are worth a warning; what follows is more of the same.
const TOLD_FETCHES: usize = 5;
/// What helps where hosts can't fetch the agent from each other.
const FETCH_HINT: &str =
    "nothing is wrong with the deploy; it starts faster where hosts may connect to each other's high ports";

impl Dispatcher {
    pub(super) async fn reported(&mut self, host: HostId, report: Report) {
        match report {
            Report::Entered(state) => self.apply(Some(host), Event::Progressed(host, state)).await,
            Report::Prepared { address, seed, certificate } => {
                self.members[host.index()].address = address;
                if let Some(distribution) = &self.distribution {
                    address.into_iter().for_each(|address| distribution.allow(address.0.ip(), certificate));
                    seed.into_iter().for_each(|seed| distribution.name_seed(seed));
                }
                self.apply(Some(host), Event::Prepared(host)).await;
            }
            Report::Agent(message) => self.agent_said(host, *message).await,
            Report::AgentCame(came) => self.agent_came(host, came).await,
            Report::AgentNotFetched(failed) => self.agent_not_fetched(host, failed).await,
            Report::Reconnecting(message) => {
                let message = format!("{message}; connecting again");
                self.warn(host, message, None).await;
            }
            Report::Dropped(failure) => self.dropped(host, failure).await,
        }
    }

    async fn agent_came(&mut self, host: HostId, came: Came) {
        let name = |host: HostId| self.members[host.index()].name.clone();
        let (host, from) = (name(host), if let Came::From(source) = came { Some(name(source)) } else { None });
        match &from {
            Some(from) => tracing::info!(%host, %from, "agent fetched"),
            None => tracing::info!(%host, "agent pushed over SSH"),
        }
        self.tally.agent_came(from.is_some());
        self.events.send(RunEvent::AgentCame { host, from }).await;
    }

    async fn agent_not_fetched(&mut self, host: HostId, failed: FailedFetch) {
        let FailedFetch { from, address, reason } = failed;
        let from = &self.members[from.index()].name;
        let message = format!("the agent could not be fetched from {from} at {address}, so it came over SSH: {reason}");
        self.failed_fetches += 1;
        if self.failed_fetches > TOLD_FETCHES {
            tracing::info!(host = %self.members[host.index()].name, "{message}");
        } else {
            self.warn(host, message, Some(FETCH_HINT.to_owned())).await;
        }
    }

    async fn agent_said(&mut self, host: HostId, message: FromAgent) {
        match message {
            FromAgent::State { state } => self.apply(Some(host), Event::Progressed(host, state)).await,
            FromAgent::Progress(progress) => {
                let notes = self.tally.host(host);
                notes.bytes = progress.bytes;
                notes.peers = notes.peers.max(progress.peers);
                let host = self.members[host.index()].name.clone();
                let (bytes, rate, peers) = (progress.bytes, progress.rate, progress.peers);
                self.events.send_lossy(RunEvent::HostProgress { host, bytes, rate, peers });
            }
            FromAgent::Staged { release, bytes } => {
                let notes = self.tally.host(host);
                // A host that was lost and staged it again has what it transferred before.
                if notes.release.replace(release).is_none() {
                    notes.bytes = bytes;
                }
                self.apply(Some(host), Event::Staged(host)).await;
            }
            FromAgent::AlreadyActive { current, previous } => {
                let notes = self.tally.host(host);
                (notes.unchanged, notes.release, notes.previous) = (true, Some(current), previous);
                self.neighbours.leave(host.index());
                self.members[host.index()].unchanged = true;
                self.apply(Some(host), Event::AlreadyActive(host)).await;
            }
            FromAgent::Activated { release, previous } => {
                let notes = self.tally.host(host);
                (notes.release, notes.previous) = (Some(release), previous);
                self.apply(Some(host), Event::Activated(host)).await;
            }
            FromAgent::Checked => self.apply(Some(host), Event::Checked(host)).await,
            FromAgent::Confirmed => self.apply(Some(host), Event::Confirmed(host)).await,
            FromAgent::Reverted { current, reason, output } => {
                let during = self.rollout.state(host).unwrap_or(HostState::Checking);
                let notes = self.tally.host(host);
                notes.release = current;
                let failure = HostFailure::new(FailureKind::Failed, during, reason);
                notes.failure = Some(HostFailure { log_tail: output, ..failure });
                self.apply(Some(host), Event::Reverted(host)).await;
            }
            FromAgent::Warning { message, hint } => self.warn(host, message, hint).await,
            FromAgent::Mode { mode, reason } => self.takes_another_way(host, mode, reason).await,
            // Handled by the host's task, or out of place: an agent can't hurry the rollout by saying more than it should.
            FromAgent::Hello(_)
            | FromAgent::Prepared { .. }
            | FromAgent::Failed(_)
            | FromAgent::Status(_)
            | FromAgent::Kept { .. }
            | FromAgent::Pruned(_)
            | FromAgent::Unlocked(_)
            | FromAgent::Relays { .. }
            | FromAgent::Stranded { .. }
            | FromAgent::Alive => (),
        }
    }

    /// Tells how a host gets the artifact from now on; a person is told of the first one over SSH, the summary counts them.
    async fn takes_another_way(&mut self, host: HostId, mode: Mode, reason: String) {
        if self.tally.takes(host, mode, &reason) && mode == Mode::Ssh {
            let message = format!("{reason}; it comes over SSH");
            self.warn(host, message, Some(ADDRESS_HINT.to_owned())).await;
        }
        let host = self.members[host.index()].name.clone();
        self.events.send(RunEvent::HostMode { host, mode, reason }).await;
    }

    async fn warn(&self, host: HostId, message: String, hint: Option<String>) {
        let host = Some(self.members[host.index()].name.clone());
        self.events.send(RunEvent::Warning { host, message, hint }).await;
    }

    pub(super) async fn dropped(&mut self, host: HostId, failure: HostFailure) {
        let kind = failure.kind;
        if self.rollout.state(host).is_some_and(|state| !state.is_final()) {
            let notes = self.tally.host(host);
            // What a host staged but never switched to is not what is live there.
            notes.release = None;
            notes.failure = Some(failure);
            self.neighbours.leave(host.index());
        } else if self.rollout.is_going_back(host) {
            self.stays(host, failure).await;
        }
        let event = match kind {
            FailureKind::Unreachable => Event::Unreachable(host),
            FailureKind::Failed => Event::Failed(host),
        };
        self.apply(Some(host), event).await;
    }

    /// Notes that an active host could not be brought back.
    pub(super) async fn stays(&mut self, host: HostId, failure: HostFailure) {
        let message = format!("could not be sent back: {}", failure.message);
        self.tally.host(host).failure = Some(HostFailure { message: message.clone(), ..failure });
        let hint = "look at the host, then send it back with `fleetdrop rollback --limit`".to_owned();
        self.warn(host, message, Some(hint)).await;
    }

    /// Notes that a host that was told to go back did not say in time whether it did.
    pub(super) async fn give_up(&mut self, host: HostId) {
        let message = "it was told to go back and did not answer within the progress deadline";
        let failure = HostFailure::new(FailureKind::Failed, self.members[host.index()].shown, message);
        let hint = "look with `fleetdrop status`: an agent that lives undoes an unconfirmed switch";
        let failure = failure.with_hint(hint);
        match self.rollout.state(host) {
            Some(HostState::Active) => self.stays(host, failure).await,
            _ => self.tally.host(host).failure = Some(failure),
        }
    }
}
