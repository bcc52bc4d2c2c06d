use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn root(dir: &tempfile::TempDir) -> Root {
    let root = Root::new(dir.path().join("app").to_str().unwrap(), None).unwrap();
    root.prepare(uid()).unwrap();
    root
}

fn linked(dirs: &[&str], files: &[&str]) -> Linked {
    let paths = |texts: &[&str]| texts.iter().map(|text| LinkedPath::new(text).unwrap()).collect();
    Linked::new(paths(dirs), paths(files)).unwrap()
}

fn id() -> ReleaseId {
    "r1".parse().unwrap()
}

/// Makes an unpacked release and returns its directory.
fn unpacked(root: &Root) -> PathBuf {
    let staging = root.staging(&id());
    fs::create_dir(&staging).unwrap();
    staging
}

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn every_linked_path_leads_to_shared_whatever_the_artifact_has_there() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir);
    let linked = linked(&["log", "public/uploads", "a/b/c"], &[".env", "config/database.yml"]);
    put(&root.shared().join(".env"), "secret");
    put(&root.shared().join("config/database.yml"), "password");
    put(&root.shared().join("log/old.log"), "kept");
    prepare(&root, &linked, uid()).unwrap();
    let staging = unpacked(&root);
    put(&staging.join("log/sub/artifact.log"), "of the artifact");
    put(&staging.join(".env"), "of the artifact");
    put(&staging.join("config/other.yml"), "stays");
    symlink("elsewhere", staging.join("config/database.yml")).unwrap();
    link(&root, &id(), &linked).unwrap();

    // As a release, at its final name and through `current`.
    disk::rename(&staging, &root.release(&id())).unwrap();
    symlink("releases/r1", root.current()).unwrap();
    let read = |path: &str| fs::read_to_string(root.current().join(path)).unwrap();
    assert_eq!((read(".env"), read("config/database.yml")), ("secret".into(), "password".into()));
    assert_eq!((read("log/old.log"), read("config/other.yml")), ("kept".into(), "stays".into()));
    put(&root.current().join("public/uploads/cat.png"), "meow");
    assert_eq!(fs::read_to_string(root.shared().join("public/uploads/cat.png")).unwrap(), "meow");
    assert_eq!(fs::read_link(root.current().join("log")).unwrap(), Path::new("../../shared/log"));
    assert_eq!(fs::read_link(root.current().join("a/b/c")).unwrap(), Path::new("../../../../shared/a/b/c"));
    assert_eq!(fs::metadata(root.release(&id()).join("a/b")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(root.shared().join("a/b/c")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(disk::names(&root.releases(), 10).unwrap(), ["r1"], "what was replaced is gone");

    // What is shared outlives the release.
    disk::remove_file(&root.current()).unwrap();
    super::super::releases::remove(&root, &id()).unwrap();
    assert_eq!(fs::read_to_string(root.shared().join("log/old.log")).unwrap(), "kept");
    assert!(root.shared().join("public/uploads/cat.png").exists());
}

#[test]
fn missing_files_are_all_named_and_never_made() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir);
    let error = prepare(&root, &linked(&["log"], &[".env", "config/key"]), uid()).unwrap_err().to_string();
    assert_eq!(error, format!("{} has no .env, config/key", root.shared().display()));
    assert!(root.shared().join("config").is_dir(), "the place to put it is there");
    assert!(!root.shared().join("config/key").exists());
    let many: Vec<String> = (0..25).map(|n| format!("f{n:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = prepare(&root, &linked(&[], &many), uid()).unwrap_err().to_string();
    assert!(error.ends_with("f08, f09 and 15 more"), "{error}");
}

#[test]
fn what_is_of_the_wrong_kind_is_refused_and_links_of_the_operator_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir);
    put(&root.shared().join("log"), "a file");
    fs::create_dir(root.shared().join(".env")).unwrap();
    symlink("/nonexistent", root.shared().join("dangling")).unwrap();
    for (wanted, why) in [
        (linked(&["log"], &[]), "log can't be linked: it is not a directory"),
        (linked(&["log/old"], &[]), "log can't be linked: it is not a directory"),
        (linked(&[], &[".env"]), ".env can't be linked: it is not a file"),
        (linked(&["dangling"], &[]), "dangling can't be linked: it is a symlink to something that is not there"),
    ] {
        let error = prepare(&root, &wanted, uid()).unwrap_err().to_string();
        assert!(error.ends_with(why), "{error}");
    }
    fs::create_dir(dir.path().join("big")).unwrap();
    symlink(dir.path().join("big"), root.shared().join("uploads")).unwrap();
    prepare(&root, &linked(&["uploads", "uploads-2/x"], &[]), uid()).unwrap();
    prepare(&root, &linked(&["uploads/new"], &[]), uid()).unwrap();
    assert!(dir.path().join("big/new").is_dir());
}

#[test]
fn nothing_is_made_where_another_user_could_redirect_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir);
    let open = root.shared().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    prepare(&root, &linked(&["open"], &[]), uid()).unwrap();
    let error = prepare(&root, &linked(&["open/below"], &[]), uid()).unwrap_err();
    assert!(matches!(error, SharedError::Root(RootError::Untrusted { .. })), "{error}");
}

#[test]
fn a_link_of_the_artifact_on_the_way_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir);
    let staging = unpacked(&root);
    let victim = dir.path().join("victim");
    put(&victim.join("database.yml"), "precious");
    symlink(&victim, staging.join("config")).unwrap();
    put(&staging.join("file"), "");
    for (path, parent) in [("config/database.yml", "config"), ("file/x", "file")] {
        let error = link(&root, &id(), &linked(&[], &[path])).unwrap_err().to_string();
        assert_eq!(error, format!("`{path}` can't be linked: `{parent}` in the artifact is not a directory"));
    }
    assert_eq!(fs::read_to_string(victim.join("database.yml")).unwrap(), "precious");
}

#[test]
fn links_hold_where_releases_is_on_another_disk() {
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("app");
    fs::create_dir_all(&app).unwrap();
    fs::create_dir(dir.path().join("big")).unwrap();
    symlink(dir.path().join("big"), app.join("releases")).unwrap();
    let root = root(&dir);
    let staging = unpacked(&root);
    let wanted = linked(&["log"], &[]);
    prepare(&root, &wanted, uid()).unwrap();
    link(&root, &id(), &wanted).unwrap();
    put(&root.shared().join("log/x"), "shared");
    assert_eq!(fs::read_to_string(staging.join("log/x")).unwrap(), "shared");
}
