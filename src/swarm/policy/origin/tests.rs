//! Origins in the policy: what is asked of them, when, and what follows from what they do.

use proptest::prelude::*;

use super::{super::*, *};

const ORIGIN: PeerKey = PeerKey(u32::MAX);
const HOST: PeerTraits = PeerTraits { fleet: true, seed: false, zone: None, rank: None, round_trip: Duration::ZERO };
const PIECE: u32 = 64 << 10;
const PARTS: OriginTraits = OriginTraits { parts: true, controller: false };
const WHOLE: OriginTraits = OriginTraits { parts: false, controller: false };
/// The controller's web server.
const WEB: PeerKey = PeerKey(u32::MAX - 16);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn terms(rank: u32, of: u32) -> OriginTerms {
    OriginTerms { settings: OriginSettings::default(), part: OriginPart { rank, of }, max_pieces: None, piece_length: PIECE }
}

/// A host that misses so many pieces, and knows an origin.
fn host(pieces: u32, terms: OriginTerms) -> Policy {
    let mut policy = Policy::new(PolicyConfig::new(pieces, false, 1), PieceSet::new(pieces));
    policy.use_origins(terms);
    policy.origin_joined(at(0), ORIGIN, PARTS);
    policy
}

fn actions(policy: &mut Policy) -> Vec<Action> {
    std::iter::from_fn(|| policy.next_action()).collect()
}

/// Returns the requests to origins, with their numbers.
fn fetches(policy: &mut Policy) -> Vec<(u32, Run)> {
    let made = actions(policy).into_iter();
    made.filter_map(|action| if let Action::Fetch { request, run, .. } = action { Some((request, run)) } else { None })
        .collect()
}

fn pieces_of(fetches: &[(u32, Run)]) -> Vec<u32> {
    let mut pieces: Vec<u32> = fetches.iter().flat_map(|(_, run)| run.pieces()).collect();
    pieces.sort_unstable();
    pieces
}

/// Lets a piece come from somebody.
fn bring(policy: &mut Policy, now: u64, key: PeerKey, piece: u32) {
    policy.progress(at(now), key, piece);
    policy.received(at(now), key, piece);
    policy.verified(at(now), piece);
}

/// A neighbour that has these pieces and answers.
fn neighbour(policy: &mut Policy, now: u64, key: u32, have: impl IntoIterator<Item = u32>) {
    policy.peer_joined(at(now), PeerKey(key), HOST);
    let mut set = PieceSet::new(policy.have().len());
    have.into_iter().for_each(|piece| {
        set.insert(piece);
    });
    policy.peer_bitfield(at(now), PeerKey(key), set);
    policy.peer_chokes(at(now), PeerKey(key), false);
}

#[test]
fn a_host_asks_for_its_own_part_from_the_end_and_leaves_the_others_alone() {
    let mut host = host(256, terms(1, 4));
    let first = fetches(&mut host);
    assert_eq!(first.len(), 4, "as many requests as one origin gets");
    let own: Vec<u32> = (0..256).filter(|piece| piece / 16 % 4 == 1).collect();
    assert_eq!(pieces_of(&first), own);
    own.iter().for_each(|piece| bring(&mut host, 500, ORIGIN, *piece));
    host.tick(at(1000));
    assert_eq!(fetches(&mut host), [], "what others fetch comes from them");
}

#[test]
fn a_host_that_nobody_feeds_fetches_everything_and_more_and_more_of_it() {
    let mut host = host(256, terms(0, 4));
    pieces_of(&fetches(&mut host)).into_iter().for_each(|piece| bring(&mut host, 100, ORIGIN, piece));
    let (mut now, mut most) = (200, 0);
    while !host.have().is_full() && now < 60_000 {
        host.tick(at(now));
        let asked = fetches(&mut host);
        most = most.max(asked.len());
        assert!(now >= 2000 || asked.is_empty(), "after {now} ms");
        pieces_of(&asked).into_iter().for_each(|piece| bring(&mut host, now + 50, ORIGIN, piece));
        now += 100;
    }
    assert!(host.have().is_full() && now < 10_000, "{now}");
}

