//! The agent's real binary, driven over its stdin and stdout as the controller does, with a real seed beside it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
};

use fleetdrop::{
    controller::Artifact,
    model::{
        Manifest, RunId,
        plan::{Linked, Unchanged},
    },
    swarm::{Engine, EngineConfig, EngineHandle, FleetEngine, Metainfo, Role, Tls},
    wire::{DeployJob, FromAgent, Job, PackedInfo, PeerAddr, Procedure, ToAgent, read_frame, write_frame},
};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A temporary directory in memory where there is such a file system: what is flushed need not reach a disk in these tests.
pub(crate) fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Returns the agent's binary: the one cargo names, else that of the same build as this program.
pub(crate) fn program() -> PathBuf {
    let same_build = || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("fleetdrop-agent");
    option_env!("CARGO_BIN_EXE_fleetdrop-agent").map_or_else(same_build, PathBuf::from)
}

/// An artifact with a seed that serves it.
pub(crate) struct Seeded {
    pub(crate) manifest: Manifest,
    pub(crate) metainfo: Arc<Metainfo>,
    pub(crate) info: PackedInfo,
    pub(crate) seed: EngineHandle,
    _dir: tempfile::TempDir,
}

impl Seeded {
    /// Serves `bytes` under that file name on loopback.
    pub(crate) async fn new(name: &str, bytes: &[u8]) -> Self {
        Self::made_by(name, |path| std::fs::write(path, bytes).unwrap()).await
    }

    /// As [`Seeded::new`], to those who belong to the run.
    pub(crate) async fn encrypted(name: &str, bytes: &[u8], tls: Tls) -> Self {
        Self::served(name, Some(tls), |path| std::fs::write(path, bytes).unwrap()).await
    }

    /// Serves what `make` makes at the path that it is given, a file or a directory of that name, on loopback.
    pub(crate) async fn made_by(name: &str, make: impl FnOnce(&Path)) -> Self {
        Self::served(name, None, make).await
    }

    async fn served(name: &str, tls: Option<Tls>, make: impl FnOnce(&Path)) -> Self {
        let dir = fast_dir();
        let path = dir.path().join(name);
        make(&path);
        let artifact = Artifact::open(&path, "shop".parse().unwrap(), 1, None).await.unwrap();
        let Artifact { manifest, metainfo, info, .. } = artifact;
        let config = EngineConfig {
            metainfo: metainfo.clone(),
            role: Role::Seed { file: path },
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            peers: Vec::new(),
            place: None,
            tls,
            ports: None,
            controller_peers: Vec::new(),
            tracker: None,
            bounds: Default::default(),
            origins: None,
        };
        let seed = FleetEngine.start(config).await.unwrap();
        Self { manifest, metainfo, info, seed, _dir: dir }
    }

    /// A deploy of it below `dir`.
    pub(crate) fn job(&self, dir: &Path, release: &str) -> DeployJob {
        let seed = PeerAddr(self.seed.local_addr);
        DeployJob {
            run: RunId::from_random(fastrand::u64(..).to_be_bytes()),
            by: None,
            manifest: self.manifest.clone(),
            release: release.parse().unwrap(),
            deploy_to: dir.join("app").display().to_string(),
            cache: Some(dir.join("cache").display().to_string()),
            cache_limit: 1 << 30,
            keep_releases: 3,
            linked: Linked::default(),
            unchanged: Unchanged::default(),
            goes_back: false,
            endorsement: None,
            info: self.info.clone(),
            advertise: Some(Ipv4Addr::LOCALHOST.into()),
            tracker: None,
            seed: Some(seed),
            alone: false,
            limits: Default::default(),
            place: None,
            identity: None,
            ports: None,
            web: None,
            stall_timeout: fleetdrop::model::distribution::DEFAULT_STALL_TIMEOUT,
            origins: None,
            controller_peers: vec![seed],
            lease_seconds: 30,
            confirm_seconds: 60,
            procedure: Procedure::default(),
            replaces: None,
        }
    }
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<ChildStdout>,
}

impl Agent {
    /// Starts the agent's binary.
    pub(crate) async fn start() -> Self {
        Self::with(Command::new(program()).args(["serve", "--log", "debug"])).await
    }

    /// Starts the agent by that command.
    pub(crate) async fn with(command: &mut Command) -> Self {
        // The log is dropped: a test that fails tells what was said, and nobody may have to read it for the agent to go on.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut agent = Self { child, stdin, stdout };
        let hello = agent.hear().await;
        assert!(matches!(hello, Some(FromAgent::Hello(_))), "{hello:?}");
        agent
    }

    /// Starts the agent and gives it a deploy.
    pub(crate) async fn deploying(job: DeployJob) -> Self {
        let mut agent = Self::start().await;
        agent.tell(ToAgent::Job(Job::Deploy(Box::new(job)))).await;
        agent
    }

    pub(crate) async fn tell(&mut self, message: ToAgent) {
        if let Some(stdin) = &mut self.stdin {
            // An agent that was killed takes nothing more.
            let _ = write_frame(stdin, &message).await;
        }
    }

    /// The next message; `None` at the end, also if the agent died in the middle of one.
    pub(crate) async fn hear(&mut self) -> Option<FromAgent> {
        read_frame(self.stdout.as_mut()?).await.ok().flatten()
    }

    /// The next message that is neither state, progress, warning nor sign of life.
    pub(crate) async fn answer(&mut self) -> Option<FromAgent> {
        loop {
            match self.hear().await {
                Some(FromAgent::State { .. } | FromAgent::Progress(_) | FromAgent::Warning { .. } | FromAgent::Alive) => {}
                message => return message,
            }
        }
    }

    /// Goes on until the new release is live, checked and not confirmed.
    pub(crate) async fn until_activated(&mut self) {
        let prepared = self.answer().await;
        assert!(matches!(prepared, Some(FromAgent::Prepared { .. })), "{prepared:?}");
        self.tell(ToAgent::Start { peers: Vec::new() }).await;
        let staged = self.answer().await;
        assert!(matches!(staged, Some(FromAgent::Staged { .. })), "{staged:?}");
        self.tell(ToAgent::Activate).await;
        let activated = self.answer().await;
        assert!(matches!(activated, Some(FromAgent::Activated { .. })), "{activated:?}");
        let checked = self.answer().await;
        assert!(matches!(checked, Some(FromAgent::Checked)), "{checked:?}");
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the process's end.
    pub(crate) async fn exit(mut self) -> ExitStatus {
        while self.hear().await.is_some() {}
        self.child.wait().await.unwrap()
    }
}

/// Returns the live release's directory below `dir`, links resolved.
pub(crate) fn live(dir: &Path) -> Option<PathBuf> {
    dir.join("app/current").canonicalize().ok()
}
