//! One host: its listener, its connections and what a client may ask for.
//!
//! Back-pressure: russh opens a channel's window again as soon as data arrives, not when it is consumed. So a command that does not
//! read holds up its whole connection once its input queue is full; if it still reads nothing for [`INPUT_STALL`], the connection is cut.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    net::SocketAddr,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use russh::{
    Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, MethodKind, MethodSet, Pty, cipher,
    keys::PrivateKey,
    keys::PublicKey,
    server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    USER,
    command::{Command, CommandSpec},
};

/// How many connections a host has at once; more are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// How many channels a connection has at once, as OpenSSH's `MaxSessions`.
const MAX_CHANNELS: usize = 10;
/// How long a client may take to log in.
const LOGIN_GRACE: Duration = Duration::from_secs(60);
/// How many packets of input wait for a command that does not read, 32 KiB each at most.
const INPUT_QUEUE: usize = 64;
/// How long a command with a full input queue may read nothing.
const INPUT_STALL: Duration = Duration::from_secs(60);

/// Returns the SSH settings of a host with that key.
pub(super) fn ssh_config(host_key: PrivateKey) -> server::Config {
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    let preferred =
        russh::Preferred { cipher: vec![cipher::AES_256_GCM, cipher::AES_128_GCM].into(), ..russh::Preferred::default() };
    server::Config {
        methods,
        // Nothing to guess: only one key is taken, and its check needs no secret.
        auth_rejection_time: Duration::ZERO,
        keys: vec![host_key],
        preferred,
        nodelay: true,
        keepalive_interval: Some(Duration::from_secs(30)),
        ..server::Config::default()
    }
}

/// What a host's tasks and its owner share.
#[derive(Debug)]
pub(super) struct HostShared {
    home: PathBuf,
    search_path: OsString,
    client_key: PublicKey,
    grace: Duration,
    /// Ends the host.
    down: CancellationToken,
    commands_started: AtomicU64,
}

impl HostShared {
    pub(super) fn new(home: PathBuf, search_path: OsString, client_key: PublicKey, grace: Duration) -> Self {
        let (down, commands_started) = (CancellationToken::new(), AtomicU64::new(0));
        Self { home, search_path, client_key, grace, down, commands_started }
    }

    pub(super) fn commands_started(&self) -> u64 {
        self.commands_started.load(Ordering::Relaxed)
    }

    pub(super) fn shut_down(&self) {
        self.down.cancel();
    }
}

