//! What is done about a switch whose agent died: finished if it was confirmed, undone if not.

use super::{
    super::{
        Clock, disk,
        journal::{Journal, JournalEntry, Stage, Undo},
        releases::{self, Current},
        revisions::{Change, Revisions},
        root::Root,
    },
    SwitchError, go_back, record_confirmation,
};
use crate::{
    failpoint,
    model::{ReleaseId, RunId},
};

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
    disk::remove_unfinished(&root.journal())?;
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
    failpoint::reach("recover.switched_back");
    let (stage, change) = match &recovered {
        Recovered::Reverted { current, .. } => (Stage::Reverted, Change::Reverted(current.as_ref())),
        _ => (Stage::Confirmed, Change::Confirmed),
    };
    let hooks_may_have_run = last.undo.is_some();
    let was_live = switched || last.stage == Stage::Activated;
    rest(&recovered);
    failpoint::reach("recover.hooks_run");
    let mut revisions = Revisions::of(root, clock, &last);
    journal.append(JournalEntry { stage, at: clock.stamp(), ..last })?;
    failpoint::reach("recover.journalled");
    if was_live && let Some(trouble) = revisions.note(change) {
        // What follows writes there, too, and tells it.
        tracing::warn!("{trouble}");
    }
    Ok((switched || hooks_may_have_run).then_some(recovered))
}
