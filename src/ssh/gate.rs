//! How many logins are under way at once: few at first, more with each that came through.
//!
//! A login costs a processor some milliseconds. Were all begun together, all would end together, and nobody would be served before the
//! last: so the first hosts are let in first. A login that takes long waits for the network and keeps no processor busy: it counts as
//! one that came through, so that dead hosts hold nobody up.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

/// Logins at first, for each processor.
const FIRST: usize = 4;
/// A login that takes longer waits for the network.
const LONG: Duration = Duration::from_millis(250);

/// Lets logins through, and opens with each of them.
#[derive(Debug)]
pub(super) struct Gate {
    slots: Semaphore,
    /// How many slots there are not yet.
    shut: Mutex<usize>,
}

impl Gate {
    /// Makes a gate that lets `most` logins through at once, later on.
    pub(super) fn new(most: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::opening(processors.saturating_mul(FIRST), most)
    }

    fn opening(first: usize, most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        let first = first.min(most);
        Self { slots: Semaphore::new(first), shut: Mutex::new(most - first) }
    }

    /// Waits for a slot and keeps it until `login` ends. Dropping the future gives the slot back.
    pub(super) async fn pass<T>(&self, login: impl Future<Output = T>) -> T {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await.ok();
        let mut login = pin!(login);
        let ended = timeout(LONG, &mut login).await;
        self.open();
        match ended {
            Ok(ended) => ended,
            Err(_) => login.await,
        }
    }

    /// Adds a slot, unless all are there.
    fn open(&self) {
        let mut shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        if *shut > 0 {
            *shut -= 1;
            self.slots.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use tokio::{task::JoinSet, time::sleep};

    use super::*;

    /// Starts `count` logins of that length and returns how many were under way when each of the given moments came, in milliseconds.
    async fn under_way(gate: Gate, count: usize, length: u64, moments: &[u64]) -> Vec<usize> {
        let (gate, now) = (Arc::new(gate), Arc::new(AtomicUsize::new(0)));
        let mut logins = JoinSet::new();
        for _ in 0..count {
            let (gate, now) = (gate.clone(), now.clone());
            logins.spawn(async move {
                let login = async {
                    now.fetch_add(1, SeqCst);
                    sleep(Duration::from_millis(length)).await;
                    now.fetch_sub(1, SeqCst);
                };
                gate.pass(login).await;
            });
        }
        let (mut seen, mut passed) = (Vec::new(), 0);
        for moment in moments {
            sleep(Duration::from_millis(moment - passed)).await;
            passed = *moment;
            seen.push(now.load(SeqCst));
        }
        logins.join_all().await;
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn twice_as_many_are_let_in_when_the_first_are_through_up_to_the_limit() {
        assert_eq!(under_way(Gate::opening(4, 10), 100, 100, &[50, 150, 250, 350]).await, [4, 8, 10, 10]);
        assert_eq!(under_way(Gate::opening(4, 3), 100, 100, &[50, 150]).await, [3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_do_not_answer_hold_nobody_up() {
        assert_eq!(under_way(Gate::opening(4, 10), 100, 10_000, &[50, 260, 520]).await, [4, 8, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_is_given_up_gives_its_slot_back() {
        let gate = Gate::opening(1, 1);
        for _ in 0..3 {
            assert!(timeout(Duration::from_secs(1), gate.pass(std::future::pending::<()>())).await.is_err());
        }
        gate.pass(async {}).await;
    }
}
