//! What a host refuses: archives that reach out of their release, and bytes that are not the artifact's.

use std::{fs, path::Path};

use fleetdrop::model::{
    ArchiveKind,
    HostState::{Active, Extracting, Failed},
};

use crate::{
    artifact,
    hosts::{App, Embedded},
    operator::Operator,
    sshd::SshdFleet,
};

#[test]
fn hostile_archives_are_refused_before_anything_is_visible() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let good = artifact::shop(&operator.work(), "1", 10_000);
    operator.deploy(&fleet.fleet(), &good).run().expect_code(0);
    let app = App(fleet.hosts()[0].deploy_to());
    let releases = app.releases();

    for (archive, refusal) in artifact::hostile(&operator.work()) {
        let run = operator.deploy(&fleet.fleet(), &archive).run().expect_code(8).expect_states(&[Failed]);
        let failure = run.failure("host-01");
        assert!(failure.message.contains(refusal), "{refusal}\n{run:?}");
        assert!(failure.hint.is_some(), "{run:?}");
        assert_eq!(failure.during, Extracting, "{run:?}");
        assert_eq!(app.live().as_deref(), Some("1"), "{refusal}");
        assert_eq!(app.releases(), releases, "{refusal}");
    }
    for place in [Path::new("/tmp/fleetdrop-pwned"), &fleet.hosts()[0].home().join("pwned")] {
        assert!(!place.exists(), "{} was written", place.display());
    }
    fleet.assert_nothing_left();
}

#[test]
fn bytes_with_the_wrong_digest_are_discarded() {
    let (operator, fleet) = (Operator::new(), Embedded::start(2));
    let good = artifact::shop(&operator.work(), "1", 100_000);
    operator.deploy(&fleet.fleet(), &good).run().expect_code(0);

    // A controller whose note of the artifact's SHA-256 is wrong: every piece arrives well, the whole is not what was asked for.
    let artifact = artifact::shop(&operator.work(), "2", 100_000);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    fs::File::open(&artifact).unwrap().set_modified(old).unwrap();
    let unreachable_limit = operator.deploy(&fleet.fleet(), &artifact).with(["--limit", "demo-01"]).run();
    unreachable_limit.expect_code(0);
    operator.falsify_hashes();

    let run = operator.deploy(&fleet.fleet(), &artifact).with(["--limit", "demo-02"]).run().expect_code(8);
    let failure = run.failure("demo-02");
    assert!(failure.message.contains("SHA-256"), "{failure:?}");
    fleet.expect_live(&[Some("2"), Some("1")]);
    let host = &fleet.local().hosts()[1];
    assert_eq!(App(&host.deploy_to()).releases().len(), 1);
    let partial = fs::read_dir(host.deploy_to().join(".fleetdrop/partial")).into_iter().flatten().flatten();
    assert_eq!(partial.count(), 0, "the bad bytes are still there");
}

#[test]
fn a_damaged_copy_in_the_cache_is_fetched_again() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    // The first release is pruned by the third: otherwise a deploy within the same second would find it under its own id.
    let [one, two, three] = ["1", "2", "3"].map(|version| artifact::shop(&operator.work(), version, 300_000));
    for artifact in [&one, &two, &three] {
        operator.deploy(&fleet.fleet(), artifact).with(["--keep-releases", "2"]).run().expect_code(0);
    }
    let blobs = fleet.local().hosts()[0].dir().join(".cache/fleetdrop/blobs/sha256");
    for blob in fs::read_dir(&blobs).unwrap().flatten() {
        let mut bytes = fs::read(blob.path()).unwrap();
        bytes[1000] ^= 1;
        fs::remove_file(blob.path()).unwrap();
        fs::write(blob.path(), bytes).unwrap();
    }
    let run = operator.deploy(&fleet.fleet(), &one).run().expect_code(0).expect_states(&[Active]);
    fleet.expect_live(&[Some("1")]);
    assert!(run.summary().bytes.from_controller > 0, "{run:?}");
}

#[test]
fn every_kind_of_artifact_becomes_a_release() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    let app = fleet.local().hosts()[0].deploy_to();
    for (kind, path) in artifact::every_kind(&operator.work()) {
        operator.deploy(&fleet.fleet(), &path).run().expect_code(0);
        let name = if kind == ArchiveKind::File { path.file_name().unwrap().to_str().unwrap() } else { "kind" };
        let content = fs::read_to_string(app.join("current").join(name)).unwrap();
        assert_eq!(content, format!("{kind:?}"), "{}", path.display());
    }
}
