//! Directories: the release is what is listed, whatever the file system can do.

use super::*;
use crate::model::{
    Digest,
    tree::{EntryKind, TreeEntry, TreeFile},
};

fn entry(path: &str, kind: EntryKind) -> TreeEntry {
    TreeEntry { path: path.into(), kind }
}

fn file(path: &str, mode: u32, length: u64) -> TreeEntry {
    entry(path, EntryKind::File(TreeFile { mode, length, digest: Digest([0; 32]) }))
}

fn directory(path: &str, mode: u32) -> TreeEntry {
    entry(path, EntryKind::Directory { mode })
}

fn unpack_tree(bed: &Bed, blob: &[u8], entries: Vec<TreeEntry>, limits: &UnpackLimits) -> Result<Unpacked, UnpackError> {
    let path = bed.file("blob");
    fs::write(&path, blob).unwrap();
    let result = super::unpack_tree(&path, &Tree::new(entries).unwrap(), &bed.dest(), limits, &|| false);
    bed.assert_contained();
    result
}

fn sample() -> Vec<TreeEntry> {
    vec![
        directory("bin", 0o700),
        file("bin/run", 0o755, 5),
        directory("empty", 0o500),
        file("none", 0o600, 0),
        entry("start", EntryKind::Symlink { target: "bin/run".into() }),
        file("with space é", 0o666, 300_000),
    ]
}

#[test]
fn everything_listed_is_there_with_its_mode_and_its_bytes() {
    let bed = Bed::new();
    let blob = [b"#!run".to_vec(), vec![b'x'; 300_000]].concat();
    let done = unpack_tree(&bed, &blob, sample(), &UnpackLimits::default()).unwrap();
    assert_eq!(done, Unpacked { entries: 6, bytes: 300_005 });
    let found = list(&bed.dest());
    let what = |path: &str| found[Path::new(path)].clone();
    assert_eq!(found.len(), 6);
    assert_eq!((what("bin"), what("empty"), what("start")), ("dir 700".into(), "dir 700".into(), "link \"bin/run\"".into()));
    assert!(what("bin/run").starts_with("file 755 links 1") && what("bin/run").ends_with("\"#!run\""), "{}", what("bin/run"));
    assert!(what("none").starts_with("file 600 links 1") && what("none").ends_with("\"\""), "{}", what("none"));
    // The right of all others to write is taken away, as from archives.
    assert!(what("with space é").starts_with("file 664"), "{}", &what("with space é")[..20]);
    assert!(fs::read(bed.dest().join("with space é")).unwrap() == vec![b'x'; 300_000]);
}

#[test]
fn a_blob_that_is_too_short_and_limits_end_it() {
    let limits = UnpackLimits::default;
    assert!(matches!(unpack_tree(&Bed::new(), b"#!run", sample(), &limits()), Err(UnpackError::Io { .. })));
    let blob = vec![0; 300_005];
    let few = UnpackLimits { entries: 5, ..limits() };
    assert!(matches!(unpack_tree(&Bed::new(), &blob, sample(), &few), Err(UnpackError::TooMuch { .. })));
    let small = UnpackLimits { bytes: 1000, ..limits() };
    assert!(matches!(unpack_tree(&Bed::new(), &blob, sample(), &small), Err(UnpackError::TooMuch { .. })));
}

#[test]
fn a_directory_is_not_unpacked_without_its_listing() {
    let error = Bed::new().unpack(b"x", ArchiveKind::Directory).unwrap_err();
    assert!(matches!(error, UnpackError::Broken { .. }), "{error:?}");
}
