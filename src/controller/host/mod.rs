//! One host's task: log in, make sure the agent is there, relay between agent and dispatcher, and tell how it ended.
//!
//! Owns the host's connection for the whole run and hands it to nobody. Promises: exactly one final report ([`Report::Dropped`]
//! or the job's own end) for each host; a connection that breaks before the host is staged is tried again, and what was
//! transferred is kept; a stop reaches the host in whatever it is doing. Never decides whether a host may start or activate.

mod plan;
mod session;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

pub(super) use plan::{DeployPlan, JobPlan, Placement, RollbackPlan};
pub(super) use session::AgentSession;

use super::{
    push::{AgentFinder, ensure_agent},
    transport::Transport,
};
use crate::{
    inventory::HostEntry,
    model::{FailureKind, HostFailure, HostId, HostState},
    ssh::{Connector, Target},
    wire::{FrameError, FromAgent, PeerAddr, StopReason, ToAgent, TransferProgress},
};

/// How often a broken connection is replaced in one run.
const RECONNECTS: u32 = 3;
/// How long an agent may take to say hello, and to end after it was told to stop.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long messages that had arrived before the connection ended may take to be read.
const LAST_MESSAGES: Duration = Duration::from_secs(2);
/// How long a transfer may bring nothing new before the host counts as failed.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(600);
/// How long any other work may take without a word: checking and unpacking a huge artifact on a slow disk says nothing meanwhile.
const WORK_PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// How long a host may be without any connection in its transfer before the operator is told where to look.
const LONELY: Duration = Duration::from_secs(30);

/// What the dispatcher asks of a host's task.
#[derive(Debug)]
pub(super) enum Command {
    /// Fetch and stage; first peers.
    Start(Vec<PeerAddr>),
    /// Switch.
    Activate,
    /// The switch was seen.
    Confirm,
    /// End.
    Stop(StopReason),
}

/// What a host's task tells the dispatcher.
#[derive(Debug)]
pub(super) enum Report {
    /// It entered a state before downloading.
    Entered(HostState),
    /// The agent passed preflight.
    Prepared {
        /// Where other hosts reach it.
        address: Option<PeerAddr>,
        /// The seed's address it was given.
        seed: Option<PeerAddr>,
    },
    /// A message that the dispatcher interprets.
    Agent(Box<FromAgent>),
    /// The agent had to be pushed.
    AgentPushed,
    /// The connection broke and is being replaced.
    Reconnecting(String),
    /// The host is out.
    Dropped(HostFailure),
}

/// What a host's task needs.
pub(super) struct HostTask {
    pub(super) id: HostId,
    pub(super) entry: HostEntry,
    pub(super) target: Target,
    pub(super) connector: Connector,
    pub(super) finder: Arc<AgentFinder>,
    pub(super) plan: Arc<JobPlan>,
    pub(super) reports: mpsc::Sender<(HostId, Report)>,
    pub(super) commands: mpsc::Receiver<Command>,
}

/// How one attempt ended.
enum End {
    /// The job is over; everything was reported.
    Done,
    /// The host is out.
    Failed(HostFailure),
    /// The connection broke.
    Lost(HostFailure),
}

/// What outlives a connection.
struct Progress {
    state: HostState,
    /// First peers, once the host was started.
    started: Option<Vec<PeerAddr>>,
    reconnects: u32,
    lost_at: Option<Instant>,
    /// Bytes received when the transfer moved last.
    received: u64,
    /// When the host last had a connection to another, or was told to start; none once the operator was told.
    connected_at: Option<Instant>,
}

/// Where a host is told to find the others.
struct Addresses {
    /// Where others reach it.
    host: Option<IpAddr>,
    /// The seed's address given to it.
    seed: Option<PeerAddr>,
}

impl HostTask {
    /// Runs the host's part of the run to its end.
    pub(super) async fn run(mut self) {
        let mut progress =
            Progress { state: HostState::Queued, started: None, reconnects: 0, lost_at: None, received: 0, connected_at: None };
        loop {
            let failure = match self.attempt(&mut progress).await {
                End::Done => return,
                End::Lost(failure) if progress.state < HostState::Staged && progress.reconnects < RECONNECTS => {
                    progress.lost_at = Some(Instant::now());
                    failure
                }
                // The agent of the broken connection may still hold the lock until its lease lapses.
                End::Failed(failure) if progress.state == HostState::Preparing && self.lease_runs(&progress) => failure,
                End::Failed(failure) | End::Lost(failure) => {
                    self.report(Report::Dropped(failure)).await;
                    return;
                }
            };
            progress.reconnects += 1;
            self.report(Report::Reconnecting(failure.message)).await;
            let pause = Duration::from_millis(500 << progress.reconnects).mul_f64(0.5 + fastrand::f64());
            tokio::select! {
                () = sleep(pause) => (),
                () = stop_requested(&mut self.commands, &mut progress) => return,
            }
        }
    }

