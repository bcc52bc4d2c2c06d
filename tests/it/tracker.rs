//! The tracker over real sockets: what it answers, whom it refuses, what it puts up with.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use fleetdrop::{
    swarm::{AnnounceConfig, AnnounceProgress, Announcer},
    tracker::{Tracker, TrackerConfig, TrackerCounts, TrackerKey},
};
use librqbit_core::hash_id::Id20;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const KEY: &str = "07070707070707070707070707070707";
const HASH: &str = "%00%01%02%03%04%05%06%07%08%09%0a%0b%0c%0d%0e%0f%f0%f1%f2%ff";

/// What [`HASH`] encodes.
fn info_hash() -> Id20 {
    let mut hash: [u8; 20] = std::array::from_fn(|at| at as u8);
    hash[16..].copy_from_slice(&[0xf0, 0xf1, 0xf2, 0xff]);
    Id20::new(hash)
}

async fn start(listen: IpAddr, max_peers: usize) -> Tracker {
    Tracker::start(TrackerConfig {
        listen: SocketAddr::new(listen, 0),
        info_hash: info_hash(),
        key: TrackerKey::from_bytes([7; 16]),
        interval: Duration::from_secs(30),
        max_peers,
        tls: None,
        ports: None,
    })
    .await
    .unwrap()
}

fn announce(peer: u8, port: u16, rest: &str) -> String {
    format!("/{KEY}/announce?info_hash={HASH}&peer_id=-XX0001-0000000000%{peer:02x}x&port={port}&left=1{rest}")
}

/// Sends a request from `source` and returns the status and the body.
async fn request(tracker: &Tracker, method: &str, target: &str, source: IpAddr) -> (u16, Vec<u8>) {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let to =
        SocketAddr::new(if source.is_ipv4() { LOCALHOST } else { Ipv6Addr::LOCALHOST.into() }, tracker.local_addr().port());
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    answer(&mut stream).await
}

async fn get(tracker: &Tracker, target: &str) -> (u16, Vec<u8>) {
    request(tracker, "GET", target, LOCALHOST).await
}

/// Reads an answer up to the end of the connection.
async fn answer(stream: &mut TcpStream) -> (u16, Vec<u8>) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a complete head") + 4;
    let status = std::str::from_utf8(&bytes[9..12]).unwrap().parse().unwrap();
    (status, bytes.split_off(head))
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[track_caller]
fn assert_refused((status, body): (u16, Vec<u8>), reason: &str) {
    let expected = format!("d14:failure reason{}:{reason}e", reason.len());
    assert_eq!((status, String::from_utf8_lossy(&body).as_ref()), (200, expected.as_str()));
}

#[tokio::test]
async fn peers_find_each_other_and_leave() {
    let tracker = start(LOCALHOST, 10).await;
    let (status, first) = get(&tracker, &announce(1, 0x1234, "&event=started")).await;
    assert_eq!(status, 200);
    assert!(contains(&first, b"5:peers0:e"), "{}", first.escape_ascii());
    let (_, second) = get(&tracker, &announce(2, 0x5678, "&event=started&compact=1")).await;
    assert!(contains(&second, b"5:peers6:\x7f\0\0\x01\x12\x34"), "{}", second.escape_ascii());
    let (_, list) = get(&tracker, &announce(2, 0x5678, "&compact=0")).await;
    assert!(contains(&list, b"5:peersld2:ip9:127.0.0.17:peer id20:-XX0001-0000000000\x01x4:porti4660eee"));
    assert_eq!(tracker.counts(), TrackerCounts { complete: 0, incomplete: 2, downloaded: 0 });

    let done = announce(2, 0x5678, "&event=completed").replace("left=1", "left=0");
    get(&tracker, &done).await;
    get(&tracker, &announce(1, 0x1234, "&event=stopped")).await;
    let (_, scrape) = get(&tracker, &format!("/{KEY}/scrape?info_hash={HASH}")).await;
    assert!(contains(&scrape, b"d8:completei1e10:downloadedi1e10:incompletei0ee"), "{}", scrape.escape_ascii());
    assert_eq!(get(&tracker, &format!("/{KEY}/scrape?info_hash=01234567890123456789")).await.1, b"d5:filesdee");
    tracker.stop().await;
}

#[tokio::test]
async fn both_address_families_are_listed_as_what_they_are() {
    let tracker = start(Ipv6Addr::UNSPECIFIED.into(), 10).await;
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
    request(&tracker, "GET", &announce(1, 0x0101, ""), LOCALHOST).await;
    request(&tracker, "GET", &announce(2, 0x0202, ""), v6).await;
    let (_, body) = request(&tracker, "GET", &announce(3, 0x0303, ""), v6).await;
    assert!(contains(&body, b"5:peers6:\x7f\0\0\x01\x01\x01"), "{}", body.escape_ascii());
    assert!(contains(&body, b"6:peers618:\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x02"), "{}", body.escape_ascii());
    assert_eq!(tracker.announce_url(v6), format!("http://[::1]:{}/{KEY}/announce", tracker.local_addr().port()));
    tracker.stop().await;
}

