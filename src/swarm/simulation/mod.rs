//! A deterministic simulator of a whole fleet: the policy and the neighbour graph that ship, on virtual links in virtual time.
//!
//! [`simulate`] predicts how long a fleet takes until its last host has the artifact, and what the controller sends for that. It is a
//! planning tool for operators (`fleetdrop simulate`) and the regression test of [`super::policy`], at sizes no lab reaches.
//!
//! # The model
//!
//! * Every node runs a real [`super::policy::Policy`] with the session's own bounds, connected as [`super::policy::neighbours`] decides;
//!   the seed takes as many connections as the real one. All hosts begin at the same time.
//! * A node's way out is shared equally by the connections that have a piece to send; a connection sends one piece after the other.
//! * A node's way in lets pieces through in the order in which their last bytes come, at the link's rate. A connection may have as
//!   much in the network as its sender's link carries in a round trip, at least a piece; what is more keeps its slot at the sender, as with a
//!   full TCP window. What comes on a connection is read in order: a piece has begun when the one before is through.
//! * Links between zones work like ways in.
//! * A message takes the latency plus [`Scenario::queue`]. Checking a piece takes a millisecond and its bytes at 500 MB/s.
//! * A node announces its pieces as the real connection does: together, with whatever it sends to that neighbour, or alone at the policy's pace.
//! * What links lose to other things than pieces, each a constant with its source: packets' headers (`PACKET`), acknowledgements,
//!   announcements (those that wait for each other in one packet to each neighbour, in both directions; the seed makes none and only acknowledges
//!   the hosts'), what TCP leaves idle or sends again where several connections share a link, and the time until a host is connected (`START`).
//! * A host that dies closes its connections; it does not fall silent.
//!
//! Not modelled: TCP's search for the rate (in the lab it is over within the first pieces; over long distances it is not), busy
//! processors, logins, agents, hashing the artifact before and unpacking it after the transfer.
//!
//! # Prediction and measurement
//!
//! The lab's deploys (`tests/lab/README.md`, medians of five rounds, without encryption) and this model's prediction (medians of five seeds, the fleet's own
//! `policy::degree`): pieces of 32 KiB, latency 0.5 ms, queue 25 ms, which is half of what the lab's shapers let queue up. The last host, to one
//! plain download of its class, unless said otherwise.
//!
//! | fleet | lab | here | here / lab |
//! |---|---|---|---|
//! | 8 x 10 Mbit/s, 16 MiB | 1.105 | 1.09 | 0.98 |
//! | 16 x 50 Mbit/s, 64 MiB | 1.065 | 1.07 | 1.00 |
//! | 32 x 25 Mbit/s, 32 MiB | 1.12 | 1.10 | 0.98 |
//! | 64 x 10 Mbit/s, 16 MiB, which fill the lab's processors | 1.28; later rounds 1.25 | 1.20 | 0.94 |
//! | 16 of which every fourth has 12.5 Mbit/s: the fast | 1.21 | 1.16 | 0.96 |
//! | the slow | 1.02 | 1.01 | 0.99 |
//! | 16 in two zones with 50 Mbit/s between them: near | 1.06 | 1.095 | 1.03 |
//! | far | 1.10 | 1.09 | 0.99 |
//! | copies that cross (the lab counts headers and acknowledgements, both ways) | 1.10 | 1.00 | 0.91 |
//! | one of 16 dies: the others, to the undisturbed | 1.02 | 1.01 | 0.99 |
//!
//! What the batches of announcements changed: with a packet for each piece and neighbour, and each at once, 16, 32 and 64 hosts were predicted at 1.075, 1.14 and 1.24, near
//! hosts at 1.12. Where they cost time is from zone to zone: 32 hosts in four zones, 32 MiB, 1.39 instead of 1.32.
//!
//! # Cost
//!
//! `fleetdrop simulate --hosts 10000 --link 1gbit --size 1GiB --piece-length 1MiB` (1,024 pieces), two cores that
//! others wanted as well; the first row with 32 neighbours a host, as it is now, the others with 24:
//!
//! | options | wall | processors | last host, to its floor |
//! |---|---|---|---|
//! | | 54 s | 100 s | 1.21 |
//! | `--zones 4` | 48 s | 85 s | 1.35 |
//! | `--slow 5%` | 51 s | 91 s | fast 1.28, slow 1.02 |
//! | `--deaths 5%` | 47 s | 83 s | 1.25 |
//!
//! It takes 0.43 GB. Each piece of each host costs 1 microsecond of looking for the next request to serve, about eleven events (four of them announcements of seven
//! pieces each) and 1.7 windows: no single thing is large any more. The upload side is a quarter of the time, asking for pieces an eighth, `look_ahead`
//! a twelfth, the calendar and what sorts it a seventh.
//!
//! What was tried, in processor seconds, each row's figures from other conditions: peers and flights in flat tables, copies counted bit by bit and a
//! peer's state next to its pieces, 2,000 hosts: 23.5 to 17.0. A window's events put together by node and looked ahead at: 16.0. Windows' memory used again: 6.5 GB became
//! 0.45. Announcements as batches that point into the sender's log, 1,000 hosts: 10.7 to 5.2. Without gain: a peer's set of pieces behind the fields that uploads
//! need, looking ahead at all peers, room for peers' lists from the beginning, the upload's order computed once for each peer, huge pages (5 %).

