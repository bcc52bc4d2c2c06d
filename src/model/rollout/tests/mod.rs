//! What the rollout decides, by example; `properties` has what holds for any run.

mod properties;
mod world;

use super::*;
use crate::model::plan::{FailureBudget, FailureBudgets, Order, WaveSize, Waves};

const ZERO: Duration = Duration::ZERO;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ids(hosts: u32) -> impl Iterator<Item = HostId> {
    (0..hosts).map(HostId)
}

fn plan(sizes: &[&str], on_failure: OnFailure) -> RolloutPlan {
    let sizes: Vec<WaveSize> = sizes.iter().map(|size| size.parse().unwrap()).collect();
    RolloutPlan { waves: Waves::new(sizes).unwrap(), on_failure, ..RolloutPlan::default() }
}

fn with_budget(plan: RolloutPlan, canary: u32, after: u32) -> RolloutPlan {
    let max_failures = FailureBudgets { canary: Some(FailureBudget::Hosts(canary)), after: FailureBudget::Hosts(after) };
    RolloutPlan { max_failures, ..plan }
}

fn all_at_once(hosts: usize, budget: u32) -> Rollout {
    Rollout::new(with_budget(RolloutPlan::default(), budget, budget), Lineup::plain(hosts))
}

/// Stages every host; returns what the barrier leads to.
fn stage(rollout: &mut Rollout, hosts: u32) -> Vec<Action> {
    let mut last = Vec::new();
    for host in ids(hosts) {
        rollout.handle(Event::Prepared(host), ZERO);
        last = rollout.handle(Event::Staged(host), ZERO);
    }
    last
}

/// Lets a host that was told to activate become active.
fn succeed(rollout: &mut Rollout, host: u32, now: Duration) -> Vec<Action> {
    let host = HostId(host);
    assert_eq!(rollout.handle(Event::Activated(host), now), []);
    assert_eq!(rollout.handle(Event::Checked(host), now), [Action::Confirm(host)]);
    rollout.handle(Event::Confirmed(host), now)
}

fn fail(rollout: &mut Rollout, host: u32, now: Duration) -> Vec<Action> {
    rollout.handle(Event::Activated(HostId(host)), now);
    rollout.handle(Event::Reverted(HostId(host)), now)
}

fn activations(hosts: impl IntoIterator<Item = u32>) -> Vec<Action> {
    hosts.into_iter().map(|host| Action::Activate(HostId(host))).collect()
}

fn abandons(hosts: impl IntoIterator<Item = u32>) -> Vec<Action> {
    hosts.into_iter().map(|host| Action::Abandon(HostId(host))).collect()
}

#[test]
fn everybody_is_staged_before_anybody_activates() {
    let mut rollout = all_at_once(3, 0);
    for host in ids(3) {
        assert_eq!(rollout.handle(Event::Prepared(host), ZERO), [Action::Start(host)]);
    }
    assert_eq!(rollout.handle(Event::Staged(HostId(0)), ZERO), []);
    assert_eq!(rollout.handle(Event::Staged(HostId(2)), ZERO), []);
    assert_eq!(rollout.handle(Event::Staged(HostId(1)), ZERO), activations(0..3));
    for host in 0..3 {
        assert_eq!(rollout.verdict(), None);
        succeed(&mut rollout, host, ZERO);
    }
    assert_eq!(rollout.verdict(), Some(Verdict::Completed));
}

#[test]
fn one_failure_with_no_budget_stops_the_run_but_every_host_is_still_probed() {
    let mut rollout = all_at_once(3, 0);
    rollout.handle(Event::Prepared(HostId(0)), ZERO);
    let stopped = rollout.handle(Event::Unreachable(HostId(1)), ZERO);
    assert_eq!(stopped, abandons([0]));
    assert_eq!(rollout.verdict(), None, "host 2 has not been probed yet");
    assert_eq!(rollout.handle(Event::Prepared(HostId(2)), ZERO), abandons([2]));
    assert_eq!(rollout.verdict(), Some(Verdict::StoppedByBudget));
}

