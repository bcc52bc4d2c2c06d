//! Whole deploys whose tracker lies. It is the controller's own, so a real one would have to be another program at its address: here the
//! controller of real agents is the test, which names a tracker of its own in their jobs.

use std::net::{Ipv4Addr, SocketAddr};

use fleetdrop::wire::{FromAgent, PeerAddr, StopReason, ToAgent};
use rustix::process::Pid;

use crate::{
    agent_rig::{Agent, Seeded, fast_dir, live},
    artifact::noise,
    attacker::{Fault, Siege, Torrent},
    interop_deploy::{AGENT_FILES, AGENT_MEMORY, usage},
    swarm::within,
    swarm_tracker::{Liar, Lie, peers},
};

/// A plain file, which is the release's only one.
const NAME: &str = "shop.bin";
const SIZE: usize = 3 << 20;

/// Addresses where nobody answers.
fn nowhere(many: u32) -> impl Iterator<Item = SocketAddr> {
    (0..many).map(|number| SocketAddr::from((Ipv4Addr::from(0x7f63_0000 + number), 9)))
}

/// An answer with that interval and no peers.
fn interval(seconds: &str) -> Lie {
    Lie::Body(format!("d8:intervali{seconds}e12:min intervali{seconds}e5:peers0:e").into_bytes())
}

/// Waits until a host has staged; that it asks for another way meanwhile, or tells of it, is no failure.
async fn has_staged(agent: &mut Agent) {
    loop {
        match agent.answer().await {
            Some(FromAgent::Staged { .. }) => return,
            Some(FromAgent::Stranded { .. } | FromAgent::Mode { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Two hosts whose jobs name such a tracker, and which hear of each other and of the seed only when it has lied to them, go through the
/// whole deploy.
async fn deploys_in_spite_of(lie: Lie, artifact: &Seeded, content: &[u8]) {
    let mut liar = Liar::start(lie).await;
    let dirs = [fast_dir(), fast_dir()];
    let mut agents = Vec::new();
    let mut sources = artifact.job(dirs[0].path(), "r1").controller_peers;
    for dir in &dirs {
        let mut job = artifact.job(dir.path(), "r1");
        (job.seed, job.tracker) = (None, Some(liar.announce_url()));
        // Nobody says anything to the agents meanwhile.
        job.lease_seconds = 300;
        let mut agent = Agent::deploying(job).await;
        let Some(FromAgent::Prepared { port: Some(port), .. }) = agent.answer().await else { panic!("it is not prepared") };
        sources.push(PeerAddr(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        agent.tell(ToAgent::Start { peers: Vec::new() }).await;
        agents.push(agent);
    }
    within("both were lied to", liar.announces.wait_for(|times| *times >= 2)).await.unwrap();
    for agent in &mut agents {
        agent.tell(ToAgent::Peers { peers: sources.clone() }).await;
    }
    for (mut agent, dir) in agents.into_iter().zip(&dirs) {
        within("a host has everything", has_staged(&mut agent)).await;
        let pid = agent.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).unwrap();
        let (memory, files) = usage(pid);
        assert!(memory <= AGENT_MEMORY && files <= AGENT_FILES, "an agent took {memory} KiB and {files} files");
        agent.tell(ToAgent::Activate).await;
        assert!(matches!(agent.answer().await, Some(FromAgent::Activated { .. })));
        assert!(matches!(agent.answer().await, Some(FromAgent::Checked)));
        agent.tell(ToAgent::Confirm).await;
        assert!(matches!(agent.answer().await, Some(FromAgent::Confirmed)));
        agent.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
        // A tracker that does not answer must not hold up the end either.
        assert_eq!(within("the agent's end", agent.exit()).await.code(), Some(0));
        assert!(std::fs::read(live(dir.path()).unwrap().join(NAME)).unwrap() == content, "another release is live");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_go_live_whatever_their_tracker_says() {
    let content = noise(SIZE, "whatever a tracker says");
    let artifact = Seeded::new(NAME, &content).await;
    let torrent = Torrent {
        info_hash: artifact.metainfo.info_hash().0,
        length: artifact.metainfo.length(),
        piece_length: artifact.metainfo.piece_length(),
    };
    let mut siege = Siege::default();
    let mut strangers = Vec::new();
    for fault in Fault::ALL {
        strangers.push(siege.lie_in_wait(fault, &torrent, Ipv4Addr::LOCALHOST).await);
    }
    let lies = [
        // Peers that do everything a peer must not.
        peers(strangers.clone()),
        // The same among more than can be dialled, and lists longer than an answer may be.
        peers(strangers.iter().copied().chain(nowhere(20_000))),
        peers(nowhere(60_000).chain(nowhere(60_000)).chain(strangers.iter().copied())),
        Lie::Body(b"d8:intervali1e5:peers999999999:".to_vec()),
        // What is no answer.
        Lie::Body(noise(60_000, "garbage")),
        Lie::Body([&b"d5:peers"[..], &b"l".repeat(5000)].concat()),
        Lie::Endless,
        Lie::Nothing,
        Lie::Half,
        // Intervals that nobody can keep.
        interval("0"),
        interval("-1"),
        interval("18446744073709551615"),
    ];
    // One fleet after the other: the seed counts on hosts that pass on what they have, and these two know nobody else.
    for lie in lies {
        deploys_in_spite_of(lie, &artifact, &content).await;
    }
}
