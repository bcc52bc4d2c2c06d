//! An application's root on the host (`deploy_to`): where it is, whether it can be trusted, and the paths in it.
//!
//! Promises: the paths given out are inside the root; before anything is written, every directory on the way is checked so that no
//! other user of the host can redirect the deploy. A directory on the way that everybody may write in (without the sticky
//! bit), a symlink of another user, or another user's entry in a sticky directory such as `/tmp` is refused. The owner of a directory
//! on the way is trusted: who deploys as root into a user's directory trusts that user.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use super::disk::{self, At as _, DiskError};
use crate::model::{Digest, ReleaseId};

/// The most symlinks followed on the way, as the kernel does.
const MAX_LINKS: u32 = 40;

/// Says why a root cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    /// The text is not a usable path.
    #[error("`{path}` cannot be used as {what}: {reason}")]
    BadPath {
        /// The text.
        path: String,
        /// Which path it was to be.
        what: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// Another user could redirect the deploy.
    #[error("{} is not safe to deploy through: {reason}", path.display())]
    Untrusted {
        /// The offending component.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A disk operation failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Turns a path from the controller into an absolute one: `~/` at the start is the home directory; `..` is refused.
pub(crate) fn resolve(text: &str, what: &'static str, home: Option<&Path>) -> Result<PathBuf, RootError> {
    let bad = |reason| RootError::BadPath { path: text.chars().take(200).collect(), what, reason };
    let path = match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        (Some(_), None) => return Err(bad("the agent has no home directory ($HOME is not set)")),
        (None, _) => PathBuf::from(text),
    };
    if !path.is_absolute() {
        return Err(bad("it must start with `/` or `~/`"));
    }
    if text.contains('\0') {
        return Err(bad("it contains a NUL character"));
    }
    let clean: PathBuf = path.components().collect();
    if clean.components().any(|part| part == Component::ParentDir) {
        return Err(bad("it must not contain `..`"));
    }
    if clean.parent().is_none() {
        return Err(bad("it is the root of the file system"));
    }
    Ok(clean)
}

/// Checks every existing directory on the way to `path`, itself included, against redirection by other users than `uid` and
/// root. Returns once a component does not exist yet.
pub(crate) fn check_trust(path: &Path, uid: u32) -> Result<(), RootError> {
    let trusted = |owner: u32| owner == uid || owner == 0;
    let mut links = 0;
    let mut seen = PathBuf::from("/");
    let mut sticky = false;
    let mut left: Vec<OsString> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    while let Some(part) = left.pop() {
        if part == "/" || part == "." {
            continue;
        }
        if part == ".." {
            seen.pop();
            continue;
        }
        let next = seen.join(&part);
        let meta = match fs::symlink_metadata(&next) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).at("look at", &next)?,
        };
        let untrusted = |reason: String| Err(RootError::Untrusted { path: next.clone(), reason });
        if meta.is_symlink() {
            links += 1;
            if !trusted(meta.uid()) {
                return untrusted(format!("it is a symlink that belongs to user id {}", meta.uid()));
            }
            if links > MAX_LINKS {
                return untrusted("too many symlinks".into());
            }
            let target = fs::read_link(&next).at("read the symlink", &next)?;
            if target.is_absolute() {
                seen = PathBuf::from("/");
            }
            left.extend(target.components().rev().map(|part| part.as_os_str().to_owned()));
            continue;
        }
        if !meta.is_dir() {
            return untrusted("it is not a directory".into());
        }
        let everybody = meta.mode() & 0o002 != 0;
        if sticky && !trusted(meta.uid()) {
            return untrusted(format!("it lies where everybody may create things and belongs to user id {}", meta.uid()));
        }
        sticky = everybody && meta.mode() & 0o1000 != 0;
        if everybody && !sticky {
            return untrusted("everybody may write in it".into());
        }
        seen = next;
    }
    Ok(())
}

