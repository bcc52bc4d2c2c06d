//! Kills agents: real processes on real directories, at a place (see `fleetdrop::failpoint`), at a moment, or by taking their
//! controller away. Then looks, without asking them, at what they left, and at what the next agent makes of it.
//!
//! After each death `current` must be what it was or name a complete release; what the next agent goes on from must be what the
//! conversation had decided; after the next deploy nothing may be left of the dead one: no process, no temporary file, no lock.

mod conversation;
mod oracle;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleetdrop::{
    failpoint,
    model::{
        RunId,
        plan::{Command as Line, CommandCheck, Health, Hook, Hooks, Rhythm},
    },
    wire::{DeployJob, Job, Procedure, RollbackJob, ToAgent},
};
use serde::Serialize;
use tokio::{process::Command, task::JoinSet, time::Instant};

use self::conversation::{End, Reached};
use crate::agent_rig::{Agent, Seeded, fast_dir, program};

/// No case takes nearly that long.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a hook that is to outlive its agent waits: longer than any test.
const HELD: &str = "[ ! -e \"$FLEETDROP_DEPLOY_TO/../hold.$FLEETDROP_STEP\" ] || exec sleep 300";

/// Places after a confirmation that a host which is to go back comes to only if it was quick.
const TIDYING: [&str; 5] = ["prune.renamed", "prune.emptied", "prune.done", "cache.evicted", "tidy.done"];
/// Places that are about something else each time.
const DIFFER: [&str; 2] = ["command.started", "write.temporary"];

/// The version that is a directory.
const DIRECTORY: u32 = 5;

/// Whether an agent only looks after what the dead one left, and whether the next deploy is of the same release.
const FOLLOW_UPS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// What the agent is doing when it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scene {
    /// The first deploy of all.
    FirstDeploy,
    /// A deploy to a host with two releases, of which one has to go.
    Deploy,
    /// The same, with the cache on another file system.
    FarCache,
    /// The same, of a directory.
    Directory,
    /// The same as a deploy, after one that died while it unpacked.
    AfterDeath,
    /// A first deploy that is confirmed, then sent back.
    FirstSentBack,
    /// A deploy that is confirmed, then sent back.
    SentBack,
    /// A rollback.
    Rollback,
    /// Undoing a first deploy whose agent died.
    FirstRecovery,
    /// Undoing a deploy whose agent died.
    Recovery,
}

impl Scene {
    const ALL: [Self; 10] = [
        Self::FirstDeploy,
        Self::Deploy,
        Self::FarCache,
        Self::Directory,
        Self::AfterDeath,
        Self::FirstSentBack,
        Self::SentBack,
        Self::Rollback,
        Self::FirstRecovery,
        Self::Recovery,
    ];

    /// The version that is live before.
    fn before(self) -> Option<u32> {
        (!matches!(self, Self::FirstDeploy | Self::FirstSentBack | Self::FirstRecovery)).then_some(2)
    }

    /// The version that is deployed, where one is.
    fn deployed(self) -> u32 {
        if self == Self::Directory { DIRECTORY } else { 3 }
    }

    /// The version that is switched to.
    fn after(self) -> u32 {
        if self == Self::Rollback { 1 } else { self.deployed() }
    }

    fn is_recovery(self) -> bool {
        matches!(self, Self::FirstRecovery | Self::Recovery)
    }

    /// The commands that run, in order.
    fn steps(self) -> &'static [&'static str] {
        match self {
            Self::Rollback => &["before_activate.0", "after_activate.0", "health"],
            Self::FirstRecovery | Self::Recovery => &["on_revert.0"],
            _ => &["before_stage.0", "after_stage.0", "before_activate.0", "after_activate.0", "health", "on_revert.0"],
        }
    }

    /// What may be live once the next agent has put things in order, after a conversation that got so far.
    fn decided(self, reached: &Reached) -> Vec<Option<u32>> {
        let (before, new) = (self.before(), Some(self.after()));
        match reached {
            _ if self.is_recovery() => vec![before],
            Reached { reverted: true, .. } => vec![before],
            // The word was on its way.
            Reached { told_back: true, .. } => vec![before, new],
            Reached { confirmed: true, .. } => vec![new],
            Reached { told_confirm: true, .. } => vec![before, new],
            _ => vec![before],
        }
    }
}

/// How the agent dies.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Death {
    /// When it comes to that place for so many times.
    At(String, u32),
    /// After a part of the time that all of it takes.
    After(f64),
    /// The same, but it is its controller that goes.
    Lost(f64),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(point, _) => f.write_str(point),
            Self::After(_) => f.write_str("(any moment)"),
            Self::Lost(_) => f.write_str("(controller gone)"),
        }
    }
}

