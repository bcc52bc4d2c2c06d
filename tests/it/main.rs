//! The integration tests, in one binary. `sshd` and `operator` are the two sides of most of them: hosts, and somebody at a command
//! line.

mod sshd;
mod tracker;
