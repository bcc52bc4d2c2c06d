//! The sentences that more than one reporter says. All text from elsewhere is escaped here.

use console::measure_text_width;

use super::{
    Palette, escape, measure,
    view::{FleetView, RunHeader, Transfer},
};
use crate::model::{HostFailure, HostName, HostState, RunEvent, distribution::Mode};

/// The longest shown message or hint, in characters.
pub(super) const MAX_MESSAGE: usize = 500;
/// The longest shown file or host name, in characters.
pub(super) const MAX_NAME: usize = 80;
/// How many hosts of a wave are named.
const MAX_NAMED: usize = 3;
/// How many hosts' failures are told while the run goes on; the summary has the rest.
pub(super) const MAX_TOLD_FAILURES: usize = 50;

/// Says where a host's bytes come from.
pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Peers => "from peers",
        Mode::Origin => "from origin",
        Mode::Controller => "from controller",
        Mode::Ssh => "over SSH",
    }
}

/// Returns a host's name, fit to be shown.
pub(crate) fn host(name: &HostName) -> String {
    escape::line(name.as_str(), MAX_NAME)
}

/// Says what the run is about to do.
pub(super) fn started(header: &RunHeader) -> String {
    let hosts = measure::count(header.hosts, "host");
    let release = header.release.as_ref();
    if header.action == "rollback" {
        let to = release.map_or("the release before the current one".to_owned(), |release| release.to_string());
        let app = header.app.as_ref().map(|app| format!("{app} on ")).unwrap_or_default();
        return format!("rolling back {app}{hosts} to {to}");
    }
    let artifact = header.artifact.as_deref().unwrap_or("the artifact");
    let release = release.map(|release| format!(" as {release}")).unwrap_or_default();
    format!("deploying {} ({}) to {hosts}{release}", escape::line(artifact, MAX_NAME), measure::bytes(header.size))
}

/// Says that every host which takes part is staged.
pub(super) fn barrier(hosts: usize, waves: usize) -> String {
    let waves = if waves > 1 { format!(" in {waves} waves") } else { " now".to_owned() };
    format!("everything is staged: switching {}{waves}", measure::count(hosts, "host"))
}

/// Says which step the fleet takes; `None` for other events, and for a wave that is the only one.
pub(super) fn step(event: &RunEvent) -> Option<String> {
    match event {
        RunEvent::WaveStarted { waves: 0..=1, .. } => None,
        RunEvent::WaveStarted { wave, waves, hosts } => {
            let named: Vec<_> = hosts.iter().map(host).take(MAX_NAMED + 1).collect();
            let named = if named.len() > MAX_NAMED { String::new() } else { format!(": {}", named.join(", ")) };
            Some(format!("wave {wave} of {waves}: switching {}{named}", measure::count(hosts.len(), "host")))
        }
        RunEvent::Paused { wave, waves, seconds: Some(seconds) } => {
            Some(format!("wave {wave} of {waves} begins in {}", measure::seconds(*seconds)))
        }
        RunEvent::Paused { wave, waves, seconds: None } => Some(format!("wave {wave} of {waves} waits for your word")),
        RunEvent::RollingBack { hosts, reason } => {
            let hosts = if *hosts == 0 { String::new() } else { format!("; {} active", measure::count(*hosts, "host")) };
            Some(format!("{}{hosts}", escape::line(reason, MAX_MESSAGE)))
        }
        RunEvent::SwarmStopped => Some("the swarm is switched off: hosts exchange nothing any more".to_owned()),
        _ => None,
    }
}

/// Lists how many hosts are in which state: `12 downloading, 3 staged`.
pub(crate) fn counts(counts: impl Iterator<Item = (HostState, usize)>) -> String {
    counts.map(|(state, hosts)| format!("{hosts} {state}")).collect::<Vec<_>>().join(", ")
}

/// Says how far the transfer is, in one line; `None` where nothing is to be transferred.
pub(super) fn transfer(view: &FleetView) -> Option<String> {
    let transfer = view.transfer();
    if transfer.total == 0 {
        return None;
    }
    let mut text = format!("{} of {} ({}%)", measure::bytes(transfer.done), measure::bytes(transfer.total), percent(&transfer));
    if view.is_downloading() {
        text += &format!(" at {}", measure::rate(view.rate()));
        if let Some(eta) = view.eta() {
            text += &format!(", about {} left", measure::about(eta));
        }
    }
    Some(text)
}

/// Returns how much is done in percent, rounded down: 100 only when all is there.
pub(super) fn percent(transfer: &Transfer) -> u64 {
    if transfer.total == 0 { 100 } else { (u128::from(transfer.done) * 100 / u128::from(transfer.total)) as u64 }
}

/// Says that a host dropped out, and what to do about it: one line, and one more for a hint.
pub(crate) fn dropped_out(name: &HostName, state: HostState, failure: Option<&HostFailure>, palette: Palette) -> Vec<String> {
    let who = palette.bad(format!("{} {state}", host(name)));
    let Some(failure) = failure else { return vec![who] };
    let mut lines = vec![format!("{who} while {}: {}", failure.during, escape::line(&failure.message, MAX_MESSAGE))];
    lines.extend(failure.hint.as_deref().map(|text| hint(text, palette)));
    lines
}

