//! One connection to one peer: handshake, then a reader and a writer in the same task.
//!
//! Reader and writer share [`Link`]: which pieces are being asked for and which blocks the peer asked for. Both are bounded by
//! the policy and by the limits in `protocol`. What matters to the engine goes to the session as [`Event`]s; what the session
//! wants comes as [`Command`]s. The task ends when the peer closes, breaks the protocol or is too slow, and when the session
//! drops its end of the commands; the session joins it.

mod assembly;
mod link;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use librqbit_core::hash_id::Id20;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    Bounds, EngineError, Metainfo, Tls,
    origin::OriginEvent,
    policy::{PeerKey, PieceSet, pace::Pace},
    protocol::{self, Extensions, HANDSHAKE_LEN, Violation},
    storage::{Checked, Storage},
    transport::{self, Stream, Whom},
};
use crate::model::Place;
pub(super) use link::Link;

/// Both BitTorrent handshakes must be through within this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence; peers send keep-alives every two minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// A message that has begun must be complete within this, and a write must move.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Our own keep-alives.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Commands that may wait for a writer; a peer that lets more pile up is dropped.
pub(super) const COMMANDS: usize = 256;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Exit {
    /// The peer or the network closed it.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The other end is no peer of this swarm, or offers an encrypted handshake first, as standard clients do: nothing to ban for.
    #[error(transparent)]
    Stranger(Violation),
    /// The peer broke the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The peer was too slow.
    #[error("it was too slow: {0}")]
    Timeout(&'static str),
    /// The session refused it or let it go.
    #[error("it was let go")]
    Dropped,
    /// Our own storage failed; nobody's fault.
    #[error("our storage failed")]
    Engine(#[source] EngineError),
}

impl Exit {
    /// Returns why there is no connection, for an operator.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => "it closes connections at once".to_owned(),
            Self::Io(error) => {
                let text = error.to_string();
                text.split(" (os error").next().unwrap_or_default().to_lowercase()
            }
            Self::Timeout(_) => "no answer".to_owned(),
            other => other.to_string(),
        }
    }
}

/// What a connection tells the session.
#[derive(Debug)]
pub(super) enum Event {
    /// The handshake is through; the session answers with what to send first, or drops the answer to refuse.
    Shaken { peer_id: Id20, reply: oneshot::Sender<Welcome> },
    /// The peer's first message came: what it can is known, and how long it took to answer.
    Joined(Extensions, Duration),
    /// Its pieces.
    Bitfield(Box<PieceSet>),
    /// More of its pieces.
    Have(Vec<u32>),
    /// It chokes or unchokes us.
    Chokes(bool),
    /// It asks for blocks of a piece.
    Requested(u32),
    /// It asks for no more blocks of a piece.
    Cancelled(u32),
    /// Blocks of a piece we asked for arrive.
    Progress(u32),
    /// The first block of a piece we did not ask for came from the seed.
    Pushed(u32),
    /// A piece's last block came.
    Received(u32),
    /// A received piece is checked.
    Checked(u32, Checked),
    /// A [`Command::Send`] is done.
    Sent(u32),
    /// An origin tells something: not a connection's event, but in order with those that come of its pieces.
    Origin(OriginEvent),
}

/// What the session answers to a handshake.
#[derive(Debug)]
pub(super) struct Welcome {
    /// The pieces we have.
    pub(super) have: PieceSet,
    /// Where the list of later ones begins.
    pub(super) cursor: usize,
    /// Where the commands come from.
    pub(super) commands: mpsc::Receiver<Command>,
}

/// What the session wants of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    /// Ask for a piece.
    Request(u32),
    /// Take a request or a push back.
    Cancel(u32),
    /// Send the blocks the peer asked for; all of the piece if it is a push.
    Send { piece: u32, push: bool },
    /// Let the peer ask.
    Unchoke,
    /// Tell the peer whether we would ask.
    Interested(bool),
}

/// The pieces verified since the engine's start, in order. Every connection announces them at its own pace, so a slow peer
/// needs no queue.
#[derive(Debug)]
pub(super) struct HaveLog {
    started: Instant,
    pieces: Mutex<(Vec<u32>, Pace)>,
    length: watch::Sender<usize>,
    /// Microseconds that an announcement waits for others.
    pause: AtomicU64,
}

impl HaveLog {
    /// Returns the empty log of a transfer of that many pieces.
    pub(super) fn new(pieces: u32) -> Self {
        Self {
            started: Instant::now(),
            pieces: Mutex::new((Vec::new(), Pace::new(pieces))),
            length: watch::Sender::new(0),
            pause: AtomicU64::new(0),
        }
    }

    /// Adds a piece and wakes the connections.
    pub(super) fn push(&self, piece: u32) {
        let length = {
            let (pieces, pace) = &mut *super::storage::lock(&self.pieces);
            pieces.push(piece);
            let pause = pace.verified(self.started.elapsed());
            self.pause.store(pause.as_micros() as u64, Ordering::Relaxed);
            pieces.len()
        };
        self.length.send_replace(length);
    }

