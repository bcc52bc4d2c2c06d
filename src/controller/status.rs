//! Asks every host what is there. Changes nothing but the agent, which is pushed where it is missing.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{
    host::{AgentSession, JobPlan},
    push::{Courier, Errand, ReadyAgent, ensure_agent},
    run::{FleetSettings, placement, target},
    transport::Transport,
};
use crate::{
    inventory::HostEntry,
    model::{AppName, FailureKind, HostFailure, HostId, HostName, HostState, HostStatus},
    wire::{FromAgent, Job, ToAgent},
};

/// How long a host may take to answer once its agent runs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Whom to ask about what.
pub struct StatusRequest {
    /// Which hosts.
    pub fleet: FleetSettings,
    /// The application, where neither the command line nor the inventory say where it lives.
    pub app: Option<AppName>,
}

/// Returns each host's answer, in inventory order. Logins are limited by the fleet's connector.
pub async fn status(request: StatusRequest) -> Vec<(HostName, Result<HostStatus, HostFailure>)> {
    let StatusRequest { fleet, app } = request;
    let plan = Arc::new(JobPlan::Status(placement(&fleet, app)));
    let courier = Arc::new(Courier::without_relays(fleet.finder.clone(), fleet.hosts.len()));
    let fleet = Arc::new(fleet);
    let mut tasks = JoinSet::new();
    for index in 0..fleet.hosts.len() {
        let (fleet, plan) = (fleet.clone(), plan.clone());
        let errand = courier.errand(HostId(index as u32));
        tasks.spawn(async move { (index, ask(&fleet, &fleet.hosts[index], &plan, &errand).await) });
    }
    let mut answers: Vec<_> = (0..fleet.hosts.len()).map(|_| None).collect();
    while let Some(ended) = tasks.join_next().await {
        if let Ok((index, answer)) = ended {
            answers[index] = Some(answer);
        }
    }
    let lost = || Err(failed("asking it failed inside this process"));
    fleet.hosts.iter().map(|host| host.name.clone()).zip(answers.into_iter().map(|a| a.unwrap_or_else(lost))).collect()
}

async fn ask(fleet: &FleetSettings, host: &HostEntry, plan: &JobPlan, errand: &Errand) -> Result<HostStatus, HostFailure> {
    let transport = Transport::open(&fleet.connector, host, &target(host)).await.map_err(|refused| refused.failure)?;
    let answer = ask_over(host, plan, errand, &transport).await;
    transport.close().await;
    answer
}

async fn ask_over(host: &HostEntry, plan: &JobPlan, errand: &Errand, transport: &Transport) -> Result<HostStatus, HostFailure> {
    let agent = ensure_agent(transport, errand, host, plan.cache()).await?;
    let placed = plan.place(host, &agent, transport, None, None)?;
    inquire(transport, &agent, placed.job).await
}

/// Starts the agent and returns its answer to a job that asks for the host's status.
pub(super) async fn inquire(transport: &Transport, agent: &ReadyAgent, job: Job) -> Result<HostStatus, HostFailure> {
    let mut session = AgentSession::start(transport, agent).await?;
    session.send(ToAgent::Job(job)).await;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer(&mut session)).await;
    session.close().await;
    answer.unwrap_or_else(|_| Err(failed("the agent gave no answer")))
}

async fn answer(session: &mut AgentSession) -> Result<HostStatus, HostFailure> {
    loop {
        match session.receive().await {
            Ok(Some(FromAgent::Status(status))) => return Ok(status),
            Ok(Some(FromAgent::Failed(failure))) => return Err(failure),
            Ok(Some(_)) => (),
            Ok(None) => return Err(session.why_ended(HostState::Preparing).await),
            Err(error) => return Err(failed(&format!("the agent's messages: {error}"))),
        }
    }
}

fn failed(message: &str) -> HostFailure {
    HostFailure::new(FailureKind::Failed, HostState::Preparing, message)
}
