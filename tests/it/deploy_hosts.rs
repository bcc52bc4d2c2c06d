//! Hosts that are not as they should be, on real sshd: down, another host key, no login, no gzip, nowhere to put the agent.

use std::{fs, os::unix::fs::PermissionsExt};

use fleetdrop::model::{
    FailureKind,
    HostState::{Active, Failed, Skipped, Unreachable},
};

use crate::{
    artifact,
    hosts::{AGENT, App, Tmpfs, everything_but},
    operator::{Fleet, Operator},
    sshd::SshdFleet,
};

#[test]
fn a_host_that_is_down_stops_the_deploy_unless_the_budget_allows_it() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(4));
    fleet.host_mut(2).stop();
    let artifact = artifact::shop(&operator.work(), "1", 100_000);

    let none = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(8).expect_states(&[
        Skipped,
        Skipped,
        Unreachable,
        Skipped,
    ]);
    let failure = none.failure("host-03");
    assert_eq!(failure.kind, FailureKind::Unreachable);
    let address = fleet.hosts()[2].address().to_string();
    assert!(failure.message.contains(&address) && failure.message.contains("refused"), "{failure:?}");
    fleet.expect_live(&[None; 4]);

    // 24% of four hosts is none.
    operator.deploy(&fleet.fleet(), &artifact).with(["--max-failures", "24%"]).run().expect_code(8);
    fleet.expect_live(&[None; 4]);

    let one = operator.deploy(&fleet.fleet(), &artifact).with(["--max-failures", "25%"]).run().expect_code(4);
    one.expect_states(&[Active, Active, Unreachable, Active]);
    fleet.expect_live(&[Some("1"), Some("1"), None, Some("1")]);

    operator.status(&fleet.fleet()).expect_code(4);
    fleet.assert_nothing_left();
}

#[test]
fn a_changed_host_key_and_a_refused_login_are_told_apart() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(3));
    fleet.host_mut(0).replace_host_key();
    fleet.hosts()[1].forget_client_key();
    let artifact = artifact::shop(&operator.work(), "1", 100_000);

    let run = operator.deploy(&fleet.fleet(), &artifact).with(["--max-failures", "2"]).run().expect_code(4);
    let (changed, refused) = (run.failure("host-01"), run.failure("host-02"));
    assert_eq!((changed.kind, refused.kind), (FailureKind::Unreachable, FailureKind::Unreachable));
    assert!(changed.message.contains("host key"), "{changed:?}");
    assert!(changed.hint.as_ref().is_some_and(|hint| hint.contains("known_hosts")), "{changed:?}");
    assert!(refused.message.to_lowercase().contains("auth") || refused.message.contains("log in"), "{refused:?}");
    assert!(refused.hint.is_some(), "{refused:?}");
    run.expect_states(&[Unreachable, Unreachable, Active]);
    assert!(fleet.hosts()[0].processes().is_empty(), "it was logged in to a host with the wrong key");
    fleet.expect_live(&[None, None, Some("1")]);
}

#[test]
fn an_unknown_host_key_is_refused_unless_it_is_to_be_learnt() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let known_hosts = operator.work().join("known_hosts");
    fs::write(&known_hosts, "").unwrap();
    let command_line = Fleet { known_hosts: known_hosts.clone(), ..fleet.fleet() };

    let run = operator.deploy(&command_line, &artifact).run().expect_code(8);
    assert!(run.summary().counts.contains_key(&Unreachable), "{run:?}");
    assert_eq!(fs::read_to_string(&known_hosts).unwrap(), "", "a key was learnt without being asked");

    operator.deploy(&command_line, &artifact).with(["--host-key-checking", "accept-new"]).run().expect_code(0);
    assert_eq!(fs::read_to_string(&known_hosts).unwrap().lines().count(), 2);
    operator.deploy(&command_line, &artifact).run().expect_code(0);
}

#[test]
fn failed_and_unreachable_hosts_together_make_six() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(3));
    fleet.host_mut(0).stop();
    fs::write(fleet.hosts()[1].deploy_to(), "a file where a directory should be").unwrap();
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).with(["--max-failures", "2"]).run().expect_code(6);
    let path = fleet.hosts()[1].deploy_to().to_str().unwrap();
    assert!(run.failure("host-02").message.contains(path), "{run:?}");
    run.expect_states(&[Unreachable, Failed, Active]);
}

#[test]
fn a_host_without_gzip_gets_the_agent_all_the_same() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(0));
    let programs = operator.work().join("programs");
    everything_but(&["gzip"], &programs);
    fleet.add_with_path(programs.to_str().unwrap());
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0);
    fleet.expect_live(&[Some("1")]);
}

