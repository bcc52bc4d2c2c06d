//! Writes a run down while it goes on.
//!
//! Events come in on the reporter's thread, where they only join a bounded list; a thread of its own writes what has come together,
//! every [`WRITE_EVERY`], in one transaction. A file that somebody else writes to is tried again for some seconds; whatever else goes
//! wrong ends the writing but for the run's end, without which it would pass for one that was cut off, and [`Recording::problem`] tells
//! it once the run is over.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

use rusqlite::{Connection, Transaction, TransactionBehavior, named_params, params};

use super::{
    History, HistoryError, MAX_HOSTS, MAX_LISTINGS, MAX_RUNS,
    process::Process,
    record::{RunStart, verdict_word},
};
use crate::{
    model::{AppName, Envelope, FailureKind, HostFailure, HostName, HostState, ReleaseId, RunEvent, RunSummary},
    report::Reporter,
};

/// How much of a run is lost at most when its controller is killed.
pub const WRITE_EVERY: Duration = Duration::from_millis(200);
/// The most changes that wait: what a fleet of 20,000 hosts goes through.
const MAX_WAITING: usize = 200_000;
/// How long somebody else may keep the file from us, all attempts together.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long writing may go on when the run is over; as long again for the end alone, if something could not be written.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// The longest stored message, in characters.
const MAX_TEXT: usize = 2000;

/// Something that is written down.
#[derive(Debug)]
enum Change {
    Began { app: Option<AppName>, release: Option<ReleaseId>, hosts: Vec<HostName> },
    Entered { place: usize, state: HostState, at: i64, failure: Option<HostFailure> },
    Barrier { waves: usize },
    Wave { wave: usize, places: Vec<usize> },
    GoingBack,
    Ended { at: i64, summary: Box<RunSummary> },
}

impl Change {
    /// True for what decides whether and how the run can be finished later.
    fn is_essential(&self) -> bool {
        matches!(self, Self::Began { .. } | Self::GoingBack | Self::Ended { .. })
    }
}

#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<Change>,
    lost: usize,
    /// Write at once.
    urgent: bool,
    /// Nothing will follow.
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    problem: Mutex<Option<HistoryError>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is made whole: a panic elsewhere leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What tells how the writing went, once the run is over.
#[derive(Debug)]
pub struct Recording(Arc<Shared>);

impl Recording {
    /// Returns why the run is not whole in the history, if it isn't.
    pub fn problem(&self) -> Option<HistoryError> {
        lock(&self.0.problem).take()
    }
}

/// A consumer of a run's events that writes them down.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    places: HashMap<HostName, usize>,
    path: std::path::PathBuf,
    ended: Receiver<Result<(), HistoryError>>,
}

impl History {
    /// Writes down that a run begins, and returns what writes down the rest. Removes runs beyond the bounds.
    pub fn record(mut self, start: &RunStart) -> Result<(Recorder, Recording), HistoryError> {
        let (error, path) = (HistoryError::database(&self.path, "write to"), self.path.clone());
        self.prune(MAX_RUNS - 1, MAX_HOSTS).map_err(&error)?;
        let (number, began) = self.insert(start).map_err(&error)?;
        self.prune_listings(MAX_LISTINGS).map_err(&error)?;
        let shared = Arc::new(Shared::default());
        let (end, ended) = sync_channel(1);
        let mut writer = Writer { connection: self.connection, path: path.clone(), number, began, steps: 0, has_begun: false };
        let feed = shared.clone();
        let thread = std::thread::Builder::new().name("history".into()).spawn(move || {
            // A recorder that is gone has given up waiting.
            let _ = end.send(writer.work(&feed));
        });
        thread.map_err(|source| HistoryError::File { path: path.clone(), source })?;
        let recording = Recording(shared.clone());
        Ok((Recorder { shared, places: HashMap::new(), path, ended }, recording))
    }

