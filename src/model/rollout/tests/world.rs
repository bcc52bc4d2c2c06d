//! A fleet that answers as agents do, at random times and with random failures, for the rollout to be driven with.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::super::*;

/// What becomes of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It does all it is told.
    Good,
    /// It is never reached.
    Unreachable,
    /// It has the release already.
    AlreadyActive,
    /// It fails before it is staged.
    FailsToStage,
    /// It is lost after it was staged, whatever it does then.
    LostWhileStaged,
    /// It goes back by itself: a hook or a check fails.
    Reverts,
    /// It checks until it is told to go back.
    Hangs,
    /// It is lost for good while it switches.
    LostWhileSwitching,
    /// It takes the release, and fails to go back from it.
    CannotGoBack,
    /// It takes the release, and never answers when it is told to go back.
    SilentGoingBack,
    /// It never answers once it was told to switch.
    NeverAnswers,
}

impl Fate {
    pub(super) const ALL: [Self; 11] = [
        Self::Good,
        Self::Unreachable,
        Self::AlreadyActive,
        Self::FailsToStage,
        Self::LostWhileStaged,
        Self::Reverts,
        Self::Hangs,
        Self::LostWhileSwitching,
        Self::CannotGoBack,
        Self::SilentGoingBack,
        Self::NeverAnswers,
    ];
}

/// A run: the rollout and what will happen to it.
pub(super) struct World {
    pub(super) rollout: Rollout,
    pub(super) now: Duration,
    fates: Vec<Fate>,
    rng: fastrand::Rng,
    /// Earliest first; the number keeps equal times in order.
    coming: BinaryHeap<Reverse<(Duration, u64, EventKey)>>,
    number: u64,
    slowest: u64,
}

/// An event that can be ordered.
type EventKey = (u8, u32);

fn key(event: Event) -> EventKey {
    match event {
        Event::Prepared(host) => (0, host.0),
        Event::AlreadyActive(host) => (1, host.0),
        Event::Staged(host) => (2, host.0),
        Event::Activated(host) => (3, host.0),
        Event::Checked(host) => (4, host.0),
        Event::Confirmed(host) => (5, host.0),
        Event::Failed(host) => (6, host.0),
        Event::Unreachable(host) => (7, host.0),
        Event::Reverted(host) => (8, host.0),
        Event::Approved => (9, 0),
        Event::Declined => (10, 0),
        Event::Interrupted => (11, 0),
        Event::Progressed(..) | Event::TimePassed => unreachable!("never planned"),
    }
}

fn event((kind, host): EventKey) -> Event {
    let host = HostId(host);
    match kind {
        0 => Event::Prepared(host),
        1 => Event::AlreadyActive(host),
        2 => Event::Staged(host),
        3 => Event::Activated(host),
        4 => Event::Checked(host),
        5 => Event::Confirmed(host),
        6 => Event::Failed(host),
        7 => Event::Unreachable(host),
        8 => Event::Reverted(host),
        9 => Event::Approved,
        10 => Event::Declined,
        _ => Event::Interrupted,
    }
}

/// What the operator does at a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Approves,
    Declines,
    Sleeps,
}

impl World {
    /// Makes a fleet; answers take up to `slowest` seconds.
    pub(super) fn new(plan: RolloutPlan, lineup: Lineup, fates: Vec<Fate>, seed: u64, slowest: u64) -> Self {
        let mut world = Self {
            rollout: Rollout::new(plan, lineup),
            now: Duration::ZERO,
            fates,
            rng: fastrand::Rng::with_seed(seed),
            coming: BinaryHeap::new(),
            number: 0,
            slowest,
        };
        for (index, fate) in world.fates.clone().into_iter().enumerate() {
            let host = HostId(index as u32);
            world.soon(match fate {
                Fate::Unreachable => Event::Unreachable(host),
                Fate::AlreadyActive => Event::AlreadyActive(host),
                _ => Event::Prepared(host),
            });
        }
        world
    }

    pub(super) fn fate(&self, host: HostId) -> Fate {
        self.fates[host.index()]
    }

    fn at(&mut self, when: Duration, what: Event) {
        self.number += 1;
        self.coming.push(Reverse((when, self.number, key(what))));
    }

    /// Plans an event within the time that a host takes.
    fn soon(&mut self, what: Event) {
        let wait = Duration::from_millis(self.rng.u64(0..=self.slowest * 1000));
        self.at(self.now + wait, what);
    }

    pub(super) fn interrupt_at(&mut self, when: Duration) {
        self.at(when, Event::Interrupted);
    }

    /// Returns what happens next, at its time; none if nothing ever will.
    pub(super) fn next(&mut self) -> Option<Event> {
        let planned = self.coming.peek().map(|Reverse((when, ..))| *when);
        match (planned, self.rollout.deadline()) {
            (None, None) => None,
            (Some(when), deadline) if deadline.is_none_or(|deadline| when <= deadline) => {
                let Reverse((when, _, what)) = self.coming.pop()?;
                self.now = self.now.max(when);
                Some(event(what))
            }
            (_, deadline) => {
                self.now = self.now.max(deadline?);
                Some(Event::TimePassed)
            }
        }
    }

    /// Gives an event to the rollout and lets hosts and operator answer its actions.
    pub(super) fn handle(&mut self, event: Event, operator: Operator) -> Vec<Action> {
        let before = self.rollout.step();
        let actions = self.rollout.handle(event, self.now);
        for action in &actions {
            self.answer(*action);
        }
        if let Step::Pause { until: None, .. } = self.rollout.step()
            && before != self.rollout.step()
        {
            match operator {
                Operator::Approves => self.soon(Event::Approved),
                Operator::Declines => self.soon(Event::Declined),
                Operator::Sleeps => {}
            }
        }
        actions
    }

    fn answer(&mut self, action: Action) {
        let host = action.host();
        let fate = self.fate(host);
        match (action, fate) {
            (Action::Start(_), Fate::FailsToStage) => self.soon(Event::Failed(host)),
            (Action::Start(_), _) => {
                self.soon(Event::Staged(host));
                if fate == Fate::LostWhileStaged {
                    let late = self.now + Duration::from_secs(self.slowest * 2);
                    self.at(late, Event::Failed(host));
                }
            }
            (Action::Activate(_), Fate::LostWhileSwitching) => self.soon(Event::Failed(host)),
            (Action::Activate(_), Fate::LostWhileStaged | Fate::NeverAnswers) => {}
            (Action::Activate(_), _) => {
                let switched = self.now + Duration::from_millis(self.rng.u64(0..=self.slowest * 1000));
                self.at(switched, Event::Activated(host));
                let checked = switched + Duration::from_millis(self.rng.u64(1..=1 + self.slowest * 1000));
                match fate {
                    Fate::Reverts => self.at(checked, Event::Reverted(host)),
                    Fate::Hangs => {}
                    _ => self.at(checked, Event::Checked(host)),
                }
            }
            (Action::Confirm(_), _) => self.soon(Event::Confirmed(host)),
            (Action::GoBack(_), Fate::CannotGoBack) => self.soon(Event::Failed(host)),
            (Action::GoBack(_), Fate::SilentGoingBack | Fate::NeverAnswers) => {}
            (Action::GoBack(_), _) => self.soon(Event::Reverted(host)),
            (Action::Abandon(_) | Action::GiveUp(_), _) => {}
        }
    }
}
