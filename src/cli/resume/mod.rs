//! `fleetdrop resume`: finishes a deploy that was cut off, or sends back what it had switched.
//!
//! What is to be done comes from the history (artifact, hosts, options, the plan as it was then), how far it got from the hosts
//! themselves. The rest is a deploy of the same release: hosts that have it stay, the others take what they still have (the cache, parts of
//! the artifact) and switch in the wave that was theirs.
//!
//! A run that was sending hosts back when it was cut off is finished by sending them back.

mod back;
mod ground;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    CommandError, Output, deploy,
    deploy::Ready,
    fleet,
    history::{HistoryArgs, HistoryFileArgs, find, history_error, run_id},
    interrupt,
    request::Request,
};
use crate::{
    controller::{
        Artifact, FleetSettings,
        chore::{self, Look},
    },
    history::{Filter, History, HostRecord, RunRecord},
    model::{
        AppName, HostFailure, HostName, HostStatus, ReleaseId, RunId,
        plan::{HookPoint, Plan},
    },
    playbook::Playbook,
    report::measure,
};
use back::Back;
use ground::{Before, Ground};

/// How many of the latest runs are looked at for one that can be resumed.
const LOOKED_AT: u32 = 100;
/// How long the agents of the interrupted run may hold their locks beyond their lease and what they run.
const LOCK_MARGIN: Duration = Duration::from_secs(15);
/// How long hosts that are still at work are left alone.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What to finish, and how.
#[derive(Debug, Clone, Args)]
pub struct ResumeArgs {
    /// The run to finish; the first characters of its id are enough [default: the last one that was cut off]
    #[arg(value_name = "RUN_ID", value_parser = run_id)]
    pub run: Option<String>,

    /// Send the hosts that it has switched back to the release they had, instead of going on
    #[arg(long)]
    pub rollback: bool,

    /// Go on also if the run ended by its own rules or was sending hosts back, if another machine ran it, if a later run was at work on
    /// its hosts, or if these have moved on since
    #[arg(long)]
    pub force: bool,

    /// Let every wave switch without asking
    #[arg(long, short)]
    pub yes: bool,

    /// The history.
    #[command(flatten)]
    pub file: HistoryFileArgs,
}

/// A run that is to be finished.
struct Task {
    run: RunRecord,
    app: AppName,
    release: ReleaseId,
    request: Request,
    /// Its hosts, as they were when it was cut off.
    hosts: Vec<HostRecord>,
    /// The run, and those that it went on with, the last one first.
    lineage: Vec<RunId>,
}

/// What every host that answers has.
type Answers = Vec<(HostName, Result<HostStatus, HostFailure>)>;

/// Finishes a run and returns the exit code.
pub async fn run(args: ResumeArgs, output: &Output) -> Result<u8, CommandError> {
    let task = task(&args, output)?;
    let mut request = task.request.clone();
    // To go on nevertheless is for the operator to ask for.
    let was_going_back = task.run.going_back && !args.force;
    let goes_back = args.rollback || was_going_back;
    let yes = request.deploy.switch.yes || args.yes || goes_back;
    request.deploy.switch.yes = yes;
    let fleet = task.fleet(&request, yes, output)?;
    let interrupt = interrupt::watch()?;
    let artifact = match goes_back {
        true => None,
        false => Some(task.artifact(&request, &fleet, &interrupt, output).await?),
    };
    let answers = tokio::select! {
        answers = task.ask(&fleet, &task.request.plan, output) => answers,
        () = interrupt.cancelled() => return Err(CommandError::interrupted()),
    };
    if !args.force {
        ground::check_hosts(&task.run, &task.release, &task.hosts, &answers)?;
    }
    let live = task.live(&answers);
    let history = HistoryArgs { file: args.file, no_history: false };
    let back = Back { task: &task, fleet: &fleet, history: &history, interrupt: &interrupt, output };
    output.note(&format!(
        "resuming run {}: {} is active on {} of {}",
        task.run.run,
        task.release,
        live,
        measure::count(task.hosts.len(), "host")
    ));
    let Some(artifact) = artifact else {
        if was_going_back {
            output.note("it was sending hosts back: that is finished (`--force` goes on with the release instead)");
        }
        let code = back.send(&answers).await?;
        return Ok(if args.rollback { code } else { ground::code_by_policy(code) });
    };
    let (plan, order_seed) = (request.plan, request.order_seed);
    let rollout = plan.rollout.clone();
    let continues = Some((task.run.run.clone(), task.release.clone()));
    let ready = Ready { fleet: fleet.clone(), artifact, args: request.deploy, plan, order_seed, continues };
    let ended = ready.begin(&history, interrupt.clone(), output).await?;
    match ground::before(&rollout, &ended) {
        _ if interrupt.is_cancelled() => {}
        Before::GoBack => {
            // What was switched before the run was cut off is not this run's, but the plan's.
            let answers = tokio::select! {
                answers = task.ask(&fleet, &task.request.plan, output) => answers,
                () = interrupt.cancelled() => return Err(CommandError::interrupted()),
            };
            output.note("sending back the hosts that the interrupted run had switched");
            return back.send(&answers).await.map(ground::code_by_policy);
        }
        Before::StayUnjudged if live > 0 => output.note(&format!(
            "nothing was switched now, so the {} that the interrupted run had switched stay on it: resume again once the other hosts \
             are well, or send those back with `fleetdrop resume {} --rollback --force`",
            measure::count(live, "host"),
            task.run.run
        )),
        Before::StayUnjudged | Before::Stay => {}
    }
    Ok(ended.exit_code)
}

