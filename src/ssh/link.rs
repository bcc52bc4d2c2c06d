//! One SSH session: which algorithms it may use, its handshake, its keepalives, and the reason it ended.

use std::{
    borrow::Cow,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use russh::{
    SshId, cipher,
    client::{self, DisconnectReason, Handle},
    compression, kex,
    keys::PublicKeyOrCertificate,
    mac,
};
use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    ConnectError, SshError, Step,
    error::{Retry, one_line, seconds},
    forward::Forwards,
    process::{self, Channel, Process},
    transport::{self, ByteStream, Cut, ProxyLog},
    trust::{HostTrust, Refusal},
};

/// How long version and key exchange may take; a slow host under load needs a few seconds.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(20);
/// How long opening a channel, and starting a command on it, may take, each.
const CHANNEL_LIMIT: Duration = Duration::from_secs(20);
/// How long saying goodbye may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A host that sent nothing for this long is asked for a sign of life ...
const KEEPALIVE: Duration = Duration::from_secs(5);
/// ... this often; it is given up when the next one would be due: after 15 s, well within the shortest usual lease of an agent. An sshd
/// that a loaded machine lets run but once in ten seconds is in time; one that is later is connected to again.
const KEEPALIVES: usize = 2;
/// For a session that can't even ask because its writes get nowhere; a slow link takes a packet in less.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);
/// What the host may send ahead on one channel.
const WINDOW: u32 = 2 << 20;
/// The largest packet, OpenSSH's.
const PACKET: u32 = 32 << 10;
/// How many messages of one channel may wait inside russh: at most 1 MiB, on top of the queues in `process`.
const CHANNEL_BUFFER: usize = 32;

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_G16_SHA512,
    kex::DH_G18_SHA512,
    kex::DH_GEX_SHA256,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];
/// AES-GCM first: with AES instructions it is several times as fast as the others.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// A session's life as its owner, its channels and its watchers see it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Life(Arc<LifeState>);

struct LifeState {
    address: String,
    /// Cancelled to end the session from our side.
    cut: CancellationToken,
    /// Cancelled when the session's task has ended, for whatever reason.
    gone: CancellationToken,
    reason: Mutex<Option<String>>,
    tasks: TaskTracker,
}

impl Life {
    pub(super) fn new(address: impl Into<String>) -> Self {
        Self(Arc::new(LifeState {
            address: address.into(),
            cut: CancellationToken::new(),
            gone: CancellationToken::new(),
            reason: Mutex::new(None),
            tasks: TaskTracker::new(),
        }))
    }

    pub(super) fn address(&self) -> &str {
        &self.0.address
    }

    /// Starts a task that belongs to the session: it must end by itself once the session has.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(task);
    }

    /// True once the session has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.0.gone.is_cancelled()
    }

    /// Waits until the session has ended.
    pub(super) async fn gone(&self) {
        self.0.gone.cancelled().await;
    }

    /// Remembers why the session ended; the first reason counts.
    fn note(&self, reason: String) {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    /// Returns why the session ended, if it has and said so.
    pub(super) fn reason(&self) -> Option<String> {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the loss of the connection as an error, if it is lost.
    pub(super) fn lost(&self) -> Option<SshError> {
        let reason = self.reason();
        if reason.is_none() && !self.is_gone() {
            return None;
        }
        let reason = reason.unwrap_or_else(|| "connection closed".to_owned());
        Some(SshError::Lost { address: self.0.address.clone(), reason })
    }

    /// As [`Self::lost`], for when an operation failed in a way only a lost connection can explain.
    pub(super) fn surely_lost(&self) -> SshError {
        let reason = self.reason().unwrap_or_else(|| "connection closed".to_owned());
        SshError::Lost { address: self.0.address.clone(), reason }
    }
}

/// russh's view of us.
pub(super) struct Client {
    life: Life,
    trust: Arc<HostTrust>,
    forwards: Arc<Forwards>,
    /// Dropped with the session's task, however it ends.
    _gone: DropGuard,
}

/// Why a session ended, for [`Client`]'s callbacks.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("the host's key is not trusted")]
    HostKey(Refusal),
}

