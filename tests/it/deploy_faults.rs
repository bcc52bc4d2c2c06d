//! What breaks in the middle of a transfer, on real sshd hosts.
//!
//! To be in the middle for sure, a test stops each agent (SIGSTOP) as it begins to download, then the controller, and lets the agents
//! go on. The controller runs for moments until every host has a part; while it is frozen its seed is silent, so no host can finish.

use std::{
    fs,
    io::{Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fleetdrop::model::{
    HostFailure,
    HostState::{self, Active, Downloading, Failed, Skipped, Staged, Unreachable},
    RunEvent, Verdict,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    artifact, deploy_tree,
    hosts::{App, Door, Tmpfs},
    operator::{Operator, Running},
    sshd::{SshdFleet, kill_all},
};

/// Large enough that no host has all of it by the time the test reads that it has begun.
const LARGE: usize = 48 << 20;

/// Three hosts with version 1 live, and a large version 2.
pub(crate) fn fleet_on_version_one() -> (Operator, SshdFleet, PathBuf) {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let one = artifact::shop(&operator.work(), "1", 10_000);
    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);
    // The next run's agents are then the only ones.
    fleet.assert_nothing_left();
    let two = artifact::shop(&operator.work(), "2", LARGE);
    (operator, fleet, two)
}

impl Running {
    /// Lets all hosts get a part of the artifact, then freezes the controller.
    #[track_caller]
    pub(crate) fn freeze_in_mid_transfer(&mut self, fleet: &SshdFleet, artifact: &Path) {
        let mut stopped: Vec<(String, Pid)> = Vec::new();
        while stopped.len() < fleet.hosts().len() {
            let next = self.wait_for("every host downloads", |event| match event {
                RunEvent::HostState { host, state: Downloading, .. } => {
                    let host = host.as_str();
                    (!stopped.iter().any(|(name, _)| name == host)).then(|| host.to_owned())
                }
                _ => None,
            });
            let host = fleet.hosts().iter().find(|host| host.name() == next).expect("a host of the fleet");
            let agent = host.agent();
            kill_process(agent, Signal::STOP).unwrap();
            stopped.push((next, agent));
        }
        self.signal(Signal::STOP);
        for (_, agent) in stopped {
            kill_process(agent, Signal::CONT).unwrap();
        }
        let artifact = travelling(artifact);
        let parts = || fleet.hosts().iter().map(|host| arrived(host.deploy_to(), &artifact)).collect::<Vec<_>>();
        while parts().contains(&0) {
            // A moment is long enough for some pieces and too short for all.
            self.signal(Signal::CONT);
            std::thread::sleep(Duration::from_millis(10));
            self.signal(Signal::STOP);
        }
        assert!(parts().iter().all(|arrived| *arrived < artifact.len() / BLOCK), "a host has it all: {:?}", parts());
        for host in fleet.hosts() {
            assert_eq!(App(host.deploy_to()).live().as_deref(), Some("1"));
        }
    }

    fn thaw(&self) {
        self.signal(Signal::CONT);
    }
}

/// The unit in which the tests count what has arrived.
const BLOCK: usize = 256 << 10;

/// Returns the bytes that travel.
fn travelling(artifact: &Path) -> Vec<u8> {
    if artifact.is_dir() { deploy_tree::blob(artifact) } else { fs::read(artifact).unwrap() }
}

/// Returns how many blocks of the artifact a host has in its unfinished download.
fn arrived(deploy_to: &Path, artifact: &[u8]) -> usize {
    let entries = fs::read_dir(deploy_to.join(".fleetdrop/partial")).into_iter().flatten().flatten();
    let partial = entries.map(|entry| fs::read(entry.path()).unwrap()).next().unwrap_or_default();
    partial.chunks_exact(BLOCK).zip(artifact.chunks_exact(BLOCK)).filter(|(here, there)| here == there).count()
}

#[test]
fn a_killed_agent_stops_the_deploy_and_the_next_one_resumes() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    kill_all([fleet.hosts()[1].agent()]);
    run.thaw();
    let run = run.finish().expect_code(8).expect_states(&[Skipped, Failed, Skipped]);
    assert_eq!(run.summary().verdict, Verdict::StoppedByBudget);
    assert!(run.failure("host-02").message.contains("signal"), "{run:?}");
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();

    let next = operator.deploy(&fleet.fleet(), &two).run().expect_code(0).expect_states(&[Active; 3]);
    assert!(next.summary().bytes.from_disk > 0, "nothing was resumed: {next:?}");
    fleet.expect_live(&[Some("2"); 3]);
    fleet.assert_nothing_left();
}

