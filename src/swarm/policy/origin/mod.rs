//! Origins as virtual peers: they have everything, choke nobody, count in no piece's rarity, and what is asked of them is in flight as if a
//! neighbour were asked for it: the first answer wins and takes the other request back.
//!
//! # Rules
//!
//! * Every request has to pass three [`gates`]: the origin may be asked, its part of the rate leaves room, and while peers are fast enough it
//!   gives only what none of them can.
//! * A host asks first for its own [`part`]. Those of the fleet are disjoint, so that a fleet that works fetches about one copy.
//! * Other parts come from the peers. Only a host that they do not feed fetches them itself: one request at first, then more and more.
//! * At the end a piece that a peer is slow to bring is asked of an origin as well.
//! * Of several origins that may be asked the one is that will probably answer first, by the same average as a neighbour's ([`Peer::service`]).
//! * One request fetches several short pieces that follow each other. A request that stands still is taken back and counts as failed.
//! * A host that downloads *directly* ([`Direct`]) asks for whatever is missing, as much as eligibility allows; peers and origins go on side by
//!   side, and each piece counts when it comes first. At the last, an origin that serves no parts sends all of the artifact in one go, and the
//!   controller's own web server is asked.
//!
//! Where there are no origins none of this changes anything, to the last random number.

mod direct;
mod gates;
mod meter;
mod part;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

pub use direct::Direct;
pub use part::Run;

use gates::Standing;
use meter::Meter;

#[cfg(doc)]
use super::Peer;
use super::{Action, PeerKey, PieceSet, Policy, table::Table};
use crate::model::origin::{OriginPart, OriginSettings};

/// Peers that give too little for this long do not feed the host, ...
const HUNGRY: Duration = Duration::from_secs(2);
/// ... or for this long while something comes.
const SLOWLY_FED: Duration = Duration::from_secs(10);
/// A piece that is on its way from a peer came a little nearer within this time.
const MOVES: Duration = Duration::from_secs(1);
/// A host that its peers do not feed makes one request more at the same time each time that this passes.
const MORE: Duration = Duration::from_millis(500);
/// At the end, a piece that a peer takes longer than this for, and than three times what is usual, is asked of an origin as well.
const LATE: Duration = Duration::from_secs(1);
/// Bounds of the time that a request may stand still.
const STANDSTILL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// The pause after the first failure, doubled each time, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// The longest that an origin which says that it is busy is left alone.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// What is known of an origin when it can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginTraits {
    /// It serves parts of the artifact; else only all of it.
    pub parts: bool,
    /// It is the controller's own web server.
    pub controller: bool,
}

/// How a host may use the origins of its run.
#[derive(Debug, Clone)]
pub struct OriginTerms {
    /// The operator's settings.
    pub settings: OriginSettings,
    /// What this host asks for first.
    pub part: OriginPart,
    /// The most pieces that it may fetch.
    pub max_pieces: Option<u32>,
    /// The length of a piece, in bytes.
    pub piece_length: u32,
}

/// Why a request to an origin came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginFailure {
    /// It failed.
    Failed,
    /// The origin says that it is busy, and for how long.
    Busy(Duration),
    /// It went well, but for pieces that somebody else was writing.
    Passed,
}

/// One request that is under way.
#[derive(Debug)]
struct Request {
    number: u32,
    /// It is for all of the artifact: what it brings is noted as in flight only when it begins to come.
    whole: bool,
    /// What has not come yet.
    pieces: Vec<u32>,
    /// The piece of which something came.
    begun: Option<u32>,
    /// When something came last; at first, when it was made.
    moved: Duration,
    /// When the piece began that comes now.
    since: Duration,
}

/// One origin.
#[derive(Debug, Default)]
struct Virtual {
    standing: Standing,
    /// It is the controller's own web server.
    controller: bool,
    requests: Vec<Request>,
    meter: Meter,
    /// As a neighbour's.
    service: Option<Duration>,
}

