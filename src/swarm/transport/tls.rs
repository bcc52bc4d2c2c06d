//! TLS 1.3 between the processes of one run: both sides show a certificate of the run's authority, or nothing is said.
//!
//! Owns how certificates are checked, here and for origins ([`provider`]). Promises: who has none of this run's certificates learns that there
//! is TLS and nothing else, not even the torrent's hash: no name is sent in the clear, what certificates say is the same in every run, and a
//! client's first word comes after the server's proof, the server's after the client's. Who dials the controller gets the controller,
//! whichever host answers at that address. Validity is judged by the authority's time (`RunClock`).
//!
//! One cipher first, the one that processors have instructions for. No tickets, no resumption: connections live as long as the run.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::BufReader;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, Error, RootCertStore, ServerConfig,
        client::Resumption,
        crypto::{
            CryptoProvider, KeyProvider,
            ring::{self, cipher_suite, kx_group, sign::any_eddsa_type},
        },
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
        server::WebPkiClientVerifier,
        sign::SigningKey,
        time_provider::TimeProvider,
        version::TLS13,
    },
};

use super::{Duplex, Stream, Whom};
use crate::{
    http::Secure,
    model::{Digest, Identity, identity::fingerprint},
};

/// Encrypted bytes that may wait for the socket: what is written at once, and its frames. Whoever writes flushes before he decides what is next.
const UNSENT: usize = 96 << 10;
/// Bytes read from the socket at once; rustls itself asks for 4 KiB.
const READ: usize = 32 << 10;

/// Says why an identity can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the run's certificates can't be used")]
pub struct TlsError(#[source] Error);

/// The certificates of one process of a run, ready to be shown and to judge others by.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    controller: ServerName<'static>,
    member: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Tls {
    /// Prepares both directions.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        let parts = Parts::new(identity).map_err(TlsError)?;
        let (client, server) = (parts.client().map_err(TlsError)?, parts.server().map_err(TlsError)?);
        Ok(Self {
            connector: Arc::new(client).into(),
            acceptor: Arc::new(server).into(),
            controller: name(Identity::CONTROLLER).map_err(TlsError)?,
            member: name(Identity::MEMBER).map_err(TlsError)?,
        })
    }

    /// Returns what an HTTP request to the controller is made with: the name is to be expected whatever the address is.
    pub(crate) fn to_controller(&self) -> Secure<'_> {
        Secure { connector: &self.connector, expects: Some(self.controller.clone()) }
    }

    /// Shakes hands as the one who connected; fails if it is not `whom`.
    pub(super) async fn connect(&self, stream: impl Duplex + 'static, whom: Whom) -> io::Result<Stream> {
        let stream = BufReader::with_capacity(READ, stream);
        let name = match whom {
            Whom::Controller => &self.controller,
            Whom::Member => &self.member,
        };
        let stream = self.connector.connect_with(name.clone(), stream, |session| session.set_buffer_limit(Some(UNSENT))).await;
        Ok(Box::new(stream.map_err(stranger)?))
    }

    /// Shakes hands with whoever connected; fails for those who do not belong to the run. Returns the fingerprint of the certificate, too.
    pub(super) async fn accept(&self, stream: impl Duplex + 'static) -> io::Result<(Stream, Option<Digest>)> {
        let stream = BufReader::with_capacity(READ, stream);
        let accepted = self.acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(UNSENT))).await;
        let stream = accepted.map_err(stranger)?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.map(|certificate| fingerprint(certificate));
        Ok((Box::new(stream), shown))
    }
}

/// Says what is wrong with an identity, which the controller made.
fn general(error: impl ToString) -> Error {
    Error::General(error.to_string())
}

fn name(name: &'static str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name).map_err(general)
}

/// Tells a failed handshake from a broken connection.
fn stranger(error: io::Error) -> io::Error {
    match error.get_ref() {
        Some(cause) if cause.is::<Error>() => {
            io::Error::new(error.kind(), format!("it does not prove to belong to this run: {cause}"))
        }
        _ => error,
    }
}

/// The authority's time: what it was when the identity was handed out, and what has passed since.
#[derive(Debug)]
struct RunClock {
    at_start: Duration,
    start: Instant,
}

impl TimeProvider for RunClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.at_start + self.start.elapsed()))
    }
}

/// What both directions are made of.
struct Parts<'a> {
    identity: &'a Identity,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    clock: Arc<RunClock>,
}

impl<'a> Parts<'a> {
    fn new(identity: &'a Identity) -> Result<Self, Error> {
        let provider = CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256],
            kx_groups: vec![kx_group::X25519],
            ..provider()
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(identity.authority.as_slice()))?;
        let clock = RunClock { at_start: identity.now, start: Instant::now() };
        Ok(Self { identity, provider: Arc::new(provider), roots: Arc::new(roots), clock: Arc::new(clock) })
    }

    fn client(&self) -> Result<ClientConfig, Error> {
        let (chain, key) = self.shown();
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(chain, key)?;
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn server(&self) -> Result<ServerConfig, Error> {
        let (chain, key) = self.shown();
        let members = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone());
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(members.clear_root_hint_subjects().build().map_err(general)?)
            .with_single_cert(chain, key)?;
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn shown(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.identity.key.clone());
        (vec![CertificateDer::from(self.identity.certificate.clone())], key.into())
    }
}

/// Returns the algorithms of everything that speaks TLS here: ring's, but for keys to sign with, of which there are only the runs'.
pub(in crate::swarm) fn provider() -> CryptoProvider {
    CryptoProvider { key_provider: &Ed25519, ..ring::default_provider() }
}

/// Reads the only kind of private key that we have.
#[derive(Debug)]
struct Ed25519;

impl KeyProvider for Ed25519 {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        match &key {
            PrivateKeyDer::Pkcs8(key) => any_eddsa_type(key),
            _ => Err(general("not a PKCS #8 key")),
        }
    }
}
