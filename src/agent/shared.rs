//! What the releases share: `shared/`, and the links to it in every release.
//!
//! `shared/` is the operator's: directories that are linked are made there where they are missing, files never, and nothing that is
//! there is changed or removed. In a release every linked path is a symlink to the same path below `shared/`; what the artifact has
//! at that place goes. The links are made after the artifact is unpacked, so that nothing of it is written through them, and are on
//! the disk before the release gets its name. Removing a release removes its links and follows none.
//!
//! Inside the release every step goes from one open directory to the next and never through a link: an artifact whose `config` is a link
//! can't have `config/database.yml` made where it leads to; it is refused.

use std::{
    fmt, fs,
    io::ErrorKind::NotFound,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, fchmod, fsync, mkdirat, open, openat, renameat, symlinkat},
    io::Errno,
};

use super::{
    disk::{self, At as _, DiskError, Entry},
    root::{Root, RootError, check_trust},
};
use crate::model::{
    ReleaseId,
    plan::{Linked, LinkedPath},
};

/// How a directory of the release is opened: never through a link.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The mode of directories made for links, as of directories that an archive does not name.
const MODE: Mode = Mode::from_raw_mode(0o755);
/// How many missing files are named.
const NAMED: usize = 10;

/// Says why a release can't be linked to what it shares.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SharedError {
    /// Files that have to be there.
    #[error("{} has no {}", shared.display(), Listed(files))]
    Missing {
        /// `shared/`.
        shared: PathBuf,
        /// Which.
        files: Vec<LinkedPath>,
    },
    /// Something else than what is to be linked.
    #[error("{} can't be linked: {why}", path.display())]
    Unusable {
        /// Below `shared/`.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// The artifact has something else where the link's directory has to be.
    #[error("`{linked}` can't be linked: `{parent}` in the artifact is not a directory")]
    InTheWay {
        /// The link.
        linked: LinkedPath,
        /// What is in its way.
        parent: PathBuf,
    },
    /// Another user could redirect what is made in `shared/`.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A disk operation failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Some names, and how many more there are.
struct Listed<'a>(&'a [LinkedPath]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<&str> = self.0.iter().take(NAMED).map(LinkedPath::as_str).collect();
        f.write_str(&named.join(", "))?;
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Makes the directories that are linked, and those that linked files are in, where they are missing, and checks that the files are
/// there.
pub(crate) fn prepare(root: &Root, linked: &Linked, uid: u32) -> Result<(), SharedError> {
    let parents = linked.files().iter().filter_map(|file| Path::new(file.as_str()).parent());
    for dir in linked.dirs().iter().map(|dir| Path::new(dir.as_str())).chain(parents) {
        make_dir(root, dir, uid)?;
    }
    let mut missing = Vec::new();
    for file in linked.files() {
        let path = root.shared().join(file.as_str());
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(SharedError::Unusable { path, why: "it is not a file" }),
            Err(error) if error.kind() == NotFound => missing.push(file.clone()),
            Err(error) => return Err(error).at("look at", &path)?,
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(SharedError::Missing { shared: root.shared(), files: missing }) }
}

/// Makes a directory below `shared/` and those that it is in. Links that the operator made on the way are followed.
fn make_dir(root: &Root, below: &Path, uid: u32) -> Result<(), SharedError> {
    let mut path = root.shared();
    for part in below.components() {
        let parent = path.clone();
        path.push(part);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => continue,
            Ok(_) => return Err(SharedError::Unusable { path, why: "it is not a directory" }),
            Err(error) if error.kind() == NotFound => {}
            Err(error) => return Err(error).at("look at", &path)?,
        }
        if disk::entry(&path)? != Entry::Absent {
            return Err(SharedError::Unusable { path, why: "it is a symlink to something that is not there" });
        }
        check_trust(&parent, uid)?;
        let dir = open(&parent, DIRECTORY - OFlags::NOFOLLOW, Mode::empty()).at("open the directory", &parent)?;
        new_dir(&dir, Path::new(part.as_os_str())).at("create the directory", &path)?;
    }
    Ok(())
}

