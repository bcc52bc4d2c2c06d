//! Which hosts connect to which: an incremental, random graph of bounded degree.
//!
//! Hosts join one by one, as their agents get ready. A joining host is told some of those that are there and connects to
//! them; connections carry pieces both ways, so nobody is told of later ones. Small fleets are a full mesh. In larger ones the k-th of
//! n hosts connects to k/n of the wanted degree (at least a third of it), because later ones will connect to it for the rest: so
//! in the end all have about the same number of neighbours. That matters, because uploads are shared among those who ask: a host with half
//! the neighbours gets half as much. It accepts later ones up to one and a half times the degree. The slack matters, too: with a
//! tight bound only the newest hosts would have room, and the graph would be a long chain instead of a random graph of a few hops.
//!
//! In a fleet with zones three of four neighbours are in the own zone, all of it where it is small.
//!
//! Promises: every host but the first is connected to an earlier one that is still there, so the graph is connected; nobody has
//! more than [`Neighbours::max_degree`] connections, which leaves room in a full mesh for those that come after it.

use std::collections::HashMap;

use crate::model::Place;

/// The fewest and the most neighbours, on the average, of a host in a fleet that is no full mesh.
const DEGREES: (usize, usize) = (16, 32);
/// Fleets and zones up to this size are a full mesh.
pub const FULL_MESH: usize = 24;
/// The part of a host's neighbours that is in other zones: one of four.
const FAR_PART: usize = 4;

/// Returns the mean number of neighbours that does best in a fleet of that size: `4 log2 N - 8`, from 16 to 32.
///
/// More cost messages and processor time: with 64 hosts at 10 Mbit/s on the lab's two cores (100 ms between announcements) 24 neighbours took 28.6 s
/// per GB and 1.22 times the floor, 20 20.8 s and 1.21 (200 ms), 16 23.6 s and 1.18, 12 22.2 s and 1.23. Fewer make a large graph uneven. Simulated, with 12, 16,
/// 24, 32 and 40 neighbours: 300 hosts 1.23, 1.18, 1.11, 1.10, 1.11; 1,000 hosts 1.27, 1.27, 1.23, 1.12, 1.12.
pub fn degree(hosts: usize) -> usize {
    let wanted = 4.0 * (hosts.max(1) as f64).log2() - 8.0;
    (wanted.round().max(0.0) as usize).clamp(DEGREES.0, DEGREES.1)
}

/// The graph so far.
#[derive(Debug)]
pub struct Neighbours {
    degree: usize,
    hosts: Vec<Node>,
    zones: Vec<Zone>,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Node {
    zone: usize,
    rank: u32,
    state: State,
    peers: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Expected,
    Here,
    Gone,
}

#[derive(Debug, Default)]
struct Zone {
    name: Option<String>,
    /// How many hosts it has in all.
    hosts: u32,
    /// How many hosts of it are in or will come, and how many are in.
    expected: usize,
    joined: usize,
    /// Hosts with room, in no order.
    open: Vec<usize>,
}

impl Neighbours {
    /// Starts an empty graph for hosts in these zones, numbered in this order; `degree` (at least 4 is used) is the mean number of
    /// neighbours in a large fleet, `seed` its chance.
    pub fn new<'a>(degree: usize, zones: impl IntoIterator<Item = Option<&'a str>>, seed: u64) -> Self {
        let mut graph =
            Self { degree: degree.max(4), hosts: Vec::new(), zones: Vec::new(), random: fastrand::Rng::with_seed(seed) };
        let mut names = HashMap::new();
        for name in zones {
            let zone = *names.entry(name).or_insert(graph.zones.len());
            if zone == graph.zones.len() {
                graph.zones.push(Zone { name: name.map(str::to_owned), ..Zone::default() });
            }
            let rank = graph.zones[zone].hosts;
            graph.zones[zone].hosts += 1;
            graph.zones[zone].expected += 1;
            graph.hosts.push(Node { zone, rank, state: State::Expected, peers: Vec::new() });
        }
        graph
    }

    /// Returns the most neighbours a host can get.
    pub fn max_degree(&self) -> usize {
        (self.degree + self.degree / 2).max(FULL_MESH + 4)
    }

    /// Returns where a host is, if the fleet has more than one zone.
    pub fn place(&self, host: usize) -> Option<Place> {
        let node = self.hosts.get(host).filter(|_| self.zones.len() > 1)?;
        Some(Place { zone: node.zone as u32, rank: node.rank, of: self.zones[node.zone].hosts })
    }

    /// Returns where the controller is, if the fleet has more than one zone: in the zone of that name, in none of the hosts' if none of
    /// them is called so, and in the one with the most hosts without a name.
    pub fn controllers_place(&self, name: Option<&str>) -> Option<Place> {
        let zone = match name {
            Some(_) => self.zones.iter().position(|zone| zone.name.as_deref() == name).unwrap_or(self.zones.len()),
            // The last of equal ones is the maximum: so the first in reverse.
            None => (0..self.zones.len()).rev().max_by_key(|zone| self.zones[*zone].hosts).unwrap_or_default(),
        };
        (self.zones.len() > 1).then_some(Place::of_controller(zone as u32))
    }

