//! A run's events as a controller would send them, for tests of everything that consumes them.

use std::{collections::BTreeMap, time::Duration};

use crate::model::{
    AgentCounts, ByteCounts, EVENT_VERSION, Envelope, FailureKind, HostFailure, HostName, HostResult, HostState, Phase,
    PhaseTime, RunEvent, RunId, RunSummary, Verdict, distribution::Mode,
};

/// What all these runs put live.
pub(crate) const RELEASE: &str = "20261120T031500Z-1a2b3c4d";
/// What was live before.
pub(crate) const PREVIOUS: &str = "20261113T101500Z-99887766";

/// Returns the name of the fleet's `number`th host, counted from 1.
pub(crate) fn host_name(number: usize) -> HostName {
    HostName::new(&format!("web{number:02}")).unwrap()
}

/// Puts an event in its envelope.
pub(crate) fn envelope(event: RunEvent) -> Envelope {
    Envelope { v: EVENT_VERSION, at: "2026-11-20T03:15:00.000Z".into(), run: RunId::from_random([7; 8]), event }
}

/// The first event of a deploy to `hosts` hosts.
pub(crate) fn started(hosts: usize, size: u64) -> Envelope {
    envelope(RunEvent::RunStarted {
        action: "deploy".into(),
        app: Some("shop".parse().unwrap()),
        artifact: Some("shop.tar.zst".into()),
        digest: Some("1a2b3c4d".repeat(8).parse().unwrap()),
        size,
        release: Some(RELEASE.parse().unwrap()),
        max_failures: 0,
        distribution: None,
        hosts: (1..=hosts).map(host_name).collect(),
    })
}

/// The first event of a rollback of `hosts` hosts to `to`.
pub(crate) fn rollback_started(hosts: usize, to: Option<&str>) -> Envelope {
    envelope(RunEvent::RunStarted {
        action: "rollback".into(),
        app: Some("shop".parse().unwrap()),
        artifact: None,
        digest: None,
        size: 0,
        release: to.map(|to| to.parse().unwrap()),
        max_failures: 0,
        distribution: None,
        hosts: (1..=hosts).map(host_name).collect(),
    })
}

/// A host enters a state.
pub(crate) fn state(host: &str, state: HostState) -> Envelope {
    envelope(RunEvent::HostState { host: host.parse().unwrap(), state, failure: None })
}

/// A host drops out.
pub(crate) fn dropped(host: &str, failure: HostFailure) -> Envelope {
    envelope(RunEvent::HostState { host: host.parse().unwrap(), state: failure.state(), failure: Some(failure) })
}

/// A host has `received` bytes, most of them from peers.
pub(crate) fn progress(host: &str, received: u64) -> Envelope {
    let from_controller = received / 8;
    let bytes = ByteCounts { from_peers: received - from_controller, from_controller, ..ByteCounts::default() };
    envelope(RunEvent::HostProgress { host: host.parse().unwrap(), bytes, rate: received, peers: 4 })
}

/// A failure with everything that a failure can have.
pub(crate) fn disk_full() -> HostFailure {
    let mut failure = HostFailure::new(
        FailureKind::Failed,
        HostState::Preparing,
        "not enough space in `/srv/shop`: 12.0 MiB free, 130.0 MiB needed",
    )
    .with_hint("free space there, or choose another directory with `--deploy-to`");
    failure.log_tail = vec!["statvfs /srv/shop: 3145 blocks".into(), "\u{1b}[31mno space left\u{1b}[0m".into()];
    failure
}

/// A host that does not answer.
pub(crate) fn no_answer() -> HostFailure {
    HostFailure::new(FailureKind::Unreachable, HostState::Connecting, "no answer from 10.0.0.7:22 within 10 s, tried 3 times")
        .with_hint("check the address and the network, or leave the host out with `--limit '!HOST'`")
}

/// How a host ended that the run put the release on.
pub(crate) fn live(host: HostName, size: u64) -> HostResult {
    HostResult {
        host,
        state: HostState::Active,
        unchanged: false,
        release: Some(RELEASE.parse().unwrap()),
        previous: Some(PREVIOUS.parse().unwrap()),
        bytes: ByteCounts { from_peers: size - size / 8, from_controller: size / 8, uploaded: size, ..ByteCounts::default() },
        mode: Mode::Peers,
        mode_reason: None,
        peers: 4,
        verified: true,
        transfer_seconds: Some(12.34),
        wave: None,
        failure: None,
    }
}