mod announce;
mod event;
mod fleet;
mod host;
mod link;
mod log;
mod shard;
#[cfg(test)]
mod tests;

use std::time::Duration;

use event::Time;
use log::Log;

use crate::model::Place;

/// The shortest latency: the simulation goes in steps of this length.
pub const MIN_LATENCY: Duration = Duration::from_micros(50);
/// The most threads that are used.
const MAX_THREADS: usize = 16;
/// How fast a received piece is checked, in nanoseconds: per piece, and per byte.
const CHECK: (Time, Time) = (1_000_000, 2);
/// A full packet and what it carries: Ethernet's, IP's and TCP's headers (with timestamps) take the rest. A plain download in the lab
/// took 11.25 s where that says 11.23 s.
const PACKET: (u64, u64) = (1514, 1448);
/// What connecting costs besides round trips: a deploy of one byte to 16 hosts took 0.04 s in the lab, from the job to the last host.
const START: Duration = Duration::from_millis(40);

/// A host as the simulation sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedHost {
    /// Its link's rate in bytes per second, in each direction.
    pub rate: u64,
    /// The zone it is in, from 0.
    pub zone: usize,
    /// When it dies, if it does.
    pub dies: Option<Duration>,
    /// It has everything from the beginning.
    pub complete: bool,
    /// It reaches nobody but the controller.
    pub alone: bool,
}

impl SimulatedHost {
    /// Returns a host with a link of so many bytes per second, and nothing special.
    pub fn new(rate: u64) -> Self {
        Self { rate, zone: 0, dies: None, complete: false, alone: false }
    }
}

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The hosts, in the order in which they join.
    pub hosts: Vec<SimulatedHost>,
    /// The controller's link in bytes per second; the controller is in zone 0.
    pub controller_rate: u64,
    /// Each zone's link to the others in bytes per second, in each direction; none if zones share nothing narrow.
    pub zone_link: Option<u64>,
    /// The artifact's bytes.
    pub size: u64,
    /// Bytes in a piece.
    pub piece_length: u32,
    /// How long a message takes over idle links; at least [`MIN_LATENCY`] is used.
    pub latency: Duration,
    /// How much longer it takes because links are busy.
    pub queue: Duration,
    /// Mean number of neighbours of a host in a large fleet.
    pub degree: usize,
    /// The chance of everything: the same scenario gives the same prediction.
    pub seed: u64,
    /// Virtual time after which it ends, complete or not.
    pub limit: Duration,
}

impl Scenario {
    /// Returns how long one plain download over a link of so many bytes per second takes, with the packets' headers.
    pub fn download(&self, rate: u64) -> Duration {
        Duration::from_secs_f64(self.size as f64 / payload(rate))
    }

