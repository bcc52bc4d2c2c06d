//! A fleet's ordinary life, on real sshd hosts: first deploy, the same again, a second version, back, forth, status.

use fleetdrop::model::{HostState::Active, RunEvent, Verdict};

use crate::{artifact, hosts::App, hosts::Embedded, operator::Operator, sshd::SshdFleet};

#[test]
fn a_fleet_goes_from_version_to_version_and_back() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let (one, two) = (artifact::shop(&operator.work(), "1", 3_000_000), artifact::shop(&operator.work(), "2", 3_000_000));
    let size = std::fs::metadata(&one).unwrap().len();
    let command_line = fleet.fleet();

    let first = operator.deploy(&command_line, &one).run().expect_code(0).expect_no_warning().expect_states(&[Active; 3]);
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();
    let summary = first.summary();
    assert_eq!(summary.verdict, Verdict::Completed);
    assert_eq!(summary.bytes.received(), 3 * size, "each host received the artifact once: {first:?}");
    assert!(summary.bytes.from_peers > 0, "hosts gave nothing to each other: {first:?}");
    assert_eq!(summary.bytes.from_controller + summary.bytes.from_peers, 3 * size);
    assert!(summary.controller_sent >= size, "somebody had to send the first copy");
    assert!(summary.hosts.iter().all(|host| !host.unchanged && host.previous.is_none()));
    let release_one = summary.hosts[0].release.clone().expect("it is live");
    let agents: Vec<_> = fleet.hosts().iter().map(|host| installed_agent(&host.home())).collect();

    let again = operator.deploy(&command_line, &one).run().expect_code(0).expect_no_warning().expect_states(&[Active; 3]);
    assert!(again.summary().hosts.iter().all(|host| host.unchanged), "{again:?}");
    assert_eq!((again.summary().bytes.received(), again.summary().controller_sent), (0, 0), "{again:?}");
    for host in fleet.hosts() {
        assert_eq!(App(host.deploy_to()).releases(), [release_one.as_str()]);
    }

    let second = operator.deploy(&command_line, &two).run().expect_code(0).expect_no_warning().expect_states(&[Active; 3]);
    fleet.expect_live(&[Some("2"); 3]);
    assert!(second.summary().hosts.iter().all(|host| host.previous.as_ref() == Some(&release_one)), "{second:?}");
    let release_two = second.summary().hosts[0].release.clone().expect("it is live");

    let back = operator.rollback(&command_line).run().expect_code(0).expect_no_warning().expect_states(&[Active; 3]);
    fleet.expect_live(&[Some("1"); 3]);
    assert_eq!(back.summary().bytes.received(), 0, "a rollback transfers nothing");

    operator.rollback(&command_line).with(["--to", release_two.as_str()]).run().expect_code(0);
    fleet.expect_live(&[Some("2"); 3]);

    let status = operator.status(&command_line).expect_code(0);
    for text in ["host-01", "host-02", "host-03", release_one.as_str(), release_two.as_str()] {
        assert!(status.stdout.contains(text), "{text} is not in the status\n{status:?}");
    }
    let now: Vec<_> = fleet.hosts().iter().map(|host| installed_agent(&host.home())).collect();
    assert_eq!(agents, now, "an agent was pushed a second time");
    fleet.assert_nothing_left();
}

/// Returns the agents on a host by path and inode: a push renames a new file into place.
fn installed_agent(home: &std::path::Path) -> Vec<(std::path::PathBuf, u64)> {
    use std::os::unix::fs::MetadataExt;
    let directories = std::fs::read_dir(home.join(".cache/fleetdrop/agent")).unwrap().flatten();
    let files: Vec<_> = directories.map(|entry| entry.path().join("fleetdrop-agent")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().map(|file| (file.clone(), file.metadata().unwrap().ino())).collect()
}

#[test]
fn old_releases_are_pruned_but_never_the_previous_one() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    for version in ["1", "2", "3", "4"] {
        let artifact = artifact::shop(&operator.work(), version, 10_000);
        operator.deploy(&fleet.fleet(), &artifact).with(["--keep-releases", "2"]).run().expect_code(0);
    }
    fleet.expect_live(&[Some("4")]);
    let app = fleet.local().hosts()[0].deploy_to();
    assert_eq!(App(&app).releases().len(), 2);
    operator.rollback(&fleet.fleet()).run().expect_code(0);
    fleet.expect_live(&[Some("3")]);
}

