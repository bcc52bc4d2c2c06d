//! The artifact's bytes in their order, for who serves them other than by pieces.
//!
//! Promises what a seed does: each piece is checked before its first byte leaves, and a file that is no longer what was hashed is an error
//! that names it. Memory does not depend on the piece length.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    EngineError, Metainfo, Role,
    storage::{CHUNK, Storage, Threads},
};

/// An artifact that is open. Close it with [`Content::close`], which waits for its threads.
#[derive(Debug)]
pub(crate) struct Content {
    meta: Arc<Metainfo>,
    storage: Storage,
    threads: Threads,
}

impl Content {
    /// Opens an artifact, a file or a directory.
    pub(crate) async fn open(meta: Arc<Metainfo>, path: PathBuf) -> Result<Self, EngineError> {
        let of = meta.clone();
        let opened = tokio::task::spawn_blocking(move || Storage::open(of, &Role::Seed { file: path }));
        let (storage, threads, _) = opened.await.map_err(|error| EngineError::Engine(error.to_string()))??;
        Ok(Self { meta, storage, threads })
    }

    /// Returns some bytes from there on: at least one, at most a chunk of memory, and none from the end on.
    pub(crate) async fn read(&self, at: u64) -> Result<Bytes, EngineError> {
        if at >= self.meta.length() {
            return Ok(Bytes::new());
        }
        let length = u64::from(self.meta.piece_length());
        let (piece, within) = ((at / length) as u32, (at % length) as u32);
        let chunk = self.storage.read(piece, within / CHUNK).await?;
        Ok(chunk.slice((within % CHUNK) as usize..))
    }

    /// Closes it and waits for its threads.
    pub(crate) async fn close(self) {
        drop(self.storage);
        self.threads.join().await;
    }
}

#[cfg(test)]
mod tests {
    use sha1::{Digest as _, Sha1};

    use super::*;

    #[tokio::test]
    async fn the_bytes_come_in_order_from_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("artifact");
        let bytes: Vec<u8> = (0..(1 << 20) + 77_u32).map(|at| (at * 7 / 3) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        for piece in [1 << 16, 1 << 19] {
            let hashes = bytes.chunks(piece).map(|piece| Sha1::digest(piece).into()).collect();
            let meta = Metainfo::new("artifact", bytes.len() as u64, piece as u32, hashes).unwrap();
            let content = Content::open(Arc::new(meta), path.clone()).await.unwrap();
            for start in [0, 1, 65_535, 65_536, 300_000, bytes.len() - 1, bytes.len()] {
                let mut read = Vec::new();
                loop {
                    let more = content.read((start + read.len()) as u64).await.unwrap();
                    if more.is_empty() {
                        break;
                    }
                    read.extend_from_slice(&more);
                }
                assert!(read == bytes[start..], "from {start}");
            }
            content.close().await;
        }
    }
}
