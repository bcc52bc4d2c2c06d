//! `fleetdrop rollback`.

use std::time::Duration;

use clap::Args;

use super::{
    CommandError, Output,
    connection::ConnectionArgs,
    fleet::{self, FleetOptions},
    interrupt, reporting, value,
};
use crate::{
    controller::{self, RollbackRequest},
    model::{AppName, FailureBudget, ReleaseId},
};

/// What to go back to, and how.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// Which hosts, and how to reach them.
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// The application's name, needed where neither `--deploy-to` nor the inventory says where it lives
    #[arg(long, value_name = "NAME")]
    pub app: Option<AppName>,

    /// The application's root on the hosts [default: `fleetdrop_deploy_to` in the inventory, then /srv/APP for root and
    /// ~/fleetdrop/APP otherwise]
    #[arg(long, value_name = "DIR")]
    pub deploy_to: Option<String>,

    /// Directory of the agent on the hosts [default: /var/cache/fleetdrop for root and ~/.cache/fleetdrop otherwise]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<String>,

    /// The release to go to [default: on each host, the one before the current]
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<ReleaseId>,

    /// How many hosts may drop out: a number or a percentage of the fleet. One more before anything is switched, and nothing is
    #[arg(long, value_name = "N|P%", default_value_t = FailureBudget::NONE, allow_hyphen_values = true)]
    pub max_failures: FailureBudget,

    /// How long a host goes on without a word from here before it stops by itself
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::host_patience)]
    pub lease: Duration,

    /// How long a host that has switched waits for the confirmation from here before it undoes the switch
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::host_patience)]
    pub confirm_timeout: Duration,
}

/// Rolls back and returns the exit code.
pub async fn run(args: RollbackArgs, output: &Output) -> Result<u8, CommandError> {
    let options = FleetOptions {
        deploy_to: args.deploy_to,
        cache: args.cache,
        lease: args.lease,
        confirm: args.confirm_timeout,
        max_failures: args.max_failures,
    };
    let fleet = fleet::settings(&args.connection, options, output)?;
    let request = RollbackRequest { fleet, app: args.app, to: args.to };
    let interrupt = interrupt::watch()?;
    reporting::report(output, async |events| controller::rollback(request, events, interrupt).await).await
}
