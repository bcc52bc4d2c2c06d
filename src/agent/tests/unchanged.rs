//! A host whose live release already is what is deployed, where the operator wants it activated once more.

use std::time::Duration;

use super::{
    engine::Manner,
    support::{Artifact, Host},
};
use crate::{
    model::plan::{Command, Hook, Unchanged},
    wire::{FromAgent, ToAgent},
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
