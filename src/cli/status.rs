//! `fleetdrop status`.

use clap::Args;

use super::{CommandError, Output, connection::ConnectionArgs};
use crate::model::AppName;

/// What to ask the hosts about.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Which hosts, and how to reach them.
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// The application's name
    #[arg(long, value_name = "NAME")]
    pub app: AppName,

    /// The application's root on the hosts [default: `fleetdrop_deploy_to` in the inventory, then /srv/APP for root and
    /// ~/fleetdrop/APP otherwise]
    #[arg(long, value_name = "DIR")]
    pub deploy_to: Option<String>,
}

/// Shows what is on the hosts and returns the exit code.
pub async fn run(args: StatusArgs, _output: &Output) -> Result<u8, CommandError> {
    Err(CommandError::internal(format!("the status of {} is not wired up yet", args.app)))
}
