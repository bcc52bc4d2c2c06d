//! What somebody else's torrent says of its origins: `url-list` (BEP 19) and `httpseeds` (BEP 17), and of the file that they have.

use std::io::{self, Read};

use sha1::{Digest as _, Sha1};

use crate::{
    model::origin::{OriginStyle, WebSeed},
    swarm::{PieceHash, bencode::Reader},
};

/// The largest torrent, in bytes.
pub const MAX_TORRENT: u64 = 16 << 20;
/// How long a piece may be.
const PIECE_LENGTHS: std::ops::RangeInclusive<u32> = 16 << 10..=256 << 20;
/// How much is read at once.
const READ: usize = 256 << 10;

/// Says why a torrent can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TorrentError {
    /// Not what a torrent looks like.
    #[error("it is no torrent")]
    Malformed,
    /// It describes a directory.
    #[error("it describes several files: only torrents of one file can be used here")]
    SeveralFiles,
    /// Its pieces can't be used.
    #[error("its pieces have {0} bytes, not from 16 KiB to 256 MiB")]
    PieceLength(u64),
}

/// A torrent of one file, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignTorrent {
    /// The file's length in bytes.
    pub length: u64,
    /// The length of a piece in bytes.
    pub piece_length: u32,
    /// The hashes of the pieces.
    pub pieces: Vec<PieceHash>,
    /// Its origins, those that can be used.
    pub origins: Vec<(WebSeed, OriginStyle)>,
    /// Its other origins: the addresses, as they stand there.
    pub unusable: Vec<String>,
}

/// What the top of a torrent has.
#[derive(Default)]
struct Top<'a> {
    info: Option<&'a [u8]>,
    url_list: Vec<&'a [u8]>,
    http_seeds: Vec<&'a [u8]>,
}

/// What its info dictionary has.
#[derive(Default)]
struct Info<'a> {
    length: Option<u64>,
    piece_length: Option<u64>,
    pieces: Option<&'a [u8]>,
    several: bool,
}

impl ForeignTorrent {
    /// Reads a torrent.
    pub fn read(bytes: &[u8]) -> Result<Self, TorrentError> {
        let top = top(bytes).ok_or(TorrentError::Malformed)?;
        let dictionary = top.info.ok_or(TorrentError::Malformed)?;
        let info = info(dictionary).ok_or(TorrentError::Malformed)?;
        if info.several {
            return Err(TorrentError::SeveralFiles);
        }
        let (length, told) = info.length.zip(info.piece_length).ok_or(TorrentError::Malformed)?;
        let piece_length = u32::try_from(told).ok().filter(|length| PIECE_LENGTHS.contains(length));
        let piece_length = piece_length.ok_or(TorrentError::PieceLength(told))?;
        let (pieces, rest) = info.pieces.ok_or(TorrentError::Malformed)?.as_chunks::<20>();
        if !rest.is_empty() || pieces.len() as u64 != length.div_ceil(told) {
            return Err(TorrentError::Malformed);
        }
        let mut torrent = Self { length, piece_length, pieces: pieces.to_vec(), origins: Vec::new(), unusable: Vec::new() };
        let info_hash = Sha1::digest(dictionary).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        torrent.add(&top.url_list, &OriginStyle::File);
        torrent.add(&top.http_seeds, &OriginStyle::Pieces { info_hash, piece_length });
        Ok(torrent)
    }

    /// Reads a file to its end and returns whether it is what the torrent describes.
    pub fn describes(&self, mut file: impl Read) -> io::Result<bool> {
        let (mut buffer, mut length) = (vec![0; READ], 0u64);
        for expected in &self.pieces {
            let mut piece = Sha1::new();
            let mut left = self.piece_length as usize;
            while left > 0 {
                let most = left.min(READ);
                match file.read(&mut buffer[..most])? {
                    0 => break,
                    read => {
                        piece.update(&buffer[..read]);
                        (left, length) = (left - read, length + read as u64);
                    }
                }
            }
            if piece.finalize()[..] != expected[..] {
                return Ok(false);
            }
        }
        Ok(length == self.length && file.read(&mut buffer[..1])? == 0)
    }

    fn add(&mut self, addresses: &[&[u8]], style: &OriginStyle) {
        for address in addresses {
            let text = String::from_utf8_lossy(address);
            match WebSeed::new(&text) {
                Ok(seed) if self.origins.len() < WebSeed::MOST => self.origins.push((seed, style.clone())),
                _ => self.unusable.push(text.chars().take(200).collect()),
            }
        }
    }
}

fn top(bytes: &[u8]) -> Option<Top<'_>> {
    let mut top = Top::default();
    each_key(bytes, |key, value| {
        match key {
            b"info" => top.info = Some(value),
            b"url-list" => top.url_list = texts(value)?,
            b"httpseeds" => top.http_seeds = texts(value)?,
            _ => {}
        }
        Some(())
    })?;
    Some(top)
}