#[test]
fn within_the_budget_the_others_go_live() {
    let mut rollout = all_at_once(2, 1);
    rollout.handle(Event::Prepared(HostId(0)), ZERO);
    rollout.handle(Event::Staged(HostId(0)), ZERO);
    assert_eq!(rollout.handle(Event::Failed(HostId(1)), ZERO), activations([0]));
}

#[test]
fn a_run_that_goes_on_continues_in_the_wave_where_the_interrupted_one_was() {
    let lineup = Lineup { goes_on: true, ..Lineup::plain(6) };
    let mut rollout = Rollout::new(plan(&["1", "2", "3"], OnFailure::Rollback), lineup);
    for host in [0, 1] {
        rollout.handle(Event::AlreadyActive(HostId(host)), ZERO);
    }
    let mut begun = Vec::new();
    for host in 2..6 {
        rollout.handle(Event::Prepared(HostId(host)), ZERO);
        begun = rollout.handle(Event::Staged(HostId(host)), ZERO);
    }
    assert_eq!(begun, activations([2]), "its wave's other host is active");
    assert_eq!((rollout.step(), rollout.waves().len()), (Step::Wave(1), 3));
    assert_eq!(succeed(&mut rollout, 2, ZERO), activations(3..6));
    // What the interrupted run made live is not this one's to send back.
    assert_eq!(fail(&mut rollout, 4, ZERO), [Action::GoBack(HostId(5)), Action::GoBack(HostId(3))]);
    rollout.handle(Event::Reverted(HostId(3)), ZERO);
    assert_eq!(rollout.handle(Event::Reverted(HostId(5)), ZERO), [Action::GoBack(HostId(2))]);
    rollout.handle(Event::Reverted(HostId(2)), ZERO);
    assert_eq!((rollout.verdict(), rollout.state(HostId(0))), (Some(Verdict::RolledBack), Some(HostState::Active)));
}

#[test]
fn a_run_that_goes_on_where_everybody_is_active_has_nothing_to_do() {
    let lineup = Lineup { goes_on: true, ..Lineup::plain(2) };
    let mut rollout = Rollout::new(plan(&["1"], OnFailure::Rollback), lineup);
    ids(2).for_each(|host| assert_eq!(rollout.handle(Event::AlreadyActive(host), ZERO), []));
    assert_eq!((rollout.verdict(), rollout.barrier_met()), (Some(Verdict::Completed), false));
}

#[test]
fn events_that_do_not_fit_change_nothing() {
    let mut rollout = all_at_once(1, 0);
    for event in [
        Event::Staged(HostId(0)),
        Event::Activated(HostId(0)),
        Event::Reverted(HostId(0)),
        Event::Checked(HostId(0)),
        Event::Staged(HostId(7)),
        Event::Reverted(HostId(7)),
        Event::Approved,
        Event::Declined,
    ] {
        assert_eq!(rollout.handle(event, ZERO), [], "{event:?}");
        assert_eq!(rollout.state(HostId(0)), Some(HostState::Queued), "{event:?}");
    }
    stage(&mut rollout, 1);
    succeed(&mut rollout, 0, ZERO);
    rollout.handle(Event::Reverted(HostId(0)), ZERO);
    assert_eq!(rollout.state(HostId(0)), Some(HostState::Active), "nobody told it to go back");
}

#[test]
fn interrupt_before_the_barrier_leaves_every_host_alone() {
    let mut rollout = all_at_once(2, 0);
    rollout.handle(Event::Prepared(HostId(0)), ZERO);
    rollout.handle(Event::Staged(HostId(0)), ZERO);
    rollout.handle(Event::Prepared(HostId(1)), ZERO);
    assert_eq!(rollout.handle(Event::Interrupted, ZERO).len(), 2);
    assert_eq!(rollout.verdict(), Some(Verdict::Interrupted));
}

