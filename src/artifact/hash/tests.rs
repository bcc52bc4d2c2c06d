use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    os::unix::{
        fs::{FileExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::PathBuf,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;

/// Something that can happen to a file, with its name.
type Change<'a> = (&'a str, &'a dyn Fn(&Path));

const QUIET: &dyn Fn(u64) = &|_| {};

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u8(..)).collect()
}

/// Writes a file that looks as if it had been left alone for a while.
fn settled(dir: &TempDir, content: &[u8]) -> PathBuf {
    let path = dir.path().join("artifact.bin");
    fs::write(&path, content).unwrap();
    set_age(&path, Duration::from_secs(60));
    path
}

fn set_age(path: &Path, age: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

/// The definition, without any cleverness.
fn reference(content: &[u8], piece_length: usize) -> (Digest, Vec<[u8; 20]>) {
    let pieces = content.chunks(piece_length).map(|piece| Sha1::digest(piece).into()).collect();
    (Digest(Sha256::digest(content).into()), pieces)
}

#[test]
fn digest_and_pieces_equal_the_definition_at_every_edge() {
    let dir = TempDir::new().unwrap();
    let buffer = 256 << 10;
    for piece in [1000, 16 << 10, 3 * buffer, 1 << 20] {
        for size in [1, 2, piece - 1, piece, piece + 1, 3 * piece - 1, 3 * piece, 3 * piece + 1, buffer, 20 * buffer + 7] {
            let content = bytes(size, size as u64);
            let path = settled(&dir, &content);
            let hashed = hash_artifact(&path, |_| piece as u32, None, QUIET).unwrap();
            let (digest, pieces) = reference(&content, piece);
            assert_eq!((hashed.digest, &hashed.pieces), (digest, &pieces), "{size} bytes in pieces of {piece}");
            assert_eq!(hashed.pieces.len(), size.div_ceil(piece), "{size} bytes in pieces of {piece}");
            assert_eq!((hashed.size, hashed.piece_length, hashed.from_cache), (size as u64, piece as u32, false));
            assert_eq!(sha256_file(&path, QUIET).unwrap(), digest, "{size} bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_size_and_piece_length_equal_the_definition(size in 1_usize..1_000_000, piece in 1_u32..600_000, seed: u64) {
        let dir = TempDir::new().unwrap();
        let content = bytes(size, seed);
        let piece = piece.max(size as u32 / 1000 + 1);
        let hashed = hash_artifact(&settled(&dir, &content), |_| piece, None, QUIET).unwrap();
        prop_assert_eq!((hashed.digest, hashed.pieces), reference(&content, piece as usize));
    }
}

#[test]
fn the_digest_is_the_published_one() {
    let dir = TempDir::new().unwrap();
    let digest = sha256_file(&settled(&dir, b"abc"), QUIET).unwrap();
    assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn progress_rises_to_the_size_and_the_piece_length_sees_the_size() {
    let dir = TempDir::new().unwrap();
    let path = settled(&dir, &bytes(5_000_000, 1));
    let seen = RefCell::new(Vec::new());
    let asked = Cell::new(0);
    let choose = |size| {
        asked.set(size);
        1 << 16
    };
    hash_artifact(&path, choose, None, &|bytes| seen.borrow_mut().push(bytes)).unwrap();
    let seen = seen.into_inner();
    assert!(seen.is_sorted() && seen.len() >= 3, "{seen:?}");
    assert_eq!((seen.last(), asked.get()), (Some(&5_000_000), 5_000_000));
}

#[test]
fn what_is_no_artifact_is_refused_with_path_reason_and_hint() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("empty"), "").unwrap();
    fs::create_dir(at("shop")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), 0o600.into()).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    for (path, reason, hint) in [
        (at("missing"), "does not exist", Some("check the path")),
        (at("empty"), "is empty", Some("nothing to deploy")),
        (at("shop"), "is a directory", None),
        (at("fifo"), "is a pipe, not a regular file", Some("write it to a file")),
        (at("socket"), "is a socket, not a regular file", Some("write it to a file")),
        ("/dev/null".into(), "is a device, not a regular file", Some("write it to a file")),
        (at("empty/x"), "cannot be opened", None),
    ] {
        let error = hash_artifact(&path, |_| 1 << 16, None, QUIET).unwrap_err();
        assert_eq!(error.to_string(), format!("{} {reason}", path.display()));
        assert_eq!(error.hint().is_some(), hint.is_some(), "{error}");
        assert!(error.hint().unwrap_or_default().contains(hint.unwrap_or_default()), "{:?}", error.hint());
    }
}

#[test]
fn an_unreadable_file_is_said_to_be_one() {
    let error = ArtifactError::Unreadable { path: "a".into(), source: io::ErrorKind::PermissionDenied.into() };
    assert!(error.hint().unwrap().contains("readable"));
}

#[test]
fn pieces_of_no_length_are_an_error_not_an_endless_loop() {
    let dir = TempDir::new().unwrap();
    let error = hash_artifact(&settled(&dir, b"x"), |_| 0, None, QUIET).unwrap_err();
    assert!(matches!(error, ArtifactError::PieceLength { .. }), "{error:?}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let grow = |path: &Path| File::options().append(true).open(path).unwrap().write_all_at(b"x", 3_000_000).unwrap();
    let shrink = |path: &Path| File::options().write(true).open(path).unwrap().set_len(2_000_000).unwrap();
    let rewrite = |path: &Path| File::options().write(true).open(path).unwrap().write_all_at(b"x", 0).unwrap();
    let replace = |path: &Path| {
        fs::copy(path, path.with_extension("new")).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let changes: [Change<'_>; 5] =
        [("grow", &grow), ("shrink", &shrink), ("rewrite", &rewrite), ("replace", &replace), ("remove", &remove)];
    for (what, change) in changes {
        let dir = TempDir::new().unwrap();
        let path = settled(&dir, &bytes(3_000_000, 2));
        let done = Cell::new(false);
        let once = |_| {
            if !done.replace(true) {
                change(&path);
            }
        };
        let error = hash_artifact(&path, |_| 1 << 16, None, &once).unwrap_err();
        assert!(matches!(error, ArtifactError::Changed { .. }), "{what}: {error:?}");
    }
}

mod cache {
    use super::*;

    struct Bed {
        dir: TempDir,
        cache: HashCache,
        path: PathBuf,
    }

    impl Bed {
        fn new() -> Self {
            let dir = TempDir::new().unwrap();
            let path = settled(&dir, &bytes(200_000, 3));
            Self { cache: HashCache::new(dir.path().join("cache/hashes")), dir, path }
        }

        fn hash(&self, piece: u32) -> Hashed {
            let found = hash_artifact(&self.path, |_| piece, Some(&self.cache), QUIET).unwrap();
            let (digest, pieces) = reference(&fs::read(&self.path).unwrap(), piece as usize);
            assert_eq!(
                (found.digest, &found.pieces),
                (digest, &pieces),
                "a wrong result, from the cache: {}",
                found.from_cache
            );
            found
        }

        fn entries(&self) -> Vec<PathBuf> {
            let dir = fs::read_dir(self.dir.path().join("cache/hashes"));
            dir.map(|items| items.map(|item| item.unwrap().path()).collect()).unwrap_or_default()
        }
    }

    #[test]
    fn the_second_time_nothing_is_read() {
        let bed = Bed::new();
        let first = bed.hash(1 << 14);
        let reported = Cell::new(0);
        let second = hash_artifact(&bed.path, |_| 1 << 14, Some(&bed.cache), &|bytes| reported.set(bytes)).unwrap();
        assert!(!first.from_cache && second.from_cache);
        assert_eq!(Hashed { from_cache: false, ..second }, first);
        assert_eq!(reported.get(), 200_000);
    }

    #[test]
    fn entries_are_private() {
        let bed = Bed::new();
        bed.hash(1 << 14);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let [entry] = bed.entries().try_into().unwrap();
        assert_eq!((mode(&entry), mode(entry.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn another_piece_length_is_another_entry() {
        let bed = Bed::new();
        bed.hash(1 << 14);
        assert!(!bed.hash(1 << 15).from_cache);
        assert!(bed.hash(1 << 14).from_cache && bed.hash(1 << 15).from_cache);
    }

    #[test]
    fn any_change_of_the_file_is_a_miss() {
        let same_bytes_later = |path: &Path| set_age(path, Duration::from_secs(30));
        let other_bytes_same_time = |path: &Path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(b"changed", 5).unwrap();
            file.set_modified(modified).unwrap();
        };
        let longer = |path: &Path| {
            fs::write(path, bytes(200_001, 3)).unwrap();
            set_age(path, Duration::from_secs(60));
        };
        let replaced = |path: &Path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let other = path.with_extension("new");
            fs::write(&other, bytes(200_000, 4)).unwrap();
            File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
            fs::rename(other, path).unwrap();
        };
        let changes: [Change<'_>; 4] = [
            ("modification time", &same_bytes_later),
            ("content with the old time", &other_bytes_same_time),
            ("size", &longer),
            ("inode", &replaced),
        ];
        for (what, change) in changes {
            let bed = Bed::new();
            bed.hash(1 << 14);
            change(&bed.path);
            assert!(!bed.hash(1 << 14).from_cache, "{what}");
            assert!(bed.hash(1 << 14).from_cache, "{what}: the new state was not stored");
        }
    }

    #[test]
    fn a_file_modified_just_now_is_not_stored() {
        let bed = Bed::new();
        for age in [Duration::ZERO, Duration::from_millis(1000)] {
            set_age(&bed.path, age);
            bed.hash(1 << 14);
            assert!(bed.entries().is_empty(), "{age:?}");
        }
        let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
        File::options().write(true).open(&bed.path).unwrap().set_modified(tomorrow).unwrap();
        bed.hash(1 << 14);
        assert!(bed.entries().is_empty(), "a time in the future");
    }

    #[test]
    fn damaged_and_foreign_entries_are_ignored_and_rewritten() {
        let flip = |entry: &Path| {
            let mut text = fs::read(entry).unwrap();
            let position = text.windows(6).position(|window| window == b"digest").unwrap() + 12;
            text[position] = if text[position] == b'0' { b'1' } else { b'0' };
            fs::write(entry, text).unwrap();
        };
        let cut = |entry: &Path| File::options().write(true).open(entry).unwrap().set_len(300).unwrap();
        let empty = |entry: &Path| fs::write(entry, "").unwrap();
        let binary = |entry: &Path| fs::write(entry, bytes(5000, 9)).unwrap();
        let writable = |entry: &Path| fs::set_permissions(entry, fs::Permissions::from_mode(0o666)).unwrap();
        let linked = |entry: &Path| {
            fs::rename(entry, entry.with_extension("moved")).unwrap();
            symlink(entry.with_extension("moved"), entry).unwrap();
        };
        let other_file = |entry: &Path| {
            let bed = Bed::new();
            bed.hash(1 << 14);
            fs::copy(&bed.entries()[0], entry).unwrap();
        };
        let changes: [Change<'_>; 7] = [
            ("flipped", &flip),
            ("cut", &cut),
            ("empty", &empty),
            ("binary", &binary),
            ("writable by others", &writable),
            ("a link", &linked),
            ("of another file", &other_file),
        ];
        for (what, change) in changes {
            let bed = Bed::new();
            bed.hash(1 << 14);
            let [entry] = bed.entries().try_into().unwrap();
            change(&entry);
            assert!(!bed.hash(1 << 14).from_cache, "{what}");
            assert!(bed.hash(1 << 14).from_cache, "{what}: not rewritten");
        }
    }

    #[test]
    fn the_number_of_entries_is_bounded_and_the_least_recently_used_go_first() {
        let bed = Bed::new();
        bed.hash(1 << 14);
        let [used] = bed.entries().try_into().unwrap();
        let dir = used.parent().unwrap();
        for number in 0..300 {
            let path = dir.join(format!("{number}.hash"));
            fs::write(&path, "").unwrap();
            set_age(&path, Duration::from_secs(1000 + number));
        }
        let unfinished = dir.join("0.hash-tmp");
        fs::write(&unfinished, "").unwrap();
        set_age(&unfinished, Duration::from_secs(7200));
        set_age(&used, Duration::from_secs(5000));
        assert!(bed.hash(1 << 14).from_cache, "using it must make it young");
        bed.hash(1 << 15);
        assert_eq!(bed.entries().len(), 256);
        assert!(dir.join("0.hash").exists() && !dir.join("299.hash").exists() && !unfinished.exists());
        assert!(bed.hash(1 << 14).from_cache);
    }

    #[test]
    fn a_cache_that_cannot_be_used_costs_only_time() {
        let mut bed = Bed::new();
        fs::write(bed.dir.path().join("file"), "").unwrap();
        bed.cache = HashCache::new(bed.dir.path().join("file/cache"));
        assert!(!bed.hash(1 << 14).from_cache);
        assert!(!bed.hash(1 << 14).from_cache);
    }
}
