//! A host's states and what can go wrong with it.

use serde::{Deserialize, Serialize};

/// Where a host is in its run, in order. A final state never changes, with one exception: an active host that is sent back by
/// the run that switched it becomes reverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// Waits for a free login slot.
    Queued,
    /// TCP, SSH handshake, authentication.
    Connecting,
    /// Probe, agent push, preflight.
    Preparing,
    /// Receives the artifact.
    Downloading,
    /// Receives what the swarm lacks from an origin.
    Backfilling,
    /// Checks the artifact's SHA-256.
    Verifying,
    /// Unpacks into a temporary release directory.
    Extracting,
    /// Holds a complete, verified release that is not live.
    Staged,
    /// Switches `current`.
    Activating,
    /// Live, waits for health checks and the controller's confirmation.
    Checking,
    /// Live and confirmed. Final.
    Active,
    /// Went back to its previous release. Final.
    Reverted,
    /// Something went wrong; its old release is live. Final.
    Failed,
    /// Never reached, or lost before anything was staged. Final.
    Unreachable,
    /// Left alone because the run stopped. Final.
    Skipped,
}

impl HostState {
    /// Every state, in order.
    pub const ALL: [Self; 15] = [
        Self::Queued,
        Self::Connecting,
        Self::Preparing,
        Self::Downloading,
        Self::Backfilling,
        Self::Verifying,
        Self::Extracting,
        Self::Staged,
        Self::Activating,
        Self::Checking,
        Self::Active,
        Self::Reverted,
        Self::Failed,
        Self::Unreachable,
        Self::Skipped,
    ];

    /// True if nothing can follow this state.
    pub fn is_final(self) -> bool {
        self >= Self::Active
    }

    /// True for the states of a host that dropped out by itself.
    pub fn is_out(self) -> bool {
        matches!(self, Self::Reverted | Self::Failed | Self::Unreachable)
    }

    /// True if `next` may follow: forward only (downloading and backfilling alternate), and out of a final state only from active
    /// to reverted.
    pub fn can_become(self, next: Self) -> bool {
        if self.is_final() || self == next {
            return (self, next) == (Self::Active, Self::Reverted);
        }
        next > self || (self == Self::Backfilling && next == Self::Downloading)
    }

    /// Returns the word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Connecting => "connecting",
            Self::Preparing => "preparing",
            Self::Downloading => "downloading",
            Self::Backfilling => "backfilling",
            Self::Verifying => "verifying",
            Self::Extracting => "extracting",
            Self::Staged => "staged",
            Self::Activating => "activating",
            Self::Checking => "checking",
            Self::Active => "active",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
            Self::Skipped => "skipped",
        }
    }
}

impl std::fmt::Display for HostState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The two ways a host can drop out, which the exit code tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No usable SSH connection: down, refused, host key changed, not authorised.
    Unreachable,
    /// Reached, but the job failed there.
    Failed,
}

/// Why a host dropped out: what an operator needs to act on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFailure {
    /// Unreachable or failed.
    pub kind: FailureKind,
    /// The state the host was in.
    pub during: HostState,
    /// What happened, with the path, address or limit concerned; one line, cause after cause.
    pub message: String,
    /// What to do about it, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The last lines the host wrote, oldest first, bounded; shown for failed hosts only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

impl HostFailure {
    /// Makes a failure without hint and log.
    pub fn new(kind: FailureKind, during: HostState, message: impl Into<String>) -> Self {
        Self { kind, during, message: message.into(), hint: None, log_tail: Vec::new() }
    }

    /// Adds what to do about it.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the final state this failure leads to.
    pub fn state(&self) -> HostState {
        match self.kind {
            FailureKind::Unreachable => HostState::Unreachable,
            FailureKind::Failed => HostState::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_state_leaves_a_final_one_but_an_active_host_sent_back_and_every_other_can_fail() {
        for from in HostState::ALL {
            for to in HostState::ALL {
                if from.is_final() {
                    let sent_back = (from, to) == (HostState::Active, HostState::Reverted);
                    assert_eq!(from.can_become(to), sent_back, "{from} -> {to}");
                }
            }
            assert_eq!(from.can_become(HostState::Failed), !from.is_final(), "{from}");
        }
        assert!(HostState::Backfilling.can_become(HostState::Downloading));
        assert!(!HostState::Staged.can_become(HostState::Downloading));
    }
}
