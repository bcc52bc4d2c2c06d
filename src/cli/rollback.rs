//! `fleetdrop rollback`.

use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    CommandError, Output,
    chore::TargetArgs,
    fleet::{self, SwitchArgs},
    history::HistoryArgs,
    interrupt, reporting,
};
use crate::{
    controller::{self, FleetSettings, RollbackRequest},
    history::{Action, RunStart},
    model::{AppName, ReleaseId, RunId, RunSummary},
};

/// What to go back to, and how.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// Of which application, on which hosts.
    #[command(flatten)]
    pub target: TargetArgs,

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

/// A rollback that is ready to begin.
pub struct Return {
    /// On which hosts.
    pub fleet: FleetSettings,
    /// The application, where neither the command line nor the inventory say where it lives.
    pub app: Option<AppName>,
    /// The release to go to; none: on each host, the one before the current.
    pub to: Option<ReleaseId>,
    /// The inventory's file, for the history.
    pub inventory: PathBuf,
    /// The pattern that picked the hosts, for the history.
    pub pattern: Option<String>,
    /// The playbook's file, for the history.
    pub playbook: Option<PathBuf>,
    /// The interrupted run that it undoes.
    pub continues: Option<RunId>,
}

/// Rolls back and returns the exit code.
pub async fn run(args: RollbackArgs, output: &Output) -> Result<u8, CommandError> {
    let target = args.target;
    let mut plan = target.playbook.plan(output)?;
    target.place.go_over(&mut plan);
    args.switch.go_over(&mut plan);
    let fleet = fleet::settings(&target.connection, target.place.cache, args.switch.lease, args.switch.yes, &plan, output)?;
    let file = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let back = Return {
        fleet,
        app: target.app.or(plan.app),
        to: args.to,
        inventory: file(target.connection.fleet.hosts),
        pattern: target.connection.fleet.limit,
        playbook: target.playbook.playbook.map(file),
        continues: None,
    };
    back.begin(&args.history, interrupt::watch()?, output).await.map(|summary| summary.exit_code)
}

impl Return {
    /// Rolls back, reports it and writes it down.
    pub async fn begin(
        self,
        history: &HistoryArgs,
        interrupt: CancellationToken,
        output: &Output,
    ) -> Result<RunSummary, CommandError> {
        let run = reporting::new_run()?;
        let start = RunStart {
            run: run.clone(),
            action: Action::Rollback,
            app: self.app.clone(),
            release: self.to.clone(),
            artifact: None,
            inventory: self.inventory,
            pattern: self.pattern,
            playbook: self.playbook,
            who: fleet::operator(),
            command: fleet::command_line(),
            request: None,
            continues: self.continues,
        };
        let notebook = history.begin(&start, output);
        let request = RollbackRequest { fleet: self.fleet, app: self.app, to: self.to };
        reporting::report(run, notebook, output, async |events| controller::rollback(request, events, interrupt).await).await
    }
}
