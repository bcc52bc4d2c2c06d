//! The agent's binaries on the controller: found once a run, hashed once, compressed when the first host needs it.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use tokio::sync::OnceCell;

use crate::{
    artifact::{ArtifactError, sha256_file},
    model::Digest,
};

/// Size in bytes above which a binary is compressed fast: an executable with debug information, on its way to few hosts.
const BIG_BINARY: u64 = 16 << 20;

/// The first host waits for it: a percent more bytes than with the best level, in a quarter of the time.
const LEVEL: Compression = Compression::new(5);

/// Says why there is no agent for a host.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentFinderError {
    /// The binary can't be read.
    #[error("can't read the agent {path}: {reason}")]
    Unreadable {
        /// The binary.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// `--agent-dir` holds no agent at all.
    #[error("{0} holds no fleetdrop-agent-<arch>")]
    EmptyDirectory(PathBuf),
    /// There is no agent for this kind of host.
    #[error("no agent for a host with {os} on {arch}")]
    NoAgent {
        /// The host's `uname -s`.
        os: String,
        /// The host's `uname -m`.
        arch: String,
    },
}

impl AgentFinderError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => None,
            Self::EmptyDirectory(_) => Some("build one with `cargo agent` and name it fleetdrop-agent-x86_64".into()),
            Self::NoAgent { os, .. } if os != "Linux" => Some("agents run on Linux hosts only".into()),
            Self::NoAgent { arch, .. } => {
                Some(format!("build the agent for {arch} and put it in --agent-dir as fleetdrop-agent-{arch}"))
            }
        }
    }
}

/// Where agents come from, in this order: `--agent-dir`, beside the controller's executable, the executable itself.
#[derive(Debug)]
pub struct AgentFinder {
    agent_dir: Option<PathBuf>,
    own_executable: PathBuf,
    found: OnceCell<Vec<Arc<AgentBinary>>>,
}

/// One agent binary for one architecture.
#[derive(Debug)]
pub(super) struct AgentBinary {
    pub(super) arch: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    path: PathBuf,
    is_controller: bool,
    gzipped: OnceCell<Arc<[u8]>>,
}

impl AgentFinder {
    /// Makes a finder; nothing is read yet.
    pub fn new(agent_dir: Option<PathBuf>, own_executable: PathBuf) -> Self {
        Self { agent_dir, own_executable, found: OnceCell::new() }
    }

    /// Returns true if hosts of the controller's own kind get the controller's executable, for want of an agent.
    pub async fn uses_own_executable(&self) -> Result<bool, AgentFinderError> {
        Ok(self.available().await?.iter().any(|agent| agent.is_controller))
    }

    /// Returns every agent there is, hashed.
    pub(super) async fn available(&self) -> Result<&[Arc<AgentBinary>], AgentFinderError> {
        let found = self.found.get_or_try_init(|| async {
            let (agent_dir, own) = (self.agent_dir.clone(), self.own_executable.clone());
            let task = tokio::task::spawn_blocking(move || find_all(agent_dir.as_deref(), &own));
            task.await.map_err(|error| AgentFinderError::Unreadable {
                path: self.own_executable.clone(),
                reason: error.to_string(),
            })?
        });
        found.await.map(Vec::as_slice)
    }

    /// Returns the agent for a host.
    pub(super) async fn find(&self, os: &str, arch: &str) -> Result<Arc<AgentBinary>, AgentFinderError> {
        let agent = self.available().await?.iter().find(|agent| os == "Linux" && agent.arch == arch);
        agent.cloned().ok_or_else(|| AgentFinderError::NoAgent { os: os.to_owned(), arch: arch.to_owned() })
    }
}

impl AgentBinary {
    fn load(arch: &str, path: PathBuf, is_controller: bool) -> Result<Arc<Self>, AgentFinderError> {
        let unreadable = |reason: String| AgentFinderError::Unreadable { path: path.clone(), reason };
        let digest = sha256_file(&path, &|_| ()).map_err(|error: ArtifactError| unreadable(error.to_string()))?;
        let size = std::fs::metadata(&path).map_err(|error| unreadable(error.to_string()))?.len();
        let arch = arch.to_owned();
        Ok(Arc::new(Self { arch, digest, size, path, is_controller, gzipped: OnceCell::new() }))
    }

    /// Returns the arguments that make this binary an agent.
    pub(super) fn arguments(&self) -> &'static [&'static str] {
        if self.is_controller { &["agent"] } else { &[] }
    }

    /// Returns the binary's bytes.
    pub(super) async fn plain(&self) -> Result<Arc<[u8]>, AgentFinderError> {
        let bytes = tokio::fs::read(&self.path).await.map_err(|error| self.unreadable(error.to_string()))?;
        Ok(bytes.into())
    }

    /// Returns the binary's bytes in gzip; compressed once.
    pub(super) async fn gzipped(&self) -> Result<Arc<[u8]>, AgentFinderError> {
        let gzipped = self.gzipped.get_or_try_init(|| async {
            let bytes = self.plain().await?;
            let level = if self.size > BIG_BINARY { Compression::fast() } else { LEVEL };
            let task = tokio::task::spawn_blocking(move || {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(&bytes)?;
                encoder.finish()
            });
            let compressed = task.await.map_err(std::io::Error::other).and_then(|result| result);
            compressed.map(Arc::from).map_err(|error| self.unreadable(error.to_string()))
        });
        gzipped.await.cloned()
    }

    fn unreadable(&self, reason: String) -> AgentFinderError {
        AgentFinderError::Unreadable { path: self.path.clone(), reason }
    }
}

