//! `fleetdrop simulate`: what a transfer to a fleet would take, without a fleet.

use std::{str::FromStr, time::Duration};

use clap::Args;
use serde::{Serialize, Serializer};

use super::{CommandError, Output, ResultExt, exit, output::Format, value};
use crate::{
    report::{Palette, measure},
    swarm::{
        MAX_PIECE_LENGTH, MIN_PIECE_LENGTH, choose_piece_length, policy,
        simulation::{HostOutcome, Prediction, Scenario, SimulatedHost, simulate},
    },
};

/// The version of the JSON object. A change that breaks consumers raises it.
const SIMULATION_VERSION: u32 = 1;
/// Hosts times pieces: above it a simulation would take many minutes and gigabytes.
const MAX_WORK: u64 = 50_000_000;
/// Virtual time after which a simulation gives up, in multiples of what one copy after the other over the narrowest link would take.
const PATIENCE: u32 = 4;
/// The shortest virtual time after which it gives up.
const MIN_LIMIT: Duration = Duration::from_secs(600);

/// What it can answer.
const EXAMPLES: &str = "\
Examples:
  How long will it take with 2,000 hosts if this machine has an uplink of 200 Mbit/s?
    fleetdrop simulate --hosts 2000 --link 1gbit --controller-link 200mbit --size 500MB
  How much do slow hosts, or hosts that die, hold up the others?
    fleetdrop simulate --hosts 500 --link 1gbit --size 1GiB --slow 5% --deaths 10
  What crosses the links between four data centres, and is 2 Gbit/s for each enough?
    fleetdrop simulate --hosts 800 --link 1gbit --size 1GiB --zones 4 --zone-link 2gbit --latency 20ms

--output json prints one JSON object. The floor is what no way of sending could beat.
10,000 hosts and 1,024 pieces take less than a minute on two cores; twice the pieces, twice as long.";

/// The fleet and the artifact.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// How many hosts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub hosts: u32,

    /// Each host's link, in both directions: 50mbit, 1gbit, 125MB (a second)
    #[arg(long, value_name = "RATE", value_parser = value::rate)]
    pub link: u64,

    /// The artifact's size, up to 1 TiB: 500MB, 1GiB
    #[arg(long, value_name = "SIZE", value_parser = artifact_size)]
    pub size: u64,

    /// The controller's link [default: as --link]
    #[arg(long, value_name = "RATE", value_parser = value::rate)]
    pub controller_link: Option<u64>,

    /// How many zones the hosts are spread over evenly; the controller is in the first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub zones: u32,

    /// Each zone's link to all others [default: as wide as it needs to be]
    #[arg(long, value_name = "RATE", value_parser = value::rate, requires = "zones")]
    pub zone_link: Option<u64>,

    /// How many hosts have a slower link, chosen at random
    #[arg(long, value_name = "N|P%", default_value = "0")]
    pub slow: Share,

    /// The slower link [default: a quarter of --link]
    #[arg(long, value_name = "RATE", value_parser = value::rate, requires = "slow")]
    pub slow_link: Option<u64>,

    /// How many hosts die during the transfer, chosen at random
    #[arg(long, value_name = "N|P%", default_value = "0")]
    pub deaths: Share,

    /// How long a message takes from host to host over idle links, 50us to 1s
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = value::latency)]
    pub latency: Duration,

    /// How much longer it takes because links are busy, up to 1s
    #[arg(long, value_name = "DURATION", default_value = "5ms", value_parser = value::delay)]
    pub queue: Duration,

    /// Length of a piece, a power of two from 16KiB to 16MiB [default: as a deploy would choose it]
    #[arg(long, value_name = "SIZE", value_parser = piece_length)]
    pub piece_length: Option<u32>,

    /// What chance draws from: the same options and the same number give the same result
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// A number of hosts, or a part of them in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many in a hundred.
    Percent(f64),
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let share = match text.strip_suffix('%') {
            Some(number) => number.parse().ok().filter(|percent| (0.0..=100.0).contains(percent)).map(Self::Percent),
            None => text.parse().ok().map(Self::Count),
        };
        share.ok_or_else(|| "expected a number of hosts or a percentage, for example 3 or 5%".to_owned())
    }
}

