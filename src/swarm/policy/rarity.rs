//! The wanted pieces in order of rarity, kept up to date in constant time per `have`.
//!
//! `order` holds the wanted pieces sorted by how many neighbours have them; `ends[a]` is where those with at most `a` copies
//! end. A piece that moves to the next level trades places with the last of its level, then with a random one of the next: so ties
//! are broken at random, differently on every host.

/// Marks a piece that is not wanted now.
const ABSENT: u32 = u32::MAX;

/// The order.
#[derive(Debug)]
pub(super) struct Rarity {
    copies: Vec<u16>,
    order: Vec<u32>,
    place: Vec<u32>,
    ends: Vec<usize>,
}

impl Rarity {
    /// Starts with the pieces below `len` for which `wanted` is true, all without copies.
    pub(super) fn new(len: u32, wanted: impl Fn(u32) -> bool, random: &mut fastrand::Rng) -> Self {
        let mut order: Vec<u32> = (0..len).filter(|piece| wanted(*piece)).collect();
        random.shuffle(&mut order);
        let mut place = vec![ABSENT; len as usize];
        for (at, piece) in order.iter().enumerate() {
            place[*piece as usize] = at as u32;
        }
        let ends = vec![order.len()];
        Self { copies: vec![0; len as usize], order, place, ends }
    }

    /// Returns how many neighbours have the piece (those that have everything are not counted).
    pub(super) fn copies(&self, piece: u32) -> u16 {
        self.copies[piece as usize]
    }

    /// Returns whether the piece is wanted and nobody is asked for it.
    pub(super) fn contains(&self, piece: u32) -> bool {
        self.place[piece as usize] != ABSENT
    }

    /// Returns whether no piece is left to ask for.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns the rarest wanted piece that passes `test`; `with_copies` skips those that no neighbour has.
    pub(super) fn rarest(&self, with_copies: bool, test: impl Fn(u32) -> bool) -> Option<u32> {
        let start = if with_copies { self.ends[0] } else { 0 };
        self.order[start..].iter().copied().find(|piece| test(*piece))
    }

    /// Counts one more copy.
    pub(super) fn gained(&mut self, piece: u32, random: &mut fastrand::Rng) {
        let level = self.copies[piece as usize] as usize;
        self.copies[piece as usize] += 1;
        if self.ends.len() <= level + 1 {
            self.ends.push(self.order.len());
        }
        if self.contains(piece) {
            let last = self.ends[level] - 1;
            self.swap(self.place[piece as usize] as usize, last);
            self.ends[level] = last;
            self.swap(last, random.usize(last..self.ends[level + 1]));
        }
    }

    /// Counts one copy less.
    pub(super) fn lost(&mut self, piece: u32, random: &mut fastrand::Rng) {
        let Some(level) = (self.copies[piece as usize] as usize).checked_sub(1) else { return };
        self.copies[piece as usize] -= 1;
        if self.contains(piece) {
            let first = self.ends[level];
            self.swap(self.place[piece as usize] as usize, first);
            self.ends[level] += 1;
            let from = if level == 0 { 0 } else { self.ends[level - 1] };
            self.swap(first, random.usize(from..self.ends[level]));
        }
    }

    /// Takes a piece out, because it is there or somebody is asked for it. False if it was out.
    pub(super) fn take(&mut self, piece: u32) -> bool {
        if !self.contains(piece) {
            return false;
        }
        let mut at = self.place[piece as usize] as usize;
        for level in self.copies[piece as usize] as usize..self.ends.len() {
            let last = self.ends[level] - 1;
            self.swap(at, last);
            self.ends[level] = last;
            at = last;
        }
        self.order.pop();
        self.place[piece as usize] = ABSENT;
        true
    }

    /// Puts a piece back. False if it was in.
    pub(super) fn put(&mut self, piece: u32) -> bool {
        if self.contains(piece) {
            return false;
        }
        let mut at = self.order.len();
        self.order.push(piece);
        self.place[piece as usize] = at as u32;
        for level in (self.copies[piece as usize] as usize + 1..self.ends.len()).rev() {
            let first = self.ends[level - 1];
            self.swap(at, first);
            self.ends[level] += 1;
            at = first;
        }
        let level = self.copies[piece as usize] as usize;
        self.ends[level] += 1;
        true
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.order.swap(a, b);
        self.place[self.order[a] as usize] = a as u32;
        self.place[self.order[b] as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(rarity: &Rarity) {
        assert!(rarity.order.windows(2).all(|pair| rarity.copies(pair[0]) <= rarity.copies(pair[1])));
        for (level, end) in rarity.ends.iter().enumerate() {
            let count = rarity.order.iter().filter(|piece| rarity.copies(**piece) as usize <= level).count();
            assert_eq!(count, *end, "level {level}");
        }
        for (at, piece) in rarity.order.iter().enumerate() {
            assert_eq!(rarity.place[*piece as usize] as usize, at);
        }
    }

    proptest! {
        #[test]
        fn stays_sorted(seed: u64, steps in prop::collection::vec((0u8..4, 0u32..20), 0..300)) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut rarity = Rarity::new(20, |piece| piece != 3, &mut random);
            for (step, piece) in steps {
                match step {
                    0 => rarity.gained(piece, &mut random),
                    1 => rarity.lost(piece, &mut random),
                    2 => { rarity.take(piece); }
                    _ => { rarity.put(piece); }
                }
                check(&rarity);
            }
            let rarest = rarity.rarest(false, |_| true);
            prop_assert_eq!(rarest.map(|p| rarity.copies(p)), rarity.order.iter().map(|p| rarity.copies(*p)).min());
        }
    }
}
