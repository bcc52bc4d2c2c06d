//! Reads a peer's messages. Blocks go from the socket straight into the piece they belong to.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, ReadHalf},
    time::timeout,
};

use super::{Context, Event, Exit, IDLE_TIMEOUT, Link, STALL_TIMEOUT, Terms, assembly::Assembly};
use crate::swarm::{
    policy::{PeerKey, PieceSet},
    protocol::{self, Control, Extensions, HAVE_LEN, ID_BITFIELD, ID_EXTENDED, ID_PIECE, Violation},
    storage::{CHUNK, Claim},
    transport::Stream,
};

const BUFFER: usize = 32 << 10;
/// How often progress of one piece is reported.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// Pieces that the seed may push at the same time.
const MAX_PUSHES: usize = 4;
/// Announcements reported together; bounds what the session's queue can hold.
const MAX_HAVES: usize = 256;

/// Reads until the connection ends.
pub(super) async fn run(context: &Arc<Context>, link: &Arc<Link>, key: PeerKey, terms: Terms, input: ReadHalf<Stream>) -> Exit {
    let mut reader = Reader {
        context: context.clone(),
        link: link.clone(),
        key,
        input: BufReader::with_capacity(BUFFER, input),
        frame: Vec::new(),
        assemblies: Vec::new(),
        joined: None,
        terms,
    };
    loop {
        if let Err(exit) = reader.message().await {
            return exit;
        }
    }
}

struct Reader {
    context: Arc<Context>,
    link: Arc<Link>,
    key: PeerKey,
    input: BufReader<ReadHalf<Stream>>,
    frame: Vec<u8>,
    assemblies: Vec<Assembly>,
    /// What the peer says that it can, once the session knows.
    joined: Option<Extensions>,
    terms: Terms,
}

impl Reader {
    async fn message(&mut self) -> Result<(), Exit> {
        let length = timeout(IDLE_TIMEOUT, self.input.read_u32()).await.map_err(|_| Exit::Timeout("silence"))??;
        if length == 0 {
            return Ok(());
        }
        let body = timeout(STALL_TIMEOUT, self.body(length)).await;
        match body.map_err(|_| Exit::Timeout("half a message"))?? {
            // Not under the timer: that our storage is slow is not the peer's fault.
            Some(at) => {
                self.context.bounds.download.pass(length as usize).await;
                self.store(at).await
            }
            None => Ok(()),
        }
    }

    /// Reads a message; returns the assembly that got a block by it.
    async fn body(&mut self, length: u32) -> Result<Option<usize>, Exit> {
        let id = self.input.read_u8().await?;
        protocol::check_length(id, length, self.context.meta.piece_count())?;
        if id == ID_PIECE {
            return self.piece(length - 9).await;
        }
        self.other(id, length).await?;
        Ok(None)
    }

    async fn other(&mut self, id: u8, length: u32) -> Result<(), Exit> {
        self.frame.clear();
        self.frame.extend_from_slice(&length.to_be_bytes());
        self.frame.push(id);
        self.frame.resize(length as usize + 4, 0);
        self.input.read_exact(&mut self.frame[5..]).await?;
        if id == ID_EXTENDED {
            return self.extension().await;
        }
        self.join(Extensions::default()).await?;
        if id == ID_BITFIELD {
            return self.bitfield().await;
        }
        self.control().await
    }

    async fn tell(&mut self, event: Event) -> Result<(), Exit> {
        self.context.tell(self.key, event).await
    }

    async fn join(&mut self, extensions: Extensions) -> Result<(), Exit> {
        if self.joined.is_none() {
            self.joined = Some(extensions);
            let seed = extensions.seed && self.terms.controller;
            let round_trip = self.terms.answered.unwrap_or_else(|| self.terms.shook.elapsed());
            self.tell(Event::Joined(Extensions { seed, ..extensions }, round_trip)).await?;
        }
        Ok(())
    }

    async fn extension(&mut self) -> Result<(), Exit> {
        if !self.terms.extended {
            return Err(Violation("it sent an extended message without saying that it would").into());
        }
        if let Some(extensions) = protocol::read_extension_handshake(&self.frame[5..])? {
            if let Some(queue) = extensions.queue {
                self.link.set_queue(queue);
            }
            // Fleet peers send it first. Whoever sends it later stays what the session took it for: a standard client.
            self.join(extensions).await?;
        }
        Ok(())
    }

    async fn bitfield(&mut self) -> Result<(), Exit> {
        let Some(have) = PieceSet::from_wire(&self.frame[5..], self.context.meta.piece_count()) else {
            return Err(Violation("its bitfield does not fit the torrent").into());
        };
        self.tell(Event::Bitfield(Box::new(have))).await
    }

    async fn control(&mut self) -> Result<(), Exit> {
        match protocol::read_control(&self.frame)? {
            Control::Choke(chokes) => self.tell(Event::Chokes(chokes)).await,
            Control::Have(piece) => self.have(piece).await,
            Control::Request(request) => {
                // A piece we don't have may have been asked for by mistake; silence is the answer.
                if self.context.storage.has(request.index) && self.link.wanted(&request)? {
                    self.tell(Event::Requested(request.index)).await?;
                }
                Ok(())
            }
            Control::Cancel(request) => {
                if self.link.unwanted(&request) {
                    self.tell(Event::Cancelled(request.index)).await?;
                }
                Ok(())
            }
            Control::Nothing => Ok(()),
        }
    }

