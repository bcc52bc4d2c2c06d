//! The whole fleet: who is connected to whom, the zones' links, the threads.

use std::{
    sync::mpsc,
    thread::{self, Scope, ScopedJoinHandle},
};

use super::{
    Scenario, World,
    event::{Event, Kind, Time},
    host::{Account, Host, SEED},
    link::Pipe,
    payload,
    shard::Shard,
};
use crate::swarm::{
    policy::Neighbours,
    session::{MAX_PEERS, TICK},
};

/// Fewer hosts than this a thread are not worth it.
const MIN_PER_THREAD: usize = 400;

/// The links between zones, in both directions.
struct ZoneLinks {
    out: Vec<Pipe>,
    into: Vec<Pipe>,
}

/// Runs a fleet until every living host is complete or the scenario's time is up.
pub(super) fn run(scenario: &Scenario, threads: usize) -> Vec<Account> {
    let nodes = scenario.hosts.len() + 1;
    let threads = threads.clamp(1, nodes.div_ceil(MIN_PER_THREAD));
    let world = World::new(scenario, nodes.div_ceil(threads));
    let mut shards = shards(scenario, &world);
    let mut zones = scenario.zone_link.map(|rate| ZoneLinks::new(rate, &world));
    thread::scope(|scope| {
        let helpers: Vec<Helper<'_>> = (1..shards.len()).map(|_| Helper::start(scope, &world)).collect();
        let last = scenario.limit.as_nanos() as Time / world.delay;
        for window in 0..last {
            let Some(run) = run_window(&world, window, std::mem::take(&mut shards), &helpers) else { return };
            shards = run;
            hand_over(&world, &mut shards, zones.as_mut());
            if shards.iter().all(|shard| shard.open == 0) {
                return;
            }
        }
    });
    shards.iter().flat_map(Shard::accounts).collect()
}

/// Builds the nodes: the seed, then the hosts in the order in which they join.
fn shards(scenario: &Scenario, world: &World) -> Vec<Shard> {
    let mut random = fastrand::Rng::with_seed(scenario.seed);
    let names: Vec<String> = scenario.hosts.iter().map(|host| host.zone.to_string()).collect();
    let mut graph = Neighbours::new(scenario.degree, names.iter().map(|name| Some(name.as_str())), random.u64(..));
    for (index, _) in scenario.hosts.iter().enumerate().filter(|(_, host)| !host.alone) {
        graph.join(index);
    }
    let seeded = scenario.hosts.len().min(MAX_PEERS.1);
    let neighbours = |id: u32| -> Vec<u32> {
        if id == SEED {
            return (1..=seeded as u32).collect();
        }
        let with_seed = (id as usize <= seeded).then_some(SEED);
        with_seed.into_iter().chain(graph.of(id as usize - 1).iter().map(|peer| *peer as u32 + 1)).collect()
    };
    let nodes: Vec<u32> = (0..world.nodes.len() as u32).collect();
    let count = world.nodes.len().div_ceil(world.per_shard);
    let phases: Vec<Time> = nodes.iter().map(|_| random.u64(0..TICK.as_nanos() as Time)).collect();
    let build = |ids: &[u32]| {
        let hosts = ids.iter().map(|id| Host::new(*id, world, &neighbours(*id), random.u64(..))).collect();
        let mut shard = Shard::new(ids[0], hosts, count);
        shard.begin(world, |id| phases[id as usize]);
        shard
    };
    nodes.chunks(world.per_shard).map(build).collect()
}

/// A thread that runs the windows of a shard that is sent to it.
struct Helper<'scope> {
    work: mpsc::Sender<(u64, Shard)>,
    done: mpsc::Receiver<Shard>,
    /// Joined by the scope, which passes a panic on.
    _thread: ScopedJoinHandle<'scope, ()>,
}

impl<'scope> Helper<'scope> {
    fn start<'env>(scope: &'scope Scope<'scope, 'env>, world: &'env World) -> Self {
        let (work, windows) = mpsc::channel::<(u64, Shard)>();
        let (finished, done) = mpsc::channel();
        let thread = scope.spawn(move || {
            for (window, mut shard) in windows {
                shard.run(world, window);
                if finished.send(shard).is_err() {
                    return;
                }
            }
        });
        Self { work, done, _thread: thread }
    }
}

/// Lets every shard pass one window, all at the same time. None if a helper panicked, which its scope passes on.
fn run_window(world: &World, window: u64, shards: Vec<Shard>, helpers: &[Helper<'_>]) -> Option<Vec<Shard>> {
    let mut shards = shards.into_iter();
    let mut own = shards.next()?;
    for (helper, shard) in helpers.iter().zip(shards) {
        helper.work.send((window, shard)).ok()?;
    }
    own.run(world, window);
    let mut back = vec![own];
    for helper in helpers {
        back.push(helper.done.recv().ok()?);
    }
    Some(back)
}

/// Hands over what shards sent each other in a window.
fn hand_over(world: &World, shards: &mut [Shard], zones: Option<&mut ZoneLinks>) {
    if let Some(zones) = zones {
        let mut crossing: Vec<Event> = shards.iter_mut().flat_map(|shard| shard.crossing.drain(..)).collect();
        crossing.sort_unstable_by_key(Event::order);
        for event in crossing {
            let event = zones.pass(world, event);
            shards[world.shard_of(event.to)].enter(world, event);
        }
    }
    for from in 0..shards.len() {
        for to in 0..shards.len() {
            if !shards[from].out[to].is_empty() {
                let mail = std::mem::take(&mut shards[from].out[to]);
                shards[to].mail.push(mail);
            }
        }
    }
}

impl ZoneLinks {
    fn new(rate: u64, world: &World) -> Self {
        let pipes = || (0..world.zones.len()).map(|_| Pipe::new(payload(rate))).collect();
        Self { out: pipes(), into: pipes() }
    }

    /// Lets a piece's last block cross from zone to zone; returns it with the time at which it is across.
    fn pass(&mut self, world: &World, event: Event) -> Event {
        let Kind::Last { took } = event.kind else { return event };
        let (from, to) = (world.nodes[event.from as usize].zone, world.nodes[event.to as usize].zone);
        let bytes = world.size_of(event.piece);
        let began = event.at.saturating_sub(Time::from(took) * 1000);
        let out = self.out[from].pass(event.at, began, bytes);
        let across = self.into[to].pass(out, began, bytes);
        Event { at: across, ..event }
    }
}
