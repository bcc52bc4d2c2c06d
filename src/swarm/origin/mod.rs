//! Origins: web servers that have the artifact, asked over HTTP/1.1 for parts of it.
//!
//! Owns: connections to origins, requests and their answers, the check of what an origin has before it is used. What to ask for and when is
//! the policy's business (`policy::origin`); what comes is checked by the storage as what comes from a neighbour.
//! Promises: an origin is used only if it has the artifact's length and serves ranges; what it sends costs one chunk of memory and one
//! connection's buffer for each request, whatever the piece length; every wait is bounded by the settings; what an origin wants to know of
//! us goes to it alone and into no log. All tasks end with the engine.
//! Never: trusts an origin for the artifact's content: a piece with a wrong hash bans it for the run.

mod address;
mod client;
mod fetch;
mod probe;
mod reply;
mod tls;
#[cfg(feature = "controller")]
mod torrent;
#[cfg(feature = "controller")]
mod whole;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::task::JoinSet;

pub(crate) use client::{Access, Client};
pub(super) use fetch::Outcome;
pub(crate) use probe::Good;
#[cfg(feature = "controller")]
pub use torrent::{ForeignTorrent, MAX_TORRENT, TorrentError};
#[cfg(feature = "controller")]
pub(crate) use whole::File;

use super::{
    Throttle,
    connection::{Context, Event},
    policy::{PeerKey, PieceSet, Run},
};
use crate::{
    http::HttpError,
    model::origin::{Origin, Origins, WebSeed},
};
use fetch::{Order, Wanted};

/// The pause after the first look at an origin that failed, doubled each time.
const PAUSE: Duration = Duration::from_secs(1);

/// What an origin's task tells the session.
#[derive(Debug)]
pub(super) enum OriginEvent {
    /// It has the artifact, and serves parts of it or only all of it.
    Ready { parts: bool },
    /// It can't be asked yet, and why; it is tried again.
    Waits { why: String, hint: Option<&'static str> },
    /// It is of no use for pieces.
    Useless(Uselessness),
    /// A request moves, although nothing comes that is wanted.
    Moves { request: u32 },
    /// A request ended.
    Ended { request: u32, outcome: Outcome },
}

/// Why an origin is not asked for pieces.
#[derive(Debug)]
pub(super) enum Uselessness {
    /// It serves the whole artifact only.
    NoParts,
    /// It does not have the artifact.
    Bad(HttpError),
}

/// The origins of one engine.
#[derive(Default)]
pub(super) struct Pool {
    clients: BTreeMap<PeerKey, Arc<Client>>,
    fetches: BTreeMap<(PeerKey, u32), Arc<Wanted>>,
    /// What all of them together keep to.
    rate: Throttle,
    /// The controller's own web server.
    controller: Option<PeerKey>,
    tasks: JoinSet<()>,
}

impl Pool {
    /// Starts to look at the origins. Their keys are the highest, where no connection's will ever be.
    pub(super) fn start(origins: Origins, context: &Arc<Context>) -> Self {
        let mut pool = Self { rate: Throttle::new(origins.max_rate), ..Self::default() };
        let access = Access::new(origins.settings, origins.certificates);
        for (number, origin) in (0..).zip(origins.sources.into_iter().take(WebSeed::MOST)) {
            pool.add(context, PeerKey(u32::MAX - number), Client::new(access.clone(), origin));
        }
        pool
    }

    /// Starts to look at the controller's own web server, once. No proxy is asked for it.
    pub(super) fn add_controller(&mut self, origin: Origin, context: &Arc<Context>) {
        let key = PeerKey(u32::MAX - WebSeed::MOST as u32);
        if self.controller.replace(key).is_none() {
            self.add(context, key, Client::new(Access::of_controller(context.tls.clone()), origin));
        }
    }

    fn add(&mut self, context: &Arc<Context>, key: PeerKey, client: Client) {
        let client = Arc::new(client);
        self.clients.insert(key, client.clone());
        self.tasks.spawn(look(context.clone(), client, key));
    }

    /// Returns whether this is the controller's own web server.
    pub(super) fn is_controller(&self, key: PeerKey) -> bool {
        self.controller == Some(key)
    }

    /// Returns an origin's address, as it may be shown; none if the key is no origin's.
    pub(super) fn address(&self, key: PeerKey) -> Option<String> {
        self.clients.get(&key).map(|client| client.origin().seed.to_string())
    }

    /// Returns whether this is an origin.
    pub(super) fn owns(&self, key: PeerKey) -> bool {
        self.clients.contains_key(&key)
    }

