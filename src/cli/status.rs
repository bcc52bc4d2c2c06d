//! `fleetdrop status`.

use clap::Args;

use super::{
    CommandError, Output,
    chore::{self, TargetArgs},
};
use crate::{controller::chore::Look, report::status};

/// What to ask the hosts about.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Which application on which hosts.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Shows what is live on the hosts and returns the exit code: whether every host could be asked.
pub async fn run(args: StatusArgs, output: &Output) -> Result<u8, CommandError> {
    let answers = args.target.prepare(output)?.ask(Look).await?;
    chore::show(&answers, |width, palette| status::render(&answers, width, palette), output)?;
    Ok(chore::exit_code(&answers))
}