#[test]
fn a_noexec_cache_and_a_read_only_one_are_named_with_a_way_out() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let caches: Vec<_> = fleet.hosts().iter().map(|host| host.home().join(".cache")).collect();
    let _noexec = Tmpfs::mount(&caches[0], "size=256m,mode=700,noexec");
    let _read_only = Tmpfs::mount(&caches[1], "size=1m,mode=700,ro");
    let artifact = artifact::shop(&operator.work(), "1", 100_000);

    // The first of them exceeds the budget; the other is looked at all the same, so that both can be mended at once.
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(8).expect_states(&[Failed, Failed]);
    for (host, cache, reason) in [("host-01", &caches[0], "mounted noexec"), ("host-02", &caches[1], "Read-only file system")] {
        let failure = run.failure(host);
        let message = &failure.message;
        assert!(message.starts_with(&format!("no directory for the agent: {}", cache.display())), "{failure:?}");
        assert!(message.contains(reason), "{failure:?}");
        assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("--cache")), "{failure:?}");
    }
    fleet.expect_live(&[None, None]);

    operator.deploy(&fleet.fleet(), &artifact).but("--cache", "~/elsewhere").run().expect_code(0);
    fleet.expect_live(&[Some("1"), Some("1")]);
}

#[test]
fn an_agent_for_another_machine_is_refused_with_its_reason() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let agents = operator.work().join("agents");
    fs::create_dir(&agents).unwrap();

    // It says that it is for this kind of host, but its machine code is another's.
    let mut elf = fs::read(AGENT).unwrap();
    elf.truncate(1 << 20);
    elf[18] = 0x2b;
    elf[19] = 0;
    let fake = agents.join(format!("fleetdrop-agent-{}", std::env::consts::ARCH));
    fs::write(&fake, elf).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let run = operator.deploy(&fleet.fleet(), &artifact).but("--agent-dir", &agents).run();
    let run = run.expect_code(8);
    assert!(run.failure("host-01").hint.is_some(), "{run:?}");
    fleet.expect_live(&[None]);
    fleet.assert_nothing_left();
}

#[test]
fn without_an_agent_hosts_get_the_controllers_own_executable() {
    let (operator, fleet) = (Operator::without_agent(), SshdFleet::start(1));
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).without("--agent-dir").run().expect_code(0);
    assert!(run.warnings().iter().any(|warning| warning.contains("own executable")), "{run:?}");
    fleet.expect_live(&[Some("1")]);
    fleet.assert_nothing_left();
}

#[test]
fn a_local_host_needs_no_ssh() {
    let operator = Operator::new();
    let (inventory, known_hosts) = (operator.work().join("local.yaml"), operator.work().join("known_hosts"));
    let app = operator.work().join("app");
    let text = format!(
        "all:\n  hosts:\n    localhost:\n      ansible_connection: local\n      fleetdrop_deploy_to: {}\n",
        app.display()
    );
    fs::write(&inventory, text).unwrap();
    fs::write(&known_hosts, "").unwrap();
    let fleet = Fleet { inventory, known_hosts };
    for version in ["1", "2"] {
        let artifact = artifact::shop(&operator.work(), version, 100_000);
        operator.deploy(&fleet, &artifact).run().expect_code(0).expect_states(&[Active]);
        assert_eq!(App(&app).live().as_deref(), Some(version));
    }
    operator.rollback(&fleet).run().expect_code(0);
    assert_eq!(App(&app).live().as_deref(), Some("1"));
}

#[test]
fn a_login_shell_that_talks_disturbs_nothing() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    // bash reads it for commands that come over SSH, too.
    fs::write(
        fleet.hosts()[0].home().join(".bashrc"),
        "echo welcome; echo 'beware of the dog' >&2; touch \"$HOME/it-talked\"\n",
    )
    .unwrap();
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0);
    operator.status(&fleet.fleet()).expect_code(0);
    fleet.expect_live(&[Some("1")]);
    assert!(fleet.hosts()[0].home().join("it-talked").exists(), "this test needs a user whose login shell is bash");
}

#[test]
fn more_hosts_behind_one_address_than_its_sshd_lets_log_in_at_once() {
    const HOSTS: usize = 14;
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let sshd = &fleet.hosts()[0];
    let app = |number: usize| sshd.home().join(format!("app-{number}"));
    let mut inventory = fleet.inventory_of(|_| false).replace("  hosts:\n", "");
    inventory += "  hosts:\n";
    for number in 0..HOSTS {
        inventory += &format!(
            "    behind-{number}:\n      ansible_host: {}\n      ansible_port: {}\n      fleetdrop_deploy_to: {}\n",
            sshd.address().ip(),
            sshd.address().port(),
            app(number).display(),
        );
    }
    let path = operator.work().join("one-address.yaml");
    fs::write(&path, inventory).unwrap();
    let command_line = Fleet { inventory: path, ..fleet.fleet() };

    // sshd counts a login for a moment longer than we do, so on a busy machine it may still turn one away; that one is made again.
    let artifact = artifact::shop(&operator.work(), "1", 1_000_000);
    operator.deploy(&command_line, &artifact).run().expect_code(0).expect_no_warning().expect_states(&[Active; HOSTS]);
    for number in 0..HOSTS {
        assert_eq!(App(&app(number)).live().as_deref(), Some("1"), "behind-{number}");
    }
    fleet.assert_nothing_left();
}
