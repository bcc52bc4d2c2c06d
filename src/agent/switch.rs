//! The conversation about the switch, the same for a deploy and a rollback: activate, hooks and checks, then confirmed or back.
//!
//! From the word to activate on, whatever goes wrong leads to one end: what was live before is live again, the `on_revert` hooks
//! have run, and the controller is told so if it still listens.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    activation::{Activated, Confirmed, Staged, SwitchError},
    failure::{JobError, chain},
    hooks::Operations,
    session::{self, Halt, Session, uninterrupted},
};
use crate::{
    model::{HostState, ReleaseId, plan::HookPoint},
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
/// `confirm_seconds` of the checks, or if anything else happens first, the host goes back. `previous` is what is live now. Nothing
/// is left half-done when it returns.
pub(crate) async fn switch(
    session: &mut Session,
    staged: Staged,
    previous: Option<ReleaseId>,
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
        if let Err(error) = uninterrupted(move || Ok(prepared.revert()?)).await {
            return Err(Unswitched::After(error.into()));
        }
        reverted(session, previous, &operations, why(&halt)).await;
        return Err(Unswitched::Before(halt));
    }
    let activated = match uninterrupted(move || Ok(prepared.activate()?)).await {
        Ok(activated) => activated,
        Err(error) => {
            let stuck = is_stuck(&error);
            if !stuck {
                let failures = operations.run_on_revert().await;
                failures.iter().for_each(|error| tracing::warn!("{error}"));
            }
            return Err(if stuck { Unswitched::After(error.into()) } else { Unswitched::Before(error.into()) });
        }
    };
    session.during = HostState::Checking;
    let release = activated.release().clone();
    tracing::info!("{release} is live");
    session.tell(FromAgent::Activated { release, previous: activated.previous().cloned() }).await;
    match approve(session, &operations, confirm_seconds).await {
        Ok(()) => confirm(session, activated, operations).await,
        Err((halt, cause)) => Err(Unswitched::After(go_back(session, activated, &operations, halt, cause).await)),
    }
}

fn is_stuck(error: &JobError) -> bool {
    matches!(error, JobError::Switch(SwitchError::Stuck { .. }))
}

/// What is told of a host that goes back.
struct Cause {
    reason: String,
    output: Vec<String>,
}

fn why(halt: &Halt) -> Cause {
    let output = match halt {
        Halt::Failed(error) => error.output().to_vec(),
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
    let previous = activated.previous().cloned();
    match uninterrupted(move || Ok(activated.confirm()?)).await {
        Ok(confirmed) => {
            session.tell(FromAgent::Confirmed).await;
            session.mark_settled();
            Ok(Live { confirmed, operations })
        }
        Err(error) if is_stuck(&error) => Err(Unswitched::After(error.into())),
        Err(error) => {
            let reason = format!("it could not be confirmed: {}", chain(&error));
            reverted(session, previous, &operations, Cause { reason, output: Vec::new() }).await;
            Err(Unswitched::After(error.into()))
        }
    }
}

/// Switches back. Returns why the job ends.
async fn go_back(session: &mut Session, activated: Activated, operations: &Operations, halt: Halt, cause: Cause) -> Halt {
    match uninterrupted(move || Ok(activated.revert()?)).await {
        Ok(live) => {
            reverted(session, live, operations, cause).await;
            halt
        }
        Err(error) => error.into(),
    }
}

/// Runs the hooks of a host that went back to `current` and tells the controller. They run to their end also where nobody listens
/// any more.
async fn reverted(session: &mut Session, current: Option<ReleaseId>, operations: &Operations, cause: Cause) {
    let Cause { mut reason, mut output } = cause;
    for error in operations.run_on_revert().await {
        reason += &format!("; then {error}");
        output.extend(error.failed.output);
    }
    tracing::warn!("went back: {reason}");
    session.tell(FromAgent::Reverted { current, reason, output }).await;
    session.mark_settled();
}

/// Uploads until the controller says stop or the channel ends. If the controller wants the host back meanwhile, it goes back.
pub(crate) async fn stay(session: &mut Session, live: Live) -> Halt {
    let reason = match session.settle().await {
        Halt::SentBack(reason) => reason,
        halt => return halt,
    };
    let Live { confirmed, operations } = live;
    match uninterrupted(move || Ok(confirmed.revert()?)).await {
        Ok(current) => reverted(session, current, &operations, Cause { reason, output: Vec::new() }).await,
        Err(error) => {
            let failure = error.report(HostState::Active, session.place.as_deref());
            session.tell(FromAgent::Failed(failure)).await;
        }
    }
    session.settle().await
}
