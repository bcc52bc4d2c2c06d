use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn stats(payload: u64, controller: Reach) -> TransferStats {
    TransferStats { payload, controller, ..TransferStats::default() }
}

fn refused() -> Reach {
    Reach::Failed("10.0.0.1:4711: connection refused".to_owned())
}

/// Returns the seconds after which a host asked, with what it said of the time in which nothing came.
fn asks(seconds: u64, sight: impl Fn(u64) -> TransferStats) -> Vec<(u64, u32)> {
    let mut ladder = Ladder::new();
    let looks = (0..seconds).filter_map(|second| match ladder.look(at(second), &sight(second))? {
        FromAgent::Stranded { reason, seconds } => {
            assert_eq!(reason, "can't connect to the controller at 10.0.0.1:4711: connection refused");
            Some((second, seconds))
        }
        other => panic!("{other:?}"),
    });
    looks.collect()
}

#[test]
fn a_host_that_is_cut_off_asks_again_and_again() {
    assert_eq!(asks(12, |_| stats(0, refused())), [(3, 3), (7, 7), (11, 11)]);
}

#[test]
fn who_is_connected_or_gets_something_does_not_ask() {
    assert_eq!(asks(100, |_| stats(0, Reach::Untried)), []);
    assert_eq!(asks(100, |_| stats(0, Reach::Stands)), []);
    assert_eq!(asks(100, |second| stats(second / 2, refused())), []);
    assert_eq!(asks(100, |_| TransferStats { complete: true, ..stats(9, refused()) }), []);
    // What came in the sixth second is the last.
    assert_eq!(asks(11, |second| stats(second.min(6), refused())), [(9, 3)]);
}

#[test]
fn a_pause_in_which_nothing_is_waited_for_does_not_count() {
    let mut ladder = Ladder::new();
    assert!(ladder.look(at(0), &stats(0, refused())).is_none());
    ladder.rest();
    assert!(ladder.look(at(60), &stats(0, refused())).is_none());
    assert!(ladder.look(at(63), &stats(0, refused())).is_some());
}

#[test]
fn the_way_through_ssh_is_told_once_with_its_reason() {
    let mut ladder = Ladder::new();
    ladder.look(at(0), &stats(0, refused()));
    ladder.look(at(3), &stats(0, refused()));
    let Some(FromAgent::Mode { mode: Mode::Ssh, reason }) = ladder.take_way() else { panic!("it was not told") };
    assert!(reason.contains("connection refused"), "{reason}");
    assert!(ladder.take_way().is_none());
}
