//! One conversation: hello, one job, its end. Owns who may say what when; the jobs own what is done.
//!
//! While a job works, the session listens: a stop, the end of the channel or a message out of order interrupts the work. Work on the disk
//! runs on blocking threads and is always waited for, so that nothing changes after the agent has said its last word.

mod transfer;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Interval, MissedTickBehavior},
};

use super::{
    AgentEnv, deploy,
    failure::JobError,
    ladder::Ladder,
    link::{Heard, Link},
    lock::Predecessor,
    prune,
    recovery::{self, Recovery},
    relay::{Relay, Served},
    rollback, status,
    unlock::{self, Unlock},
};
use crate::{
    model::{HostState, PortRange, origin::Origin},
    swarm::{Engine, EngineHandle, TransferStats},
    wire::{AgentHello, FromAgent, Job, RelayToken, StopReason, ToAgent, WIRE_VERSION},
};

/// How often progress is told at most.
const PROGRESS: Duration = Duration::from_secs(1);
/// The shortest lease, whatever the job says.
const MIN_LEASE: Duration = Duration::from_secs(1);

/// How a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The controller stopped the agent, or the job ended and the controller was told how.
    Orderly,
    /// The channel was lost, or the process was told to end; why.
    Lost(String),
}

/// Why a job goes no further.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It failed.
    Failed(JobError),
    /// The controller said stop.
    Stopped(StopReason),
    /// The controller wants the host back on the release it had; why.
    SentBack(String),
    /// The controller has been told everything: nothing is left to say.
    Told,
}

impl<E: Into<JobError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Tells work on a blocking thread that its result is no longer wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// True once the work should end.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Something that happened while the session listened.
#[derive(Debug)]
enum Event {
    Heard(Heard),
    EngineFailed(crate::swarm::EngineError),
    Tick,
}

/// The agent's side of the conversation.
#[derive(Debug)]
pub(crate) struct Session {
    link: Link,
    /// The agent's surroundings.
    pub(crate) env: AgentEnv,
    /// The state that failures are reported in.
    pub(crate) during: HostState,
    /// Where space is measured when a disk is full.
    pub(crate) place: Option<PathBuf>,
    engine: Option<EngineHandle>,
    engine_needed: bool,
    last: Option<TransferStats>,
    told: TransferStats,
    settled: bool,
    ticks: Interval,
    relay: Option<Relay>,
    ladder: Ladder,
    /// The controller's own web server.
    web: Option<Box<Origin>>,
    /// Whether the swarm was switched off.
    alone: bool,
    began: tokio::time::Instant,
}

/// Speaks the wire protocol on `input` and `output` until the job is over.
///
/// One call does one job. Cancelling the returned future is like killing the agent: use [`AgentEnv::stop`] instead.
pub async fn serve<E, R, W>(engine: E, input: R, output: W, env: AgentEnv) -> Ended
where
    E: Engine,
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut ticks = tokio::time::interval(PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session = Session {
        link: Link::new(input, output, env.stop.clone()),
        env,
        during: HostState::Preparing,
        place: None,
        engine: None,
        engine_needed: false,
        last: None,
        told: TransferStats::default(),
        settled: false,
        ticks,
        relay: None,
        ladder: Ladder::default(),
        web: None,
        alone: false,
        began: tokio::time::Instant::now(),
    };
    let halt = match session.job(&engine).await {
        Ok(()) => Halt::Told,
        Err(halt) => halt,
    };
    session.end(halt).await
}

