//! What a seed reads from: the artifact, a file or a directory with the files of its listing.
//!
//! Each file is looked at when the seed starts and again before each read: one that is not what it was is [`EngineError::SourceChanged`] with
//! its name. Files of a directory are opened when they are needed, and few stay open.

use std::{
    collections::VecDeque,
    fs::{File, Metadata, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::fs::OFlags;

use super::lock;
use crate::swarm::{EngineError, Metainfo, metainfo::FilePart};

/// How many files of a directory stay open.
const MAX_OPEN: usize = 64;

/// Which file in which state this is, to notice that it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// The artifact.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// What each file that is not empty was, in the torrent's order.
    files: Vec<Identity>,
    /// The files used last, the most recent last.
    open: Mutex<VecDeque<(usize, Arc<File>)>>,
}

/// Why bytes can't be read.
enum Fault {
    /// The file is not what it was.
    Changed,
    Failed(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotADirectory => Self::Changed,
            // A link where a file was.
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Self::Changed,
            _ => Self::Failed(error),
        }
    }
}

impl Source {
    /// Looks at all files; each must have its length.
    pub(super) fn open(path: &Path, meta: &Metainfo) -> Result<Self, EngineError> {
        let mut source = Self { path: path.to_owned(), files: Vec::new(), open: Mutex::default() };
        let mut start = 0;
        for part in meta.parts(0..meta.length()) {
            let path = source.path_of(&part);
            let looked = if part.path.is_some() { std::fs::symlink_metadata(&path) } else { std::fs::metadata(&path) };
            let looked = looked.map_err(|source| failed("can't look at", &path, source))?;
            if !looked.is_file() || looked.len() != part.length {
                let piece = (start + looked.len().min(part.length)) / u64::from(meta.piece_length());
                return Err(EngineError::SourceChanged { path, piece: piece as u32 });
            }
            source.files.push(Identity::of(&looked));
            start += part.length;
        }
        // One that can't be read is told now.
        if let Some(first) = meta.parts(0..meta.length()).next() {
            let path = source.path_of(&first);
            let opened = source.file(&first);
            opened.map_err(|fault| source.error(fault, &path, 0))?;
        }
        Ok(source)
    }

    /// Fails if one of the files in the range is not what it was.
    pub(super) fn check(&self, meta: &Metainfo, range: Range<u64>) -> Result<(), EngineError> {
        self.each(meta, range, |_, _| Ok(()))
    }

    /// Fills the buffer with the torrent's bytes from `offset` on. What no file covers is zero.
    pub(super) fn read(&self, meta: &Metainfo, buffer: &mut [u8], offset: u64) -> Result<(), EngineError> {
        let range = offset..offset + buffer.len() as u64;
        let mut rest = buffer;
        self.each(meta, range, |part, file| {
            let length = (part.range.end - part.range.start) as usize;
            let (mine, next) = std::mem::take(&mut rest).split_at_mut(length);
            rest = next;
            file.read_exact_at(mine, part.range.start)
        })?;
        rest.fill(0);
        Ok(())
    }

    /// Says that a piece is not what was hashed, although no file in it looks different.
    pub(super) fn changed(&self, meta: &Metainfo, piece: u32) -> EngineError {
        let start = meta.piece_offset(piece);
        let first = meta.parts(start..start + u64::from(meta.piece_length())).next();
        let path = first.map_or_else(|| self.path.clone(), |part| self.path_of(&part));
        EngineError::SourceChanged { path, piece }
    }

    /// Calls `each` for the files in the range, all of them as they were.
    fn each(
        &self,
        meta: &Metainfo,
        range: Range<u64>,
        mut each: impl FnMut(&FilePart<'_>, &File) -> io::Result<()>,
    ) -> Result<(), EngineError> {
        let piece = (range.start / u64::from(meta.piece_length())) as u32;
        for part in meta.parts(range) {
            let used = self.file(&part).and_then(|file| Ok(each(&part, &file)?));
            used.map_err(|fault| self.error(fault, &self.path_of(&part), piece))?;
        }
        Ok(())
    }

    /// Opens a file, unless it is, and checks that it is what it was.
    fn file(&self, part: &FilePart<'_>) -> Result<Arc<File>, Fault> {
        let file = match self.open_one(part.index) {
            Some(file) => file,
            None => {
                let nofollow = if part.path.is_some() { OFlags::NOFOLLOW } else { OFlags::empty() };
                let flags = (nofollow | OFlags::NONBLOCK).bits() as i32;
                Arc::new(OpenOptions::new().read(true).custom_flags(flags).open(self.path_of(part))?)
            }
        };
        if self.files.get(part.index) != Some(&Identity::of(&file.metadata()?)) {
            return Err(Fault::Changed);
        }
        let mut open = lock(&self.open);
        open.push_back((part.index, file.clone()));
        if open.len() > MAX_OPEN {
            open.pop_front();
        }
        Ok(file)
    }

    /// Takes a file out of those that are open.
    fn open_one(&self, index: usize) -> Option<Arc<File>> {
        let mut open = lock(&self.open);
        let at = open.iter().rposition(|(of, _)| *of == index)?;
        open.remove(at).map(|(_, file)| file)
    }

    fn path_of(&self, part: &FilePart<'_>) -> PathBuf {
        part.path.map_or_else(|| self.path.clone(), |path| self.path.join(path))
    }

    fn error(&self, fault: Fault, path: &Path, piece: u32) -> EngineError {
        match fault {
            Fault::Changed => EngineError::SourceChanged { path: path.to_owned(), piece },
            Fault::Failed(source) => failed("can't read", path, source),
        }
    }
}

fn failed(what: &str, path: &Path, source: io::Error) -> EngineError {
    EngineError::Io { what: format!("{what} {}", path.display()), source }
}
