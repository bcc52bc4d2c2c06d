//! Direct downloads: how far a host goes without its peers, and origins that send all of the artifact in one go.

use std::time::Duration;

use super::{
    super::{Action, PeerKey, Policy},
    Origins, Virtual,
};

/// How far a host goes without its peers. Each level includes those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direct {
    /// Origins give what the peers lack.
    #[default]
    No,
    /// It downloads from origins that serve parts, whatever the peers do.
    Parts,
    /// And from one that serves no parts, where no other works.
    Origins,
    /// And from the controller's web server.
    Controller,
}

impl Origins {
    /// Returns the origins that send a piece with all others.
    pub(in crate::swarm::policy) fn streaming(&self, piece: u32) -> Vec<PeerKey> {
        let sends = |origin: &Virtual| origin.requests.iter().any(|request| request.whole && request.pieces.contains(&piece));
        self.table.iter().filter(|(_, origin)| sends(origin)).map(|(key, _)| *key).collect()
    }

    /// Returns whether an origin that it is the turn of can be hoped for.
    fn works(&self, now: Duration, origin: &Virtual) -> bool {
        let failing = origin.standing.failures >= self.terms.settings.failure_backoff_threshold;
        self.is_open(origin) && now >= origin.standing.rests_until && !failing
    }

    /// Returns the origin to fetch all of `pieces` pieces from in one go: one that serves no parts, where none does that works.
    fn best_whole(&self, now: Duration, pieces: u32) -> Option<PeerKey> {
        if self.direct < Direct::Origins || self.left < pieces {
            return None;
        }
        let parts = |origin: &Virtual| origin.standing.ranges && self.works(now, origin);
        let under_way = |origin: &Virtual| origin.requests.iter().any(|request| request.whole);
        if self.table.values().any(|origin| parts(origin) || under_way(origin)) {
            return None;
        }
        let whole = |origin: &Virtual| !origin.standing.ranges && now >= origin.standing.rests_until;
        self.table.iter().find(|(_, origin)| whole(origin)).map(|(key, _)| *key)
    }
}

impl Policy {
    /// Returns whether it was told of origins, or of the controller's web server.
    pub fn knows_origins(&self) -> bool {
        self.origins.is_some()
    }

    /// Downloads directly from now on, so far at least.
    pub fn go_direct(&mut self, now: Duration, direct: Direct) {
        let Some(origins) = &mut self.origins else { return };
        origins.direct = origins.direct.max(direct);
        self.fetch(now);
    }

    /// Returns whether an origin, the controller aside, can be hoped for.
    pub fn has_origin(&self, now: Duration) -> bool {
        let Some(origins) = &self.origins else { return false };
        let hopeful = |origin: &Virtual| {
            let enough = origin.standing.ranges || origins.left >= self.config.pieces || !origin.requests.is_empty();
            !origin.controller && enough && origins.works(now, origin)
        };
        origins.table.values().any(hopeful)
    }

    /// Returns how many bytes a second a direct download would bring at least: what one request to the best origin brings. None while that
    /// is not known.
    pub fn direct_rate(&self) -> Option<u64> {
        let origins = self.origins.as_ref()?;
        let times = origins.table.values().filter(|origin| !origin.controller).filter_map(|origin| origin.service);
        let seconds = times.min()?.as_secs_f64();
        Some((f64::from(origins.terms.piece_length) / seconds.max(1e-3)) as u64)
    }

    /// Asks an origin for everything in one go, if that is all that is left to do.
    pub(super) fn fetch_all(&mut self, now: Duration) {
        let Some(origins) = &mut self.origins else { return };
        let Some(origin) = origins.best_whole(now, self.config.pieces) else { return };
        let comes = |piece: &u32| self.flights.get(piece).is_some_and(|flight| flight.checking);
        let missing: Vec<u32> = self.have.complement().iter().filter(|piece| !comes(piece)).collect();
        if !missing.is_empty() {
            let request = origins.ask(now, origin, missing, true);
            self.actions.push_back(Action::FetchAll { origin, request });
        }
    }
}
