//! `fleetdrop prune`.

use clap::Args;

use super::{
    CommandError, Output,
    chore::{self, TargetArgs},
    deploy, reporting, value,
};
use crate::{controller::chore::Prune, report::upkeep::PruneReport};

/// What may go, and from where.
#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Which application on which hosts.
    #[command(flatten)]
    pub target: TargetArgs,

    /// How many releases stay on each host, the current and the previous included [default: the playbook's `keep_releases`, then 5]
    #[arg(long, value_name = "N", value_parser = deploy::keep_releases())]
    pub keep: Option<u32>,

    /// What each host's cache of artifacts is cut down to; unused artifacts of more than 30 days go in any case
    #[arg(long, value_name = "SIZE", default_value = deploy::CACHE_LIMIT_TEXT, value_parser = value::size)]
    pub cache_limit: u64,

    /// Only show what would go
    #[arg(long)]
    pub dry_run: bool,
}

/// Removes what is no longer needed and returns the exit code: whether every host did it.
pub async fn run(args: PruneArgs, output: &Output) -> Result<u8, CommandError> {
    let PruneArgs { target, keep, cache_limit, dry_run } = args;
    let target = target.prepare(output)?;
    let prune = Prune {
        run: reporting::new_run()?,
        by: target.operator(),
        keep_releases: keep.unwrap_or(target.plan.keep_releases),
        cache_limit,
        dry_run,
    };
    let report = PruneReport { answers: target.ask(prune).await?, dry_run };
    chore::show(&report, |width, palette| report.render(width, palette), output)?;
    Ok(chore::exit_code(&report.answers))
}
