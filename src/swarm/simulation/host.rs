//! One node: the real policy, its link and the pieces on their way to it. It takes events and appends those that follow.

use std::time::Duration;

use super::{
    PACKET, START, World,
    announce::{Announcer, Batch},
    event::{Event, Kind, SECOND, Time},
    link::{Pipe, Uplink, Upload},
    nanoseconds, payload,
};
use crate::swarm::{
    policy::{Action, PeerKey, PeerTraits, PieceSet, Policy, pace},
    protocol::BLOCK,
    session::{self, TICK},
};

/// The controller's seed.
pub(super) const SEED: u32 = 0;
/// How often the policy hears of a piece that goes on arriving, as from the real connection.
const REPORT_EVERY: Time = 250_000_000;
/// The part of a host's way out that acknowledgements leave: a packet of 66 bytes for each two full ones that come in.
const ACKNOWLEDGED: f64 = 1.0 - EMPTY_PACKET / (2.0 * PACKET.0 as f64);
/// A packet without data.
const EMPTY_PACKET: f64 = 66.0;
/// One announced piece.
const ANNOUNCEMENT: f64 = 9.0;
/// How full several connections keep a way out together: in the lab, links are 95 to 97 % busy between the first pieces and the last. TCP waits
/// where a queue overflowed, and sends again what was lost.
const FILLED: f64 = 0.96;
/// Round trips until a new connection's handshakes are through, halved: TCP's, then BitTorrent's.
const CONNECT: u64 = 4;

/// A piece on its way in.
#[derive(Debug)]
struct Incoming {
    from: u32,
    piece: u32,
    began: Time,
    reported: Time,
    push: bool,
    /// It was read: what came before on the same connection is through.
    read: bool,
    /// Nobody waits for it any more: it costs the link and counts as sent in vain.
    dropped: bool,
}

/// What a node did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Account {
    /// Bytes of pieces that left.
    pub(super) sent: u64,
    /// Bytes that arrived and were of no use.
    pub(super) in_vain: u64,
    /// Bytes that arrived from other zones.
    pub(super) crossed: u64,
    /// When the last piece was checked.
    pub(super) done: Option<Time>,
    /// It is gone.
    pub(super) dead: bool,
}

/// What a neighbour says of itself.
fn traits(world: &World, id: u32) -> PeerTraits {
    let (seed, place) = (id == SEED, world.place(id));
    let (zone, rank) = (place.map(|place| place.zone), place.map(|place| place.rank).filter(|_| !seed));
    // Links are idle while hosts connect.
    PeerTraits { fleet: true, seed, zone, rank, round_trip: Duration::from_nanos(2 * world.latency) }
}

#[derive(Debug)]
pub(super) struct Host {
    id: u32,
    policy: Policy,
    announcer: Announcer,
    /// Memory for those who are told at the same time.
    told: Vec<(u32, Batch)>,
    up: Uplink,
    down: Pipe,
    incoming: Vec<Incoming>,
    asked: Vec<(u32, u32)>,
    /// The receivers of the pieces that have left and not arrived.
    in_network: Vec<u32>,
    /// How many pieces of one connection fit into the network.
    window: usize,
    /// Pieces that have left but hold their slot, because the network is full of those before.
    held: Vec<(u32, u32)>,
    serial: u32,
    account: Account,
}

/// Returns the part of a link's rate, in each direction, that pieces have beside what announcements cost: so many pieces in a packet for each neighbour,
/// the packet's acknowledgement in the other direction, and, on the seed's way out, the acknowledgements alone.
fn beside_announcements(rate: u64, world: &World, neighbours: usize, seed: bool) -> f64 {
    let pieces = rate as f64 / f64::from(world.piece_length);
    let packets = (pieces / f64::from(pace::together(world.pieces))).max(pieces.min(1.0 / pace::LONGEST.as_secs_f64()));
    let announced = if seed { 0.0 } else { pieces * ANNOUNCEMENT + packets * EMPTY_PACKET };
    1.0 / (1.0 + neighbours as f64 * (announced + packets * EMPTY_PACKET) / rate as f64)
}

