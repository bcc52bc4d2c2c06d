//! Torrent metainfo of our own: one file, private (BEP 3, BEP 27), and the choice of the piece length.
//!
//! Owns the info dictionary's bytes, from which the info-hash follows. Promises exactly `ceil(length / piece_length)` piece
//! hashes, also where the length is a multiple of the piece length. Never reads a file.

use librqbit_core::hash_id::Id20;

/// A piece's SHA-1.
pub type PieceHash = [u8; 20];

/// Says why bytes or numbers are not usable metainfo.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MetainfoError(String);

/// A checked torrent: what every engine, the tracker and the agents need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    name: String,
    length: u64,
    piece_length: u32,
    pieces: Vec<PieceHash>,
    info_bytes: Vec<u8>,
    info_hash: Id20,
}

impl Metainfo {
    /// Builds metainfo for one file.
    pub fn new(_name: &str, _length: u64, _piece_length: u32, _pieces: Vec<PieceHash>) -> Result<Self, MetainfoError> {
        Err(MetainfoError("not built yet".into()))
    }

    /// Reads a bencoded info dictionary as [`Metainfo::info_bytes`] gives it. Hostile input is an error.
    pub fn from_info_bytes(_bytes: &[u8]) -> Result<Self, MetainfoError> {
        Err(MetainfoError("not built yet".into()))
    }

    /// Returns the bencoded info dictionary.
    pub fn info_bytes(&self) -> &[u8] {
        &self.info_bytes
    }

    /// Returns a whole `.torrent` file with that announce URL.
    pub fn to_torrent(&self, _announce: &str) -> Vec<u8> {
        Vec::new()
    }

    /// Returns the info-hash.
    pub fn info_hash(&self) -> Id20 {
        self.info_hash
    }

    /// Returns the file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file's length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the piece length in bytes.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Returns how many pieces there are.
    pub fn piece_count(&self) -> u32 {
        self.pieces.len() as u32
    }
}

/// Chooses the piece length in bytes for an artifact and a fleet: a power of two from 64 KiB to 16 MiB.
pub fn choose_piece_length(_size: u64, _hosts: usize) -> u32 {
    128 << 10
}
