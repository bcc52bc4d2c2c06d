//! What a host asks of another zone: only what it fetches for all, and late, in need, the rest.
//!
//! A zone mate that is slow or cut off must not keep its pieces from the others. So a host that has had nothing to do for a while
//! asks for pieces that are not its own, one at a time at first, and sooner each time; and one without zone mates asks for everything, as
//! if there were no zones. What only such zone mates have that choke us or let requests time out is asked for in this way, too, and
//! also while it is asked of them.
//!
//! A zone mate that never comes must not keep the pieces that it was to fetch either: soon they are others', by the same count that made them its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Peer, PeerKey, PeerTraits, PieceSet, Place, Policy, download::Flight, share::Share};

/// A host that got nothing from its zone mates or for them for this long fetches what is not its own; the bounds, since it waits half as
/// long each time.
const IDLE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// After each such time more it fetches one more at the same time, up to this many.
const MORE: (Duration, usize) = (Duration::from_millis(250), 8);
/// A host without zone mates for this long is on its own.
const ALONE: Duration = Duration::from_secs(1);
/// A zone mate that is not connected counts as gone when its pieces have been offered for this many times what the own first one took, and at
/// least so long, ...
const ABSENT: (u32, Duration) = (3, Duration::from_secs(1));
/// ... and when it has got so many times fewer than we have.
const BEHIND: u32 = 2;

/// Who announced a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announcer {
    /// A host of the own zone.
    Mate,
    /// A host of another one.
    Far,
    /// The seed, or a standard client.
    Other,
}

/// How a host of the zone gets on with its pieces, as far as one can see.
#[derive(Debug, Default)]
struct Owner {
    /// Since when another zone offers one of them.
    offered: Option<Duration>,
    /// How many zone mates have; of our own, how many we have.
    came: u32,
}

/// What is known of the own zone.
#[derive(Debug)]
pub(super) struct Far {
    share: Share,
    /// Pieces that zone mates have.
    near: PieceSet,
    /// Zone mates that are connected.
    mates: usize,
    /// Since when there are none.
    alone_since: Option<Duration>,
    /// When the last piece came that was to come; the first announcement counts, too.
    moved: Option<Duration>,
    /// How long it may have nothing to do.
    patience: Duration,
    /// Pieces of others that are asked for.
    reserve: PieceSet,
    /// The zone's hosts whose pieces were offered or came, by number.
    owners: BTreeMap<u32, Owner>,
    /// How long the own first piece took from when it was offered.
    first_took: Option<Duration>,
    /// Zone mates that are connected, by number.
    connected: BTreeSet<u32>,
}

impl Far {
    pub(super) fn new(place: Place, pieces: u32) -> Self {
        Self {
            share: Share::new(place, pieces),
            near: PieceSet::new(pieces),
            mates: 0,
            alone_since: None,
            moved: None,
            patience: IDLE.1,
            reserve: PieceSet::new(pieces),
            owners: BTreeMap::new(),
            first_took: None,
            connected: BTreeSet::new(),
        }
    }

    /// Returns how many zone mates are connected.
    pub(super) fn mates(&self) -> usize {
        self.mates
    }

    /// Takes in a new neighbour; returns whether it is far.
    pub(super) fn joined(&mut self, now: Duration, traits: PeerTraits) -> bool {
        self.alone_since.get_or_insert(now);
        // A standard client may be anywhere: it is asked as a zone mate is, but nobody counts on it.
        let far = traits.fleet && !self.share.is_near(traits.zone);
        if traits.fleet && !far && !traits.seed {
            self.mates += 1;
            if let Some(rank) = traits.rank {
                self.connected.insert(rank);
                self.share.note(rank, true);
            }
        }
        far
    }