impl Share {
    fn of(self, hosts: u32) -> u32 {
        match self {
            Self::Count(count) => count.min(hosts),
            Self::Percent(percent) => (f64::from(hosts) * percent / 100.0).round() as u32,
        }
    }
}

fn artifact_size(text: &str) -> Result<u64, String> {
    let size = value::size(text).map_err(|error| error.to_string())?;
    if (1..=1 << 40).contains(&size) { Ok(size) } else { Err("expected a size from 1 byte to 1TiB".to_owned()) }
}

fn piece_length(text: &str) -> Result<u32, String> {
    let size = value::size(text).map_err(|error| error.to_string())?;
    u32::try_from(size)
        .ok()
        .filter(|length| length.is_power_of_two() && (MIN_PIECE_LENGTH..=MAX_PIECE_LENGTH).contains(length))
        .ok_or_else(|| "expected a power of two from 16KiB to 16MiB".to_owned())
}

/// Simulates the transfer, prints the prediction and returns the exit code.
pub async fn run(args: SimulateArgs, output: &Output) -> Result<u8, CommandError> {
    let scenario = scenario(&args)?;
    let started = std::time::Instant::now();
    let simulated = scenario.clone();
    let prediction =
        tokio::task::spawn_blocking(move || simulate(&simulated)).await.or_internal("the simulation did not end")?;
    let report = Report::new(&args, &scenario, &prediction);
    if output.format == Format::Json {
        output.print_json(&report)?;
    } else {
        output.print(&report.render(output.stdout_palette()))?;
    }
    tracing::info!(took = ?started.elapsed(), "simulated");
    if report.incomplete > 0 {
        return Err(CommandError::internal(format!(
            "{} not complete after {} of virtual time",
            measure::count(report.incomplete, "host"),
            measure::about(scenario.limit)
        )));
    }
    Ok(exit::SUCCESS)
}

/// Makes a fleet of the options.
fn scenario(args: &SimulateArgs) -> Result<Scenario, CommandError> {
    let piece_length = args.piece_length.unwrap_or_else(|| choose_piece_length(args.size, args.hosts as usize));
    let pieces = args.size.div_ceil(u64::from(piece_length));
    if pieces * u64::from(args.hosts) > MAX_WORK {
        return Err(CommandError::input(format!("{pieces} pieces on {} hosts are too many to simulate", args.hosts))
            .hint(format!("hosts times pieces may be {MAX_WORK}: set a larger --piece-length or fewer --hosts")));
    }
    let controller_rate = args.controller_link.unwrap_or(args.link);
    let slow_link = args.slow_link.unwrap_or(args.link / 4).max(1);
    let mut random = fastrand::Rng::with_seed(args.seed);
    let mut rates = vec![args.link; args.hosts as usize];
    for host in chosen(args.slow, args.hosts, &mut random) {
        rates[host as usize] = slow_link;
    }
    let mut hosts: Vec<SimulatedHost> = (0..args.zones as usize)
        .cycle()
        .zip(rates)
        .map(|(zone, rate)| SimulatedHost { zone, ..SimulatedHost::new(rate) })
        .collect();
    let plain = seconds(args.size, args.link.min(controller_rate));
    for host in chosen(args.deaths, args.hosts, &mut random) {
        hosts[host as usize].dies = Some(Duration::from_secs_f64(plain * random.f64()));
    }
    let narrowest = [args.link, controller_rate, slow_link, args.zone_link.unwrap_or(u64::MAX)].into_iter().min();
    let one_by_one = seconds(args.size, narrowest.unwrap_or(1)) * f64::from(args.hosts).log2().max(1.0) * f64::from(PATIENCE);
    Ok(Scenario {
        hosts,
        controller_rate,
        zone_link: args.zone_link,
        size: args.size,
        piece_length,
        latency: args.latency,
        queue: args.queue,
        degree: policy::degree(args.hosts as usize),
        seed: random.u64(..),
        limit: MIN_LIMIT + Duration::from_secs_f64(one_by_one),
    })
}

