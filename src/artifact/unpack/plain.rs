//! A release of one file: the artifact itself, shared with the cache where the file system can, copied otherwise.

use std::{fs::File, os::unix::fs::FileExt};

use super::{Rule, UnpackError, blob::Blob, dest::Dest, name::EntryPath};

/// Copies the artifact to `file_name`. It gets mode 0755 if it is a program or script by its first bytes, else 0644: the
/// mode it had on the controller is not part of the artifact.
pub(super) fn copy(artifact: Blob<'_>, file_name: &str, dest: &mut Dest<'_>) -> Result<(), UnpackError> {
    let refused = |rule| UnpackError::refused(file_name.as_bytes(), rule);
    let path = EntryPath::parse(file_name.as_bytes(), dest.meter.limits).map_err(refused)?;
    if path.as_bytes() != file_name.as_bytes() || path.depth() != 1 {
        return Err(refused(Rule::NotOneComponent));
    }
    let read_error = |source| UnpackError::io("read", artifact.path, source);
    let size = artifact.file.metadata().map_err(read_error)?.len();
    if size == 0 {
        return Err(UnpackError::Empty { archive: artifact.path.into() });
    }
    let mut start = [0; 4];
    let known = artifact.file.read_at(&mut start, 0).map_err(read_error)?;
    let executable = start[..known].starts_with(b"\x7fELF") || start[..known].starts_with(b"#!");
    let mode = if executable { 0o755 } else { 0o644 };

    let mut file = dest.new_file(&path, mode)?;
    if !share(artifact.file, &file, size, &path, dest)? {
        artifact.copy(0..size, &path, &mut file, dest)?;
    }
    dest.complete_file(&path, file, mode, None)
}

/// Lets the new file share the artifact's blocks. False if the file system can't.
fn share(artifact: &File, file: &File, size: u64, path: &EntryPath, dest: &mut Dest<'_>) -> Result<bool, UnpackError> {
    if rustix::fs::ioctl_ficlone(file, artifact).is_err() {
        return Ok(false);
    }
    dest.meter.content(path.as_bytes(), size)?;
    Ok(true)
}
