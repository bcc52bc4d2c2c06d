//! Unpacking a verified artifact into a new directory, as if its maker were an enemy.
//!
//! Owns the list of what an archive may contain and the limits. Promises:
//! - Nothing is created, changed or followed outside the new directory. Every path is walked component by component from the directory's
//!   own descriptor, never through a link, and every entry is created anew: an archive can't write through what it made before.
//! - Links inside point inside. A link target may start with `..` components as far as the link is deep, and has none after a
//!   name, so that no chain of links leads out.
//! - An entry that breaks a [`Rule`], a limit that is reached, a stream that is damaged, cut short or followed by something else ends
//!   the whole extraction with an error that names the entry.
//! - Memory is bounded by the decoder's window and some 32 bytes per directory; contents are streamed.
//! - When it returns, everything is on the disk.
//!
//! Ownership, extended attributes and access control lists are not taken over: everything belongs to the running user. Directories
//! get the owner's full rights added, so that a release can always be pruned. It never removes anything, except in [`remove_tree`].

mod blob;
mod dest;
mod error;
mod limits;
mod name;
mod plain;
mod remove;
mod stream;
mod tar;
mod tree;
mod zip;

#[cfg(test)]
mod tests;

use std::{fs::File, path::Path};

pub use error::{Limit, Rule, UnpackError};
pub use limits::UnpackLimits;
pub use remove::remove_tree;

use self::{blob::Blob, dest::Dest, limits::Meter};
use crate::model::{ArchiveKind, Tree};

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and links, the directories that the archive only implies included.
    pub entries: u64,
    /// Bytes in files. A sparse file counts in full, a hard link not again.
    pub bytes: u64,
}

/// Unpacks `archive` into the directory `dest`, which must not exist and is made with mode 0755.
///
/// A [`ArchiveKind::File`] is copied (shared, where the file system can) to `file_name` in `dest`. `cancel` is asked often;
/// when it returns true, the work ends with [`UnpackError::Cancelled`]. On success everything is synced to disk. Blocks.
///
/// # Errors
///
/// See [`UnpackError`]. What was unpacked until then stays: the caller removes it with [`remove_tree`].
pub fn unpack(
    archive: &Path,
    kind: ArchiveKind,
    file_name: &str,
    dest: &Path,
    limits: &UnpackLimits,
    cancel: &dyn Fn() -> bool,
) -> Result<Unpacked, UnpackError> {
    let file = File::open(archive).map_err(|source| UnpackError::io("open", archive, source))?;
    let size = file.metadata().map_err(|source| UnpackError::io("read", archive, source))?.len();
    let meter = Meter::new(limits, size, cancel);
    let mut dest = Dest::create(dest, meter)?;
    match kind {
        ArchiveKind::File => plain::copy(Blob { file: &file, path: archive }, file_name, &mut dest)?,
        ArchiveKind::Directory => return Err(UnpackError::broken(archive, "its listing is missing")),
        ArchiveKind::Zip => zip::unpack(&file, archive, &mut dest)?,
        _ => tar::unpack(stream::open(file, kind, limits, archive)?, archive, &mut dest)?,
    }
    dest.finish(archive)
}

/// Makes the files, directories and links of `tree` in the directory `dest`, which must not exist and is made with mode 0755; the files'
/// contents are those of `blob`, one after the other. Otherwise as [`unpack`].
///
/// # Errors
///
/// See [`UnpackError`]. What was made until then stays: the caller removes it with [`remove_tree`].
pub fn unpack_tree(
    blob: &Path,
    tree: &Tree,
    dest: &Path,
    limits: &UnpackLimits,
    cancel: &dyn Fn() -> bool,
) -> Result<Unpacked, UnpackError> {
    let file = File::open(blob).map_err(|source| UnpackError::io("open", blob, source))?;
    let mut dest = Dest::create(dest, Meter::new(limits, tree.size(), cancel))?;
    tree::copy(Blob { file: &file, path: blob }, tree, &mut dest)?;
    dest.finish(blob)
}
