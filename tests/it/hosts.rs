//! What the tests look at on a host's disk, and the fleets they use most: real sshd processes, or SSH servers inside this one.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Condvar, LazyLock, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
};

use fleetdrop::{
    artifact::sha256_file,
    controller::local_fleet::{LocalFleet, LocalFleetConfig},
    model::Digest,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    operator::Fleet,
    sshd::{SshdFleet, SshdHost},
};

/// The agent these tests are built with.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_fleetdrop-agent");

/// An application's root directory on a host.
pub(crate) struct App<'a>(pub(crate) &'a Path);

impl App<'_> {
    /// Returns the version that is live, if one is; the whole release has to be there.
    #[track_caller]
    pub(crate) fn live(&self) -> Option<String> {
        let current = self.0.join("current");
        let target = fs::read_link(&current).ok()?;
        assert_eq!(target.parent(), Some(Path::new("releases")), "`current` is {}", target.display());
        let version = fs::read_to_string(current.join("VERSION")).expect("the live release is complete");
        let script = fs::read_to_string(current.join("start")).expect("the live release is complete");
        assert_eq!(script, format!("#!/bin/sh\necho {version}\n"));
        Some(version)
    }

    /// Returns the releases on disk, oldest first; an unfinished one among them fails the test.
    #[track_caller]
    pub(crate) fn releases(&self) -> Vec<String> {
        let names = self.releases_and_unfinished();
        assert!(!names.iter().any(|name| name.starts_with('.')), "unfinished releases are left: {names:?}");
        names
    }

    /// Returns what is in the directory of releases, sorted.
    pub(crate) fn releases_and_unfinished(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("releases")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl SshdFleet {
    /// Returns what a command line has to know of the fleet.
    pub(crate) fn fleet(&self) -> Fleet {
        Fleet { inventory: self.inventory(), known_hosts: self.known_hosts() }
    }

    /// Returns the fleet with some hosts behind doors.
    pub(crate) fn behind<'a>(&self, doors: impl IntoIterator<Item = &'a Door>, dir: &Path) -> Fleet {
        let place = |address: SocketAddrV4| format!("ansible_host: {}\n      ansible_port: {}\n", address.ip(), address.port());
        let known = |address: SocketAddrV4| format!("[{}]:{} ", address.ip(), address.port());
        let fleet = Fleet { inventory: dir.join("door.yaml"), known_hosts: dir.join("door-known_hosts") };
        let mut inventory = fs::read_to_string(self.inventory()).unwrap();
        let mut known_hosts = fs::read_to_string(self.known_hosts()).unwrap();
        for door in doors {
            inventory = inventory.replace(&place(door.host), &place(door.address));
            known_hosts = known_hosts.replace(&known(door.host), &known(door.address));
        }
        fs::write(&fleet.inventory, inventory).unwrap();
        fs::write(&fleet.known_hosts, known_hosts).unwrap();
        fleet
    }

    /// Checks what is live on each host.
    #[track_caller]
    pub(crate) fn expect_live(&self, versions: &[Option<&str>]) {
        let live: Vec<Option<String>> = self.hosts().iter().map(|host| App(host.deploy_to()).live()).collect();
        let live: Vec<Option<&str>> = live.iter().map(Option::as_deref).collect();
        assert_eq!(live, versions);
    }
}

/// A local fleet with the runtime that drives it.
pub(crate) struct Embedded {
    fleet: Option<LocalFleet>,
    runtime: Runtime,
    _dir: TempDir,
}

impl Embedded {
    /// Starts that many hosts, which have the agent already: the demo and the sshd hosts show that it gets there.
    pub(crate) fn start(hosts: usize) -> Self {
        let dir = TempDir::with_prefix("fleetdrop-embedded-").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let fleet = runtime.block_on(LocalFleet::start(LocalFleetConfig::new(hosts, dir.path()))).unwrap();
        for host in fleet.hosts() {
            install_agent(host.dir());
        }
        Self { fleet: Some(fleet), runtime, _dir: dir }
    }

    pub(crate) fn local(&self) -> &LocalFleet {
        self.fleet.as_ref().expect("it runs until it is dropped")
    }

    pub(crate) fn fleet(&self) -> Fleet {
        Fleet { inventory: self.local().inventory(), known_hosts: self.local().known_hosts() }
    }

