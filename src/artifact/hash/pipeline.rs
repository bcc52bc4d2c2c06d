//! The pipeline: the calling thread reads, one thread feeds SHA-256, one SHA-1, all over the same few buffers.
//!
//! A buffer goes back to the reader when both hashers are done with it, so memory is bounded by [`BUFFERS`] and the reader
//! waits for the slower hasher. On two cores the SHA-256 thread keeps one busy, reading and SHA-1 share the other.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::ArtifactError;
use crate::model::Digest;

/// Length of a buffer in bytes: small enough that all of them together stay in the processor's cache.
const BUFFER: usize = 256 << 10;

/// How many buffers circulate.
const BUFFERS: usize = 16;

/// Calls of `progress` are at least this many bytes apart.
const PROGRESS_STEP: u64 = 1 << 20;

/// What one pass found.
pub(super) struct Sums {
    pub(super) digest: Digest,
    pub(super) pieces: Vec<[u8; 20]>,
}

/// Why a pass broke off; the path is added by the caller.
pub(super) enum PassError {
    Read { offset: u64, source: io::Error },
    Length,
    Threads(io::Error),
}

impl PassError {
    pub(super) fn at(self, path: &Path) -> ArtifactError {
        let path = path.into();
        match self {
            Self::Read { offset, source } => ArtifactError::Read { path, offset, source },
            Self::Length => ArtifactError::Changed { path },
            Self::Threads(source) => ArtifactError::Threads { path, source },
        }
    }
}

/// A filled buffer that several threads read. Whoever drops it last sends it back to the reader: no buffer can get lost, however
/// the threads interleave.
struct Shared {
    bytes: Vec<u8>,
    free: SyncSender<Vec<u8>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // There is room for all buffers; without a reader nobody needs it any more.
        let _ = self.free.send(std::mem::take(&mut self.bytes));
    }
}

/// The buffers that are not in use.
struct Pool {
    free: SyncSender<Vec<u8>>,
    reusable: Receiver<Vec<u8>>,
}

/// One hasher's end.
struct Feed(Receiver<Arc<Shared>>);

impl Feed {
    /// Calls `each` for every buffer until the reader hangs up.
    fn drain(self, mut each: impl FnMut(&[u8])) {
        for buffer in self.0 {
            each(&buffer.bytes);
        }
    }
}

/// Reads `file` from its start, which must give exactly `size` bytes, and hashes it; pieces only if a piece length is given.
pub(super) fn run(file: &File, size: u64, piece_length: Option<u32>, progress: &dyn Fn(u64)) -> Result<Sums, PassError> {
    let (free, reusable) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // Can't fail: the receiver lives and the channel has room.
        let _ = free.send(Vec::with_capacity(BUFFER));
    }
    thread::scope(|scope| {
        let (to_sha256, filled) = sync_channel(BUFFERS);
        let sha256 = thread::Builder::new().name("sha256".into()).spawn_scoped(scope, move || sha256(Feed(filled)));
        let sha256 = sha256.map_err(PassError::Threads)?;
        let mut feeds = vec![to_sha256];
        let mut sha1 = None;
        if let Some(piece_length) = piece_length {
            let (to_sha1, filled) = sync_channel(BUFFERS);
            let work = move || sha1_pieces(Feed(filled), size, piece_length);
            sha1 = Some(thread::Builder::new().name("sha1".into()).spawn_scoped(scope, work).map_err(PassError::Threads)?);
            feeds.push(to_sha1);
        }
        let pool = Pool { free, reusable };
        let read = read_all(file, size, &pool, &feeds, progress);
        // Hanging up is what ends the hashers.
        drop(feeds);
        let digest = sha256.join().map_err(|_| died())?;
        let pieces = sha1.map(|thread| thread.join()).transpose().map_err(|_| died())?.unwrap_or_default();
        read?;
        Ok(Sums { digest, pieces })
    })
}

fn died() -> PassError {
    PassError::Threads(io::Error::other("a hashing thread ended early"))
}

fn read_all(
    mut file: &File,
    size: u64,
    pool: &Pool,
    feeds: &[SyncSender<Arc<Shared>>],
    progress: &dyn Fn(u64),
) -> Result<(), PassError> {
    let mut offset = 0;
    let mut reported = 0;
    while offset < size {
        let mut bytes = pool.reusable.recv().map_err(|_| died())?;
        bytes.clear();
        let want = (size - offset).min(BUFFER as u64);
        let got = file.by_ref().take(want).read_to_end(&mut bytes).map_err(|source| PassError::Read { offset, source })?;
        if got as u64 != want {
            return Err(PassError::Length);
        }
        offset += want;
        let buffer = Arc::new(Shared { bytes, free: pool.free.clone() });
        for feed in feeds {
            feed.send(buffer.clone()).map_err(|_| died())?;
        }
        if offset - reported >= PROGRESS_STEP || offset == size {
            reported = offset;
            progress(offset);
        }
    }
    match file.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(PassError::Length),
        Err(source) => Err(PassError::Read { offset, source }),
    }
}

fn sha256(feed: Feed) -> Digest {
    let mut hasher = Sha256::new();
    feed.drain(|bytes| hasher.update(bytes));
    Digest(hasher.finalize().into())
}

fn sha1_pieces(feed: Feed, size: u64, piece_length: u32) -> Vec<[u8; 20]> {
    let mut pieces = Vec::with_capacity(usize::try_from(size.div_ceil(piece_length.into())).unwrap_or(0).min(1 << 20));
    let mut hasher = Sha1::new();
    let mut missing = piece_length as usize;
    feed.drain(|mut bytes| {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            hasher.update(part);
            missing -= part.len();
            bytes = rest;
            if missing == 0 {
                pieces.push(hasher.finalize_reset().into());
                missing = piece_length as usize;
            }
        }
    });
    if missing != piece_length as usize {
        pieces.push(hasher.finalize().into());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_whoever_lets_go_of_it_last() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (free, reusable) = sync_channel(1);
            let reader = Arc::new(Shared { bytes: vec![7; 9], free });
            let mut holders = [Some(reader.clone()), Some(reader.clone()), Some(reader)];
            for (dropped, holder) in order.into_iter().enumerate() {
                assert!(reusable.try_recv().is_err(), "{order:?}: back after {dropped} of 3");
                holders[holder] = None;
            }
            assert_eq!(reusable.try_recv(), Ok(vec![7; 9]), "{order:?}");
        }
    }
}
