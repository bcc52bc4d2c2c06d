use super::*;
use crate::model::ByteCounts;

const SIZE: u64 = 100_000_000;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn terms(web: bool) -> Terms {
    Terms { stall: at(30), size: SIZE, web }
}

fn stats(payload: u64, controller: Reach) -> TransferStats {
    TransferStats { payload, controller, ..TransferStats::default() }
}

fn refused() -> Reach {
    Reach::Failed("10.0.0.1:4711: connection refused".to_owned())
}

/// Lets a host look each second and returns what it did when, shortly.
fn story(terms: Terms, seconds: u64, sight: impl Fn(u64) -> TransferStats) -> Vec<(u64, String)> {
    let mut ladder = Ladder::new(terms);
    let mut told = Vec::new();
    for second in 0..seconds {
        for step in ladder.look(at(second), &sight(second)) {
            let text = match step {
                Step::Direct(direct) => format!("{direct:?}"),
                Step::Tell(FromAgent::Mode { mode, reason }) => format!("{mode}: {reason}"),
                Step::Tell(FromAgent::Stranded { reason, seconds }) => {
                    assert_eq!(reason, "can't connect to the controller at 10.0.0.1:4711: connection refused");
                    format!("stranded for {seconds} s")
                }
                Step::Tell(other) => panic!("{other:?}"),
            };
            told.push((second, text));
        }
    }
    told
}

