//! The operator's way to a free lock: who has it is told; an agent that is gone is cleaned up after, one that is alive is ended only if
//! that is asked for.

use super::{
    AgentEnv,
    failure::JobError,
    lock::{self, LockError, Look, Predecessor},
    preflight::{self, Notice},
    root::{Root, check_trust},
    session::{Cancel, Halt, Session},
};
use crate::{
    model::{HostState, Unlocked},
    wire::FromAgent,
};

/// What the job asks for.
pub(crate) struct Unlock {
    /// Who takes the lock for a moment.
    pub(crate) claim: Predecessor,
    /// The application's root.
    pub(crate) deploy_to: String,
    /// Whether to end a process that holds the lock.
    pub(crate) force: bool,
}

/// Frees the lock, tells how it was found, and ends.
pub(crate) async fn unlock(session: &mut Session, job: Unlock) -> Result<(), Halt> {
    session.during = HostState::Preparing;
    let env = session.env.clone();
    let (unlocked, notices) = session.blocking(move |cancel| free(&job, &env, cancel)).await?;
    for notice in notices {
        session.warn(notice.message, notice.hint).await;
    }
    session.tell(FromAgent::Unlocked(unlocked)).await;
    session.mark_settled();
    Ok(())
}

/// Sees to it that nobody holds the lock, then takes it for a moment, which finishes or undoes what its last holder left. Creates nothing
/// where nothing was deployed.
fn free(job: &Unlock, env: &AgentEnv, cancel: &Cancel) -> Result<(Unlocked, Vec<Notice>), JobError> {
    let root = Root::new(&job.deploy_to, env.home.as_deref())?;
    check_trust(root.path(), env.uid)?;
    if !root.private().is_dir() {
        return Ok((Unlocked::Free, Vec::new()));
    }
    let unlocked = match lock::look(&root.lock())? {
        Look::Free(None) => Unlocked::Free,
        Look::Free(Some(holder)) => Unlocked::Left { holder },
        Look::Held(holder) if job.force => {
            let killed = lock::end_holder(&root.lock(), &|| cancel.is_set())?;
            Unlocked::Ended { holder, killed }
        }
        Look::Held(holder) => return Err(LockError::Held { path: root.lock(), holder }.into()),
    };
    root.prepare(env.uid)?;
    let held = preflight::hold(root, &job.claim, env, cancel)?;
    Ok((unlocked, held.notices))
}
