//! What a host looks like, found out without asking an agent or using its code.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a command that was started may take to wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is in a release: a file's content and whether it can be run, or a link's target.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    File(Vec<u8>, bool),
    Link(String),
}

/// Returns what a version consists of.
fn contents(version: u32) -> BTreeMap<String, Item> {
    let text = |part: usize| format!("version {version}, part {part}\n").repeat(2000 + 100 * part).into_bytes();
    let mut contents: BTreeMap<String, Item> =
        (0..4).map(|part| (format!("lib/deep-{}/part-{part}", part % 2), Item::File(text(part), false))).collect();
    contents.insert("bin/shop".into(), Item::File(format!("#!/bin/sh\necho {version}\n").into_bytes(), true));
    contents.insert("lib/same".into(), Item::File(b"in every version\n".repeat(3000), false));
    contents.insert("shop".into(), Item::Link("bin/shop".into()));
    contents
}

/// Makes a directory of a version.
pub(super) fn directory(at: &Path, version: u32) {
    for (path, item) in contents(version) {
        let path = at.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match item {
            Item::File(content, can_run) => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(if can_run { 0o755 } else { 0o644 })).unwrap();
            }
            Item::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        }
    }
}

/// Packs a version.
pub(super) fn archive(version: u32) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, item) in contents(version) {
        let mut header = tar::Header::new_gnu();
        match item {
            Item::File(content, can_run) => {
                header.set_mode(if can_run { 0o755 } else { 0o644 });
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, path, &*content).unwrap();
            }
            Item::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                archive.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    archive.into_inner().unwrap()
}

/// Returns the version that a release's name tells.
pub(super) fn version_of(release: &str) -> Result<u32, String> {
    release.strip_prefix('r').and_then(|version| version.parse().ok()).ok_or(format!("there is a release `{release}`"))
}

/// Returns which version is live, once all of it was compared.
pub(super) fn live(app: &Path) -> Result<Option<u32>, String> {
    let current = app.join("current");
    if fs::symlink_metadata(&current).is_err() {
        return Ok(None);
    }
    let target = fs::read_link(&current).map_err(|error| format!("`current` is no link: {error}"))?;
    let target = target.to_str().unwrap_or_default();
    let release = target.strip_prefix("releases/").ok_or_else(|| format!("`current` points to `{target}`"))?;
    let version = version_of(release)?;
    compare(&current.join(""), version)?;
    Ok(Some(version))
}

/// Compares a release with what it has to be.
fn compare(release: &Path, version: u32) -> Result<(), String> {
    let mut found = BTreeMap::new();
    gather(release, "", &mut found).map_err(|error| format!("{}: {error}", release.display()))?;
    let wanted = contents(version);
    let differing: Vec<&String> =
        wanted.keys().chain(found.keys()).filter(|path| wanted.get(*path) != found.get(*path)).collect();
    if differing.is_empty() { Ok(()) } else { Err(format!("version {version} is not whole: {differing:?}")) }
}

fn gather(directory: &Path, below: &str, found: &mut BTreeMap<String, Item>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, name) = (entry.path(), format!("{below}{}", entry.file_name().to_string_lossy()));
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            gather(&path, &format!("{name}/"), found)?;
        } else if meta.is_symlink() {
            found.insert(name, Item::Link(fs::read_link(&path)?.to_string_lossy().into_owned()));
        } else {
            found.insert(name, Item::File(fs::read(&path)?, meta.permissions().mode() & 0o100 != 0));
        }
    }
    Ok(())
}

/// Checks that nothing is left of an agent that died, nor of the one that came after it.
pub(super) fn in_order(app: &Path, cache: &Path) -> Result<(), String> {
    let releases = names(&app.join("releases"));
    for release in &releases {
        compare(&app.join("releases").join(release), version_of(release)?)?;
    }
    let private = app.join(".fleetdrop");
    let mut left: Vec<String> = names(&private.join("partial")).into_iter().map(|name| format!("partial/{name}")).collect();
    let records = names(&private.join("releases"));
    left.extend(
        records.into_iter().filter(|name| !name.strip_suffix(".json").is_some_and(|id| releases.iter().any(|is| is == id))),
    );
    let temporary = |name: &String| name.starts_with(".tmp-") || name.ends_with(".new") || name == "running";
    left.extend(names(app).into_iter().chain(names(&private)).filter(temporary));
    left.extend(names(&cache.join("blobs/sha256")).into_iter().filter(|name| name.starts_with('.')));
    if !left.is_empty() {
        return Err(format!("there is left: {left:?}"));
    }
    let lock = fs::File::open(private.join("lock")).map_err(|error| format!("the lock: {error}"))?;
    lock.try_lock().map_err(|error| format!("the lock: {error}"))?;
    nobody_runs(app)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Checks that no hook or check of this application runs.
pub(super) fn nobody_runs(app: &Path) -> Result<(), String> {
    let left = processes(app);
    if left.is_empty() { Ok(()) } else { Err(format!("there runs: {left:?}")) }
}

/// Ends what a case that failed left running.
pub(super) fn end_processes(app: &Path) {
    for (process, _) in processes(app) {
        // It may have ended by itself.
        let _ = kill_process(process, Signal::KILL);
    }
}

/// Waits until that step's command waits.
pub(super) async fn wait_for_a_held_command(app: &Path, step: &str) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    while !processes(app).iter().any(|(_, command)| command.starts_with("sleep ")) {
        if Instant::now() > until {
            return Err(format!("the command of {step} did not outlive its agent"));
        }
        // There is no event for another process's process.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Returns the processes that were started for this application, each with its command line.
fn processes(app: &Path) -> Vec<(Pid, String)> {
    let wanted = format!("FLEETDROP_DEPLOY_TO={}", app.display());
    let ids = names(Path::new("/proc")).into_iter().filter_map(|name| Pid::from_raw(name.parse().ok()?));
    let read = |id: Pid, what: &str| fs::read(format!("/proc/{}/{what}", id.as_raw_pid())).unwrap_or_default();
    let has = |id: &Pid| read(*id, "environ").split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
    ids.filter(has).map(|id| (id, String::from_utf8_lossy(&read(id, "cmdline")).replace('\0', " "))).collect()
}
