//! The directory that is being filled: the only code here that creates anything.
//!
//! Everything is done relative to open directories: a path is walked component by component from the root's descriptor with
//! `O_NOFOLLOW`, and the last component is always created anew (`O_EXCL`, `mkdirat`, `symlinkat`, `linkat` all refuse what exists).
//! So there is no path that the kernel resolves through more than one component, and neither links in the archive nor links that
//! another process plants can redirect a write.
//!
//! Duplicates need no list of names: the file system refuses them. Only a directory may exist already, if it was made because
//! something lies in it; those are remembered by inode until the archive names them.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
};

use super::{Rule, UnpackError, Unpacked, limits::Meter, name::EntryPath};
use crate::failpoint;

/// How a directory is opened: never through a link.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Bytes moved at a time.
const BUFFER: usize = 256 << 10;

/// Up to so many files and directories are synced one by one; their descriptors stay open until then.
const SYNC_SINGLY: usize = 64;

/// The first Linux whose `syncfs` reports write errors.
const SYNCFS_REPORTS: (u32, u32) = (5, 8);

/// What a file's content consists of.
pub(super) enum Step {
    /// So many bytes are in the buffer.
    Data(usize),
    /// So many zero bytes that need not be stored.
    Hole(u64),
    /// Nothing more.
    End,
}

/// Where a file's content comes from.
pub(super) trait Content {
    /// Fills the buffer or tells of a hole.
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, UnpackError>;
}

/// A moment: seconds since 1970 and nanoseconds.
pub(super) type Time = (i64, u32);

/// What has to be synced before the release gets its name.
#[derive(Default)]
struct Unsynced {
    files: Vec<OwnedFd>,
    directories: Vec<OwnedFd>,
    /// There are more than [`SYNC_SINGLY`]: the whole file system is synced.
    all: bool,
}

impl Unsynced {
    fn file(&mut self, fd: OwnedFd) {
        self.files.push(fd);
        self.bound();
    }

    /// Notes a directory; it stays open elsewhere, too.
    fn directory(&mut self, fd: &OwnedFd) {
        match fd.try_clone() {
            Ok(fd) if !self.all => self.directories.push(fd),
            // Out of descriptors.
            _ => self.all = true,
        }
        self.bound();
    }

    fn bound(&mut self) {
        if self.all || self.files.len() + self.directories.len() > SYNC_SINGLY {
            *self = Self { all: true, ..Self::default() };
        }
    }
}

/// The directory that is being filled.
pub(super) struct Dest<'a> {
    pub(super) meter: Meter<'a>,
    path: PathBuf,
    root: OwnedFd,
    /// The open directories on the way to the last entry's parent, with their names.
    open: Vec<(Vec<u8>, OwnedFd)>,
    /// Inodes of directories that were made only because something lies in them.
    implied: HashSet<u64>,
    root_named: bool,
    sync_at_once: bool,
    unsynced: Unsynced,
    /// Kept between files so that it is allocated once.
    buffer: Vec<u8>,
}

impl<'a> Dest<'a> {
    /// Makes the directory, mode 0755 whatever the umask says. It must not exist.
    pub(super) fn create(path: &Path, meter: Meter<'a>) -> Result<Self, UnpackError> {
        let io = |errno| UnpackError::io("create directory", path, errno);
        rustix::fs::mkdir(path, Mode::RWXU).map_err(io)?;
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(io)?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(io)?;
        Ok(Self {
            meter,
            path: path.into(),
            root,
            open: Vec::new(),
            implied: HashSet::new(),
            root_named: false,
            sync_at_once: !syncfs_reports_errors(),
            unsynced: Unsynced::default(),
            buffer: Vec::new(),
        })
    }

    /// Makes a directory. The owner's rights are added to `mode`, the right of all others to write is taken away.
    pub(super) fn directory(&mut self, path: &EntryPath, mode: u32) -> Result<(), UnpackError> {
        check_mode(path, mode)?;
        let Some((parents, name)) = path.split() else {
            // The release itself: there already, with a mode of its own.
            return if std::mem::replace(&mut self.root_named, true) { Err(refused(path, Rule::Duplicate)) } else { Ok(()) };
        };
        self.enter(path, parents)?;
        let named_before = match rustix::fs::mkdirat(self.here(), name, Mode::RWXU) {
            Ok(()) => false,
            Err(Errno::EXIST) => true,
            Err(errno) => return Err(self.io("create directory", path, errno)),
        };
        let fd = match rustix::fs::openat(self.here(), name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(refused(path, Rule::Duplicate)),
            other => other.map_err(|errno| self.io("open directory", path, errno))?,
        };
        if !named_before {
            self.meter.entry(path.as_bytes())?;
            self.unsynced.directory(&fd);
        } else if !self.implied.remove(&self.inode(path, &fd)?) {
            return Err(refused(path, Rule::Duplicate));
        }
        let mode = Mode::from_raw_mode(mode & 0o775 | 0o700);
        rustix::fs::fchmod(&fd, mode).map_err(|errno| self.io("set the mode of", path, errno))
    }

