//! From a compressed file to the tar stream in it.
//!
//! Every decoder checks its format's checksums, decodes all members, frames or streams, and fails on what is cut short or
//! followed by anything else. Windows and dictionaries are bounded by [`UnpackLimits::window`].

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use super::{Limit, UnpackError, UnpackLimits};
use crate::model::ArchiveKind;

/// Bytes read from the file at a time.
const BUFFER: usize = 128 << 10;

/// A tar stream with what is needed to report on it.
pub(super) struct TarStream<'a> {
    decoder: Box<dyn Read>,
    archive: &'a Path,
    window: u32,
}

/// Opens the tar stream in `file`. The kinds without one are read as they are.
pub(super) fn open<'a>(
    file: File,
    kind: ArchiveKind,
    limits: &UnpackLimits,
    archive: &'a Path,
) -> Result<TarStream<'a>, UnpackError> {
    let file = BufReader::with_capacity(BUFFER, file);
    let decoder: Box<dyn Read> = match kind {
        ArchiveKind::TarZst => {
            let ready = zstd::stream::read::Decoder::with_buffer(file)
                .and_then(|mut decoder| decoder.window_log_max(limits.window.max(1).ilog2()).map(|()| decoder));
            Box::new(ready.map_err(|source| damaged(archive, source))?)
        }
        ArchiveKind::TarGz => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        ArchiveKind::TarXz => Box::new(lzma_rust2::XzReader::new_mem_limit(file, true, xz_limit(limits.window))),
        ArchiveKind::TarBz2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        ArchiveKind::Tar | ArchiveKind::Zip | ArchiveKind::File | ArchiveKind::Directory => Box::new(file),
    };
    Ok(TarStream { decoder, archive, window: limits.window })
}

impl TarStream<'_> {
    /// Reads until the buffer is full or the stream ends; returns the number of bytes. `entry` is for the error.
    pub(super) fn read_full(&mut self, buffer: &mut [u8], entry: &[u8]) -> Result<usize, UnpackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.decoder.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(error, entry)),
            }
        }
        Ok(filled)
    }

    fn error(&self, source: io::Error, entry: &[u8]) -> UnpackError {
        // zstd tells it by text only.
        let memory = source.kind() == io::ErrorKind::OutOfMemory || source.to_string().contains("too much memory");
        if source.raw_os_error().is_some() {
            UnpackError::io("read", self.archive, source)
        } else if memory {
            UnpackError::too_much(entry, Limit::Memory(self.window.into()))
        } else {
            damaged(self.archive, source)
        }
    }
}

fn damaged(archive: &Path, source: io::Error) -> UnpackError {
    let reason = "its compressed data is damaged, cut short or followed by something else".into();
    UnpackError::Broken { archive: archive.into(), reason, source: Some(source) }
}

/// The decoder's tables come on top of the dictionary.
fn xz_limit(window: u32) -> u32 {
    const TABLES_KIB: u32 = 1024;
    window / 1024 + TABLES_KIB
}