#[test]
fn a_killed_agent_within_the_budget_leaves_the_others_alone() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).with(["--max-failures", "1"]).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    kill_all([fleet.hosts()[0].agent()]);
    run.thaw();
    run.finish().expect_code(2).expect_states(&[Failed, Active, Active]);
    fleet.expect_live(&[Some("1"), Some("2"), Some("2")]);
    fleet.assert_nothing_left();
}

#[test]
fn a_dropped_connection_is_made_again_and_the_transfer_goes_on() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    fleet.hosts()[2].cut_connections();
    run.thaw();
    let run = run.finish().expect_code(0).expect_states(&[Active; 3]);
    let warned = run
        .events
        .iter()
        .any(|envelope| matches!(&envelope.event, RunEvent::Warning { host: Some(host), .. } if host.as_str() == "host-03"));
    assert!(warned, "the operator was not told\n{run:?}");
    fleet.expect_live(&[Some("2"); 3]);
    fleet.assert_nothing_left();
}

#[test]
fn a_host_that_goes_down_in_mid_transfer_is_unreachable() {
    let (operator, mut fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).with(["--max-failures", "1"]).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    fleet.host_mut(1).stop();
    run.thaw();
    run.finish().expect_code(4).expect_states(&[Active, Unreachable, Active]);
    fleet.expect_live(&[Some("2"), Some("1"), Some("2")]);
    fleet.assert_nothing_left();
}

#[test]
fn ctrl_c_once_stops_cleanly_and_the_next_deploy_resumes() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    run.signal(Signal::INT);
    run.thaw();
    let run = run.finish().expect_code(130).expect_states(&[Skipped; 3]);
    assert_eq!(run.summary().verdict, Verdict::Interrupted);
    assert!(run.events.iter().any(|envelope| envelope.event == RunEvent::Interrupted), "{run:?}");
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();

    let next = operator.deploy(&fleet.fleet(), &two).run().expect_code(0);
    assert!(next.summary().bytes.from_disk > 0, "nothing was resumed: {next:?}");
    fleet.expect_live(&[Some("2"); 3]);
}

#[test]
fn ctrl_c_twice_stops_at_once_and_agents_end_by_themselves() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    // Agents that do not answer keep a clean stop waiting.
    let agents: Vec<_> = fleet.hosts().iter().map(|host| host.agent()).collect();
    for agent in &agents {
        kill_process(*agent, Signal::STOP).unwrap();
    }
    run.signal(Signal::INT);
    run.thaw();
    run.wait_for("the interrupt was seen", |event| (*event == RunEvent::Interrupted).then_some(()));
    let second = Instant::now();
    run.signal(Signal::INT);
    let run = run.finish().expect_code(130);
    assert!(second.elapsed() < Duration::from_secs(5), "it took {:?}\n{run:?}", second.elapsed());
    for agent in agents {
        kill_process(agent, Signal::CONT).unwrap();
    }
    fleet.assert_nothing_left();
    fleet.expect_live(&[Some("1"); 3]);

    operator.deploy(&fleet.fleet(), &two).run().expect_code(0);
    fleet.expect_live(&[Some("2"); 3]);
}

