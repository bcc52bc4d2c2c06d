//! What every host is asked, and what differs from host to host: where the application lives, where it finds the seed.

use std::time::Duration;

use super::super::{origins::FleetOrigins, push::ReadyAgent, seed::SeedAddresses, transport::Transport};
use crate::{
    inventory::HostEntry,
    model::{
        AppName, Digest, FailureKind, HostFailure, HostId, HostState, Identity, Manifest, Operator, Place, PortRange,
        ReleaseId, RunId,
        distribution::Limits,
        plan::{HookPoint, Linked, Unchanged},
        trust::Endorsement,
    },
    wire::{DeployJob, Job, PackedInfo, PeerAddr, Procedure, RollbackJob, WayBack},
};

/// How long a host that goes back is waited for at most.
const LONGEST_WAY_BACK: Duration = Duration::from_secs(3600);

/// The job of a run, before it is placed on a host.
#[derive(Debug)]
pub(in crate::controller) enum JobPlan {
    Deploy(Box<DeployPlan>),
    Rollback(Box<RollbackPlan>),
}

/// Where things go on hosts, as far as the operator said.
#[derive(Debug, Clone)]
pub(in crate::controller) struct Placement {
    /// Who started the run.
    pub(in crate::controller) by: Option<Operator>,
    /// Needed where neither command line nor inventory say where the application lives.
    pub(in crate::controller) app: Option<AppName>,
    /// From the command line: for every host.
    pub(in crate::controller) deploy_to: Option<String>,
    pub(in crate::controller) cache: Option<String>,
    pub(in crate::controller) lease: Duration,
    pub(in crate::controller) confirm: Duration,
}

#[derive(Debug)]
pub(in crate::controller) struct DeployPlan {
    pub(in crate::controller) run: RunId,
    pub(in crate::controller) placement: Placement,
    pub(in crate::controller) manifest: Manifest,
    pub(in crate::controller) release: ReleaseId,
    pub(in crate::controller) cache_limit: u64,
    pub(in crate::controller) keep_releases: u32,
    pub(in crate::controller) linked: Linked,
    pub(in crate::controller) unchanged: Unchanged,
    /// It is an earlier release, which the host has lost.
    pub(in crate::controller) endorsement: Option<Box<Endorsement>>,
    pub(in crate::controller) goes_back: bool,
    pub(in crate::controller) info: PackedInfo,
    pub(in crate::controller) seed: SeedAddresses,
    /// What each host moves at most.
    pub(in crate::controller) limits: Limits,
    pub(in crate::controller) stall_timeout: Duration,
    pub(in crate::controller) origins: Option<FleetOrigins>,
    /// Hosts take nothing from the controller's seed.
    pub(in crate::controller) origin_only: bool,
    /// Without the host's name.
    pub(in crate::controller) procedure: Procedure,
}

#[derive(Debug)]
pub(in crate::controller) struct RollbackPlan {
    pub(in crate::controller) run: RunId,
    pub(in crate::controller) placement: Placement,
    pub(in crate::controller) to: Option<ReleaseId>,
    /// Without the host's name.
    pub(in crate::controller) procedure: Procedure,
}

/// A job for one host, and the seed's address in it.
pub(in crate::controller) struct PlacedJob {
    pub(in crate::controller) job: Job,
    /// The seed's address that it is given.
    pub(in crate::controller) seed: Option<PeerAddr>,
    /// The fingerprint of its certificate.
    pub(in crate::controller) certificate: Option<Digest>,
}

impl JobPlan {
    fn placement(&self) -> &Placement {
        match self {
            Self::Deploy(plan) => &plan.placement,
            Self::Rollback(plan) => &plan.placement,
        }
    }

    pub(in crate::controller) fn lease(&self) -> Duration {
        self.placement().lease
    }

    pub(in crate::controller) fn confirm(&self) -> Duration {
        self.placement().confirm
    }

    pub(in crate::controller) fn cache(&self) -> Option<&str> {
        self.placement().cache.as_deref()
    }

    /// Returns where hosts find seed and tracker, in a deploy.
    pub(in crate::controller) fn seed(&self) -> Option<&SeedAddresses> {
        match self {
            Self::Deploy(plan) => Some(&plan.seed),
            Self::Rollback(_) => None,
        }
    }

    /// Returns the ports that hosts choose from.
    pub(in crate::controller) fn ports(&self) -> Option<PortRange> {
        self.seed().and_then(SeedAddresses::ports)
    }

    /// Returns the release that every host has to stage, if it can be no other.
    pub(in crate::controller) fn only_release(&self) -> Option<&ReleaseId> {
        match self {
            Self::Deploy(plan) if plan.unchanged == Unchanged::Skip => Some(&plan.release),
            Self::Deploy(_) | Self::Rollback(_) => None,
        }
    }

    /// Returns the run and what its hosts run.
    fn procedure(&self) -> (&RunId, &Procedure) {
        match self {
            Self::Deploy(plan) => (&plan.run, &plan.procedure),
            Self::Rollback(plan) => (&plan.run, &plan.procedure),
        }
    }

