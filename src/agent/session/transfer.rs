//! The session and its engine: the transfer is awaited, judged and told.

use std::time::Duration;

use super::{Halt, Session};
use crate::{
    agent::ladder::{Ladder, Step, Terms},
    model::{ByteCounts, HostState, origin::Origins},
    swarm::{EngineHandle, TransferStats, policy::Direct},
    wire::{DeployJob, FromAgent, PeerAddr, TransferProgress},
};

/// How long the engine may take to stop.
const ENGINE_STOP: Duration = Duration::from_secs(5);

impl Session {
    /// Learns what a deploy's transfer goes by.
    pub(crate) fn plan_transfer(&mut self, job: &DeployJob) {
        self.alone |= job.alone;
        self.web = job.web.clone();
        self.ladder = Ladder::new(Terms { stall: job.stall_timeout, size: job.manifest.size, web: job.web.is_some() });
    }

    /// Takes over a running engine. It is stopped with the session.
    pub(crate) fn attach(&mut self, engine: EngineHandle, needed: bool) {
        self.engine = Some(engine);
        self.engine_needed = needed;
    }

    /// Returns what the engine last told; nothing if none ever ran.
    pub(super) fn stats(&self) -> Option<TransferStats> {
        let running = self.engine.as_ref().map(|engine| engine.stats().borrow().clone());
        running.or_else(|| self.last.clone())
    }

    /// Gives the engine more peers.
    pub(crate) async fn add_peers(&self, peers: Vec<PeerAddr>) {
        if let Some(engine) = &self.engine {
            engine.add_peers(peers.into_iter().map(|peer| peer.0).collect()).await;
        }
    }

    /// Lets the engine use origins, if there are some; directly, where there are no peers.
    pub(crate) async fn use_origins(&mut self, origins: Option<Box<Origins>>) {
        if let (Some(engine), Some(origins)) = (&self.engine, origins) {
            engine.use_origins(origins).await;
        }
        if self.alone {
            self.go_direct_alone().await;
        }
    }

    /// Has no peers to wait for.
    async fn go_direct_alone(&mut self) {
        let direct = self.ladder.begin_direct();
        if let Some(engine) = &self.engine {
            engine.go_direct(direct, None).await;
        }
    }

    /// Lets the engine reach the controller through SSH.
    pub(super) async fn take_way(&mut self, seed: PeerAddr, tracker: Option<String>) {
        let Some(engine) = &self.engine else { return };
        engine.add_way(seed.0, tracker).await;
        if let Some(message) = self.ladder.take_way() {
            self.tell(message).await;
        }
    }

    /// Ends every exchange with other hosts.
    pub(super) async fn leave_others(&mut self) {
        self.alone = true;
        if let Some(engine) = &self.engine {
            engine.isolate().await;
        }
        self.go_direct_alone().await;
    }

    /// True once hosts exchange nothing any more.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Lets the ladder judge how the transfer gets on, and does what it wants.
    pub(super) async fn look_at_the_transfer(&mut self) {
        let Some(engine) = self.engine.as_ref().filter(|_| self.transfers()) else { return self.ladder.rest() };
        let steps = self.ladder.look(self.began.elapsed(), &engine.stats().borrow());
        for step in steps {
            match step {
                Step::Direct(direct) => {
                    let web = self.web.clone().filter(|_| direct == Direct::Controller);
                    if let Some(engine) = &self.engine {
                        engine.go_direct(direct, web).await;
                    }
                }
                // It is asked for again.
                Step::Tell(message @ FromAgent::Stranded { .. }) => self.link.send_if_idle(message),
                Step::Tell(message) => self.tell(message).await,
            }
        }
    }

    /// Tells what a transfer that has ended came to, if that has not been told.
    pub(crate) async fn look_back_at_the_transfer(&mut self) {
        if let Some(message) = self.stats().and_then(|stats| self.ladder.look_back(&stats)) {
            self.tell(message).await;
        }
    }

    /// From now on the engine only uploads: its failure stops nothing.
    pub(crate) fn engine_is_optional(&mut self) {
        self.engine_needed = false;
    }

