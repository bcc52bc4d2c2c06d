use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod fleet;
mod liars;

const HOST: PeerTraits = PeerTraits { fleet: true, seed: false, zone: None, rank: None, round_trip: Duration::ZERO };

#[test]
fn whatever_a_client_may_ask_for_at_once_is_served() {
    let (client, at) = (PeerKey(1), Duration::from_millis);
    let pieces = crate::swarm::protocol::MAX_QUEUED_REQUESTS as u32;
    let mut host = Policy::new(PolicyConfig::new(pieces, false, 1), PieceSet::full(pieces));
    host.peer_joined(at(0), client, PeerTraits::default());
    (0..pieces).for_each(|piece| host.requested(at(1), client, piece));
    let mut served = PieceSet::new(pieces);
    while let Some(action) = host.next_action() {
        if let Action::Send { piece, .. } = action {
            served.insert(piece);
            host.sent(at(2), client, piece);
        }
    }
    assert_eq!(served.count(), pieces);
}

#[test]
fn a_bitfield_in_place_of_many_haves_is_taken_for_them() {
    let (client, at) = (PeerKey(1), Duration::from_millis);
    let mut host = Policy::new(PolicyConfig::new(4, false, 1), PieceSet::new(4));
    host.peer_joined(at(0), client, PeerTraits::default());
    host.peer_has(at(1), client, [0]);
    host.peer_bitfield(at(2), client, PieceSet::full(4));
    host.peer_bitfield(at(3), client, PieceSet::full(4));
    host.peer_chokes(at(4), client, false);
    let mut asked: Vec<u32> = std::iter::from_fn(|| host.next_action())
        .filter_map(|action| match action {
            Action::Request { piece, .. } => Some(piece),
            _ => None,
        })
        .collect();
    asked.sort_unstable();
    assert_eq!(asked, [0, 1, 2, 3]);
    host.peer_left(at(5), client);
    assert!((0..4).all(|piece| host.rarity.copies(piece) == 0), "counted more than once");
}

#[test]
fn a_host_that_freezes_during_a_push_does_not_keep_the_others_choked() {
    let (frozen, other) = (PeerKey(1), PeerKey(2));
    let at = Duration::from_millis;
    let mut seed = Policy::new(PolicyConfig::new(4, true, 1), PieceSet::full(4));
    for key in [frozen, other] {
        seed.peer_joined(at(0), key, HOST);
    }
    let (mut now, mut unchoked) = (0, Vec::new());
    while now < 5000 {
        while let Some(action) = seed.next_action() {
            match action {
                Action::Send { peer, piece, .. } if peer == other => {
                    seed.sent(at(now + 50), peer, piece);
                    seed.peer_has(at(now + 60), peer, [piece]);
                }
                Action::Unchoke(peer) => unchoked.push((now, peer)),
                _ => {}
            }
        }
        now += 100;
        seed.tick(at(now));
    }
    let when = unchoked.iter().find(|(_, peer)| *peer == other).map(|(now, _)| *now);
    assert!(when.is_some_and(|now| (500..2500).contains(&now)), "{unchoked:?}");
}

/// A seed and its neighbours, of which some pass on what they are pushed as soon as they have it, the others never.
fn pushed_to(slow: usize, fast: usize, pieces: u32) -> Vec<u32> {
    let mut seed = Policy::new(PolicyConfig::new(pieces, true, 1), PieceSet::full(pieces));
    let hosts = slow + fast;
    (0..hosts as u32).for_each(|key| seed.peer_joined(Duration::ZERO, PeerKey(key), HOST));
    let (mut now, mut pushed) = (Duration::ZERO, vec![0; hosts]);
    let mut sending = VecDeque::new();
    loop {
        while let Some(action) = seed.next_action() {
            if let Action::Send { peer, piece, push: true } = action {
                pushed[peer.0 as usize] += 1;
                sending.push_back((peer, piece));
            }
        }
        let Some((peer, piece)) = sending.pop_front() else { return pushed };
        now += Duration::from_millis(20);
        seed.peer_has(now, peer, [piece]);
        seed.sent(now, peer, piece);
        if peer.0 as usize >= slow {
            // Another neighbour has it from there at once.
            let other = PeerKey(slow as u32 + (peer.0 + 1 - slow as u32) % fast as u32);
            seed.peer_has(now, other, [piece]);
        }
    }
}

