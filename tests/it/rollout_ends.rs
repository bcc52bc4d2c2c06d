//! Releases that keep the controller out, and connections that break in the middle of a switch: hosts go back alone.

use std::time::Duration;

use fleetdrop::model::{
    HostState::{Active, Checking, Reverted, Skipped},
    RunEvent,
    plan::{Hooks, OnFailure},
};

use crate::rollout_rig::{Orders, Rig, shell};

/// Ends the host's sshd: no new login is possible, sessions that are open live on.
const KILL_SSHD: &str = "kill $(cat $FLEETDROP_DEPLOY_TO/../sshd.pid)";

#[test]
fn a_release_that_keeps_the_controller_out_undoes_itself() {
    let rig = Rig::start(2);
    let [one, two] = ["1", "2"].map(|version| rig.artifact(version));
    rig.deploy(&one, Orders::waves(&["100%"], OnFailure::Stop), |_| ()).expect(0, &[Active; 2]);
    let hooks = Hooks { after_activate: vec![shell(KILL_SSHD)], ..Hooks::default() };
    let run = rig.deploy(&two, Orders { hooks, ..Orders::waves(&["1", "100%"], OnFailure::Rollback) }, |_| ());
    run.expect(8, &[Reverted, Skipped]);
    assert!(run.why(0).starts_with("the controller cannot log in anew: "), "{}", run.why(0));
    rig.fleet.expect_live(&[Some("1"); 2]);
    rig.fleet.assert_nothing_left();
}

#[test]
fn a_host_whose_connection_breaks_while_it_switches_goes_back_alone_and_the_controller_learns_of_it() {
    let rig = Rig::start(2);
    let [one, two] = ["1", "2"].map(|version| rig.artifact(version));
    rig.deploy(&one, Orders::waves(&["100%"], OnFailure::Stop), |_| ()).expect(0, &[Active; 2]);
    let hooks = Hooks { after_activate: vec![shell("sleep 60")], ..Hooks::default() };
    let orders = Orders { hooks, ..Orders::waves(&["1", "100%"], OnFailure::Rollback) };
    let run = rig.deploy(&two, orders, |event| {
        if let RunEvent::HostState { host, state: Checking, .. } = event
            && host.as_str() == "host-01"
        {
            rig.fleet.hosts()[0].cut_connections();
        }
    });
    run.expect(8, &[Reverted, Skipped]);
    assert!(run.why(0).ends_with("it went back by itself"), "{}", run.why(0));
    rig.fleet.expect_live(&[Some("1"); 2]);
    rig.fleet.assert_nothing_left();
}

#[test]
fn a_host_that_cannot_be_reached_any_more_goes_back_alone() {
    let rig = Rig::start(1);
    let [one, two] = ["1", "2"].map(|version| rig.artifact(version));
    rig.deploy(&one, Orders::waves(&["100%"], OnFailure::Stop), |_| ()).expect(0, &[Active]);
    let hooks = Hooks { after_activate: vec![shell("sleep 60")], ..Hooks::default() };
    let orders = Orders { hooks, confirm: Duration::from_secs(2), ..Orders::waves(&["1"], OnFailure::Rollback) };
    let run = rig.deploy(&two, orders, |event| {
        if let RunEvent::HostState { state: Checking, .. } = event {
            rig.fleet.hosts()[0].lock_out();
        }
    });
    assert_eq!(run.summary.exit_code, 2, "{:?}", run.summary);
    assert!(run.why(0).contains("it goes back by itself"), "{}", run.why(0));
    rig.fleet.expect_live(&[Some("1")]);
    rig.fleet.assert_nothing_left();
}
