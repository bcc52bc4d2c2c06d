//! The agent's real binary on the ladder: what it does and says where the seed does not answer.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use fleetdrop::{
    model::{
        PortRange,
        distribution::Mode,
        origin::{Origin, OriginStyle},
    },
    wire::{DeployJob, FromAgent, PeerAddr, StopReason, ToAgent},
};

use crate::{
    agent_rig::{Agent, Seeded, fast_dir},
    artifact,
    origin_rig::{Canned, Reply, origin, origins},
    swarm::{free_address, within},
};

const RELEASE: &str = "20261120T031500Z-1a2b3c4d";

/// A deploy whose seed is at that address, beside a web server of the controller's.
fn job(seeded: &Seeded, dir: &std::path::Path, seed: SocketAddr, web: &Canned) -> DeployJob {
    let web = Origin { style: OriginStyle::Content, ..origin(&web.url("key/artifact"), &[]) };
    let seed = PeerAddr(seed);
    DeployJob {
        seed: Some(seed),
        controller_peers: vec![seed],
        web: Some(Box::new(web)),
        stall_timeout: Duration::from_secs(4),
        ..seeded.job(dir, RELEASE)
    }
}

/// Lets an agent stage, looks at what is there and returns the modes that it told with their reasons, and its last word.
async fn staged(job: DeployJob, look: impl FnOnce()) -> (Vec<(Mode, String)>, FromAgent) {
    let mut agent = Agent::deploying(job).await;
    let (mut modes, mut last) = (Vec::new(), None);
    within("it is staged", async {
        while let Some(message) = agent.hear().await {
            match message {
                FromAgent::Prepared { .. } => agent.tell(ToAgent::Start { peers: Vec::new() }).await,
                FromAgent::Mode { mode, reason } => modes.push((mode, reason)),
                message @ (FromAgent::Staged { .. } | FromAgent::Failed(_)) => {
                    last = Some(message);
                    break;
                }
                _ => (),
            }
        }
    })
    .await;
    look();
    agent.tell(ToAgent::Stop { reason: StopReason::Interrupted }).await;
    agent.exit().await;
    (modes, last.unwrap())
}

fn serving(bytes: Vec<u8>) -> Canned {
    Canned::start(move |asked, _| Reply::part(&bytes, asked))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_can_connect_to_the_controllers_web_server_alone_takes_it_from_there() {
    let dir = fast_dir();
    let bytes = std::fs::read(artifact::shop(dir.path(), "1", 3_000_000)).unwrap();
    let seeded = Seeded::new("shop.tar.zst", &bytes).await;
    let web = serving(bytes.clone());
    let (modes, last) = staged(job(&seeded, dir.path(), free_address(), &web), || ()).await;
    let [(Mode::Controller, reason)] = &modes[..] else { panic!("{modes:?}, {last:?}") };
    assert!(reason.starts_with("can't connect to the controller at 127.0.0.1:"), "{reason}");
    let FromAgent::Staged { bytes: counts, .. } = last else { panic!("{last:?}") };
    assert_eq!((counts.from_controller, counts.received()), (bytes.len() as u64, bytes.len() as u64));
    seeded.seed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_seed_goes_silent_climbs_from_rung_to_rung() {
    let dir = fast_dir();
    let bytes = std::fs::read(artifact::shop(dir.path(), "1", 3_000_000)).unwrap();
    let seeded = Seeded::new("shop.tar.zst", &bytes).await;
    let web = serving(bytes.clone());
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    // An origin that answers the first question and no other.
    let served = bytes.clone();
    let fickle = Canned::start(move |asked, before| {
        if before > 0 {
            loop {
                std::thread::park();
            }
        }
        Reply::part(&served, asked)
    });
    let mut job = job(&seeded, dir.path(), silent.local_addr().unwrap(), &web);
    job.origins = Some(Box::new(origins([fickle.url("shop").as_str()])));
    let (modes, last) = staged(job, || ()).await;
    let [(Mode::Origin, first), (Mode::Controller, second)] = &modes[..] else { panic!("{modes:?}, {last:?}") };
    assert_eq!((first.as_str(), second.as_str()), ("nothing came for 4 s", "nothing came for 4 s"));
    let FromAgent::Staged { bytes: counts, .. } = last else { panic!("{last:?}") };
    assert_eq!(counts.from_controller, bytes.len() as u64);
    seeded.seed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_come_from_the_controllers_web_server_as_well() {
    let dir = fast_dir();
    let mut blob = Vec::new();
    let files = [("a.txt", vec![b'a'; 70_000]), ("b/c.bin", artifact::noise(300_000, "c")), ("d.txt", b"d".to_vec())];
    let seeded = Seeded::made_by("dist", |path| {
        for (name, content) in &files {
            let file = path.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
            blob.extend_from_slice(content);
        }
    })
    .await;
    let web = serving(blob.clone());
    let staged = staged(job(&seeded, dir.path(), free_address(), &web), || {
        let release = dir.path().join("app/releases").join(RELEASE);
        assert_eq!(std::fs::read(release.join("b/c.bin")).unwrap(), files[1].1);
    });
    let (modes, last) = staged.await;
    assert_eq!(modes.len(), 1, "{modes:?}, {last:?}");
    let FromAgent::Staged { bytes: counts, .. } = last else { panic!("{last:?}") };
    assert_eq!(counts.from_controller, blob.len() as u64);
    seeded.seed.stop().await;
}

/// Takes all ports of a range that nobody else uses.
fn taken() -> (PortRange, Vec<TcpListener>) {
    let take = |low: u16| {
        let listeners: Vec<_> =
            (low..low + PortRange::LEAST).map_while(|port| TcpListener::bind(("0.0.0.0", port)).ok()).collect();
        (listeners.len() == usize::from(PortRange::LEAST))
            .then(|| (PortRange::new(low, low + PortRange::LEAST - 1).unwrap(), listeners))
    };
    (20_000..30_000).step_by(7).find_map(take).expect("four free ports in a row")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_listen_connects_to_the_others() {
    let dir = fast_dir();
    let bytes = std::fs::read(artifact::shop(dir.path(), "1", 300_000)).unwrap();
    let seeded = Seeded::new("shop.tar.zst", &bytes).await;
    let (ports, _listeners) = taken();
    let job = DeployJob { ports: Some(ports), ..seeded.job(dir.path(), RELEASE) };
    let (modes, last) = staged(job, || ()).await;
    let [(Mode::Peers, reason)] = &modes[..] else { panic!("{modes:?}, {last:?}") };
    assert!(reason.starts_with("can't listen on ") && reason.contains("in use"), "{reason}");
    let FromAgent::Staged { bytes: counts, .. } = last else { panic!("{last:?}") };
    assert_eq!(counts.from_controller, bytes.len() as u64);
    seeded.seed.stop().await;
}
