//! The tables for people.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use crate::{results::Results, target::Judged};

/// Draws what was measured on one fleet, a line a contender and class of hosts.
pub(crate) fn draw(results: &Results) -> Table {
    let has_classes = results.shape.representatives().len() > 1;
    let has_origin = results.shape.origin_rate_kbit().is_some();
    let has_zones = results.shape.zone_link_kbit().is_some();
    let mut header = vec!["contender"];
    header.extend(has_classes.then_some("hosts"));
    header.extend(["rounds", "median host, s", "slowest host, s", "slowest / median", "x floor"]);
    header.extend(["whole command, s", "x floor", "controller sent, x file"]);
    header.extend(has_origin.then_some("origin sent, x file"));
    header.extend(has_zones.then_some("between zones, x file"));
    header.extend(["CPU s/GB", "of it controller", "controller MiB", "host MiB", "CPUs busy", "with others"]);
    let mut table = table(&header);
    for line in &results.summary {
        let mut row = vec![format!("`{}`", line.contender.name())];
        row.extend(has_classes.then(|| line.class.name().to_owned()));
        row.extend([
            line.rounds.to_string(),
            format!("{:.2}", line.median_host_seconds),
            format!("{:.2}", line.slowest_host_seconds),
            format!("{:.3}", line.slowest_to_median),
            optional(line.ratio_to_floor),
            optional(line.whole_seconds),
            optional(line.whole_to_floor),
            format!("{:.2}", line.controller_sent_copies),
        ]);
        row.extend(has_origin.then(|| optional(line.origin_sent_copies)));
        row.extend(has_zones.then(|| optional(line.crossed_copies)));
        row.extend([
            optional(line.cpu_seconds_per_gb),
            optional(line.controller_cpu_seconds_per_gb),
            mebibytes(line.controller_peak_memory),
            mebibytes(line.host_peak_memory),
            percent(line.busy),
            percent(line.others),
        ]);
        table.add_row(row);
    }
    table
}

/// Draws the targets, a line each.
pub(crate) fn draw_targets(judged: &[Judged]) -> Table {
    let mut table = table(&["scenario", "what", "measured", "target", "met"]);
    for row in judged {
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        };
        let measured = row.measured.map_or("not measured".to_owned(), |value| format!("{value:.3}"));
        table.add_row([row.scenario, row.what.as_str(), &measured, row.target.as_str(), met].map(str::to_owned));
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table
}

/// Draws where agents died, with how many deaths there were and how many promises broke.
#[cfg(feature = "failpoints")]
pub(crate) fn draw_kills(rows: &std::collections::BTreeMap<String, (usize, usize)>) -> Table {
    let mut table = table(&["place", "kills", "violations"]);
    for (place, (kills, violations)) in rows {
        table.add_row([place.clone(), kills.to_string(), violations.to_string()]);
    }
    table
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn optional(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.2}"))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
