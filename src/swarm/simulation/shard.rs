//! A part of the fleet and its calendar.
//!
//! Nothing a node does reaches another sooner than a message does. So within a window of that length every node can go
//! through its own events alone, and shards can do that in parallel; what they send each other is handed over between two windows.
//! The order of a node's events does not depend on the shards, so neither does the result.

use super::{
    World,
    event::{Event, Kind, Time},
    host::{Account, Host},
};

/// Windows in the calendar. What is further ahead waits for another round.
const WINDOWS: u64 = 1024;

/// The nodes `first..first + hosts.len()`.
#[derive(Debug)]
pub(super) struct Shard {
    first: u32,
    hosts: Vec<Host>,
    /// How many of them the fleet still waits for.
    pub(super) open: usize,
    /// For which time each node has a [`Kind::Uploaded`] in the calendar.
    armed: Vec<Time>,
    calendar: Vec<Vec<Event>>,
    /// Emptied windows' memory, for the next ones.
    spare: Vec<Vec<Event>>,
    /// What other shards sent.
    pub(super) mail: Vec<Vec<Event>>,
    /// What goes to other shards, by shard.
    pub(super) out: Vec<Vec<Event>>,
    /// Pieces that cross a zone's link, if zones have links.
    pub(super) crossing: Vec<Event>,
    scratch: Scratch,
}

/// Memory used within a window.
#[derive(Debug, Default)]
struct Scratch {
    /// The window's events as they came, then node after node.
    events: Vec<Event>,
    by_node: Vec<Event>,
    /// For each node how many there are, then where its next one goes, in the end where they end.
    ends: Vec<usize>,
    /// Nodes with events.
    touched: Vec<u32>,
    own: Vec<Event>,
    emitted: Vec<Event>,
}

/// One node's events still to come in a window.
struct Agenda<'a> {
    /// Those known from the beginning, in order.
    known: &'a [Event],
    /// Those that the node has noted since, the next one last.
    own: &'a mut Vec<Event>,
}

impl Agenda<'_> {
    /// Returns when the next event is.
    fn next(&self) -> Option<Time> {
        let (known, own) = (self.known.first(), self.own.last());
        known.into_iter().chain(own).map(|event| event.at).min()
    }

    /// Takes out the next event.
    fn pop(&mut self) -> Option<Event> {
        let Some((first, rest)) = self.known.split_first() else { return self.own.pop() };
        if self.own.last().is_some_and(|own| own.order() < first.order()) {
            return self.own.pop();
        }
        self.known = rest;
        Some(*first)
    }

    /// Adds what the node noted for itself.
    fn note(&mut self, event: Event) {
        let at = self.own.partition_point(|other| other.order() > event.order());
        self.own.insert(at, event);
    }
}

impl Shard {
    pub(super) fn new(first: u32, hosts: Vec<Host>, shards: usize) -> Self {
        let count = hosts.len();
        let open = hosts.iter().filter(|host| host.is_open()).count();
        Self {
            first,
            hosts,
            open,
            armed: vec![Time::MAX; count],
            calendar: (0..WINDOWS).map(|_| Vec::new()).collect(),
            spare: Vec::new(),
            mail: Vec::new(),
            out: vec![Vec::new(); shards],
            crossing: Vec::new(),
            scratch: Scratch { ends: vec![0; count], ..Scratch::default() },
        }
    }

    /// Puts the nodes' first events into the calendar.
    pub(super) fn begin(&mut self, world: &World, phase: impl Fn(u32) -> Time) {
        let mut events = Vec::new();
        for (host, id) in self.hosts.iter_mut().zip(self.first..) {
            host.begin(world, phase(id), &mut events);
        }
        for event in events {
            self.enter(world, event);
        }
    }