/// What a policy knows of the run's origins.
#[derive(Debug)]
pub(super) struct Origins {
    terms: OriginTerms,
    own: PieceSet,
    table: Table<PeerKey, Virtual>,
    /// How fast each neighbour delivers.
    peers: BTreeMap<PeerKey, Meter>,
    /// How many pieces may still be fetched. The controller's do not count.
    left: u32,
    direct: Direct,
    /// Since when nothing comes from peers.
    quiet: Option<Duration>,
    /// Since when they are slower than one should be.
    slow: Option<Duration>,
    next: u32,
}

impl Origins {
    pub(super) fn new(terms: OriginTerms, pieces: u32) -> Self {
        Self {
            own: part::own(terms.part, pieces, terms.piece_length),
            table: Table::new(),
            peers: BTreeMap::new(),
            left: terms.max_pieces.unwrap_or(u32::MAX),
            direct: Direct::No,
            quiet: None,
            slow: None,
            next: 0,
            terms,
        }
    }

    /// Returns the usual time of a piece from an origin.
    pub(super) fn service(&self, key: PeerKey) -> Option<Duration> {
        self.table.get(&key)?.service
    }

    /// Returns whether this is an origin.
    pub(super) fn owns(&self, key: PeerKey) -> bool {
        self.table.get(&key).is_some()
    }

    /// Returns how many pieces are asked of origins, those aside that come with all others.
    pub(super) fn asked(&self) -> usize {
        let requests = self.table.values().flat_map(|origin| &origin.requests);
        requests.filter(|request| !request.whole).map(|request| request.pieces.len()).sum()
    }

    /// Notes that something of a piece came; true if it begins to come with all others, and nobody knew that it would come now.
    pub(super) fn progress(&mut self, now: Duration, key: PeerKey, piece: u32) -> bool {
        let Some(origin) = self.table.get_mut(&key) else { return false };
        let Some(request) = origin.requests.iter_mut().find(|request| request.pieces.contains(&piece)) else { return false };
        request.moved = now;
        let begins = request.begun.replace(piece) != Some(piece);
        if begins && request.whole {
            request.since = now;
        }
        begins && request.whole
    }

    /// Notes that a piece came, from a neighbour or an origin that was asked so long ago.
    pub(super) fn received(&mut self, now: Duration, key: PeerKey, piece: u32, asked: Duration) {
        let bytes = self.terms.piece_length;
        let Some(origin) = self.table.get_mut(&key) else {
            return self.peers.entry(key).or_default().add(now, bytes, asked);
        };
        origin.standing.failures = 0;
        let Some(request) = origin.requests.iter_mut().find(|request| request.pieces.contains(&piece)) else { return };
        let took = now.saturating_sub(request.since);
        (request.moved, request.since, request.begun) = (now, now, None);
        origin.meter.add(now, bytes, took);
        origin.service = Some(origin.service.map_or(took, |usual| (usual * 3 + took) / 4));
        origin.forget(piece);
    }

    /// Takes a piece out of the requests to an origin; false if it was not asked for, or this is no origin.
    pub(super) fn take_back(&mut self, key: PeerKey, piece: u32) -> bool {
        let Some(origin) = self.table.get_mut(&key) else { return false };
        let Some(request) = origin.requests.iter().find(|request| request.pieces.contains(&piece)) else { return false };
        // What has begun to come was fetched, whether anybody wants it or not; and what comes with all others.
        let fetched = request.begun == Some(piece) || request.whole || origin.controller;
        self.left = self.left.saturating_add(u32::from(!fetched));
        origin.forget(piece);
        true
    }

    /// Forgets a neighbour.
    pub(super) fn peer_left(&mut self, key: PeerKey) {
        self.peers.remove(&key);
    }

    fn rate_of_peers(&self, now: Duration) -> f64 {
        self.peers.values().map(|meter| meter.rate(now)).sum()
    }

