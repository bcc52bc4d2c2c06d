//! Torrent metainfo of our own: one file or one directory, private (BEP 3, BEP 27, BEP 47), and the choice of the piece length.
//!
//! Owns the info dictionary's bytes, from which the info-hash follows. Promises exactly `ceil(length / piece_length)` piece
//! hashes, also where the length is a multiple of the piece length. Accepts only what it would write itself: canonical bencode,
//! the keys of such a torrent, nothing else; so equal info-hashes mean equal bytes. Never reads a file.
//!
//! A directory's dictionary holds its whole listing ([`Tree`]): what standard clients know (`files`, and BEP 47's `attr` and
//! `symlink path`), and beside it what they pass over: modes, SHA-256 of each file, links as they are written, directories.

mod info;
mod length;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc};

use librqbit_core::hash_id::Id20;
use sha1::{Digest as _, Sha1};

use crate::model::Tree;
use info::Info;
pub use length::choose_piece_length;

/// A piece's SHA-1.
pub type PieceHash = [u8; 20];

/// The most pieces a torrent may have: 4 MB of hashes in every job.
pub const MAX_PIECES: u32 = 200_000;
/// The smallest accepted piece length in bytes: one block.
pub const MIN_PIECE_LENGTH: u32 = 16 << 10;
/// The largest accepted piece length in bytes.
pub const MAX_PIECE_LENGTH: u32 = 16 << 20;
/// The most bytes of a directory's listing in an info dictionary.
const MAX_LISTING: usize = 16 << 20;
/// The longest accepted info dictionary in bytes.
pub const MAX_INFO: usize = MAX_PIECES as usize * 20 + 1024 + MAX_LISTING;
/// The longest accepted file name in bytes: what file systems allow.
const MAX_NAME: usize = 255;

/// Says why bytes or numbers are not usable metainfo.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MetainfoError(String);

fn refuse<T>(why: impl Into<String>) -> Result<T, MetainfoError> {
    Err(MetainfoError(why.into()))
}

/// A checked torrent: what every engine, the tracker and the agents need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    name: String,
    length: u64,
    tree: Option<Arc<Tree>>,
    piece_length: u32,
    pieces: Vec<PieceHash>,
    info_bytes: Vec<u8>,
    info_hash: Id20,
}

/// A part of a range of the torrent's bytes: what of it lies in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart<'a> {
    /// The file's place among the torrent's files that are not empty.
    pub index: usize,
    /// The file's path below the directory, components separated by `/`; none where the torrent is one file.
    pub path: Option<&'a str>,
    /// The file's length in bytes.
    pub length: u64,
    /// Which of the file's bytes.
    pub range: Range<u64>,
}

impl Metainfo {
    /// Builds metainfo for one file.
    ///
    /// # Errors
    /// A length of 0, a piece length that is not a power of two from 16 KiB to 16 MiB, a number of hashes other than
    /// `ceil(length / piece_length)` or above 200,000, or a name that is not one safe path component.
    pub fn new(name: &str, length: u64, piece_length: u32, pieces: Vec<PieceHash>) -> Result<Self, MetainfoError> {
        Self::build(name, length, None, piece_length, pieces)
    }

    /// Builds metainfo for a directory. Its bytes are those of its files, in the listing's order; where these have none, there is one
    /// zero byte of padding (BEP 47), because a torrent without bytes is none.
    ///
    /// # Errors
    /// As for [`Metainfo::new`], and for a listing of more than 16 MiB.
    pub fn of_tree(name: &str, tree: Arc<Tree>, piece_length: u32, pieces: Vec<PieceHash>) -> Result<Self, MetainfoError> {
        Self::build(name, tree.size().max(1), Some(tree), piece_length, pieces)
    }

    fn build(
        name: &str,
        length: u64,
        tree: Option<Arc<Tree>>,
        piece_length: u32,
        pieces: Vec<PieceHash>,
    ) -> Result<Self, MetainfoError> {
        check_name(name)?;
        let count = check_lengths(length, piece_length)?;
        if pieces.len() != count as usize {
            return refuse(format!("{} piece hashes for {count} pieces", pieces.len()));
        }
        let info_bytes = info::write(name, length, tree.as_deref(), piece_length, pieces.as_flattened());
        check_size(info_bytes.len())?;
        let info_hash = Id20::new(Sha1::digest(&info_bytes).into());
        Ok(Self { name: name.to_owned(), length, tree, piece_length, pieces, info_bytes, info_hash })
    }

