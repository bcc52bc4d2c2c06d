//! The files of a directory, one after the other, as one stream of bytes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use rustix::{fs::OFlags, io::Errno};

use super::listing::Listing;
use crate::artifact::hash::{ArtifactError, FileIdentity, pipeline::Input};

/// Reads files in a listing's order; each has to be what was listed when it is opened and when it has been read.
pub(super) struct Files<'a> {
    left: Box<dyn Iterator<Item = (PathBuf, &'a FileIdentity)> + 'a>,
    current: Option<Current<'a>>,
    /// Set until something was read: where all files are empty, there is one byte of padding.
    is_bare: bool,
}

struct Current<'a> {
    file: File,
    path: PathBuf,
    identity: &'a FileIdentity,
    read: u64,
}

impl<'a> Files<'a> {
    pub(super) fn new(listing: &'a Listing) -> Self {
        Self { left: Box::new(listing.files()), current: None, is_bare: true }
    }

    /// Lets go of the file that was read and opens the next; false if there is none.
    fn advance(&mut self) -> Result<bool, ArtifactError> {
        self.end()?;
        let Some((path, identity)) = self.left.next() else { return Ok(false) };
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path);
        let file = opened.map_err(|source| match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => ArtifactError::Changed { path: path.clone() },
            _ => ArtifactError::Unreadable { path: path.clone(), source },
        })?;
        let current = Current { file, path, identity, read: 0 };
        current.check()?;
        (self.current, self.is_bare) = (Some(current), false);
        Ok(true)
    }
}

impl Current<'_> {
    fn check(&self) -> Result<(), ArtifactError> {
        if self.file.metadata().is_ok_and(|now| self.identity.matches(&now)) {
            return Ok(());
        }
        Err(ArtifactError::Changed { path: self.path.clone() })
    }

    /// Appends up to `want` bytes of the file; none at its end.
    fn read(&mut self, bytes: &mut Vec<u8>, want: u64) -> Result<u64, ArtifactError> {
        let want = want.min(self.identity.size - self.read);
        let read = (&self.file).take(want).read_to_end(bytes);
        let count =
            read.map_err(|source: io::Error| ArtifactError::Read { path: self.path.clone(), offset: self.read, source })?;
        if count as u64 != want {
            return Err(ArtifactError::Changed { path: self.path.clone() });
        }
        self.read += want;
        Ok(want)
    }
}

impl Input for Files<'_> {
    fn read(&mut self, bytes: &mut Vec<u8>, want: u64) -> Result<(), ArtifactError> {
        let mut left = want;
        while left > 0 {
            let taken = self.current.as_mut().map_or(Ok(0), |current| current.read(bytes, left))?;
            left -= taken;
            if taken == 0 && !self.advance()? {
                break;
            }
        }
        if self.is_bare && left > 0 {
            bytes.push(0);
        }
        Ok(())
    }

    /// What follows is for the second listing to tell.
    fn end(&mut self) -> Result<(), ArtifactError> {
        self.current.as_ref().map_or(Ok(()), Current::check)
    }
}
