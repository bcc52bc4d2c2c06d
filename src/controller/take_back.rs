//! Takes back what a run has switched that is over: each host undoes that switch on its own, without waves, also where the release was its
//! first or was never confirmed. A run like others, with events and a summary: hosts that went back are reverted.

use std::collections::BTreeMap;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    chore::{self, Chore},
    events::EventSink,
    run::{FleetSettings, allowed, procedure},
    tally::Tally,
};
use crate::{
    model::{
        AppName, FailureKind, HostAnswer, HostFailure, HostId, HostName, HostState, HostStatus, ReleaseId, RunEvent, RunId,
        RunSummary, Verdict, distribution::Mode,
    },
    wire::{FromAgent, Job, Procedure, WayBack},
};

/// What to take back.
pub struct TakeBackRequest {
    /// On which hosts.
    pub fleet: FleetSettings,
    /// The application, where neither the command line nor the inventory say where it lives.
    pub app: Option<AppName>,
    /// The release that is not to stay live.
    pub release: ReleaseId,
    /// The run that switched to it, and those that it went on with: a host's switch may be an earlier one's.
    pub runs: Vec<RunId>,
    /// Why, for the hosts.
    pub reason: String,
}

/// Undo the switch of a run that is over, also one that was confirmed, if nothing was switched to since.
#[derive(Debug)]
struct TakeBack {
    run: RunId,
    reason: String,
    procedure: Procedure,
}

/// What became of a switch that was to be taken back.
#[derive(Debug, Clone, PartialEq)]
enum TakenBack {
    /// It was undone.
    Undone {
        /// What is live now.
        current: Option<ReleaseId>,
        /// Why, and what went wrong on the way.
        reason: String,
    },
    /// It can't be: the release before it is gone.
    Kept(ReleaseId),
    /// It was not that run's, or something else was switched to since; what is there.
    NotIts(HostStatus),
}

impl Chore for TakeBack {
    type Answer = TakenBack;

    fn job(&self, host: &HostName, deploy_to: String, _: Option<String>) -> Job {
        let procedure = Procedure { host: Some(host.clone()), ..self.procedure.clone() };
        let back = WayBack { reason: self.reason.clone(), procedure };
        Job::Recover { run: self.run.clone(), deploy_to, replaces: None, back: Some(Box::new(back)) }
    }

    fn answer(message: FromAgent) -> Option<TakenBack> {
        match message {
            FromAgent::Reverted { current, reason, .. } => Some(TakenBack::Undone { current, reason }),
            FromAgent::Kept { release } => Some(TakenBack::Kept(release)),
            FromAgent::Status(status) => Some(TakenBack::NotIts(status)),
            _ => None,
        }
    }
}

/// A run that takes back.
struct Return {
    request: TakeBackRequest,
    events: EventSink,
    tally: Tally,
    ids: BTreeMap<HostName, HostId>,
    states: Vec<HostState>,
}

/// Takes back what runs have switched, and returns what became of it, which is also the last event. An interrupt leaves hosts that have
/// not answered to themselves: they finish what they have begun.
pub async fn take_back(request: TakeBackRequest, events: EventSink, interrupt: CancellationToken) -> RunSummary {
    let names: Vec<HostName> = request.fleet.hosts.iter().map(|host| host.name.clone()).collect();
    let started = RunEvent::RunStarted {
        action: "rollback".into(),
        app: request.app.clone(),
        artifact: None,
        digest: None,
        size: 0,
        release: None,
        max_failures: allowed(&request.fleet),
        distribution: None,
        hosts: names.clone(),
    };
    events.send(started).await;
    let began = Instant::now();
    let mut back = Return {
        tally: Tally::new(names.iter().cloned(), None, Mode::default(), began),
        states: vec![HostState::Queued; names.len()],
        ids: names.iter().cloned().zip((0..).map(HostId)).collect(),
        request,
        events,
    };
    for name in &names {
        back.enter(name, HostState::Connecting, None).await;
    }
    let is_whole = interrupt.run_until_cancelled(back.work(names)).await.is_some();
    back.finish(is_whole).await
}

