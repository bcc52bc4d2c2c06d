//! Artifacts on the host: the partial download, the gate it must pass, and the cache of those that passed.
//!
//! `<cache>/blobs/sha256/<digest>` holds artifacts that passed the gate once. Even so a blob from the cache is hashed again before it
//! is used: disks rot, and nobody waits until they have it. The types keep the two apart: [`UnverifiedBlob`] becomes [`VerifiedBlob`]
//! through a [`Gate`], by its SHA-256 and in no other way, and only a verified one is unpacked or adopted. The cache is private to its user, bounded by size and age (least
//! recently used first), and a blob that a run uses is locked (`flock`, shared) and so never evicted under it.

use std::{
    ffi::OsStr,
    fs::{self, File, FileTimes, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::{
    disk::{self, At as _, DiskError},
    root::{self, RootError},
};
use crate::{failpoint, model::Digest};

/// How long an unused artifact stays in the cache.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most cache entries looked at.
const MAX_ENTRIES: usize = 100_000;
/// What the name of a copy that is not complete yet starts with.
const INCOMING: &str = ".incoming-";
/// How much is hashed between two looks at whether to stop, in bytes.
const STEP: u64 = 256 << 10;

/// How much is copied between two looks at whether to stop, in bytes.
const COPY_STEP: u64 = 32 << 20;

/// Asked while something takes long; true ends it.
type GiveUp<'a> = &'a dyn Fn() -> bool;

/// Says why a blob did not become a verified one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// The bytes are not the artifact's.
    #[error("{} is not the artifact: {found}, expected {expected}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What it is: digest or size.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// It can't be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The agent was told to stop.
    #[error("stopped while checking the artifact")]
    Cancelled,
}

/// A file that claims to be an artifact.
#[derive(Debug)]
pub(crate) struct UnverifiedBlob {
    file: File,
    path: PathBuf,
}

/// A file that is being checked, from its beginning on, perhaps while the rest of it still arrives.
#[derive(Debug)]
pub(crate) struct Gate {
    file: File,
    path: PathBuf,
    size: u64,
    digest: Digest,
    hasher: Sha256,
    /// How far it is hashed.
    read: u64,
}

/// A file whose SHA-256 is the artifact's. Held open and, in the cache, locked against eviction.
#[derive(Debug)]
pub(crate) struct VerifiedBlob {
    file: File,
    path: PathBuf,
    size: u64,
    digest: Digest,
}

impl UnverifiedBlob {
    /// Opens a file of the agent's own directories; `None` if it is not there.
    pub(crate) fn open(path: PathBuf) -> Result<Option<Self>, DiskError> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("open", &path),
        };
        if !file.metadata().at("look at", &path)?.is_file() {
            return Err(io::Error::other("it is not a regular file")).at("open", &path);
        }
        Ok(Some(Self { file, path }))
    }

    /// Reads the whole file: the hard gate. `cancelled` is asked again and again.
    pub(crate) fn verify(self, digest: &Digest, size: u64, cancelled: GiveUp<'_>) -> Result<VerifiedBlob, VerifyError> {
        let mut gate = self.gate(digest, size);
        gate.check_size()?;
        gate.read_to(size, cancelled)?;
        gate.pass()
    }

    /// Begins to check the file, which need not have all its bytes yet.
    pub(crate) fn gate(self, digest: &Digest, size: u64) -> Gate {
        Gate { file: self.file, path: self.path, size, digest: *digest, hasher: Sha256::new(), read: 0 }
    }
}

impl Gate {
    /// Reads on up to the byte `end`. The bytes before it must be there for good. `cancelled` is asked again and again.
    pub(crate) fn read_to(&mut self, end: u64, cancelled: GiveUp<'_>) -> Result<(), VerifyError> {
        let mut buffer = vec![0; STEP.min(end.saturating_sub(self.read)) as usize];
        while self.read < end {
            if cancelled() {
                return Err(VerifyError::Cancelled);
            }
            let part = (buffer.len() as u64).min(end - self.read) as usize;
            // Not from the file's position: another descriptor of it may be in use.
            match self.file.read_at(&mut buffer[..part], self.read) {
                Ok(0) => {
                    return Err(self.mismatch(format!("it ends after {} bytes", self.read), format!("{} bytes", self.size)));
                }
                Ok(read) => {
                    self.hasher.update(&buffer[..read]);
                    self.read += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).at("read", &self.path).map_err(VerifyError::from),
            }
        }
        Ok(())
    }

