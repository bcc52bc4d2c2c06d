//! The pipeline: the calling thread reads, one thread feeds SHA-256, one SHA-1, for a directory one its files' SHA-256, all over the same
//! few buffers.
//!
//! A buffer goes back to the reader when both hashers are done with it, so memory is bounded by [`BUFFERS`] and the reader
//! waits for the slower hasher. On two cores the SHA-256 thread keeps one busy, reading and SHA-1 share the other.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use sha1::Sha1;
use sha2::{
    Digest as _, Sha256,
    digest::{FixedOutputReset, Output},
};

use super::ArtifactError;
use crate::model::Digest;

/// Length of a buffer in bytes: small enough that all of them together stay in the processor's cache.
const BUFFER: usize = 256 << 10;

/// How many buffers circulate.
const BUFFERS: usize = 16;

/// Calls of `progress` are at least this many bytes apart.
const PROGRESS_STEP: u64 = 1 << 20;

/// What is read.
pub(in crate::artifact) trait Input {
    /// Appends the next bytes, exactly so many.
    fn read(&mut self, bytes: &mut Vec<u8>, want: u64) -> Result<(), ArtifactError>;

    /// Checks, when everything was read, that it was what it should be.
    fn end(&mut self) -> Result<(), ArtifactError>;
}

/// What one pass is to find.
pub(in crate::artifact) struct Wanted {
    /// How many bytes there are.
    pub(in crate::artifact) size: u64,
    /// SHA-1 of the pieces, if they have a length.
    pub(in crate::artifact) piece_length: Option<u32>,
    /// SHA-256 of the files, if the bytes are those of files with these lengths, none of them 0.
    pub(in crate::artifact) files: Option<Vec<u64>>,
}

/// What one pass found.
pub(in crate::artifact) struct Sums {
    pub(in crate::artifact) digest: Digest,
    pub(in crate::artifact) pieces: Vec<[u8; 20]>,
    #[cfg_attr(not(feature = "controller"), expect(dead_code, reason = "only the controller hashes directories"))]
    pub(in crate::artifact) files: Vec<Digest>,
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

/// Reads all of `input` and hashes it. `path` is for the errors.
pub(in crate::artifact) fn run(
    input: &mut dyn Input,
    path: &Path,
    wanted: Wanted,
    progress: &dyn Fn(u64),
) -> Result<Sums, ArtifactError> {
    let failed = |source| ArtifactError::Threads { path: path.into(), source };
    let Wanted { size, piece_length, files } = wanted;
    let (free, reusable) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // Can't fail: the receiver lives and the channel has room.
        let _ = free.send(Vec::with_capacity(BUFFER));
    }
    thread::scope(|scope| {
        let mut feeds = Vec::new();
        let mut feed = || {
            let (feed, filled) = sync_channel(BUFFERS);
            feeds.push(feed);
            Feed(filled)
        };
        let thread = |name: &str| thread::Builder::new().name(name.into());
        let (whole, whole_length) = (feed(), std::iter::once(u64::MAX));
        let whole = thread("sha256").spawn_scoped(scope, move || cut::<Sha256>(whole, whole_length)).map_err(failed)?;
        let pieces = piece_length.map(|length| (feed(), std::iter::repeat(u64::from(length))));
        let pieces = pieces.map(|(feed, lengths)| thread("sha1").spawn_scoped(scope, move || cut::<Sha1>(feed, lengths)));
        let pieces = pieces.transpose().map_err(failed)?;
        let files = files.map(|lengths| (feed(), lengths.into_iter()));
        let files = files.map(|(feed, lengths)| thread("files").spawn_scoped(scope, move || cut::<Sha256>(feed, lengths)));
        let files = files.transpose().map_err(failed)?;
        let pool = Pool { free, reusable };
        let read = read_all(input, size, &pool, &feeds, progress).unwrap_or_else(|error| Err(failed(error)));
        // Hanging up is what ends the hashers.
        drop(feeds);
        let whole = whole.join().map_err(|_| failed(died()))?;
        let pieces = pieces.map(|thread| thread.join()).transpose().map_err(|_| failed(died()))?;
        let files = files.map(|thread| thread.join()).transpose().map_err(|_| failed(died()))?;
        read?;
        // Nothing was read of what has no bytes.
        let digest = whole.into_iter().next().unwrap_or_else(|| Sha256::digest([]));
        Ok(Sums {
            digest: Digest(digest.into()),
            pieces: pieces.into_iter().flatten().map(Into::into).collect(),
            files: files.into_iter().flatten().map(|sum| Digest(sum.into())).collect(),
        })
    })
}

fn died() -> io::Error {
    io::Error::other("a hashing thread ended early")
}

/// Reads everything and hands it out. The outer error is that of a thread that died.
fn read_all(
    input: &mut dyn Input,
    size: u64,
    pool: &Pool,
    feeds: &[SyncSender<Arc<Shared>>],
    progress: &dyn Fn(u64),
) -> io::Result<Result<(), ArtifactError>> {
    let mut offset = 0;
    let mut reported = 0;
    while offset < size {
        let mut bytes = pool.reusable.recv().map_err(|_| died())?;
        bytes.clear();
        let want = (size - offset).min(BUFFER as u64);
        if let Err(error) = input.read(&mut bytes, want) {
            return Ok(Err(error));
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
    Ok(input.end())
}

/// Hashes the stream in parts of these lengths; the last may be shorter, and what is left after the last length is one more.
fn cut<D: sha2::Digest + FixedOutputReset>(feed: Feed, mut lengths: impl Iterator<Item = u64>) -> Vec<Output<D>> {
    let mut sums = Vec::new();
    let mut hasher = D::new();
    let mut next = || lengths.next().unwrap_or(u64::MAX);
    let mut length = next();
    let mut missing = length;
    feed.drain(|mut bytes| {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(missing.min(bytes.len() as u64) as usize);
            sha2::Digest::update(&mut hasher, part);
            missing -= part.len() as u64;
            bytes = rest;
            if missing == 0 {
                sums.push(hasher.finalize_reset());
                length = next();
                missing = length;
            }
        }
    });
    if missing != length {
        sums.push(hasher.finalize());
    }
    sums
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
