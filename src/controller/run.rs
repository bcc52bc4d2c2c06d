//! A run from its request to its summary: what is opened before the first login and closed after the last.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    artifact::Artifact,
    authority::AuthorityError,
    dispatch::{Approval, COMMAND_QUEUE, Dispatcher, Outcome, REPORT_QUEUE},
    events::EventSink,
    host::{DeployPlan, HostTask, JobPlan, Placement, Ways},
    origins::OriginRequest,
    push::{AgentFinder, AgentFinderError, Courier},
    seed::{Distribution, Listeners, SeedAddresses},
    tally::Tally,
    torrent_file::{self, TorrentFileError},
};
use crate::{
    artifact::ArtifactError,
    failpoint,
    inventory::HostEntry,
    model::{
        AppName, HostId, HostName, HostState, IdError, Manifest, Operator, Phase, PhaseTime, Place, ReleaseId, RunEvent,
        RunSummary, Verdict,
        distribution::{self, DistributionPolicy, Mode, TransferPlan},
        plan::{Health, Hooks, Linked, RolloutPlan, Unchanged},
        rollout::{Lineup, Rollout},
        trust::Endorsement,
    },
    ssh::{Connector, HostKeyPolicy, Target},
    swarm::{
        EngineError, FleetEngine, MetainfoError, Throttle,
        policy::{self, Neighbours},
    },
    tracker::TrackerError,
    wire::{InfoError, Procedure},
};

/// Says why a run could not begin. No host was touched.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The artifact can't be used.
    #[error(transparent)]
    Artifact(ArtifactError),
    /// The artifact makes no torrent.
    #[error("no torrent can be made of the artifact")]
    Metainfo(#[source] MetainfoError),
    /// The torrent is too large for a job: of a directory with very many files.
    #[error("hosts cannot be told of the artifact")]
    Info(#[source] InfoError),
    /// The release's id can't be made.
    #[error(transparent)]
    Release(IdError),
    /// There is no agent to push.
    #[error(transparent)]
    Agent(AgentFinderError),
    /// The tracker did not start.
    #[error(transparent)]
    Tracker(TrackerError),
    /// The seed did not start.
    #[error("the controller's seed did not start")]
    Engine(#[source] EngineError),
    /// There are no certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The torrent file that was asked for can't be had.
    #[error(transparent)]
    TorrentFile(TorrentFileError),
    /// Only origins are to give the artifact, and none can.
    #[error("no web server can give the artifact{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoOrigin(Option<String>),
    /// Only origins are to give the artifact, and hosts may not fetch that much.
    #[error("`max_origin_bytes` is {allowed} bytes, {hosts} hosts would fetch {needed} from web servers")]
    OriginCap {
        /// What the fleet may fetch.
        allowed: u64,
        /// What it would have to.
        needed: u64,
        /// How many hosts there are.
        hosts: usize,
    },
    /// A background task failed.
    #[error("hashing the artifact failed")]
    Task(#[source] tokio::task::JoinError),
}

impl RunError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Artifact(error) => error.hint(),
            Self::Agent(error) => error.hint(),
            Self::Info(_) => Some("pack the directory first: tar --zstd -cf APP.tar.zst -C DIR .".to_owned()),
            Self::TorrentFile(TorrentFileError::NoAddress) => Some("say it with --advertise".to_owned()),
            Self::NoOrigin(_) => Some("name one that has it with `--web-seed`, or leave `--origin-only` out".to_owned()),
            Self::OriginCap { .. } => Some("leave `--origin-only` out: then the fleet fetches about one copy".to_owned()),
            _ => None,
        }
    }

    /// True if the operator's input is to blame.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Tracker(_) | Self::Engine(_) | Self::Task(_))
    }
}

