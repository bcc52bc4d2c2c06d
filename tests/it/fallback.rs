//! Deploys that get through where hosts can't reach the controller.

use std::fs;

use fleetdrop::model::{
    HostState::Active,
    RunEvent,
    distribution::{Distribution, Mode},
};

use rustix::process::Signal;

use crate::{
    artifact,
    operator::{Finished, Operator},
    sshd::SshdFleet,
};

/// Where no TCP connection can be made: the kernel refuses it without sending anything.
pub(crate) const NOWHERE: [&str; 2] = ["--advertise", "255.255.255.255"];

/// Returns how the run was to distribute the artifact.
#[track_caller]
pub(crate) fn planned(run: &Finished) -> Distribution {
    match &run.events[0].event {
        RunEvent::RunStarted { distribution: Some(distribution), .. } => distribution.clone(),
        other => panic!("{other:?}"),
    }
}

/// Returns how hosts got the artifact, as events told and as the summary has it.
#[track_caller]
pub(crate) fn modes(run: &Finished) -> Vec<Mode> {
    let modes: Vec<Mode> = run.summary().hosts.iter().map(|host| host.mode).collect();
    for (result, mode) in run.summary().hosts.iter().zip(&modes) {
        let mut told = run.events.iter().filter_map(|envelope| match &envelope.event {
            RunEvent::HostMode { host, mode, reason } if *host == result.host => Some((*mode, reason.as_str())),
            _ => None,
        });
        let told = told.next_back();
        assert_eq!(told.map_or(planned(run).mode(), |(mode, _)| mode), *mode, "{run:?}");
        assert_eq!(told.map(|(_, reason)| reason), result.mode_reason.as_deref(), "{run:?}");
    }
    modes
}

#[test]
fn hosts_that_cannot_reach_the_controller_get_it_over_ssh_and_from_those_that_have_it() {
    const HOSTS: usize = 6;
    let (operator, fleet) = (Operator::new(), SshdFleet::start(HOSTS));
    let artifact = artifact::shop(&operator.work(), "1", 3_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let run = operator.deploy(&fleet.fleet(), &artifact).with(NOWHERE).run().expect_code(0).expect_states(&[Active; HOSTS]);
    fleet.expect_live(&[Some("1"); HOSTS]);
    fleet.assert_nothing_left();

    let over_ssh = modes(&run).into_iter().filter(|mode| *mode == Mode::Ssh).count();
    assert!((1..=3).contains(&over_ssh), "{over_ssh} hosts had a way of their own\n{run:?}");
    let bytes = run.summary().bytes;
    assert_eq!((bytes.received(), bytes.from_controller), (HOSTS as u64 * size, 0), "{run:?}");
    assert!((size..=3 * size).contains(&bytes.from_ssh), "{run:?}");
    let warnings = run.warnings();
    assert!(warnings.len() == 1 && warnings[0].ends_with("; it comes over SSH"), "{run:?}");
    assert!(warnings[0].starts_with("can't connect to the controller at 255.255.255.255:"), "{run:?}");
}

#[test]
fn where_ssh_forwards_no_ports_it_comes_over_a_command() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(2));
    for host in 0..2 {
        fleet.host_mut(host).configure("AllowTcpForwarding no");
    }
    let artifact = artifact::shop(&operator.work(), "1", 3_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let run = operator.deploy(&fleet.fleet(), &artifact).with(NOWHERE).run().expect_code(0).expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("1"); 2]);
    fleet.assert_nothing_left();
    assert!(modes(&run).contains(&Mode::Ssh), "{run:?}");
    let bytes = run.summary().bytes;
    assert!(bytes.from_ssh >= size && bytes.from_controller == 0 && bytes.received() == 2 * size, "{run:?}");
}

#[test]
fn hosts_without_a_swarm_exchange_nothing() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let artifact = artifact::shop(&operator.work(), "1", 3_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let run = operator.deploy(&fleet.fleet(), &artifact).with(["--no-swarm"]).run().expect_code(0).expect_no_warning();
    assert_eq!(
        planned(&run),
        Distribution { use_swarm: false, origin_only: false, reason: "the swarm is switched off".into(), origins: false }
    );
    assert_eq!(modes(&run), [Mode::Controller; 3]);
    let bytes = run.summary().bytes;
    assert_eq!((bytes.from_controller, bytes.from_peers, bytes.uploaded), (3 * size, 0, 0), "{run:?}");
    fleet.expect_live(&[Some("1"); 3]);

    // What is small goes directly without being told.
    let artifact = artifact::shop(&operator.work(), "2", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_no_warning();
    let reason = "the artifact is too small for a swarm to pay".to_owned();
    assert_eq!(planned(&run), Distribution { use_swarm: false, origin_only: false, reason, origins: false });
    assert_eq!(run.summary().bytes.from_peers, 0, "{run:?}");
    fleet.expect_live(&[Some("2"); 3]);
}

#[test]
fn a_swarm_that_is_switched_off_goes_on_without_the_peers() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let artifact = artifact::shop(&operator.work(), "1", 6_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let slowly = ["--controller-upload-limit", "2MiB/s", "--upload-limit", "256KiB/s"];
    let mut run = operator.deploy(&fleet.fleet(), &artifact).with(slowly).start();
    run.wait_for("something came from another host", |event| match event {
        RunEvent::HostProgress { bytes, .. } if bytes.from_peers > 0 => Some(()),
        _ => None,
    });
    run.signal(Signal::USR1);
    run.wait_for("the swarm stopped", |event| matches!(event, RunEvent::SwarmStopped).then_some(()));
    let run = run.finish().expect_code(0).expect_states(&[Active; 3]);
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();
    assert!(planned(&run).use_swarm, "{run:?}");
    assert_eq!(run.summary().bytes.received(), 3 * size, "something was fetched twice\n{run:?}");
    // All of it at the controller's limit takes 9 s; a seed that still counted on the hosts took a minute.
    let slowest = run.summary().slowest.as_ref().unwrap().1;
    assert!(slowest < 30.0, "{slowest} s\n{run:?}");
}

#[test]
fn limits_are_kept() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let seconds = |version: &str, options: &[&str]| {
        let artifact = artifact::shop(&operator.work(), version, 3_000_000);
        let run = operator.deploy(&fleet.fleet(), &artifact).with(options).run().expect_code(0);
        let times = run.summary().hosts.iter().map(|host| host.transfer_seconds.unwrap());
        times.fold(0.0, f64::max)
    };
    // Each of them 3 MB at 1 MB a second; both together 6 MB at 2 MB a second. Bursts aside.
    assert!(seconds("1", &["--download-limit", "1MB/s"]) > 2.5);
    assert!(seconds("2", &["--no-swarm", "--controller-upload-limit", "2MB/s"]) > 2.5);
}
