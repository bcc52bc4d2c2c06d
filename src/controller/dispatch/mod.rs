//! The dispatcher: one loop that takes every report, signal and failure of a run in turn and performs the rollout's actions.
//!
//! Owns the fleet's view of a run. Promises: each decision is [`Rollout`]'s; each change of a host's state becomes exactly one
//! event; it ends when every host is in a final state and every host's task has ended.

mod reports;
mod waves;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use waves::{Approval, Question};

use super::{
    events::EventSink,
    host::{Command, HostTask, Report},
    seed::Distribution,
    tally::{Milestones, Tally},
};
use crate::{
    failpoint,
    model::{
        FailureKind, HostFailure, HostId, HostName, HostState, RunEvent, Verdict,
        rollout::{Action, Event, Rollout, Stop},
    },
    swarm::policy::Neighbours,
    wire::{PeerAddr, StopReason},
};

/// Commands a host's task may have waiting; more means that it is stuck.
pub(super) const COMMAND_QUEUE: usize = 16;
/// Reports that may wait for the dispatcher, over the whole fleet.
pub(super) const REPORT_QUEUE: usize = 1024;
/// How long hosts may take to end after the run, before their connections are cut.
const GOODBYE: Duration = Duration::from_secs(30);

/// One host as the dispatcher sees it.
pub(super) struct Member {
    pub(super) name: HostName,
    commands: mpsc::Sender<Command>,
    address: Option<PeerAddr>,
    /// The state last told to the reporter.
    shown: HostState,
    /// It had the release already.
    unchanged: bool,
}

/// How the dispatcher's work ended.
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) abort_reason: Option<String>,
    pub(super) rollout: Rollout,
    pub(super) tally: Tally,
    pub(super) controller_sent: u64,
}

pub(super) struct Dispatcher {
    members: Vec<Member>,
    tasks: JoinSet<()>,
    task_hosts: HashMap<Id, HostId>,
    reports: mpsc::Receiver<(HostId, Report)>,
    rollout: Rollout,
    tally: Tally,
    milestones: Milestones,
    events: EventSink,
    distribution: Option<Distribution>,
    neighbours: Neighbours,
    approval: Approval,
    /// Cancelled once hosts are to exchange nothing; each host's task tells its agent.
    no_swarm: CancellationToken,
    swarm_stopped: bool,
    asking: waves::Asking,
    /// What the rollout's times count from.
    began: Instant,
    abort_reason: Option<String>,
    interrupted: bool,
    /// How many hosts could not fetch the agent from another.
    failed_fetches: usize,
}

impl Dispatcher {
    /// Takes a fleet's tasks over; nothing runs before [`Dispatcher::run`].
    pub(super) fn new(
        rollout: Rollout,
        tally: Tally,
        events: EventSink,
        distribution: Option<Distribution>,
        reports: mpsc::Receiver<(HostId, Report)>,
        neighbours: Neighbours,
        approval: Approval,
    ) -> Self {
        Self {
            members: Vec::new(),
            tasks: JoinSet::new(),
            task_hosts: HashMap::new(),
            reports,
            rollout,
            milestones: Milestones::new(tally.fleet()),
            tally,
            events,
            distribution,
            neighbours,
            approval,
            no_swarm: CancellationToken::new(),
            swarm_stopped: false,
            asking: waves::Asking::default(),
            began: Instant::now(),
            abort_reason: None,
            interrupted: false,
            failed_fetches: 0,
        }
    }

    /// Says what ends the exchange between hosts; where there never is one, nothing is stopped.
    pub(super) fn without_swarm(self, no_swarm: CancellationToken) -> Self {
        Self { swarm_stopped: no_swarm.is_cancelled(), no_swarm, ..self }
    }

    /// Adds the next host and starts its task.
    pub(super) fn add(&mut self, task: HostTask, commands: mpsc::Sender<Command>) {
        let name = task.entry.name.clone();
        let host = task.id;
        let handle = self.tasks.spawn(task.run());
        self.task_hosts.insert(handle.id(), host);
        self.members.push(Member { name, commands, address: None, shown: HostState::Queued, unchanged: false });
    }