#[test]
fn an_interrupt_ends_the_probing_that_a_spent_budget_left_going() {
    let mut rollout = all_at_once(2, 0);
    rollout.handle(Event::Failed(HostId(0)), ZERO);
    assert_eq!(rollout.verdict(), None);
    assert_eq!(rollout.handle(Event::Interrupted, ZERO), abandons([1]));
    assert_eq!(rollout.verdict(), Some(Verdict::Interrupted));
}

#[test]
fn nothing_to_do_when_every_host_has_the_release() {
    let mut rollout = all_at_once(2, 0);
    ids(2).for_each(|host| assert_eq!(rollout.handle(Event::AlreadyActive(host), ZERO), []));
    assert_eq!(rollout.verdict(), Some(Verdict::Completed));
}

#[test]
fn waves_follow_one_another_and_the_last_size_is_repeated() {
    let mut rollout = Rollout::new(plan(&["1", "2"], OnFailure::Stop), Lineup::plain(4));
    assert_eq!(stage(&mut rollout, 4), activations([0]));
    assert_eq!(rollout.step(), Step::Wave(0));
    assert_eq!(succeed(&mut rollout, 0, ZERO), activations([1, 2]));
    assert_eq!(succeed(&mut rollout, 2, ZERO), []);
    assert_eq!(succeed(&mut rollout, 1, ZERO), activations([3]));
    assert_eq!(rollout.wave(HostId(3)), Some(2));
    succeed(&mut rollout, 3, ZERO);
    assert_eq!((rollout.step(), rollout.verdict()), (Step::Over, Some(Verdict::Completed)));
}

#[test]
fn a_canary_that_goes_back_stops_the_run_and_nobody_else_is_touched() {
    for on_failure in [OnFailure::Stop, OnFailure::Rollback] {
        let mut rollout = Rollout::new(with_budget(plan(&["1", "100%"], on_failure), 0, 9), Lineup::plain(3));
        stage(&mut rollout, 3);
        assert_eq!(fail(&mut rollout, 0, ZERO), abandons([1, 2]), "the fleet's budget is not the canary's");
        assert_eq!(rollout.verdict(), Some(Verdict::StoppedByBudget));
    }
}

#[test]
fn a_share_of_the_fleet_may_drop_out_of_the_first_wave() {
    let max_failures = FailureBudgets::of_fleet("10%".parse().unwrap());
    let plan = RolloutPlan { max_failures, ..plan(&["10%"], OnFailure::Stop) };
    let mut rollout = Rollout::new(plan, Lineup::plain(40));
    assert_eq!(stage(&mut rollout, 40), activations(0..4));
    for host in 0..3 {
        assert_eq!(fail(&mut rollout, host, ZERO), []);
    }
    assert_eq!(fail(&mut rollout, 3, ZERO), activations(4..8), "four of forty may");
    assert_eq!((fail(&mut rollout, 4, ZERO), rollout.stop()), (vec![], Some(Stop::Budget)), "a fifth may not");
}

#[test]
fn the_canary_is_a_host_that_really_switches() {
    let mut rollout = Rollout::new(plan(&["1", "100%"], OnFailure::Stop), Lineup::plain(3));
    rollout.handle(Event::AlreadyActive(HostId(0)), ZERO);
    for host in [HostId(1), HostId(2)] {
        rollout.handle(Event::Prepared(host), ZERO);
        rollout.handle(Event::Staged(host), ZERO);
    }
    assert_eq!(rollout.waves(), [[HostId(1)], [HostId(2)]]);
    assert_eq!(rollout.wave(HostId(0)), None);
}

