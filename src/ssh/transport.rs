//! Byte streams to an sshd: TCP, or a `ProxyCommand`'s standard streams; and a wrapper that can be cut from outside.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::select_ok;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    ConnectError, Step,
    error::{Retry, seconds},
    link::Life,
};

/// How long after one address of a name the next one is tried too.
const NEXT_ADDRESS: Duration = Duration::from_millis(300);
/// The most bytes that wait unsent in the kernel.
#[cfg(target_os = "linux")]
const NOT_SENT_LOW_WATER: u32 = 128 << 10;
/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 8;
/// How much of what a `ProxyCommand` writes to standard error is kept.
const MAX_PROXY_LOG: usize = 1024;

/// How long a `ProxyCommand` that closed the connection may take to say why.
const PROXY_LAST_WORDS: Duration = Duration::from_millis(500);

/// Anything SSH can be spoken over.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Resolves a name and connects; several addresses are tried staggered, the first to answer wins. Each step may take `limit`.
pub(super) async fn tcp(host: &str, port: u16, limit: Duration) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let at = address(host, port);
    let addresses = resolve(host, port, limit).await?;
    let attempts = addresses.into_iter().take(MAX_ADDRESSES).zip(0u32..).map(|(address, index)| {
        Box::pin(async move {
            sleep(NEXT_ADDRESS * index).await;
            Ok::<_, io::Error>((TcpStream::connect(address).await?, address))
        })
    });
    match timeout(limit, select_ok(attempts)).await {
        Ok(Ok(((stream, peer), _))) => {
            // Small packets in both directions: waiting to fill one only costs time. Failing to set it costs nothing else.
            let _ = stream.set_nodelay(true);
            // What is sent later, such as a sign of life, does not wait behind megabytes that the kernel took on.
            #[cfg(target_os = "linux")]
            let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(NOT_SENT_LOW_WATER);
            Ok((stream, peer))
        }
        Ok(Err(error)) => {
            let failed = ConnectError::new(at, Step::Connect, cause(&error)).with_retry(Retry::Few);
            Err(if error.kind() == io::ErrorKind::ConnectionRefused {
                failed.with_hint(format!("is sshd running there, and on port {port}?"))
            } else {
                failed
            })
        }
        Err(_) => Err(ConnectError::new(at, Step::Connect, format!("no answer within {}", seconds(limit)))
            .with_hint("is the host up, and may this machine reach it through firewalls?")
            .with_retry(Retry::Few)),
    }
}

async fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |why: String| ConnectError::new(address(host, port), Step::Resolve, why);
    let found = match timeout(limit, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            let why = error.to_string();
            let retry = if why.contains("emporary failure") { Retry::Few } else { Retry::Never };
            let why = why.strip_prefix("failed to lookup address information: ").unwrap_or(&why);
            return Err(failed(why.to_owned()).with_hint("check `ansible_host` and DNS").with_retry(retry));
        }
        Err(_) => return Err(failed(format!("no answer within {}", seconds(limit))).with_retry(Retry::Few)),
    };
    if found.is_empty() {
        return Err(failed("the name has no address".to_owned()));
    }
    Ok(found)
}

/// Returns an address for messages, brackets around IPv6.
pub(super) fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Says an I/O error without the errno.
pub(super) fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "connection closed by the host".to_owned(),
        _ => error.to_string(),
    }
}

/// What a `ProxyCommand` wrote to standard error, the last part of it.
#[derive(Clone, Default)]
pub(super) struct ProxyLog {
    text: Arc<Mutex<Vec<u8>>>,
    complete: CancellationToken,
}

impl ProxyLog {
    /// Returns what was written, if anything; waits a moment for a command that is just about to end.
    pub(super) async fn text(&self) -> Option<String> {
        let _ = timeout(PROXY_LAST_WORDS, self.complete.cancelled()).await;
        let bytes = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    async fn fill(self, mut stderr: ChildStderr) {
        let _complete = self.complete.drop_guard();
        let mut buffer = [0; 512];
        while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
            let mut kept = self.text.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&buffer[..count]);
            let excess = kept.len().saturating_sub(MAX_PROXY_LOG);
            kept.drain(..excess);
        }
    }
}

/// Starts a `ProxyCommand`. It is killed when the stream is dropped.
pub(super) fn proxy_command(command: &str, life: &Life) -> io::Result<(impl ByteStream + use<>, ProxyLog)> {
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C at the terminal is for fleetdrop, which may be in the middle of a switch and still needs its connections.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let missing = || io::Error::other("the command has no standard streams");
    let (stdin, stdout) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
    let log = ProxyLog::default();
    if let Some(stderr) = child.stderr.take() {
        life.spawn(log.clone().fill(stderr));
    }
    Ok((WithChild { stream: tokio::io::join(stdout, stdin), _child: child }, log))
}

struct WithChild<S> {
    stream: S,
    _child: Child,
}

/// A stream that ends when its token is cancelled: what makes a session end whatever it waits for.
pub(super) struct Cut<S> {
    stream: S,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Cut<S> {
    pub(super) fn new(stream: S, token: CancellationToken) -> Self {
        Self { stream, cancelled: Box::pin(token.cancelled_owned()) }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cancelled.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Never fails: russh would not tell why the session ended if its last act, this one, did.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.check(cx).is_ok() {
            let _ = std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithChild<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithChild<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
