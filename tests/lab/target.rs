//! What must hold, as data, and whether it does.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{contender::Contender, fleet::Class, results::Results};

/// The results there are, by the scenario's name.
pub(crate) type Library = BTreeMap<String, Results>;

/// Something that is measured on one scenario and what it may be.
#[derive(Debug)]
struct Target {
    scenario: &'static str,
    quantity: Quantity,
    limit: Limit,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
enum Quantity {
    /// The slowest host of a class over the floor of its class.
    Distribution(Class),
    /// The whole command over the floor.
    Deploy,
    /// What the whole command takes longer to hosts without an agent, in times an agent takes over one link.
    Cold,
    /// The bytes that leave the controller for hosts without an agent, in copies of the agent.
    AgentCopies,
    /// The slowest host over that of a smaller fleet.
    Growth { from: &'static str },
    /// The slowest host of the best of the others over ours.
    Speedup,
    /// The bytes that leave the controller, in copies of the file.
    ControllerSent,
    /// The slowest host over the median host.
    SlowestToMedian,
    /// The slowest host with peers and web server over the slowest with the better of them alone.
    BothToEither,
    /// The bytes that leave the web server beside the swarm, in copies of the file.
    OriginSent,
    /// The bytes between the zones, both directions together, in copies of the file.
    Crossed,
    /// The slowest of the others when a host dies over the slowest when none does.
    Survivors(Contender),
    /// CPU time per delivered byte over the best libtorrent's.
    Cpu,
    /// The slowest host over that of a run that is not encrypted.
    EncryptionTime,
    /// CPU time per delivered byte over that of a run that is not encrypted.
    EncryptionCpu,
    /// The largest agent's peak memory in MiB.
    AgentMemory,
}

/// What a quantity may be.
#[derive(Debug, Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// At most the levels of a doubling tree over the hosts, and two.
    TreeLevels,
    /// Nothing was promised.
    None,
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) scenario: &'static str,
    pub(crate) what: String,
    pub(crate) measured: Option<f64>,
    pub(crate) target: String,
    pub(crate) met: Option<bool>,
}

const fn target(scenario: &'static str, quantity: Quantity, limit: Limit) -> Target {
    Target { scenario, quantity, limit }
}

/// Everything that must hold.
const TARGETS: &[Target] = &[
    target("fleet-16", Quantity::Distribution(Class::Plain), Limit::AtMost(1.15)),
    target("fleet-16", Quantity::Deploy, Limit::AtMost(1.25)),
    target("fleet-32", Quantity::Distribution(Class::Plain), Limit::AtMost(1.20)),
    target("fleet-32", Quantity::Deploy, Limit::AtMost(1.35)),
    target("fleet-64", Quantity::Distribution(Class::Plain), Limit::AtMost(1.30)),
    target("fleet-16", Quantity::Cold, Limit::TreeLevels),
    target("fleet-32", Quantity::Cold, Limit::TreeLevels),
    target("fleet-64", Quantity::Cold, Limit::TreeLevels),
    target("fleet-16", Quantity::AgentCopies, Limit::AtMost(4.0)),
    target("fleet-32", Quantity::AgentCopies, Limit::AtMost(4.0)),
    target("fleet-64", Quantity::AgentCopies, Limit::AtMost(4.0)),
    target("fleet-64", Quantity::Growth { from: "fleet-8" }, Limit::AtMost(1.15)),
    target("fleet-16", Quantity::Speedup, Limit::AtLeast(1.6)),
    target("fleet-32", Quantity::Speedup, Limit::AtLeast(1.6)),
    target("fleet-64", Quantity::Speedup, Limit::AtLeast(1.6)),
    target("fleet-16", Quantity::ControllerSent, Limit::AtMost(1.15)),
    target("fleet-32", Quantity::ControllerSent, Limit::AtMost(1.15)),
    target("fleet-64", Quantity::ControllerSent, Limit::AtMost(1.15)),
    target("fleet-16", Quantity::SlowestToMedian, Limit::AtMost(1.05)),
    target("fleet-32", Quantity::SlowestToMedian, Limit::AtMost(1.05)),
    target("fleet-64", Quantity::SlowestToMedian, Limit::AtMost(1.05)),
    target("slow-hosts", Quantity::Distribution(Class::Plain), Limit::AtMost(1.25)),
    target("slow-hosts", Quantity::Distribution(Class::Slow), Limit::AtMost(1.25)),
    target("zones", Quantity::Crossed, Limit::AtMost(1.3)),
    target("zones", Quantity::Distribution(Class::Plain), Limit::None),
    target("zones", Quantity::Distribution(Class::Far), Limit::None),
    target("dying-host", Quantity::Survivors(Contender::DeployCut), Limit::AtMost(1.1)),
    target("dying-host", Quantity::Survivors(Contender::DeployKilled), Limit::AtMost(1.1)),
    target("lossy-hosts", Quantity::Distribution(Class::Plain), Limit::None),
    target("lossy-hosts", Quantity::Distribution(Class::Lossy), Limit::None),
    target("origin", Quantity::BothToEither, Limit::AtMost(1.0)),
    target("origin", Quantity::OriginSent, Limit::AtMost(1.3)),
    target("fleet-16", Quantity::Cpu, Limit::AtMost(1.0)),
    target("fleet-32", Quantity::Cpu, Limit::AtMost(1.0)),
    target("fleet-16", Quantity::EncryptionTime, Limit::AtMost(1.05)),
    target("fleet-16", Quantity::EncryptionCpu, Limit::AtMost(1.25)),
    target("fleet-16", Quantity::AgentMemory, Limit::AtMost(32.0)),
    target("large-file", Quantity::AgentMemory, Limit::AtMost(32.0)),
];

