//! What a connection's reader, its writer and the session know together.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use librqbit_peer_protocol::Request;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::swarm::{
    Metainfo,
    policy::PieceSet,
    protocol::{BLOCK, MAX_QUEUED_REQUESTS, Violation},
    storage::{CHUNK, Claim, lock},
};

/// Blocks in one chunk.
const CHUNK_BLOCKS: u32 = CHUNK / BLOCK;
/// Blocks that may be asked for but not yet here, in pieces of several chunks: the chunk that arrives and the next.
const AHEAD: u32 = 2 * CHUNK_BLOCKS;
/// The most requests sent to a peer that does not say how many it queues, and to one that does: 16 MiB. A fleet peer queues twice as many, so that
/// what it pushes besides is no matter.
const DEFAULT_QUEUE: u32 = 250;
const LONGEST_QUEUE: u32 = MAX_QUEUED_REQUESTS as u32 / 2;
/// Blocks that a peer may have asked for whatever others asked for.
const OWN_PART: usize = 128;
/// Blocks that nobody asked for and that are forgiven.
const FORGIVEN: u32 = 256;

/// Both directions of one connection.
#[derive(Debug)]
pub(in crate::swarm) struct Link {
    piece_length: u32,
    last: (u32, u32),
    asking: Mutex<Asking>,
    asked: Mutex<Asked>,
    /// Wakes the writer: there are requests to send.
    pub(super) wake: Notify,
}

/// What we ask of the peer.
#[derive(Debug)]
struct Asking {
    pieces: Vec<Wanted>,
    /// Blocks asked for and not here.
    outstanding: u32,
    queue: u32,
    /// Blocks that may still come for requests taken back.
    stale: u32,
    /// Blocks of refused pushes to cancel.
    cancels: Vec<Request>,
    /// Pieces of which a push was refused; none yet.
    refused: Option<PieceSet>,
    /// The number of the next [`Wanted`].
    serial: u64,
}

/// One piece we ask for, or that is pushed to us.
#[derive(Debug)]
struct Wanted {
    piece: u32,
    /// Tells an assembly of an earlier request for the same piece from one of this.
    serial: u64,
    blocks: u32,
    /// The next block to ask for.
    next: u32,
    /// Blocks below this may be asked for.
    limit: u32,
    received: u32,
    /// It comes unasked: its blocks are not in `outstanding`.
    pushed: bool,
    /// The right to write it: given back as soon as nobody waits for the piece here.
    claim: Option<Claim>,
    /// The right to memory for it, likewise.
    permit: Option<OwnedSemaphorePermit>,
}

impl Asking {
    /// Returns that very request for a piece, if it still stands.
    fn find(&mut self, piece: u32, serial: u64) -> Option<&mut Wanted> {
        self.pieces.iter_mut().find(|asked| (asked.piece, asked.serial) == (piece, serial))
    }
}

/// A piece whose request has ended with its last block.
#[derive(Debug)]
pub(super) struct Done {
    /// The right to write it, if it has several chunks.
    pub(super) claim: Option<Claim>,
}

/// What the peer asks of us: blocks (begin, length) by piece.
#[derive(Debug)]
struct Asked {
    pieces: BTreeMap<u32, VecDeque<(u32, u32)>>,
    blocks: usize,
    /// A permit for each block that all connections together may have beyond their own part, and those that are ours.
    common: Arc<Semaphore>,
    permits: Option<OwnedSemaphorePermit>,
}

impl Asked {
    /// Takes what is missing of the common permits, or gives back what is not needed; false if there are too few.
    fn settle(&mut self) -> bool {
        let needed = self.blocks.saturating_sub(OWN_PART);
        let held = self.permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed > held {
            let Ok(more) = self.common.clone().try_acquire_many_owned((needed - held) as u32) else { return false };
            match &mut self.permits {
                Some(permits) => permits.merge(more),
                None => self.permits = Some(more),
            }
        } else if let Some(permits) = &mut self.permits {
            drop(permits.split(held - needed));
        }
        true
    }

