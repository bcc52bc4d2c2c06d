//! Peers that do everything a peer must not: each [`Fault`] is one, made of raw bytes, with nothing of the code it attacks.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

/// A swarm as its attacker knows it: from the torrent.
#[derive(Debug, Clone)]
pub(crate) struct Torrent {
    pub(crate) info_hash: [u8; 20],
    pub(crate) length: u64,
    pub(crate) piece_length: u32,
}

impl Torrent {
    fn pieces(&self) -> u32 {
        self.length.div_ceil(self.piece_length.into()) as u32
    }

    pub(crate) fn handshake(&self) -> Vec<u8> {
        let mut bytes = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\0".to_vec();
        bytes.extend_from_slice(&self.info_hash);
        bytes.extend_from_slice(b"-EV0001-");
        bytes.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(12));
        bytes
    }

    /// Every piece there is.
    fn full_bitfield(&self) -> Vec<u8> {
        let mut bits = vec![0xff; self.pieces().div_ceil(8) as usize];
        let spare = (8 - self.pieces() % 8) % 8;
        *bits.last_mut().unwrap() <<= spare;
        message(5, &bits)
    }
}

/// What an attacker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    // Nothing, at each place where nothing can be said.
    Silence,
    HalfHandshake,
    SilenceAfterHandshake,
    HalfMessage,
    HalfBlock,
    NoAnswer,
    TakesNothing,
    // Bytes that are no BitTorrent, or not ours.
    Garbage,
    GarbageAfterHandshake,
    OtherTorrent,
    // Messages that break the rules.
    EndlessMessage,
    OversizeBlock,
    ShortHave,
    MissingPiece,
    LongBitfield,
    SpareBits,
    MalformedExtension,
    ImpossibleRequest,
    // Data nobody wants.
    UnaskedBlocks,
    FalsePushes,
    HalfPushes,
    BadData,
    // Allowed, and useless.
    Flapping,
}

/// How an attacker goes on when it has said what it had to say.
enum Conduct {
    /// Reads and forgets.
    Listen,
    /// Does not even read.
    Ignore,
    /// Answers requests for blocks with so many wrong bytes of each.
    Answer(fn(usize) -> usize),
}

impl Fault {
    pub(crate) const ALL: [Self; 23] = [
        Self::Silence,
        Self::HalfHandshake,
        Self::SilenceAfterHandshake,
        Self::HalfMessage,
        Self::HalfBlock,
        Self::NoAnswer,
        Self::TakesNothing,
        Self::Garbage,
        Self::GarbageAfterHandshake,
        Self::OtherTorrent,
        Self::EndlessMessage,
        Self::OversizeBlock,
        Self::ShortHave,
        Self::MissingPiece,
        Self::LongBitfield,
        Self::SpareBits,
        Self::MalformedExtension,
        Self::ImpossibleRequest,
        Self::UnaskedBlocks,
        Self::FalsePushes,
        Self::HalfPushes,
        Self::BadData,
        Self::Flapping,
    ];

    /// True if whoever does this to a host has to be dropped as soon as it is seen, and not only after a while.
    pub(crate) fn is_violation(self) -> bool {
        use Fault::*;
        match self {
            Silence
            | HalfHandshake
            | SilenceAfterHandshake
            | HalfMessage
            | HalfBlock
            | NoAnswer
            | TakesNothing
            | HalfPushes
            | Flapping => false,
            // A host that has nothing does not look at what is asked of it.
            ImpossibleRequest => false,
            Garbage
            | GarbageAfterHandshake
            | OtherTorrent
            | EndlessMessage
            | OversizeBlock
            | ShortHave
            | MissingPiece
            | LongBitfield
            | SpareBits
            | MalformedExtension
            | UnaskedBlocks
            | FalsePushes
            | BadData => true,
        }
    }

    /// What is sent at once, the handshake included, and what follows.
    fn lines(self, torrent: &Torrent) -> (Vec<u8>, Conduct) {
        let shake = torrent.handshake();
        let after = |bytes: &[u8]| [&shake[..], bytes].concat();
        let offer = || after(&[torrent.full_bitfield(), message(1, b"")].concat());
        let block = |piece: u32, begin: u32| [&piece.to_be_bytes()[..], &begin.to_be_bytes(), &[0xbb; 16384]].concat();
        let seed = || message(20, b"\0d7:fd_seedi1e1:md7:fd_pushi1eee");
        let listen = |bytes: Vec<u8>| (bytes, Conduct::Listen);
        match self {
            Self::Silence => listen(Vec::new()),
            Self::HalfHandshake => listen(shake[..30].to_vec()),
            Self::SilenceAfterHandshake => listen(shake),
            Self::HalfMessage => listen(after(&[0, 0, 0, 9, 4, 0])),
            Self::HalfBlock => (offer(), Conduct::Answer(|length| length / 2)),
            Self::NoAnswer => listen(offer()),
            Self::TakesNothing => (after(&[message(2, b""), everything(torrent)].concat()), Conduct::Ignore),
            Self::Garbage => listen(std::iter::repeat_with(|| fastrand::u8(..)).take(300).collect()),
            Self::GarbageAfterHandshake => {
                let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(128..)).take(1 << 16).collect();
                listen(after(&noise))
            }
            Self::OtherTorrent => listen(Torrent { info_hash: [7; 20], ..torrent.clone() }.handshake()),
            Self::EndlessMessage => listen(after(&[0xff; 64])),
            Self::OversizeBlock => listen(after(&[0, 1, 0, 0, 7])),
            Self::ShortHave => listen(after(&message(4, &[0]))),
            Self::MissingPiece => listen(after(&message(4, &torrent.pieces().to_be_bytes()))),
            Self::LongBitfield => listen(after(&message(5, &vec![0; torrent.pieces() as usize]))),
            Self::SpareBits => listen(after(&message(5, &vec![0xff; torrent.pieces().div_ceil(8) as usize]))),
            Self::MalformedExtension => listen(after(&message(20, b"\0d1:mdx"))),
            Self::ImpossibleRequest => listen(after(&request(0, torrent.piece_length, 16384))),
            Self::UnaskedBlocks => listen(after(&message(7, &block(0, 0)).repeat(300))),
            Self::FalsePushes => {
                let begins = (0..torrent.piece_length).step_by(16384);
                let blocks = (0..torrent.pieces()).flat_map(|piece| begins.clone().map(move |begin| (piece, begin)));
                // More than once: what is refused is forgiven once.
                let pushes = blocks.clone().cycle().take(blocks.count() + 300);
                let pushes = pushes.flat_map(|(piece, begin)| message(7, &block(piece, begin)));
                listen(after(&seed().into_iter().chain(pushes).collect::<Vec<_>>()))
            }
            Self::HalfPushes => {
                let pushes = (0..torrent.pieces()).flat_map(|piece| message(7, &block(piece, 0)));
                listen(after(&seed().into_iter().chain(pushes).collect::<Vec<_>>()))
            }
            Self::BadData => (offer(), Conduct::Answer(|length| length)),
            Self::Flapping => {
                listen(after(&[message(1, b""), message(0, b""), message(2, b""), message(3, b"")].concat().repeat(5000)))
            }
        }
    }
}

