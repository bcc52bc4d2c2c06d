//! How processes of a run reach each other: plain TCP, or TLS with the run's certificates ([`Tls`]). Any listener of a run takes its connections
//! through [`listen`] and [`accept`].
//!
//! Owns socket options. Buffers in the kernel are kept short (`TCP_NOTSENT_LOWAT`), so that which piece goes next is decided late.
//!
//! # What was tried
//! In the lab, 16 hosts, 50 Mbit/s, 64 MiB in pieces of 128 KiB, one to three runs each in turn with the rest; the times of the slowest
//! host lie within 0.2 s (1.5 %) of each other without any change, so none of these helped or hurt: `cubic`, `reno` or `bbr` (12.8 to
//! 13.0 s, 12.9 s, 12.8 to 13.15 s; `bbr` sends 20 % of its segments again, the others 1.6 %, but most of them never reach the link: the
//! sender's own queue dropped them), low water at 8 or 128 KiB (13.1 s, 13.2 s), 1 or 8 blocks in a write (12.9 s, 12.8 s). The host's
//! choice of congestion control is therefore left alone.

#[cfg(test)]
mod tests;
mod tls;

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::model::{Digest, PortRange};
pub(super) use tls::provider;
pub use tls::{Tls, TlsError};

/// The most bytes that wait unsent in a socket.
const NOT_SENT_LOW_WATER: u32 = 32 << 10;
/// A peer that acknowledges nothing for this long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
const BACKLOG: i32 = 1024;
/// A TCP connection must stand within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Both sides must have proved who they are within this.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection's bytes.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, encrypted or not. What is written may wait until it is flushed.
pub(crate) type Stream = Box<dyn Duplex>;

/// Who is expected at an address. Without TLS whoever answers is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// The controller.
    Controller,
    /// Any process of the run.
    Member,
}

/// Connects to a process of the run.
pub(super) async fn connect(tls: Option<&Tls>, addr: SocketAddr, whom: Whom) -> io::Result<Stream> {
    let stream = within(CONNECT_TIMEOUT, TcpStream::connect(addr)).await?;
    tune(&stream)?;
    match tls {
        None => Ok(Box::new(stream)),
        Some(tls) => within(PROOF_TIMEOUT, tls.connect(stream, whom)).await,
    }
}

/// Prepares an accepted connection; where there is TLS it fails for whoever does not belong to the run.
pub(crate) async fn accept(tls: Option<&Tls>, stream: TcpStream) -> io::Result<Stream> {
    Ok(admit(tls, stream).await?.0)
}

/// Prepares an accepted connection as [`accept`] does, and returns the fingerprint of the certificate that was shown.
pub(crate) async fn admit(tls: Option<&Tls>, stream: TcpStream) -> io::Result<(Stream, Option<Digest>)> {
    tune(&stream)?;
    match tls {
        None => Ok((Box::new(stream), None)),
        Some(tls) => within(PROOF_TIMEOUT, tls.accept(stream)).await,
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, future).await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
}

/// Binds a listening socket, to a free port of those if there are any and `addr` names none. The address is free again as soon as the listener is
/// dropped. `[::]` takes IPv4 too, whatever the system's default (`net.ipv6.bindv6only`) is.
pub(crate) fn listen(addr: SocketAddr, ports: Option<PortRange>) -> io::Result<TcpListener> {
    let Some(ports) = ports.filter(|_| addr.port() == 0) else { return bind(addr) };
    for port in ports.beginning_anywhere(fastrand::u16(..)) {
        match bind(SocketAddr::new(addr.ip(), port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("all ports of {ports} are in use")))
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), None)?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_notsent_lowat(NOT_SENT_LOW_WATER)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    }
    Ok(())
}
