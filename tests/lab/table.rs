//! What the rounds come to: one table for people, one JSON file for programs.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

use crate::contender::{Contender, Round};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    /// The format's version.
    pub(crate) version: u32,
    /// How many hosts.
    pub(crate) hosts: usize,
    /// Mbit/s of each link and direction.
    pub(crate) rate_mbit: u32,
    /// The file's length in bytes.
    pub(crate) size: u64,
    /// The torrent's piece length in bytes.
    pub(crate) piece_length: u32,
    /// What was measured, round by round.
    pub(crate) rounds: Vec<Measured>,
    /// One line a contender.
    pub(crate) summary: Vec<Summary>,
}

/// One contender's round.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    contender: Contender,
    round: usize,
    /// Seconds, in the order of the hosts.
    seconds: Vec<f64>,
    /// Seconds of the whole command, where that is more than the transfer.
    whole_seconds: Option<f64>,
    controller_sent: u64,
}

impl Measured {
    /// Notes a round.
    pub(crate) fn new(contender: Contender, round: usize, measured: &Round) -> Self {
        let seconds = measured.times.hosts.iter().map(Duration::as_secs_f64).collect();
        let whole_seconds = measured.times.whole.map(|whole| whole.as_secs_f64());
        Self { contender, round, seconds, whole_seconds, controller_sent: measured.controller_sent }
    }

    fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }
}

/// One contender over all rounds: medians.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    contender: Contender,
    rounds: usize,
    /// The median over the rounds of the median host's seconds.
    median_host_seconds: f64,
    /// The median over the rounds of the slowest host's seconds.
    slowest_host_seconds: f64,
    /// The slowest host's time over the floor's.
    ratio_to_floor: Option<f64>,
    /// The median of the whole command's seconds, where that is more than the transfer.
    whole_seconds: Option<f64>,
    /// Bytes on the controller's link.
    controller_sent: f64,
}

/// Sums up `rounds`.
pub(crate) fn summarize(rounds: &[Measured]) -> Vec<Summary> {
    let mut contenders: Vec<Contender> = Vec::new();
    for round in rounds {
        if !contenders.contains(&round.contender) {
            contenders.push(round.contender);
        }
    }
    let of = |contender| rounds.iter().filter(move |round: &&Measured| round.contender == contender);
    let floor = of(Contender::Http).map(Measured::slowest).collect::<Vec<_>>();
    let floor = (!floor.is_empty()).then(|| median(floor));
    contenders
        .into_iter()
        .map(|contender| {
            let slowest = median(of(contender).map(Measured::slowest).collect());
            let whole: Vec<f64> = of(contender).filter_map(|round| round.whole_seconds).collect();
            Summary {
                contender,
                rounds: of(contender).count(),
                median_host_seconds: median(of(contender).map(|round| median(round.seconds.clone())).collect()),
                slowest_host_seconds: slowest,
                ratio_to_floor: floor.map(|floor| slowest / floor),
                whole_seconds: (!whole.is_empty()).then(|| median(whole)),
                controller_sent: median(of(contender).map(|round| round.controller_sent as f64).collect()),
            }
        })
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// Draws the table.
pub(crate) fn draw(results: &Results) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "contender",
        "rounds",
        "median host, s",
        "slowest host, s",
        "x floor",
        "whole command, s",
        "controller sent, MiB",
        "x file",
    ]);
    for line in &results.summary {
        table.add_row([
            line.contender.name(),
            line.rounds.to_string(),
            format!("{:.2}", line.median_host_seconds),
            format!("{:.2}", line.slowest_host_seconds),
            line.ratio_to_floor.map_or("-".into(), |ratio| format!("{ratio:.2}")),
            line.whole_seconds.map_or("-".into(), |seconds| format!("{seconds:.2}")),
            format!("{:.1}", line.controller_sent / f64::from(1 << 20)),
            format!("{:.2}", line.controller_sent / results.size as f64),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
