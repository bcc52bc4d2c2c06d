//! From a host's answers to what a deploy would meet there. Pure.

use serde::Deserialize;

use super::{AgentPreview, HostPreview, LockPreview, failed, questions::Answers};
use crate::{
    controller::push::Sight,
    model::{
        AppName, Digest, HostFailure, HostStatus, Manifest, ReleaseId, RunId,
        space::{MIN_FILES, bytes, reserve, usual_release},
    },
};

/// What is looked at of a release's record.
#[derive(Debug, Deserialize)]
struct Record {
    manifest: RecordedManifest,
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

/// Judges by the answers alone.
pub(super) fn judge(sight: &Sight, manifest: &Manifest) -> HostPreview {
    let answers = Answers(&sight.answers);
    let record: Option<Record> = answers.get("record").and_then(|text| serde_json::from_str(text).ok());
    let unchanged = record.is_some_and(|record| {
        let is_it = record.manifest.app == manifest.app && record.manifest.digest == manifest.digest;
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
        unchanged,
        cached,
        partial: answers.number("partial").is_some(),
        transfer: if cached || unchanged { 0 } else { manifest.size },
        free: None,
        needed: 0,
        locked_by: lock,
        warnings: Vec::new(),
        failure: None,
    };
    room(&mut preview, answers, manifest);
    preview.failure = blocked(answers, &preview).or(preview.failure.take());
    preview
}

/// Puts right what the agent knows better.
pub(super) fn correct(preview: &mut HostPreview, status: &HostStatus, manifest: &Manifest) {
    let live = status.releases.iter().find(|release| Some(&release.id) == status.current.as_ref());
    preview.unchanged = live.is_some_and(|live| {
        live.activated_at.is_some() && live.digest == Some(manifest.digest) && live.app.as_ref() == Some(&manifest.app)
    });
    preview.current.clone_from(&status.current);
    preview.previous.clone_from(&status.previous);
    if preview.unchanged {
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

/// Compares what is free with what is needed.
fn room(preview: &mut HostPreview, answers: Answers<'_>, manifest: &Manifest) {
    let Some((total, free)) = answers.numbers("blocks").map(|(total, free)| (total << 10, free << 10)) else {
        preview.warnings.push("how much room there is could not be told".to_owned());
        return;
    };
    preview.free = Some(free);
    if preview.unchanged {
        return;
    }
    let allocated = answers.number("allocated").map_or(0, |kib| kib << 10);
    let artifact = if preview.cached { 0 } else { manifest.size.saturating_sub(allocated) };
    let least = artifact.saturating_add(manifest.size).saturating_add(reserve(total));
    preview.needed = least;
    let root = &preview.deploy_to;
    if let Some((_, files)) = answers.numbers("files")
        && files < MIN_FILES
    {
        preview.failure = Some(failed(format!("no more files can be created in {root}: {files} inodes are free")));
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
