//! How much an archive may ask for, and the meter that watches it.

use super::{Limit, UnpackError, Unpacked};

/// Bounds on what an archive may contain. The defaults fit any sane release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Files, directories and links, the directories that are only implied included. Default 1,000,000.
    pub entries: u64,
    /// Bytes in files; a caller passes what the file system has to spare. Default 1 TiB.
    pub bytes: u64,
    /// Unpacked bytes per packed byte, checked beyond [`UnpackLimits::ratio_from`]. Default 1000, which is about the most that
    /// deflate can do; zstd reaches more on runs of one byte only.
    pub ratio: u64,
    /// Unpacked bytes up to which any ratio is fine. Default 1 GiB.
    pub ratio_from: u64,
    /// Components in a path. Default 128.
    pub depth: usize,
    /// Bytes in a component. Default 255, the most that Linux's file systems take.
    pub component: usize,
    /// Bytes in a path. Default 4096.
    pub path: usize,
    /// Memory for a decoder's window in bytes, a power of two: zstd's window (rounded down to a power of two) and xz's dictionary with
    /// its tables. Default 128 MiB.
    pub window: u32,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            bytes: 1 << 40,
            ratio: 1000,
            ratio_from: 1 << 30,
            depth: 128,
            component: 255,
            path: 4096,
            window: 128 << 20,
        }
    }
}

impl UnpackLimits {
    /// Returns the defaults for a file system with this many bytes to spare.
    pub fn for_space(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }
}

/// Headers and padding may always take this many bytes, beyond it as many as the files may.
const OVERHEAD: u64 = 64 << 20;

/// Counts what was unpacked and stops at the limits.
pub(super) struct Meter<'a> {
    pub(super) limits: &'a UnpackLimits,
    archive_size: u64,
    cancel: &'a dyn Fn() -> bool,
    done: Unpacked,
    overhead: u64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(limits: &'a UnpackLimits, archive_size: u64, cancel: &'a dyn Fn() -> bool) -> Self {
        Self { limits, archive_size, cancel, done: Unpacked::default(), overhead: 0 }
    }

    /// Returns what was counted so far.
    pub(super) fn done(&self) -> Unpacked {
        self.done
    }

    /// Fails if the caller wants to stop.
    pub(super) fn check_cancel(&self) -> Result<(), UnpackError> {
        if (self.cancel)() { Err(UnpackError::Cancelled) } else { Ok(()) }
    }

    /// Counts an entry before it is made.
    pub(super) fn entry(&mut self, name: &[u8]) -> Result<(), UnpackError> {
        self.check_cancel()?;
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(UnpackError::too_much(name, Limit::Entries(self.limits.entries)));
        }
        Ok(())
    }

    /// Counts bytes of a file before they are written.
    pub(super) fn content(&mut self, name: &[u8], bytes: u64) -> Result<(), UnpackError> {
        self.check_cancel()?;
        self.done.bytes = self.done.bytes.saturating_add(bytes);
        if self.done.bytes > self.limits.bytes {
            return Err(UnpackError::too_much(name, Limit::Bytes(self.limits.bytes)));
        }
        self.check_ratio(name)
    }

    /// Counts decompressed bytes that are not a file's content.
    pub(super) fn overhead(&mut self, name: &[u8], bytes: u64) -> Result<(), UnpackError> {
        self.check_cancel()?;
        self.overhead = self.overhead.saturating_add(bytes);
        let limit = self.limits.bytes.max(OVERHEAD);
        if self.overhead > limit {
            return Err(UnpackError::too_much(name, Limit::Overhead(limit)));
        }
        self.check_ratio(name)
    }

    fn check_ratio(&self, name: &[u8]) -> Result<(), UnpackError> {
        let unpacked = self.done.bytes.saturating_add(self.overhead);
        if unpacked > self.limits.ratio_from && unpacked > self.archive_size.saturating_mul(self.limits.ratio) {
            return Err(UnpackError::too_much(name, Limit::Ratio(self.limits.ratio)));
        }
        Ok(())
    }
}
