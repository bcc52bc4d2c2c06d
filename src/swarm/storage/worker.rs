//! What the storage threads do.

use std::{
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use tokio::sync::{mpsc, oneshot};

use super::{CHUNK, Checked, Claim, Identity, Report, Shared, lock};
use crate::swarm::EngineError;

/// One thing to do.
pub(super) enum Job {
    Append {
        piece: u32,
        offset: u32,
        data: Bytes,
        hasher: Sha1,
        claim: u64,
        reply: oneshot::Sender<Result<Option<Sha1>, EngineError>>,
    },
    Finish {
        piece: u32,
        offset: u32,
        data: Bytes,
        hasher: Sha1,
        claim: Option<Claim>,
        report: Report,
    },
    Read {
        piece: u32,
        chunk: u32,
        reply: oneshot::Sender<Result<Bytes, EngineError>>,
    },
}

/// Works until every sender is gone. Nobody waiting for an answer any more is not an error.
pub(super) fn run(shared: &Shared, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Append { piece, offset, data, hasher, claim, reply } => {
                let _ = reply.send(shared.append(piece, offset, &data, hasher, claim));
            }
            Job::Finish { piece, offset, data, hasher, claim, report } => {
                let checked = shared.finish(piece, offset, data, hasher);
                drop(claim);
                report(checked);
            }
            Job::Read { piece, chunk, reply } => {
                let _ = reply.send(shared.read(piece, chunk));
            }
        }
    }
}

impl Shared {
    pub(super) fn error(&self, what: &str, source: io::Error) -> EngineError {
        EngineError::Io { what: format!("{what} {}", self.path.display()), source }
    }

    fn write(&self, piece: u32, offset: u32, data: &[u8]) -> Result<(), EngineError> {
        // A verified piece is never written again, whoever sends it.
        if self.have.contains(piece) {
            return Ok(());
        }
        let at = self.meta.piece_offset(piece) + u64::from(offset);
        self.file.write_all_at(data, at).map_err(|source| self.error("can't write", source))
    }

    /// Jobs of one piece run on one thread in their order, so what is refused here can't overtake what a later claim writes.
    fn append(&self, piece: u32, offset: u32, data: &[u8], mut hasher: Sha1, claim: u64) -> Result<Option<Sha1>, EngineError> {
        if lock(&self.claimed).get(&piece) != Some(&claim) {
            return Ok(None);
        }
        hasher.update(data);
        self.write(piece, offset, data)?;
        Ok(Some(hasher))
    }

    fn finish(&self, piece: u32, offset: u32, data: Bytes, mut hasher: Sha1) -> Checked {
        hasher.update(&data);
        let hash: [u8; 20] = hasher.finalize().into();
        if self.meta.piece_hash(piece) != Some(&hash) {
            return Checked::Bad;
        }
        if let Err(error) = self.write(piece, offset, &data) {
            return Checked::Failed(error);
        }
        self.have.insert(piece);
        lock(&self.cache).put(piece, offset / CHUNK, data);
        Checked::Good
    }

    fn read(&self, piece: u32, chunk: u32) -> Result<Bytes, EngineError> {
        if let Some(before) = self.source {
            let now = Identity::of(&self.file).map_err(|source| self.error("can't look at", source))?;
            if now != before {
                return Err(self.changed(piece));
            }
            if !self.checked.contains(piece) {
                self.check_source(piece)?;
            }
        }
        let data = self.read_chunk(piece, chunk)?;
        lock(&self.cache).put(piece, chunk, data.clone());
        Ok(data)
    }

    /// Reads a piece of the artifact for the first time and checks it.
    fn check_source(&self, piece: u32) -> Result<(), EngineError> {
        let size = self.meta.piece_size(piece).unwrap_or(0);
        let mut hasher = Sha1::new();
        for chunk in 0..size.div_ceil(CHUNK) {
            let data = self.read_chunk(piece, chunk)?;
            hasher.update(&data);
            lock(&self.cache).put(piece, chunk, data);
        }
        let hash: [u8; 20] = hasher.finalize().into();
        if self.meta.piece_hash(piece) != Some(&hash) {
            return Err(self.changed(piece));
        }
        self.checked.insert(piece);
        Ok(())
    }

    fn read_chunk(&self, piece: u32, chunk: u32) -> Result<Bytes, EngineError> {
        if let Some(data) = lock(&self.cache).get(piece, chunk) {
            return Ok(data);
        }
        let size = self.meta.piece_size(piece).unwrap_or(0);
        let start = chunk.saturating_mul(CHUNK).min(size);
        let mut data = BytesMut::zeroed((size - start).min(CHUNK) as usize);
        let at = self.meta.piece_offset(piece) + u64::from(start);
        match self.file.read_exact_at(&mut data, at) {
            Ok(()) => Ok(data.freeze()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.source.is_some() => Err(self.changed(piece)),
            Err(source) => Err(self.error("can't read", source)),
        }
    }

    fn changed(&self, piece: u32) -> EngineError {
        EngineError::SourceChanged { path: self.path.clone(), piece }
    }
}

impl Identity {
    /// Looks at an open file.
    pub(super) fn of(file: &std::fs::File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { device: meta.dev(), inode: meta.ino(), size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}
