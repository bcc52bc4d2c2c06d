//! What the SSH tests stand on: single sshd processes with a configuration of their own, keys, and settings that touch nothing
//! outside a temporary directory.
//!
//! (`sshd` runs whole fleets for deploys; here each test needs another kind of server.)

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use fleetdrop::{
    model::HostName,
    ssh::{ConnectError, Connection, Connector, RunLimits, SshSettings, Target},
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::account;
pub(crate) use crate::account::own_name as user;

const READY: Duration = Duration::from_secs(20);

/// A directory with a client key, an empty `ssh_config` and an empty `known_hosts`.
pub(crate) struct Rig {
    dir: TempDir,
}

/// One sshd, killed with all its sessions when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddrV4,
    dir: PathBuf,
    child: Child,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix("fleetdrop-ssh-").unwrap();
        keygen(&dir.path().join("id"), &["-t", "ed25519", "-N", ""]);
        fs::write(dir.path().join("ssh_config"), "").unwrap();
        fs::write(dir.path().join("known_hosts"), "").unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a key file in the directory.
    pub(crate) fn key(&self, name: &str, args: &[&str]) -> PathBuf {
        keygen(&self.path(name), args);
        self.path(name)
    }

    /// Starts a server that lets the rig's key in and makes it known.
    pub(crate) fn server(&self, extra: &str) -> Server {
        let server = self.stranger(extra);
        self.know(&server.known_hosts_lines());
        server
    }

    /// Starts a server that is not in `known_hosts`. `extra` goes first in its configuration, so it wins.
    pub(crate) fn stranger(&self, extra: &str) -> Server {
        Server::start(&self.dir.path().join(format!("sshd-{}", fastrand::u32(..))), extra, &[&self.path("id.pub")])
    }

    /// Adds lines to `known_hosts`.
    pub(crate) fn know(&self, lines: &str) {
        let path = self.path("known_hosts");
        let text = fs::read_to_string(&path).unwrap() + lines;
        fs::write(path, text).unwrap();
    }

    /// Replaces `ssh_config`.
    pub(crate) fn ssh_config(&self, text: &str) {
        fs::write(self.path("ssh_config"), text).unwrap();
    }

    /// Returns settings that use the rig's key, `ssh_config` and `known_hosts` and no agent.
    pub(crate) fn settings(&self) -> SshSettings {
        SshSettings {
            ssh_client: Some("/usr/bin/ssh".into()),
            config_file: Some(self.path("ssh_config")),
            known_hosts: Some(self.path("known_hosts")),
            identity_files: vec![self.path("id")],
            connect_timeout: Some(Duration::from_secs(5)),
            ..SshSettings::new(self.dir.path(), user())
        }
    }

    pub(crate) fn connector(&self) -> Connector {
        Connector::new(self.settings()).unwrap()
    }

    /// Returns what the real ssh does with the host: whether it gets in.
    pub(crate) fn ssh_gets_in(&self, server: &Server, options: &[&str]) -> bool {
        let status = Command::new("ssh")
            .arg("-F")
            .arg(self.path("ssh_config"))
            .args(options)
            .args(["-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=/dev/null", "-o", "UpdateHostKeys=no", "-o"])
            .arg(format!("UserKnownHostsFile={}", self.path("known_hosts").display()))
            .arg("-i")
            .arg(self.path("id"))
            .args(["-p", &server.address.port().to_string(), "-l", &user(), "--", &server.address.ip().to_string(), "true"])
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.expect("this test needs ssh: apt-get install openssh-client").success()
    }
}

impl Server {
    fn start(dir: &Path, extra: &str, authorized: &[&Path]) -> Self {
        assert!(Path::new("/usr/sbin/sshd").exists(), "this test needs sshd: apt-get install openssh-server");
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        fs::create_dir_all(dir).unwrap();
        keygen(&dir.join("host_ed25519"), &["-t", "ed25519", "-N", ""]);
        keygen(&dir.join("host_ecdsa"), &["-t", "ecdsa", "-N", ""]);
        let keys: Vec<String> = authorized.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        fs::write(dir.join("authorized_keys"), keys.concat()).unwrap();
        let ip = next_address();
        for _ in 0..10 {
            let probe = TcpListener::bind((ip, 0)).unwrap();
            let address = SocketAddrV4::new(ip, probe.local_addr().unwrap().port());
            drop(probe);
            if let Some(child) = spawn(dir, address, extra) {
                return Self { address, dir: dir.to_owned(), child };
            }
        }
        panic!("no free port in ten attempts");
    }

