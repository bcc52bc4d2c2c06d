//! A rate over the last seconds.

use std::{collections::VecDeque, time::Duration};

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(5);
/// The least time between two kept samples; with [`WINDOW`] it bounds their number.
const STEP: Duration = Duration::from_millis(250);

/// Measures how fast a growing number of bytes grows.
#[derive(Debug, Default)]
pub(super) struct Speed {
    /// (time, bytes), oldest first, at least a [`STEP`] apart.
    samples: VecDeque<(Duration, u64)>,
    latest: Option<(Duration, u64)>,
}

impl Speed {
    /// Notes that `bytes` had come by `now`. A time before the latest is taken for the latest.
    pub(super) fn sample(&mut self, now: Duration, bytes: u64) {
        let now = self.latest.map_or(now, |(at, _)| at.max(now));
        self.latest = Some((now, bytes));
        if self.samples.back().is_none_or(|(at, _)| now - *at >= STEP) {
            self.samples.push_back((now, bytes));
        }
        // The newest sample at or before the window's start is where the window begins.
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Returns bytes a second over the window; 0 before there are two samples.
    pub(super) fn bytes_per_second(&self) -> u64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.latest) else { return 0 };
        let seconds = (to - *from).as_secs_f64();
        if seconds < STEP.as_secs_f64() { 0 } else { (after.saturating_sub(*before) as f64 / seconds) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_steady_flow_has_its_rate_and_a_halt_brings_it_to_zero() {
        let mut speed = Speed::default();
        assert_eq!(speed.bytes_per_second(), 0);
        for tick in 0..=100 {
            speed.sample(at(tick * 100), tick * 1000);
        }
        assert_eq!(speed.bytes_per_second(), 10_000);
        for tick in 100..=160 {
            speed.sample(at(tick * 100), 100_000);
        }
        assert_eq!(speed.bytes_per_second(), 0);
        assert!(speed.samples.len() <= 22, "{}", speed.samples.len());
    }

    #[test]
    fn the_rate_follows_a_change_within_the_window() {
        let mut speed = Speed::default();
        speed.sample(at(0), 0);
        speed.sample(at(10_000), 0);
        speed.sample(at(12_000), 2_000_000);
        assert!(speed.bytes_per_second() > 0);
        speed.sample(at(16_000), 6_000_000);
        assert_eq!(speed.bytes_per_second(), 1_000_000);
    }

    #[test]
    fn a_clock_that_goes_back_and_bytes_that_shrink_are_survived() {
        let mut speed = Speed::default();
        speed.sample(at(5000), 500);
        speed.sample(at(1000), 400);
        speed.sample(at(9000), 100);
        assert_eq!(speed.bytes_per_second(), 0);
    }
}
