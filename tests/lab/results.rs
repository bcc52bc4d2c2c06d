//! What was measured on one fleet, and what the rounds come to: medians.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    Lab,
    contender::{Contender, Round},
    fleet::{Class, Shape, Usage},
};

/// Everything that was measured on one fleet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The format's version.
    pub(crate) version: u32,
    /// What the fleet looked like.
    pub(crate) shape: Shape,
    /// The file's length in bytes.
    pub(crate) size: u64,
    /// The torrent's piece length in bytes.
    pub(crate) piece_length: u32,
    /// The compressed length in bytes of the agent that was pushed to hosts without one.
    pub(crate) agent_length: Option<u64>,
    /// When it began: seconds since 1970.
    pub(crate) began: u64,
    /// The machine it was measured on.
    pub(crate) machine: String,
    /// What was measured, round by round.
    pub(crate) rounds: Vec<Measured>,
    /// One line a contender and class: for readers of the file.
    pub(crate) summary: Vec<Summary>,
}

/// One contender's round.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    /// Seconds, in the order of the hosts; none for a host that was not sent to or died.
    pub(crate) seconds: Vec<Option<f64>>,
    /// Seconds of the whole command, where that is more than the transfer.
    pub(crate) whole_seconds: Option<f64>,
    /// How many copies `usage` is for.
    pub(crate) copies: usize,
    pub(crate) usage: Usage,
}

/// One contender and class of hosts over all rounds: medians.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) contender: Contender,
    pub(crate) class: Class,
    pub(crate) rounds: usize,
    /// The median host's seconds.
    pub(crate) median_host_seconds: f64,
    /// The slowest host's seconds.
    pub(crate) slowest_host_seconds: f64,
    /// The slowest host's over the median host's.
    pub(crate) slowest_to_median: f64,
    /// The slowest host's time over the floor of its class.
    pub(crate) ratio_to_floor: Option<f64>,
    /// The whole command's seconds, where that is more than the transfer.
    pub(crate) whole_seconds: Option<f64>,
    /// That over the floor.
    pub(crate) whole_to_floor: Option<f64>,
    /// Bytes on the controller's link, in copies of the file.
    pub(crate) controller_sent_copies: f64,
    /// Bytes on the web server's link, in copies of the file.
    pub(crate) origin_sent_copies: Option<f64>,
    /// Bytes between the zones, both directions together, in copies of the file.
    pub(crate) crossed_copies: Option<f64>,
    /// CPU seconds of all processes per 10^9 bytes delivered, and the controller's part of it.
    pub(crate) cpu_seconds_per_gb: Option<f64>,
    pub(crate) controller_cpu_seconds_per_gb: Option<f64>,
    /// The largest process's peak memory in bytes, over all rounds.
    pub(crate) controller_peak_memory: u64,
    pub(crate) host_peak_memory: u64,
    /// The part of the machine's processors that was busy, and busy with something else than the fleet.
    pub(crate) busy: f64,
    pub(crate) others: f64,
}

impl Measured {
    /// Notes a round.
    pub(crate) fn new(contender: Contender, round: usize, measured: Round) -> Self {
        Self {
            contender,
            round,
            seconds: measured.times.iter().map(|time| time.as_ref().map(Duration::as_secs_f64)).collect(),
            whole_seconds: measured.whole.map(|whole| whole.as_secs_f64()),
            copies: measured.copies,
            usage: measured.usage,
        }
    }

    /// Returns the seconds of the hosts of a class that have any.
    fn of_class(&self, shape: &Shape, class: Class) -> Vec<f64> {
        let hosts = self.seconds.iter().enumerate().filter(|(host, _)| shape.class(*host) == class);
        hosts.filter_map(|(_, seconds)| *seconds).collect()
    }
}

impl Results {
    /// Begins the results of a lab.
    pub(crate) fn new(lab: &Lab) -> Self {
        Self {
            version: 2,
            shape: lab.fleet.shape.clone(),
            size: lab.payload.length,
            piece_length: lab.payload.piece_length,
            agent_length: lab.programs.as_ref().map(|programs| programs.agent_length),
            began: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            machine: describe_machine(),
            rounds: Vec::new(),
            summary: Vec::new(),
        }
    }