    fn insert(&mut self, start: &RunStart) -> rusqlite::Result<(i64, i64)> {
        let (process, began) = (Process::own(), now());
        let artifact = start.artifact.as_ref();
        let command = serde_json::Value::from(start.command.clone()).to_string();
        self.connection.execute(
            "INSERT INTO runs (run, action, app, release, artifact, digest, size, inventory, pattern, playbook, who, command,
                version, request, listing, continues, machine, process, birth, started_at)
            VALUES (:run, :action, :app, :release, :artifact, :digest, :size, :inventory, :pattern, :playbook, :who, :command,
                :version, :request, :listing, :continues, :machine, :process, :birth, :started_at)",
            named_params! {
                ":run": start.run.as_str(),
                ":action": start.action.as_str(),
                ":app": start.app.as_ref().map(AppName::as_str),
                ":release": start.release.as_ref().map(ReleaseId::as_str),
                ":artifact": artifact.map(|artifact| artifact.path.as_str()),
                ":digest": artifact.map(|artifact| artifact.digest.to_string()),
                ":size": artifact.map(|artifact| integer(artifact.size)),
                ":inventory": start.inventory.display().to_string(),
                ":pattern": start.pattern,
                ":playbook": start.playbook.as_ref().map(|path| path.display().to_string()),
                ":who": start.who,
                ":command": command,
                ":version": env!("CARGO_PKG_VERSION"),
                ":request": start.request,
                ":listing": start.listing,
                ":continues": start.continues.as_ref().map(|run| run.as_str()),
                ":machine": process.machine,
                ":process": process.id,
                ":birth": process.birth,
                ":started_at": began,
            },
        )?;
        Ok((self.connection.last_insert_rowid(), began))
    }
}

impl Recorder {
    /// True if nothing waits for the thread that writes.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.shared.waiting).changes.is_empty()
    }

    fn push(&self, change: Change, urgent: bool) {
        let mut waiting = lock(&self.shared.waiting);
        // There are few of those that are always worth their place.
        if waiting.changes.len() < MAX_WAITING || change.is_essential() {
            waiting.changes.push(change);
        } else {
            waiting.lost += 1;
        }
        if urgent {
            waiting.urgent = true;
            self.shared.wake.notify_one();
        }
    }
}

impl Reporter for Recorder {
    fn event(&mut self, envelope: &Envelope, _now: Duration) {
        match &envelope.event {
            RunEvent::RunStarted { app, release, hosts, .. } => {
                self.places = hosts.iter().cloned().zip(0..).collect();
                let (app, release, hosts) = (app.clone(), release.clone(), hosts.clone());
                self.push(Change::Began { app, release, hosts }, true);
            }
            RunEvent::HostState { host, state, failure } => {
                let Some(place) = self.places.get(host).copied() else { return };
                let failure = failure.as_ref().map(|failure| HostFailure { log_tail: Vec::new(), ..failure.clone() });
                self.push(Change::Entered { place, state: *state, at: millis(&envelope.at), failure }, false);
            }
            RunEvent::BarrierMet { waves, .. } => self.push(Change::Barrier { waves: *waves }, true),
            RunEvent::WaveStarted { wave, hosts, .. } => {
                let places = hosts.iter().filter_map(|host| self.places.get(host).copied()).collect();
                self.push(Change::Wave { wave: *wave, places }, true);
            }
            RunEvent::RollingBack { .. } => self.push(Change::GoingBack, true),
            RunEvent::RunFinished(summary) => {
                let mut summary = summary.clone();
                // What hooks printed may be anything.
                let failures = summary.hosts.iter_mut().filter_map(|host| host.failure.as_mut());
                failures.for_each(|failure| failure.log_tail.clear());
                self.push(Change::Ended { at: millis(&envelope.at), summary }, true);
            }
            RunEvent::HostProgress { .. }
            | RunEvent::AgentCame { .. }
            | RunEvent::HostMode { .. }
            | RunEvent::SwarmStopped
            | RunEvent::PhaseEnded(_)
            | RunEvent::Warning { .. }
            | RunEvent::Paused { .. }
            | RunEvent::Interrupted
            | RunEvent::Unknown => {}
        }
    }

    /// Waits some seconds for what is still to be written. What went wrong is no error of the report: [`Recording::problem`] tells it.
    fn finish(&mut self) -> io::Result<()> {
        lock(&self.shared.waiting).closed = true;
        self.shared.wake.notify_one();
        let ended = self.ended.recv_timeout(2 * LAST_WORDS + Duration::from_secs(1));
        let problem = match ended {
            Ok(result) => result.err(),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Some(HistoryError::Silent(self.path.clone())),
        };
        let lost = lock(&self.shared.waiting).lost;
        let slow = || (lost > 0).then(|| HistoryError::Slow { path: self.path.clone(), lost });
        *lock(&self.shared.problem) = problem.or_else(slow);
        Ok(())
    }
}

/// The thread that writes.
struct Writer {
    connection: Connection,
    path: std::path::PathBuf,
    number: i64,
    /// When the run began, in milliseconds.
    began: i64,
    /// How many steps of hosts are written.
    steps: i64,
    /// The run's first event has come.
    has_begun: bool,
}

