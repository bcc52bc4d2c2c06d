//! Whether a run may be finished, which of its hosts go back and what that comes to: decided from what the history and the hosts say.
//! Pure.

use super::Answers;
use crate::{
    cli::{CommandError, exit},
    history::{Action, HostRecord, Outcome, RunRecord},
    model::{
        FailureKind, HostFailure, HostName, HostState, HostStatus, ReleaseId, RunSummary, Verdict,
        plan::{OnFailure, RolloutPlan},
    },
};

/// How many hosts a refusal names.
const MAX_NAMED: usize = 3;

/// What is known of a run.
pub(super) struct Ground<'a> {
    pub(super) run: &'a RunRecord,
    pub(super) hosts: &'a [HostRecord],
    /// The first later run of the application that had one of its hosts.
    pub(super) later: Option<&'a RunRecord>,
}

/// True for a deploy that was cut off or interrupted and that nobody went on with.
pub(super) fn is_cut_off(run: &RunRecord) -> bool {
    let outcome = matches!(run.outcome, Outcome::CutOff | Outcome::Ended(Verdict::Interrupted | Verdict::Aborted));
    outcome && run.action == Action::Deploy && run.continued_by.is_none() && run.fleet() > 0
}

/// Says why a run can't be finished, if it can't; with `force` only what makes no sense at all.
pub(super) fn check_run(ground: &Ground<'_>, force: bool) -> Result<(), CommandError> {
    let Ground { run, hosts, later } = ground;
    let id = &run.run;
    if run.outcome == Outcome::Running {
        let error = CommandError::input(format!("run {id} is still going on: process {} of this machine", run.process_id()));
        return Err(error.hint("wait for it, or stop it with Ctrl-C where it runs"));
    }
    if run.outcome == Outcome::Unknown && !force {
        let machine = run.machine();
        let error =
            CommandError::input(format!("run {id} may still be going on: {machine} ran it, and only there can that be told"));
        return Err(error.hint(format!("resume it on {machine}; `--force` resumes it here, if you know that it is over")));
    }
    if run.action == Action::Rollback {
        let error = CommandError::input(format!("run {id} was a rollback, and only deploys can be resumed"));
        return Err(
            error.hint("`fleetdrop status` shows where each host is; roll back with `--to RELEASE`, which may be repeated")
        );
    }
    if run.fleet() == 0 {
        let error = CommandError::input(format!("run {id} was cut off before it touched a host"));
        return Err(error.hint("deploy again"));
    }
    if run.active() == run.fleet() && matches!(run.outcome, Outcome::Ended(_)) {
        let error = CommandError::input(format!("run {id} ended with every host active: nothing is left to finish"));
        return Err(error.hint("`fleetdrop rollback` sends the hosts back"));
    }
    if force {
        return Ok(());
    }
    if let Some(later) = later {
        return Err(overtaken(run, later));
    }
    match run.outcome {
        Outcome::Ended(verdict @ (Verdict::Completed | Verdict::StoppedByBudget)) if !lost_its_network(hosts) => Err(ended(
            run,
            if verdict == Verdict::Completed { "completed" } else { "stopped because too many hosts dropped out" },
        )),
        Outcome::Ended(Verdict::RolledBack) => Err(ended(run, "rolled back")),
        Outcome::Ended(Verdict::NotApproved) => Err(ended(run, "ended because the next wave was not let go")),
        _ => Ok(()),
    }
}

fn overtaken(run: &RunRecord, later: &RunRecord) -> CommandError {
    let (id, other) = (&run.run, &later.run);
    if later.continues.as_ref() == Some(id) {
        let error = CommandError::input(format!("run {id} was resumed by run {other} at {}", later.started_at));
        return error.hint(format!("`fleetdrop resume {other}` goes on with that one, if it was cut off too"));
    }
    let (action, at) = (later.action.as_str(), &later.started_at);
    let error = CommandError::input(format!("run {other}, a {action}, was at work on hosts of run {id} later, at {at}"));
    error.hint("deploy again to put this artifact live after all; `--force` resumes regardless")
}

fn ended(run: &RunRecord, how: &str) -> CommandError {
    let error = CommandError::input(format!("run {} was not cut off: it {how}", run.run));
    error.hint("deploy again, which goes on from what hosts have; `--force` resumes regardless")
}

/// True if hosts dropped out and all of them because they could not be reached any more: then it was the network, and not the release.
fn lost_its_network(hosts: &[HostRecord]) -> bool {
    let mut failures = hosts.iter().filter(|host| host.state.is_out()).map(|host| host.failure.as_ref()).peekable();
    failures.peek().is_some() && failures.all(|failure| failure.is_some_and(is_loss))
}

/// A staged host does nothing but wait: what fails there is its connection.
fn is_loss(failure: &HostFailure) -> bool {
    failure.kind == FailureKind::Unreachable || failure.during == HostState::Staged
}

/// What the plan wants done about the hosts that had been switched before the resumed run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// They stay: it went through, or the plan does not send back.
    Stay,
    /// They stay, for that run came to an end before any host could switch: that says nothing about the release.
    StayUnjudged,
    /// They go back, too.
    GoBack,
}

/// Decides it from how the resumed run ended.
pub(super) fn before(plan: &RolloutPlan, ended: &RunSummary) -> Before {
    match wants_all_back(plan, ended) {
        false => Before::Stay,
        true if ended.waves == 0 => Before::StayUnjudged,
        true => Before::GoBack,
    }
}

