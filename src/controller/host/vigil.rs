//! Whether a host still gets on: decided from what its agent says and when. Pure; times are passed in.
//!
//! Three things are told apart: an agent that says nothing at all (it answers every ping, whatever it works on), a transfer that
//! brings nothing new, and a host without any connection in its transfer, which is told early and stops nothing. The last two are judged
//! only from the agent's word that it transfers until its next one: hooks around the transfer have limits of their own.

use std::time::Duration;

use tokio::time::Instant;

use crate::{model::HostState, wire::FromAgent};

/// How often the agent is pinged at least.
pub(super) const PING: Duration = Duration::from_secs(10);
/// How long an agent may say nothing.
const SILENCE: Duration = Duration::from_secs(90);
/// How long a transfer may bring nothing new.
const STALL: Duration = Duration::from_secs(600);
/// How long a host may be without any connection in its transfer before the operator is told where to look.
pub(super) const LONELY: Duration = Duration::from_secs(30);

/// What is wrong with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// It can reach nobody. Told once.
    Lonely,
    /// Its agent says nothing. The host is given up.
    Silent(Duration),
    /// Its transfer brings nothing. The host is given up.
    Stalled(Duration),
}

/// The watch over one agent.
#[derive(Debug)]
pub(super) struct Vigil {
    heard: Instant,
    /// Its transfer is under way.
    transfers: bool,
    /// When it moved last.
    moved: Instant,
    /// Bytes received, verified or not, when the transfer moved last.
    received: u64,
    /// Since when it has no connection, while it should; none once the operator was told.
    alone: Option<Instant>,
    has_peers: bool,
}

impl Vigil {
    /// Begins with an agent that was just started.
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, transfers: false, moved: now, received: 0, alone: None, has_peers: false }
    }

    /// Notes what the agent said.
    pub(super) fn heard(&mut self, message: &FromAgent, now: Instant) {
        self.heard = now;
        match message {
            FromAgent::Progress(progress) => {
                let received = progress.payload;
                if received != std::mem::replace(&mut self.received, received) {
                    self.moved = now;
                }
                let had_peers = std::mem::replace(&mut self.has_peers, progress.peers > 0);
                // Agents tell what changes only: the last word before this one may be old.
                if self.has_peers || had_peers {
                    self.alone = self.alone.map(|_| now);
                }
            }
            FromAgent::State { state } => {
                self.transfers = matches!(state, HostState::Downloading | HostState::Backfilling);
                self.moved = now;
                self.alone = self.transfers.then_some(now);
            }
            FromAgent::Alive => (),
            _ => self.moved = now,
        }
    }

    /// Returns what is wrong, if something is.
    pub(super) fn concern(&mut self, now: Instant) -> Option<Concern> {
        if now - self.heard >= SILENCE {
            return Some(Concern::Silent(SILENCE));
        }
        if self.transfers && now - self.moved >= STALL {
            return Some(Concern::Stalled(STALL));
        }
        if self.transfers && !self.has_peers && self.alone.is_some_and(|since| now - since >= LONELY) {
            self.alone = None;
            return Some(Concern::Lonely);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TransferProgress;

    fn progress(received: u64, peers: u32) -> FromAgent {
        FromAgent::Progress(TransferProgress { payload: received, peers, ..TransferProgress::default() })
    }

    const DOWNLOADING: FromAgent = FromAgent::State { state: HostState::Downloading };

    #[test]
    fn hooks_before_and_after_a_transfer_are_no_part_of_it() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let mut vigil = Vigil::new(start);
        let mut watch = |minutes: std::ops::Range<u64>, said: FromAgent| {
            vigil.heard(&said, at(minutes.start));
            let concerns = minutes.map(|minute| {
                vigil.heard(&FromAgent::Alive, at(minute));
                vigil.concern(at(minute))
            });
            concerns.flatten().collect::<Vec<_>>()
        };
        assert_eq!(watch(0..30, FromAgent::Alive), [], "before_stage, of which nothing is said");
        assert_eq!(watch(30..32, DOWNLOADING), [Concern::Lonely]);
        assert_eq!(watch(32..90, FromAgent::State { state: HostState::Extracting }), [], "and after_stage");
    }

    #[test]
    fn a_silent_agent_is_given_up_whatever_it_does_and_one_that_answers_pings_is_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut vigil = Vigil::new(start);
        assert_eq!(vigil.concern(at(89)), None);
        vigil.heard(&FromAgent::Alive, at(89));
        assert_eq!(vigil.concern(at(178)), None);
        assert_eq!(vigil.concern(at(179)), Some(Concern::Silent(SILENCE)));
        for hour in 0..400 {
            vigil.heard(&FromAgent::Alive, at(180 + hour * 10));
            assert_eq!(vigil.concern(at(185 + hour * 10)), None);
        }
    }

    #[test]
    fn a_transfer_must_bring_something_even_if_it_is_not_a_whole_piece() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut vigil = Vigil::new(start);
        vigil.heard(&DOWNLOADING, start);
        vigil.heard(&progress(16384, 1), at(590));
        vigil.heard(&progress(16384, 1), at(1180));
        assert_eq!(vigil.concern(at(1181)), None);
        assert_eq!(vigil.concern(at(1190)), Some(Concern::Stalled(STALL)));
    }

    #[test]
    fn a_host_that_never_says_anything_about_its_transfer_is_lonely_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut vigil = Vigil::new(start);
        vigil.heard(&DOWNLOADING, start);
        vigil.heard(&FromAgent::Alive, at(29));
        assert_eq!(vigil.concern(at(29)), None);
        assert_eq!(vigil.concern(at(30)), Some(Concern::Lonely));
        assert_eq!(vigil.concern(at(40)), None);
    }

    #[test]
    fn a_host_that_loses_its_last_connection_is_lonely_later() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut vigil = Vigil::new(start);
        vigil.heard(&DOWNLOADING, start);
        vigil.heard(&progress(1, 3), at(50));
        assert_eq!(vigil.concern(at(60)), None);
        vigil.heard(&progress(2, 0), at(61));
        assert_eq!(vigil.concern(at(61)), None);
        assert_eq!(vigil.concern(at(90)), None);
        assert_eq!(vigil.concern(at(91)), Some(Concern::Lonely));
    }
}
