//! The controller's own web server: the run's artifact over HTTP, for hosts that neither the swarm nor an origin serves.
//!
//! It serves one file, at an address that holds the run's key, whole or a part of it (RFC 9110, section 14), and only while the run lasts: to
//! an agent it is one more origin. A directory is what its torrent's bytes are.
//! Promises: nothing but an empty 404 for whoever does not know the key; what it sends keeps to the controller's upload limit; connections,
//! their times and their memory are bounded; nothing is opened before somebody asks; an artifact that changed is an error, as for the seed.
//! Never: believes what a request says beyond its range.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OnceCell, Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    model::PortRange,
    swarm::{self, Content, EngineError, Metainfo, Throttle, Tls, listen},
    tracker::TrackerKey,
};

/// Connections served at once; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 1024;
/// A request's head must be there after this time, also that of a connection's next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A request's head fits in this many bytes (the least hyper takes).
const MAX_HEAD: usize = 8192;
/// How long accepting rests after an error such as running out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is let through at once where there is a limit.
const SLICE: usize = 16 << 10;

type Body = UnsyncBoxBody<Bytes, EngineError>;

/// What the server serves.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) path: PathBuf,
    pub(super) metainfo: Arc<Metainfo>,
    pub(super) key: TrackerKey,
    /// What all that is sent keeps to.
    pub(super) upload: Throttle,
    /// What proves who asks, and who answers.
    pub(super) tls: Option<Tls>,
}

/// A running server. Dropping it stops it; [`WebServer::stop`] also waits until its port is closed.
pub(super) struct WebServer {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    failed: mpsc::Receiver<EngineError>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

struct Shared {
    served: Served,
    content: OnceCell<Content>,
    sent: AtomicU64,
    failed: mpsc::Sender<EngineError>,
}

impl WebServer {
    /// Listens. Returns once the port is open.
    pub(super) fn start(at: SocketAddr, ports: Option<PortRange>, served: Served) -> io::Result<Self> {
        let listener = listen(at, ports)?;
        let local_addr = listener.local_addr()?;
        let (sender, failed) = mpsc::channel(1);
        let shared = Arc::new(Shared { served, content: OnceCell::new(), sent: AtomicU64::new(0), failed: sender });
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(listener, shared.clone(), stop.clone()));
        Ok(Self { local_addr, shared, failed, stop: stop.drop_guard(), task })
    }

    /// Returns the port.
    pub(super) fn port(&self) -> u16 {
        self.local_addr.port()
    }

    /// Resolves when the artifact can't be read.
    pub(super) async fn failed(&mut self) -> EngineError {
        match self.failed.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Closes the port, ends every connection and returns how many bytes of the artifact were sent.
    pub(super) async fn stop(self) -> u64 {
        let Self { shared, stop, task, .. } = self;
        drop(stop);
        if let Err(error) = task.await {
            tracing::error!(%error, "the web server's task failed");
        }
        let sent = shared.sent.load(Ordering::Relaxed);
        if let Some(content) = Arc::into_inner(shared).and_then(|shared| shared.content.into_inner()) {
            content.close().await;
        }
        sent
    }
}

/// Accepts and serves until `stop`, then ends every connection.
async fn run(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    serve(stream, shared).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the web server could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Answers the requests of one connection, if who asks belongs to the run.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let stream = match swarm::accept(shared.served.tls.as_ref(), stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "who connected to the web server is not let in"),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        // Whoever hangs up has what it wants, or is no event for the operator.
        tracing::debug!(%error, "a connection to the web server ended");
    }
}

impl Shared {
    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        if !path.is_some_and(|(key, name)| self.served.key.matches(key) && name == "artifact") {
            return empty(StatusCode::NOT_FOUND);
        }
        if request.method() != Method::GET {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        if let Err(error) = self.content().await {
            self.fail(error);
            return empty(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let length = self.served.metainfo.length();
        match asked(request.headers(), length) {
            Asked::Whole => self.clone().part(StatusCode::OK, 0..length),
            Asked::Part(range) => {
                let told = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                let mut response = self.clone().part(StatusCode::PARTIAL_CONTENT, range);
                tell(&mut response, CONTENT_RANGE, &told);
                response
            }
            Asked::Nothing => {
                let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE);
                tell(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
                response
            }
        }
    }

    async fn content(&self) -> Result<&Content, EngineError> {
        let Served { path, metainfo, .. } = &self.served;
        self.content.get_or_try_init(|| Content::open(metainfo.clone(), path.clone())).await
    }

    /// The artifact is not what it was, or can't be read: that ends the run.
    fn fail(&self, error: EngineError) {
        // One is enough.
        let _ = self.failed.try_send(error);
    }

    /// Makes the answer with those bytes.
    fn part(self: Arc<Self>, status: StatusCode, range: Range<u64>) -> Response<Body> {
        let length = range.end - range.start;
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(self.bytes(range))));
        *response.status_mut() = status;
        tell(&mut response, CONTENT_LENGTH, &length.to_string());
        tell(&mut response, CONTENT_TYPE, "application/octet-stream");
        tell(&mut response, ACCEPT_RANGES, "bytes");
        tell(&mut response, CACHE_CONTROL, "no-store");
        response
    }

    fn bytes(self: Arc<Self>, range: Range<u64>) -> impl Stream<Item = Result<Frame<Bytes>, EngineError>> + Send {
        stream::try_unfold((self, range, Bytes::new()), |(shared, mut range, mut read)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            if read.is_empty() {
                read = match shared.read(range.start).await {
                    Ok(read) => read,
                    Err(error) => {
                        let told = EngineError::Engine(error.to_string());
                        shared.fail(error);
                        return Err(told);
                    }
                };
            }
            let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let data = read.split_to(SLICE.min(read.len()).min(left));
            range.start += data.len() as u64;
            shared.served.upload.pass(data.len()).await;
            shared.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            Ok(Some((Frame::data(data), (shared, range, read))))
        })
    }

    async fn read(&self, at: u64) -> Result<Bytes, EngineError> {
        self.content().await?.read(at).await
    }
}

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    /// A part that is not there.
    Nothing,
}

/// Reads which part is asked for, of so many bytes. What is more than one range, or none that makes sense, asks for all of it.
fn asked(headers: &HeaderMap, length: u64) -> Asked {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes=")?.trim().split_once('-'));
    match range.map(|(first, last)| (digits(first), last, digits(last))) {
        Some((Some(first), "", _)) if first < length => Asked::Part(first..length),
        Some((Some(first), _, Some(last))) if first <= last && first < length => {
            Asked::Part(first..last.saturating_add(1).min(length))
        }
        Some((Some(_), "", _)) => Asked::Nothing,
        Some((Some(first), _, Some(last))) if first <= last => Asked::Nothing,
        _ => Asked::Whole,
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn tell(response: &mut Response<Body>, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests;
