//! `releases`, `prune` and `unlock` over real sshd hosts, and the log of revisions on them.

use std::fs;

use fleetdrop::model::HostState::{Activating, Active};

use crate::{artifact, hosts::App, operator::Finished, operator::Operator, sshd::SshdFleet};

fn json(finished: &Finished) -> serde_json::Value {
    serde_json::from_str(&finished.stdout).unwrap()
}

#[test]
fn releases_are_listed_and_pruned_and_a_rollback_still_works() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(3));
    let line = fleet.fleet();
    for version in ["1", "2", "3", "4"] {
        let artifact = artifact::shop(&operator.work(), version, 10_000);
        let deploy = operator.deploy(&line, &artifact).with(["--keep-releases", "10"]);
        // The third host misses the last version.
        let deploy = if version == "4" { deploy.with(["--limit", "!host-03"]) } else { deploy };
        deploy.run().expect_code(0);
    }
    let list = |format: &str| operator.fleet_command("releases", &line).with(["--app", "shop"]).but("--output", format).run();
    let text = list("plain").expect_code(0).stdout;
    assert!(text.starts_with("2 hosts: host-01, host-02\n") && text.contains("\n1 host: host-03\n"), "{text}");
    assert_eq!((text.matches(" current ").count(), text.matches(" previous ").count()), (2, 2), "{text}");
    let told = json(&list("json").expect_code(0));
    let first = &told["hosts"][0]["releases"][0];
    assert_eq!((first["id"].clone(), first["app"].clone()), (told["hosts"][0]["current"].clone(), "shop".into()), "{told}");
    assert!(first["by"].as_str().unwrap().contains('@') && first["size"].as_u64().unwrap() > 10_000, "{first}");

    let prune = |more: &[&str]| operator.fleet_command("prune", &line).with(["--app", "shop", "--keep", "2"]).with(more).run();
    let dry = json(&prune(&["--dry-run"]).expect_code(0));
    assert_eq!(dry["dry_run"], true);
    assert_eq!(App(fleet.hosts()[0].deploy_to()).releases().len(), 4, "a dry run changes nothing");
    let done = json(&prune(&[]).expect_code(0));
    assert_eq!(done["hosts"], dry["hosts"], "what was told is what went");
    let gone: Vec<usize> = (0..3).map(|host| done["hosts"][host]["releases"].as_array().unwrap().len()).collect();
    assert_eq!(gone, [2, 2, 1]);
    operator.rollback(&line).run().expect_code(0);
    fleet.expect_live(&[Some("3"), Some("3"), Some("2")]);

    let log = fs::read_to_string(fleet.hosts()[2].deploy_to().join("revisions.log")).unwrap();
    let verbs: Vec<&str> = log.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    let deploys = ["activated", "confirmed"].repeat(3);
    assert_eq!(verbs, [deploys.as_slice(), &["rolled-back-to", "confirmed"]].concat());

    fleet.host_mut(1).stop();
    let partly = prune(&[]).expect_code(4);
    assert_eq!(json(&partly)["hosts"][1]["failure"]["kind"], "unreachable", "{partly:?}");
    fleet.assert_nothing_left();
}

#[test]
fn a_lock_that_is_held_is_explained_and_freed_only_by_force() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let line = fleet.fleet();
    let [one, two, three] = ["1", "2", "3"].map(|version| artifact::shop(&operator.work(), version, 10_000));
    operator.deploy(&line, &one).run().expect_code(0).expect_states(&[Active; 2]);
    let playbook = operator.work().join("stuck.yaml");
    fs::write(&playbook, "hooks: {before_activate: [{run: sleep 80, timeout: 90s}]}\n").unwrap();
    let stuck = ["--playbook", playbook.to_str().unwrap(), "--limit", "host-01"];
    let mut deploy = operator.deploy(&line, &two).with(stuck).start();
    deploy.wait_for_state("host-01", Activating);

    let unlock = |more: &[&str]| operator.fleet_command("unlock", &line).with(["--app", "shop"]).with(more).run();
    let refused = json(&unlock(&[]).expect_code(2));
    let failure = &refused["hosts"][0]["failure"];
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("another deploy works there: run ") && message.contains(" since 20"), "{message}");
    assert!(failure["hint"].as_str().unwrap().contains("--force"), "{failure}");
    assert_eq!(refused["hosts"][1]["lock"], "free");
    let pruned = operator.fleet_command("prune", &line).with(["--app", "shop", "--dry-run"]).run().expect_code(2);
    assert!(json(&pruned)["hosts"][0]["failure"]["message"].as_str().unwrap().contains("another deploy works there"));

    let freed = json(&unlock(&["--force"]).expect_code(0));
    assert_eq!((&freed["hosts"][0]["lock"], &freed["hosts"][0]["killed"]), (&"ended".into(), &false.into()), "{freed}");
    assert_ne!(deploy.finish().code, Some(0), "its agent was ended");
    fleet.expect_live(&[Some("1"); 2]);
    operator.deploy(&line, &three).run().expect_code(0).expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("3"); 2]);

    // What an agent that was killed leaves is no lock, and is cleared up.
    let holder = r#"{"run":"00000000000000aa","pid":4194304,"since":"2026-11-20T03:15:00Z"}"#;
    fs::write(fleet.hosts()[1].deploy_to().join(".fleetdrop/lock"), holder).unwrap();
    let text = operator.fleet_command("unlock", &line).with(["--app", "shop"]).but("--output", "plain").run().expect_code(0);
    let left = "host-02: run 00000000000000aa (process 4194304, since 2026-11-20 03:15) is gone; what it left is cleared up";
    assert!(text.stdout.contains(left), "{text:?}");
    assert!(text.stdout.ends_with("2 hosts: 1 freed, 1 not locked\n"), "{text:?}");
    fleet.assert_nothing_left();
}
