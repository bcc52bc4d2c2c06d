//! The chunks used last, so that a piece that has just come is passed on without reading it back.

use std::collections::VecDeque;

use bytes::Bytes;

/// The most bytes kept.
const LIMIT: usize = 4 << 20;

/// Chunks by piece and chunk index, the most recent last.
#[derive(Debug, Default)]
pub(super) struct Cache {
    chunks: VecDeque<(u32, u32, Bytes)>,
    bytes: usize,
}

impl Cache {
    /// Returns a chunk and makes it the most recent.
    pub(super) fn get(&mut self, piece: u32, chunk: u32) -> Option<Bytes> {
        let at = self.chunks.iter().rposition(|(p, c, _)| (*p, *c) == (piece, chunk))?;
        let entry = self.chunks.remove(at)?;
        let data = entry.2.clone();
        self.chunks.push_back(entry);
        Some(data)
    }

    /// Adds a chunk and drops the oldest that no longer fit.
    pub(super) fn put(&mut self, piece: u32, chunk: u32, data: Bytes) {
        if self.get(piece, chunk).is_some() {
            return;
        }
        self.bytes += data.len();
        self.chunks.push_back((piece, chunk, data));
        while self.bytes > LIMIT {
            let Some((.., old)) = self.chunks.pop_front() else { return };
            self.bytes -= old.len();
        }
    }
}