impl Writer {
    fn work(&mut self, shared: &Shared) -> Result<(), HistoryError> {
        loop {
            let (changes, closed) = wait(shared);
            if let Err(error) = self.write(&changes, shared) {
                // Should that fail too, the first failure says why.
                let _ = self.write_the_end(changes, closed, shared);
                return Err(error);
            }
            if closed {
                return if self.has_begun { Ok(()) } else { self.forget() };
            }
        }
    }

    /// Waits for the run's end after `unwritten` could not be written, and writes what is essential in a transaction of its own.
    fn write_the_end(&mut self, unwritten: Vec<Change>, mut closed: bool, shared: &Shared) -> Result<(), HistoryError> {
        let mut essential: Vec<Change> = unwritten.into_iter().filter(Change::is_essential).collect();
        while !closed {
            let more;
            (more, closed) = wait(shared);
            essential.extend(more.into_iter().filter(Change::is_essential));
        }
        self.write(&essential, shared)
    }

    /// Writes a batch; tries again while somebody else does.
    fn write(&mut self, changes: &[Change], shared: &Shared) -> Result<(), HistoryError> {
        let (mut deadline, mut hurries) = (Instant::now() + PATIENCE, false);
        while !changes.is_empty() {
            let result = self.write_once(changes).map_err(HistoryError::database(&self.path, "write to"));
            if !hurries && lock(&shared.waiting).closed {
                (deadline, hurries) = (deadline.min(Instant::now() + LAST_WORDS), true);
            }
            match result {
                Err(error) if error.is_busy() && Instant::now() < deadline => {}
                result => return result,
            }
        }
        Ok(())
    }

    fn write_once(&mut self, changes: &[Change]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let batch = Batch { transaction: &transaction, number: self.number, began: self.began };
        let steps = batch.write(changes, self.steps)?;
        transaction.commit()?;
        self.steps = steps;
        self.has_begun |= changes.iter().any(|change| matches!(change, Change::Began { .. }));
        Ok(())
    }

    /// Removes a run again that went no further than being asked for.
    fn forget(&self) -> Result<(), HistoryError> {
        let removed = self.connection.execute("DELETE FROM runs WHERE number = ?1", [self.number]);
        removed.map(|_| ()).map_err(HistoryError::database(&self.path, "write to"))
    }
}

/// Waits until there is something to write or nothing will follow.
fn wait(shared: &Shared) -> (Vec<Change>, bool) {
    let mut waiting = lock(&shared.waiting);
    loop {
        let is_due = waiting.urgent || waiting.closed;
        if is_due {
            waiting.urgent = false;
            return (std::mem::take(&mut waiting.changes), waiting.closed);
        }
        let (guard, timeout) = shared.wake.wait_timeout(waiting, WRITE_EVERY).unwrap_or_else(PoisonError::into_inner);
        waiting = guard;
        waiting.urgent |= timeout.timed_out() && !waiting.changes.is_empty();
    }
}

/// One transaction.
struct Batch<'a> {
    transaction: &'a Transaction<'a>,
    number: i64,
    began: i64,
}

