//! `fleetdrop status`.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;

use super::{
    CommandError, Output,
    connection::ConnectionArgs,
    exit,
    fleet::{self, PlaceArgs},
    interrupt,
    output::Format,
    playbook::PlaybookArgs,
};
use crate::{
    controller::{self, StatusRequest},
    model::{AppName, HostFailure, HostState, Verdict},
    report::status::StatusReport,
};

/// How long an agent that was only asked waits for a word from here.
const LEASE: Duration = Duration::from_secs(30);

/// What to ask the hosts about.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
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
}

/// Shows what is on the hosts and returns the exit code: whether every host could be asked.
pub async fn run(args: StatusArgs, output: &Output) -> Result<u8, CommandError> {
    let mut plan = args.playbook.plan(output)?;
    args.place.go_over(&mut plan);
    let app = args.app.or(plan.app.take());
    let fleet = fleet::settings(&args.connection, args.place.cache, LEASE, true, &plan, output)?;
    let request = StatusRequest { fleet, app: app.clone() };
    let interrupt = interrupt::watch()?;
    let answers = tokio::select! {
        answers = controller::status(request) => answers,
        () = interrupt.cancelled() => return Err(CommandError::interrupted()),
    };
    let mut counts = BTreeMap::new();
    for (_, answer) in &answers {
        let state = answer.as_ref().err().map_or(HostState::Active, HostFailure::state);
        *counts.entry(state).or_default() += 1;
    }
    let report = StatusReport::new(app, answers);
    if output.format == Format::Json {
        output.print_json(&report)?;
    } else {
        output.print(&report.render(output.stdout_width(), output.stdout_palette()))?;
    }
    Ok(exit::of_run(Verdict::Completed, &counts))
}