proptest! {
    /// Whoever does not pass on is left alone after a few pieces, and each piece is pushed once.
    #[test]
    fn the_seed_pushes_to_those_that_pass_on(slow in 1usize..8, fast in 2usize..8) {
        let pushed = pushed_to(slow, fast, 200);
        prop_assert_eq!(pushed.iter().sum::<u32>(), 200);
        prop_assert!(pushed[..slow].iter().all(|count| *count <= 8), "{:?}", pushed);
    }
}

#[test]
fn stuck_transfers_leave_their_slots_to_others() {
    let mut seed = Policy::new(PolicyConfig::new(40, true, 1), PieceSet::full(40));
    (0..10).for_each(|key| seed.peer_joined(Duration::ZERO, PeerKey(key), HOST));
    let (mut now, mut sent) = (Duration::ZERO, 0);
    while now < Duration::from_secs(20) {
        while let Some(action) = seed.next_action() {
            // The first six hosts are frozen: more than there are slots.
            if let Action::Send { peer, piece, .. } = action
                && peer.0 >= 6
            {
                sent += 1;
                seed.sent(now, peer, piece);
                seed.peer_has(now, peer, [piece]);
            }
        }
        now += Duration::from_millis(100);
        seed.tick(now);
    }
    assert!(sent >= 30, "{sent}");
}

#[test]
fn what_a_neighbour_announces_is_not_waited_for_at_the_seed() {
    let mut host = Policy::new(PolicyConfig::new(1, false, 1), PieceSet::new(1));
    let (seed, mate, now) = (PeerKey(0), PeerKey(1), Duration::ZERO);
    let mut acts = |event: &dyn Fn(&mut Policy)| {
        event(&mut host);
        let actions: Vec<Action> = std::iter::from_fn(|| host.next_action()).collect();
        actions
            .into_iter()
            .filter(|action| matches!(action, Action::Request { .. } | Action::Cancel { .. }))
            .collect::<Vec<_>>()
    };
    acts(&|host| host.peer_joined(now, seed, PeerTraits { seed: true, ..HOST }));
    acts(&|host| host.peer_bitfield(now, seed, PieceSet::full(1)));
    acts(&|host| host.peer_joined(now, mate, HOST));
    acts(&|host| host.peer_chokes(now, mate, false));
    assert_eq!(acts(&|host| host.peer_chokes(now, seed, false)), [Action::Request { peer: seed, piece: 0 }]);
    assert_eq!(acts(&|host| host.peer_has(now, mate, [0])), [Action::Request { peer: mate, piece: 0 }]);
    assert_eq!(acts(&|host| host.progress(now, mate, 0)), [Action::Cancel { peer: seed, piece: 0 }]);
}

#[test]
fn pushes_leave_most_pieces_in_flight_to_requests() {
    let (seed, other) = (PeerKey(1), PeerKey(2));
    let config = PolicyConfig::new(256, false, 1);
    let part = config.max_in_flight / 4;
    let mut host = Policy::new(config, PieceSet::new(256));
    host.peer_joined(Duration::ZERO, seed, PeerTraits { seed: true, ..HOST });
    host.peer_joined(Duration::ZERO, other, HOST);
    assert!(!host.push_started(Duration::ZERO, other, 0), "only the seed pushes");
    let begun = (0..256).filter(|piece| host.push_started(Duration::ZERO, seed, *piece)).count();
    assert_eq!(begun, part);
    // All of them lapse: it has one to show that it can.
    let later = Duration::from_secs(60);
    host.tick(later);
    assert!(host.push_started(later, seed, 0) && !host.push_started(later, seed, 1));
    host.received(later, seed, 0);
    assert!(host.push_started(later, seed, 1) && host.push_started(later, seed, 2));
}

/// When, whom, for which piece.
type Asked = (Duration, u32, u32);

