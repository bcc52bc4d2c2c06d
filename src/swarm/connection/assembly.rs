//! A piece on its way in: at most two chunks in memory.

use std::{collections::VecDeque, time::Instant};

use bytes::{Bytes, BytesMut};
use sha1::Sha1;

use crate::swarm::{
    protocol::{BLOCK, Violation},
    storage::CHUNK,
};

/// How many chunks may be incomplete.
const OPEN_CHUNKS: usize = 2;

/// One piece.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) piece: u32,
    /// The number of the request it is for.
    pub(super) serial: u64,
    pub(super) pushed: bool,
    /// When progress was last reported.
    pub(super) reported: Option<Instant>,
    /// Its hash up to `first`.
    pub(super) hasher: Sha1,
    /// The number of the claim to write it under, if it has several chunks.
    pub(super) claim: Option<u64>,
    size: u32,
    /// The index of the first open chunk.
    first: u32,
    open: VecDeque<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    data: BytesMut,
    /// A bit for each block that came.
    came: u32,
    blocks: u32,
}

impl Assembly {
    pub(super) fn new(piece: u32, serial: u64, size: u32, pushed: bool, claim: Option<u64>) -> Self {
        Self { piece, serial, pushed, reported: None, hasher: Sha1::default(), claim, size, first: 0, open: VecDeque::new() }
    }

    /// Returns where a block's bytes go; none if it came before, or is left from an earlier request and far ahead.
    pub(super) fn slot(&mut self, begin: u32, length: u32) -> Result<Option<&mut [u8]>, Violation> {
        if !begin.is_multiple_of(BLOCK) || begin >= self.size || length != (self.size - begin).min(BLOCK) {
            return Err(Violation("it sent a block of a shape that was not asked for"));
        }
        let Some(ahead) = (begin / CHUNK).checked_sub(self.first) else { return Ok(None) };
        if ahead as usize >= OPEN_CHUNKS {
            return Ok(None);
        }
        while self.open.len() <= ahead as usize {
            let start = (self.first + self.open.len() as u32) * CHUNK;
            let length = self.size.saturating_sub(start).min(CHUNK);
            self.open.push_back(Chunk { data: BytesMut::zeroed(length as usize), came: 0, blocks: length.div_ceil(BLOCK) });
        }
        let Some(chunk) = self.open.get_mut(ahead as usize) else { return Ok(None) };
        let within = begin % CHUNK;
        if chunk.came >> (within / BLOCK) & 1 == 1 {
            return Ok(None);
        }
        Ok(chunk.data.get_mut(within as usize..(within + length) as usize))
    }

    /// Notes that a slot is filled.
    pub(super) fn filled(&mut self, begin: u32) {
        let ahead = (begin / CHUNK).saturating_sub(self.first);
        if let Some(chunk) = self.open.get_mut(ahead as usize) {
            chunk.came |= 1 << (begin % CHUNK / BLOCK);
        }
    }

    /// Takes the first chunk out if it is complete: its offset in the piece, its bytes, and whether it is the last.
    pub(super) fn take_chunk(&mut self) -> Option<(u32, Bytes, bool)> {
        let chunk = self.open.front()?;
        if chunk.came.count_ones() < chunk.blocks {
            return None;
        }
        let data = self.open.pop_front()?.data.freeze();
        let offset = self.first * CHUNK;
        self.first += 1;
        Some((offset, data, self.first * CHUNK >= self.size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_come_out_whole_and_in_order(size in 1u32..1_200_000, swaps in prop::collection::vec(0usize..80, 0..40)) {
            let mut blocks: Vec<u32> = (0..size.div_ceil(BLOCK)).collect();
            for at in swaps {
                if at + 1 < blocks.len() {
                    blocks.swap(at, at + 1);
                }
            }
            let mut assembly = Assembly::new(0, 0, size, false, None);
            let mut out = Vec::new();
            let mut last = false;
            for block in blocks {
                let begin = block * BLOCK;
                let length = (size - begin).min(BLOCK);
                let slot = assembly.slot(begin, length);
                // Far out of order is refused; the neighbours' swaps here never are.
                let slot = slot.unwrap().unwrap();
                slot.fill(block as u8);
                assembly.filled(begin);
                prop_assert!(assembly.slot(begin, length).unwrap().is_none(), "a block was accepted twice");
                while let Some((offset, data, end)) = assembly.take_chunk() {
                    prop_assert_eq!(offset as usize, out.len());
                    out.extend_from_slice(&data);
                    last |= end;
                }
            }
            prop_assert!(last);
            prop_assert_eq!(out.len(), size as usize);
            prop_assert!(out.iter().enumerate().all(|(at, byte)| *byte == (at as u32 / BLOCK) as u8));
        }

        #[test]
        fn any_block_is_an_answer(size in 1u32..600_000, begin: u32, length: u32) {
            let _ = Assembly::new(0, 0, size, false, None).slot(begin, length);
        }
    }
}
