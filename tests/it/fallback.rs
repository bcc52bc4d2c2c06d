//! Deploys that get through where hosts can't reach the controller.

use std::fs;

use fleetdrop::model::{HostState::Active, RunEvent, distribution::Mode};

use crate::{
    artifact,
    operator::{Finished, Operator},
    sshd::SshdFleet,
};

/// Where no TCP connection can be made: the kernel refuses it without sending anything.
const NOWHERE: [&str; 2] = ["--advertise", "255.255.255.255"];

/// Returns how hosts got the artifact, as events told and as the summary has it.
#[track_caller]
fn modes(run: &Finished) -> Vec<Mode> {
    let modes: Vec<Mode> = run.summary().hosts.iter().map(|host| host.mode).collect();
    for (result, mode) in run.summary().hosts.iter().zip(&modes) {
        let mut told = run.events.iter().filter_map(|envelope| match &envelope.event {
            RunEvent::HostMode { host, mode, reason } if *host == result.host => Some((*mode, reason.as_str())),
            _ => None,
        });
        let told = told.next_back();
        assert_eq!(told.map_or(Mode::Peers, |(mode, _)| mode), *mode, "{run:?}");
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