/// A host of zone 1, which has two, and what it asks of whom. The neighbours have everything.
fn asked_in_a_zone(neighbours: &[PeerTraits], until: Duration) -> Vec<Asked> {
    let config = PolicyConfig { place: Some(Place { zone: 1, rank: 0, of: 2 }), ..PolicyConfig::new(8, false, 1) };
    let mut host = Policy::new(config, PieceSet::new(8));
    let (mut now, mut asked) = (Duration::ZERO, Vec::new());
    for (key, traits) in (0..).map(PeerKey).zip(neighbours) {
        host.peer_joined(now, key, *traits);
    }
    for key in (0..).map(PeerKey).take(neighbours.len()).filter(|key| neighbours[key.0 as usize].zone != Some(1)) {
        host.peer_chokes(now, key, false);
        host.peer_bitfield(now, key, PieceSet::full(8));
    }
    while now < until {
        while let Some(action) = host.next_action() {
            if let Action::Request { peer, piece } = action {
                asked.push((now, peer.0, piece));
                host.received(now, peer, piece);
                host.verified(now, piece);
            }
        }
        now += Duration::from_millis(50);
        host.tick(now);
    }
    asked
}

#[test]
fn a_host_asks_another_zone_only_for_what_is_its_own_until_nothing_else_comes() {
    let mate = PeerTraits { zone: Some(1), rank: Some(1), ..HOST };
    let far = PeerTraits { zone: Some(0), rank: Some(0), ..HOST };
    let asked = asked_in_a_zone(&[mate, far], Duration::from_secs(4));
    let (own, rest): (Vec<Asked>, Vec<Asked>) = asked.iter().partition(|(_, _, piece)| piece % 2 == 0);
    assert_eq!((own.len(), rest.len()), (4, 4), "{asked:?}");
    assert!(own.iter().all(|(at, ..)| at.is_zero()), "{asked:?}");
    // The mate gives nothing: patience, then a little, then more.
    assert!(rest.iter().all(|(at, ..)| *at >= Duration::from_secs(1)), "{asked:?}");
}

#[test]
fn a_host_without_zone_mates_is_on_its_own_soon() {
    let far = PeerTraits { zone: Some(0), rank: Some(0), ..HOST };
    let asked = asked_in_a_zone(&[far], Duration::from_secs(2));
    assert_eq!(asked.len(), 8, "{asked:?}");
}

#[test]
fn what_a_zone_mate_that_left_was_to_fetch_goes_to_others() {
    let mut zone = far::Far::new(Place { zone: 1, rank: 0, of: 3 }, 300);
    let mate = |rank| PeerTraits { zone: Some(1), rank: Some(rank), ..HOST };
    let may = |zone: &far::Far| zone.own().count();
    assert!(!zone.joined(Duration::ZERO, mate(1)) && !zone.joined(Duration::ZERO, mate(2)));
    assert_eq!(may(&zone), 100);
    zone.left(Duration::ZERO, Some(1), PieceSet::new(300));
    assert!((130..170).contains(&may(&zone)), "{}", may(&zone));
}

#[test]
fn what_a_zone_mate_that_never_comes_was_to_fetch_goes_to_others() {
    let config = PolicyConfig { place: Some(Place { zone: 1, rank: 0, of: 3 }), ..PolicyConfig::new(90, false, 1) };
    let mut host = Policy::new(config, PieceSet::new(90));
    let (mate, far) = (PeerKey(1), PeerKey(2));
    host.peer_joined(Duration::ZERO, mate, PeerTraits { zone: Some(1), rank: Some(1), ..HOST });
    host.peer_joined(Duration::ZERO, far, PeerTraits { zone: Some(0), rank: Some(0), ..HOST });
    host.peer_bitfield(Duration::ZERO, far, PieceSet::full(90));
    [mate, far].into_iter().for_each(|key| host.peer_chokes(Duration::ZERO, key, false));
    let mut crossed: Vec<(Duration, u32)> = Vec::new();
    for step in 0..20 {
        let now = Duration::from_millis(step * 100);
        // The mate gets on with its own pieces, so nobody is idle.
        host.peer_has(now, mate, [step as u32 * 3 + 1]);
        while let Some(action) = host.next_action() {
            if let Action::Request { peer, piece } = action {
                crossed.extend((peer == far).then_some((now, piece)));
                host.received(now, peer, piece);
                host.verified(now, piece);
            }
        }
        host.tick(now);
    }
    let of = |rank| crossed.iter().filter(move |(_, piece)| piece % 3 == rank);
    assert_eq!((of(0).count(), of(1).count()), (30, 0), "{crossed:?}");
    assert!((8..23).contains(&of(2).count()), "about half of what the third was to fetch: {crossed:?}");
    assert!(of(2).all(|(at, _)| *at >= Duration::from_secs(1)), "too soon: {crossed:?}");
}

