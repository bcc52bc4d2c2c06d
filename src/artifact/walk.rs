//! Going through a directory: everything below it, without following a link.
//!
//! Works on open directories, so that whoever swaps one for a link meanwhile leads nobody astray. Bounded in depth and in the names of
//! one directory; how many entries there may be altogether is the visitor's business.

use std::{ffi::OsStr, fs::File, io, os::unix::ffi::OsStrExt, path::Path};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat},
};

use crate::model::tree::{MAX_TREE_DEPTH, MAX_TREE_ENTRIES};

/// How a directory is opened: never through a link.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How a file is opened: never through a link, and without waiting for anybody.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Something that is there.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// The directory it is in.
    pub(crate) dir: BorrowedFd<'a>,
    /// Its name there.
    pub(crate) name: &'a OsStr,
    /// What it is.
    pub(crate) stat: Stat,
}

impl Found<'_> {
    /// Returns what it is.
    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens it for reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        Ok(openat(self.dir, self.name, FILE, Mode::empty())?.into())
    }
}

/// Opens a directory, through links on the way and at its end.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?)
}

/// Opens a regular file below a directory for reading, through no link at all.
pub(crate) fn open_below(root: impl AsFd, path: &str) -> io::Result<File> {
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut at = None;
    for component in parents.split('/').filter(|component| !component.is_empty()) {
        let from = at.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        at = Some(openat(from, component, DIRECTORY, Mode::empty())?);
    }
    let file = File::from(openat(at.as_ref().map_or(root.as_fd(), AsFd::as_fd), name, FILE, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Calls `visit` with the path below `root` of everything there, in no order, and with what it is, or why that can't be told. It ends with the first error that `visit` returns.
pub(crate) fn walk<E>(root: impl AsFd, mut visit: impl FnMut(&Path, io::Result<Found<'_>>) -> Result<(), E>) -> Result<(), E> {
    descend(root.as_fd(), &mut Vec::new(), 1, &mut visit)
}

fn descend<E>(
    dir: BorrowedFd<'_>,
    path: &mut Vec<u8>,
    depth: usize,
    visit: &mut impl FnMut(&Path, io::Result<Found<'_>>) -> Result<(), E>,
) -> Result<(), E> {
    let names = match names(dir) {
        Ok(names) => names,
        Err(error) => return visit(Path::new(OsStr::from_bytes(path)), Err(error)),
    };
    for name in names {
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let name = OsStr::from_bytes(&name);
        let found = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Found { dir, name, stat });
        let is_directory = found.as_ref().is_ok_and(|found| found.file_type().is_dir());
        visit(Path::new(OsStr::from_bytes(path)), found.map_err(io::Error::from))?;
        if is_directory && depth <= MAX_TREE_DEPTH {
            match openat(dir, name, DIRECTORY, Mode::empty()) {
                Ok(below) => descend(below.as_fd(), path, depth + 1, visit)?,
                Err(errno) => visit(Path::new(OsStr::from_bytes(path)), Err(errno.into()))?,
            }
        }
        path.truncate(length);
    }
    Ok(())
}

/// Returns the names in a directory.
fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        // One more than a tree may have is enough to tell.
        if !matches!(name, b"." | b"..") && names.len() <= MAX_TREE_ENTRIES {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
