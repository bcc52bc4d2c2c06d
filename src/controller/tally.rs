//! What a run remembers of each host and of its phases, and the summary made of it.
//!
//! Bounded by the fleet's size; knows no socket and reads no clock (times are passed in).

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::model::{
    AgentCounts, ByteCounts, HostFailure, HostId, HostName, HostResult, HostState, Phase, PhaseTime, ReleaseId, RunSummary,
    Verdict, distribution::Mode,
};

const PHASES: [Phase; 6] = [Phase::Hash, Phase::Connect, Phase::Prepare, Phase::Distribute, Phase::Stage, Phase::Activate];

/// Notes about one host.
#[derive(Debug, Clone)]
pub(super) struct HostNotes {
    pub(super) name: HostName,
    pub(super) bytes: ByteCounts,
    /// How it gets the artifact, and why not from peers.
    pub(super) mode: Mode,
    pub(super) mode_reason: Option<String>,
    /// How many peers it was connected to at most.
    pub(super) peers: u32,
    pub(super) unchanged: bool,
    pub(super) release: Option<ReleaseId>,
    pub(super) previous: Option<ReleaseId>,
    pub(super) failure: Option<HostFailure>,
    started: Option<Instant>,
    verified: Option<Instant>,
}

/// Notes about the whole run.
#[derive(Debug)]
pub(super) struct Tally {
    began: Instant,
    hash: Option<Duration>,
    hosts: Vec<HostNotes>,
    agents: AgentCounts,
    phases: BTreeMap<Phase, (Instant, Option<Instant>)>,
}

impl Tally {
    /// Starts with a fleet in inventory order, the time that hashing took before and how hosts are to get the artifact.
    pub(super) fn new(names: impl Iterator<Item = HostName>, hash: Option<Duration>, mode: Mode, now: Instant) -> Self {
        let notes = |name| HostNotes {
            name,
            bytes: ByteCounts::default(),
            mode,
            mode_reason: None,
            peers: 0,
            unchanged: false,
            release: None,
            previous: None,
            failure: None,
            started: None,
            verified: None,
        };
        Self { began: now, hash, hosts: names.map(notes).collect(), agents: AgentCounts::default(), phases: BTreeMap::new() }
    }

    /// Returns how many hosts there are.
    pub(super) fn fleet(&self) -> usize {
        self.hosts.len()
    }

    /// Returns a host's notes. Host ids are this fleet's own: the dispatcher makes them.
    pub(super) fn host(&mut self, host: HostId) -> &mut HostNotes {
        &mut self.hosts[host.index()]
    }

    /// Notes how a host gets the artifact from now on; true for the first one that does it so.
    pub(super) fn takes(&mut self, host: HostId, mode: Mode, reason: &str) -> bool {
        let first = self.hosts.iter().all(|notes| notes.mode != mode);
        let notes = self.host(host);
        (notes.mode, notes.mode_reason) = (mode, Some(reason.to_owned()));
        first
    }

    /// Notes that a host got its agent, from another host or over SSH.
    pub(super) fn agent_came(&mut self, from_host: bool) {
        if from_host {
            self.agents.from_hosts += 1;
        } else {
            self.agents.over_ssh += 1;
        }
    }

    /// Times what a host's new state says about the phases.
    pub(super) fn entered(&mut self, host: HostId, state: HostState, now: Instant) {
        match state {
            HostState::Connecting => self.begin(Phase::Connect, now),
            HostState::Preparing => {
                self.end(Phase::Connect, now);
                self.begin(Phase::Prepare, now);
            }
            HostState::Downloading => {
                self.end(Phase::Prepare, now);
                self.begin(Phase::Distribute, now);
                self.host(host).started.get_or_insert(now);
            }
            HostState::Extracting => self.verified(host, now),
            HostState::Staged => {
                self.verified(host, now);
                // Without a transfer, as in a rollback, being staged is the end of the preparation.
                let phase = if self.phases.contains_key(&Phase::Stage) { Phase::Stage } else { Phase::Prepare };
                self.end(phase, now);
            }
            HostState::Activating => self.begin(Phase::Activate, now),
            HostState::Active => {
                // A host that had nothing to do ends its preparation here and takes no part in what follows.
                let phase = if self.hosts[host.index()].unchanged { Phase::Prepare } else { Phase::Activate };
                self.end(phase, now);
            }
            _ => (),
        }
    }

    fn verified(&mut self, host: HostId, now: Instant) {
        let notes = self.host(host);
        if notes.started.is_some() && notes.verified.is_none() {
            notes.verified = Some(now);
            self.end(Phase::Distribute, now);
            self.begin(Phase::Stage, now);
        }
    }

    fn begin(&mut self, phase: Phase, now: Instant) {
        self.phases.entry(phase).or_insert((now, None));
    }

    fn end(&mut self, phase: Phase, now: Instant) {
        if let Some((_, end)) = self.phases.get_mut(&phase) {
            *end = Some(now);
        }
    }

    /// Returns the phases that have a beginning and an end, in order.
    pub(super) fn phases(&self) -> Vec<PhaseTime> {
        let seconds = |phase: Phase| match (phase, self.phases.get(&phase)) {
            (Phase::Hash, _) => self.hash.map(|time| time.as_secs_f64()),
            (_, Some((begin, Some(end)))) => Some((*end - *begin).as_secs_f64()),
            _ => None,
        };
        PHASES.into_iter().filter_map(|phase| Some(PhaseTime { phase, seconds: seconds(phase)? })).collect()
    }

