//! The download side: which piece is asked from whom, and when a request is taken back.

use std::time::Duration;

use super::{Action, Peer, PeerKey, Policy, window::Window};

/// A piece that is asked for, arriving, or being checked.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) sources: Vec<Source>,
    /// All blocks are here; the hash is being checked.
    pub(super) checking: bool,
}

impl Flight {
    /// Returns whether only the seed is asked, which may keep the request for a while, and has not begun.
    pub(super) fn waits_for_seed(&self) -> bool {
        !self.checking && self.sources.iter().all(Source::is_kept)
    }
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) peer: PeerKey,
    /// It is the controller's seed.
    seed: bool,
    pub(super) asked: Duration,
    /// How many pieces the neighbour was asked for then, with this one; 0 if it is pushed.
    among: usize,
    /// When its last block came; none before the first.
    pub(super) moved: Option<Duration>,
}

impl Source {
    fn is_kept(&self) -> bool {
        self.seed && self.moved.is_none()
    }
}

/// A request younger than this is not asked elsewhere, unless the seed is asked.
const STEAL_AFTER: Duration = Duration::from_millis(250);
/// Near the end, a piece that began to arrive but takes longer than this may be asked for twice.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Bounds of the time after which a request that has not begun is taken back.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(30));
/// Bounds of the time after which a transfer that has begun counts as stalled.
const STALL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// The part of the pieces in flight that the seed may push at the same time: one of four.
const PUSHED_PART: usize = 4;

/// How many pieces every neighbour may be asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    usual: usize,
    /// There is one neighbour: the seed is no reserve.
    alone: bool,
}

impl Peer {
    /// Returns whether it may be asked for one more piece.
    pub(super) fn has_room(&self, limits: Limits) -> bool {
        !self.chokes_us && self.asked.len() < self.limit(limits)
    }

    /// Returns how many pieces it may be asked for.
    fn limit(&self, limits: Limits) -> usize {
        let one = self.snubbed || (self.seed && !limits.alone);
        if one { 1 } else { limits.usual + self.window.more() }
    }

    /// Returns whether it gave something, and let no request lapse since.
    fn answers(&self) -> bool {
        self.service.is_some() && !self.snubbed
    }

    /// Returns whether what it says it has can be hoped for: it answered so far, or can be asked for the first time. Saying so is not enough,
    /// for anybody can.
    fn gives(&self, limits: Limits) -> bool {
        !self.chokes_us && (self.answers() || (!self.snubbed && self.has_room(limits)))
    }
}

impl Policy {
    /// Notes that blocks of a requested piece came.
    pub fn progress(&mut self, now: Duration, key: PeerKey, piece: u32) {
        if let Some(origins) = &mut self.origins
            && origins.progress(now, key, piece)
            && !self.have.contains(piece)
        {
            self.ask_origin(now, key, piece);
        }
        let Some(flight) = self.flights.get_mut(&piece) else { return };
        let Some(source) = flight.sources.iter_mut().find(|source| source.peer == key) else { return };
        let first = source.moved.replace(now).is_none();
        if first && let Some(peer) = self.peers.get_mut(&key) {
            peer.window.began(now.saturating_sub(source.asked));
        }
        if first && flight.sources.len() > 1 {
            // One that delivers already, if slowly, may still be the first to finish.
            self.cancel_where(now, piece, |source| source.peer != key && source.moved.is_none());
        }
    }

    /// Notes the first block of a piece that was not asked for. False refuses it: it is there or arriving, or more is pushed than may be.
    pub fn push_started(&mut self, now: Duration, key: PeerKey, piece: u32) -> bool {
        if piece >= self.config.pieces || self.have.contains(piece) || !self.may_push(key) {
            return false;
        }
        let flight = self.flights.get_or_default(piece);
        if flight.checking || flight.sources.iter().any(|source| source.moved.is_some()) {
            return false;
        }
        flight.sources.retain(|source| source.peer != key);
        flight.sources.push(Source { peer: key, seed: true, asked: now, among: 0, moved: Some(now) });
        if let Some(peer) = self.peers.get_mut(&key)
            && !peer.asked.contains(&piece)
        {
            peer.asked.push(piece);
        }
        self.rarity.take(piece);
        self.cancel_where(now, piece, |source| source.peer != key);
        true
    }