#[test]
fn a_host_that_is_fed_fetches_no_more_than_its_part() {
    let mut host = host(256, terms(0, 4));
    neighbour(&mut host, 0, 1, []);
    neighbour(&mut host, 0, 2, []);
    let own = pieces_of(&fetches(&mut host));
    own.iter().for_each(|piece| bring(&mut host, 100, ORIGIN, *piece));
    for (step, piece) in (0..256).filter(|piece| !own.contains(piece)).enumerate() {
        let (now, key) = (200 + step as u64 * 50, PeerKey(1 + step as u32 % 2));
        host.peer_has(at(now), key, [piece]);
        let asked: Vec<Action> = actions(&mut host);
        assert!(!asked.iter().any(|action| matches!(action, Action::Fetch { .. })), "{asked:?}");
        bring(&mut host, now + 40, key, piece);
        host.tick(at(now + 45));
    }
    assert!(host.have().is_full());
}

#[test]
fn two_fast_peers_spare_the_origin_what_they_have() {
    let mut host = host(64, terms(0, 1));
    // Busy with four requests of 16 pieces: none is left.
    assert_eq!(pieces_of(&fetches(&mut host)).len(), 64);
    let mut host = {
        let settings = OriginSettings { max_requests_per_seed: 1, ..OriginSettings::default() };
        self::host(64, OriginTerms { settings, ..terms(0, 1) })
    };
    let first = pieces_of(&fetches(&mut host));
    assert_eq!(first, (48..64).collect::<Vec<_>>());
    for key in [1, 2] {
        neighbour(&mut host, 10, key, 0..40);
    }
    for piece in 0..8 {
        bring(&mut host, 100, PeerKey(1 + piece % 2), piece);
    }
    actions(&mut host);
    first.into_iter().for_each(|piece| bring(&mut host, 200, ORIGIN, piece));
    host.tick(at(250));
    assert_eq!(pieces_of(&fetches(&mut host)), (40..48).collect::<Vec<_>>(), "only what neither of them has");
}

#[test]
fn whoever_brings_a_piece_first_takes_the_other_request_back() {
    let mut host = host(16, terms(0, 1));
    let (_, run) = fetches(&mut host)[0];
    assert_eq!(run.count, 16);
    // A neighbour comes that has a piece which does not come from the origin.
    neighbour(&mut host, 3000, 1, [5]);
    host.tick(at(3100));
    let asked = actions(&mut host);
    assert!(asked.contains(&Action::Request { peer: PeerKey(1), piece: 5 }), "{asked:?}");
    host.progress(at(3200), PeerKey(1), 5);
    assert_eq!(actions(&mut host), [Action::Cancel { peer: ORIGIN, piece: 5 }]);
    bring(&mut host, 3300, PeerKey(1), 5);
    // And the other way round: what the neighbour is asked for last comes from the origin.
    for piece in (0..16).filter(|piece| *piece != 5) {
        bring(&mut host, 3400, ORIGIN, piece);
    }
    assert!(host.have().is_full() && !host.fetches());
}

#[test]
fn at_the_end_a_late_piece_is_asked_of_the_origin_too() {
    let mut host = host(32, terms(1, 2));
    let own = pieces_of(&fetches(&mut host));
    neighbour(&mut host, 0, 1, 0..16);
    own.into_iter().for_each(|piece| bring(&mut host, 100, ORIGIN, piece));
    // The neighbour brings all but the last.
    let mut asked: Vec<u32> = Vec::new();
    for step in 0..15 {
        asked.extend(actions(&mut host).into_iter().filter_map(|action| match action {
            Action::Request { piece, .. } => Some(piece),
            _ => None,
        }));
        let piece = asked.remove(0);
        bring(&mut host, 120 + step * 20, PeerKey(1), piece);
    }
    asked.extend(actions(&mut host).into_iter().filter_map(|action| match action {
        Action::Request { piece, .. } => Some(piece),
        _ => None,
    }));
    let [last] = asked[..] else { panic!("{asked:?}") };
    host.tick(at(600));
    assert_eq!(fetches(&mut host), [], "it is not late yet");
    host.tick(at(1500));
    assert_eq!(pieces_of(&fetches(&mut host)), [last]);
    host.progress(at(1600), ORIGIN, last);
    assert_eq!(actions(&mut host), [Action::Cancel { peer: PeerKey(1), piece: last }]);
}