    /// Returns the least time in which any scheme could bring everything to the hosts that `test` picks, by index; those that die or
    /// are complete don't count.
    ///
    /// It is the longest of these: each host's own way in; the link into its zone; all their copies over all ways out together; and
    /// one copy over the ways out of those that have it in the beginning, after which the last piece still has to double from host to host over the
    /// fastest links. On equal links that is `size / rate * (1 + floor(log2 hosts) / pieces)`.
    pub fn floor(&self, test: impl Fn(usize) -> bool) -> Duration {
        let waits = |host: &SimulatedHost| host.dies.is_none() && !host.complete;
        let picked = || self.hosts.iter().enumerate().filter(|(index, host)| waits(host) && test(*index)).map(|(_, host)| host);
        let (count, alone) = (picked().count(), picked().filter(|host| host.alone).count());
        if count == 0 {
            return Duration::ZERO;
        }
        let rates =
            |hosts: &dyn Fn(&&SimulatedHost) -> bool| self.hosts.iter().filter(hosts).map(|host| host.rate).sum::<u64>();
        let has_copy = |zone| zone == 0 || self.hosts.iter().any(|host| host.complete && host.zone == zone);
        let ways_in = picked().map(|host| match self.zone_link {
            Some(link) if !has_copy(host.zone) => host.rate.min(link),
            _ => host.rate,
        });
        let copies = |count: usize, rate: u64| self.download(rate).mul_f64(count as f64);
        let fastest = self.hosts.iter().map(|host| host.rate).max().unwrap_or(0).max(self.controller_rate);
        let piece = self.size.min(u64::from(self.piece_length)) as f64 / payload(fastest);
        let spread = Duration::from_secs_f64(piece * f64::from(count.ilog2()));
        let bounds = [
            copies(1, ways_in.min().unwrap_or(1)),
            copies(alone, self.controller_rate),
            copies(count, self.controller_rate + rates(&|_| true)),
            copies(1, self.controller_rate + rates(&|host| host.complete)) + spread,
        ];
        bounds.into_iter().max().unwrap_or_default()
    }
}

/// Returns the bytes of pieces per second that fit on a link of so many bytes per second.
fn payload(rate: u64) -> f64 {
    rate.max(1) as f64 * PACKET.1 as f64 / PACKET.0 as f64
}

/// What came of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostOutcome {
    /// It had every piece after this time.
    Complete(Duration),
    /// It died.
    Dead,
    /// It was not complete when the time was up.
    Incomplete,
}

/// What is predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// Each host, in the scenario's order.
    pub hosts: Vec<HostOutcome>,
    /// Bytes of pieces that left the controller.
    pub controller_sent: u64,
    /// Bytes that hosts received in vain: because they had them already, or no longer waited for them.
    pub in_vain: u64,
    /// Bytes of pieces that came into each zone from others; one number if there is one zone.
    pub zones: Vec<u64>,
}

impl Prediction {
    /// Returns the times of the complete hosts among those that `test` picks, by index, in ascending order.
    pub fn times(&self, test: impl Fn(usize) -> bool) -> Vec<Duration> {
        let complete = self.hosts.iter().enumerate().filter(|(index, _)| test(*index)).filter_map(|(_, host)| match host {
            HostOutcome::Complete(at) => Some(*at),
            HostOutcome::Dead | HostOutcome::Incomplete => None,
        });
        let mut times: Vec<Duration> = complete.collect();
        times.sort_unstable();
        times
    }
}

/// Predicts what happens, on up to as many threads as this machine has processors. The result does not depend on their number.
pub fn simulate(scenario: &Scenario) -> Prediction {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    simulate_on(scenario, threads.min(MAX_THREADS))
}

