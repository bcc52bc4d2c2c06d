//! `fleetdrop rollback`.

use std::path::PathBuf;

use clap::Args;

use super::{
    CommandError, Output,
    connection::ConnectionArgs,
    fleet::{self, PlaceArgs, SwitchArgs},
    history::HistoryArgs,
    interrupt,
    playbook::PlaybookArgs,
    reporting,
};
use crate::{
    controller::{self, RollbackRequest},
    history::{Action, RunStart},
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

    /// Where it is written down.
    #[command(flatten)]
    pub history: HistoryArgs,
}

/// Rolls back and returns the exit code.
pub async fn run(args: RollbackArgs, output: &Output) -> Result<u8, CommandError> {
    let mut plan = args.playbook.plan(output)?;
    args.place.go_over(&mut plan);
    args.switch.go_over(&mut plan);
    let fleet = fleet::settings(&args.connection, args.place.cache, args.switch.lease, args.switch.yes, &plan, output)?;
    let request = RollbackRequest { fleet, app: args.app.or(plan.app), to: args.to };
    let interrupt = interrupt::watch()?;
    let run = reporting::new_run()?;
    let file = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let notebook = args.history.begin(
        &RunStart {
            run: run.clone(),
            action: Action::Rollback,
            app: request.app.clone(),
            release: request.to.clone(),
            artifact: None,
            inventory: file(args.connection.fleet.hosts),
            pattern: args.connection.fleet.limit,
            playbook: args.playbook.playbook.map(file),
            who: fleet::operator(),
            command: fleet::command_line(),
            request: None,
            continues: None,
        },
        output,
    );
    let rolled_back =
        reporting::report(run, notebook, output, async |events| controller::rollback(request, events, interrupt).await);
    rolled_back.await.map(|summary| summary.exit_code)
}
