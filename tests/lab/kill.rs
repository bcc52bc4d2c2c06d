//! The command that kills agents and counts the promises that broke.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::{
    kills::{Bench, Case, Outcome},
    table, write_json,
};

/// After how many deaths it is told how far it is.
const TOLD: usize = 50;

#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// How many agents die, each at a place or a moment that is drawn.
    #[arg(long, default_value_t = 500)]
    count: usize,
    /// What is drawn from; the same number draws the same deaths.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One death at every place each time a scene comes to it, instead of drawn ones.
    #[arg(long, conflicts_with_all = ["count", "seed"])]
    every: bool,
    /// How many die at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    at_once: u8,
    /// Where every death is written as JSON.
    #[arg(long, default_value = "target/lab/kills.json")]
    json: PathBuf,
}

/// What is written.
#[derive(Serialize)]
struct Record<'a> {
    /// None where every place had its turn.
    seed: Option<u64>,
    kills: usize,
    violations: usize,
    outcomes: &'a [Outcome],
}

/// Kills agents and fails if any promise broke.
pub(crate) async fn kill(args: KillArgs) -> Result<()> {
    let KillArgs { count, seed, every, at_once, json } = args;
    let bench = Bench::new().await;
    let cases: Vec<Case> = if every {
        bench.cases(true)
    } else {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..count).map(|_| bench.draw(&mut random)).collect()
    };
    let planned = cases.len();
    let mut ended = 0;
    let outcomes = bench
        .play_all(cases, usize::from(at_once), |outcome| {
            ended += 1;
            if let Some(violation) = &outcome.violation {
                eprintln!("lab: {:?}: {violation}", outcome.case);
            }
            if ended % TOLD == 0 {
                eprintln!("lab: {ended} of {planned}");
            }
        })
        .await;
    let violations = outcomes.iter().filter(|outcome| outcome.violation.is_some()).count();
    let mut rows: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for outcome in &outcomes {
        let row = rows.entry(outcome.case.death.to_string()).or_default();
        row.0 += 1;
        row.1 += usize::from(outcome.violation.is_some());
    }
    println!("{}", table::draw_kills(&rows));
    println!("{} kills, {violations} violations", outcomes.len());
    if let Some(directory) = json.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let kills = outcomes.len();
    write_json(&json, &Record { seed: (!every).then_some(seed), kills, violations, outcomes: &outcomes })?;
    eprintln!("lab: details in {}", json.display());
    ensure!(violations == 0, "{violations} of {kills} kills broke a promise");
    Ok(())
}
