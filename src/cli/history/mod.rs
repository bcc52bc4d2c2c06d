//! `fleetdrop history`, and the options of the commands whose runs it has.

mod notebook;
mod render;

use std::path::PathBuf;

use clap::Args;
use etcetera::BaseStrategy as _;
use serde::Serialize;

pub use notebook::{Aftermath, Notebook};

use super::{CommandError, ErrorKind, Output, exit, output::Format};
use crate::{
    history::{Filter, History, HistoryError, HostRecord, RunRecord},
    model::{AppName, HostName},
};

/// The version of the JSON objects. A change that breaks consumers raises it.
const HISTORY_VERSION: u32 = 1;

/// The file with what runs did.
#[derive(Debug, Clone, Default, Args)]
pub struct HistoryFileArgs {
    /// The file that has what runs did [default: `$XDG_STATE_HOME/fleetdrop/history.db`, else ~/.local/state/fleetdrop/history.db]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

/// Whether and where a run is written down.
#[derive(Debug, Clone, Default, Args)]
pub struct HistoryArgs {
    /// Where.
    #[command(flatten)]
    pub file: HistoryFileArgs,

    /// Do not write down what this run does: `fleetdrop history` and `resume` won't know of it
    #[arg(long, conflicts_with = "history")]
    pub no_history: bool,
}

impl HistoryFileArgs {
    /// Returns the file: the option's, or this user's.
    pub fn path(&self) -> Result<PathBuf, CommandError> {
        if let Some(path) = &self.history {
            return Ok(path.clone());
        }
        let state = etcetera::choose_base_strategy().ok().and_then(|strategy| strategy.state_dir());
        let state = state
            .ok_or_else(|| CommandError::input("cannot tell where your history is").hint("set HOME, or use `--history FILE`"));
        Ok(state?.join("fleetdrop").join("history.db"))
    }

    /// Opens what is there; none if no run was ever written down.
    pub fn open(&self) -> Result<Option<History>, CommandError> {
        History::open_existing(&self.path()?).map_err(history_error)
    }
}

/// Which runs to show.
#[derive(Debug, Clone, Args)]
pub struct HistoryCommandArgs {
    /// Show this run with its hosts; the first characters of its id are enough [default: the latest runs]
    #[arg(value_name = "RUN_ID", value_parser = run_id)]
    pub run: Option<String>,

    /// Only runs of this application
    #[arg(long, value_name = "NAME", conflicts_with = "run")]
    pub app: Option<AppName>,

    /// Only runs with this host; of one run, only this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<HostName>,

    /// How many runs
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,

    /// The history.
    #[command(flatten)]
    pub file: HistoryFileArgs,
}

/// Reads a run's id or its beginning.
pub fn run_id(text: &str) -> Result<String, String> {
    let fits = (4..=16).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if fits { Ok(text.to_owned()) } else { Err("expected a run's id: 4 to 16 hexadecimal digits".to_owned()) }
}

/// Turns the history's error into the command's.
pub fn history_error(error: HistoryError) -> CommandError {
    let hint = error.hint();
    CommandError::new(ErrorKind::Input, error).hints(hint)
}

/// Returns the run whose id begins so.
pub fn find(history: Option<&History>, start: &str) -> Result<RunRecord, CommandError> {
    let found = history.map_or(Ok(Vec::new()), |history| history.find(start).map_err(history_error))?;
    let [run] = <[RunRecord; 1]>::try_from(found).map_err(|found| {
        if found.is_empty() {
            CommandError::input(format!("the history has no run {start}")).hint("`fleetdrop history` lists the runs")
        } else {
            CommandError::input(format!("the history has several runs whose ids begin with {start}")).hint("give more of it")
        }
    })?;
    Ok(run)
}

/// The latest runs, as JSON shows them.
#[derive(Debug, Serialize)]
struct Runs {
    /// [`HISTORY_VERSION`].
    v: u32,
    runs: Vec<RunRecord>,
}

/// One run, as JSON shows it.
#[derive(Debug, Serialize)]
struct RunDetails {
    /// [`HISTORY_VERSION`].
    v: u32,
    run: RunRecord,
    phases: Vec<PhaseRecord>,
    hosts: Vec<HostRecord>,
}

/// A timed part of a run.
#[derive(Debug, Serialize)]
struct PhaseRecord {
    phase: String,
    seconds: f64,
}

/// Shows what runs did and returns the exit code.
pub async fn run(args: HistoryCommandArgs, output: &Output) -> Result<u8, CommandError> {
    let history = args.file.open()?;
    match &args.run {
        Some(start) => one(&find(history.as_ref(), start)?, &args, history.as_ref(), output)?,
        None => list(&args, history.as_ref(), output)?,
    }
    Ok(exit::SUCCESS)
}

fn list(args: &HistoryCommandArgs, history: Option<&History>, output: &Output) -> Result<(), CommandError> {
    let filter = Filter { app: args.app.clone(), host: args.host.clone(), limit: args.limit };
    let runs = history.map_or(Ok(Vec::new()), |history| history.runs(&filter)).map_err(history_error)?;
    if output.format == Format::Json {
        return output.print_json(&Runs { v: HISTORY_VERSION, runs });
    }
    if runs.is_empty() {
        output.note("the history has no such run");
        return Ok(());
    }
    output.print(&render::list(&runs, output.stdout_width(), output.stdout_palette()))
}

fn one(run: &RunRecord, args: &HistoryCommandArgs, history: Option<&History>, output: &Output) -> Result<(), CommandError> {
    let Some(history) = history else { return Ok(()) };
    let mut hosts = history.hosts(run).map_err(history_error)?;
    hosts.retain(|host| args.host.as_ref().is_none_or(|name| host.host == *name));
    let phases = history.phases(run).map_err(history_error)?;
    let phases = phases.into_iter().map(|(phase, seconds)| PhaseRecord { phase, seconds }).collect();
    let details = RunDetails { v: HISTORY_VERSION, run: run.clone(), phases, hosts };
    if output.format == Format::Json {
        return output.print_json(&details);
    }
    output.print(&render::details(&details, output.stdout_width(), output.stdout_palette()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_by_its_id_or_the_beginning_of_it() {
        assert_eq!(run_id("1f9a").unwrap(), "1f9a");
        assert_eq!(run_id("1f9a64c2d03b77e1").unwrap(), "1f9a64c2d03b77e1");
        for bad in ["", "1f9", "1F9A", "xyz1", "1f9a64c2d03b77e12", "%%%%"] {
            assert!(run_id(bad).is_err(), "{bad}");
        }
    }
}
