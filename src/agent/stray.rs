//! Hooks and checks that outlive an agent which was killed: which one runs is noted before it starts, and the next agent ends it.
//!
//! The note, `.fleetdrop/running`, names run and step; the processes of that step carry both in their environment. So no window is left
//! between the start and the note, a number that another process has by now harms nobody, and what a hook that succeeded left
//! running (another step by then) lives on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getpgid, getpgrp, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use super::{
    disk::{self, At as _, DiskError},
    root::Root,
};
use crate::model::RunId;

/// The variable that tells a step's processes from those of the run's other steps.
pub(crate) const STEP: &str = "FLEETDROP_STEP";
/// How long killed processes may take to be gone.
const END: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    run: RunId,
    step: String,
}

/// A step that runs. Dropping it says that it has ended.
#[derive(Debug)]
pub(crate) struct Running(PathBuf);

impl Running {
    /// Notes that `step` of `run` is about to start. Where that can't be noted it runs all the same: a hook that starts a service again
    /// must run also on a full disk.
    pub(crate) fn note(root: &Root, run: &RunId, step: &str) -> Self {
        let path = root.running();
        let note = Note { run: run.clone(), step: step.to_owned() };
        let written = serde_json::to_vec(&note).map_err(std::io::Error::from).and_then(|bytes| fs::write(&path, bytes));
        if let Err(error) = written {
            tracing::warn!("cannot note in {} what runs: {error}", path.display());
        }
        Self(path)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = disk::remove_file(&self.0) {
            tracing::warn!("{error}: {}", error.source);
        }
    }
}

/// Kills what runs of the step that an earlier agent was killed in, if it was. The caller holds the lock. Returns that step and its run if
/// something still ran.
pub(crate) fn end(root: &Root) -> Result<Option<(RunId, String)>, DiskError> {
    let path = root.running();
    let Some(bytes) = disk::read_small(&path)? else { return Ok(None) };
    let ended = match serde_json::from_slice::<Note>(&bytes) {
        Ok(note) => end_step(root, &note)?.then_some((note.run, note.step)),
        // Cut short while it was written: the step had not started.
        Err(_) => None,
    };
    disk::remove_file(&path)?;
    Ok(ended)
}

/// Kills a step's processes, with their groups, until none is left. True if there were any.
fn end_step(root: &Root, note: &Note) -> Result<bool, DiskError> {
    let wanted = [
        format!("FLEETDROP_RUN_ID={}", note.run).into_bytes(),
        format!("{STEP}={}", note.step).into_bytes(),
        [b"FLEETDROP_DEPLOY_TO=", root.path().as_os_str().as_encoded_bytes()].concat(),
    ];
    let until = Instant::now() + END;
    let mut found = false;
    loop {
        let processes = processes_with(&wanted)?;
        if processes.is_empty() || Instant::now() >= until {
            return Ok(found);
        }
        found = true;
        for process in processes {
            // Gone meanwhile: nothing is left to do.
            let _ = kill_process(process, Signal::KILL);
            if let Ok(group) = getpgid(Some(process))
                && group != getpgrp()
            {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Returns the processes, but this one, that have all of these variables in their environment. One that has died and waits for its parent
/// has none any more.
fn processes_with(variables: &[Vec<u8>]) -> Result<Vec<Pid>, DiskError> {
    let proc = Path::new("/proc");
    let mut found = Vec::new();
    for entry in fs::read_dir(proc).at("list the directory", proc)?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // Another user's can't be read, and is none of ours.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let has = |variable: &Vec<u8>| environment.split(|byte| *byte == 0).any(|entry| entry == variable);
        if variables.iter().all(has) && process != rustix::process::getpid() {
            found.push(process);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn root(dir: &tempfile::TempDir) -> Root {
        let root = Root::new(dir.path().join("app").to_str().unwrap(), None).unwrap();
        root.prepare(rustix::process::geteuid().as_raw()).unwrap();
        root
    }

    fn start(root: &Root, run: &str, step: &str) -> Child {
        use std::os::unix::process::CommandExt as _;
        let mut sleep = Command::new("sleep");
        sleep.arg("60").env("FLEETDROP_RUN_ID", run).env(STEP, step).env("FLEETDROP_DEPLOY_TO", root.path());
        sleep.process_group(0).spawn().unwrap()
    }

    #[test]
    fn only_the_step_that_an_agent_was_killed_in_is_ended() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, elsewhere) = (root(&dir), self::root(&other));
        let run: RunId = "00000000000000aa".parse().unwrap();
        let mut killed = start(&root, run.as_str(), "after_activate.1");
        let mut spared = [
            start(&root, run.as_str(), "after_activate.0"),
            start(&root, "00000000000000bb", "after_activate.1"),
            start(&elsewhere, run.as_str(), "after_activate.1"),
        ];
        // The agent dies before it can say that the step has ended.
        std::mem::forget(Running::note(&root, &run, "after_activate.1"));
        let waiting = std::thread::spawn(move || killed.wait().unwrap());
        assert_eq!(end(&root).unwrap(), Some((run.clone(), "after_activate.1".into())));
        assert!(!waiting.join().unwrap().success());
        for child in &mut spared {
            assert!(child.try_wait().unwrap().is_none(), "it was none of this step's");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(end(&root).unwrap(), None, "it is told once");
        drop(Running::note(&root, &run, "after_activate.1"));
        assert!(!root.running().exists(), "a step that has ended is not noted any more");
        fs::write(root.running(), "{\"run\":\"00").unwrap();
        assert_eq!(end(&root).unwrap(), None);
    }
}
