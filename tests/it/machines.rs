//! Hosts with a network and a `/srv` of their own, so that what is meant for whole machines runs as it stands.
//!
//! Each host is an sshd in network and mount namespaces; a bridge joins the hosts and the operator. Nothing of it is seen from outside. A
//! namespace lives as long as the process that keeps it, which ends with its input, so that a test that is killed leaves none.
//!
//! A `systemctl` of the tests' own manages services on each host: small HTTP servers that say the version of the release they were started
//! from.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::{
    hosts::App,
    operator::Operator,
    sshd::{SshdFleet, inside},
};

/// Says its version. It has no such page if there is a file `sick-VERSION` in the host's home.
const SERVICE: &str = r#"
import http.server, os, sys
version = open(sys.argv[1] + "/current/VERSION").read()
status = 404 if os.path.exists(os.environ["HOME"] + "/sick-" + version) else 200
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(status)
        self.send_header("Content-Length", str(len(version)))
        self.end_headers()
        self.wfile.write(version.encode())
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer.allow_reuse_address = True
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Service)
print("serving", flush=True)
server.serve_forever()
"#;

/// Knows `shop`, `shop@blue` and `shop@green`, which run from what is live, and `nginx`, which looks at its configuration anew.
const SYSTEMCTL: &str = r#"#!/bin/sh
verb=$1
for unit; do :; done
unit=${unit%.service}
case $unit in
shop) root=/srv/shop port=8080 ;;
shop@blue) root=/srv/shop-blue port=8081 ;;
shop@green) root=/srv/shop-green port=8082 ;;
nginx) readlink /srv/shop-live > "$HOME/proxied.new"; exec mv "$HOME/proxied.new" "$HOME/proxied" ;;
*) echo "Unit $unit not found." >&2; exit 5 ;;
esac
state=$HOME/$unit
runs() { test -e "$state.pid" && kill -0 "$(cat "$state.pid")" 2> /dev/null; }
stop() {
    runs && kill "$(cat "$state.pid")"
    while runs; do sleep 0.02; done
    rm -f "$state.pid"
}
start() {
    runs && return
    ! grep -q crashes $root/current/VERSION || { echo "$unit.service: Failed with result 'exit-code'." >&2; exit 1; }
    python3 DIR/service.py $root $port > "$state.log" 2>&1 < /dev/null &
    echo $! > "$state.pid"
    until grep -q serving "$state.log"; do
        runs || { cat "$state.log" >&2; exit 1; }
        sleep 0.02
    done
}
case $verb in
start) start ;;
stop) stop ;;
restart) stop; start ;;
is-active) runs ;;
*) exit 1 ;;
esac
"#;

/// How long a program of the tests may take to answer.
const READY: Duration = Duration::from_secs(60);
/// The port of every host's sshd.
const PORT: u16 = 2222;

/// A process that keeps namespaces and does nothing else.
struct Keeper(Child);

