//! How the artifact comes to hosts: the ways there are, what the operator says of them, and whether a swarm pays.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::PortRange;

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

/// An artifact of this many bytes is large enough for a swarm, however few hosts want it.
///
/// The simulator's figures, in seconds, for the swarm and for the controller serving every host itself, at 5 ms and links alike:
///
/// | hosts x artifact | 20 Mbit/s | 100 Mbit/s | 1 Gbit/s |
/// |---|---|---|---|
/// | 3 x 1 MB | 0.6 and 1.2 | 0.2 and 0.2 | 0.5 and 0.0 |
/// | 8 x 1 MB | 0.9 and 3.2 | 0.5 and 0.6 | 0.5 and 0.1 |
/// | 64 x 1 MB | 1.2 and 26 | 0.3 and 5.1 | 0.5 and 0.5 |
/// | 2 x 5 MB | 2.3 and 4.0 | 1.0 and 0.8 | 0.9 and 0.1 |
/// | 8 x 5 MB | 2.4 and 16 | 0.6 and 3.2 | 0.3 and 0.3 |
///
/// A swarm takes some 0.3 s to form; below [`SMALL_TOTAL`] it saves hardly more than that on any link.
pub const LARGE_ARTIFACT: u64 = 5_000_000;
/// What the controller may send to all hosts together, in bytes, without a swarm being worth its while.
pub const SMALL_TOTAL: u64 = 8_000_000;

/// What the operator wants of the swarm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwarmChoice {
    /// Whatever pays.
    #[default]
    Auto,
    /// Hosts exchange pieces whatever the sizes are.
    Always,
    /// No host exchanges anything with another.
    Never,
    /// Hosts take everything from origins: nothing from each other, nor from the controller.
    OriginOnly,
}

/// What is decided by. That hosts can check pieces is no question: before a run the controller hashes all of the artifact, which it fetches where it
/// has not got it.
#[derive(Debug, Clone, Copy)]
pub struct DistributionPolicy {
    /// What the operator wants.
    pub choice: SwarmChoice,
    /// How many hosts there are.
    pub hosts: usize,
    /// The artifact's size in bytes.
    pub size: u64,
    /// Clients beside the fleet take part.
    pub outsiders: bool,
}

/// How hosts come to the artifact, as far as the operator says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransferPlan {
    /// Whether hosts exchange pieces.
    pub swarm: SwarmChoice,
    /// What each host sends and receives at most.
    pub hosts: Limits,
    /// What the controller sends to all hosts together at most, in bytes a second, within [`RATE`].
    pub controller_upload: Option<u64>,
    /// The ports that hosts and controller listen on; none: any that is free.
    pub ports: Option<PortRange>,
    /// A host to which nothing comes for so long, or which a direct download would serve so much earlier, downloads directly from an origin or
    /// the controller as well; within [`STALL_TIMEOUT`].
    pub stall_timeout: Duration,
}

impl Default for TransferPlan {
    fn default() -> Self {
        Self {
            swarm: SwarmChoice::default(),
            hosts: Limits::default(),
            controller_upload: None,
            ports: None,
            stall_timeout: DEFAULT_STALL_TIMEOUT,
        }
    }
}

/// What [`TransferPlan::stall_timeout`] may be: from what a busy host may need for a moment to what nobody waits for.
pub const STALL_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(3600);
/// [`TransferPlan::stall_timeout`] unless it is said.
pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a host moves at most, in bytes a second, within [`RATE`]; none: what its link carries. Everything that carries the artifact counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// What it sends.
    pub upload: Option<u64>,
    /// What it receives.
    pub download: Option<u64>,
}

/// What a limit may be, in bytes a second: from what still gets on to more than any link.
pub const RATE: RangeInclusive<u64> = 16 << 10..=1 << 40;

/// How a run distributes its artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Whether hosts exchange pieces.
    pub use_swarm: bool,
    /// Whether the controller gives nothing either, but origins everything.
    #[serde(default)]
    pub origin_only: bool,
    /// Why.
    pub reason: String,
    /// Whether origins have the artifact as well.
    #[serde(default)]
    pub origins: bool,
}

impl DistributionPolicy {
    /// Decides whether hosts exchange pieces, and says why.
    pub fn decide(&self) -> Distribution {
        let Self { choice, hosts, size, outsiders } = *self;
        let total = size.saturating_mul(hosts as u64);
        let (use_swarm, reason) = match choice {
            SwarmChoice::Never => (false, "the swarm is switched off"),
            SwarmChoice::OriginOnly => (false, "only web servers are to give the artifact"),
            SwarmChoice::Always => (true, "the swarm is switched on"),
            SwarmChoice::Auto if outsiders => (true, "other clients take part"),
            SwarmChoice::Auto if hosts <= 1 => (false, "there is only one host"),
            SwarmChoice::Auto if size < LARGE_ARTIFACT && total <= SMALL_TOTAL => {
                (false, "the artifact is too small for a swarm to pay")
            }
            SwarmChoice::Auto => (true, "hosts that have a part of the artifact can serve others"),
        };
        Distribution { use_swarm, origin_only: choice == SwarmChoice::OriginOnly, reason: reason.to_owned(), origins: false }
    }
}

impl Distribution {
    /// Returns how the hosts get the artifact.
    pub fn mode(&self) -> Mode {
        match self {
            Self { use_swarm: true, .. } => Mode::Peers,
            Self { origin_only: true, .. } | Self { origins: true, .. } => Mode::Origin,
            _ => Mode::Controller,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: DistributionPolicy =
        DistributionPolicy { choice: SwarmChoice::Auto, hosts: 16, size: 100 << 20, outsiders: false };

    #[test]
    fn a_swarm_is_used_where_it_pays() {
        for (hosts, size, use_swarm) in [
            (16, 100 << 20, true),
            (1, 100 << 20, false),
            (2, LARGE_ARTIFACT, true),
            (2, LARGE_ARTIFACT - 1, true),
            (2, SMALL_TOTAL / 2, false),
            (3, SMALL_TOTAL / 2, true),
            (8, 1_000_000, false),
            (9, 1_000_000, true),
            (usize::MAX, 1 << 20, true),
            (usize::MAX, u64::MAX, true),
        ] {
            let decided = DistributionPolicy { hosts, size, ..AUTO }.decide();
            assert_eq!(decided.use_swarm, use_swarm, "{hosts} x {size}: {decided:?}");
        }
    }

    #[test]
    fn what_the_operator_wants_goes_first() {
        let small = DistributionPolicy { size: 1, ..AUTO };
        let decide = |policy: DistributionPolicy| {
            let Distribution { use_swarm, reason, .. } = policy.decide();
            (use_swarm, reason)
        };
        assert_eq!(decide(small), (false, "the artifact is too small for a swarm to pay".to_owned()));
        assert_eq!(decide(DistributionPolicy { outsiders: true, ..small }), (true, "other clients take part".to_owned()));
        let always = DistributionPolicy { choice: SwarmChoice::Always, hosts: 1, ..small };
        assert_eq!(decide(always), (true, "the swarm is switched on".to_owned()));
        let never = DistributionPolicy { choice: SwarmChoice::Never, outsiders: true, ..AUTO };
        assert_eq!(decide(never), (false, "the swarm is switched off".to_owned()));
        let origin = DistributionPolicy { choice: SwarmChoice::OriginOnly, ..AUTO };
        assert_eq!(decide(origin), (false, "only web servers are to give the artifact".to_owned()));
        let modes = [AUTO, never, origin].map(|policy| policy.decide().mode());
        assert_eq!(modes, [Mode::Peers, Mode::Controller, Mode::Origin]);
    }
}
