//! What goes into the rollout and what comes out of it.

use std::time::Duration;

use super::super::{HostId, HostState};

/// What happened on a host, or what the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The host moved on within its work (connecting, downloading, verifying, ...). Not for staged or final states.
    Progressed(HostId, HostState),
    /// The host passed preflight and can start.
    Prepared(HostId),
    /// The host's current release already is what the run wants.
    AlreadyActive(HostId),
    /// The host holds a complete, verified release.
    Staged(HostId),
    /// The host switched and checks the release.
    Activated(HostId),
    /// The release passed the host's checks; it waits for confirmation.
    Checked(HostId),
    /// The host took the confirmation.
    Confirmed(HostId),
    /// The host failed, or could not go back.
    Failed(HostId),
    /// The host could not be reached, or was lost before it was staged.
    Unreachable(HostId),
    /// The host went back to its previous release, by itself or because it was told to.
    Reverted(HostId),
    /// The operator lets the next wave switch.
    Approved,
    /// The operator does not let the next wave switch.
    Declined,
    /// The operator wants the run to stop cleanly.
    Interrupted,
    /// Nothing happened but that time passed.
    TimePassed,
}

/// What the run must do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let the prepared host fetch and stage.
    Start(HostId),
    /// Let the staged host switch.
    Activate(HostId),
    /// Tell the switched host that the controller saw it.
    Confirm(HostId),
    /// Tell the host to stop and clean up; it is [`HostState::Skipped`] from now on.
    Abandon(HostId),
    /// Tell the host, which switches or has switched, to go back to the release it had before the run.
    GoBack(HostId),
    /// Wait no longer for the host, which was told to go back and has not answered. It is [`HostState::Failed`] from now on, or still
    /// [`HostState::Active`].
    GiveUp(HostId),
}

impl Action {
    /// Returns the host it is about.
    pub fn host(self) -> HostId {
        match self {
            Self::Start(host)
            | Self::Activate(host)
            | Self::Confirm(host)
            | Self::Abandon(host)
            | Self::GoBack(host)
            | Self::GiveUp(host) => host,
        }
    }
}

/// How far the fleet as a whole has got. Waves are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Hosts get ready; nobody has been told to switch.
    Staging,
    /// The hosts of this wave switch.
    Wave(usize),
    /// A pause before wave `next` begins at `until`, or when the operator lets it.
    Pause {
        /// The wave that waits.
        next: usize,
        /// When it is over; none: when the operator says so.
        until: Option<Duration>,
    },
    /// What this run has switched goes back; this wave now, the earlier ones afterwards.
    GoingBack(usize),
    /// No host will be told to switch or to go back any more.
    Over,
}

/// Why no further host is told to switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// More hosts dropped out than may.
    Budget,
    /// The operator did not let the next wave switch, or did not answer in time.
    NotApproved,
    /// The operator wants the run to stop.
    Interrupt,
}
