//! A small fleet for tests: real policies around the controller's seed, and neighbours that lie.
//!
//! Each way out sends one piece at a time in the time of a piece, and every message takes the same delay. Ways in are free.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use super::*;

/// How long a way out takes for a piece.
pub(super) const PIECE: Duration = Duration::from_millis(20);
/// How long a message takes.
const DELAY: Duration = Duration::from_millis(5);
/// A few times a second, as in a session.
const TICK: Duration = Duration::from_millis(100);
/// After this a fleet is given up.
const LIMIT: Duration = Duration::from_secs(600);

/// What a liar says it has. It never sends a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Everything, in its bitfield.
    All,
    /// Every piece but the first.
    AllButOne,
    /// Each piece that it hears of or is pushed.
    Echo,
}

/// One neighbour of everybody that gives nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Liar {
    pub(super) claim: Claim,
    /// It lets others ask.
    pub(super) unchokes: bool,
    /// It speaks our extension.
    pub(super) fleet: bool,
}

/// What came of a fleet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// When the last honest host was complete; none if one was not in time.
    pub(super) last: Option<Duration>,
    /// How many copies the seed sent.
    pub(super) copies: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Message {
    Unchoke,
    Everything,
    Have(u32),
    Request(u32),
    Cancel(u32),
    First {
        piece: u32,
        push: bool,
    },
    Last(u32),
    /// From the node itself: a piece has left for that node.
    Sent {
        to: u32,
        piece: u32,
    },
    Tick,
}

/// When, to whom, in which order, from whom.
type Event = (Duration, u64, u32, u32, Message);

struct Node {
    policy: Policy,
    /// When its way out is free.
    free: Duration,
    /// Of whom it expects which pieces.
    expects: BTreeSet<(u32, u32)>,
}

/// Node 0 is the seed, then come the honest hosts and the liars.
struct Fleet {
    nodes: Vec<Node>,
    liars: Vec<Liar>,
    pieces: u32,
    events: BinaryHeap<Reverse<Event>>,
    serial: u64,
    sent_by_seed: u32,
}

/// Lets so many honest hosts and the liars connect to each other and to the seed, and get so many pieces.
pub(super) fn run(honest: usize, liars: &[Liar], pieces: u32, seed: u64) -> Outcome {
    let node = |number: usize| {
        let have = if number == 0 { PieceSet::full(pieces) } else { PieceSet::new(pieces) };
        let policy = Policy::new(PolicyConfig::new(pieces, number == 0, seed + number as u64), have);
        Node { policy, free: Duration::ZERO, expects: BTreeSet::new() }
    };
    let nodes = (0..=honest).map(node).collect();
    let mut fleet = Fleet { nodes, liars: liars.to_vec(), pieces, events: BinaryHeap::new(), serial: 0, sent_by_seed: 0 };
    fleet.connect();
    let last = fleet.go();
    Outcome { last, copies: f64::from(fleet.sent_by_seed) / f64::from(pieces) }
}

impl Fleet {
    fn all(&self) -> u32 {
        (self.nodes.len() + self.liars.len()) as u32
    }

    fn liar(&self, number: u32) -> Option<Liar> {
        self.liars.get((number as usize).checked_sub(self.nodes.len())?).copied()
    }

    fn connect(&mut self) {
        for number in 0..self.nodes.len() as u32 {
            for other in (0..self.all()).filter(|other| *other != number) {
                let fleet = self.liar(other).is_none_or(|liar| liar.fleet);
                let traits = PeerTraits { seed: other == 0, ..PeerTraits { fleet, ..HOST } };
                self.nodes[number as usize].policy.peer_joined(Duration::ZERO, PeerKey(other), traits);
                let Some(liar) = self.liar(other) else { continue };
                let unchokes = liar.unchokes.then_some(Message::Unchoke);
                let claims = match liar.claim {
                    Claim::All => vec![Message::Everything],
                    Claim::AllButOne => (1..self.pieces).map(Message::Have).collect(),
                    Claim::Echo => Vec::new(),
                };
                claims.into_iter().chain(unchokes).for_each(|message| self.post(DELAY, number, other, message));
            }
            if number > 0 {
                self.post(DELAY, number, 0, Message::Everything);
            }
            self.post(TICK, number, number, Message::Tick);
            self.act(Duration::ZERO, number);
        }
    }

