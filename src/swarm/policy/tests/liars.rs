//! Neighbours that claim pieces and never send one: a standard client that joined, or one that knows our extension and is hostile.

use super::{
    fleet::{Claim, Liar, run},
    *,
};

const PIECES: u32 = 256;
/// Pieces of the fleets that chance draws.
const FEWER: u32 = 96;
/// What liars may cost at most, however many there are: the time until a request to each was given up, and what follows from it. 10,000 fleets
/// stayed below 4 s and 1.4 copies.
const LOST: Duration = Duration::from_secs(5);

fn liar() -> impl Strategy<Value = Liar> {
    let claim = prop_oneof![Just(Claim::All), Just(Claim::AllButOne), Just(Claim::Echo)];
    (claim, any::<bool>(), any::<bool>()).prop_map(|(claim, unchokes, fleet)| Liar { claim, unchokes, fleet })
}

/// Runs a fleet with liars; returns its time over that of the same one without, that time, and the seed's copies.
#[track_caller]
fn cost(honest: usize, liars: &[Liar], pieces: u32, seed: u64) -> (f64, Duration, f64) {
    let undisturbed = run(honest, &[], pieces, seed).last.expect("an undisturbed fleet must complete");
    let outcome = run(honest, liars, pieces, seed);
    let last = outcome.last.unwrap_or_else(|| panic!("{honest} hosts never complete among {liars:?}"));
    (last.as_secs_f64() / undisturbed.as_secs_f64(), last.saturating_sub(undisturbed), outcome.copies)
}

#[test]
fn standard_clients_that_give_nothing_cost_nothing() {
    for claim in [Claim::All, Claim::AllButOne, Claim::Echo] {
        for unchokes in [false, true] {
            let liar = Liar { claim, unchokes, fleet: false };
            for (honest, liars) in [(7, 1), (4, 4)] {
                let (ratio, _, copies) = cost(honest, &vec![liar; liars], PIECES, 1);
                assert!(
                    ratio < 1.1 && copies < 1.08,
                    "{honest} and {liars} of {liar:?}: {ratio:.2}, the seed sent {copies:.2}"
                );
            }
        }
    }
}

#[test]
fn one_hostile_peer_of_eight_that_passes_for_the_fleets_costs_little() {
    for claim in [Claim::All, Claim::AllButOne, Claim::Echo] {
        for unchokes in [false, true] {
            let liar = Liar { claim, unchokes, fleet: true };
            let (ratio, _, copies) = cost(7, &[liar], PIECES, 1);
            assert!(ratio < 1.4 && copies < 1.15, "{liar:?}: {ratio:.2}, the seed sent {copies:.2}");
        }
    }
}

#[test]
fn what_was_pushed_to_liars_is_not_waited_for_piece_by_piece() {
    for unchokes in [false, true] {
        let liar = Liar { claim: Claim::Echo, unchokes, fleet: true };
        for seed in [17, 929] {
            let (_, lost, _) = cost(3, &[liar; 3], FEWER, seed);
            assert!(lost < Duration::from_secs(3), "{liar:?}, {seed}: {lost:?} later");
        }
    }
}

#[test]
fn two_liars_that_are_asked_for_a_piece_do_not_keep_it_from_those_that_answer() {
    let liar = |fleet| Liar { claim: Claim::AllButOne, unchokes: true, fleet };
    for (honest, liars, seed) in [(8, vec![liar(false); 8], 3), (7, vec![liar(true); 7], 12)] {
        let (_, lost, _) = cost(honest, &liars, FEWER, seed);
        assert!(lost < Duration::from_secs(3), "{honest} hosts among {:?}: {lost:?} later", liars[0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Whatever liars say and however they mix, up to as many as there are hosts: they cost a bounded time.
    #[test]
    fn any_liars_cost_a_bounded_time(honest in 1usize..9, liars in prop::collection::vec(liar(), 0..9), seed in 0u64..1000) {
        let liars = &liars[..liars.len().min(honest)];
        let (_, lost, copies) = cost(honest, liars, FEWER, seed);
        prop_assert!(lost < LOST, "{} hosts, {:?}: {:?} later", honest, liars, lost);
        prop_assert!(copies < 1.5, "{} hosts, {:?}: {} copies", honest, liars, copies);
    }
}
