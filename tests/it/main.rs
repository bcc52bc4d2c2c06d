//! The integration tests, in one binary.
//!
//! `sshd` and `operator` are the two sides of most of them: hosts, and somebody at a command line. `artifact` makes what is
//! deployed, `hosts` looks at what became of it; the hosts of `machines` have a network and a `/srv` of their own. `swarm` is a
//! transfer alone, without hosts; `client` and `attacker` take part in one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking")]

mod account;
mod agent_kill;
mod agent_process;
#[path = "../support/agent_rig.rs"]
mod agent_rig;
mod artifact;
mod attacker;
mod attacks;
mod certificates;
mod client;
mod cold_fleets;
mod demo;
mod deploy_caches;
mod deploy_faults;
mod deploy_flood;
mod deploy_hosts;
mod deploy_input;
mod deploy_linked;
mod deploy_refusals;
mod deploy_reverts;
mod deploy_routes;
mod deploy_story;
mod deploy_tracker;
mod deploy_tree;
mod deploy_tree_agent;
mod deploy_users;
mod fallback;
mod history;
mod hosts;
mod interop;
mod interop_deploy;
mod interop_tree;
mod inventory_command;
#[cfg(feature = "failpoints")]
mod kill_points;
#[cfg(feature = "failpoints")]
#[path = "../support/kills/mod.rs"]
mod kills;
mod ladder_agent;
mod ladder_deploy;
mod ladder_engine;
mod machines;
mod operator;
mod origin;
mod origin_deploy;
mod origin_rig;
mod plan;
mod playbook_command;
mod ports;
mod resume;
mod rollback;
mod rollback_origin;
mod rolling;
mod rollout_ends;
mod rollout_rig;
mod rollout_waves;
mod secrets;
mod shipped_playbooks;
mod signed;
mod ssh_fleet;
mod ssh_login;
mod ssh_process;
mod ssh_rig;
mod ssh_trust;
mod sshd;
mod stranger;
mod strangers;
mod swarm;
mod swarm_faults;
mod swarm_properties;
mod swarm_tracker;
mod terminal;
mod tracker;
mod upkeep;
#[path = "../support/venv.rs"]
mod venv;
