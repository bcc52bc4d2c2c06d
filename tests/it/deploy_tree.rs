//! Directories as artifacts, on real sshd hosts: the release is the directory, and only what changed travels.

use std::{
    collections::BTreeMap,
    fs,
    io::{Seek as _, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use fleetdrop::model::{ByteCounts, HostState::Active, Verdict};

use crate::{
    artifact,
    deploy_faults::fleet_on_version_one,
    hosts::{App, Embedded},
    operator::Operator,
    sshd::SshdFleet,
};

/// Writes a file and what is above it.
pub(crate) fn write(root: &Path, path: &str, content: impl AsRef<[u8]>, mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns a directory `dist` that is the application at that version, as the tests look for it.
fn dist(work: &Path, version: &str) -> PathBuf {
    let root = work.join("dist");
    write(&root, "VERSION", version, 0o644);
    write(&root, "bin/start", format!("#!/bin/sh\necho {version}\n"), 0o755);
    if !root.join("start").is_symlink() {
        symlink("bin/start", root.join("start")).unwrap();
    }
    root
}

/// Adds one of everything that a directory may hold.
fn add_everything(root: &Path) {
    write(root, "assets/über uns/бг картинка.png", artifact::noise(300_000, "picture"), 0o640);
    write(root, "assets/none", "", 0o600);
    write(root, "assets/.hidden", "dots are names, too", 0o444);
    write(root, "assets/-rf", "and dashes", 0o644);
    write(root, "bin/tool-2", artifact::noise(70_000, "tool"), 0o750);
    fs::create_dir_all(root.join("empty/below")).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("..", root.join("empty/up")).unwrap();
    symlink("../bin/start", root.join("assets/link")).unwrap();
    symlink("gone", root.join("dangling")).unwrap();
}

/// Returns what is in a directory: kind, mode and content by path.
pub(crate) fn contents(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (meta.permissions().mode(), content));
        }
    }
    found
}

/// Returns what travels of a directory: its files' contents, in the order of their paths' components.
pub(crate) fn blob(root: &Path) -> Vec<u8> {
    let is_file = |mode: u32| mode & 0o170_000 == 0o100_000;
    contents(root).into_values().filter(|(mode, _)| is_file(*mode)).flat_map(|(_, content)| content).collect()
}

/// Returns the bytes that came over the network.
fn travelled(bytes: &ByteCounts) -> u64 {
    bytes.from_peers + bytes.from_controller
}

#[track_caller]
fn expect_same(fleet: &SshdFleet, root: &Path) {
    let wanted = contents(root);
    for host in fleet.hosts() {
        let found = contents(&host.deploy_to().join("current").join(""));
        let differing: Vec<_> =
            wanted.keys().chain(found.keys()).filter(|path| wanted.get(*path) != found.get(*path)).collect();
        assert!(differing.is_empty(), "{}: {differing:?}", host.name());
    }
}

