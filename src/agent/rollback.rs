//! A rollback on one host: find the release, then the same switch as a deploy's. Nothing is transferred or created.

use super::{
    AgentEnv,
    activation::{Recovered, Staged},
    failure::JobError,
    hooks::Operations,
    lock::Predecessor,
    preflight::{self, Held},
    releases,
    root::{Root, RootError, check_trust},
    session::{Cancel, Halt, Session},
    switch::{self, Unswitched},
};
use crate::{
    model::{ByteCounts, HostState, ReleaseId, RunId},
    wire::{FromAgent, RollbackJob, ToAgent},
};

/// Does a rollback. Returns once the controller has been told how it ended or has stopped it.
pub(crate) async fn rollback(session: &mut Session, job: RollbackJob) -> Result<(), Halt> {
    session.during = HostState::Preparing;
    session.place = super::root::resolve(&job.deploy_to, "deploy_to", session.env.home.as_deref()).ok();
    let (asked, env) = (job.clone(), session.env.clone());
    let (mut held, target) = session.blocking(move |cancel| prepare(&asked, &env, cancel)).await?;
    for notice in std::mem::take(&mut held.notices) {
        session.warn(notice.message, notice.hint).await;
    }
    if held.current.as_ref() == Some(&target) {
        let previous = releases::previous(&held.releases, &target);
        drop(held);
        session.tell(FromAgent::AlreadyActive { current: target, previous }).await;
        return Err(session.settle().await);
    }
    let record = held.releases.iter().find(|release| release.id == target).and_then(|release| release.record.as_ref());
    let app = record.map(|record| record.manifest.app.as_str());
    let operations = Operations::new(job.procedure, &job.run, app, &held.root, &target, held.current.as_ref());
    let undo = operations.undo()?;
    session.tell(FromAgent::Prepared { port: None, have: 0, current: held.current.clone() }).await;
    match session.hear().await? {
        ToAgent::Start { .. } => {}
        other => return Err(session.out_of_order(&other)),
    }
    session.during = HostState::Staged;
    session.tell(FromAgent::Staged { release: target.clone(), bytes: ByteCounts::default() }).await;
    let staged = Staged::new(held.root.clone(), session.env.clock, job.run, target, undo);
    let staged = staged.started_by(job.by).in_rollback();
    let live = match switch::switch(session, staged, operations, job.confirm_seconds).await {
        Ok(live) => live,
        Err(Unswitched::Before(halt) | Unswitched::After(halt)) => return Err(halt),
    };
    let halt = switch::stay(session, live).await;
    drop(held);
    Err(halt)
}

/// Takes the lock and finds the release to go to.
fn prepare(job: &RollbackJob, env: &AgentEnv, cancel: &Cancel) -> Result<(Held, ReleaseId), JobError> {
    let root = Root::new(&job.deploy_to, env.home.as_deref())?;
    check_trust(root.path(), env.uid)?;
    if !root.releases().is_dir() {
        return Err(RootError::BadPath {
            path: job.deploy_to.clone(),
            what: "deploy_to",
            reason: "nothing was deployed there",
        }
        .into());
    }
    root.prepare(env.uid)?;
    let predecessor = Predecessor { run: job.run.clone(), by: job.by.clone(), process: job.replaces };
    let held = preflight::hold(root, &predecessor, env, cancel)?;
    let target = match &job.to {
        Some(id) if held.releases.iter().any(|release| release.id == *id) => id.clone(),
        Some(id) => {
            let releases = held.root.releases().display().to_string();
            return Err(JobError::NoSuchRelease { release: id.clone(), releases });
        }
        None => {
            let previous = || releases::previous(&held.releases, held.current.as_ref()?);
            let target = taken_back(&held, &job.run).or_else(previous);
            target.ok_or_else(|| JobError::NoPrevious(held.root.releases().display().to_string()))?
        }
    };
    Ok((held, target))
}

/// Returns what is live again if taking the lock undid a deploy of another run, whose agent had died before it was confirmed: that was
/// the way back, and one more would be one too many. A rollback that was undone is none: the host is where it was to go back from.
fn taken_back(held: &Held, run: &RunId) -> Option<ReleaseId> {
    let Some(Recovered::Reverted { run: dead, release, current: Some(current), .. }) = &held.recovered else { return None };
    let record = |id: &ReleaseId| held.releases.iter().find(|release| release.id == *id)?.record.as_ref();
    let was_rollback = record(release).zip(record(current)).is_some_and(|(dead, live)| releases::is_earlier(dead, live));
    (dead != run && !was_rollback).then(|| current.clone())
}
