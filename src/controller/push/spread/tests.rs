use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// Ten seconds on a slow link.
const SIZE: u64 = 1_250_000;

fn kind(number: u8) -> Kind {
    Kind::new(Digest([number; 32]), SIZE, [10, 0, 0, 1].into())
}

fn place(number: u8) -> Place {
    Place { kind: kind(number), zone: None }
}

fn address(host: HostId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1 + host.0 as u16))
}

fn wants(host: u32) -> Event {
    Event::Wants(HostId(host), Some(place(0)))
}

fn runs(host: u32) -> Event {
    Event::Runs(HostId(host), place(0))
}

fn serves(host: u32) -> Event {
    Event::Serves(HostId(host), address(HostId(host)))
}

fn pushes(actions: &[Action]) -> Vec<u32> {
    actions.iter().filter_map(|action| if let Action::Push(host) = action { Some(host.0) } else { None }).collect()
}

fn fetches(actions: &[Action]) -> Vec<(u32, u32)> {
    let pair = |action: &Action| match action {
        Action::Fetch { host, from, .. } => Some((host.0, from.0)),
        _ => None,
    };
    actions.iter().filter_map(pair).collect()
}

/// A run with a clock.
struct Run {
    spread: Spread,
    now: Instant,
}

impl Run {
    fn new(fleet: usize) -> Self {
        Self { spread: Spread::new(fleet, true), now: Instant::now() }
    }

    fn after(&mut self, milliseconds: u64, event: Event) -> Vec<Action> {
        self.now += Duration::from_millis(milliseconds);
        self.spread.handle(event, self.now)
    }

    fn all(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        events.into_iter().flat_map(|event| self.after(0, event)).collect()
    }
}

#[test]
fn the_first_is_pushed_to_and_the_others_fetch_from_it_while_the_controller_pushes_on() {
    let mut run = Run::new(8);
    assert_eq!(pushes(&run.all((0..8).map(wants))), [0]);
    assert_eq!(pushes(&run.after(100, Event::Got(HostId(0)))), [1], "the controller's link is free again");
    assert_eq!(run.after(10, runs(0)), [Action::Ask(HostId(0))]);
    assert_eq!(fetches(&run.after(10, serves(0))), [(2, 0)]);
    assert_eq!(fetches(&run.after(100, Event::Arrived(HostId(2)))), [(3, 0)], "its slot is free");
    assert_eq!(run.after(10, Event::Got(HostId(2))), []);
    assert_eq!(run.after(10, runs(2)), [Action::Ask(HostId(2))]);
    assert_eq!(fetches(&run.after(80, Event::Got(HostId(3)))), [(4, 0)], "that all has come need not be said");
    assert_eq!(pushes(&run.after(10, Event::Got(HostId(1)))), [5]);
    assert_eq!(pushes(&run.after(10, Event::Got(HostId(5)))), [0; 0], "three copies are enough");
}

#[test]
fn a_first_push_that_takes_long_is_joined_by_another() {
    let mut run = Run::new(8);
    assert_eq!(pushes(&run.all((0..8).map(wants))), [0]);
    assert_eq!(run.after(1_900, Event::Tick), []);
    assert_eq!(pushes(&run.after(100, Event::Tick)), [1]);
    assert_eq!(run.after(5_000, Event::Tick), [], "a third would slow both down");
}

#[test]
fn what_arrived_and_was_not_the_agent_is_a_failure_of_its_source() {
    let mut run = Run::new(8);
    run.all((0..8).map(wants));
    run.all([Event::Got(HostId(0)), runs(0), serves(0)]);
    assert_eq!(fetches(&run.all([Event::Arrived(HostId(2))])), [(3, 0)]);
    run.all([Event::FetchFailed(HostId(2))]);
    assert_eq!(fetches(&run.all([Event::Arrived(HostId(3))])), [], "the source is not used again");
    assert_eq!(run.spread.tree(kind(0)).fetching, 1);
    run.all([Event::Gone(HostId(3))]);
    assert_eq!(run.spread.tree(kind(0)).fetching, 0);
}

#[test]
fn hosts_that_have_the_agent_are_asked_only_when_somebody_needs_it() {
    let mut run = Run::new(50);
    assert_eq!(run.all((0..40).map(runs)), []);
    let actions = run.all((40..50).map(wants));
    assert_eq!(pushes(&actions), [40]);
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Ask(_))).count(), 9, "{actions:?}");
}

