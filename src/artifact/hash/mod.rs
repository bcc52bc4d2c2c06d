//! Hashing a file once: SHA-256 of the whole, SHA-1 of each piece.
//!
//! Owns opening the artifact (what counts as one and what does not), the check that it did not change meanwhile, and the
//! cache of results. Promises that the digest and the piece hashes are of the same bytes, and that those bytes are the file of the
//! returned [`FileIdentity`]. Never writes to the artifact.

mod cache;
mod error;
pub(super) mod pipeline;

#[cfg(test)]
mod tests;

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{Advice, OFlags, fadvise};
use serde::{Deserialize, Serialize};

pub use cache::HashCache;
pub use error::{ArtifactError, EntryFault};

use crate::model::Digest;

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Length in bytes.
    pub size: u64,
    /// Time of the last modification, whole seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds to add to [`FileIdentity::mtime`].
    pub mtime_nsec: i64,
    /// Inode number.
    pub inode: u64,
    /// Device of the file system.
    pub device: u64,
}

impl FileIdentity {
    /// Reads the identity out of a file's metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            mtime: metadata.mtime(),
            mtime_nsec: metadata.mtime_nsec(),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// Tells whether the file with this metadata is still the same, unchanged one.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        *self == Self::of(metadata)
    }
}

/// An artifact that was read once from end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Which file in which state was hashed.
    pub identity: FileIdentity,
    /// Its length in bytes, at least 1.
    pub size: u64,
    /// SHA-256 of all of it.
    pub digest: Digest,
    /// Length of a piece in bytes; only the last piece may be shorter.
    pub piece_length: u32,
    /// SHA-1 of each piece: exactly `ceil(size / piece_length)` of them.
    pub pieces: Vec<[u8; 20]>,
    /// True if the result came from the cache and the file was not read.
    pub from_cache: bool,
}

/// Hashes an artifact, or finds its hashes in `cache`.
///
/// `piece_length` gets the size in bytes and returns the length of a piece. `progress` is called on this thread with the number of
/// bytes read so far, about once a mebibyte. Blocks; uses two more threads and about 4 MiB.
///
/// # Errors
///
/// Whatever is not a readable, regular, non-empty file; a file that changes while it is read. A cache that can't be read or written
/// is no error: the file is hashed.
pub fn hash_artifact(
    path: &Path,
    piece_length: impl FnOnce(u64) -> u32,
    cache: Option<&HashCache>,
    progress: &dyn Fn(u64),
) -> Result<Hashed, ArtifactError> {
    let (file, metadata) = open(path)?;
    let identity = FileIdentity::of(&metadata);
    if identity.size == 0 {
        return Err(ArtifactError::Empty { path: path.into() });
    }
    let piece_length = piece_length(identity.size);
    if piece_length == 0 {
        return Err(ArtifactError::PieceLength { path: path.into() });
    }
    if let Some(found) = cache.and_then(|cache| cache.find(path, &metadata, piece_length)) {
        progress(found.size);
        return Ok(found);
    }
    let wanted = pipeline::Wanted { size: identity.size, piece_length: Some(piece_length), files: None };
    let sums = pipeline::run(&mut OneFile::new(&file, path), path, wanted, progress)?;
    check_unchanged(path, &file, &identity)?;
    let hashed =
        Hashed { identity, size: identity.size, digest: sums.digest, piece_length, pieces: sums.pieces, from_cache: false };
    if let Some(cache) = cache {
        cache.store(path, &metadata, &hashed);
    }
    Ok(hashed)
}

/// Returns the SHA-256 of a file. `progress` is called on this thread with the number of bytes read so far.
///
/// Blocks; reading and hashing overlap.
///
/// # Errors
///
/// Whatever is not a readable, regular file; a file that changes while it is read.
pub fn sha256_file(path: &Path, progress: &dyn Fn(u64)) -> Result<Digest, ArtifactError> {
    let (file, metadata) = open(path)?;
    let identity = FileIdentity::of(&metadata);
    let wanted = pipeline::Wanted { size: identity.size, piece_length: None, files: None };
    let sums = pipeline::run(&mut OneFile::new(&file, path), path, wanted, progress)?;
    check_unchanged(path, &file, &identity)?;
    Ok(sums.digest)
}

/// A file from its start.
struct OneFile<'a> {
    file: &'a File,
    path: &'a Path,
    offset: u64,
}

impl<'a> OneFile<'a> {
    fn new(file: &'a File, path: &'a Path) -> Self {
        Self { file, path, offset: 0 }
    }

    fn failed(&self, source: io::Error) -> ArtifactError {
        ArtifactError::Read { path: self.path.into(), offset: self.offset, source }
    }
}

impl pipeline::Input for OneFile<'_> {
    fn read(&mut self, bytes: &mut Vec<u8>, want: u64) -> Result<(), ArtifactError> {
        let got = self.file.take(want).read_to_end(bytes).map_err(|source| self.failed(source))?;
        if got as u64 != want {
            return Err(ArtifactError::Changed { path: self.path.into() });
        }
        self.offset += want;
        Ok(())
    }

    fn end(&mut self) -> Result<(), ArtifactError> {
        match self.file.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(ArtifactError::Changed { path: self.path.into() }),
            Err(source) => Err(self.failed(source)),
        }
    }
}

/// Opens a regular file; never waits for a FIFO's writer and never takes a terminal.
fn open(path: &Path) -> Result<(File, Metadata), ArtifactError> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = opened.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ArtifactError::Missing { path: path.into(), source },
        // A socket can't even be opened.
        _ if std::fs::metadata(path).is_ok_and(|m| m.file_type().is_socket()) => {
            ArtifactError::NotRegular { path: path.into(), what: "a socket" }
        }
        _ => ArtifactError::Unreadable { path: path.into(), source },
    })?;
    let metadata = file.metadata().map_err(|source| ArtifactError::Unreadable { path: path.into(), source })?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(ArtifactError::Directory { path: path.into() });
    }
    if !kind.is_file() {
        let what = if kind.is_fifo() { "a pipe" } else { "a device" };
        return Err(ArtifactError::NotRegular { path: path.into(), what });
    }
    // Only a wish to the kernel: read ahead further.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    Ok((file, metadata))
}

/// Compares both the open file and what is at `path` now: it may have been rewritten in place or replaced.
fn check_unchanged(path: &Path, file: &File, before: &FileIdentity) -> Result<(), ArtifactError> {
    let same = |metadata: io::Result<Metadata>| metadata.is_ok_and(|now| before.matches(&now));
    if same(file.metadata()) && same(std::fs::metadata(path)) {
        Ok(())
    } else {
        Err(ArtifactError::Changed { path: path.into() })
    }
}