    fn lease_runs(&self, progress: &Progress) -> bool {
        progress.reconnects < RECONNECTS + 3 && progress.lost_at.is_some_and(|at| at.elapsed() < self.plan.lease() * 2)
    }

    async fn report(&self, report: Report) {
        // The dispatcher outlives its tasks; if it is gone the process is ending.
        let _ = self.reports.send((self.id, report)).await;
    }

    async fn enter(&self, progress: &mut Progress, state: HostState) {
        progress.state = state;
        if progress.started.is_none() {
            self.report(Report::Entered(state)).await;
        }
    }

    /// Connects, prepares and relays once.
    async fn attempt(&mut self, progress: &mut Progress) -> End {
        self.enter(progress, HostState::Connecting).await;
        let transport = tokio::select! {
            opened = Transport::open(&self.connector, &self.entry, &self.target) => match opened {
                Ok(transport) => transport,
                Err(failure) => return End::Failed(failure),
            },
            () = stop_requested(&mut self.commands, progress) => return End::Done,
        };
        self.enter(progress, HostState::Preparing).await;
        let end = self.work(&transport, progress).await;
        transport.close().await;
        end
    }

    async fn work(&mut self, transport: &Transport, progress: &mut Progress) -> End {
        let agent = tokio::select! {
            ready = ensure_agent(transport, &self.finder, self.entry.r#become.as_ref(), self.plan.cache()) => match ready {
                Ok(agent) => agent,
                Err(failure) => return lost_or_failed(failure),
            },
            () = stop_requested(&mut self.commands, progress) => return End::Done,
        };
        if agent.pushed {
            self.report(Report::AgentPushed).await;
        }
        let placed = match self.plan.place(&self.entry, &agent, transport) {
            Ok(placed) => placed,
            Err(failure) => return End::Failed(failure),
        };
        let mut session = match AgentSession::start(transport, &agent).await {
            Ok(session) => session,
            Err(failure) => return lost_or_failed(failure),
        };
        let addresses = Addresses { host: placed.advertise, seed: placed.seed };
        session.send(ToAgent::Job(placed.job)).await;
        let end = self.relay(transport, &mut session, progress, &addresses).await;
        session.close().await;
        end
    }

    /// Carries messages both ways until the agent ends.
    async fn relay(
        &mut self,
        transport: &Transport,
        session: &mut AgentSession,
        progress: &mut Progress,
        addresses: &Addresses,
    ) -> End {
        let mut ping = tokio::time::interval(self.plan.lease() / 3);
        let mut moved = Instant::now();
        let mut stop_deadline: Option<Instant> = None;
        loop {
            let silence = stop_deadline.unwrap_or(moved + patience(progress.state));
            tokio::select! {
                message = session.receive() => match message {
                    Ok(Some(message)) => {
                        if moves(&message, progress) {
                            moved = Instant::now();
                        }
                        if let Some(end) = self.agent_said(message, session, progress, addresses).await {
                            return end;
                        }
                    }
                    Ok(None) | Err(_) if stop_deadline.is_some() => return End::Done,
                    Ok(None) | Err(FrameError::Io(_)) => return session.ended(progress.state).await,
                    Err(error) => return End::Failed(failed(progress.state, format!("the agent's messages: {error}"))),
                },
                command = self.commands.recv() => match command {
                    Some(Command::Stop(reason)) => {
                        session.send(ToAgent::Stop { reason }).await;
                        stop_deadline = Some(Instant::now() + STOP_TIMEOUT);
                    }
                    Some(command) => {
                        moved = Instant::now();
                        self.obey(command, session, progress).await;
                    }
                    // The dispatcher is gone: closing the channel makes the agent stop.
                    None => return End::Done,
                },
                _ = ping.tick() => session.send(ToAgent::Ping).await,
                () = transport.closed() => return self.last_messages(session, progress, addresses).await,
                () = tokio::time::sleep_until(silence), if stop_deadline.is_some() || works(progress) => {
                    if stop_deadline.is_some() {
                        return End::Done;
                    }
                    return End::Failed(out_of_patience(progress.state, addresses));
                }
            }
        }
    }

    /// Takes what had arrived when the connection ended: it may tell why.
    async fn last_messages(&mut self, session: &mut AgentSession, progress: &mut Progress, addresses: &Addresses) -> End {
        while let Ok(Ok(Some(message))) = timeout(LAST_MESSAGES, session.receive()).await {
            if let Some(end) = self.agent_said(message, session, progress, addresses).await {
                return end;
            }
        }
        session.ended(progress.state).await
    }

    async fn obey(&self, command: Command, session: &mut AgentSession, progress: &mut Progress) {
        match command {
            Command::Start(peers) => {
                progress.state = HostState::Downloading;
                progress.started = Some(peers.clone());
                progress.connected_at = Some(Instant::now());
                session.send(ToAgent::Start { peers }).await;
            }
            Command::Activate => {
                progress.state = HostState::Activating;
                session.send(ToAgent::Activate).await;
            }
            Command::Confirm => session.send(ToAgent::Confirm).await,
            Command::Stop(reason) => session.send(ToAgent::Stop { reason }).await,
        }
    }

