//! The run's tracker: announce and scrape over HTTP (BEP 3, 7, 23, 48), with the run's TLS or without, in the controller's process, for one torrent.
//!
//! Owns: the list of the run's peers. The decisions are pure: `registry` (who is listed, who is handed out, who has expired),
//! `rate` (who asks too often), `query` (what a request says), `reply` (the bytes of an answer); `server` only performs them on
//! sockets.
//! Promises: nothing for who has none of the run's certificates, and nothing but an empty 404 for who does not know the run's key; every queue, buffer, table and time is bounded;
//! [`Tracker::stop`] closes the port and ends every task.
//! Never: hands a peer its own address, lists an address that a peer merely claims (the TCP source counts, or one that
//! [`Tracker::allow_address`] names), outlives the run.

mod key;
mod query;
mod rate;
mod registry;
mod reply;
mod server;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use librqbit_core::hash_id::Id20;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use key::TrackerKey;
pub use registry::TrackerCounts;

use crate::{
    model::{Digest, PortRange},
    swarm::{self, Tls},
};
use server::Shared;

/// How a tracker is started.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// Where to listen; port 0 for any, or for any of `ports`.
    pub listen: SocketAddr,
    /// The ports to choose from.
    pub ports: Option<PortRange>,
    /// The one torrent it serves.
    pub info_hash: Id20,
    /// The path's secret part.
    pub key: TrackerKey,
    /// How often peers are asked to announce. A peer that has been silent for twice as long and a bit is forgotten.
    pub interval: Duration,
    /// How many peers it lists at most; further ones are refused.
    pub max_peers: usize,
    /// What it shows, and whom it answers: over TLS, the run's processes only. None: plain HTTP.
    pub tls: Option<Tls>,
}

/// Says why a tracker could not start.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The address can't be listened on.
    #[error("the tracker can't listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system gave no random bytes for the key.
    #[error("no random bytes for the tracker's key")]
    Random(#[source] getrandom::Error),
}

/// A running tracker. Dropping it stops it; [`Tracker::stop`] also waits until the port is closed.
#[derive(Debug)]
pub struct Tracker {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Tracker {
    /// Listens and starts to answer. Returns once the port is open.
    pub async fn start(config: TrackerConfig) -> Result<Self, TrackerError> {
        let failed = |source| TrackerError::Listen { address: config.listen, source };
        let listener = swarm::listen(config.listen, config.ports).map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared::new(config));
        let stop = CancellationToken::new();
        let task = tokio::spawn(server::run(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self { local_addr, shared, stop: stop.drop_guard(), task })
    }

    /// Returns where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the announce URL for whoever reaches this controller as `host`. It holds the run's key: not for logs.
    pub fn announce_url(&self, host: IpAddr) -> String {
        self.shared.announce_url(SocketAddr::new(host, self.local_addr.port()))
    }

    /// Lets peers announce `address` as theirs (BEP 3's `ip`), for hosts whose connections come from another address than the
    /// one they are reached at. Without it the address a connection comes from is listed. In an encrypted run only the host that shows the
    /// certificate with that fingerprint may.
    pub fn allow_address(&self, address: IpAddr, host: Option<Digest>) {
        self.shared.allow_address(address, host);
    }

    /// Lists a seed that never announces itself and never expires: the controller's own, at each address hosts reach it at.
    pub fn add_seed(&self, address: SocketAddr) {
        self.shared.add_seed(address);
    }

    /// Returns how many peers are listed now.
    pub fn counts(&self) -> TrackerCounts {
        self.shared.counts()
    }

    /// Closes the port and waits until every task has ended. Announces in flight are dropped.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the tracker's task failed");
        }
    }
}

/// Reads a query for the fuzzer.
#[cfg(fuzzing)]
pub(crate) fn read_any_query(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = (query::parse_announce(text).is_ok(), query::parse_scrape(text).is_ok());
    }
}