/// Makes the links of a release that is unpacked and not complete yet. When it returns, they are on the disk.
pub(crate) fn link(root: &Root, release: &ReleaseId, linked: &Linked) -> Result<(), SharedError> {
    if linked.is_empty() {
        return Ok(());
    }
    let staging = root.staging(release);
    let top = open(&staging, DIRECTORY, Mode::empty()).at("open the directory", &staging)?;
    // From where `releases` really is, a relative link would lead elsewhere.
    let base = matches!(disk::entry(&root.releases())?, Entry::Link(_)).then(|| root.shared());
    for path in linked.dirs().iter().chain(linked.files()) {
        let target = match &base {
            Some(shared) => shared.join(path.as_str()),
            None => relative(path),
        };
        let link = Link { root, release, path, full: staging.join(path.as_str()) };
        link.make(top.try_clone().at("open the directory", &staging)?, &target)?;
    }
    Ok(())
}

/// Returns the target of a link from its place in a release: up to the application's root, then down.
fn relative(path: &LinkedPath) -> PathBuf {
    let steps = path.as_str().split('/').count() + 1;
    PathBuf::from("../".repeat(steps)).join("shared").join(path.as_str())
}

/// One link of one release.
struct Link<'a> {
    root: &'a Root,
    release: &'a ReleaseId,
    path: &'a LinkedPath,
    /// Its path in the release that is being made.
    full: PathBuf,
}

impl Link<'_> {
    /// Makes it below the open directory `top`.
    fn make(&self, top: OwnedFd, target: &Path) -> Result<(), SharedError> {
        let (parents, name) = match self.path.as_str().rsplit_once('/') {
            Some((parents, name)) => (Path::new(parents), name),
            None => (Path::new(""), self.path.as_str()),
        };
        let mut dir = top;
        let mut walked = PathBuf::new();
        for part in parents {
            walked.push(part);
            dir = self.enter(&dir, Path::new(part), &walked)?;
        }
        if let Err(errno) = symlinkat(target, &dir, name) {
            if errno != Errno::EXIST {
                return Err(errno).at("create the symlink", &self.full)?;
            }
            self.clear(&dir, name)?;
            symlinkat(target, &dir, name).at("create the symlink", &self.full)?;
        }
        Ok(fsync(&dir).at("flush the directory of", &self.full)?)
    }

    /// Opens a directory on the way, and makes it if the artifact has none.
    fn enter(&self, dir: &OwnedFd, part: &Path, walked: &Path) -> Result<OwnedFd, SharedError> {
        match openat(dir, part, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => Ok(new_dir(dir, part).at("create the directory of", &self.full)?),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(SharedError::InTheWay { linked: self.path.clone(), parent: walked.to_owned() })
            }
            opened => Ok(opened.at("open the directory of", &self.full)?),
        }
    }

    /// Takes away what the artifact has there: out of the release in one step, whatever it is, then removed.
    fn clear(&self, dir: &OwnedFd, name: &str) -> Result<(), DiskError> {
        let aside = self.root.replaced(self.release);
        disk::remove_tree(&aside)?;
        renameat(dir, name, rustix::fs::CWD, &aside).at("move away", &self.full)?;
        disk::remove_tree(&aside)
    }
}

/// Makes a directory whose mode is [`MODE`] whatever the umask says, on the disk, and opens it.
fn new_dir(parent: impl AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    mkdirat(&parent, name, Mode::RWXU)?;
    let dir = openat(&parent, name, DIRECTORY, Mode::empty())?;
    fchmod(&dir, MODE)?;
    fsync(&dir)?;
    fsync(&parent)?;
    Ok(dir)
}

#[cfg(test)]
mod tests;
