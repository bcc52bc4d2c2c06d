//! The upload side: which request is served next, and the seed's push.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{Action, Peer, PeerKey, PieceSet, Policy, PolicyConfig, width::Width};
use crate::swarm::protocol::MAX_QUEUED_REQUESTS;

/// The most pieces remembered that one neighbour wants: as many as its connection queues requests, so that none is forgotten that is
/// waited for.
const MAX_WANTS: usize = MAX_QUEUED_REQUESTS;
/// A neighbour in another zone is pushed to when those in the seed's own have so many pieces more to pass on.
const FAR: u32 = 16;
/// A neighbour may have so many pieces more to pass on than another and still be pushed one.
const AHEAD: u32 = 4;
/// The reserve, in percent, of a seed whose hosts exchange nothing: as good as none.
const NO_RESERVE: u32 = 1_000_000_000;
/// How many pieces are remembered that a neighbour got last.
const RECENT: usize = 4;
/// A pushed piece that nobody announced after this long is pushed again.
const PUSH_LOST_AFTER: Duration = Duration::from_secs(10);
/// A request to the seed that waited this long is served whatever the reserve.
const RESCUE_AFTER: Duration = Duration::from_secs(1);
/// A request that waited as long as this many transfers goes before rarer pieces. Who lags behind asks for what everybody has, and
/// would starve.
const LONG_WAIT: u32 = 3;

/// A neighbour that got nothing elsewhere for this long has nobody but us.
const ALONE_AFTER: Duration = Duration::from_secs(5);
/// A transfer that takes this many times as long as others took, and at least so long, holds up nobody: its slot goes to another, and
/// what is pushed otherwise counts as pushed.
const STUCK: (u32, Duration) = (3, Duration::from_secs(1));
/// The same while no transfer has ended yet.
const STUCK_AT_FIRST: Duration = Duration::from_secs(5);

/// A piece a neighbour asked for.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) piece: u32,
    at: Duration,
}

/// A piece on its way to a neighbour.
#[derive(Debug)]
struct Transfer {
    peer: PeerKey,
    piece: u32,
    since: Duration,
    push: bool,
}

/// Slots and the seed's plan.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) width: Width,
    /// Each holds a slot, unless it is stuck.
    under_way: Vec<Transfer>,
    /// Usual time of a transfer.
    took: Option<Duration>,
    /// Pieces still to push, in file order.
    unpushed: VecDeque<u32>,
    queued: PieceSet,
    /// Pieces pushed and when, until a neighbour announces them.
    pushed: VecDeque<(Duration, u32)>,
    /// Whom each piece was pushed to and when, until another neighbour announces it or asks us for it.
    spreading: BTreeMap<u32, (PeerKey, Duration)>,
    /// How many pieces were sent to fleet peers, and which.
    given: u64,
    seeded: PieceSet,
}

impl Upload {
    pub(super) fn new(config: &PolicyConfig) -> Self {
        let pieces = if config.push { config.pieces } else { 0 };
        Self {
            width: Width::new(config.slots.0, config.slots.1),
            under_way: Vec::new(),
            took: None,
            unpushed: (0..pieces).collect(),
            queued: PieceSet::full(pieces),
            pushed: VecDeque::new(),
            spreading: BTreeMap::new(),
            given: 0,
            seeded: PieceSet::new(pieces),
        }
    }

    /// Forgets a peer's transfers.
    pub(super) fn forget(&mut self, key: PeerKey) {
        self.under_way.retain(|transfer| transfer.peer != key);
    }

    /// Notes the end of a transfer; returns how long it took.
    fn ended(&mut self, now: Duration, key: PeerKey, piece: u32) -> Option<Duration> {
        let at = self.under_way.iter().position(|transfer| (transfer.peer, transfer.piece) == (key, piece))?;
        self.width.sent(now, self.moving(now).count() >= self.width.slots());
        let took = now.saturating_sub(self.under_way.swap_remove(at).since);
        self.took = Some(self.took.map_or(took, |usual| (usual * 3 + took) / 4));
        Some(took)
    }

    /// Returns far longer than a transfer usually takes.
    fn stuck(&self) -> Duration {
        self.took.map_or(STUCK_AT_FIRST, |usual| (usual * STUCK.0).max(STUCK.1))
    }

    /// Returns the transfers that move, as far as one can tell.
    fn moving(&self, now: Duration) -> impl Iterator<Item = &Transfer> {
        let stuck = self.stuck();
        self.under_way.iter().filter(move |transfer| now.saturating_sub(transfer.since) <= stuck)
    }

    /// Returns whether every piece was pushed, but for those that are stuck.
    fn all_pushed(&self, now: Duration) -> bool {
        self.unpushed.is_empty() && !self.moving(now).any(|transfer| transfer.push)
    }
}

impl Peer {
    /// Returns whether it seems to have no other source than us: it got nothing elsewhere, or has not for long.
    fn is_alone(&self, now: Duration) -> bool {
        match self.elsewhere {
            None => now.saturating_sub(self.joined) > RESCUE_AFTER,
            Some(at) => now.saturating_sub(at) > ALONE_AFTER,
        }
    }
}

