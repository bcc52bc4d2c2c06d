//! Metainfo of files and directories: canonical, and what is hostile is refused.

use proptest::prelude::*;
use sha1::{Digest as _, Sha1};

use super::{length::choose_piece_length, *};

fn hashes(count: u64) -> Vec<PieceHash> {
    (0..count).map(|i| Sha1::digest(i.to_be_bytes()).into()).collect()
}

fn build(length: u64, piece_length: u32) -> Metainfo {
    Metainfo::new("a.tar.zst", length, piece_length, hashes(length.div_ceil(u64::from(piece_length)))).unwrap()
}

#[test]
fn edges_have_the_right_number_of_pieces_and_lengths() {
    let p = 64 << 10;
    for (length, pieces, last) in [(1, 1, 1), (65536, 1, 65536), (65537, 2, 1), (131_072, 2, 65536), (131_071, 2, 65535)] {
        let meta = build(length, p);
        assert_eq!(meta.piece_count(), pieces, "{length}");
        assert_eq!(meta.piece_size(pieces - 1), Some(last), "{length}");
        assert_eq!(meta.piece_size(pieces), None, "{length}");
    }
    assert!(Metainfo::new("a", 131_072, p, hashes(3)).is_err(), "one hash too many was accepted");
    assert!(Metainfo::new("a", 0, p, vec![]).is_err());
    assert!(Metainfo::new("a", u64::MAX, 16 << 20, vec![]).is_err());
}

#[test]
fn the_bytes_are_canonical_and_the_hash_is_theirs() {
    let meta = Metainfo::new("f", 3, 16384, vec![[b'x'; 20]]).unwrap();
    let expected = format!("d6:lengthi3e4:name1:f12:piece lengthi16384e6:pieces20:{}7:privatei1ee", "x".repeat(20));
    assert_eq!(meta.info_bytes(), expected.as_bytes());
    assert_eq!(meta.info_hash().0, <[u8; 20]>::from(Sha1::digest(expected.as_bytes())));
    let torrent = meta.to_torrent("http://127.0.0.1:1/announce", &["http://h/f".into(), "http://g/".into()]);
    assert!(torrent.ends_with(b"e8:url-listl10:http://h/f9:http://g/ee"), "{torrent:?}");
    let torrent = meta.to_torrent("http://127.0.0.1:1/announce", &[]);
    assert!(torrent.starts_with(b"d8:announce27:http://127.0.0.1:1/announce4:infod6:length"), "{torrent:?}");
}

#[test]
fn hostile_dictionaries_are_refused() {
    let good = |name: &str, pl: &str, private: &str| {
        let hash = "x".repeat(20);
        format!("d6:lengthi3e4:name{}:{name}12:piece lengthi{pl}e6:pieces20:{hash}7:privatei{private}ee", name.len())
    };
    assert!(Metainfo::from_info_bytes(good("f", "16384", "1").as_bytes()).is_ok());
    for bad in [
        good("..", "16384", "1"),
        good("a/b", "16384", "1"),
        good("a\0", "16384", "1"),
        good("", "16384", "1"),
        good("f", "16384", "0"),
        good("f", "16385", "1"),
        good("f", "0", "1"),
        good("f", "-16384", "1"),
        good("f", "33554432", "1"),
        good("f", "016384", "1"),
        good("f", "16384", "1").replace("d6:length", "d1:ai1e6:length"),
        good("f", "16384", "1") + "e",
        String::new(),
        "d".repeat(10_000),
        "d6:lengthi99999999999999999999999e".into(),
    ] {
        assert!(Metainfo::from_info_bytes(bad.as_bytes()).is_err(), "accepted {bad}");
    }
}

#[test]
fn piece_length_follows_fleet_and_tiers() {
    const MIB: u64 = 1 << 20;
    assert_eq!(choose_piece_length(64 * MIB, 16), 32 << 10);
    assert_eq!(choose_piece_length(32 * MIB, 32), 32 << 10);
    assert_eq!(choose_piece_length(1 << 30, 10_000), 512 << 10);
    assert_eq!(choose_piece_length(16 * MIB, 64), 32 << 10);
    assert_eq!(choose_piece_length(MIB, 16), 16 << 10);
    assert_eq!(choose_piece_length(1, 1000), 16 << 10);
    assert_eq!(choose_piece_length(0, 0), 16 << 10);
    assert_eq!(choose_piece_length(99_000_000, 1), 256 << 10);
    assert_eq!(choose_piece_length(999_000_000, 1), 1 << 20);
    assert_eq!(choose_piece_length(9_000_000_000, 1), 4 << 20);
    assert_eq!(choose_piece_length(u64::MAX, 1), 16 << 20);
}

