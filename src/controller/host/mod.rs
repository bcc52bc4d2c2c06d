//! One host's task: log in, make sure the agent is there, relay between agent and dispatcher, and tell how it ended.
//!
//! Owns the host's connection for the whole run and hands it to nobody. Promises: exactly one final report ([`Report::Dropped`]
//! or the job's own end) for each host; a connection that breaks before the host is told to switch is tried again, and what was
//! transferred is kept; what became of a host that was lost later is looked at, and one that is live without its agent is still
//! brought back when the run wants it; a stop reaches the host in whatever it is doing. Never decides whether a host may start or
//! activate.

mod login;
mod plan;
mod progress;
mod recovery;
mod session;
mod vigil;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep, sleep_until, timeout},
};

use login::Login;
pub(super) use plan::{DeployPlan, JobPlan, Placement, RollbackPlan};
use progress::Progress;
pub(super) use session::AgentSession;
use vigil::{Concern, Vigil};

use super::{
    push::{Came, Courier, Errand, FailedFetch, ReadyAgent, Word, ensure_agent},
    transport::Transport,
};
use crate::{
    inventory::HostEntry,
    model::{FailureKind, HostFailure, HostId, HostState, Place},
    ssh::{Connector, Target},
    wire::{FrameError, FromAgent, PeerAddr, StopReason, ToAgent},
};

/// How long a host that was lost may stay away: an sshd may be restarting. With the 15 s after which a silent connection is lost, a
/// host that is dead is called so half a minute after its last sign of life.
const AWAY: Duration = Duration::from_secs(15);
/// How long a host that is back may refuse the job beyond the lease of the old agent, which may still hold the lock.
const LOCK_MARGIN: Duration = Duration::from_secs(15);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long an attempt to reach a host that was lost waits for the network.
const REACH: Duration = Duration::from_secs(5);
/// How long an agent may take to say hello, and to end after it was told to stop.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long messages that had arrived before the connection ended may take to be read.
const LAST_MESSAGES: Duration = Duration::from_secs(2);
/// Lines of a hook's output that are kept, and their length in characters.
const OUTPUT_LINES: usize = 50;
const OUTPUT_LINE: usize = 400;

