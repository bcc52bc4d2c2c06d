//! What a host answers to small jobs: about its lock, about what was removed from its disk.

use serde::{Deserialize, Serialize};

use super::{Operator, ReleaseId, RunId};

/// What a host answers, and what it had to say besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostAnswer<T> {
    /// The answer. In JSON its fields stand beside the others.
    #[serde(flatten)]
    pub answer: T,
    /// What an operator should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<HostWarning>,
}

impl<T> From<T> for HostAnswer<T> {
    fn from(answer: T) -> Self {
        Self { answer, warnings: Vec::new() }
    }
}

/// Something worth telling that stopped nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostWarning {
    /// What.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Who holds the lock of an application's root, or held it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The run.
    pub run: RunId,
    /// The agent's process id on the host.
    pub pid: u32,
    /// Since when, RFC 3339 in UTC.
    pub since: String,
    /// Who started the run, if that is known.
    #[serde(default)]
    pub by: Option<Operator>,
}

/// What was done about a host's lock. Whatever it was, nobody holds it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "lock", rename_all = "snake_case")]
pub enum Unlocked {
    /// Nobody had it.
    Free,
    /// An agent that is gone had it; what it left was finished or undone.
    Left {
        /// That agent.
        holder: LockHolder,
    },
    /// An agent that was alive had it and was ended; what it left was finished or undone.
    Ended {
        /// That agent, if the lock tells.
        #[serde(default)]
        holder: Option<LockHolder>,
        /// It did not end when it was asked to, and was killed.
        killed: bool,
    },
}

/// What was removed from a host, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// The application's root as the host resolved it.
    pub deploy_to: String,
    /// Releases, newest first.
    #[serde(default)]
    pub releases: Vec<ReleaseId>,
    /// Directories of releases that were never complete.
    #[serde(default)]
    pub unfinished: u32,
    /// Partial downloads.
    #[serde(default)]
    pub downloads: u32,
    /// Artifacts in the cache.
    #[serde(default)]
    pub cached: u32,
    /// What all that took on the disk, in bytes.
    #[serde(default)]
    pub bytes: u64,
}
