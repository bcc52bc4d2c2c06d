//! Who starts, who activates, when to stop: the rollout as a pure state machine.
//!
//! Owns every host's [`HostState`] during a run. Takes [`Event`]s, returns [`Action`]s; never sleeps, sends or reads a clock.
//! Promises, each property-tested below:
//! - no host activates before the barrier: every host is staged, already active, or dropped out within the budget;
//! - a run stopped before the barrier activates nobody;
//! - a final state never changes, and an event that does not fit a host's state changes nothing;
//! - when every host has reached a final state there is a [`Verdict`], and only then.

use super::{FailureBudget, HostId, HostState, Verdict};

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
    /// The host switched and waits for confirmation.
    Activated(HostId),
    /// The host took the confirmation.
    Confirmed(HostId),
    /// The host failed.
    Failed(HostId),
    /// The host could not be reached, or was lost before it was staged.
    Unreachable(HostId),
    /// The host went back to its previous release by itself.
    Reverted(HostId),
    /// The operator wants the run to stop cleanly.
    Interrupted,
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
}

/// The state machine. One per run.
#[derive(Debug, Clone)]
pub struct Rollout {
    hosts: Vec<HostState>,
    allowed: usize,
    stop: Option<Stop>,
    barrier_met: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Budget,
    Interrupt,
}

impl Rollout {
    /// Starts a rollout of `hosts` hosts, all queued.
    pub fn new(hosts: usize, budget: FailureBudget) -> Self {
        Self { hosts: vec![HostState::Queued; hosts], allowed: budget.allowed(hosts), stop: None, barrier_met: false }
    }

    /// Returns the host's state, or `None` for a host outside this fleet.
    pub fn state(&self, host: HostId) -> Option<HostState> {
        self.hosts.get(host.index()).copied()
    }

    /// True once hosts were told to activate.
    pub fn barrier_met(&self) -> bool {
        self.barrier_met
    }

    /// Returns how the run ended, once every host is in a final state.
    pub fn verdict(&self) -> Option<Verdict> {
        if !self.hosts.iter().all(|state| state.is_final()) {
            return None;
        }
        Some(match self.stop {
            Some(Stop::Budget) => Verdict::StoppedByBudget,
            Some(Stop::Interrupt) if self.hosts.contains(&HostState::Skipped) => Verdict::Interrupted,
            _ => Verdict::Completed,
        })
    }