/// Says what an operator should know: one line, and one more for a hint.
pub(crate) fn warning(name: Option<&HostName>, message: &str, to_do: Option<&str>, palette: Palette) -> Vec<String> {
    let who = name.map(|name| format!("{}: ", host(name))).unwrap_or_default();
    warning_of(&who, message, to_do, palette)
}

/// As [`warning`], of whoever `who` names, which is printed as it is.
pub(super) fn warning_of(who: &str, message: &str, to_do: Option<&str>, palette: Palette) -> Vec<String> {
    let mut lines = vec![format!("{} {who}{}", palette.note("warning:"), escape::line(message, MAX_MESSAGE))];
    lines.extend(to_do.map(|text| hint(text, palette)));
    lines
}

/// Returns a hint's line, indented below what it belongs to.
pub(crate) fn hint(text: &str, palette: Palette) -> String {
    format!("  {} {}", palette.note("hint:"), escape::line(text, MAX_MESSAGE))
}

/// Breaks `text` into lines of at most `width` columns, at blanks where it can; lines after the first are indented. Our own
/// colours may be in it: they take no room.
pub(crate) fn wrap(text: &str, width: usize, indent: usize) -> String {
    let indent = indent.min(width / 2);
    let mut out = String::new();
    let mut used = 0;
    let break_line = |out: &mut String| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent));
        indent
    };
    for (number, word) in text.split(' ').enumerate() {
        let columns: usize = visible(word).map(|(_, columns)| columns).sum();
        if number > 0 && used + 1 + columns > width && used > indent {
            used = break_line(&mut out);
        } else if number > 0 {
            out.push(' ');
            used += 1;
        }
        for (c, columns) in visible(word) {
            if columns > 0 && used + columns > width && used > indent {
                used = break_line(&mut out);
            }
            out.push(c);
            used += columns;
        }
    }
    out
}

/// Returns each character with the columns it takes; those of a colour's sequence (ESC to its `m`) take none.
fn visible(text: &str) -> impl Iterator<Item = (char, usize)> {
    text.chars().scan(false, |in_sequence, c| {
        *in_sequence |= c == '\u{1b}';
        let columns = if *in_sequence { 0 } else { measure_text_width(c.encode_utf8(&mut [0; 4])) };
        *in_sequence &= c != 'm';
        Some((c, columns))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_step_of_the_fleet_in_one_line() {
        let hosts = |number: usize| (1..=number).map(|n| HostName::new(&format!("web{n}")).unwrap()).collect::<Vec<_>>();
        let wave = |wave, waves, number| step(&RunEvent::WaveStarted { wave, waves, hosts: hosts(number) });
        assert_eq!(wave(1, 1, 4), None, "the barrier's line says it all");
        assert_eq!(wave(1, 3, 2).unwrap(), "wave 1 of 3: switching 2 hosts: web1, web2");
        assert_eq!(wave(2, 3, 10).unwrap(), "wave 2 of 3: switching 10 hosts");
        let paused = |seconds| step(&RunEvent::Paused { wave: 2, waves: 3, seconds }).unwrap();
        assert_eq!(paused(Some(10.0)), "wave 2 of 3 begins in 10.0 s");
        assert_eq!(paused(None), "wave 2 of 3 waits for your word");
        let back = |hosts| step(&RunEvent::RollingBack { hosts, reason: "the run is rolled back: \u{1b}[2J".into() }).unwrap();
        assert_eq!(back(0), r"the run is rolled back: \u{1b}[2J");
        assert_eq!(back(3), r"the run is rolled back: \u{1b}[2J; 3 hosts active");
        assert_eq!(barrier(1, 1), "everything is staged: switching 1 host now");
        assert_eq!(barrier(9, 3), "everything is staged: switching 9 hosts in 3 waves");
    }

    #[test]
    fn text_is_broken_at_blanks_and_long_words_anywhere() {
        assert_eq!(wrap("one two three", 7, 2), "one two\n  three");
        assert_eq!(wrap("hosts       5: 4 active", 16, 12), "hosts       5: 4\n        active");
        assert_eq!(wrap("abcdefghij", 4, 1), "abcd\n efg\n hij");
        assert_eq!(wrap("大きい大きい", 4, 0), "大き\nい大\nきい");
        assert_eq!(wrap("", 4, 0), "");
        assert_eq!(wrap("\u{1b}[31mone\u{1b}[0m two", 7, 0), "\u{1b}[31mone\u{1b}[0m two");
        assert_eq!(wrap("\u{1b}[31mone\u{1b}[0m two", 6, 0), "\u{1b}[31mone\u{1b}[0m\ntwo");
    }

    proptest! {
        #[test]
        fn no_line_is_too_wide_and_no_character_is_lost(text in "[a-zé大 ]{0,60}", width in 4usize..30, indent in 0usize..12) {
            let wrapped = wrap(&text, width, indent);
            prop_assert!(wrapped.lines().all(|line| measure_text_width(line) <= width), "{wrapped:?}");
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&wrapped), letters(&text));
        }
    }
}