impl client::Handler for Client {
    type Error = ClientError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, ClientError> {
        self.trust.judge(key).await.map_err(ClientError::HostKey)?;
        Ok(true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<ClientError>) -> Result<(), ClientError> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                self.life.note(format!("the host disconnected: {}", one_line(&info.message)));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                self.life.note(match &error {
                    ClientError::Ssh(error) => describe(error),
                    ClientError::HostKey(refusal) => refusal.cause.clone(),
                });
                Err(error)
            }
        }
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel,
        address: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ClientError> {
        self.forwards.opened(&self.life, channel, (address, port), reply).await;
        Ok(())
    }

    // A host has no business opening other channels to us. A handle that is dropped unanswered refuses; the defaults would accept.

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }
}

/// A session past its handshake. Dropping it cuts the connection.
pub(super) struct Link {
    pub(super) handle: Handle<Client>,
    pub(super) life: Life,
    pub(super) forwards: Arc<Forwards>,
    _cut: DropGuard,
}

impl Link {
    /// Speaks SSH over `stream` up to the verified end of the key exchange.
    pub(super) async fn handshake(
        stream: impl ByteStream + 'static,
        life: &Life,
        trust: Arc<HostTrust>,
        log: Option<&ProxyLog>,
    ) -> Result<Self, ConnectError> {
        // From here on whatever ends this function ends the session's task too, even in the middle of a key exchange.
        let cut = life.0.cut.clone().drop_guard();
        let config = Arc::new(config(&trust));
        let forwards = Arc::new(Forwards::default());
        let gone = life.0.gone.clone().drop_guard();
        let client = Client { life: life.clone(), trust, forwards: forwards.clone(), _gone: gone };
        let stream = Cut::new(stream, life.0.cut.clone());
        match timeout(HANDSHAKE_LIMIT, client::connect_stream(config, stream, client)).await {
            Ok(Ok(handle)) => Ok(Self { handle, life: life.clone(), forwards, _cut: cut }),
            Ok(Err(ClientError::HostKey(refusal))) => {
                let error = ConnectError::new(life.address(), Step::HostKey, &refusal.cause);
                Err(match refusal.hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
            Ok(Err(ClientError::Ssh(error))) => Err(handshake_error(life, &error, log).await),
            Err(_) => {
                let cause = format!("not finished within {}", seconds(HANDSHAKE_LIMIT));
                Err(ConnectError::new(life.address(), Step::Handshake, cause).with_retry(Retry::Few))
            }
        }
    }

    /// Starts a command.
    pub(super) async fn exec(&self, command: &str) -> Result<Process, SshError> {
        let opened = self.within_limit("opening a channel", self.handle.channel_open_session()).await?;
        let mut channel = opened.map_err(|error| self.refused("open a channel", &error))?;
        channel.exec(true, command).await.map_err(|_| self.life.surely_lost())?;
        let answer = async {
            loop {
                match channel.wait().await {
                    Some(russh::ChannelMsg::Success) => return Ok(()),
                    Some(russh::ChannelMsg::Failure) => {
                        return Err(SshError::Refused {
                            address: self.life.address().to_owned(),
                            what: "run a command",
                            reason: "exec request denied".to_owned(),
                        });
                    }
                    None | Some(russh::ChannelMsg::Close) => return Err(self.life.surely_lost()),
                    Some(_) => {}
                }
            }
        };
        self.within_limit("starting a command", answer).await??;
        Ok(process::start(channel, &self.life))
    }

    /// Opens a stream from the host to another address.
    pub(super) async fn tunnel(&self, host: &str, port: u16, limit: Duration) -> Result<impl ByteStream + use<>, ConnectError> {
        let at = transport::address(host, port);
        let failed = |cause: String| {
            let cause = format!("through jump host {}: {cause}", self.life.address());
            ConnectError::new(&at, Step::Connect, cause)
        };
        let open = self.handle.channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 0);
        match timeout(limit, open).await {
            Ok(Ok(channel)) => Ok(process::tunnel(channel, &self.life)),
            Ok(Err(russh::Error::ChannelOpenFailure(reason))) => match reason {
                russh::ChannelOpenFailure::AdministrativelyProhibited => {
                    Err(failed("forwarding is not allowed there".to_owned())
                        .with_hint("set `AllowTcpForwarding yes` (and check `PermitOpen`) in the jump host's sshd_config"))
                }
                _ => Err(failed("no connection from there".to_owned()).with_retry(Retry::Few)),
            },
            Ok(Err(error)) => Err(failed(self.life.reason().unwrap_or_else(|| describe(&error))).with_retry(Retry::Few)),
            Err(_) => Err(failed(format!("no answer within {}", seconds(limit))).with_retry(Retry::Few)),
        }
    }

    /// Says goodbye, ends the session and waits until all its tasks have ended.
    pub(super) async fn close(self) {
        let Self { handle, life, _cut: cut, .. } = self;
        life.note("closed".to_owned());
        let goodbye = async {
            let _ = handle.disconnect(russh::Disconnect::ByApplication, "done", "").await;
            life.gone().await;
        };
        if timeout(CLOSE_LIMIT, goodbye).await.is_err() {
            tracing::debug!(address = life.address(), "no goodbye from the host; the connection is cut");
        }
        drop(cut);
        life.gone().await;
        life.0.tasks.close();
        life.0.tasks.wait().await;
    }

    /// Waits for the host's answer, not for ever.
    pub(super) async fn within_limit<T>(&self, what: &'static str, answer: impl Future<Output = T>) -> Result<T, SshError> {
        let late = |_| SshError::Timeout { address: self.life.address().to_owned(), what, limit: CHANNEL_LIMIT };
        timeout(CHANNEL_LIMIT, answer).await.map_err(|error| self.life.lost().unwrap_or_else(|| late(error)))
    }

    fn refused(&self, what: &'static str, error: &russh::Error) -> SshError {
        match error {
            russh::Error::ChannelOpenFailure(reason) => {
                SshError::Refused { address: self.life.address().to_owned(), what, reason: format!("{reason:?}") }
            }
            _ => self.life.surely_lost(),
        }
    }
}

fn config(trust: &HostTrust) -> client::Config {
    let (key, certificates) = trust.algorithms();
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-fleetdrop_", env!("CARGO_PKG_VERSION")))),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: CHANNEL_BUFFER,
        preferred: russh::Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Owned(key),
            host_key_certificates: Cow::Owned(certificates),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(COMPRESSION),
        },
        inactivity_timeout: Some(SILENCE_LIMIT),
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES,
        ..client::Config::default()
    }
}