/// How a host ended that went no further than `failure`, or was left alone.
pub(crate) fn out(host: HostName, failure: Option<HostFailure>) -> HostResult {
    HostResult {
        host,
        state: failure.as_ref().map_or(HostState::Skipped, HostFailure::state),
        unchanged: false,
        release: Some(PREVIOUS.parse().unwrap()),
        previous: None,
        bytes: ByteCounts::default(),
        mode: Mode::Peers,
        mode_reason: None,
        peers: 0,
        verified: false,
        transfer_seconds: None,
        wave: None,
        failure,
    }
}

/// Sums up a run.
pub(crate) fn summary(verdict: Verdict, exit_code: u8, hosts: Vec<HostResult>) -> RunSummary {
    let mut counts = BTreeMap::new();
    let mut bytes = ByteCounts::default();
    for host in &hosts {
        *counts.entry(host.state).or_default() += 1;
        bytes.add(&host.bytes);
    }
    let slowest = hosts.iter().filter_map(|host| Some((host.host.clone(), host.transfer_seconds?))).next_back();
    let phases = [(Phase::Hash, 0.41), (Phase::Connect, 1.2), (Phase::Prepare, 0.8), (Phase::Distribute, 13.44)]
        .into_iter()
        .chain((verdict == Verdict::Completed).then_some([(Phase::Stage, 1.0), (Phase::Activate, 0.52)]).into_iter().flatten())
        .map(|(phase, seconds)| PhaseTime { phase, seconds })
        .collect();
    let controller_sent = bytes.from_controller;
    RunSummary {
        verdict,
        exit_code,
        hosts,
        waves: 1,
        counts,
        bytes,
        controller_sent,
        agents: AgentCounts::default(),
        phases,
        slowest,
        seconds: 17.96,
        abort_reason: None,
    }
}

/// The last event of a run.
pub(crate) fn finished(summary: RunSummary) -> Envelope {
    envelope(RunEvent::RunFinished(Box::new(summary)))
}

/// A whole deploy to 5 hosts with a budget of one: one is unreachable, one reports twice and late, and the rest goes live.
/// Each event with the time it arrives.
pub(crate) fn deploy() -> Vec<(Duration, Envelope)> {
    use HostState::{Activating, Active, Checking, Connecting, Downloading, Extracting, Preparing, Staged, Verifying};
    const SIZE: u64 = 64 << 20;
    let mut events = vec![(0, started(5, SIZE))];
    let takes_part = ["web01", "web02", "web03", "web05"];
    let all = |at: u64, next: HostState| takes_part.map(|host| (at, state(host, next)));
    events.push((400, envelope(RunEvent::PhaseEnded(PhaseTime { phase: Phase::Hash, seconds: 0.41 }))));
    events.extend(all(500, Connecting));
    events.push((500, state("web04", Connecting)));
    events.extend(all(1000, Preparing));
    events.push((1700, dropped("web04", no_answer())));
    events.push((1700, envelope(RunEvent::PhaseEnded(PhaseTime { phase: Phase::Connect, seconds: 1.2 }))));
    events.push((
        1800,
        envelope(RunEvent::Warning {
            host: Some("web02".parse().unwrap()),
            message: "the cache is on tmpfs".into(),
            hint: Some("use `--cache`".into()),
        }),
    ));
    events.push((1900, envelope(RunEvent::AgentCame { host: host_name(1), from: None })));
    events.push((1950, envelope(RunEvent::AgentCame { host: host_name(2), from: Some(host_name(1)) })));
    events.extend(all(2000, Downloading));
    for step in 1..=8_u64 {
        events.extend(takes_part.iter().enumerate().map(|(host, name)| {
            (2000 + 1000 * step + host as u64, progress(name, (SIZE / 8 * step).saturating_sub(host as u64 * (1 << 20))))
        }));
    }
    events.push((10_100, progress("web05", 1 << 20)));
    events.push((10_100, state("web05", Downloading)));
    events.extend(all(10_200, Verifying));
    events.extend(all(10_400, Extracting));
    events.extend(all(10_800, Staged));
    events.push((10_900, envelope(RunEvent::BarrierMet { hosts: 4, waves: 1 })));
    events.extend(all(10_900, Activating));
    events.extend(all(11_000, Checking));
    events.push((11_050, envelope(RunEvent::Unknown)));
    events.extend(all(11_100, Active));
    events.push((11_150, dropped("web05", disk_full())));
    let hosts = (1..=5).map(|number| match number {
        4 => out(host_name(4), Some(no_answer())),
        _ => live(host_name(number), SIZE),
    });
    events.push((11_200, finished(summary(Verdict::Completed, 4, hosts.collect()))));
    events.into_iter().map(|(millis, event)| (Duration::from_millis(millis), event)).collect()
}
