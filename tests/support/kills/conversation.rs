//! What a controller says to an agent, and how far that got.

use fleetdrop::{
    model::ReleaseId,
    wire::{FromAgent, StopReason, ToAgent},
};

use crate::agent_rig::Agent;

/// How a conversation is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The release stays live.
    Stays,
    /// It is confirmed, then sent back.
    SentBack,
    /// Nothing more is said once it is live and checked.
    Unconfirmed,
}

/// How far it got.
#[derive(Debug, Default, Clone)]
pub(super) struct Reached {
    /// What was live when the agent had put things in order.
    pub(super) found: Option<ReleaseId>,
    pub(super) told_confirm: bool,
    pub(super) confirmed: bool,
    pub(super) told_back: bool,
    pub(super) reverted: bool,
}

/// Talks to an agent until it says nothing more, which may be because it is dead. Fails where the agent does.
pub(super) async fn hold(agent: &mut Agent, end: End, reached: &mut Reached) -> Result<(), String> {
    while let Some(message) = agent.answer().await {
        let answer = match message {
            FromAgent::Prepared { current, .. } => {
                reached.found = current;
                ToAgent::Start { peers: Vec::new() }
            }
            FromAgent::Staged { .. } => ToAgent::Activate,
            FromAgent::Checked if end == End::Unconfirmed => return Ok(()),
            FromAgent::Checked => {
                reached.told_confirm = true;
                ToAgent::Confirm
            }
            FromAgent::Confirmed => {
                reached.confirmed = true;
                if end == End::SentBack {
                    reached.told_back = true;
                    ToAgent::Revert { reason: "others failed".into() }
                } else {
                    ToAgent::Stop { reason: StopReason::Finished }
                }
            }
            FromAgent::AlreadyActive { current, .. } => {
                reached.found = Some(current);
                ToAgent::Stop { reason: StopReason::Finished }
            }
            FromAgent::Reverted { .. } => {
                reached.reverted = true;
                ToAgent::Stop { reason: StopReason::Finished }
            }
            FromAgent::Activated { .. } | FromAgent::Status(_) => continue,
            other => return Err(format!("the agent said {other:?}")),
        };
        agent.tell(answer).await;
    }
    Ok(())
}