    /// Reads a bencoded info dictionary as [`Metainfo::info_bytes`] gives it. Hostile input is an error.
    ///
    /// # Errors
    /// As for [`Metainfo::new`] and [`Tree::new`], and for anything that is not the canonical encoding of these keys.
    pub fn from_info_bytes(bytes: &[u8]) -> Result<Self, MetainfoError> {
        check_size(bytes.len())?;
        let Some(Info { length, listing, name, piece_length, pieces, private }) = Info::parse(bytes) else {
            return refuse("not the info dictionary of a private torrent in canonical form");
        };
        if private != 1 {
            return refuse("the torrent is not private");
        }
        let Ok(name) = std::str::from_utf8(name) else {
            return refuse("the file name is not UTF-8");
        };
        let (pieces, rest) = pieces.as_chunks::<20>();
        if !rest.is_empty() {
            return refuse("the piece hashes are not a multiple of 20 bytes");
        }
        let pieces = pieces.to_vec();
        let built = match listing {
            None => Self::new(name, length, piece_length, pieces)?,
            Some(entries) => {
                let tree = Tree::new(entries).map_err(|error| MetainfoError(error.to_string()))?;
                Self::of_tree(name, Arc::new(tree), piece_length, pieces)?
            }
        };
        if built.info_bytes != bytes {
            return refuse("the info dictionary is not in canonical form");
        }
        Ok(built)
    }

    /// Returns the bencoded info dictionary.
    pub fn info_bytes(&self) -> &[u8] {
        &self.info_bytes
    }

    /// Returns a whole `.torrent` file with that announce URL, and web servers that have the content (BEP 19).
    pub fn to_torrent(&self, announce: &str, url_list: &[String]) -> Vec<u8> {
        // The info dictionary must be embedded byte for byte; a dictionary of few keys is quicker written than described.
        let mut torrent = format!("d8:announce{}:{announce}4:info", announce.len()).into_bytes();
        torrent.extend_from_slice(&self.info_bytes);
        if !url_list.is_empty() {
            let urls: String = url_list.iter().map(|url| format!("{}:{url}", url.len())).collect();
            torrent.extend_from_slice(format!("8:url-listl{urls}e").as_bytes());
        }
        torrent.push(b'e');
        torrent
    }

    /// Returns the info-hash: the SHA-1 of [`Metainfo::info_bytes`].
    pub fn info_hash(&self) -> Id20 {
        self.info_hash
    }

    /// Returns the file's or the directory's name, one safe path component.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the directory's listing; none where the torrent is one file.
    pub fn tree(&self) -> Option<&Arc<Tree>> {
        self.tree.as_ref()
    }

    /// Returns the length of all its bytes, at least 1.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the files' parts that a range of the torrent's bytes consists of, in order. Bytes that no part covers are zero: there
    /// is one where all files are empty.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = FilePart<'_>> {
        let whole = self.tree.is_none() && range.start < range.end.min(self.length);
        let whole = whole.then(|| FilePart {
            index: 0,
            path: None,
            length: self.length,
            range: range.start..range.end.min(self.length),
        });
        let listed = self.tree.iter().flat_map(move |tree| tree.parts(range.clone()));
        let listed = listed.map(|part| FilePart {
            index: part.index,
            path: Some(part.path),
            length: part.file.length,
            range: part.range,
        });
        whole.into_iter().chain(listed)
    }

    /// Returns the piece length in bytes; the last piece may be shorter.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Returns how many pieces there are, at least 1.
    pub fn piece_count(&self) -> u32 {
        self.pieces.len() as u32
    }

    /// Returns a piece's length in bytes; none if there is no such piece.
    pub fn piece_size(&self, piece: u32) -> Option<u32> {
        let start = u64::from(piece).checked_mul(u64::from(self.piece_length))?;
        let left = self.length.checked_sub(start)?;
        (left > 0).then(|| left.min(u64::from(self.piece_length)) as u32)
    }

    /// Returns where a piece starts in the torrent's bytes.
    pub fn piece_offset(&self, piece: u32) -> u64 {
        u64::from(piece) * u64::from(self.piece_length)
    }

    /// Returns a piece's SHA-1; none if there is no such piece.
    pub fn piece_hash(&self, piece: u32) -> Option<&PieceHash> {
        self.pieces.get(piece as usize)
    }
}

fn check_name(name: &str) -> Result<(), MetainfoError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return refuse(format!("a file name has 1 to {MAX_NAME} bytes, not {}", name.len()));
    }
    if name == "." || name == ".." || name.contains(['/', '\\']) || name.chars().any(char::is_control) {
        return refuse(format!("`{}` is not a plain file name", name.escape_debug().take(80).collect::<String>()));
    }
    Ok(())
}

fn check_size(bytes: usize) -> Result<(), MetainfoError> {
    if bytes <= MAX_INFO { Ok(()) } else { refuse(format!("an info dictionary of {bytes} bytes is too large")) }
}

/// Returns the number of pieces.
fn check_lengths(length: u64, piece_length: u32) -> Result<u32, MetainfoError> {
    if length == 0 {
        return refuse("an empty file has no pieces");
    }
    if !piece_length.is_power_of_two() || !(MIN_PIECE_LENGTH..=MAX_PIECE_LENGTH).contains(&piece_length) {
        return refuse(format!("the piece length {piece_length} is not a power of two from 16 KiB to 16 MiB"));
    }
    let count = length.div_ceil(u64::from(piece_length));
    match u32::try_from(count) {
        Ok(count) if count <= MAX_PIECES => Ok(count),
        _ => refuse(format!("{length} bytes in pieces of {piece_length} are more than {MAX_PIECES} pieces")),
    }
}