#[tokio::test]
async fn without_the_key_there_is_nothing_to_see() {
    let tracker = start(LOCALHOST, 10).await;
    let wrong = format!("{}8", &KEY[..31]);
    let good = announce(1, 1, "");
    let key_only = format!("/{KEY}");
    let unknown = format!("/{KEY}/file");
    let deeper = good.replace("/announce", "/announce/more");
    for target in ["/", "/announce", "/scrape", "//announce", &key_only, &unknown, &deeper, &good.replace(KEY, &wrong)] {
        assert_eq!(get(&tracker, target).await, (404, vec![]), "{target}");
    }
    assert_eq!(request(&tracker, "POST", &good.replace(KEY, &wrong), LOCALHOST).await, (404, vec![]));
    assert_eq!(request(&tracker, "POST", &good, LOCALHOST).await, (405, vec![]));
    assert_eq!(tracker.counts(), TrackerCounts::default());
    tracker.stop().await;
}

#[tokio::test]
async fn a_wrong_announce_is_told_why() {
    let tracker = start(LOCALHOST, 1).await;
    let good = announce(1, 6881, "");
    assert_refused(get(&tracker, &good.replace("%00%01", "%00%00")).await, "unknown info_hash");
    assert_refused(get(&tracker, &good.replace("%00%01", "%01")).await, "invalid info_hash");
    for port in ["0", "65536", "-1", "x", ""] {
        assert_refused(get(&tracker, &good.replace("port=6881", &format!("port={port}"))).await, "invalid port");
    }
    assert_refused(get(&tracker, &good.replace("&port=6881", "")).await, "missing port");
    assert_refused(get(&tracker, &format!("{good}&x={}", "y".repeat(3000))).await, "query too long");
    assert_eq!(tracker.counts(), TrackerCounts::default());
    get(&tracker, &good).await;
    assert_refused(get(&tracker, &announce(2, 6882, "")).await, "too many peers");
    tracker.stop().await;
}

#[tokio::test]
async fn a_claimed_address_counts_only_if_the_controller_vouches_for_it() {
    let tracker = start(LOCALHOST, 10).await;
    get(&tracker, &announce(1, 0x0101, "&ip=203.0.113.9")).await;
    let (_, body) = get(&tracker, &announce(2, 0x0202, "")).await;
    assert!(contains(&body, b"5:peers6:\x7f\0\0\x01\x01\x01"), "{}", body.escape_ascii());
    tracker.allow_address("198.51.100.7".parse().unwrap(), None);
    get(&tracker, &announce(3, 0x0303, "&ip=198.51.100.7")).await;
    let (_, body) = get(&tracker, &announce(2, 0x0202, "")).await;
    assert!(contains(&body, b"\xc6\x33\x64\x07\x03\x03"), "{}", body.escape_ascii());
    tracker.stop().await;
}

#[tokio::test]
async fn the_controllers_seed_is_listed_without_an_announce() {
    let tracker = start(LOCALHOST, 10).await;
    tracker.add_seed("198.51.100.1:258".parse().unwrap());
    let (_, body) = get(&tracker, &announce(1, 1, "")).await;
    assert!(contains(&body, b"5:peers6:\xc6\x33\x64\x01\x01\x02"), "{}", body.escape_ascii());
    assert_eq!(tracker.counts(), TrackerCounts { complete: 1, incomplete: 1, downloaded: 0 });
    tracker.stop().await;
}

#[tokio::test]
async fn an_address_that_asks_without_end_is_refused_alone() {
    let tracker = start(LOCALHOST, 1).await;
    let scrape = format!("/{KEY}/scrape");
    let mut answered = 0;
    while get(&tracker, &scrape).await.0 == 200 {
        answered += 1;
        assert!(answered < 1000, "no limit");
    }
    assert!(answered >= 64, "{answered}");
    assert_eq!(get(&tracker, &scrape).await, (429, vec![]));
    assert_eq!(request(&tracker, "GET", &scrape, Ipv4Addr::new(127, 0, 0, 9).into()).await.0, 200);
    tracker.stop().await;
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let tracker = start(LOCALHOST, 10).await;
    let mut stream = TcpStream::connect(tracker.local_addr()).await.unwrap();
    let _ = stream.write_all(format!("GET /{KEY}/scrape HTTP/1.1\r\nX: {}", "y".repeat(64 << 10)).as_bytes()).await;
    let mut bytes = Vec::new();
    // Closing with unread input resets the connection, which may overtake the answer.
    let _ = stream.read_to_end(&mut bytes).await;
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 431"), "{}", bytes.escape_ascii());
    let (status, _) = get(&tracker, &format!("/{KEY}/scrape")).await;
    assert_eq!(status, 200);
    tracker.stop().await;
}