impl Host {
    pub(super) fn new(id: u32, world: &World, neighbours: &[u32], seed: u64) -> Self {
        let push = id == SEED;
        let mut config = session::policy_config(world.pieces, world.piece_length, push, seed);
        config.place = world.place(id);
        let have = if world.nodes[id as usize].complete { PieceSet::full(world.pieces) } else { PieceSet::new(world.pieces) };
        let rate = world.nodes[id as usize].rate;
        let both_ways = payload(rate) * beside_announcements(rate, world, neighbours.len(), push);
        let filled = if neighbours.len() > 1 { FILLED } else { 1.0 };
        let out = if push { both_ways } else { both_ways * ACKNOWLEDGED } * filled;
        // What the link carries in a round trip: TCP's window grows to that.
        let window = rate as f64 * 2.0 * world.delay as f64 / SECOND / f64::from(world.piece_length);
        Self {
            id,
            policy: Policy::new(config, have),
            announcer: Announcer::new(neighbours, world.pieces),
            told: Vec::new(),
            up: Uplink::new(out),
            down: Pipe::new(both_ways),
            incoming: Vec::new(),
            asked: Vec::new(),
            in_network: Vec::new(),
            window: (window.ceil() as usize).max(1),
            held: Vec::new(),
            serial: 0,
            account: Account { done: world.nodes[id as usize].complete.then_some(0), ..Account::default() },
        }
    }

    /// Returns what the node did so far.
    pub(super) fn account(&self) -> Account {
        self.account
    }

    /// Returns whether the fleet still waits for this node.
    pub(super) fn is_open(&self) -> bool {
        self.id != SEED && !self.account.dead && self.account.done.is_none()
    }

    /// Returns when the uplink has sent the next piece.
    pub(super) fn next_upload(&self) -> Time {
        if self.account.dead { Time::MAX } else { self.up.next() }
    }

    /// Appends what happens to the node by itself.
    pub(super) fn begin(&mut self, world: &World, tick_phase: Time, out: &mut Vec<Event>) {
        let connected = nanoseconds(START) + CONNECT * world.latency;
        self.note(connected, Kind::Connected, 0, out);
        self.note(connected + tick_phase, Kind::Tick, 0, out);
        if let Some(at) = world.nodes[self.id as usize].dies {
            self.note(at, Kind::Dies, 0, out);
        }
    }

    /// Lets the policy look ahead at what its neighbours will announce.
    pub(super) fn look_ahead(&self, events: &[Event]) {
        let announcing = events.iter().filter(|event| matches!(event.kind, Kind::Haves { .. }));
        self.policy.look_ahead(announcing.map(|event| PeerKey(event.from)));
    }

    /// Takes in an event; what follows from it is appended to `out`.
    pub(super) fn handle(&mut self, event: &Event, world: &World, out: &mut Vec<Event>) {
        if self.account.dead {
            return;
        }
        let (at, from, piece) = (event.at, event.from, event.piece);
        let (now, key) = (Duration::from_nanos(at), PeerKey(from));
        match event.kind {
            Kind::Haves { count } => self.policy.peer_has(now, key, world.logs[from as usize].read(piece, count)),
            Kind::Unchoke => self.policy.peer_chokes(now, key, false),
            Kind::Request => {
                debug_assert!(self.policy.have().contains(piece), "{from} asks {} for {piece}, which it has not", self.id);
                self.policy.requested(now, key, piece);
            }
            Kind::Cancel => self.cancelled(at, from, piece, world, out),
            Kind::First { push } => self.first_block(at, from, piece, push, world, out),
            Kind::Last { .. } => self.last_block(at, from, piece, world, out),
            Kind::Stopped { bytes } => self.stopped(at, from, piece, bytes, world, out),
            Kind::Arrived => self.arrived(at, from, world, out),
            Kind::Left => self.left(at, from),
            Kind::Announce => {
                self.announcer.woken();
                self.announce(at, world, out);
            }
            Kind::Connected => self.connected(now, world),
            Kind::Tick => self.tick(at, out),
            Kind::Complete { peer } => self.complete(at, peer, piece, world, out),
            Kind::Checked => self.checked(at, piece, world, out),
            Kind::Dies => self.die(at, world, out),
            Kind::Uploaded => {}
        }
        self.act(at, world, out);
    }