/// Serves a host until it is shut down; every connection and command has ended when this returns.
pub(super) async fn serve(host: Arc<HostShared>, ssh: Arc<server::Config>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = host.down.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                tracing::warn!("too many connections to a host of the local fleet")
            }
            Ok((stream, peer)) => drop(connections.spawn(connection(Arc::clone(&host), Arc::clone(&ssh), stream, peer))),
            Err(error) => {
                // Out of descriptors, most likely: the connection stays in the backlog, so try again, but not at once.
                tracing::warn!(%error, "a host of the local fleet can't accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection and ends all its commands.
async fn connection(host: Arc<HostShared>, ssh: Arc<server::Config>, stream: TcpStream, peer: SocketAddr) {
    let ended = host.down.child_token();
    let commands = TaskTracker::new();
    let result = converse(&host, ssh, stream, peer, &ended, &commands).await;
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection to a host of the local fleet ended");
    }
    ended.cancel();
    commands.close();
    commands.wait().await;
}

async fn converse(
    host: &Arc<HostShared>,
    ssh: Arc<server::Config>,
    stream: TcpStream,
    peer: SocketAddr,
    ended: &CancellationToken,
    commands: &TaskTracker,
) -> Result<(), russh::Error> {
    let local = stream.local_addr()?;
    // A second descriptor of the socket: shutting it down is what cuts the link under the session, which owns the first.
    let link = stream.as_fd().try_clone_to_owned()?;
    let authenticated = Arc::new(AtomicBool::new(false));
    let guest = Guest {
        host: Arc::clone(host),
        ssh_connection: format!("{} {} {} {}", peer.ip(), peer.port(), local.ip(), local.port()),
        authenticated: Arc::clone(&authenticated),
        ended: ended.clone(),
        commands: commands.clone(),
        channels: HashMap::new(),
    };
    let Some(greeted) = ended.run_until_cancelled(timeout(LOGIN_GRACE, server::run_stream(ssh, stream, guest))).await else {
        return Ok(());
    };
    let mut session = greeted.map_err(|_| russh::Error::ConnectionTimeout)??;
    let too_slow = async {
        tokio::time::sleep(LOGIN_GRACE).await;
        if authenticated.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = &mut session => return result,
        () = ended.cancelled() => {}
        () = too_slow => {}
    }
    // The session may wait for a command that does not read: free it first.
    ended.cancel();
    rustix::net::shutdown(&link, rustix::net::Shutdown::Both).map_err(io::Error::from)?;
    session.await
}

/// A channel from its opening to its end.
enum Slot {
    /// Opened, nothing asked yet.
    Open(ChannelWriteHalf<Msg>),
    /// Runs a command.
    Running {
        /// None once the client said that no more comes.
        input: Option<mpsc::Sender<Bytes>>,
        /// Cancelled when the channel is over, by whichever side.
        over: CancellationToken,
    },
}

impl Slot {
    fn is_over(&self) -> bool {
        matches!(self, Self::Running { over, .. } if over.is_cancelled())
    }
}

/// The client of one connection and what it has open.
struct Guest {
    host: Arc<HostShared>,
    ssh_connection: String,
    authenticated: Arc<AtomicBool>,
    ended: CancellationToken,
    commands: TaskTracker,
    channels: HashMap<ChannelId, Slot>,
}

impl Guest {
    fn judge(&self, user: &str, key: &PublicKey) -> Auth {
        let known = user == USER && key.key_data() == self.host.client_key.key_data();
        if known { Auth::Accept } else { Auth::reject() }
    }
}

impl server::Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Ok(self.judge(user, offer.public_key))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(self.judge(user, key.public_key))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.authenticated.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.retain(|_, slot| !slot.is_over());
        if self.channels.len() >= MAX_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let id = channel.id();
        // Input comes through `data`, which can wait; the channel's own queue is not used.
        let (_, output) = channel.split();
        self.channels.insert(id, Slot::Open(output));
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        let output = match self.channels.remove(&id) {
            Some(Slot::Open(output)) => output,
            Some(running) => {
                self.channels.insert(id, running);
                return session.channel_failure(id);
            }
            None => return session.channel_failure(id),
        };
        let over = self.ended.child_token();
        let (sender, input) = mpsc::channel(INPUT_QUEUE);
        let HostShared { home, search_path, .. } = &*self.host;
        let spec = CommandSpec { home, search_path, ssh_connection: &self.ssh_connection, text: data };
        match Command::spawn(&spec) {
            Ok(command) => {
                self.host.commands_started.fetch_add(1, Ordering::Relaxed);
                session.channel_success(id)?;
                let (handle, grace) = (session.handle(), self.host.grace);
                self.commands.spawn(command.run(input, output, handle, over.clone(), grace));
                self.channels.insert(id, Slot::Running { input: Some(sender), over });
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "a host of the local fleet can't start /bin/sh");
                session.channel_failure(id)
            }
        }
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), Self::Error> {
        let Some(Slot::Running { input: Some(input), over }) = self.channels.get(&id) else {
            return Ok(());
        };
        let sent = over.run_until_cancelled(timeout(INPUT_STALL, input.send(Bytes::copy_from_slice(data)))).await;
        match sent {
            Some(Err(_)) => Err(russh::Error::ConnectionTimeout),
            // A command that closed its input gets no more of it, and that is no error.
            Some(Ok(_)) | None => Ok(()),
        }
    }

    async fn channel_eof(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(Slot::Running { input, .. }) = self.channels.get_mut(&id) {
            *input = None;
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(Slot::Running { over, .. }) = self.channels.remove(&id) {
            over.cancel();
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn subsystem_request(&mut self, id: ChannelId, _name: &str, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }
}
