//! The tracker's sockets: accepts, reads one bounded request a connection, answers, closes.
//!
//! Keep-alive is off: peers announce every half minute or less often, and idle connections would only fill the limit.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    TrackerConfig, TrackerCounts, TrackerKey,
    query::{self, AnnounceQuery},
    rate::RateLimit,
    registry::{Announce, Registry},
    reply::{self, AnnounceReply},
};
use crate::{
    model::Digest,
    swarm::{self, Tls},
};

/// Connections served at once; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 512;
/// Connections served at once for one address; further ones are closed, so that no address can take them all.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 128;
/// A request's head must be there after this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after this time, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// A request's head fits in this many bytes (the least hyper takes).
const MAX_HEAD: usize = 8192;
/// A request has at most this many headers.
const MAX_HEADERS: usize = 32;
/// How long accepting rests after an error such as running out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Announces more often than this are not asked for.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// A peer survives two lost announces' worth of silence, and this much more.
const EXPIRY_GRACE: Duration = Duration::from_secs(15);
/// Requests one address may make in an interval for every peer the run can have.
const REQUESTS_PER_PEER: u32 = 4;

/// What the accept loop, the connections and the handle share.
#[derive(Debug)]
pub(super) struct Shared {
    key: TrackerKey,
    tls: Option<Tls>,
    info_hash: librqbit_core::hash_id::Id20,
    interval: Duration,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    rate: RateLimit,
    /// The addresses that may be announced with `ip`, and by whom, in an encrypted run.
    allowed: BTreeSet<(IpAddr, Option<Digest>)>,
    random: fastrand::Rng,
    /// Open connections by address.
    connections: HashMap<IpAddr, usize>,
}

impl Shared {
    pub(super) fn new(config: TrackerConfig) -> Self {
        let interval = config.interval.max(Duration::from_secs(1));
        let requests = u32::try_from(config.max_peers).unwrap_or(u32::MAX).saturating_mul(REQUESTS_PER_PEER).max(64);
        let state = State {
            registry: Registry::new(config.max_peers, interval * 2 + EXPIRY_GRACE),
            rate: RateLimit::new(requests, interval),
            allowed: BTreeSet::new(),
            random: fastrand::Rng::new(),
            connections: HashMap::new(),
        };
        let (key, tls, info_hash) = (config.key, config.tls, config.info_hash);
        Self { key, tls, info_hash, interval, started: Instant::now(), state: Mutex::new(state) }
    }

    pub(super) fn announce_url(&self, tracker: SocketAddr) -> String {
        self.key.announce_url(tracker, self.tls.is_some())
    }

    pub(super) fn allow_address(&self, address: IpAddr, host: Option<Digest>) {
        self.state().allowed.insert((address.to_canonical(), host));
    }

    pub(super) fn add_seed(&self, address: SocketAddr) {
        self.state().registry.add_seed(address);
    }

    pub(super) fn counts(&self) -> TrackerCounts {
        let now = self.started.elapsed();
        self.state().registry.counts(now)
    }

    /// Nothing under the lock can leave it half-changed, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request.
    fn answer(&self, method: &Method, path: &str, query: &str, source: Source) -> Response<Full<Bytes>> {
        let action = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let Some((_, action @ ("announce" | "scrape"))) = action.filter(|(key, _)| self.key.matches(key)) else {
            return plain(StatusCode::NOT_FOUND);
        };
        if method != Method::GET {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        let now = self.started.elapsed();
        if !self.state().rate.allows(now, source.address) {
            return plain(StatusCode::TOO_MANY_REQUESTS);
        }
        let body = if action == "announce" { self.announce(now, query, source) } else { self.scrape(now, query) };
        // BEP 3: a refusal, too, is a dictionary under status 200; clients don't look into other answers.
        bencoded(body.unwrap_or_else(|reason| reply::failure(&reason)))
    }

    fn announce(&self, now: Duration, query: &str, source: Source) -> Result<Vec<u8>, String> {
        let query = query::parse_announce(query).map_err(|error| error.to_string())?;
        if query.info_hash != self.info_hash {
            return Err("unknown info_hash".into());
        }
        let mut state = self.state();
        let state = &mut *state;
        let announce = Announce {
            id: query.peer_id,
            address: SocketAddr::new(listed_address(&query, source, &state.allowed), query.port),
            complete: query.left == Some(0),
            event: query.event,
            wanted: query.wanted,
        };
        let peers = state.registry.announce(now, &announce, &mut state.random).map_err(|error| error.to_string())?;
        let reply = AnnounceReply {
            counts: state.registry.counts(now),
            interval: self.interval,
            min_interval: MIN_INTERVAL.min(self.interval),
            peers: &peers,
            compact: query.compact,
            no_peer_id: query.no_peer_id,
        };
        Ok(reply.encode())
    }

    fn scrape(&self, now: Duration, query: &str) -> Result<Vec<u8>, String> {
        let asked = query::parse_scrape(query).map_err(|error| error.to_string())?;
        let ours = asked.is_empty() || asked.contains(&self.info_hash);
        Ok(reply::scrape(self.info_hash, ours.then(|| self.state().registry.counts(now))))
    }

    /// Counts a connection of `address`; none if it has too many.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admission> {
        let mut state = self.state();
        let open = state.connections.entry(address).or_insert(0);
        if *open >= MAX_CONNECTIONS_PER_ADDRESS {
            return None;
        }
        *open += 1;
        Some(Admission { shared: Arc::clone(self), address })
    }
}

/// A counted connection; dropping it uncounts it.
struct Admission {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(open) = state.connections.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                state.connections.remove(&self.address);
            }
        }
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
struct Source {
    address: IpAddr,
    /// The fingerprint of the certificate that was shown.
    host: Option<Digest>,
}

/// Returns the address a peer is listed under: the one it names if the controller vouches for it, else where it comes from.
fn listed_address(query: &AnnounceQuery, source: Source, allowed: &BTreeSet<(IpAddr, Option<Digest>)>) -> IpAddr {
    let named = query.ip.map(|ip| ip.to_canonical());
    named.filter(|ip| allowed.contains(&(*ip, source.host))).unwrap_or(source.address)
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn bencoded(body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Accepts and serves until `stop`, then ends every connection.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accepted => accepted,
        };
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the tracker could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let source = source.ip().to_canonical();
        let Some(admission) = shared.admit(source) else {
            tracing::debug!(%source, "too many connections to the tracker");
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let _held = (slot, admission);
            if tokio::time::timeout(CONNECTION_TIMEOUT, serve_connection(stream, source, shared)).await.is_err() {
                tracing::debug!(%source, "a connection to the tracker took too long");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}

/// Reads one request from `stream` and answers it, if who asks belongs to the run.
async fn serve_connection(stream: TcpStream, address: IpAddr, shared: Arc<Shared>) {
    let (stream, host) = match swarm::admit(shared.tls.as_ref(), stream).await {
        Ok(admitted) => admitted,
        Err(error) => return tracing::debug!(%address, %error, "who connected to the tracker is not let in"),
    };
    let source = Source { address, host };
    let service = service_fn(|request: Request<Incoming>| {
        let uri = request.uri();
        let response = shared.answer(request.method(), uri.path(), uri.query().unwrap_or(""), source);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        // Whoever sends garbage or hangs up is no event for the operator.
        tracing::debug!(%address, %error, "a connection to the tracker failed");
    }
}