/// Finds the run, and reads all that finishing it needs.
fn task(args: &ResumeArgs, output: &Output) -> Result<Task, CommandError> {
    let history = args.file.open()?;
    let run = match &args.run {
        Some(start) => find(history.as_ref(), start)?,
        None => latest(history.as_ref())?,
    };
    // Whoever found a run has a history.
    let history = history.ok_or_else(|| CommandError::internal("the history is gone"))?;
    let hosts = history.hosts(&run).map_err(history_error)?;
    let later = history.overtaken_by(&run).map_err(history_error)?;
    ground::check_run(&Ground { run: &run, hosts: &hosts, later: later.as_ref() }, args.force)?;
    let kept = history.request(&run).map_err(history_error)?;
    let unknown = || CommandError::input(format!("the history does not know what run {} was asked for", run.run));
    let text = kept.ok_or_else(|| unknown().hint("deploy again: hosts keep what they have"))?;
    let request = Request::read(&text)?;
    let (app, release) = (run.app.clone().ok_or_else(unknown)?, run.release.clone().ok_or_else(unknown)?);
    let lineage = lineage(&history, &run)?;
    let task = Task { run, app, release, request, hosts, lineage };
    task.tell_changes(output);
    Ok(task)
}

/// Returns a run and those that it went on with, the last one first.
fn lineage(history: &History, run: &RunRecord) -> Result<Vec<RunId>, CommandError> {
    let mut runs = vec![run.run.clone()];
    let mut earlier = run.continues.clone();
    while let Some(id) = earlier
        && runs.len() < LOOKED_AT as usize
    {
        let found = history.find(id.as_str()).map_err(history_error)?.into_iter().find(|run| run.run == id);
        earlier = found.and_then(|run| run.continues);
        runs.push(id);
    }
    Ok(runs)
}

/// Returns the last run that was cut off and that nobody went on with.
fn latest(history: Option<&History>) -> Result<RunRecord, CommandError> {
    let nothing = || {
        let error = CommandError::input("the history has no run that was cut off");
        error.hint("`fleetdrop history` lists the runs; `fleetdrop resume RUN_ID` takes any of them")
    };
    let history = history.ok_or_else(nothing)?;
    let runs = history.runs(&Filter { limit: LOOKED_AT, ..Filter::default() }).map_err(history_error)?;
    runs.into_iter().find(ground::is_cut_off).ok_or_else(nothing)
}

impl Task {
    /// Says where today's playbook asks for something else.
    fn tell_changes(&self, output: &Output) {
        let Some(file) = &self.request.deploy.playbook.playbook else { return };
        let today = Playbook::load(file).map(|playbook| self.request.deploy.over(playbook.plan));
        let what = match today {
            Ok(plan) if plan == self.request.plan => return,
            Ok(_) => "has changed since",
            Err(_) => "can't be read any more",
        };
        let message = format!("the playbook {} {what}: the plan that the run began with is followed", file.display());
        fleet::warn(&message, Some("to follow the new one, deploy again"), output);
    }

