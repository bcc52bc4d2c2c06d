//! The fleet as a person wants to see it, built from events. Pure: no clock, no output.
//!
//! Owns a row a host and sums over them, so that asking is cheap. Promises: memory is bounded by the fleet that the first event
//! names; an event for an unknown host, a second time, or too late changes nothing; a final state never changes;
//! bytes only grow.

use std::{collections::HashMap, time::Duration};

use super::speed::Speed;
use crate::model::{
    AppName, ByteCounts, Envelope, HostName, HostState, ReleaseId, RunEvent,
    distribution::{Distribution, Mode},
};

/// What the first event says about the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunHeader {
    /// What kind of run: `deploy` or `rollback`.
    pub action: String,
    /// The application, where it was named.
    pub app: Option<AppName>,
    /// The artifact's file name; none in a rollback.
    pub artifact: Option<String>,
    /// The artifact's size in bytes; 0 in a rollback.
    pub size: u64,
    /// The release that goes live; none in a rollback to "the previous one".
    pub release: Option<ReleaseId>,
    /// How many hosts may drop out.
    pub max_failures: u32,
    /// How the artifact is distributed; none in a rollback.
    pub distribution: Option<Distribution>,
    /// How many hosts there are.
    pub hosts: usize,
}

/// One host's row.
#[derive(Debug, Clone)]
pub struct HostRow {
    /// Its inventory name.
    pub name: HostName,
    /// Its state.
    pub state: HostState,
    /// Bytes of the artifact that are there.
    pub received: u64,
    /// Received bytes a second, as the host reports it.
    pub rate: u64,
    /// Connected peers.
    pub peers: u32,
    /// How it gets the artifact, if not as the run was to distribute it.
    pub mode: Option<Mode>,
    bytes: ByteCounts,
    /// True once it had something to receive.
    transfers: bool,
}

/// What an event changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing, or nothing that needs a word of its own.
    Quiet,
    /// The run began.
    Started,
    /// A host entered a state.
    Host(HostState),
    /// Every host that takes part is staged.
    Barrier,
    /// The fleet took a step: a wave, a pause, the way back.
    Step,
    /// The operator asked to stop.
    Interrupted,
    /// The run is over.
    Finished,
}

/// The fleet's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfer {
    /// There.
    pub done: u64,
    /// To be there in the end.
    pub total: u64,
}

/// The view.
#[derive(Debug, Default)]
pub struct FleetView {
    header: Option<RunHeader>,
    hosts: Vec<HostRow>,
    index: HashMap<HostName, usize>,
    counts: [usize; HostState::ALL.len()],
    speed: Speed,
    /// Bytes that came over the network, also to hosts that dropped out: it only grows.
    moved: u64,
    barrier: bool,
    /// The wave that switches or switched last, and how many there are.
    wave: (usize, usize),
    /// The last wave that waited.
    waited: usize,
    goes_back: bool,
    swarm_stopped: bool,
    interrupted: bool,
    finished: bool,
}

impl FleetView {
    /// Takes one event that arrived at `now` (since any fixed moment) and says what it changed.
    pub fn apply(&mut self, envelope: &Envelope, now: Duration) -> Change {
        match &envelope.event {
            RunEvent::RunStarted { .. } => self.start(&envelope.event),
            RunEvent::HostState { host, state, .. } => self.enter(host, *state),
            RunEvent::HostProgress { host, bytes, rate, peers } => {
                self.progress(host, bytes, *rate, *peers);
                self.speed.sample(now, self.moved);
                Change::Quiet
            }
            RunEvent::BarrierMet { .. } => once(&mut self.barrier, Change::Barrier),
            RunEvent::WaveStarted { wave, waves, .. } => {
                self.wave.1 = *waves;
                later(&mut self.wave.0, *wave)
            }
            RunEvent::Paused { wave, .. } => later(&mut self.waited, *wave),
            RunEvent::RollingBack { .. } => once(&mut self.goes_back, Change::Step),
            RunEvent::SwarmStopped => once(&mut self.swarm_stopped, Change::Step),
            RunEvent::Interrupted => once(&mut self.interrupted, Change::Interrupted),
            RunEvent::RunFinished(_) => once(&mut self.finished, Change::Finished),
            RunEvent::HostMode { host, mode, .. } => {
                if let Some(row) = self.row(host) {
                    row.mode = Some(*mode);
                }
                Change::Quiet
            }
            RunEvent::AgentCame { .. } | RunEvent::PhaseEnded(_) | RunEvent::Warning { .. } | RunEvent::Unknown => {
                Change::Quiet
            }
        }
    }

    fn start(&mut self, event: &RunEvent) -> Change {
        let RunEvent::RunStarted { action, app, artifact, size, release, max_failures, distribution, hosts, .. } = event else {
            return Change::Quiet;
        };
        if self.header.is_some() {
            return Change::Quiet;
        }
        for name in hosts {
            if !self.index.contains_key(name) {
                self.index.insert(name.clone(), self.hosts.len());
                self.hosts.push(HostRow::new(name.clone()));
            }
        }
        self.counts[HostState::Queued as usize] = self.hosts.len();
        self.header = Some(RunHeader {
            action: action.clone(),
            app: app.clone(),
            artifact: artifact.clone(),
            size: *size,
            release: release.clone(),
            max_failures: *max_failures,
            distribution: distribution.clone(),
            hosts: self.hosts.len(),
        });
        Change::Started
    }

