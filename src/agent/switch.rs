//! The conversation about the switch, the same for a deploy and a rollback: activate, then confirmed or back.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    activation::{Activated, Staged, SwitchError},
    failure::{JobError, chain},
    session::{self, Halt, Session, uninterrupted},
};
use crate::{
    model::{HostState, ReleaseId},
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

/// Waits for the word to activate, switches, waits for the confirmation. Without one within `confirm_seconds`, or if anything else
/// happens first, the host goes back. Nothing is left half-done when it returns.
pub(crate) async fn switch(session: &mut Session, staged: Staged, confirm_seconds: u32) -> Result<(), Unswitched> {
    match session.hear().await {
        Ok(ToAgent::Activate) => {}
        Ok(other) => return Err(Unswitched::Before(session.out_of_order(&other))),
        Err(halt) => return Err(Unswitched::Before(halt)),
    }
    session.during = HostState::Activating;
    let activated = match uninterrupted(move || Ok(staged.activate()?)).await {
        Ok(activated) => activated,
        Err(error @ JobError::Switch(SwitchError::Stuck { .. })) => return Err(Unswitched::After(error.into())),
        Err(error) => return Err(Unswitched::Before(error.into())),
    };
    session.during = HostState::Checking;
    let (release, previous) = (activated.release().clone(), activated.previous().cloned());
    tracing::info!("{release} is live");
    session.tell(FromAgent::Activated { release, previous: previous.clone() }).await;
    let window = Duration::from_secs(confirm_seconds.into()).max(Duration::from_secs(1));
    let (halt, reason) = match tokio::time::timeout_at(Instant::now() + window, session.hear()).await {
        Ok(Ok(ToAgent::Confirm)) => return confirm(session, activated, previous).await,
        Ok(Ok(other)) => {
            let halt = session.out_of_order(&other);
            let reason = session::why(&halt);
            (halt, reason)
        }
        Ok(Err(halt)) => {
            let reason = session::why(&halt);
            (halt, reason)
        }
        Err(_) => (Halt::Told, format!("it was not confirmed within {} s", window.as_secs())),
    };
    match uninterrupted(move || Ok(activated.revert()?)).await {
        Ok(live) => reverted(session, live, reason).await,
        Err(error) => return Err(Unswitched::After(error.into())),
    }
    Err(Unswitched::After(halt))
}

async fn confirm(session: &mut Session, activated: Activated, previous: Option<ReleaseId>) -> Result<(), Unswitched> {
    match uninterrupted(move || Ok(activated.confirm()?)).await {
        Ok(()) => {
            session.tell(FromAgent::Confirmed).await;
            session.mark_settled();
            Ok(())
        }
        Err(error @ JobError::Switch(SwitchError::Stuck { .. })) => Err(Unswitched::After(error.into())),
        Err(error) => {
            let reason = format!("it could not be confirmed: {}", chain(&error));
            reverted(session, previous, reason).await;
            Err(Unswitched::After(error.into()))
        }
    }
}

async fn reverted(session: &mut Session, current: Option<ReleaseId>, reason: String) {
    tracing::warn!("went back: {reason}");
    session.tell(FromAgent::Reverted { current, reason }).await;
    session.mark_settled();
}