    fn post(&mut self, at: Duration, to: u32, from: u32, message: Message) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, to, from, message)));
    }

    fn go(&mut self) -> Option<Duration> {
        while let Some(Reverse((now, _, to, from, message))) = self.events.pop() {
            if now > LIMIT {
                return None;
            }
            match self.liar(to) {
                Some(liar) => self.lie(now, liar, to, message),
                None => self.hear(now, to, from, message),
            }
            if self.nodes.iter().all(|node| node.policy.have().is_full()) {
                return Some(now);
            }
        }
        None
    }

    /// A liar hears: if it echoes, it claims the piece towards everybody.
    fn lie(&mut self, now: Duration, liar: Liar, number: u32, message: Message) {
        let heard = match message {
            Message::Have(piece) | Message::Last(piece) => piece,
            _ => return,
        };
        if liar.claim == Claim::Echo {
            (0..self.nodes.len() as u32).for_each(|to| self.post(now + DELAY, to, number, Message::Have(heard)));
        }
    }

    fn hear(&mut self, now: Duration, number: u32, from: u32, message: Message) {
        let node = &mut self.nodes[number as usize];
        let key = PeerKey(from);
        match message {
            Message::Unchoke => node.policy.peer_chokes(now, key, false),
            Message::Everything => node.policy.peer_bitfield(now, key, PieceSet::full(self.pieces)),
            Message::Have(piece) => node.policy.peer_has(now, key, [piece]),
            Message::Request(piece) => node.policy.requested(now, key, piece),
            Message::Cancel(piece) => node.policy.cancelled(key, piece),
            Message::First { piece, push: true } => {
                if node.policy.push_started(now, key, piece) {
                    node.expects.insert((from, piece));
                }
            }
            Message::First { piece, push: false } => {
                if node.expects.contains(&(from, piece)) {
                    node.policy.progress(now, key, piece);
                }
            }
            Message::Last(piece) => {
                if node.expects.remove(&(from, piece)) {
                    node.policy.received(now, key, piece);
                    node.policy.verified(now, piece);
                    let others = (0..self.all()).filter(|other| *other != number);
                    others.for_each(|other| self.post(now + DELAY, other, number, Message::Have(piece)));
                }
            }
            Message::Sent { to, piece } => node.policy.sent(now, PeerKey(to), piece),
            Message::Tick => {
                node.policy.tick(now);
                self.post(now + TICK, number, number, Message::Tick);
            }
        }
        self.act(now, number);
    }

    fn act(&mut self, now: Duration, number: u32) {
        while let Some(action) = self.nodes[number as usize].policy.next_action() {
            let node = &mut self.nodes[number as usize];
            match action {
                Action::Request { peer, piece } => {
                    assert!(node.expects.insert((peer.0, piece)), "{number} asks {peer:?} twice for {piece}");
                    self.post(now + DELAY, peer.0, number, Message::Request(piece));
                }
                Action::Cancel { peer, piece } => {
                    node.expects.remove(&(peer.0, piece));
                    self.post(now + DELAY, peer.0, number, Message::Cancel(piece));
                }
                Action::Send { peer, piece, push } => {
                    let begins = node.free.max(now);
                    node.free = begins + PIECE;
                    self.sent_by_seed += u32::from(number == 0);
                    self.post(begins + DELAY, peer.0, number, Message::First { piece, push });
                    self.post(begins + PIECE, number, number, Message::Sent { to: peer.0, piece });
                    self.post(begins + PIECE + DELAY, peer.0, number, Message::Last(piece));
                }
                Action::Unchoke(peer) => self.post(now + DELAY, peer.0, number, Message::Unchoke),
                Action::Interested(..) | Action::Fetch { .. } | Action::FetchAll { .. } => {}
            }
        }
    }
}
