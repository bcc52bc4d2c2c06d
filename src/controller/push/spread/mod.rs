//! Who gets the agent from whom. Pure: events and times in, actions out; no socket, no clock.
//!
//! The agent spreads as a doubling tree: the controller pushes the first copies over SSH, and every host that has the agent and
//! runs it serves it to the next. Hosts of one [`Kind`] can get it from each other.
//!
//! Promises: never more than [`PUSHES`] pushes at once; at most [`COPIES`] copies of a kind leave the controller while fetching
//! works; a source serves at most [`SLOTS`] hosts at once; a host that could not fetch is pushed to next; a host that waits is never
//! left without anything that is going on for it, so it ends with the agent as long as every transfer ends. What takes too long does not
//! count as going on, so a host that hangs holds up nobody for longer than the agent takes elsewhere.
//!
//! With these numbers a whole fleet is reached in at most log2 N + 2 times what one copy takes over one link, as long as that is more than
//! the steps around a copy: the simulation in this module's tests says so.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use crate::model::{Digest, HostId};

mod record;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod tree;

use record::Record;
use tree::{Coming, Source, Tree};

/// How many hosts are pushed to at once. All at once, on a slow uplink, none would be done for a long time.
const PUSHES: usize = 16;
/// How many copies of a kind leave the controller while hosts can get it from each other: with what SSH and TCP add to them, fewer
/// bytes than four. One more would reach no fleet sooner.
const COPIES: usize = 3;
/// A fleet of up to this many hosts is pushed to at once.
const TINY: usize = 4;
/// How many of them at once. One is done in half the time of two, and its host passes it on.
const FIRST_PUSHES: usize = 2;
/// How long the last push that was begun has the controller's link to itself, before another may join it: its host may hang.
const ALONE: Duration = Duration::from_secs(2);
/// How many hosts a source serves at once.
const SLOTS: usize = 1;
/// How many fetches are tried at once before the first has worked.
const TRIALS: usize = 4;

/// What has to be alike for one host to get its agent from another: the binary, and addresses that can reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::controller) struct Kind {
    digest: Digest,
    /// The binary's bytes.
    size: u64,
    is_ipv6: bool,
    is_loopback: bool,
}

impl Kind {
    /// Returns the kind of a host which gets that binary and which others reach at that address.
    pub(super) fn new(digest: Digest, size: u64, address: IpAddr) -> Self {
        Self { digest, size, is_ipv6: address.is_ipv6(), is_loopback: address.is_loopback() }
    }
}

/// A host's place among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controller) struct Place {
    pub(super) kind: Kind,
    /// Sources in the same zone come first.
    pub(super) zone: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The host has no agent. Without a place it can't fetch one.
    Wants(HostId, Option<Place>),
    /// All of what it fetches has come. Whether it is the agent is not known yet.
    Arrived(HostId),
    /// The push or the fetch that it was told of has worked.
    Got(HostId),
    /// The fetch has not. Nothing of it is left on the host.
    FetchFailed(HostId),
    /// The host's agent runs.
    Runs(HostId, Place),
    /// It serves itself there, as it was asked to.
    Serves(HostId, SocketAddr),
    /// It can't.
    Declines(HostId),
    /// The host is out, or its connection broke: whatever it did or wanted is over.
    Gone(HostId),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Push to the host over SSH.
    Push(HostId),
    /// Let the host fetch it.
    Fetch {
        /// Who.
        host: HostId,
        /// From whom.
        from: HostId,
        /// Where that one serves.
        address: SocketAddr,
        /// How long it may take.
        limit: Duration,
    },
    /// Ask the host's agent to serve itself.
    Ask(HostId),
}

/// Where a host stands.
#[derive(Debug)]
struct Member {
    /// None if it can only be pushed to.
    place: Option<Place>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Pushed,
    Fetching(HostId),
    /// It has all that this one sent.
    Checking(HostId),
    /// It has the agent, which may run and serve.
    Has,
}