/// Starts a deploy in which host-01 can't be logged in to before its door opens, so that the others stage and the barrier is not met.
fn staged_but_one(operator: &Operator, fleet: &SshdFleet, artifact: &Path, options: &[&str]) -> (Running, Door) {
    let door = Door::before(&fleet.hosts()[0]);
    let command_line = fleet.behind([&door], &operator.work());
    let mut run = operator.deploy(&command_line, artifact).with(["--connect-timeout", "60s"]).with(options).start();
    for host in &fleet.hosts()[1..] {
        run.wait_for_state(host.name(), Staged);
    }
    (run, door)
}

#[test]
fn a_host_that_is_lost_once_it_staged_comes_back_unless_its_agent_died() {
    let (operator, fleet, two) = fleet_on_version_one();
    let (mut run, door) = staged_but_one(&operator, &fleet, &two, &["--max-failures", "1"]);
    kill_all([fleet.hosts()[1].agent()]);
    run.wait_for_state("host-02", Failed);
    fleet.hosts()[2].cut_connections();
    run.wait_for("host-03 is connected to again", |event| {
        matches!(event, RunEvent::Warning { host: Some(host), .. } if host.as_str() == "host-03").then_some(())
    });
    // It is told to switch in whatever it is doing by then.
    door.open();
    run.finish().expect_code(2).expect_states(&[Active, Failed, Active]);
    fleet.expect_live(&[Some("2"), Some("1"), Some("2")]);
    fleet.assert_nothing_left();

    operator.deploy(&fleet.fleet(), &two).run().expect_code(0);
    fleet.expect_live(&[Some("2"); 3]);
    for host in fleet.hosts() {
        assert_eq!(App(host.deploy_to()).releases().len(), 2, "{}", host.name());
    }
}

#[test]
fn ctrl_c_before_the_barrier_switches_nobody() {
    let (operator, fleet, two) = fleet_on_version_one();
    let (run, _door) = staged_but_one(&operator, &fleet, &two, &[]);
    run.signal(Signal::INT);
    run.finish().expect_code(130).expect_states(&[Skipped; 3]);
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();

    operator.deploy(&fleet.fleet(), &two).run().expect_code(0);
    fleet.expect_live(&[Some("2"); 3]);
}

#[test]
fn a_killed_controller_leaves_no_agent_behind() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    drop(run);
    fleet.assert_nothing_left();
    fleet.expect_live(&[Some("1"); 3]);
}

#[test]
fn an_artifact_that_changes_while_it_is_sent_stops_the_run() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    let mut file = fs::OpenOptions::new().write(true).open(&two).unwrap();
    file.rewind().unwrap();
    let size = fs::metadata(&two).unwrap().len() as usize;
    file.write_all(&artifact::noise(size, "something else")).unwrap();
    run.thaw();
    let run = run.finish().expect_code(1);
    assert_eq!(run.summary().verdict, Verdict::Aborted);
    let reason = run.summary().abort_reason.clone().unwrap_or_default();
    assert!(reason.contains("changed") && reason.contains(two.to_str().unwrap()), "{reason}");
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();
}

#[test]
fn two_deploys_to_one_host_do_not_meet() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut first = operator.deploy(&fleet.fleet(), &two).start();
    first.freeze_in_mid_transfer(&fleet, &two);
    let three = artifact::shop(&operator.work(), "3", 10_000);
    let second = operator.deploy(&fleet.fleet(), &three).run().expect_code(8);
    assert!(second.summary().counts.contains_key(&Failed), "{second:?}");
    let failed: Vec<_> = second.summary().hosts.iter().filter_map(|host| host.failure.as_ref()).collect();
    // It says whose deploy that is, and what to do.
    let wanted = format!("another deploy works there: run {} of ", first.events_run_id());
    let tells = |failure: &&&HostFailure| failure.message.starts_with(&wanted) && failure.message.contains(" since 20");
    assert_eq!(failed.iter().filter(tells).count(), failed.len(), "{failed:?}");
    assert!(failed.iter().all(|failure| failure.hint.as_ref().is_some_and(|hint| hint.contains("fleetdrop unlock"))));
    first.thaw();
    first.finish().expect_code(0);
    fleet.expect_live(&[Some("2"); 3]);

    operator.deploy(&fleet.fleet(), &three).run().expect_code(0);
    fleet.expect_live(&[Some("3"); 3]);
}

