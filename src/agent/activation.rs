//! The switch of `current`: activate, confirm, revert, and what to do about a switch whose agent died.
//!
//! The order is crash-safe: journal *prepared*, new symlink under a temporary name, rename over `current`, flush the directory,
//! journal *activated*; on confirmation journal *confirmed*, then the release's record. At any instant `current` is the old
//! symlink or the new one, and both name complete releases. The types carry the order: [`Staged`] becomes [`Prepared`], which is
//! journalled and may still be left alone, that becomes [`Activated`], which is confirmed or reverted, once; what is [`Confirmed`] can
//! still be reverted as long as the agent that confirmed it lives. What is [`Reverted`] is journalled as such only when the hooks of
//! that have run, so that they are repeated if they were cut short. A switch that was never confirmed is reverted by the next agent
//! that holds the lock ([`recover()`]).
//!
//! What was told to be live is also written into `revisions.log`, for people; that decides nothing.

use std::path::{Path, PathBuf};

use super::{
    Clock,
    disk::{self, DiskError, Entry},
    journal::{Journal, JournalEntry, Stage, Undo},
    releases::{self, Current, CurrentError, Record},
    revisions::{Change, Revisions},
    root::Root,
    trust,
};
use crate::{
    failpoint,
    model::{Operator, ReleaseId, RunId},
};

mod recover;

pub(crate) use recover::{Recovered, recover};

/// Says why a switch failed. Whatever it says, `current` names a complete release or what it named before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwitchError {
    /// `current` can't be switched.
    #[error(transparent)]
    Current(#[from] CurrentError),
    /// A disk operation failed; `current` is what it was before.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The release is not there.
    #[error("{} is not there", path.display())]
    Missing {
        /// The release's directory.
        path: PathBuf,
    },
    /// The way back failed: the new release is live although it was not confirmed.
    #[error("could not go back to the previous release; {} is live unconfirmed", release)]
    Stuck {
        /// The release that is live.
        release: ReleaseId,
        /// Why the way back failed.
        #[source]
        source: Box<SwitchError>,
    },
}

/// A complete release that can be activated, once.
#[derive(Debug)]
pub(crate) struct Staged {
    root: Root,
    clock: Clock,
    run: RunId,
    by: Option<Operator>,
    release: ReleaseId,
    is_rollback: bool,
    undo: Option<Undo>,
}

/// A release that is about to be activated: the journal knows.
#[derive(Debug)]
pub(crate) struct Prepared(Activated);

/// A live release that is not confirmed.
#[derive(Debug)]
pub(crate) struct Activated {
    root: Root,
    clock: Clock,
    journal: Journal,
    entry: JournalEntry,
    is_rollback: bool,
    revisions: Revisions,
    /// The log of revisions has been told that it is live.
    written_down: bool,
}

/// A live release that is confirmed.
#[derive(Debug)]
pub(crate) struct Confirmed {
    activated: Activated,
    /// The release's record before the confirmation.
    record: Option<Record>,
}

/// A switch that was taken back. The journal does not know before [`Reverted::finish`].
#[derive(Debug)]
pub(crate) struct Reverted {
    activated: Activated,
    /// What is live now, as far as that can be told.
    live: Option<ReleaseId>,
    /// What went wrong on the way back, although the release that had to go is not live.
    trouble: Option<SwitchError>,
}

/// A step that failed, and how that leaves the host.
#[derive(Debug)]
pub(crate) struct Undone {
    /// Why it failed.
    pub(crate) error: SwitchError,
    /// None if the new release is stuck.
    pub(crate) back: Option<Reverted>,
}

/// The steps of a switch, in order. Each leaves the disk in a state from which [`recover`] goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Prepare,
    Link,
    Flush,
    Journal,
}

/// The steps of the switch itself.
const SWITCH: [Step; 3] = [Step::Link, Step::Flush, Step::Journal];

impl Staged {
    /// Takes a release that is complete. `undo` is what going back from it takes besides `current`.
    pub(crate) fn new(root: Root, clock: Clock, run: RunId, release: ReleaseId, undo: Option<Undo>) -> Self {
        Self { root, clock, run, by: None, release, is_rollback: false, undo }
    }

    /// Says who started the run.
    pub(crate) fn started_by(self, by: Option<Operator>) -> Self {
        Self { by, ..self }
    }

    /// Says that it is an earlier release, which is gone back to.
    pub(crate) fn in_rollback(self) -> Self {
        Self { is_rollback: true, ..self }
    }

    /// Notes that the switch is about to begin. An agent that dies from here on is followed by one that undoes what it did.
    pub(crate) fn prepare(self) -> Result<Prepared, SwitchError> {
        let mut activated = self.begin()?;
        activated.perform(Step::Prepare)?;
        Ok(Prepared(activated))
    }