/// Draws that share of the hosts.
fn chosen(share: Share, hosts: u32, random: &mut fastrand::Rng) -> Vec<u32> {
    random.choose_multiple(0..hosts, share.of(hosts) as usize)
}

fn seconds(size: u64, rate: u64) -> f64 {
    size as f64 / rate as f64
}

/// The whole answer, as JSON shows it. Times are in seconds; absent values are null.
#[derive(Debug, Serialize)]
struct Report {
    /// [`SIMULATION_VERSION`].
    v: u32,
    hosts: usize,
    dead: usize,
    /// Hosts that were not complete when the simulation gave up.
    incomplete: usize,
    size: u64,
    piece_length: u32,
    pieces: u64,
    /// The last living host.
    #[serde(serialize_with = "rounded")]
    last: Option<f64>,
    #[serde(serialize_with = "rounded")]
    median: Option<f64>,
    /// The last of the hosts with the usual link, and of those with the slower one, where there are both.
    #[serde(serialize_with = "rounded")]
    last_usual: Option<f64>,
    #[serde(serialize_with = "rounded")]
    last_slower: Option<f64>,
    /// The same over what any scheme would need for those hosts.
    #[serde(serialize_with = "rounded")]
    usual_to_floor: Option<f64>,
    #[serde(serialize_with = "rounded")]
    slower_to_floor: Option<f64>,
    /// One plain download over the usual link.
    #[serde(serialize_with = "rounded")]
    download: Option<f64>,
    /// The least any scheme could take for the whole fleet.
    #[serde(serialize_with = "rounded")]
    floor: Option<f64>,
    #[serde(serialize_with = "rounded")]
    to_download: Option<f64>,
    #[serde(serialize_with = "rounded")]
    to_floor: Option<f64>,
    controller_sent: u64,
    /// Bytes that hosts received in vain.
    in_vain: u64,
    /// Bytes that came into the zone with the most from other zones, and into all zones; null where there is one.
    zone_received: Option<u64>,
    zones_received: Option<u64>,
}

fn rounded<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(|number| (number * 1000.0).round() / 1000.0).serialize(serializer)
}

impl Report {
    fn new(args: &SimulateArgs, scenario: &Scenario, prediction: &Prediction) -> Self {
        let count = |outcome| prediction.hosts.iter().filter(|host| **host == outcome).count();
        let times = prediction.times(|_| true);
        let last = |times: &[Duration]| times.last().map(Duration::as_secs_f64);
        let to_floor =
            |last: Option<f64>, floor: Duration| last.filter(|_| !floor.is_zero()).map(|last| last / floor.as_secs_f64());
        let is_usual = |host: usize| scenario.hosts[host].rate == args.link;
        let usual = last(&prediction.times(is_usual));
        let slower = last(&prediction.times(|host| !is_usual(host)));
        let classes = usual.zip(slower);
        let (usual, slower) = (classes.and(usual), classes.and(slower));
        let download = scenario.download(args.link.min(scenario.controller_rate)).as_secs_f64();
        let floor = scenario.floor(|_| true);
        let zones = Some(&prediction.zones).filter(|zones| zones.len() > 1);
        Self {
            v: SIMULATION_VERSION,
            hosts: scenario.hosts.len(),
            dead: count(HostOutcome::Dead),
            incomplete: count(HostOutcome::Incomplete),
            size: args.size,
            piece_length: scenario.piece_length,
            pieces: args.size.div_ceil(u64::from(scenario.piece_length)),
            last: last(&times),
            median: times.get(times.len() / 2).map(Duration::as_secs_f64),
            last_usual: usual,
            last_slower: slower,
            usual_to_floor: to_floor(usual, scenario.floor(is_usual)),
            slower_to_floor: to_floor(slower, scenario.floor(|host| !is_usual(host))),
            download: Some(download),
            floor: Some(floor.as_secs_f64()),
            to_download: last(&times).map(|last| last / download),
            to_floor: to_floor(last(&times), floor),
            controller_sent: prediction.controller_sent,
            in_vain: prediction.in_vain,
            zone_received: zones.and_then(|zones| zones.iter().max().copied()),
            zones_received: zones.map(|zones| zones.iter().sum()),
        }
    }

