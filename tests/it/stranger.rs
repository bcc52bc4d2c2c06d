//! Somebody on the network who does not belong to the run: asks, and answers, and reports what it heard.
//!
//! Knows what it can know at worst: addresses, the torrent's hash, the tracker's path. Believes whoever it talks to.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use fleetdrop::model::Identity;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
        server::danger::{ClientCertVerified, ClientCertVerifier},
    },
};

/// No exchange takes nearly that long.
const LIMIT: Duration = Duration::from_secs(20);

/// What it shows.
#[derive(Debug, Clone)]
pub(crate) enum Guise {
    /// It speaks no TLS.
    Plain,
    /// It has no certificate.
    Nobody,
    /// It has this one, with others that are to support it.
    Certificate(Identity, Vec<Vec<u8>>),
}

/// Says `word` to whoever listens there and returns every byte that is heard: of what is said under TLS, if there is TLS. Nothing where nobody
/// listens any more.
pub(crate) async fn ask(guise: &Guise, at: SocketAddr, word: &[u8]) -> Vec<u8> {
    let Ok(stream) = timeout(LIMIT, TcpStream::connect(at)).await.unwrap() else { return Vec::new() };
    let talk = async {
        let Guise::Plain = guise else {
            let config = client(guise);
            let connector = TlsConnector::from(Arc::new(config));
            let name = ServerName::from(at.ip());
            return match connector.connect(name, stream).await {
                Ok(stream) => converse(stream, word).await,
                Err(_) => Vec::new(),
            };
        };
        converse(stream, word).await
    };
    timeout(LIMIT, talk).await.expect("it is kept waiting")
}

/// Answers everybody who connects with `word`.
pub(crate) struct Impostor {
    pub(crate) address: SocketAddr,
    /// What each of them said.
    heard: JoinHandle<Vec<Vec<u8>>>,
}

impl Impostor {
    /// Waits for so many who connect.
    pub(crate) async fn listen(guise: Guise, word: Vec<u8>, times: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            for _ in 0..times {
                let (stream, _) = listener.accept().await.unwrap();
                let talk = async {
                    let Guise::Plain = guise else {
                        let acceptor = TlsAcceptor::from(Arc::new(server(&guise)));
                        return match acceptor.accept(stream).await {
                            Ok(stream) => converse(stream, &word).await,
                            Err(_) => Vec::new(),
                        };
                    };
                    converse(stream, &word).await
                };
                heard.push(timeout(LIMIT, talk).await.expect("it is kept waiting"));
            }
            heard
        });
        Self { address, heard }
    }

    /// Returns what was heard once so many have connected.
    pub(crate) async fn heard(self) -> Vec<Vec<u8>> {
        timeout(LIMIT, self.heard).await.expect("nobody connects").unwrap()
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, word: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    // It may be closed already.
    let _ = stream.write_all(word).await;
    let _ = stream.flush().await;
    // What is said to a member goes on without end.
    let mut part = [0; 4096];
    while heard.len() < 1 << 16 {
        match timeout(Duration::from_millis(500), stream.read(&mut part)).await {
            Ok(Ok(length @ 1..)) => heard.extend_from_slice(&part[..length]),
            Err(_) if heard.is_empty() => continue,
            _ => break,
        }
    }
    heard
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn client(guise: &Guise) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Credulous));
    match guise {
        Guise::Plain | Guise::Nobody => config.with_no_client_auth(),
        Guise::Certificate(identity, more) => {
            let (chain, key) = shown(identity, more);
            config.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

fn server(guise: &Guise) -> ServerConfig {
    let Guise::Certificate(identity, more) = guise else { panic!("a server shows a certificate") };
    let (chain, key) = shown(identity, more);
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    config.with_client_cert_verifier(Arc::new(Credulous)).with_single_cert(chain, key).unwrap()
}

fn shown(identity: &Identity, more: &[Vec<u8>]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let own = CertificateDer::from(identity.certificate.clone());
    let chain = std::iter::once(own).chain(more.iter().cloned().map(CertificateDer::from)).collect();
    (chain, PrivatePkcs8KeyDer::from(identity.key.clone()).into())
}

/// Believes anybody.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