    /// Takes the piece out of the uplink that has left by now.
    pub(super) fn upload_finished(&mut self, now: Time, world: &World, out: &mut Vec<Event>) {
        let Some(upload) = self.up.finish(now) else { return };
        let Upload { to, piece, began, first_arrives, .. } = upload;
        self.account.sent += u64::from(world.size_of(piece));
        let took = u32::try_from((now - began) / 1000).unwrap_or(u32::MAX);
        let arrives = (now + world.delay).max(first_arrives);
        self.emit(arrives, to, Kind::Last { took }, piece, out);
        if self.in_network.iter().filter(|other| **other == to).count() >= self.window {
            self.held.push((to, piece));
        } else {
            self.release(now, to, piece, world, out);
        }
        self.in_network.push(to);
        self.act(now, world, out);
    }

    /// Performs what the policy decided.
    fn act(&mut self, now: Time, world: &World, out: &mut Vec<Event>) {
        while let Some(action) = self.policy.next_action() {
            match action {
                Action::Request { peer, piece } => {
                    debug_assert!(!self.policy.have().contains(piece), "{} asks for {piece}, which it has", self.id);
                    debug_assert!(!self.asked.contains(&(peer.0, piece)), "{} asks twice for {piece}", self.id);
                    self.asked.push((peer.0, piece));
                    self.message(now, peer.0, Kind::Request, piece, world, out);
                }
                Action::Cancel { peer, piece } => self.take_back(now, peer.0, piece, world, out),
                Action::Send { peer, piece, push } => {
                    debug_assert!(self.policy.have().contains(piece), "{} sends {piece}, which it has not", self.id);
                    if self.is_blocked(peer.0) {
                        self.up.queue(peer.0, piece, push);
                    } else {
                        self.start_upload(now, peer.0, piece, push, world, out);
                    }
                }
                Action::Unchoke(peer) => self.message(now, peer.0, Kind::Unchoke, 0, world, out),
                // The policy answers requests whether or not interest was shown.
                Action::Interested(..) | Action::Fetch { .. } | Action::FetchAll { .. } => {}
            }
        }
    }

    // ---- the way out

    /// A connection sends one piece at a time, and none while the network takes no more of it.
    fn is_blocked(&self, to: u32) -> bool {
        self.up.is_sending_to(to) || self.held.iter().any(|(held, _)| *held == to)
    }

    fn start_upload(&mut self, now: Time, to: u32, piece: u32, push: bool, world: &World, out: &mut Vec<Event>) {
        self.announce_along(now, to, world, out);
        let block = self.up.start(now, to, piece, world.size_of(piece), BLOCK);
        let arrives = now + world.delay + block;
        self.up.first_arrives(arrives);
        self.emit(arrives, to, Kind::First { push }, piece, out);
    }

    /// Gives a slot back and lets the connection's next piece go.
    fn release(&mut self, now: Time, to: u32, piece: u32, world: &World, out: &mut Vec<Event>) {
        self.policy.sent(Duration::from_nanos(now), PeerKey(to), piece);
        if !self.is_blocked(to)
            && let Some((next, push)) = self.up.unqueue(to)
        {
            self.start_upload(now, to, next, push, world, out);
        }
    }

    fn arrived(&mut self, now: Time, from: u32, world: &World, out: &mut Vec<Event>) {
        if let Some(at) = self.in_network.iter().position(|to| *to == from) {
            self.in_network.swap_remove(at);
        }
        if let Some(at) = self.held.iter().position(|(to, _)| *to == from) {
            let (to, piece) = self.held.remove(at);
            self.release(now, to, piece, world, out);
        }
    }

