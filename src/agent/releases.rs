//! The releases of one application on the host: their records, which one is live, which one a rollback goes to, what may go.
//!
//! A directory `releases/<id>` is complete by construction: it is unpacked and flushed under another name and renamed once its
//! record is on the disk. Directories whose names start with `.tmp-` are leftovers of a dead run. A directory without a readable
//! record (made by another tool) is listed and can be live or gone back to, and is never removed.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    disk::{self, At as _, DiskError, Entry},
    root::Root,
};
use crate::{
    failpoint,
    model::{Manifest, Operator, ReleaseId, plan::Linked, trust::Newest},
};

/// The most entries of `releases/` that are looked at.
const MAX_LISTED: usize = 10_000;
/// What the names of incomplete releases, and of those on their way out, start with.
const TEMPORARY: &str = ".tmp-";

/// What is known about one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its id.
    pub(crate) release: ReleaseId,
    /// What it was unpacked from.
    pub(crate) manifest: Manifest,
    /// What it links to in `shared/`.
    #[serde(default)]
    pub(crate) linked: Linked,
    /// The version that it was signed as, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed: Option<Newest>,
    /// Who deployed it.
    #[serde(default)]
    pub(crate) by: Option<Operator>,
    /// Its place in the order of staging; does not depend on clocks, unless the host had lost it and it came again.
    pub(crate) sequence: u64,
    /// When it was staged, RFC 3339 in UTC.
    pub(crate) staged_at: String,
    /// When it last became live for good. None: never confirmed.
    #[serde(default)]
    pub(crate) activated_at: Option<String>,
    /// The release it replaced when it was confirmed first, if that was an earlier one: where a rollback goes to.
    #[serde(default)]
    pub(crate) replaced: Option<ReleaseId>,
}

/// A complete release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// Its id.
    pub(crate) id: ReleaseId,
    /// Its record, if it has a readable one.
    pub(crate) record: Option<Record>,
}

/// Says why `current` is not something the agent may switch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CurrentError {
    /// A directory or file.
    #[error("{} is a {what}, not a symlink to a release", path.display())]
    NotALink {
        /// `current`.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A symlink to somewhere else.
    #[error("{} points to {}, which is not in {}", path.display(), target.display(), releases.display())]
    Elsewhere {
        /// `current`.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
        /// Where it should point.
        releases: PathBuf,
    },
    /// It can't be looked at.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What `current` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Current {
    /// Nothing was ever activated.
    Absent,
    /// A release that is there.
    Live(ReleaseId),
    /// A release that is gone.
    Dangling(ReleaseId),
}

impl Current {
    /// Returns the live release.
    pub(crate) fn live(self) -> Option<ReleaseId> {
        match self {
            Self::Live(id) => Some(id),
            Self::Absent | Self::Dangling(_) => None,
        }
    }
}

/// Tells which release is live.
pub(crate) fn current(root: &Root) -> Result<Current, CurrentError> {
    let path = root.current();
    let target = match disk::entry(&path)? {
        Entry::Absent => return Ok(Current::Absent),
        Entry::Directory => return Err(CurrentError::NotALink { path, what: "directory" }),
        Entry::Other => return Err(CurrentError::NotALink { path, what: "file" }),
        Entry::Link(target) => target,
    };
    match release_of(root, &target) {
        Some(id) if root.release(&id).is_dir() => Ok(Current::Live(id)),
        Some(id) => Ok(Current::Dangling(id)),
        None => Err(CurrentError::Elsewhere { path, target, releases: root.releases() }),
    }
}

/// Returns the release a link target names, relative or absolute, if it is directly in `releases/`.
fn release_of(root: &Root, target: &Path) -> Option<ReleaseId> {
    let absolute = root.path().join(target);
    let parent = absolute.parent()?;
    let releases = root.releases();
    let same = parent == releases || parent.canonicalize().ok()? == releases.canonicalize().ok()?;
    let id = ReleaseId::new(absolute.file_name()?.to_str()?).ok()?;
    same.then_some(id)
}

