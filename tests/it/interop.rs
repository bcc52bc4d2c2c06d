//! Other BitTorrent clients and ours give each other the same bytes, and find each other through our tracker.
//!
//! Needs `python3` with `venv` and, the first time, the package index: libtorrent is installed under `target/`. The stock rqbit session
//! takes part with the feature `engine-librqbit`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use fleetdrop::{
    swarm::{Engine, EngineConfig, EngineHandle, FleetEngine, Metainfo, Role},
    tracker::{Tracker, TrackerConfig, TrackerKey},
};
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

use crate::{node::Node, venv};

const PIECE: u32 = 64 << 10;
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// A transfer of a few hundred KiB over loopback that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One byte; one piece to the byte; many pieces to the byte; a short last piece; a last piece of one byte.
const LENGTHS: [usize; 5] = [1, PIECE as usize, 8 * PIECE as usize, 8 * PIECE as usize + 30_000, 3 * PIECE as usize + 1];

/// A file, its torrent and a tracker for it.
struct Swarm {
    content: Vec<u8>,
    metainfo: Arc<Metainfo>,
    tracker: Tracker,
    directory: TempDir,
}

impl Swarm {
    async fn new(length: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(length).collect();
        let pieces = content.chunks(PIECE as usize).map(|piece| Sha1::digest(piece).into()).collect();
        let metainfo = Arc::new(Metainfo::new("artifact.bin", length as u64, PIECE, pieces).unwrap());
        let tracker = Tracker::start(TrackerConfig {
            listen: ANY,
            info_hash: metainfo.info_hash(),
            key: TrackerKey::random().unwrap(),
            interval: Duration::from_secs(5),
            max_peers: 10,
        })
        .await
        .unwrap();
        let swarm = Self { content, metainfo, tracker, directory };
        std::fs::write(swarm.torrent(), swarm.metainfo.to_torrent(&swarm.announce_url())).unwrap();
        for role in ["seed", "host", "third"] {
            std::fs::create_dir(swarm.directory.path().join(role)).unwrap();
        }
        std::fs::write(swarm.file("seed"), &swarm.content).unwrap();
        swarm
    }

    fn announce_url(&self) -> String {
        self.tracker.announce_url(Ipv4Addr::LOCALHOST.into())
    }

    fn torrent(&self) -> PathBuf {
        self.directory.path().join("artifact.torrent")
    }

    fn file(&self, role: &str) -> PathBuf {
        self.directory.path().join(role).join("artifact.bin")
    }

    /// Starts `engine` in `role`; it learns of the others from the tracker.
    async fn start(&self, engine: impl Engine, role: Role) -> EngineHandle {
        let config = EngineConfig {
            metainfo: Arc::clone(&self.metainfo),
            role,
            listen: free_address(),
            advertise: None,
            peers: Vec::new(),
            place: None,
            controller_peers: Vec::new(),
            tracker: Some(self.announce_url()),
        };
        engine.start(config).await.unwrap()
    }

    async fn seed(&self, engine: impl Engine) -> EngineHandle {
        let handle = self.start(engine, Role::Seed { file: self.file("seed") }).await;
        self.announced(1).await;
        handle
    }

    async fn host(&self, engine: impl Engine, role: &str) -> EngineHandle {
        self.start(engine, Role::Host { file: self.file(role) }).await
    }

    /// Starts a libtorrent peer in `role`, found by and finding others through the tracker.
    async fn libtorrent(&self, role: &str) -> Node {
        let python = tokio::task::spawn_blocking(venv::python_with_libtorrent).await.unwrap().unwrap();
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/libtorrent_node.py"));
        command.arg(role).arg(self.torrent()).arg(self.directory.path().join(role)).arg("127.0.0.1:0");
        Node::start("libtorrent", command).await.unwrap()
    }