    fn cancelled(&mut self, now: Time, from: u32, piece: u32, world: &World, out: &mut Vec<Event>) {
        self.policy.cancelled(PeerKey(from), piece);
        if self.up.unqueue_piece(from, piece) {
            self.policy.sent(Duration::from_nanos(now), PeerKey(from), piece);
        } else if let Some((upload, bytes)) = self.up.stop(now, from, piece) {
            self.account.sent += u64::from(bytes);
            let arrives = (now + world.delay).max(upload.first_arrives);
            self.emit(arrives, from, Kind::Stopped { bytes }, piece, out);
            self.release(now, from, piece, world, out);
        }
    }

    // ---- the way in

    fn first_block(&mut self, now: Time, from: u32, piece: u32, push: bool, world: &World, out: &mut Vec<Event>) {
        let dropped = !push && !self.asked.contains(&(from, piece));
        self.incoming.push(Incoming { from, piece, began: now, reported: now, push, read: false, dropped });
        self.read_next(now, from, world, out);
    }

    /// Reads the first block of the piece that is the next on a connection.
    fn read_next(&mut self, now: Time, from: u32, world: &World, out: &mut Vec<Event>) {
        let next = self.incoming.iter_mut().find(|coming| coming.from == from).filter(|coming| !coming.read);
        let Some(Incoming { piece, reported, push, read, dropped, .. }) = next else { return };
        let (time, key, piece) = (Duration::from_nanos(now), PeerKey(from), *piece);
        (*read, *reported) = (true, now);
        if *push && !self.policy.push_started(time, key, piece) {
            *dropped = true;
            self.message(now, from, Kind::Cancel, piece, world, out);
        } else if !*push && !*dropped {
            self.policy.progress(time, key, piece);
        }
    }

    fn last_block(&mut self, now: Time, from: u32, piece: u32, world: &World, out: &mut Vec<Event>) {
        let Some(incoming) = self.incoming.iter().find(|coming| (coming.from, coming.piece) == (from, piece)) else { return };
        let through = self.down.pass(now, incoming.began, world.size_of(piece));
        if through > now {
            self.note(through, Kind::Complete { peer: from }, piece, out);
        } else {
            self.complete(now, from, piece, world, out);
        }
    }

    fn complete(&mut self, now: Time, from: u32, piece: u32, world: &World, out: &mut Vec<Event>) {
        let Some(coming) = self.take_incoming(from, piece) else { return };
        self.read_next(now, from, world, out);
        self.message(now, from, Kind::Arrived, piece, world, out);
        if world.zone(from) != world.zone(self.id) {
            self.account.crossed += u64::from(world.size_of(piece));
        }
        if coming.dropped {
            self.account.in_vain += u64::from(world.size_of(piece));
            return;
        }
        self.asked.retain(|asked| *asked != (from, piece));
        self.policy.received(Duration::from_nanos(now), PeerKey(from), piece);
        self.note(now + world.check_time(piece), Kind::Checked, piece, out);
    }

    fn stopped(&mut self, now: Time, from: u32, piece: u32, bytes: u32, world: &World, out: &mut Vec<Event>) {
        if let Some(coming) = self.take_incoming(from, piece) {
            self.down.pass(now, coming.began, bytes);
            self.read_next(now, from, world, out);
            self.account.in_vain += u64::from(bytes);
        }
    }

    fn take_incoming(&mut self, from: u32, piece: u32) -> Option<Incoming> {
        let at = self.incoming.iter().position(|coming| (coming.from, coming.piece) == (from, piece))?;
        Some(self.incoming.remove(at))
    }

    fn checked(&mut self, now: Time, piece: u32, world: &World, out: &mut Vec<Event>) {
        if self.policy.have().contains(piece) {
            self.account.in_vain += u64::from(world.size_of(piece));
            return;
        }
        self.policy.verified(Duration::from_nanos(now), piece);
        world.logs[self.id as usize].write(self.announcer.add(now), piece);
        self.announce(now, world, out);
        if self.policy.have().is_full() {
            self.account.done = Some(now);
        }
    }

