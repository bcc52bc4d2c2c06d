//! The switch of `current`: activate, confirm, revert, and what to do about a switch whose agent died.
//!
//! The order is crash-safe: journal *prepared*, new symlink under a temporary name, rename over `current`, flush the directory,
//! journal *activated*; on confirmation journal *confirmed*, then the release's record. At any instant `current` is the old
//! symlink or the new one, and both name complete releases. The types carry the order: [`Staged`] becomes [`Prepared`], which is
//! journalled and may still be left alone, that becomes [`Activated`], which is confirmed or reverted, once; what is [`Confirmed`] can
//! still be reverted as long as the agent that confirmed it lives. What is [`Reverted`] is journalled as such only when the hooks of
//! that have run, so that they are repeated if they were cut short. A switch that was never confirmed is reverted by the next agent
//! that holds the lock.

use std::path::{Path, PathBuf};

use super::{
    Clock,
    disk::{self, DiskError, Entry},
    journal::{Journal, JournalEntry, Stage, Undo},
    releases::{self, Current, CurrentError, Record},
    root::Root,
};
use crate::model::{ReleaseId, RunId};

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
    release: ReleaseId,
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
        Self { root, clock, run, release, undo }
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
        let Self { run, release, undo, .. } = self;
        let entry = JournalEntry { stage: Stage::Prepared, run, release, previous, at: self.clock.stamp(), undo };
        Ok(Activated { root: self.root, clock: self.clock, journal, entry })
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

    fn perform(&mut self, step: Step) -> Result<(), DiskError> {
        match step {
            Step::Prepare => self.note(Stage::Prepared),
            Step::Link => link(&self.root, &self.entry.release),
            Step::Flush => disk::sync_dir(self.root.path()),
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

    /// Notes that the host went back and nothing is left to do. Where there was trouble, the next agent goes the way again.
    pub(crate) fn finish(mut self) {
        if self.trouble.is_some() {
            return;
        }
        if let Err(error) = self.activated.note(Stage::Reverted) {
            // `current` is right; the next agent repeats the hooks and notes it then.
            tracing::warn!("{error}: {}", error.source);
        }
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
        // Whether it had been live before this run is not known any more: it stays listed as one that was.
        Ok(Some(Self { activated: Activated { root: root.clone(), clock, journal, entry }, record: None }))
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
            None => disk::remove_file(&root.current())?,
        }
        disk::sync_dir(root.path())?;
    }
    Ok(releases::current(root)?.live())
}

/// Notes in the release's record that it is live for good. Repeating it changes nothing.
fn record_confirmation(root: &Root, entry: &JournalEntry) -> Result<(), DiskError> {
    let Some(mut record) = releases::record(root, &entry.release)? else { return Ok(()) };
    if record.activated_at.is_none() {
        record.replaced = entry.previous.clone().filter(|previous| *previous != entry.release);
    }
    record.activated_at = Some(entry.at.clone());
    releases::write_record(root, &record)
}

/// What a dead agent had left undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recovered {
    /// Its switch to that release was never confirmed and was undone; what is live now.
    Reverted {
        /// The run that died.
        run: RunId,
        /// The release that was not confirmed.
        release: ReleaseId,
        /// What was live before.
        previous: Option<ReleaseId>,
        /// What is live now.
        current: Option<ReleaseId>,
        /// What going back takes besides `current`.
        undo: Option<Undo>,
    },
    /// Its switch was never confirmed, but there is nothing to go back to: it stays.
    Kept {
        /// The release that stays live.
        release: ReleaseId,
    },
    /// The journal cannot be understood and is begun anew.
    DamagedJournal,
}

