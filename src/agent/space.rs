//! Is there room? The preflight's estimate and the numbers for a message when a disk turned out to be full.
//!
//! Needed: what is missing of the artifact, the unpacked release and a reserve. How large a compressed archive becomes is not known
//! before it is there; it is at least taken for its own size, which is required, and for a usual multiple of it, below which the
//! operator is warned. Unpacking into a disk that is too small fails before anything is visible.

use std::path::{Path, PathBuf};

use super::disk::{self, DiskError, Room};
use crate::model::{
    Manifest,
    space::{bytes, files, reserve, usual_release},
};

/// Says that there is too little room.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpaceError {
    /// Too few bytes.
    #[error(
        "not enough space in {}: {} needed ({} for the artifact, {} for the release, {} reserve), {} free",
        path.display(), bytes(*artifact + *release + *reserve), bytes(*artifact), bytes(*release), bytes(*reserve), bytes(*free)
    )]
    Bytes {
        /// Where.
        path: PathBuf,
        /// What is missing of the artifact.
        artifact: u64,
        /// The least the release takes.
        release: u64,
        /// What stays free.
        reserve: u64,
        /// What is free.
        free: u64,
    },
    /// Too few inodes.
    #[error("too few files can be created in {}: {needed} inodes needed, {free} free", path.display())]
    Files {
        /// Where.
        path: PathBuf,
        /// How many the release takes, and some to spare.
        needed: u64,
        /// How many are free.
        free: u64,
    },
    /// It can't be measured.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// One place that must hold something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand<'a> {
    /// A directory on its file system.
    pub(crate) dir: &'a Path,
    /// How many bytes.
    pub(crate) bytes: u64,
}

/// Checks that `artifact` and the release fit. Returns a warning if they do only if the archive expands little.
pub(crate) fn check(artifact: Demand<'_>, releases: &Path, manifest: &Manifest) -> Result<Option<String>, SpaceError> {
    let there = disk::room(releases)?;
    let partial = disk::room(artifact.dir)?;
    let shared = there.device == partial.device;
    if !shared {
        fits(artifact.dir, &partial, artifact.bytes, 0)?;
    }
    enough_files(releases, &there, files(manifest))?;
    let here = if shared { artifact.bytes } else { 0 };
    fits(releases, &there, here, manifest.size)?;
    let usual = usual_release(manifest);
    Ok(fits(releases, &there, here, usual).err().map(|error| format!("it may not fit when unpacked: {error}")))
}

fn fits(path: &Path, room: &Room, artifact: u64, release: u64) -> Result<(), SpaceError> {
    let reserve = reserve(room.total);
    if artifact.saturating_add(release).saturating_add(reserve) > room.free {
        return Err(SpaceError::Bytes { path: path.to_owned(), artifact, release, reserve, free: room.free });
    }
    Ok(())
}

fn enough_files(path: &Path, room: &Room, needed: u64) -> Result<(), SpaceError> {
    match room.free_files {
        Some(free) if free < needed => Err(SpaceError::Files { path: path.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

/// Returns how many bytes may be written below `path` without touching the reserve.
pub(crate) fn spendable(path: &Path) -> Result<u64, DiskError> {
    let room = disk::room(path)?;
    Ok(room.free.saturating_sub(reserve(room.total)))
}

/// Tells how much room is left where a write failed, for the message.
pub(crate) fn left(path: &Path) -> Option<String> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let room = disk::room(existing).ok()?;
    let files = room.free_files.map_or(String::new(), |files| format!(", {files} inodes"));
    Some(format!("{} free{files} in {}", bytes(room.free), existing.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(free: u64, total: u64, free_files: Option<u64>) -> Room {
        Room { device: 1, free, total, free_files }
    }

    #[test]
    fn the_message_has_the_numbers() {
        let error = fits(Path::new("/srv/shop"), &room(10 * MIB, 100 * MIB, None), 6 * MIB, 6 * MIB).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not enough space in /srv/shop: 14.0 MiB needed (6.0 MiB for the artifact, 6.0 MiB for the release, \
             2.0 MiB reserve), 10.0 MiB free"
        );
        assert!(fits(Path::new("/"), &room(14 * MIB, 100 * MIB, Some(16)), 6 * MIB, 6 * MIB).is_ok());
        let error = enough_files(Path::new("/srv"), &room(u64::MAX, u64::MAX, Some(3)), 16).unwrap_err();
        assert_eq!(error.to_string(), "too few files can be created in /srv: 16 inodes needed, 3 free");
        assert!(fits(Path::new("/srv"), &room(u64::MAX, 1, None), u64::MAX, u64::MAX).is_ok());
    }
}
