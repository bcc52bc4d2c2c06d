//! Sockets, and who is let in.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    task::Poll,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use super::*;
use crate::{controller::Authority, model::Identity};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn tls(identity: &Identity) -> Tls {
    Tls::new(identity).unwrap()
}

fn member(run: &Authority) -> Tls {
    tls(&run.member().unwrap())
}

/// Lets one side connect to the other as `whom` and say a word; returns what came of it on both sides: an error, or what was heard.
async fn meet(dials: &Tls, accepts: &Tls, whom: Whom) -> (Result<String, String>, Result<String, String>) {
    let (here, there) = duplex(1 << 16);
    let talk = async |stream: io::Result<Stream>| {
        let mut stream = stream?;
        stream.write_all(b"word").await?;
        stream.flush().await?;
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await?;
        Ok(String::from_utf8_lossy(&heard).into_owned())
    };
    let dialled = async { talk(dials.connect(here, whom).await).await };
    let accepted = async { talk(accepts.accept(there).await.map(|(stream, _)| stream)).await };
    let (dialled, accepted) = tokio::join!(dialled, accepted);
    let text = |error: io::Error| error.to_string();
    (dialled.map_err(text), accepted.map_err(text))
}

#[tokio::test]
async fn the_unspecified_ipv6_address_takes_ipv4_too() {
    let listener = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), None).unwrap();
    assert!(!SockRef::from(&listener).only_v6().unwrap());
    let port = listener.local_addr().unwrap().port();
    let connect = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let (connected, accepted) = tokio::join!(connect, listener.accept());
    assert!(connected.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn a_port_of_the_range_is_taken_and_none_beyond_it() {
    let at = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 97), 0));
    let ports = PortRange::new(14_200, 14_203).unwrap();
    let taken: Vec<_> = (0..4).map(|_| listen(at, Some(ports)).unwrap()).collect();
    let mut numbers: Vec<u16> = taken.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [14_200, 14_201, 14_202, 14_203]);
    let error = listen(at, Some(ports)).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::AddrInUse, "all ports of 14200-14203 are in use"));
    // Nothing but a port in use is gone on from.
    let elsewhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0));
    assert_eq!(listen(elsewhere, Some(ports)).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    drop(taken);
    assert!(listen(at, Some(ports)).is_ok());
}

#[tokio::test]
async fn who_accepts_learns_whose_certificate_it_was() {
    let run = Authority::new().unwrap();
    let (here, there) = duplex(1 << 16);
    let dials = run.member().unwrap();
    let (host, accepts) = (tls(&dials), member(&run));
    let (dialled, accepted) = tokio::join!(host.connect(here, Whom::Member), accepts.accept(there));
    assert!(dialled.is_ok());
    assert_eq!(accepted.unwrap().1, Some(dials.fingerprint()));
    assert_ne!(dials.fingerprint(), run.member().unwrap().fingerprint());
}

#[tokio::test]
async fn processes_of_a_run_understand_each_other() {
    let run = Authority::new().unwrap();
    let word = || Ok("word".to_owned());
    assert_eq!(meet(&member(&run), &member(&run), Whom::Member).await, (word(), word()));
    let controller = run.controller().unwrap();
    for whom in [Whom::Controller, Whom::Member] {
        assert_eq!(meet(&member(&run), &controller, whom).await, (word(), word()), "{whom:?}");
    }
    assert_eq!(meet(&controller, &member(&run), Whom::Member).await, (word(), word()));
}

#[tokio::test]
async fn a_host_is_not_taken_for_the_controller() {
    let run = Authority::new().unwrap();
    let (dialled, accepted) = meet(&member(&run), &member(&run), Whom::Controller).await;
    let why = dialled.unwrap_err();
    assert!(why.contains("it does not prove to belong") && why.contains("not valid for name"), "{why}");
    assert!(accepted.is_err());
}

