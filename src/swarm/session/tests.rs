//! Whole engines on loopback.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha1::{Digest as _, Sha1};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::swarm::{Engine as _, EngineConfig, EngineError, EngineHandle, FleetEngine, Metainfo, Role};

const PATIENCE: Duration = Duration::from_secs(60);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An artifact of random bytes and its torrent.
struct Artifact {
    dir: TempDir,
    bytes: Vec<u8>,
    meta: Arc<Metainfo>,
}

impl Artifact {
    fn new(size: usize, piece_length: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let mut bytes = vec![0; size];
        fastrand::Rng::with_seed(size as u64).fill(&mut bytes);
        std::fs::write(dir.path().join("artifact"), &bytes).unwrap();
        let pieces = bytes.chunks(piece_length as usize).map(|piece| Sha1::digest(piece).into()).collect();
        let meta = Metainfo::new("artifact", size as u64, piece_length, pieces).unwrap();
        Self { dir, bytes, meta: Arc::new(meta) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, role: Role, peers: &[SocketAddr]) -> EngineConfig {
        EngineConfig {
            metainfo: self.meta.clone(),
            role,
            listen: loopback(),
            peers: peers.to_vec(),
            controller_peers: Vec::new(),
            tracker: None,
        }
    }

    async fn seed(&self) -> EngineHandle {
        let role = Role::Seed { file: self.path("artifact") };
        FleetEngine.start(self.config(role, &[])).await.unwrap()
    }

    async fn host(&self, name: &str, peers: &[SocketAddr]) -> EngineHandle {
        let role = Role::Host { file: self.path(name) };
        FleetEngine.start(self.config(role, peers)).await.unwrap()
    }

    fn assert_same(&self, path: &Path) {
        assert!(std::fs::read(path).unwrap() == self.bytes, "{} differs", path.display());
    }
}

async fn complete(host: &mut EngineHandle) {
    let done = timeout(PATIENCE, host.wait_complete()).await;
    done.unwrap_or_else(|_| panic!("not complete: {:?}", *host.stats().borrow())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_hosts_get_the_same_bytes_and_the_seed_gives_little_more_than_one_copy() {
    let artifact = Artifact::new(8 * 1024 * 1024 + 12345, 64 << 10);
    let seed = artifact.seed().await;
    let mut hosts = Vec::new();
    for number in 0..8 {
        let mut peers = vec![seed.local_addr];
        peers.extend(hosts.iter().map(|host: &EngineHandle| host.local_addr));
        hosts.push(artifact.host(&format!("host{number}"), &peers).await);
    }
    for host in &mut hosts {
        complete(host).await;
    }
    for (number, host) in hosts.into_iter().enumerate() {
        let bytes = host.stats().borrow().bytes;
        assert_eq!(bytes.received(), artifact.meta.length());
        host.stop().await;
        artifact.assert_same(&artifact.path(&format!("host{number}")));
    }
    let mut stats = seed.stats();
    seed.stop().await;
    let copies = stats.borrow_and_update().bytes.uploaded as f64 / artifact.meta.length() as f64;
    assert!(copies <= 1.5, "the seed gave {copies:.2} copies");
}

#[tokio::test]
async fn a_changed_source_is_an_error() {
    let artifact = Artifact::new(300_000, 64 << 10);
    let mut bytes = artifact.bytes.clone();
    bytes[200_000] ^= 1;
    std::fs::write(artifact.path("artifact"), &bytes).unwrap();
    let mut seed = artifact.seed().await;
    let host = artifact.host("host", &[seed.local_addr]).await;
    let error = timeout(PATIENCE, seed.failed()).await.unwrap();
    assert!(matches!(error, EngineError::SourceChanged { piece: 3, .. }), "{error:?}");
    host.stop().await;
}
