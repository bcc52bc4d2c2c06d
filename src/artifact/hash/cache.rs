//! Results of earlier runs, so that deploying the same file again does not read it again.
//!
//! One small file per path and piece length: a line of JSON and a line with that line's SHA-256. An entry counts only if it is
//! ours (a regular file of this user that nobody else may write), undamaged, and of exactly the file that is there now: path, size,
//! modification and change time in nanoseconds, inode, device. Anything else is ignored and overwritten. A file that was modified less than
//! [`SETTLED`] ago is not stored: a further write within the clock's granularity would not show. Failures are logged, never
//! returned: the cache only saves time.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{FileIdentity, Hashed};
use crate::model::Digest;

/// How many entries are kept; the least recently used go first.
const MAX_ENTRIES: usize = 256;

/// The longest entry in bytes; enough for half a million pieces.
const MAX_ENTRY: u64 = 16 << 20;

/// A file must have been left alone for this long before its hashes are stored.
const SETTLED: Duration = Duration::from_secs(2);

/// An unfinished write older than this was left behind by a crash.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Ending of an entry's name.
const ENTRY: &str = ".hash";

/// Ending of an unfinished entry's name.
const UNFINISHED: &str = ".hash-tmp";

/// Version of the entries' format.
const VERSION: u32 = 1;

/// A directory with the hashes of files seen before.
#[derive(Debug, Clone)]
pub struct HashCache {
    dir: PathBuf,
}

/// An entry as it is written.
#[derive(Serialize, Deserialize)]
struct Entry {
    version: u32,
    /// The absolute path in base64: it need not be UTF-8.
    path: String,
    identity: FileIdentity,
    ctime: i64,
    ctime_nsec: i64,
    digest: Digest,
    piece_length: u32,
    /// All piece hashes one after the other in base64.
    pieces: String,
}

impl HashCache {
    /// Returns the cache in `dir`, which is made (mode 0700) when the first result is stored.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Returns the stored result for exactly this file in exactly this state.
    pub(super) fn find(&self, path: &Path, metadata: &Metadata, piece_length: u32) -> Option<Hashed> {
        let path = fs::canonicalize(path).ok()?;
        let file = open_own(&self.entry_path(&path, piece_length)).ok()?;
        let mut text = Vec::new();
        (&file).take(MAX_ENTRY + 1).read_to_end(&mut text).ok()?;
        let hashed = decode(&text)?.into_hashed(&path, metadata, piece_length)?;
        // Marks it as recently used; it stays valid without.
        let _ = file.set_modified(SystemTime::now());
        Some(hashed)
    }

    /// Stores a result unless the file is too young for it to be trusted later.
    pub(super) fn store(&self, path: &Path, metadata: &Metadata, hashed: &Hashed) {
        let age = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_none_or(|age| age < SETTLED) {
            return;
        }
        if let Err(error) = self.try_store(path, metadata, hashed) {
            tracing::debug!(dir = %self.dir.display(), %error, "hashes were not cached");
        }
    }

    fn try_store(&self, path: &Path, metadata: &Metadata, hashed: &Hashed) -> io::Result<()> {
        let path = fs::canonicalize(path)?;
        let text = encode(&Entry::new(&path, metadata, hashed))?;
        if text.len() as u64 > MAX_ENTRY {
            return Err(io::Error::other("too many pieces for an entry"));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let entry = self.entry_path(&path, hashed.piece_length);
        let unfinished = self.dir.join(format!("{:016x}{UNFINISHED}", fastrand::u64(..)));
        let written = write_new(&unfinished, &text).and_then(|()| fs::rename(&unfinished, &entry));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.prune()
    }

    fn entry_path(&self, path: &Path, piece_length: u32) -> PathBuf {
        let key = Sha256::new().chain_update(path.as_os_str().as_bytes()).chain_update(piece_length.to_be_bytes());
        let key = Digest(key.finalize().into()).to_string();
        self.dir.join(format!("{}{ENTRY}", &key[..32]))
    }

    /// Removes the least recently used entries beyond the bound, and what crashes left.
    fn prune(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for item in fs::read_dir(&self.dir)? {
            let item = item?;
            let modified = item.metadata()?.modified()?;
            if name_ends(&item.file_name(), ENTRY) {
                entries.push((modified, item.path()));
            } else if name_ends(&item.file_name(), UNFINISHED) && modified.elapsed().is_ok_and(|age| age > ABANDONED) {
                fs::remove_file(item.path())?;
            }
        }
        entries.sort_unstable();
        let surplus = entries.len().saturating_sub(MAX_ENTRIES);
        entries.iter().take(surplus).try_for_each(|(_, path)| match fs::remove_file(path) {
            // Another run was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }
}

impl Entry {
    fn new(path: &Path, metadata: &Metadata, hashed: &Hashed) -> Self {
        Self {
            version: VERSION,
            path: BASE64.encode(path.as_os_str().as_bytes()),
            identity: hashed.identity,
            ctime: metadata.ctime(),
            ctime_nsec: metadata.ctime_nsec(),
            digest: hashed.digest,
            piece_length: hashed.piece_length,
            pieces: BASE64.encode(hashed.pieces.as_flattened()),
        }
    }

    /// Returns the result if the entry is about this file, in this state, with this piece length.
    fn into_hashed(self, path: &Path, metadata: &Metadata, piece_length: u32) -> Option<Hashed> {
        let size = self.identity.size;
        let same = self.version == VERSION
            && self.path == BASE64.encode(path.as_os_str().as_bytes())
            && self.identity.matches(metadata)
            && (self.ctime, self.ctime_nsec) == (metadata.ctime(), metadata.ctime_nsec())
            && self.piece_length == piece_length;
        let bytes = BASE64.decode(self.pieces).ok()?;
        let (pieces, rest) = bytes.as_chunks::<20>();
        if !same || !rest.is_empty() || pieces.len() as u64 != size.div_ceil(piece_length.into()) {
            return None;
        }
        let (identity, digest) = (self.identity, self.digest);
        Some(Hashed { identity, size, digest, piece_length, pieces: pieces.to_vec(), from_cache: true })
    }
}

fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(entry)?;
    let check = Digest(Sha256::digest(&text).into());
    writeln!(text, "\n{check}")?;
    Ok(text)
}

fn decode(text: &[u8]) -> Option<Entry> {
    let split = text.iter().position(|byte| *byte == b'\n')?;
    let (json, check) = text.split_at(split);
    if check != format!("\n{}\n", Digest(Sha256::digest(json).into())).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// Opens an entry if nobody but this user can have written it.
fn open_own(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    let ours = metadata.is_file()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o022 == 0
        && metadata.len() <= MAX_ENTRY;
    if ours { Ok(file) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    // No fsync: after a power cut the check line tells a damaged entry.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text)
}

fn name_ends(name: &OsStr, ending: &str) -> bool {
    name.as_bytes().ends_with(ending.as_bytes())
}
