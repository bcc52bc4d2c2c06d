//! What to ask an origin for, to get certain bytes of the artifact. Pure.

use std::{collections::VecDeque, ops::Range};

use super::client::Ask;
use crate::{
    model::origin::{Origin, OriginStyle},
    swarm::{Metainfo, metainfo::FilePart, policy::Run},
};

/// One request, and the bytes that its answer has to have.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) ask: Ask,
    pub(super) bytes: u64,
    /// How long the file is that the bytes are a part of; none where it is not asked for a part of a file.
    pub(super) file: Option<u64>,
}

/// Returns what the bytes of a run are asked for with, one after the other.
pub(super) fn parts(origin: &Origin, meta: &Metainfo, run: Run) -> VecDeque<Part> {
    let bytes = bytes_of(meta, run);
    match &origin.style {
        OriginStyle::File => meta.parts(bytes).map(|part| file_part(origin, meta, &part)).collect(),
        OriginStyle::Content => {
            let (url, length) = (origin.seed.url().clone(), bytes.end - bytes.start);
            VecDeque::from([Part { ask: Ask { url, range: Some(bytes) }, bytes: length, file: Some(meta.length()) }])
        }
        OriginStyle::Pieces { info_hash, piece_length } => piece_parts(origin, info_hash, u64::from(*piece_length), bytes),
    }
}

/// Returns which bytes of the artifact the pieces of a run are.
pub(super) fn bytes_of(meta: &Metainfo, run: Run) -> Range<u64> {
    let end = meta.piece_offset(run.pieces().end).min(meta.length());
    meta.piece_offset(run.first)..end
}

/// BEP 19: the file, or the files of a directory below its name.
fn file_part(origin: &Origin, meta: &Metainfo, part: &FilePart<'_>) -> Part {
    let url = match part.path {
        None => origin.seed.of_file(meta.name()),
        Some(path) => origin.seed.of_file_in(meta.name(), path),
    };
    let ask = Ask { url, range: Some(part.range.clone()) };
    Part { ask, bytes: part.range.end - part.range.start, file: Some(part.length) }
}

/// BEP 17: pieces are asked for by their number in the torrent that it is for, and parts of them.
fn piece_parts(origin: &Origin, info_hash: &str, piece_length: u64, bytes: Range<u64>) -> VecDeque<Part> {
    let before =
        origin.seed.url().query().filter(|query| !query.is_empty()).map_or_else(String::new, |query| format!("{query}&"));
    let hash = escaped(info_hash);
    let mut parts = VecDeque::new();
    let mut at = bytes.start;
    while at < bytes.end {
        let (piece, within) = (at / piece_length, at % piece_length);
        let length = (piece_length - within).min(bytes.end - at);
        let mut url = origin.seed.url().clone();
        let last = within + length - 1;
        url.set_query(Some(&format!("{before}info_hash={hash}&piece={piece}&ranges={within}-{last}")));
        parts.push_back(Part { ask: Ask { url, range: None }, bytes: length, file: None });
        at += length;
    }
    parts
}

/// Writes the bytes that are given in hexadecimal as a query has them.
fn escaped(hex: &str) -> String {
    let digits: Vec<char> = hex.chars().collect();
    digits.chunks(2).map(|pair| format!("%{}", pair.iter().collect::<String>())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::origin::WebSeed;

    fn origin(url: &str, style: OriginStyle) -> Origin {
        Origin { seed: WebSeed::new(url).unwrap(), style, headers: Vec::new(), addresses: Vec::new(), ranges: true }
    }

    fn meta() -> Metainfo {
        Metainfo::new("a.tar", 100_000, 1 << 14, vec![[0; 20]; 7]).unwrap()
    }

    #[test]
    fn a_file_is_asked_for_a_range() {
        let of =
            |first, count| parts(&origin("http://h/d/", OriginStyle::File), &meta(), Run { first, count }).pop_front().unwrap();
        let part = of(1, 2);
        assert_eq!(part.ask.url.as_str(), "http://h/d/a.tar");
        assert_eq!((part.ask.range, part.bytes, part.file), (Some(16_384..49_152), 32_768, Some(100_000)));
        let last = of(5, 2);
        assert_eq!((last.ask.range, last.bytes), (Some(81_920..100_000), 18_080));
    }

    #[test]
    fn a_script_is_asked_for_its_own_pieces() {
        let asked = |piece_length, run| {
            let style = OriginStyle::Pieces { info_hash: "00ff41".into(), piece_length };
            let parts = parts(&origin("http://h/seed.php?x=1", style), &meta(), run);
            parts.into_iter().map(|part| (part.ask.url.query().unwrap().to_owned(), part.bytes)).collect::<Vec<_>>()
        };
        let query = |piece, range| format!("x=1&info_hash=%00%ff%41&piece={piece}&ranges={range}");
        let last_two = Run { first: 5, count: 2 };
        assert_eq!(asked(1 << 14, last_two), [(query(5, "0-16383"), 16_384), (query(6, "0-1695"), 1_696)]);
        assert_eq!(asked(1 << 15, last_two), [(query(2, "16384-32767"), 16_384), (query(3, "0-1695"), 1_696)]);
        assert_eq!(asked(1 << 20, last_two), [(query(0, "81920-99999"), 18_080)]);
    }

    #[test]
    fn the_files_of_a_directory_are_asked_for_one_by_one() {
        let of = |url: &str| origin(url, OriginStyle::File).seed.of_file_in("shop", "a b/c.txt").to_string();
        assert_eq!(of("http://h/d/"), "http://h/d/shop/a%20b/c.txt");
        assert_eq!(of("http://h/d"), "http://h/d/shop/a%20b/c.txt");
    }
}