/// Which hosts, and how to reach them.
#[derive(Clone)]
pub struct FleetSettings {
    /// Who is at the command line, for the records on the hosts.
    pub operator: Option<Operator>,
    /// The hosts, in inventory order.
    pub hosts: Vec<HostEntry>,
    /// Opens connections.
    pub connector: Connector,
    /// Finds agents to push.
    pub finder: Arc<AgentFinder>,
    /// Directory of the agent and of artifacts on the hosts, if not the default.
    pub cache: Option<String>,
    /// The application's root on every host, if the operator said so.
    pub deploy_to: Option<String>,
    /// How long an agent goes on without a word from the controller.
    pub lease: Duration,
    /// How long a host that has switched waits for the confirmation.
    pub confirm: Duration,
    /// Who switches when, and how many hosts may drop out.
    pub rollout: RolloutPlan,
    /// What hosts run around staging and switching.
    pub hooks: Hooks,
    /// When a release that was switched to counts as healthy.
    pub health: Health,
    /// Who lets the next wave switch, if the plan waits for the operator.
    pub approval: Approval,
    /// Maps a verdict and the number of hosts in each final state to the process's exit code.
    pub exit_code: fn(Verdict, &BTreeMap<HostState, usize>) -> u8,
}

/// What to deploy.
pub struct DeployRequest {
    /// To which hosts.
    pub fleet: FleetSettings,
    /// What.
    pub artifact: Artifact,
    /// The controller's address as hosts see it, if not what their SSH connections show.
    pub advertise: Option<IpAddr>,
    /// The zone that the controller is in. None means the one with the most hosts; one without hosts means that it is in none of theirs.
    pub zone: Option<String>,
    /// Web servers that have the artifact.
    pub origins: OriginRequest,
    /// What shows hosts that the artifact is signed, if it must be.
    pub endorsement: Option<Endorsement>,
    /// Where to write the run's torrent, for clients beside the fleet.
    pub torrent_out: Option<PathBuf>,
    /// Upper bound of each host's cache in bytes.
    pub cache_limit: u64,
    /// Releases that stay on each host.
    pub keep_releases: u32,
    /// What every release shares.
    pub linked: Linked,
    /// The id of the new release: that of [`Artifact::release`], or of the run that this one goes on with.
    pub release: ReleaseId,
    /// What the order of hosts is drawn from, where it is drawn; a run that goes on with another has that one's.
    pub order_seed: u64,
    /// The run goes on with an interrupted one: hosts that have the release already keep their places in the waves.
    pub goes_on: bool,
    /// What becomes of hosts that are up to date.
    pub unchanged: Unchanged,
    /// How the artifact comes to the hosts.
    pub transfer: TransferPlan,
    /// Whether hosts and controller prove to each other that they belong to the run, and encrypt what they say.
    pub encrypted: bool,
    /// Switches the swarm off at any time.
    pub no_swarm: CancellationToken,
}

