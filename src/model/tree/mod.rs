//! A directory as an artifact: its listing, in the one order that it always has, and where each file lies in the bytes that travel.
//!
//! What travels is one blob: the contents of the files, one after the other in the listing's order. The listing itself reaches a host
//! inside the torrent's info dictionary, so it is checked here as an enemy's: a [`Tree`] that exists has safe names, each once, each
//! below a directory that is listed before it, modes without special bits, links that stay inside, and bounds on everything.
//! Times, owners and extended attributes are no part of it.

mod link;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, ops::Range};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Digest;
pub use link::{LinkFault, check_target};

/// The most files, directories and links in a tree.
pub const MAX_TREE_ENTRIES: usize = 100_000;
/// The most components in a path.
pub const MAX_TREE_DEPTH: usize = 128;
/// The longest component in bytes: what Linux's file systems take.
const MAX_COMPONENT: usize = 255;
/// The longest path in bytes.
const MAX_PATH: usize = 4096;
/// What the digest of a listing begins with, so that no other text has it.
const DIGEST_OF: &[u8] = b"fleetdrop tree 1\n";
/// What a file takes on a disk is rounded up to this many bytes by most file systems.
const BLOCK: u64 = 4096;

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its path below the tree's root, components separated by `/`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory {
        /// Its permissions, at most `0o777`.
        mode: u32,
    },
    /// A file.
    File(TreeFile),
    /// A symbolic link.
    Symlink {
        /// Where it points, as it is written in the link.
        target: String,
    },
}

/// A file of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeFile {
    /// Its permissions, at most `0o777`.
    pub mode: u32,
    /// Its length in bytes.
    pub length: u64,
    /// SHA-256 of its content.
    pub digest: Digest,
}

/// A part of a range of the blob: what of it lies in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreePart<'a> {
    /// The file's place among the files that are not empty.
    pub index: usize,
    /// The file's path below the tree's root.
    pub path: &'a str,
    /// The file.
    pub file: &'a TreeFile,
    /// Which of the file's bytes.
    pub range: Range<u64>,
}

/// What of a tree a host has to know before it has the listing, and what it keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFacts {
    /// SHA-256 of the blob: the hard gate before anything of it becomes a release.
    pub blob: Digest,
    /// How many files, directories and links there are.
    pub entries: u32,
    /// About how many bytes they take on a disk.
    pub on_disk: u64,
}

/// What is wrong with a listing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}`: {fault}")]
pub struct TreeError {
    /// The entry, shortened.
    pub path: String,
    /// The fault.
    pub fault: TreeFault,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeFault {
    /// A name that some system has no place for.
    #[error("its name is empty, `.`, `..`, or holds a control character or a backslash")]
    Name,
    /// Too long.
    #[error("its path has more than 4096 bytes, or a part of more than 255")]
    Long,
    /// Too deep.
    #[error("it lies more than {MAX_TREE_DEPTH} directories deep")]
    Deep,
    /// Twice, or not where it belongs in the order.
    #[error("it is listed twice or out of order")]
    Order,
    /// Below something that is no directory of the listing.
    #[error("the directory that it is in is not listed before it")]
    Orphan,
    /// Set-user-id, set-group-id, sticky or worse.
    #[error("it has a set-user-id, set-group-id or sticky bit")]
    Mode,
    /// A link that may lead out.
    #[error(transparent)]
    Link(LinkFault),
    /// One too many.
    #[error("there are more than {MAX_TREE_ENTRIES} files, directories and links")]
    TooMany,
    /// More bytes than can be counted.
    #[error("the files are too large together")]
    TooLarge,
    /// Nothing is listed.
    #[error("nothing is in it")]
    Nothing,
}

/// A directory's listing, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<TreeEntry>,
    /// Where each file that is not empty begins in the blob, and which entry it is.
    spans: Vec<(u64, u32)>,
    size: u64,
}

impl Tree {
    /// Checks a listing, which must be in order: by components, byte by byte.
    ///
    /// # Errors
    /// The first entry that breaks a rule.
    pub fn new(entries: Vec<TreeEntry>) -> Result<Self, TreeError> {
        let fail = |path: &str, fault| Err(TreeError { path: path.chars().take(200).collect(), fault });
        if entries.is_empty() {
            return fail(".", TreeFault::Nothing);
        }
        let mut open: Vec<&str> = Vec::new();
        let mut spans = Vec::new();
        let mut size = 0_u64;
        let mut before: Option<&str> = None;
        for (index, entry) in entries.iter().enumerate() {
            let path = entry.path.as_str();
            if index >= MAX_TREE_ENTRIES {
                return fail(path, TreeFault::TooMany);
            }
            if let Err(fault) = check_path(path).and_then(|()| check_kind(entry)) {
                return fail(path, fault);
            }
            if before.replace(path).is_some_and(|before| compare_paths(before, path) != Ordering::Less) {
                return fail(path, TreeFault::Order);
            }
            if let Some((parent, _)) = path.rsplit_once('/') {
                while open.last().is_some_and(|open| *open != parent) {
                    open.pop();
                }
                if open.is_empty() {
                    return fail(path, TreeFault::Orphan);
                }
            }
            match &entry.kind {
                EntryKind::Directory { .. } => open.push(path),
                EntryKind::File(file) if file.length > 0 => {
                    spans.push((size, index as u32));
                    match size.checked_add(file.length).filter(|size| i64::try_from(*size).is_ok()) {
                        Some(sum) => size = sum,
                        None => return fail(path, TreeFault::TooLarge),
                    }
                }
                EntryKind::File(_) | EntryKind::Symlink { .. } => {}
            }
        }
        Ok(Self { entries, spans, size })
    }

