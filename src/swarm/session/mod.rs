//! One running engine: the single task that owns the policy, the connections and the addresses.
//!
//! Every input (connections' events, new connections, addresses, the clock, the handle) ends in one `select!`; each is handled to
//! its end before the next. The task never waits for a connection: commands go out with `try_send`, and a connection that lets
//! them pile up is dropped. When the task ends, every task and thread it started has ended.

mod bans;
mod origins;
mod peers;
mod pool;
mod stats;
#[cfg(test)]
mod tests;
mod tracking;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::MissedTickBehavior,
};

use super::{
    EngineConfig, EngineError, EngineHandle, Metainfo, Reach, Role, TransferStats,
    connection::{Context, Counters, Event, Exit, HaveLog},
    engine::Control,
    origin,
    policy::{Action, PeerKey, PieceSet, Policy, PolicyConfig},
    protocol::BLOCK,
    storage::{CHUNK, Checked, Storage, Threads},
    transport,
};
#[cfg(feature = "controller")]
pub(super) use peers::MAX_PEERS;
use peers::{CLIENT, Peers};
use pool::{Pool, Way};
use stats::{Source, Stats};
use tracking::Tracking;

/// Events that may wait for the session.
const EVENTS: usize = 1024;
/// The most events that are handled before anything else.
const EVENTS_IN_A_ROW: usize = 64;
/// How often the policy's clock ticks.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Memory for pieces that arrive.
const ASSEMBLY_BYTES: u32 = 12 << 20;
/// Blocks that all peers together may have asked for, a few of each aside: eight full queues.
const QUEUED: usize = 16 << 10;
/// Bytes, and pieces, that may be asked for. What does not arrive yet needs no memory but for its bookkeeping, and a long way holds much: twice
/// what 1 Gbit/s brings in 200 ms.
const ASKED_BYTES: u32 = 48 << 20;
const ASKED_PIECES: usize = 1024;

/// The running engine's state.
struct Session {
    context: Arc<Context>,
    policy: Policy,
    peers: Peers,
    pool: Pool,
    origins: origin::Pool,
    stats: Stats,
    tracking: Tracking,
    started: Instant,
    random: fastrand::Rng,
    complete: bool,
    /// When blocks that we wanted last came.
    arrived: Duration,
}

/// Opens everything and starts the engine's task.
pub(super) async fn start(config: EngineConfig) -> Result<EngineHandle, EngineError> {
    let meta = config.metainfo.clone();
    let role = config.role.clone();
    let opened = tokio::task::spawn_blocking(move || Storage::open(meta, &role));
    let (storage, threads, have) = opened.await.map_err(|error| EngineError::Engine(error.to_string()))??;
    let failed = |source| EngineError::Io { what: format!("can't listen on {}", config.listen), source };
    let (listener, deaf) = match config.bounds.alone {
        true => (None, None),
        false => match transport::listen(config.listen, config.ports) {
            Ok(listener) => (Some(listener), None),
            // What is no address of this machine can be said better by who said it.
            Err(error) if matches!(config.role, Role::Seed { .. }) || is_foreign(&error) => return Err(failed(error)),
            Err(error) => (None, Some(format!("can't listen on {}: {error}", config.listen))),
        },
    };
    let local_addr = match &listener {
        Some(listener) => listener.local_addr().map_err(failed)?,
        None => SocketAddr::new(config.listen.ip(), 0),
    };

    let mut random = fastrand::Rng::new();
    let meta = config.metainfo.clone();
    let seed = matches!(config.role, Role::Seed { .. });
    let complete = have.is_full();
    let initial_bytes: u64 = have.iter().filter_map(|piece| meta.piece_size(piece)).map(u64::from).sum();
    let initial = initial_stats(&have, &meta, if seed { 0 } else { initial_bytes });
    let (stats_sender, stats) = watch::channel(initial);
    let (control_sender, control) = mpsc::channel(8);
    let (events, received) = mpsc::channel(EVENTS);
    let mut policy_config = policy_config(meta.piece_count(), meta.piece_length(), seed, random.u64(..));
    policy_config.place = config.place;
    let haves = HaveLog::new(meta.piece_count());
    let arriving = Arc::new(Semaphore::new(arriving(meta.piece_length())));
    let context = Arc::new(Context {
        meta,
        storage,
        tls: config.tls.clone(),
        peer_id: peer_id(&mut random),
        seed,
        place: config.place,
        port: local_addr.port(),
        haves,
        queued: Arc::new(Semaphore::new(QUEUED)),
        arriving,
        bounds: config.bounds.clone(),
        counters: Counters::default(),
        events,
    });
    let tracking = Tracking::start(&config, &context, context.meta.length() - initial_bytes)?;
    let mut pool = Pool::new(config.controller_peers.into_iter().map(plain).collect());
    pool.add(config.peers.iter().copied().map(plain), true);
    if config.bounds.alone {
        pool.isolate();
    }
    let mut session = Session {
        policy: Policy::new(policy_config, have),
        peers: Peers::new(seed),
        pool,
        origins: origin::Pool::default(),
        stats: Stats::new(stats_sender),
        tracking,
        started: Instant::now(),
        random,
        complete,
        arrived: Duration::ZERO,
        context,
    };
    if let Some(why) = deaf {
        session.stats.deaf(why);
    }
    if let Some(origins) = config.origins {
        session.use_origins(*origins);
    }
    let task = tokio::spawn(session.run(listener, received, control, threads));
    Ok(EngineHandle::new(local_addr, stats, control_sender, task))
}