impl Return {
    async fn work(&mut self, mut left: Vec<HostName>) {
        for run in self.request.runs.clone() {
            let mut fleet = self.request.fleet.clone();
            fleet.hosts.retain(|entry| left.contains(&entry.name));
            left.clear();
            if fleet.hosts.is_empty() {
                return;
            }
            let chore = TakeBack { run, reason: self.request.reason.clone(), procedure: procedure(&fleet) };
            for (host, answer) in chore::on_all(fleet, self.request.app.clone(), chore).await {
                if self.answered(&host, answer).await {
                    left.push(host);
                }
            }
        }
        for host in left {
            let hint = "`fleetdrop history --host` tells which; `fleetdrop rollback --limit` sends it back";
            self.stays(&host, "it is live there by another run".to_owned(), hint).await;
        }
    }

    /// Notes a host's answer; true if the switch is none of the run that was asked for.
    async fn answered(&mut self, host: &HostName, answer: Result<HostAnswer<TakenBack>, HostFailure>) -> bool {
        match answer {
            Err(failure) => self.enter(host, failure.state(), Some(failure)).await,
            Ok(HostAnswer { answer, warnings }) => {
                for warning in warnings {
                    let (host, message) = (Some(host.clone()), warning.message);
                    self.events.send(RunEvent::Warning { host, message, hint: warning.hint }).await;
                }
                match answer {
                    TakenBack::Undone { current, reason } => self.went_back(host, current, reason).await,
                    TakenBack::NotIts(status) if status.current.as_ref() == Some(&self.request.release) => return true,
                    TakenBack::NotIts(status) => {
                        self.went_back(host, status.current, "it was not on the release any more".to_owned()).await;
                    }
                    TakenBack::Kept(release) => {
                        let message = format!("{release} stays live, for the release before it is gone");
                        self.stays(host, message, "look whether it works, or deploy another one").await;
                    }
                }
            }
        }
        false
    }

    async fn went_back(&mut self, host: &HostName, current: Option<ReleaseId>, reason: String) {
        let live = current.as_ref().map_or("nothing".to_owned(), ToString::to_string);
        if let Some(id) = self.ids.get(host) {
            self.tally.host(*id).release = current;
        }
        let failure = HostFailure::new(FailureKind::Failed, HostState::Active, format!("{reason}: {live} is live"));
        self.enter(host, HostState::Reverted, Some(failure)).await;
    }

    async fn stays(&mut self, host: &HostName, message: String, hint: &str) {
        let failure = HostFailure::new(FailureKind::Failed, HostState::Active, message);
        self.enter(host, HostState::Failed, Some(failure.with_hint(hint))).await;
    }

    async fn enter(&mut self, host: &HostName, state: HostState, failure: Option<HostFailure>) {
        let Some(id) = self.ids.get(host).copied() else { return };
        self.states[id.index()] = state;
        self.tally.entered(id, state, Instant::now());
        self.tally.host(id).failure.clone_from(&failure);
        self.events.send(RunEvent::HostState { host: host.clone(), state, failure }).await;
    }

    async fn finish(mut self, is_whole: bool) -> RunSummary {
        if !is_whole {
            self.events.send(RunEvent::Interrupted).await;
        }
        let names: Vec<HostName> = self.ids.keys().cloned().collect();
        for name in names {
            if !self.states[self.ids[&name].index()].is_final() {
                self.enter(&name, HostState::Skipped, None).await;
            }
        }
        let verdict = if is_whole { Verdict::RolledBack } else { Verdict::Interrupted };
        let Self { request, events, tally, states, .. } = self;
        let state = |host: HostId| (states[host.index()], None);
        let summary = tally.summary(verdict, None, 0, state, request.fleet.exit_code, Instant::now());
        events.send(RunEvent::RunFinished(Box::new(summary.clone()))).await;
        summary
    }
}