#[test]
fn a_directory_becomes_the_release_as_it_is() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let root = dist(&operator.work(), "1");
    add_everything(&root);
    let size = blob(&root).len() as u64;
    let deploy = || operator.deploy(&fleet.fleet(), Path::new("./dist")).run().expect_code(0).expect_states(&[Active; 3]);

    let first = deploy().expect_no_warning();
    fleet.expect_live(&[Some("1"); 3]);
    expect_same(&fleet, &root);
    assert_eq!(travelled(&first.summary().bytes), 3 * size, "{first:?}");
    let release_one = first.summary().hosts[0].release.clone().unwrap();

    let again = deploy().expect_no_warning();
    assert!(again.summary().hosts.iter().all(|host| host.unchanged), "{again:?}");
    assert_eq!((travelled(&again.summary().bytes), again.summary().controller_sent), (0, 0), "{again:?}");

    // Not a byte differs, and yet it is another release.
    fs::set_permissions(root.join("bin/tool-2"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(root.join("dangling")).unwrap();
    symlink("bin", root.join("dangling")).unwrap();
    let touched = deploy().expect_no_warning();
    assert!(touched.summary().hosts.iter().all(|host| host.previous.as_ref() == Some(&release_one)), "{touched:?}");
    assert_eq!(travelled(&touched.summary().bytes), 0, "{touched:?}");
    expect_same(&fleet, &root);

    // Whatever the path: what is there is there.
    fs::rename(root.join("assets"), root.join("static")).unwrap();
    dist(&operator.work(), "2");
    let moved = deploy().expect_no_warning();
    fleet.expect_live(&[Some("2"); 3]);
    expect_same(&fleet, &root);
    let bytes = moved.summary().bytes;
    assert!(travelled(&bytes) < 3 * 40_000 && bytes.from_disk > 3 * (size - 100_000), "{moved:?}");

    operator.rollback(&fleet.fleet()).run().expect_code(0);
    fleet.expect_live(&[Some("1"); 3]);
    let status = operator.status(&fleet.fleet()).expect_code(0);
    assert!(status.stdout.contains(moved.summary().hosts[0].release.as_ref().unwrap().as_str()), "{status:?}");
    fleet.assert_nothing_left();
}

#[test]
fn of_many_files_only_the_changed_one_travels() {
    const FILES: usize = 300;
    const EACH: usize = 20_000;
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let root = dist(&operator.work(), "1");
    for n in 0..FILES {
        write(&root, &format!("lib/part-{n:03}"), artifact::noise(EACH, &format!("part {n}")), 0o644);
    }
    let deploy = || {
        let deploy = operator.deploy(&fleet.fleet(), &root).with(["--keep-releases", "2", "--cache-limit", "1MB"]);
        deploy.run().expect_code(0).expect_states(&[Active; 2])
    };
    deploy();
    for (version, changed) in [("2", "lib/part-150"), ("3", "lib/part-000")] {
        dist(&operator.work(), version);
        // Not even the length stays, so that everything after it lies elsewhere.
        write(&root, changed, artifact::noise(EACH + 1, version), 0o644);
        let next = deploy().expect_no_warning();
        fleet.expect_live(&[Some(version); 2]);
        expect_same(&fleet, &root);
        let (bytes, size) = (next.summary().bytes, blob(&root).len() as u64);
        assert_eq!(travelled(&bytes) + bytes.from_disk, 2 * size);
        // What changed, and the pieces of 16 KiB that it shares with what did not: three places, two ends each.
        let most = 2 * (EACH as u64 + 1 + 6 * 16_384);
        assert!(travelled(&bytes) <= most, "{} of {size} bytes travelled: {next:?}", travelled(&bytes));
        assert!(next.summary().controller_sent <= most, "{next:?}");
    }
    for host in fleet.hosts() {
        assert_eq!(App(host.deploy_to()).releases().len(), 2);
    }
}

#[test]
fn files_without_a_byte_are_a_release() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let root = operator.work().join("flags");
    for flag in ["on", "below/off"] {
        write(&root, flag, "", 0o644);
    }
    for unchanged in [false, true] {
        let run = operator.deploy(&fleet.fleet(), &root).run().expect_code(0).expect_states(&[Active; 2]);
        assert!(run.summary().hosts.iter().all(|host| host.unchanged == unchanged), "{run:?}");
        expect_same(&fleet, &root);
    }
}

#[test]
fn an_archive_gives_way_to_a_directory_and_its_files_are_used() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let packed = artifact::shop(&operator.work(), "1", 1_000_000);
    operator.deploy(&fleet.fleet(), &packed).run().expect_code(0);
    let root = dist(&operator.work(), "2");
    write(&root, "share/data.bin", artifact::noise(1_000_000, "1"), 0o644);
    let run = operator.deploy(&fleet.fleet(), &root).run().expect_code(0);
    fleet.expect_live(&[Some("2"); 2]);
    expect_same(&fleet, &root);
    assert!(travelled(&run.summary().bytes) < 2 * 50_000, "{run:?}");
}