    /// Waits until the tracker lists that many peers. There is no event for it outside of the tracker.
    async fn announced(&self, peers: usize) {
        let listed = async {
            while self.tracker.counts().complete + self.tracker.counts().incomplete < peers {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(listed).await;
    }

    #[track_caller]
    fn assert_same(&self, role: &str) {
        let arrived = std::fs::read(self.file(role)).unwrap();
        assert!(arrived == self.content, "{role}'s file is not the seed's, at a length of {}", self.content.len());
    }
}

/// An address with a port that was free a moment ago: some clients do not announce a port they were not told.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_downloads_from_our_seed_found_by_our_tracker() {
    for length in LENGTHS {
        let swarm = Swarm::new(length).await;
        let seed = swarm.seed(FleetEngine).await;
        let mut host = swarm.libtorrent("host").await;
        host.go().await.unwrap();
        within(host.complete()).await.unwrap();
        swarm.assert_same("host");
        host.end().await.unwrap();
        seed.stop().await;
        swarm.tracker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_download_from_libtorrents_seed_found_by_our_tracker() {
    for length in LENGTHS {
        let swarm = Swarm::new(length).await;
        let seed = swarm.libtorrent("seed").await;
        swarm.announced(1).await;
        let mut host = swarm.host(FleetEngine, "host").await;
        within(host.wait_complete()).await.unwrap();
        swarm.assert_same("host");
        assert_eq!(host.stats().borrow().bytes.from_peers, length as u64);
        seed.end().await.unwrap();
        host.stop().await;
        swarm.tracker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_swarm_completes_everywhere() {
    let swarm = Swarm::new(40 * PIECE as usize + 5).await;
    let seed = swarm.seed(FleetEngine).await;
    let mut theirs = swarm.libtorrent("host").await;
    theirs.go().await.unwrap();
    let mut ours = swarm.host(FleetEngine, "third").await;
    within(ours.wait_complete()).await.unwrap();
    within(theirs.complete()).await.unwrap();
    swarm.assert_same("host");
    swarm.assert_same("third");
    theirs.end().await.unwrap();
    ours.stop().await;
    seed.stop().await;
    swarm.tracker.stop().await;
}

#[cfg(feature = "engine-librqbit")]
mod stock {
    use fleetdrop::swarm::stock::LibrqbitEngine;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn rqbit_downloads_from_our_seed() {
        for length in LENGTHS {
            let swarm = Swarm::new(length).await;
            let seed = swarm.seed(FleetEngine).await;
            let mut host = swarm.host(LibrqbitEngine, "host").await;
            within(host.wait_complete()).await.unwrap();
            swarm.assert_same("host");
            host.stop().await;
            seed.stop().await;
            swarm.tracker.stop().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn we_download_from_rqbits_seed() {
        for length in LENGTHS {
            let swarm = Swarm::new(length).await;
            let seed = swarm.seed(LibrqbitEngine).await;
            let mut host = swarm.host(FleetEngine, "host").await;
            within(host.wait_complete()).await.unwrap();
            swarm.assert_same("host");
            host.stop().await;
            seed.stop().await;
            swarm.tracker.stop().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rqbit_resumes_and_counts_what_was_there() {
        let swarm = Swarm::new(8 * PIECE as usize).await;
        let seed = swarm.seed(LibrqbitEngine).await;
        std::fs::write(swarm.file("host"), &swarm.content[..5 * PIECE as usize]).unwrap();
        let mut host = swarm.host(LibrqbitEngine, "host").await;
        within(host.wait_complete()).await.unwrap();
        swarm.assert_same("host");
        let stats = host.stats().borrow().clone();
        assert_eq!((stats.bytes.from_disk, stats.bytes.from_peers), (5 * u64::from(PIECE), 3 * u64::from(PIECE)));
        assert_eq!(stats.pieces_done, swarm.metainfo.piece_count());
        host.stop().await;
        seed.stop().await;
        swarm.tracker.stop().await;
    }
}
