//! The connections of one engine: their tasks, their identities and their bounds.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use librqbit_core::hash_id::Id20;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::{AbortHandle, Id, JoinSet},
};

use super::{
    plain,
    pool::{Pool, Standing, Way},
    stats::Source,
};
use crate::swarm::{
    connection::{self, COMMANDS, Command, Context, Exit, Origin, Welcome},
    policy::{Action, PeerKey, PeerTraits, PieceSet},
    protocol::Extensions,
};

/// How the ids of our own peers begin (BEP 20).
pub(super) const CLIENT: &[u8; 3] = b"-FD";
/// Connections of a host and of the controller's seed.
pub(in crate::swarm) const MAX_PEERS: (usize, usize) = (256, 2048);
/// The part of them that may be accepted connections that have not shaken hands yet: one in four, so that silent ones leave room.
const PENDING_PART: usize = 4;
/// Connections being dialled. As many places are out of reach for accepted ones.
pub(super) const MAX_DIALLING: usize = 32;
/// A connection that gave and took nothing for this long gives way to a new one ...
const USELESS_AFTER: Duration = Duration::from_secs(10);
/// ... and after this, if more of its kind come from its address than from the new one's. Before the handshake: after this in any
/// case, and at once if more come from its address.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// A connection does some good while it has a part in this many exchanged pieces: far more than a host has neighbours.
const EXCHANGED: u64 = 128;
/// Two connections of one peer that came within this time may have been dialled by both sides at once.
const SAME_TIME: Duration = Duration::from_secs(2);

/// One connection.
#[derive(Debug)]
struct Peer {
    /// The socket's other end.
    addr: SocketAddr,
    /// Where the peer can be dialled, when it is known.
    listens: Option<SocketAddr>,
    way: Way,
    id: Option<Id20>,
    commands: Option<mpsc::Sender<Command>>,
    joined: bool,
    came: Duration,
    /// When it last gave or took a piece; at first, when it came.
    useful: Duration,
    /// How many pieces were exchanged with anybody until then.
    exchanged: u64,
    /// It was let go; its task is about to end.
    dropped: bool,
    task: AbortHandle,
}

impl Peer {
    fn is_dialled(&self) -> bool {
        self.way != Way::Accepted
    }

    fn was_useful(&self) -> bool {
        self.useful > self.came
    }

    /// Returns whether it counts where it is asked whether there are enough: it is being made, or it stands and is the controller's choice, new, or
    /// of use when so many pieces in all had been exchanged.
    fn does_good(&self, now: Duration, exchanged: u64) -> bool {
        if !self.joined {
            return self.is_dialled() && now.saturating_sub(self.came) < IDLE_AFTER;
        }
        self.way >= Way::Chosen || exchanged - self.exchanged < EXCHANGED
    }

    /// Returns whether it takes the place of another connection to a peer of the same id. Anybody can say an id, so whom we found where the
    /// controller says it is gives way to nobody who came to us.
    fn replaces(&self, now: Duration, other: &Self, own: Id20, id: Id20) -> bool {
        match (self.way, other.way) {
            (_, Way::Controller) | (Way::Accepted, Way::Chosen) => return false,
            (Way::Controller, _) => return true,
            // Whoever said the id before may be another.
            (Way::Chosen, Way::Accepted) if self.addr.ip() != other.addr.ip() && !other.was_useful() => return true,
            _ => {}
        }
        // Both sides may have dialled at the same time. Both keep the one that the larger id dialled. Not other clients: they end the later one
        // whoever dialled it, and by our own rule both connections would go.
        let same_time = now.saturating_sub(other.came) < SAME_TIME && !other.was_useful();
        let keep_dialled = own > id;
        id.0.starts_with(CLIENT) && same_time && self.is_dialled() == keep_dialled && other.is_dialled() != keep_dialled
    }
}

/// What becomes of a connection after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Welcome,
    /// It is ourselves.
    Own,
    /// There is one to the same peer, or to who says so.
    Duplicate,
}

impl Verdict {
    pub(super) fn refuses(self) -> bool {
        self != Self::Welcome
    }
}

