//! The way from a run to its reporter: events stamped with version, time and run, through a bounded queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::mpsc, time::Instant};

use crate::model::{EVENT_VERSION, Envelope, RunEvent, RunId};

/// Where a run sends its events.
#[derive(Debug, Clone)]
pub struct EventSink {
    run: RunId,
    queue: mpsc::Sender<Envelope>,
    /// How many milliseconds the run has waited for its reporter.
    waited: Arc<AtomicU64>,
    /// How many events the reporter did not get because of that.
    lost: Arc<AtomicU64>,
}

impl EventSink {
    /// Events kept while the reporter is busy.
    const CAPACITY: usize = 16_384;
    /// How long all events of a run may wait for a place.
    const PATIENCE: Duration = Duration::from_secs(4);
    /// How long the last one waits.
    const LAST_PATIENCE: Duration = Duration::from_secs(20);

    /// Makes a sink and the end its reporter reads.
    pub fn new(run: RunId) -> (Self, mpsc::Receiver<Envelope>) {
        let (queue, receiver) = mpsc::channel(Self::CAPACITY);
        (Self { run, queue, waited: Arc::default(), lost: Arc::default() }, receiver)
    }

    /// Returns the run the events belong to.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// Sends an event; waits for a reporter that is behind, but only a few seconds over the whole run. A terminal that was stopped with
    /// Ctrl-S or a slow reader is no reason to hold up a run in the middle of a switch: what does not fit is dropped then.
    pub async fn send(&self, event: RunEvent) {
        let patience = match event {
            // The last event has nothing left to hold up.
            RunEvent::RunFinished(_) => Self::LAST_PATIENCE,
            _ => Self::PATIENCE.saturating_sub(Duration::from_millis(self.waited.load(Ordering::Relaxed))),
        };
        let began = Instant::now();
        let sent = self.queue.send_timeout(self.stamp(event), patience).await;
        self.waited.fetch_add(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.lost.fetch_add(u64::from(sent.is_err()), Ordering::Relaxed);
    }

    /// Returns how many events were dropped because the reporter was behind or gone; progress does not count.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Sends an event that the next one of its kind replaces; drops it if the reporter is behind.
    pub(super) fn send_lossy(&self, event: RunEvent) {
        // The last places are for what happens only once.
        if self.queue.capacity() > Self::CAPACITY / 2 {
            let _ = self.queue.try_send(self.stamp(event));
        }
    }

    fn stamp(&self, event: RunEvent) -> Envelope {
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        Envelope { v: EVENT_VERSION, at, run: self.run.clone(), event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reporter_that_reads_nothing_delays_a_run_once() {
        let (sink, mut received) = EventSink::new(RunId::from_random([1; 8]));
        let began = tokio::time::Instant::now();
        for _ in 0..EventSink::CAPACITY + 50 {
            sink.send(RunEvent::Interrupted).await;
        }
        assert!(began.elapsed() < EventSink::PATIENCE * 2, "{:?}", began.elapsed());
        assert_eq!(sink.lost(), 50);
        received.recv().await.unwrap();
        sink.send(RunEvent::BarrierMet { hosts: 3, waves: 1 }).await;
        let last = std::iter::from_fn(|| received.try_recv().ok()).last().unwrap();
        assert_eq!(last.event, RunEvent::BarrierMet { hosts: 3, waves: 1 });
    }
}
