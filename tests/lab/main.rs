//! The lab: a fleet of network namespaces with shaped links and real SSH servers, and races on it.
//!
//! `cargo run --release --example lab -- --help`; see README.md beside this file. Needs root on Linux.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod contender;
mod deploy;
mod fleet;
mod node;
mod race;
mod table;
#[path = "../support/node.rs"]
mod transfer_node;
#[path = "../support/venv.rs"]
mod venv;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum as _};
use fleetdrop::swarm::{Metainfo, choose_piece_length};
use sha1::{Digest as _, Sha1};
use tokio::signal::unix::{SignalKind, signal};

use contender::Contender;
use fleet::Fleet;
use table::{Measured, Results};

/// Races ways of putting one file on a fleet of network namespaces.
#[derive(Debug, Parser)]
#[command(name = "lab", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    args: Args,
    #[command(subcommand)]
    node: Option<NodeCommand>,
}

#[derive(Debug, clap::Args)]
struct Args {
    /// How many hosts.
    #[arg(long, default_value_t = 16)]
    hosts: usize,
    /// Mbit/s of every link, each way.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// MiB of the file.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    size: u64,
    /// How often each contender runs.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Which contenders; all but scp and clush unless given, which take (hosts x floor).
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Seconds after which a round is given up.
    #[arg(long, default_value_t = 900)]
    timeout: u64,
    /// Where the fleet's files are while it lives.
    #[arg(long, default_value = "/var/tmp")]
    work_dir: PathBuf,
    /// The fleetdrop that is deployed with [default: the one of the same build]
    #[arg(long)]
    fleetdrop: Option<PathBuf>,
    /// The directory with the `fleetdrop-agent` that is pushed, such as target/agent/x86_64-unknown-linux-gnu/agent [default: fleetdrop
    /// pushes itself]
    #[arg(long)]
    agent_dir: Option<PathBuf>,
    /// Where the results are written as JSON.
    #[arg(long, default_value = "target/lab.json")]
    json: PathBuf,
}

/// What the lab starts in the namespaces.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum NodeCommand {
    /// One engine
    Engine(node::EngineArgs),
    /// One tracker
    Tracker(node::TrackerArgs),
}

/// What every round needs.
struct Lab {
    fleet: Fleet,
    payload: Payload,
    /// This program, for the nodes.
    executable: PathBuf,
    /// Only if it is deployed with.
    programs: Option<deploy::Programs>,
    timeout: Duration,
}

/// The file that is sent, and its torrent.
struct Payload {
    file: PathBuf,
    /// A torrent file for other clients.
    torrent: PathBuf,
    /// The torrent's info dictionary.
    info: PathBuf,
    length: u64,
    piece_length: u32,
}

impl Payload {
    /// Writes `length` random bytes and their torrent under `directory`.
    fn make(directory: &Path, length: u64, hosts: usize, announce: &str) -> Result<Self> {
        let piece_length = choose_piece_length(length, hosts);
        let directory = directory.join("payload");
        fs::create_dir(&directory)?;
        let file = directory.join("artifact.bin");
        let mut content = vec![0; usize::try_from(length)?];
        fastrand::fill(&mut content);
        fs::write(&file, &content)?;
        let pieces = content.chunks(piece_length as usize).map(|piece| Sha1::digest(piece).into()).collect();
        let metainfo = Metainfo::new("artifact.bin", length, piece_length, pieces)?;
        let (torrent, info) = (directory.join("artifact.torrent"), directory.join("artifact.info"));
        fs::write(&torrent, metainfo.to_torrent(announce))?;
        fs::write(&info, metainfo.info_bytes())?;
        Ok(Self { file, torrent, info, length, piece_length })
    }

    /// Returns the file's name.
    fn name(&self) -> &str {
        "artifact.bin"
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.node {
        Some(NodeCommand::Engine(args)) => node::engine(args).await,
        Some(NodeCommand::Tracker(args)) => node::tracker(args).await,
        None => race_all(cli.args).await,
    }
}

async fn race_all(args: Args) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the lab makes network namespaces: run it as root");
    // Taken before anything is made, so that an interrupt can't end the program in between: it waits for the next await.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    eprintln!("lab: {} hosts at {} Mbit/s, {} MiB, {} rounds", args.hosts, args.rate, args.size, args.rounds);
    let fleet = Fleet::build(args.hosts, args.rate, &args.work_dir)?;
    let announce = node::announce_url(fleet.controller.address);
    let payload = Payload::make(&fleet.directory, args.size << 20, args.hosts, &announce)?;
    let contenders = contenders(&args);
    let executable = std::env::current_exe()?;
    let programs = contenders.contains(&Contender::Deploy).then(|| install(&fleet, &args, &executable)).transpose()?;
    let lab = Lab { fleet, payload, executable, programs, timeout: Duration::from_secs(args.timeout) };
    let measured = tokio::select! {
        measured = measure(&lab, &contenders, args.rounds) => measured?,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    };
    let results = Results {
        version: 1,
        hosts: args.hosts,
        rate_mbit: args.rate,
        size: lab.payload.length,
        piece_length: lab.payload.piece_length,
        summary: table::summarize(&measured),
        rounds: measured,
    };
    println!("{}", table::draw(&results));
    fs::write(&args.json, serde_json::to_vec_pretty(&results)?).with_context(|| args.json.display().to_string())?;
    eprintln!("lab: details in {}", args.json.display());
    Ok(())
}

/// Returns what is measured: what was asked for, or what takes little time.
fn contenders(args: &Args) -> Vec<Contender> {
    match args.only.as_slice() {
        [] => Contender::value_variants()
            .iter()
            .copied()
            .filter(|contender| !matches!(contender, Contender::Scp | Contender::Clush))
            .collect(),
        only => only.to_vec(),
    }
}

/// Puts the programs that are deployed with where the fleet sees them.
fn install(fleet: &Fleet, args: &Args, lab: &Path) -> Result<deploy::Programs> {
    // This program is target/PROFILE/examples/lab.
    let same_build = || lab.parent()?.parent().map(|profile| profile.join("fleetdrop"));
    let fleetdrop = args.fleetdrop.clone().or_else(same_build).context("no --fleetdrop")?;
    deploy::Programs::install(fleet, &fleetdrop, args.agent_dir.as_deref())
}

/// Runs every contender once a round, in turn, so that whatever else goes on meets all alike.
async fn measure(lab: &Lab, contenders: &[Contender], rounds: usize) -> Result<Vec<Measured>> {
    if contenders.contains(&Contender::Deploy) {
        deploy::prepare(lab).await?;
    }
    let mut measured = Vec::new();
    for round in 1..=rounds {
        for &contender in contenders {
            let result = contender.round(lab).await.with_context(|| format!("{}, round {round}", contender.name()))?;
            let slowest = result.times.hosts.iter().max().copied().unwrap_or_default();
            eprintln!("lab: round {round}: {:12} {:7.2} s", contender.name(), slowest.as_secs_f64());
            measured.push(Measured::new(contender, round, &result));
        }
    }
    Ok(measured)
}
