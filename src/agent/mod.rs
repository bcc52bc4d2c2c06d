//! One job on one host: what `fleetdrop-agent` does between its hello and its exit.
//!
//! | part | owns |
//! |---|---|
//! | `entry` | the process: arguments, log, signals, runtime |
//! | `session` | one conversation with the controller: who may say what when, and how it ends |
//! | `link` | the channel: frames in and out, the lease |
//! | `relay` | the agent's own binary, for hosts that have none yet |
//! | `ladder` | PURE: when a transfer needs another way, and which |
//! | `ferry` | a process of its own: the way to the controller where SSH forwards no ports |
//! | `deploy`, `rollback`, `recovery`, `status`, `prune`, `unlock` | the jobs, step by step |
//! | `preflight`, `reuse` | what is checked before a deploy moves a byte, and what it need not move |
//! | `switch`, `activation`, `journal`, `revisions` | the switch of `current`: crash-safe, confirmed or reverted, written down |
//! | `hooks`, `health`, `command`, `stray` | what the operator wants run around it, bounded and ended as a group, also after a kill |
//! | `releases`, `shared`, `store`, `lock`, `root` | what lies on the disk and how it is found |
//! | `space`, `disk`, `failure` | room, file operations and errors that tell an operator what to do |
//!
//! Promises: at any instant `current` is what it was before or names one complete, verified release; nothing is unpacked before its
//! SHA-256 is right; a host that is not confirmed goes back by itself; when the channel ends, by whatever means, the agent
//! stops, and nothing stays but releases, a bounded cache and a partial download that the next run resumes.
//! Never: uses the controller's code (they meet in [`crate::wire`]), prints to stdout anything but frames, follows what another
//! user of the host planted.

mod activation;
mod command;
mod deploy;
mod disk;
mod entry;
mod environment;
mod failure;
mod ferry;
mod health;
mod hooks;
mod journal;
mod ladder;
mod link;
mod lock;
mod preflight;
mod prune;
mod recovery;
mod relay;
mod releases;
mod reuse;
mod revisions;
mod rollback;
mod root;
mod session;
mod shared;
mod space;
mod status;
mod store;
mod stray;
mod switch;
mod trust;
mod unlock;

#[cfg(test)]
mod tests;

pub use entry::main;
pub use environment::{AgentEnv, Clock};
pub use session::{Ended, serve};
