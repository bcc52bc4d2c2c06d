//! The conversation about the switch, the same for a deploy and a rollback: activate, hooks and checks, then confirmed or back.
//!
//! From the word to activate on, whatever goes wrong leads to one end: what was live before is live again, the `on_revert` hooks
//! have run, and the controller is told so if it still listens. The journal learns of it after the hooks: an agent that dies in
//! them is followed by one that runs them again.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    activation::{Activated, Confirmed, Reverted, Staged, Undone},
    failure::{JobError, chain},
    hooks::Operations,
    session::{self, Halt, Session, uninterrupted},
};
use crate::{
    model::{HostState, plan::HookPoint},
    wire::{FromAgent, ToAgent},
};

/// A switch that did not stay, and why.
#[derive(Debug)]
pub(crate) enum Unswitched {
    /// `current` never named the new release, or does so no longer although nobody learned of it.
    Before(Halt),
    /// It was live and was told so.
    After(Halt),
}

/// A release that is live for good, unless the controller wants the host back.
#[derive(Debug)]
pub(crate) struct Live {
    confirmed: Confirmed,
    operations: Operations,
}

/// Waits for the word to activate, switches, runs hooks and checks, waits for the confirmation. Without one within
/// `confirm_seconds` of the checks, or if anything else happens first, the host goes back. Nothing is left half-done when it returns.
pub(crate) async fn switch(
    session: &mut Session,
    staged: Staged,
    operations: Operations,
    confirm_seconds: u32,
) -> Result<Live, Unswitched> {
    match session.hear().await {
        Ok(ToAgent::Activate) => {}
        Ok(other) => return Err(Unswitched::Before(session.out_of_order(&other))),
        Err(halt) => return Err(Unswitched::Before(halt)),
    }
    session.during = HostState::Activating;
    let prepared = uninterrupted(move || Ok(staged.prepare()?)).await;
    let prepared = prepared.map_err(|error| Unswitched::Before(error.into()))?;
    let before = async { Ok(operations.run(HookPoint::BeforeActivate).await?) };
    if let Err(halt) = session.attend(before).await {
        // Nothing was switched, but a hook may have stopped a service.
        reverted(session, prepared.revert(), &operations, why(&halt)).await;
        return Err(Unswitched::Before(halt));
    }
    let activated = match uninterrupted(move || Ok(prepared.activate())).await {
        Ok(Ok(activated)) => activated,
        Ok(Err(undone)) => return Err(not_activated(session, *undone, &operations).await),
        Err(error) => return Err(Unswitched::After(error.into())),
    };
    session.during = HostState::Checking;
    let release = activated.release().clone();
    tracing::info!("{release} is live");
    session.tell(FromAgent::Activated { release, previous: activated.previous().cloned() }).await;
    let written = write_down(session, activated, Activated::write_down).await;
    let activated = written.map_err(|error| Unswitched::After(error.into()))?;
    match approve(session, &operations, confirm_seconds).await {
        Ok(()) => confirm(session, activated, operations).await,
        Err((halt, cause)) => Err(Unswitched::After(go_back(session, activated, &operations, halt, cause).await)),
    }
}

/// Has something written into the log of revisions, which stops nothing.
async fn write_down<T: Send + 'static>(
    session: &mut Session,
    mut what: T,
    write: fn(&mut T) -> Option<String>,
) -> Result<T, JobError> {
    let (what, trouble) = uninterrupted(move || {
        let trouble = write(&mut what);
        Ok((what, trouble))
    })
    .await?;
    warn(session, trouble).await;
    Ok(what)
}

async fn warn(session: &mut Session, trouble: Option<String>) {
    if let Some(trouble) = trouble {
        session.warn(trouble, Some("the deploy is not concerned; move away what stands there, or make room")).await;
    }
}

/// Runs the hooks of a host whose switch failed and was taken back at once.
async fn not_activated(session: &mut Session, undone: Undone, operations: &Operations) -> Unswitched {
    let Undone { error, back } = undone;
    let Some(back) = back else { return Unswitched::After(JobError::from(error).into()) };
    let hooks = operations.run_on_revert().await;
    let halt = if hooks.is_empty() { JobError::from(error) } else { JobError::AndHooks { error, hooks } }.into();
    // What may still be live after a power cut stays.
    let is_certain = back.trouble().is_none();
    finish(session, back).await;
    if is_certain { Unswitched::Before(halt) } else { Unswitched::After(halt) }
}

/// What is told of a host that goes back.
struct Cause {
    reason: String,
    output: Vec<String>,
}

