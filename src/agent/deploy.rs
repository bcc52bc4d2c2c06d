//! A deploy on one host, step by step: preflight, transfer, the SHA-256 gate, unpacking, staged, the switch, housekeeping.
//!
//! The whole fleet waits for its slowest host, so nothing here waits for the disk without need: the gate hashes the artifact while it
//! arrives, and only the release is flushed. The download and the cache's copy are not: whoever finds them later hashes them first.
//! In the lab (16 hosts sharing one disk, 64 MiB) flushing the download took 0.9 s of the median host's time and hashing it at the
//! end 0.1 s, of 12.7 s; flushing the cache's copy took 1.4 s after the last host was live.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    AgentEnv,
    activation::Staged,
    disk,
    failure::{JobError, chain},
    hooks::Operations,
    preflight::{self, Start, Work},
    releases::{self, Record},
    reuse,
    root::Root,
    session::{Cancel, Halt, Session},
    shared, space,
    store::{Store, UnverifiedBlob, VerifiedBlob, VerifyError},
    switch::{self, Unswitched},
};
use crate::{
    artifact::{self, UnpackLimits},
    failpoint,
    model::{
        ArchiveKind, HostState, ReleaseId,
        plan::{HookPoint, Unchanged},
    },
    swarm::{Bounds, Engine, EngineConfig, EngineError, EngineHandle, MAX_INFO, Metainfo, Role, Throttle, Tls},
    wire::{DeployJob, FromAgent, ToAgent},
};

/// How much of the artifact must have arrived in order before it is worth a thread's while to hash it, in bytes.
const STRIDE: u64 = 4 << 20;
/// How long housekeeping may go on after the controller said stop.
const HOUSEKEEPING_GRACE: Duration = Duration::from_secs(10);

/// Does a deploy. Returns once the controller has been told how it ended or has stopped it.
pub(crate) async fn deploy<E: Engine>(session: &mut Session, engine: &E, job: DeployJob) -> Result<(), Halt> {
    session.during = HostState::Preparing;
    session.place = super::root::resolve(&job.deploy_to, "deploy_to", session.env.home.as_deref()).ok();
    let metainfo = metainfo(&job)?;
    session.plan_transfer(&job);
    let job = Arc::new(job);
    let (asked, env) = (job.clone(), session.env.clone());
    let start = session.blocking(move |cancel| preflight::deploy(&asked, &env, cancel)).await?;
    let mut work = match start {
        Start::AlreadyActive { current, previous, notices } => {
            tell_notices(session, notices).await;
            session.tell(FromAgent::AlreadyActive { current, previous }).await;
            return Err(session.settle().await);
        }
        Start::Work(work) => *work,
    };
    let job =
        if work.release == job.release { job } else { Arc::new(DeployJob { release: work.release.clone(), ..(*job).clone() }) };
    tell_notices(session, std::mem::take(&mut work.held.notices)).await;
    let (run, app) = (&job.run, job.manifest.app.as_str());
    let previous = work.held.current.clone();
    let operations = Operations::new(job.procedure.clone(), run, Some(app), &work.held.root, &job.release, previous.as_ref());
    let undo = operations.undo()?;
    let staged = stage(session, engine, &job, &metainfo, &mut work, &operations).await;
    if let Err(halt) = staged {
        abandon(session, &job, work, &halt).await;
        return Err(halt);
    }
    let live = Staged::new(work.held.root.clone(), session.env.clock, job.run.clone(), job.release.clone(), undo);
    let live = live.started_by(job.by.clone());
    let live = if job.goes_back { live.in_rollback() } else { live };
    let live = match switch::switch(session, live, operations, job.confirm_seconds).await {
        Ok(live) => live,
        Err(Unswitched::Before(halt)) => {
            abandon(session, &job, work, &halt).await;
            return Err(halt);
        }
        // It was live: it stays for people to look at until the next deploy.
        Err(Unswitched::After(halt)) => return Err(halt),
    };
    // The lock is held while the host uploads.
    let (work, halt) = housekeep(session, &job, work).await;
    let halt = match halt {
        None => switch::stay(session, live).await,
        Some(Halt::SentBack(reason)) => switch::send_back(session, live, reason).await,
        Some(halt) => halt,
    };
    drop(work);
    Err(halt)
}

async fn tell_notices(session: &mut Session, notices: Vec<preflight::Notice>) {
    for notice in notices {
        session.warn(notice.message, notice.hint).await;
    }
}

