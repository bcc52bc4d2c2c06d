//! How peers are reached: one small interface, so that encryption can slot in. Here is plain TCP.
//!
//! Owns socket options. Buffers in the kernel are kept short (`TCP_NOTSENT_LOWAT`), so that which piece goes next is decided late.
//!
//! # What was tried
//! In the lab, 16 hosts, 50 Mbit/s, 64 MiB in pieces of 128 KiB, one to three runs each in turn with the rest; the times of the slowest
//! host lie within 0.2 s (1.5 %) of each other without any change, so none of these helped or hurt: `cubic`, `reno` or `bbr` (12.8 to
//! 13.0 s, 12.9 s, 12.8 to 13.15 s; `bbr` sends 20 % of its segments again, the others 1.6 %, but most of them never reach the link: the
//! sender's own queue dropped them), low water at 8 or 128 KiB (13.1 s, 13.2 s), 1 or 8 blocks in a write (12.9 s, 12.8 s). The host's
//! choice of congestion control is therefore left alone.

use std::{io, net::SocketAddr, pin::Pin, time::Duration};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// The most bytes that wait unsent in a socket.
const NOT_SENT_LOW_WATER: u32 = 32 << 10;
/// A peer that acknowledges nothing for this long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
const BACKLOG: i32 = 1024;

/// A connection's bytes.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection as the engine sees it.
pub(super) type Stream = Box<dyn Duplex>;

/// A future the size of a pointer.
pub(super) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes connections out of TCP streams.
pub(super) trait Transport: Send + Sync + 'static {
    /// Connects to a peer.
    fn connect(&self, addr: SocketAddr) -> Boxed<'_, io::Result<Stream>>;

    /// Prepares an accepted connection.
    fn accept(&self, stream: TcpStream) -> Boxed<'_, io::Result<Stream>>;
}

/// Plain TCP.
#[derive(Debug)]
pub(super) struct Plain;

impl Transport for Plain {
    fn connect(&self, addr: SocketAddr) -> Boxed<'_, io::Result<Stream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(addr).await?;
            tune(&stream)?;
            Ok(Box::new(stream) as Stream)
        })
    }

    fn accept(&self, stream: TcpStream) -> Boxed<'_, io::Result<Stream>> {
        Box::pin(async move {
            tune(&stream)?;
            Ok(Box::new(stream) as Stream)
        })
    }
}

/// Binds a listening socket. The address is free again as soon as the listener is dropped. `[::]` takes IPv4 too, whatever the
/// system's default (`net.ipv6.bindv6only`) is.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[tokio::test]
    async fn the_unspecified_ipv6_address_takes_ipv4_too() {
        let listener = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        assert!(!SockRef::from(&listener).only_v6().unwrap());
        let port = listener.local_addr().unwrap().port();
        let connect = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let (connected, accepted) = tokio::join!(connect, listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
    }
}
