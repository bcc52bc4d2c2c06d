//! The message types. A new optional field needs a default; anything else needs a new [`WIRE_VERSION`].

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{PackedInfo, RelayToken};
use crate::model::{
    ByteCounts, HostFailure, HostName, HostState, HostStatus, Identity, Manifest, Operator, Place, PortRange, Pruned,
    ReleaseId, RunId, Unlocked,
    distribution::{DEFAULT_STALL_TIMEOUT, Limits, Mode},
    origin::{Origin, Origins},
    plan::{Health, Hooks, Linked, Unchanged},
    trust::Endorsement,
};

/// The protocol's version. Both sides must have the same; the controller pushes the agent that matches it.
pub const WIRE_VERSION: u32 = 7;

/// The agent's first message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentHello {
    /// The agent's [`WIRE_VERSION`].
    pub wire_version: u32,
    /// The agent's package version.
    pub version: String,
    /// Its process id on the host.
    pub pid: u32,
}

/// A peer to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerAddr(pub SocketAddr);

/// What the controller wants from this agent. One agent process does one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum Job {
    /// Fetch, verify, stage, then activate when told.
    Deploy(Box<DeployJob>),
    /// Find an earlier release and activate it when told. No transfer.
    Rollback(Box<RollbackJob>),
    /// Report what is there and exit. Changes nothing.
    Status {
        /// The application's root; `~/` at the start means the agent's home directory.
        deploy_to: String,
    },
    /// Remove what is no longer needed. Answer: [`FromAgent::Pruned`]; [`FromAgent::Failed`] if somebody works there.
    Prune(Box<PruneJob>),
    /// See to it that nobody holds the lock, and finish or undo what its last holder left. Answer: [`FromAgent::Unlocked`];
    /// [`FromAgent::Failed`] if a process that is alive holds it and may not be ended.
    Unlock {
        /// This run, for the lock and the logs.
        run: RunId,
        /// The application's root; `~/` at the start means the agent's home directory.
        deploy_to: String,
        /// Whether to end a process that holds the lock.
        force: bool,
        /// Who wants it.
        #[serde(default)]
        by: Option<Operator>,
    },
    /// Finish or undo the switch that this run's agent left when it died, then exit. Answer: [`FromAgent::Reverted`] if that
    /// agent's switch was undone now, [`FromAgent::Kept`] if it can't be, else [`FromAgent::Status`], which tells what is live, after
    /// [`FromAgent::Confirmed`] if that switch was confirmed; [`FromAgent::Failed`] if the lock is another's or the way back fails.
    Recover {
        /// The run whose agent died.
        run: RunId,
        /// The application's root; `~/` at the start means the agent's home directory.
        deploy_to: String,
        /// That agent's process, as in [`DeployJob::replaces`]. Its lock is waited for some seconds, also if it is dead: the
        /// kernel takes its time to end a large process.
        #[serde(default)]
        replaces: Option<u32>,
        /// Where the run wants the host back: undo its switch also if it was confirmed.
        #[serde(default)]
        back: Option<Box<WayBack>>,
    },
}

/// How a host goes back whose agent is gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WayBack {
    /// Why, for the operator.
    pub reason: String,
    /// What the host runs then; only the hooks of a revert are used.
    #[serde(default)]
    pub procedure: Procedure,
}

