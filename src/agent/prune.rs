//! Removing what is no longer needed on a host: old releases, what dead runs left, partial downloads, artifacts beyond the cache's bounds.
//!
//! Under the lock, so that nothing a deploy works with can go; a dry run takes no lock, changes nothing and is refused where one
//! is held. Never removed: the current release, the one a rollback goes to, directories in `releases/` that are not fleetdrop's,
//! artifacts in use.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    AgentEnv, disk,
    failure::JobError,
    lock::{self, LockError, Look, Predecessor},
    preflight::{self, Held, Notice},
    releases::{self, Release},
    root::{self, Root, check_trust},
    session::{Cancel, Halt, Session},
    store::Store,
};
use crate::{
    model::{HostState, Pruned, ReleaseId},
    wire::{FromAgent, PruneJob},
};

/// The most partial downloads that are looked at.
const MAX_DOWNLOADS: usize = 10_000;

/// Removes what may go, or only looks, tells what that is, and ends.
pub(crate) async fn prune(session: &mut Session, job: PruneJob) -> Result<(), Halt> {
    session.during = HostState::Preparing;
    session.place = root::resolve(&job.deploy_to, "deploy_to", session.env.home.as_deref()).ok();
    let env = session.env.clone();
    let (pruned, notices) = session.blocking(move |cancel| tidy(&job, &env, cancel)).await?;
    for notice in notices {
        session.warn(notice.message, notice.hint).await;
    }
    session.tell(FromAgent::Pruned(pruned)).await;
    session.mark_settled();
    Ok(())
}

fn tidy(job: &PruneJob, env: &AgentEnv, cancel: &Cancel) -> Result<(Pruned, Vec<Notice>), JobError> {
    let root = Root::new(&job.deploy_to, env.home.as_deref())?;
    check_trust(root.path(), env.uid)?;
    let mut pruned = Pruned { deploy_to: root.path().display().to_string(), ..Pruned::default() };
    let mut notices = Vec::new();
    // Nothing is created where nothing was deployed.
    if root.private().is_dir() {
        if job.dry_run {
            Surplus::look(&root, job)?.count(&mut pruned, cancel)?;
        } else {
            root.prepare(env.uid)?;
            let claim = Predecessor { run: job.run.clone(), by: job.by.clone(), process: None };
            let mut held = preflight::hold(root, &claim, env, cancel)?;
            notices = std::mem::take(&mut held.notices);
            let surplus = Surplus::of(&held.root, &held.releases, held.current.as_ref(), job)?;
            surplus.count(&mut pruned, cancel)?;
            surplus.remove(&held, cancel)?;
        }
    }
    tidy_cache(job, env, cancel, &mut pruned)?;
    Ok((pruned, notices))
}

/// What may go from an application's root.
struct Surplus {
    root: Root,
    releases: Vec<ReleaseId>,
    unfinished: Vec<PathBuf>,
    downloads: Vec<PathBuf>,
}

impl Surplus {
    /// Looks without the lock. Fails if somebody holds it: then nothing would be removed.
    fn look(root: &Root, job: &PruneJob) -> Result<Self, JobError> {
        if let Look::Held(holder) = lock::look(&root.lock())? {
            return Err(LockError::Held { path: root.lock(), holder }.into());
        }
        let current = releases::current(root)?.live();
        Self::of(root, &releases::list(root)?, current.as_ref(), job)
    }

    fn of(root: &Root, there: &[Release], current: Option<&ReleaseId>, job: &PruneJob) -> Result<Self, JobError> {
        let previous = current.and_then(|current| releases::previous(there, current));
        let protected: BTreeSet<ReleaseId> = current.cloned().into_iter().chain(previous).collect();
        let never_live = releases::never_live(there, &protected);
        // Those don't count among the ones that are kept.
        let lived: Vec<Release> = there.iter().filter(|release| !never_live.contains(&release.id)).cloned().collect();
        let old = releases::surplus(&lived, job.keep_releases as usize, &protected);
        let releases = there.iter().map(|release| &release.id).filter(|id| never_live.contains(id) || old.contains(id));
        let downloads = disk::names(&root.partials(), MAX_DOWNLOADS)?;
        Ok(Self {
            root: root.clone(),
            releases: releases.cloned().collect(),
            unfinished: releases::unfinished(root)?,
            downloads: downloads.into_iter().map(|name| root.partials().join(name)).collect(),
        })
    }

    fn count(&self, pruned: &mut Pruned, cancel: &Cancel) -> Result<(), JobError> {
        pruned.releases = self.releases.clone();
        pruned.unfinished = self.unfinished.len() as u32;
        pruned.downloads = self.downloads.len() as u32;
        let releases = self.releases.iter().map(|id| self.root.release(id));
        for path in releases.chain(self.unfinished.iter().cloned()).chain(self.downloads.iter().cloned()) {
            pruned.bytes = pruned.bytes.saturating_add(disk::allocated_below(&path, &|| cancel.is_set())?);
        }
        Ok(())
    }

    /// Removes all of it. Who holds the lock may.
    fn remove(&self, held: &Held, cancel: &Cancel) -> Result<(), JobError> {
        // The oldest first.
        for id in self.releases.iter().rev() {
            if cancel.is_set() {
                return Ok(());
            }
            releases::remove(&held.root, id)?;
        }
        let keep = held.releases.iter().map(|release| release.id.clone()).collect();
        releases::remove_leftovers(&held.root, &keep)?;
        for path in &self.downloads {
            disk::remove_file(path)?;
        }
        Ok(())
    }
}

/// Cuts the cache down to its bounds, if there is one.
fn tidy_cache(job: &PruneJob, env: &AgentEnv, cancel: &Cancel, pruned: &mut Pruned) -> Result<(), JobError> {
    let text = job.cache.as_deref().unwrap_or(&env.default_cache);
    let path = root::resolve(text, "cache", env.home.as_deref())?;
    if cancel.is_set() || !Store::is_at(&path) {
        return Ok(());
    }
    let store = Store::open(&path, env.uid)?;
    let surplus = store.surplus(job.cache_limit, None, env.clock.now())?;
    pruned.cached = surplus.len() as u32;
    pruned.bytes = surplus.iter().fold(pruned.bytes, |bytes, blob| bytes.saturating_add(blob.bytes));
    if !job.dry_run {
        store.evict(&surplus)?;
    }
    Ok(())
}
