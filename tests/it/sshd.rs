//! Real OpenSSH servers on loopback: several `sshd` processes, each with an address, a host key, an `authorized_keys` and a home
//! directory of its own.
//!
//! They log in the user that runs the tests, or an [`Account`], whose home `SetEnv HOME=` replaces. That variable also marks every
//! process a client starts on a host, so [`SshdHost::processes`] finds them even when their sshd is gone; what sudo starts is
//! known by the SSH connection that it is told of. Dropping a fleet kills what it started, by process id, and nothing else.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, ErrorKind},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::account::{self, Account};

const SSHD: &str = "/usr/sbin/sshd";
const READY: Duration = Duration::from_secs(20);
/// How long a process that was told to end may take.
const GONE: Duration = Duration::from_secs(20);

/// A fleet of sshd processes.
pub(crate) struct SshdFleet {
    dir: TempDir,
    hosts: Vec<SshdHost>,
}

/// One sshd.
pub(crate) struct SshdHost {
    name: String,
    address: SocketAddrV4,
    dir: PathBuf,
    /// Who logs in there.
    user: String,
    /// `PATH` of commands on the host, if not sshd's default.
    search_path: Option<String>,
    /// A process in whose network and file systems it runs, if not in the tests'.
    inside: Option<u32>,
    /// A further line of its configuration.
    option: String,
    /// Hosts that share an application directory would fight for its lock, so each has its own.
    deploy_to: PathBuf,
    listener: Option<Child>,
}

/// A process that runs on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostProcess {
    pub(crate) pid: Pid,
    pub(crate) command: String,
}

impl SshdFleet {
    /// Starts that many hosts, `host-01` and so on.
    pub(crate) fn start(hosts: usize) -> Self {
        assert!(Path::new(SSHD).exists(), "this test needs {SSHD}: apt-get install openssh-server");
        if rustix::process::geteuid().is_root() {
            // Its privilege separation directory, which only the init script makes.
            fs::create_dir_all("/run/sshd").expect("make /run/sshd");
        }
        let dir = TempDir::with_prefix("fleetdrop-sshd-").unwrap();
        keygen(&dir.path().join("id_ed25519"));
        let mut fleet = Self { dir, hosts: Vec::new() };
        for _ in 0..hosts {
            fleet.add_without_inventory(None, None);
        }
        fleet.write_files();
        fleet
    }

    /// Starts one more host, whose commands have that `PATH`.
    pub(crate) fn add_with_path(&mut self, search_path: &str) {
        self.add_without_inventory(None, Some(search_path.to_owned()));
        self.write_files();
    }

    /// Starts one more host at an address in the network, and with the file systems, of that process. Its commands have that `PATH`.
    pub(crate) fn add_inside(&mut self, keeper: u32, address: SocketAddrV4, search_path: &str) {
        let mut host = self.new_host(*address.ip(), None, Some(search_path.to_owned()));
        host.inside = Some(keeper);
        host.address = address;
        assert!(host.start(), "{}: its port is taken", host.name);
        self.hosts.push(host);
        self.write_files();
    }

    /// Starts one more host, which that account logs in to. Its home is the account's, its application's directory is root's.
    pub(crate) fn add_for(&mut self, account: &Account) {
        // The way to the home is everybody's; the keys beside it are not.
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        self.add_without_inventory(Some(account), None);
        self.write_files();
    }

    fn add_without_inventory(&mut self, account: Option<&Account>, search_path: Option<String>) {
        let mut host = self.new_host(next_address(), account, search_path);
        host.start_on_a_free_port();
        self.hosts.push(host);
    }

