//! What is checked, and put in order, before a deploy moves a byte. Blocks.
//!
//! In this order: the path and who could redirect it, the directories, the lock, a switch that a dead agent left unconfirmed, what
//! `current` is, leftovers, whether anything is to be done at all, the cache, room. Everything after the lock may change the disk.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::{
    AgentEnv,
    activation::{self, Recovered},
    disk,
    failure::{JobError, chain},
    hooks::{HookError, Operations},
    lock::{DeployLock, Predecessor},
    releases::{self, Current, Release},
    root::{self, Root, RootError},
    session::Cancel,
    space::{self, Demand},
    store::{Store, UnverifiedBlob, VerifiedBlob, VerifyError},
    stray, trust,
};
use crate::{
    model::{
        LockHolder, Manifest, ReleaseId,
        plan::{Health, Hooks, Unchanged},
        trust::{Endorsement, Newest},
    },
    wire::{DeployJob, Procedure},
};

/// Something worth telling that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    /// What.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<&'static str>,
}

impl Notice {
    fn new(message: impl Into<String>, hint: Option<&'static str>) -> Self {
        Self { message: message.into(), hint }
    }
}

/// A root whose lock is held and whose history is in order.
#[derive(Debug)]
pub(crate) struct Held {
    /// The root.
    pub(crate) root: Root,
    /// The lock, released when this is dropped.
    _lock: DeployLock,
    /// What a dead agent had left undone.
    pub(crate) recovered: Option<Recovered>,
    /// Hooks of a revert that it had left and that failed. The notices name them too.
    pub(crate) failed_hooks: Vec<HookError>,
    /// The live release.
    pub(crate) current: Option<ReleaseId>,
    /// The complete releases.
    pub(crate) releases: Vec<Release>,
    /// What to tell.
    pub(crate) notices: Vec<Notice>,
}

impl Held {
    /// Releases the lock. Returns what to tell.
    pub(crate) fn let_go(self) -> Vec<Notice> {
        self.notices
    }
}

/// What a deploy starts from.
#[derive(Debug)]
pub(crate) enum Start {
    /// The live release is what the job wants.
    AlreadyActive {
        /// The live release.
        current: ReleaseId,
        /// The one before it.
        previous: Option<ReleaseId>,
        /// What to tell.
        notices: Vec<Notice>,
    },
    /// There is something to do.
    Work(Box<Work>),
}

/// What a deploy works with.
#[derive(Debug)]
pub(crate) struct Work {
    /// The locked root.
    pub(crate) held: Held,
    /// The cache, if it can be used.
    pub(crate) store: Option<Store>,
    /// The artifact, if the cache has it.
    pub(crate) blob: Option<VerifiedBlob>,
    /// The release to activate: the job's, or the live one if that is to be activated once more.
    pub(crate) release: ReleaseId,
    /// That release is already there, complete and once confirmed.
    pub(crate) there: bool,
    /// The version that the artifact is signed as, if it is.
    pub(crate) signed: Option<Newest>,
}

/// Takes the lock, then finishes or undoes what a dead agent left and looks at what is live.
pub(crate) fn hold(root: Root, predecessor: &Predecessor, env: &AgentEnv, cancel: &Cancel) -> Result<Held, JobError> {
    let Predecessor { run, by, .. } = predecessor.clone();
    let holder = LockHolder { run, pid: std::process::id(), since: env.clock.stamp(), by };
    let lock = DeployLock::acquire(&root.lock(), &holder, predecessor, &|| cancel.is_set())?;
    let stray = end_stray(&root);
    let mut failed_hooks = Vec::new();
    let recovered = activation::recover(&root, env.clock, |recovered| failed_hooks = run_hooks_left(&root, recovered))?;
    let mut notices: Vec<Notice> = stray.into_iter().chain(recovered.iter().map(recovery_notice)).collect();
    notices.extend(failed_hooks.iter().map(|error| Notice::new(error.to_string(), Some("look whether the service runs"))));
    let current = releases::current(&root)?;
    if let Current::Dangling(id) = &current {
        let message = format!("{} points to {id}, which is gone", root.current().display());
        notices.push(Notice::new(message, Some("nothing was live there; a revert would remove the symlink")));
    }
    let releases = releases::list(&root)?;
    Ok(Held { root, _lock: lock, recovered, failed_hooks, current: current.live(), releases, notices })
}

