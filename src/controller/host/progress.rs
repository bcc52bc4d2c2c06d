//! What outlives a host's connection: how far it got, and how long it may stay away. Reads the clock and nothing else.

use std::time::Duration;

use tokio::time::Instant;

use super::{AWAY, LONGEST_PAUSE, REACH};
use crate::{
    model::{FailureKind, HostFailure, HostState, ReleaseId},
    wire::{FromAgent, PeerAddr},
};

/// How often a connection may break in one run.
const LOSSES: u32 = 3;
/// How long a lost host may stay away where something answers on it: it is up, and busy.
const BUSY: Duration = Duration::from_secs(60);

/// How far a host got.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) state: HostState,
    /// First peers, once the host was started.
    pub(super) started: Option<Vec<PeerAddr>>,
    /// It is to switch as soon as it is staged again.
    pub(super) must_switch: bool,
    /// The release it staged.
    pub(super) release: Option<ReleaseId>,
    /// Why it was told to go back, if it was.
    pub(super) back: Option<String>,
    /// The process id of the last agent of the job, on the host.
    pub(super) agent: Option<u32>,
    /// That of the last agent that was to find out what became of it.
    pub(super) successor: Option<u32>,
    /// How often the connection broke.
    losses: u32,
    /// When it broke, until a new one has got as far.
    lost_at: Option<Instant>,
    /// Attempts since then.
    pub(super) attempts: u32,
    /// Something answered to the last of them.
    pub(super) answers: bool,
}

impl Progress {
    /// Begins with a host that nobody tried yet.
    pub(super) fn new() -> Self {
        Self {
            state: HostState::Queued,
            started: None,
            must_switch: false,
            release: None,
            back: None,
            agent: None,
            successor: None,
            losses: 0,
            lost_at: None,
            attempts: 0,
            answers: false,
        }
    }

    /// True if a connection that broke is to be replaced: a few times a run, and not for a host that stays away.
    pub(super) fn may_reconnect(&mut self) -> bool {
        if self.lost_at.is_some() {
            return self.lost_within(if self.answers { BUSY } else { AWAY });
        }
        self.losses += 1;
        (self.lost_at, self.attempts, self.answers) = (Some(Instant::now()), 0, false);
        self.losses <= LOSSES
    }

    /// Notes that a new connection has got as far as the lost one: a later loss is another one.
    pub(super) fn found(&mut self) {
        self.lost_at = None;
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost_at.is_some()
    }

    pub(super) fn lost_within(&self, limit: Duration) -> bool {
        self.lost_at.is_some_and(|at| at.elapsed() < limit)
    }

    /// Returns how long the next attempt may wait for the network, if the host was lost.
    pub(super) fn reach(&self) -> Option<Duration> {
        let left = AWAY.saturating_sub(self.lost_at?.elapsed());
        Some(left.clamp(Duration::from_secs(1), REACH))
    }

    /// Counts an attempt and returns how long to wait before the next one; never past the time in which the host may stay away.
    pub(super) fn next_pause(&mut self) -> Duration {
        self.attempts += 1;
        let pause = Duration::from_millis(500 << self.attempts.min(4)).min(LONGEST_PAUSE).mul_f64(0.5 + fastrand::f64());
        let left = self.lost_at.map_or(Duration::MAX, |at| AWAY.saturating_sub(at.elapsed()));
        if left.is_zero() { pause } else { pause.min(left) }
    }

