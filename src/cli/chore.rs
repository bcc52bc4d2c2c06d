//! What commands have in common that have every host do one small job: which hosts, which application, the exit code.

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
    controller::{
        FleetSettings,
        chore::{self, Chore},
    },
    model::{AppName, HostFailure, HostState, Operator, Plan, Verdict},
    report::{Palette, answers::Answers},
};

/// How long an agent that has one small job waits for a word from here.
const LEASE: Duration = Duration::from_secs(30);

/// Which application on which hosts.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
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

/// An application on a fleet that can be reached.
pub struct Target {
    fleet: FleetSettings,
    app: Option<AppName>,
    /// What the playbook asks for, or what is done without one.
    pub plan: Plan,
}

impl TargetArgs {
    /// Reads playbook and inventory. No host is touched.
    pub fn prepare(self, output: &Output) -> Result<Target, CommandError> {
        let mut plan = self.playbook.plan(output)?;
        self.place.go_over(&mut plan);
        let app = self.app.or(plan.app.take());
        let fleet = fleet::settings(&self.connection, self.place.cache, LEASE, true, &plan, output)?;
        Ok(Target { fleet, app, plan })
    }
}

impl Target {
    /// Returns who wants it.
    pub fn operator(&self) -> Option<Operator> {
        self.fleet.operator.clone()
    }

    /// Has every host do it.
    pub async fn ask<C: Chore>(self, chore: C) -> Result<Answers<C::Answer>, CommandError> {
        let interrupt = interrupt::watch()?;
        let app = self.app.clone();
        let answers = tokio::select! {
            answers = chore::on_all(self.fleet, self.app, chore) => answers,
            () = interrupt.cancelled() => return Err(CommandError::interrupted()),
        };
        Ok(Answers::new(app, answers))
    }
}

/// Shows a report as the options say: `json`, or for people what `render` makes of a width and colours.
pub fn show(
    json: &impl serde::Serialize,
    render: impl FnOnce(usize, Palette) -> String,
    output: &Output,
) -> Result<(), CommandError> {
    match output.format {
        Format::Json => output.print_json(json),
        _ => output.print(&render(output.stdout_width(), output.stdout_palette())),
    }
}

/// Returns the exit code: whether every host did it.
pub fn exit_code<T>(answers: &Answers<T>) -> u8 {
    let mut counts = BTreeMap::new();
    for state in answers.failures().map(HostFailure::state) {
        *counts.entry(state).or_default() += 1;
    }
    counts.insert(HostState::Active, answers.hosts.len() - answers.failures().count());
    exit::of_run(Verdict::Completed, &counts)
}
