//! What the transfers of one kind have shown so far, and how much time that gives to the next.

use std::time::Duration;

/// How many fetches must have failed before hosts are thought unable to reach each other.
const FAILURES: u32 = 3;

/// Bytes a second of the slowest link that the first transfers are waited for on: 1 Mbit/s.
const SLOW_LINK: u64 = 125_000;

/// What has been seen.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Fetches that worked.
    pub(super) succeeded: u32,
    /// Fetches that did not.
    pub(super) failed: u32,
    /// The longest push or fetch that worked.
    slowest: Option<Duration>,
    /// How long a transfer takes on a slow link.
    slow: Duration,
}

impl Record {
    /// Starts with nothing seen of a binary of that many bytes.
    pub(super) fn new(size: u64) -> Self {
        Self { slow: Duration::from_secs(size / SLOW_LINK), ..Self::default() }
    }

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
        self.within(4, 5, 600, Duration::from_secs(30) + self.slow)
    }

    /// Returns how long a fetch may take before it is given up.
    pub(super) fn limit(&self) -> Duration {
        self.within(8, 20, 600, Duration::from_secs(60) + 2 * self.slow)
    }

    /// Returns how long the agent takes to reach a whole fleet at most, if nothing goes wrong.
    pub(super) fn whole_fleet(&self, hosts: usize) -> Duration {
        self.within(hosts.max(1).ilog2() + 3, 2, 60, Duration::from_secs(10))
    }

    /// Returns `times` the slowest transfer, or `unknown` before there is one, within bounds in seconds.
    fn within(&self, times: u32, least: u64, most: u64, unknown: Duration) -> Duration {
        let time = self.slowest.map_or(unknown, |slowest| slowest.saturating_mul(times));
        time.clamp(Duration::from_secs(least), Duration::from_secs(most))
    }
}
