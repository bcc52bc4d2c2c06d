//! What is decided about runs and hosts of every kind.

use super::*;
use crate::{history::Step, model::ReleaseInfo, report::rehearsal};

const RELEASE: &str = "20261120T031500Z-1a2b3c4d";
const EARLIER: &str = "20261113T101500Z-99887766";

fn release(id: &str) -> ReleaseId {
    id.parse().unwrap()
}

fn host(number: usize, state: HostState, wave: Option<u32>, steps: &[HostState]) -> HostRecord {
    HostRecord {
        host: rehearsal::host_name(number),
        state,
        unchanged: false,
        wave,
        release: None,
        previous: None,
        received: 0,
        transfer_seconds: None,
        failure: None,
        steps: steps.iter().map(|state| Step { state: *state, at: 1.0 }).collect(),
    }
}

fn on(number: usize, current: Option<&str>, previous: Option<&str>) -> (HostName, Result<HostStatus, HostFailure>) {
    let live = current.map(|id| ReleaseInfo {
        id: release(id),
        app: None,
        artifact: None,
        digest: None,
        size: None,
        staged_at: None,
        activated_at: Some("2026-11-20T03:15:00Z".into()),
        by: None,
    });
    let status = HostStatus {
        current: current.map(release),
        previous: previous.map(release),
        releases: live.into_iter().collect(),
        ..HostStatus::default()
    };
    (rehearsal::host_name(number), Ok(status))
}

fn refusal(run: &RunRecord, force: bool) -> Option<String> {
    let checked = check_run(&Ground { run, hosts: &[], later: None }, force);
    checked.err().map(|error| format!("{error:?}"))
}

#[test]
fn a_run_of_another_machine_without_an_end_is_resumed_only_by_force() {
    let run = RunRecord::example(Outcome::Unknown);
    assert!(!is_cut_off(&run), "it is not taken for the last one that was cut off");
    let refused = refusal(&run, false).expect("it may be going on");
    assert!(refused.contains("may still be going on") && refused.contains("--force"), "{refused}");
    assert_eq!(refusal(&run, true), None);
    let run = RunRecord::example(Outcome::CutOff);
    assert!(is_cut_off(&run));
    assert_eq!(refusal(&run, false), None);
}

#[test]
fn a_resumed_run_takes_back_earlier_switches_only_if_it_came_to_switching() {
    let plan = |on_failure| RolloutPlan { on_failure, ..RolloutPlan::default() };
    let ended = |verdict, waves| RunSummary { waves, ..rehearsal::summary(verdict, 8, Vec::new()) };
    for (on_failure, verdict, waves, wanted) in [
        (OnFailure::Rollback, Verdict::StoppedByBudget, 0, Before::StayUnjudged),
        (OnFailure::Rollback, Verdict::StoppedByBudget, 2, Before::GoBack),
        (OnFailure::Rollback, Verdict::RolledBack, 2, Before::GoBack),
        (OnFailure::Rollback, Verdict::NotApproved, 2, Before::GoBack),
        (OnFailure::Rollback, Verdict::Completed, 2, Before::Stay),
        (OnFailure::Rollback, Verdict::Interrupted, 2, Before::Stay),
        (OnFailure::Stop, Verdict::StoppedByBudget, 2, Before::Stay),
    ] {
        assert_eq!(before(&plan(on_failure), &ended(verdict, waves)), wanted, "{on_failure:?} {verdict:?} {waves}");
    }
}

#[test]
fn hosts_go_back_by_what_they_had_and_who_gives_no_answer_is_not_forgotten() {
    use HostState::{Activating, Active, Checking, Reverted, Skipped, Staged, Unreachable};
    let hosts = [
        host(1, Active, Some(1), &[Activating, Checking, Active]),
        host(2, Active, Some(1), &[Activating, Checking, Active]),
        host(3, Active, Some(1), &[Activating, Checking, Active]),
        host(4, Staged, Some(2), &[]),
        host(5, Unreachable, None, &[]),
        host(6, Reverted, Some(1), &[Activating]),
        host(7, Skipped, Some(2), &[Staged]),
        host(8, Unreachable, Some(1), &[Activating]),
        host(9, Active, None, &[Active]),
    ];
    let silent = |number| (rehearsal::host_name(number), Err(rehearsal::no_answer()));
    let mut answers = vec![on(1, Some(RELEASE), Some(EARLIER)), on(2, Some(RELEASE), None), on(3, Some(EARLIER), None)];
    answers.extend((4..=9).map(silent));
    let (unconfirmed, mut status) = on(10, Some(RELEASE), Some(EARLIER));
    status.as_mut().unwrap().releases[0].activated_at = None;
    answers.push((unconfirmed, status));
    let returning = returning(&release(RELEASE), &hosts, &answers);
    assert_eq!(returning.by_rollback, [rehearsal::host_name(1)]);
    assert_eq!(returning.by_undoing, [2, 10].map(rehearsal::host_name));
    let unknown: Vec<_> = returning.unknown.iter().map(|(host, _)| host.clone()).collect();
    assert_eq!(unknown, [4, 8, 9].map(rehearsal::host_name));
}

#[test]
fn the_exit_code_of_a_way_back_has_every_host_that_did_not_go() {
    let (unreachable, failed) = (rehearsal::no_answer(), rehearsal::disk_full());
    for (code, failures, wanted, by_policy) in [
        (0, vec![], 0, 8),
        (0, vec![&unreachable], 4, 4),
        (2, vec![&unreachable], 6, 6),
        (4, vec![&failed], 6, 6),
        (130, vec![&failed], 130, 130),
        (1, vec![&unreachable], 1, 1),
        (8, vec![&unreachable], 8, 8),
    ] {
        let code = code_of_return(code, failures);
        assert_eq!((code, code_by_policy(code)), (wanted, by_policy));
    }
}

#[test]
fn hosts_that_a_run_was_sending_back_have_not_moved_on() {
    let hosts = [host(1, HostState::Active, Some(1), &[])];
    let answers = vec![on(1, Some(EARLIER), None)];
    let mut run = RunRecord::example(Outcome::CutOff);
    check_hosts(&run, &release(RELEASE), &hosts, &answers).unwrap_err();
    run.going_back = true;
    check_hosts(&run, &release(RELEASE), &hosts, &answers).unwrap();
    let newer = vec![on(1, Some("20261121T000000Z-1a2b3c4d"), None)];
    check_hosts(&run, &release(RELEASE), &hosts, &newer).unwrap_err();
}
