//! A fleet of network namespaces on one switch: built, shaped, measured and taken down without a trace.
//!
//! Each machine is a network namespace with one link to a bridge, which has a namespace of its own, so that nothing appears in the
//! machine's own network. Both directions of every link are shaped by `tc tbf`: what a machine sends at its own interface, what it receives
//! at the bridge's port. A machine's processes can also be given a view of the file system in which `/root`, `/srv`, `/var/cache` and
//! `/etc/ssh` are its own.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// What a host sees as its own, and the directory of the machine that stands for it.
const OWN_DIRECTORIES: [(&str, &str); 4] =
    [("/root", "root"), ("/srv", "srv"), ("/var/cache", "cache"), ("/etc/ssh", "etc-ssh")];

/// How long the kernel may take to end the processes of a namespace.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// One machine of the fleet.
#[derive(Debug)]
pub(crate) struct Machine {
    /// `controller`, `h01`, `h02` and so on.
    pub(crate) name: String,
    /// Its address in the fleet.
    pub(crate) address: Ipv4Addr,
    /// Its directory in the fleet's working directory.
    pub(crate) directory: PathBuf,
    namespace: String,
}

impl Machine {
    /// Prepares a program that runs in this machine's network and sees the file system as it is.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Prepares a program that runs in this machine's network and sees its own `/root`, `/srv`, `/var/cache` and `/etc/ssh`.
    pub(crate) fn command_inside(&self, program: &str) -> Command {
        let binds: String = OWN_DIRECTORIES
            .iter()
            .map(|(path, own)| format!("mount --bind {}/{own} {path} && ", self.directory.display()))
            .collect();
        let mut command = self.command("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c"]);
        command.arg(format!("{binds}cd / && exec \"$0\" \"$@\"")).arg(program);
        command.env("HOME", "/root").env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Returns the bytes this machine has put on its link so far.
    pub(crate) fn sent_bytes(&self) -> Result<u64> {
        let output = output(Command::new("ip").args(["-n", &self.namespace, "-s", "-j", "link", "show", "dev", "eth0"]))?;
        let links: serde_json::Value = serde_json::from_str(&output)?;
        links[0]["stats64"]["tx"]["bytes"].as_u64().context("no interface statistics")
    }
}

/// The machines, their links and their SSH servers. Dropping it takes everything down.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// Where deploys are started and seeds run.
    pub(crate) controller: Machine,
    /// The rest.
    pub(crate) hosts: Vec<Machine>,
    /// Where everything of this fleet lies.
    pub(crate) directory: PathBuf,
    namespaces: Vec<String>,
    servers: Vec<Child>,
}

impl Fleet {
    /// Builds a fleet of `hosts` hosts, each link shaped to `rate` Mbit/s both ways, with files under `directory`.
    pub(crate) fn build(hosts: usize, rate: u32, directory: &Path) -> Result<Self> {
        ensure!((1..=1000).contains(&hosts), "a fleet has 1 to 1000 hosts");
        let prefix = format!("fdlab{}", std::process::id());
        let directory = directory.join(&prefix);
        let machine = |name: String, number: usize| Machine {
            address: Ipv4Addr::new(10, 77, (number / 250) as u8, (number % 250 + 1) as u8),
            directory: directory.join(&name),
            namespace: format!("{prefix}-{name}"),
            name,
        };
        let mut fleet = Self {
            controller: machine("controller".into(), 0),
            hosts: (1..=hosts).map(|number| machine(format!("h{number:02}"), number)).collect(),
            directory: directory.clone(),
            namespaces: Vec::new(),
            servers: Vec::new(),
        };
        // From here on an error drops the fleet, which takes down what is there.
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        fleet.wire(&prefix, rate)?;
        fleet.start_servers()?;
        Ok(fleet)
    }