#[test]
fn a_rollback_with_nowhere_to_go_changes_nothing() {
    let (operator, fleet) = (Operator::new(), Embedded::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 10_000);
    operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0);

    let nothing_before = operator.rollback(&fleet.fleet()).run().expect_code(8);
    assert!(nothing_before.failure("demo-01").hint.is_some(), "{nothing_before:?}");
    let unknown = operator.rollback(&fleet.fleet()).with(["--to", "20200101T000000Z-00000000"]).run().expect_code(8);
    assert!(unknown.failure("demo-01").message.contains("20200101T000000Z-00000000"), "{unknown:?}");
    fleet.expect_live(&[Some("1"); 2]);
}

#[test]
fn sixteen_hosts_share_what_the_controller_sends() {
    let (operator, fleet) = (Operator::new(), Embedded::start(16));
    let artifact = artifact::shop(&operator.work(), "1", 8 << 20);
    let size = std::fs::metadata(&artifact).unwrap().len();
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0).expect_no_warning().expect_states(&[Active; 16]);
    fleet.expect_live(&[Some("1"); 16]);
    let summary = run.summary();
    assert_eq!(summary.bytes.received(), 16 * size, "{run:?}");
    assert!(summary.controller_sent < 8 * size, "the controller sent {} of {size} bytes", summary.controller_sent);
}

#[test]
fn events_tell_the_run_in_order() {
    let (operator, fleet) = (Operator::new(), Embedded::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0);
    assert_eq!(run.stdout.lines().count(), run.events.len(), "every line of stdout is an event\n{run:?}");
    assert!(matches!(run.events[0].event, RunEvent::RunStarted { .. }), "{run:?}");
    let barrier =
        run.events.iter().position(|e| matches!(e.event, RunEvent::BarrierMet { hosts: 2, waves: 1 })).expect("a barrier");
    for (index, envelope) in run.events.iter().enumerate() {
        assert_eq!((envelope.v, &envelope.run), (1, &run.events[0].run));
        assert!(!matches!(envelope.event, RunEvent::Unknown), "{run:?}");
        if let RunEvent::HostState { state, .. } = &envelope.event {
            assert_eq!(*state >= fleetdrop::model::HostState::Activating, index > barrier, "{state} at {index}\n{run:?}");
        }
    }
    let times: Vec<&str> = run.events.iter().map(|envelope| envelope.at.as_str()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn status_tells_what_is_where_and_which_host_did_not_answer() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(3));
    let artifact = artifact::shop(&operator.work(), "1", 10_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).with(["--limit", "host-01"]).run().expect_code(0);
    fleet.host_mut(2).stop();

    let status = operator.status(&fleet.fleet()).expect_code(4);
    let report: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let hosts = report["hosts"].as_array().unwrap();
    let names: Vec<&str> = hosts.iter().map(|host| host["host"].as_str().unwrap()).collect();
    assert_eq!(names, ["host-01", "host-02", "host-03"]);
    let release = run.summary().hosts[0].release.as_ref().unwrap().as_str();
    assert_eq!((&hosts[0]["current"], &hosts[0]["previous"]), (&release.into(), &serde_json::Value::Null));
    assert_eq!(hosts[0]["releases"].as_array().unwrap().len(), 1);
    assert_eq!((&hosts[1]["current"], &hosts[1]["releases"]), (&serde_json::Value::Null, &serde_json::json!([])));
    assert_eq!(hosts[2]["failure"]["kind"], "unreachable", "{status:?}");
    fleet.assert_nothing_left();
}

#[test]
fn status_of_hosts_that_never_had_a_deploy() {
    let (operator, fleet) = (Operator::new(), Embedded::start(4));
    let status = operator.status(&fleet.fleet()).expect_code(0);
    for host in fleet.local().hosts() {
        assert!(status.stdout.contains(host.name().as_str()), "{status:?}");
        assert!(!host.deploy_to().exists(), "asking changed something");
    }
}
