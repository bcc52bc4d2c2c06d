//! The announce client: tells the run's tracker about this peer and learns of others (BEP 3, 7, 23).
//!
//! Owns: when to announce and what to believe. The request and the reply are pure ([`request`], [`reply`]), [`http`] does the
//! exchange, this file is the loop. Promises: one request at a time, each bounded in time and size; never more often than [`MIN_INTERVAL`]
//! nor less often than [`MAX_INTERVAL`], whatever the tracker says, but for the retry after an error and the `completed` event; at most
//! [`reply::MAX_PEERS`] peers from one answer. A tracker can waste this client's connections, not more: peers prove themselves by the pieces'
//! hashes. The URL holds the run's key, so it is in no error and no log.

mod http;
mod reply;
mod request;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use librqbit_core::hash_id::Id20;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Reach, Tls};
use crate::http::HttpError;
use http::Http;
use reply::Reply;
use request::{Event, Request};

/// The shortest time between two periodic announces.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// The longest time between two periodic announces.
const MAX_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// What is taken for the interval if the tracker does not say.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);
/// A request takes at most this long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The last word takes at most this long.
const STOPPED_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after the first error; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause after an error.
const MAX_PAUSE: Duration = Duration::from_secs(120);

/// What is announced, and to whom.
#[derive(Clone)]
pub struct AnnounceConfig {
    /// The tracker's announce URL: `https://` in an encrypted run, `http://` otherwise.
    pub url: String,
    /// What this peer shows to the tracker, in an encrypted run.
    pub tls: Option<Tls>,
    /// The torrent.
    pub info_hash: Id20,
    /// This peer's id, as in its handshakes.
    pub peer_id: Id20,
    /// The port this peer listens on.
    pub port: u16,
    /// The address this peer is reached at, where the tracker can't see it.
    pub advertise: Option<IpAddr>,
}

impl std::fmt::Debug for AnnounceConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnnounceConfig")
            .field("url", &"..")
            .field("info_hash", &self.info_hash)
            .field("peer_id", &self.peer_id)
            .field("port", &self.port)
            .field("advertise", &self.advertise)
            .finish()
    }
}

/// How far this peer is, for the tracker's counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnnounceProgress {
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes received from peers.
    pub downloaded: u64,
    /// Bytes that lack. Becoming 0 is announced at once.
    pub left: u64,
}

/// Says why an announce failed. Holds no part of the URL.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// Not a URL of the right kind.
    #[error("the tracker's announce URL is not usable: {0}")]
    Url(&'static str),
    /// No connection, or it broke, or it took too long.
    #[error("the tracker can't be reached")]
    Http(#[source] HttpError),
    /// An answer other than 200.
    #[error("the tracker answered with HTTP status {0}")]
    Status(u16),
    /// An answer that never ends.
    #[error("the tracker's answer is longer than {0} bytes")]
    TooLong(usize),
    /// Not a bencoded answer.
    #[error("the tracker's answer is not an announce reply")]
    Malformed,
    /// BEP 3's `failure reason`, made printable and cut.
    #[error("the tracker refused: {0}")]
    Refused(String),
}

/// A checked announce client.
#[derive(Debug)]
pub struct Announcer {
    http: Http,
    request: Request,
    reach: watch::Sender<Reach>,
}

impl Announcer {
    /// Checks the URL and prepares the client. Connects to nothing yet.
    pub fn new(config: AnnounceConfig) -> Result<Self, AnnounceError> {
        let http = Http::new(&config.url, config.tls, REQUEST_TIMEOUT)?;
        let request = Request {
            info_hash: config.info_hash,
            peer_id: config.peer_id,
            port: config.port,
            advertise: config.advertise,
            progress: AnnounceProgress::default(),
            event: None,
        };
        Ok(Self { http, request, reach: watch::Sender::default() })
    }

    /// Returns whether the tracker answers, as it will be while the client runs.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    /// Announces `started`, then periodically, `completed` when `progress` shows nothing left (unless it did from the start), and
    /// `stopped` at the end, which is when `stop` is cancelled, or `progress` or `peers` is closed.
    ///
    /// Sends what it learns to `peers`: without this peer, without doubles, at most 200 at a time. Errors are retried without end, with
    /// growing pauses: the swarm can do without the tracker.
    pub async fn run(
        self,
        progress: watch::Receiver<AnnounceProgress>,
        stop: CancellationToken,
        peers: mpsc::Sender<Vec<SocketAddr>>,
    ) {
        let watched = Watched { http: &self.http, reach: &self.reach };
        run(&watched, self.request, progress, stop, peers).await;
    }
}

/// Tells how exchanges with the tracker end.
struct Watched<'a> {
    http: &'a Http,
    reach: &'a watch::Sender<Reach>,
}

