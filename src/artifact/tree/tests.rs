use std::{
    cell::Cell,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::PathBuf,
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::model::tree::{EntryKind, MAX_TREE_DEPTH};

const QUIET: &dyn Fn(u64) = &|_| {};

/// A directory `shop` to be filled.
struct Shop(TempDir);

impl Shop {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("shop")).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("shop")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8], mode: u32) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn hash(&self) -> Result<HashedTree, ArtifactError> {
        hash_tree(&self.path(), |_| 16384, QUIET)
    }
}

#[test]
fn a_directory_is_listed_in_order_and_hashed_by_the_definition() {
    let shop = Shop::new();
    let (large, small) = (vec![7; 700_000], b"#!/bin/sh\n");
    shop.file("b/large", &large, 0o640);
    shop.file("b/empty", b"", 0o600);
    shop.file("b-side", small, 0o755);
    shop.file("z last é", b"z", 0o444);
    fs::create_dir(shop.at("b/nothing")).unwrap();
    symlink("../b-side", shop.at("b/link")).unwrap();
    let mut before: Vec<u64> = Vec::new();
    let seen = std::cell::RefCell::new(&mut before);
    let hashed =
        hash_tree(&shop.path(), |size| u32::try_from(size / 10).unwrap(), &|read| seen.borrow_mut().push(read)).unwrap();
    let listed: Vec<&str> = hashed.tree.entries().iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(listed, ["b", "b/empty", "b/large", "b/link", "b/nothing", "b-side", "z last é"]);
    let blob = [&large[..], small, b"z"].concat();
    assert_eq!(hashed.tree.size(), blob.len() as u64);
    assert_eq!(before.last(), Some(&(blob.len() as u64)));
    assert_eq!(hashed.blob.0, <[u8; 32]>::from(Sha256::digest(&blob)));
    let pieces: Vec<[u8; 20]> = blob.chunks(blob.len() / 10).map(|piece| Sha1::digest(piece).into()).collect();
    assert_eq!((hashed.piece_length as usize, hashed.pieces), (blob.len() / 10, pieces));
    let file = |path: &str| match hashed.tree.entries().iter().find(|entry| entry.path == path).unwrap().kind {
        EntryKind::File(file) => (file.mode, file.length, file.digest.0),
        _ => panic!("{path} is no file"),
    };
    let sum = |content: &[u8]| <[u8; 32]>::from(Sha256::digest(content));
    assert_eq!(file("b/large"), (0o640, 700_000, sum(&large)));
    assert_eq!(file("b/empty"), (0o600, 0, sum(b"")));
    assert_eq!(file("b-side"), (0o755, 10, sum(small)));
    assert_eq!(file("z last é"), (0o444, 1, sum(b"z")));
}

#[test]
fn files_without_content_make_one_byte() {
    let shop = Shop::new();
    shop.file("empty", b"", 0o644);
    let hashed = shop.hash().unwrap();
    assert_eq!((hashed.tree.size(), hashed.pieces.len()), (0, 1));
    assert_eq!(hashed.blob.0, <[u8; 32]>::from(Sha256::digest([0])));
    assert_eq!(hashed.pieces[0], <[u8; 20]>::from(Sha1::digest([0])));
}