    /// Stops the engine, if one runs, and waits for it.
    pub(crate) async fn stop_engine(&mut self) {
        self.last = self.stats();
        if let Some(engine) = self.engine.take()
            && tokio::time::timeout(ENGINE_STOP, engine.stop()).await.is_err()
        {
            tracing::warn!("the swarm engine did not stop in {} s", ENGINE_STOP.as_secs());
        }
    }

    /// Waits until the engine has verified the file's first `bytes`, and returns how many it has in order by then. Without an engine
    /// nothing is awaited.
    pub(crate) async fn in_order(&mut self, bytes: u64) -> Result<u64, Halt> {
        self.until(move |stats| stats.complete || stats.in_order >= bytes).await?;
        Ok(self.engine.as_ref().map_or(bytes, |engine| engine.stats().borrow().in_order.max(bytes)))
    }

    /// Waits until the engine has everything. Without an engine nothing is awaited.
    pub(crate) async fn transfer(&mut self) -> Result<(), Halt> {
        self.until(|stats| stats.complete).await
    }

    async fn until(&mut self, mut reached: impl FnMut(&TransferStats) -> bool) -> Result<(), Halt> {
        let Some(mut stats) = self.engine.as_ref().map(EngineHandle::stats) else { return Ok(()) };
        self.attend(async move {
            if stats.wait_for(|stats| reached(stats)).await.is_err() {
                // The engine has ended: the session learns why and interrupts this.
                std::future::pending::<()>().await;
            }
            Ok(())
        })
        .await
    }

    /// Tells how the transfer stands, what the engine noticed, and whether most of it comes from origins.
    pub(super) async fn tell_progress(&mut self) {
        let Some(stats) = self.stats() else { return };
        if stats == self.told {
            return;
        }
        let TransferStats { bytes, payload, rate, peers, .. } = stats;
        let progress = TransferProgress { bytes, payload, rate, peers };
        self.link.send_if_idle(FromAgent::Progress(progress));
        let before = std::mem::replace(&mut self.told, stats);
        self.tell_notices(before.notices.len()).await;
        match source_state(&before.bytes, &bytes).filter(|_| self.transfers()) {
            Some(state) if state != self.during => self.enter(state).await,
            _ => {}
        }
    }

    /// Tells what the engine noticed after the first so many notices.
    async fn tell_notices(&mut self, known: usize) {
        let notices = self.told.notices.clone();
        for notice in notices.iter().skip(known) {
            self.warn(notice.message.clone(), notice.hint).await;
        }
    }

    /// Returns whether the artifact is awaited.
    fn transfers(&self) -> bool {
        matches!(self.during, HostState::Downloading | HostState::Backfilling)
    }

    /// Returns the bytes by source; `size` bytes from the disk if no engine ran.
    pub(crate) fn byte_counts(&self, size: u64) -> ByteCounts {
        self.stats().map_or(ByteCounts { from_disk: size, ..ByteCounts::default() }, |stats| stats.bytes)
    }
}

/// Returns what a host does that received this between two looks: it backfills while most comes from origins. None if nothing came.
fn source_state(before: &ByteCounts, now: &ByteCounts) -> Option<HostState> {
    let from_origin = now.from_origin.saturating_sub(before.from_origin);
    let swarm = |bytes: &ByteCounts| bytes.moved().saturating_sub(bytes.from_origin);
    let from_swarm = swarm(now).saturating_sub(swarm(before));
    let state = if from_origin > from_swarm { HostState::Backfilling } else { HostState::Downloading };
    (from_origin > 0 || from_swarm > 0).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_backfills_while_most_comes_from_origins() {
        let counts = |from_peers, from_controller, from_origin| {
            // What was there already comes from nobody.
            ByteCounts { from_peers, from_controller, from_origin, from_disk: 1000, ..ByteCounts::default() }
        };
        let state = |before, now| source_state(&before, &now);
        assert_eq!(state(counts(5, 5, 50), counts(5, 5, 50)), None);
        assert_eq!(state(counts(5, 5, 50), counts(6, 6, 52)), Some(HostState::Downloading));
        assert_eq!(state(counts(5, 5, 50), counts(6, 6, 53)), Some(HostState::Backfilling));
        assert_eq!(state(ByteCounts::default(), counts(0, 0, 0)), None);
    }
}
