//! Decides when a transfer needs another way, from what the engine tells. Pure: the caller tells the time.
//!
//! A host begins with the peers, of which the controller's seed is one, and with what origins add. Where that stands still, or would end
//! much later than a direct download, it climbs, one rung at a time and never down again:
//!
//! 1. *direct from origins*, if one can be hoped for: whatever is missing is asked of them, as much as they bear;
//! 2. *from the controller's web server*;
//! 3. *through SSH*, for a host that can't connect to the controller. It asks, and again while that is so: the controller decides who gets a
//!    way, for a few hosts that have one serve their neighbours.
//!
//! What is on a lower rung goes on: each piece counts when it comes first, from wherever, and none is asked for that is there. A host that
//! can't connect to the controller and gets nothing needs no long look: it climbs at once.

use std::time::Duration;

use crate::{
    model::distribution::{DEFAULT_STALL_TIMEOUT, Mode},
    swarm::{Reach, TransferStats, policy::Direct},
    wire::FromAgent,
};

#[cfg(test)]
mod tests;

/// How long nothing may come to a host that can't connect to the controller, on each rung.
const CUT_OFF: Duration = Duration::from_secs(3);
/// The pause before it asks again for a way.
const AGAIN: Duration = Duration::from_secs(4);

/// What the ladder goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// How long nothing may come, and how much earlier a direct download would have to end, for as long.
    pub(crate) stall: Duration,
    /// The artifact's bytes.
    pub(crate) size: u64,
    /// Whether the controller has a web server.
    pub(crate) web: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { stall: DEFAULT_STALL_TIMEOUT, size: 0, web: false }
    }
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Step {
    /// Download directly, so far.
    Direct(Direct),
    /// Tell the controller.
    Tell(FromAgent),
}

/// Where a host stands.
#[derive(Debug, Default)]
pub(crate) struct Ladder {
    terms: Terms,
    mode: Mode,
    direct: Direct,
    /// What had arrived when something came last, and when that was; none while nothing is waited for.
    arrived: Option<(u64, Duration)>,
    /// When it climbed last.
    climbed: Option<Duration>,
    /// Since when it is connected to nobody and can't connect to the controller.
    cut_off: Option<Duration>,
    /// Since when a direct download would end much earlier.
    late: Option<Duration>,
    /// Since when something lacks that it can do without, and whether that was told.
    hindered: Option<Duration>,
    told_hindered: bool,
    /// Why the controller's web server is asked, until it answers.
    hoped: Option<String>,
    /// When it asked for a way last, and why.
    asked: Option<(Duration, String)>,
}

impl Ladder {
    /// Begins at the first rung.
    pub(crate) fn new(terms: Terms) -> Self {
        Self { terms, ..Self::default() }
    }

    /// Begins with direct downloads: there are no peers to wait for.
    pub(crate) fn begin_direct(&mut self) -> Direct {
        self.direct = self.direct.max(Direct::Parts);
        self.direct
    }

    /// Notes that nothing is waited for.
    pub(crate) fn rest(&mut self) {
        (self.arrived, self.late, self.cut_off) = (None, None, None);
    }

    /// Judges a transfer that is waited for and returns what is to be done.
    pub(crate) fn look(&mut self, now: Duration, stats: &TransferStats) -> Vec<Step> {
        let since = match self.arrived {
            Some((payload, at)) if payload == stats.payload => at,
            _ => now,
        };
        self.arrived = Some((stats.payload, since));
        if stats.complete {
            return Vec::new();
        }
        self.late = self.is_late(stats).then(|| self.late.unwrap_or(now));
        let cut_off = stats.peers == 0 && matches!(stats.controller, Reach::Failed(_));
        self.cut_off = cut_off.then(|| self.cut_off.unwrap_or(now));
        let mut steps: Vec<Step> = self.note_answer(stats).into_iter().collect();
        steps.extend(self.note_hindrance(now, stats));
        if let Some(next) = self.next(stats)
            && let Some(reason) = self.reason(now, since, stats)
        {
            steps.extend(self.climb(now, next, reason));
        }
        steps.extend(self.ask_for_way(now, now.saturating_sub(since), stats));
        steps
    }

    /// Looks back at a transfer that has ended, perhaps sooner than anybody looked: returns what is still to be told.
    pub(crate) fn look_back(&mut self, stats: &TransferStats) -> Option<FromAgent> {
        let (moved, from_origin) = (stats.bytes.moved(), stats.bytes.from_origin);
        let reason = match &stats.controller {
            Reach::Failed(why) if moved == from_origin && moved > 0 => Some(cut_off(why)),
            _ => None,
        };
        // Nobody can have looked before.
        let deaf = stats.deaf.is_some().then(|| self.note_hindrance(Duration::ZERO, stats)).flatten();
        let answered = self.note_answer(stats).or(deaf);
        let step = answered.or_else(|| self.enter(Mode::Origin, reason?));
        if let Some(Step::Tell(message)) = step { Some(message) } else { None }
    }