    fn wire(&mut self, prefix: &str, rate: u32) -> Result<()> {
        let switch = format!("{prefix}-switch");
        self.add_namespace(&switch)?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        let links: Vec<(String, Ipv4Addr)> =
            self.machines().map(|machine| (machine.namespace.clone(), machine.address)).collect();
        for (number, (namespace, address)) in links.iter().enumerate() {
            let port = format!("port{number}");
            self.add_namespace(namespace)?;
            // IPv6's neighbour discovery would be counted as traffic.
            run(Command::new("ip").args(["netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]))?;
            ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", namespace])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", namespace, "address", "add", &format!("{address}/16"), "dev", "eth0"])?;
            ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            shape(namespace, "eth0", rate)?;
            shape(&switch, &port, rate)?;
        }
        Ok(())
    }

    fn add_namespace(&mut self, name: &str) -> Result<()> {
        ip(&["netns", "add", name])?;
        self.namespaces.push(name.to_owned());
        Ok(())
    }

    /// Makes every machine's directories and starts every host's sshd. The controller's root may log in everywhere.
    fn start_servers(&mut self) -> Result<()> {
        for machine in self.machines() {
            for (_, own) in OWN_DIRECTORIES {
                private_directory(&machine.directory.join(own))?;
            }
            private_directory(&machine.directory.join("root/.ssh"))?;
        }
        let identity = self.controller.directory.join("root/.ssh/id_ed25519");
        make_key(&identity)?;
        let public = fs::read(identity.with_extension("pub"))?;
        fs::create_dir_all("/run/sshd").context("sshd's privilege separation directory")?;
        let mut known_hosts = String::new();
        for host in &self.hosts {
            fs::write(host.directory.join("root/.ssh/authorized_keys"), &public)?;
            let key = host.directory.join("etc-ssh/ssh_host_ed25519_key");
            make_key(&key)?;
            let key = fs::read_to_string(key.with_extension("pub"))?;
            known_hosts += &format!("{} {}\n", host.address, key.trim());
            fs::write(host.directory.join("etc-ssh/sshd_config"), SSHD_CONFIG)?;
            let log = fs::File::create(host.directory.join("sshd.log"))?;
            let server = host
                .command_inside("/usr/sbin/sshd")
                .args(["-D", "-e", "-f", "/etc/ssh/sshd_config"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .context("sshd")?;
            self.servers.push(server);
        }
        fs::write(self.controller.directory.join("root/.ssh/known_hosts"), known_hosts)?;
        self.wait_servers()
    }

    fn wait_servers(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        for host in &self.hosts {
            let log = host.directory.join("sshd.log");
            // sshd says so when it listens.
            while !fs::read_to_string(&log)?.contains("Server listening") {
                if Instant::now() > until {
                    bail!("{}'s sshd does not start: {}", host.name, fs::read_to_string(&log)?);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Returns the controller and the hosts.
    pub(crate) fn machines(&self) -> impl Iterator<Item = &Machine> {
        std::iter::once(&self.controller).chain(&self.hosts)
    }

    /// Takes down what [`Fleet::build`] made, and what still runs in it.
    fn take_down(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for namespace in std::mem::take(&mut self.namespaces) {
            outcome = outcome.and(end_processes(&namespace)).and(ip(&["netns", "delete", &namespace]));
        }
        for mut server in std::mem::take(&mut self.servers) {
            outcome = outcome.and(server.wait().map(drop).context("sshd"));
        }
        if self.directory.exists() {
            outcome = outcome.and(fs::remove_dir_all(&self.directory).context("removing the fleet's files"));
        }
        outcome
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("lab: the fleet is not completely taken down: {error:#}");
        }
    }
}

const SSHD_CONFIG: &str = "\
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes yes
Subsystem sftp internal-sftp
";

/// Limits what leaves `device` to `rate` Mbit/s.
fn shape(namespace: &str, device: &str, rate: u32) -> Result<()> {
    let rate = format!("{rate}mbit");
    run(Command::new("tc")
        .args(["-n", namespace, "qdisc", "add", "dev", device, "root", "tbf"])
        .args(["rate", &rate, "burst", "64kb", "latency", "50ms"]))
}

/// Ends every process in a namespace: they are all ours.
fn end_processes(namespace: &str) -> Result<()> {
    let until = Instant::now() + KILL_TIMEOUT;
    loop {
        let pids = output(Command::new("ip").args(["netns", "pids", namespace]))?;
        let pids: Vec<_> = pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("processes {pids:?} in {namespace} do not end");
        }
        for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
            // One that has just ended is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn private_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| path.display().to_string())
}

fn make_key(path: &Path) -> Result<()> {
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(path))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program to its end and returns what it wrote.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}
