//! What the transfers of a run have shown so far, and how much time that gives to the next.

use std::time::Duration;

/// How many fetches must have failed before hosts are thought unable to reach each other.
const FAILURES: u32 = 3;

/// What has been seen.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Fetches that worked.
    pub(super) succeeded: u32,
    /// Fetches that did not.
    pub(super) failed: u32,
    /// The longest push or fetch that worked.
    slowest: Option<Duration>,
}

impl Record {
    /// Notes a transfer that worked.
    pub(super) fn took(&mut self, time: Duration) {
        self.slowest = self.slowest.max(Some(time));
    }

    /// True if fetching is not worth another try.
    pub(super) fn is_hopeless(&self) -> bool {
        self.failed >= FAILURES && self.failed > self.succeeded
    }

    /// Returns how long a transfer counts as going on. Others do not wait longer for it.
    pub(super) fn patience(&self) -> Duration {
        self.within(4, 5, 600, 30)
    }

    /// Returns how long a fetch may take before it is given up.
    pub(super) fn limit(&self) -> Duration {
        self.within(8, 20, 600, 60)
    }

    /// Returns how long the agent takes to reach a whole fleet at most, if nothing goes wrong.
    pub(super) fn whole_fleet(&self, hosts: usize) -> Duration {
        self.within(hosts.max(1).ilog2() + 3, 2, 60, 10)
    }

    /// Returns `times` the slowest transfer within bounds; `unknown` before there is one. Bounds in seconds.
    fn within(&self, times: u32, least: u64, most: u64, unknown: u64) -> Duration {
        let [least, most, unknown] = [least, most, unknown].map(Duration::from_secs);
        self.slowest.map_or(unknown, |slowest| slowest.saturating_mul(times).clamp(least, most))
    }
}
