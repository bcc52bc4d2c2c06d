//! What a host does when all goes well, deploy after deploy.

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
};

use base64::Engine as _;
use flate2::read::GzDecoder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    engine::Manner,
    support::{Artifact, Host, names, tar, zip},
};
use crate::{
    agent::Ended,
    model::{HostState, ReleaseId},
    wire::{FromAgent, Job, RelayToken, ToAgent},
};

/// `bin/shop` with "shop 1" in it, as tar.xz: the agent's xz library only reads.
const TAR_XZ: &str = "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jM4Cf/AHFdADEaShsFkZA3OlG9V3Gz1uQT2IkQonAbexNN15tic70r6rNJbkVqC6RLQH26\
    65UL53zP0Zj/vfj9Uwzchj+Po4UEnlytI79a473YBGu+Usjd+aT+EnXCL8tGkikVOtj+hqvJce7h38jfh0GtPHgDog0AAAAAAFtj\
    7RzWsyywAAGNAYBQAADgYv7dscRn+wIAAAAABFla";

fn id(text: &str) -> ReleaseId {
    text.parse().unwrap()
}

#[tokio::test]
async fn every_kind_of_archive_becomes_a_release() {
    let content = b"shop 1";
    let plain = tar(&[("bin/shop", content)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bzip.write_all(&plain).unwrap();
    for (name, bytes) in [
        ("shop.tar.gz", gzip.finish().unwrap()),
        ("shop.tar.bz2", bzip.finish().unwrap()),
        ("shop.tar.zst", zstd::encode_all(&*plain, 3).unwrap()),
        ("shop.tar.xz", base64::engine::general_purpose::STANDARD.decode(TAR_XZ).unwrap()),
        ("shop.zip", zip("bin/shop", content)),
        ("shop.tar", plain),
    ] {
        let host = Host::new();
        host.deploy(&Artifact::new(name, bytes), "r1").await;
        assert_eq!(host.live().as_deref(), Some("shop 1"), "{name}");
    }
    let host = Host::new();
    host.deploy(&Artifact::new("model.bin", b"weights".to_vec()), "r1").await;
    assert_eq!(std::fs::read(host.path("app/current/model.bin")).unwrap(), b"weights");
}

/// Fetches from an agent that serves itself; nothing if it refuses.
async fn fetch(port: u16, token: &RelayToken) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(format!("GET {} HTTP/1.0\r\n\r\n", token.path()).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let mut agent = Vec::new();
    answer.starts_with(b"HTTP/1.1 200 ").then(|| GzDecoder::new(&answer[head + 4..]).read_to_end(&mut agent).unwrap())?;
    Some(agent)
}

#[tokio::test]
async fn an_agent_serves_itself_when_asked_and_as_long_as_its_job_lasts() {
    let (host, artifact) = (Host::new(), Artifact::version("1"));
    std::fs::write(host.path("agent"), "this agent").unwrap();
    let mut agent = host.deploying(&artifact, "r1").await;
    let token = RelayToken::from_random([1; 16]);
    agent.tell(ToAgent::Relay { address: [127, 0, 0, 1].into(), ports: None, token: token.clone() }).await;
    let mut port = None;
    for _ in 0..2 {
        match agent.hear().await {
            FromAgent::Relays { port: there } => port = there,
            FromAgent::Prepared { .. } => (),
            message => panic!("{message:?}"),
        }
    }
    let port = port.expect("it serves");
    assert_eq!(fetch(port, &token).await.as_deref(), Some(b"this agent".as_slice()));
    assert_eq!(fetch(port, &RelayToken::from_random([2; 16])).await, None, "with another run's token");
    agent.tell(ToAgent::Start { peers: Vec::new() }).await;
    let message = agent.hear().await;
    assert!(matches!(message, FromAgent::Staged { .. }), "{message:?}");
    assert!(fetch(port, &token).await.is_some());
    assert_eq!(agent.stop().await, Ended::Orderly);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "it still listens");
}

#[tokio::test]
async fn an_agent_that_cannot_listen_at_the_address_says_so() {
    let (host, artifact) = (Host::new(), Artifact::version("1"));
    let mut agent = host.deploying(&artifact, "r1").await;
    assert!(matches!(agent.hear().await, FromAgent::Prepared { .. }));
    // Of a network for documentation: nobody's own.
    agent.tell(ToAgent::Relay { address: [192, 0, 2, 1].into(), ports: None, token: RelayToken::from_random([1; 16]) }).await;
    let message = agent.hear().await;
    assert!(matches!(message, FromAgent::Relays { port: None }), "{message:?}");
    agent.tell(ToAgent::Start { peers: Vec::new() }).await;
    assert!(matches!(agent.hear().await, FromAgent::Staged { .. }));
    assert_eq!(agent.stop().await, Ended::Orderly);
}

#[tokio::test]
async fn a_deploy_tells_each_step_once_and_in_order() {
    let (host, artifact) = (Host::new(), Artifact::version("1"));
    let mut agent = host.deploying(&artifact, "r1").await;
    let FromAgent::Prepared { port, have, current } = agent.hear().await else { panic!() };
    assert_eq!((port, have, current), (Some(6881), 0, None));
    agent.tell(ToAgent::Start { peers: Vec::new() }).await;
    let mut states = Vec::new();
    let bytes = loop {
        match agent.hear_any().await.unwrap() {
            FromAgent::State { state } => states.push(state),
            FromAgent::Progress(_) => {}
            FromAgent::Staged { release, bytes } if release == id("r1") => break bytes,
            message => panic!("{message:?}"),
        }
    };
    assert_eq!(states, [HostState::Downloading, HostState::Verifying, HostState::Extracting]);
    assert_eq!(bytes.from_peers, artifact.bytes.len() as u64);
    assert_eq!(host.live(), None, "staged is not live");
    assert_eq!(agent.activate().await, None);
    agent.confirm().await;
    assert_eq!(agent.stop().await, Ended::Orderly);
    assert_eq!(host.live().as_deref(), Some("shop 1"));
    assert_eq!(std::fs::read_link(host.path("app/current")).unwrap(), std::path::Path::new("releases/r1"));
}

#[tokio::test]
async fn the_same_deploy_again_does_nothing() {
    let (host, artifact) = (Host::new(), Artifact::version("1"));
    host.deploy(&artifact, "r1").await;
    let mut agent = host.deploying(&artifact, "r2").await;
    let FromAgent::AlreadyActive { current, previous } = agent.hear().await else { panic!() };
    assert_eq!((current, previous), (id("r1"), None));
    assert_eq!(agent.stop().await, Ended::Orderly);
    assert_eq!(host.releases(), ["r1"]);
}

#[tokio::test]
async fn a_second_version_keeps_the_first_and_a_rollback_goes_there_and_no_further() {
    let host = Host::new();
    let artifacts = ["1", "2", "3"].map(Artifact::version);
    for (artifact, release) in artifacts.iter().zip(["r1", "r2", "r3"]) {
        host.deploy(artifact, release).await;
    }
    for (live, before, next) in [("shop 2", "r3", Some("r1")), ("shop 1", "r2", None)] {
        let mut agent = host.agent(&artifacts[0], host.rollback_job(None)).await;
        agent.until_staged().await;
        assert_eq!(agent.activate().await, Some(id(before)));
        agent.confirm().await;
        assert_eq!(agent.stop().await, Ended::Orderly);
        assert_eq!(host.live().as_deref(), Some(live));
        assert_eq!(host.status().await.previous, next.map(id));
    }
    let mut agent = host.agent(&artifacts[0], host.rollback_job(None)).await;
    assert!(agent.failure().await.message.starts_with("no earlier release to go back to in /"));
    // What a rollback left behind is gone back to by name, and what follows it goes back to where it was.
    let mut agent = host.agent(&artifacts[0], host.rollback_job(Some("r3"))).await;
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    assert_eq!(host.live().as_deref(), Some("shop 3"));
}

#[tokio::test]
async fn a_deploy_after_a_rollback_goes_back_to_what_it_replaced() {
    let host = Host::new();
    for (version, release) in [("1", "r1"), ("2", "r2")] {
        host.deploy(&Artifact::version(version), release).await;
    }
    let mut agent = host.agent(&Artifact::version("1"), host.rollback_job(None)).await;
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    host.deploy(&Artifact::version("3"), "r3").await;
    assert_eq!(host.status().await.previous, Some(id("r1")), "not the release that was rolled back");
}

#[tokio::test]
async fn a_rollback_to_what_is_live_or_missing_changes_nothing() {
    let host = Host::new();
    let artifact = Artifact::version("1");
    let mut agent = host.agent(&artifact, host.rollback_job(None)).await;
    assert!(agent.failure().await.message.contains("nothing was deployed there"));
    assert!(!host.path("app").exists());
    host.deploy(&artifact, "r1").await;
    let mut agent = host.agent(&artifact, host.rollback_job(Some("r9"))).await;
    assert!(agent.failure().await.message.starts_with("release r9 is not in /"));
    let mut agent = host.agent(&artifact, host.rollback_job(Some("r1"))).await;
    assert!(matches!(agent.hear().await, FromAgent::AlreadyActive { .. }));
    agent.stop().await;
    assert_eq!(host.live().as_deref(), Some("shop 1"));
}

#[tokio::test]
async fn old_releases_go_and_the_previous_one_never() {
    let host = Host { keep_releases: 2, ..Host::new() };
    for n in 1..=4 {
        host.deploy(&Artifact::version(&n.to_string()), &format!("r{n}")).await;
    }
    assert_eq!(host.releases(), ["r3", "r4"]);
    assert_eq!(names(&host.path("app/.fleetdrop/releases")), ["r3.json", "r4.json"]);
    // Back to r3, then on to r5: r4 is newer than r3, but r3 is where a rollback goes.
    let mut agent = host.agent(&Artifact::version("3"), host.rollback_job(None)).await;
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    host.deploy(&Artifact::version("5"), "r5").await;
    assert!(host.releases().contains(&"r3".to_owned()), "{:?}", host.releases());
    assert_eq!(host.status().await.previous, Some(id("r3")));
}

#[tokio::test]
async fn what_another_tool_put_there_is_gone_back_to_and_never_removed() {
    let host = Host { keep_releases: 2, ..Host::new() };
    std::fs::create_dir_all(host.path("app/releases/20200101/bin")).unwrap();
    std::fs::write(host.path("app/releases/20200101/bin/shop"), "old shop").unwrap();
    // An absolute link, as Capistrano makes them.
    std::os::unix::fs::symlink(host.path("app/releases/20200101"), host.path("app/current")).unwrap();
    host.deploy(&Artifact::version("1"), "r1").await;
    assert_eq!(host.status().await.previous, Some(id("20200101")));
    for n in 2..=4 {
        host.deploy(&Artifact::version(&n.to_string()), &format!("r{n}")).await;
    }
    assert_eq!(host.releases(), ["20200101", "r3", "r4"]);
}

#[tokio::test]
async fn the_artifact_is_cached_and_used_again_only_if_it_is_still_right() {
    let (mut host, artifact) = (Host::new(), Artifact::version("1"));
    host.deploy(&artifact, "r1").await;
    assert!(host.cached(&artifact).exists());
    assert!(names(&host.path("app/.fleetdrop/partial")).is_empty());
    host.deploy(&Artifact::version("2"), "r2").await;
    // Nothing can be transferred now.
    host.manner = Manner::Stalls;
    let mut agent = host.deploying(&artifact, "r3").await;
    let FromAgent::Prepared { have, .. } = agent.hear().await else { panic!() };
    assert_eq!(have, artifact.bytes.len() as u64);
    agent.tell(ToAgent::Start { peers: Vec::new() }).await;
    let FromAgent::Staged { bytes, .. } = agent.hear().await else { panic!() };
    assert_eq!((bytes.from_disk, bytes.from_peers), (artifact.bytes.len() as u64, 0));
    agent.stop().await;
    // A flipped bit on the disk.
    let mut rotten = artifact.bytes.to_vec();
    rotten[700] ^= 1;
    std::fs::write(host.cached(&artifact), &rotten).unwrap();
    host.manner = Manner::Good;
    let mut agent = host.deploying(&artifact, "r4").await;
    let warning = agent.warning().await;
    assert!(warning.starts_with("the cached artifact is not used: /") && warning.contains("SHA-256"), "{warning}");
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    assert_eq!(host.live().as_deref(), Some("shop 1"));
    assert_eq!(std::fs::read(host.cached(&artifact)).unwrap(), *artifact.bytes);
}

#[tokio::test]
async fn the_cache_is_bounded_but_keeps_this_runs_artifact() {
    let host = Host { cache_limit: 1, ..Host::new() };
    let [one, two] = ["1", "2"].map(Artifact::version);
    host.deploy(&one, "r1").await;
    host.deploy(&two, "r2").await;
    assert!(!host.cached(&one).exists() && host.cached(&two).exists());
}

#[tokio::test]
async fn a_cache_that_was_asked_for_must_work_and_the_default_one_is_only_a_help() {
    let (host, artifact) = (Host::new(), Artifact::version("1"));
    std::fs::write(host.path("blocked"), "a file where a directory should be").unwrap();
    let mut job = host.deploy_job(&artifact, "r1");
    job.cache = Some(host.path("blocked/cache").display().to_string());
    let mut agent = host.agent(&artifact, Job::Deploy(Box::new(job.clone()))).await;
    let failure = agent.failure().await;
    assert!(failure.message.contains("blocked is not safe to deploy through: it is not a directory"), "{failure:?}");
    agent.ended().await;
    // The same place, as the default.
    job.cache = None;
    let mut agent = host.agent(&artifact, Job::Deploy(Box::new(job))).await;
    assert!(agent.warning().await.starts_with("deploying without a cache: "));
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    assert_eq!(host.live().as_deref(), Some("shop 1"));
    assert_eq!(names(&host.path("app/.fleetdrop/partial")), Vec::<String>::new(), "what is not cached is not kept either");
}

#[tokio::test]
async fn status_shows_what_is_there_and_changes_nothing() {
    let host = Host::new();
    let empty = host.status().await;
    assert_eq!((empty.current, empty.releases.len()), (None, 0));
    assert!(!host.path("app").exists());
    let [one, two] = ["1", "2"].map(Artifact::version);
    host.deploy(&one, "r1").await;
    host.deploy(&two, "r2").await;
    let status = host.status().await;
    assert_eq!(status.deploy_to, host.path("app").display().to_string());
    assert_eq!((status.current, status.previous, status.locked_by), (Some(id("r2")), Some(id("r1")), None));
    let listed: Vec<_> = status.releases.iter().map(|release| (release.id.as_str(), release.digest)).collect();
    assert_eq!(listed, [("r2", Some(two.digest())), ("r1", Some(one.digest()))]);
    assert!(status.releases.iter().all(|release| release.activated_at.is_some()));
    let job = host.deploy_job(&Artifact::version("3"), "r3");
    let run = job.run.clone();
    let mut agent = host.agent(&Artifact::version("3"), Job::Deploy(Box::new(job))).await;
    agent.start().await;
    assert_eq!(host.status().await.locked_by, Some(run));
    agent.stop().await;
    assert_eq!(host.status().await.locked_by, None);
}

#[tokio::test]
async fn a_resumed_download_fetches_only_the_rest() {
    let (mut host, artifact) = (Host::new(), Artifact::new("model.bin", vec![7; 300_000]));
    host.manner = Manner::Stalls;
    let mut agent = host.deploying(&artifact, "r1").await;
    agent.start().await;
    // Half of it arrives, then the controller goes away.
    while !matches!(agent.hear_any().await.unwrap(), FromAgent::Progress(progress) if progress.bytes.from_peers > 0) {}
    agent.stop().await;
    assert_eq!(std::fs::metadata(host.partial(&artifact)).unwrap().len(), 150_000);
    host.manner = Manner::Good;
    let mut agent = host.deploying(&artifact, "r2").await;
    let FromAgent::Prepared { have, .. } = agent.hear().await else { panic!() };
    assert_eq!(have, 150_000);
    agent.tell(ToAgent::Start { peers: Vec::new() }).await;
    let FromAgent::Staged { bytes, .. } = agent.hear().await else { panic!() };
    assert_eq!((bytes.from_disk, bytes.from_peers), (150_000, 150_000));
    agent.stop().await;
}

#[tokio::test]
async fn progress_is_told_though_no_piece_is_verified_yet() {
    let host = Host { manner: Manner::Unverified, ..Host::new() };
    let mut agent = host.deploying(&Artifact::version("1"), "r1").await;
    agent.start().await;
    let progress = loop {
        if let FromAgent::Progress(progress) = agent.hear_any().await.unwrap()
            && progress.payload > 0
        {
            break progress;
        }
    };
    assert_eq!(progress.bytes.received(), 0);
    agent.tell(ToAgent::Peers { peers: vec![super::support::peer()] }).await;
    while !matches!(agent.hear_any().await.unwrap(), FromAgent::Progress(next) if next.payload > progress.payload) {}
    agent.stop().await;
}

#[tokio::test]
async fn a_host_keeps_uploading_after_confirmation_and_survives_its_engine() {
    let mut host = Host::new();
    host.manner = Manner::DiesLater;
    let artifact = Artifact::version("1");
    let mut agent = host.deploying(&artifact, "r1").await;
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.tell(ToAgent::Peers { peers: vec![super::support::peer()] }).await;
    assert_eq!(agent.warning().await, "the host no longer uploads: the swarm engine failed: the network is gone");
    assert_eq!(agent.stop().await, Ended::Orderly);
    assert_eq!(host.live().as_deref(), Some("shop 1"));
}

#[tokio::test]
async fn one_artifact_is_shared_by_two_applications_of_a_host() {
    let (host, artifact) = (Host::new(), Artifact::new("shop.tar", tar(&[("bin/shop", b"shop 1")])));
    host.deploy(&artifact, "r1").await;
    let mut job = host.deploy_job(&artifact, "r1");
    job.deploy_to = "~/other".into();
    let other = Artifact { bytes: Arc::clone(&artifact.bytes), ..artifact };
    let mut agent = host.agent(&other, Job::Deploy(Box::new(job))).await;
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    assert_eq!(std::fs::read_to_string(host.path("other/current/bin/shop")).unwrap(), "shop 1");
}
