//! `fleetdrop deploy`.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use etcetera::BaseStrategy as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    CommandError, Output,
    connection::ConnectionArgs,
    fleet::{self, PlaceArgs, SwitchArgs},
    history::HistoryArgs,
    interrupt,
    origin::OriginArgs,
    plan,
    playbook::PlaybookArgs,
    reporting,
    request::Request,
    transfer::TransferArgs,
    trust::TrustArgs,
    value,
};
use crate::{
    controller::{self, Artifact, DeployRequest, FleetSettings},
    history::{Action, ArtifactRecord, RunStart},
    model::{AppName, ArchiveKind, Plan, ReleaseId, RunId, RunSummary, plan::KEEP_RELEASES},
};

/// How large the cache of artifacts may grow on each host unless it is said, in bytes.
pub const CACHE_LIMIT: u64 = 10 << 30;
/// [`CACHE_LIMIT`], as an option says it.
pub const CACHE_LIMIT_TEXT: &str = "10GiB";
/// How often a person who waits for the hashes of a large artifact is told so.
const HASHING_NOTE: Duration = Duration::from_secs(3);

/// `fleetdrop deploy`.
#[derive(Debug, Clone, Args)]
pub struct DeployCommandArgs {
    /// What to deploy, and how.
    #[command(flatten)]
    pub deploy: DeployArgs,

    /// Only show what would happen, as `fleetdrop plan` does
    #[arg(long)]
    pub check: bool,

    /// Where it is written down.
    #[command(flatten)]
    pub history: HistoryArgs,
}

/// What to deploy, and how.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct DeployArgs {
    /// The artifact: a directory, which becomes the release as it is; tar, tar.zst, tar.gz, tar.xz, tar.bz2 or zip, which is unpacked;
    /// any other file becomes a release with that one file in it
    #[arg(value_name = "ARTIFACT")]
    pub artifact: PathBuf,

    /// Which hosts, and how to reach them.
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// The playbook.
    #[command(flatten)]
    pub playbook: PlaybookArgs,

    /// The application's name [default: the directory's name, or the file's without its archive suffix]
    #[arg(long, value_name = "NAME")]
    pub app: Option<AppName>,

    /// Where things are on the hosts.
    #[command(flatten)]
    pub place: PlaceArgs,

    /// How the fleet switches.
    #[command(flatten)]
    pub switch: SwitchArgs,

    /// How the artifact comes to the hosts.
    #[command(flatten)]
    pub transfer: TransferArgs,

    /// How many releases stay on each host, the current and the previous included [default: 5]
    #[arg(long, value_name = "N", value_parser = keep_releases())]
    pub keep_releases: Option<u32>,

    /// How large the cache of artifacts may grow on each host
    #[arg(long, value_name = "SIZE", default_value = CACHE_LIMIT_TEXT, value_parser = value::size)]
    pub cache_limit: u64,

    /// This machine's address as the hosts see it [default: what each host's SSH connection shows]
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,

    /// Web servers.
    #[command(flatten)]
    #[serde(default)]
    pub origins: OriginArgs,

    /// Whose it is.
    #[command(flatten)]
    #[serde(default)]
    pub trust: TrustArgs,

    /// The zone (`fleetdrop_zone`) that this machine is in; any other name if in none [default: the one with the most hosts]
    #[arg(long, value_name = "ZONE")]
    pub controller_zone: Option<String>,

    /// Whether hosts and this machine encrypt what they tell each other, and prove that they belong to the run
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Encryption::On)]
    pub encryption: Encryption,

    /// Write the run's torrent to this file, so that standard BitTorrent clients can take part; it holds the run's key. Needs
    /// `--encryption off`
    #[arg(long, value_name = "FILE")]
    pub torrent_out: Option<PathBuf>,

    /// Hash the artifact again, even if it looks the same as when it was hashed last
    #[arg(long)]
    pub rehash: bool,
}

/// Whether peers and tracker encrypt what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// TLS 1.3, with certificates that are made for the run: who does not belong to it learns nothing
    On,
    /// Plain BitTorrent, as standard clients speak it: nothing false goes live, but who can watch the network can read the artifact
    Off,
}

impl DeployArgs {
    /// Returns what is asked for: by the options, then by the playbook. Fails where the options contradict each other.
    pub fn plan(&self, output: &Output) -> Result<Plan, CommandError> {
        if self.torrent_out.is_some() && self.encryption == Encryption::On {
            let error = CommandError::input("--torrent-out is for standard clients, which can't take part in an encrypted run");
            return Err(error.hint("add --encryption off: who can watch the network can then read the artifact"));
        }
        Ok(self.over(self.playbook.plan(output)?))
    }

