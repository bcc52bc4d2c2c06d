//! What is written down is read again; what can go wrong with a file goes wrong gently.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::*;
use crate::{
    model::{Envelope, HostState, RunEvent, RunId, Verdict},
    report::{Reporter as _, rehearsal},
};

fn run_id(number: u64) -> RunId {
    RunId::from_random(number.to_be_bytes())
}

fn start(number: u64) -> RunStart {
    RunStart {
        run: run_id(number),
        action: Action::Deploy,
        app: Some("shop".parse().unwrap()),
        release: Some(rehearsal::RELEASE.parse().unwrap()),
        artifact: Some(ArtifactRecord {
            path: "/home/alice/shop.tar.zst".into(),
            digest: "1a2b3c4d".repeat(8).parse().unwrap(),
            size: 64 << 20,
        }),
        inventory: "/home/alice/hosts.yaml".into(),
        pattern: Some("web*".into()),
        playbook: None,
        who: "alice@laptop".into(),
        command: vec!["fleetdrop".into(), "deploy".into(), "shop.tar.zst".into()],
        request: Some("{}".into()),
        listing: None,
        continues: None,
    }
}

/// Writes a run down; what is left of the events is not sent.
fn record(path: &Path, number: u64, events: impl IntoIterator<Item = Envelope>) -> Option<HistoryError> {
    let (mut recorder, recording) = History::open(path).unwrap().record(&start(number)).unwrap();
    for event in events {
        recorder.event(&event, Duration::ZERO);
    }
    recorder.finish().unwrap();
    recording.problem()
}

fn whole() -> impl Iterator<Item = Envelope> {
    rehearsal::deploy().into_iter().map(|(_, event)| event)
}

fn latest(path: &Path, limit: u32) -> Vec<RunRecord> {
    let history = History::open_existing(path).unwrap().expect("there is a history");
    history.runs(&Filter { limit, ..Filter::default() }).unwrap()
}

#[test]
fn a_run_is_read_again_with_hosts_steps_failures_and_times() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/fleetdrop/history.db");
    assert!(History::open_existing(&path).unwrap().is_none());
    assert!(record(&path, 1, whole()).is_none());

    let history = History::open_existing(&path).unwrap().unwrap();
    let runs = history.runs(&Filter { limit: 5, ..Filter::default() }).unwrap();
    let [run] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!((run.outcome, run.action), (Outcome::Ended(Verdict::Completed), Action::Deploy));
    assert_eq!((run.active(), run.out(), run.fleet()), (4, 1, 5));
    let end = run.end.as_ref().unwrap();
    assert_eq!((end.exit_code, end.seconds), (4, 17.96));
    assert_eq!(run.artifact, start(1).artifact);
    assert_eq!(run.command, start(1).command);
    assert_eq!((run.who.as_str(), run.pattern.as_deref()), ("alice@laptop", Some("web*")));
    assert_eq!(history.request(run).unwrap().as_deref(), Some("{}"));
    let phases = history.phases(run).unwrap();
    assert_eq!(phases.first(), Some(&("hash".to_owned(), 0.41)));
    assert_eq!(phases.last(), Some(&("activate".to_owned(), 0.52)));

    let hosts = history.hosts(run).unwrap();
    let names: Vec<_> = hosts.iter().map(|host| host.host.as_str()).collect();
    assert_eq!(names, ["web01", "web02", "web03", "web04", "web05"]);
    let states: Vec<_> = hosts[0].steps.iter().map(|step| step.state).collect();
    use HostState::*;
    assert_eq!(states, [Connecting, Preparing, Downloading, Verifying, Extracting, Staged, Activating, Checking, Active]);
    assert_eq!((hosts[0].received, hosts[0].transfer_seconds), (64 << 20, Some(12.34)));
    assert_eq!(hosts[0].release.as_ref().unwrap().as_str(), rehearsal::RELEASE);
    let failure = hosts[3].failure.as_ref().unwrap();
    assert_eq!((hosts[3].state, failure), (Unreachable, &rehearsal::no_answer()));
}

#[test]
fn what_hooks_printed_is_not_kept_and_nobody_else_can_read_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("private/history.db");
    let mut failure = rehearsal::disk_full();
    failure.log_tail = vec!["PASSWORD=hunter2".into()];
    let mut summary =
        rehearsal::summary(Verdict::StoppedByBudget, 8, vec![rehearsal::out(rehearsal::host_name(1), Some(failure.clone()))]);
    summary.waves = 0;
    record(&path, 1, [rehearsal::started(1, 9), rehearsal::dropped("web01", failure), rehearsal::finished(summary)]);
    for entry in fs::read_dir(path.parent().unwrap()).unwrap().flatten() {
        let bytes = fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"hunter2"), "{:?}", entry.path());
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

    // One that was readable is closed.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    History::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_run_whose_controller_is_gone_is_cut_off_where_it_was_and_one_that_never_began_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    assert!(record(&path, 1, []).is_none());
    assert!(latest(&path, 9).is_empty());

    record(&path, 2, whole().take_while(|event| !matches!(event.event, RunEvent::BarrierMet { .. })));
    let [run] = &latest(&path, 9)[..] else { panic!() };
    assert_eq!(run.outcome, Outcome::Running, "this process lives");
    assert_eq!(run.hosts[&HostState::Staged], 4);
    Connection::open(&path).unwrap().execute("UPDATE runs SET birth = 'an earlier one'", []).unwrap();
    let [run] = &latest(&path, 9)[..] else { panic!() };
    assert_eq!((run.outcome, run.end.as_ref()), (Outcome::CutOff, None));
    Connection::open(&path).unwrap().execute("UPDATE runs SET machine = 'another one'", []).unwrap();
    let [run] = &latest(&path, 9)[..] else { panic!() };
    assert_eq!((run.outcome, run.machine()), (Outcome::Unknown, "another one"), "it may well be going on there");
}

