//! What is on the hosts: a table for people, one JSON object for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Palette, escape, measure, phrase,
    table::{self, Tone},
};
use crate::model::{AppName, HostFailure, HostName, HostStatus, ReleaseId};

/// The version of the JSON object. A change that breaks consumers raises it.
pub const STATUS_VERSION: u32 = 1;

const HEADER: [&str; 4] = ["host", "current", "previous", "activated (UTC)"];
/// What stands where there is nothing to say.
const NOTHING: &str = "-";
/// The longest shown time, in characters.
const MAX_TIME: usize = 40;

/// One host's answer, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusRow {
    /// The host's inventory name.
    pub host: HostName,
    /// What it has. In JSON its fields stand beside `host`; instead of them there is `failure`.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What a host answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// What is there.
    Releases(HostStatus),
    /// Why it is not known.
    Failure {
        /// The failure.
        failure: HostFailure,
    },
}

/// The whole answer, as JSON shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// [`STATUS_VERSION`].
    pub v: u32,
    /// The application, where it was named.
    pub app: Option<AppName>,
    /// Every host, in inventory order.
    pub hosts: Vec<StatusRow>,
}

impl StatusReport {
    /// Makes a report of the hosts' answers, in inventory order.
    pub fn new(app: Option<AppName>, answers: impl IntoIterator<Item = (HostName, Result<HostStatus, HostFailure>)>) -> Self {
        let row = |(host, answer)| StatusRow {
            host,
            answer: match answer {
                Ok(releases) => Answer::Releases(releases),
                Err(failure) => Answer::Failure { failure },
            },
        };
        Self { v: STATUS_VERSION, app, hosts: answers.into_iter().map(row).collect() }
    }

    /// Returns the report for people: a row a host, then what is odd about single hosts, then how many run what.
    pub fn render(&self, width: usize, palette: Palette) -> String {
        let rows: Vec<_> = self.hosts.iter().map(row).collect();
        let mut text = if table::needed(&HEADER, &rows) <= width {
            table::render(&HEADER, rows, width, palette)
        } else {
            // Release ids broken in two can't be read or copied.
            rows.iter().map(|row| phrase::wrap(&stacked(row), width, 2) + "\n").collect()
        };
        text.push('\n');
        let notes: String = self
            .hosts
            .iter()
            .flat_map(|row| note(row, palette))
            .map(|line| format!("{}\n", phrase::wrap(&line, width, 4)))
            .collect();
        if !notes.is_empty() {
            text += &notes;
            text.push('\n');
        }
        text + &phrase::wrap(&self.sums(), width, 2) + "\n"
    }

    /// Says how many hosts run which release: an uneven fleet shows at once.
    fn sums(&self) -> String {
        let (mut releases, mut none, mut unknown) = (BTreeMap::new(), 0, 0);
        for row in &self.hosts {
            match &row.answer {
                Answer::Releases(HostStatus { current: Some(current), .. }) => *releases.entry(current).or_insert(0) += 1,
                Answer::Releases(_) => none += 1,
                Answer::Failure { .. } => unknown += 1,
            }
        }
        // Newest first: ids begin with their time.
        let mut parts: Vec<_> =
            releases.iter().rev().map(|(release, hosts): (_, &usize)| format!("{hosts} on {release}")).collect();
        parts.extend((none > 0).then(|| format!("{none} without a release")));
        parts.extend((unknown > 0).then(|| format!("{unknown} without an answer")));
        format!("{}: {}", measure::count(self.hosts.len(), "host"), parts.join(", "))
    }
}

fn row(row: &StatusRow) -> Vec<(String, Tone)> {
    let host = (phrase::host(&row.host), Tone::Normal);
    let normal = |text: String| (text, Tone::Normal);
    let name = |release: &Option<ReleaseId>| normal(release.as_ref().map_or(NOTHING.into(), ToString::to_string));
    match &row.answer {
        Answer::Failure { failure } => {
            vec![host, (failure.state().to_string(), Tone::Bad), normal(NOTHING.into()), normal(NOTHING.into())]
        }
        Answer::Releases(there) => {
            let current = there.releases.iter().find(|release| Some(&release.id) == there.current.as_ref());
            let since = current.and_then(|release| release.activated_at.as_deref()).map_or(NOTHING.into(), minute);
            vec![host, name(&there.current), name(&there.previous), normal(since)]
        }
    }
}

/// Returns a row as a sentence.
fn stacked(row: &[(String, Tone)]) -> String {
    let known =
        |label: &str, column: usize| Some(&row[column].0).filter(|text| *text != NOTHING).map(|text| format!("{label}{text}"));
    let parts: Vec<_> = [known("", 1), known("before ", 2), known("since ", 3)].into_iter().flatten().collect();
    format!("{}: {}", row[0].0, if parts.is_empty() { "no release".into() } else { parts.join(", ") })
}

/// Returns an RFC 3339 time in UTC to the minute, and any other text as it is.
fn minute(time: &str) -> String {
    match time.split_once('T') {
        Some((day, clock)) if day.len() == 10 && clock.len() >= 8 && clock.ends_with('Z') && time.is_ascii() => {
            escape::line(&format!("{day} {}", &clock[..5]), MAX_TIME)
        }
        _ => escape::line(time, MAX_TIME),
    }
}

/// Says what is odd about a host, if something is.
fn note(row: &StatusRow, palette: Palette) -> Vec<String> {
    match &row.answer {
        Answer::Failure { failure } => phrase::dropped_out(&row.host, failure.state(), Some(failure), palette),
        Answer::Releases(HostStatus { locked_by: Some(run), .. }) => {
            vec![format!("{}: run {run} is at work", phrase::host(&row.host))]
        }
        Answer::Releases(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
