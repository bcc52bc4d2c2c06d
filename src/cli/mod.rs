//! The command line: arguments, what a command prints, and the exit code.
//!
//! Owns everything a person types and every exit code ([`exit`]); with [`crate::report`] it is the only part that prints. One file
//! a command: its `Args` and its `run`, which gets [`Output`] and returns an exit code or a [`CommandError`]. Nothing in
//! the house depends on this module.

pub mod approve;
pub mod chore;
pub mod connection;
pub mod demo;
pub mod deploy;
pub mod error;
pub mod exit;
pub mod fleet;
pub mod history;
pub mod interrupt;
pub mod inventory;
pub mod origin;
pub mod output;
pub mod plan;
pub mod playbook;
pub mod prune;
pub mod releases;
pub mod reporting;
pub mod request;
pub mod resume;
pub mod rollback;
pub mod sign;
pub mod simulate;
pub mod status;
pub mod transfer;
pub mod trust;
pub mod unlock;
pub mod value;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use self::{
    error::{CommandError, ErrorKind, ResultExt},
    output::{Output, OutputArgs},
    reporting::Reporting,
};

/// How long background work may take to end once a command is done.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Puts one build artifact on many servers, verified, and makes it live at one moment.
#[derive(Debug, Parser)]
#[command(name = "fleetdrop", version, max_term_width = 100, after_help = exit::HELP)]
pub struct Cli {
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put an artifact on every host, verify it everywhere, then make it live at one moment
    Deploy(Box<deploy::DeployCommandArgs>),
    /// Show what a deploy would do on each host; nothing on hosts is changed
    Plan(Box<plan::PlanArgs>),
    /// Switch every host back to an earlier release, without any transfer
    Rollback(Box<rollback::RollbackArgs>),
    /// Finish a deploy that was cut off, or send back what it had switched
    Resume(resume::ResumeArgs),
    /// Write an artifact's manifest and sign it, for hosts that take only what is signed
    Sign(sign::SignArgs),
    /// Show each host's current and previous release
    Status(status::StatusArgs),
    /// Show what earlier runs did: the latest ones, or one with its hosts
    History(history::HistoryCommandArgs),
    /// List the releases on the hosts; hosts that have the same are shown together
    Releases(releases::ReleasesArgs),
    /// Remove old releases, what dead runs left, and cached artifacts; never what is live or what a rollback needs
    Prune(prune::PruneArgs),
    /// Free the hosts' locks: clear up after an agent that is gone, or end one that is not
    Unlock(unlock::UnlockArgs),
    /// Show the hosts an inventory and a pattern stand for
    Inventory(inventory::InventoryArgs),
    /// Deploy to a fleet of SSH servers inside this process: two versions, a rollback, and what status says
    Demo(demo::DemoArgs),
    /// Check playbooks, or print their JSON Schema
    Playbook(playbook::PlaybookCommandArgs),
    /// Predict how long a transfer to a fleet takes, on virtual links: nothing is sent
    Simulate(simulate::SimulateArgs),
}

/// Runs the command line of this process and returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = Output::detect(&cli.output);
    output.start_log();
    raise_file_limit();
    let code = run(cli.command, &output).unwrap_or_else(|error| {
        error.print(&output);
        error.exit_code()
    });
    ExitCode::from(code)
}

/// Allows as many open files as the system lets this process have: each host takes a connection, each peer another.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

/// Shows help, version or what is wrong with the arguments. Clap's own exit code for the latter is 2, which here means failed hosts.
fn refuse(error: &clap::Error) -> ExitCode {
    // Nothing is left to do if the reader is gone.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { exit::BAD_INPUT } else { exit::SUCCESS })
}

fn run(command: Command, output: &Output) -> Result<u8, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_internal("cannot start the threads of this process")?;
    let result = runtime.block_on(async {
        match command {
            Command::Deploy(args) => deploy::run(*args, output).await,
            Command::Plan(args) => plan::run(*args, output).await,
            Command::Rollback(args) => rollback::run(*args, output).await,
            Command::Resume(args) => resume::run(args, output).await,
            Command::Sign(args) => sign::run(args, output).await,
            Command::Status(args) => status::run(args, output).await,
            Command::History(args) => history::run(args, output).await,
            Command::Releases(args) => releases::run(args, output).await,
            Command::Prune(args) => prune::run(args, output).await,
            Command::Unlock(args) => unlock::run(args, output).await,
            Command::Inventory(args) => inventory::run(args, output).await,
            Command::Demo(args) => demo::run(args, output).await,
            Command::Playbook(args) => playbook::run(args, output).await,
            Command::Simulate(args) => simulate::run(args, output).await,
        }
    });
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

#[cfg(test)]
mod tests;