/// Returns all complete releases, newest first, those without a record last.
pub(crate) fn list(root: &Root) -> Result<Vec<Release>, DiskError> {
    let mut found = Vec::new();
    for name in disk::names(&root.releases(), MAX_LISTED)? {
        let Some(id) = name.to_str().and_then(|name| ReleaseId::new(name).ok()) else { continue };
        if disk::entry(&root.release(&id))? == Entry::Directory {
            let record = record(root, &id)?;
            found.push(Release { id, record });
        }
    }
    found.sort_by(|a, b| {
        let order = |release: &Release| release.record.as_ref().map(|record| record.sequence);
        order(b).cmp(&order(a)).then_with(|| b.id.cmp(&a.id))
    });
    Ok(found)
}

/// Reads one release's record; `None` if it is not there or cannot be understood.
pub(crate) fn record(root: &Root, id: &ReleaseId) -> Result<Option<Record>, DiskError> {
    match disk::read_small(&root.record(id)) {
        Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(|r: &Record| r.release == *id)),
        // Status by a user who may not look into the private directory still lists the releases.
        Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a record; when it returns, it is on the disk.
pub(crate) fn write_record(root: &Root, record: &Record) -> Result<(), DiskError> {
    let path = root.record(&record.release);
    let bytes = serde_json::to_vec(record).map_err(io::Error::from).at("write", &path)?;
    disk::write_atomic(&path, &bytes)
}

/// Returns the release a rollback from `current` goes to: the one it replaced, else the newest confirmed one staged before it.
pub(crate) fn previous(releases: &[Release], current: &ReleaseId) -> Option<ReleaseId> {
    let find = |id: &ReleaseId| releases.iter().find(|release| release.id == *id);
    let live = find(current)?.record.as_ref()?;
    if let Some(replaced) = &live.replaced
        && replaced != current
        && find(replaced).is_some()
    {
        return Some(replaced.clone());
    }
    let earlier = releases.iter().filter_map(|release| release.record.as_ref());
    earlier
        .filter(|record| is_earlier(record, live) && record.activated_at.is_some())
        .max_by_key(|record| (record.sequence, &record.release))
        .map(|record| record.release.clone())
}

/// True if the release of the first record counts as staged before that of the second.
pub(crate) fn is_earlier(record: &Record, other: &Record) -> bool {
    (record.sequence, &record.release) < (other.sequence, &other.release)
}

/// Makes the unpacked, flushed staging directory of `record`'s release a complete release.
pub(crate) fn complete(root: &Root, record: &Record) -> Result<(), DiskError> {
    write_record(root, record)?;
    failpoint::reach("release.recorded");
    disk::rename(&root.staging(&record.release), &root.release(&record.release))?;
    failpoint::reach("release.renamed");
    disk::sync_dir(&root.releases())?;
    failpoint::reach("release.flushed");
    Ok(())
}

/// Returns the number after the highest one used.
pub(crate) fn next_sequence(releases: &[Release]) -> u64 {
    let highest = releases.iter().filter_map(|release| release.record.as_ref()).map(|record| record.sequence).max();
    highest.map_or(1, |highest| highest.saturating_add(1))
}

/// Returns the number for an earlier release that comes again: that of the first one that is later, as ids tell, so that between these two
/// their ids decide.
pub(crate) fn place_of_earlier(releases: &[Release], id: &ReleaseId) -> u64 {
    let later = releases.iter().filter(|release| release.id.is_later_than(id));
    let lowest = later.filter_map(|release| release.record.as_ref()).map(|record| record.sequence).min();
    lowest.unwrap_or_else(|| next_sequence(releases))
}

/// Removes a release so that it never looks complete while it is half gone. Whoever asks, it never removes one that may be
/// live: then nothing happens.
pub(crate) fn remove(root: &Root, id: &ReleaseId) -> Result<(), DiskError> {
    match current(root) {
        Ok(Current::Absent) => {}
        Ok(Current::Live(other) | Current::Dangling(other)) if other != *id => {}
        _ => return Ok(()),
    }
    let leaving = root.staging(id);
    disk::remove_tree(&leaving)?;
    if disk::entry(&root.release(id))? != Entry::Absent {
        disk::rename(&root.release(id), &leaving)?;
        failpoint::reach("prune.renamed");
        disk::sync_dir(&root.releases())?;
        disk::remove_tree(&leaving)?;
        failpoint::reach("prune.emptied");
    }
    disk::remove_file(&root.record(id))?;
    failpoint::reach("prune.done");
    Ok(())
}

/// Returns the directories of half-unpacked releases, and of those that are half removed. Without the lock some may be a running
/// deploy's.
pub(crate) fn unfinished(root: &Root) -> Result<Vec<PathBuf>, DiskError> {
    let names = disk::names(&root.releases(), MAX_LISTED)?;
    let temporary = names.into_iter().filter(|name| name.to_str().is_some_and(|name| name.starts_with(TEMPORARY)));
    Ok(temporary.map(|name| root.releases().join(name)).collect())
}

/// Returns the complete releases other than `keep` that were never confirmed.
pub(crate) fn never_live(releases: &[Release], keep: &BTreeSet<ReleaseId>) -> BTreeSet<ReleaseId> {
    let unconfirmed = |release: &&Release| release.record.as_ref().is_some_and(|record| record.activated_at.is_none());
    releases.iter().filter(unconfirmed).map(|release| release.id.clone()).filter(|id| !keep.contains(id)).collect()
}

/// Removes what dead runs left: half-unpacked releases, records without a release, and complete releases other than `keep`
/// that were never confirmed. Returns how many. The caller holds the lock.
pub(crate) fn remove_leftovers(root: &Root, keep: &BTreeSet<ReleaseId>) -> Result<usize, DiskError> {
    let mut removed = 0;
    for path in unfinished(root)? {
        disk::remove_tree(&path)?;
        failpoint::reach("leftovers.removing");
        removed += 1;
    }
    disk::remove_file(&root.next_current())?;
    for id in never_live(&list(root)?, keep) {
        remove(root, &id)?;
        removed += 1;
    }
    for name in disk::names(&root.records(), MAX_LISTED)? {
        let id = name.to_str().and_then(|name| ReleaseId::new(name.strip_suffix(".json")?).ok());
        let orphan = match &id {
            Some(id) => disk::entry(&root.release(id))? == Entry::Absent,
            None => true,
        };
        if orphan {
            disk::remove_file(&root.records().join(&name))?;
        }
    }
    failpoint::reach("leftovers.removed");
    Ok(removed)
}

/// Returns the releases beyond the newest `keep`, newest first, without those in `protected` and those that have no record.
pub(crate) fn surplus(releases: &[Release], keep: usize, protected: &BTreeSet<ReleaseId>) -> Vec<ReleaseId> {
    let ours = releases.iter().filter(|release| release.record.is_some()).map(|release| &release.id);
    ours.skip(keep.max(2)).filter(|id| !protected.contains(id)).cloned().collect()
}

/// Removes the releases beyond the newest `keep`, never one of `protected`. Stops early once `cancelled`. Returns the removed ones.
pub(crate) fn prune(
    root: &Root,
    keep: usize,
    protected: &BTreeSet<ReleaseId>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<ReleaseId>, DiskError> {
    let mut removed = Vec::new();
    for id in surplus(&list(root)?, keep, protected).into_iter().rev() {
        if cancelled() {
            break;
        }
        remove(root, &id)?;
        removed.push(id);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ArchiveKind, Digest};

    /// A release of that day that was live, with that number.
    fn release(day: u32, sequence: u64) -> Release {
        let id: ReleaseId = format!("202611{day:02}T031500Z-1a2b3c4d").parse().unwrap();
        let manifest = Manifest {
            app: "shop".parse().unwrap(),
            file_name: "shop.tar".into(),
            digest: Digest([0; 32]),
            size: 1,
            archive: ArchiveKind::Tar,
            tree: None,
        };
        let record = Record {
            signed: None,
            release: id.clone(),
            manifest,
            linked: Linked::default(),
            by: None,
            sequence,
            staged_at: String::new(),
            activated_at: Some(String::new()),
            replaced: None,
        };
        Release { id, record: Some(record) }
    }

    #[test]
    fn a_release_that_comes_again_is_between_those_it_was_between() {
        let mut releases = vec![release(1, 1), release(4, 2), release(5, 3)];
        // Two were lost, and come again in either order.
        for day in [3, 2] {
            let again = release(day, 0).id;
            releases.push(release(day, place_of_earlier(&releases, &again)));
        }
        let before = |day| previous(&releases, &release(day, 0).id).map(|id| id.as_str()[6..8].to_owned());
        assert_eq!(
            [5, 4, 3, 2, 1].map(before),
            [Some("04".into()), Some("03".into()), Some("02".into()), Some("01".into()), None]
        );
        assert_eq!(next_sequence(&releases), 4);
    }
}