#[test]
fn what_a_standard_client_claims_does_not_keep_a_host_from_fetching_for_its_zone() {
    let mut zone = far::Far::new(Place { zone: 1, rank: 0, of: 3 }, 300);
    assert!(!zone.joined(Duration::ZERO, PeerTraits::default()));
    (0..300).for_each(|piece| zone.announced(Duration::ZERO, piece, far::Announcer::Other));
    assert_eq!((zone.own().count(), zone.mates()), (100, 0));
    (0..30).for_each(|piece| zone.announced(Duration::ZERO, piece, far::Announcer::Mate));
    assert_eq!(zone.own().count(), 90);
}

/// How many pieces of 8 the controller's seed in zone 0 pushes to a host in this zone when another, in zone 1, came with everything.
fn pushed_beside_a_complete_host_of_another_zone(zone: u32) -> usize {
    let config = PolicyConfig { place: Some(Place::of_controller(0)), ..PolicyConfig::new(8, true, 1) };
    let mut seed = Policy::new(config, PieceSet::full(8));
    let (empty, complete) = (PeerKey(0), PeerKey(1));
    seed.peer_joined(Duration::ZERO, empty, PeerTraits { zone: Some(zone), rank: Some(0), ..HOST });
    seed.peer_joined(Duration::ZERO, complete, PeerTraits { zone: Some(1), rank: Some(1), ..HOST });
    seed.peer_bitfield(Duration::ZERO, complete, PieceSet::full(8));
    let mut pushed = 0;
    while let Some(action) = seed.next_action() {
        if let Action::Send { peer, piece, push: true } = action {
            // One may have gone to the complete host before it said that it is.
            pushed += usize::from(peer == empty);
            seed.peer_has(Duration::ZERO, peer, [piece]);
            seed.sent(Duration::ZERO, peer, piece);
        }
    }
    pushed
}

#[test]
fn a_complete_host_of_another_zone_does_not_switch_off_the_push() {
    assert_eq!(pushed_beside_a_complete_host_of_another_zone(0), 8);
    assert!(pushed_beside_a_complete_host_of_another_zone(1) < 8, "that one can give them");
}

#[test]
fn a_near_seed_is_asked_though_a_complete_host_is_in_another_zone() {
    let far = PeerTraits { zone: Some(0), rank: Some(0), ..HOST };
    let mate = PeerTraits { zone: Some(1), rank: Some(1), ..HOST };
    let seed = |zone| PeerTraits { zone: Some(zone), seed: true, ..HOST };
    let asked_of_the_seed = |zone| {
        let neighbours = [mate, far, seed(zone)];
        let config = PolicyConfig { place: Some(Place { zone: 1, rank: 0, of: 2 }), ..PolicyConfig::new(8, false, 1) };
        let mut host = Policy::new(config, PieceSet::new(8));
        for (key, traits) in (0..).map(PeerKey).zip(neighbours) {
            host.peer_joined(Duration::ZERO, key, traits);
            if key.0 > 0 {
                host.peer_chokes(Duration::ZERO, key, false);
                host.peer_bitfield(Duration::ZERO, key, PieceSet::full(8));
            }
        }
        std::iter::from_fn(|| host.next_action()).any(|action| matches!(action, Action::Request { peer: PeerKey(2), .. }))
    };
    assert!(asked_of_the_seed(1));
    assert!(!asked_of_the_seed(0), "both are far: the seed is the reserve");
}

