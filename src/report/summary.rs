//! The end of a run: failures first, then totals, then what it all means in one sentence.

use std::collections::HashMap;

use super::{
    Palette, escape, measure,
    phrase::{self, MAX_MESSAGE},
    table::{self, Tone},
    view::RunHeader,
};
use crate::model::{
    ByteCounts, HostFailure, HostName, HostResult, HostState, RunSummary, Verdict,
    distribution::{Distribution, Mode},
};

/// How many different failures are shown.
const MAX_GROUPS: usize = 20;
/// How many hosts are named for one failure.
const MAX_NAMED: usize = 8;
/// How many hosts are named in the middle of a line.
const MAX_NAMED_BESIDE: usize = 3;
/// For how many failures the host's last lines are shown.
const MAX_LOGS: usize = 5;
/// How many last lines are shown for a host.
const MAX_LOG_LINES: usize = 10;
/// The longest shown log line, in characters.
const MAX_LOG_LINE: usize = 200;
/// Below this many columns failures are not laid out as a table.
const NARROW: usize = 72;
/// Where the totals' text begins.
const LABEL: usize = 12;

/// Returns the summary as lines of at most about `width` columns. `header` is what the run's first event said, if it was seen.
pub fn render(header: Option<&RunHeader>, summary: &RunSummary, width: usize, palette: Palette) -> String {
    let width = width.max(20);
    let groups = group(&summary.hosts);
    let mut text = String::new();
    if !groups.is_empty() {
        text += &if width < NARROW { narrow_failures(&groups, width, palette) } else { failures(&groups, width, palette) };
        text += &last_lines(&groups, width, palette);
        text.push('\n');
    }
    for (label, value) in totals(header, summary) {
        let line = phrase::wrap(&format!("{label:LABEL$}{value}"), width, LABEL);
        let (label, rest) = line.split_at(LABEL.min(line.len()));
        text += &format!("{}{rest}\n", palette.strong(label));
    }
    let mut outcome = outcome(header, summary);
    if summary.exit_code != 0 {
        // Blanks that don't break a line; they become blanks again below.
        outcome += &format!(" (exit\u{a0}code\u{a0}{})", summary.exit_code);
    }
    let outcome = phrase::wrap(&outcome, width, 0).replace('\u{a0}', " ");
    let outcome = if summary.exit_code == 0 { palette.good(outcome) } else { palette.bad(outcome) };
    text + "\n" + &outcome + "\n"
}

/// Hosts that dropped out in the same way.
struct Group<'a> {
    state: HostState,
    failure: Option<&'a HostFailure>,
    hosts: Vec<&'a HostName>,
    /// What these hosts wrote last, each text once with the hosts that wrote it.
    logs: Vec<(&'a [String], Vec<&'a HostName>)>,
}

/// Puts hosts together whose failure reads the same, in inventory order of their first.
fn group(hosts: &[HostResult]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut index = HashMap::new();
    for result in hosts.iter().filter(|result| result.state.is_out()) {
        let failure = result.failure.as_ref();
        let key = (result.state, failure.map(|failure| (failure.during, &failure.message, &failure.hint)));
        let position = *index.entry(key).or_insert_with(|| {
            groups.push(Group { state: result.state, failure, hosts: Vec::new(), logs: Vec::new() });
            groups.len() - 1
        });
        let group = &mut groups[position];
        group.hosts.push(&result.host);
        group.wrote(&result.host, failure.map_or(&[], |failure| &failure.log_tail));
    }
    groups
}

impl<'a> Group<'a> {
    fn wrote(&mut self, host: &'a HostName, lines: &'a [String]) {
        let is_full = self.logs.len() == MAX_LOGS;
        match self.logs.iter_mut().find(|(log, _)| *log == lines) {
            Some((_, hosts)) => hosts.push(host),
            None if lines.is_empty() || is_full => {}
            None => self.logs.push((lines, vec![host])),
        }
    }
}

