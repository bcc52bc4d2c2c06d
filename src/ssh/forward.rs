//! Ports on a host's loopback that lead here, through the SSH connection (RFC 4254, section 7).
//!
//! Owns which ports were asked for and where they lead; every other channel that a host opens is refused. Promises: the host
//! listens on its loopback only (an sshd with `GatewayPorts yes` listens everywhere), so many streams at once and no more, each with bounded
//! buffers; ports and streams end with the connection.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use russh::client::ChannelOpenHandle;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    SshError,
    link::{Life, Link},
    process::{self, Channel},
};

/// Where the host listens, as it is asked and as it says when somebody connects.
const LISTEN: &str = "127.0.0.1";
/// Ports of one connection.
const MAX_PORTS: usize = 8;
/// Streams of one connection at once.
const MAX_STREAMS: usize = 32;
/// How long connecting to where a port leads may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How much of a stream waits here in each direction, beside the channel's own queues.
const BUFFER: usize = 64 << 10;

/// The ports of one connection.
pub(super) struct Forwards {
    ports: Mutex<Vec<(u16, SocketAddr)>>,
    streams: Arc<Semaphore>,
}

impl Default for Forwards {
    fn default() -> Self {
        Self { ports: Mutex::default(), streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}

impl Forwards {
    /// Returns where a port leads that somebody on the host connected to, with a place for the stream; none if it was not asked for.
    fn admit(&self, address: &str, port: u32) -> Option<(SocketAddr, OwnedSemaphorePermit)> {
        let port = u16::try_from(port).ok().filter(|_| address == LISTEN)?;
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let target = ports.iter().find(|(known, _)| *known == port)?.1;
        Some((target, self.streams.clone().try_acquire_owned().ok()?))
    }

    /// Takes a stream from the host, or refuses it by dropping the handle.
    pub(super) async fn opened(&self, life: &Life, channel: Channel, at: (&str, u32), reply: ChannelOpenHandle) {
        let Some((target, place)) = self.admit(at.0, at.1) else { return };
        reply.accept().await;
        let stream = process::tunnel(channel, life);
        let owner = life.clone();
        life.spawn(async move {
            tokio::select! {
                () = lead(stream, target) => {}
                () = owner.gone() => {}
            }
            drop(place);
        });
    }
}

/// Carries bytes between a stream and an address here, both ways, until both ends are done or one breaks.
async fn lead(mut stream: impl AsyncRead + AsyncWrite + Unpin, target: SocketAddr) {
    let mut here = match timeout(CONNECT_LIMIT, TcpStream::connect(target)).await {
        Ok(Ok(here)) => here,
        Ok(Err(error)) => return tracing::debug!(%target, %error, "a forwarded port leads nowhere"),
        Err(_) => return tracing::debug!(%target, "a forwarded port leads nowhere: no answer"),
    };
    let _ = here.set_nodelay(true);
    if let Err(error) = copy_bidirectional_with_sizes(&mut stream, &mut here, BUFFER, BUFFER).await {
        tracing::debug!(%target, %error, "a forwarded stream broke");
    }
}

impl Link {
    /// Makes the host listen on its loopback for streams that lead to `target`, and returns where it listens.
    ///
    /// # Errors
    /// A host that allows no forwarding (`AllowTcpForwarding`, `PermitListen`), or a lost connection.
    pub(super) async fn forward(&self, target: SocketAddr) -> Result<SocketAddr, SshError> {
        let refused = |reason: &str| SshError::Refused {
            address: self.life.address().to_owned(),
            what: "forward a port",
            reason: reason.to_owned(),
        };
        if self.forwards.ports.lock().unwrap_or_else(PoisonError::into_inner).len() >= MAX_PORTS {
            return Err(refused("there are too many already"));
        }
        let asked = self.within_limit("forwarding a port", self.handle.tcpip_forward(LISTEN, 0)).await?;
        let port = match asked {
            Ok(port) => u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| refused("it names no port"))?,
            Err(russh::Error::RequestDenied) => return Err(refused("forwarding is not allowed there")),
            Err(_) => return Err(self.life.surely_lost()),
        };
        self.forwards.ports.lock().unwrap_or_else(PoisonError::into_inner).push((port, target));
        tracing::debug!(address = self.life.address(), port, %target, "forwards a port");
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}
