//! Shared ground of the unpacking tests: a place with something to lose around the release, and archives written byte by byte.

mod formats;
mod hostile;
mod properties;
mod rules;
mod tars;
mod trees;
mod zips;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::*;

/// A directory with a release to be made in it, and things around it that must stay as they are.
struct Bed {
    dir: TempDir,
    before: Vec<String>,
}

impl Bed {
    fn new() -> Self {
        // Where there is memory to work in, syncing costs nothing.
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() }.unwrap();
        let outer = dir.path().join("outer");
        fs::create_dir_all(outer.join("neighbour")).unwrap();
        fs::write(outer.join("victim"), "precious").unwrap();
        fs::write(outer.join("neighbour/victim"), "precious").unwrap();
        let mut bed = Self { dir, before: Vec::new() };
        bed.before = bed.around();
        bed
    }

    fn dest(&self) -> PathBuf {
        self.dir.path().join("outer/dest")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything around the release, as it is now.
    fn around(&self) -> Vec<String> {
        let listing = list(&self.dir.path().join("outer"));
        let around = listing.into_iter().filter(|(path, _)| !path.starts_with("dest"));
        around.map(|(path, what)| format!("{} {what}", path.display())).collect()
    }

    fn unpack(&self, archive: &[u8], kind: ArchiveKind) -> Result<Unpacked, UnpackError> {
        self.unpack_with(archive, kind, &UnpackLimits::default())
    }

    /// Unpacks, and checks that nothing happened outside and that no link leads there.
    fn unpack_with(&self, archive: &[u8], kind: ArchiveKind, limits: &UnpackLimits) -> Result<Unpacked, UnpackError> {
        let path = self.file("archive");
        fs::write(&path, archive).unwrap();
        let result = super::unpack(&path, kind, "app.bin", &self.dest(), limits, &|| false);
        self.assert_contained();
        result
    }

    fn assert_contained(&self) {
        assert_eq!(self.around(), self.before, "something outside the release changed");
        let Ok(dest) = self.dest().canonicalize() else { return };
        for (path, what) in list(&dest) {
            assert!(
                what.starts_with("dir") || what.starts_with("file") || what.starts_with("link"),
                "{}: {what}",
                path.display()
            );
            if let Ok(end) = dest.join(&path).canonicalize() {
                assert!(end.starts_with(&dest), "{} leads to {}", path.display(), end.display());
            }
            let mode = fs::symlink_metadata(dest.join(&path)).unwrap().mode();
            assert!(what.starts_with("link") || mode & 0o7002 == 0, "{} has mode {mode:o}", path.display());
        }
    }
}

/// Lists a tree: path to type, mode, links, time and content; directories' times are left out.
fn list(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(directory) = todo.pop() {
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            let what = if meta.is_dir() {
                todo.push(path.clone());
                format!("dir {mode:o}")
            } else if meta.is_symlink() {
                format!("link {:?}", fs::read_link(&path).unwrap())
            } else if meta.is_file() && meta.len() < 1 << 20 {
                let content = fs::read(&path).unwrap();
                format!("file {mode:o} links {} at {} {:?}", meta.nlink(), meta.mtime(), String::from_utf8_lossy(&content))
            } else if meta.is_file() {
                format!("file {mode:o} links {} at {} {} bytes", meta.nlink(), meta.mtime(), meta.len())
            } else {
                format!("special {mode:o}")
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    found
}

/// Runs a program that the tests need, with `input`; returns its output.
fn run(program: &str, arguments: &[&str], dir: &Path, input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("the tests need `{program}`: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    })
}

/// Compresses a tar stream for this kind.
fn pack(tar: &[u8], kind: ArchiveKind) -> Vec<u8> {
    let here = Path::new("/");
    match kind {
        ArchiveKind::TarZst => run("zstd", &["-q", "-c"], here, tar),
        ArchiveKind::TarGz => run("gzip", &["-n", "-c"], here, tar),
        ArchiveKind::TarXz => run("xz", &["-0", "-c"], here, tar),
        ArchiveKind::TarBz2 => run("bzip2", &["-c"], here, tar),
        _ => tar.to_vec(),
    }
}

const TARS: [ArchiveKind; 5] =
    [ArchiveKind::Tar, ArchiveKind::TarZst, ArchiveKind::TarGz, ArchiveKind::TarXz, ArchiveKind::TarBz2];