    /// Takes a block out; true if it was the last of its piece.
    fn remove(&mut self, piece: u32, block: (u32, u32)) -> bool {
        let Some(blocks) = self.pieces.get_mut(&piece) else { return false };
        let before = blocks.len();
        blocks.retain(|asked| *asked != block);
        let (removed, last) = (before - blocks.len(), blocks.is_empty());
        if last {
            self.pieces.remove(&piece);
        }
        self.blocks -= removed;
        self.settle();
        last
    }
}

impl Link {
    /// Returns what is known at first; `queued` has a permit for each block that peers together may have asked for, a few of each aside.
    pub(super) fn new(meta: &Metainfo, queued: Arc<Semaphore>) -> Self {
        let last = meta.piece_count() - 1;
        Self {
            piece_length: meta.piece_length(),
            last: (last, meta.piece_size(last).unwrap_or(0)),
            asking: Mutex::new(Asking {
                pieces: Vec::new(),
                outstanding: 0,
                queue: DEFAULT_QUEUE,
                stale: FORGIVEN,
                cancels: Vec::new(),
                refused: None,
                serial: 0,
            }),
            asked: Mutex::new(Asked { pieces: BTreeMap::new(), blocks: 0, common: queued, permits: None }),
            wake: Notify::new(),
        }
    }

    /// Returns a piece's length; 0 if there is no such piece.
    pub(super) fn size(&self, piece: u32) -> u32 {
        match piece.cmp(&self.last.0) {
            std::cmp::Ordering::Less => self.piece_length,
            std::cmp::Ordering::Equal => self.last.1,
            std::cmp::Ordering::Greater => 0,
        }
    }

    /// Respects the number of requests the peer says it queues.
    pub(super) fn set_queue(&self, queue: u32) {
        lock(&self.asking).queue = queue.clamp(1, LONGEST_QUEUE);
    }

    /// Starts asking for a piece.
    pub(super) fn ask(&self, piece: u32) {
        self.add(piece, false);
    }

    /// Notes that a piece is pushed: nothing has to be asked for.
    pub(super) fn expect_push(&self, piece: u32) {
        self.add(piece, true);
    }

    fn add(&self, piece: u32, pushed: bool) {
        let blocks = self.size(piece).div_ceil(BLOCK);
        let (next, limit) = if pushed { (blocks, blocks) } else { (0, AHEAD.min(blocks)) };
        let mut asking = lock(&self.asking);
        if !asking.pieces.iter().any(|asked| asked.piece == piece) {
            let serial = asking.serial;
            asking.serial += 1;
            asking.pieces.push(Wanted { piece, serial, blocks, next, limit, received: 0, pushed, claim: None, permit: None });
        }
    }

    /// Returns the number of the current request if blocks of the piece are welcome.
    pub(super) fn expects(&self, piece: u32) -> Option<u64> {
        lock(&self.asking).pieces.iter().find(|asked| asked.piece == piece).map(|asked| asked.serial)
    }

    /// Returns the blocks to ask for now, as far as the peer's queue allows.
    pub(super) fn requests(&self) -> Vec<Request> {
        let mut asking = lock(&self.asking);
        let mut room = asking.queue.saturating_sub(asking.outstanding);
        let mut requests = Vec::new();
        for asked in &mut asking.pieces {
            while room > 0 && asked.next < asked.limit {
                requests.push(self.request(asked.piece, asked.next));
                asked.next += 1;
                room -= 1;
            }
        }
        asking.outstanding += requests.len() as u32;
        requests
    }

    fn request(&self, piece: u32, block: u32) -> Request {
        let begin = block * BLOCK;
        Request::new(piece, begin, (self.size(piece) - begin).min(BLOCK))
    }

