use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::swarm::policy;

const MIB: u64 = 1 << 20;
const KIB: u32 = 1 << 10;

/// Equal hosts on links of so many Mbit/s.
fn even(hosts: usize, mbit: u64, size: u64, piece_length: u32, seed: u64) -> Scenario {
    let rate = mbit * 125_000;
    Scenario {
        hosts: vec![SimulatedHost::new(rate); hosts],
        controller_rate: rate,
        zone_link: None,
        size,
        piece_length,
        latency: Duration::from_micros(500),
        queue: Duration::from_millis(25),
        degree: policy::degree(hosts),
        seed,
        limit: Duration::from_secs(3600),
    }
}

/// What a test looks at, in multiples of one plain download and of the artifact.
#[derive(Debug)]
struct Figures {
    last: f64,
    median: f64,
    controller: f64,
    in_vain: f64,
}

#[track_caller]
fn figures(scenario: &Scenario) -> Figures {
    let prediction = simulate(scenario);
    assert!(!prediction.hosts.contains(&HostOutcome::Incomplete), "{prediction:?}");
    let size = scenario.size as f64;
    let times = prediction.times(|_| true);
    let time = |at: usize| {
        times.get(at).map_or(0.0, Duration::as_secs_f64) / scenario.download(scenario.controller_rate).as_secs_f64()
    };
    Figures {
        last: time(times.len().saturating_sub(1)),
        median: time(times.len() / 2),
        controller: prediction.controller_sent as f64 / size,
        in_vain: prediction.in_vain as f64 / size / scenario.hosts.len() as f64,
    }
}

#[test]
fn sixteen_equal_hosts_are_close_to_the_floor() {
    let figures = figures(&even(16, 50, 16 * MIB, 64 * KIB, 1));
    assert!(figures.last < 1.25 && figures.controller < 1.1 && figures.in_vain < 0.02, "{figures:?}");
}

/// The same over some seeds.
#[track_caller]
fn mean_figures(scenario: &Scenario) -> Figures {
    const SEEDS: u64 = 3;
    let each: Vec<Figures> = (1..=SEEDS).map(|seed| figures(&Scenario { seed, ..scenario.clone() })).collect();
    let mean = |of: fn(&Figures) -> f64| each.iter().map(of).sum::<f64>() / SEEDS as f64;
    Figures {
        last: mean(|of| of.last),
        median: mean(|of| of.median),
        controller: mean(|of| of.controller),
        in_vain: mean(|of| of.in_vain),
    }
}

/// The regression test of the rules: what they reach on the fleets that the lab measures.
#[test]
fn the_labs_fleets_are_close_to_the_floor_and_end_together() {
    let fleets = [(16, 50, 64 * MIB, 1.09), (32, 25, 32 * MIB, 1.13), (64, 10, 16 * MIB, 1.23)];
    for (hosts, mbit, size, most) in fleets {
        let figures = mean_figures(&even(hosts, mbit, size, 32 * KIB, 1));
        assert!(figures.last < most && figures.last / figures.median < 1.05, "{hosts} hosts: {figures:?}");
        assert!(figures.controller < 1.09 && figures.in_vain < 0.015, "{hosts} hosts: {figures:?}");
    }
}

/// Where an answer is far away, more is asked for at the same time: what starts slowly must not stay slow.
#[test]
fn fleets_across_continents_fill_their_links() {
    for (hosts, piece_length, most) in [(8, 256 * KIB, 1.6), (8, 32 * KIB, 3.0), (2, 32 * KIB, 3.0)] {
        let mut scenario = even(hosts, 1000, 256 * MIB, piece_length, 1);
        (scenario.latency, scenario.queue) = (Duration::from_millis(100), Duration::from_millis(5));
        let figures = figures(&scenario);
        assert!(figures.last < most && figures.in_vain < 0.02, "{hosts} hosts, pieces of {piece_length}: {figures:?}");
    }
}

#[test]
fn one_host_takes_as_long_as_a_plain_download() {
    let figures = figures(&even(1, 100, 16 * MIB, 256 * KIB, 1));
    assert!((1.0..1.1).contains(&figures.last) && (1.0..1.01).contains(&figures.controller), "{figures:?}");
}

#[test]
fn the_seed_gives_little_more_than_one_copy_whatever_the_fleet() {
    for hosts in [1, 4, 28] {
        let figures = figures(&even(hosts, 25, 6 * MIB, 64 * KIB, 3));
        assert!(figures.last < 1.9 && figures.controller < 1.12, "{hosts} hosts: {figures:?}");
    }
}

#[test]
fn a_tiny_artifact_leaves_the_controller_hardly_more_than_once() {
    for hosts in [1, 2, 8, 30] {
        let controller = figures(&even(hosts, 50, 100_000, 16 * KIB, 1)).controller;
        assert!(controller < 1.2, "{hosts} hosts: {controller}");
    }
}

