//! One small job on every host, each host on its own: what is there, what may go, who holds the lock.
//!
//! No waves and no barrier: what one host answers does not concern the others. At most `AT_ONCE` hosts are at it at a time; logins
//! are limited by the fleet's connector besides. A host is given up when it is silent for `SILENCE`, however long its work takes, but
//! for `LONGEST` at most. Where a job changes something is the agent's to say; the agent itself is pushed where it is missing.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    host::{AgentSession, Placement},
    push::{Courier, Errand, ReadyAgent, ensure_agent},
    run::{FleetSettings, placement, target},
    transport::Transport,
};
use crate::{
    inventory::HostEntry,
    model::{
        AppName, FailureKind, HostAnswer, HostFailure, HostId, HostName, HostState, HostStatus, HostWarning, Operator, Pruned,
        RunId, Unlocked,
    },
    wire::{FromAgent, Job, PruneJob, ToAgent},
};

/// How many hosts are at it at a time.
const AT_ONCE: usize = 256;
/// How often an agent is asked for a sign of life, and how long it may give none.
const PING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(60);
/// How long a job may take on one host.
const LONGEST: Duration = Duration::from_secs(3600);
/// The most warnings that are kept of one host.
const MAX_WARNINGS: usize = 20;

/// What each host says, in inventory order.
pub type Answers<T> = Vec<(HostName, Result<HostAnswer<T>, HostFailure>)>;

/// A job that a host does on its own and answers with one message.
pub trait Chore: Send + Sync + 'static {
    /// What the host answers.
    type Answer: Send + 'static;

    /// Makes the job for a host.
    fn job(&self, host: &HostName, deploy_to: String, cache: Option<String>) -> Job;

    /// Returns the answer that a message is, if it is one.
    fn answer(message: FromAgent) -> Option<Self::Answer>;
}

/// Tell what is there. Changes nothing.
#[derive(Debug)]
pub struct Look;

impl Chore for Look {
    type Answer = HostStatus;

    fn job(&self, _: &HostName, deploy_to: String, _: Option<String>) -> Job {
        Job::Status { deploy_to }
    }

    fn answer(message: FromAgent) -> Option<HostStatus> {
        if let FromAgent::Status(status) = message { Some(status) } else { None }
    }
}

/// Remove what is no longer needed.
#[derive(Debug)]
pub struct Prune {
    /// This run.
    pub run: RunId,
    /// Who wants it.
    pub by: Option<Operator>,
    /// How many releases stay on each host, the current and the previous included.
    pub keep_releases: u32,
    /// What each host's cache is cut down to, in bytes.
    pub cache_limit: u64,
    /// Only tell what would go.
    pub dry_run: bool,
}

impl Chore for Prune {
    type Answer = Pruned;

    fn job(&self, _: &HostName, deploy_to: String, cache: Option<String>) -> Job {
        Job::Prune(Box::new(PruneJob {
            run: self.run.clone(),
            by: self.by.clone(),
            deploy_to,
            cache,
            cache_limit: self.cache_limit,
            keep_releases: self.keep_releases,
            dry_run: self.dry_run,
        }))
    }

    fn answer(message: FromAgent) -> Option<Pruned> {
        if let FromAgent::Pruned(pruned) = message { Some(pruned) } else { None }
    }
}

/// See to it that nobody holds the lock.
#[derive(Debug)]
pub struct Unlock {
    /// This run.
    pub run: RunId,
    /// Who wants it.
    pub by: Option<Operator>,
    /// Whether to end a process that holds the lock.
    pub force: bool,
}

impl Chore for Unlock {
    type Answer = Unlocked;

    fn job(&self, _: &HostName, deploy_to: String, _: Option<String>) -> Job {
        Job::Unlock { run: self.run.clone(), deploy_to, force: self.force, by: self.by.clone() }
    }

    fn answer(message: FromAgent) -> Option<Unlocked> {
        if let FromAgent::Unlocked(unlocked) = message { Some(unlocked) } else { None }
    }
}