    /// Lets the file pass if it is the artifact.
    pub(crate) fn pass(self) -> Result<VerifiedBlob, VerifyError> {
        self.check_size()?;
        let found = Digest(self.hasher.clone().finalize().into());
        if found != self.digest || self.read != self.size {
            return Err(self.mismatch(format!("its SHA-256 is {found}"), self.digest.to_string()));
        }
        Ok(VerifiedBlob { file: self.file, path: self.path, size: self.size, digest: self.digest })
    }

    fn check_size(&self) -> Result<(), VerifyError> {
        let length = self.file.metadata().at("look at", &self.path)?.len();
        if length != self.size {
            return Err(self.mismatch(format!("it has {length} bytes"), format!("{} bytes", self.size)));
        }
        Ok(())
    }

    fn mismatch(&self, found: String, expected: String) -> VerifyError {
        VerifyError::Mismatch { path: self.path.clone(), found, expected }
    }
}

impl VerifiedBlob {
    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until its bytes are on the disk. What was hashed while it arrived came from memory: this tells whether the disk took it, so that
    /// nobody reads anything else from it later. Blocks as long as the disk takes.
    pub(crate) fn flush(&self) -> Result<(), DiskError> {
        self.file.sync_data().at("write", &self.path)
    }
}

/// One user's cache of verified artifacts.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    blobs: PathBuf,
}

impl Store {
    /// Opens the cache at `cache` and creates what is missing.
    pub(crate) fn open(cache: &Path, uid: u32) -> Result<Self, RootError> {
        root::check_trust(cache, uid)?;
        disk::create_dir(cache)?;
        let blobs = cache.join("blobs");
        disk::private_dir(&blobs, uid)?;
        let blobs = blobs.join("sha256");
        disk::private_dir(&blobs, uid)?;
        disk::writable_dir(&blobs)?;
        Ok(Self { blobs })
    }

