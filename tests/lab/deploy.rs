//! The real thing: `fleetdrop deploy` from the controller's namespace, over SSH, to the hosts' sshd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use fleetdrop::model::{Envelope, RunEvent, RunSummary};

use crate::{
    Lab,
    contender::Times,
    fleet::{Fleet, Machine},
};

/// The application's name in the lab.
const APP: &str = "lab";

/// The programs that are deployed with, where the controller's view of the file system shows them.
#[derive(Debug)]
pub(crate) struct Programs {
    fleetdrop: PathBuf,
    /// The directory of the agents, if there is one.
    agents: Option<PathBuf>,
}

impl Programs {
    /// Copies the programs into the fleet's directory.
    pub(crate) fn install(fleet: &Fleet, fleetdrop: &Path, agents: Option<&Path>) -> Result<Self> {
        let place = fleet.directory.join("bin");
        fs::create_dir(&place)?;
        let copy = |from: &Path, to: PathBuf| {
            fs::copy(from, &to).with_context(|| format!("{}: build it, or name another", from.display()))?;
            anyhow::Ok(to)
        };
        let fleetdrop = copy(fleetdrop, place.join("fleetdrop"))?;
        let agents = match agents {
            Some(agents) => {
                copy(&agents.join("fleetdrop-agent"), place.join(format!("fleetdrop-agent-{}", std::env::consts::ARCH)))?;
                Some(place)
            }
            None => None,
        };
        Ok(Self { fleetdrop, agents })
    }
}

/// Writes the fleet's inventory, then deploys one byte to every host: after it every host has its agent.
pub(crate) async fn prepare(lab: &Lab) -> Result<()> {
    let mut inventory = String::from("all:\n  vars:\n    ansible_user: root\n  hosts:\n");
    for host in &lab.fleet.hosts {
        inventory += &format!("    {}:\n      ansible_host: {}\n", host.name, host.address);
    }
    fs::write(inventory_file(lab), inventory)?;
    let byte = lab.fleet.directory.join("warm-up.bin");
    fs::write(&byte, b"x")?;
    run(lab, &byte, "warm-up").await.map(drop).context("warming up")
}

/// Deploys to hosts that have the agent and nothing else.
pub(crate) async fn deploy(lab: &Lab) -> Result<Times> {
    for host in &lab.fleet.hosts {
        remove(&host.directory.join("srv").join(APP))?;
        remove(&host.directory.join("cache/fleetdrop/blobs"))?;
    }
    let began = Instant::now();
    let summary = run(lab, &lab.payload.file, APP).await?;
    let whole = began.elapsed();
    let hosts = summary.hosts.iter().map(|host| {
        let seconds = host.transfer_seconds.with_context(|| format!("{} did not transfer anything", host.host))?;
        anyhow::Ok(Duration::from_secs_f64(seconds))
    });
    Ok(Times { hosts: hosts.collect::<Result<_>>()?, whole: Some(whole) })
}

/// Returns the file that is live on a host.
pub(crate) fn live_file(lab: &Lab, host: &Machine) -> PathBuf {
    host.directory.join("srv").join(APP).join("current").join(lab.payload.name())
}

async fn run(lab: &Lab, artifact: &Path, app: &str) -> Result<RunSummary> {
    let programs = lab.programs.as_ref().context("no fleetdrop to deploy with")?;
    let mut command = lab.fleet.controller.command_inside(&programs.fleetdrop.to_string_lossy());
    command.arg("--output").arg("json").arg("deploy").arg(artifact).arg("--hosts").arg(inventory_file(lab));
    command.args(["--app", app, "--deploy-to", &format!("/srv/{app}")]);
    if let Some(agents) = &programs.agents {
        command.arg("--agent-dir").arg(agents);
    }
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(lab.timeout, command.output()).await.context("the deploy takes too long")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fleetdrop deploy: {}: {said}", output.status);
    let last = output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).context("no events")?;
    match serde_json::from_slice::<Envelope>(last)?.event {
        RunEvent::RunFinished(summary) => Ok(*summary),
        other => anyhow::bail!("the last event is {other:?}"),
    }
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
