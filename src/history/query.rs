//! Reads runs again, the latest first.

use std::{
    collections::BTreeMap,
    str::FromStr,
    time::{Duration, SystemTime},
};

use rusqlite::{Row, RowIndex, ToSql, types::FromSqlError};

use super::{
    History, HistoryError,
    process::Process,
    record::{Action, ArtifactRecord, End, HostRecord, Outcome, RunRecord, Step, state as state_of, verdict as verdict_of},
};
use crate::model::{AppName, FailureKind, HostFailure, HostName, HostState, ReleaseId};

/// The columns of a run.
const COLUMNS: &str = "number, run, action, app, release, artifact, digest, size, inventory, pattern, playbook, who, command,
    version, continues, machine, process, birth, started_at, waves, going_back, ended_at, verdict, exit_code, seconds,
    controller_sent, abort_reason,
    (SELECT run FROM runs AS later WHERE later.continues = runs.run ORDER BY number DESC LIMIT 1) AS continued_by";

/// Which runs are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of this application.
    pub app: Option<AppName>,
    /// Those with this host.
    pub host: Option<HostName>,
    /// At most that many.
    pub limit: u32,
}

impl History {
    /// Returns the latest runs that a filter lets through, the last one first.
    pub fn runs(&self, filter: &Filter) -> Result<Vec<RunRecord>, HistoryError> {
        let (app, host) = (filter.app.as_ref().map(AppName::as_str), filter.host.as_ref().map(HostName::as_str));
        self.select(
            "(?1 IS NULL OR app = ?1)
                AND (?2 IS NULL OR EXISTS (SELECT 1 FROM hosts WHERE hosts.number = runs.number AND host = ?2))
            ORDER BY number DESC LIMIT ?3",
            &[&app, &host, &filter.limit],
        )
    }

    /// Returns the runs whose ids begin with a text, at most two: more than one means that the text is too short.
    pub fn find(&self, start: &str) -> Result<Vec<RunRecord>, HistoryError> {
        self.select("substr(run, 1, length(?1)) = ?1 ORDER BY number DESC LIMIT 2", &[&start])
    }

    /// Returns the last deploy of a release whose artifact is known.
    pub fn deploy_of(&self, release: &ReleaseId) -> Result<Option<RunRecord>, HistoryError> {
        let runs = self.select(
            "release = ?1 AND action = 'deploy' AND artifact IS NOT NULL ORDER BY number DESC LIMIT 1",
            &[&release.as_str()],
        )?;
        Ok(runs.into_iter().next())
    }

    /// Returns the first later run of the same application that had one of this run's hosts.
    pub fn overtaken_by(&self, run: &RunRecord) -> Result<Option<RunRecord>, HistoryError> {
        let later = self.select(
            "number > ?1 AND (app IS NULL OR ?2 IS NULL OR app = ?2) AND EXISTS (
                SELECT 1 FROM hosts AS theirs JOIN hosts AS ours ON ours.host = theirs.host AND ours.number = ?1
                WHERE theirs.number = runs.number
            ) ORDER BY number LIMIT 1",
            &[&run.number, &run.app.as_ref().map(AppName::as_str)],
        )?;
        Ok(later.into_iter().next())
    }

    /// Returns the hosts of a run, in inventory order.
    pub fn hosts(&self, run: &RunRecord) -> Result<Vec<HostRecord>, HistoryError> {
        self.read_hosts(run.number).map_err(HistoryError::database(&self.path, "read"))
    }

    /// Returns the timed phases of a run with their seconds, in the order in which phases follow one another.
    pub fn phases(&self, run: &RunRecord) -> Result<Vec<(String, f64)>, HistoryError> {
        let read = || {
            let mut statement = self.connection.prepare(
                "SELECT phase, seconds FROM phases WHERE number = ?1 ORDER BY
                    instr('hash connect prepare distribute stage activate', phase)",
            )?;
            statement.query_map([run.number], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()
        };
        read().map_err(HistoryError::database(&self.path, "read"))
    }

    /// Returns what was kept for finishing a run later.
    pub fn request(&self, run: &RunRecord) -> Result<Option<String>, HistoryError> {
        self.text(run, "request")
    }

    /// Returns what was kept of the directory that a run deployed.
    pub fn listing(&self, run: &RunRecord) -> Result<Option<String>, HistoryError> {
        // An older file has none, and one that is only read stays older.
        if self.format()? < 2 {
            return Ok(None);
        }
        self.text(run, "listing")
    }

    fn text(&self, run: &RunRecord, column: &'static str) -> Result<Option<String>, HistoryError> {
        let select = format!("SELECT {column} FROM runs WHERE number = ?1");
        let text = self.connection.query_row(&select, [run.number], |row| row.get(0));
        text.map_err(HistoryError::database(&self.path, "read"))
    }

    fn select(&self, which: &str, parameters: &[&dyn ToSql]) -> Result<Vec<RunRecord>, HistoryError> {
        let read = || -> rusqlite::Result<Vec<RunRecord>> {
            let mut statement = self.connection.prepare(&format!("SELECT {COLUMNS} FROM runs WHERE {which}"))?;
            let mut runs = statement.query_map(parameters, run_record)?.collect::<rusqlite::Result<Vec<_>>>()?;
            let mut counts = self.connection.prepare("SELECT state, count(*) FROM hosts WHERE number = ?1 GROUP BY state")?;
            for run in &mut runs {
                let rows = counts.query_map([run.number], |row| Ok((state(row, 0)?, row.get::<_, i64>(1)?)))?;
                let hosts: rusqlite::Result<BTreeMap<HostState, i64>> = rows.collect();
                run.hosts = hosts?.into_iter().map(|(state, hosts)| (state, usize::try_from(hosts).unwrap_or(0))).collect();
            }
            Ok(runs)
        };
        read().map_err(HistoryError::database(&self.path, "read"))
    }

    fn read_hosts(&self, number: i64) -> rusqlite::Result<Vec<HostRecord>> {
        let mut steps = self.connection.prepare("SELECT place, at, state FROM steps WHERE number = ?1 ORDER BY place, step")?;
        let mut steps_of: BTreeMap<i64, Vec<Step>> = BTreeMap::new();
        let mut rows = steps.query([number])?;
        while let Some(row) = rows.next()? {
            let step = Step { state: state(row, 2)?, at: row.get::<_, i64>(1)? as f64 / 1000.0 };
            steps_of.entry(row.get(0)?).or_default().push(step);
        }
        let mut hosts = self.connection.prepare(
            "SELECT place, host, state, unchanged, wave, release, previous, received, transfer_seconds, failure_kind,
                failure_during, failure, hint FROM hosts WHERE number = ?1 ORDER BY place",
        )?;
        let mut read = |row: &Row<'_>| {
            Ok(HostRecord {
                host: parsed(row, 1)?,
                state: state(row, 2)?,
                unchanged: row.get(3)?,
                wave: row.get(4)?,
                release: optional(row, 5)?,
                previous: optional(row, 6)?,
                received: count(row, 7)?,
                transfer_seconds: row.get(8)?,
                failure: failure(row)?,
                steps: steps_of.remove(&row.get(0)?).unwrap_or_default(),
            })
        };
        hosts.query_map([number], |row| read(row))?.collect()
    }
}

