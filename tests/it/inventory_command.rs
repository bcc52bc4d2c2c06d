//! `fleetdrop inventory`, as people and programs run it.

use std::fs;

use crate::operator::{Finished, Operator};

const INVENTORY: &str = "\
web:
  vars:
    ansible_user: deploy
    api_token: hush
  hosts:
    web[01:03].example.com:
      fleetdrop_zone: a
db:
  hosts:
    db1:
      ansible_host: 10.0.0.7
      fleetdrop_nonsense: 1
";

fn inventory(operator: &Operator, arguments: &[&str]) -> Finished {
    fs::write(operator.work().join("hosts.yaml"), INVENTORY).unwrap();
    operator.run(&[&["inventory", "--hosts", "hosts.yaml"], arguments].concat())
}

#[test]
fn people_read_a_table_and_are_warned_beside_it() {
    let operator = Operator::new();
    let all = inventory(&operator, &[]).expect_code(0);
    let first: Vec<&str> = all.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let hosts = ["web01.example.com", "web02.example.com", "web03.example.com", "db1"];
    assert_eq!(first[2..6], hosts, "{all:?}");
    assert!(all.stdout.ends_with("\n4 hosts in 2 groups\n"), "{all:?}");
    assert!(!all.stdout.contains("fleetdrop_nonsense"), "a warning is no answer: {all:?}");
    let all = all.expect_stderr(&["warning: ", "hosts.yaml:12:", "fleetdrop_nonsense", "hint: ", "fleetdrop_deploy_to"]);

    let quiet = inventory(&operator, &["--quiet"]).expect_code(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), (all.stdout.as_str(), ""));
}

#[test]
fn a_limit_shows_what_a_deploy_would_touch() {
    let operator = Operator::new();
    let some = inventory(&operator, &["--limit", "web*:!web02.example.com"]).expect_code(0);
    for (host, is_in) in [("web01", true), ("web02", false), ("web03", true), ("db1", false)] {
        assert_eq!(some.stdout.contains(host), is_in, "{host}\n{some:?}");
    }
    assert!(some.stdout.ends_with("\n2 hosts in 1 group\n"), "{some:?}");
}

#[test]
fn programs_read_one_object_with_the_warnings_in_it() {
    let operator = Operator::new();
    let json = inventory(&operator, &["--limit", "db1,web[0]", "--output", "json"]).expect_code(0);
    assert_eq!(json.stderr, "", "{json:?}");
    assert_eq!(json.stdout.lines().count(), 1, "{json:?}");
    let object: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&object["v"], &object["inventory"]), (&1.into(), &"hosts.yaml".into()));
    let hosts = object["hosts"].as_array().unwrap();
    let names: Vec<&str> = hosts.iter().map(|host| host["host"].as_str().unwrap()).collect();
    assert_eq!(names, ["web01.example.com", "db1"]);
    assert_eq!((&hosts[0]["user"], &hosts[0]["zone"]), (&"deploy".into(), &"a".into()));
    assert_eq!((&hosts[1]["address"], &hosts[1]["groups"]), (&"10.0.0.7".into(), &serde_json::json!(["db"])));
    let warning = &object["warnings"][0];
    assert_eq!((&warning["line"], object["warnings"].as_array().unwrap().len()), (&12.into(), 1), "{object}");
    assert!(!json.stdout.contains("hush"), "a secret is shown: {json:?}");
}

#[test]
fn what_cannot_be_shown_is_bad_input() {
    let operator = Operator::new();
    let nothing = inventory(&operator, &["--limit", "mail*"]).expect_code(5).expect_stderr(&["mail*"]);
    assert_eq!(nothing.stdout, "", "{nothing:?}");
    let json = inventory(&operator, &["--limit", "mail*", "--output", "json"]).expect_code(5).expect_stderr(&["mail*"]);
    assert_eq!(json.stdout, "", "{json:?}");
    operator.run(&["inventory", "--hosts", "missing.yaml"]).expect_code(5).expect_stderr(&["missing.yaml", "No such file"]);
    fs::write(operator.work().join("twice.yaml"), "all:\n  hosts:\n    a:\n    a:\n").unwrap();
    operator.run(&["inventory", "--hosts", "twice.yaml"]).expect_code(5).expect_stderr(&["twice.yaml:4:5"]);
    operator.run(&["inventory"]).expect_code(5).expect_stderr(&["--hosts"]);
}
