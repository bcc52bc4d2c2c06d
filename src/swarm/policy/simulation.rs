//! A fleet in one thread with virtual time: the very policy that ships, over links with rates and a latency.
//!
//! Links share their rate fairly (max-min), messages take a fixed time, a checked piece is announced at once.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;

const LATENCY: f64 = 0.015;
const TICK: f64 = 0.1;
const BLOCK: f64 = 16384.0;

#[derive(Debug, Clone)]
enum Message {
    Have(u32),
    Request(u32),
    Cancel(u32),
    Unchoke,
    First(u32, bool),
    Moved(u32),
    Piece(u32),
}

#[derive(Debug)]
struct Transfer {
    from: usize,
    to: usize,
    piece: u32,
    left: f64,
    rate: f64,
}

struct Fleet {
    now: f64,
    piece_length: f64,
    nodes: Vec<Policy>,
    alive: Vec<bool>,
    up: Vec<f64>,
    down: Vec<f64>,
    links: Vec<Vec<usize>>,
    transfers: Vec<Transfer>,
    messages: BinaryHeap<Reverse<(u64, u64, usize, usize)>>,
    bodies: HashMap<u64, Message>,
    next_message: u64,
    done: Vec<Option<f64>>,
    /// What each host was asked for and has not given: for checking the bounds.
    asked: HashSet<(usize, usize, u32)>,
    sent: Vec<f64>,
    received: Vec<f64>,
}

impl Fleet {
    /// Node 0 is the seed; `links[i]` are the earlier nodes that node i connects to.
    fn new(pieces: u32, piece_length: u32, rates: &[f64], links: Vec<Vec<usize>>, seed: u64) -> Self {
        Self::with_full(0, pieces, piece_length, rates, links, seed)
    }

    /// The first `full` hosts have everything.
    fn with_full(full: usize, pieces: u32, piece_length: u32, rates: &[f64], links: Vec<Vec<usize>>, seed: u64) -> Self {
        let n = rates.len();
        let nodes = (0..n)
            .map(|i| {
                let have = if i <= full { PieceSet::full(pieces) } else { PieceSet::new(pieces) };
                Policy::new(PolicyConfig::new(pieces, i == 0, seed ^ (i as u64) << 32), have)
            })
            .collect();
        let mut fleet = Self {
            now: 0.0,
            piece_length: f64::from(piece_length),
            nodes,
            alive: vec![true; n],
            up: rates.to_vec(),
            down: rates.to_vec(),
            links: vec![Vec::new(); n],
            transfers: Vec::new(),
            messages: BinaryHeap::new(),
            bodies: HashMap::new(),
            next_message: 0,
            done: (0..n).map(|i| (1..=full).contains(&i).then_some(0.0)).collect(),
            asked: HashSet::new(),
            sent: vec![0.0; n],
            received: vec![0.0; n],
        };
        for (i, peers) in links.iter().enumerate() {
            for peer in peers {
                fleet.connect(i, *peer);
                fleet.connect(*peer, i);
            }
        }
        fleet
    }

