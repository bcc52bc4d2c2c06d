//! Writes to a peer: what we have, what we want, and the blocks it asked for.
//!
//! Announcements and requests go before blocks, and blocks go in batches of a few, so that a request never waits for a whole
//! piece. A batch is one vectored write straight from the storage's chunk. Announcements go along with what is written anyway; alone they
//! wait until some time has passed since the last ones ([`pace`](crate::swarm::policy)), so that a piece does not cost a packet to every neighbour.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use librqbit_peer_protocol::Message;
use tokio::{
    io::{AsyncWriteExt, WriteHalf},
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use super::{Command, Context, Event, Exit, KEEP_ALIVE, Link, STALL_TIMEOUT, Welcome};
use crate::swarm::{
    policy::PeerKey,
    protocol::{self, PIECE_HEADER_LEN},
    storage::{CHUNK, lock},
    transport::Stream,
};

/// Blocks in one write.
const BATCH: usize = 4;
/// A peer that takes nothing for this long is slow: memory for a whole chunk is not kept for it.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// A block with its header.
type Block = ([u8; PIECE_HEADER_LEN], Bytes);
/// With a limit, messages must not wait for more than one.
const LIMITED_BATCH: usize = 1;

/// Writes until the connection ends.
pub(super) async fn run(
    context: &Arc<Context>,
    link: &Arc<Link>,
    key: PeerKey,
    extended: bool,
    welcome: Welcome,
    output: WriteHalf<Stream>,
) -> Exit {
    let mut out = Vec::new();
    if extended {
        out.extend_from_slice(&protocol::extension_handshake(context.seed, context.place, context.port));
    }
    // A peer without pieces may leave its bitfield out (BEP 3).
    if !welcome.have.is_empty() {
        protocol::write_bitfield(&welcome.have, &mut out);
    }
    let mut writer = Writer {
        context: context.clone(),
        link: link.clone(),
        key,
        output,
        commands: welcome.commands,
        haves: context.haves.length.subscribe(),
        cursor: welcome.cursor,
        announced: None,
        out,
        sending: VecDeque::new(),
        chunk: None,
    };
    loop {
        if let Err(exit) = writer.step().await {
            return exit;
        }
    }
}

struct Writer {
    context: Arc<Context>,
    link: Arc<Link>,
    key: PeerKey,
    output: WriteHalf<Stream>,
    commands: mpsc::Receiver<Command>,
    haves: watch::Receiver<usize>,
    /// How much of the have log is announced.
    cursor: usize,
    /// When pieces were last announced.
    announced: Option<Instant>,
    /// Messages to write before the next blocks.
    out: Vec<u8>,
    /// Pieces to send, the first one now.
    sending: VecDeque<u32>,
    /// The chunk that blocks are taken from: piece, index, bytes.
    chunk: Option<(u32, u32, Bytes)>,
}

impl Writer {
    /// Writes what there is to write, or waits for something.
    async fn step(&mut self) -> Result<(), Exit> {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(Exit::Dropped),
            }
        }
        for request in self.link.requests() {
            protocol::write_message(&Message::Request(request), &mut self.out);
        }
        for request in self.link.cancels() {
            protocol::write_message(&Message::Cancel(request), &mut self.out);
        }
        let blocks = self.next_blocks().await?;
        let writes = !self.out.is_empty() || !blocks.is_empty();
        if writes || self.announce_pause().is_zero() {
            self.announce();
        }
        if self.out.is_empty() && blocks.is_empty() {
            if self.sending.is_empty() {
                self.wait().await?;
            }
            return Ok(());
        }
        let sent: usize = blocks.iter().map(|(_, data)| data.len()).sum();
        if sent > 0 && self.context.bounds.upload.is_limited() {
            // Messages don't wait with the blocks.
            self.write(Vec::new()).await?;
            self.context.bounds.upload.pass(sent).await;
        }
        self.write(blocks).await?;
        self.context.counters.sent.fetch_add(sent as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), Exit> {
        let unannounced = *self.haves.borrow() > self.cursor;
        let pause = if unannounced { self.announce_pause() } else { KEEP_ALIVE };
        tokio::select! {
            command = self.commands.recv() => match command {
                Some(command) => self.obey(command),
                None => return Err(Exit::Dropped),
            },
            changed = self.haves.changed(), if !unannounced => changed.map_err(|_| Exit::Dropped)?,
            () = self.link.wake.notified() => {}
            () = tokio::time::sleep(pause) => if !unannounced {
                protocol::write_message(&Message::KeepAlive, &mut self.out);
            },
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Request(piece) => self.link.ask(piece),
            Command::Cancel(piece) => {
                for request in self.link.forget(piece) {
                    protocol::write_message(&Message::Cancel(request), &mut self.out);
                }
            }
            Command::Send { piece, push } => {
                if push {
                    self.link.push(piece);
                }
                self.sending.push_back(piece);
            }
            Command::Unchoke => protocol::write_message(&Message::Unchoke, &mut self.out),
            Command::Interested(true) => protocol::write_message(&Message::Interested, &mut self.out),
            Command::Interested(false) => protocol::write_message(&Message::NotInterested, &mut self.out),
        }
    }

    /// Returns how long announcements that go alone have to wait.
    fn announce_pause(&self) -> Duration {
        self.announced.map_or(Duration::ZERO, |at| self.context.haves.pause().saturating_sub(at.elapsed()))
    }

    /// Announces the pieces verified since the last time.
    fn announce(&mut self) {
        let length = *self.haves.borrow_and_update();
        if length <= self.cursor {
            return;
        }
        let log = lock(&self.context.haves.pieces);
        for piece in log.0.get(self.cursor..length).unwrap_or_default() {
            protocol::write_message(&Message::Have(*piece), &mut self.out);
        }
        drop(log);
        self.cursor = length;
        self.announced = Some(Instant::now());
    }

    /// Takes the next few blocks of the first piece; reports the piece when there are none left.
    async fn next_blocks(&mut self) -> Result<Vec<Block>, Exit> {
        let mut blocks = Vec::new();
        let Some(piece) = self.sending.front().copied() else { return Ok(blocks) };
        let batch = if self.context.bounds.upload.is_limited() { LIMITED_BATCH } else { BATCH };
        while blocks.len() < batch {
            let Some((begin, length)) = self.link.next_block(piece) else {
                if blocks.is_empty() {
                    self.sending.pop_front();
                    self.chunk = None;
                    self.context.tell(self.key, Event::Sent(piece)).await?;
                    if self.link.wants(piece) {
                        // More requests for it came after the last block was taken; the policy took them for old ones.
                        self.context.tell(self.key, Event::Requested(piece)).await?;
                    }
                }
                break;
            };
            let header = protocol::piece_header(piece, begin, length);
            blocks.push((header, self.block(piece, begin, length).await?));
        }
        Ok(blocks)
    }

    async fn block(&mut self, piece: u32, begin: u32, length: u32) -> Result<Bytes, Exit> {
        let first = self.part(piece, begin, length).await?;
        if first.len() == length as usize {
            return Ok(first);
        }
        // Only a client that asks for blocks at odd offsets gets here.
        let rest = self.part(piece, begin + first.len() as u32, length - first.len() as u32).await?;
        Ok([first, rest].concat().into())
    }

    /// Returns a block's bytes as far as they are in one chunk.
    async fn part(&mut self, piece: u32, begin: u32, length: u32) -> Result<Bytes, Exit> {
        let index = begin / CHUNK;
        let data = match &self.chunk {
            Some((p, i, data)) if (*p, *i) == (piece, index) => data.clone(),
            _ => {
                let data = self.context.storage.read(piece, index).await.map_err(Exit::Engine)?;
                self.chunk = Some((piece, index, data.clone()));
                data
            }
        };
        let start = (begin % CHUNK) as usize;
        let end = (start + length as usize).min(data.len());
        Ok(data.slice(start.min(end)..end))
    }

    /// Writes the messages and the blocks. Encryption takes them into a buffer of its own, so that what comes next is decided when that is empty.
    async fn write(&mut self, blocks: Vec<Block>) -> Result<(), Exit> {
        let rest = self.write_at_once(&blocks).await?;
        self.out.clear();
        drop(blocks);
        if let Some(rest) = rest {
            // Slow peers may be many, and each may be slow with another chunk.
            self.chunk = None;
            self.write_slowly(&rest).await?;
        }
        match timeout(SLOW, self.output.flush()).await {
            Ok(flushed) => Ok(flushed?),
            Err(_) => {
                self.chunk = None;
                let flushed = timeout(STALL_TIMEOUT, self.output.flush()).await;
                Ok(flushed.map_err(|_| Exit::Timeout("it takes nothing"))??)
            }
        }
    }

    /// Writes the messages and the blocks as long as the peer takes them; returns what is left then.
    async fn write_at_once(&mut self, blocks: &[Block]) -> Result<Option<Vec<u8>>, Exit> {
        let mut slices = Vec::with_capacity(1 + 2 * blocks.len());
        slices.push(IoSlice::new(&self.out));
        for (header, data) in blocks {
            slices.extend([IoSlice::new(header), IoSlice::new(data)]);
        }
        let mut left = slices.as_mut_slice();
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match timeout(SLOW, self.output.write_vectored(left)).await {
                Err(_) => return Ok(Some(left.iter().flat_map(|slice| slice.iter().copied()).collect())),
                Ok(written) => IoSlice::advance_slices(&mut left, some(written?)?),
            }
        }
        Ok(None)
    }

    async fn write_slowly(&mut self, mut left: &[u8]) -> Result<(), Exit> {
        while !left.is_empty() {
            let write = timeout(STALL_TIMEOUT, self.output.write(left));
            let written = some(write.await.map_err(|_| Exit::Timeout("it takes nothing"))??)?;
            left = &left[written..];
        }
        Ok(())
    }
}

/// Takes a write of nothing for the connection's end.
fn some(written: usize) -> Result<usize, Exit> {
    if written == 0 { Err(Exit::Io(io::ErrorKind::WriteZero.into())) } else { Ok(written) }
}
