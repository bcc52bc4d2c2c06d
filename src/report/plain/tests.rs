use super::*;
use crate::report::rehearsal;

fn told(events: Vec<(Duration, Envelope)>, quiet: bool, until: Duration) -> String {
    let mut out = Vec::new();
    let mut reporter = Plain::new(&mut out, Palette::PLAIN, 120, quiet);
    let mut events = events.into_iter().peekable();
    let mut now = Duration::ZERO;
    while now <= until || events.peek().is_some() {
        while let Some((at, event)) = events.next_if(|(at, _)| *at <= now) {
            reporter.event(&event, at);
        }
        reporter.tick(now);
        now += Duration::from_millis(100);
    }
    reporter.finish().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_small_deploy_from_start_to_end() {
    insta::assert_snapshot!(told(rehearsal::deploy(), false, Duration::ZERO), @"
    [0:00] deploying shop.tar.zst (64.0 MiB) to 5 hosts as 20261120T031500Z-1a2b3c4d
    [0:00] hash took 0.4 s; hosts: 5 queued
    [0:01] web04 unreachable while connecting: no answer from 10.0.0.7:22 within 10 s, tried 3 times
             hint: check the address and the network, or leave the host out with `--limit '!HOST'`
    [0:01] connect took 1.2 s; hosts: 4 preparing, 1 unreachable
    [0:01] warning: web02: the cache is on tmpfs
             hint: use `--cache`
    [0:10] everything is staged: switching 4 hosts now
    [0:11] web01 active
    [0:11] web02 active
    [0:11] web03 active
    [0:11] web05 active

    host   state        during      what happened
    -----------------------------------------------------------------------------------------------------------------------
    web04  unreachable  connecting  no answer from 10.0.0.7:22 within 10 s, tried 3 times
                                    hint: check the address and the network, or leave the host out with `--limit '!HOST'`

    hosts       5: 4 active, 1 unreachable
    bytes       256.0 MiB: 224.0 MiB from peers, 32.0 MiB from controller
    controller  sent 32.0 MiB, 0.5 times the artifact
    slowest     web05, 12.3 s
    time        18.0 s: hash 0.4 s, connect 1.2 s, prepare 0.8 s, distribute 13.4 s, stage 1.0 s, activate 0.5 s

    4 hosts are live on 20261120T031500Z-1a2b3c4d; 1 host was unreachable (exit code 4)
    ");
}

#[test]
fn a_quiet_one_tells_failures_and_the_summary() {
    let text = told(rehearsal::deploy(), true, Duration::ZERO);
    let lines: Vec<_> = text.lines().take(4).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    [0:01] web04 unreachable while connecting: no answer from 10.0.0.7:22 within 10 s, tried 3 times
             hint: check the address and the network, or leave the host out with `--limit '!HOST'`

    host   state        during      what happened
    ");
}

#[test]
fn a_long_transfer_is_told_every_30_seconds() {
    let mut events = vec![(Duration::ZERO, rehearsal::started(500, 1 << 30))];
    for number in 1..=500 {
        let host = rehearsal::host_name(number);
        events.push((Duration::from_secs(1), rehearsal::state(host.as_str(), HostState::Downloading)));
    }
    for second in 2..=95 {
        for number in 1..=500 {
            let host = rehearsal::host_name(number);
            events.push((Duration::from_secs(second), rehearsal::progress(host.as_str(), second << 20)));
        }
    }
    insta::assert_snapshot!(told(events, false, Duration::from_secs(95)), @"
    [0:00] deploying shop.tar.zst (1.0 GiB) to 500 hosts as 20261120T031500Z-1a2b3c4d
    [0:30] 500 downloading; 14.6 GiB of 500.0 GiB (2%) at 588.2 MiB/s, about 14 min 4 s left
    [1:00] 500 downloading; 29.3 GiB of 500.0 GiB (5%) at 588.2 MiB/s, about 13 min 39 s left
    [1:30] 500 downloading; 43.9 GiB of 500.0 GiB (8%) at 588.2 MiB/s, about 13 min 13 s left
    ");
}

#[test]
fn a_fleet_that_fails_as_a_whole_does_not_flood_the_log() {
    let mut events = vec![(Duration::ZERO, rehearsal::started(500, 1))];
    for number in 1..=500 {
        let host = rehearsal::host_name(number);
        events.push((Duration::from_secs(1), rehearsal::dropped(host.as_str(), rehearsal::no_answer())));
    }
    let text = told(events, false, Duration::from_secs(2));
    assert_eq!(text.matches("unreachable while connecting").count(), phrase::MAX_TOLD_FAILURES);
    assert!(text.ends_with("further failures are told in the summary\n"), "{text}");
}

#[test]
fn a_rollback_is_told_by_its_own_words() {
    let events = |to| vec![(Duration::ZERO, rehearsal::rollback_started(3, to))];
    let text = told(events(None), false, Duration::ZERO);
    assert_eq!(text, "[0:00] rolling back shop on 3 hosts to the release before the current one\n");
    let text = told(events(Some(rehearsal::PREVIOUS)), false, Duration::ZERO);
    assert_eq!(text, "[0:00] rolling back shop on 3 hosts to 20261113T101500Z-99887766\n");
}