#[test]
fn another_binary_or_another_family_of_addresses_is_no_source() {
    let other = Place { kind: Kind::new(Digest([0; 32]), SIZE, "2001:db8::1".parse().unwrap()), zone: None };
    for other in [place(1), other] {
        let mut run = Run::new(10);
        run.all([runs(0), Event::Wants(HostId(1), Some(other.clone())), Event::Wants(HostId(2), Some(other))]);
        assert_eq!(run.all([serves(0), wants(3)]), [Action::Ask(HostId(0))], "host 3 could use it");
        assert_eq!(fetches(&run.all([serves(0)])), [(3, 0)]);
    }
}

#[test]
fn a_source_in_the_same_zone_comes_first() {
    let in_zone = |zone: &str| Place { zone: Some(zone.into()), ..place(0) };
    let mut run = Run::new(20);
    run.all([wants(0), wants(1), wants(2), wants(3), wants(4)]);
    run.all([Event::Runs(HostId(5), in_zone("a")), Event::Runs(HostId(6), in_zone("b")), Event::Runs(HostId(7), in_zone("a"))]);
    for host in 2..5 {
        run.all([Event::Gone(HostId(host))]);
    }
    run.all([serves(5), serves(6), serves(7)]);
    assert_eq!(fetches(&run.all([Event::Wants(HostId(8), Some(in_zone("b")))])), [(8, 6)]);
}

#[test]
fn who_could_not_fetch_is_pushed_to_and_the_source_is_not_used_again() {
    let mut run = Run::new(8);
    run.all((0..8).map(wants));
    run.all([Event::Got(HostId(0)), runs(0)]);
    assert_eq!(fetches(&run.all([serves(0)])), [(2, 0)]);
    let actions = run.all([Event::FetchFailed(HostId(2))]);
    assert_eq!((pushes(&actions), fetches(&actions)), (vec![2], vec![]));
}

#[test]
fn after_three_failures_nobody_tries_to_fetch_any_more() {
    let mut run = Run::new(100);
    run.all((0..100).map(wants));
    run.all((0..3).map(|host| Event::Got(HostId(host))));
    for host in 0..3 {
        run.all([runs(host), serves(host)]);
    }
    for host in 3..6 {
        assert!(!run.spread.is_hopeless());
        run.after(1000, Event::FetchFailed(HostId(host)));
    }
    assert!(run.spread.is_hopeless());
    assert_eq!(run.spread.pushes.len(), PUSHES);
    assert_eq!(pushes(&run.all([Event::Gone(HostId(3))])).len(), 1);
}

#[test]
fn what_fails_in_one_kind_is_still_tried_in_another() {
    let mut run = Run::new(100);
    run.all((0..50).map(wants));
    run.all((50..100).map(|host| Event::Wants(HostId(host), Some(place(1)))));
    for host in 0..3 {
        run.all([Event::Got(HostId(host)), runs(host), Event::Declines(HostId(host))]);
    }
    assert!(run.spread.is_hopeless());
    let first = (50..100).find(|host| run.spread.pushes.contains_key(&HostId(*host))).unwrap_or(50);
    run.all([Event::Runs(HostId(first), place(1)), serves(first)]);
    assert_eq!(run.spread.tree(kind(1)).fetching, 1, "the other kind fetches");
}

#[test]
fn pushes_that_are_only_slow_do_not_end_relaying() {
    let mut run = Run::new(100);
    run.all((0..100).map(wants));
    for _ in 0..4 {
        let actions = run.after(40_000, Event::Tick);
        assert_eq!(pushes(&actions).len(), 1, "one more in case the others hang");
    }
    assert!(!run.spread.is_hopeless());
    run.all([Event::Got(HostId(0)), runs(0)]);
    assert_eq!(fetches(&run.all([serves(0)])).len(), 1);
}

#[test]
fn agents_that_decline_to_serve_are_not_waited_for() {
    let mut run = Run::new(100);
    run.all((0..100).map(wants));
    for host in 0..3 {
        run.all([Event::Got(HostId(host)), runs(host), Event::Declines(HostId(host))]);
    }
    assert!(run.spread.is_hopeless());
    assert_eq!(run.spread.pushes.len(), PUSHES);
}