/// Returns the policy's bounds for that many pieces of that length; `seed` is for the random numbers.
pub(super) fn policy_config(pieces: u32, piece_length: u32, push: bool, seed: u64) -> PolicyConfig {
    let mut config = PolicyConfig::new(pieces, push, seed);
    config.usual_in_flight = config.usual_in_flight.min(arriving(piece_length));
    config.exclusive = piece_length > CHUNK;
    // A neighbour sends short pieces one after the other, and a part of every long one in turn: those arrive as soon as they are asked for.
    config.max_in_flight = if config.exclusive {
        config.usual_in_flight
    } else {
        ASKED_PIECES.min((ASKED_BYTES / piece_length.max(BLOCK)) as usize)
    };
    config
}

/// Returns how many pieces of that length may arrive at the same time.
fn arriving(piece_length: u32) -> usize {
    // A long piece has two chunks in memory, a short one itself.
    (ASSEMBLY_BYTES / piece_length.clamp(BLOCK, 2 * CHUNK)) as usize
}

fn initial_stats(have: &PieceSet, meta: &Metainfo, from_disk: u64) -> TransferStats {
    let mut stats = TransferStats { pieces_done: have.count(), complete: have.is_full(), ..TransferStats::default() };
    stats.in_order = in_order(have, meta, 0);
    stats.bytes.from_disk = from_disk;
    stats
}

/// Returns how many bytes from the file's beginning are there without a gap, knowing that so many are.
fn in_order(have: &PieceSet, meta: &Metainfo, known: u64) -> u64 {
    let first = known.div_ceil(u64::from(meta.piece_length())) as u32;
    let missing = (first..meta.piece_count()).find(|piece| !have.contains(*piece));
    missing.map_or(meta.length(), |piece| meta.piece_offset(piece))
}

/// An id in the usual style (BEP 20): client, version, random.
fn peer_id(random: &mut fastrand::Rng) -> librqbit_core::hash_id::Id20 {
    let mut id = *b"---0100-000000000000";
    id[..CLIENT.len()].copy_from_slice(CLIENT);
    for byte in &mut id[8..] {
        *byte = random.alphanumeric() as u8;
    }
    librqbit_core::hash_id::Id20::new(id)
}

impl Session {
    /// Runs until stopped or failed, then takes everything down.
    async fn run(
        mut self,
        mut listener: Option<TcpListener>,
        mut events: mpsc::Receiver<(PeerKey, Event)>,
        mut control: mpsc::Receiver<Control>,
        threads: Threads,
    ) -> Result<(), EngineError> {
        let result = self.serve(&mut listener, &mut events, &mut control).await;
        drop(listener);
        // The storage threads may be waiting to report: nobody listens any more.
        drop(events);
        self.peers.shut_down().await;
        self.origins.shut_down().await;
        let (now, joined) = (self.started.elapsed(), self.peers.joined());
        let Self { context, mut stats, tracking, .. } = self;
        // What was sent since the last tick counts as well.
        stats.publish(now, &context.counters, joined);
        drop(context);
        tracking.stop().await;
        threads.join().await;
        // Last: who watches the statistics learns of the end when everything has ended.
        drop(stats);
        result
    }

