//! Files of a directory that are on the host already: they are copied to their places in the download before anything is fetched.
//!
//! Taken are files of the live release and of the others that are kept, whatever artifact these were made of: at the same path first, then
//! anywhere, if they have the length of a file that is wanted. What is in a release is not trusted, its application can write there: a file
//! counts if its SHA-256 is one that is wanted, and what was copied counts once the engine finds the pieces' hashes right. So pieces
//! that lie in a wanted file and in another are fetched. Copied, not hard-linked: what an application writes into one release must not
//! show in another.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::{
    disk::{At as _, DiskError},
    releases::Release,
    root::Root,
    session::Cancel,
};
use crate::{
    artifact::walk,
    failpoint,
    model::{Digest, ReleaseId, Tree},
};

/// How much is hashed or copied between two looks at whether to stop, in bytes.
const STEP: u64 = 256 << 10;
/// How many bytes may be hashed for nothing, at least. A large directory may cost as many as it has.
const VAIN: u64 = 64 << 20;

/// Copies what is there into the download at `partial`, from `current` first, then from the newest release. Returns how many bytes came
/// so. A release that can't be read is passed over; a download that can't be written is an error.
pub(crate) fn fill(
    root: &Root,
    current: Option<&ReleaseId>,
    releases: &[Release],
    tree: &Tree,
    partial: &Path,
    cancel: &Cancel,
) -> Result<u64, DiskError> {
    let mut reuse = Reuse::new(tree, partial, cancel);
    let others = releases.iter().map(|release| &release.id).filter(|id| Some(*id) != current);
    for id in current.into_iter().chain(others) {
        let Ok(release) = walk::open_directory(&root.release(id)) else { continue };
        reuse.same_paths(&release)?;
        if reuse.is_over() {
            break;
        }
        reuse.same_lengths(&release)?;
    }
    Ok(reuse.taken)
}

/// What is still wanted.
struct Reuse<'a> {
    tree: &'a Tree,
    partial: &'a Path,
    cancel: &'a Cancel,
    /// The download, once there is something for it.
    blob: Option<File>,
    /// Where the contents with that SHA-256 go.
    wanted: HashMap<Digest, Vec<u64>>,
    /// How many wanted contents have that length.
    lengths: HashMap<u64, usize>,
    /// The files that were hashed, by device and inode.
    seen: HashSet<(u64, u64)>,
    /// How many more bytes may be hashed for nothing.
    vain: u64,
    taken: u64,
}

impl<'a> Reuse<'a> {
    fn new(tree: &'a Tree, partial: &'a Path, cancel: &'a Cancel) -> Self {
        let (mut wanted, mut lengths) = (HashMap::<_, Vec<u64>>::new(), HashMap::new());
        for (start, _, file) in tree.files() {
            let places = wanted.entry(file.digest).or_default();
            if places.is_empty() {
                *lengths.entry(file.length).or_default() += 1;
            }
            places.push(start);
        }
        let vain = tree.size().max(VAIN);
        Self { tree, partial, cancel, blob: None, wanted, lengths, seen: HashSet::new(), vain, taken: 0 }
    }

    fn is_over(&self) -> bool {
        self.wanted.is_empty() || self.vain == 0 || self.cancel.is_set()
    }

    /// Tries the files that have a wanted file's path.
    fn same_paths(&mut self, release: &impl AsFd) -> Result<(), DiskError> {
        for (_, path, file) in self.tree.files() {
            if self.is_over() {
                break;
            }
            if self.wanted.contains_key(&file.digest)
                && let Ok(candidate) = walk::open_below(release, path)
            {
                self.try_file(&candidate)?;
            }
        }
        Ok(())
    }

    /// Tries the files that have a wanted file's length.
    fn same_lengths(&mut self, release: &impl AsFd) -> Result<(), DiskError> {
        /// Why the walk ends early.
        enum End {
            Over,
            Failed(DiskError),
        }
        let walked = walk::walk(release, |_, found| {
            if self.is_over() {
                return Err(End::Over);
            }
            if let Ok(found) = found
                && found.file_type().is_file()
                && self.lengths.contains_key(&found.stat.st_size.cast_unsigned())
                && let Ok(candidate) = found.open()
            {
                self.try_file(&candidate).map_err(End::Failed)?;
            }
            Ok(())
        });
        match walked {
            Err(End::Failed(error)) => Err(error),
            Err(End::Over) | Ok(()) => Ok(()),
        }
    }

    /// Takes the file's content to where it is wanted, if it is.
    fn try_file(&mut self, candidate: &File) -> Result<(), DiskError> {
        let Ok(meta) = candidate.metadata() else { return Ok(()) };
        let length = meta.len();
        if !self.lengths.contains_key(&length) || !self.seen.insert((meta.dev(), meta.ino())) {
            return Ok(());
        }
        let Some(digest) = self.hash(candidate, length) else { return Ok(()) };
        let Some(places) = self.wanted.remove(&digest) else {
            self.vain = self.vain.saturating_sub(length);
            return Ok(());
        };
        if let Some(left) = self.lengths.get_mut(&length) {
            *left -= 1;
            if *left == 0 {
                self.lengths.remove(&length);
            }
        }
        for place in places {
            self.copy(candidate, length, place)?;
            failpoint::reach("reuse.copied");
        }
        Ok(())
    }

    /// Returns the SHA-256 of a file; none if it can't be read or is not that long.
    fn hash(&self, file: &File, length: u64) -> Option<Digest> {
        let mut hasher = Sha256::new();
        self.each_chunk(file, length, |_, chunk| {
            hasher.update(chunk);
            Ok(())
        })
        .ok()?;
        Some(Digest(hasher.finalize().into()))
    }

