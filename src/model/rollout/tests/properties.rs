//! The promises in the module's header, for any plan, fleet, failures, order and times.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    super::*,
    ids,
    world::{Fate, Operator, World},
};
use crate::model::plan::{FailureBudget, FailureBudgets, Order, WaveSize, Waves};

fn any_budget() -> impl Strategy<Value = FailureBudget> {
    prop_oneof![(0u32..4).prop_map(FailureBudget::Hosts), (0u8..=100).prop_map(FailureBudget::Percent)]
}

fn any_plan() -> impl Strategy<Value = RolloutPlan> {
    let size = prop_oneof![(1u32..6).prop_map(WaveSize::Hosts), (1u8..=100).prop_map(WaveSize::Percent)];
    let pause = prop_oneof![
        Just(Pause::For(Duration::ZERO)),
        (1u64..1000).prop_map(|seconds| Pause::For(Duration::from_secs(seconds))),
        Just(Pause::Confirm),
    ];
    let on_failure = select(vec![OnFailure::Rollback, OnFailure::Stop, OnFailure::Continue]);
    let order = select(vec![Order::Inventory, Order::Shuffled, Order::Zone]);
    (vec(size, 1..5), option::of(any_budget()), any_budget(), pause, on_failure, order, 10u64..900).prop_map(
        |(sizes, canary, after, pause, on_failure, order, deadline)| RolloutPlan {
            waves: Waves::new(sizes).unwrap(),
            max_failures: FailureBudgets { canary, after },
            pause,
            order,
            on_failure,
            progress_deadline: Duration::from_secs(deadline),
        },
    )
}

fn any_lineup(most: usize) -> impl Strategy<Value = Lineup> {
    let zone = select(vec![None, Some("a".to_owned()), Some("b".to_owned())]);
    (vec(zone, 1..most), any::<u64>(), any::<bool>()).prop_map(|(zones, seed, goes_on)| Lineup { zones, seed, goes_on })
}

/// Mostly good hosts: a fleet where everything fails never gets past the barrier.
fn any_fates(hosts: usize) -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![8 => Just(Fate::Good), 2 => select(Fate::ALL.to_vec())];
    vec(fate, hosts)
}

fn any_world() -> impl Strategy<Value = World> {
    (any_plan(), any_lineup(24), any::<u64>(), 0u64..600)
        .prop_flat_map(|(plan, lineup, seed, slowest)| {
            let fates = any_fates(lineup.zones.len());
            (Just(plan), Just(lineup), fates, Just(seed), Just(slowest))
        })
        .prop_map(|(plan, lineup, fates, seed, slowest)| World::new(plan, lineup, fates, seed, slowest))
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {:?}", self.rollout, self.now)
    }
}

/// What an observer sees who knows nothing of the machine's inside.
#[derive(Debug, Default)]
struct Observer {
    told_to_activate: BTreeSet<HostId>,
    told_to_go_back: BTreeSet<HostId>,
    /// Those that have not answered.
    going_back: BTreeSet<HostId>,
}

impl Observer {
    /// Checks one call: its event, the states before it, its actions, and the machine after it.
    fn check(
        &mut self,
        event: Event,
        before: &[HostState],
        actions: &[Action],
        rollout: &Rollout,
    ) -> Result<(), TestCaseError> {
        let (plan, fleet) = (&rollout.plan, before.len() as u32);
        if let Event::Failed(host) | Event::Unreachable(host) | Event::Reverted(host) = event {
            self.going_back.remove(&host);
        }
        let budget_holds = self.told_to_activate.is_empty() || plan.on_failure != OnFailure::Continue;
        let state = |host: HostId| rollout.state(host).unwrap();
        for action in actions {
            match *action {
                Action::Activate(host) => {
                    prop_assert!(self.told_to_activate.insert(host), "{host:?} was told twice");
                    let staged = |host| state(host) >= HostState::Staged;
                    prop_assert!(ids(fleet).all(staged), "activation before the barrier");
                    if budget_holds {
                        prop_assert!(out(rollout, ids(fleet)) <= plan.max_failures.after.allowed(fleet as usize));
                    }
                    if plan.on_failure != OnFailure::Continue && rollout.wave(host) != Some(0) {
                        let canary = &rollout.waves()[0];
                        let limit = plan.max_failures.canary.unwrap_or(FailureBudget::Percent(100));
                        let allowed = limit.allowed(canary.len());
                        prop_assert!(out(rollout, canary.iter().copied()) <= allowed, "the canary had failed");
                    }
                }
                Action::GoBack(host) => {
                    prop_assert!(self.told_to_activate.contains(&host) && self.told_to_go_back.insert(host));
                    self.going_back.insert(host);
                }
                Action::GiveUp(host) => prop_assert!(self.going_back.remove(&host), "{host:?} was not going back"),
                Action::Confirm(host) => prop_assert!(!self.told_to_go_back.contains(&host)),
                Action::Start(_) | Action::Abandon(_) => {}
            }
        }
        for host in ids(fleet) {
            let (before, after) = (before[host.index()], state(host));
            let sent_back = before == HostState::Active && after == HostState::Reverted && self.told_to_go_back.contains(&host);
            prop_assert!(!before.is_final() || before == after || sent_back, "{before} became {after}");
        }
        self.check_waves(rollout)?;
        let finished = ids(fleet).all(|host| state(host).is_final()) && self.going_back.is_empty();
        prop_assert_eq!(rollout.verdict().is_some(), finished);
        Ok(())
    }