    /// Returns the same listing with these SHA-256 for the files that are not empty, in order.
    pub fn with_digests(mut self, digests: impl IntoIterator<Item = Digest>) -> Self {
        for ((_, index), digest) in self.spans.iter().zip(digests) {
            if let Some(TreeEntry { kind: EntryKind::File(file), .. }) = self.entries.get_mut(*index as usize) {
                file.digest = digest;
            }
        }
        self
    }

    /// Returns everything in it, in order: a directory before what is in it.
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// Returns how many bytes all files have together; none, where all are empty.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the files that are not empty, in order, and where each begins in the blob.
    pub fn files(&self) -> impl Iterator<Item = (u64, &str, &TreeFile)> {
        self.spans.iter().filter_map(|(start, index)| match self.entries.get(*index as usize) {
            Some(TreeEntry { path, kind: EntryKind::File(file) }) => Some((*start, path.as_str(), file)),
            _ => None,
        })
    }

    /// Returns the files' parts that a range of the blob consists of, in order.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = TreePart<'_>> {
        let first = self.spans.partition_point(|(start, _)| *start <= range.start).saturating_sub(1);
        let files = self.files().enumerate().skip(first);
        files.take_while(move |(_, (start, ..))| *start < range.end).filter_map(move |(index, (start, path, file))| {
            let from = range.start.max(start);
            let to = range.end.min(start + file.length);
            (from < to).then(|| TreePart { index, path, file, range: from - start..to - start })
        })
    }

    /// Returns the digest of the listing: names, kinds, modes, link targets, lengths and SHA-256 of every file. Two trees with the same
    /// digest make the same release.
    pub fn digest(&self) -> Digest {
        let mut hasher = Sha256::new_with_prefix(DIGEST_OF);
        let mut text = |kind: u8, mode: u32, text: &str| {
            hasher.update([kind]);
            hasher.update(mode.to_be_bytes());
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        };
        for entry in &self.entries {
            match &entry.kind {
                EntryKind::Directory { mode } => text(b'd', *mode, &entry.path),
                EntryKind::Symlink { target } => {
                    text(b'l', 0, &entry.path);
                    text(b'>', 0, target);
                }
                EntryKind::File(file) => {
                    text(b'f', file.mode, &entry.path);
                    text(b'=', 0, &format!("{} {}", file.length, file.digest));
                }
            }
        }
        Digest(hasher.finalize().into())
    }

    /// Returns what is to be known of it without the listing.
    pub fn facts(&self, blob: Digest) -> TreeFacts {
        let on_disk = self.entries.iter().map(|entry| match &entry.kind {
            EntryKind::File(file) => file.length.next_multiple_of(BLOCK),
            EntryKind::Directory { .. } => BLOCK,
            EntryKind::Symlink { .. } => 0,
        });
        TreeFacts { blob, entries: self.entries.len() as u32, on_disk: on_disk.fold(0, u64::saturating_add) }
    }
}

/// Compares two paths by their components: the order of a listing.
pub fn compare_paths(a: &str, b: &str) -> Ordering {
    a.split('/').cmp(b.split('/'))
}

fn check_path(path: &str) -> Result<(), TreeFault> {
    if path.len() > MAX_PATH {
        return Err(TreeFault::Long);
    }
    for (depth, component) in path.split('/').enumerate() {
        if component.len() > MAX_COMPONENT {
            return Err(TreeFault::Long);
        }
        if matches!(component, "" | "." | "..") || component.contains(|c: char| c.is_control() || c == '\\') {
            return Err(TreeFault::Name);
        }
        if depth >= MAX_TREE_DEPTH {
            return Err(TreeFault::Deep);
        }
    }
    Ok(())
}

fn check_kind(entry: &TreeEntry) -> Result<(), TreeFault> {
    match &entry.kind {
        EntryKind::Directory { mode } | EntryKind::File(TreeFile { mode, .. }) if mode & !0o777 != 0 => Err(TreeFault::Mode),
        EntryKind::Directory { .. } | EntryKind::File(_) => Ok(()),
        EntryKind::Symlink { target } => {
            let depth = entry.path.split('/').count();
            check_target(depth, target.as_bytes()).map_err(TreeFault::Link)
        }
    }
}
