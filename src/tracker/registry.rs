//! The run's peers: who is listed, who is handed out, who has expired. Pure: time and randomness are passed in.
//!
//! Invariants, whatever is announced: at most `max_peers` announced peers are listed; one address is listed once; a peer is never handed its own address or
//! another address of the same peer id; a peer that is not heard of for its lifetime is gone.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use librqbit_core::hash_id::Id20;

use super::query::Event;

/// How many peers the tracker knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrackerCounts {
    /// Peers that have everything, the controller's seeds included.
    pub complete: usize,
    /// Peers that lack something.
    pub incomplete: usize,
    /// How often a listed peer announced that it had become complete.
    pub downloaded: u64,
}

/// One announce, as far as the list is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announce {
    pub(super) id: Id20,
    pub(super) address: SocketAddr,
    pub(super) complete: bool,
    pub(super) event: Option<Event>,
    pub(super) wanted: usize,
}

/// A peer handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) address: SocketAddr,
    /// None for a seed the controller listed.
    pub(super) id: Option<Id20>,
}

/// Says that no further peer fits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many peers")]
pub(super) struct RegistryFull;

#[derive(Debug)]
struct Peer {
    id: Id20,
    complete: bool,
    seen: Duration,
}

/// The list. Times are since any fixed moment and never go back.
#[derive(Debug)]
pub(super) struct Registry {
    max_peers: usize,
    lifetime: Duration,
    peers: BTreeMap<SocketAddr, Peer>,
    /// The controller's own seed, by address: never announced, never expired.
    seeds: Vec<SocketAddr>,
    downloaded: u64,
}

impl Registry {
    /// Makes an empty list of at most `max_peers`, each forgotten when not heard of for `lifetime`.
    pub(super) fn new(max_peers: usize, lifetime: Duration) -> Self {
        Self { max_peers, lifetime, peers: BTreeMap::new(), seeds: Vec::new(), downloaded: 0 }
    }

    /// Lists a seed for good.
    pub(super) fn add_seed(&mut self, address: SocketAddr) {
        self.peers.remove(&address);
        if !self.seeds.contains(&address) {
            self.seeds.push(address);
        }
    }

    /// Takes in an announce and returns whom to hand out: a random choice, without other complete peers if the peer is complete.
    pub(super) fn announce(
        &mut self,
        now: Duration,
        announce: &Announce,
        random: &mut fastrand::Rng,
    ) -> Result<Vec<Listed>, RegistryFull> {
        self.expire(now);
        if announce.event == Some(Event::Stopped) {
            // Only who is listed there can leave: a late word of a predecessor on that port changes nothing.
            if self.peers.get(&announce.address).is_some_and(|peer| peer.id == announce.id) {
                self.peers.remove(&announce.address);
            }
            return Ok(Vec::new());
        }
        if !self.seeds.contains(&announce.address) {
            self.list(now, announce)?;
        }
        Ok(self.choose(announce, random))
    }

    /// Returns the counts at `now`.
    pub(super) fn counts(&mut self, now: Duration) -> TrackerCounts {
        self.expire(now);
        let complete = self.peers.values().filter(|peer| peer.complete).count();
        TrackerCounts {
            complete: complete + self.seeds.len(),
            incomplete: self.peers.len() - complete,
            downloaded: self.downloaded,
        }
    }

    fn expire(&mut self, now: Duration) {
        self.peers.retain(|_, peer| now.saturating_sub(peer.seen) < self.lifetime);
    }

    fn list(&mut self, now: Duration, announce: &Announce) -> Result<(), RegistryFull> {
        let known = self.peers.get(&announce.address);
        if known.is_none() && self.peers.len() >= self.max_peers {
            return Err(RegistryFull);
        }
        let complete = announce.complete || announce.event == Some(Event::Completed);
        if announce.event == Some(Event::Completed) && known.is_some_and(|peer| peer.id == announce.id && !peer.complete) {
            self.downloaded += 1;
        }
        self.peers.insert(announce.address, Peer { id: announce.id, complete, seen: now });
        Ok(())
    }

