//! What every host answered to one small job: one JSON object for programs, and what all such reports say to people.

use serde::Serialize;

use super::{Palette, escape, phrase};
use crate::model::{AppName, HostAnswer, HostFailure, HostName, LockHolder};

/// The version of the JSON object. A change that breaks consumers raises it.
pub const ANSWERS_VERSION: u32 = 1;

/// The longest shown time, in characters.
const MAX_TIME: usize = 40;
/// How many hosts of a group are named.
const MAX_NAMED: usize = 8;

/// One host's answer, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row<T> {
    /// The host's inventory name.
    pub host: HostName,
    /// What it said. In JSON its fields stand beside `host`; instead of them there is `failure`.
    #[serde(flatten)]
    pub outcome: Outcome<T>,
}

/// What came of asking a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Outcome<T> {
    /// Its answer.
    Answer(HostAnswer<T>),
    /// Why there is none.
    Failure {
        /// The failure.
        failure: HostFailure,
    },
}

/// The whole answer, as JSON shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answers<T> {
    /// [`ANSWERS_VERSION`].
    pub v: u32,
    /// The application, where it was named.
    pub app: Option<AppName>,
    /// Every host, in inventory order.
    pub hosts: Vec<Row<T>>,
}

impl<T> Answers<T> {
    /// Collects the hosts' answers, in inventory order.
    pub fn new(
        app: Option<AppName>,
        answers: impl IntoIterator<Item = (HostName, Result<HostAnswer<T>, HostFailure>)>,
    ) -> Self {
        let row = |(host, answer)| Row {
            host,
            outcome: match answer {
                Ok(answer) => Outcome::Answer(answer),
                Err(failure) => Outcome::Failure { failure },
            },
        };
        Self { v: ANSWERS_VERSION, app, hosts: answers.into_iter().map(row).collect() }
    }

    /// Returns the hosts that failed.
    pub fn failures(&self) -> impl Iterator<Item = &HostFailure> {
        self.hosts.iter().filter_map(|row| match &row.outcome {
            Outcome::Failure { failure } => Some(failure),
            Outcome::Answer(_) => None,
        })
    }

    /// Returns the hosts that answered.
    pub(super) fn answered(&self) -> impl Iterator<Item = (&HostName, &T)> {
        self.hosts.iter().filter_map(|row| match &row.outcome {
            Outcome::Answer(answer) => Some((&row.host, &answer.answer)),
            Outcome::Failure { .. } => None,
        })
    }

    /// Returns what is odd about single hosts: what `odd` says of an answer, then warnings; or the failure. An empty line ends it, if
    /// there is anything.
    pub(super) fn notes(&self, odd: impl Fn(&T) -> Option<String>, width: usize, palette: Palette) -> String {
        let lines = self.hosts.iter().flat_map(|Row { host, outcome }| match outcome {
            Outcome::Failure { failure } => phrase::dropped_out(host, failure.state(), Some(failure), palette),
            Outcome::Answer(HostAnswer { answer, warnings }) => {
                let odd = odd(answer).map(|odd| format!("{}: {odd}", phrase::host(host)));
                let warnings = warnings
                    .iter()
                    .flat_map(|warning| phrase::warning(Some(host), &warning.message, warning.hint.as_deref(), palette));
                odd.into_iter().chain(warnings).collect()
            }
        });
        let mut text: String = lines.map(|line| format!("{}\n", phrase::wrap(&line, width, 4))).collect();
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// Returns hosts' names in one line; of very many the first.
pub(super) fn names(hosts: &[&HostName]) -> String {
    let mut named: Vec<String> = hosts.iter().take(MAX_NAMED).map(|name| phrase::host(name)).collect();
    let more = hosts.len().saturating_sub(MAX_NAMED);
    named.extend((more > 0).then(|| format!("and {more} more")));
    named.join(", ")
}

/// Names a lock's holder: `run 1f9a… of anna@laptop (process 4711, since 2026-11-20 03:15)`.
pub(super) fn holder(holder: &LockHolder) -> String {
    let LockHolder { run, pid, since, by } = holder;
    let of = by.as_ref().map_or(String::new(), |by| format!(" of {by}"));
    format!("run {run}{of} (process {pid}, since {})", minute(since))
}

/// Returns an RFC 3339 time in UTC to the minute, and any other text as it is.
pub(super) fn minute(time: &str) -> String {
    match time.split_once('T') {
        Some((day, clock)) if day.len() == 10 && clock.len() >= 8 && clock.ends_with('Z') && time.is_ascii() => {
            escape::line(&format!("{day} {}", &clock[..5]), MAX_TIME)
        }
        _ => escape::line(time, MAX_TIME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_none_is_shown_harmlessly() {
        assert_eq!(minute("2026-11-20T03:15:12Z"), "2026-11-20 03:15");
        assert_eq!(minute("2026-11-20T\u{1b}[2J555Z"), "2026-11-20 \\u{1b}[2J5");
        assert_eq!(minute("éT"), "éT");
        assert_eq!(minute(""), "");
    }
}