#[test]
fn a_zone_mate_whose_older_connection_ends_is_not_gone() {
    let config = PolicyConfig { place: Some(Place { zone: 1, rank: 0, of: 2 }), ..PolicyConfig::new(8, false, 1) };
    let mut host = Policy::new(config, PieceSet::new(8));
    let mate = PeerTraits { zone: Some(1), rank: Some(1), ..HOST };
    let (older, newer) = (PeerKey(1), PeerKey(2));
    let may = |host: &Policy| host.far.as_ref().unwrap().own().count();
    host.peer_joined(Duration::ZERO, older, mate);
    host.peer_joined(Duration::ZERO, newer, mate);
    host.peer_left(Duration::ZERO, older);
    assert_eq!(may(&host), 4);
    host.peer_left(Duration::ZERO, newer);
    assert_eq!(may(&host), 8);
}

/// Lets a host of a zone of two get 8 pieces that a zone mate announced and never sends, and a host of another zone has; returns when it
/// was complete.
fn complete_beside_a_mate_that_gives_nothing(chokes: bool) -> Option<Duration> {
    let config = PolicyConfig { place: Some(Place { zone: 1, rank: 0, of: 2 }), ..PolicyConfig::new(8, false, 1) };
    let mut host = Policy::new(config, PieceSet::new(8));
    let (mate, far) = (PeerKey(0), PeerKey(1));
    host.peer_joined(Duration::ZERO, mate, PeerTraits { zone: Some(1), rank: Some(1), ..HOST });
    host.peer_joined(Duration::ZERO, far, PeerTraits { zone: Some(0), rank: Some(0), ..HOST });
    host.peer_chokes(Duration::ZERO, mate, chokes);
    host.peer_chokes(Duration::ZERO, far, false);
    for key in [mate, far] {
        host.peer_bitfield(Duration::ZERO, key, PieceSet::full(8));
    }
    let mut now = Duration::ZERO;
    while now < Duration::from_secs(20) {
        while let Some(action) = host.next_action() {
            if let Action::Request { peer, piece } = action
                && peer == far
            {
                host.received(now, peer, piece);
                host.verified(now, piece);
            }
        }
        if host.have().is_full() {
            return Some(now);
        }
        now += Duration::from_millis(50);
        host.tick(now);
    }
    None
}

#[test]
fn what_a_zone_mate_announced_and_never_sends_is_fetched_across() {
    for chokes in [false, true] {
        let at = complete_beside_a_mate_that_gives_nothing(chokes);
        assert!(at.is_some_and(|at| (1..10).contains(&at.as_secs())), "{at:?}, the mate chokes: {chokes}");
    }
}

#[test]
fn the_seed_pushes_into_its_own_zone() {
    let config = PolicyConfig { place: Some(Place::of_controller(0)), ..PolicyConfig::new(64, true, 1) };
    let mut seed = Policy::new(config, PieceSet::full(64));
    let key = |rank: u32, zone: u32| PeerKey(zone * 100 + rank);
    let hosts: Vec<PeerKey> = (0..8).flat_map(|rank| [key(rank, 0), key(rank, 1)]).collect();
    for host in &hosts {
        seed.peer_joined(Duration::ZERO, *host, PeerTraits { zone: Some(host.0 / 100), rank: Some(host.0 % 100), ..HOST });
    }
    let (mut now, mut pushed) = (Duration::ZERO, PieceSet::new(64));
    while let Some(action) = seed.next_action() {
        if let Action::Send { peer, piece, push } = action {
            assert!(push && peer.0 < 100, "{peer:?}");
            assert!(pushed.insert(piece), "{piece} was pushed twice");
            now += Duration::from_millis(10);
            // Handed on at once.
            hosts.iter().take(4).chain([&peer]).for_each(|host| seed.peer_has(now, *host, [piece]));
            seed.sent(now, peer, piece);
        }
    }
    assert!(pushed.is_full(), "{pushed:?}");
}