    /// Returns the prediction for people.
    fn render(&self, palette: Palette) -> String {
        let time = |seconds: Option<f64>| seconds.map_or("-".to_owned(), measure::seconds);
        let times = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.2} x"));
        let copies = |bytes: u64| format!("{} ({:.2} x the artifact)", measure::bytes(bytes), bytes as f64 / self.size as f64);
        let living = (self.hosts - self.dead).max(1) as f64;
        let mut rows = vec![
            ("last host", time(self.last)),
            ("median host", time(self.median)),
            ("to one plain download", format!("{} {}", times(self.to_download), note(palette, &time(self.download)))),
            ("to the floor", format!("{} {}", times(self.to_floor), note(palette, &time(self.floor)))),
            ("controller sends", copies(self.controller_sent)),
            ("received in vain", format!("{:.1} % a host", self.in_vain as f64 / self.size as f64 / living * 100.0)),
        ];
        if self.last_usual.is_some() {
            let class = |last, ratio| format!("{} ({} its floor)", time(last), times(ratio));
            rows.insert(1, ("last with the usual link", class(self.last_usual, self.usual_to_floor)));
            rows.insert(2, ("last with the slower link", class(self.last_slower, self.slower_to_floor)));
        }
        if let Some(bytes) = self.zones_received {
            rows.push(("between zones", copies(bytes)));
        }
        if let Some(bytes) = self.zone_received {
            rows.push(("into the busiest zone", copies(bytes)));
        }
        if self.dead > 0 {
            rows.push(("hosts that died", self.dead.to_string()));
        }
        let pieces = measure::count(self.pieces as usize, "piece");
        let length = measure::bytes(u64::from(self.piece_length));
        let mut text =
            format!("{} to {} in {pieces} of {length}\n", measure::bytes(self.size), measure::count(self.hosts, "host"));
        for (name, value) in rows {
            text += &format!("  {name:<27}{value}\n");
        }
        text + "Only the transfer; logins, hashing and unpacking come on top.\n"
    }
}

