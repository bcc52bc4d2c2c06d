//! Random conversations of a scripted peer with a host and with a seed: neither panics, believes wrong data or sends any, and the
//! host completes from the honest seed afterwards.

use std::{net::Ipv4Addr, time::Duration};

use fleetdrop::swarm::EngineHandle;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::OwnedReadHalf,
};

use crate::{
    attacker::{connect, message, request},
    swarm::{PATIENCE, Swarm, complete, stop},
};

const PIECE: u32 = 64 << 10;
const LENGTH: usize = 3 * PIECE as usize + 5000;

/// Something the scripted peer says.
#[derive(Debug, Clone)]
enum Move {
    /// A message without payload.
    Bare(u8),
    Have(u32),
    Bitfield(Vec<u8>),
    Request(u32, u32, u32),
    Cancel(u32, u32, u32),
    /// A block, right or not, asked for or not.
    Block {
        piece: u32,
        begin: u32,
        length: u32,
        right: bool,
    },
    /// Everything of a piece that was asked for so far, right or not, is answered.
    Answer {
        right: bool,
    },
    Extended(u8, String),
    Other(u8, Vec<u8>),
    Raw(Vec<u8>),
    /// The next bytes come in another packet.
    Pause,
}

fn any_move() -> impl Strategy<Value = Move> {
    // Mostly of the torrent, sometimes beyond it.
    let piece = || prop_oneof![8 => 0u32..4, 1 => 4u32..6, 1 => any::<u32>()];
    let begin = || prop_oneof![8 => (0u32..5).prop_map(|block| block * 16384), 1 => 0u32..70_000, 1 => any::<u32>()];
    let length = || prop_oneof![8 => Just(16384u32), 2 => Just(5000), 1 => 0u32..20_000, 1 => any::<u32>()];
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        4 => (0u8..4).prop_map(Move::Bare),
        3 => piece().prop_map(Move::Have),
        2 => prop_oneof![Just(vec![0xf0]), Just(vec![0x50]), bytes(3)].prop_map(Move::Bitfield),
        3 => (piece(), begin(), length()).prop_map(|(piece, begin, length)| Move::Request(piece, begin, length)),
        2 => (piece(), begin(), length()).prop_map(|(piece, begin, length)| Move::Cancel(piece, begin, length)),
        3 => (piece(), begin(), 0u32..16385, any::<bool>())
            .prop_map(|(piece, begin, length, right)| Move::Block { piece, begin, length, right }),
        4 => any::<bool>().prop_map(|right| Move::Answer { right }),
        2 => (any::<u8>(), "(d(7:fd_seedi1e)?(1:md7:fd_pushi1ee)?(1:pi[0-9]{1,6}e)?(4:reqqi-?[0-9]{1,12}e)?e|[dlie0-9:]{0,9})")
            .prop_map(|(id, text)| Move::Extended(if id < 200 { 0 } else { id }, text)),
        1 => (8u8.., bytes(200)).prop_map(|(id, payload)| Move::Other(id, payload)),
        1 => bytes(40).prop_map(Move::Raw),
        2 => Just(Move::Pause),
    ]
}

impl Move {
    fn bytes(&self, content: &[u8]) -> Vec<u8> {
        let triple = |a: u32, b: u32, c: u32| [a.to_be_bytes(), b.to_be_bytes(), c.to_be_bytes()].concat();
        match self {
            Self::Bare(id) => message(*id, b""),
            Self::Have(piece) => message(4, &piece.to_be_bytes()),
            Self::Bitfield(bits) => message(5, bits),
            Self::Request(piece, begin, length) => request(*piece, *begin, *length),
            Self::Cancel(piece, begin, length) => message(8, &triple(*piece, *begin, *length)),
            Self::Block { piece, begin, length, right } => block(content, *piece, *begin, *length, *right),
            Self::Extended(id, text) => message(20, &[&[*id], text.as_bytes()].concat()),
            Self::Other(id, payload) => message(*id, payload),
            Self::Raw(bytes) => bytes.clone(),
            Self::Answer { .. } | Self::Pause => Vec::new(),
        }
    }
}

/// Returns what the torrent has there, as far as it has anything.
fn truth(content: &[u8], piece: u32, begin: u32, length: u32) -> &[u8] {
    let start = u64::from(piece) * u64::from(PIECE) + u64::from(begin);
    let range = start.min(content.len() as u64) as usize..(start + u64::from(length)).min(content.len() as u64) as usize;
    &content[range]
}

