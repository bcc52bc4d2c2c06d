//! A swarm without hosts and SSH: a file, its torrent, a tracker, and engines of this process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use fleetdrop::{
    swarm::{Engine, EngineConfig, EngineHandle, FleetEngine, Metainfo, PieceHash, Role},
    tracker::{Tracker, TrackerConfig, TrackerKey},
};
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

use crate::ports::free_port;

/// Any port of this machine.
pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// A transfer of a few MiB over loopback that takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A file, its torrent and a tracker for it. The parts that peers play have a directory each.
pub(crate) struct Swarm {
    pub(crate) content: Vec<u8>,
    pub(crate) metainfo: Arc<Metainfo>,
    pub(crate) tracker: Tracker,
    pub(crate) directory: TempDir,
    /// Where the seed listens, once it does: hosts that start later know it for the controller's.
    controller: OnceLock<SocketAddr>,
}

impl Swarm {
    /// Makes a file of that many random bytes, which the part `seed` has.
    pub(crate) async fn new(length: usize, piece_length: u32) -> Self {
        let mut content = vec![0; length];
        fastrand::fill(&mut content);
        let pieces = hashes(&content, piece_length);
        let metainfo = Metainfo::new("artifact.bin", length as u64, piece_length, pieces).unwrap();
        Self::of(content, metainfo).await
    }

    /// Takes content with its torrent, which the part `seed` has.
    pub(crate) async fn of(content: Vec<u8>, metainfo: Metainfo) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let metainfo = Arc::new(metainfo);
        let tracker = Tracker::start(TrackerConfig {
            listen: ANY,
            info_hash: metainfo.info_hash(),
            key: TrackerKey::random().unwrap(),
            interval: Duration::from_secs(5),
            max_peers: 64,
            tls: None,
            ports: None,
        })
        .await
        .unwrap();
        let swarm = Self { content, metainfo, tracker, directory, controller: OnceLock::new() };
        std::fs::write(swarm.torrent(), swarm.metainfo.to_torrent(&swarm.announce_url(), &[])).unwrap();
        std::fs::write(swarm.file("seed"), &swarm.content).unwrap();
        swarm
    }

    pub(crate) fn announce_url(&self) -> String {
        self.tracker.announce_url(Ipv4Addr::LOCALHOST.into())
    }

    pub(crate) fn torrent(&self) -> PathBuf {
        self.directory.path().join("artifact.torrent")
    }

    /// Returns a part's directory, which is made if it is missing.
    pub(crate) fn place(&self, part: &str) -> PathBuf {
        let place = self.directory.path().join(part);
        std::fs::create_dir_all(&place).unwrap();
        place
    }

    pub(crate) fn file(&self, part: &str) -> PathBuf {
        self.place(part).join("artifact.bin")
    }

    /// Returns how `role` is played without a tracker.
    pub(crate) fn config(&self, role: Role, peers: &[SocketAddr]) -> EngineConfig {
        EngineConfig {
            metainfo: Arc::clone(&self.metainfo),
            role,
            listen: free_address(),
            advertise: None,
            peers: peers.to_vec(),
            place: None,
            tls: None,
            ports: None,
            controller_peers: self.controller.get().copied().into_iter().collect(),
            tracker: None,
            bounds: Default::default(),
            origins: None,
        }
    }

    /// Starts our seed, which nobody is told of.
    pub(crate) async fn seed(&self) -> EngineHandle {
        let seed = FleetEngine.start(self.config(Role::Seed { file: self.file("seed") }, &[])).await.unwrap();
        self.controller.get_or_init(|| seed.local_addr);
        seed
    }

    /// Starts one of our hosts, which knows of those peers alone.
    pub(crate) async fn host(&self, part: &str, peers: &[SocketAddr]) -> EngineHandle {
        FleetEngine.start(self.config(Role::Host { file: self.file(part) }, peers)).await.unwrap()
    }

    /// Starts `engine` in `role`; it learns of the others from the tracker.
    pub(crate) async fn announced(&self, engine: impl Engine, role: Role) -> EngineHandle {
        let config = EngineConfig { tracker: Some(self.announce_url()), ..self.config(role, &[]) };
        engine.start(config).await.unwrap()
    }

    /// Waits until the tracker lists that many peers that have everything. There is no event for it outside of the tracker.
    pub(crate) async fn listed_complete(&self, peers: usize) {
        let listed = async {
            while self.tracker.counts().complete < peers {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("the tracker lists who is complete", listed).await;
    }

    #[track_caller]
    pub(crate) fn assert_same(&self, part: &str) {
        let arrived = std::fs::read(self.file(part)).unwrap();
        assert!(arrived == self.content, "{part}'s file is not the seed's, at a length of {}", self.content.len());
    }
}

/// Returns the hashes of the content's pieces.
pub(crate) fn hashes(content: &[u8], piece_length: u32) -> Vec<PieceHash> {
    content.chunks(piece_length as usize).map(|piece| Sha1::digest(piece).into()).collect()
}

/// Waits until an engine of ours has everything.
pub(crate) async fn complete(host: &mut EngineHandle) {
    let stats = host.stats();
    let done = tokio::time::timeout(PATIENCE, host.wait_complete()).await;
    done.unwrap_or_else(|_| panic!("not complete: {:?}", *stats.borrow())).unwrap();
}

/// Stops engines, one after the other.
pub(crate) async fn stop(engines: impl IntoIterator<Item = EngineHandle>) {
    for engine in engines {
        engine.stop().await;
    }
}

/// Returns an address to listen on: some clients do not announce a port they were not told.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::new(ANY.ip(), free_port())
}

/// Waits for what must happen soon.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}
