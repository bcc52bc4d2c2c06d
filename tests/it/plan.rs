//! `fleetdrop plan` tells what a deploy would do, and leaves hosts exactly as they are.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    artifact,
    hosts::Tmpfs,
    operator::{Finished, Invocation, Operator},
    sshd::{SshdFleet, SshdHost},
};

/// What is below a directory, each with all that a change of it would show: mode, inode, length and the time of its last change.
type Contents = BTreeMap<PathBuf, (u32, u64, u64, i64, i64)>;

fn contents(directory: &Path) -> Contents {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let meta = entry.path().symlink_metadata().unwrap();
            if meta.is_dir() {
                directories.push(entry.path());
            }
            found.insert(entry.path(), (meta.mode(), meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()));
        }
    }
    found
}

fn on_host(host: &SshdHost) -> [Contents; 2] {
    [contents(&host.home()), contents(host.deploy_to())]
}

/// Runs a preview, checks that no host changed, and returns its answer.
#[track_caller]
fn preview(fleet: &SshdFleet, line: Invocation<'_>, code: i32) -> Value {
    let before: Vec<_> = fleet.hosts().iter().map(on_host).collect();
    let finished = line.run().expect_code(code);
    let after: Vec<_> = fleet.hosts().iter().map(on_host).collect();
    assert_eq!(before, after, "a host was changed");
    fleet.assert_nothing_left();
    answer(&finished)
}

fn answer(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}\n{finished:?}"))
}

impl Operator {
    fn plan(&self, fleet: &crate::operator::Fleet, artifact: &Path) -> Invocation<'_> {
        self.fleet_command("plan", fleet).with([artifact.as_os_str()]).with(["--app", "shop"])
    }
}

#[test]
fn a_preview_tells_all_and_touches_nothing_whether_the_agent_is_there_or_not() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 300_000));
    let size = fs::metadata(&one).unwrap().len();

    let cold = preview(&fleet, operator.plan(&fleet.fleet(), &one), 0);
    assert_eq!((&cold["v"], &cold["goes"], &cold["transfer"]), (&1.into(), &true.into(), &(3 * size).into()));
    for host in cold["hosts"].as_array().unwrap() {
        assert!(host["agent"]["to_come"].as_u64().unwrap() > 100_000, "{host}");
        assert_eq!((&host["current"], &host["wave"], &host["transfer"]), (&Value::Null, &1.into(), &size.into()));
        assert!(host["free"].as_u64().unwrap() > host["needed"].as_u64().unwrap(), "{host}");
        assert!(host["needed"].as_u64().unwrap() >= 2 * size, "{host}");
    }
    assert!(!operator.history_file().exists(), "it is no run");

    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);
    let first = preview(&fleet, operator.deploy(&fleet.fleet(), &one).with(["--check"]), 0);
    for host in first["hosts"].as_array().unwrap() {
        assert_eq!((&host["agent"], &host["unchanged"], &host["transfer"]), (&"there".into(), &true.into(), &0.into()));
    }
    assert_eq!(first["waves"], Value::Array(Vec::new()), "nobody would switch");
    let live = fs::read_link(fleet.hosts()[0].deploy_to().join("current")).unwrap();

    let playbook = operator.work().join("waves.yaml");
    fs::write(&playbook, "app: shop\nrollout: {waves: [1, 100%], pause: 5s}\n").unwrap();
    let second = operator.plan(&fleet.fleet(), &two).with(["--playbook".as_ref(), playbook.as_os_str()]);
    let second = preview(&fleet, second, 0);
    assert_eq!(second["waves"], serde_json::json!([["host-01"], ["host-02", "host-03"]]));
    assert_eq!(second["pause"], 5.0);
    assert!(second["prediction"]["seconds"].as_f64().unwrap() > 0.0, "{second}");
    assert_eq!(second["hosts"][0]["current"], live.file_name().unwrap().to_str().unwrap());

    operator.deploy(&fleet.fleet(), &two).run().expect_code(0);
    let back = preview(&fleet, operator.plan(&fleet.fleet(), &one), 0);
    for host in back["hosts"].as_array().unwrap() {
        assert_eq!((&host["cached"], &host["transfer"], &host["unchanged"]), (&true.into(), &0.into(), &false.into()));
        assert_eq!(host["previous"], live.file_name().unwrap().to_str().unwrap());
    }
    let human = operator.plan(&fleet.fleet(), &one).but("--output", "human").run().expect_code(0);
    assert!(human.stdout.contains("it would go: 3 hosts would switch"), "{human:?}");
}

#[test]
fn what_would_fail_is_told_with_the_exit_code_that_a_deploy_would_have() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(4));
    let one = artifact::shop(&operator.work(), "1", 300_000);
    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);
    let two = artifact::shop(&operator.work(), "2", 8_000_000);

    // Somebody else is at work on the first host; the second one's disk is small; the third one's `current` is a directory.
    let lock = fleet.hosts()[0].deploy_to().join(".fleetdrop/lock");
    let held = File::options().write(true).open(&lock).unwrap();
    held.lock().unwrap();
    let holder = serde_json::json!({ "run": "00000000000000aa", "pid": std::process::id(), "since": "2026-11-20T03:15:00Z" });
    fs::write(&lock, holder.to_string()).unwrap();
    let small = fleet.hosts()[1].home().join("small");
    let _tmpfs = Tmpfs::mount(&small, "size=4m");
    fleet.set_deploy_to(1, &small.join("app"));
    let current = fleet.hosts()[2].deploy_to().join("current");
    fs::remove_file(&current).unwrap();
    fs::create_dir(&current).unwrap();

    let seen = preview(&fleet, operator.plan(&fleet.fleet(), &two), 8);
    assert_eq!((&seen["goes"], &seen["out"]), (&false.into(), &3.into()));
    let why = |host: usize| seen["hosts"][host]["failure"]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(why(0), "another deploy works there: run 00000000000000aa since 2026-11-20T03:15:00Z");
    assert_eq!(seen["hosts"][0]["locked_by"]["run"], "00000000000000aa");
    assert!(why(1).starts_with("not enough space in "), "{}", why(1));
    assert!(why(2).contains("is a directory, not a symlink to a release"), "{}", why(2));
    assert_eq!(seen["hosts"][3]["failure"], Value::Null);
    assert_eq!(seen["waves"], serde_json::json!([["host-04"]]));

    fleet.host_mut(3).stop();
    let before = on_host(&fleet.hosts()[0]);
    let seen = answer(&operator.plan(&fleet.fleet(), &two).run().expect_code(8));
    assert_eq!(seen["hosts"][3]["failure"]["kind"], "unreachable");
    assert_eq!(on_host(&fleet.hosts()[0]), before);
    let only =
        answer(&operator.plan(&fleet.fleet(), &two).with(["--limit", "host-04", "--max-failures", "1"]).run().expect_code(4));
    assert_eq!(only["goes"], true, "it would go, with nobody");
    operator.plan(&fleet.fleet(), Path::new("missing.tar")).run().expect_code(5);
}