    /// Notes that a connection to a zone mate ended; `gone` is its rank if it was the only one, `near` are the pieces that the
    /// others have.
    pub(super) fn left(&mut self, now: Duration, gone: Option<u32>, near: PieceSet) {
        if let Some(rank) = gone {
            self.connected.remove(&rank);
            self.share.note(rank, false);
        }
        let own = self.share.rank();
        self.owners.iter_mut().filter(|(rank, _)| **rank != own).for_each(|(_, owner)| owner.came = 0);
        near.iter().for_each(|piece| self.note_came(piece));
        self.near = near;
        self.mates = self.mates.saturating_sub(1);
        if self.mates == 0 {
            self.alone_since = Some(now);
        }
    }

    /// Notes that a neighbour announced a piece.
    pub(super) fn announced(&mut self, now: Duration, piece: u32, by: Announcer) {
        self.moved.get_or_insert(now);
        match by {
            Announcer::Mate => {
                if self.near.insert(piece) {
                    self.note_came(piece);
                }
            }
            Announcer::Far => {
                if let Some(owner) = self.owner_of(piece) {
                    owner.offered.get_or_insert(now);
                }
            }
            Announcer::Other => {}
        }
    }

    /// Notes that a piece came.
    pub(super) fn received(&mut self, now: Duration, piece: u32) {
        if self.share.first_owner(piece) == Some(self.share.rank()) {
            let owner = self.owners.entry(self.share.rank()).or_default();
            owner.came += 1;
            if let Some(offered) = owner.offered {
                self.first_took.get_or_insert(now.saturating_sub(offered));
            }
        }
        if !self.reserve.remove(piece) {
            self.moved = Some(now);
        }
    }

    /// Counts a piece that a zone mate has. That of our own others have shows nothing.
    fn note_came(&mut self, piece: u32) {
        if self.share.first_owner(piece) != Some(self.share.rank())
            && let Some(owner) = self.owner_of(piece)
        {
            owner.came += 1;
        }
    }

    fn owner_of(&mut self, piece: u32) -> Option<&mut Owner> {
        let rank = self.share.first_owner(piece)?;
        Some(self.owners.entry(rank).or_default())
    }

    /// Gives the pieces of zone mates that never came, or hardly get on, to others. We judge them by ourselves: what another zone offers took us so
    /// long, and so many came. Pieces of theirs that do come may be others' work.
    pub(super) fn note_absent(&mut self, now: Duration) {
        let Some(took) = self.first_took else { return };
        let patience = (took * ABSENT.0).max(ABSENT.1);
        let own = self.owners.get(&self.share.rank()).map_or(0, |owner| owner.came);
        let waits = |owner: &Owner| owner.offered.is_some_and(|since| now.saturating_sub(since) > patience);
        let is_absent = |rank: u32, owner: &Owner| waits(owner) && owner.came * BEHIND < own && !self.connected.contains(&rank);
        let absent = self.owners.iter().filter(|(rank, owner)| is_absent(**rank, owner));
        self.share.note_gone(absent.map(|(rank, _)| *rank));
    }

    /// Notes that a piece is asked for; `far` tells whether in another zone.
    pub(super) fn asked(&mut self, piece: u32, far: bool) {
        if far && !self.share.owned().contains(piece) {
            if self.reserve.is_empty() {
                self.patience = (self.patience / 2).max(IDLE.0);
            }
            self.reserve.insert(piece);
        } else {
            self.reserve.remove(piece);
        }
    }

    /// Notes that a piece is no longer asked for.
    pub(super) fn dropped(&mut self, piece: u32) {
        self.reserve.remove(piece);
    }

    /// Returns the pieces that this host fetches for its zone and that no zone mate has.
    pub(super) fn own(&self) -> PieceSet {
        self.share.owned().without(&self.near)
    }

