//! What is live on the hosts, for people: a table, then what is odd, then how many run what.

use std::collections::BTreeMap;

use super::{
    Palette,
    answers::{Answers, Outcome, Row, minute},
    measure, phrase,
    table::{self, Tone},
};
use crate::model::{HostAnswer, HostStatus, ReleaseId};

const HEADER: [&str; 4] = ["host", "current", "previous", "activated (UTC)"];
/// What stands where there is nothing to say.
const NOTHING: &str = "-";

/// Returns the report: a row a host, then what is odd about single hosts, then how many run what.
pub fn render(answers: &Answers<HostStatus>, width: usize, palette: Palette) -> String {
    let rows: Vec<_> = answers.hosts.iter().map(row).collect();
    let mut text = if table::needed(&HEADER, &rows) <= width {
        table::render(&HEADER, rows, width, palette)
    } else {
        // Release ids broken in two can't be read or copied.
        rows.iter().map(|row| phrase::wrap(&stacked(row), width, 2) + "\n").collect()
    };
    text.push('\n');
    text += &answers.notes(at_work, width, palette);
    text + &phrase::wrap(&sums(answers), width, 2) + "\n"
}

/// Says how many hosts run which release: an uneven fleet shows at once.
pub(super) fn sums(answers: &Answers<HostStatus>) -> String {
    let (mut releases, mut none) = (BTreeMap::new(), 0);
    for (_, status) in answers.answered() {
        match &status.current {
            Some(current) => *releases.entry(current).or_insert(0) += 1,
            None => none += 1,
        }
    }
    let unknown = answers.failures().count();
    // Newest first: ids begin with their time.
    let mut parts: Vec<_> =
        releases.iter().rev().map(|(release, hosts): (_, &usize)| format!("{hosts} on {release}")).collect();
    parts.extend((none > 0).then(|| format!("{none} without a release")));
    parts.extend((unknown > 0).then(|| format!("{unknown} without an answer")));
    format!("{}: {}", measure::count(answers.hosts.len(), "host"), parts.join(", "))
}

/// Says that a deploy goes on there, if one does.
pub(super) fn at_work(status: &HostStatus) -> Option<String> {
    status.locked_by.as_ref().map(|run| format!("run {run} is at work"))
}

fn row(row: &Row<HostStatus>) -> Vec<(String, Tone)> {
    let host = (phrase::host(&row.host), Tone::Normal);
    let normal = |text: String| (text, Tone::Normal);
    let name = |release: &Option<ReleaseId>| normal(release.as_ref().map_or(NOTHING.into(), ToString::to_string));
    match &row.outcome {
        Outcome::Failure { failure } => {
            vec![host, (failure.state().to_string(), Tone::Bad), normal(NOTHING.into()), normal(NOTHING.into())]
        }
        Outcome::Answer(HostAnswer { answer: there, .. }) => {
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

#[cfg(test)]
mod tests;