    // ---- announcements

    /// Tells the neighbours that may be told by now.
    fn announce(&mut self, now: Time, world: &World, out: &mut Vec<Event>) {
        let mut told = std::mem::take(&mut self.told);
        let again = self.announcer.tell_due(now, &mut told);
        for (to, batch) in told.drain(..) {
            self.tell(now, to, batch, world, out);
        }
        self.told = told;
        if let Some(at) = again {
            self.note(at, Kind::Announce, 0, out);
        }
    }

    /// Tells a neighbour that is sent something else.
    fn announce_along(&mut self, now: Time, to: u32, world: &World, out: &mut Vec<Event>) {
        if let Some(batch) = self.announcer.along(now, to) {
            self.tell(now, to, batch, world, out);
        }
    }

    fn tell(&mut self, now: Time, to: u32, batch: Batch, world: &World, out: &mut Vec<Event>) {
        self.emit(now + world.delay, to, Kind::Haves { count: batch.count }, batch.first, out);
    }

    fn take_back(&mut self, now: Time, peer: u32, piece: u32, world: &World, out: &mut Vec<Event>) {
        self.asked.retain(|asked| *asked != (peer, piece));
        for coming in &mut self.incoming {
            coming.dropped |= (coming.from, coming.piece) == (peer, piece);
        }
        self.message(now, peer, Kind::Cancel, piece, world, out);
    }

    // ---- connections and the clock

    fn connected(&mut self, now: Duration, world: &World) {
        for neighbour in self.announcer.neighbours() {
            let key = PeerKey(neighbour);
            self.policy.peer_joined(now, key, traits(world, neighbour));
            if world.nodes[neighbour as usize].complete {
                self.policy.peer_bitfield(now, key, PieceSet::full(world.pieces));
            }
        }
    }

    fn left(&mut self, now: Time, from: u32) {
        if !self.announcer.remove(from) {
            return;
        }
        self.account.sent += self.up.forget(now, from);
        self.in_network.retain(|to| *to != from);
        self.held.retain(|(to, _)| *to != from);
        self.incoming.retain(|coming| coming.from != from);
        self.asked.retain(|(peer, _)| *peer != from);
        self.policy.peer_left(Duration::from_nanos(now), PeerKey(from));
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Event>) {
        let time = Duration::from_nanos(now);
        for coming in &mut self.incoming {
            if coming.read && !coming.dropped && now >= coming.reported + REPORT_EVERY {
                coming.reported = now;
                self.policy.progress(time, PeerKey(coming.from), coming.piece);
            }
        }
        self.policy.tick(time);
        self.note(now + TICK.as_nanos() as Time, Kind::Tick, 0, out);
    }

    fn die(&mut self, now: Time, world: &World, out: &mut Vec<Event>) {
        self.account.dead = true;
        let neighbours: Vec<u32> = self.announcer.neighbours().collect();
        for neighbour in neighbours {
            self.message(now, neighbour, Kind::Left, 0, world, out);
        }
    }

    // ---- messages

    fn message(&mut self, now: Time, to: u32, kind: Kind, piece: u32, world: &World, out: &mut Vec<Event>) {
        // The network sends it, not the connection's writer.
        if !matches!(kind, Kind::Arrived | Kind::Left) {
            self.announce_along(now, to, world, out);
        }
        self.emit(now + world.delay, to, kind, piece, out);
    }

    fn note(&mut self, at: Time, kind: Kind, piece: u32, out: &mut Vec<Event>) {
        self.emit(at, self.id, kind, piece, out);
    }

    fn emit(&mut self, at: Time, to: u32, kind: Kind, piece: u32, out: &mut Vec<Event>) {
        self.serial = self.serial.wrapping_add(1);
        out.push(Event { at, to, from: self.id, serial: self.serial, piece, kind });
    }
}