#[test]
fn roll_back_by_policy_goes_back_in_reverse_order() {
    let mut rollout = Rollout::new(plan(&["1", "2"], OnFailure::Rollback), Lineup::plain(5));
    stage(&mut rollout, 5);
    succeed(&mut rollout, 0, ZERO);
    succeed(&mut rollout, 1, ZERO);
    let back = |host| Action::GoBack(HostId(host));
    // Host 2 goes back by itself; of its wave only host 1 is left, hosts 3 and 4 were never switched.
    assert_eq!(fail(&mut rollout, 2, ZERO), [abandons([3, 4]), vec![back(1)]].concat());
    assert_eq!(rollout.verdict(), None);
    assert_eq!(rollout.handle(Event::Reverted(HostId(1)), ZERO), [back(0)]);
    assert_eq!(rollout.step(), Step::GoingBack(0));
    rollout.handle(Event::Reverted(HostId(0)), ZERO);
    assert_eq!(rollout.verdict(), Some(Verdict::RolledBack));
    assert_eq!(rollout.state(HostId(0)), Some(HostState::Reverted));
}

#[test]
fn a_host_that_cannot_go_back_stays_active_and_holds_up_nobody() {
    let mut rollout = Rollout::new(plan(&["1"], OnFailure::Rollback), Lineup::plain(3));
    stage(&mut rollout, 3);
    succeed(&mut rollout, 0, ZERO);
    succeed(&mut rollout, 1, ZERO);
    assert_eq!(fail(&mut rollout, 2, ZERO), [Action::GoBack(HostId(1))]);
    assert_eq!(rollout.handle(Event::Failed(HostId(1)), ZERO), [Action::GoBack(HostId(0))]);
    assert_eq!(rollout.state(HostId(1)), Some(HostState::Active));
    rollout.handle(Event::Reverted(HostId(0)), ZERO);
    assert_eq!(rollout.verdict(), Some(Verdict::RolledBack));
}

#[test]
fn hosts_that_are_still_switching_go_back_with_the_rest() {
    let mut rollout = Rollout::new(plan(&["100%"], OnFailure::Rollback), Lineup::plain(3));
    stage(&mut rollout, 3);
    rollout.handle(Event::Activated(HostId(0)), ZERO);
    let actions = fail(&mut rollout, 2, ZERO);
    assert_eq!(actions, [Action::GoBack(HostId(1)), Action::GoBack(HostId(0))]);
    assert_eq!(rollout.handle(Event::Checked(HostId(0)), ZERO), [], "too late to be confirmed");
    rollout.handle(Event::Reverted(HostId(0)), ZERO);
    rollout.handle(Event::Failed(HostId(1)), ZERO);
    assert_eq!(rollout.verdict(), Some(Verdict::RolledBack));
}

#[test]
fn what_is_live_stays_with_stop_and_the_rest_follows_with_continue() {
    let mut rollout = Rollout::new(plan(&["1"], OnFailure::Stop), Lineup::plain(3));
    stage(&mut rollout, 3);
    succeed(&mut rollout, 0, ZERO);
    assert_eq!(fail(&mut rollout, 1, ZERO), abandons([2]));
    assert_eq!(rollout.verdict(), Some(Verdict::StoppedByBudget));
    assert_eq!(rollout.state(HostId(0)), Some(HostState::Active));
    let mut rollout = Rollout::new(plan(&["1"], OnFailure::Continue), Lineup::plain(3));
    stage(&mut rollout, 3);
    assert_eq!(fail(&mut rollout, 0, ZERO), activations([1]));
    assert_eq!(fail(&mut rollout, 1, ZERO), activations([2]));
    succeed(&mut rollout, 2, ZERO);
    assert_eq!(rollout.verdict(), Some(Verdict::Completed));
}

#[test]
fn a_host_lost_while_it_waits_counts_and_its_wave_goes_on_without_it() {
    let mut rollout = Rollout::new(with_budget(plan(&["1"], OnFailure::Stop), 0, 1), Lineup::plain(4));
    stage(&mut rollout, 4);
    assert_eq!(rollout.handle(Event::Failed(HostId(1)), ZERO), []);
    assert_eq!(succeed(&mut rollout, 0, ZERO), activations([2]));
    assert_eq!(rollout.handle(Event::Failed(HostId(3)), ZERO), []);
    succeed(&mut rollout, 2, ZERO);
    assert_eq!(rollout.verdict(), Some(Verdict::Completed), "nobody was left to be stopped");
}