    /// Returns a playbook's plan with what the options say over it.
    pub fn over(&self, mut plan: Plan) -> Plan {
        self.place.go_over(&mut plan);
        self.switch.go_over(&mut plan);
        self.transfer.go_over(&mut plan.transfer);
        self.origins.servers.go_over(&mut plan);
        if let Some(releases) = self.keep_releases {
            plan.keep_releases = releases;
        }
        if let Some(app) = &self.app {
            plan.app = Some(app.clone());
        }
        plan
    }

    /// Returns the application's name: the plan's, or the artifact's name, that of a file without its archive suffix.
    pub fn app_name(&self, plan: &Plan) -> Result<AppName, CommandError> {
        app_name(&self.artifact, plan.app.as_ref())
    }
}

/// Returns the application's name: the one that is given, or the artifact's, that of a file without its archive suffix.
pub fn app_name(artifact: &Path, given: Option<&AppName>) -> Result<AppName, CommandError> {
    if let Some(app) = given {
        return Ok(app.clone());
    }
    let hint = "name the application with `--app NAME`";
    let Some(name) = controller::artifact_name(artifact) else {
        let artifact = artifact.display();
        return Err(CommandError::input(format!("`{artifact}` does not name a file or directory")).hint(hint));
    };
    let Some(name) = name.to_str() else {
        let name = name.to_string_lossy();
        return Err(CommandError::input(format!("`{name}` makes no application name: not UTF-8")).hint(hint));
    };
    // Only a file has an archive's suffix.
    let name = if artifact.is_dir() { name } else { ArchiveKind::of_file_name(name).1 };
    AppName::new(name).map_err(|error| CommandError::input(error).hint(hint))
}

/// A deploy that is ready to begin.
pub struct Ready {
    /// To which hosts.
    pub fleet: FleetSettings,
    /// What.
    pub artifact: Artifact,
    /// The options that asked for it.
    pub args: DeployArgs,
    /// What they and the playbook come to.
    pub plan: Plan,
    /// What the order of hosts is drawn from, where it is drawn.
    pub order_seed: u64,
    /// The interrupted run that it goes on with, and the release of that one.
    pub continues: Option<(RunId, ReleaseId)>,
}

/// Deploys and returns the exit code.
pub async fn run(args: DeployCommandArgs, output: &Output) -> Result<u8, CommandError> {
    let DeployCommandArgs { deploy: args, check, history } = args;
    if check {
        return plan::run(plan::PlanArgs::of(args, history), output).await;
    }
    let plan = args.plan(output)?;
    let app = args.app_name(&plan)?;
    let cache = args.place.cache.clone();
    let fleet = fleet::settings(&args.connection, cache, args.switch.lease, args.switch.yes, &plan, output)?;
    let interrupt = interrupt::watch()?;
    let artifact = open(&args.artifact, app, fleet.hosts.len(), args.rehash, &interrupt, output).await?;
    let ready = Ready { fleet, artifact, args, plan, order_seed: fastrand::u64(..), continues: None };
    ready.begin(&history, interrupt, output).await.map(|summary| summary.exit_code)
}

impl Ready {
    /// Deploys, reports it and writes it down.
    pub async fn begin(
        self,
        history: &HistoryArgs,
        interrupt: CancellationToken,
        output: &Output,
    ) -> Result<RunSummary, CommandError> {
        let run = reporting::new_run()?;
        let release = match &self.continues {
            Some((_, release)) => release.clone(),
            None => self.artifact.release().map_err(fleet::run_error)?,
        };
        let endorsement = self.args.trust.endorse(&self.plan.trust, &self.artifact.manifest)?;
        let origins = self.args.origins.request(&self.plan, &self.args.artifact, output).await?;
        let notebook = history.begin(&self.start(&run, &release, output), output);
        let request = DeployRequest {
            fleet: self.fleet,
            artifact: self.artifact,
            advertise: self.args.advertise,
            zone: self.args.controller_zone,
            origins,
            endorsement,
            torrent_out: self.args.torrent_out,
            encrypted: self.args.encryption == Encryption::On,
            cache_limit: self.args.cache_limit,
            keep_releases: self.plan.keep_releases,
            linked: self.plan.linked,
            unchanged: self.plan.unchanged,
            transfer: self.plan.transfer,
            no_swarm: interrupt::swarm_off()?,
            release,
            order_seed: self.order_seed,
            goes_on: self.continues.is_some(),
        };
        reporting::report(run, notebook, output, async |events| controller::deploy(request, events, interrupt).await).await
    }