/// The connections.
#[derive(Debug)]
pub(super) struct Peers {
    peers: HashMap<PeerKey, Peer>,
    by_id: HashMap<Id20, PeerKey>,
    tasks: JoinSet<Exit>,
    keys: HashMap<Id, PeerKey>,
    next: u32,
    max: usize,
    /// How many pieces were given or taken.
    exchanged: u64,
    /// The controller's connection that stood last, and where it went: when it has ended, its pieces may still be checked.
    last_controller: Option<(PeerKey, SocketAddr)>,
}

impl Peers {
    pub(super) fn new(seed: bool) -> Self {
        Self {
            peers: HashMap::new(),
            by_id: HashMap::new(),
            tasks: JoinSet::new(),
            keys: HashMap::new(),
            next: 0,
            max: if seed { MAX_PEERS.1 } else { MAX_PEERS.0 },
            exchanged: 0,
            last_controller: None,
        }
    }

    /// Returns how many peers are connected.
    pub(super) fn joined(&self) -> usize {
        self.peers.values().filter(|peer| peer.joined).count()
    }

    /// Returns what the connections amount to for a host that misses pieces, with the time when something `arrived`, or for one that has all: nothing
    /// has to come of them.
    pub(super) fn standing(&self, now: Duration, arrived: Option<Duration>) -> Standing {
        let good = |peer: &&Peer| arrived.is_none() || peer.does_good(now, self.exchanged);
        Standing {
            good: self.peers.values().filter(good).count(),
            tracker: self.peers.values().filter(|peer| peer.way == Way::Tracker).count(),
            quiet: arrived.map_or(Duration::ZERO, |at| now.saturating_sub(at)),
        }
    }

    /// Returns whether a peer that listens there is connected.
    pub(super) fn is_connected_to(&self, addr: SocketAddr) -> bool {
        self.peers.values().any(|peer| peer.listens == Some(plain(addr)))
    }

    /// Returns how many more connections may be dialled now.
    pub(super) fn room_to_dial(&self) -> usize {
        let dialling = self.peers.values().filter(|peer| peer.is_dialled() && peer.id.is_none()).count();
        MAX_DIALLING.saturating_sub(dialling).min(self.max.saturating_sub(self.peers.len()))
    }

    /// Dials an address that we came to know that way.
    pub(super) fn dial(&mut self, now: Duration, context: &Arc<Context>, addr: SocketAddr, way: Way) -> PeerKey {
        self.spawn(now, context, Origin::Dial { addr, controller: way == Way::Controller }, addr, way)
    }

    /// Takes in an accepted connection, or closes it when there are too many.
    pub(super) fn accept(&mut self, now: Duration, context: &Arc<Context>, pool: &Pool, stream: TcpStream, addr: SocketAddr) {
        let addr = plain(addr);
        if pool.is_banned(addr) || !self.make_room(now, addr.ip()) {
            tracing::debug!(%addr, "refused a connection");
            return;
        }
        self.spawn(now, context, Origin::Accept(stream), addr, Way::Accepted);
    }

    /// Makes room for one more connection from an address; false if there is none. Connections that shake hands or share pieces stay:
    /// whoever opens many and does nothing with them pushes out his own.
    fn make_room(&mut self, now: Duration, ip: IpAddr) -> bool {
        if self.peers.len() >= self.max {
            return false;
        }
        let accepted = || self.peers.values().filter(|peer| !peer.is_dialled() && !peer.dropped);
        if accepted().filter(|peer| peer.id.is_none()).count() >= self.max / PENDING_PART {
            return self.drop_useless(now, ip, (IDLE_AFTER, Duration::ZERO), |peer| peer.id.is_none());
        }
        if accepted().count() >= self.max - MAX_DIALLING {
            return self.drop_useless(now, ip, (USELESS_AFTER, IDLE_AFTER), |peer| peer.id.is_some());
        }
        true
    }

