//! The announce client's task, as the session sees it.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::swarm::{
    AnnounceConfig, AnnounceError, AnnounceProgress, Announcer, EngineConfig, EngineError, Reach, connection::Context,
};

/// Returns the address to announce; none leaves it to the tracker to take the one the announce comes from.
fn announced_ip(config: &EngineConfig) -> Option<IpAddr> {
    let listen = config.listen.ip();
    config.advertise.or((!listen.is_unspecified()).then_some(listen))
}

/// The announce client; none runs if the engine has no tracker.
#[derive(Debug)]
pub(super) struct Tracking {
    /// What is announced, but for the URL.
    announced: AnnounceConfig,
    running: Option<Running>,
    /// Clients that say goodbye.
    former: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    progress: watch::Sender<AnnounceProgress>,
    peers: mpsc::Receiver<Vec<SocketAddr>>,
    reach: watch::Receiver<Reach>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(announced: &AnnounceConfig, url: String, progress: AnnounceProgress) -> Result<Self, AnnounceError> {
        let announcer = Announcer::new(AnnounceConfig { url, ..announced.clone() })?;
        let (stop, reach) = (CancellationToken::new(), announcer.reach());
        let (sender, peers) = mpsc::channel(4);
        let progress = watch::Sender::new(progress);
        let task = tokio::spawn(announcer.run(progress.subscribe(), stop.clone(), sender));
        Ok(Self { stop, progress, peers, reach, task })
    }
}

impl Tracking {
    /// Starts announcing, if the configuration names a tracker.
    pub(super) fn start(config: &EngineConfig, context: &Context, left: u64) -> Result<Self, EngineError> {
        let announced = AnnounceConfig {
            url: String::new(),
            tls: config.tls.clone(),
            info_hash: context.meta.info_hash(),
            peer_id: context.peer_id,
            port: context.port,
            advertise: announced_ip(config),
        };
        let progress = AnnounceProgress { left, ..AnnounceProgress::default() };
        let start = |url| Running::start(&announced, url, progress).map_err(|error| EngineError::Engine(error.to_string()));
        // Whoever can't be connected to has nothing to announce.
        let running = config.tracker.clone().filter(|_| context.port != 0).map(start).transpose()?;
        Ok(Self { announced, running, former: Vec::new() })
    }

    /// Announces to the tracker at that URL from now on. Only once: where it was told a second one, the first one stays.
    pub(super) fn move_to(&mut self, url: String, progress: AnnounceProgress) {
        if !self.former.is_empty() {
            return;
        }
        match Running::start(&self.announced, url, progress) {
            Ok(running) => {
                self.end();
                self.running = Some(running);
            }
            Err(error) => tracing::warn!(%error, "the tracker's other address is not usable"),
        }
    }

    /// Says goodbye to the tracker, and announces no more.
    pub(super) fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            self.former.push(running.task);
        }
    }

    /// Returns whether the tracker answers.
    pub(super) fn reach(&self) -> Reach {
        self.running.as_ref().map_or(Reach::Untried, |running| running.reach.borrow().clone())
    }

    /// Waits for addresses; forever without a tracker.
    pub(super) async fn peers(&mut self) -> Vec<SocketAddr> {
        match &mut self.running {
            Some(running) => match running.peers.recv().await {
                Some(peers) => peers,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Tells the next announce what was transferred.
    pub(super) fn progress(&self, progress: AnnounceProgress) {
        if let Some(running) = &self.running {
            running.progress.send_if_modified(|before| std::mem::replace(before, progress) != progress);
        }
    }

    /// Says goodbye to the tracker and waits for the client's end.
    pub(super) async fn stop(mut self) {
        self.end();
        for task in self.former {
            if let Err(error) = task.await {
                tracing::error!(%error, "the announce client failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

    use super::*;
    use crate::swarm::{Bounds, Metainfo, Role};

    fn announced(listen: Ipv4Addr, advertise: Option<Ipv4Addr>) -> Option<IpAddr> {
        announced_ip(&EngineConfig {
            metainfo: Arc::new(Metainfo::new("a", 1, 16384, vec![[0; 20]]).unwrap()),
            role: Role::Host { file: PathBuf::from("a") },
            listen: SocketAddr::from((listen, 0)),
            ports: None,
            advertise: advertise.map(IpAddr::from),
            peers: Vec::new(),
            place: None,
            controller_peers: Vec::new(),
            tracker: None,
            tls: None,
            bounds: Bounds::default(),
            origins: None,
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