#[test]
fn first_hosts_that_hang_hold_up_nobody_for_long() {
    let mut run = Run::new(20);
    run.all((0..20).map(wants));
    assert_eq!(pushes(&run.after(2_000, Event::Tick)), [1]);
    assert_eq!(pushes(&run.after(37_000, Event::Tick)), [0; 0]);
    assert_eq!(pushes(&run.after(1_000, Event::Tick)), [2]);
    run.all([Event::Got(HostId(2)), runs(2)]);
    assert_eq!(fetches(&run.all([serves(2)])), [(3, 2)]);
}

#[test]
fn links_are_left_to_the_agent_while_it_spreads_but_not_for_long() {
    let mut run = Run::new(16);
    assert!(run.spread.is_calm(run.now), "nobody wants anything");
    run.all([runs(0)]);
    assert!(run.spread.is_calm(run.now));
    run.all([wants(1), wants(2)]);
    assert!(!run.spread.is_calm(run.now));
    run.after(500, Event::Got(HostId(1)));
    assert!(!run.spread.is_calm(run.now));
    // Seven times the half second that a push took; the other one hangs.
    assert!(!run.spread.is_calm(run.now + Duration::from_millis(2900)));
    assert!(run.spread.is_calm(run.now + Duration::from_millis(3000)));
    run.after(100, Event::Got(HostId(2)));
    assert!(run.spread.is_calm(run.now));
}

/// How one host behaves.
#[derive(Debug, Clone, Copy)]
struct Nature {
    kind: Option<u8>,
    has_agent: bool,
    /// Its pushes, its fetches and its serving work.
    push_works: bool,
    fetch_works: bool,
    serves: bool,
    /// Seconds that each takes.
    takes: u8,
    /// When it goes, if it does.
    goes: Option<u8>,
}

fn nature() -> impl Strategy<Value = Nature> {
    let flags = (any::<bool>(), proptest::bool::weighted(0.9), proptest::bool::weighted(0.8), proptest::bool::weighted(0.8));
    let kind = prop_oneof![4 => Just(Some(0_u8)), 2 => Just(Some(1_u8)), 1 => Just(None)];
    (kind, flags, 0_u8..20, proptest::option::weighted(0.1, 0_u8..60)).prop_map(
        |(kind, (has_agent, push_works, fetch_works, serves), takes, goes)| Nature {
            kind,
            has_agent: has_agent && kind.is_some(),
            push_works,
            fetch_works,
            serves,
            takes,
            goes,
        },
    )
}

/// A fleet that performs the actions, and what must hold meanwhile.
struct Fleet {
    natures: Vec<Nature>,
    run: Run,
    /// What each host is doing, and when it is done.
    doing: HashMap<u32, (u64, Action)>,
    has: HashSet<u32>,
    failed: HashSet<u32>,
    copies: HashMap<u8, usize>,
    second: u64,
}

impl Fleet {
    fn new(natures: Vec<Nature>) -> Self {
        let run = Run::new(natures.len());
        Self {
            natures,
            run,
            doing: HashMap::new(),
            has: HashSet::new(),
            failed: HashSet::new(),
            copies: HashMap::new(),
            second: 0,
        }
    }

    fn event(&mut self, event: Event) -> Result<(), TestCaseError> {
        for action in self.run.after(0, event) {
            let (Action::Push(host) | Action::Fetch { host, .. } | Action::Ask(host)) = action;
            let nature = self.natures[host.index()];
            prop_assert!(!self.failed.contains(&host.0), "{action:?}, but the host is out");
            prop_assert!(self.has.contains(&host.0) == matches!(action, Action::Ask(_)), "{action:?}");
            if let Action::Fetch { from, .. } = action {
                prop_assert!(self.has.contains(&from.0), "{from:?} has nothing to serve");
                prop_assert_eq!(Some(self.natures[from.index()].kind.unwrap_or(0)), nature.kind, "{:?} fetches", host);
            }
            if let (Action::Push(_), Some(kind)) = (action, nature.kind) {
                *self.copies.entry(kind).or_default() += 1;
            }
            self.doing.insert(host.0, (self.second + u64::from(nature.takes), action));
        }
        let pushes = self.doing.values().filter(|(_, action)| matches!(action, Action::Push(_))).count();
        prop_assert!(pushes <= PUSHES, "{pushes} pushes at once");
        let mut serving: HashMap<HostId, usize> = HashMap::new();
        for (_, action) in self.doing.values() {
            if let Action::Fetch { from, .. } = action {
                *serving.entry(*from).or_default() += 1;
            }
        }
        prop_assert!(serving.values().all(|hosts| *hosts <= SLOTS), "{serving:?}");
        Ok(())
    }

