//! Zip archives: stored and deflated entries, zip64, Unix modes and links.
//!
//! The central directory decides; the `zip` crate walks it entry by entry, so that memory does not grow with it, and checks that each
//! local header says the same. Sizes in headers bound nothing: what comes out of the decoder is counted, must have the length and the
//! CRC-32 that the header tells, and the file must end with the end record.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use ::zip::{
    CompressionMethod, DateTime, ExtraField, System, ZipReadOptions, read::Config, read::ZipFileEntry, result::ZipError,
    unstable::read::ZipIterable,
};

use super::{
    Limit, Rule, UnpackError,
    dest::{Content, Dest, Step, Time},
    name::EntryPath,
};
use crate::model::tree::LinkFault;

/// File type bits of a Unix mode and their values.
const TYPE_BITS: u32 = 0o170_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_SOCKET: u32 = 0o140_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_BLOCK: u32 = 0o060_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_CHARACTER: u32 = 0o020_000;
const TYPE_FIFO: u32 = 0o010_000;

/// The end record: its signature, its length without the comment, and where the comment's length is.
const END_SIGNATURE: [u8; 4] = *b"PK\x05\x06";
const END_LENGTH: usize = 22;
const END_COMMENT: usize = 20;

/// Unpacks a whole archive.
pub(super) fn unpack(file: &File, archive: &Path, dest: &mut Dest<'_>) -> Result<(), UnpackError> {
    check_end(file, archive)?;
    let walk = ZipIterable::try_new(BufReader::new(file), Config::default()).map_err(|error| broken(archive, error))?;
    let mut walk = walk.enforce_header_consistency(true);
    let limit = dest.meter.limits.entries;
    if walk.len() as u64 > limit {
        return Err(UnpackError::too_much(b"(directory)", Limit::Entries(limit)));
    }
    let entries = walk.files().map_err(|error| broken(archive, error))?;
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|error| broken(archive, error))?;
        unpack_entry(entry, entries.reader_mut(), archive, dest)?;
    }
    Ok(())
}

fn unpack_entry<R: Read + Seek>(
    entry: ZipFileEntry<'_>,
    reader: &mut R,
    archive: &Path,
    dest: &mut Dest<'_>,
) -> Result<(), UnpackError> {
    let name = entry_name(entry.name_raw(), || entry.name().map(|name| name.into_owned()).ok());
    let refused = |rule| UnpackError::refused(&name, rule);
    let path = EntryPath::parse(&name, dest.meter.limits).map_err(refused)?;
    if name.contains(&b'\\') {
        return Err(refused(Rule::Backslash));
    }
    if entry.encrypted() {
        return Err(refused(Rule::Encrypted));
    }
    if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        return Err(refused(Rule::Compression));
    }
    let mode = if entry.system() == System::Unix { entry.external_attributes() >> 16 } else { 0 };
    let (kind, mode) = kind_and_mode(mode, name.ends_with(b"/")).map_err(refused)?;
    let size = entry.size();
    if kind == Kind::Directory {
        return if size > 0 { Err(refused(Rule::UnexpectedContent)) } else { dest.directory(&path, mode) };
    }
    let content = entry.with_reader(reader, ZipReadOptions::new()).map_err(|error| broken(archive, error))?;
    let stamp = content.extra_data_fields().find_map(|field| match field {
        ExtraField::ExtendedTimestamp(stamp) => stamp.mod_time(),
        _ => None,
    });
    let mtime = stamp.map(|seconds| (i64::from(seconds), 0)).or_else(|| content.last_modified().and_then(unix_time));
    let mut content = EntryContent { content, archive, left: size };
    match kind {
        Kind::Symlink => dest.symlink(&path, &content.target(&name)?),
        _ => dest.file(&path, mode, mtime, &mut content),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Symlink,
}

/// Tells what an entry is from its Unix mode (0 if it has none) and whether its name says directory.
fn kind_and_mode(mode: u32, named_directory: bool) -> Result<(Kind, u32), Rule> {
    let kind = match mode & TYPE_BITS {
        TYPE_DIRECTORY => Kind::Directory,
        TYPE_FILE | 0 if named_directory => Kind::Directory,
        TYPE_FILE | 0 => Kind::File,
        TYPE_SYMLINK => Kind::Symlink,
        TYPE_BLOCK | TYPE_CHARACTER => return Err(Rule::Device),
        TYPE_FIFO => return Err(Rule::Fifo),
        TYPE_SOCKET => return Err(Rule::Socket),
        other => return Err(Rule::UnknownType(other)),
    };
    if mode & 0o7000 != 0 {
        return Err(Rule::SpecialBits);
    }
    let mode = match (mode, kind) {
        (0, Kind::Directory) => 0o755,
        (0, _) => 0o644,
        _ => mode & 0o777,
    };
    Ok((kind, mode))
}

