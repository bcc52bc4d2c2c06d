//! What a host does when something goes wrong: in every case `current` is what it was, or what the controller was told.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    engine::Manner,
    support::{Artifact, Host, names, peer, tar},
};
use crate::{
    agent::Ended,
    model::HostState,
    swarm::Metainfo,
    wire::{FromAgent, Job, PackedInfo, StopReason, ToAgent},
};

#[tokio::test]
async fn wrong_bytes_are_discarded_and_the_old_release_stays() {
    let mut host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    host.manner = Manner::Corrupt;
    let two = Artifact::version("2");
    let mut agent = host.deploying(&two, "r2").await;
    agent.start().await;
    let failure = agent.failure().await;
    assert_eq!(failure.during, HostState::Verifying);
    assert!(failure.message.contains("its SHA-256 is") && failure.message.contains(&two.digest().to_string()), "{failure:?}");
    assert!(failure.hint.unwrap().contains("discarded"));
    assert_eq!(agent.ended().await, Ended::Orderly);
    assert_eq!((host.live().as_deref(), host.releases()), (Some("shop 1"), vec!["r1".to_owned()]));
    assert!(!host.partial(&two).exists() && !host.cached(&two).exists());
}

#[tokio::test]
async fn a_hostile_archive_leaves_nothing_visible() {
    let host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    for (name, bytes) in [
        ("evil.tar", tar(&[("bin/shop", b"evil"), ("../../../evil", b"evil")])),
        ("evil.tar", tar(&[("/tmp/evil", b"evil")])),
        ("broken.tar.gz", b"this is no archive".to_vec()),
    ] {
        let mut agent = host.deploying(&Artifact::new(name, bytes), "r2").await;
        agent.start().await;
        let failure = agent.failure().await;
        assert_eq!(failure.during, HostState::Extracting, "{failure:?}");
        assert!(failure.hint.unwrap().ends_with("nothing became visible and the old release stays live"));
        agent.ended().await;
        assert_eq!((host.live().as_deref(), host.releases()), (Some("shop 1"), vec!["r1".to_owned()]));
        assert_eq!(names(&host.path("")), ["app", "cache"]);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_with_numbers_and_does_not_stay_full() {
    let mut host = Host::new();
    host.manner = Manner::FullDisk;
    let artifact = Artifact::version("1");
    let mut agent = host.deploying(&artifact, "r1").await;
    agent.start().await;
    let failure = agent.failure().await;
    assert!(failure.message.contains("No space left on device") && failure.message.contains(" free"), "{failure:?}");
    assert!(failure.hint.unwrap().contains("free space"));
    agent.ended().await;
    assert!(!host.partial(&artifact).exists());
}

#[tokio::test]
async fn too_little_room_is_noticed_before_anything_is_transferred() {
    let (host, artifact) = (Host::new(), Artifact::new("model.bin", vec![0; 1000]));
    let mut job = host.deploy_job(&artifact, "r1");
    job.manifest.size = 1 << 40;
    let metainfo = Metainfo::new("model.bin", 1 << 40, 16 << 20, vec![[0; 20]; 1 << 16]).unwrap();
    job.info = PackedInfo::new(metainfo.info_bytes()).unwrap();
    let mut agent = host.agent(&artifact, Job::Deploy(Box::new(job))).await;
    let failure = agent.failure().await;
    assert_eq!(failure.during, HostState::Preparing);
    assert!(failure.message.starts_with("not enough space in /") && failure.message.contains("2.0 TiB needed"), "{failure:?}");
    assert!(failure.message.contains("1.0 TiB for the artifact") && failure.hint.is_some(), "{failure:?}");
    agent.ended().await;
    assert!(names(&host.path("app/.fleetdrop/partial")).is_empty());
}

#[tokio::test]
async fn the_second_deploy_fails_at_once_and_learns_who_is_there() {
    let host = Host::new();
    let one = Artifact::version("1");
    let job = host.deploy_job(&one, "r1");
    let run = job.run.clone();
    let mut first = host.agent(&one, Job::Deploy(Box::new(job))).await;
    first.start().await;
    let mut second = host.deploying(&Artifact::version("2"), "r2").await;
    let failure = second.failure().await;
    assert!(failure.message.contains(&format!("run {run} of anna@laptop (process {})", std::process::id())), "{failure:?}");
    assert!(failure.message.contains(" since 20") && failure.hint.is_some());
    second.ended().await;
    // It took nothing from the first one.
    assert!(matches!(first.hear().await, FromAgent::Staged { .. }));
    first.activate().await;
    first.confirm().await;
    first.stop().await;
    assert_eq!(host.live().as_deref(), Some("shop 1"));
}

#[tokio::test]
async fn a_current_that_is_not_ours_is_left_alone() {
    for (target, message) in [(None, "is a directory, not a symlink"), (Some("/usr"), "points to /usr, which is not in")] {
        let host = Host::new();
        std::fs::create_dir(host.path("app")).unwrap();
        match target {
            None => std::fs::create_dir(host.path("app/current")).unwrap(),
            Some(target) => std::os::unix::fs::symlink(target, host.path("app/current")).unwrap(),
        }
        let mut agent = host.deploying(&Artifact::version("1"), "r1").await;
        let failure = agent.failure().await;
        assert!(failure.message.contains(message) && failure.hint.is_some(), "{failure:?}");
        agent.ended().await;
        assert!(host.path("app/current").exists());
    }
}

#[tokio::test]
async fn a_symlink_planted_in_place_of_the_private_directory_is_refused() {
    let host = Host::new();
    std::fs::create_dir_all(host.path("app")).unwrap();
    std::fs::create_dir_all(host.path("trap")).unwrap();
    std::os::unix::fs::symlink(host.path("trap"), host.path("app/.fleetdrop")).unwrap();
    let mut agent = host.deploying(&Artifact::version("1"), "r1").await;
    assert!(agent.failure().await.message.contains("cannot open the private directory"));
    agent.ended().await;
    assert!(names(&host.path("trap")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_controller_ends_the_agent_and_the_partial_download_stays() {
    let mut host = Host::new();
    host.manner = Manner::Stalls;
    let artifact = Artifact::version("1");
    let mut agent = host.deploying(&artifact, "r1").await;
    agent.start().await;
    let failure = agent.failure().await;
    assert_eq!(failure.message, "nothing was heard from the controller for 30 s");
    assert_eq!(agent.ended().await, Ended::Lost("nothing was heard from the controller for 30 s".into()));
    assert!(host.partial(&artifact).exists());
    assert_eq!(host.releases(), Vec::<String>::new());
    assert_eq!(host.status().await.locked_by, None);
}

#[tokio::test(start_paused = true)]
async fn an_activated_host_that_hears_nothing_goes_back() {
    let host = Host { lease_seconds: 20, ..Host::new() };
    host.deploy(&Artifact::version("1"), "r1").await;
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.until_staged().await;
    agent.activate().await;
    assert_eq!(host.live().as_deref(), Some("shop 2"));
    let (current, reason) = agent.reverted().await;
    assert_eq!(current, Some("r1".parse().unwrap()));
    assert_eq!(reason, "nothing was heard from the controller for 20 s");
    assert!(matches!(agent.ended().await, Ended::Lost(_)));
    assert_eq!(host.live().as_deref(), Some("shop 1"));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_not_confirmed_in_time_goes_back_though_the_controller_is_there() {
    let host = Host { confirm_seconds: 45, ..Host::new() };
    let mut agent = host.deploying(&Artifact::version("1"), "r1").await;
    agent.until_staged().await;
    agent.activate().await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        agent.tell(ToAgent::Ping).await;
        assert_eq!(host.live().as_deref(), Some("shop 1"));
    }
    let (current, reason) = agent.reverted().await;
    assert_eq!((current, reason.as_str()), (None, "it was not confirmed within 45 s"));
    agent.ended().await;
    assert!(!host.path("app/current").is_symlink(), "after a first deploy nothing was live before");
}

/// How a conversation is cut short.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Stop,
    Close,
    Signal,
}

#[tokio::test]
async fn a_stop_a_closed_channel_or_a_signal_at_any_step_leaves_the_old_release_live() {
    let mut host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    let two = Artifact::version("2");
    for cut in [Cut::Stop, Cut::Close, Cut::Signal] {
        for step in 0..5 {
            host.manner = if step == 2 { Manner::Stalls } else { Manner::Good };
            let mut agent = host.deploying(&two, "r2").await;
            if step > 0 {
                assert!(matches!(agent.hear().await, FromAgent::Prepared { .. }));
            }
            if step > 1 {
                agent.tell(ToAgent::Start { peers: vec![peer()] }).await;
            }
            if step > 2 {
                assert!(matches!(agent.hear().await, FromAgent::Staged { .. }));
            }
            if step > 3 {
                agent.activate().await;
                assert_eq!(host.live().as_deref(), Some("shop 2"));
            }
            match cut {
                Cut::Stop => agent.tell(ToAgent::Stop { reason: StopReason::Interrupted }).await,
                Cut::Close => tokio::io::AsyncWriteExt::shutdown(&mut agent.stream).await.unwrap(),
                Cut::Signal => agent.stop.cancel(),
            }
            if step > 3 {
                let (current, _) = agent.reverted().await;
                assert_eq!(current, Some("r1".parse().unwrap()), "{cut:?}");
            }
            let ended = agent.ended().await;
            assert_eq!(ended == Ended::Orderly, matches!(cut, Cut::Stop), "{cut:?} at step {step}: {ended:?}");
            assert_eq!(host.live().as_deref(), Some("shop 1"), "{cut:?} at step {step}");
            // A reverted release stays to be looked at; an unfinished one does not.
            let expected = if step > 3 { vec!["r1", "r2"] } else { vec!["r1"] };
            assert_eq!(host.releases(), expected, "{cut:?} at step {step}");
            if step == 4 {
                // The next deploy removes it.
                host.deploying(&two, "r3").await.stop().await;
            }
        }
    }
}

#[tokio::test]
async fn a_confirmed_host_stays_whatever_ends_the_conversation() {
    for cut in [Cut::Stop, Cut::Close, Cut::Signal] {
        let host = Host::new();
        let mut agent = host.deploying(&Artifact::version("1"), "r1").await;
        agent.until_staged().await;
        agent.activate().await;
        agent.confirm().await;
        // Too late, and no reason to undo anything.
        agent.tell(ToAgent::Activate).await;
        assert_eq!(agent.warning().await, "the controller sent `activate` after the job's end; it was ignored");
        match cut {
            Cut::Stop => agent.tell(ToAgent::Stop { reason: StopReason::Aborted }).await,
            Cut::Close => tokio::io::AsyncWriteExt::shutdown(&mut agent.stream).await.unwrap(),
            Cut::Signal => agent.stop.cancel(),
        }
        while let Some(message) = agent.hear_any().await {
            assert!(!matches!(message, FromAgent::Failed(_) | FromAgent::Reverted { .. }), "{message:?}");
        }
        assert_eq!(host.live().as_deref(), Some("shop 1"), "{cut:?}");
    }
}

#[tokio::test]
async fn a_recovery_undoes_what_a_dead_agent_left_and_tells_what_is_live() {
    let (host, two) = (Host::new(), Artifact::version("2"));
    let job = host.deploy_job(&two, "r2");
    let run = job.run.clone();
    let recover = async || host.agent(&two, host.recovery(&run)).await.hear().await;
    let FromAgent::Status(status) = recover().await else { panic!() };
    assert_eq!((status.current, host.path("app").exists()), (None, false), "it made something");
    host.deploy(&Artifact::version("1"), "r1").await;
    let mut agent = host.agent(&two, Job::Deploy(Box::new(job))).await;
    agent.until_staged().await;
    agent.activate().await;
    // Another agent of the run that is not known to be dead stays unharmed.
    let FromAgent::Failed(failure) = recover().await else { panic!() };
    assert!(failure.message.starts_with("another deploy works there: run "), "{failure:?}");
    assert_eq!(host.live().as_deref(), Some("shop 2"));
    agent.task.abort();
    assert!(agent.task.await.unwrap_err().is_cancelled());
    let FromAgent::Reverted { current, reason, .. } = recover().await else { panic!() };
    assert_eq!((current, reason.as_str()), (Some("r1".parse().unwrap()), "its agent died before it was confirmed"));
    assert_eq!(host.live().as_deref(), Some("shop 1"));
    let FromAgent::Status(status) = recover().await else { panic!() };
    assert_eq!((status.current, status.locked_by), (Some("r1".parse().unwrap()), None), "there is nothing left to undo");
}

#[tokio::test]
async fn a_recovery_leaves_a_confirmed_release_alone() {
    let host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    let mut agent = host.agent(&Artifact::version("1"), host.recovery(&"00000000000000ff".parse().unwrap())).await;
    let FromAgent::Status(status) = agent.hear().await else { panic!() };
    assert_eq!(status.current, Some("r1".parse().unwrap()));
    assert_eq!(agent.ended().await, Ended::Orderly);
    assert_eq!(host.live().as_deref(), Some("shop 1"));
}

/// Has the agent of a job that switched die before the confirmation.
async fn die_unconfirmed(host: &Host, artifact: &Artifact, job: Job) {
    let mut agent = host.agent(artifact, job).await;
    agent.until_staged().await;
    agent.activate().await;
    agent.task.abort();
    assert!(agent.task.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_rollback_after_a_dead_agent_goes_back_once() {
    let host = Host::new();
    for version in ["1", "2"] {
        host.deploy(&Artifact::version(version), &format!("r{version}")).await;
    }
    let three = Artifact::version("3");
    die_unconfirmed(&host, &three, Job::Deploy(Box::new(host.deploy_job(&three, "r3")))).await;
    assert_eq!(host.live().as_deref(), Some("shop 3"));
    let mut agent = host.agent(&three, host.rollback_job(None)).await;
    let FromAgent::AlreadyActive { current, previous } = agent.hear().await else { panic!("it went on") };
    assert_eq!((current.as_str(), previous.as_ref().map(|id| id.as_str())), ("r2", Some("r1")));
    assert_eq!(agent.stop().await, Ended::Orderly);
    assert_eq!(host.live().as_deref(), Some("shop 2"));

    // A rollback that died itself has not gone back: the next one does.
    die_unconfirmed(&host, &three, host.rollback_job(None)).await;
    assert_eq!(host.live().as_deref(), Some("shop 1"));
    let mut agent = host.agent(&three, host.rollback_job(None)).await;
    agent.until_staged().await;
    assert_eq!(host.live().as_deref(), Some("shop 2"));
    agent.activate().await;
    agent.confirm().await;
    assert_eq!(agent.stop().await, Ended::Orderly);
    assert_eq!(host.live().as_deref(), Some("shop 1"));
}

#[tokio::test]
async fn leftovers_of_dead_runs_are_removed_under_the_lock() {
    let host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    for path in ["app/releases/.tmp-r0", "app/releases/.tmp-r9/bin"] {
        std::fs::create_dir_all(host.path(path)).unwrap();
    }
    std::fs::write(host.path("app/.fleetdrop/releases/r9.json"), "{}").unwrap();
    std::fs::write(host.path("app/.fleetdrop/partial/0123"), "of another artifact").unwrap();
    std::os::unix::fs::symlink("releases/r9", host.path("app/.current.new")).unwrap();
    host.deploy(&Artifact::version("2"), "r2").await;
    assert_eq!(host.releases(), ["r1", "r2"]);
    assert_eq!(names(&host.path("app/.fleetdrop/releases")), ["r1.json", "r2.json"]);
    assert_eq!(names(&host.path("app/.fleetdrop/partial")), Vec::<String>::new());
    assert_eq!(names(&host.path("app")), [".fleetdrop", "current", "releases", "revisions.log", "shared"]);
}

fn any_message(host: &Host) -> impl Strategy<Value = ToAgent> + use<> {
    let job = Job::Deploy(Box::new(host.deploy_job(&Artifact::version("2"), "r2")));
    prop_oneof![
        4 => Just(ToAgent::Start { peers: vec![peer()] }),
        4 => Just(ToAgent::Activate),
        4 => Just(ToAgent::Confirm),
        1 => Just(ToAgent::Peers { peers: vec![peer(), peer()] }),
        1 => Just(ToAgent::Ping),
        2 => Just(ToAgent::Revert { reason: "the run failed".into() }),
        1 => Just(ToAgent::Job(job)),
        1 => Just(ToAgent::Stop { reason: StopReason::BudgetExceeded }),
    ]
}

#[derive(Debug, Clone)]
struct Script {
    first_deploy: bool,
    rollback: bool,
    /// A message, and whether to wait for an answer before it.
    messages: Vec<(ToAgent, bool)>,
}

fn script() -> impl Strategy<Value = Script> {
    let messages = proptest::collection::vec((any_message(&Host::new()), any::<bool>()), 0..8);
    (any::<bool>(), any::<bool>(), messages).prop_map(|(first_deploy, rollback, messages)| Script {
        first_deploy,
        rollback,
        messages,
    })
}

async fn play(script: Script) {
    let host = Host::new();
    if !script.first_deploy {
        host.deploy(&Artifact::version("0"), "r0").await;
        host.deploy(&Artifact::version("1"), "r1").await;
    }
    let before = host.live();
    let two = Artifact::version("2");
    let job = if script.rollback { host.rollback_job(None) } else { Job::Deploy(Box::new(host.deploy_job(&two, "r2"))) };
    let after = if script.rollback { "shop 0" } else { "shop 2" };
    let mut agent = host.agent(&two, job).await;
    let mut said = Vec::new();
    let check = |host: &Host| {
        let live = host.live();
        assert!(live == before || live.as_deref() == Some(after), "{live:?}");
        assert_eq!(live.is_some(), host.path("app/current").is_symlink(), "current names nothing complete");
    };
    for (message, wait) in script.messages {
        if wait {
            match agent.hear_any().await {
                Some(message) => said.push(message),
                None => break,
            }
        }
        agent.tell(message).await;
        check(&host);
    }
    tokio::io::AsyncWriteExt::shutdown(&mut agent.stream).await.unwrap();
    while let Some(message) = agent.hear_any().await {
        said.push(message);
        check(&host);
    }
    agent.task.await.unwrap();
    // The last word is the truth; a ping is answered also after it, and what nobody expects is told.
    said.retain(|message| !matches!(message, FromAgent::Alive | FromAgent::Warning { .. }));
    let stays = said.iter().rev().find_map(|message| match message {
        FromAgent::Confirmed => Some(true),
        FromAgent::Reverted { .. } => Some(false),
        _ => None,
    });
    let live = host.live();
    assert_eq!(live, if stays == Some(true) { Some(after.to_owned()) } else { before }, "{said:?}");
    assert_eq!(live.is_some(), host.path("app/current").is_symlink());
    assert!(host.releases().iter().all(|name| !name.starts_with(".tmp")), "{:?}", host.releases());
    let last = said.iter().rposition(|message| matches!(message, FromAgent::Failed(_) | FromAgent::Reverted { .. }));
    assert!(last.is_none_or(|last| last == said.len() - 1), "{said:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_controller_says_in_whatever_order_current_is_complete_and_the_last_word_is_true(script in script()) {
        // Where the script waits for an answer that nothing has asked for, the lease lapses: at once, in paused time.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(script));
    }
}
