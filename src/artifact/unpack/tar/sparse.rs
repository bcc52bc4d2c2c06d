//! Files with holes: the map of what is stored, in GNU's old form and in pax form 1.0.

use ::tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{BLOCK, Limit, Meter, Reader, Rule, UnpackError, extended::decimal};

/// The most pieces of one file; at 16 bytes each.
const MAX_PIECES: usize = 1 << 17;

/// The longest line of a map in bytes: a 64-bit number in decimal.
const LONGEST_LINE: usize = 20;

/// A piece of a file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    offset: u64,
    length: u64,
}

/// Which parts of a file are stored: ascending, not overlapping, within the file. The rest are holes.
#[derive(Debug)]
pub(super) struct SparseMap {
    pieces: Vec<Piece>,
    size: u64,
}

/// What is at a position in a file.
pub(super) enum At {
    /// So many stored bytes.
    Data(u64),
    /// So many zeros.
    Hole(u64),
    /// The end.
    End,
}

impl SparseMap {
    /// Checks a map against the file's length and the number of stored bytes.
    fn new(pieces: Vec<Piece>, size: u64, stored: u64) -> Option<Self> {
        let mut end = 0_u64;
        let mut sum = 0_u64;
        for piece in &pieces {
            if piece.offset < end {
                return None;
            }
            end = piece.offset.checked_add(piece.length)?;
            sum = sum.checked_add(piece.length)?;
        }
        (end <= size && sum == stored && size <= i64::MAX as u64).then_some(Self { pieces, size })
    }

    /// Tells what is at `position`; `piece` is the caller's index into the map and moves with the position.
    pub(super) fn at(&self, piece: &mut usize, position: u64) -> At {
        while let Some(next) = self.pieces.get(*piece) {
            if position < next.offset {
                return At::Hole(next.offset - position);
            }
            match (next.offset + next.length).saturating_sub(position) {
                0 => *piece += 1,
                left => return At::Data(left),
            }
        }
        match self.size.saturating_sub(position) {
            0 => At::End,
            left => At::Hole(left),
        }
    }
}

impl Reader<'_> {
    /// Reads the map in a GNU header and the blocks that continue it.
    pub(super) fn gnu_sparse_map(
        &mut self,
        header: &Header,
        name: &[u8],
        meter: &mut Meter<'_>,
    ) -> Result<SparseMap, UnpackError> {
        let refused = || UnpackError::refused(name, Rule::Sparse);
        let gnu = header.as_gnu().ok_or_else(refused)?;
        let size = self.number(gnu.real_size())?;
        let mut pieces = Vec::new();
        self.add_pieces(&gnu.sparse, &mut pieces, name)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extension = GnuExtSparseHeader::new();
            let block = self.block(name, meter)?.ok_or_else(|| self.broken("it ends in a sparse file's map"))?;
            extension.as_mut_bytes().copy_from_slice(&block);
            self.add_pieces(extension.sparse(), &mut pieces, name)?;
            more = extension.is_extended();
        }
        SparseMap::new(pieces, size, self.remaining).ok_or_else(refused)
    }

    fn add_pieces(&self, headers: &[GnuSparseHeader], pieces: &mut Vec<Piece>, name: &[u8]) -> Result<(), UnpackError> {
        for header in headers.iter().filter(|header| !header.is_empty()) {
            check_count(pieces.len() + 1, name)?;
            pieces.push(Piece { offset: self.number(header.offset())?, length: self.number(header.length())? });
        }
        Ok(())
    }

    /// Reads the map at the start of a pax sparse file's body: lines with the number of pieces, then offset and length of each,
    /// padded to whole blocks.
    pub(super) fn pax_sparse_map(&mut self, size: u64, name: &[u8], meter: &mut Meter<'_>) -> Result<SparseMap, UnpackError> {
        let refused = || UnpackError::refused(name, Rule::Sparse);
        let mut numbers = Numbers::default();
        let mut count = None;
        let mut pieces = Vec::new();
        while count.is_none_or(|count| pieces.len() < count) {
            let Some(number) = numbers.next().map_err(|()| refused())? else {
                let mut block = [0; BLOCK];
                meter.overhead(name, BLOCK as u64)?;
                self.read_content(&mut block, name)?;
                numbers.add(&block);
                continue;
            };
            match (count, numbers.offset.take()) {
                (None, _) => {
                    let announced = usize::try_from(number).unwrap_or(usize::MAX);
                    check_count(announced, name)?;
                    count = Some(announced);
                }
                (Some(_), None) => numbers.offset = Some(number),
                (Some(_), Some(offset)) => pieces.push(Piece { offset, length: number }),
            }
        }
        SparseMap::new(pieces, size, self.remaining).ok_or_else(refused)
    }
}

fn check_count(count: usize, name: &[u8]) -> Result<(), UnpackError> {
    if count > MAX_PIECES { Err(UnpackError::too_much(name, Limit::SparsePieces(MAX_PIECES as u64))) } else { Ok(()) }
}

/// Splits blocks into lines that hold a number each.
#[derive(Default)]
struct Numbers {
    pending: Vec<u8>,
    read: usize,
    /// An offset whose length has not been read yet.
    offset: Option<u64>,
}

impl Numbers {
    fn add(&mut self, block: &[u8]) {
        self.pending.drain(..self.read);
        self.read = 0;
        self.pending.extend_from_slice(block);
    }

    /// Returns the next number, `None` if its line is not complete yet.
    fn next(&mut self) -> Result<Option<u64>, ()> {
        let rest = &self.pending[self.read..];
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                self.read += end + 1;
                decimal(&rest[..end]).map(Some).ok_or(())
            }
            None if rest.len() > LONGEST_LINE => Err(()),
            None => Ok(None),
        }
    }
}