    fn rate(&self, now: Duration) -> f64 {
        self.table.values().map(|origin| origin.meter.rate(now)).sum()
    }

    /// Returns the origin that may be asked and will probably answer first.
    fn best(&self, now: Duration) -> Option<PeerKey> {
        let settings = &self.terms.settings;
        let active = self.table.values().map(|origin| origin.standing.active).sum();
        let expected = |origin: &Virtual| origin.service.unwrap_or_default() * (origin.standing.active + 1);
        self.table
            .iter()
            .filter(|(_, origin)| self.is_open(origin) && gates::is_eligible(now, &origin.standing, active, settings))
            .min_by_key(|(_, origin)| (origin.controller, expected(origin), origin.standing.active))
            .map(|(key, _)| *key)
    }

    /// Returns whether it is an origin's turn, however it has done: something may still be fetched, or the controller is asked as well.
    fn is_open(&self, origin: &Virtual) -> bool {
        if origin.controller { self.direct == Direct::Controller } else { self.left > 0 }
    }

    /// Returns how many requests a host that its peers do not feed may make at the same time.
    fn hungry_requests(&self, now: Duration) -> u32 {
        let over = |since: Option<Duration>, patience| now.saturating_sub(since?).checked_sub(patience);
        let hungry = over(self.quiet, HUNGRY).max(over(self.slow, SLOWLY_FED));
        hungry.map_or(0, |hungry| 1 + u32::try_from(hungry.as_millis() / MORE.as_millis()).unwrap_or(u32::MAX - 1))
    }

    /// Notes whether the peers feed the host: they are as fast as one should be, or at least something comes.
    fn note_fed(&mut self, now: Duration, moves: bool) {
        let fed = self.rate_of_peers(now) >= self.terms.settings.peer_rate_threshold as f64;
        self.quiet = if fed || moves { None } else { self.quiet.or(Some(now)) };
        self.slow = if fed { None } else { self.slow.or(Some(now)) };
    }
}

impl Virtual {
    fn forget(&mut self, piece: u32) {
        for request in &mut self.requests {
            request.pieces.retain(|asked| *asked != piece);
        }
        self.requests.retain(|request| !request.pieces.is_empty());
        self.standing.active = self.requests.len() as u32;
    }

    /// Notes that a request came to nothing.
    fn failed(&mut self, now: Duration, failure: OriginFailure, settings: &OriginSettings) {
        let standing = &mut self.standing;
        let rest = match failure {
            OriginFailure::Busy(time) => time.min(LONGEST_REST),
            OriginFailure::Passed => PAUSE.0,
            OriginFailure::Failed => {
                standing.failures = standing.failures.saturating_add(1);
                match standing.failures >= settings.failure_backoff_threshold {
                    true => settings.failure_backoff_duration,
                    false => (PAUSE.0 * 2u32.saturating_pow(standing.failures.min(10) - 1)).min(PAUSE.1),
                }
            }
        };
        standing.rests_until = standing.rests_until.max(now + rest);
    }
}

impl Policy {
    /// Adds an origin. Its key is no connection's.
    pub fn origin_joined(&mut self, now: Duration, key: PeerKey, traits: OriginTraits) {
        let Some(origins) = &mut self.origins else { return };
        let standing = Standing { ranges: traits.parts, ..Standing::default() };
        origins.table.insert(key, Virtual { standing, controller: traits.controller, ..Virtual::default() });
        origins.quiet.get_or_insert(now);
        origins.slow.get_or_insert(now);
        self.fetch(now);
    }

    /// Lets origins be used from now on.
    pub fn use_origins(&mut self, terms: OriginTerms) {
        self.origins = Some(Box::new(Origins::new(terms, self.config.pieces)));
    }

