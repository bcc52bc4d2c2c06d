//! The lab's command line.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::{
    contender::Contender,
    deploy::Programs,
    fleet::{Fleet, Shape, Variation},
    node,
};

/// Races ways of putting one file on a fleet of network namespaces.
#[derive(Debug, Parser)]
#[command(name = "lab", args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) race: RaceArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measures the fleets the targets are about and says which targets are met
    Targets(TargetArgs),
    /// Says which targets are met by what `targets` measured before
    Report(ReportArgs),
    /// Takes down what labs left that were killed
    Sweep(SweepArgs),
    /// Kills agents in the midst of what they do and looks at what they leave
    #[cfg(feature = "failpoints")]
    Kills(crate::kill::KillArgs),
    /// One engine
    #[command(hide = true)]
    Engine(node::EngineArgs),
    /// One tracker
    #[command(hide = true)]
    Tracker(node::TrackerArgs),
}

/// How the lab works, whatever it measures.
#[derive(Debug, clap::Args)]
pub(crate) struct Machinery {
    /// Seconds after which a contender's round is given up.
    #[arg(long, default_value_t = 900)]
    pub(crate) timeout: u64,
    /// Where the fleet's files are while it lives.
    #[arg(long, default_value = "/var/tmp")]
    pub(crate) work_dir: PathBuf,
    /// The fleetdrop that is deployed with [default: the one of the same build]
    #[arg(long)]
    fleetdrop: Option<PathBuf>,
    /// The directory with the `fleetdrop-agent` that is pushed, such as target/agent/x86_64-unknown-linux-gnu/agent [default: fleetdrop
    /// pushes itself]
    #[arg(long)]
    agent_dir: Option<PathBuf>,
    /// One more argument for `fleetdrop deploy`; may be repeated.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    deploy_option: Vec<String>,
    /// TCP's congestion control on all machines: cubic is what Linux ships with, whatever this machine is set to.
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    pub(crate) congestion: String,
    /// A file whose lock (as of flock(1)) is held during each round, so that labs on one machine take turns.
    #[arg(long)]
    pub(crate) lock: Option<PathBuf>,
}

impl Machinery {
    /// Puts the programs that are deployed with where the fleet sees them.
    pub(crate) fn install(&self, fleet: &Fleet, lab: &Path) -> Result<Programs> {
        // This program is target/PROFILE/examples/lab.
        let same_build = || lab.parent()?.parent().map(|profile| profile.join("fleetdrop"));
        let fleetdrop = self.fleetdrop.clone().or_else(same_build).context("no --fleetdrop")?;
        Programs::install(fleet, &fleetdrop, self.agent_dir.as_deref(), &self.deploy_option)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RaceArgs {
    /// How many hosts.
    #[arg(long, default_value_t = 16)]
    hosts: usize,
    /// Mbit/s of every link, each way; 0 leaves them as fast as the machine.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    rate: u32,
    /// MiB of the file.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) size: u64,
    /// How often each contender runs.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Which contenders [default: all but scp and clush, which take (hosts x floor), and the special deploys]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Every fourth host (see --every) has this fraction of the rate, given as 4 for a quarter.
    #[arg(long, value_name = "DIVISOR", group = "variation")]
    slow: Option<u32>,
    /// Every fourth host (see --every) loses this percentage of the packets that come in.
    #[arg(long, value_name = "PERCENT", group = "variation")]
    loss: Option<f64>,
    /// Two zones; the link between them is the second zone's hosts' links together over this.
    #[arg(long, value_name = "DIVISOR", group = "variation")]
    zones: Option<u32>,
    /// Of how many hosts one is slow or loses packets.
    #[arg(long, default_value_t = 4)]
    every: usize,
    /// Where the results are written as JSON.
    #[arg(long, default_value = "target/lab.json")]
    pub(crate) json: PathBuf,
    #[command(flatten)]
    pub(crate) machinery: Machinery,
}

impl RaceArgs {
    /// Returns the fleet that was asked for.
    pub(crate) fn shape(&self) -> Shape {
        let every = self.every;
        let variation = match (self.slow, self.loss, self.zones) {
            (Some(divisor), ..) => Variation::Slow { every, divisor },
            (_, Some(percent), _) => Variation::Lossy { every, percent },
            (.., Some(divisor)) => Variation::Zones { divisor },
            _ => Variation::Equal,
        };
        Shape { hosts: self.hosts, rate_mbit: (self.rate > 0).then_some(self.rate), variation }
    }

    /// Returns what is measured.
    pub(crate) fn contenders(&self) -> Result<Vec<Contender>> {
        if self.only.is_empty() {
            return Ok(Contender::usual());
        }
        Contender::ensure_built(&self.only)?;
        Ok(self.only.clone())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// Which scenarios [default: all]
    pub(crate) scenarios: Vec<String>,
    /// How often each contender runs.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Where what was measured is kept, a file a scenario.
    #[arg(long, default_value = "target/lab")]
    pub(crate) results: PathBuf,
    #[command(flatten)]
    pub(crate) machinery: Machinery,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// Where what was measured was kept.
    #[arg(long, default_value = "target/lab")]
    pub(crate) results: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SweepArgs {
    /// Where the fleets' files were.
    #[arg(long, default_value = "/var/tmp")]
    pub(crate) work_dir: PathBuf,
}