    /// Reports a piece the peer announces, together with those whose announcements are in the buffer behind it.
    async fn have(&mut self, first: u32) -> Result<(), Exit> {
        let mut pieces = vec![first];
        while pieces.len() < MAX_HAVES
            && let Some(piece) = protocol::read_have(self.input.buffer())
        {
            self.input.consume(HAVE_LEN);
            pieces.push(piece);
        }
        if pieces.iter().any(|piece| *piece >= self.context.meta.piece_count()) {
            return Err(Violation("it has a piece that does not exist").into());
        }
        self.tell(Event::Have(pieces)).await
    }

    async fn piece(&mut self, length: u32) -> Result<Option<usize>, Exit> {
        let (piece, begin) = (self.input.read_u32().await?, self.input.read_u32().await?);
        self.join(Extensions::default()).await?;
        self.context.counters.received.fetch_add(u64::from(length), Ordering::Relaxed);
        let Some(at) = self.assembly(piece, begin).await else { return self.skip(length).await };
        let assembly = &mut self.assemblies[at];
        let Some(slot) = assembly.slot(begin, length)? else { return self.skip(length).await };
        self.input.read_exact(slot).await?;
        assembly.filled(begin);
        self.link.block_came(piece, assembly.serial);
        let now = Instant::now();
        if assembly.reported.is_none_or(|before| now - before >= REPORT_EVERY) {
            let first_of_push = assembly.pushed && assembly.reported.is_none();
            assembly.reported = Some(now);
            let event = if first_of_push { Event::Pushed(piece) } else { Event::Progress(piece) };
            self.context.tell(self.key, event).await?;
        }
        Ok(Some(at))
    }

    /// Reads and forgets a block.
    async fn skip(&mut self, length: u32) -> Result<Option<usize>, Exit> {
        self.link.stray_block()?;
        let copied = tokio::io::copy(&mut (&mut self.input).take(u64::from(length)), &mut tokio::io::sink()).await?;
        if copied < u64::from(length) {
            return Err(Exit::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(None)
    }

    /// Finds or starts the piece that a block belongs to; none if nobody waits for it.
    async fn assembly(&mut self, piece: u32, begin: u32) -> Option<usize> {
        let expected = self.link.expects(piece);
        if let Some(at) = self.assemblies.iter().position(|assembly| assembly.piece == piece) {
            if Some(self.assemblies[at].serial) == expected {
                return Some(at);
            }
            self.assemblies.swap_remove(at);
        }
        let pushed = expected.is_none() && begin == 0 && self.joined.is_some_and(|peer| peer.fleet && peer.seed);
        if expected.is_none() && !pushed {
            return None;
        }
        if pushed && !(self.terms.controller && self.accepts_push(piece)) {
            self.link.refuse_push(piece);
            return None;
        }
        // Where too many pieces arrive at the same time, this one waits in the network.
        let permit = if pushed { None } else { self.context.arriving.clone().acquire_owned().await.ok() };
        // What was taken back in the meantime is not kept.
        let link = &self.link;
        self.assemblies.retain(|assembly| link.expects(assembly.piece) == Some(assembly.serial));
        let size = link.size(piece);
        let claim = if size > CHUNK { self.context.storage.claim(piece) } else { None };
        if size > CHUNK && claim.is_none() {
            // Another peer is delivering it; the policy hears that from the other one's progress.
            if pushed {
                self.link.refuse_push(piece);
            }
            return None;
        }
        if pushed {
            link.expect_push(piece);
        }
        let number = claim.as_ref().map(Claim::number);
        link.hold(piece, claim, permit);
        let serial = link.expects(piece)?;
        self.assemblies.push(Assembly::new(piece, serial, size, pushed, number));
        Some(self.assemblies.len() - 1)
    }

    fn accepts_push(&self, piece: u32) -> bool {
        self.link.size(piece) > 0
            && !self.context.storage.has(piece)
            && self.assemblies.iter().filter(|assembly| assembly.pushed).count() < MAX_PUSHES
    }

    /// Hands complete chunks to the storage; after the last the piece is checked there.
    async fn store(&mut self, at: usize) -> Result<(), Exit> {
        while let Some((offset, data, last)) = self.assemblies[at].take_chunk() {
            if last {
                let assembly = self.assemblies.swap_remove(at);
                return self.finish(assembly, offset, data).await;
            }
            let assembly = &mut self.assemblies[at];
            let hasher = std::mem::take(&mut assembly.hasher);
            let claim = assembly.claim.unwrap_or(u64::MAX);
            let appended = self.context.storage.append(assembly.piece, offset, data, hasher, claim).await;
            let Some(hasher) = appended.map_err(Exit::Engine)? else {
                // It was taken back while its block was being read.
                self.assemblies.swap_remove(at);
                return Ok(());
            };
            assembly.hasher = hasher;
            self.link.chunk_done(assembly.piece, assembly.serial);
        }
        Ok(())
    }

    /// Has a complete piece checked. Both queues' places are taken first: wherever this connection is cut off, the session has
    /// heard of a received piece exactly if its check was submitted, so that no piece is being checked for ever.
    async fn finish(&mut self, assembly: Assembly, offset: u32, data: Bytes) -> Result<(), Exit> {
        let piece = assembly.piece;
        let place = self.context.storage.reserve(piece).await.map_err(Exit::Engine)?;
        let received = self.context.events.reserve().await.map_err(|_| Exit::Dropped)?;
        // It may have been taken back while the storage was busy, or while its block was being read.
        let Some(done) = self.link.piece_done(piece, assembly.serial) else { return Ok(()) };
        received.send((self.key, Event::Received(piece)));
        let (events, key) = (self.context.events.clone(), self.key);
        // Fails only when the session has ended, and then nobody needs to know.
        let report = Box::new(move |checked| drop(events.blocking_send((key, Event::Checked(piece, checked)))));
        place.finish(offset, data, assembly.hasher, done.claim, report);
        Ok(())
    }
}
