//! The activation journal, `.fleetdrop/journal`: what was about to happen to `current` and what did.
//!
//! Each change rewrites the file atomically and is on the disk before the step it announces. The last entry alone decides what
//! a later agent does; up to [`KEPT`] older ones stay for people. A file that cannot be understood counts as empty, is told and set
//! aside.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::disk::{self, DiskError};
use crate::{
    failpoint,
    model::{HostName, Operator, ReleaseId, RunId, plan::Hook},
};

/// How many entries the journal keeps.
const KEPT: usize = 32;

/// How far an activation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// `current` is about to be switched.
    Prepared,
    /// `current` was switched.
    Activated,
    /// The controller saw it: the switch stays.
    Confirmed,
    /// `current` was switched back.
    Reverted,
}

impl Stage {
    /// Returns the failpoint before it is noted.
    fn begun(self) -> &'static str {
        match self {
            Self::Prepared => "journal.prepared",
            Self::Activated => "journal.activated",
            Self::Confirmed => "journal.confirmed",
            Self::Reverted => "journal.reverted",
        }
    }

    /// Returns the failpoint after it was noted.
    fn written(self) -> &'static str {
        match self {
            Self::Prepared => "journal.prepared.written",
            Self::Activated => "journal.activated.written",
            Self::Confirmed => "journal.confirmed.written",
            Self::Reverted => "journal.reverted.written",
        }
    }
}

/// One step of one activation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalEntry {
    /// How far it got.
    pub(crate) stage: Stage,
    /// The run that did it.
    pub(crate) run: RunId,
    /// Who started that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<Operator>,
    /// The release it switches to.
    pub(crate) release: ReleaseId,
    /// The release that was live before.
    pub(crate) previous: Option<ReleaseId>,
    /// When, RFC 3339 in UTC.
    pub(crate) at: String,
    /// What going back takes besides `current`. Only a last entry that is unfinished has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undo: Option<Undo>,
}

/// The hooks of a host that goes back, for an agent that finishes what a dead one began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undo {
    /// The host's name.
    pub(crate) host: Option<HostName>,
    /// The application's name.
    pub(crate) app: Option<String>,
    /// The hooks.
    pub(crate) hooks: Vec<Hook>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    entries: Vec<JournalEntry>,
}

/// The journal of one application's root.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    contents: Contents,
    damaged: bool,
}

impl Journal {
    /// Reads the journal at `path`.
    pub(crate) fn load(path: PathBuf) -> Result<Self, DiskError> {
        let bytes = disk::read_small(&path)?;
        let parsed = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        let damaged = parsed.is_err();
        Ok(Self { path, contents: parsed.ok().flatten().unwrap_or_default(), damaged })
    }

    /// True if the file was there but could not be understood.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Sets a damaged file aside, for people to look at, so that it is told once.
    pub(crate) fn set_aside(self) -> Result<(), DiskError> {
        disk::rename(&self.path, &self.path.with_extension("damaged"))
    }

    /// Returns the last entry.
    pub(crate) fn last(&self) -> Option<&JournalEntry> {
        self.contents.entries.last()
    }

    /// Returns how far the last activation of `run` got; none if it began none, or that is too long ago.
    pub(crate) fn stage_of(&self, run: &RunId) -> Option<Stage> {
        self.contents.entries.iter().rev().find(|entry| entry.run == *run).map(|entry| entry.stage)
    }

    /// Adds an entry; when it returns, the entry is on the disk.
    pub(crate) fn append(&mut self, mut entry: JournalEntry) -> Result<(), DiskError> {
        if matches!(entry.stage, Stage::Confirmed | Stage::Reverted) {
            entry.undo = None;
        }
        let stage = entry.stage;
        failpoint::reach(stage.begun());
        let entries = &mut self.contents.entries;
        entries.iter_mut().for_each(|earlier| earlier.undo = None);
        entries.push(entry);
        if entries.len() > KEPT {
            entries.drain(..entries.len() - KEPT);
        }
        let written = serde_json::to_vec(&self.contents).map_err(std::io::Error::from);
        let written = disk::At::at(written, "write", &self.path).and_then(|bytes| disk::write_atomic(&self.path, &bytes));
        if written.is_err() {
            // Memory must not know more than the disk.
            self.contents.entries.pop();
        }
        failpoint::reach(stage.written());
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stage: Stage, release: &str) -> JournalEntry {
        JournalEntry {
            stage,
            run: RunId::new("00000000000000aa").unwrap(),
            by: None,
            release: ReleaseId::new(release).unwrap(),
            previous: None,
            at: "2026-11-20T03:15:00Z".into(),
            undo: None,
        }
    }

    #[test]
    fn only_an_unfinished_last_entry_keeps_what_undoing_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::load(dir.path().join("journal")).unwrap();
        let undo = Some(Undo { host: None, app: Some("shop".into()), hooks: Vec::new() });
        let mut keeps = |stage| {
            journal.append(JournalEntry { undo: undo.clone(), ..entry(stage, "r1") }).unwrap();
            let entries = &Journal::load(journal.path.clone()).unwrap().contents.entries;
            entries.iter().map(|entry| entry.undo.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(keeps(Stage::Prepared), [true]);
        assert_eq!(keeps(Stage::Activated), [false, true]);
        assert_eq!(keeps(Stage::Confirmed), [false; 3]);
        assert_eq!(keeps(Stage::Reverted), [false; 4]);
    }

    #[test]
    fn the_last_entry_survives_and_the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        for n in 0..KEPT + 10 {
            let mut journal = Journal::load(path.clone()).unwrap();
            journal.append(entry(Stage::Prepared, &format!("r{n}"))).unwrap();
        }
        let journal = Journal::load(path).unwrap();
        assert_eq!(journal.contents.entries.len(), KEPT);
        assert_eq!(journal.last(), Some(&entry(Stage::Prepared, &format!("r{}", KEPT + 9))));
    }

    #[test]
    fn each_run_has_its_own_last_stage() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::load(dir.path().join("journal")).unwrap();
        let (one, two) = (RunId::from_random([1; 8]), RunId::from_random([2; 8]));
        for (run, stage) in
            [(&one, Stage::Prepared), (&one, Stage::Confirmed), (&two, Stage::Prepared), (&two, Stage::Reverted)]
        {
            journal.append(JournalEntry { run: run.clone(), ..entry(stage, "r1") }).unwrap();
        }
        assert_eq!((journal.stage_of(&one), journal.stage_of(&two)), (Some(Stage::Confirmed), Some(Stage::Reverted)));
        assert_eq!(journal.stage_of(&RunId::from_random([3; 8])), None);
    }

    #[test]
    fn a_damaged_journal_counts_as_empty_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        assert!(!Journal::load(path.clone()).unwrap().is_damaged());
        std::fs::write(&path, b"{\"entries\":[{\"stage\":\"prep").unwrap();
        let damaged = Journal::load(path.clone()).unwrap();
        assert!(damaged.is_damaged() && damaged.last().is_none());
        damaged.set_aside().unwrap();
        assert!(path.with_extension("damaged").exists());
        let mut journal = Journal::load(path.clone()).unwrap();
        assert!(!journal.is_damaged());
        journal.append(entry(Stage::Confirmed, "r1")).unwrap();
        assert_eq!(Journal::load(path).unwrap().last(), Some(&entry(Stage::Confirmed, "r1")));
    }
}
