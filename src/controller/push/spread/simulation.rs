//! The scheduler on virtual links: how long the agent takes to reach a whole fleet.

use std::collections::HashMap;

use super::*;

/// A fleet on equal links, the controller's too, all in seconds.
#[derive(Debug, Clone, Copy)]
struct Links {
    hosts: u32,
    /// How long one copy takes over a link that carries nothing else.
    copy: f64,
    /// From an order to its first byte: a command over SSH.
    begin: f64,
    /// From the last byte to a host that serves: checking it, starting the agent, asking it.
    ready: f64,
    /// Between the logins of two hosts.
    logins: f64,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    /// When the last host had its agent.
    seconds: f64,
    copies: usize,
}

struct Flow {
    host: HostId,
    from: Option<HostId>,
    left: f64,
}

struct Fleet {
    links: Links,
    spread: Spread,
    start: Instant,
    now: f64,
    /// What happens later, whatever the links do.
    later: Vec<(f64, Later)>,
    flows: Vec<Flow>,
    had: HashMap<HostId, f64>,
    copies: usize,
}

enum Later {
    Event(Event),
    Flow(HostId, Option<HostId>),
}

fn place() -> Place {
    Place { kind: Kind::new(Digest([7; 32]), 1_500_000, [10, 0, 0, 1].into()), zone: None }
}

fn address(host: HostId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1 + host.0 as u16))
}

impl Fleet {
    fn new(links: Links) -> Self {
        let logins = (0..links.hosts)
            .map(|host| (f64::from(host) * links.logins, Later::Event(Event::Wants(HostId(host), Some(place())))));
        Self {
            links,
            spread: Spread::new(links.hosts as usize, true),
            start: Instant::now(),
            now: 0.0,
            later: logins.collect(),
            flows: Vec::new(),
            had: HashMap::new(),
            copies: 0,
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.start + Duration::from_secs_f64(self.now);
        for action in self.spread.handle(event, now) {
            match action {
                Action::Push(host) => {
                    self.copies += 1;
                    self.later.push((self.now + self.links.begin, Later::Flow(host, None)));
                }
                Action::Fetch { host, from, .. } => {
                    self.later.push((self.now + self.links.begin, Later::Flow(host, Some(from))));
                }
                // Part of `ready`.
                Action::Ask(host) => self.later.push((self.now, Later::Event(Event::Serves(host, address(host))))),
            }
        }
    }

    /// Copies a second of each flow: a sender shares its link among its flows.
    fn rates(&self) -> Vec<f64> {
        let mut sharing: HashMap<Option<HostId>, f64> = HashMap::new();
        for flow in &self.flows {
            *sharing.entry(flow.from).or_default() += self.links.copy;
        }
        self.flows.iter().map(|flow| 1.0 / sharing[&flow.from]).collect()
    }

    fn run(mut self) -> Outcome {
        while self.had.len() < self.links.hosts as usize {
            let first = self.later.iter().map(|(at, _)| *at).fold(f64::INFINITY, f64::min);
            let rates = self.rates();
            let ends = self.flows.iter().zip(&rates).map(|(flow, rate)| self.now + flow.left / rate);
            let done = ends.fold(f64::INFINITY, f64::min);
            let next = first.min(done);
            assert!(next.is_finite(), "nothing goes on and {} hosts have it", self.had.len());
            for (flow, rate) in self.flows.iter_mut().zip(rates) {
                flow.left -= (next - self.now) * rate;
            }
            self.now = next;
            if let Some(index) = self.flows.iter().position(|flow| flow.left <= 1e-9) {
                let flow = self.flows.swap_remove(index);
                self.had.insert(flow.host, self.now);
                // A push is over only when its host has checked what came.
                let checked = if flow.from.is_some() { self.now + self.links.ready } else { self.now };
                self.handle(Event::Arrived(flow.host));
                self.later.push((checked, Later::Event(Event::Got(flow.host))));
                self.later.push((self.now + self.links.ready, Later::Event(Event::Runs(flow.host, place()))));
            } else if let Some(index) = self.later.iter().position(|(at, _)| *at <= self.now) {
                match self.later.swap_remove(index).1 {
                    Later::Event(event) => self.handle(event),
                    Later::Flow(host, from) => self.flows.push(Flow { host, from, left: 1.0 }),
                }
            }
        }
        Outcome { seconds: self.now, copies: self.copies }
    }
}

/// Copy times of 1.5 MB over 10 Mbit/s to 1 Gbit/s.
const COPY: [f64; 4] = [1.2, 0.24, 0.12, 0.012];

#[test]
fn the_whole_fleet_has_it_after_log_n_copies_and_three_have_left_the_controller() {
    for hosts in [5, 8, 16, 32, 64, 300, 1000] {
        for copy in COPY {
            let links = Links { hosts, copy, begin: 0.0, ready: 0.0, logins: 0.0 };
            let outcome = Fleet::new(links).run();
            let limit = (f64::from(hosts).log2() + 2.0) * copy;
            assert!(outcome.seconds <= limit, "{links:?}: {outcome:?}, the limit is {limit}");
            assert!(outcome.copies <= COPIES, "{links:?}: {outcome:?}");
        }
    }
}

#[test]
fn delays_between_the_steps_count_once_a_step() {
    for hosts in [16, 64, 1000] {
        for copy in COPY {
            let links = Links { hosts, copy, begin: 0.03, ready: 0.1, logins: 0.001 };
            let outcome = Fleet::new(links).run();
            let logins = f64::from(hosts) * links.logins;
            let limit = (f64::from(hosts).log2() + 2.0) * (copy + links.begin + links.ready) + logins;
            assert!(outcome.seconds <= limit, "{links:?}: {outcome:?}, the limit is {limit}");
            assert!(outcome.copies <= COPIES, "{links:?}: {outcome:?}");
        }
    }
}

#[test]
fn a_tiny_fleet_is_pushed_to_at_once() {
    for hosts in 1..=4 {
        let links = Links { hosts, copy: 0.1, begin: 0.03, ready: 0.1, logins: 0.0 };
        let outcome = Fleet::new(links).run();
        assert!(outcome.seconds < 0.03 + 0.1 * f64::from(hosts) + 1e-6, "{links:?}: {outcome:?}");
        assert_eq!(outcome.copies, hosts as usize);
    }
}