    /// Copies a file into the download.
    fn copy(&mut self, from: &File, length: u64, place: u64) -> Result<(), DiskError> {
        let blob = match self.blob.take() {
            Some(blob) => blob,
            None => open(self.partial)?,
        };
        let copied = self.each_chunk(from, length, |at, chunk| blob.write_all_at(chunk, place + at));
        self.blob = Some(blob);
        copied.at("write", self.partial)?;
        self.taken += length;
        Ok(())
    }

    /// Calls `each` with what is in the file from its start, and how far it is from there. Ends early if that is no longer wanted.
    fn each_chunk(&self, file: &File, length: u64, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = vec![0; length.min(STEP) as usize];
        let mut at = 0;
        while at < length && !self.cancel.is_set() {
            let part = (length - at).min(STEP) as usize;
            file.read_exact_at(&mut buffer[..part], at)?;
            each(at, &buffer[..part])?;
            at += part as u64;
        }
        Ok(())
    }
}

/// Opens or creates the download.
fn open(path: &Path) -> Result<File, DiskError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options.open(path).at("open", path)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::artifact::hash_tree;

    /// A host with releases, and a directory to deploy there.
    struct Bed {
        dir: tempfile::TempDir,
        root: Root,
        releases: Vec<Release>,
    }

    impl Bed {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::new(dir.path().join("app").to_str().unwrap(), None).unwrap();
            root.prepare(rustix::process::geteuid().as_raw()).unwrap();
            Self { dir, root, releases: Vec::new() }
        }

        fn wanted(&self, path: &str, content: &str) {
            write(&self.dir.path().join("dist").join(path), content);
        }

        /// Adds a release, the newest first.
        fn release(&mut self, id: &str, files: &[(&str, &str)]) -> PathBuf {
            let id: ReleaseId = id.parse().unwrap();
            let path = self.root.release(&id);
            fs::create_dir(&path).unwrap();
            for (file, content) in files {
                write(&path.join(file), content);
            }
            self.releases.insert(0, Release { id, record: None });
            path
        }

        /// Returns how many bytes were taken and the download.
        fn fill(&self) -> (u64, Vec<u8>) {
            let tree = hash_tree(&self.dir.path().join("dist"), |_| 16384, &|_| ()).unwrap().tree;
            let partial = self.dir.path().join("partial");
            let current = self.releases.first().map(|release| release.id.clone());
            let cancel = Cancel::default();
            let taken = fill(&self.root, current.as_ref(), &self.releases, &tree, &partial, &cancel).unwrap();
            (taken, fs::read(partial).unwrap_or_default())
        }
    }

    fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn what_any_release_has_at_any_path_is_taken_to_its_place() {
        let mut bed = Bed::new();
        for (path, content) in [("a", "same"), ("b/c", "moved"), ("b/d", "older"), ("e", "new.."), ("f", "same"), ("g", "")] {
            bed.wanted(path, content);
        }
        bed.release("r1", &[("b/d", "older"), ("e", "not new")]);
        bed.release("r2", &[("a", "same"), ("x/y", "moved"), ("b/d", "other"), ("e", "old..")]);
        let (taken, partial) = bed.fill();
        // In order: a, b/c, b/d, e, f.
        assert_eq!(taken, 4 + 5 + 5 + 4);
        assert_eq!(String::from_utf8_lossy(&partial), "samemovedolder\0\0\0\0\0same");
    }

    #[test]
    fn nothing_is_taken_from_nothing_and_no_download_is_made() {
        let mut bed = Bed::new();
        bed.wanted("a", "wanted");
        assert_eq!(bed.fill(), (0, Vec::new()));
        bed.release("r1", &[("a", "unlike"), ("b", "no")]);
        assert_eq!(bed.fill(), (0, Vec::new()));
        assert!(!bed.dir.path().join("partial").exists());
    }

    #[test]
    fn what_was_downloaded_before_is_not_spoilt_by_a_file_that_differs() {
        let mut bed = Bed::new();
        bed.wanted("a", "wanted");
        bed.wanted("b", "there");
        bed.release("r1", &[("a", "unlike"), ("b", "there")]);
        fs::write(bed.dir.path().join("partial"), "wanted").unwrap();
        assert_eq!(bed.fill(), (5, b"wantedthere".to_vec()));
    }

    #[test]
    fn links_pipes_and_what_is_outside_are_no_source() {
        let mut bed = Bed::new();
        for path in ["a", "b/c", "d"] {
            bed.wanted(path, "secret");
        }
        let outside = bed.dir.path().join("outside");
        write(&outside.join("c"), "secret");
        let release = bed.release("r1", &[]);
        std::os::unix::fs::symlink(outside.join("c"), release.join("a")).unwrap();
        std::os::unix::fs::symlink(&outside, release.join("b")).unwrap();
        // Opened for reading, it would wait for a writer.
        rustix::fs::mkfifoat(rustix::fs::CWD, release.join("d"), 0o600.into()).unwrap();
        assert_eq!(bed.fill(), (0, Vec::new()));
    }

    #[test]
    fn it_ends_when_it_is_told_to() {
        let mut bed = Bed::new();
        bed.wanted("a", "wanted");
        bed.release("r1", &[("a", "wanted")]);
        let tree = hash_tree(&bed.dir.path().join("dist"), |_| 16384, &|_| ()).unwrap().tree;
        let cancel = Cancel::default();
        cancel.set();
        let partial = bed.dir.path().join("partial");
        assert_eq!(fill(&bed.root, None, &bed.releases, &tree, &partial, &cancel).unwrap(), 0);
    }
}
