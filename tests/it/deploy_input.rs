//! Bad input: exit 5, a message that names the place, and no host touched.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::{
    artifact,
    hosts::Embedded,
    operator::{Fleet, Operator},
};

#[track_caller]
fn untouched(fleet: &Embedded) {
    for host in fleet.local().hosts() {
        assert_eq!(host.commands_started(), 0, "{} was touched", host.name());
    }
}

#[test]
fn an_artifact_that_cannot_be_deployed_touches_no_host() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    let work = operator.work();
    fs::write(work.join("empty.tar"), "").unwrap();
    fs::create_dir(work.join("directory.tar")).unwrap();
    std::os::unix::fs::symlink("nowhere", work.join("dangling.tar")).unwrap();
    for (name, reason) in [
        ("missing.tar", "No such file"),
        ("empty.tar", "empty"),
        ("directory.tar", "directory"),
        ("dangling.tar", "No such file"),
    ] {
        let path = work.join(name);
        let run = operator.deploy(&fleet.fleet(), &path).run().expect_code(5).expect_stderr(&[path.to_str().unwrap(), reason]);
        assert_eq!(run.stdout, "", "{run:?}");
    }
    untouched(&fleet);
}

#[test]
fn an_unreadable_artifact_touches_no_host() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    let path = artifact::shop(&operator.work(), "1", 1000);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Root reads everything, but not a file that is a socket.
        fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    }
    operator.deploy(&fleet.fleet(), &path).run().expect_code(5).expect_stderr(&[path.to_str().unwrap()]);
    untouched(&fleet);
}

#[test]
fn a_bad_inventory_is_shown_with_file_line_and_column() {
    let operator = Operator::new();
    let artifact = artifact::shop(&operator.work(), "1", 1000);
    let path = operator.work().join("hosts.yaml");
    let known_hosts = operator.work().join("known_hosts");
    fs::write(&known_hosts, "").unwrap();
    for (content, place, reason) in [
        ("all:\n  hosts:\n    web01: {\n", Some(":3:12"), "unclosed"),
        ("all:\n  hosts:\n    web01:\n    web01:\n", Some(":4:5"), "web01"),
        ("all:\n  hosts:\n    42:\n", Some(":3:5"), "42"),
        ("plugin: aws_ec2\nregions: [eu-central-1]\n", Some(":1:1"), "plugin"),
        ("all:\n  hosts:\n    web01:\n      ansible_port: '{{ port }}'\n", Some(":4:"), "ansible_port"),
        ("", None, "empty"),
        ("all:\n  hosts: {}\n", None, "host"),
    ] {
        fs::write(&path, content).unwrap();
        let fleet = Fleet { inventory: path.clone(), known_hosts: known_hosts.clone() };
        let place = format!("hosts.yaml{}", place.unwrap_or_default());
        operator.deploy(&fleet, &artifact).run().expect_code(5).expect_stderr(&[&place, reason]);
    }
}

#[test]
fn an_inventory_that_is_not_there_and_a_pattern_that_matches_nothing() {
    let (operator, fleet) = (Operator::new(), Embedded::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 1000);
    let missing = Fleet { inventory: Path::new("/nonexistent/hosts.yaml").to_owned(), ..fleet.fleet() };
    operator.deploy(&missing, &artifact).run().expect_code(5).expect_stderr(&["/nonexistent/hosts.yaml"]);
    let inventory = fleet.fleet().inventory;
    let said = [inventory.to_str().unwrap(), "web*"];
    operator.deploy(&fleet.fleet(), &artifact).with(["--limit", "web*"]).run().expect_code(5).expect_stderr(&said);
    untouched(&fleet);

    operator.deploy(&fleet.fleet(), &artifact).with(["--limit", "demo-02"]).run().expect_code(0);
    fleet.expect_live(&[None, Some("1")]);
}

#[test]
fn an_ssh_config_that_nobody_can_read_is_warned_of() {
    let (operator, fleet) = (Operator::without_ssh_client(), Embedded::start(1));
    let config = operator.write_own_ssh_config("Host demo-*\n  Port 2222\n");
    let ignored = format!("warning: {} is ignored", config.display());
    let status = || operator.fleet_command("status", &fleet.fleet()).with(["--app", "shop"]).without("--ssh-config");
    status().run().expect_code(0).expect_stderr(&[&ignored, "hint: install the OpenSSH client"]);
    let quiet = status().with(["--ssh-config", "none"]).run().expect_code(0);
    assert!(!quiet.stderr.contains("warning:"), "{quiet:?}");
    let refused = status().with(["--ssh-config", config.to_str().unwrap()]).run().expect_code(5);
    assert!(refused.stderr.contains("no ssh client"), "{refused:?}");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let operator = Operator::new();
    for line in [
        vec!["deploy"],
        vec!["deploy", "a.tar", "--hosts", "x.yaml", "--max-failures", "200%"],
        vec!["rollback", "--hosts", "x.yaml", "--app", "a/b"],
        vec!["simulate", "--hosts", "8", "--link", "1gbit", "--size", "0"],
        vec!["simulate", "--hosts", "50000", "--link", "1gbit", "--size", "1TiB", "--piece-length", "64KiB"],
        vec!["frobnicate"],
    ] {
        operator.run(&line).expect_code(5);
    }
}

#[test]
fn a_fleet_can_be_simulated() {
    let line = ["simulate", "--hosts", "12", "--link", "100mbit", "--size", "8MiB", "--slow", "25%", "--output", "json"];
    let run = Operator::new().run(&line).expect_code(0);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&report["hosts"], &report["incomplete"]), (&12.into(), &0.into()), "{run:?}");
    assert!(report["last"].as_f64().is_some_and(|last| last > report["download"].as_f64().unwrap()), "{run:?}");
}
