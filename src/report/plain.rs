//! Plain lines for logs and pipes: what changes the picture, and a heartbeat every 30 seconds. Never redraws anything.

use std::{io::Write, time::Duration};

use super::{
    Palette, Reporter, measure, phrase, summary,
    view::{Change, FleetView},
    warnings::Warnings,
};
use crate::model::{Envelope, HostFailure, HostName, HostState, PhaseTime, RunEvent};

/// How often something is said even if nothing happens: CI systems kill what is silent.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// In fleets up to this size each host's activation has its line.
const SMALL_FLEET: usize = 16;

/// Writes plain lines to `out`.
#[derive(Debug)]
pub struct Plain<W> {
    out: W,
    palette: Palette,
    width: usize,
    quiet: bool,
    view: FleetView,
    next_heartbeat: Duration,
    told_failures: usize,
    warnings: Warnings,
}

impl<W: Write + Send> Plain<W> {
    /// Makes a reporter that writes to `out`, its summary `width` columns wide; a quiet one tells failures and the summary only.
    pub fn new(out: W, palette: Palette, width: usize, quiet: bool) -> Self {
        let (view, warnings) = (FleetView::default(), Warnings::default());
        Self { out, palette, width, quiet, view, next_heartbeat: HEARTBEAT, told_failures: 0, warnings }
    }

    /// Writes lines, the first with the time since the start. A log that can't be written must not stop a deploy: errors are dropped.
    fn say<T: AsRef<str>>(&mut self, now: Duration, lines: impl IntoIterator<Item = T>) {
        let stamp = format!("[{}]", measure::clock(now));
        let mut text = String::new();
        for (number, line) in lines.into_iter().enumerate() {
            let stamp = if number == 0 { self.palette.dim(&stamp) } else { " ".repeat(stamp.len()) };
            text += &format!("{stamp} {}\n", line.as_ref());
        }
        // One write: lines of a log that share this stream don't get in between.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn host(&mut self, now: Duration, name: &HostName, state: HostState, failure: Option<&HostFailure>) {
        match state {
            out if out.is_out() => {
                self.told_failures += 1;
                if self.told_failures <= phrase::MAX_TOLD_FAILURES {
                    self.say(now, phrase::dropped_out(name, state, failure, self.palette));
                }
                if self.told_failures == phrase::MAX_TOLD_FAILURES {
                    self.say(now, ["further failures are told in the summary"]);
                }
            }
            HostState::Active if !self.quiet && self.is_small() => {
                let line = self.palette.good(format!("{} {state}", phrase::host(name)));
                self.say(now, [line]);
            }
            _ => {}
        }
    }

    fn is_small(&self) -> bool {
        self.view.header().is_some_and(|header| header.hosts <= SMALL_FLEET)
    }

    fn phase_ended(&mut self, now: Duration, time: &PhaseTime) {
        let took = format!("{} took {}", time.phase.as_str(), measure::seconds(time.seconds));
        self.say(now, [format!("{took}; hosts: {}", phrase::counts(self.view.counts()))]);
    }

    fn say_loud(&mut self, now: Duration, text: &str) {
        if !self.quiet {
            self.say(now, [text]);
        }
    }
}

impl<W: Write + Send> Reporter for Plain<W> {
    fn event(&mut self, envelope: &Envelope, now: Duration) {
        let change = self.view.apply(envelope, now);
        match (&envelope.event, change) {
            (RunEvent::RunStarted { .. }, Change::Started) => {
                let text = self.view.header().map(phrase::started).unwrap_or_default();
                self.say_loud(now, &text);
            }
            (RunEvent::HostState { host, state, failure }, Change::Host(_)) => self.host(now, host, *state, failure.as_ref()),
            (RunEvent::BarrierMet { hosts, waves }, Change::Barrier) => self.say_loud(now, &phrase::barrier(*hosts, *waves)),
            (RunEvent::RollingBack { .. }, Change::Step) => self.say(now, phrase::step(&envelope.event)),
            (event, Change::Step) => {
                if let Some(text) = phrase::step(event) {
                    self.say_loud(now, &text);
                }
            }
            (RunEvent::Interrupted, Change::Interrupted) => {
                self.say(now, ["interrupted: stopping cleanly, once more to stop at once"])
            }
            (RunEvent::PhaseEnded(time), _) if !self.quiet => self.phase_ended(now, time),
            (RunEvent::Warning { host, message, hint }, _) if !self.quiet => {
                let lines = self.warnings.hear(host.as_ref(), message, hint.as_deref(), self.palette);
                if !lines.is_empty() {
                    self.say(now, lines);
                }
            }
            (RunEvent::RunFinished(end), Change::Finished) => {
                for line in self.warnings.repeated(self.palette) {
                    self.say(now, [line]);
                }
                let text = format!("\n{}", summary::render(self.view.header(), end, self.width, self.palette));
                let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
            }
            _ => {}
        }
    }

    fn tick(&mut self, now: Duration) {
        self.view.pass(now);
        if self.quiet || self.view.is_finished() || now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = now + HEARTBEAT;
        let counts = phrase::counts(self.view.counts());
        let counts = if counts.is_empty() { "getting ready".to_owned() } else { counts };
        let transfer = phrase::transfer(&self.view).filter(|_| self.view.is_downloading());
        self.say(now, [transfer.map_or(counts.clone(), |transfer| format!("{counts}; {transfer}"))]);
    }

    fn tick_every(&self) -> Duration {
        Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests;
