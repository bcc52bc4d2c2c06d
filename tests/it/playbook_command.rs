//! Playbooks, as people and programs use them.

use std::{fs, path::Path};

use fleetdrop::model::HostState::Active;

use crate::{
    artifact,
    hosts::{App, Embedded},
    operator::Operator,
};

const BAD: &str = "app: shop\nkeep_releases: 1\nrollout:\n  wave: 10%\n";

#[test]
fn people_read_every_problem_with_its_line() {
    let operator = Operator::new();
    fs::write(operator.work().join("bad.yaml"), BAD).unwrap();
    fs::write(operator.work().join("good.yaml"), "app: shop\n").unwrap();
    let run = operator.run(&["playbook", "check", "bad.yaml", "good.yaml", "missing.yaml"]).expect_code(5).expect_stderr(&[
        "error: bad.yaml:2:16: `keep_releases` must be a whole number from 2 to 1000, but it is the number 1",
        "2 | keep_releases: 1",
        "error: bad.yaml:4:3: unknown key `wave` in `rollout`",
        "hint: did you mean `waves`?",
        "missing.yaml: cannot be read",
    ]);
    assert_eq!(run.stdout, "good.yaml is a good playbook\n");
}

#[test]
fn programs_read_one_object() {
    let operator = Operator::new();
    fs::write(operator.work().join("bad.yaml"), BAD).unwrap();
    fs::write(operator.work().join("good.yaml"), "app: shop\n").unwrap();
    let run = operator.run(&["playbook", "check", "bad.yaml", "good.yaml", "--output", "json"]).expect_code(5);
    assert_eq!((run.stderr.as_str(), run.stdout.lines().count()), ("", 1), "{run:?}");
    let object: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let (bad, good) = (&object["playbooks"][0], &object["playbooks"][1]);
    assert_eq!((&object["v"], &bad["good"], &good["good"]), (&1.into(), &false.into(), &true.into()));
    let places: Vec<_> =
        bad["problems"].as_array().unwrap().iter().map(|problem| (&problem["line"], &problem["column"])).collect();
    assert_eq!(places, [(&2.into(), &16.into()), (&4.into(), &3.into())]);
}

#[test]
fn every_shipped_playbook_is_good_and_the_shipped_schema_is_the_one_printed() {
    let operator = Operator::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    let mut line = vec!["playbook".to_owned(), "check".to_owned()];
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path().display().to_string());
    line.extend(files.filter(|file| file.ends_with(".yaml")));
    let run = operator.run(&line).expect_code(0);
    assert_eq!(run.stdout.lines().count(), line.len() - 2, "{run:?}");
    let schema = operator.run(&["playbook", "schema"]).expect_code(0).stdout;
    assert_eq!(schema, fs::read_to_string(directory.join("schema.json")).unwrap());
}

#[test]
fn a_deploy_and_a_rollback_follow_a_playbook() {
    let (operator, fleet) = (Operator::new(), Embedded::start(2));
    let line = fleet.fleet();
    let root = fleet.local().root().join("elsewhere");
    let playbook = operator.work().join("shop.yaml");
    // Both hosts are this machine, so only one of them may have the root.
    fs::write(&playbook, format!("app: store\ndeploy_to: {}\nkeep_releases: 2\n", root.display())).unwrap();
    let with = ["--playbook", playbook.to_str().unwrap(), "--limit", "demo-01"];
    for version in ["1", "2", "3"] {
        let artifact = artifact::shop(&operator.work(), version, 10_000);
        operator.deploy(&line, &artifact).with(with).run().expect_code(0).expect_states(&[Active]);
    }
    let app = App(&root);
    assert_eq!(
        (app.live().as_deref(), app.releases().len()),
        (Some("3"), 2),
        "the inventory's root gives way, two releases stay"
    );
    operator.rollback(&line).with(with).run().expect_code(0).expect_states(&[Active]);
    assert_eq!(app.live().as_deref(), Some("2"));
    fleet.expect_live(&[None, None]);
}

#[test]
fn a_playbook_that_is_no_good_touches_no_host() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    let artifact = artifact::shop(&operator.work(), "1", 1000);
    fs::write(operator.work().join("shop.yaml"), BAD).unwrap();
    let (playbook, reason) = (["--playbook", "shop.yaml"], "unknown key `wave`");
    operator.deploy(&fleet.fleet(), &artifact).with(playbook).run().expect_code(5).expect_stderr(&[reason, "shop.yaml:"]);
    operator.rollback(&fleet.fleet()).with(playbook).run().expect_code(5).expect_stderr(&[reason]);
    assert_eq!(fleet.local().hosts()[0].commands_started(), 0);
}
