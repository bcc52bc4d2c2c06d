//! Carries the decisions of [`Spread`] between the tasks of the hosts: who pushes now, who fetches from whom, who is to serve.
//!
//! One [`Courier`] a run, one [`Errand`] for each connection to a host. Dropping an errand ends whatever the host was doing in it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};

use super::{
    AgentFinder,
    spread::{Action, Event, Place, Spread},
};
use crate::{model::HostId, wire::RelayToken};

/// How often those who wait look whether something takes too long.
const TICK: Duration = Duration::from_millis(500);

/// The one place of a run where hosts and agents meet.
#[derive(Debug)]
pub(in crate::controller) struct Courier {
    pub(super) finder: Arc<AgentFinder>,
    /// None if hosts are not to serve each other.
    token: Option<RelayToken>,
    desk: Mutex<Desk>,
    /// Told whenever the links may have become calm.
    calm: Notify,
}

#[derive(Debug)]
struct Desk {
    spread: Spread,
    orders: HashMap<HostId, oneshot::Sender<Order>>,
    asked: HashMap<HostId, oneshot::Sender<()>>,
    gave_up: bool,
}

/// How a host gets its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Push,
    Fetch { from: HostId, address: SocketAddr, limit: Duration },
}

/// What a host's task hears while its agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::controller) enum Word {
    /// Its agent is to serve itself.
    Relay,
    /// The agents have spread: links are free for something else.
    Calm,
}

impl Courier {
    /// Starts with a fleet of that size whose hosts may serve each other.
    pub(in crate::controller) fn new(finder: Arc<AgentFinder>, fleet: usize) -> Self {
        let mut bytes = [0; 16];
        let token = match getrandom::fill(&mut bytes) {
            Ok(()) => Some(RelayToken::from_random(bytes)),
            Err(error) => {
                tracing::warn!("no random numbers, so every agent goes over SSH: {error}");
                None
            }
        };
        Self::with_token(finder, fleet, token)
    }

    /// Starts with hosts whose agents do not run long enough to serve.
    pub(in crate::controller) fn without_relays(finder: Arc<AgentFinder>, fleet: usize) -> Self {
        Self::with_token(finder, fleet, None)
    }

    fn with_token(finder: Arc<AgentFinder>, fleet: usize, token: Option<RelayToken>) -> Self {
        let spread = Spread::new(fleet, token.is_some());
        let desk = Mutex::new(Desk { spread, orders: HashMap::new(), asked: HashMap::new(), gave_up: false });
        Self { finder, token, desk, calm: Notify::new() }
    }

    /// Begins with a connection to a host.
    pub(in crate::controller) fn errand(self: &Arc<Self>, host: HostId) -> Errand {
        Errand { courier: self.clone(), host, asked: None }
    }

    /// Returns the secret that hosts fetch with, if they do.
    pub(in crate::controller) fn token(&self) -> Option<&RelayToken> {
        self.token.as_ref()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Nothing that runs under the lock panics half-way through a change.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, event: Event) {
        let mut desk = self.desk();
        desk.handle(event);
        if desk.spread.is_calm(Instant::now()) {
            self.calm.notify_waiters();
        }
    }
}

impl Desk {
    fn handle(&mut self, event: Event) {
        for action in self.spread.handle(event, Instant::now()) {
            // One who is not there any more ends its errand, which undoes this.
            match action {
                Action::Push(host) => self.order(host, Order::Push),
                Action::Fetch { host, from, address, limit } => self.order(host, Order::Fetch { from, address, limit }),
                Action::Ask(host) => {
                    if let Some(asked) = self.asked.remove(&host) {
                        let _ = asked.send(());
                    }
                }
            }
        }
        if self.spread.is_hopeless() && !self.gave_up {
            self.gave_up = true;
            tracing::info!("hosts of one kind can't fetch the agent from each other: from now on it comes over SSH");
        }
    }

    fn order(&mut self, host: HostId, order: Order) {
        if let Some(waiting) = self.orders.remove(&host) {
            let _ = waiting.send(order);
        }
    }
}

/// What one connection to a host has to do with agents.
#[derive(Debug)]
pub(in crate::controller) struct Errand {
    pub(super) courier: Arc<Courier>,
    host: HostId,
    asked: Option<oneshot::Receiver<()>>,
}

impl Errand {
    /// Waits until it is the host's turn to get its agent. Without a place it can only be pushed to.
    pub(super) async fn wants(&self, place: Option<Place>) -> Order {
        self.order(Event::Wants(self.host, place)).await
    }

    /// Says that all of what the host fetches has come: its source may serve another.
    pub(super) fn arrived(&self) {
        self.courier.handle(Event::Arrived(self.host));
    }

    /// Says that the fetch has failed, and waits for the next turn.
    pub(super) async fn fetch_failed(&self) -> Order {
        self.order(Event::FetchFailed(self.host)).await
    }

    /// Says that the host has its agent now.
    pub(super) fn got(&self) {
        self.courier.handle(Event::Got(self.host));
    }

    async fn order(&self, event: Event) -> Order {
        let (order, mut ordered) = oneshot::channel();
        {
            let mut desk = self.courier.desk();
            desk.orders.insert(self.host, order);
            desk.handle(event);
        }
        loop {
            tokio::select! {
                // Nobody but this errand takes its place at the desk; without one, pushing is what always works.
                order = &mut ordered => return order.unwrap_or(Order::Push),
                () = sleep(TICK) => self.courier.handle(Event::Tick),
            }
        }
    }

    /// Says that the host's agent runs and may be asked to serve.
    pub(in crate::controller) fn runs(&mut self, place: Place) {
        let (ask, asked) = oneshot::channel();
        self.asked = Some(asked);
        self.courier.desk().asked.insert(self.host, ask);
        self.courier.handle(Event::Runs(self.host, place));
    }

    /// Says where the host's agent serves, if it does.
    pub(in crate::controller) fn serves(&self, address: Option<SocketAddr>) {
        self.courier.handle(match address {
            Some(address) => Event::Serves(self.host, address),
            None => Event::Declines(self.host),
        });
    }

    /// True unless links are better left to the agents that other hosts wait for.
    pub(in crate::controller) fn is_calm(&self) -> bool {
        self.courier.desk().spread.is_calm(Instant::now())
    }

    /// Waits for a word about the agent that runs; for calm only if that is wanted. Cancel-safe.
    pub(in crate::controller) async fn word(&mut self, wants_calm: bool) -> Word {
        loop {
            let Self { courier, asked, .. } = self;
            let changed = courier.calm.notified();
            if wants_calm && courier.desk().spread.is_calm(Instant::now()) {
                return Word::Calm;
            }
            tokio::select! {
                said = async {
                    match asked {
                        Some(asked) => asked.await.is_ok(),
                        None => std::future::pending().await,
                    }
                } => {
                    self.asked = None;
                    if said {
                        return Word::Relay;
                    }
                }
                () = changed, if wants_calm => (),
                () = sleep(TICK), if wants_calm => (),
            }
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        {
            let mut desk = self.courier.desk();
            desk.orders.remove(&self.host);
            desk.asked.remove(&self.host);
        }
        self.courier.handle(Event::Gone(self.host));
    }
}