    /// Returns the run's own hosts as the inventory has them now.
    fn fleet(&self, request: &Request, yes: bool, output: &Output) -> Result<FleetSettings, CommandError> {
        let mut connection = request.deploy.connection.clone();
        // Its hosts are known, whatever a pattern would pick now.
        connection.fleet.limit = None;
        let (cache, lease) = (request.deploy.place.cache.clone(), request.deploy.switch.lease);
        let mut fleet = fleet::settings(&connection, cache, lease, yes, &request.plan, output)?;
        let wanted = |host: &HostName| self.hosts.iter().any(|recorded| recorded.host == *host);
        fleet.hosts.retain(|entry| wanted(&entry.name));
        let is_there = |host: &HostName| fleet.hosts.iter().any(|entry| entry.name == *host);
        let missing: Vec<_> = self.hosts.iter().map(|host| &host.host).filter(|host| !is_there(host)).collect();
        if let Some(first) = missing.first() {
            let others = missing.len() - 1;
            let others = if others > 0 { format!(" and {} more", measure::count(others, "host")) } else { String::new() };
            let inventory = connection.fleet.hosts.display();
            let error = CommandError::input(format!("the inventory {inventory} has no {first}{others} any more"));
            return Err(error.hint("put them back to finish the run, or deploy again to those that are left"));
        }
        Ok(fleet)
    }

    /// Opens the artifact, which must be the one that the run began with.
    async fn artifact(
        &self,
        request: &Request,
        fleet: &FleetSettings,
        interrupt: &CancellationToken,
        output: &Output,
    ) -> Result<Artifact, CommandError> {
        let (path, hosts) = (&request.deploy.artifact, self.hosts.len().min(fleet.hosts.len()));
        let artifact = deploy::open(path, self.app.clone(), hosts, request.deploy.rehash, interrupt, output).await?;
        let recorded = self.run.artifact.as_ref().map(|artifact| artifact.digest);
        if recorded != Some(artifact.manifest.digest) {
            let was = recorded.map_or("unknown".to_owned(), |digest| digest.to_string());
            let message = format!(
                "{} is not what run {} deployed: its SHA-256 is {}, it was {was}",
                path.display(),
                self.run.run,
                artifact.manifest.digest
            );
            let hint = "put the old file back to finish the run, or deploy the new one; `resume --rollback` needs no artifact";
            return Err(CommandError::input(message).hint(hint));
        }
        Ok(artifact)
    }

    /// Asks every host what it has. Waits for agents of the interrupted run that have not noticed yet that it is over.
    async fn ask(&self, fleet: &FleetSettings, plan: &Plan, output: &Output) -> Answers {
        let status = async |hosts| {
            let fleet = FleetSettings { hosts, ..fleet.clone() };
            let answers = chore::on_all(fleet, Some(self.app.clone()), Look).await;
            answers.into_iter().map(|(host, answer)| (host, answer.map(|answer| answer.answer))).collect::<Answers>()
        };
        let mut answers = status(fleet.hosts.clone()).await;
        let patience = fleet.lease + plan.longest_silence() + plan.hooks.longest(HookPoint::OnRevert) + LOCK_MARGIN;
        let (began, mut is_told) = (Instant::now(), false);
        loop {
            let is_busy = |answer: &Result<HostStatus, _>| {
                answer.as_ref().is_ok_and(|status: &HostStatus| status.locked_by.as_ref() == Some(&self.run.run))
            };
            let busy: Vec<HostName> =
                answers.iter().filter(|(_, answer)| is_busy(answer)).map(|(host, _)| host.clone()).collect();
            if busy.is_empty() || began.elapsed() >= patience {
                return answers;
            }
            if !std::mem::replace(&mut is_told, true) {
                let hosts = measure::count(busy.len(), "host");
                output.note(&format!(
                    "{hosts} have not noticed yet that the run is over: waiting, at most {}",
                    measure::about(patience)
                ));
            }
            tokio::time::sleep(ASK_AGAIN).await;
            let entries = fleet.hosts.iter().filter(|entry| busy.contains(&entry.name)).cloned().collect();
            let mut news: BTreeMap<_, _> = status(entries).await.into_iter().collect();
            for (host, answer) in &mut answers {
                if let Some(new) = news.remove(host) {
                    *answer = new;
                }
            }
        }
    }

    /// Returns how many hosts are live on the run's release.
    fn live(&self, answers: &Answers) -> usize {
        let is_live = |answer: &Result<HostStatus, _>| {
            answer.as_ref().is_ok_and(|status: &HostStatus| status.current.as_ref() == Some(&self.release))
        };
        answers.iter().filter(|(_, answer)| is_live(answer)).count()
    }
}
