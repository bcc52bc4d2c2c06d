//! The addresses worth connecting to, and when to try again. Pure: the caller tells the time.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use super::bans::Bans;
use crate::swarm::policy::PeerKey;

/// The most addresses remembered.
const MAX_KNOWN: usize = 4096;
/// The most addresses of the controller.
const MAX_CONTROLLERS: usize = 64;
/// Bounds of the pause after a failed or lost connection; doubled each time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// An address that only the tracker told is forgotten after this many failures.
const MAX_FAILURES: u32 = 6;
/// Addresses from the tracker are tried only while there are fewer good connections than this: the controller chose the neighbours, the
/// tracker repairs. More connections cost messages: with 40, 64 hosts at 10 Mbit/s took 39 processor seconds per GB in place of 17.
const ENOUGH: usize = 8;
/// ... and, however good the connections seem, so many more each time that nothing arrived for this long.
const QUIET: Duration = Duration::from_secs(5);
/// Dials that are kept free for addresses from the controller: the tracker's may all be dead.
const FOR_CHOSEN: usize = 16;

/// What the connections amount to, for judging how many more are needed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    /// Those that do some good, or are about to.
    pub(super) good: usize,
    /// Those to addresses from the tracker.
    pub(super) tracker: usize,
    /// How long nothing has arrived although something is missing.
    pub(super) quiet: Duration,
}

impl Standing {
    /// Returns how many addresses from the tracker should be tried.
    fn missing(&self) -> usize {
        let times = (self.quiet.as_secs() / QUIET.as_secs()) as usize;
        ENOUGH.saturating_sub(self.good).max(ENOUGH.saturating_mul(times).saturating_sub(self.tracker))
    }
}

/// How we came to a connection. The later ones say more of who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// It came to us: it may be anybody's.
    Accepted,
    /// We dialled where the tracker said that there is a peer.
    Tracker,
    /// We dialled a neighbour that the controller chose.
    Chosen,
    /// We dialled the controller's own address.
    Controller,
}

#[derive(Debug)]
struct Known {
    /// The controller told us: never forgotten.
    chosen: bool,
    failures: u32,
    next: Duration,
    busy: Option<PeerKey>,
}

/// The addresses.
#[derive(Debug, Default)]
pub(super) struct Pool {
    known: HashMap<SocketAddr, Known>,
    bans: Bans,
    controllers: Vec<SocketAddr>,
    /// Those of them that lead through SSH.
    tunnels: Vec<SocketAddr>,
    /// Only the controller's addresses are of use.
    isolated: bool,
}

impl Pool {
    /// Returns an empty pool that knows these addresses for the controller's.
    pub(super) fn new(controllers: Vec<SocketAddr>) -> Self {
        Self { controllers, ..Self::default() }
    }

    /// Adds an address of the controller that leads through SSH.
    pub(super) fn add_tunnel(&mut self, addr: SocketAddr) {
        for list in [&mut self.controllers, &mut self.tunnels] {
            if list.len() < MAX_CONTROLLERS && !list.contains(&addr) {
                list.push(addr);
            }
        }
        self.add([addr], true);
    }

    /// Forgets all addresses but the controller's, and takes no others from now on.
    pub(super) fn isolate(&mut self) {
        self.isolated = true;
        self.known.retain(|addr, _| self.controllers.contains(addr));
    }

    /// Returns whether an address leads to the controller through SSH.
    pub(super) fn is_tunnel(&self, addr: SocketAddr) -> bool {
        self.tunnels.contains(&addr)
    }

    /// Returns what dialling an address says of who is there.
    pub(super) fn way_to(&self, addr: SocketAddr) -> Way {
        if self.controllers.contains(&addr) {
            return Way::Controller;
        }
        if self.known.get(&addr).is_some_and(|known| known.chosen) { Way::Chosen } else { Way::Tracker }
    }

    /// Adds addresses; `chosen` ones come from the controller.
    pub(super) fn add(&mut self, addrs: impl IntoIterator<Item = SocketAddr>, chosen: bool) {
        for addr in addrs {
            let way = self.way_to(addr).max(if chosen { Way::Chosen } else { Way::Tracker });
            if self.isolated && way != Way::Controller {
                continue;
            }
            if let Some(known) = self.known.get_mut(&addr) {
                known.chosen |= chosen;
            } else if self.known.len() < MAX_KNOWN && addr.port() != 0 && !addr.ip().is_unspecified() && !self.bars(addr, way) {
                self.known.insert(addr, Known { chosen, failures: 0, next: Duration::ZERO, busy: None });
            }
        }
    }