    /// Makes a file with `content`. The right of all others to write is taken away from `mode`.
    pub(super) fn file(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Option<Time>,
        content: &mut dyn Content,
    ) -> Result<(), UnpackError> {
        let mut file = self.new_file(path, mode)?;
        self.fill(path, &mut file, content)?;
        self.complete_file(path, file, mode, mtime)
    }

    /// Makes an empty file that only its owner can read and write; [`Dest::complete_file`] must follow.
    pub(super) fn new_file(&mut self, path: &EntryPath, mode: u32) -> Result<File, UnpackError> {
        check_mode(path, mode)?;
        let name = self.enter_parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.here(), name, flags, Mode::RUSR | Mode::WUSR);
        let file = fd.map(File::from).map_err(|errno| self.create_error(path, errno))?;
        failpoint::reach("extract.file_created");
        Ok(file)
    }

    /// Gives a file its mode and time and, on an old kernel, syncs it.
    pub(super) fn complete_file(
        &mut self,
        path: &EntryPath,
        file: File,
        mode: u32,
        mtime: Option<Time>,
    ) -> Result<(), UnpackError> {
        if let Some((seconds, nanoseconds)) = mtime {
            let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let mtime = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
            // A time that the file system can't hold is not worth a failed deploy.
            let _ = rustix::fs::futimens(&file, &Timestamps { last_access: omit, last_modification: mtime });
        }
        let mode = Mode::from_raw_mode(mode & 0o775);
        rustix::fs::fchmod(&file, mode).map_err(|errno| self.io("set the mode of", path, errno))?;
        if self.sync_at_once {
            rustix::fs::fsync(&file).map_err(|errno| self.io("sync", path, errno))?;
        }
        self.unsynced.file(file.into());
        failpoint::reach("extract.file");
        Ok(())
    }

    /// Makes a symbolic link whose target stays inside.
    pub(super) fn symlink(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), UnpackError> {
        path.check_target(target).map_err(|rule| refused(path, rule))?;
        let name = self.enter_parent(path)?;
        rustix::fs::symlinkat(target, self.here(), name).map_err(|errno| self.create_error(path, errno))
    }

    /// Makes a hard link to a file that was unpacked before.
    pub(super) fn hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), UnpackError> {
        let (from, source) = self.find_file(target).ok_or_else(|| refused(path, Rule::HardLinkTarget))?;
        let name = self.enter_parent(path)?;
        rustix::fs::linkat(&from, source, self.here(), name, AtFlags::empty()).map_err(|errno| self.create_error(path, errno))
    }

    /// Writes everything to the disk and returns the counts.
    ///
    /// A small release is synced file by file, then directory by directory. For a larger one, one `syncfs` replaces all those
    /// `fsync`s, each of which would be a journal commit of its own: seconds instead of minutes for many small files, at the
    /// price of waiting for what others have written to the same file system. It orders nothing within the release, and need not: the
    /// release gets its name only after this. Before Linux 5.8 `syncfs` hides write errors, so there each file was synced at once.
    pub(super) fn finish(self, archive: &Path) -> Result<Unpacked, UnpackError> {
        let done = self.meter.done();
        if done.entries == 0 {
            return Err(UnpackError::Empty { archive: archive.into() });
        }
        let synced = if self.unsynced.all {
            rustix::fs::syncfs(&self.root)
        } else {
            let files = self.unsynced.files.iter().zip(std::iter::repeat("extract.sync_file"));
            let directories = self.unsynced.directories.iter().chain([&self.root]);
            let mut everything = files.chain(directories.zip(std::iter::repeat("extract.sync_directory")));
            everything.try_for_each(|(fd, point)| {
                failpoint::reach(point);
                rustix::fs::fsync(fd)
            })
        };
        synced.map_err(|errno| UnpackError::io("sync", &self.path, errno))?;
        Ok(done)
    }

    /// Writes `content` into a new file.
    pub(super) fn fill(&mut self, path: &EntryPath, file: &mut File, content: &mut dyn Content) -> Result<(), UnpackError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER, 0);
        let mut length = 0_u64;
        let mut ends_in_hole = false;
        loop {
            match content.next(&mut buffer)? {
                Step::Data(count) => {
                    self.meter.content(path.as_bytes(), count as u64)?;
                    file.write_all(&buffer[..count]).map_err(|source| self.io("write", path, source))?;
                    length = length.saturating_add(count as u64);
                    ends_in_hole = false;
                }
                Step::Hole(count) => {
                    self.meter.content(path.as_bytes(), count)?;
                    length = length.saturating_add(count);
                    file.seek(SeekFrom::Start(length)).map_err(|source| self.io("write", path, source))?;
                    ends_in_hole = true;
                }
                Step::End => break,
            }
        }
        if ends_in_hole {
            file.set_len(length).map_err(|source| self.io("write", path, source))?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Counts an entry that is no directory, opens its parent and returns its name.
    fn enter_parent<'p>(&mut self, path: &'p EntryPath) -> Result<&'p [u8], UnpackError> {
        let (parents, name) = path.split().ok_or_else(|| refused(path, Rule::RootNotDirectory))?;
        self.meter.entry(path.as_bytes())?;
        self.enter(path, parents)?;
        Ok(name)
    }

    /// Makes [`Dest::here`] the directory with these components, creating what is missing.
    fn enter<'p>(&mut self, path: &EntryPath, parents: impl Iterator<Item = &'p [u8]>) -> Result<(), UnpackError> {
        let mut depth = 0;
        for component in parents {
            if self.open.get(depth).is_none_or(|(name, _)| name != component) {
                self.open.truncate(depth);
                let fd = self.enter_one(path, component)?;
                self.open.push((component.to_vec(), fd));
            }
            depth += 1;
        }
        self.open.truncate(depth);
        Ok(())
    }

    fn enter_one(&mut self, path: &EntryPath, component: &[u8]) -> Result<OwnedFd, UnpackError> {
        match rustix::fs::openat(self.here(), component, DIRECTORY, Mode::empty()) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(refused(path, Rule::ThroughNonDirectory)),
            Err(errno) => return Err(self.io("open the directory of", path, errno)),
        }
        self.meter.entry(path.as_bytes())?;
        let made = rustix::fs::mkdirat(self.here(), component, Mode::RWXU)
            .and_then(|()| rustix::fs::openat(self.here(), component, DIRECTORY, Mode::empty()))
            .and_then(|fd| rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755)).map(|()| fd));
        let fd = made.map_err(|errno| self.io("create the directory of", path, errno))?;
        self.implied.insert(self.inode(path, &fd)?);
        self.unsynced.directory(&fd);
        Ok(fd)
    }

    /// Finds a regular file without following links; returns its directory and name.
    fn find_file<'p>(&self, path: &'p EntryPath) -> Option<(OwnedFd, &'p [u8])> {
        let (parents, name) = path.split()?;
        let mut at = rustix::fs::openat(&self.root, c".", DIRECTORY, Mode::empty()).ok()?;
        for component in parents {
            at = rustix::fs::openat(&at, component, DIRECTORY, Mode::empty()).ok()?;
        }
        let stat = rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        FileType::from_raw_mode(stat.st_mode).is_file().then_some((at, name))
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    fn inode(&self, path: &EntryPath, fd: &OwnedFd) -> Result<u64, UnpackError> {
        rustix::fs::fstat(fd).map(|stat| stat.st_ino).map_err(|errno| self.io("look at", path, errno))
    }

    fn create_error(&self, path: &EntryPath, errno: Errno) -> UnpackError {
        match errno {
            Errno::EXIST => refused(path, Rule::Duplicate),
            _ => self.io("create", path, errno),
        }
    }

    pub(super) fn io(&self, action: &'static str, path: &EntryPath, source: impl Into<std::io::Error>) -> UnpackError {
        UnpackError::io(action, &self.path.join(OsStr::from_bytes(path.as_bytes())), source)
    }
}

fn refused(path: &EntryPath, rule: Rule) -> UnpackError {
    let name = if path.depth() == 0 { b".".as_slice() } else { path.as_bytes() };
    UnpackError::refused(name, rule)
}

fn check_mode(path: &EntryPath, mode: u32) -> Result<(), UnpackError> {
    if mode & 0o7000 == 0 { Ok(()) } else { Err(refused(path, Rule::SpecialBits)) }
}

fn syncfs_reports_errors() -> bool {
    let uname = rustix::system::uname();
    let mut numbers = uname
        .release()
        .to_bytes()
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= SYNCFS_REPORTS
}
