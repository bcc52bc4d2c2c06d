//! Artifacts for the tests: small applications that say their version, and archives no host should unpack.

use std::{
    fs::{self, File},
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fleetdrop::model::ArchiveKind;

/// Writes `shop-VERSION.tar.zst` with a version file, a script, a directory, a symlink and `size` bytes that don't compress.
pub(crate) fn shop(dir: &Path, version: &str, size: usize) -> PathBuf {
    let path = dir.join(format!("shop-{version}.tar.zst"));
    let encoder = zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap().auto_finish();
    let mut tar = tar::Builder::new(encoder);
    file(&mut tar, "VERSION", 0o644, version.as_bytes());
    file(&mut tar, "bin/start", 0o755, format!("#!/bin/sh\necho {version}\n").as_bytes());
    file(&mut tar, "share/data.bin", 0o644, &noise(size, version));
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    tar.append_link(&mut link, "start", "bin/start").unwrap();
    tar.into_inner().unwrap().flush().unwrap();
    path
}

/// Writes a small `shop-VERSION.tar.zst` that unpacks to `size` bytes of zeros.
pub(crate) fn zeros(dir: &Path, version: &str, size: usize) -> PathBuf {
    let path = dir.join(format!("shop-{version}.tar.zst"));
    let encoder = zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap().auto_finish();
    let mut tar = tar::Builder::new(encoder);
    file(&mut tar, "VERSION", 0o644, version.as_bytes());
    file(&mut tar, "share/zeros.bin", 0o644, &vec![0; size]);
    tar.into_inner().unwrap().flush().unwrap();
    path
}

/// Writes an artifact of each kind; an archive holds a file `kind` that names it, and so does the plain file.
pub(crate) fn every_kind(dir: &Path) -> Vec<(ArchiveKind, PathBuf)> {
    use ArchiveKind::{File, Tar, TarBz2, TarGz, TarXz, TarZst, Zip};
    let kinds = [
        (Tar, "tar"),
        (TarZst, "tar.zst"),
        (TarGz, "tar.gz"),
        (TarXz, "tar.xz"),
        (TarBz2, "tar.bz2"),
        (Zip, "zip"),
        (File, "bin"),
    ];
    kinds
        .into_iter()
        .map(|(kind, suffix)| {
            let path = dir.join(format!("kinds.{suffix}"));
            let name = format!("{kind:?}");
            let mut tar = tar::Builder::new(Vec::new());
            file(&mut tar, "kind", 0o644, name.as_bytes());
            let tar = tar.into_inner().unwrap();
            let bytes = match kind {
                Tar => tar,
                TarZst => zstd::encode_all(&tar[..], 3).unwrap(),
                TarGz => piped("gzip", &tar),
                TarXz => piped("xz", &tar),
                TarBz2 => piped("bzip2", &tar),
                Zip => zip(&name),
                File | ArchiveKind::Directory => name.into_bytes(),
            };
            fs::write(&path, bytes).unwrap();
            (kind, path)
        })
        .collect()
}

/// Compresses with a program, so that what hosts unpack is not made by the library they unpack with.
fn piped(program: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("this test needs {program}: apt-get install {program}-utils ({error})"));
    // Small enough for the pipe.
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn zip(content: &str) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("kind", zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(content.as_bytes()).unwrap();
    writer.finish().unwrap().into_inner()
}

/// Returns bytes that don't compress and that depend on `seed` alone.
pub(crate) fn noise(size: usize, seed: &str) -> Vec<u8> {
    let seed = seed.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn file(tar: &mut tar::Builder<impl Write>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, name, content).unwrap();
}

/// One entry of a raw tar archive.
struct Entry<'a> {
    name: &'a str,
    kind: tar::EntryType,
    link: &'a str,
    content: &'a [u8],
}

/// Writes a tar archive exactly so: the `tar` crate's own writer refuses most of what is wanted here.
fn raw(path: &Path, entries: &[Entry<'_>]) {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(0o644);
        header.set_size(entry.content.len() as u64);
        if entry.kind == tar::EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(entry.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    fs::write(path, bytes).unwrap();
}

/// Writes every archive that a host has to refuse, and returns each with the rule that it breaks, in the words of the refusal.
pub(crate) fn hostile(dir: &Path) -> Vec<(PathBuf, &'static str)> {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let plain = |name| Entry { name, kind: Regular, link: "", content: b"x" };
    let attempts: [(&str, &'static str, Vec<Entry<'_>>); 7] = [
        ("dotdot", "`../../../pwned` was refused: its name holds `..`", vec![plain("VERSION"), plain("../../../pwned")]),
        (
            "absolute",
            "`/tmp/fleetdrop-pwned` was refused: its name is an absolute path",
            vec![plain("VERSION"), plain("/tmp/fleetdrop-pwned")],
        ),
        (
            "symlink-out",
            "`out` was refused: it is a symbolic link that leads out of the release",
            vec![plain("VERSION"), Entry { name: "out", kind: Symlink, link: "../../..", content: b"" }],
        ),
        (
            "through-symlink",
            "`d` was refused: it is a symbolic link to an absolute path",
            vec![Entry { name: "d", kind: Symlink, link: "/tmp", content: b"" }, plain("d/fleetdrop-pwned")],
        ),
        (
            "hardlink-out",
            "`h` was refused: it is a hard link to something that is not a file earlier in the archive",
            vec![plain("VERSION"), Entry { name: "h", kind: Link, link: "../../../../etc/passwd", content: b"" }],
        ),
        (
            "device",
            "`null` was refused: it is a device",
            vec![plain("VERSION"), Entry { name: "null", kind: Char, link: "", content: b"" }],
        ),
        ("duplicate", "`VERSION` was refused: the archive holds this path twice", vec![plain("VERSION"), plain("VERSION")]),
    ];
    let mut archives: Vec<_> = attempts
        .into_iter()
        .map(|(name, refusal, entries)| {
            let path = dir.join(format!("{name}.tar"));
            raw(&path, &entries);
            (path, refusal)
        })
        .collect();
    archives.push((bomb(dir), "the archive unpacks to more than"));
    archives.push((truncated(dir), "is not a sound archive"));
    archives
}

/// Ten gigabytes of zeros in about a megabyte: one compressed frame again and again.
fn bomb(dir: &Path) -> PathBuf {
    const FRAME: usize = 64 << 20;
    const FRAMES: usize = 160;
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_size((FRAME * FRAMES) as u64);
    header.set_cksum();
    let mut bytes = zstd::encode_all(&header.as_bytes()[..], 1).unwrap();
    bytes.extend_from_slice(&zstd::encode_all(&*vec![0; FRAME], 1).unwrap().repeat(FRAMES));
    let path = dir.join("bomb.tar.zst");
    fs::write(&path, bytes).unwrap();
    path
}

/// A good archive without its end.
fn truncated(dir: &Path) -> PathBuf {
    let whole = shop(dir, "whole", 300_000);
    let bytes = fs::read(&whole).unwrap();
    let path = dir.join("truncated.tar.zst");
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_file(whole).unwrap();
    path
}
