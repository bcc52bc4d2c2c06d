//! The ways of putting one file on every host that are measured.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use fleetdrop::swarm::policy::Neighbours;

use crate::{Lab, deploy, fleet::Machine, race::race, transfer_node::Node, venv};

/// Where peers listen.
const PORT: u16 = 6881;
/// How many neighbours a host of our engine has on average, as in a deploy.
const DEGREE: usize = 8;

/// A way of putting one file on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// One host alone downloads over plain HTTP: the floor, no host can be faster.
    Http,
    /// Our engine, without SSH, hashing of the artifact and unpacking.
    Engine,
    /// The stock rqbit session.
    #[cfg(feature = "engine-librqbit")]
    Librqbit,
    /// libtorrent with default settings, every host told of every other.
    Libtorrent,
    /// aria2 with our tracker.
    Aria2,
    /// scp to every host at once.
    Scp,
    /// clush --copy to every host.
    Clush,
    /// `fleetdrop deploy` over SSH, agents in place: hosts' times are those of the transfer, from the job to the verified artifact.
    Deploy,
}

/// How long it took.
#[derive(Debug)]
pub(crate) struct Times {
    /// Each host.
    pub(crate) hosts: Vec<Duration>,
    /// Everything, from the command line's start to its end, where that is more.
    pub(crate) whole: Option<Duration>,
}

impl From<Vec<Duration>> for Times {
    fn from(hosts: Vec<Duration>) -> Self {
        Self { hosts, whole: None }
    }
}

/// One contender's try.
#[derive(Debug)]
pub(crate) struct Round {
    /// How long it took.
    pub(crate) times: Times,
    /// Bytes on the controller's link, all protocols and headers included.
    pub(crate) controller_sent: u64,
}

impl Contender {
    /// Returns the name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Puts the file on every host once and checks what arrived.
    pub(crate) async fn round(self, lab: &Lab) -> Result<Round> {
        for host in &lab.fleet.hosts {
            fs::create_dir(place(host)).with_context(|| host.name.clone())?;
        }
        let before = lab.fleet.controller.sent_bytes()?;
        let times = self.run(lab).await?;
        let controller_sent = lab.fleet.controller.sent_bytes()? - before;
        for host in lab.fleet.hosts.iter().take(times.hosts.len()) {
            let file = if self == Self::Deploy { deploy::live_file(lab, host) } else { place(host).join(lab.payload.name()) };
            ensure!(same_content(&file, &lab.payload.file)?, "{} is not what was sent", file.display());
        }
        for host in &lab.fleet.hosts {
            fs::remove_dir_all(place(host))?;
        }
        Ok(Round { times, controller_sent })
    }

    async fn run(self, lab: &Lab) -> Result<Times> {
        let hosts = match self {
            Self::Http => http(lab).await?,
            Self::Engine => engine(lab, "fleet").await?,
            #[cfg(feature = "engine-librqbit")]
            Self::Librqbit => engine(lab, "librqbit").await?,
            Self::Libtorrent => libtorrent(lab).await?,
            Self::Aria2 => aria2(lab).await?,
            Self::Scp => scp(lab).await?,
            Self::Clush => clush(lab).await?,
            Self::Deploy => return deploy::deploy(lab).await,
        };
        Ok(hosts.into())
    }
}

