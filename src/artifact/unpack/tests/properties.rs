//! Whatever an archive holds: an answer, no panic, nothing outside the release. `PROPTEST_CASES` makes it look longer.

use proptest::{prelude::*, sample};

use super::{
    hostile::noise,
    tars::{Tar, seal},
    zips::{Entry, zip},
    *,
};

const KINDS: [ArchiveKind; 6] =
    [ArchiveKind::Tar, ArchiveKind::TarZst, ArchiveKind::TarGz, ArchiveKind::TarXz, ArchiveKind::TarBz2, ArchiveKind::Zip];

/// Small enough that no case takes long.
fn limits() -> UnpackLimits {
    UnpackLimits { entries: 100, window: 1 << 20, ..UnpackLimits::for_space(1 << 20) }
}

/// One sound archive of each kind.
fn sound(kind: ArchiveKind) -> Vec<u8> {
    if kind == ArchiveKind::Zip {
        return zip(&[
            Entry::new("d/", 0o040_755, b""),
            Entry::new("d/a", 0o100_644, &noise(700)),
            Entry::new("l", 0o120_777, b"d/a"),
        ]);
    }
    let tar = Tar::new()
        .dir("d")
        .pax(&[("path", b"d/a"), ("mtime", b"1700000000.5")])
        .file("a", &noise(700))
        .gnu_name(b"d/long")
        .symlink("x", "a")
        .hard_link("h", "d/a")
        .raw(&super::tars::gnu_sparse("s", &[(0, 4), (5000, 4)], 9000, 8))
        .body(b"datadata");
    pack(&tar.end(), kind)
}

fn sound_archives() -> &'static [(ArchiveKind, Vec<u8>)] {
    static SOUND: std::sync::OnceLock<Vec<(ArchiveKind, Vec<u8>)>> = std::sync::OnceLock::new();
    SOUND.get_or_init(|| KINDS.map(|kind| (kind, sound(kind))).to_vec())
}

const NAMES: [&str; 16] = [
    "a",
    "b",
    "a/b",
    "a/b/c",
    "b/a",
    "c",
    "./a",
    "a/",
    ".",
    "..",
    "a/../..",
    "/tmp/fleetdrop-escape",
    "../victim",
    "../neighbour/x",
    "l",
    "l/x",
];
const TARGETS: [&str; 14] =
    ["a", "b", "a/b", "..", "../..", "../victim", "a/..", "a/../..", "l/../..", "/etc", "../neighbour", ".", "l", "b/../a"];

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn random_bytes(kind in sample::select(&KINDS), bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(Bed::new().unpack_with(&bytes, kind, &limits()).is_err());
    }

    #[test]
    fn sound_archives_with_damage(
        which in 0..KINDS.len(),
        edits in proptest::collection::vec((any::<sample::Index>(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        let (kind, mut bytes) = sound_archives()[which].clone();
        for (position, value, how) in edits {
            let position = position.index(bytes.len());
            match how {
                0 => bytes[position] = value,
                1 => bytes.insert(position, value),
                _ => { bytes.remove(position); }
            }
        }
        let _ = Bed::new().unpack_with(&bytes, kind, &limits());
    }

    #[test]
    fn tar_headers_with_damage_and_a_right_checksum(
        edits in proptest::collection::vec((0..10_usize, 0..512_usize, any::<u8>()), 1..6),
    ) {
        let mut bytes = sound_archives()[0].1.clone();
        for (block, position, value) in edits {
            if let Some(block) = bytes.as_chunks_mut::<512>().0.get_mut(block) {
                block[position] = value;
                if block[257..262] == *b"ustar" {
                    seal(block);
                }
            }
        }
        let _ = Bed::new().unpack_with(&bytes, ArchiveKind::Tar, &limits());
    }

    #[test]
    fn tars_of_hostile_entries(
        entries in proptest::collection::vec(
            (sample::select(&NAMES), sample::select(b"0012255".as_slice()), sample::select(&TARGETS), any::<bool>()), 1..8),
    ) {
        let mut tar = Tar::new();
        for (name, flag, target, by_pax) in entries {
            let content: &[u8] = if flag == b'0' && !name.ends_with('/') { b"x" } else { b"" };
            if by_pax {
                tar = tar.pax(&[("path", name.as_bytes()), ("linkpath", target.as_bytes())]).entry(b"p", flag, 0o755, b"p", content);
            } else {
                tar = tar.entry(name.as_bytes(), flag, 0o777, target.as_bytes(), content);
            }
        }
        let _ = Bed::new().unpack_with(&tar.end(), ArchiveKind::Tar, &limits());
    }

    #[test]
    fn zips_of_hostile_entries(
        entries in proptest::collection::vec(
            (sample::select(&NAMES), sample::select([0o100_644, 0o120_777, 0o040_755, 0].as_slice()), sample::select(&TARGETS)), 1..8),
    ) {
        let entries = entries.into_iter().map(|(name, mode, target)| {
            let content: &[u8] = if mode == 0o040_755 || name.ends_with('/') { b"" } else { target.as_bytes() };
            Entry::new(name, mode, content)
        });
        let _ = Bed::new().unpack_with(&zip(&entries.collect::<Vec<_>>()), ArchiveKind::Zip, &limits());
    }
}
