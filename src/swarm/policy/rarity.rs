//! The wanted pieces and how many neighbours have each.
//!
//! The counts are kept bit by bit: line `w` holds those of the pieces `64 w` to `64 w + 63`, its word `b` bit `b` of each. So one more
//! copy costs one cache line, whatever the number of pieces, and the rarest piece that a neighbour has is found 64 pieces at a
//! time: of the candidates in a word those stay whose highest bits are zero, as long as there are any. Ties are broken at random, differently
//! on every host.

use super::PieceSet;

/// Bits of a count in one line.
const BITS: usize = 8;

/// One bit of each of 64 counts in each word.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line([u64; BITS]);

/// The counts.
#[derive(Debug)]
pub(super) struct Rarity {
    wanted: PieceSet,
    /// The lower bits, for up to 255 copies.
    low: Vec<Line>,
    /// The higher bits; empty until a piece has more copies.
    high: Vec<Line>,
}

impl Rarity {
    /// Starts with these pieces wanted and no copies.
    pub(super) fn new(wanted: PieceSet) -> Self {
        let low = vec![Line::default(); wanted.words().len()];
        Self { wanted, low, high: Vec::new() }
    }

    /// Returns how many neighbours have the piece (those that have everything are not counted).
    pub(super) fn copies(&self, piece: u32) -> u32 {
        let (word, bit) = place(piece);
        let count = |lines: &[Line]| {
            let line = lines.get(word).copied().unwrap_or_default();
            line.0.iter().rev().fold(0, |count, plane| count << 1 | (plane >> bit & 1) as u32)
        };
        count(&self.high) << BITS | count(&self.low)
    }

    /// Returns whether nobody is asked for a piece that is missing.
    pub(super) fn is_wanted(&self, piece: u32) -> bool {
        self.wanted.contains(piece)
    }

    /// Returns the pieces that are missing and that nobody is asked for.
    pub(super) fn wanted(&self) -> &PieceSet {
        &self.wanted
    }

    /// Returns whether no piece is left to ask for.
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Returns whether one of the pieces is wanted.
    pub(super) fn wants_any(&self, among: &PieceSet) -> bool {
        self.wanted.meets(among)
    }

    /// Returns the rarest wanted piece among those that a neighbour has.
    pub(super) fn rarest(&self, among: &PieceSet, random: &mut fastrand::Rng) -> Option<u32> {
        let (mut best, mut ties, mut choice) = (u32::MAX, 0, None);
        for (word, (wanted, among)) in self.wanted.words().iter().zip(among.words()).enumerate() {
            let candidates = wanted & among;
            if candidates == 0 {
                continue;
            }
            let (copies, rarest) = self.rarest_in(word, candidates);
            if copies < best {
                (best, ties) = (copies, 0);
            }
            if copies == best {
                // Each of the equally rare ones so far is the choice with the same chance.
                let count = rarest.count_ones();
                ties += count;
                let drawn = if ties == 1 { 0 } else { random.u32(..ties) };
                if drawn < count {
                    choice = Some(word as u32 * 64 + nth_bit(rarest, drawn));
                }
            }
        }
        choice
    }

    /// Returns the fewest copies that a candidate in a word has, and the candidates that have no more.
    fn rarest_in(&self, word: usize, mut candidates: u64) -> (u32, u64) {
        let mut copies = 0;
        let lines = [self.high.get(word), self.low.get(word)];
        for plane in lines.into_iter().flatten().flat_map(|line| line.0.iter().rev()) {
            let without = candidates & !plane;
            copies = copies << 1 | u32::from(without == 0);
            candidates = if without == 0 { candidates } else { without };
        }
        (copies, candidates)
    }

    /// Counts one more copy.
    pub(super) fn gained(&mut self, piece: u32) {
        let (word, bit) = place(piece);
        let Some(line) = self.low.get_mut(word) else { return };
        let carry = add(line, 1 << bit);
        if carry != 0 {
            self.high.resize(self.low.len(), Line::default());
            add(&mut self.high[word], carry);
        }
    }

