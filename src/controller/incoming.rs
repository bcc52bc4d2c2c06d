//! An artifact that comes to this machine: written as it comes, and worth something only with its SHA-256.

use std::{io, path::Path};

use sha2::{Digest as _, Sha256};
use tokio::{fs::File, io::AsyncWriteExt as _};

use crate::model::Digest;

/// Why an artifact does not come from somewhere.
#[derive(Debug)]
pub(super) enum Miss {
    /// Who has it is to blame; why.
    Source(String),
    /// This machine is.
    Disk(io::Error),
}

/// A file that is being written.
pub(super) struct Incoming {
    file: File,
    hasher: Sha256,
    missing: u64,
}

impl Incoming {
    /// Begins a file that is to have so many bytes; one that is there is overwritten.
    pub(super) async fn create(path: &Path, size: u64) -> Result<Self, Miss> {
        let file = File::create(path).await.map_err(Miss::Disk)?;
        Ok(Self { file, hasher: Sha256::new(), missing: size })
    }

    /// Returns how many bytes are still missing.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// Writes what came.
    pub(super) async fn take(&mut self, data: &[u8]) -> Result<(), Miss> {
        let left = self.missing.checked_sub(data.len() as u64);
        self.missing = left.ok_or_else(|| Miss::Source("it sends more than it should".to_owned()))?;
        self.hasher.update(data);
        self.file.write_all(data).await.map_err(Miss::Disk)
    }

    /// Ends the file, which has to be whole and to have that SHA-256.
    pub(super) async fn finish(mut self, digest: &Digest) -> Result<(), Miss> {
        if self.missing > 0 {
            return Err(Miss::Source(format!("it ends {} bytes too early", self.missing)));
        }
        self.file.flush().await.map_err(Miss::Disk)?;
        let found = Digest(self.hasher.finalize().into());
        if found == *digest { Ok(()) } else { Err(Miss::Source(format!("its SHA-256 is {found}"))) }
    }
}