    /// Returns what each node did.
    pub(super) fn accounts(&self) -> impl Iterator<Item = Account> + '_ {
        self.hosts.iter().map(Host::account)
    }

    /// Lets one window pass.
    pub(super) fn run(&mut self, world: &World, window: u64) {
        for mail in std::mem::take(&mut self.mail) {
            for event in mail {
                self.enter(world, event);
            }
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.sort_by_node(world, window, &mut scratch);
        let end = (window + 1) * world.delay;
        let Scratch { by_node, ends, touched, own, emitted, .. } = &mut scratch;
        let mut from = 0;
        for host in touched.drain(..) {
            let to = std::mem::take(&mut ends[host as usize]);
            let known = &mut by_node[from..to];
            known.sort_unstable_by_key(Event::order);
            self.run_host(world, host, end, Agenda { known, own }, emitted);
            from = to;
        }
        self.scratch = scratch;
    }

    /// Takes the window's events out of the calendar and puts those of each node together.
    fn sort_by_node(&mut self, world: &World, window: u64, scratch: &mut Scratch) {
        let end = (window + 1) * world.delay;
        let bucket = &mut self.calendar[(window % WINDOWS) as usize];
        let Scratch { events, by_node, ends, touched, .. } = scratch;
        events.clear();
        self.spare.push(std::mem::replace(events, std::mem::take(bucket)));
        bucket.extend(events.extract_if(.., |event| event.at >= end));
        for event in &*events {
            let count = &mut ends[(event.to - self.first) as usize];
            if *count == 0 {
                touched.push(event.to - self.first);
            }
            *count += 1;
        }
        let mut start = 0;
        for host in &*touched {
            let count = std::mem::replace(&mut ends[*host as usize], start);
            start += count;
        }
        by_node.clone_from(events);
        for event in &*events {
            let place = &mut ends[(event.to - self.first) as usize];
            by_node[*place] = *event;
            *place += 1;
        }
    }

    /// Lets one node go through its events before `end`.
    fn run_host(&mut self, world: &World, host: u32, end: Time, mut agenda: Agenda<'_>, emitted: &mut Vec<Event>) {
        let index = host as usize;
        let was_open = self.hosts[index].is_open();
        self.hosts[index].look_ahead(agenda.known);
        loop {
            let upload = self.hosts[index].next_upload();
            let next = agenda.next().unwrap_or(end);
            if upload < end && upload <= next {
                self.hosts[index].upload_finished(upload, world, emitted);
            } else if let Some(event) = agenda.pop() {
                if event.kind == Kind::Uploaded {
                    if event.at == self.armed[index] {
                        self.armed[index] = Time::MAX;
                    }
                    continue;
                }
                self.hosts[index].handle(&event, world, emitted);
            } else {
                break;
            }
            for event in emitted.drain(..) {
                if event.to == self.first + host && event.at < end {
                    agenda.note(event);
                } else {
                    self.route(world, event);
                }
            }
        }
        self.open -= usize::from(was_open && !self.hosts[index].is_open());
        let upload = self.hosts[index].next_upload();
        if upload < self.armed[index] {
            self.armed[index] = upload;
            let to = self.first + host;
            self.enter(world, Event { at: upload, to, from: to, serial: 0, piece: 0, kind: Kind::Uploaded });
        }
    }

    /// Sends an event on its way.
    fn route(&mut self, world: &World, event: Event) {
        if matches!(event.kind, Kind::Last { .. }) && world.crosses(&event) {
            self.crossing.push(event);
        } else if (self.first..self.first + self.hosts.len() as u32).contains(&event.to) {
            self.enter(world, event);
        } else {
            self.out[world.shard_of(event.to)].push(event);
        }
    }

    /// Puts an event of one of the shard's nodes into the calendar.
    pub(super) fn enter(&mut self, world: &World, event: Event) {
        let bucket = &mut self.calendar[(event.at / world.delay % WINDOWS) as usize];
        if bucket.capacity() == 0 {
            *bucket = self.spare.pop().unwrap_or_default();
        }
        bucket.push(event);
    }
}