    /// Returns what the history has of it from the beginning.
    fn start(&self, run: &RunId, release: &ReleaseId, output: &Output) -> RunStart {
        let request = Request::new(&self.args, &self.plan, self.order_seed).map_err(anyhow::Error::new);
        let kept = request.and_then(|request| Ok((request.to_text()?, request)));
        let kept = kept.inspect_err(|error| {
            fleet::warn(&format!("this run can't be resumed if it is cut off: {error:#}"), None, output);
        });
        let (text, args) = match kept {
            Ok((text, request)) => (Some(text), request.deploy),
            Err(_) => (None, self.args.clone()),
        };
        let manifest = &self.artifact.manifest;
        RunStart {
            run: run.clone(),
            action: Action::Deploy,
            app: Some(manifest.app.clone()),
            release: Some(release.clone()),
            artifact: Some(ArtifactRecord {
                path: args.artifact.display().to_string(),
                digest: manifest.digest,
                size: manifest.size,
            }),
            inventory: args.connection.fleet.hosts,
            pattern: args.connection.fleet.limit,
            playbook: args.playbook.playbook,
            who: fleet::operator(),
            command: fleet::command_line(),
            request: text,
            listing: self.artifact.listing().and_then(|listing| serde_json::to_string(&listing).ok()),
            continues: self.continues.as_ref().map(|(run, _)| run.clone()),
        }
    }
}

/// Reads how many releases may stay on a host.
pub fn keep_releases() -> clap::builder::RangedI64ValueParser<u32> {
    let (least, most) = KEEP_RELEASES.into_inner();
    clap::value_parser!(u32).range(i64::from(least)..=i64::from(most))
}

/// Hashes the artifact, which can take a while and can be interrupted.
pub async fn open(
    path: &Path,
    app: AppName,
    hosts: usize,
    rehash: bool,
    interrupt: &CancellationToken,
    output: &Output,
) -> Result<Artifact, CommandError> {
    let cache = if rehash { None } else { hash_cache() };
    let opened = Artifact::open(path, app, hosts, cache);
    tokio::pin!(opened);
    loop {
        tokio::select! {
            artifact = &mut opened => return artifact.map_err(fleet::run_error),
            () = interrupt.cancelled() => return Err(CommandError::interrupted()),
            () = tokio::time::sleep(HASHING_NOTE) => output.note(&format!("hashing {}", path.display())),
        }
    }
}

/// Keeps hashes of artifacts in the user's cache directory; without one every deploy hashes anew.
fn hash_cache() -> Option<PathBuf> {
    let strategy = etcetera::choose_base_strategy().ok()?;
    Some(strategy.cache_dir().join("fleetdrop").join("hashes"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::OutputArgs;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        deploy: DeployArgs,
    }

    fn app(artifact: &str, more: &[&str]) -> Result<String, CommandError> {
        let line = ["x", "-i", "f", artifact].into_iter().chain(more.iter().copied());
        let Line { output, deploy } = Line::try_parse_from(line).unwrap();
        let plan = deploy.plan(&Output::detect(&output))?;
        deploy.app_name(&plan).map(|app| app.to_string())
    }

    #[test]
    fn the_usual_limit_of_the_cache_is_said_the_same_twice() {
        assert_eq!(value::size(CACHE_LIMIT_TEXT), Ok(CACHE_LIMIT));
    }

    #[test]
    fn standard_clients_need_a_run_that_is_not_encrypted() {
        let asked = ["--torrent-out", "x.torrent", "--encryption"];
        assert!(app("shop.tar", &[&asked[..], &["off"]].concat()).is_ok());
        for encrypted in [&asked[..2], &[&asked[..], &["on"]].concat()] {
            let error = app("shop.tar", encrypted).unwrap_err();
            assert_eq!(error.exit_code(), super::super::exit::BAD_INPUT);
        }
    }

    #[test]
    fn the_application_is_named_by_the_option_or_by_the_artifact() {
        assert_eq!(app("out/shop-1.2.tar.zst", &[]).unwrap(), "shop-1.2");
        assert_eq!(app("shop.tar.zst", &["--app", "store"]).unwrap(), "store");
        assert_eq!(app("model.bin", &[]).unwrap(), "model.bin");
    }

    #[test]
    fn a_directory_gives_its_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        let shop = dir.path().join("shop.tar");
        std::fs::create_dir_all(shop.join("below")).unwrap();
        for given in ["shop.tar", "shop.tar/", "shop.tar/below/.."] {
            assert_eq!(app(dir.path().join(given).to_str().unwrap(), &[]).unwrap(), "shop.tar", "{given}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_a_directory_asks_for_the_option() {
        for bad in ["/", "nowhere/..", "my app.zip", ".hidden.zip"] {
            let error = app(bad, &[]).unwrap_err();
            assert_eq!(error.exit_code(), super::super::exit::BAD_INPUT, "{bad}");
        }
    }
}
