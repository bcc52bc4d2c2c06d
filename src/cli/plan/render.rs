//! The preview for people: a row a host, what stands in the way, the waves, the time, and whether it would go.

use super::{Report, Row};
use crate::{
    controller::{AgentPreview, OriginLook},
    model::{HostFailure, HostName, HostState, distribution::Distribution},
    report::{
        Palette, escape, measure, phrase,
        table::{self, Tone},
    },
};

const HEADER: [&str; 7] = ["host", "would", "wave", "current", "agent", "transfer", "free (needed)"];
/// What stands where there is nothing to say.
const NOTHING: &str = "-";
/// How many hosts of a wave are named.
const MAX_NAMED: usize = 8;
/// The longest shown warning, in characters.
const MAX_TEXT: usize = 500;

impl Report {
    /// Returns the preview for people.
    pub(super) fn render(&self, width: usize, palette: Palette) -> String {
        let artifact = escape::line(&self.artifact, MAX_TEXT);
        let hosts = measure::count(self.hosts.len(), "host");
        let mut text =
            format!("{artifact} ({}) to {hosts}: nothing is changed, this is what would happen\n\n", measure::bytes(self.size));
        let rows: Vec<_> = self.hosts.iter().map(row).collect();
        text += &table::render(&HEADER, rows, width, palette);
        let notes: Vec<String> = self.hosts.iter().flat_map(|row| notes(row, palette)).collect();
        let origins = self.origins.iter().flat_map(|look| origin(look, palette)).collect();
        let groups = [notes, self.waves(), origins, vec![self.way(), self.time(), self.verdict(palette)]];
        for lines in groups.iter().filter(|lines| !lines.is_empty()) {
            text.push('\n');
            lines.iter().for_each(|line| text += &(phrase::wrap(line, width, 4) + "\n"));
        }
        text
    }

    fn waves(&self) -> Vec<String> {
        let number = self.waves.len();
        let named = |wave: &Vec<HostName>| {
            let names: Vec<_> = wave.iter().take(MAX_NAMED).map(phrase::host).collect();
            let more = wave.len().saturating_sub(MAX_NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}: {}{more}", measure::count(wave.len(), "host"), names.join(", "))
        };
        let waves =
            self.waves.iter().enumerate().map(|(index, wave)| format!("wave {} of {number}: {}", index + 1, named(wave)));
        let between = match self.pause {
            _ if number < 2 => None,
            None => Some("between two waves: your word".to_owned()),
            Some(0.0) => None,
            Some(seconds) => Some(format!("between two waves: {}", measure::seconds(seconds))),
        };
        let drawn = (self.shuffled && number > 1).then(|| "the order is drawn anew for every run".to_owned());
        waves.chain(between).chain(drawn).collect()
    }

    fn way(&self) -> String {
        let Distribution { use_swarm, reason, .. } = &self.distribution;
        let what = if *use_swarm { "hosts would exchange pieces" } else { "hosts would exchange nothing" };
        format!("{what}: {reason}")
    }

    fn time(&self) -> String {
        let bytes = match self.reused {
            0 => format!("at most {}", measure::bytes(self.transfer)),
            reused => {
                let likely = measure::bytes(self.transfer.saturating_sub(reused));
                format!("about {likely}, for {} are in releases that hosts have", measure::bytes(reused))
            }
        };
        let Some(prediction) = self.prediction else { return format!("transfer: {bytes}") };
        if self.transfer == 0 {
            return "transfer: nothing".to_owned();
        }
        format!(
            "transfer: {bytes}, about {} until the last host has it if every host and this machine has {} (`--link`); logins, \
             unpacking, hooks, checks and pauses come on top",
            measure::seconds(prediction.seconds),
            bits(prediction.link),
        )
    }

    fn verdict(&self, palette: Palette) -> String {
        let switching = self.waves.iter().map(Vec::len).sum();
        let unchanged = self.hosts.iter().filter(|row| row.failure().is_none() && row.is_unchanged()).count();
        let out = measure::count(self.out, "host");
        if !self.goes {
            return palette
                .bad(format!("it would stop before anybody switches: {out} would drop out and {} may", self.max_failures));
        }
        let unchanged = if unchanged > 0 { format!(", {unchanged} up to date already") } else { String::new() };
        let out = if self.out > 0 { format!(", {out} would drop out and {} may", self.max_failures) } else { String::new() };
        palette.good(format!("it would go: {} would switch{unchanged}{out}", measure::count(switching, "host")))
    }
}

fn row(row: &Row) -> Vec<(String, Tone)> {
    let normal = |text: Option<String>| (text.unwrap_or(NOTHING.to_owned()), Tone::Normal);
    let (word, tone) = match row.failure().map(HostFailure::state) {
        Some(HostState::Unreachable) => ("be unreachable", Tone::Bad),
        Some(_) => ("fail", Tone::Bad),
        None if row.is_unchanged() => ("stay", Tone::Good),
        None => ("switch", Tone::Good),
    };
    let preview = row.preview();
    let agent = preview.map(|preview| match preview.agent {
        AgentPreview::There => "there".to_owned(),
        AgentPreview::ToCome(size) => format!("to come ({})", measure::bytes(size)),
        AgentPreview::Impossible => "can't come".to_owned(),
    });
    let transfer = preview.map(|preview| match preview {
        _ if preview.unchanged => "nothing".to_owned(),
        preview if preview.cached => "nothing: cached".to_owned(),
        // It is live already, and would be activated once more.
        preview if preview.transfer == 0 => "nothing".to_owned(),
        _ if row.reused > 0 => format!("about {}", measure::bytes(row.likely())),
        preview if preview.partial => format!("up to {}", measure::bytes(preview.transfer)),
        preview => measure::bytes(preview.transfer),
    });
    let room = preview.and_then(|preview| Some((preview.free?, preview.needed)));
    vec![
        normal(Some(phrase::host(&row.host))),
        (word.to_owned(), tone),
        normal(row.wave.map(|wave| wave.to_string())),
        normal(preview.and_then(|preview| preview.current.as_ref().map(ToString::to_string))),
        normal(agent),
        normal(transfer),
        normal(room.map(|(free, needed)| format!("{} ({})", measure::bytes(free), measure::bytes(needed)))),
    ]
}

/// Says why a host would drop out, and what else is odd about it.
fn notes(row: &Row, palette: Palette) -> Vec<String> {
    let failure = row.failure();
    let mut lines =
        failure.map_or(Vec::new(), |failure| phrase::dropped_out(&row.host, failure.state(), Some(failure), palette));
    let warnings = row.preview().map_or(&[][..], |preview| &preview.warnings);
    lines.extend(warnings.iter().flat_map(|warning| phrase::warning(Some(&row.host), warning, None, palette)));
    lines
}

/// Says what a web server is good for.
fn origin(look: &OriginLook, palette: Palette) -> Vec<String> {
    match &look.problem {
        Some(problem) => phrase::warning(None, problem, look.hint, palette),
        None => vec![escape::line(&format!("origin {}: it has the artifact, and serves parts of it", look.address), MAX_TEXT)],
    }
}

/// Returns a link's rate as links are named: `1 Gbit/s`.
fn bits(bytes_per_second: u64) -> String {
    let bits = bytes_per_second.saturating_mul(8) as f64;
    let (value, unit) = [(1e9, "Gbit/s"), (1e6, "Mbit/s")]
        .into_iter()
        .find(|(scale, _)| bits >= *scale)
        .map_or((bits / 1e3, "kbit/s"), |(scale, unit)| (bits / scale, unit));
    format!("{} {unit}", (value * 10.0).round() / 10.0)
}
