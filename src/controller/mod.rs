//! A run, seen from the controller: who is asked to do what, and what came of it.
//!
//! Owns: the dispatcher (the one loop that every input passes through), a task for each host, the agent's push, the run's seed and
//! tracker, the summary; and small jobs that every host does on its own ([`chore`]). Promises: every decision about hosts is [`crate::model::rollout`]'s, this module only performs its
//! actions; every wait has a limit; when a run returns, its tasks have ended, its sockets are closed and every agent was told to
//! stop. Never: prints, reads the environment, chooses an exit code (the caller passes how verdicts map to codes).

mod artifact;
mod authority;
pub mod chore;
mod dispatch;
mod events;
mod fetch;
mod host;
mod incoming;
pub mod local_fleet;
mod origins;
mod preview;
mod push;
mod recall;
mod rollback;
mod run;
mod seed;
mod take_back;
mod tally;
mod torrent_file;
mod transport;
mod web;

pub use artifact::{Artifact, Listed, Listing, artifact_name};
pub use authority::{Authority, AuthorityError};
pub use dispatch::{Approval, Question};
pub use events::EventSink;
pub use fetch::{FetchError, Wanted, fetch};
pub use origins::{Credential, CredentialError, OriginLook, OriginRequest, OriginUse, read_credentials};
pub use preview::{AgentPreview, HostPreview, LockPreview, PreviewRequest, preview};
pub use push::{AgentFinder, AgentFinderError};
pub use recall::{RecallError, recall};
pub use rollback::{Again, RollbackRequest, rollback};
pub use run::{DeployRequest, FleetSettings, RunError, deploy};
pub use take_back::{TakeBackRequest, take_back};
pub use torrent_file::TorrentFileError;
