//! The way to the controller for a host that can't connect to it: through the SSH connection that is open anyway.
//!
//! A forwarded port is tried first. An sshd that forwards none (`AllowTcpForwarding no`) still runs commands: then a ferry on the host, the
//! agent's own binary, carries one stream over a channel, to the seed alone; a new one is sent when that has ended and the host asks again.
//! Few hosts at a time get a way ([`Ways`]); it ends with the host's connection.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional_with_sizes},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::super::{
    push::ReadyAgent,
    seed::SeedAddresses,
    transport::{Begun, Transport},
};
use crate::{
    model::HostId,
    ssh::Process,
    wire::{PeerAddr, ToAgent, ferry_port},
};

/// How many hosts get a way as soon as they ask: the others take the artifact from them, and few copies leave the controller this way.
const FIRST: usize = 3;
/// After this many seconds without anything a host gets a way of its own: it can't reach those that have one.
const ALONE: u32 = 20;
/// How often opening a way may fail on one host.
const MAX_FAILURES: u32 = 3;
/// How long a ferry may take to say where it takes its stream.
const FERRY_START: Duration = Duration::from_secs(20);
/// How much of a ferry's stream waits here in each direction, beside the channel's own queues.
const BUFFER: usize = 64 << 10;

/// Which hosts of the fleet have a way.
#[derive(Debug, Default)]
pub(in crate::controller) struct Ways(Mutex<BTreeSet<HostId>>);

impl Ways {
    /// Decides whether a host to which nothing has come for so many seconds gets a way, and counts it if so.
    fn grants(&self, host: HostId, seconds: u32) -> bool {
        let mut with_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = seconds >= ALONE || with_way.len() < FIRST || with_way.contains(&host);
        if granted {
            with_way.insert(host);
        }
        granted
    }

    /// Notes that a host's way is gone: another one's turn.
    pub(super) fn left(&self, host: HostId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&host);
    }
}

/// What came of opening a way.
enum Opened {
    Ports { seed: SocketAddr, tracker: Option<String> },
    Ferry { port: u16, process: Process },
}

#[derive(Default)]
enum State<'a> {
    #[default]
    Closed,
    Opening(BoxFuture<'a, Result<Opened, String>>),
    Open,
}

/// One host's way.
pub(super) struct Way<'a> {
    transport: &'a Transport,
    agent: &'a ReadyAgent,
    seed: Option<&'a SeedAddresses>,
    state: State<'a>,
    failures: u32,
    /// Carries the ferry's stream.
    carrier: JoinSet<()>,
    /// Cancelled once the host is to exchange nothing with others; none once it has been told.
    exchanges: Option<CancellationToken>,
}

impl<'a> Way<'a> {
    /// Begins closed. Without a seed there is nothing that a way could lead to.
    pub(super) fn new(transport: &'a Transport, agent: &'a ReadyAgent, seed: Option<&'a SeedAddresses>) -> Self {
        Self { transport, agent, seed, state: State::Closed, failures: 0, carrier: JoinSet::new(), exchanges: None }
    }

    /// Says what ends the host's exchange with others, while there is one.
    pub(super) fn exchanges(&mut self, until: Option<CancellationToken>) {
        self.exchanges = until.filter(|_| self.seed.is_some());
    }

    /// Begins to open it for a host that asks, if it is the host's turn.
    pub(super) fn ask(&mut self, ways: &Ways, host: HostId, seconds: u32) {
        let Some(seed) = self.seed else { return };
        if matches!(self.state, State::Closed) && self.failures < MAX_FAILURES && ways.grants(host, seconds) {
            self.state = State::Opening(open(self.transport, self.agent, seed).boxed());
        }
    }