/// One death and what follows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Case {
    pub(crate) scene: Scene,
    pub(crate) death: Death,
    /// An agent that only looks after what the dead one left comes before the next deploy.
    pub(crate) is_looked_after: bool,
    /// The next deploy is of the same release, as when the run is resumed; else of another.
    pub(crate) is_resumed: bool,
}

/// A case that was played, and the promise it broke.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) case: Case,
    pub(crate) violation: Option<String>,
}

/// The places a scene comes to, in order, and how long it takes.
#[derive(Debug)]
struct Way {
    points: Vec<(String, u32)>,
    takes: Duration,
}

/// One host's directories.
struct Place {
    dir: tempfile::TempDir,
    /// A cache on another file system.
    far: Option<tempfile::TempDir>,
}

impl Place {
    fn app(&self) -> PathBuf {
        self.dir.path().join("app")
    }

    fn cache(&self) -> PathBuf {
        self.far.as_ref().unwrap_or(&self.dir).path().join("cache")
    }

    fn hold(&self, step: &str) -> PathBuf {
        self.dir.path().join(format!("hold.{step}"))
    }
}

/// What all cases need.
pub(crate) struct Bench {
    /// By version, from 1.
    artifacts: Vec<Seeded>,
    /// A host where versions 1 and 2 were deployed.
    template: Place,
    ways: BTreeMap<Scene, Way>,
}

impl Bench {
    /// Makes the artifacts, a host with two releases, and goes through every scene once to see which places it comes to.
    pub(crate) async fn new() -> Arc<Self> {
        let mut artifacts = Vec::new();
        for version in 1..=4 {
            artifacts.push(Seeded::new("shop.tar", &oracle::archive(version)).await);
        }
        artifacts.push(Seeded::made_by("shop", |path| oracle::directory(path, DIRECTORY)).await);
        let template = Place { dir: fast_dir(), far: None };
        let mut bench = Self { artifacts, template, ways: BTreeMap::new() };
        for version in [1, 2] {
            let mut agent = Agent::deploying(bench.job(&bench.template, version)).await;
            conversation::hold(&mut agent, End::Stays, &mut Reached::default()).await.unwrap();
            assert!(agent.exit().await.success());
        }
        for scene in Scene::ALL {
            let way = bench.explore(scene).await;
            bench.ways.insert(scene, way);
        }
        Arc::new(bench)
    }

    /// Returns a death at every place: in every scene each time it comes there, or once a place, where scenes go the same way.
    pub(crate) fn cases(&self, every_time: bool) -> Vec<Case> {
        let mut seen = BTreeSet::new();
        let mut turn = FOLLOW_UPS.iter().cycle();
        let mut cases = Vec::new();
        for scene in Scene::ALL {
            for (point, count) in &self.ways[&scene].points {
                let is_first = *count == 1 || DIFFER.contains(&point.as_str());
                let is_new = seen.insert((scene.before(), scene == Scene::Rollback, scene.is_recovery(), point, count));
                let is_wanted = every_time || is_first && is_new;
                if !is_wanted {
                    continue;
                }
                // What the last steps leave in a far cache, only the same deploy meets again.
                let follow_ups = if scene == Scene::FarCache { FOLLOW_UPS.len() } else { 1 };
                cases.extend(turn.by_ref().take(follow_ups).map(|&(is_looked_after, is_resumed)| {
                    let death = Death::At(point.clone(), *count);
                    Case { scene, death, is_looked_after, is_resumed }
                }));
            }
        }
        cases
    }

