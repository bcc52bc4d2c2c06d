//! The agent as a process: arguments, signals, closed streams, disks that are full or read-only.

use std::{path::Path, process::Stdio};

use fleetdrop::{
    model::{HostFailure, HostState},
    wire::{DeployJob, FromAgent, Job, StopReason, ToAgent, WIRE_VERSION},
};
use rustix::process::Signal;
use tokio::process::Command;

use crate::agent_rig::{Agent, Seeded, fast_dir, live};

/// A tar archive with one file.
fn archive(content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, "shop", content).unwrap();
    archive.into_inner().unwrap()
}

async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fleetdrop-agent")).args(args).stdin(Stdio::null()).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn version_and_bad_arguments() {
    let (code, out, _) = run(&["--version"]).await;
    let version = format!("fleetdrop-agent {} wire {WIRE_VERSION}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((code, out), (Some(0), version));
    let (code, out, error) = run(&["deploy"]).await;
    assert_eq!((code, out.as_str()), (Some(5), ""));
    assert!(error.starts_with("error: unknown command `deploy`\nusage: ") && error.contains("hint: "), "{error}");
}

#[tokio::test]
async fn a_transfer_from_a_real_seed_goes_live_and_is_counted() {
    let dir = fast_dir();
    let artifact = Seeded::new("shop.tar", &archive(&vec![b'x'; 1 << 20])).await;
    let mut agent = Agent::deploying(artifact.job(dir.path(), "r1")).await;
    let Some(FromAgent::Prepared { port: Some(port), have: 0, current: None }) = agent.answer().await else { panic!() };
    assert_ne!(port, 0);
    agent.tell(ToAgent::Start { peers: Vec::new() }).await;
    let Some(FromAgent::Staged { bytes, .. }) = agent.answer().await else { panic!() };
    assert_eq!((bytes.from_controller, bytes.from_peers), (artifact.manifest.size, 0));
    agent.tell(ToAgent::Activate).await;
    assert!(matches!(agent.answer().await, Some(FromAgent::Activated { previous: None, .. })));
    assert!(matches!(agent.answer().await, Some(FromAgent::Checked)));
    agent.tell(ToAgent::Confirm).await;
    assert!(matches!(agent.answer().await, Some(FromAgent::Confirmed)));
    agent.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
    assert_eq!(agent.exit().await.code(), Some(0));
    assert!(live(dir.path()).unwrap().ends_with("releases/r1"));
}