    fn done(&mut self, host: u32, action: Action) -> Result<(), TestCaseError> {
        let nature = self.natures[host as usize];
        let id = HostId(host);
        if let Action::Fetch { .. } = action {
            self.event(Event::Arrived(id))?;
        }
        match action {
            Action::Push(_) if nature.push_works => self.got(id),
            Action::Push(_) => {
                self.failed.insert(host);
                self.event(Event::Gone(id))
            }
            Action::Fetch { from, .. } if nature.fetch_works && !self.failed.contains(&from.0) => self.got(id),
            Action::Fetch { .. } => self.event(Event::FetchFailed(id)),
            Action::Ask(_) if nature.serves => self.event(Event::Serves(id, address(id))),
            Action::Ask(_) => self.event(Event::Declines(id)),
        }
    }

    fn got(&mut self, host: HostId) -> Result<(), TestCaseError> {
        self.has.insert(host.0);
        self.event(Event::Got(host))?;
        // A host that can't fetch may still serve.
        self.event(Event::Runs(host, place(self.natures[host.index()].kind.unwrap_or(0))))
    }

    fn pass_a_second(&mut self) -> Result<(), TestCaseError> {
        self.second += 1;
        self.run.now += Duration::from_secs(1);
        for host in 0..self.natures.len() as u32 {
            if self.natures[host as usize].goes == u8::try_from(self.second).ok() {
                self.doing.remove(&host);
                self.failed.insert(host);
                self.event(Event::Gone(HostId(host)))?;
            }
            if let Some((at, action)) = self.doing.get(&host).copied()
                && at <= self.second
            {
                self.doing.remove(&host);
                self.done(host, action)?;
            }
        }
        self.event(Event::Tick)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_host_gets_the_agent_or_is_out(natures in proptest::collection::vec(nature(), 1..60)) {
        let mut fleet = Fleet::new(natures);
        for host in 0..fleet.natures.len() as u32 {
            let nature = fleet.natures[host as usize];
            if nature.has_agent {
                fleet.has.insert(host);
                fleet.event(Event::Runs(HostId(host), place(nature.kind.unwrap_or(0))))?;
            } else {
                fleet.event(Event::Wants(HostId(host), nature.kind.map(place)))?;
            }
        }
        let all = fleet.natures.len();
        for _ in 0..3600 {
            fleet.pass_a_second()?;
            if (0..all as u32).all(|host| fleet.has.contains(&host) || fleet.failed.contains(&host)) {
                break;
            }
        }
        for host in 0..all as u32 {
            prop_assert!(fleet.has.contains(&host) || fleet.failed.contains(&host), "host {} still waits", host);
        }
        for _ in 0..40 {
            fleet.pass_a_second()?;
        }
        prop_assert!(fleet.run.spread.is_calm(fleet.run.now));
    }

    #[test]
    fn three_copies_are_enough_where_nothing_fails(
        takes in proptest::collection::vec(0_u8..4, 5..80),
        warm in proptest::collection::vec(any::<bool>(), 80),
    ) {
        let healthy = |(takes, has_agent): (u8, bool)| Nature {
            kind: Some(0), has_agent, push_works: true, fetch_works: true, serves: true, takes, goes: None,
        };
        let natures: Vec<Nature> = takes.into_iter().zip(warm).map(healthy).collect();
        let mut fleet = Fleet::new(natures);
        for host in 0..fleet.natures.len() as u32 {
            if fleet.natures[host as usize].has_agent {
                fleet.has.insert(host);
                fleet.event(runs(host))?;
            } else {
                fleet.event(wants(host))?;
            }
        }
        for _ in 0..300 {
            fleet.pass_a_second()?;
        }
        prop_assert_eq!(fleet.has.len(), fleet.natures.len());
        prop_assert!(fleet.copies.get(&0).copied().unwrap_or(0) <= COPIES, "{:?}", fleet.copies);
    }
}
