//! What the operator asks for besides the artifact: where a release lives, who switches when, what runs on the hosts, and when a
//! release counts as healthy.
//!
//! Plain data that has been checked: a playbook is read into it, options of the command line go over it, and the rollout, the
//! wire and the agent take it as it is. The bounds of every value stand here, beside its type, for all of them.

mod budget;
mod health;
mod hooks;
mod linked;
mod paths;
mod rollout;
mod trust;
mod waves;

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    AppName,
    distribution::TransferPlan,
    origin::{OriginSettings, WebSeed},
};

pub use budget::{BudgetParseError, FailureBudget, FailureBudgets};
pub use health::{CommandCheck, Health, HttpCheck, Rhythm};
pub use hooks::{Command, Hook, HookPoint, Hooks};
pub use linked::{Linked, LinkedError};
pub use paths::{DeployTo, LinkedPath, PathError};
pub use rollout::{OnFailure, Order, Pause, RolloutPlan};
pub use trust::TrustPlan;
pub use waves::{WaveSize, WaveSizeError, Waves};

/// How many releases may stay on a host.
pub const KEEP_RELEASES: RangeInclusive<u32> = 2..=1000;
/// How long a host may be without its controller.
pub const HOST_PATIENCE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(3600);

/// What becomes of a host whose live release already is what is deployed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unchanged {
    /// Nothing.
    #[default]
    Skip,
    /// It is activated as if it were new, with hooks and checks, in its wave; only the transfer falls away.
    Activate,
}

/// Everything that can be asked for. The default is what happens without a playbook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The application's name; none: the artifact's.
    pub app: Option<AppName>,
    /// The application's root; none: what the inventory says, or the default below `/srv` or the home directory.
    pub deploy_to: Option<DeployTo>,
    /// How many releases stay on each host, the current and the previous included; within [`KEEP_RELEASES`].
    pub keep_releases: u32,
    /// What every release shares.
    pub linked: Linked,
    /// Web servers that have the artifact; at most [`WebSeed::MOST`].
    pub web_seeds: Vec<WebSeed>,
    /// How they may be used.
    pub origin: OriginSettings,
    /// What becomes of hosts that are up to date.
    pub unchanged: Unchanged,
    /// How the artifact comes to the hosts.
    pub transfer: TransferPlan,
    /// Whose artifacts count.
    pub trust: TrustPlan,
    /// Who switches when.
    pub rollout: RolloutPlan,
    /// What runs on the hosts.
    pub hooks: Hooks,
    /// When a release that has been switched to counts as healthy.
    pub health: Health,
    /// How long a host that has switched waits for the controller's word before it goes back; whole seconds within
    /// [`HOST_PATIENCE`].
    pub confirm_timeout: Duration,
}

impl Plan {
    /// Returns the longest time for which a host that switches or goes back may be at work without a word: its hooks and checks take
    /// as long as they may.
    pub fn longest_silence(&self) -> Duration {
        let before = self.hooks.longest(HookPoint::BeforeActivate);
        let after = self.hooks.longest(HookPoint::AfterActivate) + self.health.longest();
        before.max(after).max(self.hooks.longest(HookPoint::OnRevert))
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            app: None,
            deploy_to: None,
            keep_releases: 5,
            linked: Linked::default(),
            web_seeds: Vec::new(),
            origin: OriginSettings::default(),
            unchanged: Unchanged::default(),
            transfer: TransferPlan::default(),
            trust: TrustPlan::default(),
            rollout: RolloutPlan::default(),
            hooks: Hooks::default(),
            health: Health::default(),
            confirm_timeout: Duration::from_secs(30),
        }
    }
}
