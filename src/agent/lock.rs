//! One deploy at a time in one `deploy_to`: `.fleetdrop/lock`.
//!
//! The lock is the kernel's (`flock`), so it goes with the process that holds it and can't be left behind; the file's content
//! only tells who holds it. A clean release empties the file, so that looking at the lock ([`holder`]) need not take it.
//!
//! An agent that takes the place of one whose connection was lost ([`Predecessor`]) asks that one to end and waits for it; nobody
//! else's lock is ever disputed, unless the operator wants it ([`end_holder`]): then the process that holds it is ended, for there is
//! no other way to free a lock and be sure that nobody goes on working under it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    process::{Pid, Signal},
};

use super::disk::{At as _, DiskError};
use crate::{
    failpoint,
    model::{LockHolder, Operator, RunId},
};

/// How often and how long a held lock is looked at again: `fleetdrop status` touches a stale one for microseconds.
const RETRIES: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long a predecessor may take to end.
const SUCCESSION: Duration = Duration::from_secs(10);
/// How long a holder that the operator wants to end may take to go back by itself, hooks included, and then to be gone.
const GOING: Duration = Duration::from_secs(30);
const GONE: Duration = Duration::from_secs(5);
/// The most that is read of the kernel's list of locks, in bytes.
const MAX_LOCKS: u64 = 16 << 20;

/// The agent of the same run on the same host that this one takes the place of.
#[derive(Debug, Clone)]
pub(crate) struct Predecessor {
    /// The run.
    pub(crate) run: RunId,
    /// Who started the run.
    pub(crate) by: Option<Operator>,
    /// Its process; none if this is the run's first agent here.
    pub(crate) process: Option<u32>,
}

impl Predecessor {
    fn is(&self, holder: &LockHolder) -> bool {
        holder.run == self.run && self.process == Some(holder.pid) && holder.pid != std::process::id()
    }
}

/// Says why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// The lock file itself fails.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another agent works there.
    #[error("{}", describe(path, holder.as_ref()))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who, if the file tells.
        holder: Option<LockHolder>,
    },
    /// No process of this host has it.
    #[error("{} is locked, and not by a process of this host that can be seen", .0.display())]
    Foreign(PathBuf),
    /// The process that has it can't be ended.
    #[error("process {pid}, which holds {}, does not end", path.display())]
    Endless {
        /// The lock file.
        path: PathBuf,
        /// The process.
        pid: i32,
    },
}

fn describe(path: &Path, holder: Option<&LockHolder>) -> String {
    match holder {
        Some(LockHolder { run, pid, since, by }) => {
            let of = by.as_ref().map_or(String::new(), |by| format!(" of {by}"));
            format!("another deploy works there: run {run}{of} (process {pid}) has held {} since {since}", path.display())
        }
        None => format!("another deploy works there: {} is locked", path.display()),
    }
}

/// The held lock. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct DeployLock {
    file: File,
}

impl DeployLock {
    /// Takes the lock or says at once who has it, unless that is the `predecessor`: it is asked to end and waited for until
    /// `cancelled`, at most ten seconds.
    pub(crate) fn acquire(
        path: &Path,
        holder: &LockHolder,
        predecessor: &Predecessor,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self, LockError> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let mut file = options.open(path).at("open the lock", path)?;
        failpoint::reach("lock.opened");
        let mut tries = 0;
        let mut succession: Option<Instant> = None;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries < RETRIES => {
                    tries += 1;
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    let found = read(&mut file);
                    let wait = match (&found, succession) {
                        (_, Some(until)) => Instant::now() < until && !cancelled(),
                        (Some(found), None) if predecessor.is(found) => {
                            dismiss(found.pid);
                            succession = Some(Instant::now() + SUCCESSION);
                            true
                        }
                        _ => false,
                    };
                    if !wait {
                        return Err(LockError::Held { path: path.to_owned(), holder: found });
                    }
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(TryLockError::Error(error)) => return Err(error).at("lock", path)?,
            }
        }
        failpoint::reach("lock.taken");
        let lock = Self { file };
        lock.announce(holder).at("write", path)?;
        failpoint::reach("lock.announced");
        Ok(lock)
    }

    fn announce(&self, holder: &LockHolder) -> std::io::Result<()> {
        self.file.set_len(0)?;
        let mut file = &self.file;
        file.rewind()?;
        file.write_all(&serde_json::to_vec(holder)?)
    }
}

