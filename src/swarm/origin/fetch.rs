//! One request of the policy: the pieces of a run, from the origin's bytes to the storage's check.
//!
//! Bytes go through one chunk at a time, whatever the length of a piece, the same way as a neighbour's: a piece of several chunks is claimed,
//! its chunks are hashed and written as they come, and it counts when the storage has checked it. A piece that is taken back is over at
//! once, and its claim with it; what still comes of it is skipped, or, if that is much, asked for no longer.
//!
//! An origin that serves no parts sends whole files: then everything that is not wanted is skipped, but for files of which nothing is.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use sha1::Sha1;

use super::{
    OriginEvent,
    address::{self, Part},
    client::Client,
    probe,
};
use crate::{
    http::{Answer, HttpError},
    swarm::{
        EngineError, Throttle,
        connection::{Context, Event},
        policy::{PeerKey, Run},
        storage::{CHUNK, Claim, lock},
    },
};

/// How often progress of one piece is reported.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// How much that nobody wants is rather read than left on a connection that has to be made anew.
const WORTH_SKIPPING: u64 = 256 << 10;

/// How a request ended.
#[derive(Debug)]
pub(in crate::swarm) enum Outcome {
    /// Everything that was still wanted came.
    Done,
    /// It failed.
    Failed(HttpError),
    /// The origin does not serve parts after all.
    NoParts,
    /// Our own storage failed.
    Engine(EngineError),
}

/// A request that is under way, as its task and the session know it.
#[derive(Debug)]
pub(super) struct Wanted {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What is still wanted.
    pieces: BTreeSet<u32>,
    /// The right to write the piece that comes now, if it has several chunks.
    claim: Option<(u32, Claim)>,
}

impl Wanted {
    pub(super) fn new(pieces: impl IntoIterator<Item = u32>) -> Self {
        Self { state: Mutex::new(State { pieces: pieces.into_iter().collect(), claim: None }) }
    }

    /// Returns whether nothing is wanted any more.
    fn is_over(&self) -> bool {
        lock(&self.state).pieces.is_empty()
    }

    /// Takes a piece back; false if it is not wanted here.
    pub(super) fn cancel(&self, piece: u32) -> bool {
        self.done(piece).is_some()
    }

    /// Returns whether a piece is still wanted.
    fn wants(&self, piece: u32) -> bool {
        lock(&self.state).pieces.contains(&piece)
    }

    /// Keeps the claim of a piece that comes now. False if it was taken back meanwhile.
    fn hold(&self, piece: u32, claim: Claim) -> bool {
        let mut state = lock(&self.state);
        let wanted = state.pieces.contains(&piece);
        if wanted {
            state.claim = Some((piece, claim));
        }
        wanted
    }

    /// Ends a piece and returns its claim; none if it was taken back.
    fn done(&self, piece: u32) -> Option<Option<Claim>> {
        let mut state = lock(&self.state);
        if !state.pieces.remove(&piece) {
            return None;
        }
        Some(state.claim.take_if(|(claimed, _)| *claimed == piece).map(|(_, claim)| claim))
    }
}

/// What is asked of an origin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) origin: PeerKey,
    pub(super) request: u32,
    pub(super) run: Run,
    /// All of it comes, from the beginning to the end, whatever is asked for.
    pub(super) whole: bool,
}

/// Fetches a run to its end.
pub(super) async fn run(
    context: Arc<Context>,
    client: Arc<Client>,
    rate: Throttle,
    order: Order,
    wanted: Arc<Wanted>,
) -> Outcome {
    let Order { run, whole, .. } = order;
    let parts = if whole { address::parts(client.origin(), &context.meta, run) } else { VecDeque::new() };
    let source = Source { client: &client, context: &context, rate, whole, parts, open: None, rest: Bytes::new() };
    let mut fetch = Fetch { order, wanted, source, reported: None };
    for piece in run.pieces() {
        if !fetch.wanted.wants(piece) {
            continue;
        }
        match fetch.piece(run, piece).await {
            Ok(()) => {}
            Err(Stop::TakenBack) => {}
            Err(Stop::Failed(error)) => return Outcome::Failed(error),
            Err(Stop::NoParts) => return Outcome::NoParts,
            Err(Stop::Engine(error)) => return Outcome::Engine(error),
            Err(Stop::Over) => return Outcome::Done,
        }
    }
    fetch.source.finish().await;
    Outcome::Done
}