/// Everything an agent needs for a deploy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeployJob {
    /// The run, for the lock and the logs.
    pub run: RunId,
    /// Who started the run.
    #[serde(default)]
    pub by: Option<Operator>,
    /// What is deployed. The digest is the hard gate: it comes over this channel, never from tracker or peers.
    pub manifest: Manifest,
    /// The id of the new release.
    pub release: ReleaseId,
    /// The application's root; `~/` at the start means the agent's home directory.
    pub deploy_to: String,
    /// The agent's cache directory; none means the default (`/var/cache/fleetdrop` for root, else `~/.cache/fleetdrop`).
    #[serde(default)]
    pub cache: Option<String>,
    /// Upper bound of the cache in bytes; the blob of this run is kept even if it is larger.
    pub cache_limit: u64,
    /// How many releases stay on the host, the current and the previous included; at least 2.
    pub keep_releases: u32,
    /// What the release links to in `shared/`.
    #[serde(default)]
    pub linked: Linked,
    /// Whether the live release is activated once more if it already is what the job wants.
    #[serde(default)]
    pub unchanged: Unchanged,
    /// The release is an earlier one that the host has lost and that is gone back to: it takes its old place among the releases.
    #[serde(default)]
    pub goes_back: bool,
    /// What shows that the artifact is signed; the host takes it only if that is so. None: it need not be.
    #[serde(default)]
    pub endorsement: Option<Box<Endorsement>>,
    /// The torrent's info dictionary. That of a directory holds its listing.
    pub info: PackedInfo,
    /// Where this host is reached by the others: the address to bind and to announce. None: all interfaces, announced as seen
    /// by the tracker.
    #[serde(default)]
    pub advertise: Option<IpAddr>,
    /// The tracker's announce URL with the run's key.
    pub tracker: Option<String>,
    /// The controller's seed.
    pub seed: Option<PeerAddr>,
    /// The addresses that count as the controller when bytes are counted.
    #[serde(default)]
    pub controller_peers: Vec<PeerAddr>,
    /// What this host shows to peers and tracker, and whom it believes; none if the run is not encrypted.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// The ports to listen on; none: any that is free.
    #[serde(default)]
    pub ports: Option<PortRange>,
    /// Nothing is exchanged with other hosts.
    #[serde(default)]
    pub alone: bool,
    /// What the host moves at most.
    #[serde(default)]
    pub limits: Limits,
    /// Where this host is, in a fleet with zones: pieces come once into a zone, each by the host whose it is.
    #[serde(default)]
    pub place: Option<Place>,
    /// Web servers that have the artifact, and how this host may use them.
    #[serde(default)]
    pub origins: Option<Box<Origins>>,
    /// The controller's own web server, for a host that nothing else serves.
    #[serde(default)]
    pub web: Option<Box<Origin>>,
    /// As in [`TransferPlan::stall_timeout`](crate::model::distribution::TransferPlan::stall_timeout).
    #[serde(default = "usual_stall_timeout")]
    pub stall_timeout: Duration,
    /// Seconds without a word from the controller after which the agent stops by itself.
    pub lease_seconds: u32,
    /// Seconds between [`FromAgent::Checked`] and the confirmation after which the host reverts.
    pub confirm_seconds: u32,
    /// What the host runs on its way.
    #[serde(default)]
    pub procedure: Procedure,
    /// The process of this run's agent on this host whose connection was lost. If it still holds the lock, it is asked to end
    /// and waited for; one that is not named here is another host entry for the same machine, and its lock stands.
    #[serde(default)]
    pub replaces: Option<u32>,
}

fn usual_stall_timeout() -> Duration {
    DEFAULT_STALL_TIMEOUT
}

/// What a host runs around staging and switching.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Procedure {
    /// The host's name in the inventory, for its hooks.
    pub host: Option<HostName>,
    /// Commands.
    pub hooks: Hooks,
    /// What a release that was made live has to pass.
    pub health: Health,
}

/// A switch back to a release that is already on the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollbackJob {
    /// The run, for the lock and the logs.
    pub run: RunId,
    /// Who started the run.
    #[serde(default)]
    pub by: Option<Operator>,
    /// The application's root; `~/` at the start means the agent's home directory.
    pub deploy_to: String,
    /// The release to go to; none means the one before the current.
    pub to: Option<ReleaseId>,
    /// Seconds without a word from the controller after which the agent stops by itself.
    pub lease_seconds: u32,
    /// Seconds between [`FromAgent::Checked`] and the confirmation after which the host reverts.
    pub confirm_seconds: u32,
    /// What the host runs on its way; the hooks around staging are left out.
    #[serde(default)]
    pub procedure: Procedure,
    /// The process of this run's agent on this host whose connection was lost. If it still holds the lock, it is asked to end
    /// and waited for; one that is not named here is another host entry for the same machine, and its lock stands.
    #[serde(default)]
    pub replaces: Option<u32>,
}

