use super::*;
use crate::{
    model::{Envelope, FailureKind},
    report::{
        rehearsal::{self, host_name, live, out},
        view::FleetView,
    },
};

const SIZE: u64 = 64 << 20;

fn header(event: &Envelope) -> RunHeader {
    let mut view = FleetView::default();
    view.apply(event, std::time::Duration::ZERO);
    view.header().unwrap().clone()
}

fn render(first: &Envelope, summary: &RunSummary, width: usize) -> String {
    let text = super::render(Some(&header(first)), summary, width, Palette::PLAIN);
    assert!(text.lines().all(|line| console::measure_text_width(line) <= width), "wider than {width}:\n{text}");
    text
}

fn all_live(hosts: usize) -> RunSummary {
    rehearsal::summary(Verdict::Completed, 0, (1..=hosts).map(|number| live(host_name(number), SIZE)).collect())
}

#[test]
fn one_host_that_went_live() {
    insta::assert_snapshot!(render(&rehearsal::started(1, SIZE), &all_live(1), 80), @"
    hosts       1: 1 active
    bytes       64.0 MiB: 56.0 MiB from peers, 8.0 MiB from controller
    controller  sent 8.0 MiB, 0.1 times the artifact
    slowest     web01, 12.3 s
    time        18.0 s: hash 0.4 s, connect 1.2 s, prepare 0.8 s, distribute 13.4 s,
                stage 1.0 s, activate 0.5 s

    1 host is live on 20261120T031500Z-1a2b3c4d
    ");
}

#[test]
fn three_hosts_of_which_one_had_it_already() {
    let mut summary = all_live(3);
    summary.hosts[0].unchanged = true;
    summary.hosts[0].bytes = Default::default();
    insta::assert_snapshot!(render(&rehearsal::started(3, SIZE), &summary, 80), @"
    hosts       3: 3 active, 1 of them unchanged
    bytes       192.0 MiB: 168.0 MiB from peers, 24.0 MiB from controller
    controller  sent 24.0 MiB, 0.4 times the artifact
    slowest     web03, 12.3 s
    time        18.0 s: hash 0.4 s, connect 1.2 s, prepare 0.8 s, distribute 13.4 s,
                stage 1.0 s, activate 0.5 s

    2 hosts are live on 20261120T031500Z-1a2b3c4d, 1 host already had it
    ");
}

#[test]
fn failures_come_first_with_their_hints_and_last_lines() {
    let hosts = vec![
        live(host_name(1), SIZE),
        out(host_name(2), Some(rehearsal::disk_full())),
        out(host_name(3), Some(rehearsal::no_answer())),
    ];
    let summary = rehearsal::summary(Verdict::Completed, 6, hosts);
    insta::assert_snapshot!(render(&rehearsal::started(3, SIZE), &summary, 80), @r"
    host   state        during      what happened
    --------------------------------------------------------------------------------
    web02  failed       preparing   not enough space in `/srv/shop`: 12.0 MiB
                                    free, 130.0 MiB needed
                                    hint: free space there, or choose another
                                    directory with `--deploy-to`
    web03  unreachable  connecting  no answer from 10.0.0.7:22 within 10 s, tried
                                    3 times
                                    hint: check the address and the network, or
                                    leave the host out with `--limit '!HOST'`

    last lines of web02:
      statvfs /srv/shop: 3145 blocks
      \u{1b}[31mno space left\u{1b}[0m

    hosts       3: 1 active, 1 failed, 1 unreachable
    bytes       64.0 MiB: 56.0 MiB from peers, 8.0 MiB from controller
    controller  sent 8.0 MiB, 0.1 times the artifact
    slowest     web01, 12.3 s
    time        18.0 s: hash 0.4 s, connect 1.2 s, prepare 0.8 s, distribute 13.4 s,
                stage 1.0 s, activate 0.5 s

    1 host is live on 20261120T031500Z-1a2b3c4d; 1 host failed, 1 host was
    unreachable (exit code 6)
    ");
}

#[test]
fn five_hundred_hosts_make_no_five_hundred_lines() {
    let hosts = (1..=500).map(|number| match number {
        1..=40 => out(host_name(number), Some(rehearsal::no_answer())),
        41 => out(host_name(number), Some(rehearsal::disk_full())),
        _ => out(host_name(number), None),
    });
    let summary = rehearsal::summary(Verdict::StoppedByBudget, 8, hosts.collect());
    insta::assert_snapshot!(render(&rehearsal::started(500, SIZE), &summary, 100), @r"
    host         state        during      what happened
    ----------------------------------------------------------------------------------------------------
    web01        unreachable  connecting  no answer from 10.0.0.7:22 within 10 s, tried 3 times
    web02                                 hint: check the address and the network, or leave the host
    web03                                 out with `--limit '!HOST'`
    web04
    web05
    web06
    web07
    web08
    and 32 more
    web41        failed       preparing   not enough space in `/srv/shop`: 12.0 MiB free, 130.0 MiB
                                          needed
                                          hint: free space there, or choose another directory with
                                          `--deploy-to`

    last lines of web41:
      statvfs /srv/shop: 3145 blocks
      \u{1b}[31mno space left\u{1b}[0m

    hosts       500: 1 failed, 40 unreachable, 459 skipped
    time        18.0 s: hash 0.4 s, connect 1.2 s, prepare 0.8 s, distribute 13.4 s

    nobody was switched: 1 host failed, 40 hosts were unreachable and the failure budget is 0
    (exit code 8)
    ");
}

#[test]
fn five_hundred_different_failures_are_bounded_too() {
    let failure = |number| HostFailure::new(FailureKind::Failed, HostState::Extracting, format!("error {number}"));
    let hosts = (1..=500).map(|number| out(host_name(number), Some(failure(number))));
    let summary = rehearsal::summary(Verdict::StoppedByBudget, 8, hosts.collect());
    let text = render(&rehearsal::started(500, SIZE), &summary, 100);
    assert!(text.lines().count() < 40, "{text}");
    assert!(text.contains("and 480 hosts more; `--output json` names each"), "{text}");
}

#[test]
fn a_narrow_terminal_and_names_from_all_over_the_world() {
    let mut first = rehearsal::started(0, SIZE);
    let names = ["größe-ünïcode", "サーバー01", "сервер-02"];
    if let crate::model::RunEvent::RunStarted { hosts, .. } = &mut first.event {
        hosts.extend(names.iter().map(|name| name.parse().unwrap()));
    }
    let hosts = names.iter().map(|name| out(name.parse().unwrap(), Some(rehearsal::no_answer()))).collect();
    let summary = rehearsal::summary(Verdict::StoppedByBudget, 8, hosts);
    insta::assert_snapshot!(render(&first, &summary, 50), @"
    größe-ünïcode, サーバー01, сервер-02: unreachable
      while connecting
      no answer from 10.0.0.7:22 within 10 s, tried 3
      times
      hint: check the address and the network, or
      leave the host out with `--limit '!HOST'`

    hosts       3: 3 unreachable
    time        18.0 s: hash 0.4 s, connect 1.2 s,
                prepare 0.8 s, distribute 13.4 s

    nobody was switched: 3 hosts were unreachable and
    the failure budget is 0 (exit code 8)
    ");
}

#[test]
fn a_host_cannot_drive_the_terminal() {
    let mut failure = HostFailure::new(FailureKind::Failed, HostState::Activating, "\u{1b}]0;owned\u{7}\u{9b}2J\nsecond line")
        .with_hint("\u{202e}drowssap");
    failure.log_tail = vec!["\u{1b}[2J".repeat(500); 500];
    let hosts = vec![out(host_name(1), Some(failure))];
    let text = render(&rehearsal::started(1, SIZE), &rehearsal::summary(Verdict::StoppedByBudget, 8, hosts), 80);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert!(!text.contains('\u{202e}'));
    assert!(text.lines().count() < 400, "{}", text.lines().count());
}

fn outcome_of(first: &Envelope, summary: &RunSummary) -> String {
    outcome(Some(&header(first)), summary)
}

#[test]
fn the_outcome_in_one_sentence() {
    let deploy = rehearsal::started(3, SIZE);
    let mut unchanged = all_live(3);
    unchanged.hosts.iter_mut().for_each(|host| host.unchanged = true);
    assert_eq!(outcome_of(&deploy, &unchanged), "nothing to do: 3 hosts already had it");

    let failed = || out(host_name(3), Some(rehearsal::disk_full()));
    let mut hosts = vec![live(host_name(1), SIZE), live(host_name(2), SIZE), failed()];
    let summary = rehearsal::summary(Verdict::Completed, 2, hosts.clone());
    let text = outcome_of(&deploy, &summary);
    assert_eq!(text, "2 hosts are live on 20261120T031500Z-1a2b3c4d; 1 host failed");

    hosts[1].state = HostState::Reverted;
    let summary = rehearsal::summary(Verdict::Completed, 2, hosts.clone());
    let text = outcome_of(&deploy, &summary);
    assert_eq!(text, "1 host is live on 20261120T031500Z-1a2b3c4d; 1 host failed, 1 host went back to the old release");

    let stopped = vec![out(host_name(1), None), out(host_name(2), None), failed()];
    let summary = rehearsal::summary(Verdict::StoppedByBudget, 8, stopped.clone());
    let text = outcome_of(&deploy, &summary);
    assert_eq!(text, "nobody was switched: 1 host failed and the failure budget is 0");

    let summary = rehearsal::summary(Verdict::Completed, 2, vec![failed()]);
    assert_eq!(outcome_of(&deploy, &summary), "no host was switched: 1 host failed");

    let summary = rehearsal::summary(Verdict::Interrupted, 130, stopped.clone());
    assert_eq!(outcome_of(&deploy, &summary), "interrupted: nobody was switched");

    let mut summary = rehearsal::summary(Verdict::Aborted, 1, stopped);
    summary.abort_reason = Some("`shop.tar.zst` changed while it was being sent (piece 7)".into());
    let text = outcome_of(&deploy, &summary);
    assert_eq!(text, "stopped: `shop.tar.zst` changed while it was being sent (piece 7); nobody was switched");
}

#[test]
fn a_rollback_says_where_the_hosts_are_and_counts_no_bytes() {
    let hosts = (1..=2).map(|number| out(host_name(number), None)).map(|host| HostResult { state: HostState::Active, ..host });
    let mut summary = rehearsal::summary(Verdict::Completed, 0, hosts.collect());
    summary.phases.clear();
    insta::assert_snapshot!(render(&rehearsal::rollback_started(2, None), &summary, 80), @"
    hosts       2: 2 active
    time        18.0 s

    2 hosts are back on the previous release
    ");
    let text = outcome_of(&rehearsal::rollback_started(2, Some(rehearsal::PREVIOUS)), &summary);
    assert_eq!(text, "2 hosts are back on 20261113T101500Z-99887766");
}

#[test]
fn a_run_without_a_first_event_still_has_an_end() {
    let text = super::render(None, &rehearsal::summary(Verdict::Aborted, 1, Vec::new()), 80, Palette::PLAIN);
    insta::assert_snapshot!(text, @"
    hosts       0
    time        18.0 s: hash 0.4 s, connect 1.2 s, prepare 0.8 s, distribute 13.4 s

    stopped: the run could not go on; nobody was switched (exit code 1)
    ");
}

#[test]
fn what_hosts_wrote_last_is_shown_once_with_all_who_wrote_it() {
    let wrote = |lines: &[&str]| {
        let mut failure = HostFailure::new(FailureKind::Failed, HostState::Checking, "the after_activate hook `x` failed");
        failure.log_tail = lines.iter().map(|line| (*line).to_owned()).collect();
        failure
    };
    let texts: [&[&str]; 4] = [&["port in use"], &["no config"], &["port in use"], &[]];
    let hosts = (1..).zip(texts).map(|(number, lines)| out(host_name(number), Some(wrote(lines))));
    let summary = rehearsal::summary(Verdict::Completed, 2, hosts.collect());
    let text = render(&rehearsal::started(4, SIZE), &summary, 80);
    assert_eq!(text.matches("port in use").count(), 1, "{text}");
    assert!(text.contains("last lines of web01, web03:\n  port in use\n"), "{text}");
    assert!(text.contains("last lines of web02:\n  no config\n"), "{text}");
    // Another failure's text is not crowded out by the first one's.
    let many = (1..=9).map(|number| out(host_name(number), Some(wrote(&[&format!("line {number}")]))));
    let mut other = wrote(&["of the other"]);
    other.message = "something else".into();
    let summary = rehearsal::summary(Verdict::Completed, 2, many.chain([out(host_name(10), Some(other))]).collect());
    let text = render(&rehearsal::started(10, SIZE), &summary, 80);
    assert!(text.contains("of the other") && text.matches("last lines of").count() == MAX_LOGS, "{text}");
}

#[test]
fn waves_and_the_way_back_are_summed_up() {
    let deploy = rehearsal::started(3, SIZE);
    let back = |number: usize, wave: usize| HostResult {
        state: HostState::Reverted,
        wave: Some(wave),
        ..out(host_name(number), Some(HostFailure::new(FailureKind::Failed, HostState::Active, "the run is rolled back")))
    };
    let skipped = HostResult { wave: Some(3), ..out(host_name(3), None) };
    let mut summary = rehearsal::summary(Verdict::RolledBack, 8, vec![back(1, 1), back(2, 2), skipped.clone()]);
    summary.waves = 3;
    let text = render(&deploy, &summary, 80);
    assert!(text.contains("waves       2 of 3\n"), "{text}");
    assert!(text.ends_with("\nrolled back: 2 hosts went back to the old release (exit code 8)\n"), "{text}");
    let stayed = HostResult { wave: Some(1), ..live(host_name(1), SIZE) };
    let summary = rehearsal::summary(Verdict::RolledBack, 8, vec![stayed.clone(), back(2, 2), skipped.clone()]);
    let text = outcome_of(&deploy, &summary);
    assert_eq!(text, "rolled back, but 1 host is live on 20261120T031500Z-1a2b3c4d: 1 host went back to the old release");
    let summary = rehearsal::summary(Verdict::NotApproved, 8, vec![stayed, skipped]);
    assert_eq!(outcome_of(&deploy, &summary), "stopped before the next wave: 1 host is live on 20261120T031500Z-1a2b3c4d");
}

#[test]
fn how_hosts_got_it_and_what_the_origin_sent_is_said() {
    let mut summary = all_live(4);
    let bytes = |from_origin, from_peers| ByteCounts { from_origin, from_peers, ..ByteCounts::default() };
    summary.bytes = bytes(SIZE / 2, SIZE * 7 / 2);
    for (host, mode) in [(1, Mode::Origin), (2, Mode::Origin), (3, Mode::Ssh)] {
        let reason = if mode == Mode::Ssh { "can't connect to the controller" } else { "nothing came for 30 s" };
        (summary.hosts[host].mode, summary.hosts[host].mode_reason) = (mode, Some(reason.to_owned()));
    }
    insta::assert_snapshot!(render(&rehearsal::started(4, SIZE), &summary, 100), @"
    hosts       4: 4 active
    bytes       256.0 MiB: 224.0 MiB from peers, 32.0 MiB from origin
    origin      sent 32.0 MiB, 12% of what came; direct downloads would have cost it 256.0 MiB
    controller  sent 32.0 MiB, 0.5 times the artifact
    fallback    2 hosts from origin (web02, web03): nothing came for 30 s
    fallback    1 host over SSH (web04): can't connect to the controller
    slowest     web04, 12.3 s
    time        18.0 s: hash 0.4 s, connect 1.2 s, prepare 0.8 s, distribute 13.4 s, stage 1.0 s,
                activate 0.5 s

    4 hosts are live on 20261120T031500Z-1a2b3c4d
    ");
    assert_eq!(origin(&bytes(0, 9)), None);
    assert_eq!(origin(&bytes(1 << 20, 0)).unwrap(), "sent 1.0 MiB, 100% of what came");
}
