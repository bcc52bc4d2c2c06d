//! The way from a run to its reporter: events stamped with version, time and run, through a bounded queue.

use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::model::{EVENT_VERSION, Envelope, RunEvent, RunId};

/// Where a run sends its events.
#[derive(Debug, Clone)]
pub struct EventSink {
    run: RunId,
    queue: mpsc::Sender<Envelope>,
}

impl EventSink {
    /// Events kept while the reporter is busy.
    const CAPACITY: usize = 4096;

    /// Makes a sink and the end its reporter reads.
    pub fn new(run: RunId) -> (Self, mpsc::Receiver<Envelope>) {
        let (queue, receiver) = mpsc::channel(Self::CAPACITY);
        (Self { run, queue }, receiver)
    }

    /// Returns the run the events belong to.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// Sends an event; waits for a reporter that is behind. A reporter that has gone away is no reason to stop a run.
    pub async fn send(&self, event: RunEvent) {
        let _ = self.queue.send(self.stamp(event)).await;
    }

    /// Sends an event that the next one of its kind replaces; drops it if the reporter is behind.
    pub(super) fn send_lossy(&self, event: RunEvent) {
        let _ = self.queue.try_send(self.stamp(event));
    }

    fn stamp(&self, event: RunEvent) -> Envelope {
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        Envelope { v: EVENT_VERSION, at, run: self.run.clone(), event }
    }
}