    /// Returns up to `room` addresses that are due, the controller's first.
    pub(super) fn due(&self, now: Duration, room: usize, standing: Standing) -> Vec<SocketAddr> {
        let due = |chosen| {
            let known = self.known.iter();
            known
                .filter(move |(_, known)| known.chosen == chosen && known.busy.is_none() && known.next <= now)
                .map(|(addr, _)| *addr)
        };
        let mut addrs: Vec<_> = due(true).take(room).collect();
        let missing = standing.missing().saturating_sub(addrs.len());
        addrs.extend(due(false).take(room.saturating_sub(FOR_CHOSEN.max(addrs.len())).min(missing)));
        addrs
    }

    /// Notes that a connection to or from the address is being made or stands.
    pub(super) fn busy(&mut self, addr: SocketAddr, key: PeerKey) {
        if let Some(known) = self.known.get_mut(&addr) {
            known.busy = Some(key);
        }
    }

    /// Notes that a connection works.
    pub(super) fn works(&mut self, addr: SocketAddr) {
        if let Some(known) = self.known.get_mut(&addr) {
            known.failures = 0;
        }
    }

    /// Notes that a connection ended; another to the same address may stand.
    pub(super) fn ended(&mut self, now: Duration, addr: SocketAddr, key: PeerKey, random: &mut fastrand::Rng) {
        let Some(known) = self.known.get_mut(&addr) else { return };
        if known.busy != Some(key) {
            return;
        }
        known.busy = None;
        known.failures += 1;
        if !known.chosen && known.failures >= MAX_FAILURES {
            self.known.remove(&addr);
            return;
        }
        let pause = (PAUSE.0 * 2u32.saturating_pow(known.failures.min(10) - 1)).min(PAUSE.1);
        known.next = now + pause.mul_f64(0.5 + random.f64());
    }

    /// Forgets an address for good: it is our own, or leads to a peer that is connected another way.
    pub(super) fn forget(&mut self, addr: SocketAddr) {
        self.known.remove(&addr);
    }

    /// Bans an address that we came to that way, and after several its whole machine, unless that is this one. Who came to us and says that it
    /// listens where the controller's seed or choice does may be another on the same machine: that address stays.
    pub(super) fn ban(&mut self, addr: SocketAddr, way: Way) {
        let shared = way == Way::Accepted && self.way_to(addr) != Way::Tracker;
        if !shared {
            self.known.remove(&addr);
        }
        self.bans.add(addr, shared);
    }

    /// Returns whether an address is banned.
    pub(super) fn is_banned(&self, addr: SocketAddr) -> bool {
        self.bars(addr, self.way_to(addr))
    }