    fn is_cut_off(&self, now: Duration) -> bool {
        self.cut_off.is_some_and(|since| now.saturating_sub(since) >= CUT_OFF)
    }

    /// Returns the next rung before the last, if there is one.
    fn next(&self, stats: &TransferStats) -> Option<Direct> {
        match self.direct {
            Direct::No | Direct::Parts if stats.origins => Some(Direct::Origins),
            Direct::No | Direct::Parts | Direct::Origins if self.terms.web => Some(Direct::Controller),
            _ => None,
        }
    }

    /// Returns why this rung is not enough, if it is not.
    fn reason(&self, now: Duration, since: Duration, stats: &TransferStats) -> Option<String> {
        let stall = self.terms.stall;
        let quiet = now.saturating_sub(since.max(self.climbed.unwrap_or_default()));
        let begins = self.direct < Direct::Origins;
        match &stats.controller {
            // Whoever has no peers at all loses nothing, even if origins feed it already.
            Reach::Failed(why) if quiet >= CUT_OFF || (begins && stats.origins && self.is_cut_off(now)) => {
                return Some(cut_off(why));
            }
            _ if quiet >= stall => return Some(format!("nothing came for {} s", stall.as_secs())),
            _ => (),
        }
        let late = begins && self.late.is_some_and(|since| now.saturating_sub(since) >= stall);
        late.then(|| "it came so slowly that a direct download would end much earlier".to_owned())
    }

    /// Returns whether a direct download would end much earlier, as things go.
    fn is_late(&self, stats: &TransferStats) -> bool {
        let Some(direct) = stats.direct_rate.filter(|_| stats.origins) else { return false };
        let left = self.terms.size.saturating_sub(stats.bytes.received()) as f64;
        let seconds = |rate: u64| left / rate.max(1) as f64;
        seconds(stats.rate) >= seconds(direct) + self.terms.stall.as_secs_f64()
    }

    /// Takes the next rung. Of the controller's web server is told when it answers.
    fn climb(&mut self, now: Duration, next: Direct, reason: String) -> Vec<Step> {
        (self.direct, self.climbed) = (next, Some(now));
        let mut steps = vec![Step::Direct(next)];
        match next {
            Direct::Controller => self.hoped = Some(reason),
            _ => steps.extend(self.enter(Mode::Origin, reason)),
        }
        steps
    }

    /// Tells of the controller's web server once it answers.
    fn note_answer(&mut self, stats: &TransferStats) -> Option<Step> {
        let reason = self.hoped.take_if(|_| stats.web == Reach::Stands)?;
        self.enter(Mode::Controller, reason)
    }

    /// Tells once what a host lacks that goes on with its peers.
    fn note_hindrance(&mut self, now: Duration, stats: &TransferStats) -> Option<Step> {
        let (reason, patience) = match (&stats.deaf, &stats.tracker) {
            (Some(why), _) => (format!("{why}, so no other host can connect to it"), Duration::ZERO),
            (None, Reach::Failed(why)) => (format!("{why}, so it knows only the hosts that the job names"), CUT_OFF),
            _ => {
                self.hindered = None;
                return None;
            }
        };
        let since = *self.hindered.get_or_insert(now);
        if self.mode > Mode::Peers || now.saturating_sub(since) < patience || std::mem::replace(&mut self.told_hindered, true) {
            return None;
        }
        Some(Step::Tell(FromAgent::Mode { mode: Mode::Peers, reason }))
    }

    /// Tells of a mode that is above the one before.
    fn enter(&mut self, mode: Mode, reason: String) -> Option<Step> {
        if self.mode >= mode {
            return None;
        }
        self.mode = mode;
        Some(Step::Tell(FromAgent::Mode { mode, reason }))
    }

    /// Asks for a way through SSH where nothing else is left.
    fn ask_for_way(&mut self, now: Duration, quiet: Duration, stats: &TransferStats) -> Option<Step> {
        let asked_lately = self.asked.as_ref().is_some_and(|(at, _)| now.saturating_sub(*at) < AGAIN);
        let Reach::Failed(why) = &stats.controller else { return None };
        let tried = match &stats.web {
            Reach::Failed(_) => true,
            _ => self.climbed.is_some_and(|at| now.saturating_sub(at) >= CUT_OFF),
        };
        let web_is_left = self.terms.web && !(self.direct == Direct::Controller && tried);
        if quiet < CUT_OFF || asked_lately || web_is_left {
            return None;
        }
        let reason = cut_off(why);
        self.asked = Some((now, reason.clone()));
        Some(Step::Tell(FromAgent::Stranded { reason, seconds: u32::try_from(quiet.as_secs()).unwrap_or(u32::MAX) }))
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

fn cut_off(why: &str) -> String {
    format!("can't connect to the controller at {why}")
}