fn failures(groups: &[Group<'_>], width: usize, palette: Palette) -> String {
    let row = |group: &Group<'_>| {
        let during = group.failure.map_or(String::new(), |failure| failure.during.to_string());
        vec![
            (names(&group.hosts), Tone::Normal),
            (group.state.to_string(), Tone::Bad),
            (during, Tone::Normal),
            (what_happened(group.failure), Tone::Normal),
        ]
    };
    let rows = groups.iter().take(MAX_GROUPS).map(row).collect();
    let text = table::render(&["host", "state", "during", "what happened"], rows, width, palette);
    text + &more(groups)
}

/// The same without columns: where they would hold half a word each.
fn narrow_failures(groups: &[Group<'_>], width: usize, palette: Palette) -> String {
    let mut text = String::new();
    for group in groups.iter().take(MAX_GROUPS) {
        let during = group.failure.map_or(String::new(), |failure| format!(" while {}", failure.during));
        let names = names(&group.hosts).replace('\n', ", ");
        text += &palette.bad(phrase::wrap(&format!("{names}: {}{during}", group.state), width, 2));
        text.push('\n');
        for line in what_happened(group.failure).lines() {
            text += &format!("{}\n", phrase::wrap(&format!("  {line}"), width, 2));
        }
    }
    text + &more(groups)
}

fn more(groups: &[Group<'_>]) -> String {
    let rest = groups.get(MAX_GROUPS..).unwrap_or_default().iter().map(|group| group.hosts.len()).sum();
    match rest {
        0 => String::new(),
        hosts => format!("and {} more; `--output json` names each\n", measure::count(hosts, "host")),
    }
}

/// Names hosts, one a line: the table's column stays narrow.
fn names(hosts: &[&HostName]) -> String {
    let mut lines: Vec<_> = hosts.iter().take(MAX_NAMED).map(|name| phrase::host(name)).collect();
    if hosts.len() > MAX_NAMED {
        lines.push(format!("and {} more", hosts.len() - MAX_NAMED));
    }
    lines.join("\n")
}

fn what_happened(failure: Option<&HostFailure>) -> String {
    let Some(failure) = failure else { return "no reason was given".into() };
    let mut text = escape::line(&failure.message, MAX_MESSAGE);
    if let Some(hint) = &failure.hint {
        text += &format!("\nhint: {}", escape::line(hint, MAX_MESSAGE));
    }
    text
}

fn last_lines(groups: &[Group<'_>], width: usize, palette: Palette) -> String {
    let mut text = String::new();
    for (lines, hosts) in spread(groups) {
        let who = names(hosts).replace('\n', ", ");
        text += &format!("\n{}\n", palette.strong(phrase::wrap(&format!("last lines of {who}:"), width, 2)));
        for line in &lines[lines.len().saturating_sub(MAX_LOG_LINES)..] {
            let line = escape::line(line, MAX_LOG_LINE);
            text += &format!("  {}\n", palette.dim(phrase::wrap(&line, width.saturating_sub(2), 4)));
        }
    }
    text
}

/// Chooses what is shown of the hosts' last lines: the first text of every failure, then the second ones, and so on.
fn spread<'a, 'b>(groups: &'b [Group<'a>]) -> impl Iterator<Item = &'b (&'a [String], Vec<&'a HostName>)> {
    (0..MAX_LOGS).flat_map(|turn| groups.iter().filter_map(move |group| group.logs.get(turn))).take(MAX_LOGS)
}

fn totals(header: Option<&RunHeader>, summary: &RunSummary) -> Vec<(&'static str, String)> {
    let mut lines = vec![("hosts", hosts(summary))];
    let bytes = &summary.bytes;
    let sources = [
        ("from peers", bytes.from_peers),
        ("from controller", bytes.from_controller),
        ("over SSH", bytes.from_ssh),
        ("from origin", bytes.from_origin),
        ("from disk", bytes.from_disk),
    ];
    let sum = sources.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if sum > 0 {
        let parts = sources.iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<_> = parts.map(|(source, bytes)| format!("{} {source}", measure::bytes(*bytes))).collect();
        lines.push(("bytes", format!("{}: {}", measure::bytes(sum), parts.join(", "))));
    }
    lines.extend(origin(bytes).map(|text| ("origin", text)));
    if summary.controller_sent > 0 {
        let size = header.map_or(0, |header| header.size);
        let times = if size > 0 {
            format!(", {:.1} times the artifact", summary.controller_sent as f64 / size as f64)
        } else {
            String::new()
        };
        lines.push(("controller", format!("sent {}{times}", measure::bytes(summary.controller_sent))));
    }
    let direct = header.and_then(|header| header.distribution.as_ref()).filter(|decided| !decided.use_swarm);
    if let Some(decided) = direct {
        let reason = escape::line(&decided.reason, MAX_MESSAGE);
        let sources = match decided {
            Distribution { origin_only: true, .. } => "from origin",
            Distribution { origins: true, .. } => "from origin and controller",
            _ => "from controller",
        };
        lines.push(("swarm", format!("none, {sources} alone: {reason}")));
    }
    lines.extend(modes(summary).map(|text| ("fallback", text)));
    let agents = summary.agents;
    let ways = [(agents.over_ssh, "over SSH"), (agents.from_hosts, "from hosts")].into_iter().filter(|(hosts, _)| *hosts > 0);
    let ways: Vec<_> = ways.map(|(hosts, way)| format!("{hosts} {way}")).collect();
    if !ways.is_empty() {
        lines.push(("agent", ways.join(", ")));
    }
    if summary.waves > 1 {
        let came_to = summary.hosts.iter().filter(|host| host.state != HostState::Skipped).filter_map(|host| host.wave).max();
        lines.push(("waves", format!("{} of {}", came_to.unwrap_or_default(), summary.waves)));
    }
    if let Some((host, seconds)) = &summary.slowest {
        lines.push(("slowest", format!("{}, {}", phrase::host(host), measure::seconds(*seconds))));
    }
    lines.push(("time", times(summary)));
    lines
}

fn hosts(summary: &RunSummary) -> String {
    let counts = phrase::counts(summary.counts.iter().map(|(state, hosts)| (*state, *hosts)).filter(|(_, hosts)| *hosts > 0));
    let unchanged = match unchanged(summary) {
        0 => String::new(),
        hosts => format!(", {hosts} of them unchanged"),
    };
    let hosts = summary.hosts.len();
    if counts.is_empty() { hosts.to_string() } else { format!("{hosts}: {counts}{unchanged}") }
}

/// Says what part of all that came over the network came from origins, and what direct downloads of the same would have cost them.
fn origin(bytes: &ByteCounts) -> Option<String> {
    let (from_origin, all) = (bytes.from_origin, bytes.moved());
    if from_origin == 0 {
        return None;
    }
    let percent = u128::from(from_origin) * 100 / u128::from(all.max(1));
    let cost = if from_origin == all {
        String::new()
    } else {
        format!("; direct downloads would have cost it {}", measure::bytes(all))
    };
    Some(format!("sent {}, {percent}% of what came{cost}", measure::bytes(from_origin)))
}

/// Says for each way that hosts had to take how many did, and why the first of them had to. Few are named.
fn modes(summary: &RunSummary) -> impl Iterator<Item = String> {
    Mode::ALL.into_iter().filter_map(|mode| {
        let took = summary.hosts.iter().filter(|host| host.mode == mode && host.mode_reason.is_some());
        let hosts: Vec<_> = took.collect();
        let reason = escape::line(hosts.first()?.mode_reason.as_ref()?, MAX_MESSAGE);
        let names: Vec<_> = hosts.iter().map(|host| phrase::host(&host.host)).take(MAX_NAMED_BESIDE + 1).collect();
        let names = if names.len() > MAX_NAMED_BESIDE { String::new() } else { format!(" ({})", names.join(", ")) };
        Some(format!("{} {}{names}: {reason}", measure::count(hosts.len(), "host"), phrase::mode(mode)))
    })
}

fn times(summary: &RunSummary) -> String {
    let phases = summary.phases.iter().map(|time| format!("{} {}", time.phase.as_str(), measure::seconds(time.seconds)));
    let phases: Vec<_> = phases.collect();
    let total = measure::seconds(summary.seconds);
    if phases.is_empty() { total } else { format!("{total}: {}", phases.join(", ")) }
}

fn unchanged(summary: &RunSummary) -> usize {
    summary.hosts.iter().filter(|host| host.unchanged).count()
}

/// Says in one sentence what is live now and why.
pub fn outcome(header: Option<&RunHeader>, summary: &RunSummary) -> String {
    let unchanged = unchanged(summary);
    let active = summary.hosts.iter().filter(|host| host.state == HostState::Active).count();
    let switched = active.saturating_sub(unchanged);
    let live = live(header, switched);
    match summary.verdict {
        Verdict::Completed if active == 0 => format!("no host was switched: {}", dropped(summary)),
        Verdict::Completed => {
            let already = match (switched, unchanged) {
                (_, 0) => live,
                (0, hosts) => format!("nothing to do: {} already had it", measure::count(hosts, "host")),
                (_, hosts) => format!("{live}, {} already had it", measure::count(hosts, "host")),
            };
            let dropped = dropped(summary);
            if dropped.is_empty() { already } else { format!("{already}; {dropped}") }
        }
        Verdict::StoppedByBudget => {
            let budget = header.map_or(String::new(), |header| format!(" and the failure budget is {}", header.max_failures));
            format!("{}: {}{budget}", so_far(switched, &live), dropped(summary))
        }
        Verdict::RolledBack if switched == 0 => format!("rolled back: {}", dropped(summary)),
        Verdict::RolledBack => format!("rolled back, but {live}: {}", dropped(summary)),
        Verdict::NotApproved => format!("stopped before the next wave: {}", so_far(switched, &live)),
        Verdict::Interrupted if !summary.counts.contains_key(&HostState::Reverted) => {
            format!("interrupted: {}", so_far(switched, &live))
        }
        Verdict::Interrupted if switched == 0 => format!("interrupted: {}", dropped(summary)),
        Verdict::Interrupted => format!("interrupted: {live}; {}", dropped(summary)),
        Verdict::Aborted => {
            let reason = summary.abort_reason.as_deref().unwrap_or("the run could not go on");
            format!("stopped: {}; {}", escape::line(reason, MAX_MESSAGE), so_far(switched, &live))
        }
    }
}

fn so_far(switched: usize, live: &str) -> String {
    if switched == 0 { "nobody was switched".into() } else { live.to_owned() }
}

/// Says that so many hosts run what the run wanted.
fn live(header: Option<&RunHeader>, switched: usize) -> String {
    let are = if switched == 1 { "is" } else { "are" };
    let hosts = measure::count(switched, "host");
    let release = header.and_then(|header| header.release.as_ref());
    let rollback = header.is_some_and(|header| header.action == "rollback");
    match (rollback, release) {
        (false, Some(release)) => format!("{hosts} {are} live on {release}"),
        (false, None) => format!("{hosts} {are} live on the new release"),
        (true, Some(release)) => format!("{hosts} {are} back on {release}"),
        (true, None) => format!("{hosts} {are} back on the previous release"),
    }
}

/// Says how many hosts dropped out in which way; empty if none did.
fn dropped(summary: &RunSummary) -> String {
    let count = |state| summary.counts.get(&state).copied().unwrap_or(0);
    let mut parts = Vec::new();
    if count(HostState::Failed) > 0 {
        parts.push(format!("{} failed", measure::count(count(HostState::Failed), "host")));
    }
    match count(HostState::Unreachable) {
        0 => {}
        1 => parts.push("1 host was unreachable".into()),
        hosts => parts.push(format!("{hosts} hosts were unreachable")),
    }
    if count(HostState::Reverted) > 0 {
        parts.push(format!("{} went back to the old release", measure::count(count(HostState::Reverted), "host")));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests;