impl Policy {
    /// Serves whoever asks from now on: nobody gets anything from another.
    pub fn serve_everybody(&mut self, now: Duration) {
        self.config.reserve_percent = NO_RESERVE;
        self.serve(now);
    }

    /// Notes that a neighbour asks for a piece. A piece we don't have is ignored: it will hear when we do.
    pub fn requested(&mut self, now: Duration, key: PeerKey, piece: u32) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let known = peer.wants.iter().any(|want| want.piece == piece) || peer.sending.contains(&piece);
        if known || !self.have.contains(piece) || peer.wants.len() >= MAX_WANTS {
            return;
        }
        peer.wants.push(Want { piece, at: now });
        self.serve(now);
    }

    /// Notes that a neighbour no longer wants a piece. A transfer under way ends with [`Policy::sent`] as usual.
    pub fn cancelled(&mut self, key: PeerKey, piece: u32) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.wants.retain(|want| want.piece != piece);
        }
    }

    /// Notes that a transfer has ended, complete or cancelled.
    pub fn sent(&mut self, now: Duration, key: PeerKey, piece: u32) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.sending.retain(|sending| *sending != piece);
        peer.took = self.upload.ended(now, key, piece).or(peer.took);
        if self.config.push {
            self.upload.pushed.push_back((now, piece));
        }
        self.serve(now);
    }

    /// Fills the free slots.
    pub(super) fn serve(&mut self, now: Duration) {
        while self.upload.moving(now).count() < self.upload.width.slots() {
            let next = self.next_push(now).map(|(peer, piece)| (peer, piece, true));
            let next = next.or_else(|| self.next_request(now).map(|(peer, piece)| (peer, piece, false)));
            let Some((key, piece, push)) = next else { return };
            let Some(peer) = self.peers.get_mut(&key) else { return };
            peer.wants.retain(|want| want.piece != piece);
            peer.sending.push(piece);
            self.upload.under_way.push(Transfer { peer: key, piece, since: now, push });
            // The requests for a long piece come a few at a time: it counts once.
            if !peer.recent.contains(&piece) {
                self.upload.given += u64::from(peer.fleet);
                peer.given += 1;
                peer.recent.truncate(RECENT - 1);
                peer.recent.push_front(piece);
            }
            if peer.fleet {
                self.upload.seeded.insert(piece);
                self.stop_spreading(piece);
            }
            if push {
                self.start_spreading(now, key, piece);
            }
            self.actions.push_back(Action::Send { peer: key, piece, push });
        }
    }

    /// Unchokes a peer, unless it is to wait for pushes.
    pub(super) fn unchoke(&mut self, now: Duration, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if !peer.unchoked && (!peer.fleet || self.upload.all_pushed(now)) {
            peer.unchoked = true;
            self.actions.push_back(Action::Unchoke(key));
        }
    }

    /// Queues pieces that no neighbour has (any more) for another push.
    pub(super) fn push_again(&mut self, pieces: impl Iterator<Item = u32>) {
        if !self.config.push {
            return;
        }
        for piece in pieces {
            if self.rarity.copies(piece) == 0 && self.upload.queued.insert(piece) {
                self.upload.unpushed.push_back(piece);
            }
        }
    }

    /// Pushes again what was sent long ago and never announced.
    pub(super) fn check_pushes(&mut self, now: Duration) {
        self.unchoke_after_push(now);
        while let Some((at, piece)) = self.upload.pushed.front().copied() {
            if now.saturating_sub(at) < PUSH_LOST_AFTER {
                return;
            }
            self.upload.pushed.pop_front();
            self.push_again(std::iter::once(piece));
        }
    }

    /// Returns the next piece to push and the neighbour with the fewest, if one has room.
    fn next_push(&mut self, now: Duration) -> Option<(PeerKey, u32)> {
        if !self.config.push {
            return None;
        }
        // Standard clients that ask get a quarter of the slots while the push goes on.
        let foreign = self.peers.values().filter(|peer| !peer.fleet);
        let (waiting, served) = foreign.fold((false, 0), |(waiting, served), peer| {
            (waiting || (!peer.wants.is_empty() && peer.sending.is_empty()), served + peer.sending.len())
        });
        if waiting && served < self.upload.width.slots().div_ceil(4) {
            return None;
        }
        let room = self.room();
        // Neighbours that came with everything are not counted in `copies`; one is enough.
        let supplied = self.is_supplied();
        while let Some(piece) = self.upload.unpushed.front().copied() {
            let needed = !supplied && self.rarity.copies(piece) == 0;
            let target = self.push_target(now, room);
            if needed {
                let key = target?;
                self.upload.unpushed.pop_front();
                self.upload.queued.remove(piece);
                return Some((key, piece));
            }
            self.upload.unpushed.pop_front();
            self.upload.queued.remove(piece);
        }
        self.unchoke_after_push(now);
        None
    }

    /// Returns whether a host came with everything. One in another zone does not count where the seed has hosts of its own zone.
    fn is_supplied(&self) -> bool {
        let hosts = || self.peers.values().filter(|peer| peer.fleet);
        let near = hosts().any(|peer| !peer.far);
        hosts().any(|peer| peer.full && !(near && peer.far))
    }

    /// Returns the neighbour with the fewest pieces to pass on, if it has room. One that has far more than another waits for that one
    /// to be free.
    fn push_target(&self, now: Duration, room: usize) -> Option<PeerKey> {
        let burden = |peer: &Peer| peer.unspread + u32::from(peer.far) * FAR;
        let moves = |key: PeerKey| self.upload.moving(now).any(|transfer| transfer.peer == key);
        let hosts = || self.peers.iter().filter(|(_, peer)| peer.fleet && !peer.have.is_full());
        let least =
            hosts().filter(|(key, peer)| peer.sending.len() < room || moves(**key)).map(|(_, peer)| burden(peer)).min()?;
        hosts()
            .filter(|(_, peer)| peer.sending.len() < room && burden(peer) <= least + AHEAD)
            .min_by_key(|(_, peer)| (burden(peer), peer.sending.len(), peer.have.count()))
            .map(|(key, _)| *key)
    }

    /// Notes that a piece goes to a neighbour that is to spread it.
    fn start_spreading(&mut self, now: Duration, key: PeerKey, piece: u32) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.unspread += 1;
            self.upload.spreading.insert(piece, (key, now));
        }
    }

    fn stop_spreading(&mut self, piece: u32) {
        if let Some(peer) = self.upload.spreading.remove(&piece).and_then(|(keeper, _)| self.peers.get_mut(&keeper)) {
            peer.unspread -= 1;
        }
    }

    /// Notes that a neighbour announced a piece: if another was to spread it, it did.
    pub(super) fn note_spread(&mut self, key: PeerKey, piece: u32) {
        let fleet = self.peers.get(&key).is_some_and(|peer| peer.fleet);
        let Some((keeper, _)) = self.upload.spreading.get(&piece).copied().filter(|(keeper, _)| fleet && *keeper != key) else {
            return;
        };
        self.stop_spreading(piece);
        if let Some(peer) = self.peers.get_mut(&keeper) {
            peer.spreads = true;
        }
    }

    fn unchoke_after_push(&mut self, now: Duration) {
        if self.config.push && self.upload.all_pushed(now) {
            for key in self.peers.keys().copied().collect::<Vec<_>>() {
                self.unchoke(now, key);
            }
        }
    }

    /// Returns the request that waited long, else that for the rarest piece, then of the neighbour with the fewest, then the oldest.
    fn next_request(&self, now: Duration) -> Option<(PeerKey, u32)> {
        let room = self.room();
        let reserve = u64::from(self.config.pieces) * u64::from(100 + self.config.reserve_percent) / 100;
        let spare = !self.config.push || self.upload.given < reserve;
        self.peers
            .iter()
            .filter(|(_, peer)| peer.sending.len() < room)
            .flat_map(|(key, peer)| peer.wants.iter().map(move |want| (*key, peer, want)))
            .filter(|(_, peer, want)| {
                spare
                    || !peer.fleet
                    || peer.is_alone(now)
                    || peer.recent.contains(&want.piece)
                    || self.is_missing(now, want.piece)
                    || now.saturating_sub(want.at) > RESCUE_AFTER
            })
            .min_by_key(|(_, peer, want)| {
                // Who asks from another zone asks for all of it.
                let copies = if peer.far { 0 } else { self.rarity.copies(want.piece) };
                (peer.sending.len(), !self.waits_long(now, peer, want), copies, peer.have.count(), want.at)
            })
            .map(|(key, _, want)| (key, want.piece))
    }

    /// Returns whether a request waited much longer than transfers take: ours as well as those to this neighbour, whose link may be slow.
    fn waits_long(&self, now: Duration, peer: &Peer, want: &Want) -> bool {
        self.upload.took.max(peer.took).is_some_and(|usual| now.saturating_sub(want.at) > usual * LONG_WAIT)
    }

    /// Returns whether the fleet has not got the piece from us: it was never sent, whoever says to have it; it was pushed to a neighbour that passed nothing
    /// on so far; or no neighbour has it, nor will in a moment because it was pushed.
    fn is_missing(&self, now: Duration, piece: u32) -> bool {
        let lost = match self.upload.spreading.get(&piece) {
            Some((keeper, at)) => *at + self.upload.stuck() < now && self.peers.get(keeper).is_some_and(|peer| !peer.spreads),
            None => self.rarity.copies(piece) == 0,
        };
        lost || !self.upload.seeded.contains(piece)
    }

    /// Returns how many slots one neighbour may hold: two only where there are few neighbours, so that its next piece is ready.
    fn room(&self) -> usize {
        if self.peers.len() * 2 <= self.upload.width.slots() { 2 } else { 1 }
    }
}
