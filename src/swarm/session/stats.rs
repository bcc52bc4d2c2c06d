//! What the engine tells of itself.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::sync::watch;

use crate::swarm::{AnnounceProgress, MAX_NOTICES, Notice, Reach, TransferStats, connection::Counters};

/// The rate is a moving average over about this long.
const WINDOW: f64 = 2.0;

/// Where a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Peer,
    Controller,
    /// The controller, through SSH.
    Ssh,
    Origin,
}

/// Keeps the statistics and publishes them.
#[derive(Debug)]
pub(super) struct Stats {
    now: TransferStats,
    sender: watch::Sender<TransferStats>,
    rate: f64,
    /// The last measurement: when, and received bytes.
    measured: (Duration, u64),
}

impl Stats {
    pub(super) fn new(sender: watch::Sender<TransferStats>) -> Self {
        let now = sender.borrow().clone();
        Self { now, sender, rate: 0.0, measured: (Duration::ZERO, 0) }
    }

    /// Counts a verified piece.
    pub(super) fn verified(&mut self, bytes: u32, from: Source) {
        let counts = &mut self.now.bytes;
        let count = match from {
            Source::Peer => &mut counts.from_peers,
            Source::Controller => &mut counts.from_controller,
            Source::Ssh => &mut counts.from_ssh,
            Source::Origin => &mut counts.from_origin,
        };
        *count += u64::from(bytes);
        self.now.pieces_done += 1;
    }

    /// Notes what an operator should know. Of very many notices the first are told.
    pub(super) fn notice(&mut self, message: String, hint: Option<&'static str>) {
        tracing::debug!("{message}");
        if self.now.notices.len() < MAX_NOTICES {
            let notices = self.now.notices.iter().cloned();
            self.now.notices = notices.chain([Notice { message, hint }]).collect();
        }
    }

    /// Notes whether the controller's seed can be reached.
    pub(super) fn controller(&mut self, reach: Reach) {
        self.now.controller = reach;
    }

    /// Notes why nobody can connect to this side.
    pub(super) fn deaf(&mut self, why: String) {
        self.now.deaf = Some(why);
    }

    /// Notes whether the tracker can be reached.
    pub(super) fn tracker(&mut self, reach: Reach) {
        self.now.tracker = reach;
    }

    /// Notes whether the controller's web server can be reached.
    pub(super) fn web(&mut self, reach: Reach) {
        self.now.web = reach;
    }

    /// Notes whether an origin can be hoped for, and how fast a direct download would be.
    pub(super) fn direct(&mut self, origins: bool, rate: Option<u64>) {
        (self.now.origins, self.now.direct_rate) = (origins, rate);
    }

    /// Brings up to date how much is there without a gap; `more` is given what was known.
    pub(super) fn in_order(&mut self, more: impl FnOnce(u64) -> u64) {
        self.now.in_order = more(self.now.in_order);
    }

    /// Notes that everything is there, and says so at once.
    pub(super) fn complete(&mut self, now: Duration, counters: &Counters, peers: usize) {
        self.now.complete = true;
        self.publish(now, counters, peers);
    }

    /// Returns what the tracker is told.
    pub(super) fn announce(&self, length: u64) -> AnnounceProgress {
        let bytes = &self.now.bytes;
        let left = if self.now.complete { 0 } else { length.saturating_sub(bytes.received()).max(1) };
        AnnounceProgress { uploaded: bytes.uploaded, downloaded: bytes.moved(), left }
    }

    /// Publishes what changed. Called at most about ten times a second.
    pub(super) fn publish(&mut self, now: Duration, counters: &Counters, peers: usize) {
        let received = counters.received.load(Ordering::Relaxed);
        let passed = (now - self.measured.0).as_secs_f64();
        if passed > 0.0 {
            let current = (received - self.measured.1) as f64 / passed;
            let weight = (passed / WINDOW).min(1.0);
            self.rate += (current - self.rate) * weight;
            self.measured = (now, received);
        }
        self.now.payload = received;
        self.now.rate = self.rate as u64;
        self.now.bytes.uploaded = counters.sent.load(Ordering::Relaxed);
        self.now.peers = peers as u32;
        self.sender.send_if_modified(|stats| {
            let changed = *stats != self.now;
            stats.clone_from(&self.now);
            changed
        });
    }
}
