//! Who does not belong to a run learns nothing of it, from the tracker, the seed and the agents, and is believed by none of them; the honest
//! deploy completes beside it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use fleetdrop::{
    model::{
        HostState::{Active, Downloading},
        Identity,
    },
    swarm::Tls,
    tracker::{Tracker, TrackerConfig, TrackerKey},
    wire::{DeployJob, FromAgent, PeerAddr, StopReason, ToAgent},
};

use crate::{
    agent_rig::{Agent, Seeded, fast_dir, live},
    artifact,
    attacker::Torrent,
    certificates::{CONTROLLER, Ca, MEMBER},
    operator::Operator,
    ports,
    sshd::SshdFleet,
    stranger::{Guise, Impostor, ask},
};

/// A TLS alert, which is all that plain words are answered with.
const ALERT: usize = 7;

/// Every stranger, with what it is.
fn strangers(run: &Ca) -> Vec<(&'static str, Guise)> {
    let (forged, host) = run.by_host(&CONTROLLER);
    vec![
        ("a plain client", Guise::Plain),
        ("nobody", Guise::Nobody),
        ("a self-made one", Guise::Certificate(run.self_made(&CONTROLLER), Vec::new())),
        ("another run's host", Guise::Certificate(Ca::new().identity(&MEMBER), Vec::new())),
        ("another run's controller", Guise::Certificate(Ca::new().identity(&CONTROLLER), Vec::new())),
        ("an expired host", Guise::Certificate(run.expired(&MEMBER), Vec::new())),
        ("an expired controller", Guise::Certificate(run.expired(&CONTROLLER), Vec::new())),
        ("one made by a host", Guise::Certificate(forged, vec![host])),
    ]
}

/// A run: a seed, a tracker and the artifact.
struct Run {
    ca: Ca,
    shared: Seeded,
    tracker: Tracker,
}

impl Run {
    async fn start(bytes: usize) -> Self {
        Self::under(Ca::new(), bytes).await
    }

    async fn under(ca: Ca, bytes: usize) -> Self {
        let tls = Tls::new(&ca.identity(&CONTROLLER)).unwrap();
        let shared = Seeded::encrypted("shop.bin", &vec![7; bytes], tls.clone()).await;
        let tracker = Tracker::start(TrackerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ports: None,
            info_hash: shared.metainfo.info_hash(),
            key: TrackerKey::random().unwrap(),
            interval: Duration::from_secs(5),
            max_peers: 10,
            tls: Some(tls),
        })
        .await
        .unwrap();
        Self { ca, shared, tracker }
    }

    /// What an honest agent is asked to do.
    fn job(&self, dir: &std::path::Path) -> DeployJob {
        let tracker = Some(self.tracker.announce_url(Ipv4Addr::LOCALHOST.into()));
        let identity = Some(self.ca.identity(&MEMBER));
        DeployJob { identity, tracker, ..self.shared.job(dir, "r1") }
    }

    /// What a peer says first, with everything right.
    fn handshake(&self) -> Vec<u8> {
        let info_hash = self.shared.metainfo.info_hash().0;
        Torrent { info_hash, length: self.shared.metainfo.length(), piece_length: self.shared.metainfo.piece_length() }
            .handshake()
    }

    /// What an announce says, with everything right.
    fn announce(&self) -> Vec<u8> {
        let url = self.tracker.announce_url(Ipv4Addr::LOCALHOST.into());
        let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
        let hash: String = self.shared.metainfo.info_hash().0.iter().map(|byte| format!("%{byte:02x}")).collect();
        let query = format!("info_hash={hash}&peer_id=-EV0001-abcdefghijkl&port=6881&uploaded=0&downloaded=0&left=1&compact=1");
        format!("GET /{path}?{query} HTTP/1.1\r\nHost: tracker\r\n\r\n").into_bytes()
    }

    /// Lets everybody ask whoever listens there.
    async fn is_closed_to_strangers(&self, what: &str, at: SocketAddr, word: &[u8]) {
        for (who, guise) in strangers(&self.ca) {
            let heard = ask(&guise, at, word).await;
            let most = if matches!(guise, Guise::Plain) { ALERT } else { 0 };
            assert!(heard.len() <= most, "{who} heard of {what}: {}", heard.escape_ascii());
        }
    }
}