proptest! {
    #[test]
    fn round_trip(length in 1u64..50_000_000, exponent in 14u32..=24, name in "[a-zA-Z0-9 é_.-]{1,40}") {
        prop_assume!(name != "." && name != "..");
        let piece_length = 1u32 << exponent;
        let meta = Metainfo::new(&name, length, piece_length, hashes(length.div_ceil(u64::from(piece_length)))).unwrap();
        let total: u64 = (0..meta.piece_count()).map(|p| u64::from(meta.piece_size(p).unwrap())).sum();
        prop_assert_eq!(total, length);
        prop_assert_eq!(Metainfo::from_info_bytes(meta.info_bytes()).unwrap(), meta);
    }

    #[test]
    fn any_bytes_are_an_answer_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Metainfo::from_info_bytes(&bytes);
    }

    #[test]
    fn a_flipped_byte_never_keeps_the_hash(at in 0usize..200, bit in 0u8..8) {
        let meta = build(300_000, 64 << 10);
        let mut bytes = meta.info_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Metainfo::from_info_bytes(&bytes) {
            prop_assert_ne!(other.info_hash(), meta.info_hash());
        }
    }

    #[test]
    fn chosen_piece_lengths_are_always_usable(size in 1u64..2_000_000_000_000, hosts in 0usize..20_000) {
        prop_assert!(check_lengths(size, choose_piece_length(size, hosts)).is_ok());
    }
}

mod trees {
    use sha2::Sha256;

    use super::*;
    use crate::model::{
        Digest,
        tree::{EntryKind, TreeEntry, TreeFile},
    };

    fn entry(path: &str, kind: EntryKind) -> TreeEntry {
        TreeEntry { path: path.into(), kind }
    }

    fn file(path: &str, mode: u32, length: u64) -> TreeEntry {
        entry(path, EntryKind::File(TreeFile { mode, length, digest: Digest(Sha256::digest(path).into()) }))
    }

    fn link(path: &str, target: &str) -> TreeEntry {
        entry(path, EntryKind::Symlink { target: target.into() })
    }

    fn build(entries: Vec<TreeEntry>) -> Metainfo {
        let tree = Arc::new(Tree::new(entries).unwrap());
        let count = tree.size().max(1).div_ceil(16384);
        Metainfo::of_tree("dist", tree, 16384, hashes(count)).unwrap()
    }

    #[test]
    fn a_directory_is_written_as_clients_know_it_and_as_we_need_it() {
        let directory = |path: &str| entry(path, EntryKind::Directory { mode: 0o755 });
        let meta = build(vec![
            directory("bin"),
            file("bin/run", 0o755, 3),
            directory("doc"),
            link("self", "./bin//run"),
            directory("x"),
            link("x/up", "../bin"),
        ]);
        let [run, pieces] = [Sha256::digest("bin/run").to_vec(), hashes(1)[0].to_vec()];
        let expected: Vec<&[u8]> = vec![
            b"d11:directoriesld4:modei493e4:pathl3:binee",
            b"d4:modei493e4:pathl3:doceed4:modei493e4:pathl1:xeee",
            b"5:filesld4:attr1:x6:lengthi3e4:modei493e4:pathl3:bin3:rune6:sha25632:",
            &run,
            b"ed4:attr1:l6:lengthi0e4:pathl4:selfe12:symlink pathl3:bin3:rune6:target10:./bin//rune",
            b"d4:attr1:l6:lengthi0e4:pathl1:x2:upe12:symlink pathl3:bine6:target6:../binee",
            b"4:name4:dist12:piece lengthi16384e6:pieces20:",
            &pieces,
            b"7:privatei1ee",
        ];
        let expected = expected.concat();
        assert_eq!(meta.info_bytes().escape_ascii().to_string(), expected.escape_ascii().to_string());
        assert_eq!(Metainfo::from_info_bytes(&expected).unwrap(), meta);
        assert_eq!((meta.length(), meta.piece_count()), (3, 1));
    }