/// True if a run ended so that its plan wants back whatever was switched.
fn wants_all_back(plan: &RolloutPlan, ended: &RunSummary) -> bool {
    let out = ended.hosts.iter().filter(|host| host.state.is_out()).count();
    let failed = matches!(ended.verdict, Verdict::RolledBack | Verdict::StoppedByBudget | Verdict::NotApproved)
        || (ended.verdict == Verdict::Completed && out > plan.max_failures.after.allowed(ended.hosts.len()));
    failed && plan.on_failure == OnFailure::Rollback
}

/// Says that hosts have moved on since the run, if they have: to a newer release, or away from the one that it had made live.
/// Hosts that the run itself was sending back may have gone before it could write that down.
pub(super) fn check_hosts(
    run: &RunRecord,
    release: &ReleaseId,
    hosts: &[HostRecord],
    answers: &Answers,
) -> Result<(), CommandError> {
    let is_active = |host: &HostRecord| host.state == HostState::Active && !run.going_back;
    let was_active = |name: &HostName| hosts.iter().any(|host| host.host == *name && is_active(host));
    let mut moved = answers.iter().filter_map(|(host, answer)| {
        let current = answer.as_ref().ok()?.current.as_ref();
        let live = current.map_or("nothing".to_owned(), ToString::to_string);
        // Ids begin with their time, by the clock of whoever deployed.
        let is_newer = current.is_some_and(|current| current.is_later_than(release));
        (is_newer || (was_active(host) && current != Some(release))).then(|| format!("{host} ({live} is live)"))
    });
    let named: Vec<String> = moved.by_ref().take(MAX_NAMED).collect();
    if named.is_empty() {
        return Ok(());
    }
    let more = moved.count();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let error = CommandError::input(format!("somebody else was at work since the run: {}{more}", named.join(", ")));
    Err(error.hint("deploy again to put this artifact live after all; `--force` resumes regardless"))
}

/// The hosts that are to go back, by how.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Returning {
    /// Live on the run's release, with another one to go back to: by a rollback.
    pub(super) by_rollback: Vec<HostName>,
    /// Live on the run's release, which is their first or was not confirmed: by undoing the run's switch.
    pub(super) by_undoing: Vec<HostName>,
    /// Maybe live on it: they give no answer; why.
    pub(super) unknown: Vec<(HostName, HostFailure)>,
}

/// Sorts hosts by what they answered.
pub(super) fn returning(release: &ReleaseId, hosts: &[HostRecord], answers: &Answers) -> Returning {
    let mut returning = Returning::default();
    for (name, answer) in answers {
        match answer {
            Ok(status) if status.current.as_ref() != Some(release) => {}
            Ok(status) if status.previous.is_some() && is_confirmed(status) => returning.by_rollback.push(name.clone()),
            Ok(_) => returning.by_undoing.push(name.clone()),
            Err(failure) if hosts.iter().any(|host| host.host == *name && may_be_live(host)) => {
                returning.unknown.push((name.clone(), failure.clone()));
            }
            Err(_) => {}
        }
    }
    returning
}

/// True if the live release was confirmed. Where its agent died before that, the next one undoes the switch by itself: a rollback would
/// then go back one release too many.
fn is_confirmed(status: &HostStatus) -> bool {
    let live = status.releases.iter().find(|release| Some(&release.id) == status.current.as_ref());
    live.is_some_and(|live| live.activated_at.is_some())
}

/// True unless a host is known not to have been switched. What happened in a run's last moments may not be written down.
fn may_be_live(host: &HostRecord) -> bool {
    use HostState::{Activating, Active, Checking, Reverted, Skipped};
    let was_its_turn =
        host.wave.is_some() || host.steps.iter().any(|step| matches!(step.state, Activating | Checking | Active));
    was_its_turn && !matches!(host.state, Reverted | Skipped)
}

/// Returns the exit code of sending hosts back: that of the run which did it, if there was one, together with the hosts that could not
/// be sent back besides.
pub(super) fn code_of_return<'a>(code: u8, failures: impl IntoIterator<Item = &'a HostFailure>) -> u8 {
    if code & !(exit::HOSTS_FAILED | exit::HOSTS_UNREACHABLE) != 0 {
        return code;
    }
    failures.into_iter().fold(code, |code, failure| match failure.kind {
        FailureKind::Unreachable => code | exit::HOSTS_UNREACHABLE,
        FailureKind::Failed => code | exit::HOSTS_FAILED,
    })
}

/// Returns the exit code of two runs that sent hosts back: what went wrong in either; of two that say more than which hosts dropped out,
/// the first.
pub(super) fn both(first: u8, second: u8) -> u8 {
    let says_more = |code: &u8| code & !(exit::HOSTS_FAILED | exit::HOSTS_UNREACHABLE) != 0;
    [first, second].into_iter().find(says_more).unwrap_or(first | second)
}

/// Returns the exit code where the policy sent hosts back with `code`: [`exit::STOPPED_BY_BUDGET`] if all of them went.
pub(super) fn code_by_policy(code: u8) -> u8 {
    if code == exit::SUCCESS { exit::STOPPED_BY_BUDGET } else { code }
}

#[cfg(test)]
mod tests;
