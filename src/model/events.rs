//! What a run tells the world. Versioned; a consumer needs nothing but these types.
//!
//! `--output json` writes one [`Envelope`] a line. A consumer must ignore fields it does not know and treats an event it does
//! not know as [`RunEvent::Unknown`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    AppName, Digest, HostFailure, HostName, HostState, ReleaseId, RunId,
    distribution::{Distribution, Mode},
};

/// The version of the event format. A change that breaks consumers raises it.
pub const EVENT_VERSION: u32 = 1;

/// One event with its version, time and run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`EVENT_VERSION`] of the sender.
    pub v: u32,
    /// When, RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// Which run.
    pub run: RunId,
    /// What.
    #[serde(flatten)]
    pub event: RunEvent,
}

/// Bytes of the artifact one host or the fleet received, by source, and what it gave to others. Payload only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ByteCounts {
    /// From other hosts.
    pub from_peers: u64,
    /// From the controller's seed.
    pub from_controller: u64,
    /// From the controller's seed, through the host's SSH connection.
    pub from_ssh: u64,
    /// From an HTTP origin.
    pub from_origin: u64,
    /// Already there: a resumed partial download or the host's cache.
    pub from_disk: u64,
    /// Sent to other hosts.
    pub uploaded: u64,
}

impl ByteCounts {
    /// Returns the bytes that are there, from wherever they came. Counts come from hosts and may be anything: sums saturate.
    pub fn received(&self) -> u64 {
        self.moved().saturating_add(self.from_disk)
    }

    /// Returns the bytes that came over the network.
    pub fn moved(&self) -> u64 {
        let controller = self.from_controller.saturating_add(self.from_ssh);
        self.from_peers.saturating_add(controller).saturating_add(self.from_origin)
    }

    /// Adds another host's counts.
    pub fn add(&mut self, other: &Self) {
        self.from_peers = self.from_peers.saturating_add(other.from_peers);
        self.from_controller = self.from_controller.saturating_add(other.from_controller);
        self.from_ssh = self.from_ssh.saturating_add(other.from_ssh);
        self.from_origin = self.from_origin.saturating_add(other.from_origin);
        self.from_disk = self.from_disk.saturating_add(other.from_disk);
        self.uploaded = self.uploaded.saturating_add(other.uploaded);
    }
}

/// The parts of a run that are timed. Over the fleet they overlap; each runs from its first host's start to its last host's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// SHA-256 and piece hashes of the artifact on the controller.
    Hash,
    /// Logins, from the first attempt to the last host connected.
    Connect,
    /// Probe, agent push, preflight.
    Prepare,
    /// From the first job sent to the last host verified.
    Distribute,
    /// From the first host verified to the last one staged.
    Stage,
    /// From the barrier to the last host active.
    Activate,
}

impl Phase {
    /// Returns the word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Connect => "connect",
            Self::Prepare => "prepare",
            Self::Distribute => "distribute",
            Self::Stage => "stage",
            Self::Activate => "activate",
        }
    }
}

/// How long a phase took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which phase.
    pub phase: Phase,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// How a run ended, apart from what happened to single hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It went through; single hosts may have dropped out within the budget.
    Completed,
    /// Too many hosts dropped out: no further host was activated.
    StoppedByBudget,
    /// Too many hosts dropped out, or the operator did not let the next wave switch: what the run had activated went back.
    RolledBack,
    /// The operator did not let the next wave switch: what was active stays so.
    NotApproved,
    /// The operator stopped it.
    Interrupted,
    /// The run itself could not go on, for example because the artifact changed while it was sent.
    Aborted,
}

/// How one host ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostResult {
    /// The host's inventory name.
    pub host: HostName,
    /// Its final state.
    pub state: HostState,
    /// True if it already had what the run wanted and nothing was done.
    #[serde(default)]
    pub unchanged: bool,
    /// The release that is live there now, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// The release that was live before, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ReleaseId>,
    /// Where its bytes came from.
    #[serde(default)]
    pub bytes: ByteCounts,
    /// How it got them in the end.
    #[serde(default)]
    pub mode: Mode,
    /// Why not as the run was to distribute it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_reason: Option<String>,
    /// How many other hosts and seeds it was connected to at most.
    #[serde(default)]
    pub peers: u32,
    /// Whether it has the whole artifact and found its SHA-256 right.
    #[serde(default)]
    pub verified: bool,
    /// Seconds from its job being sent to its artifact being verified, if it got that far by a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_seconds: Option<f64>,
    /// The wave it switched in or would have, counted from 1; none if it never came to that or had nothing to switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<usize>,
    /// Why it dropped out, or could not go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<HostFailure>,
}