impl Exchange for Watched<'_> {
    async fn announce(&self, request: &Request) -> Result<Reply, AnnounceError> {
        let answer = self.http.announce(request).await;
        self.reach.send_replace(match &answer {
            Ok(_) => Reach::Stands,
            Err(error) => Reach::Failed(error.to_string()),
        });
        answer
    }
}

/// Carries one announce to the tracker: HTTP, or a test's script.
trait Exchange {
    fn announce(&self, request: &Request) -> impl Future<Output = Result<Reply, AnnounceError>> + Send;
}

async fn run(
    tracker: &impl Exchange,
    mut request: Request,
    mut progress: watch::Receiver<AnnounceProgress>,
    stop: CancellationToken,
    peers: mpsc::Sender<Vec<SocketAddr>>,
) {
    request.progress = *progress.borrow_and_update();
    request.event = Some(Event::Started);
    let mut complete_told = request.progress.left == 0;
    let mut failures = 0;
    let mut heard = false;
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => break,
            answer = tracker.announce(&request) => answer,
        };
        let pause = match answer {
            Ok(reply) => {
                (failures, heard) = (0, true);
                // What was told with `started` needs no event of its own.
                complete_told |= request.progress.left == 0;
                request.event = None;
                let pause = periodic_pause(&reply);
                if !reply.peers.is_empty() && !deliver(reply.peers, &peers, &stop).await {
                    break;
                }
                pause
            }
            Err(error) => {
                failures += 1;
                log_failure(&error, failures);
                error_pause(failures)
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = peers.closed() => break,
            () = tokio::time::sleep(pause) => {}
            completed = wait_complete(&mut progress), if !complete_told && failures == 0 => match completed {
                true => request.event = Some(Event::Completed),
                false => break,
            },
        }
        if progress.has_changed().is_err() {
            break;
        }
        request.progress = *progress.borrow_and_update();
        if request.progress.left == 0 && !complete_told && request.event.is_none() {
            request.event = Some(Event::Completed);
        }
    }
    if heard {
        request.progress = *progress.borrow();
        request.event = Some(Event::Stopped);
        // A tracker that does not listen now forgets this peer by itself.
        let _ = tokio::time::timeout(STOPPED_TIMEOUT, tracker.announce(&request)).await;
    }
}

/// Hands peers over; false if the loop has to end.
async fn deliver(found: Vec<SocketAddr>, peers: &mpsc::Sender<Vec<SocketAddr>>, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        sent = peers.send(found) => sent.is_ok(),
    }
}

/// Waits until nothing is left; false if nobody will tell any more.
async fn wait_complete(progress: &mut watch::Receiver<AnnounceProgress>) -> bool {
    progress.wait_for(|progress| progress.left == 0).await.is_ok()
}

/// One line for the first of a row of errors; the rest is for who looks for it.
fn log_failure(error: &AnnounceError, failures: u32) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if failures == 1 {
        tracing::info!(%error, cause, "an announce failed; the swarm goes on without it");
    } else {
        tracing::debug!(%error, cause, failures, "an announce failed again");
    }
}

/// The tracker's interval within bounds, up to 15 % earlier, so that a fleet that started together spreads out.
fn periodic_pause(reply: &Reply) -> Duration {
    let interval = reply.interval.unwrap_or(DEFAULT_INTERVAL).clamp(MIN_INTERVAL, MAX_INTERVAL);
    let least = reply.min_interval.unwrap_or(MIN_INTERVAL).clamp(MIN_INTERVAL, interval);
    interval.mul_f64(1.0 - 0.15 * fastrand::f64()).max(least)
}

/// Twice as long after each error, half of it random.
fn error_pause(failures: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_PAUSE);
    full.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// Reads an answer for the fuzzer.
#[cfg(fuzzing)]
pub(super) fn read_any_reply(bytes: &[u8]) {
    let _ = reply::parse(bytes);
}

#[cfg(test)]
mod tests;