fn simulate_on(scenario: &Scenario, threads: usize) -> Prediction {
    let accounts = fleet::run(scenario, threads);
    let hosts = accounts.iter().skip(1).map(|account| match account.done {
        _ if account.dead => HostOutcome::Dead,
        Some(at) => HostOutcome::Complete(Duration::from_nanos(at)),
        None => HostOutcome::Incomplete,
    });
    let mut zones = vec![0; scenario.hosts.iter().map(|host| host.zone + 1).max().unwrap_or(1)];
    // The seed receives nothing.
    for (host, account) in scenario.hosts.iter().zip(accounts.iter().skip(1)) {
        zones[host.zone] += account.crossed;
    }
    Prediction {
        hosts: hosts.collect(),
        controller_sent: accounts.first().map_or(0, |seed| seed.sent),
        in_vain: accounts.iter().map(|account| account.in_vain).sum(),
        zones,
    }
}

/// Node 0 is the controller's seed, node i the host i - 1.
#[derive(Debug)]
struct Node {
    rate: u64,
    zone: usize,
    /// Its number among the zone's hosts.
    rank: u32,
    dies: Option<Time>,
    complete: bool,
}

/// What all nodes know.
#[derive(Debug)]
struct World {
    nodes: Vec<Node>,
    /// Each node's pieces, in the order in which it announces them.
    logs: Vec<Log>,
    size: u64,
    pieces: u32,
    piece_length: u32,
    latency: Time,
    /// How long a message takes.
    delay: Time,
    /// How many hosts each zone has.
    zones: Vec<u32>,
    /// Crossing from zone to zone takes its time.
    narrow: bool,
    per_shard: usize,
}

impl World {
    fn new(scenario: &Scenario, per_shard: usize) -> Self {
        let mut sizes: Vec<u32> = Vec::new();
        let mut rank = |zone: usize| {
            sizes.resize(sizes.len().max(zone + 1), 0);
            sizes[zone] += 1;
            sizes[zone] - 1
        };
        let mut host = |host: &SimulatedHost| Node {
            rate: host.rate.max(1),
            zone: host.zone,
            rank: rank(host.zone),
            dies: host.dies.map(nanoseconds),
            complete: host.complete,
        };
        let seed = Node { rate: scenario.controller_rate.max(1), zone: 0, rank: 0, dies: None, complete: true };
        let nodes: Vec<Node> = std::iter::once(seed).chain(scenario.hosts.iter().map(&mut host)).collect();
        sizes.resize(sizes.len().max(1), 0);
        let piece_length = scenario.piece_length.max(1);
        let pieces = u32::try_from(scenario.size.max(1).div_ceil(u64::from(piece_length))).unwrap_or(u32::MAX);
        Self {
            zones: sizes,
            logs: nodes.iter().map(|node| Log::new(if node.complete { 0 } else { pieces })).collect(),
            nodes,
            size: scenario.size.max(1),
            pieces,
            piece_length,
            latency: nanoseconds(scenario.latency.max(MIN_LATENCY)),
            delay: nanoseconds(scenario.latency.max(MIN_LATENCY) + scenario.queue),
            narrow: scenario.zone_link.is_some(),
            per_shard,
        }
    }

    /// Returns a piece's bytes; the last one may be short.
    fn size_of(&self, piece: u32) -> u32 {
        let rest = self.size - u64::from(piece) * u64::from(self.piece_length);
        u32::try_from(rest).unwrap_or(u32::MAX).min(self.piece_length)
    }

    /// Returns where a node is, in a fleet with zones. The seed owns nothing.
    fn place(&self, id: u32) -> Option<Place> {
        let node = &self.nodes[id as usize];
        let of = if id == host::SEED { 0 } else { self.zones[node.zone] };
        (self.zones.len() > 1).then_some(Place { zone: node.zone as u32, rank: node.rank, of })
    }

    fn check_time(&self, piece: u32) -> Time {
        CHECK.0 + CHECK.1 * Time::from(self.size_of(piece))
    }

    fn shard_of(&self, node: u32) -> usize {
        node as usize / self.per_shard
    }

    fn zone(&self, node: u32) -> usize {
        self.nodes[node as usize].zone
    }

    /// Returns whether a piece goes over zones' links.
    fn crosses(&self, event: &event::Event) -> bool {
        self.narrow && self.zone(event.from) != self.zone(event.to)
    }
}

fn nanoseconds(duration: Duration) -> Time {
    Time::try_from(duration.as_nanos()).unwrap_or(Time::MAX)
}