/// What may go from a host, beyond what every deploy removes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PruneJob {
    /// The run, for the lock and the logs.
    pub run: RunId,
    /// Who started the run.
    #[serde(default)]
    pub by: Option<Operator>,
    /// The application's root; `~/` at the start means the agent's home directory.
    pub deploy_to: String,
    /// The agent's cache directory, as in [`DeployJob::cache`].
    #[serde(default)]
    pub cache: Option<String>,
    /// What the cache is cut down to, in bytes.
    pub cache_limit: u64,
    /// How many releases stay, the current and the previous included; at least 2.
    pub keep_releases: u32,
    /// Only tell what would go.
    pub dry_run: bool,
}

/// Why the controller stops an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The run is over and this host is done: stop uploading, release the lock, exit.
    Finished,
    /// The operator interrupted the run. Partial data stays for the next run.
    Interrupted,
    /// Too many hosts dropped out. Partial data stays for the next run.
    BudgetExceeded,
    /// The next wave was not approved.
    NotApproved,
    /// The run can't go on.
    Aborted,
}

/// Controller to agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// The job. Sent once, right after the hello.
    Job(Job),
    /// Preflight is accepted: fetch and stage. Answer: states, progress, then [`FromAgent::Staged`].
    Start {
        /// First peers to connect to, chosen by the controller.
        peers: Vec<PeerAddr>,
    },
    /// More peers to connect to.
    Peers {
        /// Addresses.
        peers: Vec<PeerAddr>,
    },
    /// Another way to the controller, for a host that asked for one ([`FromAgent::Stranded`]): through its SSH connection.
    Way {
        /// Where the controller's seed is reached on the host's loopback.
        seed: PeerAddr,
        /// The announce URL that leads there; none leaves it at the one before.
        #[serde(default)]
        tracker: Option<String>,
    },
    /// Exchange nothing with other hosts from now on, and take nothing from them.
    Alone,
    /// Serve your own binary to other hosts until the job is over, at any time after the job. Sent at most once. Answer:
    /// [`FromAgent::Relays`].
    Relay {
        /// The address to listen at, and no other.
        address: IpAddr,
        /// The ports to choose from; none: any that is free.
        #[serde(default)]
        ports: Option<PortRange>,
        /// What the path holds that others fetch it under.
        token: RelayToken,
    },
    /// Renews the lease. Sent at least every third of the lease. Answer: [`FromAgent::Alive`].
    Ping,
    /// Switch now. Answer: [`FromAgent::Activated`] and then [`FromAgent::Checked`], or [`FromAgent::Reverted`] at any time;
    /// [`FromAgent::Failed`] if the switch itself fails.
    Activate,
    /// The switch is seen and stays. Answer: [`FromAgent::Confirmed`]. The agent goes on uploading until stopped.
    Confirm,
    /// Go back to what was live before this job, also after the confirmation. Answer: [`FromAgent::Reverted`], or
    /// [`FromAgent::Failed`] if that fails. Without effect on a host that was not told to switch.
    Revert {
        /// Why, for the operator.
        reason: String,
    },
    /// Stop; an activated host that is not confirmed reverts first. The agent exits after it.
    Stop {
        /// Why.
        reason: StopReason,
    },
}