    /// Returns whether bans keep us from an address. Those of a whole machine, which others may share, don't where the controller told the address.
    fn bars(&self, addr: SocketAddr, way: Way) -> bool {
        self.bans.holds(addr) || (way <= Way::Tracker && self.bans.holds_ip(addr.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Standing = Standing { good: 0, tracker: 0, quiet: Duration::ZERO };

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn failures_back_off_and_tracker_addresses_are_forgotten() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut pool = Pool::default();
        pool.add([addr(1)], true);
        pool.add([addr(2), addr(0)], false);
        assert_eq!(pool.due(Duration::ZERO, 32, NONE).len(), 2, "port 0 must not be tried");
        let mut now = Duration::ZERO;
        for round in 0..MAX_FAILURES {
            for port in [1, 2] {
                pool.busy(addr(port), PeerKey(round));
                assert!(!pool.due(now, 32, NONE).contains(&addr(port)));
                pool.ended(now, addr(port), PeerKey(round), &mut random);
                assert!(!pool.due(now, 32, NONE).contains(&addr(port)), "retried at once");
            }
            now += Duration::from_secs(60);
        }
        assert_eq!(pool.due(now, 32, NONE), [addr(1)]);
    }

    #[test]
    fn what_the_tracker_tells_keeps_nothing_from_the_controllers_addresses() {
        let mut pool = Pool::default();
        pool.add((1..1000).map(addr), false);
        pool.add((2000..2003).map(addr), true);
        let due = pool.due(Duration::ZERO, 32, NONE);
        assert_eq!(due.len(), ENOUGH, "the tracker's make up for what is missing");
        assert!((2000..2003).all(|port| due.contains(&addr(port))), "{due:?}");
        for (number, addr) in due.into_iter().enumerate() {
            pool.busy(addr, PeerKey(number as u32));
        }
        assert!(pool.due(Duration::ZERO, FOR_CHOSEN, NONE).is_empty(), "dead addresses may take all dials");
    }

    #[test]
    fn who_is_isolated_knows_nobody_but_the_controller() {
        let mut pool = Pool::new(vec![addr(1)]);
        pool.add([addr(1), addr(2)], true);
        pool.add([addr(3)], false);
        pool.isolate();
        pool.add([addr(4)], true);
        pool.add([addr(5)], false);
        assert_eq!(pool.due(Duration::ZERO, 32, NONE), [addr(1)]);
        pool.add_tunnel(addr(6));
        assert_eq!(pool.due(Duration::ZERO, 32, NONE).len(), 2);
    }

    #[test]
    fn enough_connections_leave_tracker_addresses_alone() {
        let mut pool = Pool::default();
        let enough = Standing { good: ENOUGH, ..NONE };
        pool.add([addr(1)], false);
        assert!(pool.due(Duration::ZERO, 32, enough).is_empty());
        pool.add([addr(1)], true);
        assert_eq!(pool.due(Duration::ZERO, 32, enough), [addr(1)]);
    }

    #[test]
    fn while_nothing_arrives_more_and_more_tracker_addresses_are_tried() {
        let mut pool = Pool::default();
        pool.add((1..100).map(addr), false);
        let tried = |good, tracker, seconds| {
            let quiet = Duration::from_secs(seconds);
            pool.due(Duration::ZERO, 200, Standing { good, tracker, quiet }).len()
        };
        assert_eq!([tried(ENOUGH, 0, 4), tried(ENOUGH, 0, 5), tried(200, 3, 5)], [0, ENOUGH, ENOUGH - 3]);
        assert_eq!([tried(200, ENOUGH, 5), tried(200, ENOUGH, 10), tried(3, ENOUGH, 0)], [0, ENOUGH, ENOUGH - 3]);
        assert_eq!(tried(0, 0, u64::MAX), 99);
    }

    #[test]
    fn bans_hold_and_spread_to_the_host() {
        let mut pool = Pool::default();
        pool.add([addr(1)], true);
        pool.ban(addr(1), Way::Chosen);
        pool.add([addr(1)], true);
        assert!(pool.due(Duration::ZERO, 9, NONE).is_empty());
        assert!(!pool.is_banned(addr(9)));
        pool.ban(addr(2), Way::Accepted);
        pool.ban(addr(3), Way::Tracker);
        assert!(pool.is_banned(addr(9)), "a host banned under three ports may come back under a fourth");
        for port in 1..9 {
            pool.ban(SocketAddr::from(([127, 0, 0, 1], port)), Way::Accepted);
        }
        assert!(!pool.is_banned(SocketAddr::from(([127, 0, 0, 1], 99))));
    }

    #[test]
    fn a_machines_bans_do_not_hold_where_the_controller_told_an_address() {
        let mut pool = Pool::new(vec![addr(1)]);
        pool.add([addr(1), addr(2)], true);
        for port in [1, 2, 7, 8, 9] {
            pool.ban(addr(port), Way::Accepted);
        }
        assert!(pool.is_banned(addr(10)) && pool.is_banned(addr(7)));
        assert!(!pool.is_banned(addr(1)) && !pool.is_banned(addr(2)), "a neighbour was banned for what others did");
        pool.add([addr(3)], true);
        pool.add([addr(4)], false);
        let mut due = pool.due(Duration::ZERO, 32, NONE);
        due.sort();
        assert_eq!(due, [addr(1), addr(2), addr(3)]);
        // For what it did itself it is.
        pool.ban(addr(2), Way::Chosen);
        assert!(pool.is_banned(addr(2)));
    }
}
