//! Which hosts connect to which: an incremental, random graph of bounded degree.
//!
//! Hosts join one by one, as their agents get ready. A joining host is told some of those that are there and connects to
//! them; connections carry pieces both ways, so nobody is told of later ones. Small fleets are a full mesh. In larger ones a host
//! connects to half the wanted degree and accepts later ones up to one and a half times that degree. The slack matters: with a
//! tight bound only the newest hosts would have room, and the graph would be a long chain instead of a random graph of a few hops.
//!
//! Promises: every host but the first is connected to an earlier one that is still there, so the graph is connected; nobody has
//! more than [`Neighbours::max_degree`] connections, which leaves room in a full mesh for those that come after it.

use std::collections::HashMap;

/// Fleets up to this size are a full mesh.
pub const FULL_MESH: usize = 24;
/// The part of a host's choices that stays in its own zone, where the zone has room: 3 of 4.
const SAME_ZONE: (usize, usize) = (3, 4);

/// The graph so far.
#[derive(Debug)]
pub struct Neighbours {
    degree: usize,
    hosts: HashMap<usize, Node>,
    /// Hosts with room, in no order.
    open: Vec<usize>,
    zones: HashMap<Option<String>, Vec<usize>>,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Node {
    zone: Option<String>,
    peers: Vec<usize>,
}

impl Neighbours {
    /// Starts an empty graph; `degree` (at least 4 is used) is the mean number of neighbours in a large fleet, `seed` its chance.
    pub fn new(degree: usize, seed: u64) -> Self {
        Self {
            degree: degree.max(4),
            hosts: HashMap::new(),
            open: Vec::new(),
            zones: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Returns the most neighbours a host can get.
    pub fn max_degree(&self) -> usize {
        (self.degree + self.degree / 2).max(FULL_MESH + 4)
    }

    /// Adds a host and returns the earlier hosts it connects to. A host that is already in keeps its neighbours and gets
    /// those among them that are still there.
    pub fn join(&mut self, host: usize, zone: Option<&str>) -> Vec<usize> {
        if let Some(node) = self.hosts.get(&host) {
            return node.peers.clone();
        }
        let zone = zone.map(str::to_owned);
        let chosen = if self.hosts.len() < FULL_MESH { self.open.clone() } else { self.choose(&zone) };
        for peer in &chosen {
            self.connect(*peer, host);
        }
        self.hosts.insert(host, Node { zone: zone.clone(), peers: chosen.clone() });
        self.open.push(host);
        self.zones.entry(zone).or_default().push(host);
        chosen
    }

    /// Removes a host that is gone: nobody is told of it again.
    pub fn leave(&mut self, host: usize) {
        let full = self.max_degree();
        let Some(node) = self.hosts.remove(&host) else { return };
        self.close(host, &node.zone);
        for peer in node.peers {
            let Some(other) = self.hosts.get_mut(&peer) else { continue };
            let was_full = other.peers.len() >= full;
            other.peers.retain(|known| *known != host);
            if was_full {
                self.open.push(peer);
                self.zones.entry(other.zone.clone()).or_default().push(peer);
            }
        }
    }

    /// Returns a host's neighbours, in both directions.
    pub fn of(&self, host: usize) -> &[usize] {
        self.hosts.get(&host).map_or(&[], |node| &node.peers)
    }

    fn choose(&mut self, zone: &Option<String>) -> Vec<usize> {
        let wanted = self.degree / 2;
        let mut chosen = Vec::with_capacity(wanted);
        if self.zones.len() > 1
            && let Some(near) = self.zones.get(zone)
        {
            let near = near.clone();
            self.draw(&near, wanted * SAME_ZONE.0 / SAME_ZONE.1, &mut chosen);
        }
        let all = std::mem::take(&mut self.open);
        self.draw(&all, wanted, &mut chosen);
        self.open = all;
        chosen
    }

    /// Draws from `candidates` until `chosen` has `wanted`: of two random ones the one with fewer neighbours.
    fn draw(&mut self, candidates: &[usize], wanted: usize, chosen: &mut Vec<usize>) {
        let mut left: Vec<usize> = candidates.iter().copied().filter(|host| !chosen.contains(host)).collect();
        while chosen.len() < wanted && !left.is_empty() {
            let (a, b) = (self.random.usize(..left.len()), self.random.usize(..left.len()));
            let best = if self.of(left[a]).len() <= self.of(left[b]).len() { a } else { b };
            chosen.push(left.swap_remove(best));
        }
    }

    fn connect(&mut self, peer: usize, host: usize) {
        let full = self.max_degree();
        let Some(node) = self.hosts.get_mut(&peer) else { return };
        node.peers.push(host);
        if node.peers.len() >= full {
            let zone = node.zone.clone();
            self.close(peer, &zone);
        }
    }

    fn close(&mut self, host: usize, zone: &Option<String>) {
        self.open.retain(|open| *open != host);
        if let Some(open) = self.zones.get_mut(zone) {
            open.retain(|open| *open != host);
        }
    }
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

    #[test]
    fn a_small_fleet_is_a_full_mesh() {
        let mut graph = Neighbours::new(20, 1);
        for host in 0..FULL_MESH {
            assert_eq!(graph.join(host, None).len(), host);
        }
        assert_eq!(graph.join(3, None).len(), FULL_MESH - 1, "joining again must not lose neighbours");
    }

    #[test]
    fn thousand_hosts_are_few_hops_apart() {
        let mut graph = Neighbours::new(20, 7);
        for host in 0..1000 {
            graph.join(host, None);
        }
        assert!(eccentricity(&graph, 1000).unwrap() <= 5);
    }

    #[test]
    fn a_host_that_left_is_not_told_again() {
        let mut graph = Neighbours::new(20, 7);
        for host in 0..10 {
            graph.join(host, Some("a"));
        }
        graph.leave(4);
        assert!(!graph.join(10, Some("b")).contains(&4));
        assert!(!graph.of(3).contains(&4));
    }

    proptest! {
        #[test]
        fn connected_and_bounded(hosts in 1usize..300, degree in 4usize..30, seed: u64, zones in 1usize..5) {
            let mut graph = Neighbours::new(degree, seed);
            for host in 0..hosts {
                let zone = format!("z{}", host % zones);
                let chosen = graph.join(host, Some(&zone));
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
