//! A release of one file: the artifact itself, shared with the cache where the file system can, copied otherwise.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use rustix::io::Errno;

use super::{
    Rule, UnpackError,
    dest::{Content, Dest, Step},
    name::EntryPath,
};

/// Bytes that the kernel copies at a time; between two steps the caller can cancel.
const STEP: u64 = 16 << 20;

/// Copies the artifact to `file_name`. It gets mode 0755 if it is a program or script by its first bytes, else 0644: the
/// mode it had on the controller is not part of the artifact.
pub(super) fn copy(artifact: &File, archive: &Path, file_name: &str, dest: &mut Dest<'_>) -> Result<(), UnpackError> {
    let refused = |rule| UnpackError::refused(file_name.as_bytes(), rule);
    let path = EntryPath::parse(file_name.as_bytes(), dest.meter.limits).map_err(refused)?;
    if path.as_bytes() != file_name.as_bytes() || path.depth() != 1 {
        return Err(refused(Rule::NotOneComponent));
    }
    let read_error = |source| UnpackError::io("read", archive, source);
    let size = artifact.metadata().map_err(read_error)?.len();
    if size == 0 {
        return Err(UnpackError::Empty { archive: archive.into() });
    }
    let mut start = [0; 4];
    let known = artifact.read_at(&mut start, 0).map_err(read_error)?;
    let executable = start[..known].starts_with(b"\x7fELF") || start[..known].starts_with(b"#!");
    let mode = if executable { 0o755 } else { 0o644 };

    let mut file = dest.new_file(&path, mode)?;
    if !share(artifact, &file, size, &path, dest)? && !copy_in_kernel(artifact, &file, size, &path, dest)? {
        let mut content = Bytes { artifact, archive, offset: 0 };
        dest.fill(&path, &mut file, &mut content)?;
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

/// Copies without taking the bytes through this process. False, with nothing copied, if the kernel or file system can't.
fn copy_in_kernel(artifact: &File, file: &File, size: u64, path: &EntryPath, dest: &mut Dest<'_>) -> Result<bool, UnpackError> {
    let (mut from, mut to) = (0, 0);
    while from < size {
        let want = (size - from).min(STEP);
        let count = match rustix::fs::copy_file_range(artifact, Some(&mut from), file, Some(&mut to), want as usize) {
            Ok(count) => count as u64,
            Err(Errno::INTR) => continue,
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) if from == 0 => return Ok(false),
            Err(errno) => return Err(dest.io("write", path, errno)),
        };
        match count {
            // Some file systems say nothing is there where there is.
            0 if from == 0 => return Ok(false),
            0 => return Err(dest.io("write", path, std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
            _ => dest.meter.content(path.as_bytes(), count)?,
        }
    }
    Ok(true)
}

/// The artifact read through this process.
struct Bytes<'a> {
    artifact: &'a File,
    archive: &'a Path,
    offset: u64,
}

impl Content for Bytes<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, UnpackError> {
        match self.artifact.read_at(buffer, self.offset) {
            Ok(0) => Ok(Step::End),
            Ok(count) => {
                self.offset += count as u64;
                Ok(Step::Data(count))
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.next(buffer),
            Err(source) => Err(UnpackError::io("read", self.archive, source)),
        }
    }
}
