//! `fleetdrop rollback`.

mod lost;
mod source;

use std::{net::IpAddr, path::PathBuf};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    CommandError, Output,
    chore::TargetArgs,
    exit,
    fleet::{self, SwitchArgs},
    history::HistoryArgs,
    interrupt,
    origin::ServerArgs,
    reporting,
    transfer::LimitArgs,
};
use crate::{
    controller::{self, FleetSettings, RollbackRequest, TakeBackRequest},
    history::{Action, RunStart},
    model::{AppName, ReleaseId, RunId, RunSummary},
};
use lost::{Lost, Search};

/// What to go back to, and how.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// Of which application, on which hosts.
    #[command(flatten)]
    pub target: TargetArgs,

    /// The release to go to; a host that has lost it gets it again [default: on each host, the one before the current]
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<ReleaseId>,

    /// The artifact that the release was made of, for hosts that have lost it [default: what the history says, then what hosts have in
    /// their caches, then what web servers have]
    #[arg(long, value_name = "FILE", requires = "to")]
    pub artifact: Option<PathBuf>,

    /// This machine's address as such hosts see it [default: what each host's SSH connection shows]
    #[arg(long, value_name = "IP", requires = "to")]
    pub advertise: Option<IpAddr>,

    /// Web servers.
    #[command(flatten)]
    pub servers: ServerArgs,

    /// How fast a release comes to hosts that have lost it.
    #[command(flatten)]
    pub limits: LimitArgs,

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
    /// What brings that release to hosts that have lost it.
    pub lost: Option<Lost>,
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
    let target = &args.target;
    let mut plan = target.playbook.plan(output)?;
    target.place.go_over(&mut plan);
    args.switch.go_over(&mut plan);
    args.servers.go_over(&mut plan);
    let cache = target.place.cache.clone();
    let fleet = fleet::settings(&target.connection, cache, args.switch.lease, args.switch.yes, &plan, output)?;
    let app = target.app.clone().or_else(|| plan.app.clone());
    let interrupt = interrupt::watch()?;
    let lost = match &args.to {
        Some(release) => {
            let (fleet, app, interrupt) = (&fleet, app.as_ref(), &interrupt);
            Search { fleet, app, release, args: &args, plan: &plan, interrupt, output }.run().await?
        }
        None => None,
    };
    let file = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let target = args.target;
    let back = Return {
        fleet,
        app,
        to: args.to,
        lost,
        inventory: file(target.connection.fleet.hosts),
        pattern: target.connection.fleet.limit,
        playbook: target.playbook.playbook.map(file),
        continues: None,
    };
    back.begin(&args.history, interrupt, output).await.map(|summary| summary.exit_code)
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
        let notebook = history.begin(&self.start(&run), output);
        let (again, _keeps) = self.lost.map(|lost| (lost.again, lost.keeps)).unzip();
        let no_swarm = interrupt::swarm_off()?;
        let request = RollbackRequest { fleet: self.fleet, app: self.app, to: self.to, again, no_swarm };
        reporting::report(run, notebook, output, async |events| controller::rollback(request, events, interrupt).await).await
    }

    /// Takes back what `runs` switched to `release`, on each host on its own, reports it and writes it down; `reason` is for the hosts.
    pub async fn take_back(
        mut self,
        (release, runs): (ReleaseId, Vec<RunId>),
        reason: String,
        history: &HistoryArgs,
        interrupt: CancellationToken,
        output: &Output,
    ) -> Result<RunSummary, CommandError> {
        let run = reporting::new_run()?;
        let notebook = history.begin(&self.start(&run), output);
        self.fleet.exit_code = exit::of_return;
        let request = TakeBackRequest { fleet: self.fleet, app: self.app, release, runs, reason };
        let work = async |events| Ok(controller::take_back(request, events, interrupt).await);
        reporting::report(run, notebook, output, work).await
    }

    /// Returns what the history has of it from the beginning.
    fn start(&self, run: &RunId) -> RunStart {
        RunStart {
            run: run.clone(),
            action: Action::Rollback,
            app: self.app.clone(),
            release: self.to.clone(),
            artifact: None,
            inventory: self.inventory.clone(),
            pattern: self.pattern.clone(),
            playbook: self.playbook.clone(),
            who: fleet::operator(),
            command: fleet::command_line(),
            request: None,
            listing: None,
            continues: self.continues.clone(),
        }
    }
}
