//! `fleetdrop inventory`.

use clap::Args;

use super::{CommandError, Output, connection::FleetArgs};

/// What to show.
#[derive(Debug, Clone, Args)]
pub struct InventoryArgs {
    /// Which hosts.
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// Shows what was understood and returns the exit code.
pub async fn run(args: InventoryArgs, _output: &Output) -> Result<u8, CommandError> {
    Err(CommandError::internal(format!("showing `{}` is not wired up yet", args.fleet.hosts.display())))
}
