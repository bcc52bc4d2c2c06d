//! A host whose live release already is what is deployed, where the operator wants it activated once more.

use std::time::Duration;

use super::{
    engine::Manner,
    support::{Artifact, Host},
};
use crate::{
    agent::Ended,
    model::{
        RunId,
        plan::{Command, Hook, Unchanged},
    },
    wire::{FromAgent, Job, ToAgent},
};

fn noting(name: &str) -> Vec<Hook> {
    let command = format!("echo {name} $FLEETDROP_RELEASE_ID ${{FLEETDROP_PREVIOUS_DIR##*/}} >> $FLEETDROP_DEPLOY_TO/../log");
    vec![Hook { command: Command::Shell(command), timeout: Duration::from_secs(20) }]
}

/// A host where `r1` is live, with hooks that note their names.
async fn host() -> Host {
    let mut host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    // Nothing may be asked of this engine.
    host.manner = Manner::Stalls;
    host.unchanged = Unchanged::Activate;
    let hooks = &mut host.procedure.hooks;
    hooks.before_stage = noting("before_stage");
    hooks.after_stage = noting("after_stage");
    hooks.after_activate = noting("after_activate");
    hooks.on_revert = noting("on_revert");
    host
}

fn log(host: &Host) -> Vec<String> {
    std::fs::read_to_string(host.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn it_has_its_hooks_again_and_nothing_is_transferred() {
    let host = host().await;
    host.deploy(&Artifact::version("1"), "r2").await;
    assert_eq!(log(&host), ["before_stage r1 r1", "after_stage r1 r1", "after_activate r1 r1"]);
    assert_eq!((host.live().as_deref(), host.releases()), (Some("shop 1"), vec!["r1".to_owned()]));
    let status = host.status().await;
    assert_eq!((status.current.unwrap().as_str(), status.previous), ("r1", None), "it did not replace itself");
}

#[tokio::test]
async fn it_stays_live_where_it_is_to_go_back() {
    let host = host().await;
    let mut agent = host.deploying(&Artifact::version("1"), "r2").await;
    agent.until_staged().await;
    agent.activate().await;
    agent.tell(ToAgent::Revert { reason: "a test".into() }).await;
    let (current, _) = agent.reverted().await;
    assert_eq!(current.unwrap().as_str(), "r1");
    agent.stop().await;
    assert_eq!(log(&host).last().map(String::as_str), Some("on_revert r1 r1"));
    assert_eq!(host.live().as_deref(), Some("shop 1"));
    // It is still confirmed: without the wish it is left alone.
    let host = Host { unchanged: Unchanged::Skip, ..host };
    let mut agent = host.deploying(&Artifact::version("1"), "r3").await;
    let message = agent.hear().await;
    assert!(matches!(message, FromAgent::AlreadyActive { .. }), "{message:?}");
    agent.stop().await;
}

/// Whether a recovery says that the run's switch was confirmed.
async fn is_confirmed(host: &Host, run: &RunId) -> bool {
    let mut agent = host.agent(&Artifact::version("1"), host.recovery(run)).await;
    let mut message = agent.hear().await;
    let confirmed = matches!(message, FromAgent::Confirmed);
    if confirmed {
        message = agent.hear().await;
    }
    let FromAgent::Status(status) = message else { panic!("{message:?}") };
    assert_eq!(status.current.unwrap().as_str(), "r1", "it is live whatever happened");
    assert_eq!(agent.ended().await, Ended::Orderly);
    confirmed
}

#[tokio::test]
async fn whether_it_was_confirmed_is_told_although_the_same_release_is_live_before_and_after() {
    let host = host().await;
    let one = Artifact::version("1");
    for (activates, confirms) in [(false, false), (true, false), (true, true)] {
        let job = host.deploy_job(&one, "r2");
        let run = job.run.clone();
        let mut agent = host.agent(&one, Job::Deploy(Box::new(job))).await;
        agent.until_staged().await;
        if activates {
            agent.activate().await;
        }
        if confirms {
            agent.confirm().await;
        }
        // The connection is lost: where it was not confirmed the host goes back by itself.
        tokio::io::AsyncWriteExt::shutdown(&mut agent.stream).await.unwrap();
        agent.ended().await;
        assert_eq!(is_confirmed(&host, &run).await, confirms, "activated: {activates}");
    }
    assert_eq!(log(&host).iter().filter(|line| line.starts_with("on_revert")).count(), 1);
}