/// Judges every target of these scenarios.
pub(crate) fn judge(library: &Library, scenarios: &[&str]) -> Vec<Judged> {
    let asked = TARGETS.iter().filter(|target| scenarios.contains(&target.scenario));
    asked.map(|target| target.judge(library)).collect()
}

impl Target {
    fn judge(&self, library: &Library) -> Judged {
        let measured = library.get(self.scenario).and_then(|results| self.quantity.measure(results, library));
        let hosts = library.get(self.scenario).map(|results| results.shape.hosts);
        let (target, met) = match self.limit {
            Limit::AtMost(limit) => (format!("at most {limit:.2}"), measured.map(|value| value <= limit)),
            Limit::AtLeast(limit) => (format!("at least {limit:.2}"), measured.map(|value| value >= limit)),
            Limit::TreeLevels => {
                let limit = hosts.map(|hosts| (hosts as f64).log2() + 2.0);
                let target = limit.map_or("log2 N + 2".to_owned(), |limit| format!("at most {limit:.2}"));
                (target, measured.zip(limit).map(|(value, limit)| value <= limit))
            }
            Limit::None => ("-".to_owned(), None),
        };
        Judged { scenario: self.scenario, what: self.quantity.describe(), measured, target, met }
    }
}

impl Quantity {
    fn measure(self, results: &Results, library: &Library) -> Option<f64> {
        let ours = Contender::Deploy;
        let size = results.size as f64;
        match self {
            Self::Distribution(class) => Some(results.slowest(ours, class)? / results.floor(class)?),
            Self::Deploy => Some(results.whole(ours)? / results.floor(Class::Plain)?),
            Self::Cold => {
                let agent = results.floor(Class::Plain)? * results.agent_length? as f64 / size;
                Some((results.whole(Contender::DeployCold)? - results.whole(ours)?) / agent)
            }
            Self::AgentCopies => {
                let sent = results.controller_sent(Contender::ByteCold)? - results.controller_sent(Contender::Byte)?;
                Some(sent / results.agent_length? as f64)
            }
            Self::Growth { from } => Some(results.slowest_of_all(ours)? / library.get(from)?.slowest_of_all(ours)?),
            Self::Speedup => {
                let others = [Contender::Libtorrent, Contender::LibtorrentTuned, Contender::Aria2, Contender::Librqbit];
                let best = others.into_iter().filter_map(|other| results.slowest_of_all(other)).reduce(f64::min)?;
                Some(best / results.slowest_of_all(ours)?)
            }
            Self::ControllerSent => Some(results.controller_sent(ours)? / size),
            Self::SlowestToMedian => results.slowest_to_median(ours, Class::Plain),
            Self::BothToEither => {
                let alone = [ours, Contender::DeployOrigin].map(|contender| results.slowest_of_all(contender));
                Some(results.slowest_of_all(Contender::DeployBoth)? / alone[0]?.min(alone[1]?))
            }
            Self::OriginSent => Some(results.origin_sent(Contender::DeployBoth)? / size),
            Self::Crossed => Some(results.crossed(ours)? / size),
            Self::Survivors(dying) => Some(results.slowest_of_all(dying)? / results.slowest_of_all(ours)?),
            Self::Cpu => {
                let others = [Contender::Libtorrent, Contender::LibtorrentTuned];
                let best = others.into_iter().filter_map(|other| Some(results.cpu_per_gb(other)?[0])).reduce(f64::min)?;
                Some(results.cpu_per_gb(ours)?[0] / best)
            }
            Self::EncryptionTime => Some(results.slowest_of_all(ours)? / results.slowest_of_all(Contender::DeployPlain)?),
            Self::EncryptionCpu => Some(results.cpu_per_gb(ours)?[0] / results.cpu_per_gb(Contender::DeployPlain)?[0]),
            Self::AgentMemory => Some(results.peak_memory(ours)?[1] as f64 / f64::from(1 << 20)),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Distribution(Class::Plain) => "distribution, x floor".into(),
            Self::Distribution(class) => format!("distribution to {} hosts, x their floor", class.name()),
            Self::Deploy => "deploy, x floor".into(),
            Self::Cold => "a cold fleet's extra time, x one agent over one link".into(),
            Self::AgentCopies => "agents that leave the controller, copies".into(),
            Self::Growth { from } => format!("time over that of {from}"),
            Self::Speedup => "best other / distribution".into(),
            Self::ControllerSent => "bytes that leave the controller, x file".into(),
            Self::SlowestToMedian => "slowest host / median host".into(),
            Self::BothToEither => "time with peers and origin over the better of either alone".into(),
            Self::OriginSent => "bytes that leave the origin, x file".into(),
            Self::Crossed => "bytes between the zones, both ways, x file".into(),
            Self::Survivors(Contender::DeployCut) => "others' time when a host's link is cut, x undisturbed".into(),
            Self::Survivors(_) => "others' time when a host's agent is killed, x undisturbed".into(),
            Self::Cpu => "CPU per GB, x libtorrent's".into(),
            Self::EncryptionTime => "distribution, x that without encryption".into(),
            Self::EncryptionCpu => "CPU per GB, x that without encryption".into(),
            Self::AgentMemory => "agent's peak memory, MiB".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{results::tests::results, scenario};

    #[test]
    fn every_target_is_about_a_scenario_there_is() {
        for target in TARGETS {
            assert!(scenario::named(target.scenario).is_some(), "{}", target.scenario);
            if let Quantity::Growth { from } = target.quantity {
                assert!(scenario::named(from).is_some(), "{from}");
            }
        }
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let judged = judge(&Library::new(), &["fleet-16"]);
        assert!(judged.len() > 5);
        assert!(judged.iter().all(|row| row.measured.is_none() && row.met.is_none()));
    }

    #[test]
    fn limits_are_limits_in_the_right_direction() {
        let results = results(&[
            (Contender::Http, [Some(10.0), Some(10.0)], None, 1000),
            (Contender::Deploy, [Some(11.0), Some(12.0)], Some(13.0), 1150),
            (Contender::Libtorrent, [Some(30.0), Some(30.0)], None, 0),
            (Contender::Aria2, [Some(15.0), Some(18.0)], None, 0),
            (Contender::DeployCold, [Some(11.0), Some(12.0)], Some(16.1), 0),
            (Contender::Byte, [Some(0.1), Some(0.1)], Some(1.0), 50),
            (Contender::ByteCold, [Some(0.1), Some(0.1)], Some(2.0), 450),
        ]);
        let library = Library::from([("fleet-16".to_owned(), results)]);
        let judged = |quantity, limit| {
            let row = target("fleet-16", quantity, limit).judge(&library);
            (row.measured.map(|value| (value * 100.0).round() / 100.0), row.met)
        };
        assert_eq!(judged(Quantity::Deploy, Limit::AtMost(1.25)), (Some(1.3), Some(false)));
        assert_eq!(judged(Quantity::Deploy, Limit::AtMost(1.35)), (Some(1.3), Some(true)));
        // The best of the others is aria2 with its slowest host.
        assert_eq!(judged(Quantity::Speedup, Limit::AtLeast(1.6)), (Some(1.5), Some(false)));
        assert_eq!(judged(Quantity::ControllerSent, Limit::AtMost(1.15)), (Some(1.15), Some(true)));
        // One agent takes 1 s over one link; log2 2 + 2 of them are the limit.
        assert_eq!(judged(Quantity::Cold, Limit::TreeLevels), (Some(3.1), Some(false)));
        assert_eq!(judged(Quantity::AgentCopies, Limit::AtMost(4.0)), (Some(4.0), Some(true)));
        assert_eq!(judged(Quantity::Deploy, Limit::None), (Some(1.3), None));
    }
}
