//! The upload side: which request is served next, and the seed's push.

use std::{collections::VecDeque, time::Duration};

use super::{Action, Peer, PeerKey, PieceSet, Policy, PolicyConfig};

/// The most pieces remembered that one neighbour wants.
const MAX_WANTS: usize = 256;
/// How many pieces are remembered that a neighbour got last.
const RECENT: usize = 4;
/// A pushed piece that nobody announced after this long is pushed again.
const PUSH_LOST_AFTER: Duration = Duration::from_secs(10);
/// A request to the seed that waited this long is served whatever the reserve.
const RESCUE_AFTER: Duration = Duration::from_secs(1);

/// A neighbour that got nothing elsewhere for this long has nobody but us.
const ALONE_AFTER: Duration = Duration::from_secs(5);
/// When all is pushed but for transfers that take this many times as long as others took, and at least so long, the neighbours may
/// ask: a frozen host must not hold up the rest.
const STUCK: (u32, Duration) = (3, Duration::from_secs(1));

/// A piece a neighbour asked for.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) piece: u32,
    at: Duration,
}

/// Slots and the seed's plan.
#[derive(Debug)]
pub(super) struct Upload {
    /// Slots in use.
    pub(super) active: usize,
    /// Pieces still to push, in file order.
    unpushed: VecDeque<u32>,
    queued: PieceSet,
    /// Pushes under way and since when.
    pushing: Vec<(PeerKey, u32, Duration)>,
    /// Usual time of a push.
    push_took: Option<Duration>,
    /// Pieces pushed and when, until a neighbour announces them.
    pushed: VecDeque<(Duration, u32)>,
    /// Pieces sent to fleet peers.
    given: u64,
}

impl Upload {
    pub(super) fn new(config: &PolicyConfig) -> Self {
        let pieces = if config.push { config.pieces } else { 0 };
        Self {
            active: 0,
            unpushed: (0..pieces).collect(),
            queued: PieceSet::full(pieces),
            pushing: Vec::new(),
            push_took: None,
            pushed: VecDeque::new(),
            given: 0,
        }
    }

    /// Forgets a peer's transfers.
    pub(super) fn forget(&mut self, key: PeerKey, sending: usize) {
        self.active -= sending;
        self.pushing.retain(|(peer, ..)| *peer != key);
    }

    /// Notes the end of a push.
    fn push_ended(&mut self, now: Duration, key: PeerKey, piece: u32) {
        let Some(at) = self.pushing.iter().position(|(peer, pushed, _)| (*peer, *pushed) == (key, piece)) else { return };
        let took = now.saturating_sub(self.pushing.swap_remove(at).2);
        self.push_took = Some(self.push_took.map_or(took, |usual| (usual * 3 + took) / 4));
    }

    /// Returns whether every piece was pushed, but for those that hang.
    fn all_pushed(&self, now: Duration) -> bool {
        let hangs =
            |since: Duration| self.push_took.is_some_and(|usual| now.saturating_sub(since) > (usual * STUCK.0).max(STUCK.1));
        self.unpushed.is_empty() && self.pushing.iter().all(|(.., since)| hangs(*since))
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
        let before = peer.sending.len();
        peer.sending.retain(|sending| *sending != piece);
        self.upload.active -= before - peer.sending.len();
        self.upload.push_ended(now, key, piece);
        if self.config.push {
            self.upload.pushed.push_back((now, piece));
        }
        self.serve(now);
    }

    /// Fills the free slots.
    pub(super) fn serve(&mut self, now: Duration) {
        while self.upload.active < self.config.slots {
            let next = self.next_push(now).map(|(peer, piece)| (peer, piece, true));
            let next = next.or_else(|| self.next_request(now).map(|(peer, piece)| (peer, piece, false)));
            let Some((key, piece, push)) = next else { return };
            let Some(peer) = self.peers.get_mut(&key) else { return };
            peer.wants.retain(|want| want.piece != piece);
            peer.sending.push(piece);
            self.upload.active += 1;
            if push {
                self.upload.pushing.push((key, piece, now));
            }
            // The requests for a long piece come a few at a time: it counts once.
            if !peer.recent.contains(&piece) {
                self.upload.given += u64::from(peer.traits.fleet);
                peer.given += 1;
                peer.recent.truncate(RECENT - 1);
                peer.recent.push_front(piece);
            }
            self.actions.push_back(Action::Send { peer: key, piece, push });
        }
    }

    /// Unchokes a peer, unless it is to wait for pushes.
    pub(super) fn unchoke(&mut self, now: Duration, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if !peer.unchoked && (!peer.traits.fleet || self.upload.all_pushed(now)) {
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
        // Standard clients that ask get a quarter of the slots while the push goes on.
        let foreign = self.peers.values().filter(|peer| !peer.traits.fleet);
        let (waiting, served) = foreign.fold((false, 0), |(waiting, served), peer| {
            (waiting || (!peer.wants.is_empty() && peer.sending.is_empty()), served + peer.sending.len())
        });
        if waiting && served < self.config.slots.div_ceil(4) {
            return None;
        }
        let room = self.room();
        // Neighbours that came with everything are not counted in `copies`; one is enough.
        let supplied = self.peers.values().any(|peer| peer.full && peer.traits.fleet);
        while let Some(piece) = self.upload.unpushed.front().copied() {
            let needed = !supplied && self.rarity.copies(piece) == 0;
            let target = self
                .peers
                .iter()
                .filter(|(_, peer)| peer.traits.fleet && !peer.have.is_full() && peer.sending.len() < room)
                .min_by_key(|(_, peer)| (peer.sending.len(), peer.have.count()))
                .map(|(key, _)| *key);
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

    fn unchoke_after_push(&mut self, now: Duration) {
        if self.config.push && self.upload.all_pushed(now) {
            for key in self.peers.keys().copied().collect::<Vec<_>>() {
                self.unchoke(now, key);
            }
        }
    }

    /// Returns the request for the rarest piece, then of the neighbour with the fewest, then the oldest.
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
                    || !peer.traits.fleet
                    || peer.is_alone(now)
                    || peer.recent.contains(&want.piece)
                    || self.rarity.copies(want.piece) == 0
                    || now.saturating_sub(want.at) > RESCUE_AFTER
            })
            .min_by_key(|(_, peer, want)| (peer.sending.len(), self.rarity.copies(want.piece), peer.have.count(), want.at))
            .map(|(key, _, want)| (key, want.piece))
    }

    /// Returns how many slots one neighbour may hold: two only where there are few neighbours, so that its next piece is ready.
    fn room(&self) -> usize {
        if self.peers.len() * 2 <= self.config.slots { 2 } else { 1 }
    }
}
