//! The bytes behind a torrent: what is there, what comes in, what is read. On a host they are one file, whatever the artifact is; a seed
//! reads the artifact itself.
//!
//! All file access and all hashing happen on two threads of its own, never on the network's. Pieces travel in chunks of at most
//! 256 KiB, so memory does not depend on the piece length: a piece of one chunk is written after its hash was checked; a longer one
//! is hashed and written as it comes, in order, by one source at a time, and counts only when the hash of the whole is right.
//!
//! Promises: a piece is in `have` only if its bytes are in the file and have the right hash; a seed's piece is checked
//! before its first byte leaves, and its files' identities before every read; the file has its full size from the start. Never flushes
//! the file: what a power cut takes of it is found when its pieces are hashed at the next start.

mod cache;
mod open;
mod source;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use bytes::Bytes;
use sha1::Sha1;
use tokio::sync::{mpsc, oneshot};

use super::{EngineError, Metainfo, policy::PieceSet};
use source::Source;
use worker::Job;

/// The unit of memory and of file access in bytes.
pub(super) const CHUNK: u32 = 256 << 10;
/// Threads for file access and hashing.
const WORKERS: usize = 2;
/// Jobs that may wait for a thread; each holds at most one chunk.
const QUEUE: usize = 8;

/// Locks, whatever happened to the thread that held the lock: the state behind our locks is valid after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a received piece turned out.
#[derive(Debug)]
pub(super) enum Checked {
    /// The right hash; it is in the file.
    Good,
    /// The wrong hash; nothing of it counts.
    Bad,
    /// The file could not be written.
    Failed(EngineError),
}

/// What is called, on a storage thread, when a piece is checked.
pub(super) type Report = Box<dyn FnOnce(Checked) + Send>;

/// Where the bytes are.
#[derive(Debug)]
enum Content {
    /// A host's file.
    Partial { path: PathBuf, file: File },
    /// A seed's artifact.
    Source(Source),
}

/// A set of pieces that many threads read and some add to.
#[derive(Debug)]
struct SharedSet(Vec<AtomicU64>);

impl SharedSet {
    fn new(set: &PieceSet) -> Self {
        let words = Self((0..set.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect());
        set.iter().for_each(|piece| words.insert(piece));
        words
    }

    fn contains(&self, piece: u32) -> bool {
        self.0.get(piece as usize / 64).is_some_and(|word| word.load(Ordering::Acquire) >> (piece % 64) & 1 == 1)
    }

    fn insert(&self, piece: u32) {
        if let Some(word) = self.0.get(piece as usize / 64) {
            word.fetch_or(1 << (piece % 64), Ordering::Release);
        }
    }
}

#[derive(Debug)]
struct Shared {
    meta: Arc<Metainfo>,
    content: Content,
    have: SharedSet,
    /// Pieces of a source that were checked since it was opened.
    checked: SharedSet,
    cache: Mutex<cache::Cache>,
    /// Pieces of several chunks that are being written, and the number of the claim.
    claimed: Mutex<HashMap<u32, u64>>,
    next_claim: AtomicU64,
}

/// A handle to the storage; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    shared: Arc<Shared>,
    jobs: Vec<mpsc::Sender<Job>>,
}

/// The threads; they end when the last [`Storage`] is dropped.
#[derive(Debug)]
pub(super) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Waits for the threads' end. Every [`Storage`] must be gone.
    pub(super) async fn join(self) {
        let joined =
            tokio::task::spawn_blocking(move || self.0.into_iter().map(JoinHandle::join).filter(Result::is_err).count());
        if !matches!(joined.await, Ok(0)) {
            tracing::warn!("a storage thread panicked");
        }
    }
}

/// The exclusive right to write a piece of several chunks. Dropping it gives the right back: what is written under its number
/// afterwards is refused, so that nothing of it can end up in what the next one writes.
#[derive(Debug)]
pub(super) struct Claim {
    shared: Arc<Shared>,
    piece: u32,
    number: u64,
}

impl Claim {
    /// Returns the number to write under.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.shared.claimed).remove(&self.piece);
    }
}

/// A reserved place in the queue of a storage thread. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place<'a> {
    piece: u32,
    permit: mpsc::Permit<'a, Job>,
}

impl Place<'_> {
    /// Hashes the piece's last chunk, checks the piece, writes it if it is right, and calls `report`. A piece of several chunks
    /// needs the claim under which the others were appended.
    pub(super) fn finish(self, offset: u32, data: Bytes, hasher: Sha1, claim: Option<Claim>, report: Report) {
        self.permit.send(Job::Finish { piece: self.piece, offset, data, hasher, claim, report });
    }
}

impl Storage {
    fn start(shared: Shared) -> Result<(Self, Threads), EngineError> {
        let shared = Arc::new(shared);
        let mut jobs = Vec::new();
        let mut threads = Vec::new();
        for number in 0..WORKERS {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("storage-{number}"))
                .spawn(move || worker::run(&shared, receiver))
                .map_err(|source| EngineError::Io { what: "can't start a storage thread".into(), source })?;
            jobs.push(sender);
            threads.push(thread);
        }
        Ok((Self { shared, jobs }, Threads(threads)))
    }

    /// Returns whether a piece is verified and can be read.
    pub(super) fn has(&self, piece: u32) -> bool {
        self.shared.have.contains(piece)
    }

    /// Claims a piece for writing; none if another source is writing it. Pieces of one chunk need no claim.
    pub(super) fn claim(&self, piece: u32) -> Option<Claim> {
        match lock(&self.shared.claimed).entry(piece) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                let number = self.shared.next_claim.fetch_add(1, Ordering::Relaxed);
                entry.insert(number);
                Some(Claim { shared: self.shared.clone(), piece, number })
            }
        }
    }

    /// Hashes and writes a chunk that is not a piece's last; gives the hasher back, or none if the claim is gone.
    pub(super) async fn append(
        &self,
        piece: u32,
        offset: u32,
        data: Bytes,
        hasher: Sha1,
        claim: u64,
    ) -> Result<Option<Sha1>, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.submit(piece, Job::Append { piece, offset, data, hasher, claim, reply }).await?;
        answer.await.map_err(|_| stopped())?
    }

    /// Waits for a place in the queue for a piece's last chunk.
    pub(super) async fn reserve(&self, piece: u32) -> Result<Place<'_>, EngineError> {
        let jobs = self.jobs.get(piece as usize % WORKERS).ok_or_else(stopped)?;
        let permit = jobs.reserve().await.map_err(|_| stopped())?;
        Ok(Place { piece, permit })
    }

    /// Returns one chunk of a verified piece.
    pub(super) async fn read(&self, piece: u32, chunk: u32) -> Result<Bytes, EngineError> {
        if let Some(data) = lock(&self.shared.cache).get(piece, chunk) {
            return Ok(data);
        }
        let (reply, answer) = oneshot::channel();
        self.submit(piece, Job::Read { piece, chunk, reply }).await?;
        answer.await.map_err(|_| stopped())?
    }

    async fn submit(&self, piece: u32, job: Job) -> Result<(), EngineError> {
        match self.jobs.get(piece as usize % WORKERS) {
            Some(jobs) => jobs.send(job).await.map_err(|_| stopped()),
            None => Err(stopped()),
        }
    }
}

fn stopped() -> EngineError {
    EngineError::Engine("the storage has stopped".into())
}