fn find_all(agent_dir: Option<&Path>, own: &Path) -> Result<Vec<Arc<AgentBinary>>, AgentFinderError> {
    let mut agents = Vec::new();
    if let Some(directory) = agent_dir {
        let files = list(directory)
            .map_err(|error| AgentFinderError::Unreadable { path: directory.to_owned(), reason: error.to_string() })?;
        if files.is_empty() {
            return Err(AgentFinderError::EmptyDirectory(directory.to_owned()));
        }
        add_missing(&mut agents, files)?;
    }
    // Nobody promised that agents lie there, so a directory that can't be listed is one without agents.
    let beside = own.parent().map(list).and_then(Result::ok).unwrap_or_default();
    add_missing(&mut agents, beside)?;
    let arch = std::env::consts::ARCH;
    if agents.iter().all(|agent| agent.arch != arch) {
        let plain = own.with_file_name("fleetdrop-agent");
        agents.push(if plain.is_file() {
            AgentBinary::load(arch, plain, false)?
        } else {
            AgentBinary::load(arch, own.to_owned(), true)?
        });
    }
    Ok(agents)
}

/// Loads the agents for architectures that are not there yet.
fn add_missing(agents: &mut Vec<Arc<AgentBinary>>, files: BTreeMap<String, PathBuf>) -> Result<(), AgentFinderError> {
    for (arch, path) in files {
        if agents.iter().all(|known| known.arch != arch) {
            agents.push(AgentBinary::load(&arch, path, false)?);
        }
    }
    Ok(())
}

/// Lists the `fleetdrop-agent-<arch>` files of a directory by architecture; other names are none of ours.
fn list(directory: &Path) -> std::io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let arch = name.to_str().and_then(|name| name.strip_prefix("fleetdrop-agent-"));
        let is_arch = |arch: &&str| !arch.is_empty() && arch.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if let Some(arch) = arch.filter(is_arch)
            && entry.path().is_file()
        {
            files.insert(arch.to_owned(), entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, content: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    #[test]
    fn agent_dir_comes_first_then_beside_the_executable_then_the_executable() {
        let (dir, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = write(bin.path(), "fleetdrop", "controller");
        let only_own = find_all(None, &own).unwrap();
        assert!(only_own[0].is_controller);
        assert_eq!(only_own[0].arguments(), ["agent"]);

        write(bin.path(), "fleetdrop-agent", "plain");
        assert_eq!(find_all(None, &own).unwrap()[0].size, 5);
        write(bin.path(), "fleetdrop-agent-x86_64", "beside");
        write(bin.path(), "fleetdrop-agent-riscv64", "riscv");
        write(bin.path(), "fleetdrop-agent-x86_64.d", "no agent");
        write(dir.path(), "fleetdrop-agent-x86_64", "from agent dir");
        let sizes = |agents: Vec<Arc<AgentBinary>>| {
            agents.iter().map(|agent| (agent.arch.clone(), agent.size)).collect::<std::collections::BTreeMap<_, _>>()
        };
        let found = sizes(find_all(Some(dir.path()), &own).unwrap());
        assert_eq!(found["x86_64"], 14);
        assert_eq!(found["riscv64"], 5);
    }

    #[test]
    fn an_agent_dir_without_agents_is_an_error() {
        let (dir, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = write(bin.path(), "fleetdrop", "controller");
        let error = find_all(Some(dir.path()), &own).unwrap_err();
        assert!(matches!(error, AgentFinderError::EmptyDirectory(_)), "{error}");
        assert!(find_all(Some(&dir.path().join("missing")), &own).is_err());
    }

    #[test]
    fn a_directory_beside_the_executable_that_cannot_be_listed_holds_no_agents() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &format!("fleetdrop-agent-{}", std::env::consts::ARCH), "from agent dir");
        // Root may list every directory, but not one that is not there.
        let own = dir.path().join("gone/fleetdrop");
        let found = find_all(Some(dir.path()), &own).unwrap();
        assert_eq!((found.len(), found[0].size), (1, 14));
    }

    #[tokio::test]
    async fn a_host_of_another_kind_gets_no_agent_but_a_hint() {
        let bin = tempfile::tempdir().unwrap();
        let finder = AgentFinder::new(None, write(bin.path(), "fleetdrop", "controller"));
        let error = finder.find("Linux", "s390x").await.unwrap_err();
        assert!(error.hint().unwrap().contains("fleetdrop-agent-s390x"));
        assert!(finder.find("Darwin", std::env::consts::ARCH).await.is_err());
    }
}
