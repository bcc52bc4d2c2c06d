//! The fleets the targets are measured on, as data.

use crate::{
    contender::Contender,
    fleet::{Shape, Variation},
};

/// A fleet, a file, and who runs on it.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) hosts: usize,
    pub(crate) rate_mbit: Option<u32>,
    /// MiB of the file.
    pub(crate) size: u64,
    pub(crate) variation: Variation,
    /// Who runs in every round.
    pub(crate) contenders: &'static [Contender],
    /// Who runs in the first round only: no target needs more of it, or it is far behind.
    pub(crate) once: &'static [Contender],
}

impl Scenario {
    /// Returns the fleet's shape.
    pub(crate) fn shape(&self) -> Shape {
        Shape { hosts: self.hosts, rate_mbit: self.rate_mbit, variation: self.variation.clone() }
    }

    /// Returns who runs in a round; rounds count from 1.
    pub(crate) fn contenders(&self, round: usize) -> Vec<Contender> {
        let once = if round == 1 { self.once } else { &[] };
        self.contenders.iter().chain(once).copied().collect()
    }
}

/// Everything the targets of a plain fleet need.
const RACE: &[Contender] = &[
    Contender::Http,
    Contender::Deploy,
    Contender::DeployPlain,
    Contender::Libtorrent,
    Contender::Aria2,
    Contender::DeployCold,
    Contender::Byte,
    Contender::ByteCold,
];

/// Every scenario.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fleet-16",
        hosts: 16,
        rate_mbit: Some(50),
        size: 64,
        variation: Variation::Equal,
        contenders: RACE,
        once: &[Contender::Engine, Contender::Librqbit, Contender::LibtorrentTuned],
    },
    Scenario {
        name: "fleet-32",
        hosts: 32,
        rate_mbit: Some(25),
        size: 32,
        variation: Variation::Equal,
        contenders: RACE,
        once: &[Contender::LibtorrentTuned],
    },
    Scenario {
        name: "fleet-64",
        hosts: 64,
        rate_mbit: Some(10),
        size: 16,
        variation: Variation::Equal,
        contenders: RACE,
        once: &[Contender::LibtorrentTuned],
    },
    // With fleet-64: what eight times the hosts cost.
    Scenario {
        name: "fleet-8",
        hosts: 8,
        rate_mbit: Some(10),
        size: 16,
        variation: Variation::Equal,
        contenders: &[Contender::Http, Contender::Deploy],
        once: &[],
    },
    Scenario {
        name: "slow-hosts",
        hosts: 16,
        rate_mbit: Some(50),
        size: 64,
        variation: Variation::Slow { every: 4, divisor: 4 },
        contenders: &[Contender::Http, Contender::Deploy],
        once: &[Contender::Libtorrent],
    },
    Scenario {
        name: "zones",
        hosts: 16,
        rate_mbit: Some(50),
        size: 64,
        variation: Variation::Zones { divisor: 8 },
        contenders: &[Contender::Http, Contender::Deploy],
        once: &[Contender::Libtorrent],
    },
    Scenario {
        name: "dying-host",
        hosts: 16,
        rate_mbit: Some(50),
        size: 64,
        variation: Variation::Equal,
        contenders: &[Contender::Http, Contender::Deploy, Contender::DeployCut, Contender::DeployKilled],
        once: &[],
    },
    Scenario {
        name: "lossy-hosts",
        hosts: 16,
        rate_mbit: Some(50),
        size: 64,
        variation: Variation::Lossy { every: 4, percent: 5.0 },
        contenders: &[Contender::Http, Contender::Deploy],
        once: &[Contender::Libtorrent],
    },
    Scenario {
        name: "origin",
        hosts: 16,
        rate_mbit: Some(50),
        size: 64,
        variation: Variation::Origin { divisor: 4, factor: 4 },
        contenders: &[Contender::Deploy, Contender::DeployOrigin, Contender::DeployBoth],
        once: &[],
    },
    Scenario {
        name: "large-file",
        hosts: 3,
        rate_mbit: None,
        size: 4096,
        variation: Variation::Equal,
        contenders: &[Contender::Http, Contender::Deploy],
        once: &[],
    },
];

/// Finds a scenario by its name.
pub(crate) fn named(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
