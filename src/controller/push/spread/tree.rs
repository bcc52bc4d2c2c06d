//! The hosts of one kind: who waits, who serves, and what is on its way to more of them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{SLOTS, record::Record};
use crate::model::HostId;

/// How long a host that has the agent may take to run it, or to answer whether it serves.
const STEP: Duration = Duration::from_secs(5);

/// The hosts of one kind.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// In the order in which they came.
    pub(super) waiting: VecDeque<HostId>,
    /// Their agents run and were not asked to serve.
    pub(super) idle: Vec<HostId>,
    pub(super) sources: BTreeMap<HostId, Source>,
    /// What may make another source.
    pub(super) coming: BTreeMap<HostId, Coming>,
    /// How many copies have left the controller, or are leaving it.
    pub(super) copies: usize,
    /// How many hosts fetch it now, or check what they fetched.
    pub(super) fetching: usize,
    pub(super) record: Record,
}

/// A host that serves.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) address: SocketAddr,
    zone: Option<String>,
    /// How many hosts it serves now.
    pub(super) serving: usize,
    pub(super) served: u32,
    pub(super) failed: u32,
}

/// Something that may make another source, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) enum Coming {
    /// A push or a fetch.
    Transfer(Instant),
    /// A host that was asked to serve, or is to run its agent.
    Step(Instant),
}

impl Coming {
    /// Returns when a transfer began.
    pub(super) fn since(&self) -> Option<Instant> {
        match self {
            Self::Transfer(since) => Some(*since),
            Self::Step(_) => None,
        }
    }
}

impl Source {
    pub(super) fn new(address: SocketAddr, zone: Option<String>) -> Self {
        Self { address, zone, serving: 0, served: 0, failed: 0 }
    }
}

impl Tree {
    /// Starts with no host, for a binary of that many bytes.
    pub(super) fn new(size: u64) -> Self {
        Self { record: Record::new(size), ..Self::default() }
    }

    /// Returns a source with a free slot: one in that zone if there is, and the least busy of them.
    pub(super) fn free_source(&self, zone: Option<&str>) -> Option<HostId> {
        let free = self.sources.iter().filter(|(_, source)| source.serving < SLOTS);
        free.min_by_key(|(_, source)| (source.zone.as_deref() != zone, source.serving)).map(|(host, _)| *host)
    }

    /// Takes as many agents that run as there are hosts waiting for more sources, to ask them.
    pub(super) fn ask(&mut self, now: Instant) -> Vec<HostId> {
        let asked = self.coming.values().filter(|coming| matches!(coming, Coming::Step(_))).count();
        let more = self.waiting.len().saturating_sub(asked).min(self.idle.len());
        let hosts: Vec<HostId> = self.idle.drain(..more).collect();
        self.coming.extend(hosts.iter().map(|host| (*host, Coming::Step(now))));
        hosts
    }

    /// True if another source or a free slot is to be expected.
    pub(super) fn is_coming(&self, now: Instant) -> bool {
        let patience = self.record.patience();
        self.coming.values().any(|coming| match coming {
            Coming::Transfer(since) => now - *since < patience,
            Coming::Step(since) => now - *since < STEP,
        })
    }

    /// True if somebody gets the agent now.
    pub(super) fn transfers(&self, now: Instant) -> bool {
        let patience = self.record.patience();
        self.coming.values().filter_map(Coming::since).any(|since| now - since < patience)
    }

    /// Strikes a host out everywhere.
    pub(super) fn forget(&mut self, host: HostId) {
        self.waiting.retain(|other| *other != host);
        self.idle.retain(|other| *other != host);
        self.sources.remove(&host);
        self.coming.remove(&host);
    }
}