    fn row(&mut self, host: &HostName) -> Option<&mut HostRow> {
        self.hosts.get_mut(*self.index.get(host)?)
    }

    fn enter(&mut self, host: &HostName, next: HostState) -> Change {
        let Some(row) = self.row(host) else { return Change::Quiet };
        let before = row.state;
        if !before.can_become(next) {
            return Change::Quiet;
        }
        row.state = next;
        row.transfers |= (HostState::Downloading..=HostState::Checking).contains(&next);
        if next > HostState::Backfilling {
            row.rate = 0;
        }
        self.counts[before as usize] -= 1;
        self.counts[next as usize] += 1;
        Change::Host(next)
    }

    fn progress(&mut self, host: &HostName, bytes: &ByteCounts, rate: u64, peers: u32) {
        let Some(row) = self.row(host) else { return };
        row.peers = peers;
        let moved_before = row.bytes.moved();
        if row.state <= HostState::Backfilling && bytes.received() >= row.received {
            row.rate = rate;
        }
        row.bytes = most(&row.bytes, bytes);
        row.received = row.bytes.received();
        let more = row.bytes.moved().saturating_sub(moved_before);
        self.moved = self.moved.saturating_add(more);
    }

    /// Lets time pass, so that the rate of a transfer that stands still goes down.
    pub fn pass(&mut self, now: Duration) {
        self.speed.sample(now, self.moved);
    }

    /// Returns what the first event said, once it was there.
    pub fn header(&self) -> Option<&RunHeader> {
        self.header.as_ref()
    }

    /// Returns how many hosts are in `state`.
    pub fn count(&self, state: HostState) -> usize {
        self.counts[state as usize]
    }

    /// Returns the states that hosts are in, with how many, in order.
    pub fn counts(&self) -> impl Iterator<Item = (HostState, usize)> {
        HostState::ALL.into_iter().map(|state| (state, self.count(state))).filter(|(_, hosts)| *hosts > 0)
    }

    /// Returns how many hosts dropped out by themselves.
    pub fn dropped(&self) -> usize {
        HostState::ALL.into_iter().filter(|state| state.is_out()).map(|state| self.count(state)).sum()
    }

    /// True while hosts receive.
    pub fn is_downloading(&self) -> bool {
        self.count(HostState::Downloading) + self.count(HostState::Backfilling) > 0
    }

    /// Returns the wave that switches or switched last, and how many there are, if there are several.
    pub fn wave(&self) -> Option<(usize, usize)> {
        (self.wave.0 > 0 && self.wave.1 > 1).then_some(self.wave)
    }

    /// True once the run's last event was there.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Returns the bytes of the hosts that take part. Hosts that dropped out and hosts that had the release already need none.
    pub fn transfer(&self) -> Transfer {
        let size = self.header.as_ref().map_or(0, |header| header.size);
        self.hosts.iter().filter(|row| row.takes_part()).fold(Transfer::default(), |sum, row| Transfer {
            done: sum.done.saturating_add(if row.state > HostState::Backfilling { size } else { row.received.min(size) }),
            total: sum.total.saturating_add(size),
        })
    }

    /// Returns the fleet's bytes a second over the last seconds.
    pub fn rate(&self) -> u64 {
        self.speed.bytes_per_second()
    }

    /// Returns how long the rest takes at this rate; `None` if nothing moves or nothing is left.
    pub fn eta(&self) -> Option<Duration> {
        let Transfer { done, total } = self.transfer();
        let (left, rate) = (total.saturating_sub(done), self.rate());
        (left > 0 && rate > 0).then(|| Duration::from_secs(left / rate))
    }

    /// Returns up to `limit` receiving hosts that have the least, the slowest first.
    pub fn slowest(&self, limit: usize) -> Vec<&HostRow> {
        let receiving = |row: &&HostRow| matches!(row.state, HostState::Downloading | HostState::Backfilling);
        let mut rows: Vec<_> = self.hosts.iter().filter(receiving).collect();
        // A stable sort: rows that are level stay in the inventory's order and don't dance.
        rows.sort_by_key(|row| row.received);
        rows.truncate(limit);
        rows
    }
}

impl HostRow {
    fn new(name: HostName) -> Self {
        Self {
            name,
            state: HostState::Queued,
            received: 0,
            rate: 0,
            peers: 0,
            mode: None,
            bytes: ByteCounts::default(),
            transfers: false,
        }
    }

    fn takes_part(&self) -> bool {
        self.state < HostState::Active || (self.state == HostState::Active && self.transfers)
    }
}

fn once(flag: &mut bool, change: Change) -> Change {
    if std::mem::replace(flag, true) { Change::Quiet } else { change }
}

fn later(last: &mut usize, next: usize) -> Change {
    if next > *last {
        *last = next;
        Change::Step
    } else {
        Change::Quiet
    }
}

fn most(a: &ByteCounts, b: &ByteCounts) -> ByteCounts {
    ByteCounts {
        from_peers: a.from_peers.max(b.from_peers),
        from_controller: a.from_controller.max(b.from_controller),
        from_ssh: a.from_ssh.max(b.from_ssh),
        from_origin: a.from_origin.max(b.from_origin),
        from_disk: a.from_disk.max(b.from_disk),
        uploaded: a.uploaded.max(b.uploaded),
    }
}

#[cfg(test)]
mod tests;
