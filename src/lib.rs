//! fleetdrop puts one build artifact on many servers, verified, and makes it live at one moment.
//!
//! This file is the map of the house; it holds no logic.
//!
//! | room | owns | runs on |
//! |---|---|---|
//! | [`model`] | the words as types: ids, manifest, host states, the rollout state machine, run events. Pure | both |
//! | [`wire`] | the messages between controller and agent, their framing and limits | both |
//! | [`swarm`] | the engine that moves pieces: pure policy, peers, storage, metainfo | both |
//! | [`artifact`] | hashing an artifact, unpacking an archive safely | both |
//! | [`agent`] | one job on one host: preflight, cache, releases, activation journal, lease | host |
//! | [`tracker`] | announce and scrape for one run | controller |
//! | [`yaml`] | YAML with the place of every value, under limits | controller |
//! | [`inventory`] | Ansible's YAML inventories, host patterns | controller |
//! | [`playbook`] | playbooks: what the operator asks for, in a strict file with a schema | controller |
//! | [`ssh`] | connections to hosts: `ssh_config`, trust, authentication, jump hosts, exec, upload | controller |
//! | [`controller`] | a run: the dispatcher, a task a host, agent push, seed, the demo's local fleet | controller |
//! | [`http`] | HTTP/1.1 as a client, small enough for the agent | both |
//! | `fuzzing` | entrances to every parser for `tests/fuzz`; only there with `--cfg fuzzing` | both |
//! | [`failpoint`] | places where tests kill the process; nothing unless built for them | both |
//! | [`history`] | what runs did, in SQLite: recorded as they go on, looked up, the ground for finishing one | controller |
//! | [`report`] | run events to a terminal, plain text or JSON | controller |
//! | [`cli`] | the commands: arguments, errors with hints, exit codes | controller |
//!
//! Who may use whom (left may use right): `bin -> cli -> {controller, history, report}`; `bin -> agent`;
//! `controller -> {ssh, inventory, tracker, swarm, artifact, wire, model}`; `agent -> {swarm, artifact, wire, model}`;
//! `{inventory, playbook} -> yaml`; `swarm -> model`; `history -> report -> model`. Everybody may use `model`, `http` and `failpoint`; `cli` also makes what it
//! hands to the controller out of arguments, a `playbook`, an `inventory` and the settings of `ssh`, tells of places in their `yaml`,
//! and runs `swarm`'s simulation.
//! Never: `controller <-> agent` (they meet only in `wire`), `report -> controller`, `swarm -> wire`, anything `-> cli`.
//! Only `cli` and `report` print, and on a host the agent's entry: its version, its log. Only `cli`, that entry and the binaries
//! choose an exit code.

#[cfg(feature = "agent")]
pub mod agent;
pub mod artifact;
#[cfg(feature = "controller")]
pub mod cli;
#[cfg(feature = "controller")]
pub mod controller;
pub mod failpoint;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(feature = "controller")]
pub mod history;
pub mod http;
#[cfg(feature = "controller")]
pub mod inventory;
pub mod model;
#[cfg(feature = "controller")]
pub mod playbook;
#[cfg(feature = "controller")]
pub mod report;
#[cfg(feature = "controller")]
pub mod ssh;
pub mod swarm;
#[cfg(feature = "controller")]
pub mod tracker;
pub mod wire;
#[cfg(feature = "controller")]
pub mod yaml;
