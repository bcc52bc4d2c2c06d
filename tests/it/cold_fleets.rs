//! Fleets without an agent on any host, on real sshd: a few copies leave the controller, the other hosts fetch it from them; and
//! where they can't, it comes over SSH.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use fleetdrop::model::{AgentCounts, HostState::Active, RunEvent};

use crate::{
    artifact,
    hosts::everything_but,
    operator::{Finished, Operator},
    sshd::SshdFleet,
};

/// What hosts may fetch with.
const FETCHERS: [&str; 5] = ["curl", "wget", "perl", "python3", "bash"];

/// Returns from whom each host has its agent, if it had none: nobody stands for the controller.
fn origins(run: &Finished) -> BTreeMap<String, Option<String>> {
    let origins = run.events.iter().filter_map(|envelope| match &envelope.event {
        RunEvent::AgentCame { host, from } => Some((host.to_string(), from.as_ref().map(ToString::to_string))),
        _ => None,
    });
    origins.collect()
}

fn agents(over_ssh: u32, from_hosts: u32) -> AgentCounts {
    AgentCounts { over_ssh, from_hosts }
}

/// Starts hosts whose commands find these programs only.
fn fleet_with_path(hosts: usize, path: &Path) -> SshdFleet {
    let mut fleet = SshdFleet::start(0);
    for _ in 0..hosts {
        fleet.add_with_path(path.to_str().unwrap());
    }
    fleet
}

#[test]
fn three_copies_at_most_leave_the_controller_and_the_rest_comes_from_hosts() {
    const HOSTS: usize = 9;
    let (operator, fleet) = (Operator::new(), SshdFleet::start(HOSTS));
    operator.strip_agent();
    let artifact = artifact::shop(&operator.work(), "1", 1_000_000);
    let run =
        operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_no_warning().expect_states(&[Active; HOSTS]);
    let origins = origins(&run);
    assert_eq!(origins.len(), HOSTS, "{run:?}");
    for (host, from) in &origins {
        assert!(from.as_ref().is_none_or(|from| origins.contains_key(from) && from != host), "{origins:?}");
    }
    let counts = run.summary().agents;
    assert!((2..=3).contains(&counts.over_ssh), "{counts:?}");
    assert_eq!(counts.over_ssh + counts.from_hosts, HOSTS as u32);
    assert_eq!(origins.values().filter(|from| from.is_none()).count(), counts.over_ssh as usize);
    fleet.expect_live(&[Some("1"); HOSTS]);

    let artifact = artifact::shop(&operator.work(), "2", 1_000_000);
    let again = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_no_warning();
    assert_eq!(again.summary().agents, agents(0, 0), "every host has it");
    fleet.assert_nothing_left();
}

#[test]
fn a_tiny_fleet_waits_for_no_other_host() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    operator.strip_agent();
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_no_warning();
    assert_eq!(run.summary().agents, agents(3, 0));
}

#[test]
fn a_rollback_spreads_the_agent_too() {
    const HOSTS: usize = 6;
    let (operator, fleet) = (Operator::new(), SshdFleet::start(HOSTS));
    operator.strip_agent();
    for version in ["1", "2"] {
        operator.deploy(&fleet.fleet(), &artifact::shop(&operator.work(), version, 100_000)).run().expect_code(0);
    }
    for host in fleet.hosts() {
        fs::remove_dir_all(host.home().join(".cache/fleetdrop/agent")).unwrap();
    }
    let run = operator.rollback(&fleet.fleet()).run().expect_code(0).expect_no_warning();
    let counts = run.summary().agents;
    assert!(counts.over_ssh <= 4 && counts.over_ssh + counts.from_hosts == HOSTS as u32, "{counts:?}");
    fleet.expect_live(&[Some("1"); HOSTS]);
}

#[test]
fn busybox_is_enough_to_fetch_with() {
    const HOSTS: usize = 6;
    let operator = Operator::new();
    operator.strip_agent();
    let programs = operator.work().join("programs");
    fs::create_dir(&programs).unwrap();
    for applet in [
        "sh",
        "cat",
        "chmod",
        "echo",
        "env",
        "grep",
        "gzip",
        "head",
        "id",
        "ls",
        "mkdir",
        "mv",
        "printf",
        "rm",
        "rmdir",
        "sha256sum",
        "sleep",
        "tail",
        "test",
        "uname",
        "wc",
        "wget",
    ] {
        symlink("/bin/busybox", programs.join(applet)).unwrap();
    }
    assert!(Path::new("/bin/busybox").exists(), "this test needs busybox");
    let fleet = fleet_with_path(HOSTS, &programs);
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_no_warning();
    let counts = run.summary().agents;
    assert!(counts.from_hosts >= 2 && counts.over_ssh + counts.from_hosts == HOSTS as u32, "{counts:?}");
    fleet.assert_nothing_left();
}

#[test]
fn hosts_with_nothing_to_fetch_with_get_it_over_ssh() {
    const HOSTS: usize = 6;
    let operator = Operator::new();
    operator.strip_agent();
    let programs = operator.work().join("programs");
    everything_but(&FETCHERS, &programs);
    let fleet = fleet_with_path(HOSTS, &programs);
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_no_warning();
    assert_eq!(run.summary().agents, agents(HOSTS as u32, 0));
}

#[test]
fn hosts_that_reach_no_other_get_it_over_ssh() {
    const HOSTS: usize = 6;
    let operator = Operator::new();
    operator.strip_agent();
    let programs = operator.work().join("programs");
    everything_but(&FETCHERS, &programs);
    let curl = programs.join("curl");
    fs::write(&curl, "#!/bin/sh\necho 'curl: (7) Failed to connect: No route to host' >&2\nexit 7\n").unwrap();
    fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).unwrap();
    let fleet = fleet_with_path(HOSTS, &programs);
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_states(&[Active; HOSTS]);
    assert_eq!(run.summary().agents, agents(HOSTS as u32, 0));
    for warning in run.warnings() {
        assert!(warning.starts_with("the agent could not be fetched from host-0"), "{warning}");
    }
    fleet.assert_nothing_left();
}

#[test]
fn what_comes_with_a_wrong_digest_is_told_and_replaced_over_ssh() {
    const HOSTS: usize = 8;
    let operator = Operator::new();
    operator.strip_agent();
    let programs = operator.work().join("programs");
    everything_but(&["curl"], &programs);
    // Whatever it is asked for, it brings a program that tells that it ran.
    let curl = programs.join("curl");
    fs::write(&curl, "#!/bin/sh\nprintf '#!/bin/sh\\ntouch \"$HOME/it-ran\"\\n' | gzip\n").unwrap();
    fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).unwrap();
    let fleet = fleet_with_path(HOSTS, &programs);
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_states(&[Active; HOSTS]);
    assert_eq!(run.summary().agents, agents(HOSTS as u32, 0));
    let warnings = run.warnings();
    assert!((1..=5).contains(&warnings.len()), "{warnings:?}");
    for warning in warnings {
        assert!(warning.starts_with("the agent could not be fetched from host-0") && warning.contains("SHA-256"), "{warning}");
    }
    assert!(fleet.hosts().iter().all(|host| !host.home().join("it-ran").exists()), "it was run");
    fleet.assert_nothing_left();
}
