//! One deploy at a time in one `deploy_to`: `.fleetdrop/lock`.
//!
//! The lock is the kernel's (`flock`), so it goes with the process that holds it and can't be left behind; the file's content
//! only tells who holds it. A clean release empties the file, so that looking at the lock ([`holder`]) need not take it.
//!
//! An agent that takes the place of one whose connection was lost ([`Predecessor`]) asks that one to end and waits for it; nobody
//! else's lock is ever disputed.

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
use serde::{Deserialize, Serialize};

use super::disk::{At as _, DiskError};
use crate::model::RunId;

/// How often and how long a held lock is looked at again: `fleetdrop status` touches a stale one for microseconds.
const RETRIES: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long a predecessor may take to end.
const SUCCESSION: Duration = Duration::from_secs(10);

/// The agent of the same run on the same host that this one takes the place of.
#[derive(Debug, Clone)]
pub(crate) struct Predecessor {
    /// The run.
    pub(crate) run: RunId,
    /// Its process; none if this is the run's first agent here.
    pub(crate) process: Option<u32>,
}

impl Predecessor {
    fn is(&self, holder: &Holder) -> bool {
        holder.run == self.run && self.process == Some(holder.pid) && holder.pid != std::process::id()
    }
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The run.
    pub(crate) run: RunId,
    /// The agent's process id on this host.
    pub(crate) pid: u32,
    /// Since when, RFC 3339 in UTC.
    pub(crate) since: String,
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
        holder: Option<Holder>,
    },
}

fn describe(path: &Path, holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!(
            "another deploy works there: run {} (process {}) has held {} since {}",
            holder.run,
            holder.pid,
            path.display(),
            holder.since
        ),
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
        holder: &Holder,
        predecessor: &Predecessor,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self, LockError> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let mut file = options.open(path).at("open the lock", path)?;
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
        let lock = Self { file };
        lock.announce(holder).at("write", path)?;
        Ok(lock)
    }

    fn announce(&self, holder: &Holder) -> std::io::Result<()> {
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

fn read(file: &mut File) -> Option<Holder> {
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.take(4096).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Returns who holds the lock at `path`, if somebody does. Changes nothing; takes a lock only for a moment and only to see
/// whether what the file tells was left by a process that died.
pub(crate) fn holder(path: &Path) -> Result<Option<Holder>, DiskError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("open the lock", path),
    };
    let Some(holder) = read(&mut file) else { return Ok(None) };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Ok(Some(holder)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(run: &str) -> Holder {
        Holder { run: RunId::new(run).unwrap(), pid: 42, since: "2026-11-20T03:15:00Z".into() }
    }

    fn first(run: &str) -> Predecessor {
        Predecessor { run: RunId::new(run).unwrap(), process: None }
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
        assert!(error.contains("run 00000000000000aa (process 42)") && error.contains("since 2026-11-20"), "{error}");
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
}