    /// Drops, of the accepted connections that `which` picks, one from the busiest address, the one that was of no use for longest. It
    /// must have been so for the first time in `patience`, or for the second one if its address is busier than `ip`.
    fn drop_useless(
        &mut self,
        now: Duration,
        ip: IpAddr,
        patience: (Duration, Duration),
        which: impl Fn(&Peer) -> bool,
    ) -> bool {
        let mut from: HashMap<IpAddr, usize> = HashMap::new();
        let idle = |peer: &Peer| now.saturating_sub(peer.useful);
        let candidates = || self.peers.iter().filter(|(_, peer)| !peer.is_dialled() && !peer.dropped && which(peer));
        for (_, peer) in candidates() {
            *from.entry(peer.addr.ip()).or_default() += 1;
        }
        let busy = |ip: IpAddr| from.get(&ip).copied().unwrap_or(0);
        let enough = |peer: &Peer| if busy(peer.addr.ip()) > busy(ip) { patience.1 } else { patience.0 };
        let worst = candidates()
            .filter(|(_, peer)| idle(peer) >= enough(peer))
            .max_by_key(|(_, peer)| (busy(peer.addr.ip()), idle(peer)))
            .map(|(key, _)| *key);
        if let Some(key) = worst {
            self.drop_peer(key);
        }
        worst.is_some()
    }

    fn spawn(&mut self, now: Duration, context: &Arc<Context>, origin: Origin, addr: SocketAddr, way: Way) -> PeerKey {
        let key = PeerKey(self.next);
        self.next = self.next.wrapping_add(1);
        let task = self.tasks.spawn(connection::run(context.clone(), key, origin));
        self.keys.insert(task.id(), key);
        let addr = plain(addr);
        let peer = Peer {
            addr,
            listens: (way != Way::Accepted).then_some(addr),
            way,
            id: None,
            commands: None,
            joined: false,
            came: now,
            useful: now,
            exchanged: self.exchanged,
            dropped: false,
            task,
        };
        self.peers.insert(key, peer);
        key
    }