    /// Checks what is live on each host.
    #[track_caller]
    pub(crate) fn expect_live(&self, versions: &[Option<&str>]) {
        let live: Vec<Option<String>> = self.local().hosts().iter().map(|host| App(&host.deploy_to()).live()).collect();
        let live: Vec<Option<&str>> = live.iter().map(Option::as_deref).collect();
        assert_eq!(live, versions);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(fleet) = self.fleet.take() {
            self.runtime.block_on(fleet.stop());
        }
    }
}

/// Puts the agent where a push would have put it.
fn install_agent(home: &Path) {
    static DIGEST: LazyLock<Digest> = LazyLock::new(|| sha256_file(Path::new(AGENT), &|_| ()).unwrap());
    let mut directory = home.to_owned();
    for below in [".cache", "fleetdrop", "agent", &DIGEST.to_string()] {
        directory.push(below);
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    }
    let agent = directory.join("fleetdrop-agent");
    if fs::hard_link(AGENT, &agent).is_err() {
        // Another file system.
        fs::copy(AGENT, &agent).unwrap();
    }
}

/// A port in front of a host's own: it leads connections on once it is opened. What comes from the host can be held back.
pub(crate) struct Door {
    host: SocketAddrV4,
    address: SocketAddrV4,
    opened: SyncSender<()>,
    closed: Arc<AtomicBool>,
    outward: Arc<Valve>,
}

impl Door {
    /// Puts a closed door before the host.
    pub(crate) fn before(host: &SshdHost) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        let (opened, open) = sync_channel(1);
        let host = host.address();
        let outward = Arc::new(Valve::default());
        let valve = outward.clone();
        let closed = Arc::new(AtomicBool::new(false));
        let is_closed = closed.clone();
        std::thread::spawn(move || {
            // Nobody opens a door that was dropped.
            if open.recv().is_err() {
                return;
            }
            for outside in listener.incoming().map_while(Result::ok) {
                if is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(inside) = TcpStream::connect(host) else { continue };
                let inward = (outside.try_clone().unwrap(), inside.try_clone().unwrap());
                std::thread::spawn(move || carry(inward.0, inward.1, &Valve::default()));
                let valve = valve.clone();
                std::thread::spawn(move || carry(inside, outside, &valve));
            }
        });
        Self { host, address, opened, closed, outward }
    }

    /// Opens the door.
    pub(crate) fn open(&self) {
        self.opened.send(()).unwrap();
    }

    /// Holds back what the host says from now on; what is said to it still arrives.
    pub(crate) fn hold_back(&self) {
        *self.outward.held.lock().unwrap() = true;
    }

    /// Lets through what was held back, and what follows.
    pub(crate) fn let_through(&self) {
        *self.outward.held.lock().unwrap() = false;
        self.outward.changed.notify_all();
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // The threads that carry must see their connections' end, and the one that waits for more must see this one.
        self.let_through();
        self.closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// What can hold back bytes.
#[derive(Default)]
struct Valve {
    held: Mutex<bool>,
    changed: Condvar,
}

/// Carries bytes one way until an end closes, and closes the other.
fn carry(mut from: TcpStream, mut to: TcpStream, valve: &Valve) {
    let mut buffer = vec![0; 64 << 10];
    // A reset ends it as well as an end of input.
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        drop(valve.changed.wait_while(valve.held.lock().unwrap(), |held| *held).unwrap());
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Fills a directory with links to every program of the system but these.
pub(crate) fn everything_but(missing: &[&str], directory: &Path) {
    fs::create_dir(directory).unwrap();
    for entry in ["/usr/bin", "/usr/sbin"].into_iter().flat_map(|dir| fs::read_dir(dir).unwrap()).flatten() {
        if !missing.iter().any(|name| entry.file_name() == *name) {
            // A program of both directories is linked once.
            let _ = std::os::unix::fs::symlink(entry.path(), directory.join(entry.file_name()));
        }
    }
}

/// A mounted tmpfs; dropping it unmounts it.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts a tmpfs over a directory, which is made if it is missing.
    pub(crate) fn mount(path: &Path, options: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts a tmpfs: run it as root");
        fs::create_dir_all(path).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).status().unwrap();
        assert!(status.success(), "mount -o {options} {}", path.display());
        Self(path.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: an agent that a failed test left may still have a file open there.
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(status.is_ok_and(|status| status.success()), "umount {}", self.0.display());
        }
    }
}