    /// Makes the next host's directory and keys.
    fn new_host(&self, address: Ipv4Addr, account: Option<&Account>, search_path: Option<String>) -> SshdHost {
        let name = format!("host-{:02}", self.hosts.len() + 1);
        let dir = self.dir.path().join(&name);
        fs::create_dir_all(dir.join("home")).unwrap();
        fs::set_permissions(dir.join("home"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::copy(self.dir.path().join("id_ed25519.pub"), dir.join("authorized_keys")).unwrap();
        keygen(&dir.join("host_key"));
        let deploy_to = dir.join("app");
        let address = SocketAddrV4::new(address, 0);
        let user = account.map_or_else(account::own_name, |account| account.name().to_owned());
        let host =
            SshdHost { name, address, dir, user, search_path, inside: None, option: String::new(), deploy_to, listener: None };
        if let Some(account) = account {
            account.give(&host.home());
        }
        host
    }

    /// Writes inventory and known hosts as the fleet is now.
    fn write_files(&self) {
        fs::write(self.known_hosts(), self.hosts.iter().map(SshdHost::known_hosts_line).collect::<String>()).unwrap();
        fs::write(self.inventory(), self.inventory_of(|_| true)).unwrap();
    }

    /// Returns an inventory of the hosts that `wanted` picks.
    pub(crate) fn inventory_of(&self, wanted: impl Fn(&SshdHost) -> bool) -> String {
        let mut text = String::from("fleet:\n  hosts:\n");
        for host in self.hosts.iter().filter(|host| wanted(host)) {
            text += &format!(
                "    {}:\n      ansible_host: {}\n      ansible_port: {}\n      ansible_user: {}\n      fleetdrop_deploy_to: {}\n",
                host.name,
                host.address.ip(),
                host.address.port(),
                host.user,
                host.deploy_to.display(),
            );
        }
        text + &format!("  vars:\n    ansible_ssh_private_key_file: {}\n", self.client_key().display())
    }

    /// Returns the private key that every host lets in.
    pub(crate) fn client_key(&self) -> PathBuf {
        self.dir.path().join("id_ed25519")
    }

    pub(crate) fn inventory(&self) -> PathBuf {
        self.dir.path().join("inventory.yaml")
    }

    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    pub(crate) fn hosts(&self) -> &[SshdHost] {
        &self.hosts
    }

    pub(crate) fn host_mut(&mut self, index: usize) -> &mut SshdHost {
        &mut self.hosts[index]
    }

    /// Gives a host another application directory.
    pub(crate) fn set_deploy_to(&mut self, index: usize, deploy_to: &Path) {
        self.hosts[index].deploy_to = deploy_to.to_owned();
        self.write_files();
    }

    /// Waits until nothing runs on any host.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_none_left(|| self.hosts.iter().flat_map(SshdHost::processes).collect());
    }

    /// Waits until nothing runs on any host but what has that in its command line.
    #[track_caller]
    pub(crate) fn assert_nothing_left_but(&self, wanted: &str) {
        let others = |host: &SshdHost| host.processes().into_iter().filter(|process| !process.command.contains(wanted));
        assert_none_left(|| self.hosts.iter().flat_map(others).collect());
    }
}

impl Drop for SshdFleet {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            if std::thread::panicking() {
                eprintln!("--- sshd of {}:\n{}", host.name, host.log());
            }
            host.stop();
        }
    }
}

impl SshdHost {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Returns what commands on the host see as `HOME`.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    pub(crate) fn deploy_to(&self) -> &Path {
        &self.deploy_to
    }

    /// Returns who logs in there.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Returns how many logins sshd let in.
    pub(crate) fn logins(&self) -> usize {
        self.log().matches("Accepted publickey ").count()
    }

    /// Returns what sshd wrote to its log.
    pub(crate) fn log(&self) -> String {
        log_of(&self.dir)
    }

    fn known_hosts_line(&self) -> String {
        let key = fs::read_to_string(self.dir.join("host_key.pub")).unwrap();
        format!("[{}]:{} {key}", self.address.ip(), self.address.port())
    }

    /// The mark of this host's processes, in their environment.
    fn mark(&self) -> String {
        format!("HOME={}", self.home().display())
    }