/// Reads the torrent out of the job.
fn metainfo(job: &DeployJob) -> Result<Arc<Metainfo>, JobError> {
    let bad = |what: String| Err(JobError::BadJob(what));
    let manifest = &job.manifest;
    let bytes = job.info.unpack(MAX_INFO).map_err(|error| JobError::BadJob(chain(&error)))?;
    let metainfo = Metainfo::from_info_bytes(&bytes)?;
    if metainfo.length() != manifest.size {
        return bad(format!("the torrent has {} bytes, the artifact {}", metainfo.length(), manifest.size));
    }
    let is_directory = manifest.archive == ArchiveKind::Directory;
    match (metainfo.tree(), &manifest.tree) {
        (None, None) if !is_directory => {}
        (Some(tree), Some(facts)) if is_directory => {
            if tree.digest() != manifest.digest || tree.facts(facts.blob) != *facts {
                return bad("the torrent lists another directory than the artifact".to_owned());
            }
        }
        _ => return bad("it is not clear whether the artifact is a file or a directory".to_owned()),
    }
    Ok(Arc::new(metainfo))
}

/// Brings the release there and tells that it is staged.
async fn stage<E: Engine>(
    session: &mut Session,
    engine: &E,
    job: &Arc<DeployJob>,
    metainfo: &Arc<Metainfo>,
    work: &mut Work,
    operations: &Operations,
) -> Result<(), Halt> {
    let size = job.manifest.size;
    let mut port = None;
    if !work.there {
        take_what_is_there(session, job, metainfo, work).await?;
        match start_engine(session, engine, job, metainfo.clone(), work).await {
            Ok(address) => port = Some(address.port()).filter(|port| *port != 0),
            Err(Halt::Failed(error)) if work.blob.is_some() => {
                session.warn(format!("the host does not upload: {}", chain(&error)), None).await;
            }
            Err(halt) => return Err(halt),
        }
    }
    let known = work.there || work.blob.is_some();
    let have = if known { size } else { session.byte_counts(0).from_disk };
    session.tell(FromAgent::Prepared { port, have, current: work.held.current.clone() }).await;
    let peers = match session.hear().await? {
        ToAgent::Start { peers } => peers,
        other => return Err(session.out_of_order(&other)),
    };
    session.add_peers(job.seed.into_iter().chain(peers).collect()).await;
    session.use_origins(job.origins.clone()).await;
    // A release that is activated once more has its hooks, too; one of this run that is there has had them.
    let is_prepared = work.there && job.unchanged == Unchanged::Skip;
    if !is_prepared {
        session.attend(async { Ok(operations.run(HookPoint::BeforeStage).await?) }).await?;
    }
    if !work.there {
        prepare_shared(session, job, work).await?;
        let blob = obtain(session, job, work).await?;
        session.look_back_at_the_transfer().await;
        unpack(session, job, metainfo, work, blob).await?;
    }
    if !is_prepared {
        session.attend(async { Ok(operations.run(HookPoint::AfterStage).await?) }).await?;
    }
    session.during = HostState::Staged;
    let bytes = session.byte_counts(size);
    session.tell(FromAgent::Staged { release: job.release.clone(), bytes }).await;
    Ok(())
}

/// Looks after what the release will link to, before anything is transferred. A hook may have put it there.
async fn prepare_shared(session: &mut Session, job: &Arc<DeployJob>, work: &Work) -> Result<(), Halt> {
    let (job, root, uid) = (job.clone(), work.held.root.clone(), session.env.uid);
    session.blocking(move |_| Ok(shared::prepare(&root, &job.linked, uid)?)).await
}

/// Copies those files of a directory into the download that are in releases of the host. The engine counts them as from the disk.
async fn take_what_is_there(
    session: &mut Session,
    job: &Arc<DeployJob>,
    metainfo: &Arc<Metainfo>,
    work: &Work,
) -> Result<(), Halt> {
    if metainfo.tree().is_none() || work.blob.is_some() {
        return Ok(());
    }
    let held = &work.held;
    let (root, current, releases) = (held.root.clone(), held.current.clone(), held.releases.clone());
    let (metainfo, partial) = (metainfo.clone(), root.partial(job.manifest.blob()));
    let filling = session.blocking(move |cancel| match metainfo.tree() {
        Some(tree) => Ok(reuse::fill(&root, current.as_ref(), &releases, tree, &partial, cancel)?),
        None => Ok(0),
    });
    let bytes = filling.await?;
    tracing::info!("{bytes} bytes are in releases of this host");
    Ok(())
}