#[test]
fn what_can_be_in_no_release_is_refused_by_name() {
    /// What is put there, and what is said of it.
    type Case<'a> = (&'a dyn Fn(&Shop), &'a str, &'a str, bool);
    let cases: [Case<'_>; 11] = [
        (&|shop| rustix::fs::mkfifoat(rustix::fs::CWD, shop.at("bad"), 0o600.into()).unwrap(), "bad", "it is a pipe", true),
        (&|shop| drop(UnixListener::bind(shop.at("bad")).unwrap()), "bad", "it is a socket", true),
        (&|shop| shop.file("bad", b"x", 0o4755), "bad", "set-user-id", true),
        (&|shop| shop.file("bad", b"x", 0o2755), "bad", "set-group-id", true),
        (&|shop| symlink("/etc/passwd", shop.at("bad")).unwrap(), "bad", "absolute path", true),
        (&|shop| symlink("../victim", shop.at("bad")).unwrap(), "bad", "leads out", true),
        (&|shop| symlink("a/../b", shop.at("bad")).unwrap(), "bad", "after a name", true),
        (&|shop| shop.file("bad\nname", b"x", 0o644), "bad\nname", "control character", true),
        (&|shop| shop.file("bad\\name", b"x", 0o644), "bad\\name", "backslash", true),
        (&|shop| fs::write(shop.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap(), "", "not UTF-8", true),
        (&|shop| shop.file(&format!("{}x", "d/".repeat(MAX_TREE_DEPTH)), b"x", 0o644), "d/", "directories deep", true),
    ];
    for (make, name, reason, has_hint) in cases {
        let shop = Shop::new();
        shop.file("before", b"fine", 0o644);
        make(&shop);
        let error = shop.hash().unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("{}/{name}", shop.path().display())) && text.contains(reason), "{text}");
        assert_eq!(error.hint().is_some(), has_hint, "{text}");
    }
    let error = Shop::new().hash().unwrap_err();
    assert!(matches!(error, ArtifactError::Empty { .. }) && error.hint().is_some(), "{error:?}");
    let missing = hash_tree(std::path::Path::new("/nonexistent/shop"), |_| 16384, QUIET).unwrap_err();
    assert!(matches!(missing, ArtifactError::Unreadable { .. }), "{missing:?}");
}

#[test]
fn no_link_is_followed() {
    let shop = Shop::new();
    let outside = shop.0.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    shop.file("below/file", b"fine", 0o644);
    symlink("below", shop.at("link")).unwrap();
    // The directory itself may be named by a link.
    symlink("shop", shop.0.path().join("latest")).unwrap();
    let hashed = hash_tree(&shop.0.path().join("latest"), |_| 16384, QUIET).unwrap();
    let listed: Vec<&str> = hashed.tree.entries().iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(listed, ["below", "below/file", "link"]);
}

#[test]
fn whatever_changes_meanwhile_is_named() {
    /// What happens, when the first bytes are read, and to what.
    type Change<'a> = (&'a str, &'a dyn Fn(&Shop), &'a str);
    let write = |path: &PathBuf| File::options().write(true).open(path).unwrap();
    let changes: [Change<'_>; 9] = [
        ("grow", &|shop| write(&shop.at("first")).write_all_at(b"x", 3_000_000).unwrap(), "first"),
        ("shrink", &|shop| write(&shop.at("first")).set_len(10).unwrap(), "first"),
        ("rewrite", &|shop| write(&shop.at("last")).write_all_at(b"x", 0).unwrap(), "last"),
        ("remove", &|shop| fs::remove_file(shop.at("last")).unwrap(), "last"),
        (
            "link",
            &|shop| {
                fs::remove_file(shop.at("last")).unwrap();
                symlink("first", shop.at("last")).unwrap();
            },
            "last",
        ),
        ("add", &|shop| fs::write(shop.at("added"), "x").unwrap(), "added"),
        ("empty file", &|shop| fs::write(shop.at("empty"), "x").unwrap(), "empty"),
        ("mode", &|shop| fs::set_permissions(shop.at("empty"), fs::Permissions::from_mode(0o755)).unwrap(), "empty"),
        (
            "retarget",
            &|shop| {
                fs::remove_file(shop.at("link")).unwrap();
                symlink("last", shop.at("link")).unwrap();
            },
            "link",
        ),
    ];
    for (what, change, name) in changes {
        let shop = Shop::new();
        shop.file("first", &vec![1; 3_000_000], 0o644);
        shop.file("last", &vec![2; 3_000_000], 0o644);
        shop.file("empty", b"", 0o644);
        symlink("first", shop.at("link")).unwrap();
        for file in ["first", "last", "empty"] {
            let minute_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
            File::options().write(true).open(shop.at(file)).unwrap().set_modified(minute_ago).unwrap();
        }
        let done = Cell::new(false);
        let once = |_| {
            if !done.replace(true) {
                change(&shop);
            }
        };
        match hash_tree(&shop.path(), |_| 16384, &once) {
            Err(ArtifactError::Changed { path }) => assert_eq!(path, shop.at(name), "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}
