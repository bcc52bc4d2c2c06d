//! Other BitTorrent clients read the torrent of a directory and get the same files from our hosts, which have it as one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::Arc,
    time::Duration,
};

use fleetdrop::{
    artifact::hash_tree,
    swarm::{Engine as _, EngineConfig, EngineHandle, FleetEngine, Metainfo, Role},
    tracker::{Tracker, TrackerConfig, TrackerKey},
};
use tempfile::TempDir;

use crate::{
    artifact::noise,
    client::Program,
    deploy_tree::{contents, write},
    swarm::{ANY, complete, free_address, stop, within},
};

const PIECE: u32 = 16 << 10;

/// A directory `dist` with its torrent and a tracker.
struct Shared {
    dir: TempDir,
    metainfo: Arc<Metainfo>,
    tracker: Tracker,
}

impl Shared {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("dist");
        write(&root, "a/large.bin", noise(700_001, "large"), 0o644);
        write(&root, "a/none", "", 0o644);
        write(&root, "bin/run", "#!/bin/sh\necho run\n", 0o755);
        for n in 0..50 {
            write(&root, &format!("many/ä {n}"), noise(500 + n * 37, &n.to_string()), 0o644);
        }
        symlink("bin/run", root.join("start")).unwrap();
        symlink("../many", root.join("a/many")).unwrap();
        let hashed = hash_tree(&root, |_| PIECE, &|_| ()).unwrap();
        let metainfo = Arc::new(Metainfo::of_tree("dist", Arc::new(hashed.tree), PIECE, hashed.pieces).unwrap());
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
        let shared = Self { dir, metainfo, tracker };
        fs::write(shared.dir.path().join("dist.torrent"), shared.metainfo.to_torrent(&shared.announce_url(), &[])).unwrap();
        shared
    }

    fn announce_url(&self) -> String {
        self.tracker.announce_url(std::net::Ipv4Addr::LOCALHOST.into())
    }

    async fn start(&self, role: Role, peers: Vec<std::net::SocketAddr>) -> EngineHandle {
        let config = EngineConfig {
            metainfo: self.metainfo.clone(),
            role,
            listen: free_address(),
            advertise: None,
            peers,
            place: None,
            tls: None,
            ports: None,
            controller_peers: Vec::new(),
            tracker: Some(self.announce_url()),
            bounds: Default::default(),
            origins: None,
        };
        FleetEngine.start(config).await.unwrap()
    }

    /// Gives two of our hosts a copy, lets the seed go, and then has the program download from them.
    async fn downloads(&self, program: Program) -> std::path::PathBuf {
        let seed = self.start(Role::Seed { file: self.dir.path().join("dist") }, Vec::new()).await;
        let mut hosts = Vec::new();
        for part in ["one", "two"] {
            hosts.push(self.start(Role::Host { file: self.dir.path().join(part) }, vec![seed.local_addr]).await);
        }
        for host in &mut hosts {
            complete(host).await;
        }
        seed.stop().await;
        let place = self.dir.path().join("theirs");
        fs::create_dir(&place).unwrap();
        let (torrent, theirs) = (self.dir.path().join("dist.torrent"), place.clone());
        let client = tokio::task::spawn_blocking(move || program.start(&torrent, &theirs, false)).await.unwrap();
        let root = place.join("dist");
        within("all files arrive", async {
            while !self.has_arrived(&root) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        drop(client);
        stop(hosts).await;
        root
    }

    /// True once all files have the right content. No client tells others of it in the same way.
    fn has_arrived(&self, root: &Path) -> bool {
        let files = contents(&self.dir.path().join("dist"));
        let mut files = files.iter().filter(|(_, (mode, _))| mode & 0o170_000 == 0o100_000);
        files.all(|(path, (_, content))| fs::read(root.join(path)).is_ok_and(|theirs| theirs == *content))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_gets_files_links_and_what_can_be_run() {
    let shared = Shared::new().await;
    let root = shared.downloads(Program::Libtorrent).await;
    assert_eq!(fs::read_link(root.join("start")).unwrap(), Path::new("bin/run"));
    assert_eq!(fs::read_link(root.join("a/many")).unwrap(), Path::new("../many"));
    assert_ne!(fs::metadata(root.join("bin/run")).unwrap().permissions().mode() & 0o100, 0);
    shared.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aria2_gets_the_files() {
    let shared = Shared::new().await;
    shared.downloads(Program::Aria2).await;
    shared.tracker.stop().await;
}
