//! Controllers and agents are killed at every step of what they do.

use std::{collections::BTreeSet, fs};

use fleetdrop::failpoint;

use crate::{
    artifact,
    hosts::App,
    kills::{Bench, Outcome},
    operator::Operator,
    sshd::SshdFleet,
};

/// How many cases are played at once.
const AT_ONCE: usize = 4;
/// How many deaths are drawn.
const DRAWN: usize = 36;

fn assert_none_broken(outcomes: &[Outcome]) {
    let broken: Vec<_> = outcomes.iter().filter(|outcome| outcome.violation.is_some()).collect();
    assert!(broken.is_empty(), "{} of {}: {broken:#?}", broken.len(), outcomes.len());
}

#[tokio::test]
async fn an_agent_killed_at_any_step_leaves_a_complete_release_live_and_the_next_one_puts_things_in_order() {
    let bench = Bench::new().await;
    assert_eq!(bench.never_reached(), [""; 0]);
    assert_none_broken(&bench.play_all(bench.cases(false), AT_ONCE, |_| ()).await);
}

#[tokio::test]
async fn an_agent_that_dies_anyhow_leaves_a_complete_release_live_and_the_next_one_puts_things_in_order() {
    let bench = Bench::new().await;
    let mut random = fastrand::Rng::with_seed(5);
    let cases = (0..DRAWN).map(|_| bench.draw(&mut random)).collect();
    assert_none_broken(&bench.play_all(cases, AT_ONCE, |_| ()).await);
}

/// Places that a deploy without trouble does not come to.
const TROUBLE: [&str; 3] = ["controller.queued", "controller.backfilling", "controller.dropped"];

#[test]
fn a_controller_killed_at_any_step_leaves_hosts_that_put_themselves_in_order_and_a_run_that_can_be_finished() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let waves = operator.work().join("waves.yaml");
    fs::write(&waves, "app: shop\nrollout: {waves: [1, 100%]}\n").unwrap();
    let deploy = |version: usize| {
        let artifact = artifact::shop(&operator.work(), &version.to_string(), 10_000);
        operator.deploy(&fleet.fleet(), &artifact).with(["--playbook".as_ref(), waves.as_os_str()])
    };
    let trace = operator.work().join("trace");
    deploy(1).start_with(failpoint::TRACE, &trace).finish().expect_code(0);
    let trace = fs::read_to_string(trace).unwrap();
    let points: BTreeSet<&str> = trace.lines().filter(|point| point.starts_with("controller.")).collect();
    let wanted: BTreeSet<&str> = failpoint::CONTROLLER.iter().copied().filter(|point| !TROUBLE.contains(point)).collect();
    assert_eq!(points, wanted);
    // Each the first time, and what both waves come to also in the second.
    let deaths = points.iter().map(|point| (*point).to_owned());
    let second = ["controller.activating:2", "controller.checking:2", "controller.active:2"].map(str::to_owned);
    for (version, death) in (2..).zip(deaths.chain(second)) {
        fleet.assert_nothing_left();
        let killed = deploy(version).start_with(failpoint::KILL, &death).finish();
        assert_eq!(killed.code, None, "{death}: it was not killed: {killed:?}");
        fleet.assert_nothing_left();
        let versions = [version - 1, version].map(|version| version.to_string());
        for host in fleet.hosts() {
            let live = App(host.deploy_to()).live().unwrap();
            assert!(versions.contains(&live), "{death}: version {live} is live on {}", host.name());
        }
        let resumed = operator.resume(&[]);
        if resumed.code != Some(0) {
            // It had not begun when it was killed.
            resumed.expect_code(5).expect_stderr(&["no run that was cut off"]);
            deploy(version).run().expect_code(0);
        }
        fleet.expect_live(&[Some(versions[1].as_str()); 2]);
        for host in fleet.hosts() {
            App(host.deploy_to()).releases();
        }
    }
}
