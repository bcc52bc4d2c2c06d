//! `fleetdrop status`.

use std::collections::BTreeMap;

use clap::Args;

use super::{
    CommandError, Output,
    connection::ConnectionArgs,
    exit,
    fleet::{self, PlaceArgs, SwitchArgs},
    interrupt,
    output::Format,
};
use crate::{
    controller::{self, StatusRequest},
    model::{AppName, HostFailure, HostState, Verdict},
    report::status::StatusReport,
};

/// What to ask the hosts about.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Which hosts, and how to reach them.
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// The application's name, needed where neither `--deploy-to` nor the inventory says where it lives
    #[arg(long, value_name = "NAME")]
    pub app: Option<AppName>,

    /// Where things are on the hosts.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Shows what is on the hosts and returns the exit code: whether every host could be asked.
pub async fn run(args: StatusArgs, output: &Output) -> Result<u8, CommandError> {
    let fleet = fleet::settings(&args.connection, args.place, SwitchArgs::default(), output)?;
    let request = StatusRequest { fleet, app: args.app.clone() };
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
    let report = StatusReport::new(args.app, answers);
    if output.format == Format::Json {
        output.print_json(&report)?;
    } else {
        output.print(&report.render(output.stdout_width(), output.stdout_palette()))?;
    }
    Ok(exit::of_run(Verdict::Completed, &counts))
}
