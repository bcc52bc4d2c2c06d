//! What is in a directory right now.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Stat, readlinkat},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use crate::{
    artifact::{
        hash::{ArtifactError, EntryFault, FileIdentity},
        walk::{Found, open_directory, walk},
    },
    model::{
        Digest, Tree,
        tree::{EntryKind, MAX_TREE_ENTRIES, TreeEntry, TreeFault, TreeFile, compare_paths},
    },
};

/// A directory's entries, not checked yet, and what tells whether they stay as they are.
#[derive(Debug)]
pub(super) struct Listing {
    /// The directory.
    pub(super) path: PathBuf,
    /// In a tree's order; the digests are those of empty files.
    entries: Vec<(TreeEntry, FileIdentity)>,
}

impl Listing {
    /// Lists what is there.
    pub(super) fn of(path: &Path) -> Result<Self, ArtifactError> {
        let unreadable = |source| ArtifactError::Unreadable { path: path.into(), source };
        let root = open_directory(path).map_err(unreadable)?;
        let mut entries = Vec::new();
        walk(root, |below, found| {
            let at = if below.as_os_str().is_empty() { path.to_owned() } else { path.join(below) };
            let found = found.map_err(|source| gone_or_unreadable(&at, source))?;
            if entries.len() >= MAX_TREE_ENTRIES {
                return Err(ArtifactError::Entry { path: at, fault: EntryFault::Listing(TreeFault::TooMany) });
            }
            let identity = identity(&found.stat);
            entries.push((entry(below, &at, &found, &identity)?, identity));
            Ok(())
        })?;
        entries.sort_by(|(a, _), (b, _)| compare_paths(&a.path, &b.path));
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Checks the listing by a tree's rules. The digests are yet to come.
    pub(super) fn tree(&self) -> Result<Tree, ArtifactError> {
        let entries = self.entries.iter().map(|(entry, _)| entry.clone()).collect();
        Tree::new(entries).map_err(|error| match error.fault {
            TreeFault::Nothing => ArtifactError::Empty { path: self.path.clone() },
            fault => ArtifactError::Entry { path: self.path.join(error.path), fault: EntryFault::Listing(fault) },
        })
    }

    /// Returns the files that are not empty, in order.
    pub(super) fn files(&self) -> impl Iterator<Item = (PathBuf, &FileIdentity)> {
        let files = self.entries.iter().filter(|(entry, _)| matches!(entry.kind, EntryKind::File(file) if file.length > 0));
        files.map(|(entry, identity)| (self.path.join(&entry.path), identity))
    }

    /// Fails with the first path that is not what it was.
    pub(super) fn check_unchanged(&self) -> Result<(), ArtifactError> {
        let now = Self::of(&self.path)?;
        let (mut before, mut after) = (self.entries.iter(), now.entries.iter());
        loop {
            let (one, other) = (before.next(), after.next());
            let differs = match (one, other) {
                (None, None) => return Ok(()),
                (Some((one, was)), Some((other, is))) => one != other || !is_same(&one.kind, was, is),
                _ => true,
            };
            if differs {
                // Of what was added and what was there, the first in order.
                let paths = [one, other].into_iter().flatten().map(|(entry, _)| entry.path.as_str());
                let path = paths.min_by(|a, b| compare_paths(a, b)).unwrap_or_default();
                return Err(ArtifactError::Changed { path: self.path.join(path) });
            }
        }
    }
}

/// True if nothing was done to it. A directory's and a link's times say nothing that their entries do not.
fn is_same(kind: &EntryKind, was: &FileIdentity, is: &FileIdentity) -> bool {
    !matches!(kind, EntryKind::File(_)) || was == is
}

fn entry(below: &Path, at: &Path, found: &Found<'_>, identity: &FileIdentity) -> Result<TreeEntry, ArtifactError> {
    let refuse = |fault| Err(ArtifactError::Entry { path: at.to_owned(), fault });
    let Some(path) = below.to_str() else { return refuse(EntryFault::NotUtf8) };
    let mode = found.stat.st_mode & 0o7777;
    let kind = match found.file_type() {
        FileType::Directory => EntryKind::Directory { mode },
        FileType::RegularFile => {
            EntryKind::File(TreeFile { mode, length: identity.size, digest: Digest(Sha256::digest([]).into()) })
        }
        FileType::Symlink => {
            let target = readlinkat(found.dir, found.name, Vec::new());
            let target = target.map_err(|errno| gone_or_unreadable(at, errno.into()))?;
            match target.into_string() {
                Ok(target) => EntryKind::Symlink { target },
                Err(_) => return refuse(EntryFault::NotUtf8),
            }
        }
        FileType::Fifo => return refuse(EntryFault::Special("a pipe")),
        FileType::Socket => return refuse(EntryFault::Special("a socket")),
        _ => return refuse(EntryFault::Special("a device")),
    };
    Ok(TreeEntry { path: path.to_owned(), kind })
}

fn gone_or_unreadable(path: &Path, source: io::Error) -> ArtifactError {
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].map(|errno| Some(errno.raw_os_error()));
    if gone.contains(&source.raw_os_error()) {
        return ArtifactError::Changed { path: path.to_owned() };
    }
    ArtifactError::Unreadable { path: path.to_owned(), source }
}

/// Reads the identity out of what the kernel says; some of its numbers have other types elsewhere.
fn identity(stat: &Stat) -> FileIdentity {
    FileIdentity {
        size: stat.st_size.cast_unsigned(),
        mtime: stat.st_mtime,
        mtime_nsec: stat.st_mtime_nsec as i64,
        inode: stat.st_ino,
        device: stat.st_dev,
    }
}
