//! Run events, for people and machines: synchronous consumers of [`crate::model::Envelope`].
//!
//! Uses [`crate::model`] and nothing else of the house. Promises: memory grows with the fleet's size and nothing else; events may
//! come twice, late or for unknown hosts; text from hosts never reaches the terminal with control characters in it.

pub mod answers;
pub mod escape;
pub mod json;
pub mod measure;
mod palette;
pub(crate) mod phrase;
pub mod plain;
#[cfg(test)]
pub(crate) mod rehearsal;
pub mod releases;
mod screen;
mod speed;
pub mod status;
pub mod summary;
pub mod table;
pub mod terminal;
pub mod upkeep;
pub mod view;
mod warnings;

use std::{io, time::Duration};

pub use self::{palette::Palette, screen::Screen};
use crate::model::Envelope;

/// The width in columns where there is no terminal that would wrap a line.
pub const WIDE: usize = 120;

/// Something that shows a run. Never decides anything.
///
/// Times are counted from one fixed moment, for example the reporter's start.
pub trait Reporter: Send {
    /// Takes the next event.
    fn event(&mut self, envelope: &Envelope, now: Duration);

    /// Lets time pass. Called about every [`Reporter::tick_every`].
    fn tick(&mut self, _now: Duration) {}

    /// Returns how often [`Reporter::tick`] is worth calling.
    fn tick_every(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Ends the report; no event follows. An error means that a consumer missed events that it wanted.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Reporter + ?Sized> Reporter for Box<R> {
    fn event(&mut self, envelope: &Envelope, now: Duration) {
        (**self).event(envelope, now);
    }

    fn tick(&mut self, now: Duration) {
        (**self).tick(now);
    }

    fn tick_every(&self) -> Duration {
        (**self).tick_every()
    }

    fn finish(&mut self) -> io::Result<()> {
        (**self).finish()
    }
}

/// Two reporters that get the same events.
pub struct Both<A, B>(pub A, pub B);

impl<A: Reporter, B: Reporter> Reporter for Both<A, B> {
    fn event(&mut self, envelope: &Envelope, now: Duration) {
        self.0.event(envelope, now);
        self.1.event(envelope, now);
    }

    fn tick(&mut self, now: Duration) {
        self.0.tick(now);
        self.1.tick(now);
    }

    fn tick_every(&self) -> Duration {
        self.0.tick_every().min(self.1.tick_every())
    }

    fn finish(&mut self) -> io::Result<()> {
        let first = self.0.finish();
        self.1.finish().and(first)
    }
}

#[cfg(test)]
mod tests;