#[tokio::test]
async fn strangers_learn_nothing_from_seed_tracker_and_agent() {
    let (run, dir) = (Run::start(3 << 20).await, fast_dir());
    let (seed, tracker) = (run.shared.seed.local_addr, run.tracker.local_addr());
    let mut agent = Agent::deploying(run.job(dir.path())).await;
    let prepared = agent.answer().await;
    let Some(FromAgent::Prepared { port: Some(port), .. }) = prepared else { panic!("{prepared:?}") };
    let host = SocketAddr::from((Ipv4Addr::LOCALHOST, port));

    // Who belongs to it is heard, by the same words.
    let member = Guise::Certificate(run.ca.identity(&MEMBER), Vec::new());
    for at in [seed, host] {
        let heard = ask(&member, at, &run.handshake()).await;
        assert!(heard.starts_with(b"\x13BitTorrent protocol"), "{}", heard.escape_ascii());
    }
    let heard = ask(&member, tracker, &run.announce()).await;
    assert!(heard.starts_with(b"HTTP/1.1 200"), "{}", heard.escape_ascii());

    run.is_closed_to_strangers("the agent before the transfer", host, &run.handshake()).await;
    run.is_closed_to_strangers("the seed", seed, &run.handshake()).await;
    run.is_closed_to_strangers("the tracker", tracker, &run.announce()).await;
    agent.tell(ToAgent::Start { peers: Vec::new() }).await;
    let staged = agent.answer().await;
    assert!(matches!(staged, Some(FromAgent::Staged { .. })), "{staged:?}");
    run.is_closed_to_strangers("the agent that has it all", host, &run.handshake()).await;
    agent.tell(ToAgent::Activate).await;
    assert!(matches!(agent.answer().await, Some(FromAgent::Activated { .. })));
    assert!(matches!(agent.answer().await, Some(FromAgent::Checked)));
    agent.tell(ToAgent::Confirm).await;
    assert!(matches!(agent.answer().await, Some(FromAgent::Confirmed)));
    agent.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
    assert_eq!(agent.exit().await.code(), Some(0));
    assert!(live(dir.path()).unwrap().ends_with("releases/r1"));
    run.tracker.stop().await;
}

#[tokio::test]
async fn strangers_are_believed_by_no_agent() {
    let (run, dir) = (Run::start(1 << 20).await, fast_dir());
    let mut impostors = Vec::new();
    for (who, guise) in strangers(&run.ca) {
        if !matches!(guise, Guise::Nobody) {
            impostors.push((who, Impostor::listen(guise, run.handshake(), 1).await));
        }
    }
    // A host of the run at the controller's address is not the controller, whatever it is otherwise.
    let host = Guise::Certificate(run.ca.identity(&MEMBER), Vec::new());
    let false_seed = Impostor::listen(host, run.handshake(), 1).await;
    let false_tracker = Impostor::listen(Guise::Certificate(run.ca.identity(&MEMBER), Vec::new()), Vec::new(), 1).await;

    let tracker = Some(format!("https://{}/key/announce", false_tracker.address));
    let address = PeerAddr(false_seed.address);
    let job = DeployJob { tracker, seed: Some(address), controller_peers: vec![address], ..run.job(dir.path()) };
    let mut agent = Agent::deploying(job).await;
    assert!(matches!(agent.answer().await, Some(FromAgent::Prepared { .. })));
    // The seed itself counts as one of the peers here.
    let peers = impostors.iter().map(|(_, impostor)| impostor.address).chain([run.shared.seed.local_addr]);
    agent.tell(ToAgent::Start { peers: peers.map(PeerAddr).collect() }).await;
    for (who, impostor) in impostors.into_iter().chain([("a false seed", false_seed), ("a false tracker", false_tracker)]) {
        let heard = impostor.heard().await.concat();
        let hash = run.shared.metainfo.info_hash().0;
        assert!(!heard.windows(20).any(|part| part == hash), "{who} heard {}", heard.escape_ascii());
        let is_tls = heard.is_empty() || heard.starts_with(&[22, 3, 1]);
        assert!(is_tls, "{who} heard {}", heard.escape_ascii());
    }
    let staged = agent.answer().await;
    let Some(FromAgent::Staged { bytes, .. }) = staged else { panic!("{staged:?}") };
    assert_eq!(bytes.from_controller, 0, "a stranger counts as the controller");
    run.tracker.stop().await;
}