/// Ends the hook or check that an earlier agent was killed in. Whatever comes of it, the deploy goes on.
fn end_stray(root: &Root) -> Option<Notice> {
    match stray::end(root) {
        Ok(None) => None,
        Ok(Some((run, step))) => {
            Some(Notice::new(format!("{step} of run {run} still ran although its agent was killed: it was ended"), None))
        }
        Err(error) => {
            let message = format!("cannot tell whether a hook of an earlier run still runs: {}", chain(&error));
            Some(Notice::new(message, Some("look for its processes on the host")))
        }
    }
}

/// Runs the hooks that a dead agent did not run to their end when its switch was undone. Returns what failed.
fn run_hooks_left(root: &Root, recovered: &Recovered) -> Vec<HookError> {
    let Recovered::Reverted { run, release, previous, undo: Some(undo), .. } = recovered else { return Vec::new() };
    let hooks = Hooks { on_revert: undo.hooks.clone(), ..Hooks::default() };
    let procedure = Procedure { host: undo.host.clone(), hooks, health: Health::default() };
    let operations = Operations::new(procedure, run, undo.app.as_deref(), root, release, previous.as_ref());
    // On a thread that may block, within the agent's runtime.
    tokio::runtime::Handle::current().block_on(operations.run_on_revert())
}

fn recovery_notice(recovered: &Recovered) -> Notice {
    match recovered {
        Recovered::Reverted { run, release, current, .. } => {
            let live = current.as_ref().map_or("nothing".to_owned(), ToString::to_string);
            let message = format!("run {run} died before {release} was confirmed: it was reverted, {live} is live");
            Notice::new(message, None)
        }
        Recovered::Kept { release } => {
            let message = format!("{release} was never confirmed, but the release before it is gone: it stays live");
            Notice::new(message, Some("look whether it works"))
        }
        Recovered::DamagedJournal => {
            Notice::new("the activation journal was damaged and is begun anew", Some("check the disk"))
        }
    }
}

/// Does the whole preflight of a deploy.
pub(crate) fn deploy(job: &DeployJob, env: &AgentEnv, cancel: &Cancel) -> Result<Start, JobError> {
    check_job(job)?;
    let statement = trust::check(job.endorsement.as_deref(), &job.manifest, env.clock.now())?;
    let root = Root::new(&job.deploy_to, env.home.as_deref())?;
    root.prepare(env.uid)?;
    let predecessor = Predecessor { run: job.run.clone(), by: job.by.clone(), process: job.replaces };
    let mut held = hold(root, &predecessor, env, cancel)?;
    if let (Some(statement), Some(Endorsement { allow_downgrade: false, .. })) = (&statement, job.endorsement.as_deref()) {
        trust::check_age(&held.root, statement)?;
    }
    let signed = statement.as_ref().map(Newest::from);
    // Also where nothing is left to do: an agent may have died while it removed old releases after its confirmation.
    remove_leftovers(&mut held, job);
    let up_to_date = held.current.clone().filter(|current| is_confirmed(&held.releases, current, job));
    if let Some(current) = up_to_date {
        remove_download(&mut held, job, env);
        if job.unchanged == Unchanged::Activate {
            return Ok(Start::Work(Box::new(Work { held, store: None, blob: None, release: current, there: true, signed })));
        }
        let previous = releases::previous(&held.releases, &current);
        return Ok(Start::AlreadyActive { current, previous, notices: held.notices });
    }
    let there = held.releases.iter().any(|release| release.id == job.release);
    if there && !is_confirmed(&held.releases, &job.release, job) {
        let text = format!("{} is already there and is something else", held.root.release(&job.release).display());
        return Err(JobError::BadJob(text));
    }
    let store = open_store(job, env, &mut held.notices)?;
    let blob = match &store {
        Some(store) if !there => cached(store, job, env, &mut held.notices, cancel)?,
        _ => None,
    };
    if !there {
        check_room(&held.root, &job.manifest, blob.is_some(), &mut held.notices)?;
    }
    Ok(Start::Work(Box::new(Work { held, store, blob, release: job.release.clone(), there, signed })))
}

fn check_job(job: &DeployJob) -> Result<(), JobError> {
    let name = &job.manifest.file_name;
    if job.manifest.size == 0 {
        return Err(JobError::BadJob("the artifact is empty".into()));
    }
    if Path::new(name).file_name() != Some(OsStr::new(name)) || name.len() > 255 || name.contains('\0') {
        return Err(JobError::BadJob(format!("`{}` is not a file name", name.chars().take(80).collect::<String>())));
    }
    Ok(())
}

