//! `fleetdrop rollback` to a release that is nowhere any more but in hosts' caches, or on a web server.

use std::{fs, path::Path};

use fleetdrop::model::{HostResult, HostState::Active};

use crate::{
    artifact,
    deploy_tree::{contents, write},
    hosts::Embedded,
    operator::{Finished, Operator},
    origin_rig::{Canned, Nginx, Reply},
};

const HOSTS: usize = 3;
const SIZE: usize = 3_000_000;

/// A fleet, an operator and a web server.
struct Bed {
    operator: Operator,
    fleet: Embedded,
    nginx: Nginx,
}

impl Bed {
    fn new() -> Self {
        Self { operator: Operator::new(), fleet: Embedded::start(HOSTS), nginx: Nginx::start() }
    }

    /// Deploys and returns the release's id.
    fn deploy(&self, artifact: &Path, options: &[&str]) -> String {
        let run = self.operator.deploy(&self.fleet.fleet(), artifact).with(options).run().expect_code(0);
        run.summary().hosts[0].release.as_ref().unwrap().to_string()
    }

    /// Takes a release away from all hosts but the first `keep`, as somebody does who makes room.
    fn lose(&self, release: &str, keep: usize) {
        for host in &self.fleet.local().hosts()[keep..] {
            fs::remove_dir_all(host.deploy_to().join("releases").join(release)).unwrap();
            fs::remove_file(host.deploy_to().join(".fleetdrop/releases").join(format!("{release}.json"))).unwrap();
        }
    }

    fn empty_caches(&self) {
        for host in self.fleet.local().hosts() {
            let blobs = host.dir().join(".cache/fleetdrop/blobs");
            if blobs.exists() {
                fs::remove_dir_all(blobs).unwrap();
            }
        }
    }

    fn back(&self, operator: &Operator, release: &str, options: &[&str]) -> Finished {
        operator.rollback(&self.fleet.fleet()).with(["--to", release]).with(options).run()
    }

    /// Checks that every host's live release is like that directory.
    #[track_caller]
    fn expect_same(&self, root: &Path) {
        for host in self.fleet.local().hosts() {
            assert_eq!(contents(&host.deploy_to().join("current").join("")), contents(root), "{}", host.name());
        }
    }
}

/// Version one is on the first host alone, in no cache, and not at the operator's any more, but on the web server. Version two is live.
fn with_version_one_at_the_origin() -> (Bed, [String; 2], u64) {
    let bed = Bed::new();
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&bed.operator.work(), version, SIZE));
    let url = bed.nginx.url("plain/");
    let releases = [bed.deploy(&one, &["--web-seed", &url]), bed.deploy(&two, &[])];
    bed.lose(&releases[0], 1);
    bed.empty_caches();
    let kept = bed.nginx.files().join(one.file_name().unwrap());
    let size = fs::copy(&one, kept).unwrap();
    fs::remove_file(&one).unwrap();
    (bed, releases, size)
}

/// What came to a host over the network.
fn received(host: &HostResult) -> u64 {
    host.bytes.received() - host.bytes.from_disk
}

#[test]
fn what_only_an_origin_has_comes_from_there_to_those_that_lost_it() {
    let (bed, [one, _], size) = with_version_one_at_the_origin();
    let before = bed.nginx.sent("/plain/");
    let back = bed.back(&bed.operator, &one, &["--download-limit", "1MB/s"]);
    let back = back.expect_code(0).expect_states(&[Active; HOSTS]).expect_no_warning();
    let came_from = format!("its artifact comes from {}", bed.nginx.url("plain/"));
    let back = back.expect_stderr(&["2 hosts (demo-02, demo-03) have lost ", &came_from]);
    bed.fleet.expect_live(&[Some("1"); HOSTS]);
    let hosts = &back.summary().hosts;
    assert_eq!(hosts.iter().map(received).collect::<Vec<_>>(), [0, size, size]);
    // 3 MB at 1 MB a second, bursts aside.
    assert!(hosts[1..].iter().all(|host| host.transfer_seconds.unwrap() > 2.5), "{back:?}");
    let copies = (bed.nginx.sent_in_all("/plain/", before + size) - before) as f64 / size as f64;
    // So little goes directly, without a swarm.
    assert!((1.0..=3.3).contains(&copies), "one copy to make the hashes of, one for each host at most: {copies}");
    assert_eq!(bed.operator.temporary_files(), 0, "it is not kept");
}

#[test]
fn hosts_take_it_from_the_origin_too() {
    let (bed, [one, _], size) = with_version_one_at_the_origin();
    // A colleague without a history: what the release was made of, a host knows. The controller's link is slow.
    let colleague = Operator::new();
    let playbook = colleague.work().join("playbook.yaml");
    fs::write(&playbook, format!("app: shop\nweb_seeds: [\"{}\"]\n", bed.nginx.url("plain/"))).unwrap();
    let options = ["--playbook", playbook.to_str().unwrap(), "--controller-upload-limit", "64KiB/s"];
    let back = bed.back(&colleague, &one, &options).expect_code(0);
    bed.fleet.expect_live(&[Some("1"); HOSTS]);
    let summary = back.summary();
    assert!(summary.bytes.from_origin > 0 && summary.controller_sent < size, "{back:?}");
}

