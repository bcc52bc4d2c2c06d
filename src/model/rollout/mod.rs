//! Who starts, who activates, when to stop, who goes back: the rollout as a pure state machine.
//!
//! Owns every host's [`HostState`] during a run. Takes [`Event`]s and the time since the run began, returns [`Action`]s; never
//! sleeps, sends or reads a clock: [`Rollout::deadline`] tells when it wants to be asked again though nothing happened.
//! Promises, each property-tested:
//! - no host activates before the barrier: every host is staged, already active, or dropped out within the budget;
//! - a run stopped before the barrier activates nobody;
//! - hosts activate in waves, and no more of them are between two releases at a time than their wave has;
//! - once more hosts have dropped out than may, no further host activates, unless the plan says to go on;
//! - a host that was told to activate ends active or reverted, or failed where it could not say what became of it;
//! - a host that was told to go back is waited for no longer than the plan's progress deadline;
//! - a final state never changes, except that an active host that was told to go back becomes reverted; an event that does not
//!   fit a host's state changes nothing;
//! - there is a [`Verdict`] when every host has reached a final state and none is going back, and only then.

mod events;
mod lineup;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use events::{Action, Event, Step, Stop};
pub use lineup::{Lineup, waves};

use super::{
    HostId, HostState, Verdict,
    plan::{OnFailure, Pause, RolloutPlan},
};

/// The state machine. One per run.
#[derive(Debug, Clone)]
pub struct Rollout {
    plan: RolloutPlan,
    lineup: Lineup,
    hosts: Vec<Seat>,
    /// From the barrier on: the hosts of each wave that switch in it. Only where a run goes on with another can one be empty.
    waves: Vec<Vec<HostId>>,
    step: Step,
    stop: Option<Stop>,
    /// True once a host was told to go back because the run failed.
    went_back: bool,
    now: Duration,
    /// When the current step began, or a host of the current wave got further.
    moved: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Seat {
    state: HostState,
    wave: Option<usize>,
    back: Back,
}

/// Whether a host was told to go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// It was not.
    No,
    /// It was, then, and has not answered.
    Since(Duration),
    /// It was, and is not waited for any more: it has answered, or did not in time. It is not told again.
    Past,
}

impl Seat {
    /// True while it is between two releases.
    fn is_switching(self) -> bool {
        matches!(self.state, HostState::Activating | HostState::Checking) || self.is_going_back()
    }

    fn is_going_back(self) -> bool {
        matches!(self.back, Back::Since(_))
    }
}

impl Rollout {
    /// Starts a rollout over the fleet in `lineup`, all queued.
    pub fn new(plan: RolloutPlan, lineup: Lineup) -> Self {
        let seat = Seat { state: HostState::Queued, wave: None, back: Back::No };
        Self {
            plan,
            hosts: vec![seat; lineup.zones.len()],
            lineup,
            waves: Vec::new(),
            step: Step::Staging,
            stop: None,
            went_back: false,
            now: Duration::ZERO,
            moved: Duration::ZERO,
        }
    }

    /// Returns the host's state, or `None` for a host outside this fleet.
    pub fn state(&self, host: HostId) -> Option<HostState> {
        self.hosts.get(host.index()).map(|seat| seat.state)
    }

    /// Returns the host's wave; none before the barrier, and for a host that has nothing to switch.
    pub fn wave(&self, host: HostId) -> Option<usize> {
        self.hosts.get(host.index())?.wave
    }

    /// Returns the hosts that switch in each wave; empty before the barrier.
    pub fn waves(&self) -> &[Vec<HostId>] {
        &self.waves
    }

    /// Returns how far the fleet has got.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Returns why no further host will be told to switch, if that is so.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// True for a host that was told to go back and has not answered.
    pub fn is_going_back(&self, host: HostId) -> bool {
        self.hosts.get(host.index()).is_some_and(|seat| seat.is_going_back())
    }

    /// True once hosts were told to activate.
    pub fn barrier_met(&self) -> bool {
        !self.waves.is_empty()
    }