    /// Returns how long announcements wait for others.
    fn pause(&self) -> Duration {
        Duration::from_micros(self.pause.load(Ordering::Relaxed))
    }

    /// Returns where the list ends now.
    pub(super) fn cursor(&self) -> usize {
        *self.length.borrow()
    }
}

/// Payload bytes, counted as they pass.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Blocks received, useful or not.
    pub(super) received: AtomicU64,
    /// Blocks sent.
    pub(super) sent: AtomicU64,
}

/// What all connections of an engine share.
pub(super) struct Context {
    pub(super) meta: Arc<Metainfo>,
    pub(super) storage: Storage,
    /// What we show, and whom we believe, in an encrypted run.
    pub(super) tls: Option<Tls>,
    pub(super) peer_id: Id20,
    /// Whether we are the controller's seed.
    pub(super) seed: bool,
    /// Where we are, in a fleet with zones.
    pub(super) place: Option<Place>,
    /// The port we listen on.
    pub(super) port: u16,
    pub(super) haves: HaveLog,
    /// A permit for each block that peers may have asked of us, a few of each peer's aside: bounds memory.
    pub(super) queued: Arc<Semaphore>,
    /// A permit for each piece that may arrive at the same time, pushed ones aside: bounds memory.
    pub(super) arriving: Arc<Semaphore>,
    /// What is sent and received keeps to.
    pub(super) bounds: Bounds,
    pub(super) counters: Counters,
    pub(super) events: mpsc::Sender<(PeerKey, Event)>,
}

/// How a connection comes about.
pub(super) enum Origin {
    /// We dial; `controller` if it is an address that the controller told to be its own.
    Dial {
        addr: SocketAddr,
        controller: bool,
    },
    Accept(TcpStream),
}

/// What is settled before the first message.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// The peer speaks BEP 10.
    extended: bool,
    /// We found it at an address of the controller: it may be the seed. What a peer says of itself is no proof.
    controller: bool,
    /// When we sent our handshake.
    shook: Instant,
    /// How long the peer's took to come, if it is the answer to ours; otherwise its first message is.
    answered: Option<Duration>,
}

/// Runs a connection from its beginning to its end.
pub(super) async fn run(context: Arc<Context>, key: PeerKey, origin: Origin) -> Exit {
    match establish(&context, key, origin).await {
        Ok((stream, welcome, terms)) => {
            let link = Arc::new(Link::new(&context.meta, context.queued.clone()));
            let (input, output) = tokio::io::split(stream);
            tokio::select! {
                exit = reader::run(&context, &link, key, terms, input) => exit,
                exit = writer::run(&context, &link, key, terms.extended, welcome, output) => exit,
            }
        }
        Err(exit) => exit,
    }
}

async fn establish(context: &Context, key: PeerKey, origin: Origin) -> Result<(Stream, Welcome, Terms), Exit> {
    let dialled = matches!(origin, Origin::Dial { .. });
    let controller = matches!(origin, Origin::Dial { controller: true, .. });
    let tls = context.tls.as_ref();
    let mut stream = match origin {
        Origin::Dial { addr, controller: true } => transport::connect(tls, addr, Whom::Controller).await?,
        Origin::Dial { addr, .. } => transport::connect(tls, addr, Whom::Member).await?,
        Origin::Accept(stream) => transport::accept(tls, stream).await?,
    };
    let shake = async {
        let ours = protocol::handshake(context.meta.info_hash(), context.peer_id);
        if dialled {
            send(&mut stream, &ours).await?;
        }
        let mut shook = Instant::now();
        let mut theirs = [0; HANDSHAKE_LEN];
        stream.read_exact(&mut theirs).await?;
        let answered = dialled.then(|| shook.elapsed());
        let (peer_id, extended) = protocol::read_handshake(&theirs, context.meta.info_hash()).map_err(Exit::Stranger)?;
        // Who accepts answers only to those who know the torrent.
        if !dialled {
            send(&mut stream, &ours).await?;
            shook = Instant::now();
        }
        Ok::<_, Exit>((peer_id, Terms { extended, controller, shook, answered }))
    };
    let (peer_id, terms) = timeout(HANDSHAKE_TIMEOUT, shake).await.map_err(|_| Exit::Timeout("handshake"))??;
    let (reply, answer) = oneshot::channel();
    context.tell(key, Event::Shaken { peer_id, reply }).await?;
    let welcome = answer.await.map_err(|_| Exit::Dropped)?;
    Ok((stream, welcome, terms))
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

impl Context {
    async fn tell(&self, key: PeerKey, event: Event) -> Result<(), Exit> {
        self.events.send((key, event)).await.map_err(|_| Exit::Dropped)
    }
}