    /// Judges a connection whose handshake is through.
    pub(super) fn shaken(&mut self, now: Duration, key: PeerKey, id: Id20, own: Id20) -> Verdict {
        if id == own {
            return Verdict::Own;
        }
        let Some(peer) = self.peers.get(&key) else { return Verdict::Duplicate };
        if let Some(other) = self.by_id.get(&id).copied() {
            if self.peers.get(&other).is_some_and(|other| !peer.replaces(now, other, own, id)) {
                return Verdict::Duplicate;
            }
            self.drop_peer(other);
        }
        self.by_id.insert(id, key);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.id = Some(id);
        }
        Verdict::Welcome
    }

    /// Keeps the pool from dialling ourselves again.
    pub(super) fn forget_useless(&self, pool: &mut Pool, key: PeerKey, verdict: Verdict) {
        if verdict == Verdict::Own
            && let Some(peer) = self.peers.get(&key)
            && peer.is_dialled()
        {
            pool.forget(peer.addr);
        }
    }

    /// Lets a connection begin.
    pub(super) fn welcome(&mut self, key: PeerKey, have: PieceSet, cursor: usize, reply: oneshot::Sender<Welcome>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let (sender, commands) = mpsc::channel(COMMANDS);
        peer.commands = Some(sender);
        // A connection that has ended meanwhile reports its end by itself.
        let _ = reply.send(Welcome { have, cursor, commands });
    }

    /// Notes what a peer can; returns that and where it can be dialled.
    pub(super) fn join(
        &mut self,
        key: PeerKey,
        extensions: Extensions,
        round_trip: Duration,
    ) -> Option<(PeerTraits, Option<SocketAddr>)> {
        let peer = self.peers.get_mut(&key)?;
        peer.commands.as_ref()?;
        peer.joined = true;
        if let Some(port) = extensions.port.filter(|_| !peer.is_dialled()) {
            peer.listens = Some(SocketAddr::new(peer.addr.ip(), port));
        }
        let seed = extensions.fleet && extensions.seed;
        if peer.way == Way::Controller {
            self.last_controller = Some((key, peer.addr));
        }
        let Extensions { fleet, zone, rank, .. } = extensions;
        Some((PeerTraits { fleet, seed, zone, rank, round_trip }, peer.listens))
    }

    /// Notes that a peer gave or took a piece.
    pub(super) fn useful(&mut self, now: Duration, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key) {
            self.exchanged += 1;
            (peer.useful, peer.exchanged) = (now, self.exchanged);
        }
    }

    /// Returns whose a connection is or was.
    pub(super) fn source(&self, key: PeerKey, pool: &Pool) -> Source {
        let here = self.peers.get(&key).filter(|peer| peer.way == Way::Controller).map(|peer| peer.addr);
        let gone =
            || self.last_controller.filter(|(last, _)| *last == key && !self.peers.contains_key(last)).map(|(_, addr)| addr);
        match here.or_else(gone) {
            Some(addr) if pool.is_tunnel(addr) => Source::Ssh,
            Some(_) => Source::Controller,
            None => Source::Peer,
        }
    }

    /// Returns whether a connection to the controller stands.
    pub(super) fn has_controller(&self) -> bool {
        self.peers.values().any(|peer| peer.way == Way::Controller && peer.joined && !peer.dropped)
    }

    /// Passes a decision on to its connection.
    pub(super) fn command(&mut self, action: Action) {
        let (key, command) = match action {
            Action::Request { peer, piece } => (peer, Command::Request(piece)),
            Action::Cancel { peer, piece } => (peer, Command::Cancel(piece)),
            Action::Send { peer, piece, push } => (peer, Command::Send { piece, push }),
            Action::Unchoke(peer) => (peer, Command::Unchoke),
            Action::Interested(peer, interested) => (peer, Command::Interested(interested)),
            // No connection's.
            Action::Fetch { .. } | Action::FetchAll { .. } => return,
        };
        self.send(key, command);
    }

    /// Takes a push back that is not welcome.
    pub(super) fn refuse_push(&mut self, key: PeerKey, piece: u32) {
        self.send(key, Command::Cancel(piece));
    }

    fn send(&mut self, key: PeerKey, command: Command) {
        let Some(peer) = self.peers.get(&key) else { return };
        if let Some(commands) = &peer.commands
            && let Err(mpsc::error::TrySendError::Full(_)) = commands.try_send(command)
        {
            tracing::debug!(addr = %peer.addr, "a peer takes nothing and is dropped");
            self.drop_peer(key);
        }
    }

    /// Ends a connection; its end is reported like any other.
    pub(super) fn drop_peer(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.commands = None;
            peer.dropped = true;
            peer.task.abort();
            if let Some(id) = peer.id
                && self.by_id.get(&id) == Some(&key)
            {
                self.by_id.remove(&id);
            }
        }
    }

    /// Ends every connection but those to the controller's addresses.
    pub(super) fn drop_all_but_controller(&mut self) {
        let others = self.peers.iter().filter(|(_, peer)| peer.way != Way::Controller).map(|(key, _)| *key);
        for key in others.collect::<Vec<_>>() {
            self.drop_peer(key);
        }
    }

    /// Ends a connection for good; returns the address to ban, and how we came to it.
    pub(super) fn ban(&mut self, key: PeerKey) -> Option<(SocketAddr, Way)> {
        let peer = self.peers.get(&key).map(|peer| (peer.listens.unwrap_or(peer.addr), peer.way));
        self.drop_peer(key);
        peer
    }

    /// Waits for a connection's end; none when there is no connection.
    pub(super) async fn ended(&mut self) -> Option<(PeerKey, Exit)> {
        let (id, exit) = match self.tasks.join_next_with_id().await? {
            Ok((id, exit)) => (id, exit),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked");
                }
                (error.id(), Exit::Dropped)
            }
        };
        self.keys.remove(&id).map(|key| (key, exit))
    }

    /// Removes an ended connection; returns where it could be dialled again, or banned, and how we came to it.
    pub(super) fn remove(&mut self, key: PeerKey, exit: &Exit) -> Option<(SocketAddr, Way)> {
        let peer = self.peers.remove(&key)?;
        if let Some(id) = peer.id
            && self.by_id.get(&id) == Some(&key)
        {
            self.by_id.remove(&id);
        }
        let addr = peer.listens.unwrap_or(peer.addr);
        tracing::debug!(%addr, reason = %exit, "a connection ended");
        Some((addr, peer.way))
    }

    /// Ends all connections and waits for their tasks.
    pub(super) async fn shut_down(&mut self) {
        self.peers.clear();
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that came after so many seconds, from the nth machine.
    fn peer(way: Way, machine: u8, came: u64) -> Peer {
        let came = Duration::from_secs(came);
        let addr = SocketAddr::from(([192, 0, 2, machine], 1));
        let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let (listens, id, commands) = (None, None, None);
        Peer { addr, listens, way, id, commands, joined: false, came, useful: came, exchanged: 0, dropped: false, task }
    }

    #[tokio::test]
    async fn connections_that_do_nothing_do_not_count() {
        use Way::{Accepted, Chosen, Tracker};
        let at = Duration::from_secs;
        let good = |way, joined, now, exchanged| Peer { joined, ..peer(way, 1, 0) }.does_good(at(now), exchanged);
        // Before the handshake: those that we are making, and not for long.
        assert_eq!([good(Accepted, false, 0, 0), good(Tracker, false, 1, 0), good(Chosen, false, 9, 0)], [false, true, false]);
        // Then: those of use lately, and the controller's choice.
        assert!(good(Accepted, true, 9, EXCHANGED - 1) && !good(Accepted, true, 0, EXCHANGED));
        assert!(good(Tracker, true, 9, EXCHANGED - 1) && !good(Tracker, true, 0, EXCHANGED));
        assert!(good(Chosen, true, 9, EXCHANGED));
    }

    /// In a fleet where everybody exchanges with everybody, those that came to us are enough.
    #[tokio::test]
    async fn in_a_fleet_that_works_the_tracker_is_not_needed() {
        let (mut peers, mut random) = (Peers::new(false), fastrand::Rng::with_seed(1));
        for key in 0..32 {
            peers.peers.insert(PeerKey(key), Peer { joined: true, ..peer(Way::Accepted, key as u8, 0) });
        }
        for second in 0..1000 {
            peers.useful(Duration::from_secs(second), PeerKey(random.u32(..32)));
            let good = peers.standing(Duration::from_secs(second), Some(Duration::ZERO)).good;
            assert!(good > 16, "{good} after {second} pieces");
        }
    }

    #[tokio::test]
    async fn which_connection_of_an_id_stays() {
        use Way::{Accepted, Chosen, Controller, Tracker};
        let (small, large) = (Id20::new(*b"-FD0100-aaaaaaaaaaaa"), Id20::new(*b"-FD0100-bbbbbbbbbbbb"));
        // The new one's way and the old one's, whether they come from one machine, how old the old one is; whether it is replaced where
        // our id is the larger, and where it is the smaller.
        for (new, old, same, age, larger, smaller) in [
            (Tracker, Accepted, true, 1, true, false),
            (Accepted, Tracker, true, 1, false, true),
            (Accepted, Tracker, true, 2, false, false),
            (Tracker, Tracker, true, 1, false, false),
            (Accepted, Accepted, true, 1, false, false),
            (Accepted, Chosen, true, 1, false, false),
            (Accepted, Controller, true, 1, false, false),
            (Chosen, Controller, true, 1, false, false),
            (Controller, Chosen, false, 9, true, true),
            (Controller, Accepted, false, 9, true, true),
            (Chosen, Accepted, true, 1, true, false),
            (Chosen, Accepted, false, 9, true, true),
        ] {
            let now = Duration::from_secs(10);
            let (new, mut old) = (peer(new, 1, 10), peer(old, if same { 1 } else { 2 }, 10 - age));
            let replaced = [new.replaces(now, &old, large, small), new.replaces(now, &old, small, large)];
            assert_eq!(replaced, [larger, smaller], "{new:?}, {old:?}");
            old.useful = now;
            let replaced = [new.replaces(now, &old, large, small), new.replaces(now, &old, small, large)];
            assert_eq!(replaced, [new.way == Controller; 2], "useful: {new:?}, {old:?}");
        }
        let foreign = Id20::new(*b"-LT0100-aaaaaaaaaaaa");
        assert!(!peer(Tracker, 1, 10).replaces(Duration::from_secs(10), &peer(Accepted, 1, 9), large, foreign));
    }
}
