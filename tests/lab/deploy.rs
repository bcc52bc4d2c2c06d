//! The real thing: `fleetdrop deploy` from the controller's namespace, over SSH, to the hosts' sshd.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use fleetdrop::model::{Envelope, HostState, RunEvent, RunSummary, Verdict};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::{
    Lab,
    contender::Round,
    fleet::{Fleet, Machine, Meter},
    web::WebServer,
};

/// The application's name in the lab.
const APP: &str = "lab";
/// A victim dies when it has this much of the artifact: it tells once a second, so that it is in the middle by then.
const DEATH: f64 = 0.4;

/// What is deployed, to what kind of hosts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kind {
    /// One byte instead of the payload.
    pub(crate) byte: bool,
    /// Nothing is encrypted.
    pub(crate) plain: bool,
    /// No host has an agent.
    pub(crate) cold: bool,
    /// What happens to the host in the middle of the inventory, in the middle of its transfer.
    pub(crate) disaster: Option<Disaster>,
    /// What hosts take from the fleet's web server.
    pub(crate) web: Option<Web>,
}

/// How the fleet's web server is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Web {
    /// Hosts take everything from it.
    Alone,
    /// It is one more source.
    Beside,
}

/// What can happen to a host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Disaster {
    /// Its link is cut: no packet gets through, nobody is told.
    Cut,
    /// Its agent is killed.
    Kill,
}

/// The programs that are deployed with, where the controller's view of the file system shows them.
#[derive(Debug)]
pub(crate) struct Programs {
    fleetdrop: PathBuf,
    /// The directory of the agents, if there is one.
    agents: Option<PathBuf>,
    /// The length of what is pushed to a host without an agent, compressed.
    pub(crate) agent_length: u64,
    /// More arguments for `fleetdrop deploy`.
    options: Vec<String>,
}

impl Programs {
    /// Copies the programs into the fleet's directory.
    pub(crate) fn install(fleet: &Fleet, fleetdrop: &Path, agents: Option<&Path>, options: &[String]) -> Result<Self> {
        let place = fleet.directory.join("bin");
        fs::create_dir(&place)?;
        let copy = |from: &Path, to: PathBuf| {
            fs::copy(from, &to).with_context(|| format!("{}: build it, or name another", from.display()))?;
            anyhow::Ok(to)
        };
        let fleetdrop = copy(fleetdrop, place.join("fleetdrop"))?;
        let agent = match agents {
            Some(agents) => {
                copy(&agents.join("fleetdrop-agent"), place.join(format!("fleetdrop-agent-{}", std::env::consts::ARCH)))?
            }
            None => fleetdrop.clone(),
        };
        let mut compressed = GzEncoder::new(Vec::new(), Compression::best());
        compressed.write_all(&fs::read(&agent)?)?;
        let agent_length = compressed.finish()?.len() as u64;
        Ok(Self { fleetdrop, agents: agents.map(|_| place), agent_length, options: options.to_vec() })
    }
}

/// Writes the fleet's inventory, then deploys one byte to every host: after it every host has its agent.
pub(crate) async fn prepare(lab: &Lab) -> Result<()> {
    let mut inventory = String::from("all:\n  vars:\n    ansible_user: root\n  hosts:\n");
    for (number, host) in lab.fleet.hosts.iter().enumerate() {
        inventory += &format!("    {}:\n      ansible_host: {}\n", host.name, host.address);
        if let Some(zone) = lab.fleet.shape.zone(number) {
            inventory += &format!("      fleetdrop_zone: {zone}\n");
        }
    }
    fs::write(inventory_file(lab), inventory)?;
    let kind = Kind { byte: true, ..Kind::default() };
    fs::write(artifact(lab, kind), b"x")?;
    run(lab, kind, None).await.map(drop).context("warming up")
}

/// Deploys to hosts that have the agent and nothing else, or not even that.
pub(crate) async fn deploy(lab: &Lab, kind: Kind) -> Result<Round> {
    clear(lab, kind)?;
    let server = match kind.web {
        Some(_) => {
            let machine = lab.fleet.origin.as_ref().context("this fleet has no web server")?;
            Some(WebServer::start(machine, &lab.payload.directory).await?)
        }
        None => None,
    };
    let meter = Meter::start(&lab.fleet)?;
    let began = Instant::now();
    let told = run(lab, kind, server.as_ref().map(WebServer::url)).await;
    let whole = began.elapsed();
    let usage = meter.finish()?;
    if let Some(server) = server {
        server.stop().await?;
    }
    recover(lab, kind)?;
    let Told { summary, distribution } = told?;
    ensure!(summary.verdict == Verdict::Completed, "the deploy was not completed: {summary:?}");
    let mut times = Vec::new();
    for (number, host) in summary.hosts.iter().enumerate() {
        let is_victim = kind.disaster.is_some() && number == victim(lab);
        ensure!(is_victim != (host.state == HostState::Active), "{} is {}", host.host, host.state);
        let time = distribution.time(host.host.as_str()).filter(|_| !is_victim);
        ensure!(is_victim || time.is_some(), "{} did not transfer anything", host.host);
        times.push(time);
    }
    let copies = times.iter().flatten().count();
    Ok(Round { times, whole: Some(whole), usage, copies })
}

/// Removes from the hosts what deploys left, the agent too if the next one is to find none.
pub(crate) fn clear(lab: &Lab, kind: Kind) -> Result<()> {
    for host in &lab.fleet.hosts {
        remove(&host.directory.join("srv").join(APP))?;
        remove(&host.directory.join(if kind.cold { "cache/fleetdrop" } else { "cache/fleetdrop/blobs" }))?;
    }
    Ok(())
}

