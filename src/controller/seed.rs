//! What the controller gives to the hosts: its seed, its tracker and its web server, on ephemeral ports, gone when the run ends.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    authority::{Authority, AuthorityError},
    run::RunError,
    web::{Served, WebServer},
};
use crate::{
    model::{
        Digest, Identity, Place, PortRange,
        origin::{Origin, OriginStyle, WebSeed},
    },
    swarm::{Bounds, Engine, EngineConfig, EngineError, EngineHandle, Metainfo, Role, Throttle},
    tracker::{Tracker, TrackerConfig, TrackerKey},
    wire::PeerAddr,
};

/// How often agents come back to the tracker: it only repairs, the controller names the first peers.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(30);
/// How long seed and tracker may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// How long a connection from this machine to itself may take.
const OWN_CONNECT: Duration = Duration::from_secs(1);

/// How a run's processes listen, and the controller's where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listeners {
    /// The address that the operator said others should use.
    pub(super) advertise: Option<IpAddr>,
    /// Whether they prove to each other that they belong to the run, and encrypt what they say.
    pub(super) encrypted: bool,
    /// The ports to choose from; none: any that is free.
    pub(super) ports: Option<PortRange>,
}

/// What runs.
pub(super) struct Distribution {
    tracker: Tracker,
    engine: EngineHandle,
    /// For hosts that nothing else serves; a run can do without.
    web: Option<WebServer>,
    /// Set once the engine has ended: it must not be asked again.
    ended: bool,
}

/// Where hosts find them.
#[derive(Debug, Clone)]
pub(super) struct SeedAddresses {
    /// What the operator said hosts should use.
    advertise: Option<IpAddr>,
    seed_port: u16,
    tracker_port: u16,
    web_port: Option<u16>,
    key: TrackerKey,
    /// Where all listen.
    listen: IpAddr,
    /// Makes certificates, in an encrypted run.
    authority: Option<Arc<Authority>>,
    /// The ports that hosts choose from as well.
    ports: Option<PortRange>,
}

impl Distribution {
    /// Starts all. They listen on the advertised address if that is one of this machine's, else on all.
    pub(super) async fn start<E: Engine>(
        engine: &E,
        artifact: PathBuf,
        metainfo: Arc<Metainfo>,
        place: Option<Place>,
        hosts: usize,
        upload: Throttle,
        listeners: Listeners,
    ) -> Result<(Self, SeedAddresses), RunError> {
        let Listeners { advertise, encrypted, ports } = listeners;
        let authority = if encrypted { Some(Arc::new(Authority::new()?)) } else { None };
        let tls = authority.as_deref().map(Authority::controller).transpose()?;
        let key = TrackerKey::random().map_err(RunError::Tracker)?;
        let listen = SocketAddr::new(listen_address(advertise), 0);
        let config = TrackerConfig {
            listen,
            ports,
            info_hash: metainfo.info_hash(),
            key: key.clone(),
            interval: ANNOUNCE_INTERVAL,
            max_peers: hosts * 2 + 64,
            tls: tls.clone(),
        };
        let tracker = Tracker::start(config).await.map_err(RunError::Tracker)?;
        let served = Served {
            path: artifact.clone(),
            metainfo: metainfo.clone(),
            key: key.clone(),
            upload: upload.clone(),
            tls: tls.clone(),
        };
        let config = EngineConfig {
            metainfo,
            role: Role::Seed { file: artifact },
            listen,
            ports,
            advertise: None,
            peers: Vec::new(),
            place,
            controller_peers: Vec::new(),
            tracker: None,
            tls,
            bounds: Bounds { upload, ..Bounds::default() },
            origins: None,
        };
        let engine = engine.start(config).await.map_err(RunError::Engine)?;
        let (seed_port, tracker_port) = (engine.local_addr.port(), tracker.local_addr().port());
        // Last: where there are few ports, it is the one that a run can do without.
        let web = WebServer::start(listen, ports, served);
        let web = web.inspect_err(|error| tracing::warn!(%error, "the controller's web server can't listen")).ok();
        let web_port = web.as_ref().map(WebServer::port);
        let listen = listen.ip();
        let addresses = SeedAddresses { advertise, seed_port, tracker_port, web_port, key, listen, authority, ports };
        Ok((Self { tracker, engine, web, ended: false }, addresses))
    }

    /// From now on hosts exchange nothing: the seed gives each of them everything.
    pub(super) async fn serve_everybody(&self) {
        self.engine.isolate().await;
    }

    /// Lets a host, which has the certificate with that fingerprint if there are any, announce that address.
    pub(super) fn allow(&self, address: IpAddr, host: Option<Digest>) {
        self.tracker.allow_address(address, host);
    }

    /// Lets the tracker name the seed at the address that a host was given.
    pub(super) fn name_seed(&self, seed: PeerAddr) {
        self.tracker.add_seed(seed.0);
    }

