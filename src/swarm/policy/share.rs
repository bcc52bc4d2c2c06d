//! Which parts of an artifact a host fetches for its whole zone: pure.
//!
//! What comes from far away, over a link that a whole zone shares, is to come once. So every piece has one *owner* in each zone, and only
//! the owner asks for it across; the others get it from a zone mate. Who that is follows from the piece and the number of hosts in
//! the zone alone: every host computes the same without a word. When a host is known to be gone, its pieces go to others, evenly.
//!
//! Nothing here knows what is far: another zone's hosts today; it would do as well for a web server.

use std::collections::BTreeSet;

use super::{PieceSet, Place};

/// How many hosts are tried in turn as a piece's owner before nobody is.
const TURNS: u32 = 8;

/// The pieces that one host fetches for its zone.
#[derive(Debug)]
pub(super) struct Share {
    place: Place,
    owned: PieceSet,
    /// Hosts of the zone that are known to be gone.
    gone: BTreeSet<u32>,
}

impl Share {
    /// Starts with nobody known to be gone.
    pub(super) fn new(place: Place, pieces: u32) -> Self {
        let mut share = Self { place, owned: PieceSet::new(pieces), gone: BTreeSet::new() };
        share.count();
        share
    }

    /// Returns the pieces this host fetches.
    pub(super) fn owned(&self) -> &PieceSet {
        &self.owned
    }

    /// Returns whether somebody is in the same zone.
    pub(super) fn is_near(&self, zone: Option<u32>) -> bool {
        zone == Some(self.place.zone)
    }

    /// Notes that a host of the zone is there, or gone.
    pub(super) fn note(&mut self, rank: u32, here: bool) {
        if here && self.gone.remove(&rank) {
            self.count();
        } else if !here {
            self.note_gone([rank]);
        }
    }

    /// Notes that these hosts of the zone are gone.
    pub(super) fn note_gone(&mut self, ranks: impl IntoIterator<Item = u32>) {
        let before = self.gone.len();
        let Place { rank: own, of, .. } = self.place;
        self.gone.extend(ranks.into_iter().filter(|rank| *rank != own && *rank < of));
        if self.gone.len() > before {
            self.count();
        }
    }

    /// Returns the host that fetches a piece while nobody is gone.
    pub(super) fn first_owner(&self, piece: u32) -> Option<u32> {
        owner(piece, self.place.of, &BTreeSet::new())
    }

    /// Returns the own number in the zone.
    pub(super) fn rank(&self) -> u32 {
        self.place.rank
    }

    fn count(&mut self) {
        let mut owned = PieceSet::new(self.owned.len());
        for piece in (0..owned.len()).filter(|piece| owner(*piece, self.place.of, &self.gone) == Some(self.place.rank)) {
            owned.insert(piece);
        }
        self.owned = owned;
    }
}

/// Returns the host that fetches a piece, or none if those whose turn it would be are all gone.
fn owner(piece: u32, of: u32, gone: &BTreeSet<u32>) -> Option<u32> {
    // First in turn, so that all own the same number; then as if drawn by lot.
    (0..TURNS)
        .filter_map(|turn| if turn == 0 { piece.checked_rem(of) } else { mix(piece, turn).checked_rem(of) })
        .find(|rank| !gone.contains(rank))
}

/// Returns a number that looks random (the finalizer of MurmurHash3).
fn mix(piece: u32, turn: u32) -> u32 {
    let mut bits = piece ^ turn.wrapping_mul(0x9e37_79b9);
    bits = (bits ^ bits >> 16).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
    bits ^ bits >> 16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(pieces: u32, of: u32) -> Vec<Share> {
        (0..of).map(|rank| Share::new(Place { zone: 1, rank, of }, pieces)).collect()
    }

    #[test]
    fn one_host_owns_everything_and_a_seed_nothing() {
        assert!(shares(100, 1)[0].owned().is_full());
        assert!(Share::new(Place::of_controller(1), 100).owned().is_empty());
        assert!(Share::new(Place { zone: 1, rank: 7, of: 3 }, 100).owned().is_empty(), "a rank that can't be");
    }

    proptest! {
        /// Whoever is known to be gone: no piece has two owners, nobody owns far more than others, and hardly a piece has none.
        #[test]
        fn every_piece_has_one_owner(pieces in 1u32..2000, of in 1u32..60, gone in prop::collection::btree_set(0u32..60, 0..20)) {
            let mut shares = shares(pieces, of);
            for rank in &gone {
                shares.iter_mut().for_each(|share| share.note(*rank, false));
            }
            let living: Vec<&Share> = shares.iter().filter(|share| !gone.contains(&share.place.rank)).collect();
            let mut seen = PieceSet::new(pieces);
            for share in &living {
                prop_assert!(share.owned().iter().all(|piece| seen.insert(piece)), "a piece has two owners");
            }
            if living.len() * 2 >= of as usize {
                let fair = pieces / living.len() as u32;
                prop_assert!(living.iter().all(|share| share.owned().count() <= fair * 2 + 40), "uneven");
                prop_assert!(pieces - seen.count() <= pieces / 20 + 3, "{} of {pieces} have no owner", pieces - seen.count());
            }
        }

        /// Who comes back gets exactly what it had.
        #[test]
        fn coming_back_undoes_going(pieces in 1u32..500, of in 1u32..20, rank in 0u32..20) {
            for mut share in shares(pieces, of) {
                let before = share.owned().clone();
                share.note(rank, false);
                share.note(rank, true);
                prop_assert_eq!(share.owned(), &before);
            }
        }
    }
}
