//! From a host's answers to what a deploy would meet there. Pure.

use serde::Deserialize;

use super::{AgentPreview, HostPreview, LockPreview, failed, questions::Answers};
use crate::{
    controller::push::Sight,
    model::{
        AppName, Digest, HostFailure, HostStatus, Manifest, ReleaseId, RunId,
        plan::{Linked, Unchanged},
        space::{bytes, files as files_needed, reserve, usual_release},
    },
};

/// How many missing files are named.
const MAX_NAMED: usize = 10;

/// What would be deployed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) manifest: &'a Manifest,
    /// What its release would link to.
    pub(super) linked: &'a Linked,
    /// What would become of a host that has it already.
    pub(super) unchanged: Unchanged,
    /// True if a hook runs before the linked files have to be there.
    pub(super) makes_files: bool,
}

/// What is looked at of a release's record.
#[derive(Debug, Deserialize)]
struct Record {
    manifest: RecordedManifest,
    #[serde(default)]
    linked: Linked,
    #[serde(default)]
    activated_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RecordedManifest {
    app: AppName,
    digest: Digest,
}

/// What is looked at of a lock.
#[derive(Debug, Deserialize)]
struct Holder {
    run: RunId,
    since: String,
}

/// Reads the live release's record.
fn record(answers: Answers<'_>) -> Option<Record> {
    answers.get("record").and_then(|text| serde_json::from_str(text).ok())
}

/// Judges by the answers alone.
pub(super) fn judge(sight: &Sight, wanted: &Wanted<'_>) -> HostPreview {
    let (answers, manifest) = (Answers(&sight.answers), wanted.manifest);
    let is_live = record(answers).is_some_and(|record| {
        let is_it = record.manifest.app == manifest.app && record.manifest.digest == manifest.digest;
        let is_it = is_it && record.linked == *wanted.linked;
        is_it && record.activated_at.is_some() && answers.get("current_is") == Some("release")
    });
    let cached = answers.number("cached") == Some(manifest.size);
    let lock = answers.get("lock").map(|text| match serde_json::from_str::<Holder>(text) {
        Ok(Holder { run, since }) => LockPreview { run: Some(run), since: Some(since) },
        Err(_) => LockPreview { run: None, since: None },
    });
    let mut preview = HostPreview {
        deploy_to: answers.get("root").unwrap_or_default().to_owned(),
        agent: match (&sight.agent, &sight.refused) {
            (Some(_), _) => AgentPreview::There,
            (None, None) => AgentPreview::ToCome(sight.agent_size),
            (None, Some(_)) => AgentPreview::Impossible,
        },
        has_gzip: sight.has_gzip,
        fetcher: sight.fetcher,
        current: answers.get("current").and_then(current),
        previous: None,
        unchanged: is_live && wanted.unchanged == Unchanged::Skip,
        cached,
        partial: answers.number("partial").is_some(),
        transfer: if cached || is_live { 0 } else { manifest.size },
        free: None,
        needed: 0,
        locked_by: lock,
        warnings: Vec::new(),
        failure: None,
    };
    room(&mut preview, is_live, answers, manifest);
    if !is_live {
        files(&mut preview, answers, wanted.makes_files);
    }
    preview.failure = blocked(answers, &preview).or(preview.failure.take());
    preview
}

/// Puts right what the agent knows better.
pub(super) fn correct(preview: &mut HostPreview, status: &HostStatus, sight: &Sight, wanted: &Wanted<'_>) {
    let manifest = wanted.manifest;
    let live = status.releases.iter().find(|release| Some(&release.id) == status.current.as_ref());
    // The agent does not tell what a release links to.
    let links = record(Answers(&sight.answers)).is_none_or(|record| record.linked == *wanted.linked);
    let is_live = links
        && live.is_some_and(|live| {
            live.activated_at.is_some() && live.digest == Some(manifest.digest) && live.app.as_ref() == Some(&manifest.app)
        });
    preview.unchanged = is_live && wanted.unchanged == Unchanged::Skip;
    preview.current.clone_from(&status.current);
    preview.previous.clone_from(&status.previous);
    if is_live {
        preview.transfer = 0;
        preview.needed = 0;
    }
    // The kernel's word on the lock, against a process id that may be somebody else's by now.
    let since = preview.locked_by.take().and_then(|lock| lock.since);
    preview.locked_by = status.locked_by.clone().map(|run| LockPreview { run: Some(run), since });
    if preview.failure.as_ref().is_some_and(|failure| failure.message.starts_with(LOCKED)) {
        preview.failure = None;
    }
    preview.failure = preview.failure.take().or_else(|| locked(preview.locked_by.as_ref()));
}

/// Returns the release that a symlink's target names.
fn current(target: &str) -> Option<ReleaseId> {
    let (directory, name) = target.rsplit_once('/')?;
    directory.rsplit('/').next().filter(|parent| *parent == "releases")?;
    ReleaseId::new(name).ok()
}

/// What stands in the way of any deploy there.
fn blocked(answers: Answers<'_>, preview: &HostPreview) -> Option<HostFailure> {
    let root = &preview.deploy_to;
    if let Some(why) = answers.get("blocked") {
        let hint = "deploy as a user who may write there (`--become`), or choose another directory with `--deploy-to`";
        return Some(failed(why).with_hint(hint));
    }
    if let Some(kind @ ("directory" | "file")) = answers.get("current_is") {
        let hint = "move it away, or choose another directory with `--deploy-to`";
        return Some(failed(format!("{root}/current is a {kind}, not a symlink to a release")).with_hint(hint));
    }
    if let (Some(target), None) = (answers.get("current"), &preview.current) {
        let message = format!("{root}/current points to {target}, which is not in {root}/releases");
        return Some(failed(message).with_hint("choose another directory with `--deploy-to`"));
    }
    locked(preview.locked_by.as_ref())
}

/// What the failure of a locked host begins with.
const LOCKED: &str = "another deploy works there";

fn locked(lock: Option<&LockPreview>) -> Option<HostFailure> {
    let lock = lock?;
    let run = lock.run.as_ref().map(|run| format!(": run {run}")).unwrap_or_default();
    let since = lock.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    let hint = "wait until it is over; it ends by itself, at the latest when its lease lapses";
    Some(failed(format!("{LOCKED}{run}{since}")).with_hint(hint))
}

/// Looks for linked files that are not there: the deploy would fail, unless a hook makes them.
fn files(preview: &mut HostPreview, answers: Answers<'_>, makes_files: bool) {
    let missing: Vec<&str> = answers.all("missing").collect();
    if missing.is_empty() {
        return;
    }
    let more = missing.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = missing[..missing.len().min(MAX_NAMED)].join(", ");
    let message = format!("{}/shared has no {named}{more}", preview.deploy_to);
    if makes_files {
        preview.warnings.push(format!("{message}, which the hooks before staging have to make"));
    } else {
        let hint = "put them there once, by hand or with what configures the host (a `before_stage` hook can, too); they are \
                    `linked_files` of the playbook";
        preview.failure = Some(failed(message).with_hint(hint));
    }
}

/// Compares what is free with what is needed; nothing is where the release `is_live` already.
fn room(preview: &mut HostPreview, is_live: bool, answers: Answers<'_>, manifest: &Manifest) {
    let Some((total, free)) = answers.numbers("blocks").map(|(total, free)| (total << 10, free << 10)) else {
        preview.warnings.push("how much room there is could not be told".to_owned());
        return;
    };
    preview.free = Some(free);
    if is_live {
        return;
    }
    let allocated = answers.number("allocated").map_or(0, |kib| kib << 10);
    let artifact = if preview.cached { 0 } else { manifest.size.saturating_sub(allocated) };
    let least = artifact.saturating_add(manifest.size).saturating_add(reserve(total));
    preview.needed = least;
    let root = &preview.deploy_to;
    if let Some((_, files)) = answers.numbers("files")
        && files < files_needed(manifest)
    {
        let hint = "remove files there (`df -i`, and `fleetdrop prune` for old releases), or choose another directory with `--deploy-to`";
        let needed = files_needed(manifest);
        let message = format!("too few files can be created in {root}: {needed} inodes needed, {files} free");
        preview.failure = Some(failed(message).with_hint(hint));
    }
    if least > free {
        let message = format!("not enough space in {root}: {} needed, {} free", bytes(least), bytes(free));
        let hint = "free some there, or choose another directory with `--deploy-to`";
        preview.failure = Some(failed(message).with_hint(hint));
    } else if least - manifest.size + usual_release(manifest) > free {
        let usual = bytes(least - manifest.size + usual_release(manifest));
        preview.warnings.push(format!("it may not fit when unpacked: {usual} are usual, {} free", bytes(free)));
    }
}