impl Drop for DeployLock {
    fn drop(&mut self) {
        // Only for people: closing the file releases the lock.
        let _ = self.file.set_len(0);
    }
}

/// Asks an agent to end, as its lost channel would in time. Only a process that runs this very program is asked: the number may
/// be another process's by now, or one of another container.
fn dismiss(process: u32) {
    let same_program = || {
        let ours = std::fs::metadata("/proc/self/exe").ok()?;
        let theirs = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    };
    if same_program() != Some(true) {
        tracing::info!("waiting for the lock of process {process}, which is gone or no agent");
        return;
    }
    tracing::info!("asking process {process}, this run's earlier agent, to end");
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw)
        && let Err(error) = rustix::process::kill_process(pid, Signal::TERM)
    {
        tracing::info!("process {process} was not asked to end: {error}");
    }
}

fn read(file: &mut File) -> Option<LockHolder> {
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.take(4096).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Returns who holds the lock at `path`, if somebody does. Changes nothing; takes a lock only for a moment and only to see
/// whether what the file tells was left by a process that died.
pub(crate) fn holder(path: &Path) -> Result<Option<LockHolder>, DiskError> {
    let Some(mut file) = open(path)? else { return Ok(None) };
    let Some(holder) = read(&mut file) else { return Ok(None) };
    Ok(is_held(&file).then_some(holder))
}

/// How a lock is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nobody holds it; what the last holder left in the file when it died.
    Free(Option<LockHolder>),
    /// Somebody holds it; what the file tells.
    Held(Option<LockHolder>),
}

/// Looks at the lock at `path`, also where the file tells nothing. Changes nothing; takes it for a moment.
pub(crate) fn look(path: &Path) -> Result<Look, DiskError> {
    let Some(mut file) = open(path)? else { return Ok(Look::Free(None)) };
    let holder = read(&mut file);
    Ok(if is_held(&file) { Look::Held(holder) } else { Look::Free(holder) })
}

fn open(path: &Path) -> Result<Option<File>, DiskError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("open the lock", path),
    }
}

fn is_held(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Ends the process that holds the lock at `path`: asks it, so that it goes back by itself, and kills it if that takes too long. Returns
/// whether it was killed. Which process that is the kernel tells, not the file. Whoever takes the lock meanwhile is left alone.
pub(crate) fn end_holder(path: &Path, cancelled: &dyn Fn() -> bool) -> Result<bool, LockError> {
    let Some(process) = process_that_locks(path)?.map(Process::with) else {
        // Gone meanwhile, or beyond what this host's kernel knows.
        return match look(path)? {
            Look::Free(_) => Ok(false),
            Look::Held(_) => Err(LockError::Foreign(path.to_owned())),
        };
    };
    for (signal, patience) in [(Signal::TERM, GOING), (Signal::KILL, GONE)] {
        tracing::info!("ending process {}, which holds the lock: {signal:?}", process.pid.as_raw_pid());
        match rustix::process::kill_process(process.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(errno).at("end the process that holds", path)?,
        }
        if lets_go(path, process, patience, cancelled)? {
            return Ok(signal == Signal::KILL);
        }
    }
    Err(LockError::Endless { path: path.to_owned(), pid: process.pid.as_raw_pid() })
}

/// Waits that long until nobody holds the lock that `process` held. Fails once somebody else does, and if it is `cancelled`.
fn lets_go(path: &Path, process: Process, patience: Duration, cancelled: &dyn Fn() -> bool) -> Result<bool, LockError> {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        let is_cancelled = cancelled();
        let Look::Held(holder) = look(path)? else { return Ok(true) };
        let is_another = process_that_locks(path)?.is_some_and(|now| Process::with(now) != process);
        if is_cancelled || is_another {
            return Err(LockError::Held { path: path.to_owned(), holder });
        }
        std::thread::sleep(RETRY_PAUSE);
    }
    Ok(false)
}

