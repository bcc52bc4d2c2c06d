//! Limits of bytes a second, shared by everything that moves bytes in one direction.
//!
//! Promises: over any stretch of time not more than the limit and one burst; whoever waits is served in turn; without a limit it costs
//! nothing. Never holds a lock while it waits.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a throttle that was idle may run ahead of its limit.
const AHEAD: Duration = Duration::from_millis(50);
/// The least burst in bytes: a few blocks.
const LEAST_BURST: f64 = 65_536.0;

/// A limit of bytes a second. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Option<Arc<Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// Bytes a second.
    rate: f64,
    /// How far the reservations may be ahead of the clock.
    ahead: Duration,
    /// Until when everything that was let through takes, at the limit.
    reserved: Mutex<Instant>,
}

impl Throttle {
    /// Makes a throttle of so many bytes a second; none for no limit.
    pub fn new(limit: Option<u64>) -> Self {
        let bucket = |limit: u64| {
            let rate = limit.max(1) as f64;
            let ahead = AHEAD.max(Duration::from_secs_f64((LEAST_BURST / rate).min(60.0)));
            Arc::new(Bucket { rate, ahead, reserved: Mutex::new(Instant::now()) })
        };
        Self(limit.map(bucket))
    }

    /// Returns whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until so many bytes may pass. Whoever stops waiting has had his turn.
    pub async fn pass(&self, bytes: usize) {
        let Some(bucket) = &self.0 else { return };
        let pause = bucket.reserve(bytes);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

impl Bucket {
    /// Takes the next turn for so many bytes and returns how long to wait for it.
    fn reserve(&self, bytes: usize) -> Duration {
        let now = Instant::now();
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = (*reserved).max(now);
        *reserved = begins + Duration::from_secs_f64(bytes as f64 / self.rate);
        begins.saturating_duration_since(now + self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_keeps_to_the_limit() {
        let throttle = Throttle::new(Some(1_000_000));
        let began = Instant::now();
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let throttle = throttle.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        throttle.pass(50_000).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let seconds = began.elapsed().as_secs_f64();
        assert!((9.8..=10.0).contains(&seconds), "10 MB took {seconds} s");
        // Idle time is not saved up.
        tokio::time::sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        for _ in 0..20 {
            throttle.pass(50_000).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        assert!((0.8..=1.0).contains(&seconds), "1 MB took {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let began = Instant::now();
        Throttle::new(None).pass(usize::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