fn run_record(row: &Row<'_>) -> rusqlite::Result<RunRecord> {
    let process = Process { machine: row.get("machine")?, id: row.get("process")?, birth: row.get("birth")? };
    let verdict = row.get::<_, Option<String>>("verdict")?;
    let outcome = match verdict {
        Some(word) => Outcome::Ended(verdict_of(&word).ok_or_else(strange)?),
        None => match process.lives() {
            Some(true) => Outcome::Running,
            Some(false) => Outcome::CutOff,
            None => Outcome::Unknown,
        },
    };
    let command: String = row.get("command")?;
    let artifact = match row.get::<_, Option<String>>("artifact")? {
        Some(path) => Some(ArtifactRecord { path, digest: parsed(row, "digest")?, size: count(row, "size")? }),
        None => None,
    };
    Ok(RunRecord {
        number: row.get("number")?,
        process,
        run: parsed(row, "run")?,
        action: Action::of(&row.get::<_, String>("action")?).ok_or_else(strange)?,
        outcome,
        app: optional(row, "app")?,
        release: optional(row, "release")?,
        artifact,
        inventory: row.get("inventory")?,
        pattern: row.get("pattern")?,
        playbook: row.get("playbook")?,
        who: row.get("who")?,
        command: serde_json::from_str(&command).map_err(|_| strange())?,
        version: row.get("version")?,
        continues: optional(row, "continues")?,
        continued_by: optional(row, "continued_by")?,
        started_at: time(row.get("started_at")?),
        end: end(row)?,
        waves: row.get("waves")?,
        going_back: row.get("going_back")?,
        hosts: BTreeMap::new(),
    })
}

fn end(row: &Row<'_>) -> rusqlite::Result<Option<End>> {
    let Some(at) = row.get::<_, Option<i64>>("ended_at")? else { return Ok(None) };
    Ok(Some(End {
        at: time(at),
        exit_code: row.get("exit_code")?,
        seconds: row.get("seconds")?,
        controller_sent: count(row, "controller_sent")?,
        abort_reason: row.get("abort_reason")?,
    }))
}

fn failure(row: &Row<'_>) -> rusqlite::Result<Option<HostFailure>> {
    let Some(message) = row.get(11)? else { return Ok(None) };
    let kind = match row.get::<_, Option<String>>(9)?.as_deref() {
        Some("unreachable") => FailureKind::Unreachable,
        _ => FailureKind::Failed,
    };
    Ok(Some(HostFailure { kind, during: state(row, 10)?, message, hint: row.get(12)?, log_tail: Vec::new() }))
}

/// Says that a value is not one that this program writes.
fn strange() -> rusqlite::Error {
    FromSqlError::InvalidType.into()
}

fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<HostState> {
    state_of(&row.get::<_, String>(column)?).ok_or_else(strange)
}

fn parsed<T: FromStr>(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<T> {
    row.get::<_, String>(column)?.parse().map_err(|_| strange())
}

fn optional<T: FromStr>(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<T>> {
    row.get::<_, Option<String>>(column)?.map(|text| text.parse().map_err(|_| strange())).transpose()
}

fn count(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn time(millis: i64) -> String {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}
