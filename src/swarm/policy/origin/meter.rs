//! How fast somebody delivers: an exponentially weighted moving average of bytes a second. Pure.

use std::time::Duration;

/// It forgets over about this time, or the time that a piece takes, if that is longer.
const WINDOW: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// The average.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meter {
    rate: f64,
    at: Duration,
    window: Duration,
}

impl Meter {
    /// Notes bytes that came, and how long they took.
    pub(super) fn add(&mut self, now: Duration, bytes: u32, took: Duration) {
        let rate = self.rate(now);
        self.window = (took * 2).clamp(WINDOW.0, WINDOW.1);
        self.rate = rate + f64::from(bytes) / self.window.as_secs_f64();
        self.at = now;
    }

    /// Returns the average in bytes a second.
    pub(super) fn rate(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.rate * (-passed / self.window.max(WINDOW.0).as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_rate_and_forgets_it() {
        for (every, bytes) in [(10, 1000), (100, 10_000), (8000, 800_000)] {
            let (mut meter, mut now) = (Meter::default(), Duration::ZERO);
            for _ in 0..(120_000 / every) {
                now += Duration::from_millis(every);
                meter.add(now, bytes, Duration::from_millis(every));
            }
            let rate = meter.rate(now);
            assert!((90_000.0..150_000.0).contains(&rate), "{rate} with a piece every {every} ms");
            assert!(meter.rate(now + Duration::from_secs(60)) < rate / 20.0);
        }
        assert_eq!(Meter::default().rate(Duration::from_secs(9)), 0.0);
    }
}