    /// Notes that a request moves, although nothing comes that is wanted.
    pub fn origin_moves(&mut self, now: Duration, key: PeerKey, request: u32) {
        let origin = self.origins.as_mut().and_then(|origins| origins.table.get_mut(&key));
        let request = origin.and_then(|origin| origin.requests.iter_mut().find(|other| other.number == request));
        if let Some(request) = request {
            request.moved = now;
        }
    }

    /// Notes that a request to an origin ended without some of its pieces; they are asked elsewhere.
    pub fn origin_failed(&mut self, now: Duration, key: PeerKey, request: u32, failure: OriginFailure) {
        let Some(origins) = &mut self.origins else { return };
        let Some(origin) = origins.table.get_mut(&key) else { return };
        let open = origin.requests.iter().any(|other| other.number == request);
        if failure == OriginFailure::Passed && !open {
            return;
        }
        origin.failed(now, failure, &origins.terms.settings);
        let pieces = origin.requests.iter().find(|other| other.number == request).map(|request| request.pieces.clone());
        for piece in pieces.unwrap_or_default() {
            self.drop_source(key, piece);
        }
        self.fill_all(now);
        self.fetch(now);
    }

    /// Removes an origin for good.
    pub fn origin_left(&mut self, now: Duration, key: PeerKey) {
        let Some(origins) = &mut self.origins else { return };
        let Some(origin) = origins.table.get(&key) else { return };
        let asked: Vec<u32> = origin.requests.iter().flat_map(|request| request.pieces.clone()).collect();
        for piece in asked {
            self.actions.push_back(Action::Cancel { peer: key, piece });
            self.drop_source(key, piece);
        }
        if let Some(origins) = &mut self.origins {
            origins.table.remove(&key);
        }
        self.fill_all(now);
        self.fetch(now);
    }

    /// Returns whether pieces are asked of an origin.
    pub fn fetches(&self) -> bool {
        self.origins.as_ref().is_some_and(|origins| origins.asked() > 0)
    }

    /// Lets time pass for the origins.
    pub(super) fn tick_origins(&mut self, now: Duration) {
        let moves = self.peers_move(now);
        let Some(origins) = &mut self.origins else { return };
        origins.note_fed(now, moves);
        for (key, number, pieces) in origins.still(now) {
            for piece in pieces {
                self.actions.push_back(Action::Cancel { peer: key, piece });
            }
            self.origin_failed(now, key, number, OriginFailure::Failed);
        }
        self.fetch(now);
    }

    /// Asks the origins for as much as they may be asked for.
    pub(super) fn fetch(&mut self, now: Duration) {
        if self.have.is_full() {
            return;
        }
        while let Some((origin, run)) = self.next_fetch(now) {
            run.pieces().for_each(|piece| self.ask_origin(now, origin, piece));
            let Some(origins) = &mut self.origins else { return };
            let request = origins.ask(now, origin, run.pieces().collect(), false);
            self.actions.push_back(Action::Fetch { origin, request, run });
        }
        self.fetch_all(now);
    }

    /// Returns what to ask next, and of which origin.
    fn next_fetch(&mut self, now: Duration) -> Option<(PeerKey, Run)> {
        let origins = self.origins.as_ref()?;
        let settings = &origins.terms.settings;
        let (origin, direct) = (origins.best(now)?, origins.direct > Direct::No);
        if !direct && !gates::leaves_room(origins.rate(now), origins.rate_of_peers(now), settings) {
            return None;
        }
        let most = part::run_length(origins.terms.piece_length).min(origins.left_of(origin));
        let spares = !direct && gates::spares_origins(origins.peers.values().map(|meter| meter.rate(now)), settings);
        let wanted = self.rarity.wanted();
        let lacking = wanted.without(&self.offered());
        let open = if spares { &lacking } else { wanted };
        let own = |among: &PieceSet| part::last_run(&among.intersection(&origins.own), most);
        if let Some(run) = own(&lacking).or_else(|| own(open)) {
            return Some((origin, run));
        }
        let active = origins.table.values().map(|origin| origin.standing.active).sum::<u32>();
        if direct || active < origins.hungry_requests(now) {
            let others = if lacking.is_empty() { open } else { &lacking };
            // Each hungry host begins elsewhere.
            let nth = self.random.u32(..others.count().max(1));
            if let Some(last) = others.iter().nth(nth as usize) {
                return Some((origin, part::run_to(others, last, most)));
            }
        }
        if !wanted.is_empty() || (active > 0 && !direct) {
            return None;
        }
        self.late_piece(now).map(|piece| (origin, Run { first: piece, count: 1 }))
    }