    /// Resolves when the seed fails or the artifact can't be read; never after that.
    pub(super) async fn failed(&mut self) -> EngineError {
        if self.ended {
            std::future::pending::<()>().await;
        }
        let web = self.web.as_mut();
        let web_failed = async {
            match web {
                Some(web) => web.failed().await,
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            error = self.engine.failed() => error,
            error = web_failed => error,
        };
        self.ended = true;
        error
    }

    /// Stops all, waits until their sockets are closed, and returns the bytes of the artifact that have left this machine. What takes
    /// too long is left behind with a warning.
    pub(super) async fn stop(self) -> u64 {
        let Self { engine, tracker, web, .. } = self;
        let stats = engine.stats();
        let web = async {
            match web {
                Some(web) => web.stop().await,
                None => 0,
            }
        };
        let stopped = async { tokio::join!(web, engine.stop(), tracker.stop()) };
        let stopped = tokio::time::timeout(STOP, stopped).await.map(|(sent, ..)| sent);
        let from_web = stopped.unwrap_or_else(|_| {
            tracing::warn!("the seed does not stop: is the artifact on a file system that hangs?");
            0
        });
        // Not before: the engine counts its last bytes when it has stopped.
        stats.borrow().bytes.uploaded + from_web
    }
}

impl SeedAddresses {
    /// Returns the address that the operator said others should use.
    pub(super) fn advertised(&self) -> Option<IpAddr> {
        self.advertise
    }

    /// Returns the controller's address for one host: the operator's word, then what the host saw, then this machine's address
    /// on the way to the host.
    ///
    /// `ends` are the two ends of the host's SSH connection as it sees them, `direct` is where the connection goes if it goes there
    /// directly. Behind a jump host the other end that a host sees is the jump host, so it does not count there.
    pub(super) fn controller_as_seen(&self, ends: Option<(IpAddr, IpAddr)>, direct: Option<IpAddr>) -> IpAddr {
        let seen = ends.map(|(controller, _)| controller).filter(|_| direct.is_some());
        let host = direct.or(ends.map(|(_, host)| host));
        let routed = || host.and_then(local_end_towards);
        self.advertise.or(seen).or_else(routed).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Returns the seed's address and the announce URL with the controller at that address.
    pub(super) fn at(&self, controller: IpAddr) -> (PeerAddr, String) {
        let seed = PeerAddr(SocketAddr::new(controller, self.seed_port));
        (seed, self.announce_url(SocketAddr::new(controller, self.tracker_port)))
    }

    /// Returns the controller's web server, with the controller at that address.
    pub(super) fn web(&self, controller: IpAddr) -> Option<Origin> {
        let url = self.key.artifact_url(SocketAddr::new(controller, self.web_port?), self.authority.is_some());
        let seed = WebSeed::new(&url).ok()?;
        Some(Origin { seed, style: OriginStyle::Content, headers: Vec::new(), addresses: Vec::new(), ranges: true })
    }

    /// Returns where this machine itself reaches seed and tracker.
    pub(super) fn here(&self) -> (SocketAddr, SocketAddr) {
        let here = if self.listen.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.listen };
        (SocketAddr::new(here, self.seed_port), SocketAddr::new(here, self.tracker_port))
    }

    /// Returns the ports that hosts choose from.
    pub(super) fn ports(&self) -> Option<PortRange> {
        self.ports
    }

    /// Makes what a host shows to the others, in an encrypted run.
    pub(super) fn identity(&self) -> Result<Option<Identity>, AuthorityError> {
        self.authority.as_deref().map(Authority::member).transpose()
    }

    /// Returns the announce URL for whoever reaches the tracker at that address.
    pub(super) fn announce_url(&self, tracker: SocketAddr) -> String {
        self.key.announce_url(tracker, self.authority.is_some())
    }
}

fn listen_address(advertise: Option<IpAddr>) -> IpAddr {
    // The kernel lets broadcast addresses be bound, to which nobody can connect.
    let usable = |ip: &IpAddr| {
        let Ok(listener) = TcpListener::bind((*ip, 0)) else { return false };
        // While it listens.
        listener.local_addr().is_ok_and(|at| ip.is_unspecified() || TcpStream::connect_timeout(&at, OWN_CONNECT).is_ok())
    };
    let candidates = [advertise, Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))];
    candidates.into_iter().flatten().find(usable).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Returns the address that packets to `remote` would leave from; no packet is sent.
pub(super) fn local_end_towards(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((remote, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_controllers_address_is_what_is_known_best() {
        let listen = ip("::");
        let addresses = |advertise| SeedAddresses {
            advertise,
            seed_port: 1,
            tracker_port: 2,
            web_port: Some(3),
            key: TrackerKey::from_bytes([7; 16]),
            listen,
            authority: None,
            ports: None,
        };
        let ends = Some((ip("10.0.0.5"), ip("127.0.0.9")));
        let direct = Some(ip("127.0.0.9"));
        assert_eq!(addresses(Some(ip("192.0.2.1"))).controller_as_seen(ends, direct), ip("192.0.2.1"));
        assert_eq!(addresses(None).controller_as_seen(ends, direct), ip("10.0.0.5"));
        // Behind a jump host: not what the host saw, but the way from here to the host.
        assert_eq!(addresses(None).controller_as_seen(ends, None), ip("127.0.0.1"));
        assert_eq!(addresses(None).controller_as_seen(None, None), ip("127.0.0.1"));
        let (seed, tracker) = addresses(None).at(ip("::1"));
        assert_eq!(seed.0, "[::1]:1".parse().unwrap());
        assert!(tracker.starts_with("http://[::1]:2/"), "{tracker}");
        assert_eq!(addresses(None).here(), ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()));
    }
}