impl Keeper {
    /// Starts it with what it does first, a line of shell.
    fn start(mut command: Command, first: &str) -> Self {
        command.args(["sh", "-c", &format!("{first} && echo ready && exec cat")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this test needs util-linux");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "namespaces cannot be made: {command:?}");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Runs a line of shell in its network.
    fn run(&self, line: &str) {
        let status = inside(self.pid(), &["--net"], "sh").args(["-c", line]).status().unwrap();
        assert!(status.success(), "{line}");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hosts, and an operator in their network. Fields are dropped in their order: programs before the namespaces that they run in.
pub(crate) struct Machines {
    programs: Vec<Child>,
    pub(crate) fleet: SshdFleet,
    pub(crate) operator: Operator,
    hosts: Vec<Keeper>,
    _network: Keeper,
    dir: TempDir,
}

impl Machines {
    /// Starts that many hosts.
    pub(crate) fn start(hosts: u8) -> Self {
        assert!(geteuid().is_root(), "this test makes namespaces: run it as root");
        let dir = TempDir::with_prefix("fleetdrop-machines-").unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(dir.path().join("service.py"), SERVICE).unwrap();
        fs::write(bin.join("systemctl"), SYSTEMCTL.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.arg("--net");
        let bridge = "ip link set lo up && ip link add lan type bridge forward_delay 0 stp_state 0 && \
                      ip address add 10.77.0.1/24 dev lan && ip link set lan up";
        let network = Keeper::start(unshare, bridge);
        let mut fleet = SshdFleet::start(0);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
        let mut keepers = Vec::new();
        for number in 1..=hosts {
            let address = Ipv4Addr::new(10, 77, 0, number + 1);
            let keeper = host(&network, number, address);
            fleet.add_inside(keeper.pid(), SocketAddrV4::new(address, PORT), &path);
            keepers.push(keeper);
        }
        let operator = Operator::inside(network.pid());
        Self { programs: Vec::new(), fleet, operator, hosts: keepers, _network: network, dir }
    }

    /// Runs a line of shell in the network of a host.
    pub(crate) fn on_host(&self, host: usize, line: &str) {
        self.hosts[host].run(line);
    }

    /// Returns where a path of a host is found from outside.
    pub(crate) fn path(&self, host: usize, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.hosts[host].pid()))
    }

    /// Checks which version is live below a directory of each host.
    #[track_caller]
    pub(crate) fn expect_live(&self, root: &str, versions: &[&str]) {
        let live = (0..self.hosts.len()).map(|host| App(&self.path(host, root)).live().unwrap_or_default());
        assert_eq!(live.collect::<Vec<_>>(), versions);
    }

    /// Returns what answers on a port of a host, empty unless all is well with it.
    pub(crate) fn get(&self, host: usize, port: u16) -> String {
        let url = format!("http://127.0.0.1:{port}/healthz");
        let output = inside(self.hosts[host].pid(), &["--net"], "curl").args(["--silent", "--fail", &url]).output();
        let output = output.expect("this test needs curl");
        if output.status.success() { String::from_utf8_lossy(&output.stdout).into_owned() } else { String::new() }
    }

    /// Checks what the services on a port of each host say. One that was just restarted may take its time until it says something.
    #[track_caller]
    pub(crate) fn expect_served(&self, port: u16, versions: &[&str]) {
        let until = Instant::now() + READY;
        let said = || -> Vec<String> { (0..self.hosts.len()).map(|host| self.get(host, port)).collect() };
        let mut served = said();
        while served.iter().any(String::is_empty) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            served = said();
        }
        assert_eq!(served, versions);
    }

    /// Makes a version one that does not work on a host.
    pub(crate) fn break_on(&self, host: usize, version: &str) {
        fs::write(self.fleet.hosts()[host].home().join(format!("sick-{version}")), "").unwrap();
    }

    /// Starts a Python program on a host, which listens on that port when this returns.
    pub(crate) fn serve(&mut self, host: usize, port: u16, program: &str, arguments: &[&Path]) {
        let file = self.dir.path().join(format!("program-{}.py", self.programs.len()));
        fs::write(&file, program).unwrap();
        let keeper = self.hosts[host].pid();
        let mut python = inside(keeper, &["--net", "--mount"], "python3");
        self.programs.push(python.arg(file).args(arguments).stdin(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + READY;
        // Any answer is one.
        let url = format!("http://127.0.0.1:{port}/");
        while !inside(keeper, &["--net"], "curl").args(["--silent", "--output", "/dev/null", &url]).status().unwrap().success()
        {
            assert!(Instant::now() < until, "nothing answers on port {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// Makes a host's namespaces and plugs it into the network.
fn host(network: &Keeper, number: u8, address: Ipv4Addr) -> Keeper {
    let mut unshare = inside(network.pid(), &["--net"], "unshare");
    unshare.args(["--net", "--mount", "--propagation", "private"]);
    let keeper = Keeper::start(unshare, "mount -t tmpfs tmpfs /srv && ip link set lo up");
    network.run(&format!(
        "ip link add host{number} type veth peer name eth0 netns {} && ip link set host{number} master lan up",
        keeper.pid()
    ));
    keeper.run(&format!("ip address add {address}/24 dev eth0 && ip link set eth0 up"));
    keeper
}
