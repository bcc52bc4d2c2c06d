//! Releases that keep the controller out, and connections that break in the middle of a switch: hosts go back alone.

use std::time::Duration;

use fleetdrop::model::{
    HostState::{Activating, Active, Checking, Failed, Reverted, Skipped},
    RunEvent, Verdict,
    plan::{Hooks, OnFailure, Pause, RolloutPlan},
};
use tokio_util::sync::CancellationToken;

use crate::rollout_rig::{Orders, Rig, shell};

/// Ends the host's sshd: no new login is possible, sessions that are open live on.
const KILL_SSHD: &str = "kill $(cat $FLEETDROP_DEPLOY_TO/../sshd.pid)";

/// Ends the host's sshd and all that serve its connections, this agent's too.
const KILL_SSHD_AND_SESSIONS: &str = r#"
sessions() {
    for stat in /proc/[0-9]*/stat; do
        { read -r pid name state parent rest < "$stat"; } 2> /dev/null || continue
        case $parent$name in "$1(sshd"*) echo "$pid"; sessions "$pid" ;; esac
    done
}
listener=$(cat $FLEETDROP_DEPLOY_TO/../sshd.pid)
kill -9 "$listener" $(sessions "$listener")
sleep 60
"#;

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
fn a_host_that_lost_its_connection_after_it_went_live_is_still_rolled_back() {
    for first in [true, false] {
        let rig = Rig::start(2);
        let [one, two] = ["1", "2"].map(|version| rig.artifact(version));
        if !first {
            rig.deploy(&one, Orders::waves(&["100%"], OnFailure::Stop), |_| ()).expect(0, &[Active; 2]);
        }
        rig.break_on(1, "2");
        let orders = Orders { hooks: rig.probed_service(), ..Orders::waves(&["1"], OnFailure::Rollback) };
        let run = rig.deploy(&two, orders, |event| {
            if let RunEvent::HostState { host, state: Active, .. } = event
                && host.as_str() == "host-01"
            {
                rig.fleet.hosts()[0].cut_connections();
            }
        });
        run.expect(8, &[Reverted, Reverted]);
        assert_eq!(run.summary.verdict, Verdict::RolledBack);
        assert_eq!(run.why(0), "the run is rolled back: too many hosts dropped out");
        let before = (!first).then_some("1");
        rig.fleet.expect_live(&[before, before]);
        assert_eq!(rig.served(), vec![before.map(str::to_owned); 2], "the hooks of the way back have run");
    }
}

#[test]
fn a_host_that_loses_its_connection_in_a_pause_switches_with_its_wave() {
    let rig = Rig::start(2);
    let orders = Orders::waves(&["1"], OnFailure::Rollback);
    let rollout = RolloutPlan { pause: Pause::For(Duration::from_secs(1)), ..orders.rollout };
    let run = rig.deploy(&rig.artifact("1"), Orders { rollout, ..orders }, |event| {
        if let RunEvent::Paused { .. } = event {
            rig.fleet.hosts()[1].cut_connections();
        }
    });
    run.expect(0, &[Active; 2]);
    rig.fleet.expect_live(&[Some("1"); 2]);
    rig.fleet.assert_nothing_left();
}

#[test]
fn an_interrupt_in_a_wave_rolls_back_where_the_plan_does() {
    for (on_failure, states) in
        [(OnFailure::Rollback, [Reverted, Reverted, Skipped]), (OnFailure::Stop, [Active, Active, Skipped])]
    {
        let rig = Rig::start(3);
        let [one, two] = ["1", "2"].map(|version| rig.artifact(version));
        rig.deploy(&one, Orders::waves(&["100%"], OnFailure::Stop), |_| ()).expect(0, &[Active; 3]);
        let interrupt = CancellationToken::new();
        let orders = Orders { hooks: rig.probed_service(), ..Orders::waves(&["1"], on_failure) };
        let run = rig.deploy_until(interrupt.clone(), &two, orders, |event| {
            if let RunEvent::HostState { host, state: Activating, .. } = event
                && host.as_str() == "host-02"
            {
                interrupt.cancel();
            }
        });
        run.expect(130, &states);
        assert_eq!(run.summary.verdict, Verdict::Interrupted);
        let live = if on_failure == OnFailure::Stop { Some("2") } else { Some("1") };
        rig.fleet.expect_live(&[live, live, Some("1")]);
    }
}

#[test]
fn a_hook_that_ends_sshd_and_every_connection_leaves_the_host_to_go_back_alone() {
    let rig = Rig::start(2);
    let [one, two] = ["1", "2"].map(|version| rig.artifact(version));
    let orders = |hooks| Orders { hooks, confirm: Duration::from_secs(2), ..Orders::waves(&["1"], OnFailure::Stop) };
    rig.deploy(&one, orders(rig.service()), |_| ()).expect(0, &[Active; 2]);
    let mut hooks = rig.service();
    hooks.after_activate.push(shell(KILL_SSHD_AND_SESSIONS));
    let run = rig.deploy(&two, orders(hooks), |_| ());
    // What became of the host the controller can't know, and it says so.
    run.expect(8, &[Failed, Skipped]);
    assert!(run.why(0).contains("it goes back by itself"), "{}", run.why(0));
    rig.fleet.assert_nothing_left_but("/service.py ");
    rig.fleet.expect_live(&[Some("1"); 2]);
    assert_eq!(rig.served(), vec![Some("1".to_owned()); 2], "its service is the old release's again");
}
