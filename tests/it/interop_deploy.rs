//! A real `fleetdrop deploy` and what is not part of it: standard clients that take part, and attackers.
//!
//! One host's agent is stopped as it begins to download, so that the swarm lives as long as a test wants.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

use fleetdrop::{
    model::HostState::{Active, Downloading, Staged, Verifying},
    swarm::Metainfo,
    tracker::{Tracker, TrackerConfig, TrackerKey},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    artifact,
    attacker::{self, Fault, Siege, Torrent, source},
    client::{Client, Program},
    hosts::Door,
    operator::{Operator, Running},
    sshd::SshdFleet,
    swarm::{ANY, within},
};

/// Large enough that the third host does not have all of it before it is stopped.
const SIZE: usize = 24 << 20;
/// The tracker refuses whoever asks much more often.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What the torrent file of a run says.
pub(crate) struct RunTorrent {
    metainfo: Metainfo,
    pub(crate) announce_url: String,
}

impl RunTorrent {
    /// Waits until the run has written it.
    pub(crate) async fn read(path: &Path) -> Self {
        within("the torrent is there", async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let bytes = fs::read(path).unwrap();
        let text = String::from_utf8_lossy(&bytes[..200]).into_owned();
        let (length, rest) = text.strip_prefix("d8:announce").unwrap().split_once(':').unwrap();
        let announce_url = rest[..length.parse().unwrap()].to_owned();
        let info = bytes.windows(6).position(|window| window == b"4:info").unwrap() + 6;
        let metainfo = Metainfo::from_info_bytes(&bytes[info..bytes.len() - 1]).unwrap();
        Self { metainfo, announce_url }
    }

    /// Announces a peer that lacks everything to the run's tracker; returns the peers that it is told of.
    async fn announce(&self, port: u16) -> Vec<SocketAddr> {
        let address = self.announce_url.strip_prefix("http://").unwrap().split('/').next().unwrap();
        let hash: String = self.metainfo.info_hash().0.iter().map(|byte| format!("%{byte:02x}")).collect();
        let path = self.announce_url.split_once(address).unwrap().1;
        let id = format!("-XX0001-{:012}", port);
        let request =
            format!("GET {path}?info_hash={hash}&peer_id={id}&port={port}&left=1&compact=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let start = answer.windows(7).position(|window| window == b"5:peers").unwrap() + 7;
        let colon = start + answer[start..].iter().position(|byte| *byte == b':').unwrap();
        let length: usize = std::str::from_utf8(&answer[start..colon]).unwrap().parse().unwrap();
        let (peers, _) = answer[colon + 1..colon + 1 + length].as_chunks::<6>();
        peers
            .iter()
            .map(|p| SocketAddrV4::new(Ipv4Addr::new(p[0], p[1], p[2], p[3]), u16::from_be_bytes([p[4], p[5]])).into())
            .collect()
    }

    /// Waits until the tracker names a peer that is none of these; returns where it is.
    async fn listed_beside(&self, known: &[SocketAddr]) -> SocketAddr {
        const OWN_PORT: u16 = 9;
        within("the tracker lists one more", async {
            loop {
                let peers = self.announce(OWN_PORT).await;
                if let Some(new) = peers.into_iter().find(|peer| !known.contains(peer) && peer.port() != OWN_PORT) {
                    return new;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        })
        .await
    }

    /// Returns what an outsider knows of the swarm.
    pub(crate) fn known(&self) -> Torrent {
        Torrent {
            info_hash: self.metainfo.info_hash().0,
            length: self.metainfo.length(),
            piece_length: self.metainfo.piece_length(),
        }
    }

    /// Waits until the tracker names a peer at each of these addresses; returns all the peers it names.
    pub(crate) async fn peers(&self, port: u16, addresses: &[Ipv4Addr]) -> Vec<SocketAddr> {
        within("the tracker lists the hosts", async {
            loop {
                let peers = self.announce(port).await;
                if addresses.iter().all(|address| peers.iter().any(|peer| peer.ip() == *address)) {
                    return peers;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        })
        .await
    }
}

/// A deploy to three hosts. The first two can't be logged in to before their doors are opened, the third's agent is stopped when it
/// begins to download.
struct Held {
    fleet: SshdFleet,
    artifact: PathBuf,
    torrent_file: PathBuf,
    run: Running,
    doors: Vec<Door>,
    stopped: Pid,
}

impl Held {
    fn start(operator: &Operator, artifact: PathBuf) -> Self {
        let fleet = SshdFleet::start(3);
        let torrent_file = operator.work().join("run.torrent");
        let doors: Vec<Door> = fleet.hosts()[..2].iter().map(Door::before).collect();
        let command_line = fleet.behind(&doors, &operator.work());
        let mut run = operator
            .deploy(&command_line, &artifact)
            .with(["--encryption", "off", "--lease", "10m", "--connect-timeout", "90s", "--torrent-out"])
            .with([torrent_file.as_os_str()])
            .start();
        run.wait_for_state("host-03", Downloading);
        let stopped = fleet.hosts()[2].agent();
        kill_process(stopped, Signal::STOP).unwrap();
        Self { fleet, artifact, torrent_file, run, doors, stopped }
    }

    fn open_the_doors(&mut self) {
        for door in &self.doors {
            door.open();
        }
    }

    /// Lets the third host go on.
    fn let_go(&self) {
        kill_process(self.stopped, Signal::CONT).unwrap();
    }

    fn addresses(&self) -> Vec<Ipv4Addr> {
        self.fleet.hosts().iter().map(|host| *host.address().ip()).collect()
    }

    /// Starts a client on a torrent.
    fn client(&self, operator: &Operator, program: Program, torrent: &Path, part: &str) -> Client {
        let place = operator.work().join(part);
        fs::create_dir(&place).unwrap();
        let mut client = program.start(torrent, &place, false);
        client.file = place.join(self.artifact.file_name().unwrap());
        client
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_clients_join_a_running_deploy_and_need_no_seed() {
    let operator = Operator::new();
    let mut held = Held::start(&operator, artifact::shop(&operator.work(), "1", SIZE));
    let torrent = RunTorrent::read(&held.torrent_file).await;
    let content = fs::read(&held.artifact).unwrap();
    // It dials nobody on this machine, so that hosts have to hear of it with their first announce. Our seed dials nobody at all.
    let before = torrent.announce(9).await.len();
    let mut transmission = held.client(&operator, Program::Transmission, &held.torrent_file, "transmission");
    within("transmission is listed", async {
        while torrent.announce(9).await.len() <= before {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    })
    .await;
    held.open_the_doors();
    for host in &["host-01", "host-02"] {
        held.run.wait_for_state(host, Staged);
    }
    transmission.arrived(&content).await;
    // The torrent as it is: whoever has it finds hosts and seed.
    let mut aria2 = held.client(&operator, Program::Aria2, &held.torrent_file, "aria2");
    aria2.arrived(&content).await;

    // From here on there is no seed and no tracker: another tracker names the two hosts, and each client has nobody else.
    let addresses = held.addresses();
    let mut hosts = torrent.peers(9, &addresses[..2]).await;
    hosts.retain(|peer| addresses[..2].iter().any(|address| peer.ip() == *address));
    held.run.signal(Signal::STOP);
    drop((transmission, aria2));
    for program in [Program::Aria2, Program::Libtorrent, Program::Transmission] {
        joins_hosts_alone(&held, &operator, program, &torrent, &hosts, &content).await;
    }
    #[cfg(feature = "engine-librqbit")]
    stock_joins_hosts_alone(&torrent, &hosts, &operator.work().join("stock"), &content).await;

    held.run.signal(Signal::CONT);
    held.let_go();
    let run = held.run.finish().expect_code(0).expect_states(&[Active; 3]);
    held.fleet.expect_live(&[Some("1"); 3]);
    let received = run.summary().bytes.received();
    assert_eq!(received, 3 * content.len() as u64, "{run:?}");
}

/// Starts a tracker that names those peers.
async fn relay(torrent: &RunTorrent, peers: &[SocketAddr]) -> Tracker {
    let tracker = Tracker::start(TrackerConfig {
        listen: ANY,
        info_hash: torrent.metainfo.info_hash(),
        key: TrackerKey::random().unwrap(),
        interval: Duration::from_secs(5),
        max_peers: 64,
        tls: None,
        ports: None,
    })
    .await
    .unwrap();
    for peer in peers {
        tracker.add_seed(*peer);
    }
    tracker
}

/// A client gets everything from the hosts that a tracker names to it.
async fn joins_hosts_alone(
    held: &Held,
    operator: &Operator,
    program: Program,
    torrent: &RunTorrent,
    hosts: &[SocketAddr],
    content: &[u8],
) {
    let tracker = relay(torrent, hosts).await;
    let announce_url = tracker.announce_url(Ipv4Addr::LOCALHOST.into());
    let relayed = RunTorrent { metainfo: torrent.metainfo.clone(), announce_url };
    let part = format!("{program:?}-alone");
    let file = operator.work().join(&part).with_extension("torrent");
    fs::write(&file, relayed.metainfo.to_torrent(&relayed.announce_url, &[])).unwrap();
    let mut client = held.client(operator, program, &file, &part);
    if program == Program::Transmission {
        // It does not dial here, and whoever has everything has no reason to.
        let (known, at) = (torrent.known(), relayed.listed_beside(hosts).await);
        tokio::select! {
            () = introduce(&known, hosts[0], at) => panic!("they parted"),
            () = client.arrived(content) => {}
        }
    } else {
        client.arrived(content).await;
    }
    drop(client);
    tracker.stop().await;
}

/// Connects two peers of which each waits to be dialled, until one of them hangs up.
async fn introduce(torrent: &Torrent, one: SocketAddr, other: SocketAddr) {
    let shake = async |to| {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(&torrent.handshake()).await.unwrap();
        stream.read_exact(&mut [0; 68]).await.unwrap();
        stream
    };
    let (mut one, mut other) = tokio::join!(shake(one), shake(other));
    let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
}

#[cfg(feature = "engine-librqbit")]
async fn stock_joins_hosts_alone(torrent: &RunTorrent, hosts: &[SocketAddr], file: &Path, content: &[u8]) {
    use fleetdrop::swarm::{Engine as _, EngineConfig, Role, stock::LibrqbitEngine};
    let tracker = relay(torrent, hosts).await;
    let config = EngineConfig {
        metainfo: std::sync::Arc::new(torrent.metainfo.clone()),
        role: Role::Host { file: file.to_owned() },
        listen: crate::swarm::free_address(),
        advertise: None,
        peers: Vec::new(),
        place: None,
        tls: None,
        ports: None,
        controller_peers: Vec::new(),
        tracker: Some(tracker.announce_url(Ipv4Addr::LOCALHOST.into())),
        bounds: Default::default(),
        origins: None,
    };
    let mut stock = LibrqbitEngine.start(config).await.unwrap();
    crate::swarm::complete(&mut stock).await;
    assert!(fs::read(file).unwrap() == content, "rqbit's file is not what was sent");
    stock.stop().await;
    tracker.stop().await;
}

/// The most memory a process has had so far, in KiB, and how many files it has open.
pub(crate) fn usage(pid: Pid) -> (u64, usize) {
    let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let files = fs::read_dir(process.join("fd")).unwrap().count();
    (peak.trim().trim_end_matches(" kB").parse().unwrap(), files)
}

/// How much memory an agent may take, in KiB.
pub(crate) const AGENT_MEMORY: u64 = 32 << 10;
/// A host has at most 256 connections, and little else.
pub(crate) const AGENT_FILES: usize = 300;
pub(crate) const FLOOD: usize = 10_000;

/// Opens connections without end, each from the address that `from` says, and keeps those that are not closed; some shake hands.
pub(crate) async fn flood(torrent: &Torrent, to: SocketAddr, from: impl Fn(usize) -> Ipv4Addr) -> JoinSet<()> {
    let open = std::sync::Arc::new(tokio::sync::Semaphore::new(200));
    let mut all = JoinSet::new();
    for number in 0..FLOOD {
        let opening = open.clone().acquire_owned().await.unwrap();
        let connecting = tokio::time::timeout(Duration::from_secs(10), attacker::connect(from(number), to));
        let fault = if number % 2 == 0 { Fault::Silence } else { Fault::SilenceAfterHandshake };
        let torrent = torrent.clone();
        all.spawn(async move {
            let stream = connecting.await;
            drop(opening);
            if let Ok(Ok(stream)) = stream {
                attacker::act(fault, &torrent, stream).await;
            }
        });
    }
    drop(open.acquire_many(200).await);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_under_attack_completes_and_agents_stay_small() {
    raise_file_limit();
    let operator = Operator::new();
    let mut held = Held::start(&operator, artifact::shop(&operator.work(), "1", SIZE));
    let torrent = RunTorrent::read(&held.torrent_file).await;
    let known = torrent.known();
    let seed = torrent.announce(9).await.into_iter().find(|peer| peer.ip() == Ipv4Addr::LOCALHOST).unwrap();
    // Attackers are in the swarm before any host: the tracker names them to everybody.
    let mut siege = Siege::default();
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        let address = siege.lie_in_wait(fault, &known, Ipv4Addr::LOCALHOST).await;
        torrent.announce(address.port()).await;
        siege.add(fault, &known, source(number), seed);
    }
    held.open_the_doors();
    for host in ["host-01", "host-02"] {
        held.run.wait_for_state(host, Downloading);
    }
    let hosts = held.addresses();
    let peers = torrent.peers(9, &hosts[..2]).await;
    let agents: Vec<SocketAddr> = peers.into_iter().filter(|peer| hosts[..2].iter().any(|host| peer.ip() == *host)).collect();
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        for agent in &agents {
            siege.add(fault, &known, source(number), *agent);
        }
    }
    for host in ["host-01", "host-02"] {
        held.run.wait_for_state(host, Staged);
    }
    // The third one downloads while the others are flooded.
    let floods = (flood(&known, agents[0], |_| source(0)).await, flood(&known, agents[1], source).await);
    let pids: Vec<Pid> = held.fleet.hosts()[..2].iter().map(|host| host.agent()).collect();
    for pid in &pids {
        let (_, files) = usage(*pid);
        assert!(files <= AGENT_FILES, "{files} files are open");
    }
    held.let_go();
    held.run.wait_for_state("host-03", Verifying);
    for pid in &pids {
        let (memory, files) = usage(*pid);
        assert!(files <= AGENT_FILES, "{files} files are open");
        assert!(memory <= AGENT_MEMORY, "an agent took {memory} KiB");
    }
    held.run.finish().expect_code(0).expect_states(&[Active; 3]);
    held.fleet.expect_live(&[Some("1"); 3]);
    drop((siege, floods));
    held.fleet.assert_nothing_left();
}

#[test]
fn agents_stay_small_whatever_the_artifact() {
    let operator = Operator::new();
    let artifact = operator.work().join("large.bin");
    // Zeros take no space here, and every byte of them travels.
    fs::File::create(&artifact).unwrap().set_len(256 << 20).unwrap();
    let mut held = Held::start(&operator, artifact);
    held.open_the_doors();
    for host in ["host-01", "host-02"] {
        held.run.wait_for_state(host, Staged);
    }
    for host in &held.fleet.hosts()[..2] {
        let (memory, _) = usage(host.agent());
        assert!(memory <= AGENT_MEMORY, "an agent took {memory} KiB");
    }
    held.let_go();
    held.run.finish().expect_code(0).expect_states(&[Active; 3]);
}

/// The flood has twenty thousand sockets in this process.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}