/// Deploys an artifact to a fleet. An error means that no host was touched; what happens to hosts is in the summary, which is also
/// the last event.
pub async fn deploy(request: DeployRequest, events: EventSink, interrupt: CancellationToken) -> Result<RunSummary, RunError> {
    let DeployRequest {
        fleet,
        artifact,
        advertise,
        zone,
        origins,
        endorsement,
        torrent_out,
        cache_limit,
        keep_releases,
        linked,
        unchanged,
        release,
        order_seed,
        goes_on,
        transfer,
        encrypted,
        no_swarm,
    } = request;
    let pushes_itself = fleet.finder.uses_own_executable().await.map_err(RunError::Agent)?;
    let policy = DistributionPolicy {
        choice: transfer.swarm,
        hosts: fleet.hosts.len(),
        size: artifact.manifest.size,
        outsiders: torrent_out.is_some(),
    };
    let mut decided = policy.decide();
    let everybody = (0..).map(HostId).take(fleet.hosts.len()).collect();
    let (origins, warnings) = origins.offer(&artifact, everybody, &decided).await?;
    decided.origins = origins.is_some();
    let upload = Throttle::new(transfer.controller_upload);
    let listeners = Listeners { advertise, encrypted, ports: transfer.ports };
    let (distribution, seed) = share(&fleet, &artifact, zone.as_deref(), upload, listeners).await?;
    if let Some(path) = torrent_out {
        let web_seeds = origins.iter().flat_map(|origins| origins.sources());
        let torrent = torrent_file::Torrent { metainfo: &artifact.metainfo, web_seeds: web_seeds.collect() };
        let written = torrent_file::write(&path, torrent, &seed, &distribution, &fleet.hosts).await;
        if let Err(error) = written {
            distribution.stop().await;
            return Err(RunError::TorrentFile(error));
        }
    }
    failpoint::reach("controller.seeding");
    let event = started(&fleet, &artifact.manifest, &release, &decided);
    let plan = Arc::new(JobPlan::Deploy(Box::new(DeployPlan {
        run: events.run().clone(),
        placement: placement(&fleet, Some(artifact.manifest.app.clone())),
        procedure: procedure(&fleet),
        manifest: artifact.manifest,
        release,
        cache_limit,
        keep_releases,
        linked,
        unchanged,
        goes_back: false,
        endorsement: endorsement.map(Box::new),
        origin_only: decided.origin_only,
        origins,
        info: artifact.info,
        seed,
        limits: transfer.hosts,
        stall_timeout: transfer.stall_timeout,
    })));
    if !decided.use_swarm {
        distribution.serve_everybody().await;
        no_swarm.cancel();
    }
    let hash_time = Some(artifact.hash_time);
    let start = Start { event, warnings, pushes_itself, hash_time, order_seed, goes_on, mode: decided.mode(), no_swarm };
    Ok(drive(fleet, |_| plan.clone(), start, Some(distribution), events, interrupt).await)
}

/// Returns what is told first of a deploy.
fn started(fleet: &FleetSettings, manifest: &Manifest, release: &ReleaseId, decided: &distribution::Distribution) -> RunEvent {
    RunEvent::RunStarted {
        action: "deploy".into(),
        app: Some(manifest.app.clone()),
        artifact: Some(manifest.file_name.clone()),
        digest: Some(manifest.digest),
        size: manifest.size,
        release: Some(release.clone()),
        max_failures: allowed(fleet),
        distribution: Some(decided.clone()),
        hosts: fleet.hosts.iter().map(|host| host.name.clone()).collect(),
    }
}

/// Starts to give an artifact to a fleet.
pub(super) async fn share(
    fleet: &FleetSettings,
    artifact: &Artifact,
    zone: Option<&str>,
    upload: Throttle,
    listeners: Listeners,
) -> Result<(Distribution, SeedAddresses), RunError> {
    let place = neighbours(fleet).controllers_place(zone);
    let (path, metainfo) = (artifact.path.clone(), artifact.metainfo.clone());
    Distribution::start(&FleetEngine, path, metainfo, place, fleet.hosts.len(), upload, listeners).await
}

/// Makes the SSH target of an inventory entry.
pub(super) fn target(host: &HostEntry) -> Target {
    Target {
        name: host.name.clone(),
        address: host.address.clone(),
        port: host.port,
        user: host.user.clone(),
        identity_file: host.identity_file.clone(),
        ssh_args: host.ssh_args.clone(),
        // Ansible's switch turns checking off; left on, ssh_config decides how strict it is.
        host_keys: (host.host_key_checking == Some(false)).then_some(HostKeyPolicy::No),
    }
}

pub(super) fn placement(fleet: &FleetSettings, app: Option<AppName>) -> Placement {
    Placement {
        by: fleet.operator.clone(),
        app,
        deploy_to: fleet.deploy_to.clone(),
        cache: fleet.cache.clone(),
        lease: fleet.lease,
        confirm: fleet.confirm,
    }
}

pub(super) fn procedure(fleet: &FleetSettings) -> Procedure {
    Procedure { host: None, hooks: fleet.hooks.clone(), health: fleet.health.clone() }
}

/// Returns how many hosts may drop out.
pub(super) fn allowed(fleet: &FleetSettings) -> u32 {
    u32::try_from(fleet.rollout.max_failures.after.allowed(fleet.hosts.len())).unwrap_or(u32::MAX)
}