/// Agent to controller.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// First message.
    Hello(AgentHello),
    /// Preflight passed. The agent holds the lock and, in a deploy that needs a transfer, listens for peers.
    Prepared {
        /// The port it listens on for peers, if it does. With [`DeployJob::advertise`] unset the controller combines it with
        /// the address it knows.
        #[serde(default)]
        port: Option<u16>,
        /// Bytes of the artifact that are already there (cache or partial download).
        have: u64,
        /// The release that is live now.
        #[serde(default)]
        current: Option<ReleaseId>,
    },
    /// The current release already is what the job wants, and it is to be left alone; nothing was changed and the agent exits after [`ToAgent::Stop`].
    AlreadyActive {
        /// The live release.
        current: ReleaseId,
        /// The one before it.
        #[serde(default)]
        previous: Option<ReleaseId>,
    },
    /// Entered a working state (downloading, backfilling, verifying, extracting).
    State {
        /// Which.
        state: HostState,
    },
    /// How the transfer stands; at most about one a second.
    Progress(TransferProgress),
    /// The transfer gets nothing, and the host can't connect to the controller: it asks for another way. Told again while it is so. Answer, perhaps
    /// later: [`ToAgent::Way`].
    Stranded {
        /// Why it can't connect.
        reason: String,
        /// For how many seconds nothing has come.
        seconds: u32,
    },
    /// The host gets the artifact another way from now on.
    Mode {
        /// Which.
        mode: Mode,
        /// Why.
        reason: String,
    },
    /// A complete, verified release lies beside the current one.
    Staged {
        /// Its id.
        release: ReleaseId,
        /// What the transfer came to.
        bytes: ByteCounts,
    },
    /// `current` points at the new release; hooks and health checks follow.
    Activated {
        /// The release that is live now.
        release: ReleaseId,
        /// The one that was live before.
        #[serde(default)]
        previous: Option<ReleaseId>,
    },
    /// Hooks and health checks passed: waits for the confirmation.
    Checked,
    /// The confirmation is journalled; in an answer to [`Job::Recover`] that of the run that is asked about.
    Confirmed,
    /// Went back to the previous release, by itself or because it was told to, or undid what a dead agent left
    /// ([`Job::Recover`]).
    Reverted {
        /// The release that is live again; none after a first deploy.
        #[serde(default)]
        current: Option<ReleaseId>,
        /// Why.
        reason: String,
        /// What the hook or check that failed wrote, as lines, oldest first; bounded.
        #[serde(default)]
        output: Vec<String>,
    },
    /// Answer to [`Job::Recover`]: the switch was never confirmed and can't be undone, for the release before it is gone.
    Kept {
        /// The release that stays live.
        release: ReleaseId,
    },
    /// The job failed; the old release is live and the agent exits.
    Failed(HostFailure),
    /// Answer to [`Job::Status`] and [`Job::Recover`].
    Status(HostStatus),
    /// Answer to [`Job::Prune`].
    Pruned(Pruned),
    /// Answer to [`Job::Unlock`].
    Unlocked(Unlocked),
    /// Answer to [`ToAgent::Relay`]. It may come between any two messages.
    Relays {
        /// The port where the agent serves itself; none if it can't.
        #[serde(default)]
        port: Option<u16>,
    },
    /// Answer to each [`ToAgent::Ping`], at once and also while the disk works: the agent's process runs. It tells nothing about
    /// how the job stands and may come between any two messages. Left out only while so many other messages wait to be read
    /// that they tell the same.
    Alive,
    /// Something worth telling that stops nothing.
    Warning {
        /// What.
        message: String,
        /// What to do about it.
        #[serde(default)]
        hint: Option<String>,
    },
}

/// How a transfer stands.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct TransferProgress {
    /// Verified bytes by source.
    pub bytes: ByteCounts,
    /// All bytes of the artifact that arrived, verified or not: it moves also while one long piece is on its way.
    #[serde(default)]
    pub payload: u64,
    /// Received bytes a second over the last seconds.
    pub rate: u64,
    /// Connected peers.
    pub peers: u32,
}