    /// Returns what is wrong with a message, if an agent that does as it is told would not send it now; `wanted` is the release that a
    /// deploy is to make, where no other will do.
    pub(super) fn objection(&self, message: &FromAgent, wanted: Option<&ReleaseId>) -> Option<&'static str> {
        let (in_time, name) = match message {
            // A host that was lost once it had staged begins anew.
            FromAgent::Prepared { .. } => (self.state <= HostState::Staged, "prepared"),
            FromAgent::AlreadyActive { .. } => (self.state <= HostState::Staged, "already_active"),
            FromAgent::Staged { release, .. } if wanted.is_none_or(|wanted| wanted == release) => {
                (self.state < HostState::Staged, "staged")
            }
            FromAgent::Staged { .. } => (false, "staged, with another release"),
            FromAgent::Activated { .. } => (self.state == HostState::Activating, "activated"),
            FromAgent::Checked => (self.state == HostState::Checking, "checked"),
            FromAgent::Confirmed => (self.state == HostState::Checking, "confirmed"),
            FromAgent::Reverted { .. } => (self.state >= HostState::Staged, "reverted"),
            FromAgent::Hello(_) => (false, "hello"),
            // Answers to other jobs.
            FromAgent::Kept { .. } | FromAgent::Status(_) | FromAgent::Pruned(_) | FromAgent::Unlocked(_) => {
                (false, "an answer")
            }
            FromAgent::State { .. }
            | FromAgent::Progress(_)
            | FromAgent::Stranded { .. }
            | FromAgent::Mode { .. }
            | FromAgent::Failed(_)
            | FromAgent::Relays { .. }
            | FromAgent::Alive
            | FromAgent::Warning { .. } => (true, ""),
        };
        (!in_time).then_some(name)
    }

    /// Makes a loss for good a failure where the host had been staged: it was reached, and did not do what it was to do.
    pub(super) fn blame(&self, mut failure: HostFailure) -> HostFailure {
        if self.release.is_some() && failure.kind == FailureKind::Unreachable {
            (failure.kind, failure.during) = (FailureKind::Failed, HostState::Staged);
        }
        failure
    }

    /// Returns whose lock a further agent may find: the lost agent's, or its successor's in turn.
    pub(super) fn predecessor(&self, attempt: u32) -> Option<u32> {
        if attempt.is_multiple_of(2) { self.agent } else { self.successor.or(self.agent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets attempts fail, each after what it may take, until the host is given up; returns the time from the loss on.
    async fn given_up_after(answers: bool, takes: impl Fn(&Progress) -> Duration) -> Duration {
        let mut progress = Progress::new();
        let lost = Instant::now();
        assert!(progress.may_reconnect());
        loop {
            tokio::time::sleep(progress.next_pause()).await;
            tokio::time::sleep(takes(&progress)).await;
            progress.answers = answers;
            if !progress.may_reconnect() {
                return lost.elapsed();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_host_is_given_up_half_a_minute_after_its_last_word_and_a_busy_one_later() {
        for _ in 0..100 {
            let dead = given_up_after(false, |progress| progress.reach().unwrap()).await;
            assert!((15..=17).contains(&dead.as_secs()), "{dead:?}");
            let refusing = given_up_after(false, |_| Duration::ZERO).await;
            assert!((15..=17).contains(&refusing.as_secs()), "{refusing:?}");
            let busy = given_up_after(true, |_| Duration::from_secs(20)).await;
            assert!((60..=90).contains(&busy.as_secs()), "{busy:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_again_and_again_is_not_replaced_for_ever() {
        let mut progress = Progress::new();
        for _ in 0..LOSSES {
            assert!(progress.may_reconnect());
            progress.found();
        }
        assert!(!progress.may_reconnect());
    }

    #[test]
    fn an_agent_gets_no_further_by_saying_so() {
        let [wanted, other] = ["a", "b"].map(|id| ReleaseId::new(id).unwrap());
        let staged = |release: &ReleaseId| FromAgent::Staged { release: release.clone(), bytes: Default::default() };
        let activated = FromAgent::Activated { release: wanted.clone(), previous: None };
        let steps = [
            (HostState::Downloading, staged(&wanted)),
            (HostState::Activating, activated),
            (HostState::Checking, FromAgent::Checked),
            (HostState::Checking, FromAgent::Confirmed),
        ];
        for state in [HostState::Downloading, HostState::Staged, HostState::Activating, HostState::Checking, HostState::Active]
        {
            let progress = Progress { state, ..Progress::new() };
            for (at, message) in &steps {
                assert_eq!(progress.objection(message, Some(&wanted)).is_none(), state == *at, "{state}: {message:?}");
            }
            assert!(progress.objection(&staged(&other), Some(&wanted)).is_some());
            assert_eq!(progress.objection(&staged(&other), None).is_none(), state == HostState::Downloading);
            assert_eq!(progress.objection(&FromAgent::Alive, Some(&wanted)), None);
        }
    }

    #[test]
    fn whoever_may_hold_the_lock_is_named_in_turn() {
        let mut progress = Progress::new();
        progress.agent = Some(7);
        assert_eq!([0, 1, 2].map(|attempt| progress.predecessor(attempt)), [Some(7); 3]);
        progress.successor = Some(8);
        assert_eq!([0, 1, 2].map(|attempt| progress.predecessor(attempt)), [Some(7), Some(8), Some(7)]);
    }
}
