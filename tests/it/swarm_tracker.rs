//! A tracker that lies: the engine wastes some connections and goes on with what the controller told it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fleetdrop::swarm::{Engine as _, EngineConfig, FleetEngine, Role};
use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::swarm::{ANY, Swarm, complete, free_address, stop, within};

/// What it says to every announce.
#[derive(Debug, Clone)]
pub(crate) enum Lie {
    /// A whole answer.
    Body(Vec<u8>),
    /// A status line and headers.
    Head(String),
    /// An answer without end.
    Endless,
    /// Nothing, and the connection stays.
    Nothing,
    /// Part of an answer, and the connection stays.
    Half,
    /// It hangs up.
    HangUp,
}

/// A tracker with one answer. It counts announces and ends when it is dropped.
pub(crate) struct Liar {
    address: SocketAddr,
    pub(crate) announces: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

impl Liar {
    pub(crate) async fn start(lie: Lie) -> Self {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, announces) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                told.send_modify(|times| *times += 1);
                open.spawn(answer(stream, lie.clone()));
            }
        });
        Self { address, announces, _task: task }
    }

    pub(crate) fn announce_url(&self) -> String {
        format!("http://{}/key/announce", self.address)
    }
}

async fn answer(mut stream: TcpStream, lie: Lie) {
    let _ = stream.read(&mut [0; 4096]).await;
    let head = "HTTP/1.1 200 OK\r\n";
    // The engine may hang up at any moment.
    let _ = match lie {
        Lie::Body(body) => {
            let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), &body].concat()).await
        }
        Lie::Head(head) => stream.write_all(head.as_bytes()).await,
        Lie::Endless => {
            let _ = stream.write_all(format!("{head}\r\nd").as_bytes()).await;
            while stream.write_all(&[b'9'; 65536]).await.is_ok() {}
            Ok(())
        }
        Lie::Nothing => std::future::pending().await,
        Lie::Half => {
            let _ = stream.write_all(format!("{head}Content-Length: 99\r\n\r\nd5:peers").as_bytes()).await;
            std::future::pending().await
        }
        Lie::HangUp => Ok(()),
    };
}

/// A compact list of peers.
pub(crate) fn peers(peers: impl IntoIterator<Item = SocketAddr>) -> Lie {
    let bytes: Vec<u8> = peers
        .into_iter()
        .flat_map(|peer| {
            let SocketAddr::V4(peer) = peer else { panic!("{peer} is not an IPv4 address") };
            [&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat()
        })
        .collect();
    let mut body = format!("d8:intervali0e5:peers{}:", bytes.len()).into_bytes();
    body.extend_from_slice(&bytes);
    body.push(b'e');
    Lie::Body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lie_of_the_tracker_keeps_a_host_from_its_peers() {
    let redirect = |to: &str| Lie::Head(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"));
    let lies = [
        Lie::Nothing,
        Lie::Half,
        Lie::HangUp,
        Lie::Endless,
        redirect("http://127.0.0.1:1/"),
        redirect("file:///etc/passwd"),
        Lie::Head("HTTP/1.1 500 No\r\nContent-Length: 99999999999999999999\r\n\r\n".into()),
        Lie::Head("SSH-2.0-OpenSSH_9.9\r\n".into()),
        Lie::Head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".into()),
        Lie::Body(b"<html>".to_vec()),
        Lie::Body(b"d8:intervali-5ee".to_vec()),
        Lie::Body(b"d8:intervali18446744073709551615e12:min intervali18446744073709551615ee".to_vec()),
        Lie::Body(b"d14:failure reason3:no!e".to_vec()),
        Lie::Body([&b"d5:peers"[..], &b"l".repeat(5000)].concat()),
        Lie::Body(b"d5:peers7:abcdefge".to_vec()),
        peers([SocketAddr::from(([127, 0, 0, 1], 0)), SocketAddr::from(([0, 0, 0, 0], 1)), SocketAddr::from(([255; 4], 1))]),
    ];
    join_all(lies.map(|lie| async move {
        let swarm = Swarm::new(300_000, 64 << 10).await;
        let mut liar = Liar::start(lie.clone()).await;
        let config =
            EngineConfig { tracker: Some(liar.announce_url()), ..swarm.config(Role::Host { file: swarm.file("host") }, &[]) };
        let mut host = FleetEngine.start(config).await.unwrap();
        within("an announce", liar.announces.wait_for(|times| *times > 0)).await.unwrap();
        let seed = swarm.seed().await;
        host.add_peers(vec![seed.local_addr]).await;
        complete(&mut host).await;
        swarm.assert_same("host");
        // A tracker that does not answer must not hold up the end either.
        within(&format!("the end in spite of {lie:?}"), stop([host, seed])).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tracker_can_not_send_a_host_to_itself() {
    let swarm = Swarm::new(300_000, 64 << 10).await;
    let own = free_address();
    let liar = Liar::start(peers([own, own])).await;
    let config = EngineConfig {
        listen: own,
        tracker: Some(liar.announce_url()),
        ..swarm.config(Role::Host { file: swarm.file("host") }, &[])
    };
    let mut host = FleetEngine.start(config).await.unwrap();
    let seed = swarm.seed().await;
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    assert_eq!(host.stats().borrow().peers, 1, "it is connected to itself");
    stop([host, seed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_peers_that_never_answer_take_a_bounded_number_of_connections() {
    // They accept, and that is all.
    let (open, (most, mut seen)) = (Arc::new(AtomicUsize::new(0)), watch::channel(0));
    let most = Arc::new(most);
    let mut tarpits = JoinSet::new();
    let mut addresses = Vec::new();
    for number in 0..200 {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 88, 0, number as u8 + 1), 0)).await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let (open, most) = (open.clone(), most.clone());
        tarpits.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let now = open.fetch_add(1, Ordering::Relaxed) + 1;
                most.send_modify(|most| *most = now.max(*most));
                let open = open.clone();
                tokio::spawn(async move {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    }
    let nowhere = (0..20_000u32).map(|number| SocketAddr::from((Ipv4Addr::from(0x7f63_0000 + number), 9)));
    let swarm = Swarm::new(300_000, 64 << 10).await;
    let mut liar = Liar::start(peers(addresses.iter().copied().chain(nowhere))).await;
    let config =
        EngineConfig { tracker: Some(liar.announce_url()), ..swarm.config(Role::Host { file: swarm.file("host") }, &[]) };
    let mut host = FleetEngine.start(config).await.unwrap();
    within("a second announce", liar.announces.wait_for(|times| *times > 1)).await.unwrap();
    // One in a hundred of them accepts.
    within("a dial", seen.wait_for(|most| *most > 0)).await.unwrap();
    let seed = swarm.seed().await;
    // However many dead ones wait for their turn, the controller's word comes first.
    host.add_peers(vec![seed.local_addr]).await;
    tokio::time::timeout(Duration::from_secs(8), complete(&mut host)).await.expect("the seed was dialled at once");
    let most = *seen.borrow();
    assert!(most <= 64, "{most} connections to peers that say nothing");
    stop([host, seed]).await;
}
