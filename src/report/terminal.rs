//! Progress on a terminal: one bar for the fleet, one line of counts, the few slowest hosts while bytes move; failures scroll by above.
//!
//! While somebody is asked something on the same [`Screen`], nothing is drawn; what should have scrolled by comes afterwards.
//!
//! What is drawn is a pure function of the view ([`frame`]); indicatif only puts it on the screen and redraws it.

use std::time::Duration;

use console::{measure_text_width, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    Palette, Reporter, Screen, measure, phrase, summary,
    view::{Change, FleetView, HostRow, Transfer},
    warnings::Warnings,
};
use crate::model::{Envelope, HostState, RunEvent, RunSummary};

/// How many slow hosts are shown.
const SLOWEST: usize = 3;
/// The shortest bar that still says something.
const MIN_BAR: usize = 8;
/// The longest bar: more would only be farther from the figures.
const MAX_BAR: usize = 40;
/// The widest host name among the slowest.
const MAX_HOST: usize = 30;
/// Below this many columns the terminal may break lines itself.
const MIN_WRAP: usize = 20;
/// How many lines wait while somebody is asked something; the summary has what is lost.
const MAX_WAITING: usize = 200;
const REDRAW: Duration = Duration::from_millis(100);

/// Draws on a terminal.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    screen: Screen,
    /// Lines to put above the display once the question is answered.
    waiting: Vec<String>,
    width: fn() -> usize,
    palette: Palette,
    view: FleetView,
    told_failures: usize,
    warnings: Warnings,
}

impl Terminal {
    /// Makes a reporter that draws on stderr.
    pub fn stderr(palette: Palette) -> Self {
        let target = ProgressDrawTarget::term(console::Term::buffered_stderr(), 20);
        Self::on(Screen::stderr(), target, || usize::from(console::Term::stderr().size().1), palette)
    }

    /// Makes a reporter that draws on `target`, which is as wide as `width` says each time it is asked.
    pub fn new(target: ProgressDrawTarget, width: fn() -> usize, palette: Palette) -> Self {
        Self::on(Screen::default(), target, width, palette)
    }

    fn on(screen: Screen, target: ProgressDrawTarget, width: fn() -> usize, palette: Palette) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        // The template is a constant that indicatif's own parser reads; without it the default style still shows a display.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        screen.show(&bar);
        let (view, warnings) = (FleetView::default(), Warnings::default());
        Self { bar, screen, waiting: Vec::new(), width, palette, view, told_failures: 0, warnings }
    }

    fn draw(&mut self, now: Duration) {
        let Self { bar, screen, waiting, view, .. } = self;
        screen.draw(|| {
            waiting.drain(..).for_each(|line| bar.println(line));
            if view.header().is_some() && !view.is_finished() {
                bar.set_message(frame(view, (self.width)(), now, self.palette).join("\n"));
            }
        });
    }

    /// Puts lines above the display, where they stay.
    fn say<T: AsRef<str>>(&mut self, lines: impl IntoIterator<Item = T>) {
        let width = (self.width)().max(MIN_WRAP);
        let room = MAX_WAITING.saturating_sub(self.waiting.len());
        let lines = lines.into_iter().map(|line| phrase::wrap(line.as_ref(), width, 4));
        self.waiting.extend(lines.take(room));
        let Self { bar, screen, waiting, .. } = self;
        screen.draw(|| waiting.drain(..).for_each(|line| bar.println(line)));
    }

    /// Ends the display with the summary, even below a question that nobody answered.
    fn end(&mut self, end: &RunSummary) {
        self.bar.set_message("");
        self.waiting.drain(..).for_each(|line| self.bar.println(line));
        let text = summary::render(self.view.header(), end, (self.width)(), self.palette);
        self.bar.println(format!("\n{}", text.trim_end()));
        self.bar.finish_and_clear();
    }
}

impl Reporter for Terminal {
    fn event(&mut self, envelope: &Envelope, now: Duration) {
        let change = self.view.apply(envelope, now);
        match (&envelope.event, change) {
            (_, Change::Started) => {
                let started = self.view.header().map(phrase::started);
                self.say(started);
            }
            (RunEvent::HostState { host, state, failure }, Change::Host(_)) if state.is_out() => {
                self.told_failures += 1;
                if self.told_failures <= phrase::MAX_TOLD_FAILURES {
                    self.say(phrase::dropped_out(host, *state, failure.as_ref(), self.palette));
                }
                if self.told_failures == phrase::MAX_TOLD_FAILURES {
                    self.say(["further failures are told in the summary"]);
                }
            }
            (RunEvent::Warning { host, message, hint }, _) => {
                let lines = self.warnings.hear(host.as_ref(), message, hint.as_deref(), self.palette);
                self.say(lines);
            }
            (_, Change::Interrupted) => {
                let text = "interrupted: stopping cleanly, Ctrl-C again to stop at once";
                self.say([self.palette.note(text)]);
            }
            (RunEvent::RollingBack { .. }, Change::Step) => {
                let text = phrase::step(&envelope.event).map(|text| self.palette.bad(text));
                self.say(text);
            }
            (event, Change::Step) => self.say(phrase::step(event)),
            (RunEvent::RunFinished(end), Change::Finished) => {
                let repeated = self.warnings.repeated(self.palette);
                self.say(repeated);
                self.end(end);
            }
            _ => {}
        }
        // Everything else waits for the next tick: what a frame costs grows with the fleet, and so do the events.
        if change == Change::Started {
            self.draw(now);
        }
    }