fn block(content: &[u8], piece: u32, begin: u32, length: u32, right: bool) -> Vec<u8> {
    let mut data = truth(content, piece, begin, length).to_vec();
    data.resize(length as usize, 0);
    if !right && let Some(byte) = data.first_mut() {
        *byte ^= 1;
    }
    message(7, &[&piece.to_be_bytes()[..], &begin.to_be_bytes(), &data].concat())
}

/// Plays the moves to an engine, and checks that what it sends is true.
async fn play(swarm: &Swarm, moves: &[Move], engine: &EngineHandle) {
    let mut stream = connect(Ipv4Addr::LOCALHOST, engine.local_addr).await.unwrap();
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\0".to_vec();
    hello.extend_from_slice(&swarm.metainfo.info_hash().0);
    hello.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(20));
    stream.write_all(&hello).await.unwrap();
    stream.read_exact(&mut [0; 68]).await.unwrap();
    let (input, mut output) = stream.into_split();
    let mut ears = Ears { input, heard: Vec::new(), content: &swarm.content };
    for step in moves {
        let mut bytes = step.bytes(&swarm.content);
        if let Move::Answer { right } = step {
            for (piece, begin, length) in ears.requests().await {
                bytes.extend(block(&swarm.content, piece, begin, length, *right));
            }
        }
        if matches!(step, Move::Pause) {
            tokio::task::yield_now().await;
        }
        if output.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = output.shutdown().await;
    // The engine sees the end of what was said, and hangs up.
    tokio::time::timeout(PATIENCE, async { while ears.hear().await {} }).await.expect("it hangs up");
}

/// What comes from an engine.
struct Ears<'a> {
    input: OwnedReadHalf,
    heard: Vec<u8>,
    content: &'a [u8],
}

impl Ears<'_> {
    /// Takes in what comes next; false at the end. Nothing is lost if it is dropped.
    async fn hear(&mut self) -> bool {
        matches!(self.input.read_buf(&mut self.heard).await, Ok(1..))
    }

    /// Returns the requests that come soon: a scripted peer can't know whether another is on its way.
    async fn requests(&mut self) -> Vec<(u32, u32, u32)> {
        while matches!(tokio::time::timeout(Duration::from_millis(5), self.hear()).await, Ok(true)) {}
        let mut requests = Vec::new();
        while let Some((length, rest)) = self.heard.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if rest.len() < length {
                break;
            }
            requests.extend(self.request(&rest[..length]));
            self.heard.drain(..4 + length);
        }
        requests
    }

    /// Checks the block in a message; returns the request in it.
    fn request(&self, message: &[u8]) -> Option<(u32, u32, u32)> {
        let number = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        match message.first()? {
            7 => {
                let (piece, begin, data) = (number(1), number(5), &message[9..]);
                assert!(data == truth(self.content, piece, begin, data.len() as u32), "wrong data for {piece} at {begin}");
                None
            }
            6 => Some((number(1), number(5), number(9))),
            _ => None,
        }
    }
}

async fn converse(moves: &[Move]) {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let (mut host, seed) = (swarm.host("host", &[]).await, swarm.seed().await);
    tokio::join!(play(&swarm, moves, &host), play(&swarm, moves, &seed));
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    swarm.assert_same("host");
    assert!(host.stats().borrow().bytes.received() <= swarm.metainfo.length());
    stop([host, seed]).await;
    swarm.tracker.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_conversation_does_harm(moves in prop::collection::vec(any_move(), 0..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(converse(&moves));
    }
}

#[tokio::test]
async fn a_peer_that_answers_rightly_delivers_everything() {
    // The same script can also be an honest peer; otherwise the property above could hold for a deaf engine.
    let mut moves = vec![Move::Bitfield(vec![0xf0]), Move::Bare(1)];
    moves.extend(std::iter::repeat_n(Move::Answer { right: true }, 10_000));
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let mut host = swarm.host("host", &[]).await;
    let mut stats = host.stats();
    tokio::select! {
        () = play(&swarm, &moves, &host) => panic!("the script ended first"),
        done = tokio::time::timeout(PATIENCE, stats.wait_for(|stats| stats.complete)) => drop(done.unwrap().unwrap()),
    }
    host.wait_complete().await.unwrap();
    swarm.assert_same("host");
    host.stop().await;
}
