//! The announce client's task, as the session sees it.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::swarm::{AnnounceConfig, AnnounceProgress, Announcer, EngineConfig, EngineError, connection::Context};

/// Returns the address to announce; none leaves it to the tracker to take the one the announce comes from.
fn announced_ip(config: &EngineConfig) -> Option<IpAddr> {
    let listen = config.listen.ip();
    config.advertise.or((!listen.is_unspecified()).then_some(listen))
}

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
        let announcer = Announcer::new(AnnounceConfig {
            url,
            info_hash: context.meta.info_hash(),
            peer_id: context.peer_id,
            port: context.port,
            advertise: announced_ip(config),
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

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

    use super::*;
    use crate::swarm::{Metainfo, Role};

    fn announced(listen: Ipv4Addr, advertise: Option<Ipv4Addr>) -> Option<IpAddr> {
        announced_ip(&EngineConfig {
            metainfo: Arc::new(Metainfo::new("a", 1, 16384, vec![[0; 20]]).unwrap()),
            role: Role::Host { file: PathBuf::from("a") },
            listen: SocketAddr::from((listen, 0)),
            advertise: advertise.map(IpAddr::from),
            peers: Vec::new(),
            place: None,
            controller_peers: Vec::new(),
            tracker: None,
        })
    }

    #[test]
    fn the_advertised_address_is_announced_whatever_is_listened_on() {
        let (outer, own) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(announced(Ipv4Addr::UNSPECIFIED, Some(outer)), Some(outer.into()));
        assert_eq!(announced(own, Some(outer)), Some(outer.into()));
        assert_eq!(announced(own, None), Some(own.into()));
        assert_eq!(announced(Ipv4Addr::UNSPECIFIED, None), None);
    }
}