/// A process, and not a later one that has its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: Pid,
    /// When it started, in the kernel's ticks since the boot; none if it is gone.
    started: Option<u64>,
}

impl Process {
    fn with(pid: Pid) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
        // Its name, in brackets, may have anything in it. The start is field 22.
        let started = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(19)?.parse().ok());
        Self { pid, started }
    }
}

/// Returns the process that the kernel has as the lock's owner; none if it has none, or one that can't be seen from here.
fn process_that_locks(path: &Path) -> Result<Option<Pid>, DiskError> {
    let lock = std::fs::symlink_metadata(path).at("look at", path)?;
    let list = Path::new("/proc/locks");
    let mut text = String::new();
    File::open(list).and_then(|file| file.take(MAX_LOCKS).read_to_string(&mut text)).at("read", list)?;
    let owners = text.lines().filter_map(|line| flock_owner(line, lock.ino()));
    Ok(owners.filter(|owner| has_open(*owner, (lock.dev(), lock.ino()))).find_map(Pid::from_raw))
}

/// Reads a line of the kernel's list: `1: FLOCK  ADVISORY  WRITE 4711 08:01:131081 0 EOF`. Who only waits has `->` before the kind. The
/// device is told in a way that differs among file systems, so that another disk's lock of this number is returned, too.
fn flock_owner(line: &str, inode: u64) -> Option<i32> {
    let words: Vec<&str> = line.split_whitespace().take(6).collect();
    let [_, "FLOCK", _, "WRITE", pid, place] = words[..] else { return None };
    (place.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok())?
}

