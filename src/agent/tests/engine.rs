//! An engine without a network: it copies the artifact from memory, as well or as badly as a test wants.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::{mpsc, watch};

use crate::{
    model::ByteCounts,
    swarm::{Control, Engine, EngineConfig, EngineError, EngineHandle, Role, TransferStats},
};

/// How an engine behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Delivers everything once it has a peer.
    Good,
    /// Delivers everything, one byte of it wrong.
    Corrupt,
    /// Delivers half and then nothing.
    Stalls,
    /// Receives bytes that never become a verified piece.
    Unverified,
    /// Ends with "no space left on device" once it has a peer.
    FullDisk,
    /// Delivers everything; ends with an error when it gets another peer.
    DiesLater,
}

/// The engine.
#[derive(Debug, Clone)]
pub(super) struct FakeEngine {
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) manner: Manner,
}

impl Engine for FakeEngine {
    async fn start(&self, config: EngineConfig) -> Result<EngineHandle, EngineError> {
        let Role::Host { file } = config.role else { return Err(EngineError::Engine("not a host".into())) };
        assert_eq!(config.metainfo.length(), self.bytes.len() as u64);
        let there = std::fs::metadata(&file).map_or(0, |meta| meta.len());
        let local_addr = SocketAddr::new(config.listen.ip(), 6881);
        let bytes = ByteCounts { from_disk: there, ..ByteCounts::default() };
        let complete = there == self.bytes.len() as u64;
        let (stats, watched) = watch::channel(TransferStats { bytes, complete, ..TransferStats::default() });
        let (control, orders) = mpsc::channel(4);
        let task = tokio::spawn(run(self.clone(), file, stats, orders));
        Ok(EngineHandle::new(local_addr, watched, control, task))
    }
}

async fn run(
    engine: FakeEngine,
    path: PathBuf,
    stats: watch::Sender<TransferStats>,
    mut orders: mpsc::Receiver<Control>,
) -> Result<(), EngineError> {
    // Like the real one: everything goes through one open file, whatever happens to its name.
    let open = std::fs::OpenOptions::new().read(true).append(true).create(true).open(&path);
    let mut file = open.map_err(|source| EngineError::Io { what: "cannot open".into(), source })?;
    let mut batches = 0;
    while let Some(order) = orders.recv().await {
        match order {
            Control::Stop => break,
            Control::AddPeers(peers) if peers.is_empty() => continue,
            Control::AddPeers(_) => batches += 1,
            Control::Direct(..) => continue,
            Control::Way { .. } | Control::Isolate | Control::UseOrigins(_) => {}
        }
        let mut there = Vec::new();
        let _ = file.read_to_end(&mut there);
        match engine.manner {
            Manner::FullDisk => {
                let source = std::io::Error::from_raw_os_error(28);
                return Err(EngineError::Io { what: format!("cannot write {}", path.display()), source });
            }
            Manner::DiesLater if batches > 1 => return Err(EngineError::Engine("the network is gone".into())),
            Manner::Unverified => {
                stats.send_modify(|stats| stats.payload += 1000);
                continue;
            }
            _ if stats.borrow().complete => continue,
            _ => {}
        }
        let mut rest = engine.bytes[there.len()..].to_vec();
        if engine.manner == Manner::Stalls {
            rest.truncate(rest.len() / 2);
        }
        if engine.manner == Manner::Corrupt
            && let Some(byte) = rest.last_mut()
        {
            *byte ^= 1;
        }
        file.write_all(&rest).and_then(|()| file.sync_all()).unwrap();
        stats.send_modify(|stats| {
            stats.bytes.from_peers += rest.len() as u64;
            stats.complete = engine.manner != Manner::Stalls;
        });
    }
    Ok(())
}
