//! Which host switches in which wave.

use super::super::{
    HostId,
    plan::{Order, RolloutPlan},
};

/// What the order of hosts depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineup {
    /// Each host's zone, in the inventory's order; a host without one is in the zone of all such hosts.
    pub zones: Vec<Option<String>>,
    /// What [`Order::Shuffled`] draws from: the same seed gives the same order.
    pub seed: u64,
    /// The run goes on with an interrupted one: hosts that are active already keep their places in the waves, so that the others
    /// switch in theirs.
    pub goes_on: bool,
}

impl Lineup {
    /// A fleet of that many hosts without zones.
    pub fn plain(hosts: usize) -> Self {
        Self { zones: vec![None; hosts], seed: 0, goes_on: false }
    }

    /// Returns every host, in the inventory's order.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..u32::try_from(self.zones.len()).unwrap_or(u32::MAX)).map(HostId)
    }
}

/// Puts `hosts`, a part of the fleet in the inventory's order, into waves. Each is in one wave, and no wave is empty. Shares are of
/// `hosts`; where zones follow one another, each begins with the first size again, and shares are of the zone's hosts.
pub fn waves(plan: &RolloutPlan, lineup: &Lineup, hosts: &[HostId]) -> Vec<Vec<HostId>> {
    let groups = match plan.order {
        Order::Inventory => vec![hosts.to_vec()],
        Order::Shuffled => {
            let mut hosts = hosts.to_vec();
            fastrand::Rng::with_seed(lineup.seed).shuffle(&mut hosts);
            vec![hosts]
        }
        Order::Zone => by_zone(lineup, hosts),
    };
    let mut waves = Vec::new();
    for group in groups {
        let mut left = group.as_slice();
        for size in plan.waves.split(group.len()) {
            let (wave, rest) = left.split_at(size);
            waves.push(wave.to_vec());
            left = rest;
        }
    }
    waves
}

fn by_zone(lineup: &Lineup, hosts: &[HostId]) -> Vec<Vec<HostId>> {
    let zone = |host: &HostId| lineup.zones.get(host.index()).and_then(Option::as_deref);
    let mut groups: Vec<(Option<&str>, Vec<HostId>)> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for host in hosts {
        let at = *index.entry(zone(host)).or_insert_with(|| {
            groups.push((zone(host), Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(*host);
    }
    groups.into_iter().map(|(_, hosts)| hosts).collect()
}