#[test]
fn failures_give_the_pieces_back_and_the_origin_rests_longer_each_time() {
    let settings = OriginSettings { max_requests_per_seed: 1, ..OriginSettings::default() };
    let mut host = host(16, OriginTerms { settings, ..terms(0, 1) });
    let (mut now, mut rests) = (0, Vec::new());
    for _ in 0..6 {
        let made = now;
        let (request, run) = loop {
            if let Some(fetch) = fetches(&mut host).pop() {
                break fetch;
            }
            now += 100;
            host.tick(at(now));
        };
        assert_eq!(run.count, 16, "all of it is wanted again");
        rests.push(now - made);
        host.origin_failed(at(now), ORIGIN, request, OriginFailure::Failed);
    }
    assert_eq!(rests, [0, 500, 1000, 2000, 4000, 300_000]);
    // A request that goes well is forgiven everything.
    now += 300_000;
    host.tick(at(now));
    let (request, _) = fetches(&mut host)[0];
    bring(&mut host, now, ORIGIN, 0);
    host.origin_failed(at(now), ORIGIN, request, OriginFailure::Failed);
    host.tick(at(now + 500));
    assert_eq!(fetches(&mut host).len(), 1);
}

#[test]
fn a_busy_origin_is_left_alone_as_long_as_it_says_and_that_is_no_failure() {
    let mut host = host(16, terms(0, 1));
    for round in 0..9 {
        let now = round * 30_000;
        host.tick(at(now));
        let asked = fetches(&mut host);
        assert!(!asked.is_empty());
        for (request, _) in asked {
            host.origin_failed(at(now), ORIGIN, request, OriginFailure::Busy(at(30_000)));
        }
        host.tick(at(now + 29_000));
        assert_eq!(fetches(&mut host), []);
    }
}

#[test]
fn a_request_that_stands_still_is_taken_back() {
    let mut host = host(16, terms(0, 1));
    let (_, run) = fetches(&mut host)[0];
    for second in 1..14 {
        host.tick(at(second * 1000));
        assert_eq!(actions(&mut host), [], "while connecting may take its time");
    }
    host.tick(at(16_000));
    let made = actions(&mut host);
    let cancelled = made.iter().filter(|action| matches!(action, Action::Cancel { .. })).count();
    assert_eq!(cancelled as u32, run.count);
}

#[test]
fn an_origin_that_is_gone_leaves_everything_to_the_peers() {
    let mut host = host(16, terms(0, 1));
    let asked = fetches(&mut host).iter().map(|(_, run)| run.count).sum::<u32>();
    neighbour(&mut host, 10, 1, 0..16);
    assert!(!actions(&mut host).iter().any(|action| matches!(action, Action::Request { .. })));
    host.origin_left(at(20), ORIGIN);
    let made = actions(&mut host);
    assert_eq!(made.iter().filter(|action| matches!(action, Action::Cancel { peer: ORIGIN, .. })).count() as u32, asked);
    assert!(made.iter().any(|action| matches!(action, Action::Request { .. })));
    host.tick(at(60_000));
    assert_eq!(fetches(&mut host), []);
}

#[test]
fn of_two_origins_the_faster_one_gets_more() {
    let (fast, slow) = (PeerKey(u32::MAX), PeerKey(u32::MAX - 1));
    let mut host = Policy::new(PolicyConfig::new(2048, false, 1), PieceSet::new(2048));
    host.use_origins(terms(0, 1));
    host.origin_joined(at(0), fast, PARTS);
    host.origin_joined(at(0), slow, PARTS);
    let (mut came, mut now) = ([0, 0], 0);
    let mut due: Vec<(u64, PeerKey, u32)> = Vec::new();
    while !host.have().is_full() {
        for action in actions(&mut host) {
            if let Action::Fetch { origin, run, .. } = action {
                let each = if origin == fast { 5 } else { 50 };
                due.extend(run.pieces().zip(1..).map(|(piece, nth)| (now + nth * each, origin, piece)));
            }
        }
        due.sort_unstable_by_key(|(at, ..)| std::cmp::Reverse(*at));
        let (at, key, piece) = due.pop().unwrap();
        now = at;
        came[usize::from(key == slow)] += 1;
        bring(&mut host, now, key, piece);
    }
    assert!(came[0] > came[1] * 4, "{came:?}");
}