/// Nobody waits for the seed, which keeps requests for what a neighbour has by now.
#[test]
fn one_byte_comes_in_a_few_round_trips() {
    for hosts in [4, 16, 40] {
        for seed in 1..5 {
            let scenario = even(hosts, 50, 1, 16 * KIB, seed);
            let last = simulate(&scenario).times(|_| true).last().copied().unwrap_or_default();
            assert!(last < START + (scenario.latency + scenario.queue) * 10, "{hosts} hosts: {last:?}");
        }
    }
}

#[test]
fn hosts_that_reach_only_the_seed_share_its_uplink() {
    for (hosts, piece_length) in [(1, 64 * KIB), (4, 64 * KIB), (4, 1024 * KIB)] {
        let mut scenario = even(hosts, 50, 16 * MIB, piece_length, 5);
        scenario.hosts.iter_mut().for_each(|host| host.alone = true);
        let figures = figures(&scenario);
        assert!(figures.last / (hosts as f64) < 1.3, "{hosts} hosts, pieces of {piece_length}: {figures:?}");
    }
}

#[test]
fn a_host_that_came_with_everything_spares_the_seed() {
    let mut scenario = even(8, 50, 8 * MIB, 64 * KIB, 6);
    scenario.hosts[..2].iter_mut().for_each(|host| host.complete = true);
    let figures = figures(&scenario);
    assert!(figures.last < 1.6 && figures.controller < 0.3, "{figures:?}");
}

#[test]
fn a_slow_host_takes_its_own_time_and_no_one_elses() {
    let mut scenario = even(16, 50, 32 * MIB, 64 * KIB, 2);
    scenario.hosts.iter_mut().step_by(4).for_each(|host| host.rate /= 4);
    let prediction = simulate(&scenario);
    let last = |slow: bool| prediction.times(|host| (host % 4 == 0) == slow).last().copied().unwrap_or_default().as_secs_f64();
    let download = scenario.download(scenario.controller_rate).as_secs_f64();
    assert!(last(false) / download < 1.25, "{}", last(false) / download);
    assert!((4.0..5.0).contains(&(last(true) / download)), "{}", last(true) / download);
}

/// Hosts spread over zones one by one; each zone's link is as wide as so many hosts' links.
fn zoned(hosts: usize, zones: usize, link: f64) -> Scenario {
    let mut scenario = even(hosts, 50, 32 * MIB, 64 * KIB, 2);
    scenario.hosts.iter_mut().enumerate().for_each(|(index, host)| host.zone = index % zones);
    scenario.zone_link = Some((scenario.controller_rate as f64 * link) as u64);
    scenario
}

#[test]
fn the_artifact_comes_once_into_each_zone() {
    for (hosts, zones, link, most) in
        [(16, 2, 2.0, 1.17), (32, 4, 4.0, 1.5), (16, 2, 0.5, 2.2), (12, 12, 9.0, 1.4), (3, 2, 1.0, 1.3)]
    {
        let scenario = zoned(hosts, zones, link);
        let crossed = simulate(&scenario).zones.iter().map(|bytes| *bytes as f64 / scenario.size as f64).fold(0.0, f64::max);
        let figures = figures(&scenario);
        assert!((1.0..1.05).contains(&crossed), "{hosts} hosts in {zones} zones: {crossed}, {figures:?}");
        assert!(figures.last < most && figures.controller < 1.15, "{hosts} hosts in {zones} zones: {figures:?}");
    }
}

#[test]
fn deaths_in_a_zone_cost_little_and_do_not_stop_it() {
    let mut scenario = zoned(24, 2, 3.0);
    scenario.hosts[1..8].iter_mut().step_by(2).for_each(|host| host.dies = Some(Duration::from_secs(2)));
    let few = simulate(&scenario);
    assert!((few.zones[1] as f64) < 1.2 * scenario.size as f64, "{few:?}");
    assert!(figures(&scenario).last < 1.3);
    // All but one of a zone.
    scenario.hosts[3..].iter_mut().step_by(2).for_each(|host| host.dies = Some(Duration::from_secs(2)));
    scenario.hosts[1].dies = None;
    assert!(figures(&scenario).last < 1.6);
}

#[test]
fn hosts_that_never_come_cost_their_zone_little() {
    for (hosts, gone, most) in [(16, 2, 1.3), (32, 4, 1.6)] {
        let mut scenario = zoned(hosts, 2, hosts as f64 / 8.0);
        scenario.hosts[3..].iter_mut().step_by(8).take(gone).for_each(|host| host.dies = Some(Duration::ZERO));
        let crossed = simulate(&scenario).zones[1] as f64 / scenario.size as f64;
        // Single runs differ by a third: it matters whose pieces are given to others first.
        let figures = mean_figures(&scenario);
        assert!(figures.last < most && crossed < 1.15, "{gone} of {hosts}: {crossed}, {figures:?}");
    }
}

