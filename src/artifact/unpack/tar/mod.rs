//! Tar streams: POSIX ustar and pax, GNU (long names, sparse files), old V7.
//!
//! Reads the blocks itself, because every length in them must be checked before anything is allocated or skipped; the header's fields
//! are decoded by the `tar` crate. A stream has to end with an end-of-archive block and nothing but zeros after it: one that
//! does not was cut short, or carries a second archive that other readers would see and this one would not.

mod extended;
mod sparse;

use std::path::Path;

use ::tar::Header;

use self::{
    extended::{Extended, LONGEST_EXTENDED},
    sparse::SparseMap,
};
use super::{
    Limit, Rule, UnpackError,
    dest::{Content, Dest, Step, Time},
    limits::Meter,
    name::EntryPath,
    stream::TarStream,
};

/// Length of a tar block in bytes.
const BLOCK: usize = 512;

/// Unpacks a whole stream.
pub(super) fn unpack(stream: TarStream<'_>, archive: &Path, dest: &mut Dest<'_>) -> Result<(), UnpackError> {
    let mut reader = Reader { stream, archive, remaining: 0, padding: 0 };
    while let Some(member) = reader.next_member(&mut dest.meter)? {
        reader.unpack_member(&member, dest)?;
        reader.skip_rest(&member.name, &mut dest.meter)?;
    }
    reader.expect_zeros(&mut dest.meter)
}

/// What a member is, as its type flag says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    HardLink,
    Symlink,
}

/// One member's header with everything that extends it.
struct Member {
    name: Vec<u8>,
    link: Vec<u8>,
    kind: Kind,
    mode: u32,
    mtime: Option<Time>,
    sparse: Option<SparseMap>,
}

/// Reads a stream block by block. `remaining` and `padding` are what is left of the current member.
struct Reader<'a> {
    stream: TarStream<'a>,
    archive: &'a Path,
    remaining: u64,
    padding: u64,
}