    /// Asks an origin for the pieces of a run.
    pub(super) fn fetch(&mut self, context: &Arc<Context>, origin: PeerKey, request: u32, run: Run) {
        self.order(context, Order { origin, request, run, whole: false }, run.pieces());
    }

    /// Asks an origin for all of the artifact, of which these pieces are wanted.
    pub(super) fn fetch_all(&mut self, context: &Arc<Context>, origin: PeerKey, request: u32, wanted: &PieceSet) {
        let run = Run { first: 0, count: wanted.len() };
        self.order(context, Order { origin, request, run, whole: true }, wanted.iter());
    }

    fn order(&mut self, context: &Arc<Context>, order: Order, wanted: impl IntoIterator<Item = u32>) {
        let Order { origin, request, .. } = order;
        let Some(client) = self.clients.get(&origin) else { return };
        let wanted = Arc::new(Wanted::new(wanted));
        self.fetches.insert((origin, request), wanted.clone());
        let rate = if self.is_controller(origin) { Throttle::default() } else { self.rate.clone() };
        let fetch = fetch::run(context.clone(), client.clone(), rate, order, wanted);
        let context = context.clone();
        self.tasks.spawn(async move {
            let outcome = fetch.await;
            tell(&context, origin, OriginEvent::Ended { request, outcome }).await;
        });
    }

    /// Notes that a request ended.
    pub(super) fn ended(&mut self, origin: PeerKey, request: u32) {
        self.fetches.remove(&(origin, request));
    }

    /// Closes the connections that no request needs.
    pub(super) fn rest(&self) {
        self.clients.values().for_each(|client| client.close_idle());
    }

    /// Takes a piece back.
    pub(super) fn cancel(&mut self, origin: PeerKey, piece: u32) {
        for (_, wanted) in self.fetches.range((origin, 0)..=(origin, u32::MAX)) {
            if wanted.cancel(piece) {
                return;
            }
        }
    }

    /// Waits for a task's end; none while there is no task. What it had to tell is an event.
    pub(super) async fn task_ended(&mut self) -> Option<()> {
        if let Err(error) = self.tasks.join_next().await?
            && error.is_panic()
        {
            tracing::error!(%error, "an origin's task panicked");
        }
        Some(())
    }

    /// Ends all requests and waits for their tasks.
    pub(super) async fn shut_down(&mut self) {
        self.tasks.shutdown().await;
    }
}

/// Finds out what an origin is good for. As long as it can't be asked it is tried again.
async fn look(context: Arc<Context>, client: Arc<Client>, key: PeerKey) {
    if !client.origin().ranges {
        // The controller has found that out, and told it.
        return tell(&context, key, OriginEvent::Ready { parts: false }).await;
    }
    let longest = client.access().settings().failure_backoff_duration;
    let (mut pause, mut silent) = (PAUSE, true);
    let event = loop {
        let error = match client.probe(&context.meta).await {
            Ok(Good::Parts) => break OriginEvent::Ready { parts: true },
            Ok(Good::Whole) => break OriginEvent::Useless(Uselessness::NoParts),
            Err(error) if error.may_pass() => error,
            Err(error) => break OriginEvent::Useless(Uselessness::Bad(error)),
        };
        if std::mem::take(&mut silent) {
            tell(&context, key, OriginEvent::Waits { why: error.chain(), hint: hint(&error) }).await;
        }
        let wait = if let HttpError::Busy(time) = error { time } else { pause };
        tokio::time::sleep(wait.min(longest)).await;
        pause = (pause * 2).min(longest);
    };
    tell(&context, key, event).await;
}

async fn tell(context: &Context, key: PeerKey, event: OriginEvent) {
    // Fails only when the session has ended, and then nobody needs to know.
    let _ = context.events.send((key, Event::Origin(event))).await;
}

/// Returns what to do about an origin that can't be used.
pub(crate) fn hint(error: &HttpError) -> Option<&'static str> {
    match error {
        HttpError::Tls { .. } => Some("if its certificate is from an authority of your own, name that with --origin-ca"),
        HttpError::Status(401 | 403) => Some("put what it asks for into a file and name that with --origin-auth"),
        HttpError::Status(404 | 410) => {
            Some("is the artifact there, under this name? An address that ends in / is its directory's")
        }
        _ => None,
    }
}

/// Reads an answer for the fuzzer.
#[cfg(fuzzing)]
pub(super) fn read_any_reply(headers: &hyper::HeaderMap, body: &[u8]) {
    let _ = (reply::content_range(headers), reply::content_length(headers));
    let _ = (reply::is_encoded(headers), reply::rest(headers, body));
}