    fn begin(self) -> Result<Activated, SwitchError> {
        let path = self.root.release(&self.release);
        if disk::entry(&path)? != Entry::Directory {
            return Err(SwitchError::Missing { path });
        }
        let previous = releases::current(&self.root)?.live();
        let journal = Journal::load(self.root.journal())?;
        let Self { root, clock, run, by, release, is_rollback, undo } = self;
        let entry = JournalEntry { stage: Stage::Prepared, run, by, release, previous, at: clock.stamp(), undo };
        let revisions = Revisions::of(&root, clock, &entry);
        Ok(Activated { root, clock, journal, entry, is_rollback, revisions, written_down: false })
    }
}

impl Prepared {
    /// Switches `current`. On an error it is switched back.
    pub(crate) fn activate(self) -> Result<Activated, Box<Undone>> {
        let Self(mut activated) = self;
        for step in SWITCH {
            if let Err(error) = activated.perform(step) {
                return Err(activated.undo(error));
            }
        }
        Ok(activated)
    }

    /// Leaves `current` as it is.
    pub(crate) fn revert(self) -> Reverted {
        let live = self.0.entry.previous.clone();
        Reverted { activated: self.0, live, trouble: None }
    }
}

impl Activated {
    /// Returns the live release.
    pub(crate) fn release(&self) -> &ReleaseId {
        &self.entry.release
    }

    /// Returns the release that was live before.
    pub(crate) fn previous(&self) -> Option<&ReleaseId> {
        self.entry.previous.as_ref()
    }

    /// Writes down that it is live. Returns what to tell if that fails.
    pub(crate) fn write_down(&mut self) -> Option<String> {
        self.written_down = true;
        let previous = self.entry.previous.as_ref();
        self.revisions.note(if self.is_rollback { Change::RolledBack(previous) } else { Change::Activated(previous) })
    }

    fn perform(&mut self, step: Step) -> Result<(), DiskError> {
        match step {
            Step::Prepare => self.note(Stage::Prepared),
            Step::Link => link(&self.root, &self.entry.release),
            Step::Flush => {
                disk::sync_dir(self.root.path())?;
                failpoint::reach("switch.flushed");
                Ok(())
            }
            Step::Journal => self.note(Stage::Activated),
        }
    }

    fn note(&mut self, stage: Stage) -> Result<(), DiskError> {
        self.journal.append(JournalEntry { stage, at: self.clock.stamp(), ..self.entry.clone() })
    }

    /// Makes the switch final. If it cannot be journalled, it goes back and tells why.
    pub(crate) fn confirm(mut self) -> Result<Confirmed, Box<Undone>> {
        let record = releases::record(&self.root, &self.entry.release).unwrap_or_default();
        if let Err(error) = self.note(Stage::Confirmed) {
            return Err(self.undo(error));
        }
        // The journal has decided. A record that cannot be written now is written by the next agent.
        if let Err(error) = record_confirmation(&self.root, &self.entry) {
            tracing::warn!("{error}: {}", error.source);
        }
        Ok(Confirmed { activated: self, record })
    }

    /// Switches back to the release that was live before, or removes `current` after a first deploy. Fails only if the release that
    /// had to go is live for sure.
    pub(crate) fn revert(self) -> Result<Reverted, SwitchError> {
        let error = match go_back(&self.root, &self.entry) {
            Ok(live) => return Ok(Reverted { activated: self, live, trouble: None }),
            Err(error) => error,
        };
        match releases::current(&self.root).ok().and_then(Current::live) {
            Some(live) if live == self.entry.release => Err(SwitchError::Stuck { release: live, source: Box::new(error) }),
            live => Ok(Reverted { activated: self, live, trouble: Some(error) }),
        }
    }

    fn undo(self, error: DiskError) -> Box<Undone> {
        Box::new(match self.revert() {
            Ok(back) => Undone { error: error.into(), back: Some(back) },
            Err(stuck) => Undone { error: stuck, back: None },
        })
    }
}

impl Reverted {
    /// Returns what is live, as far as that can be told.
    pub(crate) fn live(&self) -> Option<&ReleaseId> {
        self.live.as_ref()
    }

    /// Returns what went wrong on the way back, although the release that had to go is not live.
    pub(crate) fn trouble(&self) -> Option<&SwitchError> {
        self.trouble.as_ref()
    }