impl Reader<'_> {
    fn broken(&self, reason: impl Into<String>) -> UnpackError {
        UnpackError::broken(self.archive, reason)
    }

    /// Reads the next block; the stream must not end in it.
    fn block(&mut self, entry: &[u8], meter: &mut Meter<'_>) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        meter.overhead(entry, BLOCK as u64)?;
        match self.stream.read_full(&mut block, entry)? {
            BLOCK => Ok(Some(block)),
            0 => Ok(None),
            _ => Err(self.broken("it ends in the middle of a block")),
        }
    }

    /// Reads headers up to the next file, directory or link. `None` at the end-of-archive block.
    fn next_member(&mut self, meter: &mut Meter<'_>) -> Result<Option<Member>, UnpackError> {
        let mut extended = Extended::default();
        loop {
            let Some(block) = self.block(extended.name(), meter)? else {
                return Err(self.broken("it ends without an end-of-archive block"));
            };
            if block == [0; BLOCK] {
                return match extended.is_empty() {
                    true => Ok(None),
                    false => Err(self.broken("it ends after an extended header")),
                };
            }
            let header = Header::from_byte_slice(&block);
            if !checksum_matches(header) {
                return Err(self.broken("a header's checksum is wrong"));
            }
            let flag = block[156];
            if !matches!(flag, b'L' | b'K' | b'x' | b'g') {
                return self.member(header, flag, extended, meter).map(Some);
            }
            let body = self.extended_body(header, meter)?;
            let taken = match flag {
                b'L' => extended.set_long_name(body),
                b'K' => extended.set_long_link(body),
                b'x' => extended.set_pax(&body),
                _ => Extended::check_global(&body),
            };
            taken.map_err(|error| error.at(self.archive, &header.path_bytes()))?;
        }
    }

    /// Reads the body of an extended header, which is bounded.
    fn extended_body(&mut self, header: &Header, meter: &mut Meter<'_>) -> Result<Vec<u8>, UnpackError> {
        let name = header.path_bytes();
        let size = self.number(header.entry_size())?;
        if size > LONGEST_EXTENDED {
            return Err(UnpackError::too_much(&name, Limit::ExtendedHeader(LONGEST_EXTENDED)));
        }
        meter.overhead(&name, size)?;
        self.begin(size)?;
        let mut body = vec![0; size as usize];
        self.read_content(&mut body, &name)?;
        self.skip_rest(&name, meter)?;
        Ok(body)
    }

    /// Puts a member together from its header and what came before it.
    fn member(&mut self, header: &Header, flag: u8, extended: Extended, meter: &mut Meter<'_>) -> Result<Member, UnpackError> {
        let name = extended.path().map_or_else(|| header.path_bytes().into_owned(), <[u8]>::to_vec);
        let refused = |rule| UnpackError::refused(&name, rule);
        let stored = match extended.size() {
            Some(size) => size,
            None => self.number(header.entry_size())?,
        };
        let mut kind = match flag {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => return Err(refused(Rule::Device)),
            b'5' => Kind::Directory,
            b'6' => return Err(refused(Rule::Fifo)),
            other => return Err(refused(Rule::UnknownType(other.into()))),
        };
        // V7 had no flag for directories.
        if kind == Kind::File && flag != b'S' && name.ends_with(b"/") {
            kind = Kind::Directory;
        }
        if kind != Kind::File && stored > 0 {
            return Err(refused(Rule::UnexpectedContent));
        }
        if extended.is_sparse() && (kind != Kind::File || flag == b'S') {
            return Err(refused(Rule::Sparse));
        }
        let link = extended.link().map(<[u8]>::to_vec).or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        // Old archives carry the file type in the mode, too.
        let mode = self.number(header.mode())? & 0o7777;
        let mtime = extended.mtime().or_else(|| header.mtime().ok().and_then(|time| Some((i64::try_from(time).ok()?, 0))));
        self.begin(stored)?;
        let sparse = match (flag, extended.sparse_size()) {
            (b'S', _) => Some(self.gnu_sparse_map(header, &name, meter)?),
            (_, Some(real_size)) => Some(self.pax_sparse_map(real_size, &name, meter)?),
            _ => None,
        };
        Ok(Member { name, link: link.unwrap_or_default(), kind, mode, mtime, sparse })
    }

    fn unpack_member(&mut self, member: &Member, dest: &mut Dest<'_>) -> Result<(), UnpackError> {
        let refused = |rule| UnpackError::refused(&member.name, rule);
        let path = EntryPath::parse(&member.name, dest.meter.limits).map_err(refused)?;
        if member.mode & 0o7000 != 0 && member.kind != Kind::Symlink {
            return Err(refused(Rule::SpecialBits));
        }
        match member.kind {
            Kind::Directory => dest.directory(&path, member.mode),
            Kind::Symlink => dest.symlink(&path, &member.link),
            Kind::HardLink => {
                let target = EntryPath::parse(&member.link, dest.meter.limits).map_err(|_| refused(Rule::HardLinkTarget))?;
                dest.hard_link(&path, &target)
            }
            Kind::File => {
                let mut content = MemberContent { reader: self, member, piece: 0, position: 0 };
                dest.file(&path, member.mode, member.mtime, &mut content)
            }
        }
    }

    /// Starts a body of `size` bytes.
    fn begin(&mut self, size: u64) -> Result<(), UnpackError> {
        if size > i64::MAX as u64 {
            return Err(self.broken("a size is impossibly large"));
        }
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// Fills the buffer from the current body, which must hold that much.
    fn read_content(&mut self, buffer: &mut [u8], entry: &[u8]) -> Result<(), UnpackError> {
        if buffer.len() as u64 > self.remaining || self.stream.read_full(buffer, entry)? != buffer.len() {
            return Err(self.broken("it ends in the middle of an entry"));
        }
        self.remaining -= buffer.len() as u64;
        Ok(())
    }

    /// Reads past what is left of the current body.
    fn skip_rest(&mut self, entry: &[u8], meter: &mut Meter<'_>) -> Result<(), UnpackError> {
        let mut buffer = [0; 16 * BLOCK];
        let mut left = self.remaining + self.padding;
        while left > 0 {
            let want = left.min(buffer.len() as u64) as usize;
            meter.overhead(entry, want as u64)?;
            if self.stream.read_full(&mut buffer[..want], entry)? != want {
                return Err(self.broken("it ends in the middle of an entry"));
            }
            left -= want as u64;
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    /// Reads to the end of the stream, which makes the decoder check its checksums, too.
    fn expect_zeros(&mut self, meter: &mut Meter<'_>) -> Result<(), UnpackError> {
        let mut buffer = [0; 16 * BLOCK];
        loop {
            let count = self.stream.read_full(&mut buffer, b"end of archive")?;
            if count == 0 {
                return Ok(());
            }
            meter.overhead(b"end of archive", count as u64)?;
            if buffer[..count].iter().any(|byte| *byte != 0) {
                return Err(self.broken("something follows its end-of-archive block"));
            }
        }
    }

    fn number<T>(&self, field: std::io::Result<T>) -> Result<T, UnpackError> {
        field.map_err(|source| UnpackError::Broken {
            archive: self.archive.into(),
            reason: "a number in a header cannot be read".into(),
            source: Some(source),
        })
    }
}

fn checksum_matches(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum();
    header.cksum().is_ok_and(|stored| stored == sum + 8 * u32::from(b' '))
}

/// A member's content, its holes included.
struct MemberContent<'r, 'a> {
    reader: &'r mut Reader<'a>,
    member: &'r Member,
    /// Index of the sparse map's next piece.
    piece: usize,
    /// Bytes of the file produced so far.
    position: u64,
}

impl Content for MemberContent<'_, '_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, UnpackError> {
        let most = match &self.member.sparse {
            None => self.reader.remaining,
            Some(map) => match map.at(&mut self.piece, self.position) {
                sparse::At::Data(count) => count,
                sparse::At::Hole(count) => {
                    self.position += count;
                    return Ok(Step::Hole(count));
                }
                sparse::At::End => return Ok(Step::End),
            },
        };
        let count = most.min(buffer.len() as u64) as usize;
        if count == 0 {
            return Ok(Step::End);
        }
        self.reader.read_content(&mut buffer[..count], &self.member.name)?;
        self.position += count as u64;
        Ok(Step::Data(count))
    }
}