    /// Returns a contender's rounds.
    pub(crate) fn rounds_of(&self, contender: Contender) -> impl Iterator<Item = &Measured> {
        self.rounds.iter().filter(move |round| round.contender == contender)
    }

    /// Returns the median over a contender's rounds of whatever a round says; none without any.
    pub(crate) fn median_of(&self, contender: Contender, of: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
        median(self.rounds_of(contender).filter_map(of).collect())
    }

    /// Returns the seconds of the slowest host of a class.
    pub(crate) fn slowest(&self, contender: Contender, class: Class) -> Option<f64> {
        self.median_of(contender, |round| round.of_class(&self.shape, class).into_iter().reduce(f64::max))
    }

    /// Returns the seconds of the slowest host of all.
    pub(crate) fn slowest_of_all(&self, contender: Contender) -> Option<f64> {
        self.median_of(contender, |round| round.seconds.iter().flatten().copied().reduce(f64::max))
    }

    /// Returns the seconds of the whole command.
    pub(crate) fn whole(&self, contender: Contender) -> Option<f64> {
        self.median_of(contender, |round| round.whole_seconds)
    }

    /// Returns the seconds that one plain download takes to a host of a class.
    pub(crate) fn floor(&self, class: Class) -> Option<f64> {
        self.slowest(Contender::Http, class)
    }

    /// Returns how many times the median host's time the slowest host of a class takes.
    pub(crate) fn slowest_to_median(&self, contender: Contender, class: Class) -> Option<f64> {
        self.median_of(contender, |round| {
            let seconds = round.of_class(&self.shape, class);
            Some(seconds.iter().copied().reduce(f64::max)? / median(seconds)?)
        })
    }

    /// Returns the bytes that left the controller.
    pub(crate) fn controller_sent(&self, contender: Contender) -> Option<f64> {
        self.median_of(contender, |round| Some(round.usage.controller_sent as f64))
    }

    /// Returns the bytes that left the web server.
    pub(crate) fn origin_sent(&self, contender: Contender) -> Option<f64> {
        self.median_of(contender, |round| round.usage.origin_sent.map(|bytes| bytes as f64))
    }

    /// Returns the bytes between the zones, both directions together.
    pub(crate) fn crossed(&self, contender: Contender) -> Option<f64> {
        self.median_of(contender, |round| round.usage.crossed.map(|[out, back]| (out + back) as f64))
    }

    /// Returns the CPU seconds for 10^9 delivered bytes: of all processes, and the controller's of them.
    pub(crate) fn cpu_per_gb(&self, contender: Contender) -> Option<[f64; 2]> {
        let per_gb = |round: &Measured, seconds: f64| Some(seconds / (self.size as f64 * round.copies as f64 / 1e9));
        let of = |round: &Measured| [round.usage.controller.cpu_seconds, round.usage.hosts.cpu_seconds];
        let all = self.median_of(contender, |round| per_gb(round, of(round).iter().sum()))?;
        Some([all, self.median_of(contender, |round| per_gb(round, of(round)[0]))?])
    }

    /// Returns the most memory in bytes that a process of the controller and one of a host ever had.
    pub(crate) fn peak_memory(&self, contender: Contender) -> Option<[u64; 2]> {
        let peaks = self.rounds_of(contender).map(|round| [round.usage.controller.peak_memory, round.usage.hosts.peak_memory]);
        peaks.reduce(|one, other| [one[0].max(other[0]), one[1].max(other[1])])
    }