impl Batch<'_> {
    /// Writes the changes; `steps` is how many steps of hosts were written before. Returns how many are now.
    fn write(&self, changes: &[Change], mut steps: i64) -> rusqlite::Result<i64> {
        let mut enter = self.transaction.prepare(
            "INSERT INTO steps (number, place, step, at, state) SELECT ?1, ?2, ?3, ?4, ?5
            WHERE EXISTS (SELECT 1 FROM hosts WHERE number = ?1 AND place = ?2)",
        )?;
        let mut state = self.transaction.prepare(
            "UPDATE hosts SET state = ?3, failure_kind = coalesce(?4, failure_kind), failure_during = coalesce(?5, failure_during),
                failure = coalesce(?6, failure), hint = coalesce(?7, hint)
            WHERE number = ?1 AND place = ?2",
        )?;
        for change in changes {
            match change {
                Change::Began { app, release, hosts } => self.begin(app.as_ref(), release.as_ref(), hosts)?,
                Change::Entered { place, state: entered, at, failure } => {
                    steps += 1;
                    let since = (at - self.began).max(0);
                    enter.execute(params![self.number, size(*place), steps, since, entered.as_str()])?;
                    let [kind, during, message, hint] = failure_texts(failure.as_ref());
                    state.execute(params![self.number, size(*place), entered.as_str(), kind, during, message, hint])?;
                }
                Change::Barrier { waves } => {
                    self.transaction
                        .execute("UPDATE runs SET waves = ?2 WHERE number = ?1", params![self.number, size(*waves)])?;
                }
                Change::Wave { wave, places } => self.wave(*wave, places)?,
                Change::GoingBack => {
                    self.transaction.execute("UPDATE runs SET going_back = 1 WHERE number = ?1", [self.number])?;
                }
                Change::Ended { at, summary } => self.end(*at, summary)?,
            }
        }
        Ok(steps)
    }

    fn begin(&self, app: Option<&AppName>, release: Option<&ReleaseId>, hosts: &[HostName]) -> rusqlite::Result<()> {
        self.transaction.execute(
            "UPDATE runs SET app = coalesce(?2, app), release = coalesce(?3, release), fleet = ?4 WHERE number = ?1",
            params![self.number, app.map(AppName::as_str), release.map(ReleaseId::as_str), size(hosts.len())],
        )?;
        let mut insert =
            self.transaction.prepare("INSERT OR IGNORE INTO hosts (number, place, host, state) VALUES (?1, ?2, ?3, ?4)")?;
        for (place, host) in hosts.iter().enumerate() {
            insert.execute(params![self.number, size(place), host.as_str(), HostState::Queued.as_str()])?;
        }
        Ok(())
    }

    fn wave(&self, wave: usize, places: &[usize]) -> rusqlite::Result<()> {
        let mut update = self.transaction.prepare("UPDATE hosts SET wave = ?3 WHERE number = ?1 AND place = ?2")?;
        for place in places {
            update.execute(params![self.number, size(*place), size(wave)])?;
        }
        Ok(())
    }

    fn end(&self, at: i64, summary: &RunSummary) -> rusqlite::Result<()> {
        self.transaction.execute(
            "UPDATE runs SET ended_at = ?2, verdict = ?3, exit_code = ?4, seconds = ?5, controller_sent = ?6, waves = ?7,
                abort_reason = ?8
            WHERE number = ?1",
            params![
                self.number,
                at,
                verdict_word(summary.verdict),
                summary.exit_code,
                summary.seconds,
                integer(summary.controller_sent),
                size(summary.waves),
                summary.abort_reason.as_deref().map(bounded),
            ],
        )?;
        let mut host = self.transaction.prepare(
            "UPDATE hosts SET state = ?3, unchanged = ?4, wave = ?5, release = ?6, previous = ?7, received = ?8,
                transfer_seconds = ?9, failure_kind = ?10, failure_during = ?11, failure = ?12, hint = ?13
            WHERE number = ?1 AND place = ?2",
        )?;
        for (place, result) in summary.hosts.iter().enumerate() {
            let [kind, during, message, hint] = failure_texts(result.failure.as_ref());
            host.execute(params![
                self.number,
                size(place),
                result.state.as_str(),
                result.unchanged,
                result.wave.map(size),
                result.release.as_ref().map(ReleaseId::as_str),
                result.previous.as_ref().map(ReleaseId::as_str),
                integer(result.bytes.received().saturating_sub(result.bytes.from_disk)),
                result.transfer_seconds,
                kind,
                during,
                message,
                hint,
            ])?;
        }
        let mut phase =
            self.transaction.prepare("INSERT OR REPLACE INTO phases (number, phase, seconds) VALUES (?1, ?2, ?3)")?;
        for time in &summary.phases {
            phase.execute(params![self.number, time.phase.as_str(), time.seconds])?;
        }
        Ok(())
    }
}

/// Returns kind, state, message and hint of a failure as they are stored.
fn failure_texts(failure: Option<&HostFailure>) -> [Option<String>; 4] {
    let Some(failure) = failure else { return [const { None }; 4] };
    let kind = match failure.kind {
        FailureKind::Unreachable => "unreachable",
        FailureKind::Failed => "failed",
    };
    let hint = failure.hint.as_deref().map(bounded);
    [Some(kind.to_owned()), Some(failure.during.as_str().to_owned()), Some(bounded(&failure.message)), hint]
}

fn bounded(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// SQLite's integers have a sign; nothing that is counted here needs the last bit.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn size(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns an event's time in milliseconds; now, if it can't be read.
fn millis(at: &str) -> i64 {
    humantime::parse_rfc3339(at).map_or_else(|_| now(), since_1970)
}

fn now() -> i64 {
    since_1970(SystemTime::now())
}

fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
