//! A host in a temporary directory and the controller's end of a conversation with its agent.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use sha2::Digest as _;
use tokio::{io::DuplexStream, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::engine::{FakeEngine, Manner};
use crate::{
    agent::{AgentEnv, Clock, Ended, serve},
    model::{
        ArchiveKind, Digest, HostFailure, HostStatus, Manifest, ReleaseId, RunId,
        plan::{Linked, Unchanged},
    },
    swarm::Metainfo,
    wire::{self, DeployJob, FromAgent, Job, PackedInfo, PeerAddr, Procedure, RollbackJob, StopReason, ToAgent},
};

/// One artifact.
#[derive(Debug, Clone)]
pub(super) struct Artifact {
    pub(super) name: &'static str,
    pub(super) bytes: Arc<Vec<u8>>,
}

impl Artifact {
    /// A tar archive with `bin/shop` that says which version it is.
    pub(super) fn version(version: &str) -> Self {
        let bytes = tar(&[("bin/shop", format!("shop {version}").as_bytes())]);
        Self { name: "shop.tar", bytes: Arc::new(bytes) }
    }

    pub(super) fn new(name: &'static str, bytes: Vec<u8>) -> Self {
        Self { name, bytes: Arc::new(bytes) }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest(sha2::Sha256::digest(&*self.bytes).into())
    }

    pub(super) fn manifest(&self) -> Manifest {
        Manifest {
            app: "shop".parse().unwrap(),
            file_name: self.name.into(),
            digest: self.digest(),
            size: self.bytes.len() as u64,
            archive: ArchiveKind::of_file_name(self.name).0,
            tree: None,
        }
    }
}

/// Writes a tar archive of files.
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        // Written raw: a hostile name must get in.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Writes a zip archive with one file.
pub(super) fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(content).unwrap();
    archive.finish().unwrap().into_inner()
}

/// A temporary directory in memory where there is such a file system: what the agent flushes need not reach a disk here.
fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A host: `deploy_to`, cache and home in a directory that goes with it.
pub(super) struct Host {
    pub(super) dir: tempfile::TempDir,
    pub(super) manner: Manner,
    pub(super) lease_seconds: u32,
    pub(super) confirm_seconds: u32,
    pub(super) keep_releases: u32,
    pub(super) linked: Linked,
    pub(super) unchanged: Unchanged,
    pub(super) cache_limit: u64,
    pub(super) procedure: Procedure,
    pub(super) runs: std::cell::Cell<u64>,
}

