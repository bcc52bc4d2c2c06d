//! When a node tells which neighbour of its pieces: as the real connection's writer does.
//!
//! Announcements go along with whatever is sent to a neighbour anyway. Alone they wait for others, as the policy's pace says.

use std::time::Duration;

use super::{event::Time, nanoseconds};
use crate::swarm::policy::pace::Pace;

/// Neighbours that may be told within so long of each other are told at the same time: the node has one event for them all.
const TOGETHER: Time = 10_000_000;

/// A part of a node's [`super::log::Log`]: where it begins and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// One connection.
#[derive(Debug)]
struct Neighbour {
    id: u32,
    /// How much of the log it was told.
    told: u32,
    /// When it may be told more without anything else to send.
    due: Time,
}

/// A node's connections and what they were told.
#[derive(Debug)]
pub(super) struct Announcer {
    neighbours: Vec<Neighbour>,
    /// How long the log is.
    length: u32,
    pace: Pace,
    /// How long announcements wait for others.
    pause: Time,
    /// No neighbour is due before.
    quiet_until: Time,
    /// Whether an event was asked for that has not come yet.
    armed: bool,
}

impl Announcer {
    pub(super) fn new(neighbours: &[u32], pieces: u32) -> Self {
        let neighbours = neighbours.iter().map(|id| Neighbour { id: *id, told: 0, due: 0 }).collect();
        Self { neighbours, length: 0, pace: Pace::new(pieces), pause: 0, quiet_until: 0, armed: false }
    }

    /// Returns the neighbours.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = u32> + '_ {
        self.neighbours.iter().map(|neighbour| neighbour.id)
    }

    /// Forgets a neighbour; false if it was none.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        let Some(at) = self.neighbours.iter().position(|neighbour| neighbour.id == id) else { return false };
        self.neighbours.swap_remove(at);
        true
    }

    /// Adds a piece; returns its place in the log.
    pub(super) fn add(&mut self, now: Time) -> u32 {
        self.pause = nanoseconds(self.pace.verified(Duration::from_nanos(now)));
        self.length += 1;
        self.length - 1
    }

    /// Returns what goes along with a message to a neighbour.
    pub(super) fn along(&mut self, now: Time, id: u32) -> Option<Batch> {
        // Who came with everything has nothing to announce, and may have very many neighbours.
        if self.length == 0 {
            return None;
        }
        let neighbour = self.neighbours.iter_mut().find(|neighbour| neighbour.id == id)?;
        let batch = neighbour.tell(now, self.length, self.pause)?;
        self.quiet_until = self.quiet_until.min(neighbour.due);
        Some(batch)
    }

    /// Tells the neighbours that may be told something now; returns when to call again, if it was not said before.
    pub(super) fn tell_due(&mut self, now: Time, told: &mut Vec<(u32, Batch)>) -> Option<Time> {
        if now >= self.quiet_until {
            let due = self.neighbours.iter_mut().filter(|neighbour| neighbour.due <= now + TOGETHER);
            told.extend(due.filter_map(|neighbour| Some((neighbour.id, neighbour.tell(now, self.length, self.pause)?))));
            self.quiet_until = self.neighbours.iter().map(|neighbour| neighbour.due).min().unwrap_or(Time::MAX);
        }
        let waiting = self.neighbours.iter().filter(|neighbour| neighbour.told < self.length);
        let wake = if self.armed { None } else { waiting.map(|neighbour| neighbour.due).min() };
        self.armed |= wake.is_some();
        wake
    }

    /// Notes that the event came that [`Announcer::tell_due`] asked for.
    pub(super) fn woken(&mut self) {
        self.armed = false;
    }
}

impl Neighbour {
    fn tell(&mut self, now: Time, length: u32, pause: Time) -> Option<Batch> {
        let batch = Batch { first: self.told, count: length - self.told };
        if batch.count == 0 {
            return None;
        }
        self.told = length;
        self.due = now + pause;
        Some(batch)
    }
}
