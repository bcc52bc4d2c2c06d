//! How many pieces are uploaded at the same time: as few as fill the link. Pure.
//!
//! Few at a time arrive sooner, and what arrives can be passed on. But over a long way, or to receivers slower than the sender, few don't fill the
//! link, and nobody says how fast that is. So it is tried: now and then with more for a while, now and then with fewer, and what pays
//! stays. On a full link more does not pay, so the number goes down to its lower bound and stays there.

use std::time::Duration;

/// More must give this much more, in percent; fewer may cost so much.
const PAYS: u64 = 15;
const COSTS: u64 = 5;
/// A measurement takes as many pieces as this times the slots, and that long at least.
const MEASURED: (usize, Duration) = (4, Duration::from_millis(250));
/// Measurements between two tries.
const PAUSE: u32 = 6;

/// The number and how it changes.
#[derive(Debug)]
pub(super) struct Width {
    bounds: (usize, usize),
    slots: usize,
    /// What it was before the try that is going on.
    before: Option<usize>,
    /// Pieces in a thousand seconds at the last measurement without a try.
    usual: u64,
    pause: u32,
    /// The next try is with fewer.
    fewer: bool,
    since: Option<Duration>,
    sent: usize,
}

impl Width {
    /// Starts at the lower bound.
    pub(super) fn new(least: usize, most: usize) -> Self {
        Self {
            bounds: (least, most.max(least)),
            slots: least,
            before: None,
            usual: 0,
            pause: 1,
            fewer: false,
            since: None,
            sent: 0,
        }
    }

    /// Returns how many pieces may be on their way.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Notes that a piece was sent; `busy` tells whether all slots were in use.
    pub(super) fn sent(&mut self, now: Duration, busy: bool) {
        let Some(since) = self.since.filter(|_| busy) else {
            // Without enough to send nothing is learned.
            (self.since, self.sent) = (Some(now), 0);
            return;
        };
        self.sent += 1;
        let took = now.saturating_sub(since);
        if self.sent >= MEASURED.0 * self.slots && took >= MEASURED.1 {
            let rate = self.sent as u64 * 1_000_000 / took.as_millis().max(1) as u64;
            self.measured(rate);
            (self.since, self.sent) = (Some(now), 0);
        }
    }

    fn measured(&mut self, rate: u64) {
        let Some(before) = self.before.take() else {
            self.usual = rate;
            self.pause = self.pause.saturating_sub(1);
            if self.pause == 0 {
                self.try_other();
            }
            return;
        };
        let pays =
            if self.slots > before { rate * 100 > self.usual * (100 + PAYS) } else { rate * 100 >= self.usual * (100 - COSTS) };
        if pays {
            // The same again: on a long way it takes many more.
            self.usual = rate;
            self.fewer = self.slots < before;
            self.try_other();
        } else {
            self.slots = before;
            self.fewer = !self.fewer;
            self.pause = PAUSE;
        }
    }

    fn try_other(&mut self) {
        let (least, most) = self.bounds;
        let step = (self.slots / 2).max(1);
        let other = if self.fewer { self.slots.saturating_sub(step).max(least) } else { (self.slots + step).min(most) };
        if other == self.slots {
            self.fewer = !self.fewer;
            self.pause = PAUSE;
        } else {
            self.before = Some(self.slots);
            self.slots = other;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets a link send so many pieces and returns the mean number of slots over the second half. `rate` tells pieces a second from slots.
    fn mean_slots(rate: impl Fn(usize) -> f64, noise: f64, seed: u64) -> f64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut width, mut now, mut sum) = (Width::new(4, 24), 0.0, 0);
        for piece in 0..8000 {
            now += (1.0 + noise * (random.f64() - 0.5)) / rate(width.slots());
            width.sent(Duration::from_secs_f64(now), true);
            sum += if piece >= 4000 { width.slots() } else { 0 };
        }
        sum as f64 / 4000.0
    }

    proptest! {
        /// On a full link few stay few, though the times vary; where each transfer is slow by itself, there are soon many.
        #[test]
        fn as_few_as_fill_the_link(seed: u64) {
            prop_assert!(mean_slots(|_| 50.0, 1.0, seed) < 9.0);
            prop_assert!(mean_slots(|slots| slots as f64 * 5.0, 1.0, seed) > 14.0);
            let both = mean_slots(|slots| (slots as f64 * 5.0).min(50.0), 1.0, seed);
            prop_assert!((6.0..18.0).contains(&both), "{both}");
        }

        #[test]
        fn never_out_of_bounds(steps in prop::collection::vec((0u64..2000, any::<bool>()), 0..600)) {
            let (mut width, mut now) = (Width::new(4, 24), Duration::ZERO);
            for (wait, busy) in steps {
                now += Duration::from_millis(wait);
                width.sent(now, busy);
                prop_assert!((4..=24).contains(&width.slots()));
            }
        }
    }
}