/// Takes a name as it is where that is UTF-8, whatever the flag says: Unix tools write it so. Else as the crate decodes it.
fn entry_name(raw: &[u8], decoded: impl FnOnce() -> Option<String>) -> Vec<u8> {
    if std::str::from_utf8(raw).is_ok() {
        return raw.to_vec();
    }
    decoded().map_or_else(|| raw.to_vec(), String::into_bytes)
}

/// Takes a DOS time, which has no zone, as UTC. Follows the civil-calendar arithmetic of days since 1970-03-01.
fn unix_time(time: DateTime) -> Option<Time> {
    if !time.is_valid() {
        return None;
    }
    let (month, day) = (i64::from(time.month()), i64::from(time.day()));
    // Years that begin in March put the leap day at the end.
    let year = i64::from(time.year()) - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    let (hour, minute, second) = (i64::from(time.hour()), i64::from(time.minute()), i64::from(time.second()));
    Some((days * 86_400 + hour * 3600 + minute * 60 + second, 0))
}

/// Checks that an end record ends the file: bytes after it would be seen by some readers and not by others.
fn check_end(mut file: &File, archive: &Path) -> Result<(), UnpackError> {
    let io = |source| UnpackError::io("read", archive, source);
    let size = file.seek(SeekFrom::End(0)).map_err(io)?;
    let start = size.saturating_sub((END_LENGTH + usize::from(u16::MAX)) as u64);
    file.seek(SeekFrom::Start(start)).map_err(io)?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).map_err(io)?;
    let ends_file = |record: &[u8], position: usize| {
        record.starts_with(&END_SIGNATURE)
            && position + END_LENGTH + usize::from(u16::from_le_bytes([record[END_COMMENT], record[END_COMMENT + 1]]))
                == tail.len()
    };
    if tail.windows(END_LENGTH).enumerate().any(|(position, record)| ends_file(record, position)) {
        Ok(())
    } else {
        Err(UnpackError::broken(archive, "it does not end with a zip end record"))
    }
}

fn broken(archive: &Path, error: ZipError) -> UnpackError {
    let source = match error {
        ZipError::Io(error) if error.raw_os_error().is_some() => return UnpackError::io("read", archive, error),
        ZipError::Io(error) => error,
        other => io::Error::other(other),
    };
    let reason = "its directory or one of its headers cannot be read".into();
    UnpackError::Broken { archive: archive.into(), reason, source: Some(source) }
}

/// An entry's decompressed content, which must be exactly as long as its header says.
struct EntryContent<'a, R> {
    content: R,
    archive: &'a Path,
    left: u64,
}

impl<R: Read> EntryContent<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let count = loop {
            match self.content.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) if source.raw_os_error().is_some() => {
                    return Err(UnpackError::io("read", self.archive, source));
                }
                Err(source) => {
                    let reason = "an entry's data is damaged".into();
                    return Err(UnpackError::Broken { archive: self.archive.into(), reason, source: Some(source) });
                }
                Ok(count) => break count,
            }
        };
        let left = self.left.checked_sub(count as u64).filter(|left| count > 0 || *left == 0);
        self.left = left.ok_or_else(|| UnpackError::broken(self.archive, "an entry is not as long as its header says"))?;
        Ok(count)
    }

    /// Reads a symbolic link's target, which is its content.
    fn target(&mut self, name: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let mut target = vec![0; 8192];
        let mut length = 0;
        loop {
            if length == target.len() {
                return Err(UnpackError::refused(name, Rule::Link(LinkFault::Bad)));
            }
            match self.read(&mut target[length..])? {
                0 => break,
                count => length += count,
            }
        }
        target.truncate(length);
        Ok(target)
    }
}

impl<R: Read> Content for EntryContent<'_, R> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, UnpackError> {
        Ok(match self.read(buffer)? {
            0 => Step::End,
            count => Step::Data(count),
        })
    }
}