    /// Returns what the neighbours can give: hosts that would answer, not the seed, whose link is to be spared.
    fn offered(&self) -> PieceSet {
        let giving = self.peers.values().filter(|peer| !peer.seed && !peer.chokes_us && !peer.snubbed);
        giving.fold(PieceSet::new(self.config.pieces), |all, peer| all.union(&peer.have))
    }

    /// Returns whether something comes from a peer.
    fn peers_move(&self, now: Duration) -> bool {
        let Some(origins) = &self.origins else { return false };
        let sources = self.flights.values().flat_map(|flight| &flight.sources);
        sources
            .filter(|source| !origins.owns(source.peer))
            .any(|source| source.moved.is_some_and(|moved| now.saturating_sub(moved) <= MOVES))
    }

    /// Returns the piece that a peer takes longest for, if that is far too long.
    fn late_piece(&self, now: Duration) -> Option<u32> {
        let late = |source: &super::download::Source| {
            let usual = self.usual(source.peer);
            // An origin brings nothing sooner that is asked for twice.
            let of_peer = self.peers.get(&source.peer).is_some();
            // A long piece has one writer at a time.
            let busy = source.moved.is_some() && self.config.exclusive;
            of_peer && !busy && now.saturating_sub(source.asked) >= LATE.max(usual * 3)
        };
        self.flights
            .iter()
            .filter(|(_, flight)| !flight.checking && flight.sources.len() == 1)
            .filter_map(|(piece, flight)| flight.sources.first().map(|source| (piece, source)))
            .filter(|(_, source)| late(source))
            .min_by_key(|(_, source)| source.asked)
            .map(|(piece, _)| *piece)
    }
}

impl Origins {
    /// Returns how many pieces may still be fetched from an origin.
    fn left_of(&self, key: PeerKey) -> u32 {
        if self.table.get(&key).is_some_and(|origin| origin.controller) { u32::MAX } else { self.left }
    }

    /// Notes a request for these pieces and returns its number.
    fn ask(&mut self, now: Duration, key: PeerKey, pieces: Vec<u32>, whole: bool) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        let Some(origin) = self.table.get_mut(&key) else { return number };
        if !origin.controller {
            // An origin that sends all of it sends also what is there already.
            let fetched = if whole { self.own.len() } else { pieces.len() as u32 };
            self.left = self.left.saturating_sub(fetched);
        }
        origin.requests.push(Request { number, whole, pieces, begun: None, moved: now, since: now });
        origin.standing.active = origin.requests.len() as u32;
        number
    }

    /// Returns the requests that stand still, and what they have not brought.
    fn still(&self, now: Duration) -> Vec<(PeerKey, u32, Vec<u32>)> {
        let connecting = self.terms.settings.connect_timeout;
        let patience = |origin: &Virtual| match origin.service {
            Some(usual) => (usual * 4).clamp(STANDSTILL.0, STANDSTILL.1),
            None => connecting + STANDSTILL.0,
        };
        let requests = |(key, origin): (&PeerKey, &Virtual)| {
            let (key, patience) = (*key, patience(origin));
            let still = origin.requests.iter().filter(move |request| now.saturating_sub(request.moved) > patience);
            still.map(move |request| (key, request.number, request.pieces.clone())).collect::<Vec<_>>()
        };
        self.table.iter().flat_map(requests).collect()
    }
}