#[test]
fn a_deploy_of_a_directory_that_was_cut_off_goes_on_from_what_is_there() {
    let (operator, fleet, _) = fleet_on_version_one();
    let root = dist(&operator.work(), "2");
    write(&root, "share/data.bin", artifact::noise(48 << 20, "2"), 0o644);
    let mut run = operator.deploy(&fleet.fleet(), &root).start();
    run.freeze_in_mid_transfer(&fleet, &root);
    run.signal(rustix::process::Signal::KILL);
    assert_eq!(run.finish().code, None);
    fleet.assert_nothing_left();
    let resumed = operator.resume(&[]).expect_code(0);
    assert!(resumed.summary().bytes.from_disk > 0, "nothing was resumed: {resumed:?}");
    fleet.expect_live(&[Some("2"); 3]);
    expect_same(&fleet, &root);
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_named() {
    let (operator, fleet, _) = fleet_on_version_one();
    let root = dist(&operator.work(), "2");
    write(&root, "share/data.bin", artifact::noise(48 << 20, "2"), 0o644);
    let mut run = operator.deploy(&fleet.fleet(), &root).start();
    run.freeze_in_mid_transfer(&fleet, &root);
    let changed = root.join("share/data.bin");
    let mut file = fs::OpenOptions::new().write(true).open(&changed).unwrap();
    file.rewind().unwrap();
    file.write_all(&artifact::noise(48 << 20, "something else")).unwrap();
    run.signal(rustix::process::Signal::CONT);
    let run = run.finish().expect_code(1);
    assert_eq!(run.summary().verdict, Verdict::Aborted);
    let reason = run.summary().abort_reason.clone().unwrap_or_default();
    assert!(reason.contains("changed") && reason.contains(changed.to_str().unwrap()), "{reason}");
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();
}

#[test]
fn a_plan_tells_what_would_travel_and_touches_nothing() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let root = dist(&operator.work(), "1");
    let check = || {
        let plan = operator.deploy(&fleet.fleet(), &root).without("--app").with(["--check"]).run().expect_code(0);
        let report: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
        (report["app"].clone(), report["hosts"][0]["transfer"].clone(), report["hosts"][0]["unchanged"].clone())
    };
    let size = blob(&root).len();
    assert_eq!(check(), ("dist".into(), size.into(), false.into()));
    assert!(!fleet.hosts()[0].deploy_to().exists());
    operator.deploy(&fleet.fleet(), &root).without("--app").run().expect_code(0);
    assert_eq!(check(), ("dist".into(), 0.into(), true.into()));
    let big = artifact::noise(300_000, "big");
    write(&root, "big", &big, 0o644);
    operator.deploy(&fleet.fleet(), &root).without("--app").run().expect_code(0);
    fs::set_permissions(root.join("VERSION"), fs::Permissions::from_mode(0o600)).unwrap();
    write(&root, "more", artifact::noise(1000, "more"), 0o644);
    let plan = operator.deploy(&fleet.fleet(), &root).without("--app").with(["--check"]).run().expect_code(0);
    let report: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    let (transfer, reused) = (report["transfer"].as_u64().unwrap(), report["reused"].as_u64().unwrap());
    assert_eq!(transfer, blob(&root).len() as u64);
    assert!(reused > 300_000 - 2 * 16_384 && reused < transfer - 1000, "{reused} of {transfer} bytes are there");
    let run = operator.deploy(&fleet.fleet(), &root).without("--app").run().expect_code(0);
    assert_eq!(travelled(&run.summary().bytes), transfer - reused, "it was foreseen to the byte");
    fs::set_permissions(root.join("VERSION"), fs::Permissions::from_mode(0o640)).unwrap();
    let (_, transfer, unchanged) = check();
    assert_eq!((transfer, unchanged), (0.into(), false.into()), "the cache has its bytes, and it is another release");
}

#[test]
fn what_is_in_a_directory_that_can_be_in_no_release_touches_no_host() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    let root = dist(&operator.work(), "1");
    symlink("/etc/passwd", root.join("bin/passwd")).unwrap();
    let at = root.join("bin/passwd");
    let run = operator.deploy(&fleet.fleet(), &root).run().expect_code(5);
    run.expect_stderr(&[at.to_str().unwrap(), "absolute path", "hint:"]);
    assert_eq!(fleet.local().hosts()[0].commands_started(), 0);
}