    /// Passes on what the agent said; the end, if that was its last word.
    async fn agent_said(
        &mut self,
        message: FromAgent,
        session: &mut AgentSession,
        progress: &mut Progress,
        addresses: &Addresses,
    ) -> Option<End> {
        match message {
            FromAgent::Prepared { port, .. } => {
                let address = addresses.host.zip(port).map(|(ip, port)| PeerAddr((ip, port).into()));
                self.report(Report::Prepared { address, seed: addresses.seed }).await;
                if let Some(peers) = progress.started.clone() {
                    self.obey(Command::Start(peers), session, progress).await;
                }
                return None;
            }
            // Nothing to pass on.
            FromAgent::Alive => return None,
            FromAgent::Failed(mut failure) => {
                failure.log_tail = session.log_tail();
                // A host whose agent reports being unreachable is still one that was reached.
                failure.kind = FailureKind::Failed;
                return Some(End::Failed(failure));
            }
            FromAgent::Progress(TransferProgress { peers, .. }) => self.look_for_loneliness(peers, progress, addresses).await,
            FromAgent::State { state } if state < HostState::Staged => progress.state = state,
            FromAgent::Staged { .. } => progress.state = HostState::Staged,
            FromAgent::Activated { .. } => progress.state = HostState::Checking,
            FromAgent::AlreadyActive { .. } | FromAgent::Confirmed => progress.state = HostState::Active,
            FromAgent::Reverted { .. } => progress.state = HostState::Reverted,
            _ => (),
        }
        self.report(Report::Agent(Box::new(message))).await;
        None
    }

    /// Tells the operator once if the host can reach nobody: the run may have to wait for a long time otherwise.
    async fn look_for_loneliness(&self, peers: u32, progress: &mut Progress, addresses: &Addresses) {
        if peers > 0 {
            progress.connected_at = progress.connected_at.map(|_| Instant::now());
            return;
        }
        if progress.state == HostState::Downloading && progress.connected_at.is_some_and(|at| at.elapsed() > LONELY) {
            progress.connected_at = None;
            let seconds = LONELY.as_secs();
            let message = format!("no connection to {} or any other host for {seconds} s", addresses.controller());
            let warning = FromAgent::Warning { message, hint: Some(ADDRESS_HINT.to_owned()) };
            self.report(Report::Agent(Box::new(warning))).await;
        }
    }
}

/// What helps where hosts can't reach each other.
const ADDRESS_HINT: &str = "hosts use the addresses of their SSH connections: `--advertise IP` sets the controller's, \
                            `fleetdrop_advertise` in the inventory a host's; look for firewalls between them";

impl Addresses {
    fn controller(&self) -> String {
        self.seed.map_or_else(|| "the controller".to_owned(), |seed| format!("the controller at {}", seed.0))
    }
}

/// How long a state may last without a sign of progress.
fn patience(state: HostState) -> Duration {
    match state {
        HostState::Downloading | HostState::Backfilling => TRANSFER_PATIENCE,
        _ => WORK_PATIENCE,
    }
}

fn out_of_patience(state: HostState, addresses: &Addresses) -> HostFailure {
    let minutes = patience(state).as_secs() / 60;
    let failure = failed(state, format!("no progress for {minutes} minutes"));
    match state {
        HostState::Downloading | HostState::Backfilling => {
            let message = format!("no data from {} or any other host for {minutes} minutes", addresses.controller());
            HostFailure { message, ..failure }.with_hint(ADDRESS_HINT)
        }
        _ => failure,
    }
}

/// True if the message shows that the host gets on: progress counts only if something new has arrived.
fn moves(message: &FromAgent, progress: &mut Progress) -> bool {
    let transfer = match message {
        FromAgent::Progress(transfer) => transfer,
        FromAgent::Alive => return false,
        _ => return true,
    };
    let before = std::mem::replace(&mut progress.received, transfer.bytes.received());
    transfer.bytes.received() != before
}

/// True while the next move is the host's: a staged or finished host waits for the controller.
fn works(progress: &Progress) -> bool {
    !(progress.state == HostState::Staged || progress.state.is_final())
}

/// Waits for a stop while there is no agent to pass it to; notes a start for later.
async fn stop_requested(commands: &mut mpsc::Receiver<Command>, progress: &mut Progress) {
    loop {
        match commands.recv().await {
            Some(Command::Stop(_)) | None => return,
            Some(Command::Start(peers)) => progress.started = Some(peers),
            // Only a staged host is told to activate, and a staged host has an agent.
            Some(Command::Activate | Command::Confirm) => (),
        }
    }
}

fn lost_or_failed(failure: HostFailure) -> End {
    match failure.kind {
        FailureKind::Unreachable => End::Lost(failure),
        FailureKind::Failed => End::Failed(failure),
    }
}

fn failed(during: HostState, message: String) -> HostFailure {
    HostFailure::new(FailureKind::Failed, during, message)
}