#[test]
fn what_may_not_be_fetched_is_not_and_the_reason_is_told() {
    let (bed, [one, _], _) = with_version_one_at_the_origin();
    let playbook = bed.operator.work().join("playbook.yaml");
    let back = |origin: &str, seed: &str| {
        fs::write(&playbook, format!("app: shop\nweb_seeds: [\"{}\"]\norigin: {{{origin}}}\n", bed.nginx.url(seed))).unwrap();
        bed.back(&Operator::new(), &one, &["--playbook", playbook.to_str().unwrap()])
    };
    let capped = back("max_origin_bytes: 1MiB", "plain/").expect_code(8);
    capped.expect_stderr(&["can't be fetched again", "`max_origin_bytes` does not allow to fetch its 3"]);
    let off = back("enabled: false", "plain/").expect_code(8);
    off.expect_stderr(&["its artifact is not here any more, and no host that can be reached has it in its cache"]);
    let gone = back("enabled: true", "plain/elsewhere/").expect_code(8);
    gone.expect_stderr(&["no web server gives it: http://", "elsewhere/: it answered with 404 Not Found"]);
    fs::write(bed.nginx.files().join("shop-1.tar.zst"), artifact::noise(SIZE, "other")).unwrap();
    let other = back("enabled: true", "plain/").expect_code(8);
    other.expect_stderr(&["no web server gives it: http://", "bytes, the artifact has"]);
    bed.fleet.expect_live(&[Some("2"); HOSTS]);
}

#[test]
fn a_server_without_ranges_is_good_enough_and_one_that_breaks_off_is_asked_for_the_rest() {
    let (bed, [one, two], _) = with_version_one_at_the_origin();
    let content = fs::read(bed.nginx.files().join("shop-1.tar.zst")).unwrap();
    let breaking = Canned::start(move |asked, before| {
        let cut = (before < 3).then_some(500_000);
        Reply { cut, ..Reply::part(&content, asked) }
    });
    for url in [bed.nginx.url("whole/"), breaking.url("shop")] {
        let back = bed.back(&Operator::new(), &one, &["--web-seed", &url]).expect_code(0);
        back.expect_stderr(&[&format!("its artifact comes from {url}")]);
        bed.fleet.expect_live(&[Some("1"); HOSTS]);
        bed.back(&bed.operator, &two, &[]).expect_code(0);
        bed.lose(&one, 1);
        bed.empty_caches();
    }
    let ranges: Vec<_> = breaking.asked().into_iter().map(|asked| asked.range.map(|range| range.start)).collect();
    assert_eq!(ranges[..4], [None, Some(500_000), Some(1_000_000), Some(1_500_000)]);
}

/// Writes a directory with one of everything that modes and links can make of it.
fn dist(root: &Path, version: &str) {
    write(root, "VERSION", version, 0o644);
    write(root, "start", format!("#!/bin/sh\necho {version}\n"), 0o755);
    write(root, "assets/my picture.png", artifact::noise(300_000, version), 0o640);
    write(root, "assets/none", "", 0o600);
    fs::create_dir_all(root.join("empty")).unwrap();
    if !root.join("link").is_symlink() {
        std::os::unix::fs::symlink("assets/none", root.join("link")).unwrap();
    }
}

#[test]
fn a_directory_that_was_changed_since_comes_from_a_cache_or_from_the_origin() {
    let bed = Bed::new();
    let (root, then) = (bed.operator.work().join("dist"), bed.nginx.files().join("dist"));
    dist(&root, "1");
    dist(&then, "1");
    let url = bed.nginx.url("plain/");
    let one = bed.deploy(&root, &["--web-seed", &url]);
    dist(&root, "2");
    let two = bed.deploy(&root, &[]);

    bed.lose(&one, 0);
    let back = bed.back(&bed.operator, &one, &[]).expect_code(0).expect_states(&[Active; HOSTS]).expect_no_warning();
    let back =
        back.expect_stderr(&["3 hosts (demo-01, demo-02, demo-03) have lost", "its artifact comes from the cache of demo-0"]);
    assert_eq!(back.summary().hosts.iter().map(received).collect::<Vec<_>>(), [0; HOSTS], "each has it in its own cache");
    bed.fleet.expect_live(&[Some("1"); HOSTS]);
    bed.expect_same(&then);

    bed.back(&bed.operator, &two, &[]).expect_code(0);
    bed.lose(&one, 0);
    bed.empty_caches();
    let back = bed.back(&bed.operator, &one, &[]).expect_code(0).expect_states(&[Active; HOSTS]).expect_no_warning();
    back.expect_stderr(&[&format!("its artifact comes from {url}")]);
    bed.expect_same(&then);
    assert_eq!(bed.operator.temporary_files(), 0, "it is not kept");

    // Without the history nobody knows any more what was in it.
    bed.back(&bed.operator, &two, &[]).expect_code(0);
    bed.lose(&one, 1);
    bed.empty_caches();
    let lost = bed.back(&Operator::new(), &one, &["--web-seed", &url]).expect_code(8);
    lost.expect_stderr(&["can't be fetched again"]);
}