    fn choose(&self, announce: &Announce, random: &mut fastrand::Rng) -> Vec<Listed> {
        let complete = announce.complete || announce.event == Some(Event::Completed);
        let announced = self
            .peers
            .iter()
            .filter(|(address, peer)| **address != announce.address && peer.id != announce.id)
            .filter(|(_, peer)| !(complete && peer.complete))
            .map(|(address, peer)| Listed { address: *address, id: Some(peer.id) });
        let seeds = self
            .seeds
            .iter()
            .filter(|address| !complete && **address != announce.address)
            .map(|address| Listed { address: *address, id: None });
        random.choose_multiple(announced.chain(seeds), announce.wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(100);

    fn peer(n: u8) -> Announce {
        let address = SocketAddr::from(([10, 0, 0, n], 6881));
        Announce { id: Id20::new([n; 20]), address, complete: false, event: None, wanted: 50 }
    }

    fn addresses(listed: &[Listed]) -> BTreeSet<SocketAddr> {
        listed.iter().map(|listed| listed.address).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn peers_learn_of_each_other_but_not_of_themselves() {
        let (mut registry, mut random) = (Registry::new(10, LIFETIME), fastrand::Rng::with_seed(1));
        assert_eq!(registry.announce(at(0), &peer(1), &mut random), Ok(vec![]));
        let second = registry.announce(at(0), &peer(2), &mut random).unwrap();
        assert_eq!(second, [Listed { address: peer(1).address, id: Some(peer(1).id) }]);
        // The same peer over its second address: neither address is handed to it.
        let dual = Announce { address: "[2001:db8::2]:6881".parse().unwrap(), ..peer(2) };
        assert_eq!(addresses(&registry.announce(at(0), &dual, &mut random).unwrap()), BTreeSet::from([peer(1).address]));
    }

    #[test]
    fn leaving_is_for_who_is_listed_there() {
        let (mut registry, mut random) = (Registry::new(10, LIFETIME), fastrand::Rng::with_seed(1));
        registry.announce(at(0), &peer(1), &mut random).unwrap();
        let stranger = Announce { id: Id20::new([9; 20]), event: Some(Event::Stopped), ..peer(1) };
        registry.announce(at(0), &stranger, &mut random).unwrap();
        assert_eq!(registry.counts(at(0)).incomplete, 1);
        registry.announce(at(0), &Announce { event: Some(Event::Stopped), ..peer(1) }, &mut random).unwrap();
        assert_eq!(registry.counts(at(0)), TrackerCounts::default());
    }

    #[test]
    fn completion_counts_once_and_seeds_are_not_sent_to_seeds() {
        let (mut registry, mut random) = (Registry::new(10, LIFETIME), fastrand::Rng::with_seed(1));
        let seed: SocketAddr = "10.0.0.100:1".parse().unwrap();
        registry.add_seed(seed);
        registry.add_seed(seed);
        registry.announce(at(0), &peer(1), &mut random).unwrap();
        let completed = Announce { complete: true, event: Some(Event::Completed), ..peer(1) };
        for _ in 0..2 {
            assert_eq!(registry.announce(at(1), &completed, &mut random), Ok(vec![]));
        }
        assert_eq!(registry.counts(at(1)), TrackerCounts { complete: 2, incomplete: 0, downloaded: 1 });
        let other = registry.announce(at(1), &peer(2), &mut random).unwrap();
        assert_eq!(addresses(&other), BTreeSet::from([seed, peer(1).address]));
        // A seed that was complete from the start downloaded nothing.
        registry.announce(at(1), &Announce { complete: true, ..peer(3) }, &mut random).unwrap();
        assert_eq!(registry.counts(at(1)), TrackerCounts { complete: 3, incomplete: 1, downloaded: 1 });
    }

    #[test]
    fn a_full_list_takes_nobody_until_someone_is_gone() {
        let (mut registry, mut random) = (Registry::new(2, LIFETIME), fastrand::Rng::with_seed(1));
        registry.announce(at(0), &peer(1), &mut random).unwrap();
        registry.announce(at(50), &peer(2), &mut random).unwrap();
        assert_eq!(registry.announce(at(99), &peer(3), &mut random), Err(RegistryFull));
        assert!(registry.announce(at(99), &peer(2), &mut random).is_ok());
        assert!(registry.announce(at(100), &peer(3), &mut random).is_ok());
        assert_eq!(registry.counts(at(199)).incomplete, 1);
        assert_eq!(registry.counts(at(200)).incomplete, 0);
    }

    #[test]
    fn every_peer_is_handed_out_sooner_or_later() {
        let (mut registry, mut random) = (Registry::new(100, LIFETIME), fastrand::Rng::with_seed(1));
        for n in 1..=50 {
            registry.announce(at(0), &peer(n), &mut random).unwrap();
        }
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            seen.extend(addresses(&registry.announce(at(0), &Announce { wanted: 3, ..peer(1) }, &mut random).unwrap()));
        }
        assert_eq!(seen.len(), 49);
    }

    prop_compose! {
        fn any_announce()(
            id in 0u8..6, address in 0u8..8, complete: bool, event in 0usize..4, wanted in 0usize..6, wait in 0u64..40,
        ) -> (Duration, Announce) {
            let event = [None, Some(Event::Started), Some(Event::Stopped), Some(Event::Completed)][event];
            (at(wait), Announce { id: Id20::new([id; 20]), complete, event, wanted, ..peer(address) })
        }
    }

    proptest! {
        /// Against a model that only remembers each address's last accepted announce.
        #[test]
        fn the_list_is_what_the_last_announces_say(announces in prop::collection::vec(any_announce(), 0..60), seed: u64) {
            let (mut registry, mut random) = (Registry::new(4, LIFETIME), fastrand::Rng::with_seed(seed));
            let mut model: HashMap<SocketAddr, (Duration, Announce)> = HashMap::new();
            let mut now = Duration::ZERO;
            for (wait, announce) in announces {
                now += wait;
                model.retain(|_, (seen, _)| now - *seen < LIFETIME);
                let answer = registry.announce(now, &announce, &mut random);
                let stopped = announce.event == Some(Event::Stopped);
                let known = model.get(&announce.address).map(|(_, last)| last.id);
                if !stopped && known.is_none() && model.len() == 4 {
                    prop_assert_eq!(answer, Err(RegistryFull));
                } else {
                    let listed = answer.unwrap();
                    prop_assert!(listed.len() <= announce.wanted);
                    prop_assert_eq!(addresses(&listed).len(), listed.len());
                    for handed in &listed {
                        prop_assert_ne!(handed.address, announce.address);
                        let (_, last) = model[&handed.address];
                        prop_assert_eq!(handed.id, Some(last.id));
                        prop_assert_ne!(last.id, announce.id);
                    }
                    if !stopped {
                        model.insert(announce.address, (now, announce));
                    } else if known == Some(announce.id) {
                        model.remove(&announce.address);
                    }
                }
                let complete = |last: &Announce| last.complete || last.event == Some(Event::Completed);
                let seeds = model.values().filter(|(_, last)| complete(last)).count();
                let counts = registry.counts(now);
                prop_assert_eq!((counts.complete, counts.incomplete), (seeds, model.len() - seeds));
            }
        }
    }
}