/// Returns what is deployed.
pub(crate) fn artifact(lab: &Lab, kind: Kind) -> PathBuf {
    if kind.byte { lab.fleet.directory.join("byte.bin") } else { lab.payload.file.clone() }
}

/// Returns the file that is live on a host.
pub(crate) fn live_file(lab: &Lab, kind: Kind, host: &Machine) -> PathBuf {
    let name = artifact(lab, kind).file_name().map(PathBuf::from).unwrap_or_default();
    host.directory.join("srv").join(APP).join("current").join(name)
}

/// What a deploy said.
struct Told {
    summary: RunSummary,
    distribution: Distribution,
}

/// When the first host got its job, and when each had verified the artifact.
#[derive(Debug, Default)]
struct Distribution {
    began: Option<Instant>,
    verified: HashMap<String, Instant>,
}

impl Distribution {
    fn note(&mut self, host: &str, state: HostState, now: Instant) {
        match state {
            HostState::Downloading => {
                self.began.get_or_insert(now);
            }
            HostState::Extracting | HostState::Staged if self.began.is_some() => {
                self.verified.entry(host.to_owned()).or_insert(now);
            }
            _ => {}
        }
    }

    /// Returns how long after the first job a host had the artifact.
    fn time(&self, host: &str) -> Option<Duration> {
        Some(*self.verified.get(host)? - self.began?)
    }
}

/// Runs the command to its end and returns what it said. `url` is the web server's address.
async fn run(lab: &Lab, kind: Kind, url: Option<String>) -> Result<Told> {
    let mut child = tokio::process::Command::from(command(lab, kind, url)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("fleetdrop deploy")?;
    let mut events = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let mut errors = child.stderr.take().context("no standard error")?;
    let told = async {
        let mut last = None;
        let mut distribution = Distribution::default();
        let mut struck = kind.disaster.is_none();
        while let Some(line) = events.next_line().await? {
            match serde_json::from_str::<Envelope>(&line)?.event {
                RunEvent::RunFinished(summary) => last = Some(*summary),
                RunEvent::HostState { host, state, .. } => distribution.note(host.as_str(), state, Instant::now()),
                event if !struck => struck = strike(lab, kind, &event)?,
                _ => {}
            }
        }
        ensure!(struck, "the victim was complete before anything happened to it: the artifact is too small");
        anyhow::Ok((last, distribution))
    };
    let mut said = Vec::new();
    let ((summary, distribution), _) =
        tokio::time::timeout(lab.timeout, async { tokio::try_join!(told, async { Ok(errors.read_to_end(&mut said).await?) }) })
            .await
            .context("the deploy takes too long")??;
    let status = child.wait().await?;
    let said = String::from_utf8_lossy(&said);
    ensure!(status.success() || kind.disaster.is_some(), "fleetdrop deploy: {status}: {said}");
    let summary = summary.with_context(|| format!("fleetdrop deploy: {status}, without a summary: {said}"))?;
    Ok(Told { summary, distribution })
}

fn command(lab: &Lab, kind: Kind, url: Option<String>) -> Result<std::process::Command> {
    let programs = lab.programs.as_ref().context("no fleetdrop to deploy with")?;
    let mut command = lab.fleet.controller.command_inside(&programs.fleetdrop.to_string_lossy());
    command
        .args(["--output", "json", "deploy", "--no-history"])
        .arg(artifact(lab, kind))
        .arg("--hosts")
        .arg(inventory_file(lab));
    command.args(["--app", APP, "--deploy-to", &format!("/srv/{APP}")]);
    if let Some(agents) = &programs.agents {
        command.arg("--agent-dir").arg(agents);
    }
    if kind.disaster.is_some() {
        command.args(["--max-failures", "1"]);
    }
    if kind.plain {
        command.args(["--encryption", "off"]);
    }
    command.args(url.iter().flat_map(|url| ["--web-seed", url.as_str()]));
    if kind.web == Some(Web::Alone) {
        command.arg("--origin-only");
    }
    command.args(&programs.options);
    Ok(command)
}

/// Does to the victim what is to happen to it if it is in the middle of its transfer; true if so.
fn strike(lab: &Lab, kind: Kind, event: &RunEvent) -> Result<bool> {
    let victim = &lab.fleet.hosts[victim(lab)];
    let RunEvent::HostProgress { host, bytes, .. } = event else { return Ok(false) };
    if host.as_str() != victim.name || (bytes.received() as f64) < DEATH * lab.payload.length as f64 {
        return Ok(false);
    }
    match kind.disaster {
        Some(Disaster::Cut) => victim.cut_off()?,
        Some(Disaster::Kill) => victim.kill("fleetdrop")?,
        None => {}
    }
    Ok(true)
}

/// Makes the victim a host like any other again.
fn recover(lab: &Lab, kind: Kind) -> Result<()> {
    if kind.disaster.is_none() {
        return Ok(());
    }
    let victim = &lab.fleet.hosts[victim(lab)];
    victim.kill("fleetdrop")?;
    victim.reconnect()
}

/// Returns which host something happens to.
fn victim(lab: &Lab) -> usize {
    lab.fleet.hosts.len() / 2
}

fn inventory_file(lab: &Lab) -> PathBuf {
    lab.fleet.directory.join("inventory.yaml")
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(directory.display().to_string()),
        _ => Ok(()),
    }
}