    /// Counts one copy less.
    pub(super) fn lost(&mut self, piece: u32) {
        if self.copies(piece) == 0 {
            return;
        }
        let (word, bit) = place(piece);
        let borrow = subtract(&mut self.low[word], 1 << bit);
        if borrow != 0 {
            subtract(&mut self.high[word], borrow);
        }
    }

    /// Takes a piece out, because it is there or somebody is asked for it. False if it was out.
    pub(super) fn take(&mut self, piece: u32) -> bool {
        self.wanted.remove(piece)
    }

    /// Puts a piece back. False if it was in.
    pub(super) fn put(&mut self, piece: u32) -> bool {
        self.wanted.insert(piece)
    }
}

/// Returns the line of a piece, and its bit in each word.
fn place(piece: u32) -> (usize, u32) {
    (piece as usize / 64, piece % 64)
}

/// Adds one to the counts whose bits are set; returns those that are over the top.
fn add(line: &mut Line, mut carry: u64) -> u64 {
    for plane in &mut line.0 {
        (*plane, carry) = (*plane ^ carry, *plane & carry);
    }
    carry
}

/// Takes one from the counts whose bits are set; returns those that are below zero.
fn subtract(line: &mut Line, mut borrow: u64) -> u64 {
    for plane in &mut line.0 {
        (*plane, borrow) = (*plane ^ borrow, !*plane & borrow);
    }
    borrow
}

/// Returns the place of the bit of a word that has `n` set bits below it.
fn nth_bit(mut word: u64, n: u32) -> u32 {
    for _ in 0..n {
        word &= word - 1;
    }
    word.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECES: u32 = 150;

    proptest! {
        #[test]
        fn counts_and_finds_the_rarest(
            seed: u64,
            steps in prop::collection::vec((0u8..4, 0..PIECES, 1u32..400), 0..100),
            among in prop::collection::vec(any::<bool>(), PIECES as usize),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut rarity = Rarity::new(PieceSet::full(PIECES));
            let (mut copies, mut wanted) = (vec![0u32; PIECES as usize], vec![true; PIECES as usize]);
            for (step, piece, times) in steps {
                let (count, wants) = (&mut copies[piece as usize], &mut wanted[piece as usize]);
                match step {
                    0 => {
                        (0..times).for_each(|_| rarity.gained(piece));
                        *count += times;
                    }
                    1 => {
                        (0..times).for_each(|_| rarity.lost(piece));
                        *count = count.saturating_sub(times);
                    }
                    2 => prop_assert_eq!(rarity.take(piece), std::mem::replace(wants, false)),
                    _ => prop_assert_eq!(rarity.put(piece), !std::mem::replace(wants, true)),
                }
            }
            let mut has = PieceSet::new(PIECES);
            for piece in (0..PIECES).filter(|piece| among[*piece as usize]) {
                has.insert(piece);
            }
            for piece in 0..PIECES {
                prop_assert_eq!(rarity.copies(piece), copies[piece as usize]);
                prop_assert_eq!(rarity.wanted.contains(piece), wanted[piece as usize]);
            }
            prop_assert_eq!(rarity.is_empty(), !wanted.contains(&true));
            prop_assert_eq!(rarity.wants_any(&has), has.iter().any(|piece| wanted[piece as usize]));
            let least = has.iter().filter(|piece| wanted[*piece as usize]).map(|piece| copies[piece as usize]).min();
            let rarest = rarity.rarest(&has, &mut random);
            prop_assert_eq!(rarest.map(|piece| copies[piece as usize]), least);
            prop_assert!(rarest.is_none_or(|piece| wanted[piece as usize] && has.contains(piece)));
        }
    }

    #[test]
    fn equally_rare_pieces_are_chosen_equally_often() {
        let mut random = fastrand::Rng::with_seed(4);
        let mut rarity = Rarity::new(PieceSet::full(PIECES));
        let tied = [3, 60, 64, 149];
        (0..PIECES).filter(|piece| !tied.contains(piece)).for_each(|piece| rarity.gained(piece));
        let mut chosen = [0; PIECES as usize];
        for _ in 0..4000 {
            chosen[rarity.rarest(&PieceSet::full(PIECES), &mut random).unwrap() as usize] += 1;
        }
        assert!(tied.iter().all(|piece| (900..1100).contains(&chosen[*piece as usize])), "{chosen:?}");
    }
}
