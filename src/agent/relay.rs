//! Serves the agent's own binary to hosts that have none yet: one file over HTTP, for the time of the run.
//!
//! Promises: whoever does not know the run's path gets nothing; connections, the length of a request, the time it may take and
//! the time without a byte taken are bounded; memory does not grow with the binary, which is sent as it came, or compressed while it is
//! sent. Listens at the address that the controller names and nowhere else. Receivers check the digest that they have from the
//! controller, so neither this module nor what lies on the disk need be trusted by anybody.
//!
//! The path's token keeps strangers from taking the host's time. It is no more than that: it goes over the network in the clear, and
//! shows in the list of processes of a host that fetches with wget. Who reads it there can fetch the agent, which is no secret, and
//! keep the few connections busy until the run ends; then hosts get their agent over SSH.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::{model::PortRange, swarm::listen, wire::RelayToken};

/// Connections at once; more are closed.
const CONNECTIONS: usize = 8;
/// Bytes of a request.
const MAX_REQUEST: usize = 4 << 10;
/// How long a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long the receiver may take nothing.
const STALL: Duration = Duration::from_secs(20);
/// How long one may take it all.
const WHOLE: Duration = Duration::from_secs(600);
/// How long to wait after an error that a busy machine makes.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes compressed at once.
const CHUNK: usize = 64 << 10;
/// A quarter of the time of the usual level, for a tenth more bytes: on fast links the processor is what is slow.
const LEVEL: Compression = Compression::new(3);

const FOUND: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\nConnection: close\r\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What is served.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// The binary in gzip, if that is there.
    pub(crate) packed: Option<PathBuf>,
    /// The binary itself.
    pub(crate) plain: PathBuf,
}

/// A server. It ends when it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts to serve on a free port of that address, to those who know the token.
    pub(crate) fn start(address: IpAddr, ports: Option<PortRange>, token: RelayToken, served: Served) -> io::Result<Self> {
        let listener = listen(SocketAddr::new(address, 0), ports)?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(accept(listener, Arc::new(token), Arc::new(served))) })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it, with what it is sending, and waits until its socket is closed.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Owns the connections: they end with it.
async fn accept(listener: TcpListener, token: Arc<RelayToken>, served: Arc<Served>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (token, served) = (token.clone(), served.clone());
        connections.spawn(async move {
            match timeout(WHOLE, serve(stream, &token, &served)).await {
                Ok(Ok(())) => (),
                Ok(Err(error)) => tracing::debug!("did not serve the agent to {peer}: {error}"),
                Err(_) => tracing::debug!("did not serve the agent to {peer} in {} s", WHOLE.as_secs()),
            }
            drop(place);
        });
    }
}

async fn serve(mut stream: TcpStream, token: &RelayToken, served: &Served) -> io::Result<()> {
    let request = timeout(REQUEST_TIME, read_request(&mut stream)).await??;
    if !path(&request).is_some_and(|path| token.opens(path)) {
        send(&mut stream, NOT_FOUND.as_bytes()).await?;
        return stream.shutdown().await;
    }
    // Its own copy may be gone, or never have been there: whoever got the agent without gzip has none.
    let packed = match &served.packed {
        Some(packed) => File::open(packed).await.ok(),
        None => None,
    };
    match packed {
        Some(packed) => send_file(&mut stream, packed).await?,
        None => send_packed(&mut stream, File::open(&served.plain).await?).await?,
    }
    stream.shutdown().await
}

/// Sends a file that is gzip already.
async fn send_file(stream: &mut TcpStream, mut file: File) -> io::Result<()> {
    send(stream, FOUND.as_bytes()).await?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        send(stream, &chunk[..read]).await?;
    }
}

/// Compresses a file while it is sent.
async fn send_packed(stream: &mut TcpStream, mut file: File) -> io::Result<()> {
    send(stream, FOUND.as_bytes()).await?;
    let mut encoder = GzEncoder::new(Vec::new(), LEVEL);
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        encoder.write_all(&chunk[..read])?;
        send(stream, encoder.get_ref()).await?;
        encoder.get_mut().clear();
    }
    send(stream, &encoder.finish()?).await
}