/// What the dispatcher asks of a host's task.
#[derive(Debug)]
pub(super) enum Command {
    /// Fetch and stage; first peers.
    Start(Vec<PeerAddr>),
    /// Switch.
    Activate,
    /// Log in anew, to see that the host can still be reached, and tell the host that it may stay as it is.
    Confirm,
    /// Go back to what was live before; why.
    GoBack(String),
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
    /// The agent was not there and has come.
    AgentCame(Came),
    /// It could not be fetched from another host before.
    AgentNotFetched(FailedFetch),
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
    pub(super) courier: Arc<Courier>,
    pub(super) plan: Arc<JobPlan>,
    /// Its place in a fleet with zones.
    pub(super) place: Option<Place>,
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
    /// The agent was lost while the host was between two releases: what became of it is to be found out.
    Adrift(HostFailure),
    /// The host is live on the new release and has no agent any more; why.
    Alone(HostFailure),
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
        let mut progress = Progress::new();
        loop {
            let (failure, is_news) = match self.attempt(&mut progress).await {
                End::Done => return,
                End::Adrift(failure) => match self.find_out(&mut progress, failure).await {
                    Some(failure) => return self.stand_by(&mut progress, failure).await,
                    None => return,
                },
                End::Alone(failure) => return self.stand_by(&mut progress, failure).await,
                End::Lost(failure) if progress.may_reconnect() => (failure, progress.attempts == 0),
                // The agent of the broken connection may still hold the lock.
                End::Failed(failure)
                    if progress.state == HostState::Preparing && progress.lost_within(self.plan.lease() + LOCK_MARGIN) =>
                {
                    (failure, false)
                }
                End::Failed(failure) | End::Lost(failure) => {
                    return self.report(Report::Dropped(progress.blame(failure))).await;
                }
            };
            if is_news {
                self.report(Report::Reconnecting(failure.message)).await;
            }
            let pause = progress.next_pause();
            tokio::select! {
                () = sleep(pause) => (),
                end = called_off(&mut self.commands, &mut progress) => {
                    if let End::Failed(failure) = end {
                        self.report(Report::Dropped(failure)).await;
                    }
                    return;
                }
            }
        }
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
            opened = Transport::open_again(&self.connector, &self.entry, &self.target, progress.reach()) => match opened {
                Ok(transport) => transport,
                // A host that was there a moment ago may come back; one that refuses us will not change its mind.
                Err(refused) if refused.may_pass && progress.is_lost() => {
                    progress.answers = refused.answers;
                    return End::Lost(refused.failure);
                }
                Err(refused) => return End::Failed(refused.failure),
            },
            end = called_off(&mut self.commands, progress) => return end,
        };
        self.enter(progress, HostState::Preparing).await;
        let end = self.work(&transport, progress).await;
        transport.close().await;
        end
    }

    async fn work(&mut self, transport: &Transport, progress: &mut Progress) -> End {
        let mut errand = self.courier.errand(self.id);
        let agent = tokio::select! {
            ready = ensure_agent(transport, &errand, &self.entry, self.plan.cache()) => match ready {
                Ok(agent) => agent,
                Err(failure) => return lost_or_failed(failure),
            },
            end = called_off(&mut self.commands, progress) => return end,
        };
        if let Some(failed) = agent.failed_fetch.clone() {
            self.report(Report::AgentNotFetched(failed)).await;
        }
        if let Some(came) = agent.came {
            self.report(Report::AgentCame(came)).await;
        }
        let placed = match self.plan.place(&self.entry, &agent, transport, self.place, progress.agent) {
            Ok(placed) => placed,
            Err(failure) => return End::Failed(failure),
        };
        let mut session = tokio::select! {
            started = AgentSession::start(transport, &agent) => match started {
                Ok(session) => session,
                Err(failure) => return lost_or_failed(failure),
            },
            end = called_off(&mut self.commands, progress) => return end,
        };
        let addresses = Addresses { host: agent.advertise, seed: placed.seed };
        progress.agent = Some(session.pid());
        session.send(ToAgent::Job(placed.job)).await;
        if let Some(place) = agent.place.clone() {
            errand.runs(place);
        }
        let end = self.relay(transport, &mut session, progress, &addresses, &mut errand).await;
        let died = session.has_died();
        session.close().await;
        match end {
            End::Adrift(failure) if died => match self.recover(transport, &agent, progress, &failure).await {
                Ok(end) => end,
                Err(_) => End::Adrift(failure),
            },
            end => end,
        }
    }

    /// Carries messages both ways until the agent ends.
    async fn relay(
        &mut self,
        transport: &Transport,
        session: &mut AgentSession,
        progress: &mut Progress,
        addresses: &Addresses,
        errand: &mut Errand,
    ) -> End {
        let mut held = None;
        let mut ping = interval((self.plan.lease() / 3).min(vigil::PING));
        let mut vigil = Vigil::new(Instant::now());
        let mut stop_deadline: Option<Instant> = None;
        let mut login = Login::default();
        loop {
            let give_up = stop_deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                message = session.receive() => match message {
                    Ok(Some(message)) => {
                        vigil.heard(&message, Instant::now());
                        if let FromAgent::Relays { port } = message {
                            errand.serves(addresses.with(port));
                        } else if self.waits_for_agents(&message, progress, errand) {
                            held = Some(message);
                        } else if let Some(end) = self.agent_said(message, session, progress, addresses).await {
                            return end;
                        }
                    }
                    Ok(None) | Err(_) if stop_deadline.is_some() => return End::Done,
                    Ok(None) | Err(FrameError::Io(_)) => return session.ended(progress.state).await,
                    Err(error) => {
                        let failure = failed(progress.state, format!("the conversation with the agent: {error}"));
                        return End::Failed(match error {
                            FrameError::TooLong(_) => failure.with_hint(LENGTH_HINT),
                            _ => failure,
                        });
                    }
                },
                command = self.commands.recv() => match command {
                    Some(Command::Stop(reason)) => {
                        session.send(ToAgent::Stop { reason }).await;
                        stop_deadline = Some(Instant::now() + STOP_TIMEOUT);
                    }
                    Some(Command::Confirm) => login = self.log_in_anew(),
                    // It was lost, is not staged again, and has nothing to go back from.
                    Some(Command::GoBack(_)) if progress.must_switch => return End::Failed(late()),
                    Some(command) => {
                        if let Command::GoBack(_) = command {
                            // Nobody needs to know any more whether the host would let the controller in.
                            login = Login::default();
                        }
                        self.obey(command, session, progress).await;
                    }
                    // The dispatcher is gone: closing the channel makes the agent stop.
                    None => return End::Done,
                },
                word = errand.word(held.is_some()) => match (word, held.take()) {
                    (Word::Calm, Some(message)) => {
                        if let Some(end) = self.agent_said(message, session, progress, addresses).await {
                            return end;
                        }
                    }
                    (_, waiting) => {
                        held = waiting;
                        self.ask_to_relay(session, addresses).await;
                    }
                },
                result = login.done() => session.send(result.map_or_else(
                    |failure| ToAgent::Revert { reason: format!("the controller cannot log in anew: {}", failure.message) },
                    |()| ToAgent::Confirm,
                )).await,
                _ = ping.tick() => {
                    session.send(ToAgent::Ping).await;
                    if let Some(end) = self.look_after(&mut vigil, progress, addresses).await
                        && stop_deadline.is_none()
                    {
                        return end;
                    }
                }
                () = transport.closed() => {
                    if stop_deadline.is_some() {
                        return End::Done;
                    }
                    return self.last_messages(session, progress, addresses).await;
                }
                () = sleep_until(give_up), if stop_deadline.is_some() => return End::Done,
            }
        }
    }

    /// True for the message after which a transfer would begin, while other hosts still need the links for their agents.
    fn waits_for_agents(&self, message: &FromAgent, progress: &Progress, errand: &Errand) -> bool {
        matches!(message, FromAgent::Prepared { .. })
            && matches!(*self.plan, JobPlan::Deploy(_))
            && progress.started.is_none()
            && !errand.is_calm()
    }

    /// Asks the agent to serve itself to other hosts.
    async fn ask_to_relay(&self, session: &mut AgentSession, addresses: &Addresses) {
        if let (Some(address), Some(token)) = (addresses.host, self.courier.token()) {
            session.send(ToAgent::Relay { address, token: token.clone() }).await;
        }
    }

    /// Acts on what the vigil sees; the end, if the host is to be given up.
    async fn look_after(&self, vigil: &mut Vigil, progress: &Progress, addresses: &Addresses) -> Option<End> {
        let controller = addresses.controller();
        match vigil.concern(Instant::now())? {
            Concern::Lonely => {
                let message = format!("no connection to {controller} or any other host for {} s", vigil::LONELY.as_secs());
                let warning = FromAgent::Warning { message, hint: Some(ADDRESS_HINT.to_owned()) };
                self.report(Report::Agent(Box::new(warning))).await;
                None
            }
            Concern::Silent(limit) => {
                let message = format!("the agent has said nothing for {} s", limit.as_secs());
                let hint = "the host hangs or is overloaded: look at its load and its disks";
                let failure = failed(progress.state, message).with_hint(hint);
                Some(match progress.state {
                    HostState::Activating | HostState::Checking => End::Adrift(failure),
                    HostState::Active => End::Alone(failure),
                    _ => End::Failed(failure),
                })
            }
            Concern::Stalled(limit) => {
                let minutes = limit.as_secs() / 60;
                let message = format!("no data from {controller} or any other host for {minutes} minutes");
                Some(End::Failed(failed(progress.state, message).with_hint(ADDRESS_HINT)))
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

    /// Passes on a command that needs nothing but the agent.
    async fn obey(&self, command: Command, session: &mut AgentSession, progress: &mut Progress) {
        match command {
            Command::Start(peers) => {
                progress.state = HostState::Downloading;
                progress.started = Some(peers.clone());
                session.send(ToAgent::Start { peers }).await;
            }
            // It was lost while it waited, and is being staged again.
            Command::Activate if progress.state != HostState::Staged => progress.must_switch = true,
            Command::Activate => {
                progress.must_switch = false;
                progress.state = HostState::Activating;
                session.send(ToAgent::Activate).await;
            }
            Command::GoBack(reason) => {
                progress.back = Some(reason.clone());
                session.send(ToAgent::Revert { reason }).await;
            }
            Command::Stop(reason) => session.send(ToAgent::Stop { reason }).await,
            Command::Confirm => (),
        }
    }

    /// Passes on what the agent said; the end, if that was its last word.
    async fn agent_said(
        &mut self,
        mut message: FromAgent,
        session: &mut AgentSession,
        progress: &mut Progress,
        addresses: &Addresses,
    ) -> Option<End> {
        match message {
            FromAgent::Prepared { port, .. } => {
                // The new connection has got as far as the lost one: a later loss is another one.
                progress.found();
                let address = addresses.with(port).map(PeerAddr);
                self.report(Report::Prepared { address, seed: addresses.seed }).await;
                if let Some(peers) = progress.started.clone() {
                    self.obey(Command::Start(peers), session, progress).await;
                }
                return None;
            }
            // Nothing to pass on.
            FromAgent::Alive => return None,
            FromAgent::Failed(mut failure) => {
                failure.log_tail = if failure.log_tail.is_empty() { session.log_tail() } else { bounded(failure.log_tail) };
                // A host whose agent reports being unreachable is still one that was reached.
                failure.kind = FailureKind::Failed;
                return Some(End::Failed(failure));
            }
            FromAgent::State { state } if state < HostState::Staged => progress.state = state,
            FromAgent::Staged { ref release, .. } => {
                progress.state = HostState::Staged;
                progress.release = Some(release.clone());
                if progress.must_switch {
                    self.obey(Command::Activate, session, progress).await;
                }
            }
            FromAgent::Activated { .. } => progress.state = HostState::Checking,
            FromAgent::AlreadyActive { .. } | FromAgent::Confirmed => progress.state = HostState::Active,
            FromAgent::Reverted { ref mut output, .. } => {
                progress.state = HostState::Reverted;
                *output = bounded(std::mem::take(output));
            }
            _ => (),
        }
        self.report(Report::Agent(Box::new(message))).await;
        None
    }
}

/// What helps where a message is too long.
const LENGTH_HINT: &str = "long commands are better put into scripts that are part of the release";

/// What helps where hosts can't reach each other.
const ADDRESS_HINT: &str = "hosts use the addresses of their SSH connections: `--advertise IP` sets the controller's, \
                            `fleetdrop_advertise` in the inventory a host's; look for firewalls between them";

impl Addresses {
    /// Returns where others reach that port of the host.
    fn with(&self, port: Option<u16>) -> Option<SocketAddr> {
        self.host.zip(port).map(SocketAddr::from)
    }

    fn controller(&self) -> String {
        self.seed.map_or_else(|| "the controller".to_owned(), |seed| format!("the controller at {}", seed.0))
    }
}

/// Waits until the host is no longer wanted while there is no agent to pass that to; notes what it is to do later.
async fn called_off(commands: &mut mpsc::Receiver<Command>, progress: &mut Progress) -> End {
    loop {
        match commands.recv().await {
            Some(Command::Stop(_)) | None => return End::Done,
            Some(Command::Start(peers)) => progress.started = Some(peers),
            Some(Command::Activate) => progress.must_switch = true,
            // Whoever was told to switch had an agent, unless it was lost before that.
            Some(Command::GoBack(_)) => return End::Failed(late()),
            Some(Command::Confirm) => (),
        }
    }
}

/// The failure of a host that was lost while it was staged and was not there again when its time was over.
fn late() -> HostFailure {
    failed(HostState::Staged, "it was lost before it switched, and was not back in time".to_owned())
}

fn lost_or_failed(failure: HostFailure) -> End {
    match failure.kind {
        FailureKind::Unreachable => End::Lost(failure),
        FailureKind::Failed => End::Failed(failure),
    }
}

/// Keeps of a command's output what is worth keeping for every host of a fleet.
fn bounded(mut lines: Vec<String>) -> Vec<String> {
    lines.drain(..lines.len().saturating_sub(OUTPUT_LINES));
    lines.into_iter().map(|line| line.chars().take(OUTPUT_LINE).collect()).collect()
}

fn failed(during: HostState, message: String) -> HostFailure {
    HostFailure::new(FailureKind::Failed, during, message)
}
