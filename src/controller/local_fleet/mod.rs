//! A fleet of SSH hosts inside this process, for the demo and for tests.
//!
//! Each host is an SSH server on a loopback port of its own, with a host key of its own and a directory that is its home. What
//! a client asks to run is run for real, by `/bin/sh -c` as a child process of this one: an agent pushed to such a host is an agent.
//! Everything lies under one directory, [`LocalFleetConfig::root`]:
//!
//! ```text
//! <root>/id_ed25519        the one key that opens all hosts, mode 0600
//! <root>/known_hosts       their host keys
//! <root>/inventory.yaml    the fleet as an inventory
//! <root>/hosts/demo-01/    a host's home and working directory
//! ```
//!
//! The environment is not read: [`LocalFleetConfig`] says it all.
//!
//! Promises: public-key authentication with that one key and one user name only; `exec` only (no shell, terminal, subsystem or
//! forwarding); bounded buffers, connections and commands; a command whose channel or connection ends sees the end of its input at once, has
//! [`LocalFleetConfig::grace`] to finish and is then killed with its whole process group; after [`LocalFleet::stop`]
//! returns, nothing that was started here runs any more.
//!
//! Never: it is not a sandbox. Commands run as the current user and see the whole machine, as that user does.

use std::{
    ffi::OsString,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use russh::keys::{
    PrivateKey,
    ssh_key::{LineEnding, private::Ed25519Keypair},
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::model::HostName;

mod command;
mod host;
mod inventory;
#[cfg(test)]
mod tests;

use host::HostShared;

/// The user name that logs in to every host of a local fleet.
pub const USER: &str = "demo";

/// The inventory group all hosts of a local fleet are in.
pub const GROUP: &str = "demo";

/// The most hosts a local fleet has.
pub const MAX_HOSTS: usize = 200;

/// What a local fleet looks like.
#[derive(Debug, Clone)]
pub struct LocalFleetConfig {
    /// How many hosts, 1 to [`MAX_HOSTS`].
    pub hosts: usize,
    /// The directory that holds everything; made if it is missing.
    pub root: PathBuf,
    /// How long a command may go on after its channel or connection ended, before it is killed.
    pub grace: Duration,
    /// The `PATH` of the hosts' commands.
    pub search_path: OsString,
}

impl LocalFleetConfig {
    /// Makes a configuration with a grace of five seconds and the usual directories as search path.
    pub fn new(hosts: usize, root: impl Into<PathBuf>) -> Self {
        let search_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into();
        Self { hosts, root: root.into(), grace: Duration::from_secs(5), search_path }
    }
}

/// Says why a local fleet did not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalFleetError {
    /// The number of hosts is out of range.
    #[error("a local fleet has 1 to {MAX_HOSTS} hosts, not {0}")]
    HostCount(usize),
    /// A file or directory could not be made.
    #[error("can't write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root's path can't be written in an inventory.
    #[error("the path {} is not UTF-8", .0.display())]
    PathNotUtf8(PathBuf),
    /// No loopback port to listen on.
    #[error("{host}: can't listen on 127.0.0.1")]
    Listen {
        /// Which host.
        host: HostName,
        /// Why.
        source: io::Error,
    },
    /// No key could be made or written.
    #[error("can't make an SSH key: {0}")]
    Key(String),
}

/// One host of a running local fleet.
#[derive(Debug)]
pub struct LocalHost {
    name: HostName,
    address: SocketAddr,
    dir: PathBuf,
    shared: Arc<HostShared>,
}

impl LocalHost {
    /// Returns the host's name in the inventory, `demo-01` and so on.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Returns where the host listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the host's home directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory the inventory names as `fleetdrop_deploy_to`.
    pub fn deploy_to(&self) -> PathBuf {
        self.dir.join("app")
    }

    /// Returns how many commands the host has started so far.
    pub fn commands_started(&self) -> u64 {
        self.shared.commands_started()
    }

    /// Closes the port and cuts every connection: the host is down from now on.
    pub fn shut_down(&self) {
        self.shared.shut_down();
    }
}

/// A running local fleet. Dropping it ends it without waiting; [`LocalFleet::stop`] waits.
#[derive(Debug)]
pub struct LocalFleet {
    root: PathBuf,
    hosts: Vec<LocalHost>,
    tasks: Vec<JoinHandle<()>>,
}

impl LocalFleet {
    /// Starts the hosts and writes key, known hosts and inventory.
    ///
    /// # Errors
    /// If the number of hosts is out of range, a file can't be written or a port can't be opened. Nothing is left running then.
    pub async fn start(config: LocalFleetConfig) -> Result<Self, LocalFleetError> {
        if config.hosts == 0 || config.hosts > MAX_HOSTS {
            return Err(LocalFleetError::HostCount(config.hosts));
        }
        make_private_dir(&config.root)?;
        let root = config.root.canonicalize().map_err(|source| LocalFleetError::Write { path: config.root.clone(), source })?;
        let client_key = new_key()?;
        let mut fleet = Self { root, hosts: Vec::new(), tasks: Vec::new() };
        let mut known_hosts = String::new();
        for number in 1..=config.hosts {
            let host_key = new_key()?;
            let host = fleet.start_host(number, &config, host_key.clone(), &client_key).await?;
            known_hosts.push_str(&format!("[{}]:{} {}\n", host.ip(), host.port(), public_line(&host_key)?));
        }
        let private = client_key.to_openssh(LineEnding::LF).map_err(key_error)?;
        write_private(&fleet.client_key(), private.as_bytes())?;
        write_private(&fleet.known_hosts(), known_hosts.as_bytes())?;
        let inventory = inventory::render(&fleet)?;
        write_private(&fleet.inventory(), inventory.as_bytes())?;
        Ok(fleet)
    }

    async fn start_host(
        &mut self,
        number: usize,
        config: &LocalFleetConfig,
        host_key: PrivateKey,
        client_key: &PrivateKey,
    ) -> Result<SocketAddr, LocalFleetError> {
        let name = HostName::new(&format!("demo-{number:02}")).map_err(|error| LocalFleetError::Key(error.to_string()))?;
        let dir = self.root.join("hosts").join(name.as_str());
        make_private_dir(&dir)?;
        make_private_dir(&dir.join("tmp"))?;
        let listen_error = |source| LocalFleetError::Listen { host: name.clone(), source };
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let listener = TcpListener::bind(loopback).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let shared = HostShared::new(dir.clone(), config.search_path.clone(), client_key.public_key().clone(), config.grace);
        let shared = Arc::new(shared);
        let ssh = Arc::new(host::ssh_config(host_key));
        self.tasks.push(tokio::spawn(host::serve(Arc::clone(&shared), ssh, listener)));
        self.hosts.push(LocalHost { name, address, dir, shared });
        Ok(address)
    }

    /// Returns the hosts, in order.
    pub fn hosts(&self) -> &[LocalHost] {
        &self.hosts
    }

    /// Returns the directory that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of the inventory.
    pub fn inventory(&self) -> PathBuf {
        self.root.join("inventory.yaml")
    }

    /// Returns the path of the key that opens all hosts.
    pub fn client_key(&self) -> PathBuf {
        self.root.join("id_ed25519")
    }

    /// Returns the path of the hosts' keys in OpenSSH's `known_hosts` form.
    pub fn known_hosts(&self) -> PathBuf {
        self.root.join("known_hosts")
    }

    /// Closes every port, ends every connection and command, and waits until all are gone. The files stay.
    pub async fn stop(mut self) {
        for host in &self.hosts {
            host.shut_down();
        }
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                tracing::warn!(%error, "a host of the local fleet ended abnormally");
            }
        }
    }
}

impl Drop for LocalFleet {
    fn drop(&mut self) {
        for host in &self.hosts {
            host.shut_down();
        }
    }
}

fn new_key() -> Result<PrivateKey, LocalFleetError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(key_error)?;
    Ok(PrivateKey::from(Ed25519Keypair::from_seed(&seed)))
}

fn public_line(key: &PrivateKey) -> Result<String, LocalFleetError> {
    key.public_key().to_openssh().map_err(key_error)
}

fn key_error(error: impl std::fmt::Display) -> LocalFleetError {
    LocalFleetError::Key(error.to_string())
}

fn make_private_dir(path: &Path) -> Result<(), LocalFleetError> {
    let write_error = |source| LocalFleetError::Write { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(write_error)
}

/// Writes a file that only its owner may read, replacing what is there.
fn write_private(path: &Path, content: &[u8]) -> Result<(), LocalFleetError> {
    let write_error = |source| LocalFleetError::Write { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(write_error(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(write_error)?;
    io::Write::write_all(&mut file, content).map_err(write_error)
}