    /// Returns how long a host's hooks may take when it goes back, at most [`LONGEST_WAY_BACK`].
    pub(in crate::controller) fn way_back(&self) -> Duration {
        let (_, procedure) = self.procedure();
        procedure.hooks.longest(HookPoint::OnRevert).min(LONGEST_WAY_BACK)
    }

    /// Makes the job that undoes what an agent of this run that is gone left; `back` is why the host is to go back also from a
    /// release that was confirmed.
    pub(in crate::controller) fn recovery(
        &self,
        host: &HostEntry,
        agent: &ReadyAgent,
        dead: Option<u32>,
        back: Option<&str>,
    ) -> Option<Job> {
        let (run, procedure) = self.procedure();
        let deploy_to = self.placement().deploy_to(host, agent.is_root).ok()?;
        let back = back.map(|reason| WayBack { reason: reason.to_owned(), procedure: procedure_of(host, procedure) });
        Some(Job::Recover { run: run.clone(), deploy_to, replaces: dead, back: back.map(Box::new) })
    }

    /// Fills in what is this host's own; `zone` is its place among its zone's hosts, `replaces` the agent of a connection that broke, `alone` that hosts exchange nothing. Fails if nothing says where the application lives.
    pub(in crate::controller) fn place(
        &self,
        (id, host): (HostId, &HostEntry),
        agent: &ReadyAgent,
        transport: &Transport,
        zone: Option<Place>,
        replaces: Option<u32>,
        alone: bool,
    ) -> Result<PlacedJob, HostFailure> {
        let deploy_to = self.placement().deploy_to(host, agent.is_root)?;
        let mut given = (None, None);
        let job = match self {
            Self::Rollback(plan) => Job::Rollback(Box::new(RollbackJob {
                run: plan.run.clone(),
                by: plan.placement.by.clone(),
                deploy_to,
                to: plan.to.clone(),
                lease_seconds: whole_seconds(plan.placement.lease),
                confirm_seconds: whole_seconds(plan.placement.confirm),
                procedure: procedure_of(host, &plan.procedure),
                replaces,
            })),
            Self::Deploy(plan) => {
                let controller = plan.seed.controller_as_seen(agent.ssh_ends, transport.remote_ip());
                let (seed, tracker) = plan.seed.at(controller);
                let identity = plan
                    .seed
                    .identity()
                    .map_err(|error| HostFailure::new(FailureKind::Failed, HostState::Preparing, error.to_string()))?;
                given = (Some(seed), identity.as_ref().map(Identity::fingerprint));
                Job::Deploy(Box::new(DeployJob {
                    run: plan.run.clone(),
                    by: plan.placement.by.clone(),
                    manifest: plan.manifest.clone(),
                    release: plan.release.clone(),
                    deploy_to,
                    cache: plan.placement.cache.clone(),
                    cache_limit: plan.cache_limit,
                    keep_releases: plan.keep_releases,
                    linked: plan.linked.clone(),
                    unchanged: plan.unchanged,
                    goes_back: plan.goes_back,
                    endorsement: plan.endorsement.clone(),
                    info: plan.info.clone(),
                    advertise: agent.advertise,
                    tracker: (!alone).then_some(tracker),
                    alone,
                    limits: plan.limits,
                    seed: (!plan.origin_only).then_some(seed),
                    controller_peers: if plan.origin_only { Vec::new() } else { vec![seed] },
                    identity,
                    ports: plan.seed.ports(),
                    // Whoever has the release takes no part, and would be waited for.
                    place: zone.filter(|_| !plan.goes_back),
                    origins: plan.origins.as_ref().map(|origins| Box::new(origins.for_host(id))),
                    web: plan.seed.web(controller).filter(|_| !plan.origin_only).map(Box::new),
                    stall_timeout: plan.stall_timeout,
                    lease_seconds: whole_seconds(plan.placement.lease),
                    confirm_seconds: whole_seconds(plan.placement.confirm),
                    procedure: procedure_of(host, &plan.procedure),
                    replaces,
                }))
            }
        };
        Ok(PlacedJob { job, seed: given.0, certificate: given.1 })
    }
}

impl Placement {
    /// Returns where the application lives: as the command line says, then the inventory, then the default for the user the job runs
    /// as. Fails if nothing says it.
    pub(in crate::controller) fn deploy_to(&self, host: &HostEntry, is_root: bool) -> Result<String, HostFailure> {
        let below = if is_root { "/srv" } else { "~/fleetdrop" };
        let default = || self.app.as_ref().map(|app| format!("{below}/{app}"));
        self.deploy_to.clone().or_else(|| host.deploy_to.clone()).or_else(default).ok_or_else(|| {
            let message = "nothing says where the application lives on this host";
            HostFailure::new(FailureKind::Failed, HostState::Preparing, message)
                .with_hint("set --app or --deploy-to, or fleetdrop_deploy_to in the inventory")
        })
    }
}

/// What a host runs, with its name.
fn procedure_of(host: &HostEntry, procedure: &Procedure) -> Procedure {
    Procedure { host: Some(host.name.clone()), ..procedure.clone() }
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}
