//! What the controller gives to the swarm: its seed and its tracker, on ephemeral ports, gone when the run ends.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{run::RunError, transport::Transport};
use crate::{
    swarm::{Engine, EngineConfig, EngineError, EngineHandle, Metainfo, Role},
    tracker::{Tracker, TrackerConfig, TrackerKey},
    wire::PeerAddr,
};

/// How often agents come back to the tracker: it only repairs, the controller names the first peers.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(30);

/// The running seed and tracker.
pub(super) struct Distribution {
    tracker: Tracker,
    engine: EngineHandle,
    /// Set once the engine has ended: it must not be asked again.
    ended: bool,
}

/// Where hosts find seed and tracker.
#[derive(Debug, Clone)]
pub(super) struct SeedAddresses {
    /// What the operator said hosts should use.
    advertise: Option<IpAddr>,
    seed_port: u16,
    tracker_port: u16,
    key: TrackerKey,
}

impl Distribution {
    /// Starts both. They listen on the advertised address if that is one of this machine's, else on all.
    pub(super) async fn start<E: Engine>(
        engine: &E,
        artifact: PathBuf,
        metainfo: Arc<Metainfo>,
        advertise: Option<IpAddr>,
        hosts: usize,
    ) -> Result<(Self, SeedAddresses), RunError> {
        let key = TrackerKey::random().map_err(RunError::Tracker)?;
        let listen = SocketAddr::new(listen_address(advertise), 0);
        let config = TrackerConfig {
            listen,
            info_hash: metainfo.info_hash(),
            key: key.clone(),
            interval: ANNOUNCE_INTERVAL,
            max_peers: hosts * 2 + 64,
        };
        let tracker = Tracker::start(config).await.map_err(RunError::Tracker)?;
        let config = EngineConfig {
            metainfo,
            role: Role::Seed { file: artifact },
            listen,
            peers: Vec::new(),
            controller_peers: Vec::new(),
            tracker: None,
        };
        let engine = engine.start(config).await.map_err(RunError::Engine)?;
        let addresses =
            SeedAddresses { advertise, seed_port: engine.local_addr.port(), tracker_port: tracker.local_addr().port(), key };
        Ok((Self { tracker, engine, ended: false }, addresses))
    }

    /// Lets a host announce from that address.
    pub(super) fn allow(&self, address: IpAddr) {
        self.tracker.allow_address(address);
    }

    /// Resolves when the seed fails; never after that.
    pub(super) async fn failed(&mut self) -> EngineError {
        if self.ended {
            std::future::pending::<()>().await;
        }
        let error = self.engine.failed().await;
        self.ended = true;
        error
    }

    /// Returns the bytes of the artifact that have left the seed.
    pub(super) fn sent(&self) -> u64 {
        self.engine.stats().borrow().bytes.uploaded
    }

    /// Stops both and waits until their sockets are closed.
    pub(super) async fn stop(self) {
        tokio::join!(self.engine.stop(), self.tracker.stop());
    }
}

impl SeedAddresses {
    /// Returns the controller's address for one host: the operator's word, then what the host saw, then the local end of a route.
    ///
    /// What a host behind a jump host saw is the jump host, so it does not count there.
    pub(super) fn controller_as_seen(&self, seen: Option<IpAddr>, transport: &Transport) -> IpAddr {
        let direct = transport.remote_ip();
        let seen = seen.filter(|_| direct.is_some());
        let routed = || direct.and_then(local_end_towards);
        self.advertise.or(seen).or_else(routed).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Returns the seed's address and the announce URL with the controller at that address.
    pub(super) fn at(&self, controller: IpAddr) -> (PeerAddr, String) {
        let seed = PeerAddr(SocketAddr::new(controller, self.seed_port));
        (seed, self.key.announce_url(SocketAddr::new(controller, self.tracker_port)))
    }
}

fn listen_address(advertise: Option<IpAddr>) -> IpAddr {
    let usable = |ip: &IpAddr| std::net::TcpListener::bind((*ip, 0)).is_ok();
    let candidates = [advertise, Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))];
    candidates.into_iter().flatten().find(usable).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Returns the address that packets to `remote` would leave from; no packet is sent.
fn local_end_towards(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((remote, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