    /// Returns where the artifact with that digest would be.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.to_string())
    }

    /// Opens a cached artifact, locks it against eviction and marks it as used now.
    pub(crate) fn open_blob(&self, digest: &Digest, now: SystemTime) -> Result<Option<UnverifiedBlob>, DiskError> {
        let Some(blob) = UnverifiedBlob::open(self.path(digest))? else { return Ok(None) };
        // An evictor that holds the exclusive lock is about to remove it: then it is not there.
        if blob.file.try_lock_shared().is_err() {
            return Ok(None);
        }
        let _ = blob.file.set_times(FileTimes::new().set_modified(now));
        Ok(Some(blob))
    }

    /// Removes a blob that did not pass the gate.
    pub(crate) fn discard(&self, digest: &Digest) -> Result<(), DiskError> {
        disk::remove_file(&self.path(digest))
    }

    /// Moves a verified artifact into the cache: by a rename, or, where the cache is on another file system, by a copy, which
    /// may take long: only with `copy`, which is asked again and again whether to give up. Returns whether it is in the cache.
    /// What reads or serves the file through an open descriptor is not disturbed.
    pub(crate) fn adopt(&self, blob: &mut VerifiedBlob, copy: Option<GiveUp<'_>>, now: SystemTime) -> Result<bool, DiskError> {
        let path = self.path(&blob.digest);
        if blob.path == path {
            return Ok(true);
        }
        let _ = blob.file.try_lock_shared();
        let _ = blob.file.set_times(FileTimes::new().set_modified(now));
        failpoint::reach("cache.adopting");
        match fs::rename(&blob.path, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let Some(give_up) = copy else { return Ok(false) };
                if !self.copy_in(blob, &path, give_up)? {
                    return Ok(false);
                }
                failpoint::reach("cache.copied");
                disk::remove_file(&blob.path)?;
            }
            Err(error) => return Err(error).at("move the artifact to", &path),
        }
        failpoint::reach("cache.adopted");
        blob.path = path;
        Ok(true)
    }

    /// Copies the artifact to `path`; false if it gave up, with nothing left behind.
    fn copy_in(&self, blob: &VerifiedBlob, path: &Path, give_up: GiveUp<'_>) -> Result<bool, DiskError> {
        let room = disk::room(&self.blobs)?;
        if room.free < blob.size {
            let text = format!("{} bytes are free, {} are needed", room.free, blob.size);
            return Err(io::Error::new(io::ErrorKind::StorageFull, text)).at("copy the artifact to", path);
        }
        let temporary = self.blobs.join(format!("{INCOMING}{}-{}", std::process::id(), blob.digest));
        let copied = (|| {
            let mut from = File::open(&blob.path)?;
            let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            // Locked like a blob in use, so that no other agent takes it for a leftover.
            let _ = to.try_lock_shared();
            let mut left = blob.size;
            while left > 0 {
                if give_up() {
                    return Ok(false);
                }
                let step = io::copy(&mut (&mut from).take(COPY_STEP.min(left)), &mut to)?;
                if step == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left -= step;
                failpoint::reach("cache.copying");
            }
            // Not flushed: what a power cut takes of it is noticed when it is hashed before its next use, and the run waits for this.
            fs::rename(&temporary, path).map(|()| true)
        })();
        if !matches!(copied, Ok(true)) {
            let _ = fs::remove_file(&temporary);
        }
        copied.at("copy the artifact to", path)
    }

    /// True if there is a cache at `cache`.
    pub(crate) fn is_at(cache: &Path) -> bool {
        cache.join("blobs").is_dir()
    }

    /// Returns what has to go so that the rest fits in `limit` bytes and nothing is older than [`MAX_AGE`], the least recently used
    /// first, and copies that dead agents left. Never `keep`, never a blob in use.
    pub(crate) fn surplus(&self, limit: u64, keep: Option<&Digest>, now: SystemTime) -> Result<Vec<Surplus>, DiskError> {
        let mut blobs = Vec::new();
        let mut total = 0_u64;
        let keep = keep.map(Digest::to_string);
        for name in disk::names(&self.blobs, MAX_ENTRIES)? {
            let path = self.blobs.join(&name);
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let bytes = meta.blocks().saturating_mul(512);
            total = total.saturating_add(bytes);
            if keep.is_none() || name.to_str() != keep.as_deref() {
                let used =
                    if is_leftover(&name) { SystemTime::UNIX_EPOCH } else { meta.modified().unwrap_or(SystemTime::UNIX_EPOCH) };
                blobs.push((used, bytes, path));
            }
        }
        blobs.sort();
        let mut surplus = Vec::new();
        for (used, bytes, path) in blobs {
            let expired = now.duration_since(used).is_ok_and(|age| age > MAX_AGE);
            if (total > limit || expired) && !in_use(&path) {
                total = total.saturating_sub(bytes);
                surplus.push(Surplus { path, bytes });
            }
        }
        Ok(surplus)
    }

    /// Removes copies that dead agents left.
    pub(crate) fn remove_leftovers(&self) -> Result<(), DiskError> {
        for name in disk::names(&self.blobs, MAX_ENTRIES)?.iter().filter(|name| is_leftover(name)) {
            let path = self.blobs.join(name);
            if !in_use(&path) {
                disk::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what [`Store::surplus`] found, unless it has come into use since. Returns how many went.
    pub(crate) fn evict(&self, surplus: &[Surplus]) -> Result<usize, DiskError> {
        let mut gone = 0;
        for Surplus { path, .. } in surplus {
            if !in_use(path) {
                disk::remove_file(path)?;
                failpoint::reach("cache.evicted");
                gone += 1;
            }
        }
        Ok(gone)
    }
}

/// A cached artifact that may go.
#[derive(Debug)]
pub(crate) struct Surplus {
    path: PathBuf,
    /// What it takes on the disk.
    pub(crate) bytes: u64,
}

/// True if that is no blob's name but a copy's that is not complete.
fn is_leftover(name: &OsStr) -> bool {
    name.to_str().is_none_or(|name| name.starts_with(INCOMING))
}

/// True if some agent holds the blob. The lock is given back when the file closes, after the caller removed it or a moment
/// before: whoever opens the path then finds nothing or a blob that it hashes again.
fn in_use(path: &Path) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file.try_lock().is_err(),
        // A planted symlink or the like: nobody uses it.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn digest(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    fn verified(path: &Path, bytes: &[u8]) -> VerifiedBlob {
        fs::write(path, bytes).unwrap();
        let blob = UnverifiedBlob::open(path.into()).unwrap().unwrap();
        blob.verify(&digest(bytes), bytes.len() as u64, &|| false).unwrap()
    }

    fn days_ago(days: u64) -> SystemTime {
        SystemTime::now() - Duration::from_secs(days * 24 * 3600)
    }

    #[test]
    fn only_the_right_bytes_pass_the_gate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partial");
        for (bytes, passes) in [(&b"artifact"[..], true), (b"artifacT", false), (b"artifact!", false)] {
            fs::write(&path, bytes).unwrap();
            let blob = UnverifiedBlob::open(path.clone()).unwrap().unwrap();
            assert_eq!(blob.verify(&digest(b"artifact"), 8, &|| false).is_ok(), passes, "{bytes:?}");
        }
        let blob = UnverifiedBlob::open(path).unwrap().unwrap();
        assert!(matches!(blob.verify(&digest(b"artifact!"), 9, &|| true), Err(VerifyError::Cancelled)));
    }

    #[test]
    fn a_file_that_is_still_arriving_passes_once_all_of_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partial");
        let bytes = vec![7; STEP as usize + 10];
        fs::write(&path, &bytes[..100]).unwrap();
        let open = || UnverifiedBlob::open(path.clone()).unwrap().unwrap().gate(&digest(&bytes), bytes.len() as u64);
        let (mut gate, mut early, mut hasty) = (open(), open(), open());
        gate.read_to(100, &|| false).unwrap();
        early.read_to(100, &|| false).unwrap();
        assert!(matches!(hasty.read_to(101, &|| false), Err(VerifyError::Mismatch { .. })), "it read what is not there");
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(early.pass(), Err(VerifyError::Mismatch { .. })), "it passed half read");
        gate.read_to(bytes.len() as u64, &|| false).unwrap();
        gate.pass().unwrap();
    }

    #[test]
    fn adopting_moves_the_file_and_an_open_descriptor_still_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache"), uid()).unwrap();
        let path = dir.path().join("partial");
        let mut blob = verified(&path, b"artifact");
        let serving = File::open(&path).unwrap();
        store.adopt(&mut blob, Some(&|| false), SystemTime::now()).unwrap();
        assert!(!path.exists());
        let mut read = String::new();
        (&serving).read_to_string(&mut read).unwrap();
        assert_eq!(read, "artifact");
        let cached = store.open_blob(&digest(b"artifact"), SystemTime::now()).unwrap().unwrap();
        cached.verify(&digest(b"artifact"), 8, &|| false).unwrap();
    }

    #[test]
    fn a_copy_that_is_given_up_leaves_nothing_and_one_that_is_not_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache"), uid()).unwrap();
        let bytes = vec![7; COPY_STEP as usize * 2 + 1];
        let mut blob = verified(&dir.path().join("partial"), &bytes);
        let target = store.path(&blob.digest);
        let asked = std::cell::Cell::new(0);
        let give_up = || {
            asked.set(asked.get() + 1);
            asked.get() > 2
        };
        assert!(!store.copy_in(&blob, &target, &give_up).unwrap());
        assert_eq!(asked.get(), 3, "it went on after it was told to stop");
        assert_eq!(disk::names(&store.blobs, 10).unwrap().len(), 0);
        assert!(store.copy_in(&blob, &target, &|| false).unwrap());
        assert!(fs::read(&target).unwrap() == bytes);
        assert_eq!(disk::names(&store.blobs, 10).unwrap().len(), 1);
        assert!(blob.path.exists(), "copying does not move");
        assert!(store.adopt(&mut blob, None, SystemTime::now()).unwrap());
    }

    #[test]
    fn eviction_takes_the_oldest_first_and_neither_this_runs_blob_nor_one_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), uid()).unwrap();
        let bytes = |n: u8| vec![n; 8192];
        for n in 0..6 {
            let mut blob = verified(&dir.path().join("partial"), &bytes(n));
            store.adopt(&mut blob, Some(&|| false), days_ago(u64::from(n))).unwrap();
        }
        let mut old = verified(&dir.path().join("partial"), b"old");
        store.adopt(&mut old, Some(&|| false), days_ago(40)).unwrap();
        drop(old);
        let in_use = store.open_blob(&digest(&bytes(5)), days_ago(5)).unwrap().unwrap();
        let evict = |limit| {
            let surplus = store.surplus(limit, Some(&digest(&bytes(4))), SystemTime::now()).unwrap();
            assert_eq!(store.evict(&surplus).unwrap(), surplus.len());
        };
        evict(4 * 8192);
        let there: Vec<bool> = (0..6).map(|n| store.path(&digest(&bytes(n))).exists()).collect();
        assert_eq!(there, [true, true, false, false, true, true]);
        assert!(!store.path(&digest(b"old")).exists());
        drop(in_use);
        evict(0);
        let there: Vec<bool> = (0..6).map(|n| store.path(&digest(&bytes(n))).exists()).collect();
        assert_eq!(there, [false, false, false, false, true, false]);
    }

    #[test]
    fn a_blob_that_is_a_symlink_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), uid()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", store.path(&digest(b"x"))).unwrap();
        assert!(store.open_blob(&digest(b"x"), SystemTime::now()).is_err());
    }
}