#[tokio::test]
async fn nobody_of_another_run_is_let_in_or_believed() {
    let (run, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    for whom in [Whom::Member, Whom::Controller] {
        for theirs in [member(&other), other.controller().unwrap()] {
            let (dialled, accepted) = meet(&member(&run), &theirs, whom).await;
            assert!(dialled.unwrap_err().contains("it does not prove to belong"));
            assert!(accepted.is_err());
        }
    }
    // Who dials believes first what he is shown, so this one does not care: he still hears nothing.
    let mut thief = other.member().unwrap();
    thief.authority = run.member().unwrap().authority;
    let (dialled, accepted) = meet(&tls(&thief), &member(&run), Whom::Member).await;
    assert!(accepted.unwrap_err().contains("it does not prove to belong"));
    assert!(dialled.is_err(), "it heard {dialled:?}");
}

#[tokio::test]
async fn certificates_count_for_a_time_by_the_authoritys_clock() {
    let run = Authority::new().unwrap();
    let later = |days: u32| {
        let mut identity = run.member().unwrap();
        identity.now += DAY * days;
        tls(&identity)
    };
    assert!(meet(&later(6), &member(&run), Whom::Member).await.0.is_ok());
    let (dialled, _) = meet(&later(8), &member(&run), Whom::Member).await;
    assert!(dialled.unwrap_err().contains("expired"));
    let (dialled, accepted) = meet(&member(&run), &later(8), Whom::Member).await;
    assert!(accepted.unwrap_err().contains("expired"));
    assert!(dialled.is_err(), "it heard {dialled:?}");
    let mut early = run.member().unwrap();
    early.now -= DAY;
    assert!(meet(&tls(&early), &member(&run), Whom::Member).await.0.unwrap_err().contains("not valid yet"));
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

#[tokio::test]
async fn who_has_no_certificate_is_shown_one_that_tells_nothing_and_hears_nothing() {
    let run = Authority::new().unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    let (here, there) = duplex(1 << 16);
    let stranger = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect("a.invalid".try_into().unwrap(), here).await.unwrap();
        let mut heard = Vec::new();
        let ended = stream.read_to_end(&mut heard).await;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        (heard, ended.is_err(), shown)
    };
    let host = member(&run);
    let ((heard, refused, shown), accepted) = tokio::join!(stranger, host.accept(there));
    assert!(accepted.err().unwrap().to_string().contains("it does not prove to belong"));
    assert!(refused && heard.is_empty());
    // All that it says of anybody is this name.
    assert!(shown.windows(Identity::MEMBER.len()).any(|part| part == Identity::MEMBER.as_bytes()));
    let other = Authority::new().unwrap().member().unwrap().certificate;
    assert_eq!(shown.len(), other.len());
}

#[tokio::test]
async fn who_speaks_no_tls_hears_nothing_but_an_alert() {
    let run = Authority::new().unwrap();
    let (mut here, there) = duplex(1 << 16);
    here.write_all(b"\x13BitTorrent protocol").await.unwrap();
    assert!(member(&run).accept(there).await.is_err());
    let mut heard = Vec::new();
    here.read_to_end(&mut heard).await.unwrap();
    assert!(heard.len() <= 7, "{heard:?}");
}

#[tokio::test]
async fn who_dials_tells_nothing_in_the_clear() {
    let run = Authority::new().unwrap();
    let (here, mut there) = duplex(1 << 16);
    let host = member(&run);
    let mut hello = vec![0; 4096];
    tokio::select! {
        _ = host.connect(here, Whom::Controller) => panic!("nobody answered"),
        length = there.read(&mut hello) => hello.truncate(length.unwrap()),
    }
    assert!(hello.len() > 100);
    for name in ["fleetdrop", "member", "controller", "internal"] {
        assert!(!hello.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let run = Authority::new().unwrap();
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None).unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let error = accept(Some(&member(&run)), stream).await.err().unwrap();
    assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::TimedOut, "no answer"));
    let error = connect(Some(&member(&run)), listener.local_addr().unwrap(), Whom::Member).await.err().unwrap();
    assert_eq!(error.to_string(), "no answer");
}

async fn pair(room: usize) -> (Stream, Stream) {
    let run = Authority::new().unwrap();
    let (here, there): (DuplexStream, DuplexStream) = duplex(room);
    let (dials, accepts) = (member(&run), member(&run));
    let (dialled, accepted) = tokio::join!(dials.connect(here, Whom::Member), accepts.accept(there));
    (dialled.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn little_waits_beneath_who_writes() {
    let (mut writes, mut reads) = pair(1 << 10).await;
    let (chunk, mut taken) = (vec![7; 16 << 10], 0);
    while let Poll::Ready(written) = futures_util::poll!(std::pin::pin!(writes.write(&chunk))) {
        taken += written.unwrap();
        assert!(taken < 1 << 20, "it takes everything");
    }
    assert!((64 << 10..=98 << 10).contains(&taken), "{taken}");
    let (flushed, read) = tokio::join!(writes.flush(), async {
        let mut bytes = vec![0; taken];
        reads.read_exact(&mut bytes).await.map(|_| bytes)
    });
    flushed.unwrap();
    assert!(read.unwrap().iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn what_is_written_comes_out_in_order() {
    let (mut writes, mut reads) = pair(1 << 16).await;
    let bytes: Vec<u8> = (0..3u32 << 20).map(|at| (at * 31 / 8) as u8).collect();
    let expected = bytes.clone();
    let writing = async move {
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            let (one, two) = left.split_at(left.len().min(16397));
            let parts = [io::IoSlice::new(one), io::IoSlice::new(&two[..two.len().min(50_000)])];
            let written = writes.write_vectored(&parts).await.unwrap();
            left = &left[written..];
        }
        writes.flush().await.unwrap();
        writes
    };
    let mut got = vec![0; expected.len()];
    let (writes, read) = tokio::join!(writing, reads.read_exact(&mut got));
    read.unwrap();
    assert!(got == expected);
    drop(writes);
    assert!(matches!(reads.read(&mut [0]).await, Err(_) | Ok(0)));
}