/// A message with its length.
pub(crate) fn message(id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32 + 1).to_be_bytes().to_vec();
    bytes.push(id);
    bytes.extend_from_slice(payload);
    bytes
}

/// A request for a block.
pub(crate) fn request(piece: u32, begin: u32, length: u32) -> Vec<u8> {
    message(6, &[piece.to_be_bytes(), begin.to_be_bytes(), length.to_be_bytes()].concat())
}

/// Requests for as much as may be asked for at once.
fn everything(torrent: &Torrent) -> Vec<u8> {
    let full = torrent.length / u64::from(torrent.piece_length);
    let blocks = (0..full as u32).flat_map(|piece| (0..torrent.piece_length).step_by(16384).map(move |begin| (piece, begin)));
    blocks.take(2000).flat_map(|(piece, begin)| request(piece, begin, 16384)).collect()
}

/// Connects from an address of this machine.
pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Does it once. Returns when the other end has hung up.
pub(crate) async fn attack(fault: Fault, torrent: &Torrent, from: Ipv4Addr, to: SocketAddr) {
    // Whoever refuses the connection has hung up as well.
    if let Ok(stream) = connect(from, to).await {
        act(fault, torrent, stream).await;
    }
}

/// Does it to a connection.
pub(crate) async fn act(fault: Fault, torrent: &Torrent, stream: TcpStream) {
    let (bytes, conduct) = fault.lines(torrent);
    let (mut input, mut output) = stream.into_split();
    // To write and to read at once keeps neither waiting for the other.
    let say = async {
        let _ = output.write_all(&bytes).await;
        output
    };
    match conduct {
        Conduct::Ignore => {
            let _output = say.await;
            std::future::pending().await
        }
        Conduct::Listen => {
            let mut nowhere = tokio::io::sink();
            let (_output, _) = tokio::join!(say, tokio::io::copy(&mut input, &mut nowhere));
        }
        Conduct::Answer(part) => {
            let mut output = say.await;
            if input.read_exact(&mut [0; 68]).await.is_err() {
                return;
            }
            while let Ok(Some((id, payload))) = read_message(&mut input).await {
                if id == 6 {
                    let length = u32::from_be_bytes(payload[8..12].try_into().unwrap()) as usize;
                    let answer = message(7, &[&payload[..8], &vec![0xbb; length]].concat());
                    let sent = 13 + part(length);
                    // The engine may have hung up.
                    let _ = output.write_all(&answer[..sent]).await;
                    if sent < answer.len() {
                        let _ = tokio::io::copy(&mut input, &mut tokio::io::sink()).await;
                        return;
                    }
                }
            }
        }
    }
}

/// Reads a message that is not a keep-alive; none at the end.
pub(crate) async fn read_message(input: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Option<(u8, Vec<u8>)>> {
    loop {
        let length = match input.read_u32().await {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        if length > 0 {
            let mut body = vec![0; length as usize];
            input.read_exact(&mut body).await?;
            return Ok(Some((body[0], body.split_off(1))));
        }
    }
}

/// Attackers that come back as soon as they are dropped, until this is dropped.
#[derive(Default)]
pub(crate) struct Siege {
    attackers: JoinSet<()>,
}

impl Siege {
    /// Lets one more attacker do that to `to` again and again.
    pub(crate) fn add(&mut self, fault: Fault, torrent: &Torrent, from: Ipv4Addr, to: SocketAddr) {
        let torrent = torrent.clone();
        self.attackers.spawn(async move {
            loop {
                attack(fault, &torrent, from, to).await;
                // A breath, so that attackers do not take the processor away from whom they attack.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// Lets an attacker do that to whoever connects to it. Returns where.
    pub(crate) async fn lie_in_wait(&mut self, fault: Fault, torrent: &Torrent, at: Ipv4Addr) -> SocketAddr {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let torrent = torrent.clone();
        self.attackers.spawn(async move {
            let mut victims = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let torrent = torrent.clone();
                victims.spawn(async move { act(fault, &torrent, stream).await });
            }
        });
        address
    }
}

/// Returns the nth of many addresses of this machine that no test gives to a host.
pub(crate) fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, (number >> 8) as u8, (number & 0xff) as u8 | 1)
}