/// Has every host do it and returns their answers. `app` is the application, where neither the command line nor the inventory say where
/// it lives.
pub async fn on_all<C: Chore>(fleet: FleetSettings, app: Option<AppName>, chore: C) -> Answers<C::Answer> {
    let courier = Courier::without_relays(fleet.finder.clone(), fleet.hosts.len());
    let round = Arc::new(Round { placement: placement(&fleet, app), fleet, courier: Arc::new(courier), chore });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for index in 0..round.fleet.hosts.len() {
        let (round, places) = (round.clone(), places.clone());
        tasks.spawn(async move {
            // Nobody closes it.
            let _place = places.acquire().await;
            (index, round.on(index).await)
        });
    }
    let mut answers: Vec<_> = round.fleet.hosts.iter().map(|_| None).collect();
    while let Some(ended) = tasks.join_next().await {
        if let Ok((index, answer)) = ended {
            answers[index] = Some(answer);
        }
    }
    let lost = || Err(failed("asking it failed inside this process"));
    let names = round.fleet.hosts.iter().map(|host| host.name.clone());
    names.zip(answers.into_iter().map(|answer| answer.unwrap_or_else(lost))).collect()
}

/// What all hosts' tasks need.
struct Round<C> {
    fleet: FleetSettings,
    placement: Placement,
    courier: Arc<Courier>,
    chore: C,
}

impl<C: Chore> Round<C> {
    async fn on(&self, index: usize) -> Result<HostAnswer<C::Answer>, HostFailure> {
        let host = &self.fleet.hosts[index];
        let errand = self.courier.errand(HostId(index as u32));
        let transport = Transport::open(&self.fleet.connector, host, &target(host)).await.map_err(|refused| refused.failure)?;
        let answer = self.over(host, &errand, &transport).await;
        transport.close().await;
        answer
    }

    async fn over(
        &self,
        host: &HostEntry,
        errand: &Errand,
        transport: &Transport,
    ) -> Result<HostAnswer<C::Answer>, HostFailure> {
        let cache = &self.placement.cache;
        let agent = ensure_agent(transport, errand, host, cache.as_deref()).await?;
        let deploy_to = self.placement.deploy_to(host, agent.is_root)?;
        inquire::<C>(transport, &agent, self.chore.job(&host.name, deploy_to, cache.clone())).await
    }
}

/// Starts the agent and returns its answer to a job.
pub(super) async fn inquire<C: Chore>(
    transport: &Transport,
    agent: &ReadyAgent,
    job: Job,
) -> Result<HostAnswer<C::Answer>, HostFailure> {
    let mut session = AgentSession::start(transport, agent).await?;
    session.send(ToAgent::Job(job)).await;
    let answer = answer::<C>(&mut session).await;
    session.close().await;
    answer
}

/// Waits for the answer as long as the agent shows signs of life.
async fn answer<C: Chore>(session: &mut AgentSession) -> Result<HostAnswer<C::Answer>, HostFailure> {
    let mut warnings = Vec::new();
    let end = Instant::now() + LONGEST;
    let mut silent_at = Instant::now() + SILENCE;
    let mut pings = tokio::time::interval(PING);
    loop {
        let message = tokio::select! {
            message = timeout_at(silent_at.min(end), session.receive()) => message,
            _ = pings.tick() => {
                session.send(ToAgent::Ping).await;
                continue;
            }
        };
        silent_at = Instant::now() + SILENCE;
        match message {
            Ok(Ok(Some(FromAgent::Failed(failure)))) => return Err(failure),
            Ok(Ok(Some(FromAgent::Warning { message, hint }))) if warnings.len() < MAX_WARNINGS => {
                warnings.push(HostWarning { message, hint });
            }
            Ok(Ok(Some(message))) => {
                if let Some(answer) = C::answer(message) {
                    return Ok(HostAnswer { answer, warnings });
                }
            }
            Ok(Ok(None)) => return Err(session.why_ended(HostState::Preparing).await),
            Ok(Err(error)) => return Err(failed(&format!("the agent's messages: {error}"))),
            Err(_) => {
                let hint = "the host hangs or is overloaded: look at its load and its disks, then ask it again";
                return Err(failed("the agent gave no answer").with_hint(hint));
            }
        }
    }
}

fn failed(message: &str) -> HostFailure {
    HostFailure::new(FailureKind::Failed, HostState::Preparing, message)
}