    /// Adds a host and returns the earlier hosts it connects to. A host that is already in keeps its neighbours and gets
    /// those among them that are still there.
    pub fn join(&mut self, host: usize) -> Vec<usize> {
        let Some(node) = self.hosts.get_mut(host) else { return Vec::new() };
        let zone = node.zone;
        match std::mem::replace(&mut node.state, State::Here) {
            State::Here => return node.peers.clone(),
            State::Expected => {}
            State::Gone => self.zones[zone].expected += 1,
        }
        self.zones[zone].joined += 1;
        let chosen = self.choose(zone);
        for peer in &chosen {
            self.connect(*peer, host);
        }
        self.hosts[host].peers.clone_from(&chosen);
        self.zones[zone].open.push(host);
        chosen
    }

    /// Removes a host that is gone, or will not come: nobody is told of it again.
    pub fn leave(&mut self, host: usize) {
        let full = self.max_degree();
        let Some(node) = self.hosts.get_mut(host).filter(|node| node.state != State::Gone) else { return };
        let zone = &mut self.zones[node.zone];
        zone.expected -= 1;
        zone.joined -= usize::from(node.state == State::Here);
        zone.open.retain(|open| *open != host);
        node.state = State::Gone;
        for peer in std::mem::take(&mut node.peers) {
            let other = &mut self.hosts[peer];
            other.peers.retain(|known| *known != host);
            if other.peers.len() + 1 == full {
                self.zones[other.zone].open.push(peer);
            }
        }
    }

    /// Returns a host's neighbours, in both directions.
    pub fn of(&self, host: usize) -> &[usize] {
        self.hosts.get(host).map_or(&[], |node| &node.peers)
    }

    /// Chooses among the earlier hosts, those of the own zone first.
    fn choose(&mut self, zone: usize) -> Vec<usize> {
        let (mates, expected) = (self.zones[zone].joined, self.zones[zone].expected);
        let all: usize = self.zones.iter().map(|zone| zone.expected).sum();
        let joined: usize = self.zones.iter().map(|zone| zone.joined).sum();
        let mut chosen = Vec::new();
        if all <= FULL_MESH {
            self.draw(|_| true, usize::MAX, &mut chosen);
            return chosen;
        }
        let far = if expected < all { self.degree / FAR_PART } else { 0 };
        let near = if expected > FULL_MESH { part(self.degree - far, mates, expected) } else { usize::MAX };
        self.draw(|other| other == zone, near, &mut chosen);
        if far > 0 {
            // Who has few zone mates yet makes up for it elsewhere.
            let wanted = (chosen.len() + part(far, joined, all)).max(self.degree.div_ceil(3));
            self.draw(|other| other != zone, wanted, &mut chosen);
        }
        chosen
    }

    /// Draws from the zones that pass `test` until `chosen` has `wanted`: of two random hosts the one with fewer neighbours.
    fn draw(&mut self, test: impl Fn(usize) -> bool, wanted: usize, chosen: &mut Vec<usize>) {
        let zones = self.zones.iter().enumerate().filter(|(zone, _)| test(*zone));
        let mut left: Vec<usize> = zones.flat_map(|(_, zone)| zone.open.iter().copied()).collect();
        while chosen.len() < wanted && !left.is_empty() {
            let (a, b) = (self.random.usize(..left.len()), self.random.usize(..left.len()));
            let best = if self.of(left[a]).len() <= self.of(left[b]).len() { a } else { b };
            chosen.push(left.swap_remove(best));
        }
    }

    fn connect(&mut self, peer: usize, host: usize) {
        let full = self.max_degree();
        let node = &mut self.hosts[peer];
        node.peers.push(host);
        if node.peers.len() == full {
            self.zones[node.zone].open.retain(|open| *open != peer);
        }
    }
}