    /// Runs until every host is in a final state, then ends all tasks.
    pub(super) async fn run(mut self, interrupt: CancellationToken) -> Outcome {
        while self.rollout.verdict().is_none() {
            let passed = waves::reached(self.began, self.rollout.deadline());
            let Self { reports, tasks, distribution, interrupted, asking, no_swarm, swarm_stopped, .. } = &mut self;
            let seed_failed = async {
                match distribution {
                    Some(distribution) => distribution.failed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = interrupt.cancelled(), if !*interrupted => self.interrupt().await,
                () = no_swarm.cancelled(), if !*swarm_stopped => self.stop_swarm().await,
                Some((host, report)) = reports.recv() => self.reported(host, report).await,
                Some(ended) = tasks.join_next_with_id() => self.task_ended(ended).await,
                error = seed_failed => self.abort(&error).await,
                answer = asking.answer() => self.apply(None, answer).await,
                () = passed => self.apply(None, Event::TimePassed).await,
                else => break,
            }
        }
        let verdict = self.verdict();
        self.say_goodbye(verdict).await;
        let controller_sent = match self.distribution {
            Some(distribution) => distribution.stop().await,
            None => 0,
        };
        Outcome { verdict, abort_reason: self.abort_reason, rollout: self.rollout, tally: self.tally, controller_sent }
    }

    fn verdict(&self) -> Verdict {
        match self.rollout.verdict() {
            _ if self.abort_reason.is_some() => Verdict::Aborted,
            Some(verdict) => verdict,
            // Every task has ended, so every host is final; a verdict that is missing all the same is a bug, not a success.
            None => Verdict::Aborted,
        }
    }

    /// Hosts exchange nothing any more; each host's task tells its agent.
    async fn stop_swarm(&mut self) {
        self.swarm_stopped = true;
        if let Some(distribution) = &self.distribution {
            distribution.serve_everybody().await;
        }
        self.events.send(RunEvent::SwarmStopped).await;
    }

    async fn interrupt(&mut self) {
        self.interrupted = true;
        self.events.send(RunEvent::Interrupted).await;
        self.apply(None, Event::Interrupted).await;
    }

    /// The seed failed: before the barrier that ends the run, afterwards nobody needs it any more.
    async fn abort(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        if self.rollout.barrier_met() {
            return;
        }
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        self.abort_reason = Some(reason);
        self.apply(None, Event::Interrupted).await;
    }

    async fn task_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, message) = match ended {
            Ok((id, ())) => (id, "its task ended without a result".to_owned()),
            Err(error) => (error.id(), format!("its task failed: {error}")),
        };
        let Some(host) = self.task_hosts.remove(&id) else { return };
        // The task's last reports may still be queued: they come first.
        while let Ok((host, report)) = self.reports.try_recv() {
            self.reported(host, report).await;
        }
        let state = self.rollout.state(host).unwrap_or(HostState::Queued);
        if !state.is_final() || self.rollout.is_going_back(host) {
            self.dropped(host, HostFailure::new(FailureKind::Failed, state, message)).await;
        }
    }

    /// Gives an event to the rollout and performs what it wants; a host that can't be told something drops out, which is an event.
    async fn apply(&mut self, host: Option<HostId>, event: Event) {
        let mut events = VecDeque::from([(host, event)]);
        while let Some((host, event)) = events.pop_front() {
            let (barrier_was_met, step) = (self.rollout.barrier_met(), self.rollout.step());
            let actions = self.rollout.handle(event, self.began.elapsed());
            // Act first, tell afterwards: a slow reporter must not come between two hosts that switch.
            for action in &actions {
                if let Action::GiveUp(host) = *action {
                    self.give_up(host).await;
                }
                if let Err(message) = self.perform(*action) {
                    let stuck = action.host();
                    let state = self.rollout.state(stuck).unwrap_or(HostState::Queued);
                    let failure = HostFailure::new(FailureKind::Failed, state, message);
                    match state {
                        HostState::Active => self.stays(stuck, failure).await,
                        _ => self.tally.host(stuck).failure = Some(failure),
                    }
                    events.push_back((Some(stuck), Event::Failed(stuck)));
                }
            }
            if self.rollout.barrier_met() && !barrier_was_met {
                // The host that completed the barrier is already told to activate; that it was staged is worth an event, too.
                if let Event::Staged(host) = event {
                    self.show_as(host, HostState::Staged).await;
                }
                let waves = self.rollout.waves();
                let (hosts, waves) = (waves.iter().map(Vec::len).sum(), waves.len());
                self.events.send(RunEvent::BarrierMet { hosts, waves }).await;
                failpoint::reach("controller.barrier");
            }
            self.stepped(step).await;
            if let Some(host) = host {
                self.show(host).await;
            }
            for action in actions {
                self.show(action.host()).await;
            }
        }
    }

    /// Tells a host's task what to do; why not, if that can't be.
    fn perform(&mut self, action: Action) -> Result<(), &'static str> {
        match action {
            Action::Start(host) => {
                let peers = self.first_peers(host);
                self.tell(host, Command::Start(peers))
            }
            Action::Activate(host) => self.tell(host, Command::Activate),
            Action::Confirm(host) => self.tell(host, Command::Confirm),
            Action::Abandon(host) => self.tell(host, Command::Stop(self.stop_reason())),
            Action::GiveUp(host) => self.tell(host, Command::Stop(self.stop_reason())),
            Action::GoBack(host) if self.members[host.index()].commands.is_closed() => Err("its agent has ended"),
            Action::GoBack(host) => self.tell(host, Command::GoBack(self.why_back())),
        }
    }

    fn stop_reason(&self) -> StopReason {
        if self.abort_reason.is_some() {
            StopReason::Aborted
        } else if self.interrupted {
            StopReason::Interrupted
        } else if self.rollout.stop() == Some(Stop::NotApproved) {
            StopReason::NotApproved
        } else {
            StopReason::BudgetExceeded
        }
    }

    fn tell(&self, host: HostId, command: Command) -> Result<(), &'static str> {
        match self.members[host.index()].commands.try_send(command) {
            Err(mpsc::error::TrySendError::Full(_)) => Err("it does not take the controller's messages"),
            // A task that has ended has reported why, or its end will be noticed.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Takes the host into the neighbour graph and returns whom it connects to first.
    fn first_peers(&mut self, host: HostId) -> Vec<PeerAddr> {
        let member = &self.members[host.index()];
        if member.address.is_none() || self.no_swarm.is_cancelled() {
            return Vec::new();
        }
        let neighbours = self.neighbours.join(host.index());
        neighbours.into_iter().filter_map(|index| self.members.get(index)?.address).collect()
    }

    /// Tells the reporter a host's state if it is new.
    async fn show(&mut self, host: HostId) {
        if let Some(state) = self.rollout.state(host) {
            self.show_as(host, state).await;
        }
    }

    async fn show_as(&mut self, host: HostId, state: HostState) {
        let member = &mut self.members[host.index()];
        // A rollback transfers nothing: between prepared and staged there is nothing to show.
        let is_transfer = (HostState::Downloading..HostState::Staged).contains(&state);
        if member.shown == state || (is_transfer && self.distribution.is_none()) {
            return;
        }
        let before = std::mem::replace(&mut member.shown, state);
        let ended = self.milestones.moved(before, state);
        // Whoever comes back from backfilling began to download before.
        if before != HostState::Backfilling || state > before {
            self.tally.entered(host, state, Instant::now());
        }
        let failure = self.tally.host(host).failure.clone();
        let host = member.name.clone();
        self.events.send(RunEvent::HostState { host, state, failure }).await;
        failpoint::reach(point(state));
        for time in self.tally.phases().into_iter().filter(|time| ended.contains(&time.phase)) {
            self.events.send(RunEvent::PhaseEnded(time)).await;
        }
    }

    /// Tells every agent to stop and waits until all tasks have ended; what agents report by then is history.
    async fn say_goodbye(&mut self, verdict: Verdict) {
        let reason = if verdict == Verdict::Completed { StopReason::Finished } else { self.stop_reason() };
        for member in &self.members {
            let _ = member.commands.try_send(Command::Stop(reason));
        }
        let deadline = tokio::time::sleep(GOODBYE);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => if ended.is_none() { return },
                Some(_) = self.reports.recv() => (),
                () = &mut deadline => {
                    self.tasks.shutdown().await;
                    return;
                }
            }
        }
    }
}

/// Returns the failpoint that a host's new state is.
fn point(state: HostState) -> &'static str {
    match state {
        HostState::Queued => "controller.queued",
        HostState::Connecting => "controller.connecting",
        HostState::Preparing => "controller.preparing",
        HostState::Downloading => "controller.downloading",
        HostState::Backfilling => "controller.backfilling",
        HostState::Verifying => "controller.verifying",
        HostState::Extracting => "controller.extracting",
        HostState::Staged => "controller.staged",
        HostState::Activating => "controller.activating",
        HostState::Checking => "controller.checking",
        HostState::Active => "controller.active",
        HostState::Reverted | HostState::Failed | HostState::Unreachable | HostState::Skipped => "controller.dropped",
    }
}