async fn begin(start: &Start, events: &EventSink) {
    events.send(start.event.clone()).await;
    for warning in &start.warnings {
        events.send(warning.clone()).await;
    }
    if start.pushes_itself {
        let message = "there is no separate agent, so hosts get the controller's own executable".to_owned();
        let hint = Some("`cargo agent` builds a small static one: put it in --agent-dir as fleetdrop-agent-<arch>".to_owned());
        events.send(RunEvent::Warning { host: None, message, hint }).await;
    }
    if let Some(time) = start.hash_time {
        events.send(RunEvent::PhaseEnded(PhaseTime { phase: Phase::Hash, seconds: time.as_secs_f64() })).await;
    }
}

/// Starts the graph of who connects to whom.
fn neighbours(fleet: &FleetSettings) -> Neighbours {
    let zones = fleet.hosts.iter().map(|host| host.zone.as_deref());
    Neighbours::new(policy::degree(fleet.hosts.len()), zones, fastrand::u64(..))
}

/// What a run begins with.
pub(super) struct Start {
    pub(super) event: RunEvent,
    /// What is told right after it.
    pub(super) warnings: Vec<RunEvent>,
    pub(super) pushes_itself: bool,
    pub(super) hash_time: Option<Duration>,
    pub(super) order_seed: u64,
    pub(super) goes_on: bool,
    /// How hosts are to get the artifact.
    pub(super) mode: Mode,
    /// Cancelled where hosts exchange nothing.
    pub(super) no_swarm: CancellationToken,
}

/// Starts a task for each host, which is to do what `plan` says, and runs the dispatcher to the end.
pub(super) async fn drive(
    fleet: FleetSettings,
    plan: impl Fn(&HostName) -> Arc<JobPlan>,
    start: Start,
    distribution: Option<Distribution>,
    events: EventSink,
    interrupt: CancellationToken,
) -> RunSummary {
    let began = tokio::time::Instant::now();
    begin(&start, &events).await;
    let neighbours = neighbours(&fleet);
    let places: Vec<Option<Place>> = (0..fleet.hosts.len()).map(|host| neighbours.place(host)).collect();
    let zones = fleet.hosts.iter().map(|host| host.zone.clone()).collect();
    let rollout = Rollout::new(fleet.rollout, Lineup { zones, seed: start.order_seed, goes_on: start.goes_on });
    let tally = Tally::new(fleet.hosts.iter().map(|host| host.name.clone()), start.hash_time, start.mode, began);
    let (report, reports) = mpsc::channel(REPORT_QUEUE);
    let mut dispatcher = Dispatcher::new(rollout, tally, events.clone(), distribution, reports, neighbours, fleet.approval)
        .without_swarm(start.no_swarm.clone());
    let courier = Arc::new(Courier::new(fleet.finder, fleet.hosts.len()));
    let ways = Arc::new(Ways::default());
    for (index, (entry, place)) in fleet.hosts.into_iter().zip(places).enumerate() {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let task = HostTask {
            id: HostId(index as u32),
            target: target(&entry),
            plan: plan(&entry.name),
            entry,
            connector: fleet.connector.clone(),
            courier: courier.clone(),
            ways: ways.clone(),
            no_swarm: start.no_swarm.clone(),
            place,
            reports: report.clone(),
            commands: receiver,
        };
        dispatcher.add(task, commands);
    }
    drop(report);
    let Outcome { verdict, abort_reason, rollout, tally, controller_sent } = dispatcher.run(interrupt).await;
    // Every host of the fleet has a state in its rollout.
    let state = |host| (rollout.state(host).unwrap_or(HostState::Failed), rollout.wave(host).map(|wave| wave + 1));
    let now = tokio::time::Instant::now();
    let mut summary = tally.summary(verdict, abort_reason, controller_sent, state, fleet.exit_code, now);
    summary.waves = rollout.waves().len();
    failpoint::reach("controller.ended");
    events.send(RunEvent::RunFinished(Box::new(summary.clone()))).await;
    summary
}
