//! Looks what a deploy would meet on every host, and changes nothing there: no agent is pushed, no file made, no lock taken.
//!
//! One shell script a host tells what is to be known of any host ([`questions`]); where the agent is, it is asked as `fleetdrop status`
//! asks it, and what it says counts. What is found is judged by the rules that the agent's preflight has ([`crate::model::space`] holds
//! the shared ones); what only doing it shows (a directory on the way that others may write in, an archive that unpacks to more than
//! usual) is left to the deploy.

mod judge;
mod questions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;

use judge::Wanted;

use super::{
    chore::{Look, inquire},
    host::Placement,
    push::look,
    run::{FleetSettings, placement, target},
    transport::Transport,
};
use crate::{
    inventory::HostEntry,
    model::{
        FailureKind, HostFailure, HostName, HostState, Manifest, ReleaseId, RunId,
        plan::{HookPoint, Linked, Unchanged},
    },
    wire::Job,
};

/// Whom to look at, and for what.
pub struct PreviewRequest {
    /// Which hosts.
    pub fleet: FleetSettings,
    /// What would be deployed.
    pub manifest: Manifest,
    /// What its release would link to.
    pub linked: Linked,
    /// What would become of hosts that have it already.
    pub unchanged: Unchanged,
}

/// The agent on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentPreview {
    /// It is there.
    There,
    /// It would come, with that many bytes before compression.
    ToCome(u64),
    /// It can't come.
    Impossible,
}

/// Who is at work on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockPreview {
    /// The run, where the lock tells it.
    pub run: Option<RunId>,
    /// Since when, RFC 3339 in UTC, where the lock tells it.
    pub since: Option<String>,
}

/// What a deploy would meet on a host that was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPreview {
    /// The application's root.
    pub deploy_to: String,
    /// The agent.
    pub agent: AgentPreview,
    /// True if it can unpack what is sent compressed.
    pub has_gzip: bool,
    /// What it would fetch the agent with from other hosts, if it needs it and has something.
    pub fetcher: Option<&'static str>,
    /// The live release.
    pub current: Option<ReleaseId>,
    /// The release a rollback would go to, where the agent is there to tell.
    pub previous: Option<ReleaseId>,
    /// True if what would be deployed is live already and nothing would be done.
    pub unchanged: bool,
    /// True if the host's cache has the artifact.
    pub cached: bool,
    /// True if an earlier run left a part of the artifact; how much of it is only known when it is hashed.
    pub partial: bool,
    /// The most bytes of the artifact that would come over the network.
    pub transfer: u64,
    /// The bytes that are free where releases are, if they can be told.
    pub free: Option<u64>,
    /// The least bytes that are needed there.
    pub needed: u64,
    /// Who is at work there.
    pub locked_by: Option<LockPreview>,
    /// What stops nothing.
    pub warnings: Vec<String>,
    /// Why the deploy would fail there.
    pub failure: Option<HostFailure>,
}

/// Returns what a deploy would meet on each host, in inventory order; a failure for a host that can't be looked at. Logins are limited
/// by the fleet's connector.
pub async fn preview(request: PreviewRequest) -> Vec<(HostName, Result<HostPreview, HostFailure>)> {
    let request = Arc::new(request);
    let hosts = &request.fleet.hosts;
    let mut tasks = JoinSet::new();
    for index in 0..hosts.len() {
        let request = request.clone();
        tasks.spawn(async move { (index, look_at(&request, &request.fleet.hosts[index]).await) });
    }
    let mut seen: Vec<_> = hosts.iter().map(|_| None).collect();
    while let Some(ended) = tasks.join_next().await {
        if let Ok((index, host)) = ended {
            seen[index] = Some(host);
        }
    }
    let lost = || Err(failed("looking at it failed inside this process"));
    hosts.iter().map(|host| host.name.clone()).zip(seen.into_iter().map(|host| host.unwrap_or_else(lost))).collect()
}

async fn look_at(request: &PreviewRequest, host: &HostEntry) -> Result<HostPreview, HostFailure> {
    let fleet = &request.fleet;
    let transport = Transport::open(&fleet.connector, host, &target(host)).await.map_err(|refused| refused.failure)?;
    let seen = look_over(request, host, &transport).await;
    transport.close().await;
    seen
}

async fn look_over(request: &PreviewRequest, host: &HostEntry, transport: &Transport) -> Result<HostPreview, HostFailure> {
    let (fleet, manifest) = (&request.fleet, &request.manifest);
    let placement = placement(fleet, Some(manifest.app.clone()));
    let questions = questions::script(&roots(&placement, host), fleet.cache.as_deref(), manifest.blob(), &request.linked);
    let sight = look(transport, &fleet.finder, host, fleet.cache.as_deref(), &questions).await?;
    let wanted = Wanted {
        manifest,
        linked: &request.linked,
        unchanged: request.unchanged,
        makes_files: !fleet.hooks.at(HookPoint::BeforeStage).is_empty(),
    };
    let mut preview = judge::judge(&sight, &wanted);
    if let Some(refused) = &sight.refused {
        preview.failure = Some(refused.clone());
    }
    if let Some(agent) = &sight.agent {
        let job = Job::Status { deploy_to: preview.deploy_to.clone() };
        match inquire::<Look>(transport, agent, job).await {
            Ok(status) => judge::correct(&mut preview, &status.answer, &sight, &wanted),
            Err(failure) => preview.failure = preview.failure.or(Some(failure)),
        }
    }
    Ok(preview)
}

/// Returns the application's root for root and for others.
fn roots(placement: &Placement, host: &HostEntry) -> [String; 2] {
    // An artifact has a name, so there always is a default.
    [true, false].map(|is_root| placement.deploy_to(host, is_root).unwrap_or_default())
}

fn failed(message: impl Into<String>) -> HostFailure {
    HostFailure::new(FailureKind::Failed, HostState::Preparing, message)
}