proptest! {
    /// Whatever happens, a host never fetches more than it may.
    #[test]
    fn the_cap_holds(most in 0u32..60, steps in prop::collection::vec((0u8..4, 0u32..64), 1..200)) {
        let mut host = host(64, OriginTerms { max_pieces: Some(most), ..terms(0, 1) });
        neighbour(&mut host, 0, 1, 0..64);
        let (mut fetched, mut now, mut open) = (0, 0, Vec::<(u32, Vec<u32>)>::new());
        for (step, pick) in steps {
            now += 300;
            for action in actions(&mut host) {
                match action {
                    Action::Fetch { request, run, .. } => open.push((request, run.pieces().collect())),
                    // What was taken back does not come any more.
                    Action::Cancel { peer: ORIGIN, piece } => open.iter_mut().for_each(|(_, asked)| asked.retain(|other| *other != piece)),
                    _ => (),
                }
            }
            match step {
                0 => host.tick(at(now)),
                1 if !open.is_empty() => {
                    let (request, _) = open.remove(pick as usize % open.len());
                    host.origin_failed(at(now), ORIGIN, request, OriginFailure::Failed);
                }
                2 => {
                    let asked: Vec<u32> = open.iter().flat_map(|(_, asked)| asked.clone()).collect();
                    if let Some(piece) = asked.get(pick as usize % asked.len().max(1)).filter(|piece| !host.have().contains(**piece)) {
                        fetched += 1;
                        bring(&mut host, now, ORIGIN, *piece);
                    }
                }
                _ => bring(&mut host, now, PeerKey(1), pick),
            }
            prop_assert!(fetched <= most, "{fetched} of {most}");
        }
    }
}

/// Returns who is asked for parts, who for everything.
fn asked(policy: &mut Policy) -> (Vec<PeerKey>, Vec<(PeerKey, u32)>) {
    let (mut parts, mut whole) = (Vec::new(), Vec::new());
    for action in actions(policy) {
        match action {
            Action::Fetch { origin, .. } => parts.push(origin),
            Action::FetchAll { origin, request } => whole.push((origin, request)),
            _ => (),
        }
    }
    (parts, whole)
}

#[test]
fn a_direct_download_asks_for_everything_though_peers_deliver() {
    let mut host = host(256, terms(0, 4));
    for key in [1, 2] {
        neighbour(&mut host, 0, key, 0..256);
    }
    pieces_of(&fetches(&mut host)).into_iter().for_each(|piece| bring(&mut host, 100, ORIGIN, piece));
    let own = host.have().count();
    for piece in 16..24 {
        bring(&mut host, 200, PeerKey(1 + piece % 2), piece);
    }
    host.tick(at(250));
    assert_eq!(asked(&mut host).0, [], "two fast peers spare it");
    host.go_direct(at(300), Direct::Origins);
    let asked = fetches(&mut host);
    assert_eq!(asked.len(), 4, "as many requests as one origin gets");
    // The peers go on beside it.
    for step in 0..2000 {
        let now = 400 + step * 50;
        host.tick(at(now));
        pieces_of(&fetches(&mut host)).into_iter().for_each(|piece| bring(&mut host, now + 10, ORIGIN, piece));
    }
    pieces_of(&asked).into_iter().for_each(|piece| bring(&mut host, 200_000, ORIGIN, piece));
    assert!(own < 256 && host.have().is_full());
}