    /// Returns whether a neighbour may push one more piece. Pushes go before requests: they get a part of the pieces in flight, and one that let a
    /// piece lapse has one to show that it can.
    fn may_push(&self, key: PeerKey) -> bool {
        let Some(peer) = self.peers.get(&key).filter(|peer| peer.seed) else { return false };
        let under_way: usize = self.peers.values().filter(|peer| peer.seed).map(|peer| peer.asked.len()).sum();
        (peer.asked.is_empty() || !peer.snubbed) && under_way < (self.config.usual_in_flight / PUSHED_PART).max(1)
    }

    /// Notes a piece's last block; its hash is being checked now.
    pub fn received(&mut self, now: Duration, key: PeerKey, piece: u32) {
        let Some(flight) = self.flights.get_mut(&piece) else { return };
        let Some(at) = flight.sources.iter().position(|source| source.peer == key) else { return };
        let source = flight.sources.swap_remove(at);
        flight.checking = true;
        if let Some(zone) = &mut self.far {
            zone.received(now, piece);
        }
        let limits = self.limits();
        let took = now.saturating_sub(source.asked);
        if let Some(origins) = &mut self.origins {
            origins.received(now, key, piece, took);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            let limit = peer.limit(limits);
            let full = peer.asked.len() >= limit;
            peer.asked.retain(|asked| *asked != piece);
            peer.snubbed = false;
            let usual = peer.service.map_or(took, |usual| (usual * 3 + took) / 4);
            peer.service = Some(usual);
            if source.among > 0 {
                self.resize(key, |window| window.came(took, source.among, usual, limit, full));
            }
        }
        self.cancel_where(now, piece, |source| source.peer != key);
        self.fill(now, key);
        self.fetch(now);
    }

    /// Notes that a received piece has the right hash and is on disk: it can be served.
    pub fn verified(&mut self, now: Duration, piece: u32) {
        if !self.have.insert(piece) {
            return;
        }
        self.rarity.take(piece);
        self.cancel_where(now, piece, |_| true);
        self.flights.remove(&piece);
        self.pass_over(piece);
        if !self.have.is_full() {
            return;
        }
        for (key, peer) in self.peers.iter_mut() {
            if std::mem::take(&mut peer.interested) {
                self.actions.push_back(Action::Interested(*key, false));
            }
        }
        self.serve(now);
    }

    /// Notes that a received piece was wrong or lost: it is asked for again.
    pub fn failed(&mut self, now: Duration, piece: u32) {
        if let Some(flight) = self.flights.get_mut(&piece) {
            flight.checking = false;
            if flight.sources.is_empty() {
                self.flights.remove(&piece);
                self.put(piece);
            }
        }
        self.fill_all(now);
    }