#[test]
fn the_same_scenario_gives_the_same_prediction_on_any_number_of_threads() {
    let mut scenario = even(900, 1000, 8 * MIB, 512 * KIB, 11);
    for (index, host) in scenario.hosts.iter_mut().enumerate() {
        host.zone = index % 3;
        host.dies = (index % 50 == 7).then(|| Duration::from_micros(index as u64 * 100));
    }
    scenario.zone_link = Some(1_000_000_000);
    let one = simulate_on(&scenario, 1);
    assert_eq!(one.hosts.iter().filter(|host| **host == HostOutcome::Dead).count(), 18);
    assert_eq!(one, simulate_on(&scenario, 1));
    assert_eq!(one, simulate_on(&scenario, 3));
    scenario.seed += 1;
    assert_ne!(one, simulate_on(&scenario, 1));
}

#[test]
fn time_that_is_up_leaves_hosts_incomplete() {
    let mut scenario = even(4, 10, 8 * MIB, 64 * KIB, 1);
    scenario.limit = Duration::from_secs(2);
    assert_eq!(simulate(&scenario).hosts, vec![HostOutcome::Incomplete; 4]);
}

/// A fleet of odd links, zones and deaths.
fn any_fleet() -> impl Strategy<Value = Scenario> {
    let hosts = |count| {
        let host = (250_000u64..4_000_000, 0usize..3, prop::option::weighted(0.15, 0u64..4_000));
        prop::collection::vec(host, count)
    };
    // Also those that are no full mesh, with few pieces.
    let fleet = prop_oneof![(hosts(1..24), 1u64..3_000_000), (hosts(24..80), 1u64..700_000)];
    (fleet, 1usize..4, any::<u64>(), prop::option::of(500_000u64..4_000_000)).prop_map(
        |((hosts, size), zones, seed, zone_link)| {
            let host = |(rate, zone, dies): (u64, usize, Option<u64>)| SimulatedHost {
                zone: zone % zones,
                dies: dies.map(Duration::from_millis),
                ..SimulatedHost::new(rate)
            };
            let hosts: Vec<SimulatedHost> = hosts.into_iter().map(host).collect();
            let zone_link = zone_link.filter(|_| zones > 1);
            let degree = policy::degree(hosts.len());
            Scenario { hosts, controller_rate: 1_000_000, zone_link, size, degree, ..even(0, 8, 0, 64 * KIB, seed) }
        },
    )
}

/// Over its floor, the slowest host of a random fleet takes at most this factor, and so many seconds more. The factor: a few pieces on links that differ
/// 16-fold can't be spread evenly, everybody may wait for a piece that only the slowest host got. The seconds: one until the seed comes to the rescue, two
/// until zone mates are no longer waited for. 2,500 random fleets stayed within it.
const BOUND: (f64, f64) = (3.0, 3.0);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever the fleet: nobody who lives is left behind, no piece is lost, and the last host is within [`BOUND`] of what is possible.
    #[test]
    fn every_surviving_host_completes_in_time(scenario in any_fleet()) {
        let prediction = simulate_on(&scenario, 1);
        let floor = scenario.floor(|_| true).as_secs_f64();
        for (host, outcome) in scenario.hosts.iter().zip(&prediction.hosts) {
            match *outcome {
                HostOutcome::Complete(at) => {
                    prop_assert!(host.dies.is_some() || at.as_secs_f64() < BOUND.0 * floor + BOUND.1, "{:?}, floor {}", at, floor);
                    prop_assert!(host.dies.is_some() || at >= scenario.floor(|index| std::ptr::eq(&scenario.hosts[index], host)));
                }
                HostOutcome::Dead => prop_assert!(host.dies.is_some()),
                HostOutcome::Incomplete => prop_assert!(false, "left behind"),
            }
        }
        let died = scenario.hosts.iter().filter(|host| host.dies.is_some()).count();
        prop_assert!(prediction.controller_sent <= scenario.size * (2 + died as u64) + 10 * MIB);
        prop_assert_eq!(prediction, simulate_on(&scenario, 1));
    }
}

#[test]
fn the_floor_is_what_the_narrowest_place_allows() {
    let download = |scenario: &Scenario| scenario.download(scenario.controller_rate).as_secs_f64();
    let floor = |scenario: &Scenario| scenario.floor(|_| true).as_secs_f64() / download(scenario);
    let even = even(16, 50, 16 * MIB, 64 * KIB, 1);
    assert!((floor(&even) - (1.0 + 4.0 / 256.0)).abs() < 1e-9);
    let change = |with: &dyn Fn(&mut Scenario)| {
        let mut scenario = even.clone();
        with(&mut scenario);
        floor(&scenario)
    };
    let near = |is: f64, should: f64| assert!((is - should).abs() < 1e-6, "{is}, not {should}");
    near(change(&|scenario| scenario.hosts[3].rate /= 4), 4.0);
    near(change(&|scenario| (scenario.hosts[3].rate, scenario.hosts[3].dies) = (1, Some(Duration::ZERO))), 1.0 + 3.0 / 256.0);
    near(change(&|scenario| scenario.hosts.iter_mut().for_each(|host| host.alone = true)), 16.0);
    near(
        change(&|scenario| {
            scenario.hosts[5].zone = 1;
            scenario.zone_link = Some(scenario.controller_rate / 5);
        }),
        5.0,
    );
    near(change(&|scenario| scenario.hosts.iter_mut().for_each(|host| host.complete = true)), 0.0);
}