/// How many hosts got the agent from where. Hosts that had it are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentCounts {
    /// From the controller.
    pub over_ssh: u32,
    /// From other hosts.
    pub from_hosts: u32,
}

/// The run in one record: the last event of every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// How the run ended.
    pub verdict: Verdict,
    /// The process's exit code (see README).
    pub exit_code: u8,
    /// Every host, in inventory order.
    pub hosts: Vec<HostResult>,
    /// How many waves there were to be; 0 if it never came to that.
    #[serde(default)]
    pub waves: usize,
    /// How many hosts ended in which state.
    pub counts: BTreeMap<HostState, usize>,
    /// Sum over the hosts.
    pub bytes: ByteCounts,
    /// Artifact bytes that left the controller (its seed's uploads).
    pub controller_sent: u64,
    /// How hosts that had no agent got it.
    #[serde(default)]
    pub agents: AgentCounts,
    /// Timed phases, in order; a phase that did not happen is left out.
    pub phases: Vec<PhaseTime>,
    /// The host whose transfer took longest, with its seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest: Option<(HostName, f64)>,
    /// Wall time of the whole run in seconds.
    pub seconds: f64,
    /// Why the run was aborted, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_reason: Option<String>,
}

/// What happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// The first event.
    RunStarted {
        /// What kind of run: `deploy` or `rollback`.
        action: String,
        /// The application, where it was named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        app: Option<AppName>,
        /// The artifact's file name; none in a rollback.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        artifact: Option<String>,
        /// The artifact's digest; none in a rollback.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
        /// The artifact's size in bytes; 0 in a rollback.
        size: u64,
        /// The new release's id; none in a rollback to "the previous one".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<ReleaseId>,
        /// How many hosts may drop out before the run stops.
        #[serde(default)]
        max_failures: u32,
        /// How the artifact is distributed; none in a rollback.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        distribution: Option<Distribution>,
        /// The fleet, in inventory order.
        hosts: Vec<HostName>,
    },
    /// A host entered a state. Final states carry what is known.
    HostState {
        /// Which host.
        host: HostName,
        /// The state it entered.
        state: HostState,
        /// Why, if it dropped out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<HostFailure>,
    },
    /// A host that had no agent got it.
    AgentCame {
        /// Which host.
        host: HostName,
        /// The host it was fetched from; none if it came over SSH.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<HostName>,
    },
    /// A host's transfer moved on; at most about one a second and host.
    HostProgress {
        /// Which host.
        host: HostName,
        /// Verified bytes by source.
        bytes: ByteCounts,
        /// Received bytes a second, over the last seconds.
        rate: u64,
        /// Connected peers.
        peers: u32,
    },
    /// The operator switched the swarm off: hosts exchange nothing any more.
    SwarmStopped,
    /// A host gets the artifact another way from now on.
    HostMode {
        /// Which host.
        host: HostName,
        /// Which way.
        mode: Mode,
        /// Why.
        reason: String,
    },
    /// A phase of the run ended.
    PhaseEnded(PhaseTime),
    /// Something an operator should know that stops nothing.
    Warning {
        /// The host concerned, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostName>,
        /// What.
        message: String,
        /// What to do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// Every host is staged or dropped out within the budget; activation begins.
    BarrierMet {
        /// How many hosts activate.
        hosts: usize,
        /// In how many waves.
        #[serde(default)]
        waves: usize,
    },
    /// The hosts of a wave begin to switch.
    WaveStarted {
        /// Which wave, counted from 1.
        wave: usize,
        /// How many there are.
        waves: usize,
        /// Its hosts, in their order.
        hosts: Vec<HostName>,
    },
    /// A wave is over and the next one waits.
    Paused {
        /// The wave that waits, counted from 1.
        wave: usize,
        /// How many there are.
        waves: usize,
        /// For how many seconds; none: until the operator lets it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
    },
    /// What this run made live goes back, the last wave first.
    RollingBack {
        /// How many hosts were active when this began.
        hosts: usize,
        /// Why.
        reason: String,
    },
    /// The operator asked to stop.
    Interrupted,
    /// The last event.
    RunFinished(Box<RunSummary>),
    /// An event from a newer sender.
    #[serde(other)]
    Unknown,
}