#[test]
fn a_run_that_was_sending_hosts_back_is_known_as_such_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    record(&path, 1, whole().take_while(|event| !matches!(event.event, RunEvent::RunFinished(_))));
    assert!(!latest(&path, 1)[0].going_back);
    let back = rehearsal::envelope(RunEvent::RollingBack { hosts: 2, reason: "too many hosts dropped out".into() });
    record(&path, 2, whole().take_while(|event| !matches!(event.event, RunEvent::RunFinished(_))).chain([back]));
    assert!(latest(&path, 1)[0].going_back);
}

#[test]
fn runs_are_found_by_application_host_and_the_beginning_of_their_id() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    record(&path, 0xabcd << 48, whole());
    record(&path, 0xabce << 48, [rehearsal::rollback_started(1, None)]);
    let mut other = start(0x1234 << 48);
    (other.app, other.continues) = (Some("store".parse().unwrap()), Some(run_id(0xabcd << 48)));
    let (mut recorder, _) = History::open(&path).unwrap().record(&other).unwrap();
    let event = RunEvent::RunStarted {
        action: "deploy".into(),
        app: other.app,
        artifact: None,
        digest: None,
        size: 1,
        release: None,
        max_failures: 0,
        distribution: None,
        hosts: vec!["db01".parse().unwrap()],
    };
    recorder.event(&rehearsal::envelope(event), Duration::ZERO);
    recorder.finish().unwrap();

    let history = History::open_existing(&path).unwrap().unwrap();
    let ids = |filter: Filter| -> Vec<String> {
        history.runs(&filter).unwrap().iter().map(|run| run.run.to_string()[..4].to_owned()).collect()
    };
    assert_eq!(ids(Filter { limit: 9, ..Filter::default() }), ["1234", "abce", "abcd"]);
    assert_eq!(ids(Filter { limit: 1, ..Filter::default() }), ["1234"]);
    assert_eq!(ids(Filter { app: Some("shop".parse().unwrap()), limit: 9, host: None }), ["abce", "abcd"]);
    assert_eq!(ids(Filter { host: Some("web02".parse().unwrap()), limit: 9, app: None }), ["abcd"]);
    let found = |start: &str| history.find(start).unwrap();
    assert_eq!((found("abc").len(), found("abcd").len(), found("ffff").len()), (2, 1, 0));
    let first = &found("abcd")[0];
    assert_eq!(first.continued_by, Some(run_id(0x1234 << 48)));
    let later = history.overtaken_by(first).unwrap().expect("the rollback was later, and on web01");
    assert_eq!(later.run, run_id(0xabce << 48));
    assert_eq!(history.overtaken_by(&later).unwrap(), None, "the last run is of another application and host");
}

#[test]
fn the_oldest_runs_go_and_the_last_one_stays_whatever_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    (1..=6).for_each(|number| assert!(record(&path, number, whole()).is_none()));
    let left = || -> Vec<RunId> { latest(&path, 9).into_iter().map(|run| run.run).collect() };
    let prune = |runs, hosts| History::open(&path).unwrap().prune(runs, hosts).unwrap();
    assert_eq!(prune(10, 30), 0);
    assert_eq!(prune(4, 30), 2);
    assert_eq!(left(), [6, 5, 4, 3].map(run_id));
    assert_eq!(prune(4, 14), 2);
    assert_eq!(left(), [6, 5].map(run_id));
    assert_eq!(prune(0, 0), 1);
    assert_eq!(left(), [run_id(6)]);
    let count = |table| {
        let count = format!("SELECT count(*) FROM {table}");
        Connection::open(&path).unwrap().query_row(&count, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((count("hosts"), count("phases")), (5, 6), "what belongs to a run goes with it");
}

#[test]
fn listings_are_kept_of_the_latest_directories_and_an_older_file_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let older = Connection::open(&path).unwrap();
    older.execute_batch(include_str!("schema_1.sql")).unwrap();
    let row = "INSERT INTO runs (run, action, inventory, who, command, version, machine, process, birth, started_at)
        VALUES ('0000000000000007', 'deploy', 'i', 'w', '[]', '0', 'm', 1, 'b', 0)";
    older.execute_batch(&format!("{row}; PRAGMA application_id = {}; PRAGMA user_version = 1", 0x666c_6472)).unwrap();
    drop(older);
    let listings = || -> Vec<Option<String>> {
        let history = History::open_existing(&path).unwrap().unwrap();
        latest(&path, 9).iter().map(|run| history.listing(run).unwrap()).collect()
    };
    assert_eq!(listings(), [None], "it is only read");
    for number in 1..=3 {
        let start = RunStart { listing: Some(number.to_string().repeat(10)), ..start(number) };
        let (mut recorder, _) = History::open(&path).unwrap().record(&start).unwrap();
        whole().for_each(|event| recorder.event(&event, Duration::ZERO));
        recorder.finish().unwrap();
    }
    let kept = |number: u64| Some(number.to_string().repeat(10));
    assert_eq!(listings(), [kept(3), kept(2), kept(1), None]);
    assert_eq!(History::open(&path).unwrap().prune_listings(25).unwrap(), 1);
    assert_eq!(listings(), [kept(3), kept(2), None, None]);
}