#[test]
fn a_disk_too_small_for_the_artifact_is_seen_before_anything_is_sent() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(2));
    let small = operator.work().join("small-disk");
    let _disk = Tmpfs::mount(&small, "size=8m,mode=700");
    fleet.set_deploy_to(1, &small.join("app"));
    let artifact = artifact::shop(&operator.work(), "1", 16 << 20);

    let run = operator.deploy(&fleet.fleet(), &artifact).run().expect_code(8);
    let failure = run.failure("host-02");
    assert!(failure.message.contains("space") && failure.hint.is_some(), "{failure:?}");
    assert_eq!(failure.during, HostState::Preparing);
    fleet.expect_live(&[None, None]);

    operator
        .deploy(&fleet.fleet(), &artifact)
        .with(["--max-failures", "1"])
        .run()
        .expect_code(2)
        .expect_states(&[Active, Failed]);
    fleet.expect_live(&[Some("1"), None]);
    fleet.assert_nothing_left();
}

#[test]
fn an_archive_that_unpacks_to_more_than_the_disk_leaves_the_old_release() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(2));
    let small = operator.work().join("small-disk");
    let _disk = Tmpfs::mount(&small, "size=24m,mode=700");
    fleet.set_deploy_to(1, &small.join("app"));
    let one = artifact::shop(&operator.work(), "1", 10_000);
    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);

    // Nothing but unpacking it tells that it is larger than the disk.
    let two = artifact::zeros(&operator.work(), "2", 64 << 20);
    let run = operator.deploy(&fleet.fleet(), &two).run().expect_code(8).expect_states(&[Skipped, Failed]);
    let message = &run.failure("host-02").message;
    assert!(message.contains("unpacks to more than"), "{message}");
    fleet.expect_live(&[Some("1"), Some("1")]);
    for host in fleet.hosts() {
        assert_eq!(App(host.deploy_to()).releases().len(), 1, "the unfinished release is gone");
    }
    fleet.assert_nothing_left();
}

#[test]
fn a_disk_that_fills_up_in_mid_transfer_leaves_the_old_release() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(2));
    let small = operator.work().join("small-disk");
    let _disk = Tmpfs::mount(&small, "size=160m,mode=700");
    fleet.set_deploy_to(1, &small.join("app"));
    let (one, two) = (artifact::shop(&operator.work(), "1", 10_000), artifact::shop(&operator.work(), "2", LARGE));
    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);

    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    fill(&small.join("somebody-elses-file"));
    run.thaw();
    let run = run.finish().expect_code(8).expect_states(&[Skipped, Failed]);
    let failure = run.failure("host-02");
    assert!(failure.message.contains("space") || failure.message.contains("unpacks to more than"), "{failure:?}");
    assert!(failure.hint.is_some(), "{failure:?}");
    fleet.expect_live(&[Some("1"), Some("1")]);
    fleet.assert_nothing_left();

    fs::remove_file(small.join("somebody-elses-file")).unwrap();
    operator.deploy(&fleet.fleet(), &two).run().expect_code(0);
    fleet.expect_live(&[Some("2"), Some("2")]);
}

/// Writes a file until its disk is full.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let block = vec![0; 1 << 20];
    while file.write_all(&block).is_ok() {}
    while file.write_all(&block[..4096]).is_ok() {}
}

#[test]
fn a_frozen_host_does_not_hold_up_the_others() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    let frozen = fleet.hosts()[0].agent();
    kill_process(frozen, Signal::STOP).unwrap();
    run.thaw();
    let began = Instant::now();
    for host in &fleet.hosts()[1..] {
        run.wait_for_state(host.name(), Staged);
    }
    let took = began.elapsed();
    kill_process(frozen, Signal::CONT).unwrap();
    run.finish().expect_code(0).expect_states(&[Active; 3]);
    fleet.expect_live(&[Some("2"); 3]);
    // Without the frozen host it is a second or two.
    assert!(took < Duration::from_secs(10), "the others took {took:?}");
}
