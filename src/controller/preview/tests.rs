//! The script on this machine, and what is made of answers.

use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio};

use super::{questions::Answers, *};
use crate::{
    controller::push::Sight,
    model::{ArchiveKind, HostStatus, ReleaseInfo, plan::LinkedPath},
};

const RELEASE: &str = "20261120T031500Z-1a2b3c4d";

fn manifest() -> Manifest {
    Manifest {
        app: "shop".parse().unwrap(),
        file_name: "shop.tar.zst".into(),
        digest: "1a2b3c4d".repeat(8).parse().unwrap(),
        size: 10 << 20,
        archive: ArchiveKind::TarZst,
        tree: None,
    }
}

fn linked() -> Linked {
    Linked::new(Vec::new(), [".env", "config/it's.yml"].map(|file| LinkedPath::new(file).unwrap()).to_vec()).unwrap()
}

/// What is judged where nothing is linked.
fn bare<'a>(manifest: &'a Manifest, linked: &'a Linked) -> Wanted<'a> {
    Wanted { manifest, linked, unchanged: Unchanged::Skip, makes_files: false }
}

/// Asks this machine, as a host does it.
fn ask(root: &Path, cache: &Path, linked: &Linked) -> String {
    let roots = [root.display().to_string(), root.display().to_string()];
    let questions = questions::script(&roots, cache.to_str(), &manifest().digest, linked);
    let near =
        "near() { at=$1; while [ ! -e \"$at\" ] && [ ! -L \"$at\" ]; do at=${at%/*}; at=${at:-/}; done; printf %s \"$at\"; }";
    let mut child = std::process::Command::new("sh")
        .args(["-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("uid=$(id -u)\n{near}\n{questions}\n").as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

fn sight(answers: String) -> Sight {
    Sight { agent: None, agent_size: 7, refused: None, is_root: false, has_gzip: true, fetcher: Some("curl"), answers }
}

fn seen(answers: &str) -> HostPreview {
    judge::judge(&sight(answers.to_owned()), &bare(&manifest(), &Linked::default()))
}

#[test]
fn an_empty_host_has_room_and_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("it's/new/shop");
    let text = ask(&root, &dir.path().join("cache"), &Linked::default());
    let answers = Answers(&text);
    assert_eq!(answers.get("root"), root.to_str());
    let (total, free) = answers.numbers("blocks").expect("df tells");
    let room = rustix::fs::statvfs(dir.path()).unwrap();
    assert_eq!(total, (room.f_blocks * room.f_frsize) >> 10);
    assert!(free > 0 && free <= total, "{text}");
    for absent in ["blocked", "current", "current_is", "record", "cached", "partial", "lock"] {
        assert_eq!(answers.get(absent), None, "{text}");
    }
    let preview = seen(&text);
    assert_eq!((preview.agent, preview.transfer, preview.unchanged), (AgentPreview::ToCome(7), 10 << 20, false));
    assert!(preview.failure.is_none() && preview.free.is_some(), "{preview:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

/// A release of which only the name is known.
fn unknown_release() -> ReleaseInfo {
    ReleaseInfo {
        id: RELEASE.parse().unwrap(),
        app: None,
        artifact: None,
        digest: None,
        size: None,
        staged_at: None,
        activated_at: None,
        by: None,
    }
}

/// What an agent answers where that release is live.
fn status_of(release: ReleaseInfo) -> HostStatus {
    HostStatus { current: Some(release.id.clone()), releases: vec![release], ..HostStatus::default() }
}

#[test]
fn what_is_there_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (root, cache) = (dir.path().join("shop"), dir.path().join("cache"));
    let digest = manifest().digest.to_string();
    for below in ["releases", ".fleetdrop/releases", ".fleetdrop/partial"] {
        fs::create_dir_all(root.join(below)).unwrap();
    }
    fs::create_dir(root.join("releases").join(RELEASE)).unwrap();
    symlink(format!("releases/{RELEASE}"), root.join("current")).unwrap();
    let record = |activated: &str| {
        let manifest = serde_json::to_string(&manifest()).unwrap();
        let record =
            format!("{{\"release\":\"{RELEASE}\",\"manifest\":{manifest},\"sequence\":1,\"activated_at\":{activated}}}");
        fs::write(root.join(format!(".fleetdrop/releases/{RELEASE}.json")), record).unwrap();
    };
    record("null");
    fs::write(root.join(".fleetdrop/partial").join(&digest), vec![1; 5000]).unwrap();
    fs::create_dir_all(cache.join("blobs/sha256")).unwrap();
    fs::write(cache.join("blobs/sha256").join(&digest), "too short").unwrap();
    let lock = |pid: u32| {
        let text = format!("{{\"run\":\"00000000000000aa\",\"pid\":{pid},\"since\":\"2026-11-20T03:15:00Z\"}}");
        fs::write(root.join(".fleetdrop/lock"), text).unwrap();
    };
    // No process has that id.
    lock(u32::MAX);
    let preview = seen(&ask(&root, &cache, &Linked::default()));
    assert_eq!(preview.current.as_ref().unwrap().as_str(), RELEASE);
    assert_eq!((preview.unchanged, preview.cached, preview.partial), (false, false, true));
    assert!(preview.locked_by.is_none() && preview.failure.is_none(), "{preview:?}");

    record("\"2026-11-20T03:15:00Z\"");
    let text = ask(&root, &cache, &linked());
    let (manifest, nothing, files) = (manifest(), Linked::default(), linked());
    let wanted = bare(&manifest, &nothing);
    let judged = |wanted: Wanted<'_>| judge::judge(&sight(text.clone()), &wanted);
    let again = judged(Wanted { unchanged: Unchanged::Activate, ..wanted });
    assert_eq!((again.unchanged, again.transfer, again.needed), (false, 0, 0), "it switches, and nothing comes: {again:?}");
    let links = judged(Wanted { linked: &files, ..wanted });
    assert_eq!((links.unchanged, links.transfer), (false, 10 << 20), "another release is made, for other links");
    let failure = links.failure.expect("the files to link to are missing");
    assert!(failure.message.ends_with("/shared has no .env, config/it's.yml") && failure.hint.is_some(), "{failure:?}");
    let hooked = judged(Wanted { linked: &files, makes_files: true, ..wanted });
    assert!(hooked.failure.is_none() && hooked.warnings[0].contains("has no .env"), "{hooked:?}");
    fs::create_dir_all(root.join("shared/config")).unwrap();
    fs::write(root.join("shared/.env"), "").unwrap();
    fs::write(root.join("shared/config/it's.yml"), "").unwrap();
    assert_eq!(Answers(&ask(&root, &cache, &linked())).get("missing"), None);

    lock(std::process::id());
    let preview = seen(&ask(&root, &cache, &Linked::default()));
    assert_eq!((preview.unchanged, preview.transfer, preview.needed), (true, 0, 0));
    let failure = preview.failure.unwrap();
    assert_eq!(failure.message, "another deploy works there: run 00000000000000aa since 2026-11-20T03:15:00Z");
    assert!(failure.hint.is_some());

    // The agent asks the kernel: nobody holds it.
    let looked = sight(ask(&root, &cache, &Linked::default()));
    let mut preview = judge::judge(&looked, &wanted);
    let release = unknown_release();
    judge::correct(&mut preview, &status_of(release.clone()), &looked, &wanted);
    assert_eq!((&preview.failure, &preview.locked_by, preview.unchanged), (&None, &None, false));
    let same = ReleaseInfo {
        app: Some(manifest.app.clone()),
        digest: Some(manifest.digest),
        activated_at: Some("2026-11-20T03:15:00Z".into()),
        ..release
    };
    for (wanted, unchanged) in [
        (wanted, true),
        (Wanted { unchanged: Unchanged::Activate, ..wanted }, false),
        (Wanted { linked: &files, ..wanted }, false),
    ] {
        judge::correct(&mut preview, &status_of(same.clone()), &looked, &wanted);
        assert_eq!(preview.unchanged, unchanged, "{wanted:?}");
    }
}

#[test]
fn what_would_stop_a_deploy_is_told() {
    let base = "root=/srv/shop\nblocks=1000000 900000\nfiles=1000 900\n";
    for (answers, wanted) in [
        ("blocked=/srv cannot be written", "/srv cannot be written"),
        ("current_is=directory", "/srv/shop/current is a directory, not a symlink to a release"),
        ("current=/opt/x\ncurrent_is=release", "points to /opt/x, which is not in /srv/shop/releases"),
        ("blocks=1000000 20000", "not enough space in /srv/shop: 39.5 MiB needed, 19.5 MiB free"),
        ("files=1000 3", "too few files can be created in /srv/shop: 16 inodes needed, 3 free"),
        ("lock=what is this", "another deploy works there"),
    ] {
        let preview = seen(&format!("{base}{answers}\n"));
        let failure = preview.failure.unwrap_or_else(|| panic!("{answers} stops nothing"));
        assert!(failure.hint.is_some(), "{failure:?}");
        assert!(failure.message.contains(wanted), "{}", failure.message);
    }
    let tight = seen(&format!("{base}blocks=1000000 50000\n"));
    assert!(tight.failure.is_none() && tight.warnings[0].contains("may not fit"), "{tight:?}");
    let cached = seen(&format!("{base}blocks=1000000 50000\ncached={}\n", 10 << 20));
    assert!(cached.cached && cached.transfer == 0 && cached.needed < tight.needed, "{cached:?}");
    let untold = seen("root=/srv/shop\n");
    assert!(untold.failure.is_none() && untold.free.is_none() && !untold.warnings.is_empty(), "{untold:?}");
}