    /// Starts sshd on a port that was free a moment ago; another process may take it in between, so it tries again.
    fn start_on_a_free_port(&mut self) {
        for _ in 0..10 {
            let probe = TcpListener::bind((*self.address.ip(), 0)).expect("a free loopback port");
            self.address.set_port(probe.local_addr().unwrap().port());
            drop(probe);
            if self.start() {
                return;
            }
        }
        panic!("{}: no free port in ten attempts:\n{}", self.name, self.log());
    }

    /// Starts sshd on its port. False if the port is taken.
    fn start(&mut self) -> bool {
        let mut config = format!(
            "ListenAddress {}:{}\nHostKey {dir}/host_key\nAuthorizedKeysFile {dir}/authorized_keys\nPidFile {dir}/sshd.pid\n\
             StrictModes no\nUsePAM {}\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPrintMotd no\nLogLevel VERBOSE\nSetEnv {}",
            self.address.ip(),
            self.address.port(),
            account::use_pam(&self.user),
            self.mark(),
            dir = self.dir.display(),
        );
        if let Some(path) = &self.search_path {
            config += &format!(" PATH={path}");
        }
        config += &format!("\n{}", self.option);
        fs::write(self.dir.join("sshd_config"), config + "\n").unwrap();
        let mut sshd = match self.inside {
            None => Command::new(SSHD),
            Some(keeper) => inside(keeper, &["--net", "--mount"], SSHD),
        };
        let child = sshd
            .args(["-D", "-f"])
            .arg(self.dir.join("sshd_config"))
            .arg("-E")
            .arg(self.dir.join("sshd.log"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start sshd");
        let child = self.listener.insert(child);
        let deadline = Instant::now() + READY;
        loop {
            // From here nobody reaches what has a network of its own.
            let is_up = match self.inside {
                None => says_ssh(self.address.into()),
                Some(_) => log_of(&self.dir).contains("Server listening on "),
            };
            if is_up {
                return true;
            }
            if let Some(status) = child.try_wait().unwrap() {
                let log = log_of(&self.dir);
                assert!(log.contains("Address already in use"), "{}: sshd ended with {status}:\n{log}", self.name);
                return false;
            }
            assert!(Instant::now() < deadline, "{}: sshd does not answer", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes the host go down: its sshd, every session and everything that runs there. Its port refuses from then on.
    pub(crate) fn stop(&mut self) {
        if let Some(mut listener) = self.listener.take() {
            let sessions = self.sessions_of(&listener);
            listener.kill().unwrap();
            listener.wait().unwrap();
            kill_all(sessions);
        }
        kill_all(self.processes().into_iter().map(|process| process.pid));
    }

    /// Cuts every connection to the host, as a broken link does; what runs there sees the end of its input and goes on.
    pub(crate) fn cut_connections(&self) {
        let listener = self.listener.as_ref().expect("the host is up");
        kill_all(self.sessions_of(listener));
    }

    /// Restarts the host's sshd with another host key on the same port.
    pub(crate) fn replace_host_key(&mut self) {
        self.stop();
        keygen(&self.dir.join("host_key"));
        assert!(self.start(), "{}: its port was taken meanwhile", self.name);
    }

    /// Restarts the host's sshd with a further line in its configuration, on the same port.
    pub(crate) fn configure(&mut self, option: &str) {
        self.stop();
        self.option = option.to_owned();
        assert!(self.start(), "{}: its port was taken meanwhile", self.name);
    }

    /// Takes the client's key out of the host's `authorized_keys`.
    pub(crate) fn forget_client_key(&self) {
        fs::write(self.dir.join("authorized_keys"), "").unwrap();
    }

    /// Returns the ids of the sshd processes that serve the listener's connections.
    fn sessions_of(&self, listener: &Child) -> Vec<Pid> {
        let mut found = Vec::new();
        let mut parents = vec![listener.id()];
        while let Some(parent) = parents.pop() {
            for (pid, parent_of, name) in all_processes() {
                if parent_of == parent && name.starts_with("sshd") {
                    found.extend(Pid::from_raw(pid as i32));
                    parents.push(pid);
                }
            }
        }
        found
    }

    /// Returns what runs on the host now: every process that a client's command started, and its children.
    pub(crate) fn processes(&self) -> Vec<HostProcess> {
        let mark = self.mark();
        let by_sudo = format!(" {} {}", self.address.ip(), self.address.port());
        processes_with(|variable| {
            variable == mark || variable.strip_prefix("FLEETDROP_SSH=").is_some_and(|ends| ends.ends_with(&by_sudo))
        })
    }

    /// Returns the process of the agent that runs on the host.
    #[track_caller]
    pub(crate) fn agent(&self) -> Pid {
        let processes = self.processes();
        let agents: Vec<_> = processes.iter().filter(|process| process.command.contains("/fleetdrop-agent ")).collect();
        assert_eq!(agents.len(), 1, "{}: one agent was expected: {processes:?}", self.name);
        agents[0].pid
    }
}

/// Prepares a program that runs in these namespaces of another process; it keeps its process id.
pub(crate) fn inside(process: u32, namespaces: &[&str], program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &process.to_string()]).args(namespaces).arg("--").arg(program);
    command
}

/// Returns every process with a variable in its first environment, written `NAME=value`, that `wanted` likes.
pub(crate) fn processes_with(wanted: impl Fn(&str) -> bool) -> Vec<HostProcess> {
    let mut found = Vec::new();
    for (pid, _, _) in all_processes() {
        // A process that is gone or another user's has nothing to read.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| std::str::from_utf8(variable).is_ok_and(&wanted)) {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&line).replace('\0', " ");
            found.extend(Pid::from_raw(pid as i32).map(|pid| HostProcess { pid, command }));
        }
    }
    found
}

/// Waits until there are no such processes any more.
#[track_caller]
pub(crate) fn assert_none_left(processes: impl Fn() -> Vec<HostProcess>) {
    let deadline = Instant::now() + GONE;
    loop {
        let left = processes();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "processes are left: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns every process as its id, its parent's id and its name.
fn all_processes() -> Vec<(u32, u32, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name is in parentheses and may have any character, those too.
            let (head, tail) = stat.rsplit_once(") ")?;
            let parent = tail.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent, head.split_once('(')?.1.to_owned()))
        })
        .collect()
}