    /// Notes that the host went back and nothing is left to do. Where there was trouble, the next agent goes the way again. If it was
    /// written down that the release was live, so is this; returns what to tell if that fails.
    pub(crate) fn finish(mut self) -> Option<String> {
        if self.trouble.is_some() {
            return None;
        }
        if let Err(error) = self.activated.note(Stage::Reverted) {
            // `current` is right; the next agent repeats the hooks and notes it then.
            tracing::warn!("{error}: {}", error.source);
            return None;
        }
        let Activated { written_down, revisions, .. } = &mut self.activated;
        if *written_down { revisions.note(Change::Reverted(self.live.as_ref())) } else { None }
    }
}

impl Confirmed {
    /// Takes up what `run` confirmed and its agent, which is gone, can't take back; none if something else is live or was switched
    /// to since.
    pub(crate) fn reopen(root: &Root, clock: Clock, run: &RunId) -> Result<Option<Self>, SwitchError> {
        let journal = Journal::load(root.journal())?;
        let is_its = |last: &&JournalEntry| last.stage == Stage::Confirmed && last.run == *run;
        let Some(entry) = journal.last().filter(is_its).cloned() else { return Ok(None) };
        if releases::current(root)?.live().as_ref() != Some(&entry.release) {
            return Ok(None);
        }
        let activated = Activated {
            root: root.clone(),
            clock,
            journal,
            is_rollback: false,
            revisions: Revisions::of(root, clock, &entry),
            written_down: true,
            entry,
        };
        // Whether it had been live before this run is not known any more: it stays listed as one that was.
        Ok(Some(Self { activated, record: None }))
    }

    /// Returns the live release.
    pub(crate) fn release(&self) -> &ReleaseId {
        self.activated.release()
    }

    /// Returns the release that was live before.
    pub(crate) fn previous(&self) -> Option<&ReleaseId> {
        self.activated.previous()
    }

    /// Says what going back takes besides `current`, for an agent that has to finish it.
    pub(crate) fn undone_with(mut self, undo: Option<Undo>) -> Self {
        self.activated.entry.undo = undo;
        self
    }

    /// Writes down that it stays. Returns what to tell if that fails.
    pub(crate) fn write_down(&mut self) -> Option<String> {
        self.activated.revisions.note(Change::Confirmed)
    }

    /// Takes the confirmation back and reverts. An error before the first step leaves the release live and confirmed.
    pub(crate) fn revert(mut self) -> Result<Reverted, SwitchError> {
        // From here on an agent that dies is followed by one that finishes this.
        self.activated.note(Stage::Activated)?;
        if let Some(record) = &self.record
            && let Err(error) = releases::write_record(&self.activated.root, record)
        {
            // It stays listed as a release that was live once, which it was.
            tracing::warn!("{error}: {}", error.source);
        }
        self.activated.revert()
    }
}

fn link(root: &Root, release: &ReleaseId) -> Result<(), DiskError> {
    let target = Path::new("releases").join(release.as_str());
    disk::replace_symlink(&root.current(), &target, &root.next_current())
}

/// Undoes `entry`'s switch if it took place. Leaves `current` alone if it names something else by now.
fn go_back(root: &Root, entry: &JournalEntry) -> Result<Option<ReleaseId>, SwitchError> {
    let switched = match releases::current(root)? {
        Current::Live(id) => id == entry.release,
        Current::Dangling(_) | Current::Absent => false,
    };
    if switched {
        match &entry.previous {
            Some(previous) if *previous == entry.release => {}
            Some(previous) => {
                let path = root.release(previous);
                if disk::entry(&path)? != Entry::Directory {
                    return Err(SwitchError::Missing { path });
                }
                link(root, previous)?;
            }
            None => {
                disk::remove_file(&root.current())?;
                failpoint::reach("revert.removed");
            }
        }
        disk::sync_dir(root.path())?;
        failpoint::reach("revert.flushed");
    }
    Ok(releases::current(root)?.live())
}

/// Notes in the release's record that it is live for good. Repeating it changes nothing.
fn record_confirmation(root: &Root, entry: &JournalEntry) -> Result<(), DiskError> {
    let Some(mut record) = releases::record(root, &entry.release)? else { return Ok(()) };
    if record.activated_at.is_none()
        && let Some(previous) = entry.previous.as_ref().filter(|previous| **previous != entry.release)
    {
        // A lost release that came again has not replaced what it was brought back from.
        let is_later = releases::record(root, previous)?.is_some_and(|previous| releases::is_earlier(&record, &previous));
        record.replaced = (!is_later).then(|| previous.clone());
    }
    record.activated_at = Some(entry.at.clone());
    releases::write_record(root, &record)?;
    failpoint::reach("confirm.recorded");
    // Whoever dies here is followed by an agent that does all of this again.
    record.signed.as_ref().map_or(Ok(()), |version| trust::remember(root, version))
}

#[cfg(test)]
mod tests;
