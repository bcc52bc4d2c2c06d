//! What the agent is told about the process and host it runs in, so that tests can tell it something else.

use std::{fmt, path::PathBuf, time::SystemTime};

use tokio_util::sync::CancellationToken;

use crate::wire::PACKED_AGENT;

/// Where the time comes from.
#[derive(Clone, Copy)]
pub struct Clock(
    /// Returns the time.
    pub fn() -> SystemTime,
);

impl Clock {
    /// Returns the time.
    pub fn now(self) -> SystemTime {
        (self.0)()
    }

    /// Returns the time as RFC 3339 in UTC with whole seconds.
    pub fn stamp(self) -> String {
        humantime::format_rfc3339_seconds(self.now()).to_string()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// The agent's surroundings.
#[derive(Debug, Clone)]
pub struct AgentEnv {
    /// The home directory, if there is one: what `~/` means.
    pub home: Option<PathBuf>,
    /// The user id the agent works as.
    pub uid: u32,
    /// The cache directory used when the job names none; `~/` at the start means the home directory.
    pub default_cache: String,
    /// The agent's own binary, for hosts that have none.
    pub executable: PathBuf,
    /// Where the same lies in gzip, if it does.
    pub packed: Option<PathBuf>,
    /// The clock.
    pub clock: Clock,
    /// Cancelled when the process is told to end.
    pub stop: CancellationToken,
}

impl AgentEnv {
    /// Describes this process. `stop` is the caller's to cancel.
    pub fn of_process(stop: CancellationToken) -> Self {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let uid = rustix::process::geteuid().as_raw();
        let default_cache = if uid == 0 { "/var/cache/fleetdrop" } else { "~/.cache/fleetdrop" }.to_owned();
        // Also what runs after its file was replaced.
        let executable = PathBuf::from("/proc/self/exe");
        let packed = std::env::current_exe().ok().map(|own| own.with_file_name(PACKED_AGENT));
        Self { home, uid, default_cache, executable, packed, clock: Clock(SystemTime::now), stop }
    }
}