#[test]
fn a_file_that_is_no_history_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.txt");
    fs::write(&text, "not a database, but longer than a header of one would be, which SQLite looks at first of all").unwrap();
    let other = dir.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x); PRAGMA application_id = 7").unwrap();
    let newer = dir.path().join("newer.db");
    History::open(&newer).unwrap();
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    for (path, wanted) in [(&text, "is not a history"), (&other, "is not a history"), (&newer, "newer fleetdrop")] {
        let before = fs::read(path).unwrap();
        for error in [History::open(path).unwrap_err(), History::open_existing(path).unwrap_err()] {
            assert!(error.to_string().contains(wanted) && error.hint().is_some(), "{error}");
        }
        assert_eq!(fs::read(path).unwrap(), before, "{}", path.display());
    }
    let directory = History::open(dir.path()).unwrap_err();
    assert!(matches!(directory, HistoryError::File { .. }), "{directory}");
}

#[test]
fn a_file_that_another_process_writes_to_is_tried_again_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let (mut recorder, recording) = History::open(&path).unwrap().record(&start(1)).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let events: Vec<Envelope> = whole().collect();
    let (first, rest) = events.split_at(2);
    first.iter().for_each(|event| recorder.event(event, Duration::ZERO));
    // The writer is at it, and waits; what comes meanwhile stays in the queue.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !recorder.is_idle() {
        assert!(Instant::now() < deadline, "the writer took nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    rest.iter().for_each(|event| recorder.event(event, Duration::ZERO));
    other.execute_batch("COMMIT").unwrap();
    recorder.finish().unwrap();
    assert!(recording.problem().is_none());
    assert_eq!(latest(&path, 1)[0].active(), 4);
}

#[test]
fn a_disk_that_takes_nothing_more_is_told_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let (mut recorder, recording) = History::open(&path).unwrap().record(&start(1)).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON steps BEGIN SELECT RAISE(FAIL, 'no space left'); END";
    Connection::open(&path).unwrap().execute_batch(full).unwrap();
    let began = Instant::now();
    for event in whole() {
        recorder.event(&event, Duration::ZERO);
    }
    recorder.finish().unwrap();
    let problem = recording.problem().expect("it could not be written");
    assert!(problem.to_string().contains("cannot write to the history"), "{problem}");
    let [run] = &latest(&path, 9)[..] else { panic!() };
    assert_eq!(
        (run.outcome, run.active(), run.fleet()),
        (Outcome::Ended(Verdict::Completed), 4, 5),
        "its end is there all the same"
    );
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn a_thousand_hosts_are_no_burden() {
    use HostState::*;
    const HOSTS: usize = 1000;
    let states = [Connecting, Preparing, Downloading, Verifying, Extracting, Staged, Activating, Checking, Active];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let events: Vec<Envelope> =
        std::iter::once(rehearsal::started(HOSTS, 1 << 20))
            .chain(states.into_iter().flat_map(|state| {
                (1..=HOSTS).map(move |number| rehearsal::state(rehearsal::host_name(number).as_str(), state))
            }))
            .collect();
    let (mut recorder, recording) = History::open(&path).unwrap().record(&start(1)).unwrap();
    let began = Instant::now();
    events.iter().for_each(|event| recorder.event(event, Duration::ZERO));
    let fed = began.elapsed();
    recorder.finish().unwrap();
    assert!(recording.problem().is_none());
    assert!(fed < Duration::from_secs(5), "the run's reporter waited {fed:?}");
    let history = History::open_existing(&path).unwrap().unwrap();
    let run = &history.find(&run_id(1).to_string()).unwrap()[0];
    assert_eq!((run.active(), run.fleet()), (HOSTS, HOSTS));
    assert!(history.hosts(run).unwrap().iter().all(|host| host.steps.len() == states.len()));
}
