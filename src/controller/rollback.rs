//! A rollback from its request to its summary: hosts switch back to what they have. A host that has lost the release gets it again, as in
//! a deploy: from its own cache, else from the others, the controller and the origins.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    artifact::Artifact,
    events::EventSink,
    host::{DeployPlan, JobPlan, RollbackPlan},
    origins::{FleetOrigins, OriginRequest},
    run::{FleetSettings, RunError, Start, allowed, drive, placement, procedure, share},
    seed::{Listeners, SeedAddresses},
};
use crate::{
    model::{
        AppName, HostId, HostName, ReleaseId, RunEvent, RunId, RunSummary,
        distribution::{DistributionPolicy, Mode, SwarmChoice, TransferPlan},
        plan::{Linked, Unchanged},
    },
    swarm::Throttle,
};

/// What to go back to.
pub struct RollbackRequest {
    /// On which hosts.
    pub fleet: FleetSettings,
    /// The application, where neither the command line nor the inventory say where it lives.
    pub app: Option<AppName>,
    /// The release; none means the one before the current on each host.
    pub to: Option<ReleaseId>,
    /// What brings that release to hosts that have lost it.
    pub again: Option<Again>,
    /// Switches the swarm off at any time.
    pub no_swarm: CancellationToken,
}

/// An earlier release that hosts have lost and get again.
pub struct Again {
    /// These hosts.
    pub hosts: BTreeSet<HostName>,
    /// What it is made of.
    pub artifact: Artifact,
    /// The controller's address as hosts see it, if not what their SSH connections show.
    pub advertise: Option<IpAddr>,
    /// The zone that the controller is in, as in a deploy.
    pub zone: Option<String>,
    /// What the release links to.
    pub linked: Linked,
    /// Releases that stay on each of the hosts.
    pub keep_releases: u32,
    /// Upper bound of each host's cache in bytes.
    pub cache_limit: u64,
    /// How it comes to the hosts.
    pub transfer: TransferPlan,
    /// Whether what comes to them is encrypted, as in a deploy.
    pub encrypted: bool,
    /// Web servers that have it.
    pub origins: OriginRequest,
}

/// Switches a fleet back to an earlier release. Nothing is transferred but to hosts that have lost it. Where it fails it stops, also if
/// the plan's policy is to roll back. An error means that no host was touched.
pub async fn rollback(
    request: RollbackRequest,
    events: EventSink,
    interrupt: CancellationToken,
) -> Result<RunSummary, RunError> {
    let RollbackRequest { mut fleet, app, to, again, no_swarm } = request;
    fleet.rollout = fleet.rollout.of_rollback();
    let pushes_itself = fleet.finder.uses_own_executable().await.map_err(RunError::Agent)?;
    let manifest = again.as_ref().map(|again| again.artifact.manifest.clone());
    let decided = again.as_ref().map(|again| again.policy().decide());
    let started = RunEvent::RunStarted {
        action: "rollback".into(),
        app: app.clone(),
        artifact: manifest.as_ref().map(|manifest| manifest.file_name.clone()),
        digest: manifest.as_ref().map(|manifest| manifest.digest),
        size: manifest.as_ref().map_or(0, |manifest| manifest.size),
        release: to.clone(),
        max_failures: allowed(&fleet),
        distribution: decided.clone(),
        hosts: fleet.hosts.iter().map(|host| host.name.clone()).collect(),
    };
    let hash_time = again.as_ref().map(|again| again.artifact.hash_time);
    let (mut distribution, mut lost, mut warnings) = (None, None, Vec::new());
    if let (Some(again), Some(release), Some(way)) = (again, to.clone(), &decided) {
        let (origins, told) = again.origins.offer(&again.artifact, again.ids(&fleet), way).await?;
        let upload = Throttle::new(again.transfer.controller_upload);
        let (encrypted, ports) = (again.encrypted, again.transfer.ports);
        let listeners = Listeners { advertise: again.advertise, encrypted, ports };
        let (shared, seed) = share(&fleet, &again.artifact, again.zone.as_deref(), upload, listeners).await?;
        if !way.use_swarm {
            shared.serve_everybody().await;
            no_swarm.cancel();
        }
        (distribution, warnings) = (Some(shared), told);
        let hosts = again.hosts.clone();
        lost = Some((hosts, Arc::new(again.plan(&fleet, events.run().clone(), release, (seed, origins)))));
    }
    let plan = Arc::new(JobPlan::Rollback(Box::new(RollbackPlan {
        run: events.run().clone(),
        placement: placement(&fleet, app),
        procedure: procedure(&fleet),
        to,
    })));
    let plan_of = |host: &HostName| match &lost {
        Some((hosts, again)) if hosts.contains(host) => again.clone(),
        _ => plan.clone(),
    };
    let start = Start {
        event: started,
        warnings,
        pushes_itself,
        hash_time,
        order_seed: fastrand::u64(..),
        goes_on: false,
        mode: decided.map_or(Mode::default(), |decided| decided.mode()),
        no_swarm,
    };
    Ok(drive(fleet, plan_of, start, distribution, events, interrupt).await)
}

impl Again {
    /// Returns by what is decided whether these hosts exchange pieces.
    fn policy(&self) -> DistributionPolicy {
        DistributionPolicy {
            // The controller has it: a way back must not depend on an origin, even if the deploy did.
            choice: match self.transfer.swarm {
                SwarmChoice::OriginOnly => SwarmChoice::Never,
                choice => choice,
            },
            hosts: self.hosts.len(),
            size: self.artifact.manifest.size,
            outsiders: false,
        }
    }

    /// Returns these hosts' places in the fleet.
    fn ids(&self, fleet: &FleetSettings) -> BTreeSet<HostId> {
        let lost = (0..).map(HostId).zip(&fleet.hosts).filter(|(_, host)| self.hosts.contains(&host.name));
        lost.map(|(id, _)| id).collect()
    }

    /// Returns what hosts that have lost the release do.
    fn plan(
        self,
        fleet: &FleetSettings,
        run: RunId,
        release: ReleaseId,
        (seed, origins): (SeedAddresses, Option<FleetOrigins>),
    ) -> JobPlan {
        let Artifact { manifest, info, .. } = self.artifact;
        JobPlan::Deploy(Box::new(DeployPlan {
            run,
            placement: placement(fleet, Some(manifest.app.clone())),
            procedure: procedure(fleet),
            manifest,
            release,
            cache_limit: self.cache_limit,
            keep_releases: self.keep_releases,
            linked: self.linked,
            unchanged: Unchanged::default(),
            goes_back: true,
            origin_only: false,
            origins,
            endorsement: None,
            info,
            seed,
            limits: self.transfer.hosts,
            stall_timeout: self.transfer.stall_timeout,
        }))
    }
}
