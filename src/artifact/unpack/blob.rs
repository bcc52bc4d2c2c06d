//! The artifact's own bytes as files of the release: shared with the cache where the file system can, copied otherwise.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, path::Path};

use rustix::io::Errno;

use super::{
    UnpackError,
    dest::{Content, Dest, Step},
    name::EntryPath,
};

/// Bytes that the kernel copies at a time; between two steps the caller can cancel.
const STEP: u64 = 16 << 20;

/// The artifact, to be copied from.
#[derive(Clone, Copy)]
pub(super) struct Blob<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
}

impl Blob<'_> {
    /// Fills a new file with a range of the artifact.
    pub(super) fn copy(
        self,
        range: Range<u64>,
        path: &EntryPath,
        file: &mut File,
        dest: &mut Dest<'_>,
    ) -> Result<(), UnpackError> {
        if self.copy_in_kernel(&range, path, file, dest)? {
            return Ok(());
        }
        dest.fill(path, file, &mut Bytes { blob: self, left: range })
    }

    /// Copies without taking the bytes through this process; the kernel shares blocks instead, where the file system can and they lie
    /// so. False, with nothing copied, if kernel or file system can't.
    fn copy_in_kernel(
        self,
        range: &Range<u64>,
        path: &EntryPath,
        file: &File,
        dest: &mut Dest<'_>,
    ) -> Result<bool, UnpackError> {
        let (mut from, mut to) = (range.start, 0);
        while from < range.end {
            let want = (range.end - from).min(STEP);
            let count = match rustix::fs::copy_file_range(self.file, Some(&mut from), file, Some(&mut to), want as usize) {
                Ok(count) => count as u64,
                Err(Errno::INTR) => continue,
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) if to == 0 => return Ok(false),
                Err(errno) => return Err(dest.io("write", path, errno)),
            };
            match count {
                // Some file systems say nothing is there where there is.
                0 if to == 0 => return Ok(false),
                0 => return Err(dest.io("write", path, std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
                _ => dest.meter.content(path.as_bytes(), count)?,
            }
        }
        Ok(true)
    }
}

/// A range of the artifact read through this process.
struct Bytes<'a> {
    blob: Blob<'a>,
    left: Range<u64>,
}

impl Content for Bytes<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, UnpackError> {
        let want = (self.left.end - self.left.start).min(buffer.len() as u64) as usize;
        if want == 0 {
            return Ok(Step::End);
        }
        self.blob
            .file
            .read_exact_at(&mut buffer[..want], self.left.start)
            .map_err(|source| UnpackError::io("read", self.blob.path, source))?;
        self.left.start += want as u64;
        Ok(Step::Data(want))
    }
}
