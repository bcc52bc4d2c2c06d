//! Whole engines on loopback.

mod distance;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use librqbit_core::hash_id::Id20;
use librqbit_peer_protocol::{Message, Request};
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::swarm::{
    Bounds, Engine as _, EngineConfig, EngineError, EngineHandle, FleetEngine, Metainfo, Reach, Role,
    policy::PieceSet,
    protocol::{self, HANDSHAKE_LEN},
};

const PATIENCE: Duration = Duration::from_secs(60);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An artifact of random bytes and its torrent.
struct Artifact {
    dir: TempDir,
    bytes: Vec<u8>,
    meta: Arc<Metainfo>,
    /// Where the seed listens, once it does: hosts that start later know it for the controller's.
    controller: OnceLock<SocketAddr>,
}

impl Artifact {
    fn new(size: usize, piece_length: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let mut bytes = vec![0; size];
        fastrand::Rng::with_seed(size as u64).fill(&mut bytes);
        std::fs::write(dir.path().join("artifact"), &bytes).unwrap();
        let pieces = bytes.chunks(piece_length as usize).map(|piece| Sha1::digest(piece).into()).collect();
        let meta = Metainfo::new("artifact", size as u64, piece_length, pieces).unwrap();
        Self { dir, bytes, meta: Arc::new(meta), controller: OnceLock::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, role: Role, peers: &[SocketAddr]) -> EngineConfig {
        EngineConfig {
            metainfo: self.meta.clone(),
            role,
            listen: loopback(),
            ports: None,
            advertise: None,
            peers: peers.to_vec(),
            place: None,
            controller_peers: self.controller.get().copied().into_iter().collect(),
            tracker: None,
            tls: None,
            bounds: Bounds::default(),
            origins: None,
        }
    }

    async fn seed(&self) -> EngineHandle {
        let role = Role::Seed { file: self.path("artifact") };
        let seed = FleetEngine.start(self.config(role, &[])).await.unwrap();
        self.controller.get_or_init(|| seed.local_addr);
        seed
    }

    async fn host(&self, name: &str, peers: &[SocketAddr]) -> EngineHandle {
        let role = Role::Host { file: self.path(name) };
        FleetEngine.start(self.config(role, peers)).await.unwrap()
    }

    fn assert_same(&self, path: &Path) {
        assert!(std::fs::read(path).unwrap() == self.bytes, "{} differs", path.display());
    }
}

async fn complete(host: &mut EngineHandle) {
    let done = timeout(PATIENCE, host.wait_complete()).await;
    done.unwrap_or_else(|_| panic!("not complete: {:?}", *host.stats().borrow())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_hosts_get_the_same_bytes_and_the_seed_gives_little_more_than_one_copy() {
    let artifact = Artifact::new(8 * 1024 * 1024 + 12345, 64 << 10);
    let seed = artifact.seed().await;
    let mut hosts = Vec::new();
    for number in 0..8 {
        let mut peers = vec![seed.local_addr];
        peers.extend(hosts.iter().map(|host: &EngineHandle| host.local_addr));
        hosts.push(artifact.host(&format!("host{number}"), &peers).await);
    }
    for host in &mut hosts {
        complete(host).await;
    }
    for (number, host) in hosts.into_iter().enumerate() {
        let stats = host.stats().borrow().clone();
        assert_eq!((stats.bytes.received(), stats.in_order), (artifact.meta.length(), artifact.meta.length()));
        host.stop().await;
        artifact.assert_same(&artifact.path(&format!("host{number}")));
    }
    let mut stats = seed.stats();
    seed.stop().await;
    let copies = stats.borrow_and_update().bytes.uploaded as f64 / artifact.meta.length() as f64;
    assert!(copies <= 1.5, "the seed gave {copies:.2} copies");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_the_seed_is_counted_to_the_last_byte_when_it_has_stopped() {
    // So small that everything is there before the seed's statistics come due.
    let artifact = Artifact::new(100_000, 64 << 10);
    let seed = artifact.seed().await;
    let mut host = artifact.host("host", &[seed.local_addr]).await;
    complete(&mut host).await;
    let stats = seed.stats();
    seed.stop().await;
    assert_eq!(stats.borrow().bytes.uploaded, artifact.meta.length());
    host.stop().await;
}

#[tokio::test]
async fn a_changed_source_is_an_error() {
    let artifact = Artifact::new(300_000, 64 << 10);
    let mut bytes = artifact.bytes.clone();
    bytes[200_000] ^= 1;
    std::fs::write(artifact.path("artifact"), &bytes).unwrap();
    let mut seed = artifact.seed().await;
    let host = artifact.host("host", &[seed.local_addr]).await;
    let error = timeout(PATIENCE, seed.failed()).await.unwrap();
    assert!(matches!(error, EngineError::SourceChanged { piece: 3, .. }), "{error:?}");
    host.stop().await;
}

#[test]
fn what_is_there_in_order_ends_at_the_first_gap() {
    let meta = Metainfo::new("a", 100_000, 16 << 10, vec![[0; 20]; 7]).unwrap();
    let mut have = PieceSet::new(7);
    assert_eq!(super::in_order(&have, &meta, 0), 0);
    for piece in [1, 3, 4, 5, 6] {
        have.insert(piece);
    }
    assert_eq!(super::in_order(&have, &meta, 0), 0);
    have.insert(0);
    assert_eq!(super::in_order(&have, &meta, 0), 2 * 16384);
    have.insert(2);
    assert_eq!(super::in_order(&have, &meta, 2 * 16384), 100_000);
    assert_eq!(super::in_order(&have, &meta, 100_000), 100_000);
}

/// A peer by hand, for saying what no engine would say.
struct Script {
    stream: TcpStream,
    meta: Arc<Metainfo>,
}

impl Script {
    /// Listens and gives the address; `Script::accept` takes the connection.
    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    async fn accept(listener: &TcpListener, artifact: &Artifact) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        Self::shake(stream, artifact).await
    }

    async fn dial(addr: SocketAddr, artifact: &Artifact) -> Self {
        Self::shake(TcpStream::connect(addr).await.unwrap(), artifact).await
    }

    async fn shake(stream: TcpStream, artifact: &Artifact) -> Self {
        Self::shake_as(stream, artifact, Id20::new(std::array::from_fn(|_| fastrand::u8(..)))).await
    }

    async fn shake_as(mut stream: TcpStream, artifact: &Artifact, id: Id20) -> Self {
        stream.write_all(&protocol::handshake(artifact.meta.info_hash(), id)).await.unwrap();
        let mut theirs = [0; HANDSHAKE_LEN];
        stream.read_exact(&mut theirs).await.unwrap();
        Self { stream, meta: artifact.meta.clone() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The engine may have hung up already: that is what most of these tests are about.
        let _ = self.stream.write_all(bytes).await;
    }

    async fn send_everything_bitfield(&mut self) {
        let mut out = Vec::new();
        protocol::write_bitfield(&PieceSet::full(self.meta.piece_count()), &mut out);
        protocol::write_message(&Message::Unchoke, &mut out);
        self.send(&out).await;
    }

    /// Reads one message: id and payload; none at the end.
    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let length = self.stream.read_u32().await.ok()?;
            if length == 0 {
                continue;
            }
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).await.ok()?;
            return Some((body[0], body.split_off(1)));
        }
    }

    /// Answers requests until the engine hangs up; `data` says with what. Returns how many.
    async fn serve(&mut self, data: impl Fn(u32, u32, u32) -> Vec<u8>) -> u32 {
        let mut served = 0;
        while let Some((id, payload)) = self.read().await {
            if id == 6 {
                let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                let (piece, begin, length) = (number(0), number(4), number(8));
                let mut out = protocol::piece_header(piece, begin, length).to_vec();
                out.extend(data(piece, begin, length));
                self.send(&out).await;
                served += 1;
            }
        }
        served
    }

    /// Waits until the engine hangs up.
    async fn assert_dropped(mut self, why: &str) {
        let end = timeout(PATIENCE, async { while self.read().await.is_some() {} });
        end.await.unwrap_or_else(|_| panic!("the connection stands after {why}"));
    }
}

#[tokio::test]
async fn a_half_download_is_resumed_and_damage_in_it_is_found() {
    let artifact = Artifact::new(1_000_000, 64 << 10);
    let mut half = artifact.bytes[..500_000].to_vec();
    half[100_000] ^= 0xff;
    std::fs::write(artifact.path("host"), &half).unwrap();
    let seed = artifact.seed().await;
    let mut host = artifact.host("host", &[seed.local_addr]).await;
    complete(&mut host).await;
    let bytes = host.stats().borrow().bytes;
    assert_eq!(bytes.from_disk, 6 * 65536, "seven whole pieces were there, one of them damaged");
    assert_eq!(bytes.from_controller, 1_000_000 - 6 * 65536);
    host.stop().await;
    artifact.assert_same(&artifact.path("host"));

    let mut again = artifact.host("host", &[]).await;
    complete(&mut again).await;
    assert_eq!(again.stats().borrow().bytes.from_disk, 1_000_000);
    again.stop().await;
    seed.stop().await;
}

#[tokio::test]
async fn pieces_of_many_chunks_arrive_in_bounded_memory() {
    let artifact = Artifact::new(9 << 20, 4 << 20);
    let seed = artifact.seed().await;
    let mut first = artifact.host("first", &[seed.local_addr]).await;
    let mut second = artifact.host("second", &[seed.local_addr, first.local_addr]).await;
    complete(&mut first).await;
    complete(&mut second).await;
    seed.stop().await;
    // Without the seed: request and serve long pieces among hosts.
    let mut third = artifact.host("third", &[first.local_addr, second.local_addr]).await;
    complete(&mut third).await;
    for (name, host) in [("first", first), ("second", second), ("third", third)] {
        host.stop().await;
        artifact.assert_same(&artifact.path(name));
    }
}

#[tokio::test]
async fn a_peer_that_sends_bad_pieces_is_banned_and_the_download_finishes() {
    let artifact = Artifact::new(2_000_000, 64 << 10);
    let (listener, liar) = Script::listen().await;
    let mut host = artifact.host("host", &[liar]).await;
    let mut script = Script::accept(&listener, &artifact).await;
    script.send_everything_bitfield().await;
    let served = timeout(PATIENCE, script.serve(|_, _, length| vec![0xbb; length as usize])).await;
    assert!(served.unwrap() > 0, "nothing was asked of the liar");
    let mut stats = host.stats();
    let payload = timeout(PATIENCE, stats.wait_for(|stats| stats.payload >= 16384)).await;
    assert_eq!(payload.unwrap().unwrap().pieces_done, 0, "payload counts unverified bytes, pieces do not");
    // It stays banned when it is told again; nobody connects to it while the honest seed delivers.
    host.add_peers(vec![liar]).await;
    let seed = artifact.seed().await;
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err(), "a banned peer was dialled");
    host.stop().await;
    seed.stop().await;
    artifact.assert_same(&artifact.path("host"));
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_dropped_and_the_download_finishes() {
    let artifact = Artifact::new(400_000, 64 << 10);
    let mut host = artifact.host("host", &[]).await;
    let stray = [&protocol::piece_header(0, 0, 16384)[..], &[0; 16384]].concat();
    let request = |piece: u32, begin: u32, length: u32| {
        let mut out = Vec::new();
        protocol::write_message(&Message::Request(Request::new(piece, begin, length)), &mut out);
        out
    };
    for (why, bytes) in [
        ("an endless message", vec![0xff; 64]),
        ("an oversize block", vec![0, 1, 0, 0, 7]),
        ("a short have", vec![0, 0, 0, 2, 4, 0]),
        ("a piece that does not exist", vec![0, 0, 0, 5, 4, 0, 0, 1, 0]),
        ("a bitfield of the wrong length", vec![0, 0, 0, 4, 5, 1, 1, 1]),
        ("a bitfield with a spare bit", vec![0, 0, 0, 2, 5, 1]),
        ("an extension handshake that is not bencode", vec![0, 0, 0, 4, 20, 0, b'd', b'x']),
        ("a message that ends early", vec![0, 0, 0, 9, 4]),
        ("blocks that nobody asked for", stray.repeat(300)),
    ] {
        let mut script = Script::dial(host.local_addr, &artifact).await;
        script.send(&bytes).await;
        script.stream.shutdown().await.ok();
        script.assert_dropped(why).await;
    }
    let seed = artifact.seed().await;
    for (why, bytes) in [
        ("a request beyond the piece", request(0, 65536, 16384)),
        ("a request of a huge block", request(0, 0, 65536)),
        ("an overflowing request", request(0, u32::MAX - 1, 16384)),
    ] {
        let mut script = Script::dial(seed.local_addr, &artifact).await;
        script.send(&bytes).await;
        script.assert_dropped(why).await;
    }
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    host.stop().await;
    seed.stop().await;
    artifact.assert_same(&artifact.path("host"));
}

#[tokio::test]
async fn another_torrent_and_garbage_get_no_answer() {
    let (artifact, other) = (Artifact::new(100_000, 64 << 10), Artifact::new(100_001, 64 << 10));
    let host = artifact.host("host", &[]).await;
    for hello in [protocol::handshake(other.meta.info_hash(), Id20::new([7; 20])), [b'x'; HANDSHAKE_LEN]] {
        let mut stream = TcpStream::connect(host.local_addr).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection stands");
        assert!(answer.is_empty(), "an answer to a stranger");
    }
    host.stop().await;
}

#[tokio::test]
async fn silent_connections_are_bounded_and_do_not_stop_a_download() {
    let artifact = Artifact::new(400_000, 64 << 10);
    let mut host = artifact.host("host", &[]).await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(host.local_addr).await.unwrap());
    }
    let seed = artifact.seed().await;
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    // Beyond the bound, connections are closed at once; the last ones are beyond it.
    let last = silent.last_mut().unwrap();
    assert_eq!(timeout(PATIENCE, last.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    host.stop().await;
    seed.stop().await;
}

#[tokio::test]
async fn connecting_to_oneself_or_twice_does_no_harm() {
    let artifact = Artifact::new(3_000_000, 64 << 10);
    let seed = artifact.seed().await;
    let mut a = artifact.host("a", &[seed.local_addr]).await;
    let mut b = artifact.host("b", &[seed.local_addr, a.local_addr]).await;
    a.add_peers(vec![a.local_addr, b.local_addr, seed.local_addr]).await;
    b.add_peers(vec![b.local_addr]).await;
    complete(&mut a).await;
    complete(&mut b).await;
    let mut stats = a.stats();
    // No longer than that: the engine cannot publish, nor stop, while somebody looks.
    let settled = timeout(PATIENCE, stats.wait_for(|stats| stats.peers == 2)).await.is_ok();
    assert!(settled, "{:?}", *a.stats().borrow());
    for engine in [a, b, seed] {
        engine.stop().await;
    }
}

/// Connects from an address where no host is.
async fn from_elsewhere(to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 77, 0, 1], 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Of two connections to or from this id a host would keep the one that it did not dial itself.
const LARGEST: [u8; 20] = *b"-FD9999-zzzzzzzzzzzz";

#[tokio::test]
async fn an_impostor_takes_no_neighbours_place() {
    let artifact = Artifact::new(400_000, 64 << 10);
    let (listener, addr) = Script::listen().await;
    let host = artifact.host("host", &[]).await;
    // One is there before the neighbour, one comes after it.
    let before = Script::shake_as(from_elsewhere(host.local_addr).await, &artifact, Id20::new(LARGEST)).await;
    host.add_peers(vec![addr]).await;
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut neighbour = Script::shake_as(stream, &artifact, Id20::new(LARGEST)).await;
    neighbour.send_everything_bitfield().await;
    before.assert_dropped("the neighbour that the controller chose came").await;
    let after = Script::shake_as(TcpStream::connect(host.local_addr).await.unwrap(), &artifact, Id20::new(LARGEST)).await;
    after.assert_dropped("its id was another's").await;
    let mut host = host;
    let bytes = |piece: u32, begin: u32, length: u32| {
        let start = (artifact.meta.piece_offset(piece) + u64::from(begin)) as usize;
        artifact.bytes[start..start + length as usize].to_vec()
    };
    tokio::select! {
        _ = neighbour.serve(bytes) => panic!("the neighbour was dropped"),
        () = complete(&mut host) => {}
    }
    host.stop().await;
}

#[tokio::test]
async fn after_stop_and_after_drop_nothing_listens() {
    let artifact = Artifact::new(100_000, 64 << 10);
    let stopped = artifact.seed().await;
    let addr = stopped.local_addr;
    let script = Script::dial(addr, &artifact).await;
    stopped.stop().await;
    assert!(TcpStream::connect(addr).await.is_err(), "the port is open after stop");
    script.assert_dropped("stop").await;

    let dropped = artifact.seed().await;
    let (addr, mut stats) = (dropped.local_addr, dropped.stats());
    drop(dropped);
    // The statistics end when everything else has.
    let ended = timeout(PATIENCE, async { while stats.changed().await.is_ok() {} }).await;
    assert!(ended.is_ok(), "the engine runs after its handle was dropped");
    assert!(TcpStream::connect(addr).await.is_err(), "the port is open after drop");
}

#[tokio::test]
async fn what_can_not_be_opened_is_an_error_with_its_path() {
    let artifact = Artifact::new(100_000, 64 << 10);
    let missing = artifact.config(Role::Seed { file: artifact.path("missing") }, &[]);
    let error = FleetEngine.start(missing).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    std::os::unix::fs::symlink(artifact.path("artifact"), artifact.path("link")).unwrap();
    let link = artifact.config(Role::Host { file: artifact.path("link") }, &[]);
    assert!(matches!(FleetEngine.start(link).await, Err(EngineError::Io { .. })), "a symlink was followed");
    std::fs::write(artifact.path("artifact"), "short").unwrap();
    let short = artifact.config(Role::Seed { file: artifact.path("artifact") }, &[]);
    assert!(matches!(FleetEngine.start(short).await, Err(EngineError::SourceChanged { .. })));
}

#[tokio::test]
async fn a_standard_client_downloads_but_is_never_pushed_to() {
    let artifact = Artifact::new(200_000, 64 << 10);
    let seed = artifact.seed().await;
    let mut client = Script::dial(seed.local_addr, &artifact).await;
    let (id, payload) = client.read().await.unwrap();
    assert_eq!((id, payload[0]), (20, 0), "the extension handshake comes first");
    let (id, payload) = client.read().await.unwrap();
    assert_eq!((id, payload), (5, vec![0xf0]), "then the bitfield");
    let mut out = Vec::new();
    protocol::write_message(&Message::Interested, &mut out);
    client.send(&out).await;
    assert_eq!(client.read().await.unwrap().0, 1, "then the unchoke, and no piece");
    let mut got = Vec::new();
    for piece in 0..artifact.meta.piece_count() {
        let size = artifact.meta.piece_size(piece).unwrap();
        for begin in (0..size).step_by(16384) {
            let mut out = Vec::new();
            let length = (size - begin).min(16384);
            protocol::write_message(&Message::Request(Request::new(piece, begin, length)), &mut out);
            client.send(&out).await;
            let (id, payload) = timeout(PATIENCE, client.read()).await.unwrap().unwrap();
            assert_eq!(id, 7);
            got.extend_from_slice(&payload[8..]);
        }
    }
    assert!(got == artifact.bytes);
    seed.stop().await;
}

/// A standard client says that it has every piece but the first, to the seed as well as to the host, and never sends one.
#[tokio::test]
async fn a_client_that_claims_what_it_never_sends_holds_nothing_back() {
    let artifact = Artifact::new(2_000_000, 64 << 10);
    let seed = artifact.seed().await;
    let mut claims = PieceSet::full(artifact.meta.piece_count());
    claims.remove(0);
    let mut lie = Vec::new();
    protocol::write_bitfield(&claims, &mut lie);
    protocol::write_message(&Message::Interested, &mut lie);
    protocol::write_message(&Message::Request(Request::new(0, 0, 16384)), &mut lie);
    let mut to_seed = Script::dial(seed.local_addr, &artifact).await;
    to_seed.send(&lie).await;
    while to_seed.read().await.expect("the seed hung up").0 != 7 {}
    // The seed has heard it all: it has answered what came after.
    let mut host = artifact.host("host", &[]).await;
    let mut to_host = Script::dial(host.local_addr, &artifact).await;
    to_host.send(&lie).await;
    while to_host.read().await.expect("the host hung up").0 != 2 {}
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    host.stop().await;
    seed.stop().await;
    artifact.assert_same(&artifact.path("host"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_to_the_controller_that_is_told_later_is_taken_and_counted() {
    let artifact = Artifact::new(3_000_000, 64 << 10);
    let seed = artifact.seed().await;
    // Where the controller is said to be, nobody listens.
    let nobody = TcpListener::bind(loopback()).await.unwrap().local_addr().unwrap();
    let role = Role::Host { file: artifact.path("host") };
    let config = EngineConfig { controller_peers: vec![nobody], ..artifact.config(role, &[nobody]) };
    let mut host = FleetEngine.start(config).await.unwrap();
    let mut stats = host.stats();
    let refused = stats.wait_for(|stats| matches!(stats.controller, Reach::Failed(_)));
    let refused = timeout(PATIENCE, refused).await.unwrap().unwrap().controller.clone();
    assert_eq!(refused, Reach::Failed(format!("{nobody}: connection refused")));
    host.add_way(seed.local_addr, None).await;
    complete(&mut host).await;
    let told = stats.borrow_and_update().clone();
    assert_eq!((told.bytes.from_ssh, told.bytes.received()), (artifact.meta.length(), artifact.meta.length()));
    assert_eq!(told.controller, Reach::Stands);
    host.stop().await;
    seed.stop().await;
    artifact.assert_same(&artifact.path("host"));
}