    async fn serve(
        &mut self,
        listener: &mut Option<TcpListener>,
        events: &mut mpsc::Receiver<(PeerKey, Event)>,
        control: &mut mpsc::Receiver<Control>,
    ) -> Result<(), EngineError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause_accept = false;
        loop {
            tokio::select! {
                Some((key, event)) = events.recv() => {
                    self.event(key, event)?;
                    // Those that came meanwhile, before the other inputs are asked again.
                    for _ in 1..EVENTS_IN_A_ROW {
                        let Ok((key, event)) = events.try_recv() else { break };
                        self.event(key, event)?;
                    }
                }
                Some((key, exit)) = self.peers.ended() => self.ended(key, exit)?,
                Some(()) = self.origins.task_ended() => {}
                accepted = accept(listener.as_ref()), if !pause_accept => match accepted {
                    Ok((stream, addr)) => self.peers.accept(self.started.elapsed(), &self.context, &self.pool, stream, addr),
                    Err(error) => {
                        // Most likely out of file descriptors: the next tick tries again.
                        tracing::debug!(%error, "can't accept a peer");
                        pause_accept = true;
                    }
                },
                asked = control.recv() => match asked {
                    Some(Control::AddPeers(addrs)) => {
                        let addrs = addrs.into_iter().map(plain);
                        self.pool.add(addrs.filter(|addr| !self.peers.is_connected_to(*addr)), true);
                        self.dial();
                    }
                    Some(Control::Way { seed, tracker }) => {
                        self.pool.add_tunnel(plain(seed));
                        if let Some(url) = tracker {
                            self.tracking.move_to(url, self.stats.announce(self.context.meta.length()));
                        }
                        self.dial();
                    }
                    Some(Control::Isolate) if self.context.seed => self.policy.serve_everybody(self.started.elapsed()),
                    Some(Control::Isolate) => {
                        *listener = None;
                        self.isolate();
                    }
                    Some(Control::UseOrigins(origins)) => self.use_origins(*origins),
                    Some(Control::Direct(direct, web)) => {
                        self.go_direct(self.started.elapsed(), direct, web.map(|web| *web));
                    }
                    Some(Control::Stop) | None => return Ok(()),
                },
                addrs = self.tracking.peers() => {
                    let unknown = addrs.into_iter().filter(|addr| !self.peers.is_connected_to(*addr));
                    self.pool.add(unknown, false);
                    self.dial();
                }
                _ = tick.tick() => {
                    pause_accept = false;
                    self.tick();
                }
            }
            self.perform();
        }
    }

    /// Leaves everybody but the controller.
    fn isolate(&mut self) {
        self.pool.isolate();
        self.peers.drop_all_but_controller();
        self.tracking.end();
    }

    fn tick(&mut self) {
        let now = self.started.elapsed();
        self.policy.tick(now);
        self.note_direct(now);
        self.stats.tracker(self.tracking.reach());
        self.dial();
        self.stats.publish(now, &self.context.counters, self.peers.joined());
        self.tracking.progress(self.stats.announce(self.context.meta.length()));
    }

    fn dial(&mut self) {
        let now = self.started.elapsed();
        let standing = self.peers.standing(now, (!self.complete).then_some(self.arrived));
        for addr in self.pool.due(now, self.peers.room_to_dial(), standing) {
            let key = self.peers.dial(now, &self.context, addr, self.pool.way_to(addr));
            self.pool.busy(addr, key);
        }
    }

    /// Performs what the policy decided.
    fn perform(&mut self) {
        while let Some(action) = self.policy.next_action() {
            match action {
                Action::Fetch { origin, request, run } => self.origins.fetch(&self.context, origin, request, run),
                Action::FetchAll { origin, request } => {
                    self.origins.fetch_all(&self.context, origin, request, &self.policy.have().complement());
                }
                Action::Cancel { peer, piece } if self.origins.owns(peer) => self.origins.cancel(peer, piece),
                _ => self.peers.command(action),
            }
        }
    }

    fn event(&mut self, key: PeerKey, event: Event) -> Result<(), EngineError> {
        let now = self.started.elapsed();
        match event {
            Event::Shaken { peer_id, reply } => {
                let refused = self.peers.shaken(now, key, peer_id, self.context.peer_id);
                self.peers.forget_useless(&mut self.pool, key, refused);
                if !refused.refuses() {
                    let (have, cursor) = (self.policy.have().clone(), self.context.haves.cursor());
                    self.peers.welcome(key, have, cursor, reply);
                }
            }
            Event::Joined(extensions, round_trip) => {
                if let Some((traits, listens)) = self.peers.join(key, extensions, round_trip) {
                    match listens {
                        Some(addr) if self.pool.is_banned(addr) => self.peers.drop_peer(key),
                        _ => {
                            if let Some(addr) = listens {
                                self.pool.busy(addr, key);
                                self.pool.works(addr);
                            }
                            if self.peers.has_controller() {
                                self.stats.controller(Reach::Stands);
                            }
                            self.policy.peer_joined(now, key, traits);
                        }
                    }
                }
            }
            Event::Bitfield(have) => self.policy.peer_bitfield(now, key, *have),
            Event::Have(pieces) => self.policy.peer_has(now, key, pieces),
            Event::Chokes(chokes) => self.policy.peer_chokes(now, key, chokes),
            Event::Requested(piece) => self.policy.requested(now, key, piece),
            Event::Cancelled(piece) => self.policy.cancelled(key, piece),
            Event::Progress(piece) => {
                self.arrived = now;
                self.policy.progress(now, key, piece);
            }
            Event::Pushed(piece) => {
                if !self.policy.push_started(now, key, piece) {
                    self.peers.refuse_push(key, piece);
                }
            }
            Event::Received(piece) => {
                self.arrived = now;
                self.policy.received(now, key, piece);
            }
            Event::Sent(piece) => {
                self.peers.useful(now, key);
                self.policy.sent(now, key, piece);
            }
            Event::Checked(piece, checked) => self.checked(now, key, piece, checked)?,
            Event::Origin(event) => self.origin_event(now, key, event)?,
        }
        Ok(())
    }

    fn checked(&mut self, now: Duration, key: PeerKey, piece: u32, checked: Checked) -> Result<(), EngineError> {
        match checked {
            Checked::Good => {
                if self.policy.have().contains(piece) {
                    return Ok(());
                }
                self.peers.useful(now, key);
                let size = self.context.meta.piece_size(piece).unwrap_or(0);
                self.stats.verified(size, self.source(key));
                self.context.haves.push(piece);
                self.policy.verified(now, piece);
                self.stats.in_order(|known| in_order(self.policy.have(), &self.context.meta, known));
                if self.policy.have().is_full() && !self.complete {
                    self.complete = true;
                    self.origins.rest();
                    self.stats.complete(now, &self.context.counters, self.peers.joined());
                }
            }
            Checked::Bad if self.origins.owns(key) => {
                self.ban_origin(now, key, piece);
                self.policy.failed(now, piece);
            }
            Checked::Bad => {
                match self.peers.ban(key) {
                    // As below: it is connected to again.
                    Some((addr, Way::Controller)) => {
                        tracing::warn!(piece, %addr, "the controller sent a piece with a wrong hash");
                    }
                    Some((addr, way)) => {
                        tracing::warn!(piece, %addr, "a peer sent a piece with a wrong hash and is banned");
                        self.pool.ban(addr, way);
                    }
                    None => tracing::warn!(piece, "a peer that has left sent a piece with a wrong hash"),
                }
                self.policy.failed(now, piece);
            }
            Checked::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Returns what a piece's sender counts as.
    fn source(&self, key: PeerKey) -> Source {
        match key {
            _ if self.origins.is_controller(key) => Source::Controller,
            _ if self.origins.owns(key) => Source::Origin,
            _ => self.peers.source(key, &self.pool),
        }
    }

    fn ended(&mut self, key: PeerKey, exit: Exit) -> Result<(), EngineError> {
        let now = self.started.elapsed();
        self.policy.peer_left(now, key);
        let removed = self.peers.remove(key, &exit);
        if let Some((addr, Way::Controller)) = removed
            && !self.peers.has_controller()
        {
            self.stats.controller(Reach::Failed(format!("{addr}: {}", exit.cause())));
        }
        let Some((addr, way)) = removed else {
            return match exit {
                Exit::Engine(error) => Err(error),
                _ => Ok(()),
            };
        };
        match exit {
            Exit::Engine(error) => return Err(error),
            // Without the controller's seed the transfer may have no source at all.
            Exit::Violation(why) if way == Way::Controller => {
                tracing::warn!(%addr, %why, "the controller broke the protocol: connecting again later");
                self.pool.ended(now, addr, key, &mut self.random);
            }
            Exit::Violation(_) => self.pool.ban(addr, way),
            Exit::Stranger(_) | Exit::Io(_) | Exit::Timeout(_) | Exit::Dropped => {
                self.pool.ended(now, addr, key, &mut self.random)
            }
        }
        Ok(())
    }
}

fn is_foreign(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::InvalidInput)
}

/// Waits for the next connection; for ever where nobody may connect.
async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Returns an address in the form in which it is compared: IPv4 also where a socket for both families says IPv6.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
