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
        "Checked on disk: 2.0 is live on all 3 servers",
        "everything the demo wrote",
    ]);
    assert!(run.stdout.contains("demo-03"), "status says nothing\n{run:?}");
    assert_eq!(operator.temporary_files(), 0, "{run:?}");
    operator.assert_nothing_runs();
}

#[test]
fn the_demo_keeps_its_files_if_asked() {
    let operator = Operator::new();
    let run = operator.run(&["demo", "--hosts", "1", "--keep"]).expect_code(0);
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
