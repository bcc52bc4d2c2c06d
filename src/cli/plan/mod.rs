//! `fleetdrop plan`, also `fleetdrop deploy --check`: what a deploy would do, without doing it.

mod prediction;
mod render;
mod reuse;

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{
    CommandError, Output, deploy, deploy::DeployArgs, exit, fleet, history::HistoryArgs, interrupt, output::Format, value,
};
use crate::{
    controller::{self, HostPreview, OriginLook, PreviewRequest},
    inventory::HostEntry,
    model::{
        AppName, Digest, HostFailure, HostId, HostName, HostState, Manifest, Plan, Verdict,
        distribution::{Distribution, DistributionPolicy},
        plan::{Order, Pause},
        rollout::{Lineup, waves},
    },
};
use prediction::Prediction;

/// The version of the JSON object. A change that breaks consumers raises it.
const PLAN_VERSION: u32 = 1;
/// The links that are assumed where none are named: 1 Gbit/s, in bytes a second.
const LINK: u64 = 125_000_000;
const LINK_TEXT: &str = "1gbit";

/// What would be deployed, and what is assumed.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// What to deploy, and how.
    #[command(flatten)]
    pub deploy: DeployArgs,

    /// The link of each host and of this machine that the predicted time assumes: 50mbit, 1gbit, 125MB (a second)
    #[arg(long, value_name = "RATE", default_value = LINK_TEXT, value_parser = value::rate)]
    pub link: u64,

    /// Where earlier runs are written down, for what hosts have of a directory. This one is not.
    #[command(flatten)]
    pub history: HistoryArgs,
}

impl PlanArgs {
    /// The preview of a deploy that was asked for with `--check`.
    pub fn of(deploy: DeployArgs, history: HistoryArgs) -> Self {
        Self { deploy, link: LINK, history }
    }
}

/// Shows what would happen and returns the exit code: whether a deploy would go through on every host.
pub async fn run(args: PlanArgs, output: &Output) -> Result<u8, CommandError> {
    let PlanArgs { deploy: args, link, history } = args;
    let plan = args.plan(output)?;
    let app = args.app_name(&plan)?;
    let cache = args.place.cache.clone();
    let fleet = fleet::settings(&args.connection, cache, args.switch.lease, true, &plan, output)?;
    let interrupt = interrupt::watch()?;
    let artifact = deploy::open(&args.artifact, app, fleet.hosts.len(), args.rehash, &interrupt, output).await?;
    let origins = args.origins.request(&plan, &args.artifact, output).await?;
    let hosts = fleet.hosts.clone();
    args.trust.endorse(&plan.trust, &artifact.manifest)?;
    let (linked, unchanged) = (plan.linked.clone(), plan.unchanged);
    let request = PreviewRequest { fleet, manifest: artifact.manifest.clone(), linked, unchanged };
    let looks = async { tokio::join!(controller::preview(request), origins.look(&artifact.metainfo)) };
    let (seen, origins) = tokio::select! {
        looks = looks => looks,
        () = interrupt.cancelled() => return Err(CommandError::interrupted()),
    };
    let mut rows: Vec<Row> = hosts.iter().zip(seen).map(|(entry, (host, seen))| Row::new(host, entry, seen)).collect();
    reuse::predict(&mut rows, &artifact, &history);
    let policy = DistributionPolicy {
        choice: plan.transfer.swarm,
        hosts: rows.len(),
        size: artifact.manifest.size,
        outsiders: args.torrent_out.is_some(),
    };
    let way = Way { origins, distribution: policy.decide(), controller_zone: args.controller_zone, link };
    let report = Report::new(artifact.manifest, rows, &plan, way).await?;
    if output.format == Format::Json {
        output.print_json(&report)?;
    } else {
        output.print(&report.render(output.stdout_width(), output.stdout_palette()))?;
    }
    Ok(report.exit_code)
}

/// One host, as JSON shows it.
#[derive(Debug, Serialize)]
struct Row {
    host: HostName,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    /// The wave it would switch in, counted from 1; none if it would not.
    wave: Option<usize>,
    /// How many bytes of a directory files give that are in the host's live release or the one before, as far as the history knows those.
    reused: u64,
    #[serde(flatten)]
    seen: Seen,
}

/// What was seen of a host. In JSON its fields stand beside `host`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Seen {
    Host(Box<HostPreview>),
    Failure { failure: HostFailure },
}

impl Row {
    fn new(host: HostName, entry: &HostEntry, seen: Result<HostPreview, HostFailure>) -> Self {
        let seen = seen.map_or_else(|failure| Seen::Failure { failure }, |preview| Seen::Host(Box::new(preview)));
        Self { host, zone: entry.zone.clone(), wave: None, reused: 0, seen }
    }

