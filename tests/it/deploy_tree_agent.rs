//! Directories as the agent meets them: hostile listings, very many files.

use std::{
    fs,
    time::{Duration, Instant},
};

use fleetdrop::{
    model::{ArchiveKind, HostFailure},
    wire::{DeployJob, FromAgent, PackedInfo, StopReason, ToAgent},
};
use rustix::process::Pid;

use crate::{
    agent_rig::{Agent, Seeded, fast_dir, live},
    deploy_tree::{contents, write},
    interop_deploy::{AGENT_MEMORY, usage},
};

/// Gives an agent a job that it has to refuse.
async fn refusal(job: DeployJob) -> HostFailure {
    let mut agent = Agent::deploying(job).await;
    let Some(FromAgent::Failed(failure)) = agent.answer().await else { panic!("it was not refused") };
    assert_eq!(agent.exit().await.code(), Some(0));
    failure
}

#[tokio::test]
async fn a_hostile_listing_is_refused_before_anything_is_touched() {
    let artifact = Seeded::made_by("dist", |root| {
        write(root, "aa", "content", 0o644);
        write(root, "dd/ee", "more", 0o644);
        std::os::unix::fs::symlink("aa", root.join("zz")).unwrap();
    })
    .await;
    let dir = fast_dir();
    let good = artifact.metainfo.info_bytes().to_vec();
    for (what, from, to) in [
        ("a name that leads up", "pathl2:aae", "pathl2:..e"),
        ("a name that is a path", "pathl2:aae", "pathl2:/ae"),
        ("the same name twice", "pathl2:zze", "pathl2:aae"),
        ("a link in the place of a directory", "pathl2:zze", "pathl2:dde"),
        ("a file in no directory", "2:dd2:ee", "2:xx2:ee"),
        ("a link that leads up", "target2:aa", "target2:.."),
        ("an absolute link", "target2:aa", "target2:/a"),
        ("a set-user-id file", "modei420e4:pathl2:aae", "modei994e4:pathl2:aae"),
        ("a huge length", "lengthi7e", "lengthi7777777777e"),
        ("another mode than the digest's", "modei420e4:pathl2:aae", "modei493e4:pathl2:aae"),
    ] {
        let at = good.windows(from.len()).position(|window| window == from.as_bytes()).expect(what);
        let bad = [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat();
        let job = DeployJob { info: PackedInfo::new(&bad).unwrap(), ..artifact.job(dir.path(), "r1") };
        let failure = refusal(job).await;
        assert!(failure.message.contains("torrent") || failure.message.contains("not usable"), "{what}: {failure:?}");
    }
    let job = || artifact.job(dir.path(), "r1");
    let with = |change: &dyn Fn(&mut DeployJob)| {
        let mut job = job();
        change(&mut job);
        job
    };
    for job in [
        with(&|job| job.manifest.tree = None),
        with(&|job| job.manifest.archive = ArchiveKind::Tar),
        with(&|job| job.manifest.size += 1),
        with(&|job| job.manifest.digest.0[0] ^= 1),
        with(&|job| job.manifest.tree.as_mut().unwrap().entries += 1),
    ] {
        refusal(job).await;
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was made");
    // The whole is right, and yet not what was announced: nothing of it becomes a release.
    let failure = {
        let mut agent = Agent::deploying(with(&|job| job.manifest.tree.as_mut().unwrap().blob.0[0] ^= 1)).await;
        assert!(matches!(agent.answer().await, Some(FromAgent::Prepared { .. })));
        agent.tell(ToAgent::Start { peers: Vec::new() }).await;
        let Some(FromAgent::Failed(failure)) = agent.answer().await else { panic!("it was not refused") };
        failure
    };
    assert!(failure.message.contains("SHA-256"), "{failure:?}");
    assert!(live(dir.path()).is_none());
    // The listing itself is sound.
    let mut agent = Agent::deploying(job()).await;
    agent.until_activated().await;
    agent.tell(ToAgent::Stop { reason: StopReason::Interrupted }).await;
}

/// How long ten thousand files may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn ten_thousand_files_take_little_memory_and_time() {
    const FILES: usize = 10_000;
    let fill = |root: &std::path::Path, version: &str| {
        for n in 0..FILES {
            let content = if n == 5_000 { version.to_owned() } else { format!("file {n} ").repeat(n % 300) };
            write(root, &format!("assets/{:02}/file-{n:05}.txt", n % 100), content, 0o644);
        }
    };
    let dir = fast_dir();
    let mut before: Option<(Seeded, tempfile::TempDir)> = None;
    for version in ["one", "two, which is longer"] {
        let wanted = fast_dir();
        fill(wanted.path(), version);
        let artifact = Seeded::made_by("dist", |root| fill(root, version)).await;
        assert_eq!(artifact.manifest.tree.unwrap().entries as usize, FILES + 101);
        let began = Instant::now();
        let mut agent = Agent::deploying(artifact.job(dir.path(), &format!("r-{}", version.len()))).await;
        let Some(FromAgent::Prepared { have, .. }) = agent.answer().await else { panic!() };
        agent.tell(ToAgent::Start { peers: Vec::new() }).await;
        let Some(FromAgent::Staged { bytes, .. }) = agent.answer().await else { panic!() };
        let took = began.elapsed();
        let (memory, _) = usage(agent.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).unwrap());
        assert!(memory <= AGENT_MEMORY, "the agent took {memory} KiB");
        assert!(took <= PATIENCE, "it took {took:?}");
        if before.is_some() {
            let size = artifact.manifest.size;
            assert_eq!((bytes.from_disk, bytes.from_disk + bytes.from_controller), (have, size));
            assert!(bytes.from_controller <= 4 * u64::from(artifact.metainfo.piece_length()), "{bytes:?} of {size}");
        }
        agent.tell(ToAgent::Activate).await;
        assert!(matches!(agent.answer().await, Some(FromAgent::Activated { .. })));
        assert!(matches!(agent.answer().await, Some(FromAgent::Checked)));
        agent.tell(ToAgent::Confirm).await;
        assert!(matches!(agent.answer().await, Some(FromAgent::Confirmed)));
        assert!(contents(&live(dir.path()).unwrap()) == contents(wanted.path()), "the release differs");
        agent.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
        assert!(agent.exit().await.success());
        before = Some((artifact, wanted));
    }
}
