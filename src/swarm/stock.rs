//! The stock rqbit session as an [`Engine`]: for interoperability tests and as the benchmark's reference, not for deploys.
//!
//! No DHT, no local discovery, no port forwarding, no persistence, TCP only. What it can't do, being what it is: it takes peers at
//! its start and from the tracker only, so peers added later are ignored; on loopback it announces itself only if it was given a port; it
//! serves a changed source without noticing; bytes from the controller are those of controller peers it is still connected to; it has no
//! event for anything, so its state is looked at ten times a second.

use std::{
    fs::{File, OpenOptions},
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use librqbit::{
    AddTorrent, AddTorrentOptions, ListenerMode, ListenerOptions, ManagedTorrent, ManagedTorrentShared, Session,
    SessionOptions, TorrentMetadata, TorrentStatsState,
    storage::{BoxStorageFactory, StorageFactory, StorageFactoryExt as _, TorrentStorage},
};
use tokio::sync::{mpsc, watch};

use super::{Engine, EngineConfig, EngineError, EngineHandle, Role, TransferStats, engine::Control};
use crate::model::ByteCounts;

/// How often the session's state is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How many peers it connects to at once.
const MAX_PEERS: usize = 200;

/// The stock session.
#[derive(Debug, Clone, Copy, Default)]
pub struct LibrqbitEngine;

impl Engine for LibrqbitEngine {
    async fn start(&self, config: EngineConfig) -> Result<EngineHandle, EngineError> {
        if config.metainfo.tree().is_some() {
            return Err(EngineError::Engine("the stock session is only given single files".into()));
        }
        if config.tls.is_some() {
            return Err(EngineError::Engine(
                "the stock session speaks plain BitTorrent: it takes no part in an encrypted run".into(),
            ));
        }
        let storage = tokio::task::spawn_blocking({
            let (role, length) = (config.role.clone(), config.metainfo.length());
            move || Storage::open(&role, length)
        })
        .await
        .map_err(|error| EngineError::Engine(error.to_string()))??;
        let session = Session::new_with_opts(PathBuf::new(), session_options(&config)).await.map_err(engine_error)?;
        let result = start_torrent(&session, &config, storage.clone()).await;
        let (torrent, local_addr) = match result {
            Ok(started) => started,
            Err(error) => {
                session.stop().await;
                return Err(error);
            }
        };
        let (stats, stats_rx) = watch::channel(TransferStats::default());
        let (control, control_rx) = mpsc::channel(16);
        let watcher = Watcher {
            session,
            torrent,
            storage,
            host: matches!(config.role, Role::Host { .. }),
            controller_peers: config.controller_peers,
            pieces: config.metainfo.piece_count(),
            piece_length: config.metainfo.piece_length(),
            stats,
        };
        Ok(EngineHandle::new(local_addr, stats_rx, control, tokio::spawn(watcher.run(control_rx))))
    }
}

fn session_options(config: &EngineConfig) -> SessionOptions {
    SessionOptions {
        dht: None,
        disable_local_service_discovery: true,
        persistence: None,
        fastresume: false,
        listen: Some(ListenerOptions {
            mode: ListenerMode::TcpOnly,
            listen_addr: config.listen,
            enable_upnp_port_forwarding: false,
            announce_port: Some(config.listen.port()).filter(|port| *port != 0),
            ipv4_only: config.listen.is_ipv4(),
            ..ListenerOptions::default()
        }),
        peer_limit: Some(MAX_PEERS),
        ..SessionOptions::default()
    }
}

/// Adds the torrent and waits until what is on disk is checked.
async fn start_torrent(
    session: &Arc<Session>,
    config: &EngineConfig,
    storage: Storage,
) -> Result<(Arc<ManagedTorrent>, SocketAddr), EngineError> {
    let options = AddTorrentOptions {
        overwrite: true,
        // Unused: our storage has the file open.
        output_folder: Some("/".into()),
        initial_peers: Some(config.peers.clone()),
        disable_trackers: config.tracker.is_none(),
        storage_factory: Some(storage.boxed()),
        ..AddTorrentOptions::default()
    };
    let torrent = config.metainfo.to_torrent(config.tracker.as_deref().unwrap_or_default(), &[]);
    let added = session.add_torrent(AddTorrent::from_bytes(torrent), Some(options)).await.map_err(engine_error)?;
    let torrent = added.into_handle().ok_or_else(|| EngineError::Engine("the session did not take the torrent".into()))?;
    torrent.wait_until_initialized().await.map_err(engine_error)?;
    let address = session.listen_addr().ok_or_else(|| EngineError::Engine("the session does not listen".into()))?;
    Ok((torrent, address))
}

fn engine_error(error: anyhow::Error) -> EngineError {
    EngineError::Engine(format!("{error:#}"))
}

/// The task behind a handle.
struct Watcher {
    session: Arc<Session>,
    torrent: Arc<ManagedTorrent>,
    storage: Storage,
    host: bool,
    controller_peers: Vec<SocketAddr>,
    pieces: u32,
    piece_length: u32,
    stats: watch::Sender<TransferStats>,
}

impl Watcher {
    async fn run(self, mut control: mpsc::Receiver<Control>) -> Result<(), EngineError> {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let initial = self.torrent.stats().progress_bytes;
        let mut state = TransferStats::default();
        let outcome = loop {
            tokio::select! {
                order = control.recv() => match order {
                    Some(Control::AddPeers(peers)) => {
                        tracing::debug!(count = peers.len(), "the stock session takes no peers after its start");
                    }
                    Some(Control::Way { seed, .. }) => tracing::debug!(%seed, "the stock session takes no way after its start"),
                    Some(Control::Isolate) => tracing::debug!("the stock session leaves no swarm"),
                    Some(Control::UseOrigins(_) | Control::Direct(..)) => tracing::debug!("the stock session uses no origins"),
                    Some(Control::Stop) | None => break Ok(()),
                },
                _ = ticks.tick() => match self.look(&mut state, initial).await {
                    Ok(()) => { self.stats.send_if_modified(|known| std::mem::replace(known, state.clone()) != state); }
                    Err(error) => break Err(error),
                },
            }
        };
        self.session.stop().await;
        outcome
    }

    /// Brings `state` up to date. Syncs the file when the last piece is there.
    async fn look(&self, state: &mut TransferStats, initial: u64) -> Result<(), EngineError> {
        let stats = self.torrent.stats();
        if matches!(stats.state, TorrentStatsState::Error) {
            return Err(EngineError::Engine(stats.error.unwrap_or_else(|| "the session failed".into())));
        }
        let mut bytes = ByteCounts { from_disk: if self.host { initial } else { 0 }, ..state.bytes };
        bytes.uploaded = stats.uploaded_bytes;
        let received = if self.host { stats.progress_bytes.saturating_sub(initial) } else { 0 };
        bytes.from_controller = self.fetched_from_controller().max(bytes.from_controller).min(received);
        bytes.from_peers = received - bytes.from_controller;
        state.bytes = bytes;
        if let Some(live) = stats.live {
            // Its megabits are mebibytes.
            state.rate = (live.download_speed.mbps * f64::from(1 << 20)) as u64;
            state.payload = live.snapshot.fetched_bytes;
            state.peers = live.snapshot.peer_stats.live;
        }
        state.pieces_done = if stats.finished {
            self.pieces
        } else {
            u32::try_from(stats.progress_bytes / u64::from(self.piece_length)).unwrap_or(self.pieces)
        };
        if stats.finished && !state.complete {
            self.storage.clone().sync().await?;
            state.complete = true;
        }
        Ok(())
    }

    fn fetched_from_controller(&self) -> u64 {
        let Some(live) = self.torrent.live() else { return 0 };
        let peers = live.per_peer_stats_snapshot(Default::default()).peers;
        self.controller_peers
            .iter()
            .filter_map(|address| peers.get(&address.to_string()))
            .map(|peer| peer.counters.fetched_bytes)
            .sum()
    }
}

/// The one file, where the caller wants it; read-only for a seed.
#[derive(Debug, Clone)]
struct Storage {
    file: Arc<File>,
    path: Arc<Path>,
    read_only: bool,
}

impl Storage {
    fn open(role: &Role, length: u64) -> Result<Self, EngineError> {
        let (path, read_only) = match role {
            Role::Seed { file } => (file, true),
            Role::Host { file } => (file, false),
        };
        let failed = |source| EngineError::Io { what: format!("opening {}", path.display()), source };
        let mut options = OpenOptions::new();
        options.read(true);
        if !read_only {
            options.write(true).create(true).truncate(false);
        }
        let file = options.open(path).map_err(failed)?;
        if !read_only {
            file.set_len(length).map_err(failed)?;
        }
        Ok(Self { file: Arc::new(file), path: path.as_path().into(), read_only })
    }

    async fn sync(self) -> Result<(), EngineError> {
        let path = Arc::clone(&self.path);
        let failed = move |source| EngineError::Io { what: format!("syncing {}", path.display()), source };
        tokio::task::spawn_blocking(move || self.file.sync_all())
            .await
            .map_err(|error| EngineError::Engine(error.to_string()))?
            .map_err(failed)
    }
}

impl StorageFactory for Storage {
    type Storage = Self;

    fn create(&self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<Self> {
        Ok(self.clone())
    }

    fn clone_box(&self) -> BoxStorageFactory {
        self.clone().boxed()
    }
}

impl TorrentStorage for Storage {
    fn init(&mut self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<()> {
        Ok(())
    }

    fn pread_exact(&self, _: usize, offset: u64, buf: &mut [u8]) -> anyhow::Result<()> {
        Ok(self.file.read_exact_at(buf, offset)?)
    }

    fn pwrite_all(&self, _: usize, offset: u64, buf: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(!self.read_only, "{} is only read", self.path.display());
        Ok(self.file.write_all_at(buf, offset)?)
    }

    fn remove_file(&self, _: usize, _: &Path) -> anyhow::Result<()> {
        anyhow::bail!("{} is not the session's to remove", self.path.display())
    }

    fn remove_directory_if_empty(&self, _: &Path) -> anyhow::Result<()> {
        Ok(())
    }

    fn ensure_file_length(&self, _: usize, length: u64) -> anyhow::Result<()> {
        if self.read_only {
            anyhow::ensure!(self.file.metadata()?.len() == length, "{} has changed its length", self.path.display());
            return Ok(());
        }
        Ok(self.file.set_len(length)?)
    }

    fn take(&self) -> anyhow::Result<Box<dyn TorrentStorage>> {
        Ok(Box::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        controller::Authority,
        swarm::{Bounds, Metainfo, Tls},
    };

    #[tokio::test]
    async fn it_takes_no_part_in_an_encrypted_run() {
        let config = EngineConfig {
            metainfo: Arc::new(Metainfo::new("a", 1, 16384, vec![[0; 20]]).unwrap()),
            role: Role::Host { file: PathBuf::from("/nowhere/a") },
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ports: None,
            advertise: None,
            peers: Vec::new(),
            place: None,
            controller_peers: Vec::new(),
            tracker: None,
            tls: Some(Tls::new(&Authority::new().unwrap().member().unwrap()).unwrap()),
            origins: None,
            bounds: Bounds::default(),
        };
        let error = LibrqbitEngine.start(config).await.unwrap_err().to_string();
        assert!(error.contains("plain BitTorrent"), "{error}");
    }
}
