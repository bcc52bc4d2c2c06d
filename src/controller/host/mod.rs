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
mod relay;
mod session;
mod vigil;
mod way;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

pub(super) use plan::{DeployPlan, JobPlan, Placement, RollbackPlan};
use progress::Progress;
pub(super) use relay::ADDRESS_HINT;
pub(super) use session::AgentSession;
use way::Way;
pub(super) use way::Ways;

use super::{
    push::{Came, Courier, FailedFetch, ReadyAgent, ensure_agent},
    transport::Transport,
};
use crate::{
    inventory::HostEntry,
    model::{Digest, FailureKind, HostFailure, HostId, HostState, Place},
    ssh::{Connector, Target},
    wire::{FromAgent, PeerAddr, StopReason, ToAgent},
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
/// How long an agent may take to say hello.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
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
        /// The fingerprint of its certificate.
        certificate: Option<Digest>,
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
    /// Who may reach the controller through SSH.
    pub(super) ways: Arc<Ways>,
    /// Cancelled once hosts exchange nothing any more.
    pub(super) no_swarm: CancellationToken,
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
    /// The fingerprint of the certificate given to it.
    certificate: Option<Digest>,
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
        let alone = self.no_swarm.is_cancelled();
        let placed = match self.plan.place((self.id, &self.entry), &agent, transport, self.place, progress.agent, alone) {
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
        let addresses = Addresses { host: agent.advertise, seed: placed.seed, certificate: placed.certificate };
        progress.agent = Some(session.pid());
        session.send(ToAgent::Job(placed.job)).await;
        if let Some(place) = agent.place.clone() {
            errand.runs(place);
        }
        let plan = self.plan.clone();
        let mut way = Way::new(transport, &agent, plan.seed());
        way.exchanges((!alone).then(|| self.no_swarm.clone()));
        let end = self.relay(transport, &mut session, progress, &addresses, &mut errand, &mut way).await;
        self.ways.left(self.id);
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
}

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
