//! Waves over real hosts with a real service: who switches when, and who goes back.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fleetdrop::{
    controller::Approval,
    model::{
        HostState::{Active, Reverted, Skipped},
        RunEvent, Verdict,
        plan::{OnFailure, Pause, RolloutPlan},
    },
};

use crate::rollout_rig::{Orders, Rig};

/// What a switch of `current` would change.
fn current(rig: &Rig, host: usize) -> (std::path::PathBuf, std::time::SystemTime) {
    let path = rig.fleet.hosts()[host].deploy_to().join("current");
    (fs::read_link(&path).unwrap(), fs::symlink_metadata(&path).unwrap().modified().unwrap())
}

#[test]
fn a_canary_that_fails_its_health_check_goes_back_and_no_other_host_is_touched() {
    let rig = Rig::start(3);
    let [one, two] = ["1", "2"].map(|version| rig.artifact(version));
    rig.deploy(&one, Orders::waves(&["100%"], OnFailure::Stop), |_| ()).expect(0, &[Active; 3]);
    let before = [1, 2].map(|host| current(&rig, host));

    rig.break_on(0, "2");
    let orders =
        Orders { hooks: rig.service(), health: rig.url_answers(0, 8), ..Orders::waves(&["1", "100%"], OnFailure::Rollback) };
    let run = rig.deploy(&two, orders, |_| ());
    run.expect(8, &[Reverted, Skipped, Skipped]);
    assert_eq!(run.summary.verdict, Verdict::StoppedByBudget);
    assert!(run.why(0).contains("answered with status 500 instead of 200"), "{}", run.why(0));
    assert_eq!((run.summary.waves, run.summary.hosts[0].wave, run.summary.hosts[2].wave), (2, Some(1), Some(2)));
    rig.fleet.expect_live(&[Some("1"); 3]);
    assert_eq!([1, 2].map(|host| current(&rig, host)), before, "nobody touched them");
    assert_eq!(rig.served(), [Some("1".into()), None, None], "the canary's service is the old release's again");

    // A release that works goes all the way.
    let three = rig.artifact("3");
    let orders = Orders { hooks: rig.probed_service(), ..Orders::waves(&["1", "100%"], OnFailure::Rollback) };
    let run = rig.deploy(&three, orders, |_| ());
    run.expect(0, &[Active; 3]);
    assert_eq!(rig.served(), vec![Some("3".to_owned()); 3]);
}

#[test]
fn a_budget_that_is_spent_in_the_third_wave_sends_everybody_back_in_reverse_order() {
    let rig = Rig::start(6);
    let [one, two] = ["1", "2"].map(|version| rig.artifact(version));
    let orders = || Orders { hooks: rig.probed_service(), ..Orders::waves(&["1", "1", "2"], OnFailure::Rollback) };
    rig.deploy(&one, orders(), |_| ()).expect(0, &[Active; 6]);
    assert_eq!(rig.served(), vec![Some("1".to_owned()); 6]);

    rig.break_on(3, "2");
    let run = rig.deploy(&two, orders(), |_| ());
    run.expect(8, &[Reverted, Reverted, Reverted, Reverted, Skipped, Skipped]);
    assert_eq!(run.summary.verdict, Verdict::RolledBack);
    let back = run.entered(Reverted);
    let place = |host: &str| back.iter().position(|name| *name == host).unwrap();
    assert!(place("host-03") < place("host-02") && place("host-02") < place("host-01"), "{back:?}");
    assert!(run.why(3).starts_with("the after_activate hook `bash -c"), "{}", run.why(3));
    let failure = run.summary.hosts[3].failure.as_ref().unwrap();
    assert!(failure.log_tail.iter().any(|line| line.starts_with("HTTP/1.0 500")), "{failure:?}");
    assert_eq!(run.why(0), "the run is rolled back: too many hosts dropped out");
    assert!(run.events.iter().any(|event| matches!(event, RunEvent::RollingBack { .. })));
    rig.fleet.expect_live(&[Some("1"); 6]);
    assert_eq!(rig.served(), vec![Some("1".to_owned()); 6], "every service is the old release's again");

    // What went back stands in nobody's way.
    let three = rig.artifact("3");
    rig.deploy(&three, orders(), |_| ()).expect(0, &[Active; 6]);
    rig.fleet.expect_live(&[Some("3"); 6]);
}

#[test]
fn a_wave_waits_for_the_operators_word() {
    let rig = Rig::start(2);
    let asked = Arc::new(AtomicUsize::new(0));
    let orders = |answer: bool| {
        let asked = asked.clone();
        let ask = move |question: fleetdrop::controller::Question| {
            assert_eq!((question.wave, question.waves, question.hosts, question.active), (2, 2, 1, 1));
            asked.fetch_add(1, Ordering::Relaxed);
            answer
        };
        let orders = Orders::waves(&["1"], OnFailure::Stop);
        let rollout = RolloutPlan { pause: Pause::Confirm, ..orders.rollout };
        Orders { rollout, approval: Approval::Ask(Arc::new(ask)), ..orders }
    };
    let run = rig.deploy(&rig.artifact("1"), orders(false), |_| ());
    run.expect(8, &[Active, Skipped]);
    assert_eq!(run.summary.verdict, Verdict::NotApproved);
    rig.fleet.expect_live(&[Some("1"), None]);
    // For host-01 nothing is left to do, so that host-02 is the only wave: nobody is asked.
    rig.deploy(&rig.artifact("1"), orders(true), |_| ()).expect(0, &[Active; 2]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let run = rig.deploy(&rig.artifact("2"), orders(true), |_| ());
    run.expect(0, &[Active; 2]);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert!(run.events.iter().any(|event| matches!(event, RunEvent::Paused { wave: 2, waves: 2, seconds: None })));
}