/// The same, as it compares.
fn assert_story(told: &[(u64, String)], expected: &[(u64, &str)]) {
    let told: Vec<(u64, &str)> = told.iter().map(|(second, text)| (*second, text.as_str())).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_host_that_is_cut_off_asks_again_and_again() {
    let told = story(terms(false), 12, |_| stats(0, refused()));
    assert_story(&told, &[(3, "stranded for 3 s"), (7, "stranded for 7 s"), (11, "stranded for 11 s")]);
}

#[test]
fn who_is_connected_or_gets_something_stays_where_it_is() {
    for web in [false, true] {
        let quiet = |sight: &dyn Fn(u64) -> TransferStats| story(terms(web), 29, sight);
        assert_story(&quiet(&|_| stats(0, Reach::Untried)), &[]);
        assert_story(&quiet(&|_| stats(0, Reach::Stands)), &[]);
        assert_story(&story(terms(web), 300, |second| stats(second / 2, refused())), &[]);
        assert_story(&quiet(&|_| TransferStats { complete: true, ..stats(9, refused()) }), &[]);
    }
    // What came in the sixth second is the last.
    assert_story(&story(terms(false), 11, |second| stats(second.min(6), refused())), &[(9, "stranded for 3 s")]);
}

#[test]
fn a_pause_in_which_nothing_is_waited_for_does_not_count() {
    let mut ladder = Ladder::new(terms(false));
    assert!(ladder.look(at(0), &stats(0, refused())).is_empty());
    ladder.rest();
    assert!(ladder.look(at(60), &stats(0, refused())).is_empty());
    assert_eq!(ladder.look(at(63), &stats(0, refused())).len(), 1);
}

#[test]
fn a_host_that_stalls_goes_to_an_origin_and_then_to_the_controller() {
    // Something comes in the first ten seconds, then nothing any more. The controller answers at once.
    let sight = |second: u64| TransferStats { origins: true, web: Reach::Stands, ..stats(second.min(10), Reach::Stands) };
    assert_story(
        &story(terms(true), 600, sight),
        &[
            (40, "Origins"),
            (40, "origin: nothing came for 30 s"),
            (70, "Controller"),
            (71, "controller: nothing came for 30 s"),
        ],
    );
    assert_story(&story(terms(false), 600, sight), &[(40, "Origins"), (40, "origin: nothing came for 30 s")]);
}

#[test]
fn without_an_origin_that_can_be_hoped_for_the_controller_comes_next() {
    let sight = |_| TransferStats { web: Reach::Stands, ..stats(0, Reach::Stands) };
    assert_story(&story(terms(true), 600, sight), &[(30, "Controller"), (31, "controller: nothing came for 30 s")]);
    // Nothing is told of a web server that does not answer.
    assert_story(&story(terms(true), 600, |_| stats(0, Reach::Stands)), &[(30, "Controller")]);
    assert_story(&story(terms(false), 600, |_| stats(0, Reach::Stands)), &[]);
}

#[test]
fn a_host_that_is_cut_off_climbs_at_once() {
    let why = "can't connect to the controller at 10.0.0.1:4711: connection refused";
    // The controller's web server does not answer, then it refuses.
    let silent = story(terms(true), 8, |_| stats(0, refused()));
    assert_story(&silent, &[(3, "Controller"), (6, "stranded for 6 s")]);
    let dead = story(terms(true), 6, |_| TransferStats { web: refused(), ..stats(0, refused()) });
    assert_story(&dead, &[(3, "Controller"), (3, "stranded for 3 s")]);
    // It answers, and something comes.
    let answers = |second: u64| TransferStats { web: Reach::Stands, ..stats(second.saturating_sub(3), refused()) };
    let told = format!("controller: {why}");
    assert_story(&story(terms(true), 60, answers), &[(3, "Controller"), (4, told.as_str())]);
    // An origin comes before it.
    let origin = |_| TransferStats { origins: true, ..stats(0, refused()) };
    let told = format!("origin: {why}");
    assert_story(
        &story(terms(true), 10, origin),
        &[(3, "Origins"), (3, told.as_str()), (6, "Controller"), (9, "stranded for 9 s")],
    );
}

#[test]
fn a_host_that_origins_feed_goes_there_when_it_has_nobody_else() {
    let fed = |peers| move |second: u64| TransferStats { origins: true, peers, ..stats(second, refused()) };
    let told = "origin: can't connect to the controller at 10.0.0.1:4711: connection refused";
    assert_story(&story(terms(true), 60, fed(0)), &[(3, "Origins"), (3, told)]);
    assert_story(&story(terms(true), 60, fed(1)), &[]);
    // And where only peers feed it, nobody says that the controller has to.
    assert_story(&story(terms(true), 60, |second| TransferStats { origins: false, ..fed(0)(second) }), &[]);
}

#[test]
fn a_host_that_is_much_slower_than_a_direct_download_goes_there() {
    // 100 MB: 10 s directly.
    let slow = |rate: u64| {
        move |second: u64| TransferStats {
            origins: true,
            direct_rate: Some(10_000_000),
            rate,
            bytes: ByteCounts { from_peers: rate * second, ..ByteCounts::default() },
            ..stats(rate * second, Reach::Stands)
        }
    };
    let told = [(30, "Origins"), (30, "origin: it came so slowly that a direct download would end much earlier")];
    assert_story(&story(terms(true), 100, slow(1_000_000)), &told);
    // 40 s at first, and less and less.
    assert_story(&story(terms(true), 40, slow(2_500_000)), &[]);
    // Not known how fast, or nothing to hope for.
    let unknown = |second| TransferStats { direct_rate: None, ..slow(100_000)(second) };
    assert_story(&story(terms(true), 100, unknown), &[]);
    let gone = |second| TransferStats { origins: false, ..slow(100_000)(second) };
    assert_story(&story(terms(true), 100, gone), &[]);
    // Only now and then.
    let changing = |second: u64| slow(if second % 20 < 15 { 100_000 } else { 9_000_000 })(second);
    assert_story(&story(terms(true), 100, changing), &[]);
}

#[test]
fn the_way_through_ssh_is_told_once_with_its_reason() {
    let mut ladder = Ladder::new(terms(false));
    ladder.look(at(0), &stats(0, refused()));
    ladder.look(at(3), &stats(0, refused()));
    let Some(FromAgent::Mode { mode: Mode::Ssh, reason }) = ladder.take_way() else { panic!("it was not told") };
    assert!(reason.contains("connection refused"), "{reason}");
    assert!(ladder.take_way().is_none());
    // What answers later is no news.
    let answers = TransferStats { web: Reach::Stands, ..stats(0, Reach::Stands) };
    assert!(ladder.look(at(10), &answers).is_empty());
}

#[test]
fn a_host_without_peers_begins_directly() {
    let mut ladder = Ladder::new(terms(true));
    assert_eq!(ladder.begin_direct(), Direct::Parts);
    let origin = TransferStats { origins: true, ..stats(0, Reach::Stands) };
    assert!(ladder.look(at(0), &origin).is_empty());
    assert!(matches!(ladder.look(at(30), &origin)[..], [Step::Direct(Direct::Origins), Step::Tell(_)]));
    assert!(matches!(ladder.look(at(60), &origin)[..], [Step::Direct(Direct::Controller)]));
    // Of the controller it says that it is not there.
    let mut ladder = Ladder::new(terms(true));
    ladder.begin_direct();
    let origin = |second| TransferStats { origins: true, ..stats(second, refused()) };
    assert!(ladder.look(at(0), &origin(0)).is_empty());
    let told = ladder.look(at(3), &origin(3));
    let [Step::Direct(Direct::Origins), Step::Tell(FromAgent::Mode { mode: Mode::Origin, .. })] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(ladder.look(at(4), &origin(4)).is_empty());
}

#[test]
fn what_was_too_quick_to_be_seen_is_told_afterwards() {
    let bytes = |from_origin, from_peers| ByteCounts { from_origin, from_peers, ..ByteCounts::default() };
    let after = |bytes, controller| {
        let ended = TransferStats { complete: true, bytes, ..stats(9, controller) };
        Ladder::new(terms(true)).look_back(&ended)
    };
    assert!(matches!(after(bytes(9, 0), refused()), Some(FromAgent::Mode { mode: Mode::Origin, .. })));
    for (bytes, controller) in [(bytes(9, 1), refused()), (bytes(9, 0), Reach::Stands), (bytes(0, 0), refused())] {
        assert!(after(bytes, controller.clone()).is_none(), "{bytes:?} {controller:?}");
    }
    let mut ladder = Ladder::new(terms(true));
    ladder.look(at(0), &stats(0, refused()));
    ladder.look(at(3), &stats(0, refused()));
    let ended = TransferStats { complete: true, web: Reach::Stands, ..stats(9, refused()) };
    assert!(matches!(ladder.look_back(&ended), Some(FromAgent::Mode { mode: Mode::Controller, .. })));
    assert!(ladder.look_back(&ended).is_none());
}

#[test]
fn what_a_host_can_do_without_is_told_once() {
    let down = || Reach::Failed("the tracker can't be reached".to_owned());
    let tracker = |second| TransferStats { tracker: down(), ..stats(second, Reach::Stands) };
    let told = "peers: the tracker can't be reached, so it knows only the hosts that the job names";
    assert_story(&story(terms(true), 60, tracker), &[(3, told)]);
    // For a moment.
    let back = |second| if second == 5 { tracker(second) } else { stats(second, Reach::Stands) };
    assert_story(&story(terms(true), 60, back), &[]);
    let deaf = |second| TransferStats { deaf: Some("can't listen".to_owned()), ..stats(second, Reach::Stands) };
    assert_story(&story(terms(true), 60, deaf), &[(0, "peers: can't listen, so no other host can connect to it")]);
    let ended = TransferStats { complete: true, ..deaf(9) };
    assert!(matches!(Ladder::new(terms(true)).look_back(&ended), Some(FromAgent::Mode { mode: Mode::Peers, .. })));
}
