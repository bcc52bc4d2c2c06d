//! Runs for people: a table of the latest ones, or one with its hosts.

use super::RunDetails;
use crate::{
    history::{Action, HostRecord, Outcome, RunRecord},
    model::{HostState, Verdict},
    report::{
        Palette, escape, measure, phrase,
        table::{self, Tone},
    },
};

const RUNS: [&str; 8] = ["run", "started (UTC)", "what", "release", "hosts", "ended", "took", "who"];
const HOSTS: [&str; 6] = ["host", "state", "wave", "received", "transfer", "last step"];
/// What stands where there is nothing to say.
const NOTHING: &str = "-";
/// The longest shown name, path or command, in characters.
const MAX_TEXT: usize = 500;

/// Returns a row a run.
pub(super) fn list(runs: &[RunRecord], width: usize, palette: Palette) -> String {
    let rows: Vec<_> = runs.iter().map(row).collect();
    if table::needed(&RUNS, &rows) <= width {
        return table::render(&RUNS, rows, width, palette);
    }
    // Ids broken in two can't be read or copied.
    rows.iter()
        .map(|row| {
            let cells: Vec<&str> = row.iter().skip(1).map(|(text, _)| text.as_str()).filter(|text| *text != NOTHING).collect();
            phrase::wrap(&format!("{}: {}", row[0].0, cells.join(", ")), width, 2) + "\n"
        })
        .collect()
}

fn row(run: &RunRecord) -> Vec<(String, Tone)> {
    let normal = |text: String| (text, Tone::Normal);
    let (word, tone) = ending(run);
    vec![
        normal(run.run.to_string()),
        normal(minute(&run.started_at)),
        normal(what(run)),
        normal(run.release.as_ref().map_or(NOTHING.to_owned(), ToString::to_string)),
        normal(hosts(run)),
        (word.to_owned(), tone),
        normal(run.end.as_ref().map_or(NOTHING.to_owned(), |end| measure::seconds(end.seconds))),
        normal(escape::line(&run.who, MAX_TEXT)),
    ]
}

fn what(run: &RunRecord) -> String {
    let app = run.app.as_ref().map(|app| format!(" {app}")).unwrap_or_default();
    format!("{}{app}", run.action.as_str())
}

fn hosts(run: &RunRecord) -> String {
    let out = run.out();
    let out = if out > 0 { format!(", {out} out") } else { String::new() };
    format!("{} of {} active{out}", run.active(), run.fleet())
}

fn ending(run: &RunRecord) -> (&'static str, Tone) {
    match run.outcome {
        Outcome::Running => ("running", Tone::Normal),
        Outcome::Unknown => ("unknown", Tone::Normal),
        Outcome::CutOff if run.continued_by.is_some() => ("cut off, resumed", Tone::Normal),
        Outcome::CutOff => ("cut off", Tone::Bad),
        Outcome::Ended(Verdict::Completed) if run.out() == 0 => ("completed", Tone::Good),
        Outcome::Ended(Verdict::Completed) => ("completed", Tone::Bad),
        Outcome::Ended(Verdict::StoppedByBudget) => ("stopped by budget", Tone::Bad),
        Outcome::Ended(Verdict::RolledBack) => ("rolled back", Tone::Bad),
        Outcome::Ended(Verdict::NotApproved) => ("not approved", Tone::Bad),
        Outcome::Ended(Verdict::Interrupted) => ("interrupted", Tone::Bad),
        Outcome::Ended(Verdict::Aborted) => ("aborted", Tone::Bad),
    }
}

/// Returns a run with its hosts and why some of them dropped out.
pub(super) fn details(details: &RunDetails, width: usize, palette: Palette) -> String {
    let mut text = String::new();
    for (name, value) in facts(details) {
        text += &phrase::wrap(&format!("{name:<11}{}", escape::line(&value, MAX_TEXT)), width, 11);
        text.push('\n');
    }
    if !details.hosts.is_empty() {
        text.push('\n');
        text += &table::render(&HOSTS, details.hosts.iter().map(host_row).collect(), width, palette);
    }
    let failures: Vec<_> = details.hosts.iter().filter(|host| host.failure.is_some()).collect();
    if !failures.is_empty() {
        text.push('\n');
    }
    for host in failures {
        for line in phrase::dropped_out(&host.host, host.state, host.failure.as_ref(), palette) {
            text += &phrase::wrap(&line, width, 4);
            text.push('\n');
        }
    }
    text
}

fn facts(details: &RunDetails) -> Vec<(&'static str, String)> {
    let run = &details.run;
    let mut facts = vec![("run", run.run.to_string()), ("what", what(run))];
    facts.extend(run.release.as_ref().map(|release| ("release", release.to_string())));
    if let Some(artifact) = &run.artifact {
        facts.push(("artifact", format!("{}, {}, SHA-256 {}", artifact.path, measure::bytes(artifact.size), artifact.digest)));
    }
    let pattern = run.pattern.as_ref().map(|pattern| format!(", limited to `{pattern}`")).unwrap_or_default();
    facts.push(("inventory", format!("{}{pattern}", run.inventory)));
    facts.extend(run.playbook.as_ref().map(|playbook| ("playbook", playbook.clone())));
    facts.push(("who", run.who.clone()));
    facts.push(("command", run.command.join(" ")));
    facts.push(("started", format!("{} UTC", second(&run.started_at))));
    facts.push(("ended", end(run)));
    facts.push(("hosts", phrase::counts(run.hosts.iter().map(|(state, hosts)| (*state, *hosts)))));
    if run.waves > 1 {
        facts.push(("waves", run.waves.to_string()));
    }
    if !details.phases.is_empty() {
        let phases = details.phases.iter().map(|time| format!("{} {}", time.phase, measure::seconds(time.seconds)));
        facts.push(("phases", phases.collect::<Vec<_>>().join(", ")));
    }
    facts.extend(run.continues.as_ref().map(|earlier| ("resumes", format!("run {earlier}"))));
    facts.extend(run.continued_by.as_ref().map(|later| ("resumed by", format!("run {later}"))));
    facts
}

fn end(run: &RunRecord) -> String {
    let word = ending(run).0;
    let Some(end) = &run.end else {
        let resumable = run.outcome == Outcome::CutOff && run.continued_by.is_none() && run.action == Action::Deploy;
        let hint = if resumable { format!("; `fleetdrop resume {}` finishes it", run.run) } else { String::new() };
        return format!("{word}{hint}");
    };
    let reason = end.abort_reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{word} after {}, exit code {}{reason}", measure::seconds(end.seconds), end.exit_code)
}

fn host_row(host: &HostRecord) -> Vec<(String, Tone)> {
    let normal = |text: Option<String>| (text.unwrap_or(NOTHING.to_owned()), Tone::Normal);
    let tone = match host.state {
        HostState::Active => Tone::Good,
        state if state.is_out() => Tone::Bad,
        _ => Tone::Normal,
    };
    let state = if host.unchanged { format!("{}, unchanged", host.state) } else { host.state.to_string() };
    vec![
        normal(Some(phrase::host(&host.host))),
        (state, tone),
        normal(host.wave.map(|wave| wave.to_string())),
        normal((host.received > 0).then(|| measure::bytes(host.received))),
        normal(host.transfer_seconds.map(measure::seconds)),
        normal(host.steps.last().map(|step| format!("after {}", measure::seconds(step.at)))),
    ]
}

/// Returns an RFC 3339 time in UTC without what a table has no room for.
fn minute(time: &str) -> String {
    second(time).chars().take(16).collect()
}

fn second(time: &str) -> String {
    time.trim_end_matches('Z').replace('T', " ")
}