/// True if the process has the file with that device and inode open.
fn has_open(process: i32, file: (u64, u64)) -> bool {
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let mut files = open.filter_map(|entry| std::fs::metadata(entry.path()).ok());
    files.any(|open| (open.dev(), open.ino()) == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(run: &str) -> LockHolder {
        let by = Some("anna@laptop".parse().unwrap());
        LockHolder { run: RunId::new(run).unwrap(), pid: 42, since: "2026-11-20T03:15:00Z".into(), by }
    }

    fn first(run: &str) -> Predecessor {
        Predecessor { run: RunId::new(run).unwrap(), by: None, process: None }
    }

    fn acquire(path: &Path, run: &str) -> Result<DeployLock, LockError> {
        DeployLock::acquire(path, &me(run), &first(run), &|| false)
    }

    #[test]
    fn a_predecessors_lock_is_waited_for_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = acquire(&path, "00000000000000aa").unwrap();
        let asked = std::cell::RefCell::new(Some(held));
        let let_go = || {
            asked.borrow_mut().take();
            false
        };
        // The same run on a machine that the inventory names twice; another process of it; another run.
        for (run, process) in [("aa", None), ("aa", Some(43)), ("bb", Some(42))] {
            let predecessor = Predecessor { process, ..first(&format!("00000000000000{run}")) };
            let error = DeployLock::acquire(&path, &me("00000000000000aa"), &predecessor, &let_go).unwrap_err();
            assert!(matches!(error, LockError::Held { .. }) && asked.borrow().is_some(), "{run} {process:?}: {error}");
        }
        let predecessor = Predecessor { process: Some(42), ..first("00000000000000aa") };
        let stopped = DeployLock::acquire(&path, &me("00000000000000aa"), &predecessor, &|| true).unwrap_err();
        assert!(matches!(stopped, LockError::Held { .. }), "{stopped}");
        DeployLock::acquire(&path, &me("00000000000000aa"), &predecessor, &let_go).unwrap();
    }

    #[test]
    fn the_second_deploy_learns_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = acquire(&path, "00000000000000aa").unwrap();
        assert_eq!(holder(&path).unwrap(), Some(me("00000000000000aa")));
        let error = acquire(&path, "00000000000000bb").unwrap_err().to_string();
        assert!(
            error.contains("run 00000000000000aa of anna@laptop (process 42)") && error.contains("since 2026-11-20"),
            "{error}"
        );
        drop(first);
        assert_eq!(holder(&path).unwrap(), None);
        acquire(&path, "00000000000000bb").unwrap();
    }

    #[test]
    fn what_a_dead_process_left_in_the_file_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, serde_json::to_vec(&me("00000000000000aa")).unwrap()).unwrap();
        assert_eq!(holder(&path).unwrap(), None);
        acquire(&path, "00000000000000bb").unwrap();
    }

    #[test]
    fn the_kernel_tells_who_holds_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "").unwrap();
        assert_eq!(process_that_locks(&path).unwrap(), None);
        let held = acquire(&path, "00000000000000aa").unwrap();
        // What the file says is not asked.
        assert_eq!(process_that_locks(&path).unwrap(), Some(rustix::process::getpid()));
        assert_eq!(look(&path).unwrap(), Look::Held(Some(me("00000000000000aa"))));
        drop(held);
        assert_eq!(process_that_locks(&path).unwrap(), None);
        let line = "1: FLOCK  ADVISORY  WRITE 4711 08:01:131081 0 EOF";
        assert_eq!((flock_owner(line, 131_081), flock_owner(line, 13)), (Some(4711), None));
        for other in
            ["1: -> FLOCK  ADVISORY  WRITE 4711 08:01:131081 0 EOF", "1: POSIX ADVISORY WRITE 4711 08:01:131081 0 EOF", ""]
        {
            assert_eq!(flock_owner(other, 131_081), None, "{other}");
        }
        assert!(!has_open(std::process::id() as i32, (0, 131_081)), "another disk's");
    }

    /// Locks the file in a process of its own that runs until it is ended.
    fn held_by_another(path: &Path) -> std::process::Child {
        let script = "import fcntl, sys, time; lock = open(sys.argv[1], 'a'); fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB); \
                      print('held', flush=True); time.sleep(60)";
        let mut python = std::process::Command::new("python3");
        let mut child = python.args(["-c", script]).arg(path).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut word = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        child
    }

    #[test]
    fn whoever_takes_the_lock_of_a_holder_that_is_to_go_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = std::cell::RefCell::new(Some(held_by_another(&path)));
        let second = std::cell::RefCell::new(None);
        let takes_over = || {
            if let Some(mut gone) = first.borrow_mut().take() {
                gone.wait().unwrap();
                *second.borrow_mut() = Some(held_by_another(&path));
            }
            false
        };
        let error = end_holder(&path, &takes_over).unwrap_err();
        assert!(matches!(error, LockError::Held { .. }), "{error}");
        let mut second = second.into_inner().unwrap();
        assert!(second.try_wait().unwrap().is_none(), "it was ended");
        let started = |process| Process::with(process).started;
        let (own, other) = (started(rustix::process::getpid()), started(Pid::from_child(&second)));
        assert!(own.is_some() && own < other, "{own:?} {other:?}");
        second.kill().unwrap();
        second.wait().unwrap();
    }

    #[test]
    fn a_holder_is_not_killed_where_nobody_waits_for_its_end_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = acquire(&path, "00000000000000aa").unwrap();
        let process = Process::with(rustix::process::getpid());
        let error = lets_go(&path, process, GOING, &|| true).unwrap_err();
        assert!(matches!(error, LockError::Held { holder: Some(_), .. }), "{error}");
        drop(held);
        assert!(lets_go(&path, process, GOING, &|| true).unwrap());
    }

    #[test]
    fn a_holder_that_is_to_go_is_ended_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut holder = held_by_another(&path);
        let mut other = held_by_another(&dir.path().join("another"));
        let reaper = std::thread::spawn(move || holder.wait().unwrap());
        assert!(!end_holder(&path, &|| false).unwrap(), "being asked was enough");
        assert!(!reaper.join().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!end_holder(&path, &|| false).unwrap(), "nobody is there any more");
    }
}