async fn start_engine<E: Engine>(
    session: &mut Session,
    engine: &E,
    job: &DeployJob,
    metainfo: Arc<Metainfo>,
    work: &Work,
) -> Result<SocketAddr, Halt> {
    let file = match &work.blob {
        Some(blob) => blob.path().to_owned(),
        None => work.held.root.partial(job.manifest.blob()),
    };
    let controller_peers: Vec<SocketAddr> = job.controller_peers.iter().chain(&job.seed).map(|peer| peer.0).collect();
    let six = controller_peers.iter().any(SocketAddr::is_ipv6);
    let anywhere = if six { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut config = EngineConfig {
        metainfo,
        role: Role::Host { file },
        listen: SocketAddr::new(job.advertise.unwrap_or(anywhere), 0),
        ports: job.ports,
        advertise: job.advertise,
        peers: Vec::new(),
        place: job.place,
        controller_peers,
        tracker: job.tracker.clone(),
        tls: job.identity.as_ref().map(Tls::new).transpose().map_err(JobError::Identity)?,
        bounds: Bounds {
            alone: session.is_alone(),
            upload: Throttle::new(job.limits.upload),
            download: Throttle::new(job.limits.download),
        },
        origins: None,
    };
    let mut started = session.attend(launch(engine, config.clone())).await;
    if let (Err(Halt::Failed(error)), Some(address)) = (&started, job.advertise)
        && error.is_foreign_address()
    {
        // Behind address translation the advertised address is not one of the host's own.
        session.warn(format!("{address} is not an address of this host: listening on all of them"), None).await;
        config.listen = SocketAddr::new(anywhere, 0);
        started = session.attend(launch(engine, config)).await;
    }
    let handle = started?;
    let address = handle.local_addr;
    session.attach(handle, work.blob.is_none());
    Ok(address)
}

async fn launch<E: Engine>(engine: &E, config: EngineConfig) -> Result<EngineHandle, JobError> {
    engine.start(config).await.map_err(JobError::Engine)
}

/// Waits for the transfer and opens the gate. A blob from the cache has passed it in the preflight; if the engine wrote to it, it
/// has to pass it again.
async fn obtain(session: &mut Session, job: &DeployJob, work: &mut Work) -> Result<VerifiedBlob, Halt> {
    let Some(blob) = work.blob.take() else {
        session.enter(HostState::Downloading).await;
        failpoint::reach("download.begun");
        return follow(session, job, work.held.root.partial(job.manifest.blob())).await;
    };
    session.transfer().await?;
    session.engine_is_optional();
    let bytes = session.byte_counts(0);
    if bytes.moved() == 0 {
        return Ok(blob);
    }
    follow(session, job, blob.path().to_owned()).await
}

/// Hashes the file while it arrives: hosts get it roughly in order, so that little is left to hash when the last piece is there.
async fn follow(session: &mut Session, job: &DeployJob, path: PathBuf) -> Result<VerifiedBlob, Halt> {
    let (digest, size) = (*job.manifest.blob(), job.manifest.size);
    let mut there = session.in_order(STRIDE.min(size)).await?;
    let missing = || EngineError::Engine(format!("{} is not there", path.display()));
    let mut gate = UnverifiedBlob::open(path.clone())?.ok_or_else(missing)?.gate(&digest, size);
    loop {
        if there == size {
            session.enter(HostState::Verifying).await;
        }
        gate = session
            .blocking(move |cancel| {
                gate.read_to(there, &|| cancel.is_set())?;
                Ok(gate)
            })
            .await?;
        if there == size {
            break;
        }
        there = session.in_order((there + STRIDE).min(size)).await?;
    }
    session.engine_is_optional();
    let blob = gate.pass()?;
    failpoint::reach("download.verified");
    Ok(blob)
}

/// Unpacks the verified artifact and makes the result a complete release. A rename moves the artifact into the cache.
async fn unpack(
    session: &mut Session,
    job: &Arc<DeployJob>,
    metainfo: &Arc<Metainfo>,
    work: &mut Work,
    blob: VerifiedBlob,
) -> Result<(), Halt> {
    session.enter(HostState::Extracting).await;
    let metainfo = metainfo.clone();
    let (job, root, store) = (job.clone(), work.held.root.clone(), work.store.clone());
    let sequence = match job.goes_back {
        true => releases::place_of_earlier(&work.held.releases, &job.release),
        false => releases::next_sequence(&work.held.releases),
    };
    let (clock, signed) = (session.env.clock, work.signed.clone());
    let (blob, warning) = session
        .blocking(move |cancel| {
            let mut blob = blob;
            let staging = root.staging(&job.release);
            disk::remove_tree(&staging)?;
            let limits = UnpackLimits::for_space(space::spendable(&root.releases())?);
            let (kind, name) = (job.manifest.archive, &job.manifest.file_name);
            failpoint::reach("extract.begun");
            std::thread::scope(|scope| -> Result<(), JobError> {
                // Both take their time with the disk. No release is complete before both are done.
                let flushed = scope.spawn(|| blob.flush());
                match metainfo.tree() {
                    Some(tree) => artifact::unpack_tree(blob.path(), tree, &staging, &limits, &|| cancel.is_set())?,
                    None => artifact::unpack(blob.path(), kind, name, &staging, &limits, &|| cancel.is_set())?,
                };
                Ok(flushed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
            })?;
            failpoint::reach("extract.done");
            shared::link(&root, &job.release, &job.linked)?;
            let record = Record {
                release: job.release.clone(),
                manifest: job.manifest.clone(),
                linked: job.linked.clone(),
                signed,
                by: job.by.clone(),
                sequence,
                staged_at: clock.stamp(),
                activated_at: None,
                replaced: None,
            };
            releases::complete(&root, &record)?;
            let adopted = store.map_or(Ok(false), |store| store.adopt(&mut blob, None, clock.now()));
            Ok((blob, adopted.err().map(|error| chain(&error))))
        })
        .await?;
    if let Some(warning) = warning {
        session.warn(format!("the artifact is not cached: {warning}"), None).await;
        work.store = None;
    }
    work.blob = Some(blob);
    Ok(())
}

/// Removes what a deploy that goes no further made, except the partial download that the next run resumes.
async fn abandon(session: &mut Session, job: &Arc<DeployJob>, work: Work, halt: &Halt) {
    session.stop_engine().await;
    // Data that failed the gate is worth nothing, and a download that filled the disk must not keep it full.
    let discard = match halt {
        Halt::Failed(JobError::Verify(VerifyError::Mismatch { .. })) => true,
        Halt::Failed(error) => error.is_disk_full(),
        Halt::Stopped(_) | Halt::SentBack(_) | Halt::Told => false,
    };
    let job = job.clone();
    let removed = super::session::uninterrupted(move || {
        let root = &work.held.root;
        if !work.there {
            releases::remove(root, &job.release)?;
        }
        if discard {
            disk::remove_file(&root.partial(job.manifest.blob()))?;
        }
        Ok(())
    });
    if let Err(error) = removed.await {
        // The next deploy removes it under the lock.
        tracing::warn!("leftovers stay: {}", chain(&error));
    }
}

/// After the confirmation: the cache gets what a rename could not give it, old releases and old blobs go. Nothing here can
/// fail the host, and a stop, which often follows the confirmation closely, leaves it time. Returns what ended it early, if something
/// did, and the work with its lock unless there was a bug.
async fn housekeep(session: &mut Session, job: &Arc<DeployJob>, mut work: Work) -> (Option<Work>, Option<Halt>) {
    let (job, env) = (job.clone(), session.env.clone());
    let tidied = session.tidying(HOUSEKEEPING_GRACE, move |cancel| {
        let notices = tidy(&job, &mut work, &env, cancel);
        (work, notices)
    });
    let (work, notices, halt) = match tidied.await {
        (Ok((work, notices)), halt) => (Some(work), notices, halt),
        (Err(error), halt) => (None, vec![chain(&error)], Some(halt.unwrap_or(Halt::Failed(error)))),
    };
    for notice in notices {
        session.warn(notice, None).await;
    }
    (work, halt)
}

fn tidy(job: &DeployJob, work: &mut Work, env: &AgentEnv, cancel: &Cancel) -> Vec<String> {
    let mut notices = Vec::new();
    if let Err(error) = prune(&work.held.root, job, work, cancel) {
        notices.push(format!("old releases stay: {}", chain(&error)));
    }
    if let Some(store) = work.store.take()
        && !cancel.is_set()
        && let Err(error) = fill(&store, job, work, env, cancel)
    {
        notices.push(format!("the cache is not in order: {}", chain(&error)));
    }
    // Where there is no cache, or it did not take the artifact, nothing needs the download any more.
    if let Err(error) = disk::remove_file(&work.held.root.partial(job.manifest.blob())) {
        notices.push(format!("the downloaded artifact stays: {}", chain(&error)));
    }
    failpoint::reach("tidy.done");
    notices
}

fn prune(root: &Root, job: &DeployJob, work: &Work, cancel: &Cancel) -> Result<Vec<ReleaseId>, disk::DiskError> {
    let before = work.held.current.iter().cloned();
    let previous = releases::previous(&releases::list(root)?, &job.release);
    let protected: BTreeSet<ReleaseId> = before.chain(previous).chain([job.release.clone()]).collect();
    let gone = releases::prune(root, job.keep_releases as usize, &protected, &|| cancel.is_set())?;
    if !gone.is_empty() {
        tracing::info!("removed {} old releases", gone.len());
    }
    Ok(gone)
}

fn fill(store: &Store, job: &DeployJob, work: &mut Work, env: &AgentEnv, cancel: &Cancel) -> Result<(), disk::DiskError> {
    if let Some(blob) = &mut work.blob {
        store.adopt(blob, Some(&|| cancel.is_set()), env.clock.now())?;
    }
    if cancel.is_set() {
        return Ok(());
    }
    let surplus = store.surplus(job.cache_limit, Some(job.manifest.blob()), env.clock.now())?;
    let gone = store.evict(&surplus)?;
    if gone > 0 {
        tracing::info!("removed {gone} artifacts from the cache");
    }
    Ok(())
}