/// Where a host puts what it receives. Over SSH it is `/root/round`.
fn place(host: &Machine) -> PathBuf {
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

async fn http(lab: &Lab) -> Result<Vec<Duration>> {
    let controller = &lab.fleet.controller;
    let configuration = controller.directory.join("nginx.conf");
    let root = lab.payload.file.parent().context("the payload has no directory")?;
    fs::write(&configuration, nginx_configuration(&controller.directory, root))?;
    let mut server = controller.command("sh");
    // nginx listens when its master process goes to the background, which is when the shell goes on.
    server.args(["-c", "nginx -c \"$1\" && echo ready && read go", "sh"]).arg(&configuration);
    let server = Node::start("nginx", server).await?;
    let host = &lab.fleet.hosts[0];
    let url = format!("http://{}/{}", controller.address, lab.payload.name());
    let target = place(host).join(lab.payload.name());
    let download = script(host, false, "curl -sSf -o \"$1\" \"$2\" && echo complete", &[&target.to_string_lossy(), &url]);
    let times = race(start_all(vec![(host.name.as_str(), download)]).await?, lab.timeout).await;
    crate::fleet::run(controller.command("nginx").arg("-c").arg(&configuration).args(["-s", "stop"]))?;
    server.end().await?;
    times
}

fn nginx_configuration(directory: &Path, root: &Path) -> String {
    let (directory, root) = (directory.display(), root.display());
    format!(
        "pid {directory}/nginx.pid; error_log {directory}/nginx.log; worker_processes 1; user root;\n\
         events {{}}\n\
         http {{ access_log off; sendfile on; client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;\n\
         fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;\n\
         server {{ listen 80; root {root}; }} }}\n"
    )
}

async fn engine(lab: &Lab, kind: &str) -> Result<Vec<Duration>> {
    let fleet = &lab.fleet;
    let info = lab.payload.info.to_string_lossy();
    let seed_address = format!("{}:{PORT}", fleet.controller.address);
    let mut neighbours = Neighbours::new(DEGREE, fastrand::u64(..));
    let command = |machine: &Machine, file: &Path| {
        let mut command = machine.command(&lab.executable);
        command.args(["engine", "--engine", kind, "--info", &info, "--listen", &format!("{}:{PORT}", machine.address)]);
        command.arg("--file").arg(file);
        command
    };
    let mut seed = command(&fleet.controller, &lab.payload.file);
    seed.arg("--seed");
    let seed = Node::start("seed", seed).await?;
    let mut hosts = Vec::new();
    for (number, host) in fleet.hosts.iter().enumerate() {
        let mut command = command(host, &place(host).join(lab.payload.name()));
        command.args(["--controller", &seed_address, "--peer", &seed_address]);
        for neighbour in neighbours.join(number, None) {
            command.args(["--peer", &format!("{}:{PORT}", fleet.hosts[neighbour].address)]);
        }
        hosts.push((host.name.as_str(), command));
    }
    let times = race(start_all(hosts).await?, lab.timeout).await;
    seed.end().await?;
    times
}

async fn libtorrent(lab: &Lab) -> Result<Vec<Duration>> {
    let fleet = &lab.fleet;
    let python = tokio::task::spawn_blocking(venv::python_with_libtorrent).await?.map_err(anyhow::Error::msg)?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/libtorrent_node.py");
    let directory = lab.payload.file.parent().context("the payload has no directory")?;
    let command = |machine: &Machine, role: &str, directory: &Path| {
        let mut command = machine.command(&python);
        command.arg(&program).arg(role).arg(&lab.payload.torrent).arg(directory);
        command.arg(format!("{}:{PORT}", machine.address));
        command
    };
    let seed = Node::start("seed", command(&fleet.controller, "seed", directory)).await?;
    let mut hosts = Vec::new();
    for host in &fleet.hosts {
        let mut command = command(host, "host", &place(host));
        let others = fleet.machines().filter(|other| other.address != host.address);
        command.args(others.map(|other| format!("{}:{PORT}", other.address)));
        hosts.push((host.name.as_str(), command));
    }
    let times = race(start_all(hosts).await?, lab.timeout).await;
    seed.end().await?;
    times
}

async fn aria2(lab: &Lab) -> Result<Vec<Duration>> {
    let fleet = &lab.fleet;
    let seed_address = format!("{}:{PORT}", fleet.controller.address);
    let mut tracker = fleet.controller.command(&lab.executable);
    tracker.arg("tracker").arg("--info").arg(&lab.payload.info);
    tracker.args(["--listen", &fleet.controller.address.to_string(), "--seed", &seed_address]);
    let tracker = Node::start("tracker", tracker).await?;
    let [seeding, completing] = ["ready", "complete"].map(|word| fleet.directory.join(format!("aria2-{word}")));
    write_script(&seeding, "#!/bin/sh\necho ready\n")?;
    write_script(&completing, "#!/bin/sh\necho complete\n")?;
    let arguments = format!(
        "exec aria2c --no-conf --quiet --enable-dht=false --bt-enable-lpd=false --enable-peer-exchange=false --seed-ratio=0.0 \
         --file-allocation=falloc --listen-port={PORT} --on-bt-download-complete=\"$1\" --dir=\"$2\" --check-integrity=\"$3\" {}",
        lab.payload.torrent.display()
    );
    let directory = lab.payload.file.parent().context("the payload has no directory")?;
    let mut seed = fleet.controller.command("sh");
    seed.args(["-c", &arguments, "sh"]).arg(&seeding).arg(directory).arg("true");
    let seed = Node::start("seed", seed).await?;
    let hosts = fleet.hosts.iter().map(|host| {
        let place = place(host);
        let command = script(host, false, &arguments, &[&completing.to_string_lossy(), &place.to_string_lossy(), "false"]);
        (host.name.as_str(), command)
    });
    let times = race(start_all(hosts.collect()).await?, lab.timeout).await;
    seed.end().await?;
    tracker.end().await?;
    times
}

async fn scp(lab: &Lab) -> Result<Vec<Duration>> {
    let file = lab.payload.file.to_string_lossy();
    let copies = lab.fleet.hosts.iter().map(|host| {
        let target = format!("{}:round/", host.address);
        let command =
            script(&lab.fleet.controller, true, "scp -q -o BatchMode=yes \"$1\" \"$2\" && echo complete", &[&file, &target]);
        (host.name.as_str(), command)
    });
    race(start_all(copies.collect()).await?, lab.timeout).await
}

/// One program for all hosts: its time is every host's.
async fn clush(lab: &Lab) -> Result<Vec<Duration>> {
    let file = lab.payload.file.to_string_lossy();
    let targets: Vec<String> = lab.fleet.hosts.iter().map(|host| host.address.to_string()).collect();
    let copy = "clush -q -o '-o BatchMode=yes' -f 64 -w \"$1\" --copy \"$2\" --dest /root/round/ && echo complete";
    let command = script(&lab.fleet.controller, true, copy, &[&targets.join(","), &file]);
    let times = race(start_all(vec![("clush", command)]).await?, lab.timeout).await?;
    Ok(vec![times[0]; lab.fleet.hosts.len()])
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn same_content(one: &Path, other: &Path) -> Result<bool> {
    use std::io::{BufReader, Read as _};
    let open = |path: &Path| fs::File::open(path).with_context(|| path.display().to_string());
    let (one, other) = (open(one)?, open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    let (mut one_part, mut other_part) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.by_ref().take(1 << 20).read(&mut one_part)?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut other_part[..read])?;
        if one_part[..read] != other_part[..read] {
            return Ok(false);
        }
    }
}