/// True if that release is what the job would make, and was confirmed.
fn is_confirmed(releases: &[Release], id: &ReleaseId, job: &DeployJob) -> bool {
    let record = releases.iter().find(|release| release.id == *id).and_then(|release| release.record.as_ref());
    record.is_some_and(|record| {
        let (of, wanted) = (&record.manifest, &job.manifest);
        record.activated_at.is_some() && (of.digest, &of.app, &record.linked) == (wanted.digest, &wanted.app, &job.linked)
    })
}

/// Removes what dead runs left, also partial downloads of other artifacts. What can't be removed is told.
fn remove_leftovers(held: &mut Held, job: &DeployJob) {
    let previous = held.current.as_ref().and_then(|current| releases::previous(&held.releases, current));
    let keep: BTreeSet<ReleaseId> = held.current.iter().cloned().chain(previous).collect();
    let result = releases::remove_leftovers(&held.root, &keep).and_then(|_| {
        let wanted = job.manifest.blob().to_string();
        for name in disk::names(&held.root.partials(), 10_000)? {
            if name != OsStr::new(&wanted) {
                disk::remove_file(&held.root.partials().join(name))?;
            }
        }
        held.releases = releases::list(&held.root)?;
        Ok(())
    });
    if let Err(error) = result {
        let message = format!("leftovers of an earlier run stay: {}", chain(&error));
        held.notices.push(Notice::new(message, Some("remove them by hand")));
    }
}

/// Removes what an agent left that died after its confirmation, before the cache had the artifact: nothing else would, where the
/// same artifact is deployed again. What can't be removed is told.
fn remove_download(held: &mut Held, job: &DeployJob, env: &AgentEnv) {
    let removed = (|| -> Result<(), JobError> {
        disk::remove_file(&held.root.partial(job.manifest.blob()))?;
        let cache = cache(job, env)?;
        if Store::is_at(&cache) {
            Store::open(&cache, env.uid)?.remove_leftovers()?;
        }
        Ok(())
    })();
    if let Err(error) = removed {
        let message = format!("the downloaded artifact stays: {}", chain(&error));
        held.notices.push(Notice::new(message, Some("remove it by hand")));
    }
}

fn cache(job: &DeployJob, env: &AgentEnv) -> Result<PathBuf, RootError> {
    root::resolve(job.cache.as_deref().unwrap_or(&env.default_cache), "cache", env.home.as_deref())
}

fn open_store(job: &DeployJob, env: &AgentEnv, notices: &mut Vec<Notice>) -> Result<Option<Store>, JobError> {
    let opened = cache(job, env).and_then(|path| Store::open(&path, env.uid));
    match opened {
        Ok(store) => Ok(Some(store)),
        // A cache that was asked for by name must work; the default one is only a help.
        Err(error) if job.cache.is_some() => Err(error.into()),
        Err(error) => {
            let message = format!("deploying without a cache: {}", chain(&error));
            notices.push(Notice::new(message, Some("a repeated deploy transfers the artifact again")));
            Ok(None)
        }
    }
}

/// Returns the artifact from the cache if it is there and still right.
fn cached(
    store: &Store,
    job: &DeployJob,
    env: &AgentEnv,
    notices: &mut Vec<Notice>,
    cancel: &Cancel,
) -> Result<Option<VerifiedBlob>, JobError> {
    let digest = job.manifest.blob();
    let opened = store.open_blob(digest, env.clock.now());
    let verified = match opened {
        Ok(None) => return Ok(None),
        Ok(Some(blob)) => blob.verify(digest, job.manifest.size, &|| cancel.is_set()),
        Err(error) => Err(error.into()),
    };
    match verified {
        Ok(blob) => Ok(Some(blob)),
        Err(VerifyError::Cancelled) => Err(VerifyError::Cancelled.into()),
        Err(error) => {
            let message = format!("the cached artifact is not used: {}", chain(&error));
            notices.push(Notice::new(message, Some("unless the host lost power, check its disk and memory")));
            store.discard(digest)?;
            Ok(None)
        }
    }
}

fn check_room(root: &Root, manifest: &Manifest, cached: bool, notices: &mut Vec<Notice>) -> Result<(), JobError> {
    let missing = if cached {
        0
    } else {
        let partial = root.partial(manifest.blob());
        let there = UnverifiedBlob::open(partial.clone())?.map_or(Ok(0), |_| disk::allocated(&partial))?;
        manifest.size.saturating_sub(there)
    };
    let artifact = Demand { dir: &root.partials(), bytes: missing };
    if let Some(warning) = space::check(artifact, &root.releases(), manifest)? {
        notices.push(Notice::new(warning, Some("if it does not fit, the host fails before anything is visible")));
    }
    Ok(())
}
