//! The disk as the agent uses it: std and rustix calls whose errors say what was tried and on which path.
//!
//! Owns no policy. Promises: a file written by [`write_atomic`] is either the old one or the new one, also after a power
//! cut; nothing here follows a symlink in the last component unless it says so; everything read into memory is bounded.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::{artifact, failpoint};

/// The largest file [`read_small`] reads, in bytes.
pub(crate) const SMALL: u64 = 1 << 20;

/// Says what could not be done on which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub(crate) struct DiskError {
    /// A verb phrase: "create the directory".
    pub(crate) action: &'static str,
    /// Where.
    pub(crate) path: PathBuf,
    /// Why.
    #[source]
    pub(crate) source: io::Error,
}

/// Adds action and path to an I/O result.
pub(crate) trait At<T> {
    /// Wraps the error, if it is one.
    fn at(self, action: &'static str, path: &Path) -> Result<T, DiskError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|error| DiskError { action, path: path.to_owned(), source: error.into() })
    }
}

/// What a path is, the last component not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing is there.
    Absent,
    /// A symlink and its target.
    Link(PathBuf),
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Tells what is at `path`.
pub(crate) fn entry(path: &Path) -> Result<Entry, DiskError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entry::Absent),
        Err(error) => return Err(error).at("look at", path),
    };
    if kind.is_symlink() {
        fs::read_link(path).map(Entry::Link).at("read the symlink", path)
    } else if kind.is_dir() {
        Ok(Entry::Directory)
    } else {
        Ok(Entry::Other)
    }
}

/// Creates a directory and its parents where they are missing; the umask applies.
pub(crate) fn create_dir(path: &Path) -> Result<(), DiskError> {
    fs::create_dir_all(path).at("create the directory", path)
}

/// Makes sure that `path` is a real directory of user `uid` that nobody else can enter. Its parent must exist.
pub(crate) fn private_dir(path: &Path, uid: u32) -> Result<(), DiskError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).at("create the directory", path),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = File::from(rustix::fs::open(path, flags, Mode::empty()).at("open the private directory", path)?);
    let meta = dir.metadata().at("look at", path)?;
    if meta.uid() != uid {
        let text = format!("it belongs to user id {}, not to {uid}, who runs the agent", meta.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text)).at("use the private directory", path);
    }
    if meta.mode() & 0o7777 != 0o700 {
        dir.set_permissions(fs::Permissions::from_mode(0o700)).at("restrict the permissions of", path)?;
    }
    Ok(())
}

/// Checks that entries can be made and renamed in the directory `path`.
pub(crate) fn writable_dir(path: &Path) -> Result<(), DiskError> {
    use rustix::fs::{Access, AtFlags, CWD};
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS).at("write in the directory", path)
}

/// Flushes a directory's entries to the disk.
pub(crate) fn sync_dir(path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|dir| dir.sync_all()).at("flush the directory", path)
}

/// Renames within one file system; an existing file or symlink at `to` is replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).at("rename to", to)
}

/// Replaces the file at `path` so that a reader, also after a crash, sees the old bytes or the new ones. Mode 0600.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = unfinished(path);
    remove_file(&temporary)?;
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.at("write", &temporary)?;
    failpoint::reach("write.temporary");
    rename(&temporary, path)?;
    failpoint::reach("write.renamed");
    path.parent().map_or(Ok(()), sync_dir)
}

/// Removes what a [`write_atomic`] that was cut short left beside `path`.
pub(crate) fn remove_unfinished(path: &Path) -> Result<(), DiskError> {
    remove_file(&unfinished(path))
}

/// Returns the name under which the file at `path` is written anew.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Reads a regular file of at most [`SMALL`] bytes; `None` if it is not there.
pub(crate) fn read_small(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("read", path),
    };
    let mut bytes = Vec::new();
    file.take(SMALL + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > SMALL {
        return Err(io::Error::other(format!("it is larger than {SMALL} bytes"))).at("read", path);
    }
    Ok(Some(bytes))
}