    #[test]
    fn a_directory_without_bytes_has_one_of_padding() {
        let meta = build(vec![file("empty", 0o644, 0), link("here", ".")]);
        assert_eq!((meta.length(), meta.piece_size(0), meta.parts(0..1).count()), (1, Some(1), 0));
        let text = meta.info_bytes().escape_ascii().to_string();
        assert!(text.contains("d4:attr1:p6:lengthi1e4:pathl4:.pad1:1ee"), "{text}");
        assert_eq!(Metainfo::from_info_bytes(meta.info_bytes()).unwrap(), meta);
    }

    #[test]
    fn parts_name_the_files_of_a_directory_and_a_file_is_its_own_part() {
        let meta = build(vec![file("a", 0o644, 20_000), file("b", 0o644, 20_000)]);
        let parts: Vec<FilePart<'_>> = meta.parts(16384..32768).collect();
        let part = |index, path, range| FilePart { index, path: Some(path), length: 20_000, range };
        assert_eq!(parts, [part(0, "a", 16384..20_000), part(1, "b", 0..12_768)]);
        let single = super::build(40_000, 16384);
        let part = FilePart { index: 0, path: None, length: 40_000, range: 32_768..40_000 };
        assert_eq!(single.parts(32_768..49_152).collect::<Vec<_>>(), [part]);
        assert_eq!(single.parts(40_000..40_001).count(), 0);
    }

    #[test]
    fn hostile_listings_are_refused() {
        let good = build(vec![file("a", 0o644, 3), link("b", "a")]).info_bytes().to_vec();
        let replaced = |from: &str, to: &str| {
            let at = good.windows(from.len()).position(|window| window == from.as_bytes()).expect(from);
            [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat()
        };
        assert!(Metainfo::from_info_bytes(&replaced("1:a", "1:0")).is_ok(), "the test replaces well");
        for (from, to) in [
            ("pathl1:ae", "pathl2:..e"),
            ("pathl1:ae", "pathl0:e"),
            ("pathl1:ae", "pathle"),
            ("pathl1:ae", "pathl3:a/be"),
            ("pathl1:ae", "pathl1:x1:ae"),
            ("pathl1:ae", "pathl1:be"),
            ("pathl1:ae", "pathl1:ce"),
            ("modei420e", "modei2541e"),
            ("modei420e", "modei0420e"),
            ("modei420e", "modei99999999999e"),
            ("sha25632:", "sha25631:"),
            ("target1:a", "target2:.."),
            ("target1:a", "target4:/etc"),
            ("target1:a", "target1:c"),
            ("symlink pathl1:ae", "symlink pathl2:..e"),
            ("attr1:l", "attr1:x"),
            ("attr1:l", "attr1:p"),
            ("lengthi0e", "lengthi1e"),
            ("lengthi3e", "lengthi99999e"),
            ("lengthi3e", "lengthi18446744073709551615e"),
            ("directoriesle", "directoriesld4:modei511e4:pathl1:aeee"),
            ("directoriesle", "directoriesl1:ae"),
            ("4:name", "6:lengthi3e4:name"),
        ] {
            assert!(Metainfo::from_info_bytes(&replaced(from, to)).is_err(), "{from} -> {to} was accepted");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(lengths in prop::collection::vec((0_u64..40_000, 0_u32..0o777), 1..30)) {
            let files = lengths.iter().enumerate().map(|(n, (length, mode))| file(&format!("ä {n:03}"), *mode, *length));
            let meta = build(files.collect());
            prop_assert_eq!(Metainfo::from_info_bytes(meta.info_bytes()).unwrap(), meta);
        }

        #[test]
        fn a_flipped_byte_never_keeps_the_hash(at in 0_usize..400, bit in 0_u8..8) {
            let meta = build(vec![file("a", 0o644, 3), link("b", "a"), file("c", 0o600, 40_000)]);
            let mut bytes = meta.info_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(other) = Metainfo::from_info_bytes(&bytes) {
                prop_assert_ne!(other.info_hash(), meta.info_hash());
            }
        }
    }
}