impl Host {
    pub(super) fn new() -> Self {
        Self {
            dir: fast_dir(),
            manner: Manner::Good,
            lease_seconds: 30,
            confirm_seconds: 60,
            keep_releases: 3,
            linked: Linked::default(),
            unchanged: Unchanged::default(),
            cache_limit: 1 << 30,
            procedure: Procedure::default(),
            runs: std::cell::Cell::new(0),
        }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Reads a file of the live release; `None` if nothing is live.
    pub(super) fn live(&self) -> Option<String> {
        std::fs::read_to_string(self.path("app/current/bin/shop")).ok()
    }

    pub(super) fn cached(&self, artifact: &Artifact) -> PathBuf {
        self.path("cache/blobs/sha256").join(artifact.digest().to_string())
    }

    pub(super) fn partial(&self, artifact: &Artifact) -> PathBuf {
        self.path("app/.fleetdrop/partial").join(artifact.digest().to_string())
    }

    /// Names in `releases/`, sorted.
    pub(super) fn releases(&self) -> Vec<String> {
        names(&self.path("app/releases"))
    }

    fn next_run(&self) -> RunId {
        self.runs.set(self.runs.get() + 1);
        RunId::from_random(self.runs.get().to_be_bytes())
    }

    pub(super) fn deploy_job(&self, artifact: &Artifact, release: &str) -> DeployJob {
        let hashes = artifact.bytes.chunks(1 << 16).map(|piece| <sha1::Sha1 as sha1::Digest>::digest(piece).into());
        let metainfo = Metainfo::new(artifact.name, artifact.bytes.len() as u64, 1 << 16, hashes.collect()).unwrap();
        DeployJob {
            run: self.next_run(),
            by: Some("anna@laptop".parse().unwrap()),
            manifest: artifact.manifest(),
            release: ReleaseId::new(release).unwrap(),
            deploy_to: self.path("app").display().to_string(),
            cache: Some(self.path("cache").display().to_string()),
            cache_limit: self.cache_limit,
            keep_releases: self.keep_releases,
            linked: self.linked.clone(),
            unchanged: self.unchanged,
            goes_back: false,
            endorsement: None,
            info: PackedInfo::new(metainfo.info_bytes()).unwrap(),
            advertise: None,
            tracker: None,
            seed: Some(peer()),
            alone: false,
            limits: Default::default(),
            place: None,
            identity: None,
            ports: None,
            origins: None,
            controller_peers: Vec::new(),
            web: None,
            stall_timeout: crate::model::distribution::DEFAULT_STALL_TIMEOUT,
            lease_seconds: self.lease_seconds,
            confirm_seconds: self.confirm_seconds,
            procedure: self.procedure.clone(),
            replaces: None,
        }
    }

    pub(super) fn rollback_job(&self, to: Option<&str>) -> Job {
        Job::Rollback(Box::new(RollbackJob {
            run: self.next_run(),
            by: Some("anna@laptop".parse().unwrap()),
            deploy_to: self.path("app").display().to_string(),
            to: to.map(|to| to.parse().unwrap()),
            lease_seconds: self.lease_seconds,
            confirm_seconds: self.confirm_seconds,
            procedure: self.procedure.clone(),
            replaces: None,
        }))
    }

    pub(super) fn recovery(&self, run: &RunId) -> Job {
        Job::Recover { run: run.clone(), deploy_to: self.path("app").display().to_string(), replaces: None, back: None }
    }

    /// Starts an agent and sends it a job.
    pub(super) async fn agent(&self, artifact: &Artifact, job: Job) -> Agent {
        let (stream, theirs) = tokio::io::duplex(64 << 10);
        let (input, output) = tokio::io::split(theirs);
        let stop = CancellationToken::new();
        let env = AgentEnv {
            home: Some(self.dir.path().into()),
            uid: rustix::process::geteuid().as_raw(),
            default_cache: "~/blocked/cache".into(),
            executable: self.path("agent"),
            packed: None,
            clock: Clock(SystemTime::now),
            stop: stop.clone(),
        };
        let engine = FakeEngine { bytes: artifact.bytes.clone(), manner: self.manner };
        let task = tokio::spawn(serve(engine, input, output, env));
        let mut agent = Agent { stream, task, stop };
        assert!(matches!(agent.hear().await, FromAgent::Hello(_)));
        agent.tell(ToAgent::Job(job)).await;
        agent
    }

    pub(super) async fn deploying(&self, artifact: &Artifact, release: &str) -> Agent {
        self.agent(artifact, Job::Deploy(Box::new(self.deploy_job(artifact, release)))).await
    }

    /// A whole deploy that goes well.
    pub(super) async fn deploy(&self, artifact: &Artifact, release: &str) {
        let mut agent = self.deploying(artifact, release).await;
        agent.until_staged().await;
        agent.activate().await;
        agent.confirm().await;
        assert_eq!(agent.stop().await, Ended::Orderly);
    }

    pub(super) async fn status(&self) -> HostStatus {
        let deploy_to = self.path("app").display().to_string();
        let mut agent = self.agent(&Artifact::version("none"), Job::Status { deploy_to }).await;
        let FromAgent::Status(status) = agent.hear().await else { panic!("no status") };
        assert_eq!(agent.ended().await, Ended::Orderly);
        status
    }
}

pub(super) fn peer() -> PeerAddr {
    PeerAddr("127.0.0.1:1".parse().unwrap())
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The controller's end.
pub(super) struct Agent {
    pub(super) stream: DuplexStream,
    pub(super) task: JoinHandle<Ended>,
    pub(super) stop: CancellationToken,
}

impl Agent {
    pub(super) async fn tell(&mut self, message: ToAgent) {
        // An agent that has ended takes nothing more; what it said last tells the story.
        let _ = wire::write_frame(&mut self.stream, &message).await;
    }

    /// The next message, states and progress included; `None` at the end.
    pub(super) async fn hear_any(&mut self) -> Option<FromAgent> {
        wire::read_frame(&mut self.stream).await.unwrap()
    }

    /// The next message that is neither state, progress, warning nor sign of life.
    pub(super) async fn hear(&mut self) -> FromAgent {
        loop {
            match self.hear_any().await.expect("the agent ended without a word") {
                FromAgent::State { .. } | FromAgent::Progress(_) | FromAgent::Warning { .. } | FromAgent::Alive => {}
                message => return message,
            }
        }
    }

    /// The next warning.
    pub(super) async fn warning(&mut self) -> String {
        loop {
            if let FromAgent::Warning { message, .. } = self.hear_any().await.expect("the agent ended without a warning") {
                return message;
            }
        }
    }

    pub(super) async fn start(&mut self) {
        let message = self.hear().await;
        assert!(matches!(message, FromAgent::Prepared { .. }), "{message:?}");
        self.tell(ToAgent::Start { peers: vec![peer()] }).await;
    }

    pub(super) async fn until_staged(&mut self) {
        self.start().await;
        let message = self.hear().await;
        assert!(matches!(message, FromAgent::Staged { .. }), "{message:?}");
    }

    /// Lets the host switch; its release passes all checks.
    pub(super) async fn activate(&mut self) -> Option<ReleaseId> {
        self.tell(ToAgent::Activate).await;
        match self.hear().await {
            FromAgent::Activated { previous, .. } => {
                let message = self.hear().await;
                assert!(matches!(message, FromAgent::Checked), "{message:?}");
                previous
            }
            message => panic!("{message:?}"),
        }
    }

    pub(super) async fn confirm(&mut self) {
        self.tell(ToAgent::Confirm).await;
        let message = self.hear().await;
        assert!(matches!(message, FromAgent::Confirmed), "{message:?}");
    }

    pub(super) async fn failure(&mut self) -> HostFailure {
        match self.hear().await {
            FromAgent::Failed(failure) => failure,
            message => panic!("{message:?}"),
        }
    }

    pub(super) async fn reverted(&mut self) -> (Option<ReleaseId>, String) {
        match self.hear().await {
            FromAgent::Reverted { current, reason, .. } => (current, reason),
            message => panic!("{message:?}"),
        }
    }

    pub(super) async fn stop(mut self) -> Ended {
        self.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
        self.ended().await
    }

    /// Waits until the agent has ended, reading what it still says.
    pub(super) async fn ended(mut self) -> Ended {
        while let Ok(Some(_)) = wire::read_frame::<FromAgent>(&mut self.stream).await {}
        self.task.await.unwrap()
    }
}