    fn tick(&mut self, now: Duration) {
        self.view.pass(now);
        self.draw(now);
    }

    fn tick_every(&self) -> Duration {
        REDRAW
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.bar.finish_and_clear();
        Ok(())
    }
}

/// Returns what is drawn at `now`: at most 2 + 3 lines, none wider than `width`.
pub fn frame(view: &FleetView, width: usize, now: Duration, palette: Palette) -> Vec<String> {
    // The last column stays free: some terminals wrap when it is written.
    let width = width.saturating_sub(1).max(1);
    let mut lines = vec![total(view, width, palette), counts(view, width, now, palette)];
    lines.extend(view.slowest(SLOWEST).into_iter().map(|row| palette.dim(slow(row, view, width))));
    lines
}

/// The bar and its figures. When it gets narrow, figures go first, the bar last.
fn total(view: &FleetView, width: usize, palette: Palette) -> String {
    let transfer = view.transfer();
    let (done, total, figures) = if transfer.total > 0 {
        let mut figures = vec![
            format!("{:>3}%", phrase::percent(&transfer)),
            format!("{} of {}", measure::bytes(transfer.done), measure::bytes(transfer.total)),
        ];
        if view.is_downloading() {
            figures.push(measure::rate(view.rate()));
            figures.extend(view.eta().map(|eta| format!("{} left", measure::about(eta))));
        }
        (transfer.done, transfer.total, figures)
    } else {
        let hosts = view.header().map_or(0, |header| header.hosts);
        let done: usize = view.counts().filter(|(state, _)| state.is_final()).map(|(_, hosts)| hosts).sum();
        (done as u64, hosts as u64, vec![format!("{done} of {}", measure::count(hosts, "host"))])
    };
    // Its length depends on the terminal only: a bar that changes with every figure would flicker.
    let columns = (width * 3 / 10).clamp(MIN_BAR, MAX_BAR);
    for shown in (1..=figures.len()).rev() {
        let text = figures[..shown].join("  ");
        if measure_text_width(&text) + columns + 4 <= width {
            let (full, empty) = bar(done, total, columns);
            return format!("[{}{empty}]  {text}", palette.good(full));
        }
    }
    truncate_str(&figures[0], width, "…").into_owned()
}

/// Returns the full and the empty part of a bar that is `columns` long.
fn bar(done: u64, total: u64, columns: usize) -> (String, String) {
    let full = (u128::from(done.min(total)) * columns as u128 / u128::from(total.max(1))) as usize;
    let head = if full < columns { ">" } else { "" };
    let full = format!("{}{head}", "=".repeat(full));
    let empty = " ".repeat(columns - full.len());
    (full, empty)
}

/// The counts by state, and the time that has passed if there is room for it.
fn counts(view: &FleetView, width: usize, now: Duration, palette: Palette) -> String {
    let clock = measure::clock(now);
    let wave = view.wave().map(|(wave, waves)| format!("wave {wave} of {waves}: ")).unwrap_or_default();
    let text = format!("{wave}{}", phrase::counts(view.counts()));
    let columns = measure_text_width(&text);
    if columns > width {
        return truncate_str(&text, width, "…").into_owned();
    }
    let mark = |(state, hosts): (HostState, usize)| {
        let part = format!("{hosts} {state}");
        if state.is_out() { palette.bad(part) } else { part }
    };
    let text = wave + &view.counts().map(mark).collect::<Vec<_>>().join(", ");
    if columns + 2 + clock.len() <= width { format!("{clock}  {text}") } else { text }
}

fn slow(row: &HostRow, view: &FleetView, width: usize) -> String {
    let size = view.header().map_or(0, |header| header.size);
    let percent = phrase::percent(&Transfer { done: row.received.min(size), total: size });
    let name = phrase::host(&row.name);
    let name = truncate_str(&name, MAX_HOST, "…");
    let way = row.mode.map(|mode| format!("  {}", phrase::mode(mode))).unwrap_or_default();
    let peers = measure::count(row.peers as usize, "peer");
    let text = format!("  {name}  {percent}%  {}  {peers}{way}", measure::rate(row.rate));
    truncate_str(&text, width, "…").into_owned()
}

#[cfg(test)]
mod tests;
