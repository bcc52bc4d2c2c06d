//! What is done about a switch whose agent is gone: one that was not confirmed is undone, one that was is undone if the run wants the
//! host back; else it is told how things stand.
//!
//! Every agent that takes the lock does the first of these anyway; this job does it when no deploy follows.

use super::{
    AgentEnv,
    activation::{Confirmed, Recovered},
    failure::{JobError, chain},
    hooks::{HookError, Operations},
    journal::{Journal, Stage},
    lock::Predecessor,
    preflight::{self, Held, Notice},
    releases,
    root::{Root, check_trust},
    session::{Cancel, Halt, Session},
    status,
};
use crate::{
    model::{HostState, HostStatus, ReleaseId},
    wire::{FromAgent, WayBack},
};

/// What came of it.
enum Outcome {
    /// The switch was undone; what is live now, and what went wrong on the way.
    Reverted { current: Option<ReleaseId>, trouble: Option<String>, failed_hooks: Vec<HookError> },
    /// The switch can't be undone.
    Kept(ReleaseId),
    /// There was nothing to undo; whether the run's switch was confirmed.
    Nothing { notices: Vec<Notice>, confirmed: bool, status: HostStatus },
}

/// What the job asks for.
pub(crate) struct Recovery {
    /// The run and its agent that is gone.
    pub(crate) dead: Predecessor,
    /// The application's root.
    pub(crate) deploy_to: String,
    /// How the host goes back from a release that was confirmed, if the run wants that.
    pub(crate) back: Option<WayBack>,
}

/// Does a recovery. Returns once the controller has been told what is live.
pub(crate) async fn recover(session: &mut Session, job: Recovery) -> Result<(), Halt> {
    session.during = HostState::Checking;
    session.place = super::root::resolve(&job.deploy_to, "deploy_to", session.env.home.as_deref()).ok();
    let wanted = job.back.as_ref().map(|back| back.reason.clone());
    let env = session.env.clone();
    match session.blocking(move |cancel| undo(job, &env, cancel)).await? {
        Outcome::Reverted { current, trouble, failed_hooks } => {
            let mut reason = wanted.unwrap_or_else(|| "its agent died before it was confirmed".to_owned());
            let mut output = Vec::new();
            reason.extend(trouble.map(|trouble| format!("; then {trouble}")));
            for error in failed_hooks {
                reason += &format!("; then {error}");
                output.extend(error.failed.output);
            }
            session.tell(FromAgent::Reverted { current, reason, output }).await;
        }
        Outcome::Kept(release) => session.tell(FromAgent::Kept { release }).await,
        Outcome::Nothing { notices, confirmed, status } => {
            for notice in notices {
                session.warn(notice.message, notice.hint).await;
            }
            if confirmed {
                session.tell(FromAgent::Confirmed).await;
            }
            session.tell(FromAgent::Status(status)).await;
        }
    }
    session.mark_settled();
    Ok(())
}

/// Takes the lock, which finishes or undoes what is left, undoes what was confirmed if that is wanted, gives the lock back and looks at
/// the result. Creates nothing where nothing was deployed.
fn undo(job: Recovery, env: &AgentEnv, cancel: &Cancel) -> Result<Outcome, JobError> {
    let root = Root::new(&job.deploy_to, env.home.as_deref())?;
    check_trust(root.path(), env.uid)?;
    if !root.private().is_dir() {
        return Ok(Outcome::Nothing { notices: Vec::new(), confirmed: false, status: status::read(&root)? });
    }
    root.prepare(env.uid)?;
    let held = preflight::hold(root.clone(), &job.dead, env, cancel)?;
    match &held.recovered {
        Some(Recovered::Reverted { run, current, .. }) if *run == job.dead.run => {
            let current = current.clone();
            return Ok(Outcome::Reverted { current, trouble: None, failed_hooks: held.failed_hooks });
        }
        Some(Recovered::Kept { release }) => return Ok(Outcome::Kept(release.clone())),
        _ => (),
    }
    if let Some(back) = job.back
        && let Some(confirmed) = Confirmed::reopen(&root, env.clock, &job.dead.run)?
    {
        return take_back(&held, confirmed, back, &job.dead);
    }
    // What is live does not tell: a release that is activated once more is live before and after.
    let confirmed = Journal::load(root.journal())?.stage_of(&job.dead.run) == Some(Stage::Confirmed);
    // With the lock held the status would name this agent as its holder.
    let notices = held.let_go();
    Ok(Outcome::Nothing { notices, confirmed, status: status::read(&root)? })
}

/// Brings the host back from a release that was confirmed, and runs the hooks of that.
fn take_back(held: &Held, confirmed: Confirmed, back: WayBack, dead: &Predecessor) -> Result<Outcome, JobError> {
    let record = releases::record(&held.root, confirmed.release())?;
    let app = record.as_ref().map(|record| record.manifest.app.as_str());
    let operations = Operations::new(back.procedure, &dead.run, app, &held.root, confirmed.release(), confirmed.previous());
    let reverted = confirmed.undone_with(operations.undo()?).revert()?;
    // On a thread that may block, within the agent's runtime.
    let failed_hooks = tokio::runtime::Handle::current().block_on(operations.run_on_revert());
    let (current, trouble) = (reverted.live().cloned(), reverted.trouble().map(|error| chain(error)));
    if let Some(trouble) = reverted.finish() {
        tracing::warn!("{trouble}");
    }
    Ok(Outcome::Reverted { current, trouble, failed_hooks })
}