/// Finishes or undoes what the journal shows unfinished. The caller holds the lock, so whoever began it is dead. `rest` does what
/// going back takes besides `current`; the journal learns that the host went back only after that, so that an agent that dies in
/// it is followed by one that does it again.
pub(crate) fn recover(root: &Root, clock: Clock, rest: impl FnOnce(&Recovered)) -> Result<Option<Recovered>, SwitchError> {
    let mut journal = Journal::load(root.journal())?;
    if journal.is_damaged() {
        journal.set_aside()?;
        return Ok(Some(Recovered::DamagedJournal));
    }
    let Some(last) = journal.last().cloned() else { return Ok(None) };
    match last.stage {
        Stage::Reverted => return Ok(None),
        Stage::Confirmed => {
            let record = releases::record(root, &last.release)?;
            if record.is_some_and(|record| record.activated_at.is_none()) {
                record_confirmation(root, &last)?;
            }
            return Ok(None);
        }
        Stage::Prepared | Stage::Activated => {}
    }
    let switched = matches!(releases::current(root)?, Current::Live(id) if id == last.release);
    let recovered = match go_back(root, &last) {
        Ok(current) => {
            let JournalEntry { run, release, previous, undo, .. } = last.clone();
            Recovered::Reverted { run, release, previous, current, undo }
        }
        Err(SwitchError::Missing { .. }) => Recovered::Kept { release: last.release.clone() },
        Err(error) => return Err(error),
    };
    let stage = if matches!(recovered, Recovered::Kept { .. }) { Stage::Confirmed } else { Stage::Reverted };
    let hooks_may_have_run = last.undo.is_some();
    rest(&recovered);
    journal.append(JournalEntry { stage, at: clock.stamp(), ..last })?;
    Ok((switched || hooks_may_have_run).then_some(recovered))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::SystemTime};

    use super::*;
    use crate::model::{ArchiveKind, Digest, Manifest, plan::Linked};

    const STEPS: [Step; 4] = [Step::Prepare, Step::Link, Step::Flush, Step::Journal];

    const CLOCK: Clock = Clock(SystemTime::now);

    fn id(text: &str) -> ReleaseId {
        text.parse().unwrap()
    }

    fn root(dir: &tempfile::TempDir) -> Root {
        let root = Root::new(dir.path().join("app").to_str().unwrap(), None).unwrap();
        root.prepare(rustix::process::geteuid().as_raw()).unwrap();
        root
    }

    fn complete(root: &Root, release: &str, sequence: u64) -> Staged {
        let manifest = Manifest {
            app: "shop".parse().unwrap(),
            file_name: "shop.tar".into(),
            digest: Digest([7; 32]),
            size: 1,
            archive: ArchiveKind::Tar,
        };
        let (release, staged_at) = (id(release), CLOCK.stamp());
        let linked = Linked::default();
        let record = Record { release, manifest, linked, sequence, staged_at, activated_at: None, replaced: None };
        fs::create_dir(root.staging(&record.release)).unwrap();
        releases::complete(root, &record).unwrap();
        let run = "00000000000000aa".parse().unwrap();
        Staged::new(root.clone(), CLOCK, run, record.release, None)
    }

    impl Staged {
        fn activate(self) -> Result<Activated, SwitchError> {
            self.prepare()?.activate().map_err(|undone| undone.error)
        }
    }

    fn recover(root: &Root, clock: Clock) -> Result<Option<Recovered>, SwitchError> {
        super::recover(root, clock, |_| ())
    }

    /// Leaves a switch to `r2` whose hooks are still to run.
    fn with_undo(root: &Root) -> (Staged, Undo) {
        complete(root, "r1", 1).activate().unwrap().confirm().unwrap();
        let undo = Undo { host: None, app: None, hooks: Vec::new() };
        (Staged { undo: Some(undo.clone()), ..complete(root, "r2", 2) }, undo)
    }

    fn hooks_left(recovered: Option<Recovered>) -> Option<Undo> {
        match recovered {
            Some(Recovered::Reverted { undo, .. }) => undo,
            _ => None,
        }
    }

    #[test]
    fn hooks_that_were_cut_short_are_left_to_the_next_agent() {
        for way in ["prepared", "activated", "confirmed"] {
            let dir = tempfile::tempdir().unwrap();
            let root = root(&dir);
            let (staged, undo) = with_undo(&root);
            let back = || -> Result<Reverted, SwitchError> {
                let prepared = staged.prepare()?;
                Ok(match way {
                    "prepared" => prepared.revert(),
                    "activated" => prepared.activate().unwrap().revert()?,
                    _ => prepared.activate().unwrap().confirm().unwrap().revert()?,
                })
            };
            let back = back().unwrap();
            assert_eq!((back.live(), live(&root)), (Some(&id("r1")), Some(id("r1"))));
            // It dies in its hooks, and the next one too.
            drop(back);
            let dies = |_: &Recovered| panic!("killed");
            let died = std::panic::catch_unwind(|| super::recover(&root, CLOCK, dies).unwrap());
            assert!(died.is_err());
            assert_eq!(hooks_left(recover(&root, CLOCK).unwrap()), Some(undo), "{way}");
            assert_eq!(recover(&root, CLOCK).unwrap(), None, "they have run");
        }
    }

    #[test]
    fn a_revert_that_is_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        let (staged, _) = with_undo(&root);
        staged.activate().unwrap().revert().unwrap().finish();
        assert_eq!(recover(&root, CLOCK).unwrap(), None);
    }

    #[test]
    fn only_a_release_that_is_live_is_stuck() {
        for moved_away in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let root = root(&dir);
            let (staged, _) = with_undo(&root);
            let activated = staged.activate().unwrap();
            if moved_away {
                // Nobody can tell what is live; the new release is not.
                fs::remove_file(root.current()).unwrap();
                fs::create_dir(root.current()).unwrap();
                assert!(activated.revert().unwrap().trouble().is_some());
            } else {
                fs::remove_dir(root.release(&id("r1"))).unwrap();
                assert!(matches!(activated.revert(), Err(SwitchError::Stuck { release, .. }) if release == id("r2")));
            }
        }
    }

    #[test]
    fn an_agent_that_dies_before_the_switch_leaves_its_hooks_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
        let undo = Undo { host: None, app: None, hooks: Vec::new() };
        let dying = Staged { undo: Some(undo.clone()), ..complete(&root, "r2", 2) };
        drop(dying.prepare().unwrap());
        let Some(Recovered::Reverted { undo: left, previous, current, .. }) = recover(&root, CLOCK).unwrap() else { panic!() };
        assert_eq!((left, previous, current), (Some(undo), Some(id("r1")), Some(id("r1"))));
        assert_eq!(recover(&root, CLOCK).unwrap(), None, "they are handed on once");
    }

    fn live(root: &Root) -> Option<ReleaseId> {
        releases::current(root).unwrap().live()
    }

    #[test]
    fn an_agent_that_dies_after_any_step_is_undone_by_the_next() {
        for first_deploy in [true, false] {
            for steps in 0..=STEPS.len() {
                let dir = tempfile::tempdir().unwrap();
                let root = root(&dir);
                let before = (!first_deploy).then(|| id("r1"));
                if !first_deploy {
                    complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
                }
                let mut dying = complete(&root, "r2", 2).begin().unwrap();
                for step in &STEPS[..steps] {
                    dying.perform(*step).unwrap();
                    assert!(live(&root) == before || live(&root) == Some(id("r2")));
                }
                drop(dying);
                let recovered = recover(&root, CLOCK).unwrap();
                assert_eq!(live(&root), before, "died after {steps} steps");
                // Nothing to tell if `current` had not been switched yet.
                let told = matches!(&recovered, Some(Recovered::Reverted { release, current, .. })
                    if *release == id("r2") && *current == before);
                assert_eq!(told, steps >= 2, "died after {steps} steps: {recovered:?}");
                assert_eq!(recover(&root, CLOCK).unwrap(), None, "recovering twice changes nothing");
                assert_eq!(root.current().is_symlink(), !first_deploy);
            }
        }
    }

    #[test]
    fn a_confirmation_can_be_taken_back_and_the_release_counts_as_never_confirmed() {
        for first_deploy in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let root = root(&dir);
            let before = (!first_deploy).then(|| id("r1"));
            if !first_deploy {
                complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
            }
            let confirmed = complete(&root, "r2", 2).activate().unwrap().confirm().unwrap();
            let back = confirmed.revert().unwrap();
            assert_eq!(back.live(), before.as_ref());
            back.finish();
            assert_eq!(live(&root), before);
            assert_eq!(releases::record(&root, &id("r2")).unwrap().unwrap().activated_at, None);
            assert_eq!(recover(&root, CLOCK).unwrap(), None, "nothing is left to be undone");
        }
    }

    #[test]
    fn what_a_run_confirmed_can_be_taken_back_after_its_agent_is_gone_and_only_by_that_run() {
        for first_deploy in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let root = root(&dir);
            let before = (!first_deploy).then(|| id("r1"));
            if !first_deploy {
                complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
            }
            drop(complete(&root, "r2", 2).activate().unwrap().confirm().unwrap());
            let reopen = |run: &str| Confirmed::reopen(&root, CLOCK, &run.parse().unwrap()).unwrap();
            assert!(reopen("00000000000000bb").is_none(), "another run's");
            let undo = Undo { host: None, app: None, hooks: Vec::new() };
            let back = reopen("00000000000000aa").unwrap().undone_with(Some(undo.clone())).revert().unwrap();
            assert_eq!((back.live(), live(&root)), (before.as_ref(), before.clone()));
            // It dies in its hooks.
            drop(back);
            assert_eq!(hooks_left(recover(&root, CLOCK).unwrap()), Some(undo));
            assert!(reopen("00000000000000aa").is_none(), "it has gone back");
        }
    }

    #[test]
    fn an_agent_that_dies_while_it_takes_back_a_confirmation_is_finished_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
        let mut dying = complete(&root, "r2", 2).activate().unwrap().confirm().unwrap();
        dying.activated.note(Stage::Activated).unwrap();
        drop(dying);
        assert!(matches!(recover(&root, CLOCK).unwrap(), Some(Recovered::Reverted { .. })));
        assert_eq!(live(&root), Some(id("r1")));
    }

    #[test]
    fn a_confirmation_that_reached_only_the_journal_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
        let mut dying = complete(&root, "r2", 2).activate().unwrap();
        dying.note(Stage::Confirmed).unwrap();
        drop(dying);
        assert_eq!(recover(&root, CLOCK).unwrap(), None);
        let record = releases::record(&root, &id("r2")).unwrap().unwrap();
        assert!(record.activated_at.is_some());
        assert_eq!((live(&root), record.replaced), (Some(id("r2")), Some(id("r1"))));
    }

    #[test]
    fn what_cannot_be_undone_stays_live() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
        drop(complete(&root, "r2", 2).activate().unwrap());
        fs::remove_dir(root.release(&id("r1"))).unwrap();
        assert_eq!(recover(&root, CLOCK).unwrap(), Some(Recovered::Kept { release: id("r2") }));
        assert_eq!(live(&root), Some(id("r2")));
        assert_eq!(recover(&root, CLOCK).unwrap(), None);
        assert!(releases::record(&root, &id("r2")).unwrap().unwrap().activated_at.is_some());
    }

    #[test]
    fn a_current_that_somebody_moved_since_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
        complete(&root, "r3", 3);
        drop(complete(&root, "r2", 2).activate().unwrap());
        link(&root, &id("r3")).unwrap();
        assert_eq!(recover(&root, CLOCK).unwrap(), None);
        assert_eq!(live(&root), Some(id("r3")));
    }

    #[test]
    fn a_journal_that_cannot_be_written_leaves_the_old_release_live() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        complete(&root, "r1", 1).activate().unwrap().confirm().unwrap();
        let staged = complete(&root, "r2", 2);
        // What `write_atomic` has to create is in the way, and not empty.
        let blocked = root.private().join("journal.new/x");
        fs::create_dir_all(&blocked).unwrap();
        assert!(matches!(staged.activate(), Err(SwitchError::Disk(_))));
        assert_eq!(live(&root), Some(id("r1")));
        fs::remove_dir_all(root.private().join("journal.new")).unwrap();
        let activated = complete(&root, "r4", 4).activate().unwrap();
        fs::create_dir_all(&blocked).unwrap();
        let undone = activated.confirm().unwrap_err();
        assert!(matches!((undone.error, undone.back), (SwitchError::Disk(_), Some(_))));
        assert_eq!(live(&root), Some(id("r1")), "a confirmation that is not on the disk is none");
    }
}