    /// Asks a neighbour for as much as it may be asked for.
    pub(super) fn fill(&mut self, now: Duration, key: PeerKey) {
        let limits = self.limits();
        while let Some(peer) = self.peers.get(&key) {
            if !peer.has_room(limits) {
                return;
            }
            // Taking over adds no flight: neighbours that sit on all of them must not hold up one that delivers.
            let room = self.asked_of_peers() < (self.config.usual_in_flight + self.opened).min(self.config.max_in_flight);
            let picked = if room { self.pick(now, key) } else { None };
            let Some(piece) = picked.or_else(|| self.steal(now, key)) else { return };
            self.rarity.take(piece);
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.asked.push(piece);
                let source = Source { peer: key, seed: peer.seed, asked: now, among: peer.asked.len(), moved: None };
                self.flights.get_or_default(piece).sources.push(source);
                if let Some(zone) = &mut self.far {
                    zone.asked(piece, peer.far);
                }
            }
            self.actions.push_back(Action::Request { peer: key, piece });
        }
    }

    /// Notes that an origin is asked for a piece.
    pub(super) fn ask_origin(&mut self, now: Duration, key: PeerKey, piece: u32) {
        self.rarity.take(piece);
        let source = Source { peer: key, seed: false, asked: now, among: 0, moved: None };
        self.flights.get_or_default(piece).sources.push(source);
    }

    /// Lets origins that send all of the artifact pass over a piece that is there.
    fn pass_over(&mut self, piece: u32) {
        let Some(origins) = &mut self.origins else { return };
        for origin in origins.streaming(piece) {
            origins.take_back(origin, piece);
            self.actions.push_back(Action::Cancel { peer: origin, piece });
        }
    }

    /// Returns how many pieces are in flight, those aside that only origins are asked for: their memory is bounded by their requests.
    fn asked_of_peers(&self) -> usize {
        let origins = self.origins.as_ref().map_or(0, |origins| origins.asked());
        self.flights.len().saturating_sub(origins)
    }

    /// Returns the usual time from a request to its last block; zero while it is not known.
    pub(super) fn usual(&self, key: PeerKey) -> Duration {
        let of_origin = || self.origins.as_ref().and_then(|origins| origins.service(key));
        self.peers.get(&key).map_or_else(of_origin, |peer| peer.service).unwrap_or_default()
    }

    /// Asks every neighbour that has room, starting at a random one so that the first is not favoured.
    pub(super) fn fill_all(&mut self, now: Duration) {
        if self.have.is_full() {
            return;
        }
        let mut keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        self.random.shuffle(&mut keys);
        for key in keys {
            self.fill(now, key);
        }
    }

    /// Takes back requests that don't move.
    pub(super) fn expire(&mut self, now: Duration) {
        let mut late = Vec::new();
        let of_peer = |source: &&Source| self.peers.get(&source.peer).is_some();
        for (piece, flight) in self.flights.iter() {
            for source in flight.sources.iter().filter(of_peer) {
                let usual = self.usual(source.peer);
                let expired = match source.moved {
                    None => now.saturating_sub(source.asked) > (usual * 4).clamp(PATIENCE.0, PATIENCE.1),
                    Some(moved) => now.saturating_sub(moved) > (usual * 2).clamp(STALL.0, STALL.1),
                };
                if expired {
                    late.push((source.peer, *piece));
                }
            }
        }
        for (key, piece) in late {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.snubbed = true;
                peer.asked.retain(|asked| *asked != piece);
            }
            self.resize(key, Window::close);
            self.actions.push_back(Action::Cancel { peer: key, piece });
            self.drop_source(key, piece);
        }
    }

    /// Changes how many pieces more than usual a neighbour may be asked for.
    fn resize(&mut self, key: PeerKey, change: impl FnOnce(&mut Window)) {
        if let Some(peer) = self.peers.get_mut(&key) {
            let before = peer.window.more();
            change(&mut peer.window);
            self.opened = self.opened - before + peer.window.more();
        }
    }

    /// Forgets that a neighbour was asked; without another source the piece is wanted again.
    pub(super) fn drop_source(&mut self, key: PeerKey, piece: u32) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.asked.retain(|asked| *asked != piece);
        } else if let Some(origins) = &mut self.origins {
            origins.take_back(key, piece);
        }
        let Some(flight) = self.flights.get_mut(&piece) else { return };
        flight.sources.retain(|source| source.peer != key);
        if flight.sources.is_empty() && !flight.checking {
            self.flights.remove(&piece);
            if let Some(zone) = &mut self.far {
                zone.dropped(piece);
            }
            self.put(piece);
        }
    }

    /// Returns how many pieces every neighbour may be asked for.
    pub(super) fn limits(&self) -> Limits {
        // In a fleet with zones a host asks hardly any but its zone mates.
        let sources = self.far.as_ref().map_or(self.peers.len(), |zone| zone.mates());
        Limits { usual: (self.config.outstanding / sources.max(1)).clamp(1, 4), alone: self.peers.len() == 1 }
    }

    /// Returns the rarest piece that nobody is asked for and this neighbour has.
    fn pick(&mut self, now: Duration, key: PeerKey) -> Option<u32> {
        let peer = self.peers.get(&key)?;
        if peer.seed {
            // The seed is the reserve: only what no neighbour has, and only while the neighbours have nothing to give.
            // Nor is it spared for a host that is farther.
            let near_enough = |other: &Peer| !other.far || (peer.far && other.full);
            let limits = self.limits();
            let mut others = self.peers.values().filter(|other| !other.seed && near_enough(other) && other.gives(limits));
            if others.any(|other| self.rarity.wants_any(&other.have)) {
                return None;
            }
        }
        if peer.far {
            let crossing = self.may_cross(now, peer);
            return self.rarity.rarest(&crossing, &mut self.random);
        }
        self.rarity.rarest(&peer.have, &mut self.random)
    }

    /// Returns the oldest request to another neighbour that this idle one would probably answer sooner.
    fn steal(&self, now: Duration, key: PeerKey) -> Option<u32> {
        let peer = self.peers.get(&key)?;
        let end = self.rarity.is_empty();
        // One that let a request lapse will hardly be sooner, and would keep the place from one that is.
        if peer.snubbed || !peer.asked.is_empty() || (peer.seed && !end) || (peer.far && !self.is_in_need(now)) {
            return None;
        }
        self.flights
            .iter()
            .filter(|(piece, flight)| !flight.checking && peer.have.contains(**piece) && self.has_place(flight, peer))
            .filter(|(_, flight)| !peer.far || self.is_stuck(flight))
            .filter(|(_, flight)| flight.sources.iter().all(|source| self.is_late(now, source, peer.service, end)))
            .min_by_key(|(_, flight)| flight.sources.first().map(|source| source.asked))
            .map(|(piece, _)| *piece)
    }

    /// Returns whether this neighbour may be asked too: one more is, and one that answers besides any that do not. Else two that only claim pieces would keep one
    /// for as long as they are waited for.
    fn has_place(&self, flight: &Flight, peer: &Peer) -> bool {
        let answers = |key: PeerKey| self.peers.get(&key).is_none_or(Peer::answers);
        flight.sources.len() == 1 || (peer.answers() && !flight.sources.iter().any(|source| answers(source.peer)))
    }

    /// Returns whether a request is worth repeating: it has not begun in more than the usual time, or at the seed, which is the reserve and keeps it, or, when
    /// nothing else is left to ask for, it takes far longer than the other neighbour usually does.
    fn is_late(&self, now: Duration, source: &Source, other: Option<Duration>, end: bool) -> bool {
        let waited = now.saturating_sub(source.asked);
        match source.moved {
            None if source.seed => true,
            None => waited >= STEAL_AFTER.max(self.usual(source.peer) * 3 / 2),
            // A long piece has one writer at a time.
            Some(_) => end && !self.config.exclusive && waited >= SLOW_AFTER.max(other.unwrap_or_default() * 3),
        }
    }

    /// Takes back the requests for a piece that `test` picks, and asks their neighbours for something else.
    fn cancel_where(&mut self, now: Duration, piece: u32, test: impl Fn(&Source) -> bool) {
        let Some(flight) = self.flights.get_mut(&piece) else { return };
        let others: Vec<PeerKey> = flight.sources.iter().filter(|source| test(source)).map(|source| source.peer).collect();
        flight.sources.retain(|source| !test(source));
        for other in others {
            if let Some(peer) = self.peers.get_mut(&other) {
                peer.asked.retain(|asked| *asked != piece);
                self.actions.push_back(Action::Cancel { peer: other, piece });
                self.fill(now, other);
            } else if self.origins.as_mut().is_some_and(|origins| origins.take_back(other, piece)) {
                self.actions.push_back(Action::Cancel { peer: other, piece });
            }
        }
    }

    /// Puts a piece back among the wanted ones.
    fn put(&mut self, piece: u32) {
        if !self.have.contains(piece) {
            self.rarity.put(piece);
        }
    }
}