fn why(halt: &Halt) -> Cause {
    let output = match halt {
        Halt::Failed(error) => error.output(),
        _ => Vec::new(),
    };
    Cause { reason: session::why(halt), output }
}

/// Runs hooks and checks of a release that is live and waits for the controller's word. Why it must not stay, if it must not.
async fn approve(session: &mut Session, operations: &Operations, confirm_seconds: u32) -> Result<(), (Halt, Cause)> {
    let told = |halt: Halt| {
        let cause = why(&halt);
        (halt, cause)
    };
    let checks = async {
        operations.run(HookPoint::AfterActivate).await?;
        Ok(operations.check_health().await?)
    };
    session.attend(checks).await.map_err(told)?;
    session.tell(FromAgent::Checked).await;
    let window = Duration::from_secs(confirm_seconds.into()).max(Duration::from_secs(1));
    match tokio::time::timeout_at(Instant::now() + window, session.hear()).await {
        Ok(Ok(ToAgent::Confirm)) => Ok(()),
        Ok(Ok(other)) => Err(told(session.out_of_order(&other))),
        Ok(Err(halt)) => Err(told(halt)),
        Err(_) => {
            let reason = format!("it was not confirmed within {} s", window.as_secs());
            Err((Halt::Told, Cause { reason, output: Vec::new() }))
        }
    }
}

async fn confirm(session: &mut Session, activated: Activated, operations: Operations) -> Result<Live, Unswitched> {
    let undone = match uninterrupted(move || Ok(activated.confirm())).await {
        Ok(Ok(confirmed)) => {
            session.tell(FromAgent::Confirmed).await;
            session.mark_settled();
            let written = write_down(session, confirmed, Confirmed::write_down).await;
            let confirmed = written.map_err(|error| Unswitched::After(error.into()))?;
            return Ok(Live { confirmed, operations });
        }
        Ok(Err(undone)) => *undone,
        Err(error) => return Err(Unswitched::After(error.into())),
    };
    let Undone { error, back } = undone;
    if let Some(back) = back {
        let reason = format!("it could not be confirmed: {}", chain(&error));
        reverted(session, back, &operations, Cause { reason, output: Vec::new() }).await;
    }
    Err(Unswitched::After(JobError::from(error).into()))
}

/// Switches back. Returns why the job ends.
async fn go_back(session: &mut Session, activated: Activated, operations: &Operations, halt: Halt, cause: Cause) -> Halt {
    match uninterrupted(move || Ok(activated.revert()?)).await {
        Ok(back) => {
            reverted(session, back, operations, cause).await;
            halt
        }
        Err(error) => error.into(),
    }
}

/// Runs the hooks of a host that went back, notes that in the journal and tells the controller. They run to their end also where
/// nobody listens any more.
async fn reverted(session: &mut Session, back: Reverted, operations: &Operations, cause: Cause) {
    let Cause { mut reason, mut output } = cause;
    if let Some(error) = back.trouble() {
        reason += &format!("; then {}", chain(error));
    }
    for error in operations.run_on_revert().await {
        reason += &format!("; then {error}");
        output.extend(error.failed.output);
    }
    tracing::warn!("went back: {reason}");
    let current = back.live().cloned();
    finish(session, back).await;
    session.tell(FromAgent::Reverted { current, reason, output }).await;
    session.mark_settled();
}

async fn finish(session: &mut Session, back: Reverted) {
    match uninterrupted(move || Ok(back.finish())).await {
        Ok(trouble) => warn(session, trouble).await,
        Err(error) => tracing::warn!("{error}"),
    }
}

/// Uploads until the controller says stop or the channel ends. If the controller wants the host back meanwhile, it goes back.
pub(crate) async fn stay(session: &mut Session, live: Live) -> Halt {
    match session.settle().await {
        Halt::SentBack(reason) => send_back(session, live, reason).await,
        halt => halt,
    }
}

/// Brings a host that was confirmed back to the release it had, then waits for the end.
pub(crate) async fn send_back(session: &mut Session, live: Live, reason: String) -> Halt {
    let Live { confirmed, operations } = live;
    match uninterrupted(move || Ok(confirmed.revert()?)).await {
        Ok(back) => reverted(session, back, &operations, Cause { reason, output: Vec::new() }).await,
        Err(error) => {
            let failure = error.report(HostState::Active, session.place.as_deref());
            session.tell(FromAgent::Failed(failure)).await;
        }
    }
    session.settle().await
}