#[test]
fn a_timed_pause_ends_at_its_time_and_not_before() {
    let plan = RolloutPlan { pause: Pause::For(seconds(10)), ..plan(&["1"], OnFailure::Stop) };
    let mut rollout = Rollout::new(plan, Lineup::plain(2));
    stage(&mut rollout, 2);
    assert_eq!(succeed(&mut rollout, 0, seconds(100)), []);
    assert_eq!(rollout.step(), Step::Pause { next: 1, until: Some(seconds(110)) });
    assert_eq!(rollout.deadline(), Some(seconds(110)));
    assert_eq!(rollout.handle(Event::Approved, seconds(109)), [], "nobody asked");
    assert_eq!(rollout.handle(Event::TimePassed, seconds(110)), activations([1]));
}

#[test]
fn a_pause_for_the_operator_ends_with_a_word_or_with_the_deadline() {
    let confirm = |on_failure| RolloutPlan { pause: Pause::Confirm, ..plan(&["1"], on_failure) };
    let paused = |on_failure| {
        let mut rollout = Rollout::new(confirm(on_failure), Lineup::plain(2));
        stage(&mut rollout, 2);
        succeed(&mut rollout, 0, seconds(5));
        assert_eq!(rollout.step(), Step::Pause { next: 1, until: None });
        rollout
    };
    assert_eq!(paused(OnFailure::Stop).handle(Event::Approved, seconds(60)), activations([1]));
    for (event, at) in [(Event::Declined, 6), (Event::TimePassed, 605)] {
        let mut rollout = paused(OnFailure::Continue);
        assert_eq!(rollout.deadline(), Some(seconds(605)));
        assert_eq!(rollout.handle(event, seconds(at)), abandons([1]));
        assert_eq!(rollout.verdict(), Some(Verdict::NotApproved));
        let mut rollout = paused(OnFailure::Rollback);
        assert_eq!(rollout.handle(event, seconds(at)), [Action::Abandon(HostId(1)), Action::GoBack(HostId(0))]);
    }
}

#[test]
fn an_interrupt_in_a_pause_leaves_or_undoes_what_is_live_as_the_plan_says() {
    for on_failure in [OnFailure::Stop, OnFailure::Continue, OnFailure::Rollback] {
        let plan = RolloutPlan { pause: Pause::Confirm, ..plan(&["1"], on_failure) };
        let mut rollout = Rollout::new(plan, Lineup::plain(2));
        stage(&mut rollout, 2);
        succeed(&mut rollout, 0, ZERO);
        let actions = rollout.handle(Event::Interrupted, ZERO);
        if on_failure == OnFailure::Rollback {
            assert_eq!(actions, [Action::Abandon(HostId(1)), Action::GoBack(HostId(0))]);
            rollout.handle(Event::Reverted(HostId(0)), ZERO);
        } else {
            assert_eq!(actions, abandons([1]));
        }
        assert_eq!(rollout.verdict(), Some(Verdict::Interrupted), "{on_failure:?}");
    }
}

