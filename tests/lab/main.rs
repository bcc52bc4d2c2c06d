//! The lab: a fleet of network namespaces with shaped links and real SSH servers, and races on it.
//!
//! `cargo run --release --example lab -- --help`; see README.md beside this file. Needs root on Linux.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

#[cfg(feature = "failpoints")]
#[path = "../support/agent_rig.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "a rig of tests")]
mod agent_rig;
mod args;
mod contender;
mod deploy;
mod fleet;
#[cfg(feature = "failpoints")]
mod kill;
#[cfg(feature = "failpoints")]
#[path = "../support/kills/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "a rig of tests")]
mod kills;
mod node;
mod payload;
mod program;
mod race;
mod results;
mod scenario;
mod table;
mod target;
#[path = "../support/node.rs"]
mod transfer_node;
mod turn;
#[path = "../support/venv.rs"]
mod venv;
mod web;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use args::{Cli, Command, Machinery, RaceArgs, TargetArgs};
use contender::Contender;
use fleet::{Fleet, Shape};
use payload::Payload;
use results::{Measured, Results};
use target::Library;

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

impl Lab {
    /// Builds a fleet and a file of `length` bytes.
    fn build(shape: &Shape, length: u64, machinery: &Machinery, is_deployed: bool) -> Result<Self> {
        let fleet = Fleet::build(shape, &machinery.congestion, &machinery.work_dir)?;
        let announce = node::announce_url(fleet.controller.address);
        let payload = Payload::make(&fleet.directory, length, shape.hosts, &announce)?;
        let executable = std::env::current_exe()?;
        let programs = is_deployed.then(|| machinery.install(&fleet, &executable)).transpose()?;
        Ok(Self { fleet, payload, executable, programs, timeout: Duration::from_secs(machinery.timeout) })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        None => interruptible(race_once(cli.race)).await,
        Some(Command::Targets(args)) => interruptible(targets(args)).await,
        Some(Command::Report(args)) => report(&args.results, &[]),
        Some(Command::Sweep(args)) => sweep(&args.work_dir),
        #[cfg(feature = "failpoints")]
        Some(Command::Kills(args)) => kill::kill(args).await,
        Some(Command::Engine(args)) => node::engine(args).await,
        Some(Command::Tracker(args)) => node::tracker(args).await,
    }
}

/// Runs a command that takes a fleet down when it is dropped.
async fn interruptible(command: impl Future<Output = Result<()>>) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the lab makes network namespaces: run it as root");
    // Taken before anything is made, so that an interrupt can't end the program in between: it waits for the next await.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = command => done,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    }
}

/// Races the contenders that were asked for on the fleet that was asked for.
async fn race_once(args: RaceArgs) -> Result<()> {
    let contenders = args.contenders()?;
    let RaceArgs { size, rounds, ref machinery, .. } = args;
    let plan = Plan { shape: args.shape(), size, rounds, machinery, json: args.json.clone() };
    let results = measure(&plan, |_| contenders.clone()).await?;
    println!("{}", table::draw(&results));
    eprintln!("lab: details in {}", args.json.display());
    Ok(())
}

/// Measures scenarios, keeps what was measured, and judges it.
async fn targets(args: TargetArgs) -> Result<()> {
    let all = || scenario::SCENARIOS.iter().map(|scenario| scenario.name.to_owned()).collect();
    let names: Vec<String> = if args.scenarios.is_empty() { all() } else { args.scenarios.clone() };
    let scenarios = names.iter().map(|name| scenario::named(name).with_context(|| format!("there is no scenario {name}")));
    let scenarios = scenarios.collect::<Result<Vec<_>>>()?;
    scenarios.iter().try_for_each(|scenario| Contender::ensure_built(&scenario.contenders(1)))?;
    for scenario in scenarios {
        eprintln!("lab: {}", scenario.name);
        fs::create_dir_all(&args.results)?;
        let json = args.results.join(scenario.name).with_extension("json");
        let (rounds, machinery) = (args.rounds, &args.machinery);
        let plan = Plan { shape: scenario.shape(), size: scenario.size, rounds, machinery, json };
        let results = measure(&plan, |round| scenario.contenders(round)).await.with_context(|| scenario.name)?;
        println!("\n{}: {}, {} MiB\n\n{}\n", scenario.name, results.shape.describe(), scenario.size, table::draw(&results));
    }
    report(&args.results, &names)
}

/// Judges what was measured, of these scenarios or of all.
fn report(directory: &Path, names: &[String]) -> Result<()> {
    let mut library = Library::new();
    for scenario in scenario::SCENARIOS {
        let path = directory.join(scenario.name).with_extension("json");
        if let Ok(text) = fs::read(&path) {
            let results = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
            library.insert(scenario.name.to_owned(), results);
        }
    }
    ensure!(!library.is_empty(), "{} holds no results", directory.display());
    let shown = scenario::SCENARIOS.iter().map(|scenario| scenario.name);
    let shown: Vec<&str> = shown.filter(|name| names.is_empty() || names.iter().any(|asked| asked == name)).collect();
    let judged = target::judge(&library, &shown);
    println!("{}", table::draw_targets(&judged));
    let all = scenario::SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>();
    let path = directory.join("targets.json");
    write_json(&path, &target::judge(&library, &all))?;
    eprintln!("lab: all targets in {}", path.display());
    Ok(())
}

fn sweep(work_dir: &Path) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the lab makes network namespaces: run it as root");
    for name in fleet::sweep(work_dir)? {
        eprintln!("lab: took down {name}");
    }
    Ok(())
}

/// What is measured on one fleet.
struct Plan<'a> {
    shape: Shape,
    /// MiB of the file.
    size: u64,
    rounds: usize,
    machinery: &'a Machinery,
    /// Where the results are written, after every round.
    json: PathBuf,
}

/// Builds a fleet and runs every contender once a round, in turn, so that whatever else goes on meets all alike.
async fn measure(plan: &Plan<'_>, contenders: impl Fn(usize) -> Vec<Contender>) -> Result<Results> {
    let Plan { shape, size, rounds, machinery, json } = plan;
    eprintln!("lab: {}, {size} MiB, {rounds} rounds", shape.describe());
    let turn = turn::take(machinery.lock.as_deref()).await?;
    let is_deployed = contenders(1).iter().any(|contender| contender.deploy().is_some());
    let lab = Lab::build(shape, size << 20, machinery, is_deployed)?;
    if is_deployed {
        deploy::prepare(&lab).await?;
    }
    lab.fleet.narrow()?;
    drop(turn);
    let mut results = Results::new(&lab);
    for round in 1..=*rounds {
        let _turn = turn::take(machinery.lock.as_deref()).await?;
        for contender in contenders(round) {
            let result = contender.round(&lab).await.with_context(|| format!("{}, round {round}", contender.name()))?;
            let slowest = result.times.iter().flatten().max().copied().unwrap_or_default().as_secs_f64();
            let whole = result.whole.map_or(String::new(), |whole| format!(" ({:.2} s in all)", whole.as_secs_f64()));
            let others = result.usage.others * 100.0;
            eprintln!("lab: round {round}: {:16} {slowest:7.2} s{whole}; busy with others: {others:.0} %", contender.name());
            results.rounds.push(Measured::new(contender, round, result));
        }
        results.summarize();
        write_json(json, &results)?;
    }
    Ok(results)
}

fn write_json(path: &Path, content: &impl serde::Serialize) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(content)?).with_context(|| path.display().to_string())
}
