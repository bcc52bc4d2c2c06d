//! The ways of putting one file on every host that are measured.

mod copy;
mod torrent;

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    Lab,
    deploy::{self, Disaster, Kind, Web},
    fleet::{Machine, Usage},
    payload::same_content,
    transfer_node::Node,
};

/// A way of putting one file on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// One host alone downloads over plain HTTP: the floor, no host can be faster. With hosts of several classes one of each, in turn.
    Http,
    /// Our engine, without SSH, hashing of the artifact, encryption and unpacking.
    Engine,
    /// The stock rqbit session (feature `engine-librqbit`).
    Librqbit,
    /// libtorrent with default settings, every host told of every other.
    Libtorrent,
    /// libtorrent with what its tuning guide says.
    LibtorrentTuned,
    /// aria2 with our tracker.
    Aria2,
    /// `fleetdrop deploy` over SSH, agents in place: hosts' times are those of the transfer, from the job to the verified artifact.
    Deploy,
    /// The same, agents in place, not encrypted: what encryption costs is the difference.
    DeployPlain,
    /// The same to hosts without an agent.
    DeployCold,
    /// The same, agents in place; the link of a host in the middle of its transfer is cut.
    DeployCut,
    /// The same; the agent of a host in the middle of its transfer is killed.
    DeployKilled,
    /// `fleetdrop deploy --origin-only`: hosts take everything from the fleet's web server, agents in place.
    DeployOrigin,
    /// `fleetdrop deploy --web-seed`: peers, controller and the fleet's web server together, agents in place.
    DeployBoth,
    /// A deploy of one byte, agents in place.
    Byte,
    /// A deploy of one byte to hosts without an agent.
    ByteCold,
    /// scp to every host at once.
    Scp,
    /// clush --copy to every host.
    Clush,
}

/// One contender's try.
#[derive(Debug)]
pub(crate) struct Round {
    /// How long each host took, in the order of the hosts; none for one that was not sent to or died.
    pub(crate) times: Vec<Option<Duration>>,
    /// How long everything took, from the command line's start to its end, where that is more.
    pub(crate) whole: Option<Duration>,
    /// What it used.
    pub(crate) usage: Usage,
    /// How many copies `usage` is for.
    pub(crate) copies: usize,
}

impl Round {
    /// Makes it of every host's time.
    fn of_all(times: Vec<Duration>, usage: Usage) -> Self {
        Self { copies: times.len(), times: times.into_iter().map(Some).collect(), whole: None, usage }
    }
}

impl Contender {
    /// Returns the name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Says what is deployed how, if this is a deploy.
    pub(crate) fn deploy(self) -> Option<Kind> {
        let kind = Kind::default();
        match self {
            Self::Deploy => Some(kind),
            Self::DeployPlain => Some(Kind { plain: true, ..kind }),
            Self::DeployCold => Some(Kind { cold: true, ..kind }),
            Self::DeployCut => Some(Kind { disaster: Some(Disaster::Cut), ..kind }),
            Self::DeployKilled => Some(Kind { disaster: Some(Disaster::Kill), ..kind }),
            Self::DeployOrigin => Some(Kind { web: Some(Web::Alone), ..kind }),
            Self::DeployBoth => Some(Kind { web: Some(Web::Beside), ..kind }),
            Self::Byte => Some(Kind { byte: true, ..kind }),
            Self::ByteCold => Some(Kind { byte: true, cold: true, ..kind }),
            _ => None,
        }
    }

    /// Fails if one of them is not in this build.
    pub(crate) fn ensure_built(contenders: &[Self]) -> Result<()> {
        let all_built = contenders.iter().all(|contender| contender.is_built());
        ensure!(all_built, "this lab was built without the stock engine: add --features engine-librqbit");
        Ok(())
    }

    /// True if this build can run it.
    fn is_built(self) -> bool {
        self != Self::Librqbit || cfg!(feature = "engine-librqbit")
    }

    /// Returns what runs unless something else is asked for: what does not take (hosts x floor), and no special deploys.
    pub(crate) fn usual() -> Vec<Self> {
        let usual = [
            Self::Http,
            Self::Engine,
            Self::Librqbit,
            Self::Libtorrent,
            Self::LibtorrentTuned,
            Self::Aria2,
            Self::Deploy,
            Self::DeployCold,
        ];
        usual.into_iter().filter(|contender| contender.is_built()).collect()
    }

    /// Puts the file on every host once and checks what arrived.
    pub(crate) async fn round(self, lab: &Lab) -> Result<Round> {
        for host in &lab.fleet.hosts {
            fs::create_dir(place(host)).with_context(|| host.name.clone())?;
        }
        let round = self.run(lab).await?;
        for (host, _) in lab.fleet.hosts.iter().zip(&round.times).filter(|(_, time)| time.is_some()) {
            let (file, sent) = match self.deploy() {
                Some(kind) => (deploy::live_file(lab, kind, host), deploy::artifact(lab, kind)),
                None => (place(host).join(lab.payload.name()), lab.payload.file.clone()),
            };
            ensure!(same_content(&file, &sent)?, "{} is not what was sent", file.display());
        }
        for host in &lab.fleet.hosts {
            fs::remove_dir_all(place(host))?;
        }
        if let Some(kind) = self.deploy() {
            // What a host without an agent got stays: the next to deploy may want it there.
            deploy::clear(lab, Kind { cold: false, ..kind })?;
        }
        Ok(round)
    }

    async fn run(self, lab: &Lab) -> Result<Round> {
        match self {
            Self::Http => copy::http(lab).await,
            Self::Engine => torrent::engine(lab, "fleet").await,
            Self::Librqbit => torrent::engine(lab, "librqbit").await,
            Self::Libtorrent => torrent::libtorrent(lab, "default").await,
            Self::LibtorrentTuned => torrent::libtorrent(lab, "tuned").await,
            Self::Aria2 => torrent::aria2(lab).await,
            Self::Scp => copy::scp(lab).await,
            Self::Clush => copy::clush(lab).await,
            Self::Deploy
            | Self::DeployPlain
            | Self::DeployCold
            | Self::DeployCut
            | Self::DeployKilled
            | Self::DeployOrigin
            | Self::DeployBoth
            | Self::Byte
            | Self::ByteCold => deploy::deploy(lab, self.deploy().unwrap_or_default()).await,
        }
    }
}

/// Where a host puts what it receives. Over SSH it is `/root/round`.
fn place(host: &Machine) -> std::path::PathBuf {
    host.directory.join("root/round")
}

/// Makes a node of a shell script that transfers when it is started.
fn script(machine: &Machine, inside: bool, script: &str, arguments: &[&str]) -> Command {
    let mut command = if inside { machine.command_inside("sh") } else { machine.command("sh") };
    command.args(["-c", &format!("echo ready && read go && {script}"), "sh"]).args(arguments);
    command
}

async fn start_all(nodes: Vec<(&str, Command)>) -> Result<Vec<Node>> {
    futures_util::future::try_join_all(nodes.into_iter().map(|(name, command)| Node::start(name, command))).await
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