/// Returns how many of the wanted neighbours the last of `joined` hosts chooses, if `expected` will come.
fn part(wanted: usize, joined: usize, expected: usize) -> usize {
    (wanted * joined).div_ceil(expected.max(1)).clamp(wanted.div_ceil(3), wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    /// Hops from host 0 to the farthest host; none if the graph is not connected.
    fn eccentricity(graph: &Neighbours, hosts: usize) -> Option<usize> {
        let mut seen = HashSet::from([0]);
        let mut queue = VecDeque::from([(0, 0)]);
        let mut farthest = 0;
        while let Some((host, hops)) = queue.pop_front() {
            farthest = hops;
            for peer in graph.of(host) {
                if seen.insert(*peer) {
                    queue.push_back((*peer, hops + 1));
                }
            }
        }
        (seen.len() == hosts).then_some(farthest)
    }

    fn one_zone(degree: usize, hosts: usize, seed: u64) -> Neighbours {
        Neighbours::new(degree, vec![None; hosts], seed)
    }

    #[test]
    fn most_neighbours_are_zone_mates_and_some_are_not() {
        for (hosts, zones) in [(400, 4), (60, 3), (200, 2)] {
            let names: Vec<String> = (0..hosts).map(|host| format!("z{}", host % zones)).collect();
            let mut graph = Neighbours::new(16, names.iter().map(|name| Some(name.as_str())), 3);
            (0..hosts).for_each(|host| drop(graph.join(host)));
            for host in 0..hosts {
                let mates = graph.of(host).iter().filter(|peer| **peer % zones == host % zones).count();
                let far = graph.of(host).len() - mates;
                assert!(mates >= 8 && (2..=14).contains(&far), "{hosts} hosts, {zones} zones: {host} has {mates} and {far}");
            }
            let last = graph.place(hosts - 1);
            let (zone, of) = (zones as u32 - 1, (hosts / zones) as u32);
            assert_eq!(last, Some(Place { zone, rank: of - 1, of }));
        }
        assert_eq!(one_zone(16, 3, 1).place(0), None);
    }

    #[test]
    fn the_degree_grows_with_the_fleet() {
        assert_eq!([1, 30, 64, 128, 256, 1000, 10_000].map(degree), [16, 16, 16, 20, 24, 32, 32]);
    }

    #[test]
    fn the_controller_is_where_it_is_told_or_where_most_hosts_are() {
        let graph = |zones: &[&'static str]| Neighbours::new(16, zones.iter().map(|zone| Some(*zone)), 1);
        let zone = |zones, name| graph(zones).controllers_place(name).map(|place| place.zone);
        assert_eq!(zone(&["a", "b", "b"], None), Some(1));
        assert_eq!(zone(&["a", "b", "b"], Some("a")), Some(0));
        assert_eq!(zone(&["a", "b"], None), Some(0), "the first of equals");
        assert_eq!(zone(&["a", "b"], Some("office")), Some(2));
        assert_eq!(zone(&["a", "a"], Some("a")), None);
    }

    #[test]
    fn a_small_fleet_is_a_full_mesh() {
        let mut graph = one_zone(20, FULL_MESH, 1);
        for host in 0..FULL_MESH {
            assert_eq!(graph.join(host).len(), host);
        }
        assert_eq!(graph.join(3).len(), FULL_MESH - 1, "joining again must not lose neighbours");
    }

    #[test]
    fn thousand_hosts_are_few_hops_apart() {
        let mut graph = one_zone(20, 1000, 7);
        for host in 0..1000 {
            graph.join(host);
            if [100, 500].contains(&host) {
                assert!(eccentricity(&graph, host + 1).unwrap() <= 5, "{host}");
            }
        }
        assert!(eccentricity(&graph, 1000).unwrap() <= 4);
    }

    #[test]
    fn those_that_come_last_have_as_many_neighbours_as_the_first() {
        for (hosts, gone) in [(64, 0), (200, 0), (1000, 0), (400, 100)] {
            let mut graph = one_zone(degree(hosts), hosts + gone, 7);
            (0..gone).for_each(|host| graph.leave(hosts + host));
            for host in 0..hosts {
                graph.join(host);
            }
            let degrees: Vec<usize> = (0..hosts).map(|host| graph.of(host).len()).collect();
            let few = degrees.iter().filter(|of| **of + 6 < degree(hosts)).count();
            assert!(few == 0, "{few} of {hosts}: {degrees:?}");
            assert!(degrees.iter().sum::<usize>() <= hosts * degree(hosts) * 5 / 4, "{hosts}: {degrees:?}");
        }
    }

    #[test]
    fn a_host_that_left_is_not_told_again() {
        let mut graph = one_zone(20, 11, 7);
        for host in 0..10 {
            graph.join(host);
        }
        graph.leave(4);
        assert!(!graph.join(10).contains(&4));
        assert!(!graph.of(3).contains(&4));
    }

    proptest! {
        #[test]
        fn connected_and_bounded(hosts in 1usize..300, more in 0usize..300, degree in 4usize..30, seed: u64, zones in 1usize..5) {
            let names: Vec<String> = (0..hosts + more).map(|host| format!("z{}", host % zones)).collect();
            let mut graph = Neighbours::new(degree, names.iter().map(|name| Some(name.as_str())), seed);
            for host in 0..hosts {
                let chosen = graph.join(host);
                prop_assert!(chosen.iter().all(|peer| *peer < host));
                prop_assert!(host == 0 || !chosen.is_empty());
                prop_assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), chosen.len());
            }
            prop_assert!(eccentricity(&graph, hosts).is_some());
            for host in 0..hosts {
                prop_assert!(graph.of(host).len() <= graph.max_degree());
                prop_assert!(graph.of(host).iter().all(|peer| graph.of(*peer).contains(&host)));
            }
        }
    }
}
