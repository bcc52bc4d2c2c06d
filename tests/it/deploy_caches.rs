//! Where the agent goes on a host whose home does not take it, and what a cache that is full leaves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fleetdrop::model::{
    HostState::{Active, Failed, Preparing},
    RunEvent,
};

use crate::{
    account::Account,
    artifact,
    hosts::Tmpfs,
    operator::{Finished, Operator},
    sshd::SshdFleet,
};

/// Returns every file below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn agents_in(cache: &Path) -> usize {
    files_below(&cache.join("agent")).iter().filter(|file| file.ends_with("fleetdrop-agent")).count()
}

#[test]
fn a_home_that_takes_no_agent_leaves_the_shared_directories() {
    let (operator, account) = (Operator::new(), Account::create());
    let mut fleet = SshdFleet::start(0);
    fleet.add_for(&account);
    fleet.add_for(&account);
    let homes: Vec<_> = fleet.hosts().iter().map(|host| host.home()).collect();
    let _read_only = Tmpfs::mount(&homes[0], "size=1m,mode=755,ro");
    let _noexec = Tmpfs::mount(&homes[1], "size=64m,mode=755,noexec");
    account.give(&homes[1]);
    for (index, home) in homes.iter().enumerate() {
        let apps = account.directory(&home.with_file_name("apps"));
        fleet.set_deploy_to(index, &apps.join("shop"));
    }
    let deploy = |version: &str| {
        let artifact = artifact::shop(&operator.work(), version, 100_000);
        let run = operator.deploy(&fleet.fleet(), &artifact).without("--cache").run();
        let run = run.expect_code(0).expect_states(&[Active; 2]);
        fleet.expect_live(&[Some(version); 2]);
        fleet.assert_nothing_left();
        run
    };
    let [var_tmp, tmp] = account.shared_caches();

    let run = deploy("1");
    assert_eq!((agents_in(&var_tmp), agents_in(&tmp)), (1, 0));
    // The artifact can't be kept for the next time: nothing fails for that, but it is told.
    assert!(told_of(&run, "host-01", "cache"), "{run:?}");
    assert_eq!(files_below(&homes[0]), Vec::<PathBuf>::new());

    // Somebody made the directory before us, for everybody to write: what lies there is not run.
    fs::remove_dir_all(&var_tmp).unwrap();
    fs::create_dir(&var_tmp).unwrap();
    fs::set_permissions(&var_tmp, fs::Permissions::from_mode(0o777)).unwrap();
    deploy("2");
    assert_eq!((agents_in(&var_tmp), agents_in(&tmp)), (0, 1));
}

/// True if the run warned of something about the host.
fn told_of(run: &Finished, host: &str, word: &str) -> bool {
    run.events.iter().any(|envelope| match &envelope.event {
        RunEvent::Warning { host: Some(who), message, .. } => who.as_str() == host && message.contains(word),
        _ => false,
    })
}

#[test]
fn a_cache_too_small_for_the_agent_says_so_and_keeps_nothing() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let cache = fleet.hosts()[0].home().join(".cache");
    let _tiny = Tmpfs::mount(&cache, "size=1m,mode=700");
    let artifact = artifact::shop(&operator.work(), "1", 10_000);
    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(8).expect_states(&[Failed]);
    let failure = run.failure("host-01");
    assert_eq!(failure.during, Preparing, "{failure:?}");
    let message = format!("can't write the agent to {}/fleetdrop/agent/", cache.display());
    assert!(failure.message.starts_with(&message), "{failure:?}");
    assert!(failure.message.contains("No space left on device"), "{failure:?}");
    assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("space") && hint.contains("--cache")), "{failure:?}");
    assert_eq!(files_below(&cache), Vec::<PathBuf>::new(), "a part of the agent is left");
    fleet.expect_live(&[None]);
    fleet.assert_nothing_left();
}