/// An application's root. Only names paths; see [`Root::prepare`] for what creates them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// Resolves `deploy_to`.
    pub(crate) fn new(deploy_to: &str, home: Option<&Path>) -> Result<Self, RootError> {
        resolve(deploy_to, "deploy_to", home).map(Self)
    }

    /// Checks the way, creates what is missing and checks that it can be written.
    pub(crate) fn prepare(&self, uid: u32) -> Result<(), RootError> {
        for dir in [&self.0, &self.releases()] {
            check_trust(dir, uid)?;
            disk::create_dir(dir)?;
            // Again: what was missing a moment ago may have been made by somebody else.
            check_trust(dir, uid)?;
        }
        disk::create_dir(&self.shared())?;
        for dir in [self.private(), self.records(), self.partials()] {
            disk::private_dir(&dir, uid)?;
        }
        for dir in [&self.0, &self.releases()] {
            disk::writable_dir(dir)?;
        }
        Ok(())
    }

    /// Returns the root itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// `current`, the symlink to the live release.
    pub(crate) fn current(&self) -> PathBuf {
        self.0.join("current")
    }

    /// Where `current`'s successor is made before it is renamed.
    pub(crate) fn next_current(&self) -> PathBuf {
        self.0.join(".current.new")
    }

    /// The releases.
    pub(crate) fn releases(&self) -> PathBuf {
        self.0.join("releases")
    }

    /// One release.
    pub(crate) fn release(&self, id: &ReleaseId) -> PathBuf {
        self.releases().join(id.as_str())
    }

    /// Where a release is unpacked before it is complete.
    pub(crate) fn staging(&self, id: &ReleaseId) -> PathBuf {
        self.releases().join(format!(".tmp-{id}"))
    }

    /// Where what the archive has in a link's place goes before it is removed: as much a leftover as the release it was in.
    pub(crate) fn replaced(&self, id: &ReleaseId) -> PathBuf {
        self.releases().join(format!(".tmp-{id}-replaced"))
    }

    /// Linked files and directories.
    pub(crate) fn shared(&self) -> PathBuf {
        self.0.join("shared")
    }

    /// What was live when, for people.
    pub(crate) fn revisions(&self) -> PathBuf {
        self.0.join("revisions.log")
    }

    /// The agent's own directory.
    pub(crate) fn private(&self) -> PathBuf {
        self.0.join(".fleetdrop")
    }

    /// The lock.
    pub(crate) fn lock(&self) -> PathBuf {
        self.private().join("lock")
    }

    /// The note of which hook or check runs.
    pub(crate) fn running(&self) -> PathBuf {
        self.private().join("running")
    }

    /// The activation journal.
    pub(crate) fn journal(&self) -> PathBuf {
        self.private().join("journal")
    }

    /// The records of the releases.
    pub(crate) fn records(&self) -> PathBuf {
        self.private().join("releases")
    }

    /// One release's record.
    pub(crate) fn record(&self, id: &ReleaseId) -> PathBuf {
        self.records().join(format!("{id}.json"))
    }

    /// The newest signed version that was live.
    pub(crate) fn newest(&self) -> PathBuf {
        self.private().join("newest")
    }

    /// Partial downloads.
    pub(crate) fn partials(&self) -> PathBuf {
        self.private().join("partial")
    }

    /// One partial download.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(digest.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn deploy_to_is_absolute_or_below_home() {
        let home = Some(Path::new("/home/deploy"));
        for (text, path) in [
            ("/srv/shop", "/srv/shop"),
            ("/srv/./shop/", "/srv/shop"),
            ("~/fleetdrop/shop", "/home/deploy/fleetdrop/shop"),
            ("~//etc", "/home/deploy/etc"),
        ] {
            assert_eq!(resolve(text, "deploy_to", home).unwrap(), Path::new(path), "{text}");
        }
        for bad in ["", "srv/shop", "/", "/srv/../etc", "~/../root", "~other/x", "~", "/srv/a\0b"] {
            assert!(resolve(bad, "deploy_to", home).is_err(), "{bad:?} was accepted");
        }
        assert!(resolve("~/x", "deploy_to", None).unwrap_err().to_string().contains("$HOME"));
    }

    #[test]
    fn a_directory_that_everybody_may_write_in_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let error = check_trust(&open.join("shop"), uid()).unwrap_err().to_string();
        assert!(error.contains("everybody may write in it"), "{error}");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        check_trust(&open.join("shop"), uid()).unwrap();
    }

    #[test]
    fn symlinks_are_followed_only_if_mine_or_roots() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        let link = dir.path().join("link");
        symlink("real", &link).unwrap();
        check_trust(&link, uid()).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        assert!(check_trust(&dir.path().join("loop"), uid()).is_err());
        // Only root can give a symlink away; elsewhere the same rule is seen from the other side.
        if uid() == 0 {
            rustix::fs::chownat(
                rustix::fs::CWD,
                &link,
                Some(rustix::fs::Uid::from_raw(12345)),
                None,
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
            let error = check_trust(&link, uid()).unwrap_err().to_string();
            assert!(error.contains("belongs to user id 12345"), "{error}");
        }
    }

    #[test]
    fn prepare_makes_the_tree_and_keeps_its_own_directory_private() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().join("a/b/shop"));
        root.prepare(uid()).unwrap();
        root.prepare(uid()).unwrap();
        assert_eq!(fs::metadata(root.private()).unwrap().mode() & 0o777, 0o700);
        assert!(root.releases().is_dir() && root.shared().is_dir());
    }
}
