//! Control groups: one a machine, so that what its processes used is known and none of them escapes.
//!
//! Only what every group of version 2 has without any controller is used: the list of processes, CPU time, and the file that kills all.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

/// How long the kernel may take to end the processes of a group.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A control group.
#[derive(Debug, Clone)]
pub(crate) struct Group(PathBuf);

impl Group {
    /// Returns the group of this name below the root of the hierarchy, which may not exist.
    pub(crate) fn named(name: &str) -> Result<Self> {
        Ok(Self(root()?.join(name)))
    }

    /// Returns the group of this name in this one, which may not exist.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// Makes it.
    pub(crate) fn create(&self) -> Result<()> {
        fs::create_dir(&self.0).with_context(|| self.0.display().to_string())
    }

    /// Returns the file a process writes its id to in order to join.
    pub(crate) fn entrance(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Returns the processes that are in it.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        Ok(read(&self.entrance())?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Returns the CPU time its processes have used so far, those that ended included.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let path = self.0.join("cpu.stat");
        let text = read(&path)?;
        let used = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|value| value.parse().ok());
        used.map(Duration::from_micros).with_context(|| format!("no usage_usec in {}", path.display()))
    }

    /// Ends every process in it and in its children, then removes all of them. Nothing to do if it does not exist.
    pub(crate) fn remove(&self) -> Result<()> {
        if !self.0.exists() {
            return Ok(());
        }
        fs::write(self.0.join("cgroup.kill"), "1").with_context(|| format!("killing all in {}", self.0.display()))?;
        let until = Instant::now() + KILL_TIMEOUT;
        while !read(&self.0.join("cgroup.events"))?.contains("populated 0") {
            ensure!(Instant::now() < until, "processes in {} do not end", self.0.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir(entry.path()).with_context(|| entry.path().display().to_string())?;
            }
        }
        fs::remove_dir(&self.0).with_context(|| self.0.display().to_string())
    }
}

/// Returns where the hierarchy of version 2 is mounted.
pub(super) fn root() -> Result<PathBuf> {
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).context("no cgroup2 hierarchy is mounted")?;
    mount.split(' ').nth(4).map(PathBuf::from).context("mountinfo without a mount point")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}
