//! What a fleet leaves on the machine while it lives, and how it goes: by name, and only what bears the fleet's name.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::group::{self, Group};
use crate::program::{ip, output};

/// What the names of everything a lab makes begin with; its process id follows.
pub(super) const PREFIX: &str = "fdlab";

/// What a fleet has made so far.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) namespaces: Vec<String>,
    pub(super) group: Group,
    pub(super) directory: PathBuf,
}

impl Remains {
    /// Ends what runs in the fleet and removes everything. Goes on after an error and returns the first.
    pub(super) fn take_down(&mut self) -> Result<()> {
        let mut outcome = self.group.remove();
        for namespace in std::mem::take(&mut self.namespaces) {
            outcome = outcome.and(ip(&["netns", "delete", &namespace]));
        }
        if self.directory.exists() {
            outcome = outcome.and(fs::remove_dir_all(&self.directory).context("removing the fleet's files"));
        }
        outcome
    }
}

/// Takes down what labs left that were killed; returns their names. A lab that still runs keeps its own.
pub(crate) fn sweep(work_dir: &Path) -> Result<Vec<String>> {
    let namespaces = namespaces()?;
    let mut names: Vec<String> = namespaces.iter().filter_map(|name| name.split('-').next()).map(str::to_owned).collect();
    for directory in [group::root()?, work_dir.to_owned()] {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            names.extend(entry?.file_name().into_string());
        }
    }
    names.retain(|name| owner(name).is_some_and(|pid| !is_lab(pid)));
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let own = namespaces.iter().filter(|namespace| namespace.split('-').next() == Some(name));
        let mut remains =
            Remains { namespaces: own.cloned().collect(), group: Group::named(name)?, directory: work_dir.join(name) };
        remains.take_down().with_context(|| name.clone())?;
    }
    Ok(names)
}

/// Returns the process a name says it belongs to.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// True if that process is there and is a lab: ids are used again.
fn is_lab(pid: u32) -> bool {
    let own = fs::read_to_string("/proc/self/comm").ok();
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| Some(name) == own)
}

fn namespaces() -> Result<Vec<String>> {
    let listed = output(Command::new("ip").args(["netns", "list"]))?;
    Ok(listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}
