//! Connections to hosts over SSH: who may be trusted, how to log in, how to run a command there.
//!
//! This module owns everything between "this inventory host" and "a running process on it with three streams". It promises:
//!
//! - **Trust.** No host is talked to whose key is not known by OpenSSH's rules ([`known_hosts`]), unless the caller asked for
//!   `accept-new` or `no`. A revoked key is never accepted.
//! - **Configuration.** Where there is an OpenSSH client, `ssh -G` decides what `ssh_config` means; fleetdrop does not
//!   reinterpret it. Without one, only defaults apply, and [`Connector::warnings`] tells of a configuration that is ignored.
//! - **Bounds.** Every step has a time limit. Logins are capped over the fleet and per address, because an sshd with default
//!   `MaxStartups` drops a third of a hundred simultaneous ones. Only what fails before authentication is retried, with jitter.
//! - **One connection a host**, and one a jump host however many hosts are behind it. A dead host is noticed within 20 s.
//! - **Back-pressure.** A process's output waits in bounded queues; nothing grows because somebody does not read.
//!
//! It never reads the environment or finds out a home directory by itself: [`SshSettings`] says it all. It prints nothing.
//!
//! | file | owns |
//! |---|---|
//! | `known_hosts` | PURE: the file format, matching, verdicts |
//! | `allowed_signers` | PURE: who may sign artifacts |
//! | `trust` | which files, which algorithms to offer, host certificates, adding a new host |
//! | `config` | `ssh -G`, jump hosts, tokens in paths |
//! | `keys`, `auth` | key files, ssh-agent, the order in which they are tried |
//! | `transport` | name resolution, TCP, `ProxyCommand`; streams that can be cut |
//! | `link` | one russh session: algorithms, handshake, keepalive, why it ended |
//! | `connector` | limits, retries, jump hosts shared by the fleet |
//! | `process` | a command's streams and exit status |
//! | `forward` | ports on the host's loopback that lead here |

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use crate::model::HostName;

mod allowed_signers;
mod auth;
mod config;
mod connector;
mod error;
mod forward;
mod gate;
mod keys;
pub mod known_hosts;
mod link;
mod process;
mod transport;
mod trust;

pub use allowed_signers::{AllowedSignersError, Fault as AllowedSignersFault, allowed_signers};
pub use connector::{Connection, Connector};
pub use error::{ConnectError, SshError, Step};
pub use process::{ExitStatus, Output, Process, RunLimits};

/// Asks for the passphrase of the key file at a path; `None` means "not available, go on without that key".
///
/// Called from a blocking thread. A key file is unlocked once a [`Connector`], however many hosts need it; a wrong passphrase is asked
/// for again, three times at most.
pub type PassphrasePrompt = Arc<dyn Fn(&Path) -> Option<String> + Send + Sync>;

/// What happens with a host whose key is not in `known_hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostKeyPolicy {
    /// It is refused. The default.
    #[default]
    Strict,
    /// It is added to `known_hosts`; a host whose key *changed* is still refused.
    AcceptNew,
    /// It is added, and even a changed key is let through. Only a revoked key is refused.
    No,
}

impl HostKeyPolicy {
    /// Returns the policy's name in `ssh_config`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "yes",
            Self::AcceptNew => "accept-new",
            Self::No => "no",
        }
    }
}

impl fmt::Display for HostKeyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for HostKeyPolicy {
    type Err = SshError;

    /// Reads the words of `StrictHostKeyChecking`. `ask` counts as strict: nobody can be asked in the middle of a fleet.
    fn from_str(text: &str) -> Result<Self, SshError> {
        match text.to_ascii_lowercase().as_str() {
            "yes" | "true" | "ask" | "strict" => Ok(Self::Strict),
            "accept-new" => Ok(Self::AcceptNew),
            "no" | "off" | "false" => Ok(Self::No),
            _ => Err(SshError::settings(format!("`{text}` is no host key policy: use yes, accept-new or no"))),
        }
    }
}

