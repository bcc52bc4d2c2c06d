//! `fleetdrop rollback` to a release that hosts have lost, and of a whole fleet, which must not take long.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use fleetdrop::model::HostState::{Active, Failed, Skipped};

use crate::{
    artifact,
    operator::{Finished, Operator},
    resume::seconds,
    sshd::{SshdFleet, SshdHost},
};

/// Returns the id of a host's live release.
fn live(host: &SshdHost) -> String {
    let target = fs::read_link(host.deploy_to().join("current")).unwrap();
    target.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Takes a release away from a host, as somebody does who makes room.
fn lose(host: &SshdHost, release: &str) {
    fs::remove_dir_all(host.deploy_to().join("releases").join(release)).unwrap();
    fs::remove_file(host.deploy_to().join(".fleetdrop/releases").join(format!("{release}.json"))).unwrap();
}

fn empty_cache(host: &SshdHost) {
    fs::remove_dir_all(host.home().join(".cache/fleetdrop/blobs")).unwrap();
}

/// What came to a host over the network.
fn received(run: &Finished, host: &SshdHost) -> u64 {
    let bytes = run.host(host.name()).bytes;
    bytes.received() - bytes.from_disk
}

/// Three versions on a fleet of three, the second of which is lost: host-02 has nothing of it, host-03 has its artifact in its cache.
/// Returns the releases' ids.
fn fleet_that_lost_version_two(operator: &Operator) -> (SshdFleet, [String; 3]) {
    let fleet = SshdFleet::start(3);
    let releases = ["1", "2", "3"].map(|version| {
        let artifact = artifact::shop(&operator.work(), version, 300_000);
        operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0);
        // The order of releases is their ids', which are as exact as seconds are.
        let now = seconds();
        while seconds() == now {
            std::thread::sleep(Duration::from_millis(20));
        }
        live(&fleet.hosts()[0])
    });
    for host in &fleet.hosts()[1..] {
        lose(host, &releases[1]);
    }
    empty_cache(&fleet.hosts()[1]);
    (fleet, releases)
}

#[test]
fn a_release_that_hosts_have_lost_comes_again_and_takes_its_old_place() {
    let operator = Operator::new();
    let (fleet, [_, two, three]) = fleet_that_lost_version_two(&operator);
    let back = operator.rollback(&fleet.fleet()).with(["--to", &two]).run().expect_code(0).expect_states(&[Active; 3]);
    let back = back.expect_stderr(&["2 hosts (host-02, host-03) have lost ", "shop-2.tar.zst is its artifact"]);
    let size = fs::metadata(operator.work().join("shop-2.tar.zst")).unwrap().len();
    let came: Vec<u64> = fleet.hosts().iter().map(|host| received(&back, host)).collect();
    assert_eq!(came, [0, size, 0], "only who has it neither as a release nor in its cache gets it");
    fleet.expect_live(&[Some("2"); 3]);
    assert!(fleet.hosts().iter().all(|host| live(host) == two), "it is the same release everywhere");
    // It is no newer than what was live when it came: a further way back leads on, and not to that.
    operator.rollback(&fleet.fleet()).run().expect_code(0);
    fleet.expect_live(&[Some("1"); 3]);
    operator.rollback(&fleet.fleet()).with(["--to", &three]).run().expect_code(0).expect_no_warning();
    fleet.expect_live(&[Some("3"); 3]);
    fleet.assert_nothing_left();
}

#[test]
fn an_artifact_that_only_a_host_still_has_comes_from_there() {
    let operator = Operator::new();
    let (fleet, [_, two, _]) = fleet_that_lost_version_two(&operator);
    // A colleague with another history and without the artifact. host-01's copy is spoilt.
    let colleague = Operator::new();
    let cache = fleet.hosts()[0].home().join(".cache/fleetdrop/blobs/sha256");
    for blob in fs::read_dir(cache).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[1000] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let back = colleague.rollback(&fleet.fleet()).with(["--to", &two]).run().expect_code(0).expect_states(&[Active; 3]);
    back.expect_stderr(&["2 hosts (host-02, host-03) have lost ", "its artifact comes from the cache of host-03"]);
    fleet.expect_live(&[Some("2"); 3]);
    assert_eq!(colleague.temporary_files(), 0, "it is not kept");
    fleet.assert_nothing_left();
}

#[test]
fn what_nobody_has_any_more_stops_the_rollback_unless_the_operator_has_it() {
    let operator = Operator::new();
    let (fleet, [_, two, _]) = fleet_that_lost_version_two(&operator);
    fleet.hosts().iter().filter(|host| host.name() != "host-02").for_each(empty_cache);
    let (kept, lost) = (operator.work().join("kept-2.tar.zst"), operator.work().join("shop-2.tar.zst"));
    fs::rename(&lost, &kept).unwrap();
    let to = |artifact: Option<&Path>| {
        let line = operator.rollback(&fleet.fleet()).with(["--to", &two]);
        match artifact {
            Some(artifact) => line.with(["--artifact".as_ref(), artifact.as_os_str()]),
            None => line,
        }
    };
    let stopped = to(None).run().expect_code(8).expect_states(&[Skipped, Failed, Failed]);
    let why = ["can't be fetched again: its artifact is not here any more", "hint: give its artifact with `--artifact FILE`"];
    let stopped = stopped.expect_stderr(&why);
    assert!(stopped.failure("host-02").message.contains(&format!("release {two} is not in ")), "{stopped:?}");
    let wrong = to(Some(&operator.work().join("shop-1.tar.zst"))).run().expect_code(5);
    wrong.expect_stderr(&["is not what", "was made of: its SHA-256 is"]);
    fleet.expect_live(&[Some("3"); 3]);
    to(Some(&kept)).run().expect_code(0).expect_states(&[Active; 3]);
    fleet.expect_live(&[Some("2"); 3]);
}

/// How often a rollback may be slow because the machine is busy with something else.
const ATTEMPTS: usize = 4;

#[test]
fn sixteen_hosts_go_back_within_five_seconds_beyond_their_logins() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(16));
    for version in ["1", "2"] {
        operator.deploy(&fleet.fleet(), &artifact::shop(&operator.work(), version, 50_000)).run().expect_code(0);
    }
    let two = live(&fleet.hosts()[0]);
    let timed = |work: &dyn Fn()| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        // One login a host, and a look.
        let logins = timed(&|| drop(operator.status(&fleet.fleet()).expect_code(0)));
        let back = timed(&|| drop(operator.rollback(&fleet.fleet()).run().expect_code(0).expect_states(&[Active; 16])));
        fleet.expect_live(&[Some("1"); 16]);
        operator.rollback(&fleet.fleet()).with(["--to", &two]).run().expect_code(0);
        // Each host is logged in to twice: the second time before its release is confirmed.
        if back < logins * 2 + Duration::from_secs(5) {
            return;
        }
        seen.push((logins, back));
    }
    panic!("the time of the logins and of the rollback: {seen:?}");
}