    /// Lets one more key in.
    pub(crate) fn authorize(&self, public: &Path) {
        let path = self.dir.join("authorized_keys");
        let text = fs::read_to_string(&path).unwrap() + &fs::read_to_string(public).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Returns a host key in the form `type base64`; `kind` is `ed25519` or `ecdsa`.
    pub(crate) fn host_key(&self, kind: &str) -> String {
        let text = fs::read_to_string(self.dir.join(format!("host_{kind}.pub"))).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// The path of a host key, to sign it.
    pub(crate) fn host_key_file(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("host_{kind}"))
    }

    pub(crate) fn known_hosts_name(&self) -> String {
        format!("[{}]:{}", self.address.ip(), self.address.port())
    }

    pub(crate) fn known_hosts_lines(&self) -> String {
        let name = self.known_hosts_name();
        format!("{name} {}\n{name} {}\n", self.host_key("ed25519"), self.host_key("ecdsa"))
    }

    pub(crate) fn target(&self) -> Target {
        let mut target = Target::new(HostName::new("host").unwrap(), self.address.ip().to_string());
        target.port = Some(self.address.port());
        target
    }

    /// Returns what sshd logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Returns how many logins it let in.
    pub(crate) fn logins(&self) -> usize {
        self.log().matches("Accepted publickey ").count()
    }

    /// Tells sshd to read its configuration and keys again, with other `extra` lines.
    pub(crate) fn restart(self, extra: &str) -> Self {
        let (dir, address) = (self.dir.clone(), self.address);
        drop(self);
        let child = spawn(&dir, address, extra).expect("the port is free again");
        Self { address, dir, child }
    }

    /// Kills the processes of its connections, as if their machine had gone.
    pub(crate) fn kill_sessions(&self) {
        for pid in descendants(self.child.id()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Stops the processes of its connections without ending them: they answer nothing any more.
    pub(crate) fn freeze_sessions(&self) {
        for pid in descendants(self.child.id()) {
            let _ = kill_process(pid, Signal::STOP);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- sshd {}:\n{}", self.address, self.log());
        }
        let sessions = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in sessions {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn spawn(dir: &Path, address: SocketAddrV4, extra: &str) -> Option<Child> {
    // Of this one the last line counts, unlike of the others.
    let startups = if extra.contains("MaxStartups") { "" } else { "MaxStartups 200\n" };
    let config = format!(
        "{extra}\nListenAddress {}:{}\nHostKey {dir}/host_ed25519\nHostKey {dir}/host_ecdsa\nPidFile none\n\
         AuthorizedKeysFile {dir}/authorized_keys\nStrictModes no\nUsePAM {}\nPermitRootLogin prohibit-password\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n{startups}",
        address.ip(),
        address.port(),
        account::use_pam(&user()),
        dir = dir.display(),
    );
    fs::write(dir.join("sshd_config"), config).unwrap();
    let mut child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-f"])
        .arg(dir.join("sshd_config"))
        .arg("-E")
        .arg(dir.join("log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + READY;
    loop {
        if let Ok(stream) = TcpStream::connect(address) {
            let mut line = String::new();
            if BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("SSH-2.0-") {
                return Some(child);
            }
        }
        if let Some(status) = child.try_wait().unwrap() {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(log.contains("Address already in use"), "sshd ended with {status}:\n{log}");
            return None;
        }
        assert!(Instant::now() < deadline, "sshd does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the children of a process, their children and so on.
fn descendants(pid: u32) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<u32> = list.split_whitespace().filter_map(|child| child.parse().ok()).collect();
    let mut all = Vec::new();
    for child in children {
        all.extend(Pid::from_raw(child as i32));
        all.extend(descendants(child));
    }
    all
}

/// A real ssh-agent on a socket of its own.
pub(crate) struct Agent {
    pub(crate) socket: PathBuf,
    child: Child,
}

impl Agent {
    pub(crate) fn start(rig: &Rig) -> Self {
        let socket = rig.path("agent.sock");
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
        let agent = Self { socket, child: child.expect("this test needs ssh-agent: apt-get install openssh-client") };
        let deadline = Instant::now() + READY;
        while std::os::unix::net::UnixStream::connect(&agent.socket).is_err() {
            assert!(Instant::now() < deadline, "ssh-agent does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        agent
    }

    pub(crate) fn add(&self, key: &Path) {
        let status = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that must succeed and returns what it wrote.
pub(crate) async fn run(connection: &Connection, command: &str) -> String {
    let output = connection.run(command, b"", RunLimits::default()).await.unwrap();
    assert!(output.status.success(), "{command}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Asserts that a login failed and returns the message with its hint.
#[track_caller]
pub(crate) fn refusal(result: Result<Connection, ConnectError>) -> String {
    match result {
        Ok(_) => panic!("the login was expected to fail"),
        Err(error) => format!("{error}\nhint: {}", error.hint().unwrap_or_default()),
    }
}

fn keygen(path: &Path, args: &[&str]) {
    let status = Command::new("ssh-keygen").args(["-q", "-C", "test"]).args(args).arg("-f").arg(path).status();
    assert!(status.expect("this test needs ssh-keygen: apt-get install openssh-client").success());
}

fn next_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let turn = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some((last + 1) % 250)).unwrap();
    Ipv4Addr::new(127, 0, 1, turn + 1)
}

/// Makes a certificate `KEY-cert.pub` for a key with `ssh-keygen -s`.
pub(crate) fn sign(authority: &Path, key: &Path, args: &[&str]) {
    let mut public = key.as_os_str().to_owned();
    public.push(".pub");
    let status = Command::new("ssh-keygen").arg("-q").arg("-s").arg(authority).args(args).arg(public).status();
    assert!(status.unwrap().success());
}
