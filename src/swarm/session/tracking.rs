//! The announce client's task, as the session sees it.

use std::net::SocketAddr;

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::swarm::{AnnounceConfig, AnnounceProgress, Announcer, EngineConfig, EngineError, connection::Context};

/// A running announce client; none if the engine has no tracker.
#[derive(Debug)]
pub(super) struct Tracking(Option<Running>);

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    progress: watch::Sender<AnnounceProgress>,
    peers: mpsc::Receiver<Vec<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Tracking {
    /// Starts announcing, if the configuration names a tracker.
    pub(super) fn start(config: &EngineConfig, context: &Context, left: u64) -> Result<Self, EngineError> {
        let Some(url) = config.tracker.clone() else { return Ok(Self(None)) };
        let ip = config.listen.ip();
        let announcer = Announcer::new(AnnounceConfig {
            url,
            info_hash: context.meta.info_hash(),
            peer_id: context.peer_id,
            port: context.port,
            advertise: (!ip.is_unspecified()).then_some(ip),
        })
        .map_err(|error| EngineError::Engine(error.to_string()))?;
        let stop = CancellationToken::new();
        let (sender, peers) = mpsc::channel(4);
        let progress = watch::Sender::new(AnnounceProgress { left, ..AnnounceProgress::default() });
        let task = tokio::spawn(announcer.run(progress.subscribe(), stop.clone(), sender));
        Ok(Self(Some(Running { stop, progress, peers, task })))
    }

    /// Waits for addresses; forever without a tracker.
    pub(super) async fn peers(&mut self) -> Vec<SocketAddr> {
        match &mut self.0 {
            Some(running) => match running.peers.recv().await {
                Some(peers) => peers,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Tells the next announce what was transferred.
    pub(super) fn progress(&self, progress: AnnounceProgress) {
        if let Some(running) = &self.0 {
            running.progress.send_if_modified(|before| std::mem::replace(before, progress) != progress);
        }
    }

    /// Says goodbye to the tracker and waits for the client's end.
    pub(super) async fn stop(self) {
        if let Some(running) = self.0 {
            running.stop.cancel();
            if let Err(error) = running.task.await {
                tracing::error!(%error, "the announce client failed");
            }
        }
    }
}