    fn connect(&mut self, a: usize, b: usize) {
        self.links[a].push(b);
        let have = self.nodes[b].have().clone();
        let key = PeerKey(b as u32);
        let traits = PeerTraits { fleet: true, seed: b == 0 };
        let now = self.time();
        self.nodes[a].peer_joined(now, key, traits);
        self.nodes[a].peer_bitfield(now, key, have);
        self.act(a);
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.now)
    }

    fn post(&mut self, from: usize, to: usize, after: f64, message: Message) {
        let at = ((self.now + after) * 1e9) as u64;
        self.next_message += 1;
        self.messages.push(Reverse((at, self.next_message, from, to)));
        self.bodies.insert(self.next_message, message);
    }

    /// Performs a node's actions and checks each.
    fn act(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].next_action() {
            match action {
                Action::Request { peer, piece } => {
                    let to = peer.0 as usize;
                    assert!(!self.nodes[node].have().contains(piece), "host {node} asks for {piece}, which it has");
                    assert!(self.nodes[to].have().contains(piece), "host {node} asks {to} for {piece}, which it has not");
                    assert!(self.asked.insert((node, to, piece)), "host {node} asks {to} twice for {piece}");
                    let outstanding = self.asked.iter().filter(|(n, t, _)| *n == node && *t == to).count();
                    assert!(outstanding <= 4, "{outstanding} pieces asked of one neighbour");
                    self.post(node, to, LATENCY, Message::Request(piece));
                }
                Action::Cancel { peer, piece } => {
                    self.asked.remove(&(node, peer.0 as usize, piece));
                    self.post(node, peer.0 as usize, LATENCY, Message::Cancel(piece));
                }
                Action::Send { peer, piece, push } => {
                    let to = peer.0 as usize;
                    assert!(self.nodes[node].have().contains(piece));
                    self.transfers.push(Transfer { from: node, to, piece, left: self.piece_length, rate: 0.0 });
                    assert!(self.transfers.iter().filter(|t| t.from == node).count() <= 24);
                    self.share();
                    let rate = self.transfers.last().map_or(1.0, |transfer| transfer.rate);
                    self.post(node, to, LATENCY + BLOCK / rate, Message::First(piece, push));
                }
                Action::Unchoke(peer) => self.post(node, peer.0 as usize, LATENCY, Message::Unchoke),
                Action::Interested(..) => {}
            }
        }
    }

    /// Gives every transfer its max-min fair rate.
    fn share(&mut self) {
        let n = self.up.len();
        let mut free: Vec<f64> = self.up.iter().chain(&self.down).copied().collect();
        let mut count = vec![0usize; 2 * n];
        for transfer in &self.transfers {
            count[transfer.from] += 1;
            count[n + transfer.to] += 1;
        }
        let mut open: Vec<usize> = (0..self.transfers.len()).collect();
        while !open.is_empty() {
            let Some((link, fair)) = (0..2 * n)
                .filter(|link| count[*link] > 0)
                .map(|link| (link, free[link] / count[link] as f64))
                .min_by(|a, b| a.1.total_cmp(&b.1))
            else {
                break;
            };
            open.retain(|index| {
                let transfer = &mut self.transfers[*index];
                let (up, down) = (transfer.from, n + transfer.to);
                if up != link && down != link {
                    return true;
                }
                transfer.rate = fair.max(1.0);
                for side in [up, down] {
                    free[side] -= fair;
                    count[side] -= 1;
                }
                false
            });
        }
    }

    fn stop_transfer(&mut self, index: usize) -> Transfer {
        let transfer = self.transfers.swap_remove(index);
        self.share();
        self.sent[transfer.from] += self.piece_length - transfer.left.max(0.0);
        self.received[transfer.to] += self.piece_length - transfer.left.max(0.0);
        let now = self.time();
        self.nodes[transfer.from].sent(now, PeerKey(transfer.to as u32), transfer.piece);
        self.act(transfer.from);
        transfer
    }

    fn kill(&mut self, node: usize) {
        self.alive[node] = false;
        self.transfers.retain(|transfer| transfer.from != node && transfer.to != node);
        self.asked.retain(|(a, b, _)| *a != node && *b != node);
        self.share();
        let now = self.time();
        for peer in self.links[node].clone() {
            if self.alive[peer] {
                self.nodes[peer].peer_left(now, PeerKey(node as u32));
                self.act(peer);
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        if !self.alive[from] || !self.alive[to] {
            return;
        }
        let now = self.time();
        let key = PeerKey(from as u32);
        match message {
            Message::Have(piece) => self.nodes[to].peer_has(now, key, piece),
            Message::Request(piece) => self.nodes[to].requested(now, key, piece),
            Message::Unchoke => self.nodes[to].peer_chokes(now, key, false),
            Message::Cancel(piece) => {
                self.nodes[to].cancelled(key, piece);
                let found = self.transfers.iter().position(|t| t.from == to && t.to == from && t.piece == piece);
                if let Some(index) = found {
                    self.stop_transfer(index);
                }
            }
            Message::First(piece, false) | Message::Moved(piece) => self.nodes[to].progress(now, key, piece),
            Message::First(piece, true) => {
                if !self.nodes[to].push_started(now, key, piece) {
                    self.post(to, from, LATENCY, Message::Cancel(piece));
                }
            }
            Message::Piece(piece) => {
                self.asked.remove(&(to, from, piece));
                self.nodes[to].received(now, key, piece);
                if !self.nodes[to].have().contains(piece) {
                    self.nodes[to].verified(now, piece);
                    for peer in self.links[to].clone() {
                        self.post(to, peer, LATENCY, Message::Have(piece));
                    }
                }
                if self.nodes[to].have().is_full() && self.done[to].is_none() {
                    self.done[to] = Some(self.now);
                }
            }
        }
        self.act(to);
    }

    /// Runs until every living host is complete, or `limit` seconds have passed.
    fn run(&mut self, limit: f64, mut deaths: Vec<(f64, usize)>) {
        let mut tick = TICK;
        while self.now < limit && (1..self.nodes.len()).any(|node| self.alive[node] && self.done[node].is_none()) {
            let message = self.messages.peek().map_or(f64::INFINITY, |Reverse((at, ..))| *at as f64 / 1e9);
            let transfer = self
                .transfers
                .iter()
                .enumerate()
                .map(|(index, transfer)| (self.now + transfer.left / transfer.rate, index))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let finish = transfer.map_or(f64::INFINITY, |(at, _)| at);
            let next = message.min(finish).min(tick).max(self.now);
            for transfer in &mut self.transfers {
                transfer.left -= transfer.rate * (next - self.now);
            }
            self.now = next;
            if finish <= next {
                if let Some((_, index)) = transfer {
                    let transfer = self.stop_transfer(index);
                    self.post(transfer.from, transfer.to, LATENCY, Message::Piece(transfer.piece));
                }
            } else if message <= next {
                if let Some(Reverse((_, id, from, to))) = self.messages.pop()
                    && let Some(body) = self.bodies.remove(&id)
                {
                    self.deliver(from, to, body);
                }
            } else {
                tick += TICK;
                let moving: Vec<_> = self.transfers.iter().map(|t| (t.from, t.to, t.piece, t.left)).collect();
                for (from, to, piece, left) in moving {
                    if left < self.piece_length - BLOCK {
                        self.post(from, to, LATENCY, Message::Moved(piece));
                    }
                }
                deaths.retain(|(at, node)| {
                    let due = *at <= self.now;
                    if due {
                        self.kill(*node);
                    }
                    !due
                });
                let now = self.time();
                for node in 0..self.nodes.len() {
                    if self.alive[node] {
                        self.nodes[node].tick(now);
                        self.act(node);
                    }
                }
            }
        }
    }

    fn slowest(&self) -> f64 {
        (1..self.nodes.len())
            .filter(|node| self.alive[*node])
            .map(|node| self.done[node].unwrap_or(f64::INFINITY))
            .fold(0.0, f64::max)
    }
}

/// Host i connects to the seed and to earlier hosts as the controller would choose them.
fn graph(hosts: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut neighbours = Neighbours::new(20, seed);
    let mut links = vec![Vec::new()];
    for host in 0..hosts {
        let mut peers = vec![0];
        peers.extend(neighbours.join(host, None).into_iter().map(|peer| peer + 1));
        links.push(peers);
    }
    links
}

struct Outcome {
    ratio: f64,
    seed_copies: f64,
    duplicates: f64,
}

fn even(hosts: usize, mbit: f64, mib: u32, piece_kib: u32, seed: u64) -> Outcome {
    let pieces = mib * 1024 / piece_kib;
    let rate = mbit * 125_000.0;
    let mut fleet = Fleet::new(pieces, piece_kib * 1024, &vec![rate; hosts + 1], graph(hosts, seed), seed);
    let size = f64::from(mib) * 1_048_576.0;
    fleet.run(size / rate * 5.0, Vec::new());
    Outcome {
        ratio: fleet.slowest() / (size / rate),
        seed_copies: fleet.sent[0] / size,
        duplicates: fleet.received.iter().sum::<f64>() / size / hosts as f64 - 1.0,
    }
}

#[test]
fn sixteen_equal_hosts_are_close_to_the_floor() {
    let outcome = even(16, 50.0, 16, 64, 1);
    assert!(outcome.ratio < 1.2, "{}", outcome.ratio);
    assert!(outcome.seed_copies < 1.1, "{}", outcome.seed_copies);
    assert!(outcome.duplicates < 0.02, "{}", outcome.duplicates);
}

#[test]
fn the_seed_gives_little_more_than_one_copy_whatever_the_fleet() {
    for hosts in [1, 4, 28] {
        let outcome = even(hosts, 25.0, 6, 64, 3);
        assert!(outcome.ratio < 1.9, "{hosts} hosts: {}", outcome.ratio);
        assert!(outcome.seed_copies < 1.12, "{hosts} hosts: {}", outcome.seed_copies);
    }
}

#[test]
fn hosts_that_reach_only_the_seed_share_its_uplink() {
    for (hosts, piece_kib) in [(1, 64), (4, 64), (4, 1024)] {
        let (size, rate) = (16.0 * 1_048_576.0, 50.0 * 125_000.0);
        let links = std::iter::once(Vec::new()).chain((0..hosts).map(|_| vec![0])).collect();
        let rates = vec![rate; hosts + 1];
        let mut fleet = Fleet::new(16 * 1024 / piece_kib, piece_kib * 1024, &rates, links, 5);
        fleet.run(600.0, Vec::new());
        let ratio = fleet.slowest() / (size / rate) / hosts as f64;
        assert!(ratio < 1.3, "{hosts} hosts, pieces of {piece_kib} KiB: {ratio}");
    }
}

#[test]
fn a_host_that_came_with_everything_spares_the_seed() {
    let (size, rate) = (8.0 * 1_048_576.0, 50.0 * 125_000.0);
    let mut fleet = Fleet::with_full(2, 128, 64 << 10, &[rate; 9], graph(8, 6), 6);
    fleet.run(600.0, Vec::new());
    assert!(fleet.slowest() / (size / rate) < 1.6, "{}", fleet.slowest() / (size / rate));
    assert!(fleet.sent[0] / size < 0.3, "{}", fleet.sent[0] / size);
}

#[test]
fn a_host_that_freezes_during_a_push_does_not_keep_the_others_choked() {
    let (frozen, other) = (PeerKey(1), PeerKey(2));
    let at = Duration::from_millis;
    let mut seed = Policy::new(PolicyConfig::new(4, true, 1), PieceSet::full(4));
    for key in [frozen, other] {
        seed.peer_joined(at(0), key, PeerTraits { fleet: true, seed: false });
    }
    let (mut now, mut unchoked) = (0, Vec::new());
    while now < 5000 {
        while let Some(action) = seed.next_action() {
            match action {
                Action::Send { peer, piece, .. } if peer == other => {
                    seed.sent(at(now + 50), peer, piece);
                    seed.peer_has(at(now + 60), peer, piece);
                }
                Action::Unchoke(peer) => unchoked.push((now, peer)),
                _ => {}
            }
        }
        now += 100;
        seed.tick(at(now));
    }
    let when = unchoked.iter().find(|(_, peer)| *peer == other).map(|(now, _)| *now);
    assert!(when.is_some_and(|now| (500..2500).contains(&now)), "{unchoked:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn every_surviving_host_completes(
        hosts in 1usize..20,
        pieces in 1u32..40,
        seed: u64,
        rates in prop::collection::vec(0.25f64..4.0, 30),
        deaths in prop::collection::vec((0.0f64..3.0, 1usize..30), 0..4),
    ) {
        let mut links = vec![1_000_000.0];
        links.extend(rates.iter().take(hosts).map(|rate| rate * 1_000_000.0));
        let mut fleet = Fleet::new(pieces, 65536, &links, graph(hosts, seed), seed);
        let deaths = deaths.into_iter().filter(|(_, node)| *node <= hosts).collect();
        fleet.run(600.0, deaths);
        for node in 1..=hosts {
            prop_assert!(!fleet.alive[node] || fleet.nodes[node].have().is_full(), "host {node} is not complete");
        }
    }
}