    /// Makes the summary, but for the number of waves. `end` tells each host's final state and its wave, `exit_code` maps the
    /// verdict and the counts.
    pub(super) fn summary(
        self,
        verdict: Verdict,
        abort_reason: Option<String>,
        controller_sent: u64,
        end: impl Fn(HostId) -> (HostState, Option<usize>),
        exit_code: impl Fn(Verdict, &BTreeMap<HostState, usize>) -> u8,
        now: Instant,
    ) -> RunSummary {
        let phases = self.phases();
        let seconds = (now - self.began + self.hash.unwrap_or_default()).as_secs_f64();
        let mut counts = BTreeMap::new();
        let mut bytes = ByteCounts::default();
        let mut slowest: Option<(HostName, f64)> = None;
        let mut hosts = Vec::with_capacity(self.hosts.len());
        for (index, notes) in self.hosts.into_iter().enumerate() {
            let (state, wave) = end(HostId(index as u32));
            *counts.entry(state).or_default() += 1;
            bytes.add(&notes.bytes);
            let transfer_seconds =
                notes.started.zip(notes.verified).map(|(started, verified)| (verified - started).as_secs_f64());
            if let Some(seconds) = transfer_seconds
                && slowest.as_ref().is_none_or(|(_, most)| seconds > *most)
            {
                slowest = Some((notes.name.clone(), seconds));
            }
            hosts.push(HostResult {
                host: notes.name,
                state,
                unchanged: notes.unchanged,
                release: notes.release,
                previous: notes.previous,
                bytes: notes.bytes,
                mode: notes.mode,
                mode_reason: notes.mode_reason,
                peers: notes.peers,
                verified: notes.verified.is_some() || notes.unchanged,
                transfer_seconds,
                wave,
                failure: notes.failure,
            });
        }
        let exit_code = exit_code(verdict, &counts);
        let agents = self.agents;
        RunSummary {
            verdict,
            exit_code,
            hosts,
            waves: 0,
            counts,
            bytes,
            controller_sent,
            agents,
            phases,
            slowest,
            seconds,
            abort_reason,
        }
    }
}

/// Tells when the last host leaves a phase, so that its end is an event at that moment. A host that drops out leaves all phases.
#[derive(Debug)]
pub(super) struct Milestones {
    /// How many hosts are in each state; index is the state's.
    hosts: [usize; HostState::ALL.len()],
    /// Phases that have not ended, each with the first state behind it.
    open: Vec<(Phase, HostState)>,
}

impl Milestones {
    /// Starts with all hosts queued.
    pub(super) fn new(fleet: usize) -> Self {
        let mut hosts = [0; HostState::ALL.len()];
        hosts[HostState::Queued as usize] = fleet;
        let open = vec![
            (Phase::Connect, HostState::Preparing),
            (Phase::Prepare, HostState::Downloading),
            (Phase::Distribute, HostState::Extracting),
            (Phase::Stage, HostState::Staged),
            (Phase::Activate, HostState::Active),
        ];
        Self { hosts, open }
    }

    /// Moves a host and returns the phases that ended with it, in order.
    pub(super) fn moved(&mut self, from: HostState, to: HostState) -> Vec<Phase> {
        self.hosts[from as usize] = self.hosts[from as usize].saturating_sub(1);
        self.hosts[to as usize] += 1;
        let first = self.hosts.iter().position(|hosts| *hosts > 0).unwrap_or_default();
        let ended = self.open.iter().take_while(|(_, behind)| first >= *behind as usize).count();
        self.open.drain(..ended).map(|(phase, _)| phase).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_run_from_the_first_host_to_the_last() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let names = ["a", "b"].into_iter().map(|name| HostName::new(name).unwrap());
        let mut tally = Tally::new(names, Some(Duration::from_secs(2)), Mode::Peers, start);
        let (a, b) = (HostId(0), HostId(1));
        for (host, state, when) in [
            (a, HostState::Connecting, 0),
            (b, HostState::Connecting, 0),
            (a, HostState::Preparing, 1),
            (a, HostState::Downloading, 2),
            (b, HostState::Preparing, 3),
            (b, HostState::Downloading, 4),
            (a, HostState::Extracting, 12),
            (b, HostState::Extracting, 15),
            (a, HostState::Staged, 14),
            (b, HostState::Staged, 17),
            (a, HostState::Activating, 17),
            (b, HostState::Activating, 17),
            (a, HostState::Active, 18),
            (b, HostState::Active, 19),
        ] {
            tally.entered(host, state, at(when));
        }
        let phases: Vec<_> = tally.phases().into_iter().map(|time| (time.phase, time.seconds)).collect();
        assert_eq!(
            phases,
            [
                (Phase::Hash, 2.0),
                (Phase::Connect, 3.0),
                (Phase::Prepare, 3.0),
                (Phase::Distribute, 13.0),
                (Phase::Stage, 5.0),
                (Phase::Activate, 2.0),
            ]
        );
        let summary = tally.summary(Verdict::Completed, None, 7, |_| (HostState::Active, None), |_, _| 0, at(20));
        assert_eq!(summary.counts, BTreeMap::from([(HostState::Active, 2)]));
        assert_eq!(summary.slowest, Some((HostName::new("b").unwrap(), 11.0)));
        assert_eq!(summary.seconds, 22.0);
    }

    #[test]
    fn a_phase_ends_when_the_last_host_leaves_it_or_drops_out() {
        let mut milestones = Milestones::new(2);
        assert_eq!(milestones.moved(HostState::Queued, HostState::Preparing), []);
        assert_eq!(milestones.moved(HostState::Queued, HostState::Connecting), []);
        assert_eq!(milestones.moved(HostState::Connecting, HostState::Unreachable), [Phase::Connect]);
        assert_eq!(milestones.moved(HostState::Preparing, HostState::Downloading), [Phase::Prepare]);
        let rest = [Phase::Distribute, Phase::Stage, Phase::Activate];
        assert_eq!(milestones.moved(HostState::Downloading, HostState::Skipped), rest);
    }
}
