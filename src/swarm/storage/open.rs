//! Opening: a seed's artifact, or a host's partial download with what is already in it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use sha1::{Digest, Sha1};

use super::{CHUNK, Content, Shared, SharedSet, Source, Storage, Threads, cache::Cache, lock};
use crate::swarm::{EngineError, Metainfo, Role, policy::PieceSet};

impl Storage {
    /// Opens the role's file and returns the pieces that are there. Blocks: run it where that is allowed.
    pub(in crate::swarm) fn open(meta: Arc<Metainfo>, role: &Role) -> Result<(Self, Threads, PieceSet), EngineError> {
        let (content, have) = match role {
            Role::Seed { file: path } => (Content::Source(Source::open(path, &meta)?), PieceSet::full(meta.piece_count())),
            Role::Host { file: path } => {
                let (file, had) = open_partial(path, meta.length())?;
                let have = find_pieces(&file, &meta, had).map_err(|source| error("can't read", path, source))?;
                (Content::Partial { path: path.clone(), file }, have)
            }
        };
        let shared = Shared {
            content,
            have: SharedSet::new(&have),
            checked: SharedSet::new(&PieceSet::new(meta.piece_count())),
            cache: Mutex::new(Cache::default()),
            claimed: Mutex::default(),
            next_claim: AtomicU64::new(0),
            meta,
        };
        let (storage, threads) = Self::start(shared)?;
        Ok((storage, threads, have))
    }
}

fn error(what: &str, path: &Path, source: io::Error) -> EngineError {
    EngineError::Io { what: format!("{what} {}", path.display()), source }
}

/// Opens or creates the partial download, gives it its full size and returns how many bytes it had.
fn open_partial(path: &Path, length: u64) -> Result<(File, u64), EngineError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(|source| error("can't open", path, source))?;
    let meta = file.metadata().map_err(|source| error("can't look at", path, source))?;
    if !meta.is_file() {
        return Err(error("can't use", path, io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if meta.len() > length {
        file.set_len(length).map_err(|source| error("can't shorten", path, source))?;
    }
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length) {
        Ok(()) => {}
        // Not every file system can reserve space; there, running out of it shows when a piece is written.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
            file.set_len(length).map_err(|source| error("can't size", path, source))?;
        }
        Err(errno) => return Err(error("can't reserve space for", path, errno.into())),
    }
    Ok((file, meta.len().min(length)))
}

/// Returns the pieces in the first `had` bytes that have the right hash. Holes are skipped without reading them.
fn find_pieces(file: &File, meta: &Metainfo, had: u64) -> io::Result<PieceSet> {
    let have = Mutex::new(PieceSet::new(meta.piece_count()));
    let next = AtomicU32::new(0);
    let end = had.div_ceil(u64::from(meta.piece_length())) as u32;
    let look = || -> io::Result<()> {
        let mut buffer = vec![0; CHUNK.min(meta.piece_length()) as usize];
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= end {
                return Ok(());
            }
            if !is_hole(file, meta, piece) && is_good(file, meta, piece, &mut buffer)? {
                lock(&have).insert(piece);
            }
        }
    };
    if end > 0 {
        std::thread::scope(|scope| {
            let other = scope.spawn(look);
            let mine = look();
            other.join().unwrap_or_else(|_| Err(io::Error::other("a hashing thread panicked"))).and(mine)
        })?;
    }
    Ok(have.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// True if the file system knows that nothing was written in the whole piece.
fn is_hole(file: &File, meta: &Metainfo, piece: u32) -> bool {
    let start = meta.piece_offset(piece);
    let size = u64::from(meta.piece_size(piece).unwrap_or(0));
    // The position is not used otherwise: reads and writes name their offset.
    match rustix::fs::seek(file, SeekFrom::Data(start)) {
        Ok(data) => data >= start + size,
        Err(rustix::io::Errno::NXIO) => true,
        Err(_) => false,
    }
}

fn is_good(file: &File, meta: &Metainfo, piece: u32, buffer: &mut [u8]) -> io::Result<bool> {
    let mut at = meta.piece_offset(piece);
    let mut left = meta.piece_size(piece).unwrap_or(0) as usize;
    let mut hasher = Sha1::new();
    while left > 0 {
        let part = left.min(buffer.len());
        file.read_exact_at(&mut buffer[..part], at)?;
        hasher.update(&buffer[..part]);
        at += part as u64;
        left -= part;
    }
    let hash: [u8; 20] = hasher.finalize().into();
    Ok(meta.piece_hash(piece) == Some(&hash))
}