    /// Takes a push back that has just begun: its blocks are cancelled, and those that come are forgiven. Only once a piece, and not while
    /// many cancels wait to be sent, so that what is forgiven and kept is bounded.
    pub(super) fn refuse_push(&self, piece: u32) {
        let blocks = self.size(piece).div_ceil(BLOCK);
        let mut asking = lock(&self.asking);
        if blocks == 0 || asking.cancels.len() >= MAX_QUEUED_REQUESTS {
            return;
        }
        if !asking.refused.get_or_insert_with(|| PieceSet::new(self.last.0 + 1)).insert(piece) {
            return;
        }
        asking.stale += blocks;
        asking.cancels.extend((0..blocks).map(|block| self.request(piece, block)));
        self.wake.notify_one();
    }

    /// Returns the blocks of refused pushes to cancel.
    pub(super) fn cancels(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.asking).cancels)
    }

    /// Counts an expected block; wakes the writer when there is room for more requests.
    pub(super) fn block_came(&self, piece: u32, serial: u64) {
        let mut asking = lock(&self.asking);
        let Some(asked) = asking.find(piece, serial) else { return };
        asked.received += 1;
        if !asked.pushed {
            asking.outstanding = asking.outstanding.saturating_sub(1);
        }
        if asking.outstanding < asking.queue && asking.pieces.iter().any(|asked| asked.next < asked.limit) {
            self.wake.notify_one();
        }
    }

    /// Moves the window of a long piece on by one chunk.
    pub(super) fn chunk_done(&self, piece: u32, serial: u64) {
        let mut asking = lock(&self.asking);
        if let Some(asked) = asking.find(piece, serial) {
            asked.limit = (asked.limit + CHUNK_BLOCKS).min(asked.blocks);
            self.wake.notify_one();
        }
    }

    /// Keeps the rights to write a piece and to memory for it as long as the piece is expected.
    pub(super) fn hold(&self, piece: u32, claim: Option<Claim>, permit: Option<OwnedSemaphorePermit>) {
        let mut asking = lock(&self.asking);
        if let Some(asked) = asking.pieces.iter_mut().find(|asked| asked.piece == piece) {
            (asked.claim, asked.permit) = (claim, permit);
        }
    }

    /// Stops asking for a complete piece; none if that request was taken back.
    pub(super) fn piece_done(&self, piece: u32, serial: u64) -> Option<Done> {
        let mut asking = lock(&self.asking);
        let at = asking.pieces.iter().position(|asked| (asked.piece, asked.serial) == (piece, serial))?;
        let asked = asking.pieces.swap_remove(at);
        // Who delivers is forgiven more.
        asking.stale = asking.stale.max((asking.stale + asked.blocks).min(FORGIVEN));
        Some(Done { claim: asked.claim })
    }

    /// Stops asking for a piece; returns the requests to take back. Their blocks may still come.
    pub(super) fn forget(&self, piece: u32) -> Vec<Request> {
        let mut asking = lock(&self.asking);
        let Some(at) = asking.pieces.iter().position(|asked| asked.piece == piece) else { return Vec::new() };
        let asked = asking.pieces.swap_remove(at);
        let missing = asked.next.saturating_sub(asked.received);
        if !asked.pushed {
            asking.outstanding = asking.outstanding.saturating_sub(missing);
        }
        asking.stale += missing;
        // Which blocks came is the reader's knowledge; taking back one that came costs 17 bytes and nothing else. They come in order.
        (asked.received..asked.next).map(|block| self.request(piece, block)).collect()
    }

    /// Counts a block nobody waits for; an error when there are too many.
    pub(super) fn stray_block(&self) -> Result<(), Violation> {
        let mut asking = lock(&self.asking);
        asking.stale = asking.stale.checked_sub(1).ok_or(Violation("it sends blocks that nobody asked for"))?;
        Ok(())
    }

    /// Adds a block the peer wants; true if it is the first of its piece. Ignored when all peers together want too many: silence is the answer, and
    /// the peer asks another.
    pub(super) fn wanted(&self, request: &Request) -> Result<bool, Violation> {
        let size = self.size(request.index);
        let end = request.begin.checked_add(request.length);
        if request.length == 0 || request.length > BLOCK || end.is_none_or(|end| end > size) {
            return Err(Violation("it asks for a block that can't exist"));
        }
        let mut asked = lock(&self.asked);
        if asked.blocks >= MAX_QUEUED_REQUESTS {
            return Err(Violation("it asks for too many blocks at once"));
        }
        let first = !asked.pieces.contains_key(&request.index);
        let blocks = asked.pieces.entry(request.index).or_default();
        if !blocks.contains(&(request.begin, request.length)) {
            blocks.push_back((request.begin, request.length));
            asked.blocks += 1;
            if !asked.settle() {
                asked.remove(request.index, (request.begin, request.length));
                return Ok(false);
            }
        }
        Ok(first)
    }

    /// Queues a whole piece that the peer did not ask for.
    pub(super) fn push(&self, piece: u32) {
        let size = self.size(piece);
        let mut asked = lock(&self.asked);
        let blocks: VecDeque<_> = (0..size).step_by(BLOCK as usize).map(|begin| (begin, (size - begin).min(BLOCK))).collect();
        asked.blocks += blocks.len();
        if let Some(old) = asked.pieces.insert(piece, blocks) {
            asked.blocks -= old.len();
        }
        // What we decided to send is sent: pushes are few.
        asked.settle();
    }

    /// Takes a block out that the peer no longer wants; true if it was the last of its piece.
    pub(super) fn unwanted(&self, request: &Request) -> bool {
        lock(&self.asked).remove(request.index, (request.begin, request.length))
    }

    /// Returns whether the peer wants blocks of the piece.
    pub(super) fn wants(&self, piece: u32) -> bool {
        lock(&self.asked).pieces.contains_key(&piece)
    }

    /// Takes the next block of a piece to send.
    pub(super) fn next_block(&self, piece: u32) -> Option<(u32, u32)> {
        let mut asked = lock(&self.asked);
        let block = asked.pieces.get_mut(&piece).and_then(VecDeque::pop_front);
        match block {
            Some(_) => asked.blocks -= 1,
            None => {
                asked.pieces.remove(&piece);
            }
        }
        asked.settle();
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pieces of 1 MiB and a last one of 20,000 bytes.
    fn link() -> Link {
        let piece = 1 << 20;
        let meta = Metainfo::new("a", 2 * piece + 20_000, piece as u32, vec![[0; 20]; 3]).unwrap();
        Link::new(&meta, Arc::new(Semaphore::new(MAX_QUEUED_REQUESTS)))
    }

    #[test]
    fn a_long_piece_is_asked_for_two_chunks_ahead_and_no_more() {
        let link = link();
        link.ask(0);
        assert_eq!(link.requests().len() as u32, AHEAD);
        assert!(link.requests().is_empty());
        for _ in 0..CHUNK_BLOCKS {
            link.block_came(0, 0);
        }
        assert!(link.requests().is_empty(), "the chunk is not stored yet");
        link.chunk_done(0, 0);
        assert_eq!(link.requests().len() as u32, CHUNK_BLOCKS);
    }

    #[test]
    fn the_peers_queue_is_respected() {
        let link = link();
        link.set_queue(5);
        link.ask(0);
        link.ask(2);
        assert_eq!(link.requests().len(), 5);
        link.block_came(0, 0);
        assert_eq!(link.requests().len(), 1);
    }

    #[test]
    fn the_last_block_is_short_and_a_cancel_names_what_is_missing() {
        let link = link();
        link.ask(2);
        let requests: Vec<_> = link.requests().iter().map(|r| (r.index, r.begin, r.length)).collect();
        assert_eq!(requests, [(2, 0, 16384), (2, 16384, 3616)]);
        link.block_came(2, 0);
        let cancelled: Vec<_> = link.forget(2).iter().map(|r| (r.begin, r.length)).collect();
        assert_eq!(cancelled, [(16384, 3616)]);
        assert!(link.forget(2).is_empty() && link.expects(2).is_none());
    }

    #[test]
    fn stray_blocks_are_forgiven_up_to_a_bound() {
        let link = link();
        for _ in 0..FORGIVEN {
            link.stray_block().unwrap();
        }
        assert!(link.stray_block().is_err());
        link.ask(2);
        link.requests();
        link.forget(2);
        assert!(link.stray_block().is_ok() && link.stray_block().is_ok() && link.stray_block().is_err());
    }

    #[test]
    fn what_came_for_a_request_taken_back_does_not_count_for_the_next_one() {
        let link = link();
        link.ask(0);
        let before = link.expects(0).unwrap();
        link.requests();
        link.forget(0);
        link.ask(0);
        let after = link.expects(0).unwrap();
        assert_eq!(link.requests().len() as u32, AHEAD);
        link.block_came(0, before);
        link.chunk_done(0, before);
        assert!(link.piece_done(0, before).is_none());
        assert_eq!(link.expects(0), Some(after), "the new request is gone");
        assert!(link.requests().is_empty(), "the new request's window moved");
        assert_eq!(link.forget(0).len() as u32, AHEAD);
    }

    #[test]
    fn a_refused_push_is_cancelled_and_forgiven_once() {
        let link = link();
        link.refuse_push(0);
        link.refuse_push(0);
        link.refuse_push(9);
        assert_eq!(link.cancels().len(), 64);
        assert!(link.cancels().is_empty());
        for _ in 0..FORGIVEN + 64 {
            link.stray_block().unwrap();
        }
        assert!(link.stray_block().is_err());
    }

    #[test]
    fn what_the_peer_wants_is_bounded_and_taken_in_order() {
        let link = link();
        let block = |begin| Request::new(1, begin, BLOCK);
        assert!(link.wanted(&block(0)).unwrap());
        assert!(!link.wanted(&block(0)).unwrap() && !link.wanted(&block(BLOCK)).unwrap());
        assert!(!link.unwanted(&block(0)));
        assert_eq!(link.next_block(1), Some((BLOCK, BLOCK)));
        assert_eq!(link.next_block(1), None);
        assert!(!link.wants(1));
        for begin in 0..MAX_QUEUED_REQUESTS as u32 {
            link.wanted(&Request::new(0, begin, 1)).unwrap();
        }
        assert!(link.wanted(&block(0)).is_err());
    }
    #[test]
    fn what_all_peers_want_together_is_bounded_and_each_has_its_part() {
        const COMMON: usize = 100;
        let common = Arc::new(Semaphore::new(COMMON));
        let meta = Metainfo::new("a", 1 << 20, 1 << 20, vec![[0; 20]]).unwrap();
        let links: Vec<_> = (0..3).map(|_| Link::new(&meta, common.clone())).collect();
        let ask = |link: &Link| (0..MAX_QUEUED_REQUESTS as u32).for_each(|begin| drop(link.wanted(&Request::new(0, begin, 1))));
        let asked = |link: &Link| lock(&link.asked).blocks;
        links.iter().for_each(ask);
        assert_eq!(links.iter().map(asked).collect::<Vec<_>>(), [OWN_PART + COMMON, OWN_PART, OWN_PART]);
        // What is sent, taken back or lost with its connection makes room for others.
        assert!((0..30).all(|_| links[0].next_block(0).is_some()));
        assert!((30..50).all(|begin| !links[0].unwanted(&Request::new(0, begin, 1))));
        assert_eq!(common.available_permits(), 50);
        ask(&links[1]);
        assert_eq!(asked(&links[1]), OWN_PART + 50);
        drop(links);
        assert_eq!(common.available_permits(), COMMON);
    }
}
