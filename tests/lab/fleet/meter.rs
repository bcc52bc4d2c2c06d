//! What a contender used: CPU time, memory, bytes on the links that matter, and how busy the machine was besides.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::{Fleet, Machine, group::Group};

/// How often memory is looked at. What a process reaches in its last moments may be missed.
const SAMPLING: Duration = Duration::from_millis(250);

/// What a contender used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Bytes that left the controller's interface.
    pub(crate) controller_sent: u64,
    /// Bytes that left the web server's interface, if there is one.
    pub(crate) origin_sent: Option<u64>,
    /// Bytes between the zones: out of the controller's zone, into it.
    pub(crate) crossed: Option<[u64; 2]>,
    /// The controller's processes.
    pub(crate) controller: Part,
    /// All hosts' processes, their SSH servers' included.
    pub(crate) hosts: Part,
    /// How much of the machine's processors was busy, from 0 to 1.
    pub(crate) busy: f64,
    /// How much of the machine's processors was busy with something else than the fleet.
    pub(crate) others: f64,
}

/// What one side of a contender used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Part {
    /// CPU time.
    pub(crate) cpu_seconds: f64,
    /// The most memory any one process had in use at once (`VmHWM`; SSH servers are not looked at), in bytes.
    pub(crate) peak_memory: u64,
}

/// Takes down what is used from [`Meter::start`] to [`Meter::finish`].
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    fleet: &'a Fleet,
    before: Counters,
    peaks: Arc<Mutex<[u64; 2]>>,
    _sampler: AbortOnDropHandle<()>,
}

impl<'a> Meter<'a> {
    /// Starts to measure.
    pub(crate) fn start(fleet: &'a Fleet) -> Result<Self> {
        let peaks = Arc::new(Mutex::new([0, 0]));
        let groups = [vec![fleet.controller.group.clone()], fleet.hosts.iter().map(|host| host.group.clone()).collect()];
        let sampler = AbortOnDropHandle::new(tokio::spawn(sample(groups, peaks.clone())));
        Ok(Self { fleet, before: Counters::read(fleet)?, peaks, _sampler: sampler })
    }

    /// Returns what was used since.
    pub(crate) fn finish(self) -> Result<Usage> {
        let (before, now) = (&self.before, Counters::read(self.fleet)?);
        let [controller, hosts] = *self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = |index: usize| (now.cpu[index] - before.cpu[index]).as_secs_f64();
        let ticks = (now.ticks.total - before.ticks.total).max(1) as f64;
        let busy = (now.ticks.busy - before.ticks.busy) as f64 / ticks;
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let own = (cpu(0) + cpu(1)) / (processors * (now.at - before.at).as_secs_f64());
        Ok(Usage {
            controller_sent: now.controller_sent - before.controller_sent,
            origin_sent: now.origin_sent.zip(before.origin_sent).map(|(now, before)| now - before),
            crossed: now.crossed.zip(before.crossed).map(|(now, before)| [now[0] - before[0], now[1] - before[1]]),
            controller: Part { cpu_seconds: cpu(0), peak_memory: controller },
            hosts: Part { cpu_seconds: cpu(1), peak_memory: hosts },
            busy,
            others: (busy - own).max(0.0),
        })
    }
}

/// What only grows.
#[derive(Debug)]
struct Counters {
    at: Instant,
    /// CPU time of the controller and of all hosts.
    cpu: [Duration; 2],
    controller_sent: u64,
    origin_sent: Option<u64>,
    crossed: Option<[u64; 2]>,
    ticks: Ticks,
}

impl Counters {
    fn read(fleet: &Fleet) -> Result<Self> {
        let cpu = |machines: &[Machine]| machines.iter().map(|machine| machine.group.cpu_time()).sum::<Result<Duration>>();
        let crossed = fleet.zone_link.as_ref().map(|[near, far]| anyhow::Ok([near.sent_bytes()?, far.sent_bytes()?]));
        Ok(Self {
            at: Instant::now(),
            cpu: [fleet.controller.group.cpu_time()?, cpu(&fleet.hosts)?],
            controller_sent: fleet.controller.interface.sent_bytes()?,
            origin_sent: fleet.origin.as_ref().map(|origin| origin.interface.sent_bytes()).transpose()?,
            crossed: crossed.transpose()?,
            ticks: Ticks::read()?,
        })
    }
}

/// The machine's processors' time, in clock ticks.
#[derive(Debug)]
struct Ticks {
    busy: u64,
    total: u64,
}

impl Ticks {
    fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let first = text.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal; guests are counted in user.
        let ticks: Vec<u64> = first.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let total = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Ok(Self { busy: total - idle, total })
    }
}

/// Notes the largest process of each of two sides, until it is dropped.
async fn sample(sides: [Vec<Group>; 2], peaks: Arc<Mutex<[u64; 2]>>) {
    loop {
        for (side, groups) in sides.iter().enumerate() {
            // A group that can't be read is being removed.
            let processes = groups.iter().flat_map(|group| group.processes().unwrap_or_default());
            let peak = processes.filter_map(peak_memory).max().unwrap_or(0);
            let mut peaks = peaks.lock().unwrap_or_else(PoisonError::into_inner);
            peaks[side] = peaks[side].max(peak);
        }
        tokio::time::sleep(SAMPLING).await;
    }
}

/// Returns the most memory a process has had in use, in bytes; none if it has ended or is an SSH server.
fn peak_memory(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("Name:")?.starts_with("sshd") {
        return None;
    }
    let kib: u64 = field("VmHWM:")?.split(' ').next()?.parse().ok()?;
    Some(kib << 10)
}
