//! Hosts whose login user is not root, on real sshd: with sudo, without, and with nothing but its own home.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fleetdrop::model::{
    FailureKind,
    HostState::{self, Active, Failed},
};

use crate::{
    account::Account,
    artifact,
    hosts::App,
    operator::{Fleet, Invocation, Operator},
    sshd::SshdFleet,
};

/// One host that the account logs in to.
fn host_of(account: &Account) -> SshdFleet {
    let mut fleet = SshdFleet::start(0);
    fleet.add_for(account);
    fleet
}

/// What root keeps on the host; its own home and /var/cache are the test machine's.
fn roots_cache(fleet: &SshdFleet) -> PathBuf {
    fleet.hosts()[0].home().with_file_name("roots-cache")
}

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().uid()
}

#[test]
fn become_deploys_where_only_root_may_write() {
    let (operator, mut account) = (Operator::new(), Account::create());
    let fleet = host_of(&account);
    account.allow_sudo();
    let app = fleet.hosts()[0].deploy_to();
    let cache = roots_cache(&fleet);
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 300_000));

    let plain = operator.deploy(&fleet.fleet(), &one).run().expect_code(8).expect_states(&[Failed]);
    let failure = plain.failure("host-01");
    assert!(failure.message.contains("Permission denied"), "{failure:?}");
    assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("become")), "{failure:?}");

    let with_become = |invocation: Invocation<'_>| invocation.but("--cache", &cache).with(["--become"]).run();
    with_become(operator.deploy(&fleet.fleet(), &one)).expect_code(0).expect_no_warning().expect_states(&[Active]);
    fleet.expect_live(&[Some("1")]);
    for path in [app, &app.join("current"), &app.join("current/VERSION"), &cache.join("agent"), &cache.join("blobs")] {
        assert_eq!(owner(path), 0, "{}", path.display());
    }
    fleet.assert_nothing_left();

    // The inventory's word does the same.
    let inventory = operator.work().join("become.yaml");
    fs::write(&inventory, fs::read_to_string(fleet.inventory()).unwrap() + "    ansible_become: true\n").unwrap();
    let becoming = Fleet { inventory, ..fleet.fleet() };
    operator.deploy(&becoming, &two).but("--cache", &cache).run().expect_code(0).expect_states(&[Active]);
    fleet.expect_live(&[Some("2")]);

    with_become(operator.rollback(&fleet.fleet())).expect_code(0);
    fleet.expect_live(&[Some("1")]);
    let status = with_become(operator.fleet_command("status", &fleet.fleet()).with(["--app", "shop"])).expect_code(0);
    let live = fs::read_link(app.join("current")).unwrap();
    assert!(status.stdout.contains(live.file_name().unwrap().to_str().unwrap()), "{status:?}");
    fleet.assert_nothing_left();
}

#[test]
fn become_without_a_rule_in_sudoers_says_what_to_allow() {
    let (operator, account) = (Operator::new(), Account::create());
    let fleet = host_of(&account);
    let artifact = artifact::shop(&operator.work(), "1", 10_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).but("--cache", roots_cache(&fleet)).with(["--become"]).run();
    let run = run.expect_code(8).expect_states(&[Failed]);
    let failure = run.failure("host-01");
    assert_eq!((failure.kind, failure.during), (FailureKind::Failed, HostState::Preparing), "{failure:?}");
    assert!(failure.message.starts_with("can't become root with sudo: "), "{failure:?}");
    assert!(failure.message.contains("password"), "sudo's own words are missing: {failure:?}");
    assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("sudo -n") && hint.contains("NOPASSWD")), "{failure:?}");
    assert!(!fleet.hosts()[0].deploy_to().exists() && !roots_cache(&fleet).exists(), "something was written");
    fleet.assert_nothing_left();
}

#[test]
fn a_user_without_root_deploys_below_its_home_by_default() {
    let (operator, account) = (Operator::new(), Account::create());
    let fleet = host_of(&account);
    let host = &fleet.hosts()[0];
    let inventory = operator.work().join("defaults.yaml");
    let text = fs::read_to_string(fleet.inventory()).unwrap();
    let deploy_to = format!("      fleetdrop_deploy_to: {}\n", host.deploy_to().display());
    assert!(text.contains(&deploy_to));
    fs::write(&inventory, text.replace(&deploy_to, "")).unwrap();
    let command_line = Fleet { inventory, ..fleet.fleet() };

    for version in ["1", "2"] {
        let artifact = artifact::shop(&operator.work(), version, 300_000);
        let run = operator.deploy(&command_line, &artifact).without("--cache").run();
        run.expect_code(0).expect_no_warning().expect_states(&[Active]);
        assert_eq!(App(&host.home().join("fleetdrop/shop")).live().as_deref(), Some(version));
    }
    let cache = host.home().join(".cache/fleetdrop");
    for (below, files) in [("agent", 1), ("blobs/sha256", 2)] {
        assert_eq!(fs::read_dir(cache.join(below)).unwrap().count(), files, "{below}");
    }
    let home = owner(&host.home());
    assert_ne!(home, 0);
    assert_eq!(owner(&host.home().join("fleetdrop/shop/current/VERSION")), home);
    assert!(account.shared_caches().iter().all(|cache| !cache.exists()), "the home was good enough");
    assert!(!host.deploy_to().exists());
    fleet.assert_nothing_left();
}