/// Why a piece does not come.
enum Stop {
    /// Nobody waits for it any more.
    TakenBack,
    /// The session has ended.
    Over,
    Failed(HttpError),
    NoParts,
    Engine(EngineError),
}

impl From<HttpError> for Stop {
    fn from(error: HttpError) -> Self {
        Self::Failed(error)
    }
}

struct Fetch<'a> {
    order: Order,
    wanted: Arc<Wanted>,
    source: Source<'a>,
    reported: Option<Instant>,
}

impl Fetch<'_> {
    /// Fetches one piece and has it checked.
    async fn piece(&mut self, run: Run, piece: u32) -> Result<(), Stop> {
        let context = self.source.context;
        let size = context.meta.piece_size(piece).unwrap_or(0);
        let mut number = u64::MAX;
        if self.order.whole {
            // That takes its time, in which somebody else may bring the piece.
            self.seek(piece, run).await?;
        }
        if size > CHUNK {
            // A neighbour delivers it; the policy hears that from its progress and takes it back here.
            let claim = context.storage.claim(piece).ok_or(Stop::TakenBack)?;
            number = claim.number();
            if !self.wanted.hold(piece, claim) {
                return Err(Stop::TakenBack);
            }
        }
        if !self.order.whole {
            self.seek(piece, run).await?;
        }
        self.reported = None;
        let (mut hasher, mut offset) = (Sha1::default(), 0);
        loop {
            let length = (size - offset).min(CHUNK);
            let data = self.chunk(piece, length).await?;
            if offset + length == size {
                return self.finish(piece, offset, data, hasher).await;
            }
            let appended = context.storage.append(piece, offset, data, hasher, number).await.map_err(Stop::Engine)?;
            hasher = appended.ok_or(Stop::TakenBack)?;
            offset += length;
        }
    }

    /// Goes to the beginning of a piece.
    async fn seek(&mut self, piece: u32, run: Run) -> Result<(), Stop> {
        let mut skip = self.source.seek(Run { first: piece, count: run.pieces().end - piece });
        while skip > 0 {
            skip -= self.source.take(usize::try_from(skip).unwrap_or(usize::MAX)).await?.len() as u64;
            if self.wanted.is_over() {
                return Err(Stop::Over);
            }
            if self.is_due() {
                self.tell(Event::Origin(OriginEvent::Moves { request: self.order.request })).await?;
            }
        }
        Ok(())
    }

    /// Returns whether it is time to report.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.reported.is_none_or(|before| now - before >= REPORT_EVERY);
        if due {
            self.reported = Some(now);
        }
        due
    }

    /// Reads so many bytes of a piece.
    async fn chunk(&mut self, piece: u32, length: u32) -> Result<Bytes, Stop> {
        let mut data = BytesMut::with_capacity(length as usize);
        while data.len() < length as usize {
            let more = self.source.take(length as usize - data.len()).await?;
            data.extend_from_slice(&more);
            if !self.wanted.wants(piece) {
                return Err(Stop::TakenBack);
            }
            if self.is_due() {
                self.tell(Event::Progress(piece)).await?;
            }
        }
        Ok(data.freeze())
    }

    async fn tell(&mut self, event: Event) -> Result<(), Stop> {
        self.source.context.events.send((self.order.origin, event)).await.map_err(|_| Stop::Over)
    }

    /// Has a complete piece checked. As with a neighbour's, both queues' places are taken first: the session has heard of a received piece
    /// exactly if its check was submitted.
    async fn finish(&mut self, piece: u32, offset: u32, data: Bytes, hasher: Sha1) -> Result<(), Stop> {
        let context = self.source.context;
        let place = context.storage.reserve(piece).await.map_err(Stop::Engine)?;
        let received = context.events.reserve().await.map_err(|_| Stop::Over)?;
        let Some(claim) = self.wanted.done(piece) else { return Err(Stop::TakenBack) };
        received.send((self.order.origin, Event::Received(piece)));
        let (events, key) = (context.events.clone(), self.order.origin);
        // Fails only when the session has ended, and then nobody needs to know.
        let report = Box::new(move |checked| drop(events.blocking_send((key, Event::Checked(piece, checked)))));
        place.finish(offset, data, hasher, claim, report);
        Ok(())
    }
}