/// The clock is paused: it jumps ahead whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn slow_clients_are_cut_off_and_hold_only_their_own_addresss_share() {
    let tracker = start(LOCALHOST, 10).await;
    let began = tokio::time::Instant::now();
    let mut slow = TcpStream::connect(tracker.local_addr()).await.unwrap();
    slow.write_all(b"GET / HT").await.unwrap();
    let mut bytes = Vec::new();
    let _ = slow.read_to_end(&mut bytes).await;
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());

    // Dripping bytes does not help either.
    let began = tokio::time::Instant::now();
    let mut drip = TcpStream::connect(tracker.local_addr()).await.unwrap();
    while drip.write_all(b"G").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(60), "still connected");
    }
    tracker.stop().await;
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let tracker = start(LOCALHOST, 10).await;
    let mut hogs = Vec::new();
    for _ in 0..600 {
        hogs.push(TcpStream::connect(tracker.local_addr()).await.unwrap());
    }
    let other = Ipv4Addr::new(127, 0, 0, 9).into();
    assert_eq!(request(&tracker, "GET", &format!("/{KEY}/scrape"), other).await.0, 200);
    tracker.stop().await;
    for mut hog in hogs {
        let mut byte = [0];
        assert!(matches!(hog.read(&mut byte).await, Ok(0) | Err(_)), "a connection outlived the tracker");
    }
}

#[tokio::test]
async fn a_stopped_tracker_is_gone() {
    let tracker = start(LOCALHOST, 10).await;
    let address = tracker.local_addr();
    let idle = TcpStream::connect(address).await.unwrap();
    tracker.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    drop(idle);
    let taken = tokio::net::TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let config = TrackerConfig {
        listen: taken.local_addr().unwrap(),
        info_hash: Id20::new([0; 20]),
        key: TrackerKey::random().unwrap(),
        interval: Duration::from_secs(30),
        max_peers: 1,
        tls: None,
        ports: None,
    };
    let error = Tracker::start(config).await.unwrap_err();
    assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
}

/// Starts the engine's announce client against `tracker`.
fn announcer(
    tracker: &Tracker,
    id: u8,
    left: u64,
) -> (tokio::task::JoinHandle<()>, watch::Sender<AnnounceProgress>, CancellationToken, mpsc::Receiver<Vec<SocketAddr>>) {
    let config = AnnounceConfig {
        url: tracker.announce_url(LOCALHOST),
        tls: None,
        info_hash: info_hash(),
        peer_id: Id20::new([id; 20]),
        port: 1000 + u16::from(id),
        advertise: None,
    };
    let (progress, progress_rx) = watch::channel(AnnounceProgress { left, ..AnnounceProgress::default() });
    let (stop, (peers, peers_rx)) = (CancellationToken::new(), mpsc::channel(4));
    let task = tokio::spawn(Announcer::new(config).unwrap().run(progress_rx, stop.clone(), peers));
    (task, progress, stop, peers_rx)
}

#[tokio::test]
async fn our_own_client_and_tracker_understand_each_other() {
    let tracker = start(LOCALHOST, 10).await;
    tracker.add_seed("127.0.0.1:999".parse().unwrap());
    let (one, one_progress, one_stop, mut one_peers) = announcer(&tracker, 0xfe, 7);
    assert_eq!(one_peers.recv().await.unwrap(), ["127.0.0.1:999".parse().unwrap()]);
    let (two, _two_progress, two_stop, mut two_peers) = announcer(&tracker, 0x26, 7);
    let mut found = two_peers.recv().await.unwrap();
    found.sort();
    assert_eq!(found, ["127.0.0.1:999".parse().unwrap(), "127.0.0.1:1254".parse().unwrap()]);
    one_progress.send_replace(AnnounceProgress { left: 0, ..AnnounceProgress::default() });
    // The answer to `completed` brings who is left.
    assert_eq!(one_peers.recv().await.unwrap(), ["127.0.0.1:1038".parse().unwrap()]);
    assert_eq!(tracker.counts(), TrackerCounts { complete: 2, incomplete: 1, downloaded: 1 });
    one_stop.cancel();
    two_stop.cancel();
    one.await.unwrap();
    two.await.unwrap();
    assert_eq!(tracker.counts(), TrackerCounts { complete: 1, incomplete: 0, downloaded: 1 });
    tracker.stop().await;
}