fn note(palette: Palette, text: &str) -> String {
    palette.dim(format!("({text})"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(options: &str) -> Result<SimulateArgs, clap::Error> {
        let line = format!("fleetdrop simulate {options}");
        match Cli::try_parse_from(line.split_whitespace())?.command {
            Command::Simulate(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    /// What is shown of a made-up prediction: the first host died, the others took 2 s, 3 s and so on.
    fn report(options: &str, zones: Vec<u64>, dead: usize) -> Report {
        let args = parse(options).unwrap();
        let mut scenario = scenario(&args).unwrap();
        scenario.hosts.iter_mut().skip(6).for_each(|host| host.rate /= 4);
        let host = |index: usize| match index < dead {
            true => HostOutcome::Dead,
            false => HostOutcome::Complete(Duration::from_millis(1000 * (index as u64 + 1))),
        };
        let hosts = (0..scenario.hosts.len()).map(host).collect();
        let prediction = Prediction { hosts, controller_sent: 9 << 20, in_vain: 1 << 20, zones };
        Report::new(&args, &scenario, &prediction)
    }

    #[test]
    fn people_see_times_ratios_and_copies() {
        let slow = report("--hosts 8 --link 50mbit --size 8MiB --piece-length 64KiB", vec![1 << 20, 10 << 20], 1);
        insta::assert_snapshot!(slow.render(Palette::PLAIN), @"
        8.0 MiB to 8 hosts in 128 pieces of 64.0 KiB
          last host                  8.0 s
          last with the usual link   6.0 s (4.21 x its floor)
          last with the slower link  8.0 s (1.43 x its floor)
          median host                5.0 s
          to one plain download      5.70 x (1.4 s)
          to the floor               1.43 x (5.6 s)
          controller sends           9.0 MiB (1.12 x the artifact)
          received in vain           1.8 % a host
          between zones              11.0 MiB (1.38 x the artifact)
          into the busiest zone      10.0 MiB (1.25 x the artifact)
          hosts that died            1
        Only the transfer; logins, hashing and unpacking come on top.
        ");
        let even = report("--hosts 6 --link 50mbit --size 8MiB --piece-length 64KiB", Vec::new(), 0);
        insta::assert_snapshot!(even.render(Palette::PLAIN), @"
        8.0 MiB to 6 hosts in 128 pieces of 64.0 KiB
          last host                  6.0 s
          median host                4.0 s
          to one plain download      4.28 x (1.4 s)
          to the floor               4.21 x (1.4 s)
          controller sends           9.0 MiB (1.12 x the artifact)
          received in vain           2.1 % a host
        Only the transfer; logins, hashing and unpacking come on top.
        ");
    }

    #[test]
    fn programs_see_the_same_in_plain_numbers() {
        let report = report("--hosts 8 --link 50mbit --size 8MiB --piece-length 128KiB", Vec::new(), 1);
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
        {
          "v": 1,
          "hosts": 8,
          "dead": 1,
          "incomplete": 0,
          "size": 8388608,
          "piece_length": 131072,
          "pieces": 64,
          "last": 8.0,
          "median": 5.0,
          "last_usual": 6.0,
          "last_slower": 8.0,
          "usual_to_floor": 4.146,
          "slower_to_floor": 1.425,
          "download": 1.403,
          "floor": 5.613,
          "to_download": 5.701,
          "to_floor": 1.425,
          "controller_sent": 9437184,
          "in_vain": 1048576,
          "zone_received": null,
          "zones_received": null
        }
        "#);
    }

    #[test]
    fn shares_and_links_make_a_fleet() {
        let args =
            parse("--hosts 200 --link 1gbit --size 1GiB --slow 5% --deaths 3 --zones 4 --controller-link 10gbit").unwrap();
        let scenario = scenario(&args).unwrap();
        let count = |test: fn(&SimulatedHost) -> bool| scenario.hosts.iter().filter(|host| test(host)).count();
        assert_eq!(count(|host| host.rate == 31_250_000), 10);
        assert_eq!(count(|host| host.dies.is_some()), 3);
        assert_eq!(count(|host| host.zone == 3), 50);
        assert_eq!(scenario.controller_rate, 1_250_000_000);
        assert_eq!(scenario.piece_length, choose_piece_length(1 << 30, 200));
    }

    #[test]
    fn what_makes_no_sense_or_takes_forever_is_refused() {
        const GOOD: &str = "--hosts 8 --link 1gbit --size 1GiB";
        for options in [
            "--link 1gbit --size 1GiB",
            "--hosts 0 --link 1gbit --size 1GiB",
            "--hosts 50001 --link 1gbit --size 1GiB",
            "--hosts 8 --link 1 --size 1GiB",
            "--hosts 8 --link 1gbit --size 0",
            "--hosts 8 --link 1gbit --size 2TiB",
        ] {
            assert!(parse(options).is_err(), "{options}");
        }
        for options in [
            "--slow 101%",
            "--slow -1",
            "--slow NaN%",
            "--slow-link 1mbit",
            "--zones 0",
            "--zone-link 1gbit",
            "--latency 1us",
            "--queue 2s",
            "--piece-length 100000",
            "--piece-length 8KiB",
            "--deaths x",
        ] {
            assert!(parse(&format!("{GOOD} {options}")).is_err(), "{options}");
        }
        let error = scenario(&parse("--hosts 50000 --link 1gbit --size 1GiB --piece-length 64KiB").unwrap()).unwrap_err();
        assert_eq!(error.exit_code(), exit::BAD_INPUT);
    }
}