#[test]
fn a_host_that_never_answers_is_given_up_and_holds_up_nobody() {
    let mut rollout = Rollout::new(plan(&["1", "2"], OnFailure::Rollback), Lineup::plain(3));
    stage(&mut rollout, 3);
    succeed(&mut rollout, 0, ZERO);
    rollout.handle(Event::Activated(HostId(2)), ZERO);
    let back = |host| Action::GoBack(HostId(host));
    assert_eq!(rollout.handle(Event::Failed(HostId(1)), seconds(10)), [back(2)]);
    assert_eq!(rollout.deadline(), Some(seconds(610)));
    assert_eq!(rollout.handle(Event::TimePassed, seconds(609)), []);
    assert_eq!(rollout.handle(Event::TimePassed, seconds(610)), [Action::GiveUp(HostId(2)), back(0)]);
    assert_eq!(rollout.state(HostId(2)), Some(HostState::Failed));
    assert_eq!(rollout.handle(Event::TimePassed, seconds(1210)), [Action::GiveUp(HostId(0))]);
    assert_eq!((rollout.state(HostId(0)), rollout.verdict()), (Some(HostState::Active), Some(Verdict::RolledBack)));
    rollout.handle(Event::Reverted(HostId(0)), seconds(1211));
    assert_eq!(rollout.state(HostId(0)), Some(HostState::Reverted), "late, and true");
}

#[test]
fn a_host_is_told_to_go_back_once() {
    for answers in [true, false] {
        let plan = with_budget(plan(&["1", "1"], OnFailure::Rollback), 9, 0);
        let mut rollout = Rollout::new(plan, Lineup::plain(2));
        stage(&mut rollout, 2);
        rollout.handle(Event::Activated(HostId(0)), ZERO);
        rollout.handle(Event::Checked(HostId(0)), ZERO);
        assert_eq!(rollout.handle(Event::TimePassed, seconds(600)), [Action::GoBack(HostId(0))]);
        // The confirmation was faster. It can't go back, or does not say.
        assert_eq!(rollout.handle(Event::Confirmed(HostId(0)), seconds(601)), []);
        let next = Action::Activate(HostId(1));
        if answers {
            assert_eq!(rollout.handle(Event::Failed(HostId(0)), seconds(602)), [next]);
        } else {
            assert_eq!(rollout.handle(Event::TimePassed, seconds(1200)), [Action::GiveUp(HostId(0)), next]);
        }
        assert_eq!(fail(&mut rollout, 1, seconds(1300)), []);
        assert_eq!(rollout.state(HostId(0)), Some(HostState::Active));
        assert!(rollout.verdict().is_some());
    }
}

#[test]
fn a_straggler_that_never_answers_is_given_up_too() {
    let mut rollout = Rollout::new(with_budget(plan(&["1"], OnFailure::Continue), 9, 9), Lineup::plain(2));
    stage(&mut rollout, 2);
    assert_eq!(rollout.handle(Event::TimePassed, seconds(600)), [Action::GoBack(HostId(0))]);
    assert_eq!(rollout.deadline(), Some(seconds(1200)));
    let next = rollout.handle(Event::TimePassed, seconds(1200));
    assert_eq!(next, [Action::GiveUp(HostId(0)), Action::Activate(HostId(1))]);
}

#[test]
fn a_wave_that_gets_no_further_goes_back_at_its_deadline() {
    let mut rollout = Rollout::new(with_budget(plan(&["2"], OnFailure::Stop), 0, 0), Lineup::plain(3));
    stage(&mut rollout, 3);
    assert_eq!(rollout.handle(Event::Activated(HostId(1)), seconds(400)), [], "progress of one is enough");
    assert_eq!(rollout.deadline(), Some(seconds(1000)));
    assert_eq!(succeed_now(&mut rollout, 1, seconds(500)), []);
    assert_eq!(rollout.handle(Event::TimePassed, seconds(1099)), []);
    assert_eq!(rollout.handle(Event::TimePassed, seconds(1100)), [Action::GoBack(HostId(0))]);
    assert_eq!(rollout.deadline(), Some(seconds(1700)), "it is asked once, and waited for as long again");
    assert_eq!(rollout.handle(Event::Reverted(HostId(0)), seconds(1101)), abandons([2]));
    assert_eq!(rollout.verdict(), Some(Verdict::StoppedByBudget));
}

fn succeed_now(rollout: &mut Rollout, host: u32, now: Duration) -> Vec<Action> {
    rollout.handle(Event::Checked(HostId(host)), now);
    rollout.handle(Event::Confirmed(HostId(host)), now)
}