impl Session {
    async fn job<E: Engine>(&mut self, engine: &E) -> Result<(), Halt> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.tell(FromAgent::Hello(AgentHello { wire_version: WIRE_VERSION, version, pid: std::process::id() })).await;
        let message = self.hear().await?;
        match message {
            ToAgent::Job(Job::Deploy(job)) => {
                self.set_lease(job.lease_seconds);
                deploy::deploy(self, engine, *job).await
            }
            ToAgent::Job(Job::Rollback(job)) => {
                self.set_lease(job.lease_seconds);
                rollback::rollback(self, *job).await
            }
            ToAgent::Job(Job::Status { deploy_to }) => status::status(self, deploy_to).await,
            ToAgent::Job(Job::Prune(job)) => prune::prune(self, *job).await,
            ToAgent::Job(Job::Unlock { run, deploy_to, force, by }) => {
                unlock::unlock(self, Unlock { claim: Predecessor { run, by, process: None }, deploy_to, force }).await
            }
            ToAgent::Job(Job::Recover { run, deploy_to, replaces, back }) => {
                let dead = Predecessor { run, by: None, process: replaces };
                recovery::recover(self, Recovery { dead, deploy_to, back: back.map(|back| *back) }).await
            }
            other => Err(self.out_of_order(&other)),
        }
    }

    fn set_lease(&mut self, seconds: u32) {
        self.link.set_lease(Duration::from_secs(seconds.into()).max(MIN_LEASE));
    }

    async fn end(mut self, halt: Halt) -> Ended {
        if let Some(relay) = self.relay.take() {
            relay.stop().await;
        }
        self.stop_engine().await;
        let ended = match halt {
            Halt::Told | Halt::SentBack(_) => Ended::Orderly,
            Halt::Stopped(reason) => {
                tracing::info!("stopped by the controller: {reason:?}");
                Ended::Orderly
            }
            Halt::Failed(error) => {
                if !self.settled {
                    let failure = error.report(self.during, self.place.as_deref());
                    tracing::error!("{}", failure.message);
                    self.tell(FromAgent::Failed(failure)).await;
                }
                match error {
                    JobError::Gone(gone) => {
                        tracing::info!("ends: {gone}");
                        Ended::Lost(gone.to_string())
                    }
                    _ => Ended::Orderly,
                }
            }
        };
        self.link.close().await;
        ended
    }

    /// Sends a message.
    pub(crate) async fn tell(&mut self, message: FromAgent) {
        self.link.send(message).await;
    }

    /// Enters a state and tells it.
    pub(crate) async fn enter(&mut self, state: HostState) {
        self.during = state;
        self.tell(FromAgent::State { state }).await;
    }

    /// Tells something that stops nothing.
    pub(crate) async fn warn(&mut self, message: String, hint: Option<&str>) {
        tracing::warn!("{message}");
        self.tell(FromAgent::Warning { message, hint: hint.map(str::to_owned) }).await;
    }

    /// Makes the failure for a message at the wrong time.
    pub(crate) fn out_of_order(&self, message: &ToAgent) -> Halt {
        Halt::Failed(JobError::OutOfOrder { message: name(message), during: self.during })
    }

    /// From now on nothing can fail the job: the controller has been told its outcome.
    pub(crate) fn mark_settled(&mut self) {
        self.settled = true;
    }

    /// Does nothing but upload until the controller says stop, wants the host to go back, or the channel ends.
    pub(crate) async fn settle(&mut self) -> Halt {
        self.settled = true;
        loop {
            let event = self.event().await;
            if let Err(halt) = self.handle(event).await {
                return halt;
            }
        }
    }

    /// Serves the agent's own binary from now on, if the address is one of this host's.
    async fn relay(&mut self, address: IpAddr, ports: Option<PortRange>, token: RelayToken) {
        if self.relay.is_none() {
            let served = Served { packed: self.env.packed.clone(), plain: self.env.executable.clone() };
            match Relay::start(address, ports, token, served) {
                Ok(relay) => self.relay = Some(relay),
                Err(error) => tracing::info!("does not serve the agent at {address}: {error}"),
            }
        }
        let port = self.relay.as_ref().map(|relay| relay.address().port());
        self.tell(FromAgent::Relays { port }).await;
    }

    /// Waits for the next message a job has to act on. Peers go to the engine.
    pub(crate) async fn hear(&mut self) -> Result<ToAgent, Halt> {
        loop {
            let event = self.event().await;
            if let Some(message) = self.handle(event).await? {
                return Ok(message);
            }
        }
    }

    /// Waits until `work` is done while listening; any message but peers interrupts it. Interrupted work is dropped.
    pub(crate) async fn attend<T>(&mut self, work: impl Future<Output = Result<T, JobError>>) -> Result<T, Halt> {
        let mut work = std::pin::pin!(work);
        loop {
            let event = tokio::select! {
                done = &mut work => return Ok(done?),
                event = self.event() => event,
            };
            if let Some(message) = self.handle(event).await? {
                return Err(self.out_of_order(&message));
            }
        }
    }

    /// Runs work that blocks while listening. Interrupted work is told so at once and waited for.
    pub(crate) async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Cancel) -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, Halt> {
        let cancel = Cancel::default();
        let seen = cancel.clone();
        let mut task = tokio::task::spawn_blocking(move || work(&seen));
        let mut taken = false;
        let joined = async {
            let done = (&mut task).await;
            taken = true;
            done.unwrap_or_else(|error| Err(lost(&error)))
        };
        let result = self.attend(joined).await;
        // Its result no longer matters; that it has ended does.
        if !taken {
            cancel.set();
            let _ = task.await;
        }
        result
    }

    /// Runs what is left to do after the controller has been told the job's outcome, and returns its result also where it was cut
    /// short, then with the reason. A host that is to go back does so at once; whatever else ends the job leaves the work `grace`.
    pub(crate) async fn tidying<T: Send + 'static>(
        &mut self,
        grace: Duration,
        work: impl FnOnce(&Cancel) -> T + Send + 'static,
    ) -> (Result<T, JobError>, Option<Halt>) {
        let cancel = Cancel::default();
        let seen = cancel.clone();
        let mut task = tokio::task::spawn_blocking(move || work(&seen));
        let halt = loop {
            tokio::select! {
                done = &mut task => return (done.map_err(|error| lost(&error)), None),
                event = self.event() => if let Err(halt) = self.handle(event).await {
                    break halt;
                },
            }
        };
        let grace = if matches!(halt, Halt::SentBack(_)) { Duration::ZERO } else { grace };
        let done = match tokio::time::timeout(grace, &mut task).await {
            Ok(done) => done,
            Err(_) => {
                cancel.set();
                task.await
            }
        };
        (done.map_err(|error| lost(&error)), Some(halt))
    }

    /// Cancel-safe: an event is lost only together with the session.
    async fn event(&mut self) -> Event {
        let engine = &mut self.engine;
        tokio::select! {
            biased;
            heard = self.link.next() => Event::Heard(heard),
            error = async {
                match engine {
                    Some(engine) => engine.failed().await,
                    None => std::future::pending().await,
                }
            } => Event::EngineFailed(error),
            _ = self.ticks.tick() => Event::Tick,
        }
    }

    async fn handle(&mut self, event: Event) -> Result<Option<ToAgent>, Halt> {
        match event {
            Event::Heard(Heard::Message(ToAgent::Peers { peers })) => self.add_peers(peers).await,
            Event::Heard(Heard::Message(ToAgent::Relay { address, ports, token })) => self.relay(address, ports, token).await,
            Event::Heard(Heard::Message(ToAgent::Alone)) => self.leave_others().await,
            Event::Heard(Heard::Message(ToAgent::Way { seed, tracker })) => self.take_way(seed, tracker).await,
            Event::Heard(Heard::Message(ToAgent::Stop { reason })) => return Err(Halt::Stopped(reason)),
            Event::Heard(Heard::Message(ToAgent::Revert { reason })) => return Err(Halt::SentBack(reason)),
            Event::Heard(Heard::Message(message)) if self.settled => {
                let message = format!("the controller sent `{}` after the job's end; it was ignored", name(&message));
                self.warn(message, None).await;
            }
            Event::Heard(Heard::Message(message)) => return Ok(Some(message)),
            Event::Heard(Heard::Gone(gone)) => return Err(JobError::Gone(gone).into()),
            Event::EngineFailed(error) => {
                self.last = self.stats();
                self.engine = None;
                if self.engine_needed {
                    return Err(error.into());
                }
                let message = format!("the host no longer uploads: {}", super::failure::chain(&error));
                self.warn(message, None).await;
            }
            Event::Tick => {
                self.tell_progress().await;
                self.look_at_the_transfer().await;
            }
        }
        Ok(None)
    }
}