    /// Returns the agent's places that no scene comes to.
    pub(crate) fn never_reached(&self) -> Vec<&'static str> {
        let reached: BTreeSet<&str> =
            self.ways.values().flat_map(|way| way.points.iter().map(|(point, _)| point.as_str())).collect();
        failpoint::AGENT.iter().copied().filter(|point| !reached.contains(point)).collect()
    }

    /// Draws a case.
    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> Case {
        let scene = Scene::ALL[random.usize(..Scene::ALL.len())];
        let points = &self.ways[&scene].points;
        let death = match random.u32(..100) {
            ..65 => {
                let (point, count) = points[random.usize(..points.len())].clone();
                Death::At(point, count)
            }
            65..85 => Death::After(random.f64() * 1.1),
            _ => Death::Lost(random.f64() * 1.1),
        };
        Case { scene, death, is_looked_after: random.bool(), is_resumed: random.bool() }
    }

    /// Plays cases, `at_once` of them at a time; tells each that has ended.
    pub(crate) async fn play_all(
        self: &Arc<Self>,
        cases: Vec<Case>,
        at_once: usize,
        mut tell: impl FnMut(&Outcome),
    ) -> Vec<Outcome> {
        let (mut left, mut playing, mut outcomes) = (cases.into_iter(), JoinSet::new(), Vec::new());
        loop {
            while playing.len() < at_once
                && let Some(case) = left.next()
            {
                playing.spawn(self.clone().play(case));
            }
            let Some(outcome) = playing.join_next().await else { return outcomes };
            let outcome = outcome.unwrap();
            tell(&outcome);
            outcomes.push(outcome);
        }
    }

    async fn play(self: Arc<Self>, case: Case) -> Outcome {
        let place = self.place(case.scene);
        let played = tokio::time::timeout(LIMIT, self.play_in(&place, &case)).await;
        let violation = played.unwrap_or_else(|_| Err(format!("it is not over after {LIMIT:?}"))).err();
        oracle::end_processes(&place.app());
        Outcome { case, violation }
    }

    async fn play_in(&self, place: &Place, case: &Case) -> Result<(), String> {
        let scene = case.scene;
        let mut reached = Reached::default();
        let (run, process) = self.kill_one(place, case, &mut reached).await?;
        let now = oracle::live(&place.app()).map_err(|what| format!("after the kill: {what}"))?;
        if now != scene.before() && now != Some(scene.after()) {
            return Err(format!("after the kill version {now:?} is live"));
        }
        let decided = scene.decided(&reached);
        if case.is_looked_after {
            let mut agent = agent(None).await;
            let deploy_to = place.app().display().to_string();
            agent.tell(ToAgent::Job(Job::Recover { run, deploy_to, replaces: process, back: None })).await;
            conversation::hold(&mut agent, End::Stays, &mut Reached::default()).await?;
            end_well(agent).await?;
            let now = oracle::live(&place.app()).map_err(|what| format!("after the recovery: {what}"))?;
            if !decided.contains(&now) {
                return Err(format!("after the recovery version {now:?} is live, not one of {decided:?}: {reached:?}"));
            }
            oracle::nobody_runs(&place.app()).map_err(|what| format!("after the recovery: {what}"))?;
        }
        let version = if case.is_resumed { scene.deployed() } else { 4 };
        let mut agent = agent(None).await;
        let mut next = Reached::default();
        agent.tell(ToAgent::Job(Job::Deploy(Box::new(self.job(place, version))))).await;
        conversation::hold(&mut agent, End::Stays, &mut next).await.map_err(|what| format!("the next deploy: {what}"))?;
        end_well(agent).await?;
        let found = next.found.map(|id| oracle::version_of(id.as_str())).transpose()?;
        if !decided.contains(&found) {
            return Err(format!("the next deploy found version {found:?}, not one of {decided:?}: {reached:?}"));
        }
        let after = |what| format!("after the next deploy: {what}");
        match oracle::live(&place.app()).map_err(after)? {
            Some(live) if live == version => oracle::in_order(&place.app(), &place.cache()).map_err(after),
            live => Err(after(format!("version {live:?} is live"))),
        }
    }

    /// Has an agent do the scene and die. Returns its run and process.
    async fn kill_one(&self, place: &Place, case: &Case, reached: &mut Reached) -> Result<(RunId, Option<u32>), String> {
        let scene = case.scene;
        let (run, job) = self.ask(scene, place).await?;
        let (point, held) = match &case.death {
            Death::At(point, count) => {
                let step = (point == "command.started").then(|| scene.steps()[*count as usize - 1]);
                (Some((failpoint::KILL, format!("{point}:{count}"))), step)
            }
            _ => (None, None),
        };
        if let Some(step) = held {
            fs::write(place.hold(step), "").unwrap();
        }
        let mut victim = agent(point).await;
        let process = victim.child.id();
        victim.tell(ToAgent::Job(job)).await;
        let end = if matches!(scene, Scene::SentBack | Scene::FirstSentBack) { End::SentBack } else { End::Stays };
        let talk = conversation::hold(&mut victim, end, reached);
        let part = |part: f64| self.ways[&scene].takes.mul_f64(part);
        match case.death {
            Death::At(..) => {
                talk.await?;
                let status = victim.exit().await;
                if status.signal() != Some(9) {
                    return Err(format!("it was to be killed and ended with {status}"));
                }
            }
            Death::After(when) => {
                if let Ok(ended) = tokio::time::timeout(part(when), talk).await {
                    ended?;
                }
                victim.child.kill().await.unwrap();
            }
            Death::Lost(when) => {
                if let Ok(ended) = tokio::time::timeout(part(when), talk).await {
                    ended?;
                }
                (victim.stdin, victim.stdout) = (None, None);
                victim.exit().await;
            }
        }
        if let Some(step) = held {
            oracle::wait_for_a_held_command(&place.app(), step).await?;
            fs::remove_file(place.hold(step)).unwrap();
        }
        Ok((run, process))
    }

    /// Makes what the agent of a scene is asked to do, and brings about what comes before it.
    async fn ask(&self, scene: Scene, place: &Place) -> Result<(RunId, Job), String> {
        let deploy = self.job(place, scene.deployed());
        let (run, deploy_to) = (deploy.run.clone(), deploy.deploy_to.clone());
        let job = match scene {
            Scene::Rollback => {
                let procedure = procedure();
                let run = run.clone();
                let (lease_seconds, confirm_seconds) = (deploy.lease_seconds, deploy.confirm_seconds);
                Job::Rollback(Box::new(RollbackJob {
                    run,
                    by: None,
                    deploy_to,
                    to: None,
                    lease_seconds,
                    confirm_seconds,
                    procedure,
                    replaces: None,
                }))
            }
            Scene::Recovery | Scene::FirstRecovery => {
                let mut dead = Agent::deploying(deploy).await;
                conversation::hold(&mut dead, End::Unconfirmed, &mut Reached::default()).await?;
                let replaces = dead.child.id();
                dead.child.kill().await.unwrap();
                Job::Recover { run: run.clone(), deploy_to, replaces, back: None }
            }
            Scene::AfterDeath => {
                let mut dead = agent(Some((failpoint::KILL, "extract.file:3".to_owned()))).await;
                dead.tell(ToAgent::Job(Job::Deploy(Box::new(self.job(place, 4))))).await;
                conversation::hold(&mut dead, End::Stays, &mut Reached::default()).await?;
                dead.exit().await;
                Job::Deploy(Box::new(deploy))
            }
            _ => Job::Deploy(Box::new(deploy)),
        };
        Ok((run, job))
    }

    /// Plays a scene in which nobody dies.
    async fn explore(&self, scene: Scene) -> Way {
        let place = self.place(scene);
        let (_, job) = self.ask(scene, &place).await.unwrap();
        let trace = place.dir.path().join("trace");
        let began = Instant::now();
        let mut agent = agent(Some((failpoint::TRACE, trace.display().to_string()))).await;
        agent.tell(ToAgent::Job(job)).await;
        let end = if matches!(scene, Scene::SentBack | Scene::FirstSentBack) { End::SentBack } else { End::Stays };
        conversation::hold(&mut agent, end, &mut Reached::default()).await.unwrap();
        assert!(agent.exit().await.success());
        let takes = began.elapsed();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let trace = fs::read_to_string(trace).unwrap();
        let certain = trace.lines().filter(|point| end == End::Stays || !TIDYING.contains(point));
        let points = certain.map(|point| {
            let count = counts.entry(point.to_owned()).or_default();
            *count += 1;
            (point.to_owned(), *count)
        });
        Way { points: points.collect(), takes }
    }

    /// Makes a host on which the scene can begin.
    fn place(&self, scene: Scene) -> Place {
        let far = (scene == Scene::FarCache).then(|| tempfile::tempdir().unwrap());
        let place = Place { dir: fast_dir(), far };
        if scene.before().is_some() {
            copy(&self.template.app(), place.dir.path());
            copy(&self.template.cache(), place.cache().parent().unwrap());
        }
        place
    }

    fn job(&self, place: &Place, version: u32) -> DeployJob {
        let artifact = &self.artifacts[version as usize - 1];
        DeployJob {
            cache: Some(place.cache().display().to_string()),
            // The artifacts of earlier versions have to go.
            cache_limit: 1,
            keep_releases: 2,
            procedure: procedure(),
            ..artifact.job(place.dir.path(), &format!("r{version}"))
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp {}", from.display());
}

/// Hooks of all kinds and a check, each of which waits where it is told to.
fn procedure() -> Procedure {
    let command = || Line::Shell(HELD.into());
    let hook = || vec![Hook { command: command(), timeout: Hook::DEFAULT_TIMEOUT }];
    let hooks =
        Hooks { before_stage: hook(), after_stage: hook(), before_activate: hook(), after_activate: hook(), on_revert: hook() };
    let rhythm = Rhythm {
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(60),
        healthy_for: Duration::ZERO,
        deadline: Duration::from_secs(90),
    };
    let health = Health { command: Some(CommandCheck { command: command(), rhythm }), ..Health::default() };
    Procedure { host: Some("host-01".parse().unwrap()), hooks, health }
}

/// Starts an agent with that variable in its environment.
async fn agent(variable: Option<(&str, String)>) -> Agent {
    Agent::with(Command::new(program()).arg("serve").envs(variable)).await
}

async fn end_well(agent: Agent) -> Result<(), String> {
    let status = agent.exit().await;
    if status.success() { Ok(()) } else { Err(format!("an agent ended with {status}")) }
}