    /// Returns whether other pieces may be asked for, as far as time tells and the number of those that are.
    fn is_due(&self, now: Duration) -> bool {
        if self.mates == 0 {
            return self.alone_since.is_some_and(|since| now.saturating_sub(since) >= ALONE);
        }
        let idle = self.moved.map_or(Duration::ZERO, |moved| now.saturating_sub(moved));
        let Some(longer) = idle.checked_sub(self.patience) else { return false };
        let allowed = (1 + longer.as_millis() / MORE.0.as_millis()).min(MORE.1 as u128) as usize;
        (self.reserve.count() as usize) < allowed
    }
}

impl Peer {
    /// Returns as whom it announces pieces.
    pub(super) fn announcer(&self) -> Announcer {
        match (self.fleet && !self.seed, self.far) {
            (true, false) => Announcer::Mate,
            (true, true) => Announcer::Far,
            (false, _) => Announcer::Other,
        }
    }
}

impl Policy {
    /// Returns which of its pieces a neighbour in another zone may be asked for.
    pub(super) fn may_cross(&self, now: Duration, peer: &Peer) -> PieceSet {
        let Some(zone) = &self.far else { return PieceSet::new(self.config.pieces) };
        if !self.is_in_need(now) {
            return peer.have.intersection(&zone.own());
        }
        let giving = self.peers.values().filter(|mate| mate.is_mate() && !mate.chokes_us && !mate.snubbed);
        giving.fold(peer.have.clone(), |missing, mate| missing.without(&mate.have))
    }

    /// Returns whether nothing comes from zone mates, so that anything may be asked for in another zone.
    pub(super) fn is_in_need(&self, now: Duration) -> bool {
        self.far.as_ref().is_some_and(|zone| {
            let waits = |(piece, flight): (&u32, &Flight)| zone.reserve.contains(*piece) || self.is_stuck(flight);
            zone.is_due(now) && (zone.mates == 0 || self.flights.iter().all(waits))
        })
    }

    /// Returns whether a piece is asked only of neighbours that let requests time out.
    pub(super) fn is_stuck(&self, flight: &Flight) -> bool {
        let snubbed = |key: PeerKey| self.peers.get(&key).is_some_and(|peer| peer.snubbed);
        !flight.checking && flight.sources.iter().all(|source| snubbed(source.peer))
    }

    /// Notes that a connection to a zone mate ended, which was taken out of the others before.
    pub(super) fn mate_left(&mut self, now: Duration, rank: Option<u32>) {
        let Some(zone) = &mut self.far else { return };
        let mut near = PieceSet::new(self.config.pieces);
        for mate in self.peers.values().filter(|peer| peer.announcer() == Announcer::Mate) {
            mate.have.iter().for_each(|piece| {
                near.insert(piece);
            });
        }
        // Of two connections to one host the newer may stand before the older is known to have ended.
        let gone = rank.filter(|_| !self.peers.values().any(|peer| peer.is_mate() && peer.rank == rank));
        zone.left(now, gone, near);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came through a zone mate is gone with it: its owner, who never came, is not thought to get on.
    #[test]
    fn what_a_mate_that_left_had_no_longer_speaks_for_its_owner() {
        const PIECES: u32 = 64;
        let at = Duration::from_secs;
        let mut far = Far::new(Place { zone: 1, rank: 0, of: 4 }, PIECES);
        far.joined(at(0), PeerTraits { fleet: true, zone: Some(1), rank: Some(2), ..PeerTraits::default() });
        (0..PIECES).for_each(|piece| far.announced(at(0), piece, Announcer::Far));
        // Ours, and by way of the mate those of host 1.
        (0..PIECES).step_by(4).for_each(|piece| far.received(at(1), piece));
        (0..PIECES).skip(1).step_by(4).for_each(|piece| far.announced(at(1), piece, Announcer::Mate));
        far.left(at(2), None, PieceSet::new(PIECES));
        far.share.note(2, true);
        far.note_absent(at(10));
        let owned = |piece| far.share.owned().contains(piece);
        assert!((1..PIECES).step_by(4).any(owned), "host 1 keeps its pieces");
        assert!((0..PIECES).step_by(4).all(owned));
    }
}
