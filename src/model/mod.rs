//! The field's words as types, and the decisions about a rollout. Pure: no tokio, no file, no socket, no clock.
//!
//! Everything here is plain data or a state machine that takes events and returns actions, so that property
//! tests and simulations run the very code that ships.

pub mod distribution;
mod events;
pub(crate) mod identity;
mod ids;
mod manifest;
pub mod origin;
mod place;
pub mod plan;
mod ports;
pub mod rollout;
pub mod size;
pub mod space;
mod state;
mod status;
pub mod tree;
pub mod trust;
mod upkeep;

pub use events::{
    AgentCounts, ByteCounts, EVENT_VERSION, Envelope, HostResult, Phase, PhaseTime, RunEvent, RunSummary, Verdict,
};
pub use identity::Identity;
pub use ids::{AppName, Digest, HostId, HostName, IdError, Operator, ReleaseId, RunId};
pub use manifest::{ArchiveKind, Manifest};
pub use place::Place;
pub use plan::{BudgetParseError, FailureBudget, Plan};
pub use ports::{PortRange, PortRangeError};
pub use state::{FailureKind, HostFailure, HostState};
pub use status::{HostStatus, ReleaseInfo};
pub use tree::Tree;
pub use upkeep::{HostAnswer, HostWarning, LockHolder, Pruned, Unlocked};