    /// Returns when [`Event::TimePassed`] changes something, if nothing else happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let answer = self.hosts.iter().filter_map(|seat| self.answer_until(*seat)).min();
        [self.step_until(), answer].into_iter().flatten().min()
    }

    /// Returns when the step goes on though nothing happens.
    fn step_until(&self) -> Option<Duration> {
        let patience = self.moved.saturating_add(self.plan.progress_deadline);
        match self.step {
            Step::Wave(wave) if self.stragglers(wave).next().is_some() => Some(patience),
            Step::Pause { until, .. } => Some(until.unwrap_or(patience)),
            _ => None,
        }
    }

    /// Returns until when a host that was told to go back is waited for.
    fn answer_until(&self, seat: Seat) -> Option<Duration> {
        match seat.back {
            Back::Since(told) => Some(told.saturating_add(self.plan.progress_deadline)),
            Back::No | Back::Past => None,
        }
    }

    /// Returns how the run ended, once every host is in a final state and none is going back.
    pub fn verdict(&self) -> Option<Verdict> {
        if !self.hosts.iter().all(|seat| seat.state.is_final() && !seat.is_going_back()) {
            return None;
        }
        let is_partial = self.hosts.iter().any(|seat| seat.state == HostState::Skipped);
        Some(match self.stop {
            Some(Stop::Interrupt) if is_partial || self.went_back => Verdict::Interrupted,
            _ if self.went_back => Verdict::RolledBack,
            Some(Stop::Budget) if is_partial || !self.barrier_met() => Verdict::StoppedByBudget,
            Some(Stop::NotApproved) if is_partial => Verdict::NotApproved,
            _ => Verdict::Completed,
        })
    }

    /// Takes one event that happened at `now` (since the run began) and returns what must be done because of it, in order. A
    /// `now` before an earlier one counts as that one.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        match event {
            Event::Prepared(host) => self.prepared(host, &mut actions),
            Event::Staged(host) => self.staged(host, &mut actions),
            Event::Checked(host) => self.checked(host, &mut actions),
            Event::Approved | Event::Declined | Event::Interrupted | Event::TimePassed => self.told(event, &mut actions),
            Event::Progressed(host, _)
            | Event::AlreadyActive(host)
            | Event::Activated(host)
            | Event::Confirmed(host)
            | Event::Failed(host)
            | Event::Unreachable(host)
            | Event::Reverted(host) => self.moved_on(host, event),
        }
        // Each turn is a later step: waves go up, then maybe down again, and end.
        loop {
            let before = self.step;
            self.advance(&mut actions);
            if self.step == before {
                return actions;
            }
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

    fn staged(&mut self, host: HostId, actions: &mut Vec<Action>) {
        let started = HostState::Downloading..=HostState::Extracting;
        if self.state(host).is_some_and(|state| started.contains(&state)) {
            self.set(host, HostState::Staged);
            if self.stop.is_some() {
                self.abandon(host, actions);
            }
        }
    }

    fn checked(&mut self, host: HostId, actions: &mut Vec<Action>) {
        let waits = |seat: &Seat| seat.state == HostState::Checking && !seat.is_going_back();
        if self.hosts.get(host.index()).is_some_and(waits) {
            self.moved = self.now;
            actions.push(Action::Confirm(host));
        }
    }

    /// An event that only changes its host's state.
    fn moved_on(&mut self, host: HostId, event: Event) {
        let Some(seat) = self.hosts.get(host.index()).copied() else { return };
        let next = match event {
            Event::Progressed(_, state) if state < HostState::Staged => state,
            Event::AlreadyActive(_) if seat.state < HostState::Staged => HostState::Active,
            Event::Activated(_) if seat.state == HostState::Activating => HostState::Checking,
            Event::Confirmed(_) if seat.state == HostState::Checking => HostState::Active,
            // An active host that could not go back stays what it is.
            Event::Failed(_) | Event::Unreachable(_) if seat.state == HostState::Active => HostState::Active,
            Event::Failed(_) => HostState::Failed,
            Event::Unreachable(_) => HostState::Unreachable,
            // Also one that answers after it was given up.
            Event::Reverted(_) if seat.is_switching() || seat.back == Back::Past => HostState::Reverted,
            _ => return,
        };
        if matches!(event, Event::Failed(_) | Event::Unreachable(_) | Event::Reverted(_)) {
            self.hosts[host.index()].back = if seat.back == Back::No { Back::No } else { Back::Past };
        }
        self.set(host, next);
    }

    /// What the operator or the clock says.
    fn told(&mut self, event: Event, actions: &mut Vec<Action>) {
        match (event, self.step) {
            (Event::Approved, Step::Pause { next, until: None }) => self.begin(next, actions),
            (Event::Declined, Step::Pause { until: None, .. }) => self.stop = self.stop.or(Some(Stop::NotApproved)),
            // Also after a spent budget: it ends the probing that goes on then.
            (Event::Interrupted, Step::Staging) => self.stop = Some(Stop::Interrupt),
            (Event::Interrupted, _) => self.stop = self.stop.or(Some(Stop::Interrupt)),
            _ => {}
        }
    }

    fn set(&mut self, host: HostId, next: HostState) -> bool {
        match self.hosts.get_mut(host.index()) {
            Some(seat) if seat.state.can_become(next) => {
                seat.state = next;
                if seat.wave.is_some_and(|wave| self.step == Step::Wave(wave)) {
                    self.moved = self.now;
                }
                true
            }
            _ => false,
        }
    }

    fn abandon(&mut self, host: HostId, actions: &mut Vec<Action>) {
        if self.set(host, HostState::Skipped) {
            actions.push(Action::Abandon(host));
        }
    }

    fn abandon_from(&mut self, from: HostState, actions: &mut Vec<Action>) {
        for host in self.lineup.hosts() {
            if self.hosts[host.index()].state >= from {
                self.abandon(host, actions);
            }
        }
    }

    /// True if more hosts are out than may be, over the whole run or in the first wave.
    fn is_over_budget(&self) -> bool {
        let limits = self.plan.max_failures;
        let fleet = self.hosts.len();
        if self.dropped(self.lineup.hosts()) > limits.after.allowed(fleet) {
            return true;
        }
        match (limits.canary, self.waves.as_slice()) {
            (Some(allowed), [canary, ..]) => self.dropped(canary.iter().copied()) > allowed.allowed(canary.len()),
            _ => false,
        }
    }

    /// Counts hosts that are out without the operator's wish.
    fn dropped(&self, hosts: impl Iterator<Item = HostId>) -> usize {
        hosts.filter(|host| self.hosts[host.index()].state.is_out()).count()
    }

    /// Takes the next step if its time has come.
    fn advance(&mut self, actions: &mut Vec<Action>) {
        self.give_up_late(actions);
        let goes_on = self.barrier_met() && self.plan.on_failure == OnFailure::Continue;
        if self.is_over_budget() && !goes_on {
            self.stop.get_or_insert(Stop::Budget);
        }
        match self.step {
            Step::Staging => self.pass_barrier(actions),
            Step::Wave(wave) => self.finish_wave(wave, actions),
            Step::Pause { next, until } => self.wait(next, until, actions),
            Step::GoingBack(wave) => self.finish_going_back(wave, actions),
            Step::Over => {}
        }
    }

    /// Waits no longer for hosts that were told to go back too long ago.
    fn give_up_late(&mut self, actions: &mut Vec<Action>) {
        for host in self.lineup.hosts() {
            let seat = self.hosts[host.index()];
            if self.answer_until(seat).is_some_and(|until| until <= self.now) {
                self.hosts[host.index()].back = Back::Past;
                if seat.state != HostState::Active {
                    self.set(host, HostState::Failed);
                }
                actions.push(Action::GiveUp(host));
            }
        }
    }

    fn pass_barrier(&mut self, actions: &mut Vec<Action>) {
        match self.stop {
            // Hosts that have not finished preflight go on until they have, so that the operator sees every bad host at once.
            Some(Stop::Budget) => self.abandon_from(HostState::Downloading, actions),
            Some(_) => self.abandon_from(HostState::Queued, actions),
            None if self.hosts.iter().any(|seat| seat.state < HostState::Staged) => {}
            None => self.begin_first_wave(actions),
        }
    }

    fn begin_first_wave(&mut self, actions: &mut Vec<Action>) {
        let goes_on = self.lineup.goes_on;
        let has_place = |state| state == HostState::Staged || (goes_on && state == HostState::Active);
        let placed: Vec<HostId> = self.lineup.hosts().filter(|host| has_place(self.hosts[host.index()].state)).collect();
        let mut waves = waves(&self.plan, &self.lineup, &placed);
        waves.iter_mut().for_each(|wave| wave.retain(|host| self.state(*host) == Some(HostState::Staged)));
        let Some(first) = waves.iter().position(|wave| !wave.is_empty()) else { return };
        for (index, wave) in waves.iter().enumerate() {
            wave.iter().for_each(|host| self.hosts[host.index()].wave = Some(index));
        }
        self.waves = waves;
        self.begin(first, actions);
    }

    fn staged_hosts(&self) -> impl Iterator<Item = HostId> {
        self.lineup.hosts().filter(|host| self.hosts[host.index()].state == HostState::Staged)
    }

    /// Returns the hosts of a wave that are between two releases and were not told to go back.
    fn stragglers(&self, wave: usize) -> impl Iterator<Item = HostId> {
        let hosts = self.waves.get(wave).into_iter().flatten().copied();
        hosts.filter(|host| {
            let seat = self.hosts[host.index()];
            seat.is_switching() && !seat.is_going_back()
        })
    }

    fn begin(&mut self, wave: usize, actions: &mut Vec<Action>) {
        self.step = Step::Wave(wave);
        self.moved = self.now;
        for host in self.waves[wave].clone() {
            if self.state(host) == Some(HostState::Staged) && self.set(host, HostState::Activating) {
                actions.push(Action::Activate(host));
            }
        }
    }

    /// Ends a wave whose hosts have all got to their end. Who has begun to switch may finish, whatever stops the run, unless
    /// everybody goes back or the time is up.
    fn finish_wave(&mut self, wave: usize, actions: &mut Vec<Action>) {
        if self.must_go_back() {
            self.go_back(wave, actions);
            return;
        }
        if self.step_until().is_some_and(|deadline| deadline <= self.now) {
            let late: Vec<HostId> = self.stragglers(wave).collect();
            late.into_iter().for_each(|host| self.tell_to_go_back(host, actions));
        }
        if self.waves[wave].iter().any(|host| self.hosts[host.index()].is_switching()) {
            return;
        }
        match self.stop {
            Some(_) => self.end(actions),
            None => self.pause_before(wave + 1, actions),
        }
    }

    /// True if the run does not get to its end, for whatever reason, and the plan wants all of it undone then.
    fn must_go_back(&self) -> bool {
        self.stop.is_some() && self.plan.on_failure == OnFailure::Rollback
    }

    /// Goes on to the first wave from `wave` on that still has hosts to switch.
    fn pause_before(&mut self, wave: usize, actions: &mut Vec<Action>) {
        let Some(next) = self.staged_hosts().filter_map(|host| self.wave(host)).filter(|of| *of >= wave).min() else {
            self.step = Step::Over;
            return;
        };
        self.moved = self.now;
        match self.plan.pause {
            Pause::For(Duration::ZERO) => self.begin(next, actions),
            Pause::For(time) => self.step = Step::Pause { next, until: Some(self.now.saturating_add(time)) },
            Pause::Confirm => self.step = Step::Pause { next, until: None },
        }
    }

    fn wait(&mut self, next: usize, until: Option<Duration>, actions: &mut Vec<Action>) {
        let is_up = self.step_until().is_some_and(|deadline| deadline <= self.now);
        if is_up && until.is_none() {
            self.stop.get_or_insert(Stop::NotApproved);
        }
        // Waves begin in order, and this one has not begun.
        let last = next.saturating_sub(1);
        match self.stop {
            Some(_) if self.must_go_back() => self.go_back(last, actions),
            Some(_) => self.end(actions),
            None if self.staged_hosts().next().is_none() => self.step = Step::Over,
            None if is_up => self.begin(next, actions),
            None => {}
        }
    }

    /// Leaves what has switched as it is.
    fn end(&mut self, actions: &mut Vec<Action>) {
        self.step = Step::Over;
        self.skip_staged(actions);
    }

    fn skip_staged(&mut self, actions: &mut Vec<Action>) {
        let staged: Vec<HostId> = self.staged_hosts().collect();
        staged.into_iter().for_each(|host| self.abandon(host, actions));
    }

    /// Sends the hosts of a wave back, the last one first.
    fn go_back(&mut self, wave: usize, actions: &mut Vec<Action>) {
        self.step = Step::GoingBack(wave);
        self.skip_staged(actions);
        for host in self.waves[wave].clone().into_iter().rev() {
            let seat = self.hosts[host.index()];
            if seat.state == HostState::Active || seat.is_switching() {
                self.went_back = true;
                self.tell_to_go_back(host, actions);
            }
        }
    }

    fn finish_going_back(&mut self, wave: usize, actions: &mut Vec<Action>) {
        if self.waves[wave].iter().any(|host| self.hosts[host.index()].is_going_back()) {
            return;
        }
        match wave.checked_sub(1) {
            Some(earlier) => self.go_back(earlier, actions),
            None => self.step = Step::Over,
        }
    }

    fn tell_to_go_back(&mut self, host: HostId, actions: &mut Vec<Action>) {
        let seat = &mut self.hosts[host.index()];
        if seat.back == Back::No {
            seat.back = Back::Since(self.now);
            actions.push(Action::GoBack(host));
        }
    }
}
