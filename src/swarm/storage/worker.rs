//! What the storage threads do.

use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use tokio::sync::{mpsc, oneshot};

use super::{CHUNK, Checked, Claim, Content, Report, Shared, Source, lock};
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
    fn write(&self, piece: u32, offset: u32, data: &[u8]) -> Result<(), EngineError> {
        // A verified piece is never written again, whoever sends it; a source has all of them.
        let Content::Partial { path, file } = &self.content else { return Ok(()) };
        if self.have.contains(piece) {
            return Ok(());
        }
        let at = self.meta.piece_offset(piece) + u64::from(offset);
        file.write_all_at(data, at)
            .map_err(|source| EngineError::Io { what: format!("can't write {}", path.display()), source })
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
        if let Content::Source(source) = &self.content {
            let (start, length) = self.bounds(piece, chunk);
            source.check(&self.meta, start..start + length as u64)?;
            if !self.checked.contains(piece) {
                self.check_source(source, piece)?;
            }
        }
        let data = self.read_chunk(piece, chunk)?;
        lock(&self.cache).put(piece, chunk, data.clone());
        Ok(data)
    }

    /// Reads a piece of the artifact for the first time and checks it.
    fn check_source(&self, source: &Source, piece: u32) -> Result<(), EngineError> {
        let size = self.meta.piece_size(piece).unwrap_or(0);
        let mut hasher = Sha1::new();
        for chunk in 0..size.div_ceil(CHUNK) {
            let data = self.read_chunk(piece, chunk)?;
            hasher.update(&data);
            lock(&self.cache).put(piece, chunk, data);
        }
        let hash: [u8; 20] = hasher.finalize().into();
        if self.meta.piece_hash(piece) != Some(&hash) {
            return Err(source.changed(&self.meta, piece));
        }
        self.checked.insert(piece);
        Ok(())
    }

    fn read_chunk(&self, piece: u32, chunk: u32) -> Result<Bytes, EngineError> {
        if let Some(data) = lock(&self.cache).get(piece, chunk) {
            return Ok(data);
        }
        let (start, length) = self.bounds(piece, chunk);
        let mut data = BytesMut::zeroed(length);
        match &self.content {
            Content::Source(source) => source.read(&self.meta, &mut data, start)?,
            Content::Partial { path, file } => file
                .read_exact_at(&mut data, start)
                .map_err(|source| EngineError::Io { what: format!("can't read {}", path.display()), source })?,
        }
        Ok(data.freeze())
    }

    /// Returns where a chunk begins in the torrent's bytes, and its length.
    fn bounds(&self, piece: u32, chunk: u32) -> (u64, usize) {
        let size = self.meta.piece_size(piece).unwrap_or(0);
        let start = chunk.saturating_mul(CHUNK).min(size);
        (self.meta.piece_offset(piece) + u64::from(start), (size - start).min(CHUNK) as usize)
    }
}
