//! `fleetdrop demo`.

use clap::Args;

use super::{CommandError, Output};

/// What the demo starts.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How many SSH servers
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub hosts: u16,

    /// Keep the servers' directories and say where they are
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo and returns the exit code.
pub async fn run(args: DemoArgs, _output: &Output) -> Result<u8, CommandError> {
    Err(CommandError::internal(format!("the demo of {} hosts is not wired up yet", args.hosts)))
}
