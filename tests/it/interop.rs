//! Other BitTorrent clients and ours give each other the same bytes, and find each other through our tracker.
//!
//! Needs aria2, transmission-cli, `python3` with `venv` and, the first time, the package index: libtorrent is installed under `target/`. The
//! stock rqbit session takes part with the feature `engine-librqbit`. [`crate::interop_deploy`] does the same with a whole deploy.

#[cfg(feature = "engine-librqbit")]
use fleetdrop::swarm::{EngineHandle, stock::LibrqbitEngine};
use fleetdrop::swarm::{FleetEngine, Role};

use crate::{
    client::{Client, Program},
    swarm::{Swarm, complete, stop, within},
};

const PIECE: u32 = 64 << 10;

/// Length and piece length. One byte; one piece to the byte; many pieces to the byte; a short last piece; a last piece of one byte; pieces
/// that take several chunks of memory.
const SIZES: [(usize, u32); 6] = [
    (1, PIECE),
    (PIECE as usize, PIECE),
    (8 * PIECE as usize, PIECE),
    (8 * PIECE as usize + 30_000, PIECE),
    (3 * PIECE as usize + 1, PIECE),
    ((5 << 20) + 7, 1 << 20),
];

/// Somebody else's client: a program, or the stock session in this process.
#[derive(Debug, Clone, Copy)]
enum Other {
    Program(Program),
    #[cfg(feature = "engine-librqbit")]
    Stock,
}

/// One that runs.
enum Running {
    Program(Client),
    #[cfg(feature = "engine-librqbit")]
    Stock(EngineHandle),
}

impl Other {
    async fn start(self, swarm: &Swarm, part: &str) -> Running {
        let seeds = part == "seed";
        match self {
            Self::Program(program) => {
                let (torrent, place) = (swarm.torrent(), swarm.place(part));
                let start = tokio::task::spawn_blocking(move || program.start(&torrent, &place, seeds));
                Running::Program(start.await.unwrap())
            }
            #[cfg(feature = "engine-librqbit")]
            Self::Stock => {
                let file = swarm.file(part);
                let role = if seeds { Role::Seed { file } } else { Role::Host { file } };
                Running::Stock(swarm.announced(LibrqbitEngine, role).await)
            }
        }
    }
}

impl Running {
    async fn arrived(&mut self, swarm: &Swarm) {
        match self {
            Self::Program(client) => client.arrived(&swarm.content).await,
            #[cfg(feature = "engine-librqbit")]
            Self::Stock(engine) => complete(engine).await,
        }
    }

    async fn stop(self) {
        match self {
            Self::Program(client) => drop(client),
            #[cfg(feature = "engine-librqbit")]
            Self::Stock(engine) => engine.stop().await,
        }
    }
}

/// Our seed gives three of our hosts a copy and stops; then the other one comes and has nobody but them.
async fn joins_our_hosts(other: Other, (length, piece): (usize, u32)) {
    let swarm = Swarm::new(length, piece).await;
    let seed = swarm.seed().await;
    let mut hosts = Vec::new();
    for part in ["one", "two", "three"] {
        let host = swarm.announced(FleetEngine, Role::Host { file: swarm.file(part) }).await;
        host.add_peers(vec![seed.local_addr]).await;
        hosts.push(host);
    }
    for host in &mut hosts {
        complete(host).await;
    }
    seed.stop().await;
    let mut theirs = other.start(&swarm, "theirs").await;
    theirs.arrived(&swarm).await;
    swarm.assert_same("theirs");
    theirs.stop().await;
    stop(hosts).await;
    swarm.tracker.stop().await;
}

/// Three of our hosts have nobody but the other one.
async fn is_our_only_seed(other: Other, (length, piece): (usize, u32)) {
    let swarm = Swarm::new(length, piece).await;
    let seed = other.start(&swarm, "seed").await;
    swarm.listed_complete(1).await;
    let parts = ["one", "two", "three"];
    let mut hosts = Vec::new();
    for part in parts {
        hosts.push(swarm.announced(FleetEngine, Role::Host { file: swarm.file(part) }).await);
    }
    for (host, part) in hosts.iter_mut().zip(parts) {
        complete(host).await;
        swarm.assert_same(part);
        assert_eq!(host.stats().borrow().bytes.from_peers, length as u64);
    }
    stop(hosts).await;
    seed.stop().await;
    swarm.tracker.stop().await;
}

/// One of theirs and one of ours start together while our seed pushes, which standard clients must not be kept waiting by.
async fn shares_with_our_seed_and_host(other: Other) {
    let swarm = Swarm::new((20 << 20) + 5, 256 << 10).await;
    let seed = swarm.announced(FleetEngine, Role::Seed { file: swarm.file("seed") }).await;
    swarm.listed_complete(1).await;
    let mut theirs = other.start(&swarm, "theirs").await;
    let mut ours = swarm.announced(FleetEngine, Role::Host { file: swarm.file("ours") }).await;
    tokio::join!(complete(&mut ours), theirs.arrived(&swarm));
    swarm.assert_same("ours");
    swarm.assert_same("theirs");
    theirs.stop().await;
    stop([ours, seed]).await;
    swarm.tracker.stop().await;
}

/// The clients by directions. The sizes go at the same time: most of the time is waiting for a client's clock.
macro_rules! interoperates {
    ($($(#[$only:meta])* $name:ident: $other:expr;)*) => {
        $($(#[$only])* mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn joins_our_hosts_after_the_seed_has_gone() {
                let sizes = SIZES.map(|size| joins_our_hosts($other, size));
                within("every size arrives", futures_util::future::join_all(sizes)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn is_the_only_seed_of_our_hosts() {
                let sizes = SIZES.map(|size| is_our_only_seed($other, size));
                within("every size arrives", futures_util::future::join_all(sizes)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn shares_with_our_seed_and_host() {
                super::shares_with_our_seed_and_host($other).await;
            }
        })*
    };
}

interoperates! {
    libtorrent: Other::Program(Program::Libtorrent);
    aria2: Other::Program(Program::Aria2);
    transmission: Other::Program(Program::Transmission);
    #[cfg(feature = "engine-librqbit")]
    librqbit: Other::Stock;
}

#[cfg(feature = "engine-librqbit")]
#[tokio::test(flavor = "multi_thread")]
async fn rqbit_resumes_and_counts_what_was_there() {
    let swarm = Swarm::new(8 * PIECE as usize, PIECE).await;
    let seed = swarm.announced(LibrqbitEngine, Role::Seed { file: swarm.file("seed") }).await;
    swarm.listed_complete(1).await;
    std::fs::write(swarm.file("host"), &swarm.content[..5 * PIECE as usize]).unwrap();
    let mut host = swarm.announced(LibrqbitEngine, Role::Host { file: swarm.file("host") }).await;
    complete(&mut host).await;
    swarm.assert_same("host");
    let stats = host.stats().borrow().clone();
    assert_eq!((stats.bytes.from_disk, stats.bytes.from_peers), (5 * u64::from(PIECE), 3 * u64::from(PIECE)));
    assert_eq!(stats.pieces_done, swarm.metainfo.piece_count());
    stop([host, seed]).await;
    swarm.tracker.stop().await;
}