/// Removes a file or symlink, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// Removes a directory and what is in it, or whatever else is there; a symlink is removed, not followed. No error if nothing is.
pub(crate) fn remove_tree(path: &Path) -> Result<(), DiskError> {
    match artifact::remove_tree(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => remove_file(path),
        result => result.at("remove the directory", path),
    }
}

/// Returns the names in a directory; none if it is not there. Bounded by `limit`.
pub(crate) fn names(path: &Path, limit: usize) -> Result<Vec<OsString>, DiskError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).at("list the directory", path),
    };
    entries.take(limit).map(|entry| entry.map(|entry| entry.file_name()).at("list the directory", path)).collect()
}

/// Makes `link` a symlink to `target` in one step: a reader sees the old entry or the new one. `temporary` must be in the
/// same directory; a leftover there is removed.
pub(crate) fn replace_symlink(link: &Path, target: &Path, temporary: &Path) -> Result<(), DiskError> {
    remove_file(temporary)?;
    std::os::unix::fs::symlink(target, temporary).at("create the symlink", temporary)?;
    failpoint::reach("symlink.temporary");
    rename(temporary, link)?;
    failpoint::reach("symlink.renamed");
    Ok(())
}

/// Returns how many bytes of disk a file takes; a hole takes none.
pub(crate) fn allocated(path: &Path) -> Result<u64, DiskError> {
    fs::symlink_metadata(path).map(|meta| meta.blocks().saturating_mul(512)).at("look at", path)
}

/// Returns how many bytes of disk a file takes, or a directory with everything in it; links are not followed. What is not there takes
/// none. Stops early once `cancelled`.
pub(crate) fn allocated_below(path: &Path, cancelled: &dyn Fn() -> bool) -> Result<u64, DiskError> {
    let mut left = vec![path.to_owned()];
    let mut bytes = 0_u64;
    while let Some(path) = left.pop() {
        if cancelled() {
            break;
        }
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).at("look at", &path),
        };
        bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
        if meta.is_dir() {
            for entry in fs::read_dir(&path).at("list the directory", &path)? {
                left.push(entry.at("list the directory", &path)?.path());
            }
        }
    }
    Ok(bytes)
}

/// How much room a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Tells file systems apart.
    pub(crate) device: u64,
    /// Bytes this user may still write.
    pub(crate) free: u64,
    /// Bytes altogether.
    pub(crate) total: u64,
    /// Files this user may still create; none where the file system has no fixed number.
    pub(crate) free_files: Option<u64>,
}

/// Measures the file system that holds `path`.
pub(crate) fn room(path: &Path) -> Result<Room, DiskError> {
    let stat = rustix::fs::statvfs(path).at("measure the file system of", path)?;
    let device = fs::metadata(path).at("look at", path)?.dev();
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize.max(1));
    let free_files = (stat.f_files > 0).then_some(stat.f_favail);
    Ok(Room { device, free: bytes(stat.f_bavail), total: bytes(stat.f_blocks), free_files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_action_and_path() {
        let error = sync_dir(Path::new("/nonexistent/x")).unwrap_err();
        assert_eq!(error.to_string(), "cannot flush the directory /nonexistent/x");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_planted_symlink_is_neither_read_nor_entered_nor_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let planted = dir.path().join("planted");
        std::os::unix::fs::symlink(&victim, &planted).unwrap();
        assert!(read_small(&planted).is_err());
        assert!(private_dir(&planted, rustix::process::geteuid().as_raw()).is_err());
        // The name a careful attacker would guess.
        std::os::unix::fs::symlink(&victim, dir.path().join("state.new")).unwrap();
        write_atomic(&dir.path().join("state"), b"new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(dir.path().join("state")).unwrap(), "new");
    }

    #[test]
    fn replacing_a_symlink_never_leaves_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let (link, temporary) = (dir.path().join("current"), dir.path().join(".new"));
        for target in ["one", "two"] {
            replace_symlink(&link, Path::new(target), &temporary).unwrap();
            assert_eq!(entry(&link).unwrap(), Entry::Link(target.into()));
        }
        assert_eq!(entry(&temporary).unwrap(), Entry::Absent);
    }
}