/// How to connect, for the whole fleet.
#[derive(Clone)]
pub struct SshSettings {
    /// The home directory that `~` in paths means.
    pub home: PathBuf,
    /// The ssh-agent's socket (`SSH_AUTH_SOCK`), if there is one.
    pub agent_socket: Option<PathBuf>,
    /// The name of the person who runs this; the login name where nothing else says one.
    pub local_user: String,
    /// The OpenSSH client that is asked with `-G` what `ssh_config` says. None: only defaults apply.
    pub ssh_client: Option<PathBuf>,
    /// A configuration file instead of the user's and the system's (`ssh -F`); `none` means no file at all.
    pub config_file: Option<PathBuf>,
    /// A `known_hosts` file instead of all files that `ssh_config` names.
    pub known_hosts: Option<PathBuf>,
    /// Key files to try before those of `ssh_config`. Each must exist.
    pub identity_files: Vec<PathBuf>,
    /// The login name, unless the [`Target`] says another.
    pub user: Option<String>,
    /// The operator's host key policy; it wins over the target's and over `ssh_config`.
    pub host_keys: Option<HostKeyPolicy>,
    /// How long name resolution and the TCP connection (or the channel through a jump host) may take, each. None: what
    /// `ConnectTimeout` in `ssh_config` says, or 10 s. The steps of the login after it have limits of their own.
    pub connect_timeout: Option<Duration>,
    /// How many logins may be under way at once; a few at first, twice as many whenever those are through.
    pub max_logins: usize,
    /// How many of them to one address (one sshd).
    pub max_logins_per_address: usize,
    /// How often a login that failed before authentication is tried again.
    pub retries: u32,
    /// Asked for the passphrase of an encrypted key file that is not in the agent.
    pub passphrase: Option<PassphrasePrompt>,
}

impl SshSettings {
    /// Makes settings with the defaults: no agent, no ssh client, 64 logins at once, 8 an address.
    pub fn new(home: impl Into<PathBuf>, local_user: impl Into<String>) -> Self {
        Self {
            home: home.into(),
            agent_socket: None,
            local_user: local_user.into(),
            ssh_client: None,
            config_file: None,
            known_hosts: None,
            identity_files: Vec::new(),
            user: None,
            host_keys: None,
            connect_timeout: None,
            max_logins: 64,
            max_logins_per_address: 8,
            retries: 6,
            passphrase: None,
        }
    }
}

impl fmt::Debug for SshSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshSettings")
            .field("home", &self.home)
            .field("agent_socket", &self.agent_socket)
            .field("ssh_client", &self.ssh_client)
            .field("config_file", &self.config_file)
            .field("known_hosts", &self.known_hosts)
            .field("identity_files", &self.identity_files)
            .field("user", &self.user)
            .field("host_keys", &self.host_keys)
            .finish_non_exhaustive()
    }
}

/// Something the operator may count on that the settings leave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshWarning {
    /// What is left out, and why.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// One host to log in to, as the inventory describes it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The inventory name, for messages.
    pub name: HostName,
    /// Where to connect: a host name, an address or a `Host` alias of `ssh_config` (`ansible_host`).
    pub address: String,
    /// The port; wins over `ssh_config` (`ansible_port`).
    pub port: Option<u16>,
    /// The login name; wins over everything else (`ansible_user`).
    pub user: Option<String>,
    /// The key file to try first (`ansible_ssh_private_key_file`). It must exist.
    pub identity_file: Option<PathBuf>,
    /// Further arguments of an ssh command line, in pieces (`ansible_ssh_common_args`).
    pub ssh_args: Vec<String>,
    /// The host's own host key policy; wins over `ssh_config`.
    pub host_keys: Option<HostKeyPolicy>,
}

impl Target {
    /// Makes a target with nothing but a name and an address.
    pub fn new(name: HostName, address: impl Into<String>) -> Self {
        Self {
            name,
            address: address.into(),
            port: None,
            user: None,
            identity_file: None,
            ssh_args: Vec::new(),
            host_keys: None,
        }
    }
}
