use proptest::prelude::*;

use super::*;
use crate::{model::HostFailure, report::rehearsal};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn started(hosts: usize, size: u64) -> FleetView {
    let mut view = FleetView::default();
    assert_eq!(view.apply(&rehearsal::started(hosts, size), Duration::ZERO), Change::Started);
    view
}

fn enter(view: &mut FleetView, host: &str, state: HostState) -> Change {
    view.apply(&rehearsal::state(host, state), Duration::ZERO)
}

#[test]
fn counts_follow_the_states() {
    let mut view = started(3, 100);
    enter(&mut view, "web01", HostState::Connecting);
    enter(&mut view, "web02", HostState::Unreachable);
    let counts: Vec<_> = view.counts().collect();
    assert_eq!(counts, [(HostState::Queued, 1), (HostState::Connecting, 1), (HostState::Unreachable, 1)]);
    assert_eq!(view.dropped(), 1);
}

#[test]
fn late_repeated_and_unknown_events_change_nothing() {
    let mut view = started(2, 100);
    assert_eq!(enter(&mut view, "web01", HostState::Downloading), Change::Host(HostState::Downloading));
    assert_eq!(enter(&mut view, "web01", HostState::Downloading), Change::Quiet);
    assert_eq!(enter(&mut view, "web01", HostState::Connecting), Change::Quiet);
    assert_eq!(enter(&mut view, "web01", HostState::Failed), Change::Host(HostState::Failed));
    assert_eq!(enter(&mut view, "web01", HostState::Active), Change::Quiet, "a final state changed");
    assert_eq!(enter(&mut view, "nobody", HostState::Active), Change::Quiet);
    view.apply(&rehearsal::progress("nobody", 50), seconds(1));
    assert_eq!(view.apply(&rehearsal::started(9, 1), seconds(1)), Change::Quiet);
    assert_eq!(view.counts().collect::<Vec<_>>(), [(HostState::Queued, 1), (HostState::Failed, 1)]);
}

#[test]
fn bytes_are_those_of_the_hosts_that_take_part() {
    let mut view = started(4, 100);
    for (host, received) in [("web01", 80), ("web02", 30)] {
        enter(&mut view, host, HostState::Downloading);
        view.apply(&rehearsal::progress(host, received), seconds(1));
    }
    assert_eq!(view.transfer(), Transfer { done: 110, total: 400 });
    // Verified: all is there, even if the last progress was lost. Out: its bytes don't count any more. Unchanged: never did.
    enter(&mut view, "web01", HostState::Verifying);
    enter(&mut view, "web02", HostState::Failed);
    enter(&mut view, "web03", HostState::Active);
    assert_eq!(view.transfer(), Transfer { done: 100, total: 200 });
    enter(&mut view, "web01", HostState::Staged);
    enter(&mut view, "web01", HostState::Active);
    assert_eq!(view.transfer(), Transfer { done: 100, total: 200 });
}

#[test]
fn a_late_progress_report_takes_no_bytes_away() {
    let mut view = started(1, 100);
    enter(&mut view, "web01", HostState::Downloading);
    view.apply(&rehearsal::progress("web01", 60), seconds(1));
    view.apply(&rehearsal::progress("web01", 40), seconds(2));
    assert_eq!(view.transfer().done, 60);
}

#[test]
fn rate_and_remaining_time() {
    let mut view = started(2, 1000);
    assert_eq!((view.rate(), view.eta()), (0, None));
    enter(&mut view, "web01", HostState::Downloading);
    for second in 0..=5 {
        view.apply(&rehearsal::progress("web01", second * 100), seconds(second));
    }
    assert_eq!(view.rate(), 100);
    assert_eq!(view.eta(), Some(seconds(15)));
    for second in 6..12 {
        view.pass(seconds(second));
    }
    assert_eq!((view.rate(), view.eta()), (0, None), "nothing moved for six seconds");
}

#[test]
fn the_slowest_are_the_receiving_hosts_with_the_least() {
    let mut view = started(4, 100);
    for (host, received) in [("web01", 50), ("web02", 10), ("web03", 90), ("web04", 10)] {
        enter(&mut view, host, HostState::Downloading);
        view.apply(&rehearsal::progress(host, received), seconds(1));
    }
    enter(&mut view, "web02", HostState::Verifying);
    let names: Vec<_> = view.slowest(2).iter().map(|row| row.name.as_str().to_owned()).collect();
    assert_eq!(names, ["web04", "web01"]);
}

fn any_event() -> impl Strategy<Value = RunEvent> {
    let host = (1usize..6).prop_map(rehearsal::host_name);
    let state = proptest::sample::select(HostState::ALL.to_vec());
    let bytes = (any::<u64>(), any::<u64>()).prop_map(|(from_peers, from_disk)| ByteCounts {
        from_peers,
        from_disk,
        from_controller: from_peers,
        ..ByteCounts::default()
    });
    (0u8..15, host, state, bytes, any::<u64>()).prop_map(|(kind, host, state, bytes, rate)| match kind {
        0..=5 => RunEvent::HostState { host, state, failure: None::<HostFailure> },
        6..=8 => RunEvent::HostProgress { host, bytes, rate, peers: 1 },
        9 => rehearsal::started(4, rate).event,
        10 => RunEvent::BarrierMet { hosts: 3, waves: 1 },
        11 => RunEvent::WaveStarted { wave: rate as usize % 4, waves: 3, hosts: vec![host] },
        12 => RunEvent::Paused { wave: rate as usize % 4, waves: 3, seconds: None },
        13 => RunEvent::RollingBack { hosts: 1, reason: "too many".into() },
        _ => RunEvent::Interrupted,
    })
}

#[test]
fn steps_are_told_once_and_only_forward() {
    let mut view = started(3, 100);
    let mut step = |event| view.apply(&rehearsal::envelope(event), seconds(1));
    let wave = |wave| RunEvent::WaveStarted { wave, waves: 3, hosts: Vec::new() };
    let back = || RunEvent::RollingBack { hosts: 1, reason: "too many".into() };
    assert_eq!(
        (step(wave(1)), step(wave(1)), step(wave(2)), step(wave(1))),
        (Change::Step, Change::Quiet, Change::Step, Change::Quiet)
    );
    assert_eq!((step(back()), step(back())), (Change::Step, Change::Quiet));
    assert_eq!(view.wave(), Some((2, 3)));
}

proptest! {
    #[test]
    fn any_events_in_any_order_keep_the_sums_right(
        events in proptest::collection::vec((any_event(), 0u64..100), 0..80)
    ) {
        let mut view = FleetView::default();
        for (event, at) in events {
            let finals: Vec<_> = view.hosts.iter().map(|row| row.state).collect();
            view.apply(&rehearsal::envelope(event), seconds(at));
            for (before, row) in finals.iter().zip(&view.hosts) {
                let sent_back = (*before, row.state) == (HostState::Active, HostState::Reverted);
                prop_assert!(!before.is_final() || *before == row.state || sent_back);
            }
            prop_assert!(view.hosts.len() <= 4);
            prop_assert_eq!(view.counts().map(|(_, hosts)| hosts).sum::<usize>(), view.hosts.len());
            let transfer = view.transfer();
            prop_assert!(transfer.done <= transfer.total);
            view.eta();
            prop_assert!(view.slowest(3).len() <= 3);
        }
    }
}