/// Reads up to the end of the request's head. An error for one that is too long or does not end.
async fn read_request(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::with_capacity(512);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let room = MAX_REQUEST.saturating_sub(request.len()) as u64;
        if stream.take(room).read_buf(&mut request).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a request"));
        }
    }
    Ok(request)
}

/// Returns the path of a GET request.
fn path(request: &[u8]) -> Option<&[u8]> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path, version) = (words.next()?, words.next()?, words.next()?);
    (method == b"GET" && version.starts_with(b"HTTP/1.") && words.next().is_none()).then_some(path)
}

async fn send(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(STALL, stream.write(bytes)).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::Ipv4Addr};

    use flate2::read::GzDecoder;

    use super::*;

    async fn relay(content: &[u8]) -> (Relay, RelayToken, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent");
        std::fs::write(&file, content).unwrap();
        let token = RelayToken::from_random([7; 16]);
        let served = Served { packed: Some(dir.path().join("agent.gz")), plain: file };
        let relay = Relay::start(Ipv4Addr::LOCALHOST.into(), None, token.clone(), served).unwrap();
        (relay, token, dir)
    }

    async fn answer(relay: &Relay, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is closed without reading everything may be reset: then there is no answer.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn who_knows_the_path_gets_the_file() {
        let content: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let (relay, token, dir) = relay(&content).await;
        let request = format!("GET {} HTTP/1.0\r\nHost: x\r\n\r\n", token.path());
        let compressed = answer(&relay, request.as_bytes()).await;
        let body = compressed.strip_prefix(FOUND.as_bytes()).unwrap();
        let mut back = Vec::new();
        GzDecoder::new(body).read_to_end(&mut back).unwrap();
        assert!(back == content);

        std::fs::write(dir.path().join("agent.gz"), &content[..200_000]).unwrap();
        let as_it_came = answer(&relay, request.as_bytes()).await;
        assert!(as_it_came.strip_prefix(FOUND.as_bytes()).unwrap() == &content[..200_000]);
        let address = relay.address();
        relay.stop().await;
        assert!(TcpStream::connect(address).await.is_err(), "it still listens");
    }

    #[tokio::test]
    async fn everybody_else_gets_nothing() {
        let (relay, token, _dir) = relay(b"agent").await;
        let path = token.path();
        for request in [
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            format!("GET {} HTTP/1.1\r\n\r\n", path.replace('7', "8")),
            format!("GET {path}/../x HTTP/1.1\r\n\r\n"),
            format!("HEAD {path} HTTP/1.1\r\n\r\n"),
            format!("GET {path} x HTTP/1.1\r\n\r\n"),
            format!("GET {path}\r\n\r\n"),
            format!("{path}\r\n\r\n"),
        ] {
            assert_eq!(answer(&relay, request.as_bytes()).await, NOT_FOUND.as_bytes(), "{request}");
        }
        let endless = vec![b'x'; MAX_REQUEST + 1];
        assert_eq!(answer(&relay, &endless).await, b"");
        relay.stop().await;
    }

    #[tokio::test]
    async fn silent_connections_take_no_place_for_long() {
        let (relay, token, _dir) = relay(b"agent").await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(relay.address()).await.unwrap();
            stream.write_all(b"GET ").await.unwrap();
            silent.push(stream);
        }
        let request = format!("GET {} HTTP/1.1\r\n\r\n", token.path());
        assert_eq!(answer(&relay, request.as_bytes()).await, b"", "there is a place too many");
        for mut stream in silent {
            assert_eq!(timeout(REQUEST_TIME * 2, stream.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
        }
        assert!(answer(&relay, request.as_bytes()).await.starts_with(FOUND.as_bytes()));
        relay.stop().await;
    }
}