async fn handshake_error(life: &Life, error: &russh::Error, log: Option<&ProxyLog>) -> ConnectError {
    let mut cause = match error {
        russh::Error::Disconnect | russh::Error::HUP => life.reason().unwrap_or_else(|| describe(error)),
        other => describe(other),
    };
    if let Some(log) = log
        && let Some(log) = log.text().await
    {
        cause = format!("{cause}; ProxyCommand says: {log}");
    }
    let failed = ConnectError::new(life.address(), Step::Handshake, cause);
    match error {
        // What an sshd does with connections beyond MaxStartups, and a port forwarder whose far end is not up yet.
        russh::Error::Disconnect | russh::Error::HUP | russh::Error::IO(_) => {
            // A ProxyCommand that fails mostly fails for good.
            failed.with_retry(if log.is_none() { Retry::Full } else { Retry::Few })
        }
        russh::Error::NoCommonAlgo { .. } => {
            failed.with_hint("the host offers only algorithms that are off because they are weak")
        }
        russh::Error::Version => failed.with_hint("is it an SSH server that listens there?"),
        _ => failed,
    }
}

/// Says what russh's error means to an operator.
pub(super) fn describe(error: &russh::Error) -> String {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => "connection closed by the host".to_owned(),
        russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout => "the host does not answer any more".to_owned(),
        russh::Error::IO(error) => transport::cause(error),
        russh::Error::NoCommonAlgo { kind, theirs, .. } => {
            format!("no common {kind:?} algorithm; the host offers {}", theirs.join(", "))
        }
        russh::Error::Version => "no SSH version line".to_owned(),
        other => other.to_string(),
    }
}
