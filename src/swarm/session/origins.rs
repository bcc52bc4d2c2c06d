//! What the session hears of origins.

use std::time::Duration;

use super::Session;
use crate::{
    http::HttpError,
    model::origin::{Origin, OriginPart, OriginSettings, Origins},
    swarm::{
        EngineError, Reach,
        origin::{OriginEvent, Outcome, Pool, Uselessness, hint},
        policy::{Direct, OriginFailure, OriginTerms, OriginTraits, PeerKey},
    },
};

impl Session {
    /// Begins to look at origins, unless nothing is missing.
    pub(super) fn use_origins(&mut self, origins: Origins) {
        if self.complete || !origins.settings.enabled {
            return;
        }
        self.policy.use_origins(OriginTerms {
            settings: origins.settings.clone(),
            part: origins.part,
            max_pieces: origins.max_pieces,
            piece_length: self.context.meta.piece_length(),
        });
        self.origins = Pool::start(origins, &self.context);
    }

    /// Downloads directly from now on; `web` is the controller's own web server.
    pub(super) fn go_direct(&mut self, now: Duration, direct: Direct, web: Option<Origin>) {
        if self.complete {
            return;
        }
        if !self.policy.knows_origins() {
            self.policy.use_origins(OriginTerms {
                settings: OriginSettings::default(),
                part: OriginPart { rank: 0, of: 1 },
                max_pieces: None,
                piece_length: self.context.meta.piece_length(),
            });
        }
        self.policy.go_direct(now, direct);
        if let Some(web) = web {
            self.origins.add_controller(web, &self.context);
        }
    }

    /// Returns whether a direct download is possible, and how fast it would be.
    pub(super) fn note_direct(&mut self, now: Duration) {
        self.stats.direct(self.policy.has_origin(now), self.policy.direct_rate());
    }

    pub(super) fn origin_event(&mut self, now: Duration, key: PeerKey, event: OriginEvent) -> Result<(), EngineError> {
        let Some(address) = self.origins.address(key) else { return Ok(()) };
        if let OriginEvent::Ended { request, .. } = event {
            self.origins.ended(key, request);
        }
        let controller = self.origins.is_controller(key);
        match event {
            OriginEvent::Ready { parts } => {
                tracing::debug!(%address, "the origin can be used");
                if controller {
                    self.stats.web(Reach::Stands);
                }
                self.policy.origin_joined(now, key, OriginTraits { parts, controller });
            }
            OriginEvent::Moves { request } => self.policy.origin_moves(now, key, request),
            OriginEvent::Waits { why, .. } if controller => self.stats.web(Reach::Failed(why)),
            OriginEvent::Useless(Uselessness::Bad(error)) if controller => self.stats.web(Reach::Failed(error.chain())),
            OriginEvent::Waits { why, hint } => {
                self.stats.notice(format!("the origin {address} can't be asked yet: {why}"), hint);
            }
            OriginEvent::Useless(Uselessness::NoParts) => self.give_up(now, key, &address),
            OriginEvent::Useless(Uselessness::Bad(error)) => {
                self.stats.notice(format!("the origin {address} is not used: {}", error.chain()), hint(&error));
            }
            OriginEvent::Ended { request, outcome } => match outcome {
                Outcome::Done => self.policy.origin_failed(now, key, request, OriginFailure::Passed),
                Outcome::NoParts => self.give_up(now, key, &address),
                Outcome::Engine(error) => return Err(error),
                Outcome::Failed(error) => {
                    tracing::debug!(%address, error = error.chain(), "a request to an origin failed");
                    let failure = match error {
                        HttpError::Busy(time) => OriginFailure::Busy(time),
                        _ => OriginFailure::Failed,
                    };
                    self.policy.origin_failed(now, key, request, failure);
                }
            },
        }
        Ok(())
    }

    /// Keeps an origin that serves no parts for the time when nothing else works.
    fn give_up(&mut self, now: Duration, key: PeerKey, address: &str) {
        let message = format!(
            "the origin {address} serves only the whole file, no parts of it: it is used only where nothing else works"
        );
        self.stats.notice(message, Some("most web servers serve parts; a proxy in between may be why this one does not"));
        self.policy.origin_left(now, key);
        self.policy.origin_joined(now, key, OriginTraits { parts: false, controller: self.origins.is_controller(key) });
    }

    /// Leaves an origin alone for the rest of the run, because it sent what is not the artifact's.
    pub(super) fn ban_origin(&mut self, now: Duration, key: PeerKey, piece: u32) {
        let Some(address) = self.origins.address(key) else { return };
        let message =
            format!("the origin {address} sent other content than the artifact's (piece {piece}) and is not used any more");
        self.stats.notice(message, Some("is the artifact there the one that is deployed?"));
        self.policy.origin_left(now, key);
    }
}
