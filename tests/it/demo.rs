//! `fleetdrop demo`, the first command anybody runs.

use std::fs;

use rustix::process::Signal;

use crate::operator::Operator;

#[test]
fn the_demo_tells_its_story_and_leaves_nothing() {
    let operator = Operator::new();
    let run = operator.run(&["demo", "--hosts", "3"]).expect_code(0).expect_stderr(&[
        "3 SSH servers",
        "1. Deploy version 1.0",
        "$ fleetdrop deploy 1.0/shop.tar.zst --hosts inventory.yaml",
        "$ fleetdrop rollback --app shop --hosts inventory.yaml",
        "Checked on disk: 2.0 is live on 3 servers",
        "everything the demo wrote",
    ]);
    assert!(run.stdout.contains("demo-03"), "status says nothing\n{run:?}");
    assert_eq!(operator.temporary_files(), 0, "{run:?}");
    operator.assert_nothing_runs();
}

#[test]
fn the_demo_keeps_its_files_if_asked() {
    let operator = Operator::new();
    let said = ["1 SSH server inside", "is live on 1 server."];
    let run = operator.run(&["demo", "--hosts", "1", "--keep"]).expect_code(0).expect_stderr(&said);
    let directory = fs::read_dir(operator.temporary_directory()).unwrap().next().expect("it is kept").unwrap().path();
    assert!(run.stderr.contains(directory.to_str().unwrap()), "{run:?}");
    let live = directory.join("hosts/demo-01/app/current/VERSION");
    assert_eq!(fs::read_to_string(live).unwrap(), "1.0");
    operator.assert_nothing_runs();
}

#[test]
fn the_demo_can_be_interrupted() {
    let operator = Operator::new();
    let mut run = operator.start(&["demo", "--hosts", "2", "--output", "json"].map(Into::into));
    run.wait_for_state("demo-01", fleetdrop::model::HostState::Preparing);
    run.signal(Signal::INT);
    let run = run.finish().expect_code(130);
    assert_eq!(operator.temporary_files(), 0, "{run:?}");
    operator.assert_nothing_runs();
}

#[test]
fn the_demo_needs_no_ssh_client() {
    let operator = Operator::without_ssh_client();
    operator.write_own_ssh_config("Host *\n  User nobody\n");
    let run = operator.run(&["demo", "--hosts", "2"]).expect_code(0).expect_stderr(&["1.0 is live on 2 servers"]);
    assert!(
        !run.stderr.contains("warning:") && !run.stderr.contains("ssh_config"),
        "it is none of the demo's business\n{run:?}"
    );
    operator.assert_nothing_runs();
}

/// The stand-in for ssh notes what it is asked, and answers with a user that no server knows unless it is told to read no file.
#[test]
fn the_demo_keeps_the_operators_own_ssh_config_out() {
    let operator = Operator::with_ssh_client(
        "#!/bin/sh\necho \"$*\" >> asked\ncase \"$*\" in *'-F none'*) ;; *) echo user nobody; echo proxycommand false ;; esac\n",
    );
    operator.run(&["demo", "--hosts", "1"]).expect_code(0);
    let asked = fs::read_to_string(operator.work().join("asked")).expect("ssh was asked");
    assert!(asked.lines().all(|line| line.starts_with("-G -F none ")), "{asked}");
    operator.assert_nothing_runs();
}
