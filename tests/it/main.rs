//! The integration tests, in one binary. `sshd` and `operator` are the two sides of most of them: hosts, and somebody at a command
//! line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod interop;
#[path = "../support/node.rs"]
mod node;
mod sshd;
mod tracker;
#[path = "../support/venv.rs"]
mod venv;
