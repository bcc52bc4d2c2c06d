//! What is known of a run and of its hosts.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use super::process::Process;
use crate::model::{AppName, Digest, HostFailure, HostName, HostState, ReleaseId, RunId, Verdict};

/// Defines an enum whose values are stored as words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $value:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$of])* $value),+
        }

        impl $name {
            /// Returns the word it is stored and shown as.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word),+
                }
            }

            pub(super) fn of(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$value),)+
                    _ => None,
                }
            }
        }
    };
}

words! {
    /// What kind of run it was.
    Action {
        /// An artifact was put on hosts.
        Deploy = "deploy",
        /// Hosts went to an earlier release.
        Rollback = "rollback",
    }
}

/// What is known of a run before it begins.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// Its id.
    pub run: RunId,
    /// What kind of run.
    pub action: Action,
    /// The application, where it was named.
    pub app: Option<AppName>,
    /// The release that is to go live, where one was named.
    pub release: Option<ReleaseId>,
    /// What is deployed.
    pub artifact: Option<ArtifactRecord>,
    /// The inventory's file.
    pub inventory: PathBuf,
    /// The pattern that picked its hosts.
    pub pattern: Option<String>,
    /// The playbook's file.
    pub playbook: Option<PathBuf>,
    /// The user who started it, and on which machine.
    pub who: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// Everything that finishing it later needs; for whoever asked for the run, the history only keeps it.
    pub request: Option<String>,
    /// What the deployed directory consists of; for whoever asked for the run, the history only keeps it, and not for ever.
    pub listing: Option<String>,
    /// The interrupted run that it goes on with.
    pub continues: Option<RunId>,
}

/// A deployed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArtifactRecord {
    /// Where it was.
    pub path: String,
    /// Its SHA-256.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// How far a run got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is going on, on this machine.
    Running,
    /// Another machine ran it and wrote down no end: from here nobody can tell whether it is going on.
    Unknown,
    /// Its controller was killed or lost its machine: nobody brought it to an end.
    CutOff,
    /// It ended.
    Ended(Verdict),
}

impl Outcome {
    /// Returns the word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Unknown => "unknown",
            Self::CutOff => "cut_off",
            Self::Ended(verdict) => verdict_word(verdict),
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The verdicts with their words, which are those of the events.
const VERDICTS: [(Verdict, &str); 6] = [
    (Verdict::Completed, "completed"),
    (Verdict::StoppedByBudget, "stopped_by_budget"),
    (Verdict::RolledBack, "rolled_back"),
    (Verdict::NotApproved, "not_approved"),
    (Verdict::Interrupted, "interrupted"),
    (Verdict::Aborted, "aborted"),
];

pub(super) fn verdict_word(verdict: Verdict) -> &'static str {
    VERDICTS.iter().find(|(known, _)| *known == verdict).map_or("aborted", |(_, word)| word)
}

pub(super) fn verdict(word: &str) -> Option<Verdict> {
    VERDICTS.iter().find(|(_, known)| *known == word).map(|(verdict, _)| *verdict)
}

pub(super) fn state(word: &str) -> Option<HostState> {
    HostState::ALL.into_iter().find(|state| state.as_str() == word)
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct End {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// With which exit code.
    pub exit_code: u8,
    /// Wall time of the whole run in seconds, hashing included.
    pub seconds: f64,
    /// Artifact bytes that left the controller.
    pub controller_sent: u64,
    /// Why it was aborted, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_reason: Option<String>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRecord {
    /// Its place among the runs: later ones have higher numbers.
    #[serde(skip)]
    pub(super) number: i64,
    #[serde(skip)]
    pub(super) process: Process,
    /// Its id.
    pub run: RunId,
    /// What kind of run.
    pub action: Action,
    /// How far it got.
    pub outcome: Outcome,
    /// The application, where it was named.
    pub app: Option<AppName>,
    /// The release that was to go live; none in a rollback to "the previous one".
    pub release: Option<ReleaseId>,
    /// What was deployed.
    pub artifact: Option<ArtifactRecord>,
    /// The inventory's file.
    pub inventory: String,
    /// The pattern that picked its hosts.
    pub pattern: Option<String>,
    /// The playbook's file.
    pub playbook: Option<String>,
    /// The user who started it, and on which machine.
    pub who: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// The version of fleetdrop that ran it.
    pub version: String,
    /// The interrupted run that it went on with.
    pub continues: Option<RunId>,
    /// The run that went on with this one; the last of several.
    pub continued_by: Option<RunId>,
    /// When it began, RFC 3339 in UTC.
    pub started_at: String,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// How many waves there were to be; 0 if it never came to that.
    pub waves: u32,
    /// True if it began to send back what it had made live.
    pub going_back: bool,
    /// How many hosts are in which state, as far as is known.
    pub hosts: BTreeMap<HostState, usize>,
}

impl RunRecord {
    /// Returns the id of the process that ran it, on its machine.
    pub fn process_id(&self) -> u32 {
        self.process.id
    }

    /// Returns the name of the machine that ran it.
    pub fn machine(&self) -> &str {
        &self.process.machine
    }

    /// Returns how many hosts it had.
    pub fn fleet(&self) -> usize {
        self.hosts.values().sum()
    }

    /// Returns how many hosts are live on what it wanted.
    pub fn active(&self) -> usize {
        self.hosts.get(&HostState::Active).copied().unwrap_or(0)
    }

    /// Returns how many hosts dropped out.
    pub fn out(&self) -> usize {
        self.hosts.iter().filter(|(state, _)| state.is_out()).map(|(_, hosts)| hosts).sum()
    }
}

/// One host in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostRecord {
    /// Its inventory name.
    pub host: HostName,
    /// The last state that is known.
    pub state: HostState,
    /// True if it already had what the run wanted.
    pub unchanged: bool,
    /// The wave it switched in or would have, counted from 1.
    pub wave: Option<u32>,
    /// The release that was live there at the end, if known.
    pub release: Option<ReleaseId>,
    /// The release that was live before, if known.
    pub previous: Option<ReleaseId>,
    /// Bytes of the artifact that came over the network.
    pub received: u64,
    /// Seconds its transfer took, if it had one that ended.
    pub transfer_seconds: Option<f64>,
    /// Why it dropped out, without what it printed.
    pub failure: Option<HostFailure>,
    /// The states it went through.
    pub steps: Vec<Step>,
}

/// A state that a host entered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// Which.
    pub state: HostState,
    /// When, in seconds since the run began.
    pub at: f64,
}

#[cfg(test)]
impl RunRecord {
    /// Returns a deploy of two hosts.
    pub(crate) fn example(outcome: Outcome) -> Self {
        Self {
            number: 1,
            process: Process::own(),
            run: RunId::from_random([1; 8]),
            action: Action::Deploy,
            outcome,
            app: Some("shop".parse().expect("a name")),
            release: Some("20261120T031500Z-1a2b3c4d".parse().expect("a release")),
            artifact: None,
            inventory: "hosts.yaml".to_owned(),
            pattern: None,
            playbook: None,
            who: "alice@laptop".to_owned(),
            command: Vec::new(),
            version: "0.1.0".to_owned(),
            continues: None,
            continued_by: None,
            started_at: "2026-11-20T03:15:00Z".to_owned(),
            end: None,
            waves: 2,
            going_back: false,
            hosts: [(HostState::Active, 1), (HostState::Queued, 1)].into(),
        }
    }
}
