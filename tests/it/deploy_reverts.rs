//! Hosts that switched and never hear from the controller again: they go back by themselves, and the controller learns of it.
//!
//! What hosts say is held back on its way, so that the controller can't confirm what it has not heard of.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use fleetdrop::model::{
    FailureKind,
    HostState::{Active, Checking, Reverted, Staged},
    RunEvent, Verdict,
};
use rustix::process::Signal;

use crate::{
    artifact,
    hosts::{App, Door},
    operator::Operator,
    sshd::SshdFleet,
};

/// Waits until the live version of an application, which nobody else tells of, is that one.
#[track_caller]
fn wait_until_live(deploy_to: &Path, version: Option<&str>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // While `current` changes, a look at what it leads to may find the one and then the other release.
        let live = fs::read_to_string(deploy_to.join("current/VERSION")).ok();
        if live.as_deref() == version {
            return;
        }
        assert!(Instant::now() < deadline, "{} is on {live:?}, not on {version:?}", deploy_to.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn hosts_that_are_not_confirmed_go_back_by_themselves() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 300_000));
    // For host-03 the second version is the first deploy.
    let first = operator.deploy(&fleet.fleet(), &one).with(["--limit", "host-01,host-02"]).run().expect_code(0);
    let release_one = first.summary().hosts[0].release.clone();
    fleet.assert_nothing_left();

    let doors: Vec<Door> = fleet.hosts().iter().map(Door::before).collect();
    let command_line = fleet.behind(&doors, &operator.work());
    let patience = ["--connect-timeout", "60s", "--confirm-timeout", "5s", "--lease", "60s"];
    let mut run = operator.deploy(&command_line, &two).with(patience).start();
    let (gate, held) = doors.split_first().unwrap();
    held.iter().for_each(Door::open);
    for host in &fleet.hosts()[1..] {
        run.wait_for_state(host.name(), Staged);
    }
    held.iter().for_each(Door::hold_back);
    // The last host is the barrier's.
    gate.open();
    run.wait_for_state("host-01", Active);
    let going_back: Vec<&Path> = fleet.hosts()[1..].iter().map(|host| host.deploy_to()).collect();
    going_back.iter().for_each(|app| wait_until_live(app, Some("2")));

    run.signal(Signal::STOP);
    held.iter().for_each(Door::let_through);
    wait_until_live(going_back[0], Some("1"));
    wait_until_live(going_back[1], None);
    run.signal(Signal::CONT);

    let run = run.finish().expect_code(2).expect_states(&[Active, Reverted, Reverted]);
    assert_eq!(run.summary().verdict, Verdict::Completed);
    fleet.expect_live(&[Some("2"), Some("1"), None]);
    assert!(!going_back[1].join("current").is_symlink(), "a first deploy that was reverted leaves no `current`");
    for (host, live) in [("host-02", &release_one), ("host-03", &None)] {
        let failure = run.failure(host);
        assert_eq!(failure.kind, FailureKind::Failed);
        assert!(failure.message.contains("not confirmed within 5 s"), "{failure:?}");
        assert_eq!(&run.host(host).release, live, "what is live is told: {run:?}");
        let states: Vec<_> = run
            .events
            .iter()
            .filter_map(|envelope| match &envelope.event {
                RunEvent::HostState { host: who, state, .. } if who.as_str() == host => Some(*state),
                _ => None,
            })
            .collect();
        assert!(states.ends_with(&[Checking, Reverted]), "{states:?}");
    }
    fleet.assert_nothing_left();

    // Nothing of it stands in the way of the next deploy.
    let again = operator.deploy(&fleet.fleet(), &two).run().expect_code(0).expect_states(&[Active; 3]);
    let unchanged: Vec<bool> = again.summary().hosts.iter().map(|host| host.unchanged).collect();
    assert_eq!(unchanged, [true, false, false], "{again:?}");
    fleet.expect_live(&[Some("2"); 3]);
    assert_eq!(App(going_back[1]).releases().len(), 1);
}
