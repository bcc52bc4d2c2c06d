//! What a node has announced or will: its pieces in the order in which they were checked.
//!
//! Several announcements travel as one event, which only says where they begin in the sender's log and how many they are. So receivers read the logs of
//! other shards' nodes, while those go on writing. They never meet: a message arrives in a later window than it was sent in, and between two windows all threads
//! wait for each other.

use std::sync::atomic::{AtomicU32, Ordering};

/// One node's pieces.
#[derive(Debug)]
pub(super) struct Log(Box<[AtomicU32]>);

impl Log {
    /// Makes a log with room for so many pieces.
    pub(super) fn new(pieces: u32) -> Self {
        Self((0..pieces).map(|_| AtomicU32::new(0)).collect())
    }

    /// Writes the piece that comes at this place.
    pub(super) fn write(&self, at: u32, piece: u32) {
        if let Some(place) = self.0.get(at as usize) {
            place.store(piece, Ordering::Relaxed);
        }
    }

    /// Returns `count` pieces, which were written before, from a place on.
    pub(super) fn read(&self, first: u32, count: u32) -> impl Iterator<Item = u32> + Clone + '_ {
        let pieces = self.0.get(first as usize..(first + count) as usize).unwrap_or_default();
        pieces.iter().map(|piece| piece.load(Ordering::Relaxed))
    }
}
