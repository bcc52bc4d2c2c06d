//! `fleetdrop unlock`.

use clap::Args;

use super::{
    CommandError, Output,
    chore::{self, TargetArgs},
    reporting,
};
use crate::{controller::chore::Unlock, report::upkeep::render_unlocked};

/// Whose locks.
#[derive(Debug, Clone, Args)]
pub struct UnlockArgs {
    /// Which application on which hosts.
    #[command(flatten)]
    pub target: TargetArgs,

    /// End an agent that is alive and holds the lock. It goes back from a release that is not confirmed, as when its controller is gone
    #[arg(long)]
    pub force: bool,
}

/// Frees the locks and returns the exit code: whether no host is locked now.
pub async fn run(args: UnlockArgs, output: &Output) -> Result<u8, CommandError> {
    let target = args.target.prepare(output)?;
    let unlock = Unlock { run: reporting::new_run()?, by: target.operator(), force: args.force };
    let answers = target.ask(unlock).await?;
    chore::show(&answers, |width, palette| render_unlocked(&answers, width, palette), output)?;
    Ok(chore::exit_code(&answers))
}