#[test]
fn an_origin_without_parts_is_asked_for_everything_and_only_directly() {
    let mut host = Policy::new(PolicyConfig::new(64, false, 1), PieceSet::new(64));
    host.use_origins(terms(0, 1));
    host.origin_joined(at(0), ORIGIN, WHOLE);
    host.tick(at(60_000));
    assert_eq!(asked(&mut host), (vec![], vec![]), "not for pieces");
    host.go_direct(at(60_000), Direct::Parts);
    assert_eq!(asked(&mut host), (vec![], vec![]), "nor while others may serve");
    assert!(host.has_origin(at(60_000)));
    host.go_direct(at(60_000), Direct::Origins);
    let (parts, whole) = asked(&mut host);
    assert!(parts.is_empty() && whole.len() == 1 && whole[0].0 == ORIGIN);
    // Peers are asked as before, and what comes from them first is passed over.
    neighbour(&mut host, 60_100, 1, 0..64);
    assert!(actions(&mut host).iter().any(|action| matches!(action, Action::Request { .. })));
    bring(&mut host, 60_200, PeerKey(1), 9);
    assert!(actions(&mut host).contains(&Action::Cancel { peer: ORIGIN, piece: 9 }));
    // A piece that begins to come is asked of nobody else any more.
    let idle: Vec<u32> = (0..64).filter(|piece| !host.flights.keys().any(|other| other == piece)).collect();
    let begins = *idle.iter().find(|piece| !host.have().contains(**piece)).unwrap();
    host.progress(at(60_300), ORIGIN, begins);
    assert!(host.flights.get(&begins).is_some_and(|flight| flight.sources.len() == 1));
    // One request at a time; when it ends early, another one follows later.
    host.tick(at(60_400));
    assert_eq!(asked(&mut host).1, []);
    host.origin_failed(at(60_500), ORIGIN, whole[0].1, OriginFailure::Failed);
    assert_eq!(asked(&mut host).1, []);
    host.tick(at(62_000));
    assert_eq!(asked(&mut host).1.len(), 1);
    for piece in 0..64 {
        bring(&mut host, 63_000, ORIGIN, piece);
    }
    assert!(host.have().is_full());
    host.tick(at(64_000));
    assert_eq!(asked(&mut host), (vec![], vec![]));
}

#[test]
fn an_origin_without_parts_waits_for_those_with_parts_and_keeps_to_the_cap() {
    let mut host = host(64, terms(0, 1));
    host.origin_joined(at(0), PeerKey(u32::MAX - 1), WHOLE);
    host.go_direct(at(0), Direct::Origins);
    assert_eq!(asked(&mut host).1, [], "the other one works");
    for number in 0..40 {
        host.origin_failed(at(1000 * number), ORIGIN, number as u32, OriginFailure::Failed);
    }
    host.tick(at(50_000));
    assert_eq!(asked(&mut host).1.len(), 1, "the other one is left alone");

    let mut host = Policy::new(PolicyConfig::new(64, false, 1), PieceSet::new(64));
    host.use_origins(OriginTerms { max_pieces: Some(63), ..terms(0, 1) });
    host.origin_joined(at(0), ORIGIN, WHOLE);
    host.go_direct(at(0), Direct::Controller);
    assert_eq!(asked(&mut host).1, [], "it would send more than may be fetched");
    assert!(!host.has_origin(at(0)));
}

#[test]
fn the_controllers_web_server_is_the_last_that_is_asked_and_counts_for_no_cap() {
    let mut host = Policy::new(PolicyConfig::new(64, false, 1), PieceSet::new(64));
    host.use_origins(OriginTerms { max_pieces: Some(8), ..terms(0, 1) });
    host.origin_joined(at(0), WEB, OriginTraits { parts: true, controller: true });
    host.go_direct(at(0), Direct::Origins);
    assert_eq!(asked(&mut host).0, []);
    assert!(!host.has_origin(at(0)) && host.direct_rate().is_none());
    host.origin_joined(at(0), ORIGIN, PARTS);
    assert_eq!(asked(&mut host).0, [ORIGIN]);
    host.go_direct(at(1000), Direct::Controller);
    // The origin's cap is used up.
    assert_eq!(asked(&mut host).0, [WEB; 4]);
    assert!(!host.has_origin(at(1000)));
    for step in 0..200 {
        let now = 2000 + 50 * step;
        for piece in 0..64 {
            bring(&mut host, now, WEB, piece);
        }
        host.tick(at(now));
    }
    assert!(host.have().is_full());
}

#[test]
fn how_fast_a_direct_download_would_be_is_what_one_request_brings() {
    let mut host = host(64, terms(0, 1));
    assert_eq!(host.direct_rate(), None);
    let first = fetches(&mut host)[0].1.first;
    bring(&mut host, 500, ORIGIN, first);
    assert_eq!(host.direct_rate(), Some(u64::from(PIECE) * 2));
}
