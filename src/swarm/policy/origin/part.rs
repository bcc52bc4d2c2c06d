//! Which pieces a host asks of the origins first. The hosts' parts are disjoint and together they are everything, so that a fleet that works
//! fetches about one copy.
//!
//! The pieces are cut into *runs*, which one request fetches, and the hosts take turns at them. They begin at the end: the controller's seed
//! pushes from the beginning, and skips what the fleet has already.

use super::super::PieceSet;
use crate::model::origin::OriginPart;

/// How many bytes one request fetches, if pieces are shorter.
const RUN_BYTES: u32 = 1 << 20;

/// The pieces of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first piece.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl Run {
    /// Returns the pieces in ascending order.
    pub fn pieces(self) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// Returns how many pieces of that length a request fetches at most.
pub(super) fn run_length(piece_length: u32) -> u32 {
    (RUN_BYTES / piece_length.max(1)).max(1)
}

/// Returns the pieces that a host asks for first. Where there are fewer requests to make than hosts, requests become shorter; the hosts that
/// still get none depend on the others.
pub(super) fn own(part: OriginPart, pieces: u32, piece_length: u32) -> PieceSet {
    let hosts = part.of.max(1);
    let length = run_length(piece_length).min(pieces / hosts).max(1);
    let mut own = PieceSet::new(pieces);
    for piece in (0..pieces).filter(|piece| piece / length % hosts == part.rank) {
        own.insert(piece);
    }
    own
}

/// Returns the last pieces of a set that follow each other, at most so many.
pub(super) fn last_run(among: &PieceSet, most: u32) -> Option<Run> {
    let last = among.last()?;
    Some(run_to(among, last, most))
}

/// Returns the pieces of a set that follow each other up to this one of it, at most so many.
pub(super) fn run_to(among: &PieceSet, last: u32, most: u32) -> Run {
    let mut count = 1;
    while count < most && count <= last && among.contains(last - count) {
        count += 1;
    }
    Run { first: last + 1 - count, count }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every piece is exactly one host's, and no host has much more than another.
        #[test]
        fn the_parts_are_disjoint_and_complete(pieces in 1u32..3000, of in 1u32..600, length in prop::sample::select(vec![1u32 << 16, 1 << 18, 1 << 20, 1 << 24])) {
            let parts: Vec<PieceSet> = (0..of).map(|rank| own(OriginPart { rank, of }, pieces, length)).collect();
            let mut seen = PieceSet::new(pieces);
            for part in &parts {
                prop_assert!(part.iter().all(|piece| seen.insert(piece)), "two hosts have the same");
            }
            prop_assert!(seen.is_full());
            let (least, most) = parts.iter().fold((u32::MAX, 0), |(least, most), part| (least.min(part.count()), most.max(part.count())));
            prop_assert!(most - least <= run_length(length), "{least} and {most}");
        }

        #[test]
        fn a_run_is_of_the_set_and_no_longer_than_it_may_be(pieces in prop::collection::btree_set(0u32..200, 1..150), most in 1u32..20) {
            let mut set = PieceSet::new(200);
            pieces.iter().for_each(|piece| { set.insert(*piece); });
            let run = last_run(&set, most).unwrap();
            prop_assert!((1..=most).contains(&run.count));
            prop_assert!(run.pieces().all(|piece| set.contains(piece)));
            prop_assert_eq!(run.pieces().last(), pieces.last().copied());
            prop_assert!(run.count == most || run.first == 0 || !set.contains(run.first - 1));
        }
    }

    #[test]
    fn nobody_is_not_in_the_fleet() {
        assert!(own(OriginPart { rank: 3, of: 3 }, 100, 1 << 20).is_empty(), "a rank that can't be");
        assert!(own(OriginPart { rank: 0, of: 0 }, 100, 1 << 20).is_full(), "a fleet without hosts");
        assert_eq!(last_run(&PieceSet::new(9), 4), None);
    }
}
