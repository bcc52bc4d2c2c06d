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
        tree: None,
    };
    let (release, staged_at) = (id(release), CLOCK.stamp());
    let linked = Linked::default();
    let record =
        Record { release, manifest, linked, by: None, sequence, staged_at, activated_at: None, replaced: None, signed: None };
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
    assert_eq!(staged.activate().unwrap().revert().unwrap().finish(), None);
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

/// Makes `r1` live unless the next deploy is to be the first; returns what is live.
fn live_before(root: &Root, first_deploy: bool) -> Option<ReleaseId> {
    if first_deploy {
        return None;
    }
    complete(root, "r1", 1).activate().unwrap().confirm().unwrap();
    Some(id("r1"))
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
            let before = live_before(&root, first_deploy);
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
        let before = live_before(&root, first_deploy);
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
        let before = live_before(&root, first_deploy);
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

/// The log's verbs and releases, with what comes right after.
fn written_down(root: &Root) -> Vec<String> {
    let text = fs::read_to_string(root.revisions()).unwrap_or_default();
    let words =
        |line: &str| line.split(' ').skip(1).take(3).filter(|word| !word.starts_with("app=")).collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

#[test]
fn what_was_live_is_written_down_also_by_the_agent_that_undoes_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir);
    let activate = |staged: Staged| {
        let mut activated = staged.activate().unwrap();
        assert_eq!(activated.write_down(), None);
        activated
    };
    assert_eq!(activate(complete(&root, "r1", 1)).confirm().unwrap().write_down(), None);
    activate(complete(&root, "r2", 2).in_rollback()).revert().unwrap().finish();
    // It never was live.
    complete(&root, "r3", 3).prepare().unwrap().revert().finish();
    drop(activate(complete(&root, "r4", 4)));
    recover(&root, CLOCK).unwrap();
    assert_eq!(recover(&root, CLOCK).unwrap(), None);
    assert_eq!(
        written_down(&root),
        [
            "activated r1 replaced=-",
            "confirmed r1",
            "rolled-back-to r2 replaced=r1",
            "reverted r2 live=r1",
            "activated r4 replaced=r1",
            "reverted r4 live=r1",
        ]
    );
}