fn info(bytes: &[u8]) -> Option<Info<'_>> {
    let mut info = Info::default();
    each_key(bytes, |key, value| {
        match key {
            b"length" => info.length = Some(Reader::new(value).unsigned()?),
            b"piece length" => info.piece_length = Some(Reader::new(value).unsigned()?),
            b"pieces" => info.pieces = Some(Reader::new(value).bytes()?),
            b"files" | b"file tree" => info.several = true,
            _ => {}
        }
        Some(())
    })?;
    Some(info)
}

/// Calls `found` with the key and the bytes of each value of a dictionary that is all there is.
fn each_key<'a>(bytes: &'a [u8], mut found: impl FnMut(&'a [u8], &'a [u8]) -> Option<()>) -> Option<()> {
    let mut reader = Reader::new(bytes);
    if !reader.eat(b'd') {
        return None;
    }
    while !reader.eat(b'e') {
        let key = reader.bytes()?;
        let value = reader.value()?;
        found(key, value)?;
    }
    reader.is_empty().then_some(())
}

/// Reads a text or a list of them; empty ones are left out.
fn texts(value: &[u8]) -> Option<Vec<&[u8]>> {
    let mut reader = Reader::new(value);
    let mut texts = Vec::new();
    if reader.eat(b'l') {
        while !reader.eat(b'e') {
            texts.push(reader.bytes()?);
        }
    } else {
        texts.push(reader.bytes()?);
    }
    texts.retain(|text| !text.is_empty());
    Some(texts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn torrent(lists: &str, length: u32, more: &str) -> Vec<u8> {
        let hashes = "x".repeat(20 * length.div_ceil(16384) as usize);
        let info = format!("d6:lengthi{length}e4:name1:f12:piece lengthi16384e6:pieces{}:{hashes}{more}e", hashes.len());
        format!("d8:announce3:abc4:info{info}{lists}e").into_bytes()
    }

    #[test]
    fn both_kinds_of_origins_are_found() {
        let lists = "9:httpseedsl10:http://p/se8:url-listl11:https://h/f6:ftp://0:e";
        let read = ForeignTorrent::read(&torrent(lists, 20_000, "6:sourcei7e")).unwrap();
        let (files, scripts): (Vec<_>, Vec<_>) = read.origins.iter().partition(|(_, style)| *style == OriginStyle::File);
        assert_eq!(files[0].0.url().as_str(), "https://h/f");
        assert_eq!(scripts[0].0.url().as_str(), "http://p/s");
        let OriginStyle::Pieces { info_hash, piece_length } = &scripts[0].1 else { panic!() };
        assert_eq!((info_hash.len(), *piece_length), (40, 16_384));
        assert_eq!(read.unusable, ["ftp://"]);
        assert_eq!((read.length, read.piece_length, read.pieces.len()), (20_000, 16_384, 2));
        let one = ForeignTorrent::read(&torrent("8:url-list10:http://h/f", 1, "")).unwrap();
        assert_eq!(one.origins.len(), 1, "a text instead of a list");
    }

    #[test]
    fn what_can_not_be_used_says_why() {
        let of = |text: &str| ForeignTorrent::read(text.as_bytes()).unwrap_err();
        assert_eq!(of("de"), TorrentError::Malformed);
        assert_eq!(of("d4:infod5:filesleee"), TorrentError::SeveralFiles);
        let odd = String::from_utf8(torrent("", 20_000, "")).unwrap().replace("i16384e", "i8192e");
        assert_eq!(of(&odd), TorrentError::PieceLength(8192));
        let short = String::from_utf8(torrent("", 20_000, "")).unwrap().replace("i20000e", "i40000e");
        assert_eq!(of(&short), TorrentError::Malformed);
    }

    #[test]
    fn a_file_is_told_from_others() {
        let file: Vec<u8> = (0..40_000_u32).map(|i| (i >> 5) as u8).collect();
        let pieces = file.chunks(16_384).map(|piece| Sha1::digest(piece).into()).collect();
        let torrent =
            ForeignTorrent { length: 40_000, piece_length: 16_384, pieces, origins: Vec::new(), unusable: Vec::new() };
        let describes = |file: &[u8]| torrent.describes(file).unwrap();
        assert!(describes(&file));
        let mut other = file.clone();
        other[39_999] ^= 1;
        assert!(
            !describes(&other) && !describes(&file[..39_999]) && !describes(&[&file[..], b"x"].concat()) && !describes(b"")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..150) {
            let _ = ForeignTorrent::read(&bytes);
            let mut torrent = torrent("8:url-list10:http://h/f", 20_000, "");
            let at = at % torrent.len();
            torrent[at] ^= 4;
            let _ = ForeignTorrent::read(&torrent);
        }
    }
}