/// Kills the processes and waits until none of them runs.
pub(crate) fn kill_all(pids: impl IntoIterator<Item = Pid>) {
    let pids: Vec<Pid> = pids.into_iter().collect();
    for pid in &pids {
        // It may have ended by itself.
        let _ = kill_process(*pid, Signal::KILL);
    }
    let deadline = Instant::now() + GONE;
    for pid in pids {
        while is_running(pid) {
            assert!(Instant::now() < deadline, "process {pid:?} survived SIGKILL");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// True unless the process is gone or a zombie.
fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, tail)| !tail.starts_with(['Z', 'X']))
}

/// Returns what the sshd of a host with that directory wrote to its log.
fn log_of(directory: &Path) -> String {
    fs::read_to_string(directory.join("sshd.log")).unwrap_or_default()
}

fn says_ssh(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(READY)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("SSH-2.0-")
}

fn keygen(path: &Path) {
    for old in [path.to_owned(), path.with_extension("pub")] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .status()
        .expect("this test needs ssh-keygen: apt-get install openssh-client");
    assert!(status.success());
}

/// Returns 127.0.0.2 to 127.0.0.254 in turn: hosts of one fleet differ, and the controller's 127.0.0.1 is none of them.
fn next_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let turn = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some((last + 1) % 253)).unwrap();
    Ipv4Addr::new(127, 0, 0, turn + 2)
}

mod tests;
