//! How long the transfer would take, on links that are assumed.

use std::time::Duration;

use serde::Serialize;

use super::{CommandError, Row};
use crate::{
    cli::ResultExt,
    swarm::{
        MAX_PIECE_LENGTH, choose_piece_length, policy,
        simulation::{Scenario, SimulatedHost, simulate},
    },
};

/// Hosts times pieces that are simulated: a second's work. Above it pieces are taken for longer than they are, which predicts a
/// little too much.
const MAX_WORK: u64 = 60_000;
/// The fewest pieces that a simulation makes sense with.
const FEWEST_PIECES: u64 = 16;
/// How long a message takes over idle links, and how much longer because links are busy.
const LATENCY: Duration = Duration::from_millis(1);
const QUEUE: Duration = Duration::from_millis(5);

/// A predicted time and what it assumes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Prediction {
    /// Seconds until the last host has the artifact.
    pub(super) seconds: f64,
    /// Each host's link and this machine's, in bytes a second.
    pub(super) link: u64,
}

/// Predicts the transfer to the hosts that would need one, as if all that need something needed as much as who needs most, and the same; none if
/// there are too many to simulate.
pub(super) async fn predict(
    hosts: &[Row],
    controller_zone: Option<&str>,
    link: u64,
) -> Result<Option<Prediction>, CommandError> {
    let taking_part: Vec<&Row> = hosts.iter().filter(|row| row.switches()).collect();
    let size = taking_part.iter().map(|row| row.likely()).max().unwrap_or(0);
    if size == 0 {
        return Ok(Some(Prediction { seconds: 0.0, link }));
    }
    let count = taking_part.len() as u64;
    let mut piece_length = choose_piece_length(size, hosts.len());
    while size.div_ceil(piece_length.into()) * count > MAX_WORK && piece_length < MAX_PIECE_LENGTH {
        piece_length *= 2;
    }
    let pieces = size.div_ceil(piece_length.into());
    if pieces * count > MAX_WORK.max(FEWEST_PIECES * count) || count > MAX_WORK {
        return Ok(None);
    }
    let zones = zones(&taking_part, controller_zone);
    let simulated = |(row, zone): (&&Row, usize)| {
        let complete = row.likely() == 0;
        SimulatedHost { zone, complete, ..SimulatedHost::new(link) }
    };
    let scenario = Scenario {
        hosts: taking_part.iter().zip(zones).map(simulated).collect(),
        controller_rate: link,
        zone_link: None,
        size,
        piece_length,
        latency: LATENCY,
        queue: QUEUE,
        degree: policy::degree(taking_part.len()),
        seed: 1,
        limit: Duration::from_secs(600) + Duration::from_secs_f64(size as f64 / link as f64 * 100.0),
    };
    let waiting: Vec<bool> = scenario.hosts.iter().map(|host| !host.complete).collect();
    let prediction =
        tokio::task::spawn_blocking(move || simulate(&scenario)).await.or_internal("the simulation did not end")?;
    let times = prediction.times(|host| waiting[host]);
    let last = times.last().filter(|_| times.len() == waiting.iter().filter(|waits| **waits).count());
    Ok(last.map(|last| Prediction { seconds: last.as_secs_f64(), link }))
}

/// Numbers the zones, the controller's first: the one that is named, else the one with the most hosts.
fn zones(hosts: &[&Row], controller: Option<&str>) -> Vec<usize> {
    let mut names: Vec<(Option<&str>, usize)> = Vec::new();
    for row in hosts {
        match names.iter_mut().find(|(name, _)| *name == row.zone.as_deref()) {
            Some((_, hosts)) => *hosts += 1,
            None => names.push((row.zone.as_deref(), 1)),
        }
    }
    if names.len() < 2 {
        return vec![0; hosts.len()];
    }
    // The last of equal ones is the maximum: so the first in reverse.
    let largest = || names.iter().rev().max_by_key(|(_, hosts)| *hosts).map(|(name, _)| *name);
    let first = controller.map_or_else(largest, |name| Some(Some(name)));
    let others: Vec<Option<&str>> = names.iter().map(|(name, _)| *name).filter(|name| Some(*name) != first).collect();
    let number = |row: &&Row| others.iter().position(|name| *name == row.zone.as_deref()).map_or(0, |place| place + 1);
    hosts.iter().map(number).collect()
}