    /// All hosts between two releases are of one wave, so there are never more of them than it has.
    fn check_waves(&self, rollout: &Rollout) -> Result<(), TestCaseError> {
        let switching = self.told_to_activate.iter().filter(|host| !rollout.state(**host).unwrap().is_final());
        let waves: BTreeSet<_> = switching.chain(&self.going_back).map(|host| rollout.wave(*host)).collect();
        prop_assert!(waves.len() <= 1, "hosts of several waves switch: {waves:?}");
        Ok(())
    }
}

fn out(rollout: &Rollout, hosts: impl Iterator<Item = HostId>) -> usize {
    hosts.filter(|host| rollout.state(*host).unwrap().is_out()).count()
}

fn states(rollout: &Rollout, fleet: u32) -> Vec<HostState> {
    ids(fleet).map(|host| rollout.state(host).unwrap()).collect()
}

fn any_event(hosts: u32) -> impl Strategy<Value = (Event, Duration)> {
    let host = (0..hosts + 1).prop_map(HostId);
    let state = select(HostState::ALL.to_vec());
    let event = (0u8..30, host, state).prop_map(|(kind, host, state)| match kind {
        0..=1 => Event::Progressed(host, state),
        2..=7 => Event::Prepared(host),
        8 => Event::AlreadyActive(host),
        9..=14 => Event::Staged(host),
        15..=16 => Event::Activated(host),
        17..=18 => Event::Checked(host),
        19..=20 => Event::Confirmed(host),
        21 => Event::Failed(host),
        22 => Event::Unreachable(host),
        23..=24 => Event::Reverted(host),
        25..=26 => Event::Approved,
        27 => Event::Declined,
        28 => Event::TimePassed,
        _ => Event::Interrupted,
    });
    (event, (0u64..2000).prop_map(Duration::from_secs))
}

proptest! {
    #[test]
    fn promises_hold_for_any_events_in_any_order_at_any_time(
        plan in any_plan(),
        lineup in any_lineup(6),
        events in vec(any_event(5), 0..150),
    ) {
        let fleet = lineup.zones.len() as u32;
        let mut rollout = Rollout::new(plan, lineup);
        let mut observer = Observer::default();
        for (event, now) in events {
            let before = states(&rollout, fleet);
            let actions = rollout.handle(event, now);
            observer.check(event, &before, &actions, &rollout)?;
        }
        if !rollout.barrier_met() {
            prop_assert!(observer.told_to_activate.is_empty());
        }
    }

    #[test]
    fn every_run_ends_and_every_activated_host_is_active_or_went_back(
        mut world in any_world(),
        operator in select(vec![Operator::Approves, Operator::Declines, Operator::Sleeps]),
        interrupt in proptest::option::weighted(0.2, 0u64..4000),
    ) {
        let fleet = world.rollout.lineup.zones.len() as u32;
        interrupt.into_iter().for_each(|at| world.interrupt_at(Duration::from_secs(at)));
        let mut observer = Observer::default();
        let mut given_up = BTreeSet::new();
        let mut last = Duration::ZERO;
        while let Some(event) = world.next() {
            if world.rollout.verdict().is_some() {
                break;
            }
            prop_assert!(world.now >= last, "time went backwards");
            last = world.now;
            let before = states(&world.rollout, fleet);
            let actions = world.handle(event, operator);
            given_up.extend(actions.iter().filter(|action| matches!(action, Action::GiveUp(_))).map(|action| action.host()));
            observer.check(event, &before, &actions, &world.rollout)?;
        }
        let rollout = &world.rollout;
        let verdict = rollout.verdict();
        prop_assert!(verdict.is_some(), "nothing will ever happen, and there is no verdict");
        for host in &observer.told_to_activate {
            let state = rollout.state(*host).unwrap();
            let lost = matches!(world.fate(*host), Fate::LostWhileSwitching | Fate::LostWhileStaged | Fate::CannotGoBack);
            // A host may take longer than the plan waits for it.
            let silent = matches!(world.fate(*host), Fate::SilentGoingBack | Fate::NeverAnswers) || given_up.contains(host);
            prop_assert!(matches!(state, HostState::Active | HostState::Reverted) || lost || silent, "{host:?} is {state}");
        }
        if verdict == Some(Verdict::RolledBack) {
            let stayed = observer.told_to_activate.iter().filter(|host| rollout.state(**host) == Some(HostState::Active));
            prop_assert!(stayed.copied().all(|host| world.fate(host) == Fate::CannotGoBack || given_up.contains(&host)));
        }
        if interrupt.is_none() && verdict == Some(Verdict::Completed) {
            prop_assert!(ids(fleet).all(|host| rollout.state(host) != Some(HostState::Skipped)));
        }
    }
}