#[test]
fn an_interrupt_lets_the_wave_finish_and_begins_no_other() {
    for fails in [false, true] {
        let mut rollout = Rollout::new(plan(&["2"], OnFailure::Stop), Lineup::plain(4));
        stage(&mut rollout, 4);
        succeed(&mut rollout, 0, ZERO);
        assert_eq!(rollout.handle(Event::Interrupted, ZERO), []);
        let end = if fails { fail(&mut rollout, 1, ZERO) } else { succeed(&mut rollout, 1, ZERO) };
        assert_eq!((end, rollout.verdict()), (abandons([2, 3]), Some(Verdict::Interrupted)));
        assert_eq!(rollout.state(HostId(0)), Some(HostState::Active));
    }
}

#[test]
fn an_interrupt_undoes_what_was_switched_if_the_plan_rolls_back() {
    let mut rollout = Rollout::new(plan(&["1", "2"], OnFailure::Rollback), Lineup::plain(4));
    stage(&mut rollout, 4);
    succeed(&mut rollout, 0, ZERO);
    succeed(&mut rollout, 1, ZERO);
    let back = |host| Action::GoBack(HostId(host));
    assert_eq!(rollout.handle(Event::Interrupted, ZERO), [abandons([3]), vec![back(2), back(1)]].concat());
    assert_eq!(rollout.handle(Event::Interrupted, ZERO), []);
    rollout.handle(Event::Reverted(HostId(2)), ZERO);
    assert_eq!(rollout.handle(Event::Reverted(HostId(1)), ZERO), [back(0)]);
    rollout.handle(Event::Reverted(HostId(0)), ZERO);
    assert_eq!(rollout.verdict(), Some(Verdict::Interrupted));
}

#[test]
fn the_first_waves_budget_holds_also_where_it_is_the_only_wave() {
    let plan = with_budget(plan(&["100%"], OnFailure::Rollback), 0, 9);
    let mut rollout = Rollout::new(plan, Lineup::plain(3));
    stage(&mut rollout, 3);
    assert_eq!(fail(&mut rollout, 1, ZERO), [Action::GoBack(HostId(2)), Action::GoBack(HostId(0))]);
}

#[test]
fn time_only_moves_forward() {
    let plan = RolloutPlan { pause: Pause::For(seconds(10)), ..plan(&["1"], OnFailure::Stop) };
    let mut rollout = Rollout::new(plan, Lineup::plain(2));
    stage(&mut rollout, 2);
    succeed(&mut rollout, 0, seconds(100));
    assert_eq!(rollout.handle(Event::TimePassed, seconds(3)), []);
    assert_eq!(rollout.deadline(), Some(seconds(110)));
}

#[test]
fn one_zone_follows_the_other_and_each_has_its_own_canary() {
    let zones = ["a", "b", "", "a", "b", "a"].map(|zone| (!zone.is_empty()).then(|| zone.to_owned())).to_vec();
    let lineup = Lineup { zones, seed: 0, goes_on: false };
    let plan = RolloutPlan { order: Order::Zone, ..plan(&["1", "100%"], OnFailure::Stop) };
    let of = |hosts: &[u32]| hosts.iter().copied().map(HostId).collect::<Vec<_>>();
    let every: Vec<HostId> = lineup.hosts().collect();
    assert_eq!(waves(&plan, &lineup, &every), [of(&[0]), of(&[3, 5]), of(&[1]), of(&[4]), of(&[2])]);
}

#[test]
fn a_shuffled_order_is_the_seeds_own() {
    let plan = RolloutPlan { order: Order::Shuffled, ..plan(&["100%"], OnFailure::Stop) };
    let order = |seed| {
        let lineup = Lineup { seed, ..Lineup::plain(50) };
        waves(&plan, &lineup, &ids(50).collect::<Vec<_>>())
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    assert_ne!(order(1), [ids(50).collect::<Vec<_>>()]);
}
