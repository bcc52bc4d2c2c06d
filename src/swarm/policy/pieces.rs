//! A set of piece indices, and its form on the wire (BEP 3's bitfield).

/// Words of a set that needs no memory of its own.
const INLINE: usize = 32;

/// A fixed-size set of pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceSet {
    words: Words,
    len: u32,
    count: u32,
}

/// Up to 2,048 pieces are kept in place: looking into a neighbour's set then waits for memory once and not twice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "being in place is what it is for")]
enum Words {
    Few([u64; INLINE]),
    Many(Box<[u64]>),
}

impl PieceSet {
    /// Returns an empty set for pieces below `len`.
    pub fn new(len: u32) -> Self {
        let count = len.div_ceil(64) as usize;
        let words = if count <= INLINE { Words::Few([0; INLINE]) } else { Words::Many(vec![0; count].into()) };
        Self { words, len, count: 0 }
    }

    /// Returns the set of all pieces below `len`.
    pub fn full(len: u32) -> Self {
        Self::new(len).complement()
    }

    /// Reads a bitfield; none if its length is wrong or a spare bit is set.
    pub fn from_wire(bytes: &[u8], len: u32) -> Option<Self> {
        if bytes.len() != len.div_ceil(8) as usize {
            return None;
        }
        let mut set = Self::new(len);
        for (index, byte) in bytes.iter().enumerate() {
            for bit in 0..8 {
                let set_bit = byte & (0x80 >> bit) != 0;
                if set_bit && !set.insert(index as u32 * 8 + bit) {
                    return None;
                }
            }
        }
        Some(set)
    }

    /// Returns the bitfield.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len.div_ceil(8) as usize];
        for piece in self.iter() {
            bytes[piece as usize / 8] |= 0x80 >> (piece % 8);
        }
        bytes
    }

    /// Returns whether the piece is in.
    pub fn contains(&self, piece: u32) -> bool {
        self.words().get(piece as usize / 64).is_some_and(|word| word >> (piece % 64) & 1 == 1)
    }

    /// Adds a piece; false if it was in or is out of range.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.len || self.contains(piece) {
            return false;
        }
        self.words_mut()[piece as usize / 64] |= 1 << (piece % 64);
        self.count += 1;
        true
    }

    /// Takes a piece out; false if it was not in.
    pub fn remove(&mut self, piece: u32) -> bool {
        if !self.contains(piece) {
            return false;
        }
        self.words_mut()[piece as usize / 64] &= !(1 << (piece % 64));
        self.count -= 1;
        true
    }

    /// Returns how many pieces are in.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns the pieces as bits: bit `b` of word `w` is piece `64 w + b`.
    pub(super) fn words(&self) -> &[u64] {
        match &self.words {
            Words::Few(words) => &words[..self.len.div_ceil(64) as usize],
            Words::Many(words) => words,
        }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        match &mut self.words {
            Words::Few(words) => &mut words[..self.len.div_ceil(64) as usize],
            Words::Many(words) => words,
        }
    }

    /// Returns the pieces that are not in.
    pub(in crate::swarm) fn complement(&self) -> Self {
        let mut set = self.clone();
        let spare = (64 - self.len % 64) % 64;
        set.count = self.len - self.count;
        let words = set.words_mut();
        words.iter_mut().for_each(|word| *word = !*word);
        if let Some(last) = words.last_mut() {
            *last &= u64::MAX >> spare;
        }
        set
    }

    /// Returns the pieces that are in both sets.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |own, other| own & other)
    }

    /// Returns the pieces that are in one of the sets.
    pub(super) fn union(&self, other: &Self) -> Self {
        self.combine(other, |own, other| own | other)
    }

    /// Returns the pieces that are not in the other set.
    pub(super) fn without(&self, other: &Self) -> Self {
        self.combine(other, |own, other| own & !other)
    }

    /// Combines two sets of the same length.
    fn combine(&self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let mut set = self.clone();
        set.words_mut().iter_mut().zip(other.words()).for_each(|(own, other)| *own = with(*own, *other));
        set.count = set.words().iter().map(|word| word.count_ones()).sum();
        set
    }

    /// Returns whether a piece is in that is not in the other set.
    pub(super) fn exceeds(&self, other: &Self) -> bool {
        self.words().iter().zip(other.words()).any(|(own, other)| own & !other != 0)
    }

    /// Returns whether a piece is in both sets.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.words().iter().zip(other.words()).any(|(own, other)| own & other != 0)
    }

    /// Returns the last piece that is in.
    pub(super) fn last(&self) -> Option<u32> {
        let words = self.words().iter().enumerate().rev();
        words.filter(|(_, word)| **word != 0).map(|(index, word)| index as u32 * 64 + 63 - word.leading_zeros()).next()
    }

    /// Returns how many pieces there can be.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Returns whether no piece is in.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns whether every piece is in.
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Returns the pieces in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words().iter().enumerate().flat_map(|(index, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                (word != 0).then(|| {
                    let bit = word.trailing_zeros();
                    word &= word - 1;
                    index as u32 * 64 + bit
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_bitfields_are_refused() {
        assert!(PieceSet::from_wire(&[0xff, 0x80], 9).is_some_and(|set| set.is_full()));
        assert!(PieceSet::from_wire(&[0xff, 0xc0], 9).is_none(), "a spare bit was accepted");
        assert!(PieceSet::from_wire(&[0xff], 9).is_none());
        assert!(PieceSet::from_wire(&[0xff, 0, 0], 9).is_none());
    }

    proptest! {
        #[test]
        fn wire_round_trip(len in prop_oneof![1u32..300, 2040u32..2100], pieces in prop::collection::vec(0u32..2100, 0..100)) {
            let mut set = PieceSet::new(len);
            for piece in pieces {
                set.insert(piece);
            }
            prop_assert_eq!(PieceSet::from_wire(&set.to_wire(), len), Some(set.clone()));
            prop_assert_eq!(set.iter().count() as u32, set.count());
            let rest = set.complement();
            prop_assert_eq!((rest.count(), rest.iter().count() as u32), (len - set.count(), len - set.count()));
            prop_assert!(rest.iter().all(|piece| !set.contains(piece)));
            prop_assert_eq!((set.without(&rest), set.intersection(&rest)), (set.clone(), PieceSet::new(len)));
            prop_assert_eq!(set.union(&rest), PieceSet::full(len));
            prop_assert_eq!((set.exceeds(&rest), set.exceeds(&set)), (!set.is_empty(), false));
            prop_assert_eq!((set.meets(&rest), set.meets(&set)), (false, !set.is_empty()));
            prop_assert_eq!(set.last(), set.iter().last());
        }
    }
}
