//! The process that runs a run: whether it still lives.
//!
//! A process id alone tells little: ids are used again. So the machine, its boot and the process's start go with it.

use std::fs;

use rustix::process::{Pid, test_kill_process};

/// A controller's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// The machine it runs on.
    pub(super) machine: String,
    /// Its id there.
    pub(super) id: u32,
    /// What no other process of that id has; empty where the system does not tell.
    pub(super) birth: String,
}

impl Process {
    /// Returns this process.
    pub(super) fn own() -> Self {
        let id = std::process::id();
        Self { machine: machine(), id, birth: birth(id).unwrap_or_default() }
    }

    /// Returns whether it still runs; none for one on another machine, of which nothing is known here.
    pub(super) fn lives(&self) -> Option<bool> {
        if self.machine != machine() {
            return None;
        }
        Some(match birth(self.id) {
            Some(birth) => birth == self.birth,
            // No /proc: whoever has the id now is taken for it.
            None if self.birth.is_empty() => exists(self.id),
            None => false,
        })
    }
}

/// Returns this machine's name.
pub(super) fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the boot and the start of a living process, as Linux counts it.
fn birth(id: u32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    let start = fields.nth(18)?;
    (!matches!(state, "Z" | "X")).then(|| format!("{} {start}", boot.trim()))
}

fn exists(id: u32) -> bool {
    i32::try_from(id).ok().and_then(Pid::from_raw).is_some_and(|id| test_kill_process(id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_until_it_ends_and_its_id_alone_proves_nothing() {
        let own = Process::own();
        assert_eq!(own.lives(), Some(true));
        assert_eq!(Process { birth: "another start".into(), ..own.clone() }.lives(), Some(false));
        assert_eq!(Process { machine: "elsewhere".into(), ..own.clone() }.lives(), None, "nobody can tell from here");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = Process { id: child.id(), birth: birth(child.id()).unwrap(), ..own };
        assert_eq!(other.lives(), Some(true));
        child.kill().unwrap();
        // Dead as soon as it is a zombie, which the kernel makes of it a moment after the signal.
        while other.lives() == Some(true) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(other.lives(), Some(false));
    }
}
