//! What the dispatcher does between waves: tells where the fleet stands, asks the operator, lets time pass.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::Dispatcher;
use crate::model::{
    HostId, HostState, RunEvent,
    rollout::{Event, Step, Stop},
};

/// What is asked before a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The wave that waits, counted from 1.
    pub wave: usize,
    /// How many there are.
    pub waves: usize,
    /// How many hosts it switches.
    pub hosts: usize,
    /// How many hosts are active on what this run deploys.
    pub active: usize,
    /// How long the answer may take.
    pub patience: Duration,
}

/// Who lets the next wave switch, where the plan waits for the operator.
#[derive(Clone)]
pub enum Approval {
    /// It is given beforehand, for every wave.
    Given,
    /// This is asked, on a thread of its own; it may block. False: the wave is not to switch. An answer that comes too late is
    /// not heard.
    Ask(Arc<dyn Fn(Question) -> bool + Send + Sync>),
}

impl std::fmt::Debug for Approval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given => "Given",
            Self::Ask(_) => "Ask",
        })
    }
}

/// The question that is being asked.
#[derive(Debug, Default)]
pub(super) struct Asking(Option<JoinHandle<bool>>);

impl Asking {
    /// Waits for the answer; for ever if nothing is asked. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Event {
        let Some(thread) = &mut self.0 else { return std::future::pending().await };
        // A question that could not be asked was not answered with yes.
        let approved = thread.await.unwrap_or(false);
        self.0 = None;
        if approved { Event::Approved } else { Event::Declined }
    }
}

/// Waits until that much of the run has passed.
pub(super) async fn reached(began: Instant, deadline: Option<Duration>) {
    match deadline.and_then(|deadline| began.checked_add(deadline)) {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Dispatcher {
    /// Tells that the fleet took a step, and does what belongs to it.
    pub(super) async fn stepped(&mut self, before: Step) {
        let step = self.rollout.step();
        if step == before {
            return;
        }
        // Whatever was asked is no question any more.
        self.asking = Asking::default();
        let waves = self.rollout.waves().len();
        match step {
            Step::Wave(wave) => {
                let hosts = self.rollout.waves()[wave].iter().filter(|host| !self.is_out(**host));
                let hosts = hosts.map(|host| self.members[host.index()].name.clone()).collect();
                self.events.send(RunEvent::WaveStarted { wave: wave + 1, waves, hosts }).await;
            }
            Step::Pause { next, until } => {
                let seconds = until.map(|until| until.saturating_sub(self.began.elapsed()).as_secs_f64());
                self.events.send(RunEvent::Paused { wave: next + 1, waves, seconds }).await;
                if until.is_none() {
                    self.ask(next);
                }
            }
            Step::GoingBack(_) if !matches!(before, Step::GoingBack(_)) => {
                let hosts = self.members.iter().filter(|member| member.shown == HostState::Active && !member.unchanged).count();
                self.events.send(RunEvent::RollingBack { hosts, reason: self.why_back() }).await;
            }
            Step::Staging | Step::GoingBack(_) | Step::Over => {}
        }
    }

    fn ask(&mut self, next: usize) {
        let waves = self.rollout.waves();
        let question = Question {
            wave: next + 1,
            waves: waves.len(),
            hosts: waves[next].iter().filter(|host| self.is(**host, HostState::Staged)).count(),
            active: waves.iter().flatten().filter(|host| self.is(**host, HostState::Active)).count(),
            patience: self.rollout.deadline().map_or(Duration::ZERO, |at| at.saturating_sub(self.began.elapsed())),
        };
        let approval = self.approval.clone();
        self.asking = Asking(Some(tokio::task::spawn_blocking(move || match approval {
            Approval::Given => true,
            Approval::Ask(ask) => ask(question),
        })));
    }

    /// True for a host that dropped out, perhaps before its wave began.
    fn is_out(&self, host: HostId) -> bool {
        self.rollout.state(host).is_some_and(HostState::is_out)
    }

    fn is(&self, host: HostId, state: HostState) -> bool {
        self.rollout.state(host) == Some(state)
    }

    /// Says why hosts are told to go back.
    pub(super) fn why_back(&self) -> String {
        match self.rollout.stop() {
            _ if !matches!(self.rollout.step(), Step::GoingBack(_)) => "its wave got no further for too long".into(),
            Some(Stop::Interrupt) => "the run is rolled back: it was interrupted".into(),
            Some(Stop::NotApproved) => "the run is rolled back: the next wave was not let go".into(),
            _ => "the run is rolled back: too many hosts dropped out".into(),
        }
    }
}
