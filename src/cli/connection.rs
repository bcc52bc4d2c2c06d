//! The options that say which hosts, and how to reach them. Names follow Ansible's and OpenSSH's where those have one.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::value;

/// Which hosts.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct FleetArgs {
    /// Ansible-compatible YAML inventory
    #[arg(help_heading = "Fleet", long, short = 'i', visible_alias = "inventory", value_name = "FILE")]
    pub hosts: PathBuf,

    /// Only the hosts that this pattern matches, as Ansible reads it: `web*:!web03:&prod`, `~regex`, `@file`, `web[0:2]`
    #[arg(help_heading = "Fleet", long, short = 'l', value_name = "PATTERN", allow_hyphen_values = true)]
    pub limit: Option<String>,
}

/// Which hosts, and how to reach them. What an option does not say comes from the inventory, then from ssh_config.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct ConnectionArgs {
    /// Which hosts.
    #[command(flatten)]
    pub fleet: FleetArgs,

    /// Log in as this user where the inventory names none
    #[arg(help_heading = "Connection", long, short, value_name = "USER")]
    pub user: Option<String>,

    /// Private key to log in with, before those of ssh-agent and ssh_config
    #[arg(help_heading = "Connection", long, visible_alias = "private-key", value_name = "FILE")]
    pub identity_file: Option<PathBuf>,

    /// Read this ssh_config instead of ~/.ssh/config and the system's; `none` reads none
    #[arg(help_heading = "Connection", long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,

    /// Trust the host keys in this file instead of those in ssh_config's files
    #[arg(help_heading = "Connection", long, value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,

    /// What to do with a host whose key is not known; without this option ssh_config decides, and `strict` if it doesn't
    #[arg(help_heading = "Connection", long, value_enum, value_name = "MODE")]
    pub host_key_checking: Option<HostKeyChecking>,

    /// How long finding a host's address and connecting to it may take, each; SSH handshake and login have limits of their own
    /// [default: `ConnectTimeout` in ssh_config, then 10s]
    #[arg(help_heading = "Connection", long, value_name = "TIME", value_parser = value::network_timeout)]
    pub connect_timeout: Option<Duration>,

    /// How many logins may be going on at once
    #[arg(help_heading = "Connection", long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_logins: u16,

    /// Directory with the agents to push, `fleetdrop-agent-<arch>`; otherwise they are sought beside this program
    #[arg(help_heading = "Connection", long, value_name = "DIR")]
    pub agent_dir: Option<PathBuf>,

    /// Run the agent as another user with `sudo -n`
    #[arg(help_heading = "Connection", long, short = 'b')]
    pub r#become: bool,

    /// The user to become instead of root
    #[arg(help_heading = "Connection", long, value_name = "USER", requires = "become")]
    pub become_user: Option<String>,
}

/// What to do with a host whose key is not known. A key that differs from the known one is always refused, except with `no`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKeyChecking {
    /// Refuse it
    Strict,
    /// Trust it and remember its key
    AcceptNew,
    /// Trust it, and also one whose key has changed. Dangerous: anybody in between can pose as the host
    No,
}