    /// Takes one event and returns what must be done because of it, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Progressed(host, state) => {
                if state < HostState::Staged {
                    self.set(host, state);
                }
            }
            Event::Prepared(host) => self.prepared(host, &mut actions),
            Event::AlreadyActive(host) => {
                if self.state(host).is_some_and(|state| state < HostState::Staged) {
                    self.set(host, HostState::Active);
                }
            }
            Event::Staged(host) => {
                let started = HostState::Downloading..=HostState::Extracting;
                if self.state(host).is_some_and(|state| started.contains(&state)) {
                    self.set(host, HostState::Staged);
                    if self.stop.is_some() {
                        self.abandon(host, &mut actions);
                    }
                }
            }
            Event::Activated(host) => {
                if self.state(host) == Some(HostState::Activating) {
                    self.set(host, HostState::Checking);
                    actions.push(Action::Confirm(host));
                }
            }
            Event::Confirmed(host) => {
                if self.state(host) == Some(HostState::Checking) {
                    self.set(host, HostState::Active);
                }
            }
            Event::Failed(host) => self.drop_out(host, HostState::Failed),
            Event::Unreachable(host) => self.drop_out(host, HostState::Unreachable),
            Event::Reverted(host) => {
                if self.state(host).is_some_and(|state| state >= HostState::Activating) {
                    self.drop_out(host, HostState::Reverted);
                }
            }
            Event::Interrupted => {
                self.stop = Some(Stop::Interrupt);
            }
        }
        self.stop_or_pass_barrier(&mut actions);
        actions
    }

    fn set(&mut self, host: HostId, next: HostState) -> bool {
        match self.hosts.get_mut(host.index()) {
            Some(state) if state.can_become(next) => {
                *state = next;
                true
            }
            _ => false,
        }
    }

    fn prepared(&mut self, host: HostId, actions: &mut Vec<Action>) {
        if self.state(host).is_none_or(|state| state >= HostState::Downloading) {
            return;
        }
        if self.stop.is_some() {
            self.abandon(host, actions);
        } else {
            self.set(host, HostState::Downloading);
            actions.push(Action::Start(host));
        }
    }

    fn drop_out(&mut self, host: HostId, state: HostState) {
        self.set(host, state);
    }

    fn abandon(&mut self, host: HostId, actions: &mut Vec<Action>) {
        if self.set(host, HostState::Skipped) {
            actions.push(Action::Abandon(host));
        }
    }

    /// Hosts that are out without the operator's wish.
    fn dropped(&self) -> usize {
        let out = |state: &&HostState| matches!(state, HostState::Failed | HostState::Unreachable | HostState::Reverted);
        self.hosts.iter().filter(out).count()
    }

    /// Applies the budget and the barrier. After the barrier a wave that has begun is finished, whatever happens.
    fn stop_or_pass_barrier(&mut self, actions: &mut Vec<Action>) {
        if self.barrier_met {
            return;
        }
        if self.dropped() > self.allowed {
            self.stop.get_or_insert(Stop::Budget);
        }
        match self.stop {
            // Hosts that have not finished preflight go on until they have, so that the operator sees every bad host at once.
            Some(Stop::Budget) => self.abandon_from(HostState::Downloading, actions),
            Some(Stop::Interrupt) => self.abandon_from(HostState::Queued, actions),
            None => self.pass_barrier(actions),
        }
    }

    fn abandon_from(&mut self, from: HostState, actions: &mut Vec<Action>) {
        for host in (0..self.hosts.len() as u32).map(HostId) {
            if self.hosts[host.index()] >= from {
                self.abandon(host, actions);
            }
        }
    }

    fn pass_barrier(&mut self, actions: &mut Vec<Action>) {
        let waiting = |state: &HostState| *state < HostState::Staged;
        if self.hosts.iter().any(waiting) || !self.hosts.contains(&HostState::Staged) {
            return;
        }
        self.barrier_met = true;
        for host in (0..self.hosts.len() as u32).map(HostId) {
            if self.hosts[host.index()] == HostState::Staged && self.set(host, HostState::Activating) {
                actions.push(Action::Activate(host));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(hosts: u32) -> impl Iterator<Item = HostId> {
        (0..hosts).map(HostId)
    }

    #[test]
    fn everybody_is_staged_before_anybody_activates() {
        let mut rollout = Rollout::new(3, FailureBudget::NONE);
        for host in ids(3) {
            assert_eq!(rollout.handle(Event::Prepared(host)), [Action::Start(host)]);
        }
        assert_eq!(rollout.handle(Event::Staged(HostId(0))), []);
        assert_eq!(rollout.handle(Event::Staged(HostId(2))), []);
        let all: Vec<_> = ids(3).map(Action::Activate).collect();
        assert_eq!(rollout.handle(Event::Staged(HostId(1))), all);
        for host in ids(3) {
            assert_eq!(rollout.handle(Event::Activated(host)), [Action::Confirm(host)]);
            assert_eq!(rollout.verdict(), None);
            rollout.handle(Event::Confirmed(host));
        }
        assert_eq!(rollout.verdict(), Some(Verdict::Completed));
    }

    #[test]
    fn one_failure_with_no_budget_stops_the_run_but_every_host_is_still_probed() {
        let mut rollout = Rollout::new(3, FailureBudget::NONE);
        rollout.handle(Event::Prepared(HostId(0)));
        let stopped = rollout.handle(Event::Unreachable(HostId(1)));
        assert_eq!(stopped, [Action::Abandon(HostId(0))]);
        assert_eq!(rollout.verdict(), None, "host 2 has not been probed yet");
        assert_eq!(rollout.handle(Event::Prepared(HostId(2))), [Action::Abandon(HostId(2))]);
        assert_eq!(rollout.verdict(), Some(Verdict::StoppedByBudget));
    }

    #[test]
    fn within_the_budget_the_others_go_live() {
        let mut rollout = Rollout::new(2, FailureBudget::Hosts(1));
        rollout.handle(Event::Prepared(HostId(0)));
        rollout.handle(Event::Staged(HostId(0)));
        assert_eq!(rollout.handle(Event::Failed(HostId(1))), [Action::Activate(HostId(0))]);
    }

    #[test]
    fn a_staged_report_from_a_host_that_was_never_started_is_ignored() {
        let mut rollout = Rollout::new(1, FailureBudget::NONE);
        assert_eq!(rollout.handle(Event::Staged(HostId(0))), []);
        assert_eq!(rollout.state(HostId(0)), Some(HostState::Queued));
        assert_eq!(rollout.handle(Event::Activated(HostId(0))), []);
        assert_eq!(rollout.handle(Event::Staged(HostId(7))), []);
    }

    #[test]
    fn interrupt_before_the_barrier_leaves_every_host_alone() {
        let mut rollout = Rollout::new(2, FailureBudget::NONE);
        rollout.handle(Event::Prepared(HostId(0)));
        rollout.handle(Event::Staged(HostId(0)));
        rollout.handle(Event::Prepared(HostId(1)));
        assert_eq!(rollout.handle(Event::Interrupted).len(), 2);
        assert_eq!(rollout.verdict(), Some(Verdict::Interrupted));
    }

    #[test]
    fn an_interrupt_ends_the_probing_that_a_spent_budget_left_going() {
        let mut rollout = Rollout::new(2, FailureBudget::NONE);
        rollout.handle(Event::Failed(HostId(0)));
        assert_eq!(rollout.verdict(), None);
        assert_eq!(rollout.handle(Event::Interrupted), [Action::Abandon(HostId(1))]);
        assert_eq!(rollout.verdict(), Some(Verdict::Interrupted));
    }

    #[test]
    fn nothing_to_do_when_every_host_has_the_release() {
        let mut rollout = Rollout::new(2, FailureBudget::NONE);
        ids(2).for_each(|host| assert_eq!(rollout.handle(Event::AlreadyActive(host)), []));
        assert_eq!(rollout.verdict(), Some(Verdict::Completed));
    }

    fn any_event(hosts: u32) -> impl Strategy<Value = Event> {
        let host = (0..hosts + 1).prop_map(HostId);
        let state = proptest::sample::select(HostState::ALL.to_vec());
        (0u8..24, host, state).prop_map(|(kind, host, state)| match kind {
            0..=1 => Event::Progressed(host, state),
            2..=7 => Event::Prepared(host),
            8 => Event::AlreadyActive(host),
            9..=14 => Event::Staged(host),
            15..=16 => Event::Activated(host),
            17..=18 => Event::Confirmed(host),
            19 => Event::Failed(host),
            20 => Event::Unreachable(host),
            21..=22 => Event::Reverted(host),
            _ => Event::Interrupted,
        })
    }

    proptest! {
        #[test]
        fn promises_hold_for_any_events_in_any_order(
            hosts in 1u32..6,
            budget in 0u32..3,
            events in proptest::collection::vec(any_event(5), 0..120),
        ) {
            let mut rollout = Rollout::new(hosts as usize, FailureBudget::Hosts(budget));
            let mut activated = 0;
            for event in events {
                let before: Vec<_> = ids(hosts).map(|host| rollout.state(host).unwrap()).collect();
                let actions = rollout.handle(event);
                for (host, before) in ids(hosts).zip(before) {
                    let after = rollout.state(host).unwrap();
                    prop_assert!(!before.is_final() || before == after, "{before} became {after}");
                }
                for action in actions {
                    if let Action::Activate(_) = action {
                        activated += 1;
                        prop_assert!(ids(hosts).all(|host| rollout.state(host).unwrap() >= HostState::Activating));
                        let out = ids(hosts).filter(|host| matches!(
                            rollout.state(*host).unwrap(),
                            HostState::Failed | HostState::Unreachable | HostState::Reverted
                        ));
                        prop_assert!(out.count() <= budget as usize);
                    }
                }
                let finished = ids(hosts).all(|host| rollout.state(host).unwrap().is_final());
                prop_assert_eq!(rollout.verdict().is_some(), finished);
            }
            if rollout.verdict() == Some(Verdict::StoppedByBudget) {
                prop_assert_eq!(activated, 0);
            }
        }
    }
}