/// The bytes of a run, in order, over as many requests as it takes.
struct Source<'a> {
    client: &'a Client,
    context: &'a Context,
    rate: Throttle,
    /// As in [`Order`].
    whole: bool,
    /// What is still to be asked for.
    parts: VecDeque<Part>,
    open: Option<Open>,
    /// What has come and is not taken yet.
    rest: Bytes,
}

struct Open {
    answer: Answer,
    /// How much of it is still to come.
    left: u64,
}

impl Source<'_> {
    /// Goes to the beginning of what is to come and returns how many bytes of what is left before it are to be skipped; if that is much, it
    /// is asked for no longer, where that is possible.
    fn seek(&mut self, run: Run) -> u64 {
        let bytes = address::bytes_of(&self.context.meta, run);
        let ahead = self.ahead();
        let skip = ahead.checked_sub(bytes.end - bytes.start);
        match skip.filter(|skip| self.whole || (*skip <= WORTH_SKIPPING && ahead > 0)) {
            Some(mut skip) => {
                // Files that are not asked for yet, and need not be.
                let done = self.rest.is_empty() && self.open.as_ref().is_none_or(|open| open.left == 0);
                while done && let Some(part) = self.parts.pop_front_if(|part| part.bytes <= skip) {
                    skip -= part.bytes;
                }
                skip
            }
            None => {
                (self.open, self.rest) = (None, Bytes::new());
                self.parts = address::parts(self.client.origin(), &self.context.meta, run);
                0
            }
        }
    }

    /// Returns how many bytes are still to come without a new beginning.
    fn ahead(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |open| open.left);
        self.rest.len() as u64 + open + self.parts.iter().map(|part| part.bytes).sum::<u64>()
    }

    /// Returns the next bytes, at least one and at most so many.
    async fn take(&mut self, most: usize) -> Result<Bytes, Stop> {
        while self.rest.is_empty() {
            self.rest = self.more().await?;
        }
        Ok(self.rest.split_to(most.min(self.rest.len())))
    }

    async fn more(&mut self) -> Result<Bytes, Stop> {
        let client = self.client;
        if self.open.as_ref().is_none_or(|open| open.left == 0) {
            self.open = Some(self.next().await?);
        }
        let Some(open) = &mut self.open else { return Ok(Bytes::new()) };
        let Some(data) = open.answer.chunk(client.access().settings().request_timeout).await? else {
            return Err(HttpError::Answer("its answer ended before its end".to_owned()).into());
        };
        let Some(left) = open.left.checked_sub(data.len() as u64) else {
            return Err(HttpError::Answer("it sends more than it was asked for".to_owned()).into());
        };
        open.left = left;
        self.context.counters.received.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.rate.pass(data.len()).await;
        self.context.bounds.download.pass(data.len()).await;
        Ok(data)
    }

    /// Asks for the next part.
    async fn next(&mut self) -> Result<Open, Stop> {
        self.finish().await;
        let Some(part) = self.parts.pop_front() else {
            return Err(HttpError::Answer("nothing is left to ask for".to_owned()).into());
        };
        let answer = self.client.get(&part.ask).await?;
        match (answer.status, part.file) {
            (StatusCode::PARTIAL_CONTENT, Some(_)) | (StatusCode::OK, None) => probe::check_part(&answer, &part)?,
            // The whole of a file, if that is what was asked for.
            (StatusCode::OK, Some(length)) if part.bytes == length => {}
            (StatusCode::OK, Some(_)) => return Err(Stop::NoParts),
            _ => return Err(self.client.refusal(answer).await.into()),
        }
        Ok(Open { answer, left: part.bytes })
    }

    /// Keeps the connection for the next request, if its answer has come to its end.
    async fn finish(&mut self) {
        if let Some(open) = self.open.take_if(|open| open.left == 0) {
            self.client.keep(open.answer).await;
        }
    }
}