    fn preview(&self) -> Option<&HostPreview> {
        match &self.seen {
            Seen::Host(preview) => Some(preview),
            Seen::Failure { .. } => None,
        }
    }

    /// Returns why it would drop out, if it would.
    fn failure(&self) -> Option<&HostFailure> {
        match &self.seen {
            Seen::Host(preview) => preview.failure.as_ref(),
            Seen::Failure { failure } => Some(failure),
        }
    }

    fn is_unchanged(&self) -> bool {
        self.preview().is_some_and(|preview| preview.unchanged)
    }

    /// True if it would switch.
    fn switches(&self) -> bool {
        self.failure().is_none() && !self.is_unchanged()
    }

    /// Returns the most bytes that would come to it.
    fn transfer(&self) -> u64 {
        if self.switches() { self.preview().map_or(0, |preview| preview.transfer) } else { 0 }
    }

    /// Returns how many bytes are likely to come to it.
    fn likely(&self) -> u64 {
        self.transfer().saturating_sub(self.reused)
    }
}

/// How the artifact would come to hosts, and what is assumed of that.
#[derive(Debug)]
struct Way {
    /// What was seen of origins.
    origins: Vec<OriginLook>,
    distribution: Distribution,
    controller_zone: Option<String>,
    /// Each host's link and this machine's, in bytes a second.
    link: u64,
}

/// The whole answer, as JSON shows it.
#[derive(Debug, Serialize)]
struct Report {
    /// [`PLAN_VERSION`].
    v: u32,
    app: AppName,
    artifact: String,
    digest: Digest,
    size: u64,
    hosts: Vec<Row>,
    /// The hosts that would switch in each wave.
    waves: Vec<Vec<HostName>>,
    /// True if the order of hosts is drawn anew for every run, so that waves will have others.
    shuffled: bool,
    /// Seconds between two waves; null where the operator's word is waited for.
    pause: Option<f64>,
    /// How many hosts may drop out.
    max_failures: usize,
    /// How many would.
    out: usize,
    /// True if hosts would switch, or nothing is to be done.
    goes: bool,
    /// Whether hosts would exchange pieces, and why.
    distribution: Distribution,
    /// The web servers that hosts would use beside.
    origins: Vec<OriginLook>,
    /// The most bytes of the artifact that would come to hosts.
    transfer: u64,
    /// How many of these files give that hosts have.
    reused: u64,
    prediction: Option<Prediction>,
    exit_code: u8,
}

impl Report {
    async fn new(manifest: Manifest, mut hosts: Vec<Row>, plan: &Plan, way: Way) -> Result<Self, CommandError> {
        let waves = assign_waves(&mut hosts, plan);
        let out = hosts.iter().filter(|row| row.failure().is_some()).count();
        let max_failures = plan.rollout.max_failures.after.allowed(hosts.len());
        let mut counts = BTreeMap::new();
        for row in &hosts {
            *counts.entry(row.failure().map_or(HostState::Active, HostFailure::state)).or_default() += 1;
        }
        let goes = out <= max_failures;
        let verdict = if goes { Verdict::Completed } else { Verdict::StoppedByBudget };
        let prediction = prediction::predict(&hosts, way.controller_zone.as_deref(), way.link).await?;
        Ok(Self {
            v: PLAN_VERSION,
            app: manifest.app,
            artifact: manifest.file_name,
            digest: manifest.digest,
            size: manifest.size,
            waves,
            shuffled: plan.rollout.order == Order::Shuffled,
            pause: match plan.rollout.pause {
                Pause::For(time) => Some(time.as_secs_f64()),
                Pause::Confirm => None,
            },
            max_failures,
            out,
            goes,
            distribution: way.distribution,
            origins: way.origins,
            transfer: hosts.iter().map(Row::transfer).sum(),
            reused: hosts.iter().map(|row| row.transfer() - row.likely()).sum(),
            prediction,
            exit_code: exit::of_run(verdict, &counts),
            hosts,
        })
    }
}

/// Puts the hosts that would switch into their waves and returns those.
fn assign_waves(hosts: &mut [Row], plan: &Plan) -> Vec<Vec<HostName>> {
    let zones = hosts.iter().map(|row| row.zone.clone()).collect();
    let lineup = Lineup { zones, seed: fastrand::u64(..), goes_on: false };
    let switching: Vec<HostId> = lineup.hosts().filter(|host| hosts[host.index()].switches()).collect();
    let waves = waves(&plan.rollout, &lineup, &switching);
    for (number, wave) in waves.iter().enumerate() {
        wave.iter().for_each(|host| hosts[host.index()].wave = Some(number + 1));
    }
    waves.iter().map(|wave| wave.iter().map(|host| hosts[host.index()].host.clone()).collect()).collect()
}

#[cfg(test)]
mod tests;