#[tokio::test]
async fn a_hosts_clock_may_be_wrong_by_years() {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let (run, dir) = (Run::under(Ca::at(then), 1 << 20).await, fast_dir());
    let mut agent = Agent::deploying(run.job(dir.path())).await;
    agent.until_activated().await;
    run.is_closed_to_strangers("the seed", run.shared.seed.local_addr, &run.handshake()).await;
    run.tracker.stop().await;
}

#[tokio::test]
async fn a_host_announces_no_address_but_its_own() {
    let run = Run::start(1 << 18).await;
    let (own, other) = (run.ca.identity(&MEMBER), run.ca.identity(&MEMBER));
    let address = Ipv4Addr::new(198, 51, 100, 7);
    run.tracker.allow_address(address.into(), Some(own.fingerprint()));
    let announce = String::from_utf8(run.announce()).unwrap().replace("&compact", &format!("&ip={address}&compact"));
    let listed = async |asks: Identity| {
        ask(&Guise::Certificate(asks, Vec::new()), run.tracker.local_addr(), announce.as_bytes()).await;
        let peer = announce.replace("abcdefghijkl", "another-peer").replace("6881", "9");
        let member = Guise::Certificate(run.ca.identity(&MEMBER), Vec::new());
        let heard = ask(&member, run.tracker.local_addr(), peer.as_bytes()).await;
        heard.windows(6).any(|part| part == [198, 51, 100, 7, 0x1a, 0xe1])
    };
    assert!(!listed(other).await, "a host spoke for another");
    assert!(listed(own).await);
    run.tracker.stop().await;
}

#[test]
fn a_deploy_completes_among_strangers_on_the_ports_that_it_was_given() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let artifact = artifact::shop(&operator.work(), "1", 6_000_000);
    let low = ports::free_range(16);
    let range = format!("{low}-{}", low + 15);
    let slowly = ["--controller-upload-limit", "1MiB/s", "--upload-limit", "256KiB/s", "--swarm", "--port-range", &range];
    let mut run = operator.deploy(&fleet.fleet(), &artifact).with(slowly).start();
    for host in fleet.hosts() {
        run.wait_for_state(host.name(), Downloading);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open_at = |ip: Ipv4Addr| {
        let all = (low..low + 16).map(move |port| SocketAddr::from((ip, port)));
        all.filter(|at| std::net::TcpStream::connect(at).is_ok()).collect::<Vec<_>>()
    };
    // Seed, tracker and whatever else the controller has.
    let mut listening = open_at(Ipv4Addr::LOCALHOST);
    assert!(listening.len() >= 2, "{listening:?}");
    let controllers: Vec<u16> = listening.iter().map(SocketAddr::port).collect();
    for host in fleet.hosts() {
        let mut open = open_at(*host.address().ip()).into_iter();
        listening.push(open.find(|at| !controllers.contains(&at.port())).expect("its agent listens elsewhere"));
    }
    let ca = Ca::new();
    runtime.block_on(async {
        for at in &listening {
            for (who, guise) in strangers(&ca) {
                for word in [&b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0"[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
                    let heard = ask(&guise, *at, word).await;
                    let most = if matches!(guise, Guise::Plain) { ALERT } else { 0 };
                    assert!(heard.len() <= most, "{who} heard of {at}: {}", heard.escape_ascii());
                }
            }
        }
    });
    run.finish().expect_code(0).expect_states(&[Active; 3]);
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();
}
