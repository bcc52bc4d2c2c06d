//! `fleetdrop releases`.

use clap::Args;

use super::{
    CommandError, Output,
    chore::{self, TargetArgs},
};
use crate::{controller::chore::Look, report::releases};

/// What to ask the hosts about.
#[derive(Debug, Clone, Args)]
pub struct ReleasesArgs {
    /// Which application on which hosts.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Lists the releases on the hosts and returns the exit code: whether every host could be asked. In JSON it is what `status` says.
pub async fn run(args: ReleasesArgs, output: &Output) -> Result<u8, CommandError> {
    let answers = args.target.prepare(output)?.ask(Look).await?;
    chore::show(&answers, |width, palette| releases::render(&answers, width, palette), output)?;
    Ok(chore::exit_code(&answers))
}
