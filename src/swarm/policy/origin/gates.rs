//! The three gates that a request to an origin has to pass. Each is a function of what is known and of nothing else.

use std::time::Duration;

use crate::model::origin::OriginSettings;

/// How many peers have to be fast enough for the origin to be spared.
const ENOUGH_PEERS: usize = 2;

/// How an origin has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::swarm) struct Standing {
    /// It serves parts of the artifact. One that doesn't is of no use for pieces.
    pub(in crate::swarm) ranges: bool,
    /// Requests to it that are under way.
    pub(in crate::swarm) active: u32,
    /// Requests that failed since the last one that went well.
    pub(in crate::swarm) failures: u32,
    /// Not before: after a failure, or because it said that it is busy.
    pub(in crate::swarm) rests_until: Duration,
}

/// *Eligibility*: returns whether an origin may be sent one more request, while so many requests are under way to all of them. After too
/// many failures in a row it is left alone for [`OriginSettings::failure_backoff_duration`] (which is in `rests_until` then), and afterwards
/// gets one request at a time until one goes well.
pub(in crate::swarm) fn is_eligible(now: Duration, origin: &Standing, active: u32, settings: &OriginSettings) -> bool {
    let most = if origin.failures < settings.failure_backoff_threshold { settings.max_requests_per_seed } else { 1 };
    settings.enabled
        && origin.ranges
        && now >= origin.rests_until
        && origin.active < most
        && active < settings.max_requests_global
}

/// *Bandwidth fraction*: returns whether the origins' part of what a host receives, in bytes a second, leaves room for more of it. While the
/// peers together are slower than one peer should be, as at the start or where there are none, there is nothing to take a part of: the
/// origins may then give all.
pub(in crate::swarm) fn leaves_room(from_origins: f64, from_peers: f64, settings: &OriginSettings) -> bool {
    let cold = from_peers < settings.peer_rate_threshold as f64;
    cold || from_origins * 1000.0 <= (from_origins + from_peers) * f64::from(settings.max_bandwidth_fraction)
}

/// *Prefer peers*: returns whether the origins are to be asked only for what no peer can give, because enough peers deliver at so
/// many bytes a second each.
pub(in crate::swarm) fn spares_origins(peer_rates: impl Iterator<Item = f64>, settings: &OriginSettings) -> bool {
    let fast = peer_rates.filter(|rate| *rate >= settings.peer_rate_threshold as f64);
    settings.prefer_peers && fast.take(ENOUGH_PEERS).count() == ENOUGH_PEERS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const GOOD: Standing = Standing { ranges: true, active: 0, failures: 0, rests_until: Duration::ZERO };

    fn settings() -> OriginSettings {
        OriginSettings::default()
    }

    #[test]
    fn an_origin_is_eligible_within_its_limits() {
        let at_once = |active, all| is_eligible(NOW, &Standing { active, ..GOOD }, all, &settings());
        assert_eq!(
            [at_once(0, 0), at_once(3, 3), at_once(4, 4), at_once(0, 15), at_once(0, 16)],
            [true, true, false, true, false]
        );
        assert!(!is_eligible(NOW, &Standing { ranges: false, ..GOOD }, 0, &settings()));
        assert!(!is_eligible(NOW, &GOOD, 0, &OriginSettings { enabled: false, ..settings() }));
    }

    #[test]
    fn an_origin_that_fails_rests_and_then_has_to_show_that_it_works() {
        let after = |failures, rests: Duration, active| {
            is_eligible(NOW, &Standing { failures, rests_until: rests, active, ..GOOD }, active, &settings())
        };
        let soon = NOW + Duration::from_millis(1);
        assert_eq!([after(1, NOW, 3), after(1, soon, 0)], [true, false]);
        assert_eq!([after(4, NOW, 1), after(5, NOW, 0), after(5, NOW, 1), after(9, NOW, 0)], [true, true, false, true]);
    }

    #[test]
    fn the_origins_part_is_bounded_once_peers_deliver() {
        let at = |origins: f64, peers: f64| leaves_room(origins * 1024.0, peers * 1024.0, &settings());
        assert!(at(0.0, 0.0) && at(1e6, 0.0), "nobody else gives: the origin may");
        assert!(at(1e6, 49.0), "who is slower than one peer should be does not hold up the origin");
        assert_eq!([at(200.0, 50.0), at(201.0, 50.0), at(0.0, 50.0)], [true, false, true]);
        let all = OriginSettings { max_bandwidth_fraction: 1000, ..settings() };
        assert!(leaves_room(1e12, 60.0 * 1024.0, &all));
    }

    #[test]
    fn two_fast_peers_spare_the_origin() {
        let spares = |rates: &[f64]| spares_origins(rates.iter().map(|rate| rate * 1024.0), &settings());
        assert_eq!([spares(&[]), spares(&[5000.0]), spares(&[5000.0, 49.9])], [false; 3]);
        assert!(spares(&[50.0, 50.0]) && spares(&[1.0, 70.0, 1.0, 60.0, 80.0]));
        assert!(!spares_origins([1e9, 1e9].into_iter(), &OriginSettings { prefer_peers: false, ..settings() }));
    }

    proptest! {
        /// Less load and fewer failures never close the gate that was open.
        #[test]
        fn less_is_never_worse(active in 0u32..20, all in 0u32..40, failures in 0u32..12) {
            let open = |active, all, failures| is_eligible(NOW, &Standing { active, failures, ..GOOD }, all, &settings());
            if open(active, all, failures) {
                prop_assert!(open(active.saturating_sub(1), all, failures));
                prop_assert!(open(active, all.saturating_sub(1), failures));
                prop_assert!(open(active, all, failures.saturating_sub(1)));
            }
        }

        /// At the bound the part is the bound, whatever the rates.
        #[test]
        fn the_part_is_the_fraction(peers in 60_000.0f64..1e9, fraction in 10u32..1000) {
            let settings = OriginSettings { max_bandwidth_fraction: fraction, ..settings() };
            let most = peers * f64::from(fraction) / f64::from(1000 - fraction);
            prop_assert!(leaves_room(most * 0.999, peers, &settings));
            prop_assert!(!leaves_room(most * 1.001 + 1.0, peers, &settings));
        }
    }
}