    /// Waits for news: what the agent is to be told, or why there is no way, told once. Cancel-safe.
    pub(super) async fn news(&mut self) -> Result<ToAgent, String> {
        let stopped = self.exchanges.clone();
        let stopped = async move {
            match stopped {
                Some(stopped) => stopped.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = self.opened() => news,
            () = stopped => {
                self.exchanges = None;
                Ok(ToAgent::Alone)
            }
        }
    }

    async fn opened(&mut self) -> Result<ToAgent, String> {
        loop {
            let opened = match &mut self.state {
                State::Opening(opening) => opening.await,
                State::Open if !self.carrier.is_empty() => {
                    self.carrier.join_next().await;
                    self.state = State::Closed;
                    continue;
                }
                State::Open | State::Closed => std::future::pending().await,
            };
            self.state = State::Open;
            match (opened, self.seed) {
                (Ok(Opened::Ports { seed, tracker }), _) => return Ok(ToAgent::Way { seed: PeerAddr(seed), tracker }),
                (Ok(Opened::Ferry { port, process }), Some(seed)) => {
                    self.carrier.spawn(carry(process, seed.here().0));
                    return Ok(ToAgent::Way { seed: PeerAddr(SocketAddr::from(([127, 0, 0, 1], port))), tracker: None });
                }
                (Ok(Opened::Ferry { .. }), None) => {}
                (Err(reason), _) => {
                    self.state = State::Closed;
                    self.failures += 1;
                    if self.failures == MAX_FAILURES {
                        return Err(reason);
                    }
                }
            }
        }
    }
}

/// Opens a way by the first means that works.
async fn open(transport: &Transport, agent: &ReadyAgent, seed: &SeedAddresses) -> Result<Opened, String> {
    let (seed_here, tracker_here) = seed.here();
    let refused = match transport.forward(seed_here).await {
        Ok(at) => {
            // What comes to the tracker this way comes from this machine: it lists hosts that say where others reach them.
            let tracker = match agent.advertise {
                Some(_) => transport.forward(tracker_here).await.ok().map(|at| seed.announce_url(at)),
                None => None,
            };
            return Ok(Opened::Ports { seed: at, tracker });
        }
        Err(error) => error.to_string(),
    };
    let command = agent.ferry();
    let mut port = None;
    let hear = |line: &str| {
        port = ferry_port(line);
        port.is_some()
    };
    let begun = match transport.exec(command).await {
        Ok(process) => transport.begin(process, &[], FERRY_START, hear).await,
        Err(error) => Err(error),
    };
    match (begun, port) {
        (Ok(Begun::Runs(process)), Some(port)) => Ok(Opened::Ferry { port, process }),
        (Ok(Begun::Runs(_)), None) => Err(refused),
        (Ok(Begun::Ended(output)), _) => Err(format!("{refused}; a ferry ended ({}): {}", output.status, output.last_words())),
        (Err(error), _) => Err(format!("{refused}; no ferry: {error}")),
    }
}

/// Carries a ferry's stream to an address here until it ends.
async fn carry(process: Process, target: SocketAddr) {
    let mut stdout = BufReader::with_capacity(BUFFER, process.stdout);
    // The agent speaks first: before it does there is no stream, and the seed would not wait for it.
    if !matches!(stdout.fill_buf().await, Ok([_, ..])) {
        return;
    }
    let mut here = match TcpStream::connect(target).await {
        Ok(here) => here,
        Err(error) => return tracing::debug!(%target, %error, "a ferry leads nowhere"),
    };
    let _ = here.set_nodelay(true);
    let mut stream = tokio::io::join(stdout, process.stdin);
    if let Err(error) = copy_bidirectional_with_sizes(&mut stream, &mut here, BUFFER, BUFFER).await {
        tracing::debug!(%target, %error, "a ferry's stream broke");
    }
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_get_a_way_at_once_and_others_when_their_neighbours_do_not_help() {
        let ways = Ways::default();
        let host = |number: usize| HostId(number as u32);
        assert!((0..FIRST).all(|number| ways.grants(host(number), 3)));
        assert!(!ways.grants(host(FIRST), 3) && !ways.grants(host(FIRST), ALONE - 1));
        assert!(ways.grants(host(0), 3), "it has one");
        assert!(ways.grants(host(FIRST), ALONE), "nobody helps it");
        // Where one of them drops out, the next one that asks is as good.
        ways.left(host(FIRST));
        ways.left(host(1));
        assert!(ways.grants(host(7), 3) && !ways.grants(host(8), 3));
    }
}