#[tokio::test]
async fn a_confirmed_host_goes_on_uploading_what_it_moved_into_the_cache() {
    let dir = fast_dir();
    let mut artifact = Seeded::new("shop.tar", &archive(&vec![b'x'; 1 << 20])).await;
    let mut first = Agent::deploying(artifact.job(dir.path(), "r1")).await;
    let Some(FromAgent::Prepared { port: Some(port), .. }) = first.answer().await else { panic!() };
    first.tell(ToAgent::Start { peers: Vec::new() }).await;
    assert!(matches!(first.answer().await, Some(FromAgent::Staged { .. })));
    first.tell(ToAgent::Activate).await;
    assert!(matches!(first.answer().await, Some(FromAgent::Activated { .. })));
    assert!(matches!(first.answer().await, Some(FromAgent::Checked)));
    first.tell(ToAgent::Confirm).await;
    assert!(matches!(first.answer().await, Some(FromAgent::Confirmed)));
    // The seed is gone; only the first host has it.
    let other = fast_dir();
    let mut job = artifact.job(other.path(), "r1");
    let metainfo = artifact.metainfo.clone();
    artifact = {
        artifact.seed.stop().await;
        Seeded::new("unrelated.tar", &archive(b"unrelated")).await
    };
    assert_ne!(artifact.metainfo, metainfo);
    job.seed = None;
    let mut second = Agent::deploying(job).await;
    assert!(matches!(second.answer().await, Some(FromAgent::Prepared { .. })));
    let peer = fleetdrop::wire::PeerAddr(([127, 0, 0, 1], port).into());
    second.tell(ToAgent::Start { peers: vec![peer] }).await;
    let Some(FromAgent::Staged { bytes, .. }) = second.answer().await else { panic!() };
    assert_eq!(bytes.from_peers, metainfo.length());
    for mut agent in [first, second] {
        agent.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
        assert_eq!(agent.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_signal_reverts_what_is_not_confirmed() {
    for signal in [Signal::TERM, Signal::HUP] {
        let dir = fast_dir();
        let artifact = Seeded::new("shop.tar", &archive(b"1")).await;
        let mut agent = Agent::deploying(artifact.job(dir.path(), "r1")).await;
        agent.until_activated().await;
        agent.signal(signal);
        let Some(FromAgent::Reverted { current: None, reason, .. }) = agent.answer().await else { panic!() };
        assert_eq!(reason, "the agent was told to end by a signal");
        assert_eq!(agent.exit().await.code(), Some(1));
        assert_eq!(live(dir.path()), None);
    }
}

#[tokio::test]
async fn a_ping_is_answered() {
    let mut agent = Agent::start().await;
    agent.tell(ToAgent::Ping).await;
    assert!(matches!(agent.hear().await, Some(FromAgent::Alive)));
}

#[tokio::test]
async fn an_agent_whose_connection_was_lost_makes_way_for_the_next_one_of_its_run_and_for_no_other() {
    let dir = fast_dir();
    let artifact = Seeded::new("shop.tar", &archive(b"1")).await;
    let job = artifact.job(dir.path(), "r1");
    let mut old = Agent::deploying(job.clone()).await;
    old.until_activated().await;
    // The machine is in the inventory twice: the controller has lost no agent there.
    let mut twin = Agent::deploying(job.clone()).await;
    let Some(FromAgent::Failed(failure)) = twin.answer().await else { panic!() };
    assert!(failure.message.starts_with("another deploy works there: run "), "{failure:?}");
    assert!(live(dir.path()).is_some());
    // Its connection is gone, which nothing has told it yet.
    let mut new = Agent::deploying(DeployJob { replaces: old.child.id(), ..job }).await;
    assert!(matches!(new.answer().await, Some(FromAgent::Prepared { current: None, .. })));
    assert!(matches!(old.answer().await, Some(FromAgent::Reverted { current: None, .. })));
    assert_eq!(old.exit().await.code(), Some(1));
    new.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
    assert_eq!(new.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_recovery_follows_an_agent_that_was_killed_or_only_lost() {
    let artifact = Seeded::new("shop.tar", &archive(b"1")).await;
    for killed in [true, false] {
        let dir = fast_dir();
        let job = artifact.job(dir.path(), "r1");
        let (run, deploy_to) = (job.run.clone(), job.deploy_to.clone());
        let mut dead = Agent::deploying(job).await;
        dead.until_activated().await;
        let replaces = dead.child.id();
        if killed {
            dead.child.start_kill().unwrap();
        }
        let mut agent = Agent::start().await;
        agent.tell(ToAgent::Job(Job::Recover { run, deploy_to, replaces, back: None })).await;
        let answer = agent.answer().await;
        // The one that still lives goes back by itself when it is asked to end.
        let right = match answer {
            Some(FromAgent::Reverted { current: None, .. }) => killed,
            Some(FromAgent::Status(ref status)) => !killed && status.current.is_none(),
            _ => false,
        };
        assert!(right, "killed: {killed}, {answer:?}");
        assert_eq!(agent.exit().await.code(), Some(0));
        assert_eq!(live(dir.path()), None);
        dead.exit().await;
    }
}

#[tokio::test]
async fn a_link_local_address_to_advertise_is_listened_for_on_all() {
    let dir = fast_dir();
    let artifact = Seeded::new("shop.tar", &archive(b"1")).await;
    let job = DeployJob { advertise: Some("fe80::1".parse().unwrap()), ..artifact.job(dir.path(), "r1") };
    let mut agent = Agent::deploying(job).await;
    let Some(FromAgent::Warning { message, .. }) = agent.hear().await else { panic!() };
    assert_eq!(message, "fe80::1 is not an address of this host: listening on all of them");
    assert!(matches!(agent.answer().await, Some(FromAgent::Prepared { port: Some(_), .. })));
}

#[tokio::test]
async fn ctrl_c_in_a_terminal_that_a_local_agent_shares_is_left_to_the_controller() {
    let dir = fast_dir();
    let artifact = Seeded::new("shop.tar", &archive(b"1")).await;
    let mut agent = Agent::deploying(artifact.job(dir.path(), "r1")).await;
    agent.until_activated().await;
    agent.signal(Signal::INT);
    agent.tell(ToAgent::Confirm).await;
    assert!(matches!(agent.answer().await, Some(FromAgent::Confirmed)));
    agent.tell(ToAgent::Stop { reason: StopReason::Interrupted }).await;
    assert_eq!(agent.exit().await.code(), Some(0));
    assert!(live(dir.path()).is_some());
}

#[tokio::test]
async fn a_killed_transfer_is_resumed_from_what_was_there() {
    let dir = fast_dir();
    let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(3 << 20).collect();
    let artifact = Seeded::new("model.bin", &content).await;
    // As a dead agent leaves it: full length, half of the pieces.
    let partial = dir.path().join("app/.fleetdrop/partial");
    let mut agent = Agent::deploying(artifact.job(dir.path(), "r1")).await;
    assert!(matches!(agent.answer().await, Some(FromAgent::Prepared { have: 0, .. })));
    agent.child.kill().await.unwrap();
    let file = partial.join(artifact.manifest.digest.to_string());
    let half = content.len() / 2;
    let open = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, &content[..half], 0).unwrap();
    let mut agent = Agent::deploying(artifact.job(dir.path(), "r2")).await;
    let Some(FromAgent::Prepared { have, .. }) = agent.answer().await else { panic!() };
    assert_eq!(have, half as u64);
    agent.tell(ToAgent::Start { peers: Vec::new() }).await;
    let Some(FromAgent::Staged { bytes, .. }) = agent.answer().await else { panic!() };
    assert_eq!((bytes.from_disk, bytes.from_controller), (half as u64, half as u64));
    agent.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
    assert_eq!(agent.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_closed_stdin_ends_the_agent_though_stdout_is_closed_too() {
    let dir = fast_dir();
    let artifact = Seeded::new("shop.tar", &archive(b"1")).await;
    let mut agent = Agent::deploying(artifact.job(dir.path(), "r1")).await;
    agent.until_activated().await;
    // As when sshd has lost the connection: nothing comes, nothing can be said.
    agent.stdout = None;
    agent.stdin = None;
    assert_eq!(agent.exit().await.code(), Some(1));
    assert_eq!(live(dir.path()), None);
}

#[tokio::test]
async fn nonsense_on_stdin_is_answered_with_a_failure() {
    let mut agent = Agent::start().await;
    let stdin = agent.stdin.as_mut().unwrap();
    tokio::io::AsyncWriteExt::write_all(stdin, b"\0\0\0\x02{}").await.unwrap();
    let Some(FromAgent::Failed(failure)) = agent.answer().await else { panic!() };
    assert!(failure.message.starts_with("the controller sent a message that cannot be understood"), "{failure:?}");
    assert_eq!(agent.exit().await.code(), Some(1));
}

/// Runs an agent that sees a small file system of its own at `dir`, which goes with it.
async fn on_small_disk(dir: &Path, options: &str) -> Agent {
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let script = "mount -t tmpfs -o \"$1\" tmpfs \"$2\" && exec \"$3\" serve";
    unshare.args(["sh", "-c", script, "sh", options]).arg(dir).arg(env!("CARGO_BIN_EXE_fleetdrop-agent"));
    Agent::with(&mut unshare).await
}

async fn failure_on(options: &str, artifact: &Seeded) -> HostFailure {
    let dir = fast_dir();
    let mut agent = on_small_disk(dir.path(), options).await;
    agent.tell(ToAgent::Job(Job::Deploy(Box::new(artifact.job(dir.path(), "r1"))))).await;
    loop {
        match agent.answer().await {
            Some(FromAgent::Prepared { .. }) => agent.tell(ToAgent::Start { peers: Vec::new() }).await,
            Some(FromAgent::Failed(failure)) => return failure,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_too_small_is_told_before_the_transfer() {
    let artifact = Seeded::new("model.bin", &vec![7; 6 << 20]).await;
    let failure = failure_on("size=10m", &artifact).await;
    assert_eq!(failure.during, HostState::Preparing);
    let expected = "12.2 MiB needed (6.0 MiB for the artifact, 6.0 MiB for the release, 204.8 KiB reserve), 10.0 MiB free";
    assert!(
        failure.message.starts_with("not enough space in /") && failure.message.contains("MiB needed (6.0 MiB"),
        "{failure:?}"
    );
    assert_eq!(failure.message.split_once("releases: ").map(|(_, numbers)| numbers), Some(expected));
}

#[tokio::test]
async fn an_archive_that_expands_beyond_the_disk_fails_before_anything_is_visible() {
    let packed = zstd::encode_all(&*archive(&vec![0; 40 << 20]), 3).unwrap();
    let artifact = Seeded::new("shop.tar.zst", &packed).await;
    let failure = failure_on("size=10m", &artifact).await;
    assert_eq!(failure.during, HostState::Extracting);
    assert!(failure.hint.as_ref().unwrap().contains("old release stays live"), "{failure:?}");
}

#[tokio::test]
async fn a_disk_without_inodes_and_one_that_is_read_only_are_told_as_such() {
    let artifact = Seeded::new("shop.tar", &archive(b"1")).await;
    let failure = failure_on("size=10m,nr_inodes=14", &artifact).await;
    assert!(failure.message.contains("inodes"), "{failure:?}");
    let failure = failure_on("size=10m,ro", &artifact).await;
    assert!(failure.message.contains("Read-only file system"), "{failure:?}");
    assert!(failure.hint.unwrap().contains("mounted read-only"));
}
