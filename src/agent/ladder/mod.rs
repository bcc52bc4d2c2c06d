//! Decides when a transfer needs another way, from what the engine tells. Pure: the caller tells the time.
//!
//! A host begins with the peers, of which the controller's seed is one. Where nothing comes and the controller can't be connected to, it asks
//! for a way through SSH, and again while that is so: the controller decides who gets one, for a few hosts that have one serve their neighbours.

use std::time::Duration;

use crate::{
    model::distribution::Mode,
    swarm::{Reach, TransferStats},
    wire::FromAgent,
};

#[cfg(test)]
mod tests;

/// How long nothing may come to a host that can't connect to the controller.
const CUT_OFF: Duration = Duration::from_secs(3);
/// The pause before it asks again.
const AGAIN: Duration = Duration::from_secs(4);

/// Where a host stands.
#[derive(Debug, Default)]
pub(crate) struct Ladder {
    mode: Mode,
    /// What had arrived when something came last, and when that was; none while nothing is waited for.
    arrived: Option<(u64, Duration)>,
    /// When it asked for a way last, and why.
    asked: Option<(Duration, String)>,
}

impl Ladder {
    /// Begins at the first rung.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Notes that nothing is waited for.
    pub(crate) fn rest(&mut self) {
        self.arrived = None;
    }

    /// Judges a transfer that is waited for and returns what the controller is to be told.
    pub(crate) fn look(&mut self, now: Duration, stats: &TransferStats) -> Option<FromAgent> {
        let since = match self.arrived {
            Some((payload, at)) if payload == stats.payload => at,
            _ => now,
        };
        self.arrived = Some((stats.payload, since));
        let quiet = now.saturating_sub(since);
        let asked_lately = self.asked.as_ref().is_some_and(|(at, _)| now.saturating_sub(*at) < AGAIN);
        let Reach::Failed(why) = &stats.controller else { return None };
        if stats.complete || quiet < CUT_OFF || asked_lately {
            return None;
        }
        let reason = format!("can't connect to the controller at {why}");
        self.asked = Some((now, reason.clone()));
        Some(FromAgent::Stranded { reason, seconds: u32::try_from(quiet.as_secs()).unwrap_or(u32::MAX) })
    }

    /// Takes the way through SSH; returns what is to be told if it is a new one.
    pub(crate) fn take_way(&mut self) -> Option<FromAgent> {
        if self.mode == Mode::Ssh {
            return None;
        }
        self.mode = Mode::Ssh;
        let reason = self.asked.as_ref().map(|(_, reason)| reason.clone()).unwrap_or_default();
        Some(FromAgent::Mode { mode: self.mode, reason })
    }
}
