//! `fleetdrop rollback`.

use clap::Args;

use super::{
    CommandError, Output,
    connection::ConnectionArgs,
    fleet::{self, PlaceArgs, SwitchArgs},
    interrupt,
    playbook::PlaybookArgs,
    reporting,
};
use crate::{
    controller::{self, RollbackRequest},
    model::{AppName, ReleaseId},
};

/// What to go back to, and how.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// Which hosts, and how to reach them.
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// The playbook.
    #[command(flatten)]
    pub playbook: PlaybookArgs,

    /// The application's name, needed where neither `--deploy-to`, a playbook nor the inventory says where it lives
    #[arg(long, value_name = "NAME")]
    pub app: Option<AppName>,

    /// Where things are on the hosts.
    #[command(flatten)]
    pub place: PlaceArgs,

    /// The release to go to [default: on each host, the one before the current]
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<ReleaseId>,

    /// How the fleet switches.
    #[command(flatten)]
    pub switch: SwitchArgs,
}

/// Rolls back and returns the exit code.
pub async fn run(args: RollbackArgs, output: &Output) -> Result<u8, CommandError> {
    let mut plan = args.playbook.plan(output)?;
    args.place.go_over(&mut plan);
    args.switch.go_over(&mut plan);
    let fleet = fleet::settings(&args.connection, args.place.cache, args.switch.lease, args.switch.yes, &plan, output)?;
    let request = RollbackRequest { fleet, app: args.app.or(plan.app), to: args.to };
    let interrupt = interrupt::watch()?;
    reporting::report(output, async |events| controller::rollback(request, events, interrupt).await).await
}