    /// Returns the contenders there are, in the order of their first rounds.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let mut contenders = Vec::new();
        for round in &self.rounds {
            if !contenders.contains(&round.contender) {
                contenders.push(round.contender);
            }
        }
        contenders
    }

    /// Sums the rounds up.
    pub(crate) fn summarize(&mut self) {
        let classes: Vec<Class> = self.shape.representatives().into_iter().map(|(class, _)| class).collect();
        let lines = self.contenders().into_iter().flat_map(|contender| classes.iter().map(move |class| (contender, *class)));
        self.summary = lines.filter_map(|(contender, class)| self.line(contender, class)).collect();
    }

    fn line(&self, contender: Contender, class: Class) -> Option<Summary> {
        let slowest = self.slowest(contender, class)?;
        // One byte has no floor, and what it costs has nothing to do with its length.
        let is_file = contender.deploy().is_none_or(|kind| !kind.byte);
        let floor = self.floor(class).filter(|_| is_file);
        let cpu = self.cpu_per_gb(contender).filter(|_| is_file);
        let [controller_peak_memory, host_peak_memory] = self.peak_memory(contender)?;
        let whole_seconds = self.whole(contender);
        Some(Summary {
            contender,
            class,
            rounds: self.rounds_of(contender).count(),
            median_host_seconds: self.median_of(contender, |round| median(round.of_class(&self.shape, class)))?,
            slowest_host_seconds: slowest,
            slowest_to_median: self.slowest_to_median(contender, class)?,
            ratio_to_floor: floor.map(|floor| slowest / floor),
            whole_seconds,
            whole_to_floor: whole_seconds.zip(floor).map(|(whole, floor)| whole / floor),
            controller_sent_copies: self.controller_sent(contender)? / self.size as f64,
            origin_sent_copies: self.origin_sent(contender).map(|bytes| bytes / self.size as f64),
            crossed_copies: self.crossed(contender).map(|bytes| bytes / self.size as f64),
            cpu_seconds_per_gb: cpu.map(|[all, _]| all),
            controller_cpu_seconds_per_gb: cpu.map(|[_, controller]| controller),
            controller_peak_memory,
            host_peak_memory,
            busy: self.median_of(contender, |round| Some(round.usage.busy))?,
            others: self.median_of(contender, |round| Some(round.usage.others))?,
        })
    }
}

/// Returns the median; none of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[count / 2]),
        count => Some(f64::midpoint(values[count / 2 - 1], values[count / 2])),
    }
}

/// Describes the machine: its processors, their number, its memory, its kernel.
fn describe_machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    format!(
        "{} x {}, {} GiB, Linux {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        field(&read("/proc/cpuinfo"), "model name"),
        memory >> 20,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fleet::Variation;

    /// One round: who, seconds of both hosts, of the whole command, bytes sent.
    type Line = (Contender, [Option<f64>; 2], Option<f64>, u64);

    /// Returns results of one fleet of two hosts with a slow one.
    pub(crate) fn results(rounds: &[Line]) -> Results {
        let rounds = rounds.iter().map(|(contender, seconds, whole_seconds, controller_sent)| Measured {
            contender: *contender,
            round: 1,
            seconds: seconds.to_vec(),
            whole_seconds: *whole_seconds,
            copies: 2,
            usage: Usage { controller_sent: *controller_sent, ..Usage::default() },
        });
        Results {
            version: 2,
            shape: Shape { hosts: 2, rate_mbit: Some(10), variation: Variation::Slow { every: 2, divisor: 4 } },
            size: 1000,
            piece_length: 100,
            agent_length: Some(100),
            began: 0,
            machine: String::new(),
            rounds: rounds.collect(),
            summary: Vec::new(),
        }
    }

    #[test]
    fn each_class_has_its_own_floor() {
        let mut results = results(&[
            (Contender::Http, [Some(10.0), Some(40.0)], None, 1000),
            (Contender::Deploy, [Some(12.0), Some(44.0)], Some(46.0), 1100),
        ]);
        results.summarize();
        let ratios: Vec<_> = results.summary.iter().map(|line| (line.contender, line.class, line.ratio_to_floor)).collect();
        assert_eq!(
            ratios,
            [
                (Contender::Http, Class::Plain, Some(1.0)),
                (Contender::Http, Class::Slow, Some(1.0)),
                (Contender::Deploy, Class::Plain, Some(1.2)),
                (Contender::Deploy, Class::Slow, Some(1.1)),
            ]
        );
    }

    #[test]
    fn a_host_that_died_counts_in_no_median() {
        let results = results(&[
            (Contender::DeployCut, [Some(12.0), None], None, 0),
            (Contender::DeployCut, [Some(14.0), None], None, 0),
            (Contender::DeployCut, [Some(90.0), None], None, 0),
        ]);
        assert_eq!(results.slowest_of_all(Contender::DeployCut), Some(14.0));
        assert_eq!(results.slowest(Contender::DeployCut, Class::Slow), None);
        assert_eq!(results.slowest_of_all(Contender::Deploy), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
