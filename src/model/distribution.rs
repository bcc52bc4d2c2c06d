//! How the artifact comes to hosts: the ways there are, and which hosts get the dearest one first.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a host gets the artifact: the rung of the ladder that it stands on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// From other hosts and the controller's seed, with what an origin adds.
    #[default]
    Peers,
    /// From an origin alone.
    Origin,
    /// From the controller alone.
    Controller,
    /// From the controller's seed through the host's SSH connection, and from other hosts.
    Ssh,
}

impl Mode {
    /// Every mode, in the ladder's order.
    pub const ALL: [Self; 4] = [Self::Peers, Self::Origin, Self::Controller, Self::Ssh];

    /// Returns the mode's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Origin => "origin",
            Self::Controller => "controller",
            Self::Ssh => "ssh",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