/// The decisions of one run.
#[derive(Debug)]
pub(super) struct Spread {
    relays: bool,
    fleet: usize,
    members: HashMap<HostId, Member>,
    trees: BTreeMap<Kind, Tree>,
    /// Those that wait for a push and nothing else.
    direct: VecDeque<HostId>,
    /// Since when each push goes on.
    pushes: BTreeMap<HostId, Instant>,
    /// Of pushes to hosts without a place.
    placeless: Record,
    busy_since: Option<Instant>,
}

impl Spread {
    /// Starts with a fleet of that size. Without `relays` every host is pushed to.
    pub(super) fn new(fleet: usize, relays: bool) -> Self {
        Self {
            relays,
            fleet,
            members: HashMap::new(),
            trees: BTreeMap::new(),
            direct: VecDeque::new(),
            pushes: BTreeMap::new(),
            placeless: Record::default(),
            busy_since: None,
        }
    }

    /// Takes an event and returns what is to be done.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Wants(host, place) => self.wants(host, place),
            Event::Arrived(host) => self.arrived(host),
            Event::Got(host) => self.got(host, now),
            Event::FetchFailed(host) => self.fetch_failed(host),
            Event::Runs(host, place) => self.runs(host, place),
            Event::Serves(host, address) => self.serves(host, address),
            Event::Declines(host) => self.declines(host),
            Event::Gone(host) => self.leave(host),
            Event::Tick => (),
        }
        let actions = self.decide(now);
        self.busy_since = if self.moving(now).next().is_some() { self.busy_since.or(Some(now)) } else { None };
        actions
    }

    /// True unless links are better left to the agent for now: hosts wait for it or get it, and not for much longer than it takes to
    /// reach a whole fleet of this size.
    pub(super) fn is_calm(&self, now: Instant) -> bool {
        let Some(since) = self.busy_since else { return true };
        self.moving(now).all(|record| now - since >= record.whole_fleet(self.fleet))
    }

    /// True if hosts of a kind have shown that they can't fetch from each other: none of that kind tries any more.
    pub(super) fn is_hopeless(&self) -> bool {
        self.trees.values().any(|tree| tree.record.is_hopeless())
    }

    /// Returns the records of those that wait for the agent or get it.
    fn moving(&self, now: Instant) -> impl Iterator<Item = &Record> {
        let trees = self.trees.values().filter(move |tree| !tree.waiting.is_empty() || tree.transfers(now));
        let is_placeless = |host: &HostId| self.members.get(host).is_some_and(|member| member.place.is_none());
        let is_pushed_to = self.pushes.keys().any(|host| is_placeless(host) && self.is_going_on(*host, now));
        let placeless = (is_pushed_to || !self.direct.is_empty()).then_some(&self.placeless);
        trees.map(|tree| &tree.record).chain(placeless)
    }

    /// True if the host is pushed to, and not for too long.
    fn is_going_on(&self, host: HostId, now: Instant) -> bool {
        self.pushes.get(&host).is_some_and(|since| now - *since < self.record(host).patience())
    }

    /// Returns what transfers to hosts like this one have shown.
    fn record(&self, host: HostId) -> &Record {
        let place = self.members.get(&host).and_then(|member| member.place.as_ref());
        place.and_then(|place| self.trees.get(&place.kind)).map_or(&self.placeless, |tree| &tree.record)
    }

    fn record_of(&mut self, kind: Option<Kind>) -> &mut Record {
        match kind {
            Some(kind) => &mut self.tree(kind).record,
            None => &mut self.placeless,
        }
    }

    fn wants(&mut self, host: HostId, place: Option<Place>) {
        self.leave(host);
        let place = place.filter(|place| self.relays && !self.tree(place.kind).record.is_hopeless());
        match &place {
            Some(place) => self.tree(place.kind).waiting.push_back(host),
            None => self.direct.push_back(host),
        }
        self.members.insert(host, Member { place, stage: Stage::Waiting });
    }

    fn arrived(&mut self, host: HostId) {
        let Some(member) = self.members.get_mut(&host) else { return };
        let Stage::Fetching(from) = member.stage else { return };
        member.stage = Stage::Checking(from);
        let kind = member.place.as_ref().map(|place| place.kind);
        self.free_slot(kind, from);
    }

    fn got(&mut self, host: HostId, now: Instant) {
        self.arrived(host);
        let Some(member) = self.members.get_mut(&host) else { return };
        let stage = std::mem::replace(&mut member.stage, Stage::Has);
        let kind = member.place.as_ref().map(|place| place.kind);
        match stage {
            Stage::Pushed => {
                if let Some(since) = self.pushes.remove(&host) {
                    self.record_of(kind).took(now - since);
                }
            }
            Stage::Checking(from) => {
                if let Some(since) = kind.and_then(|kind| self.tree(kind).coming.get(&host)).and_then(Coming::since) {
                    self.record_of(kind).took(now - since);
                }
                self.record_of(kind).succeeded += 1;
                self.judge(kind, from, |source| source.served += 1);
            }
            Stage::Waiting | Stage::Fetching(_) | Stage::Has => return,
        }
        if let Some(kind) = kind {
            self.tree(kind).coming.insert(host, Coming::Step(now));
        }
    }

    fn fetch_failed(&mut self, host: HostId) {
        self.arrived(host);
        let Some(member) = self.members.get_mut(&host) else { return };
        let Stage::Checking(from) = member.stage else { return };
        let kind = member.place.take().map(|place| place.kind);
        member.stage = Stage::Waiting;
        self.record_of(kind).failed += 1;
        self.judge(kind, from, |source| source.failed += 1);
        if let Some(kind) = kind {
            self.tree(kind).coming.remove(&host);
        }
        self.direct.push_front(host);
    }

    fn free_slot(&mut self, kind: Option<Kind>, from: HostId) {
        let Some(tree) = kind.and_then(|kind| self.trees.get_mut(&kind)) else { return };
        if let Some(source) = tree.sources.get_mut(&from) {
            source.serving = source.serving.saturating_sub(1);
        }
    }

    /// Notes how a fetch has ended. Its source is not used again if it has failed more often than it has not.
    fn judge(&mut self, kind: Option<Kind>, from: HostId, note: impl FnOnce(&mut Source)) {
        let Some(tree) = kind.and_then(|kind| self.trees.get_mut(&kind)) else { return };
        tree.fetching = tree.fetching.saturating_sub(1);
        if let Some(source) = tree.sources.get_mut(&from) {
            note(source);
            if source.failed > source.served {
                tree.sources.remove(&from);
            }
        }
    }

    fn runs(&mut self, host: HostId, place: Place) {
        self.leave(host);
        self.tree(place.kind).idle.push(host);
        self.members.insert(host, Member { place: Some(place), stage: Stage::Has });
    }

    fn serves(&mut self, host: HostId, address: SocketAddr) {
        let Some(Member { place: Some(place), stage: Stage::Has }) = self.members.get(&host) else { return };
        let (kind, zone) = (place.kind, place.zone.clone());
        let tree = self.tree(kind);
        // Only one that was asked.
        if tree.coming.remove(&host).is_some() {
            tree.sources.insert(host, Source::new(address, zone));
        }
    }

    fn declines(&mut self, host: HostId) {
        let kind = self.members.get(&host).and_then(|member| member.place.as_ref()).map(|place| place.kind);
        self.record_of(kind).failed += 1;
        self.leave_tree(host);
    }

    /// Forgets a host, and with it what it was doing.
    fn leave(&mut self, host: HostId) {
        self.leave_tree(host);
        let Some(Member { place, stage }) = self.members.remove(&host) else { return };
        let kind = place.map(|place| place.kind);
        match stage {
            Stage::Waiting => self.direct.retain(|waiting| *waiting != host),
            Stage::Pushed => {
                self.pushes.remove(&host);
                // What was sent so far does not count: no other host has gained by it.
                if let Some(kind) = kind {
                    let tree = self.tree(kind);
                    tree.copies = tree.copies.saturating_sub(1);
                }
            }
            // Why it went nobody knows: neither source nor fetching is to blame.
            Stage::Fetching(from) => {
                self.free_slot(kind, from);
                self.judge(kind, from, |_| ());
            }
            Stage::Checking(from) => self.judge(kind, from, |_| ()),
            Stage::Has => (),
        }
    }

    fn leave_tree(&mut self, host: HostId) {
        let kind = self.members.get(&host).and_then(|member| member.place.as_ref()).map(|place| place.kind);
        if let Some(tree) = kind.and_then(|kind| self.trees.get_mut(&kind)) {
            tree.forget(host);
        }
    }

    fn tree(&mut self, kind: Kind) -> &mut Tree {
        self.trees.entry(kind).or_insert_with(|| Tree::new(kind.size))
    }

    fn decide(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for tree in self.trees.values_mut().filter(|tree| tree.record.is_hopeless()) {
            self.direct.append(&mut tree.waiting);
        }
        while self.pushes.len() < PUSHES
            && let Some(host) = self.direct.pop_front()
        {
            actions.push(self.push(host, now));
        }
        let kinds: Vec<Kind> = self.trees.iter().filter(|(_, tree)| !tree.waiting.is_empty()).map(|(kind, _)| *kind).collect();
        for kind in kinds {
            self.decide_tree(kind, now, &mut actions);
        }
        actions
    }

    fn decide_tree(&mut self, kind: Kind, now: Instant, actions: &mut Vec<Action>) {
        while let Some(host) = self.tree(kind).waiting.front().copied() {
            let action = match self.source_for(kind, host) {
                Some(from) => self.fetch(host, from, kind, now),
                None if self.may_push_first(kind, now) => Some(self.push(host, now)),
                None => None,
            };
            let Some(action) = action else { break };
            self.tree(kind).waiting.pop_front();
            actions.push(action);
        }
        let pushes = self.pushes.len();
        let tree = self.tree(kind);
        actions.extend(tree.ask(now).into_iter().map(Action::Ask));
        if pushes < PUSHES
            && !tree.is_coming(now)
            && let Some(host) = tree.waiting.pop_front()
        {
            actions.push(self.push(host, now));
        }
    }

    fn source_for(&self, kind: Kind, host: HostId) -> Option<HostId> {
        let zone = self.members.get(&host)?.place.as_ref()?.zone.as_deref();
        let tree = self.trees.get(&kind)?;
        if tree.record.succeeded == 0 && tree.fetching >= TRIALS {
            return None;
        }
        tree.free_source(zone)
    }

    fn may_push_first(&self, kind: Kind, now: Instant) -> bool {
        let is_tiny = self.fleet <= TINY;
        let (at_once, most) = if is_tiny { (TINY, TINY) } else { (FIRST_PUSHES, COPIES) };
        let going_on = self.pushes.keys().filter(|host| self.is_going_on(**host, now)).count();
        let is_free = is_tiny || self.pushes.values().all(|since| now - *since >= ALONE);
        let copies = self.trees.get(&kind).map_or(0, |tree| tree.copies);
        is_free && going_on < at_once && copies < most && self.pushes.len() < PUSHES
    }

    fn push(&mut self, host: HostId, now: Instant) -> Action {
        self.pushes.insert(host, now);
        if let Some(member) = self.members.get_mut(&host) {
            member.stage = Stage::Pushed;
            if let Some(kind) = member.place.as_ref().map(|place| place.kind) {
                let tree = self.tree(kind);
                tree.copies += 1;
                tree.coming.insert(host, Coming::Transfer(now));
            }
        }
        Action::Push(host)
    }

    fn fetch(&mut self, host: HostId, from: HostId, kind: Kind, now: Instant) -> Option<Action> {
        let tree = self.tree(kind);
        let limit = tree.record.limit();
        let source = tree.sources.get_mut(&from)?;
        source.serving += 1;
        let address = source.address;
        tree.coming.insert(host, Coming::Transfer(now));
        self.members.get_mut(&host)?.stage = Stage::Fetching(from);
        self.tree(kind).fetching += 1;
        Some(Action::Fetch { host, from, address, limit })
    }
}
