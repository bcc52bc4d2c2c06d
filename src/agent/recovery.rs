//! What is done when a run's agent died between its switch and the confirmation: undo the switch, or tell how it stands.
//!
//! Every agent that takes the lock does this anyway; this job does it when no deploy follows.

use super::{
    AgentEnv,
    activation::Recovered,
    failure::JobError,
    hooks::HookError,
    lock::Predecessor,
    preflight::{self, Notice},
    root::{Root, check_trust},
    session::{Cancel, Halt, Session},
    status,
};
use crate::{
    model::{HostState, HostStatus},
    wire::FromAgent,
};

/// What came of it.
struct Outcome {
    recovered: Option<Recovered>,
    failed_hooks: Vec<HookError>,
    notices: Vec<Notice>,
    status: HostStatus,
}

/// Does a recovery. Returns once the controller has been told what is live.
pub(crate) async fn recover(session: &mut Session, dead: Predecessor, deploy_to: String) -> Result<(), Halt> {
    session.during = HostState::Checking;
    let (run, env) = (dead.run.clone(), session.env.clone());
    let outcome = session.blocking(move |cancel| undo(&dead, &deploy_to, &env, cancel)).await?;
    if let Some(Recovered::Reverted { run: of, current, .. }) = outcome.recovered
        && of == run
    {
        let (mut reason, mut output) = ("its agent died before it was confirmed".to_owned(), Vec::new());
        for error in outcome.failed_hooks {
            reason += &format!("; then {error}");
            output.extend(error.failed.output);
        }
        session.tell(FromAgent::Reverted { current, reason, output }).await;
    } else {
        for notice in outcome.notices {
            session.warn(notice.message, notice.hint).await;
        }
        session.tell(FromAgent::Status(outcome.status)).await;
    }
    session.mark_settled();
    Ok(())
}

/// Takes the lock, which finishes or undoes what is left, gives it back and looks at the result. Creates nothing where nothing
/// was deployed.
fn undo(dead: &Predecessor, deploy_to: &str, env: &AgentEnv, cancel: &Cancel) -> Result<Outcome, JobError> {
    let root = Root::new(deploy_to, env.home.as_deref())?;
    check_trust(root.path(), env.uid)?;
    let (mut recovered, mut failed_hooks, mut notices) = (None, Vec::new(), Vec::new());
    if root.private().is_dir() {
        root.prepare(env.uid)?;
        let held = preflight::hold(root.clone(), dead, env, cancel)?;
        (recovered, failed_hooks, notices) = (held.recovered, held.failed_hooks, held.notices);
    }
    Ok(Outcome { recovered, failed_hooks, notices, status: status::read(&root)? })
}