/// Runs work that blocks and must not be interrupted: the switch itself.
pub(crate) async fn uninterrupted<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(lost(&error)))
}

fn lost(error: &tokio::task::JoinError) -> JobError {
    JobError::Internal(error.to_string())
}

/// Returns a message's name on the wire.
pub(crate) fn name(message: &ToAgent) -> &'static str {
    match message {
        ToAgent::Job(_) => "job",
        ToAgent::Start { .. } => "start",
        ToAgent::Peers { .. } => "peers",
        ToAgent::Way { .. } => "way",
        ToAgent::Alone => "alone",
        ToAgent::Relay { .. } => "relay",
        ToAgent::Ping => "ping",
        ToAgent::Activate => "activate",
        ToAgent::Confirm => "confirm",
        ToAgent::Revert { .. } => "revert",
        ToAgent::Stop { .. } => "stop",
    }
}

/// Returns why the agent stops, for a revert's reason.
pub(crate) fn why(halt: &Halt) -> String {
    match halt {
        Halt::Failed(error) => super::failure::chain(error),
        Halt::Stopped(StopReason::Finished) => "the run ended before it was confirmed".into(),
        Halt::Stopped(StopReason::Interrupted) => "the operator interrupted the run".into(),
        Halt::Stopped(StopReason::BudgetExceeded) => "too many hosts dropped out".into(),
        Halt::Stopped(StopReason::NotApproved) => "the next wave was not let go".into(),
        Halt::Stopped(StopReason::Aborted) => "the run was aborted".into(),
        Halt::SentBack(reason) => reason.clone(),
        Halt::Told => "the job ended".into(),
    }
}
