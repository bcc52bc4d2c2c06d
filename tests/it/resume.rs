//! Runs whose controller was killed (SIGKILL) at every stage, and what `fleetdrop resume` makes of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fleetdrop::model::{
    HostState::{Activating, Active, Checking, Reverted, Staged},
    RunEvent,
};
use rustix::process::Signal;

use crate::{
    artifact,
    deploy_faults::fleet_on_version_one,
    hosts::{App, Embedded},
    operator::{Finished, Fleet, Operator, Running},
    sshd::SshdFleet,
};

impl Operator {
    pub(crate) fn resume(&self, arguments: &[&str]) -> Finished {
        let line: Vec<&str> = ["resume", "--output", "json"].iter().chain(arguments).copied().collect();
        self.run(&line)
    }

    /// Writes a playbook whose hooks wait while a file is there, and returns both.
    fn holding_playbook(&self, rollout: &str, hook: &str, host: &str) -> (PathBuf, PathBuf) {
        let (playbook, hold) = (self.work().join("hold.yaml"), self.work().join("hold"));
        fs::write(&hold, "").unwrap();
        let command = format!("test $FLEETDROP_HOST != {host} || while test -e {}; do sleep 0.02; done", hold.display());
        fs::write(&playbook, format!("app: shop\nrollout: {rollout}\nhooks:\n  {hook}: [\"{command}\"]\n")).unwrap();
        (playbook, hold)
    }

    /// Starts a deploy that follows a playbook.
    fn start_deploy(&self, fleet: &Fleet, artifact: &Path, playbook: &Path) -> Running {
        self.deploy(fleet, artifact).with(["--playbook".as_ref(), playbook.as_os_str()]).start()
    }
}

impl Running {
    /// Kills the controller and returns the id of its run.
    fn kill(self) -> String {
        self.signal(Signal::KILL);
        let finished = self.finish();
        assert_eq!(finished.code, None, "it was killed: {finished:?}");
        finished.run_id()
    }
}

impl Finished {
    /// Returns the waves that began, each with its number, how many there are, and its hosts.
    fn waves(&self) -> Vec<(usize, usize, Vec<&str>)> {
        let waves = self.events.iter().filter_map(|envelope| match &envelope.event {
            RunEvent::WaveStarted { wave, waves, hosts } => {
                Some((*wave, *waves, hosts.iter().map(|host| host.as_str()).collect()))
            }
            _ => None,
        });
        waves.collect()
    }
}

#[test]
fn a_controller_that_was_killed_in_mid_transfer_is_resumed_from_what_hosts_have() {
    let (operator, fleet, two) = fleet_on_version_one();
    let mut run = operator.deploy(&fleet.fleet(), &two).start();
    run.freeze_in_mid_transfer(&fleet, &two);
    let killed = run.kill();
    fleet.assert_nothing_left();
    fleet.expect_live(&[Some("1"); 3]);
    let runs = operator.history(&["--limit", "1"]);
    assert_eq!((&runs["runs"][0]["run"], &runs["runs"][0]["outcome"]), (&killed.as_str().into(), &"cut_off".into()));

    let resumed = operator.resume(&[]).expect_code(0).expect_states(&[Active; 3]);
    assert!(resumed.summary().bytes.from_disk > 0, "nothing was taken from what was there: {resumed:?}");
    fleet.expect_live(&[Some("2"); 3]);
    fleet.assert_nothing_left();
    let runs = operator.history(&["--limit", "2"]);
    assert_eq!(runs["runs"][0]["continues"], killed.as_str());
    assert_eq!(runs["runs"][1]["continued_by"], resumed.run_id().as_str());
    assert_eq!(runs["runs"][0]["release"], runs["runs"][1]["release"], "it is the same release");
    operator.resume(&[]).expect_code(5).expect_stderr(&["no run that was cut off"]);
    operator.resume(&[&killed]).expect_code(5).expect_stderr(&["was resumed by run", "hint:"]);
}

#[test]
fn a_controller_that_was_killed_between_staging_and_switching_is_resumed_by_its_own_plan() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(3));
    let one = artifact::shop(&operator.work(), "1", 200_000);
    let (playbook, hold) = operator.holding_playbook("{waves: [100%]}", "after_stage", "host-03");
    let mut run = operator.start_deploy(&fleet.fleet(), &one, &playbook);
    for host in ["host-01", "host-02"] {
        run.wait_for_state(host, Staged);
    }
    run.kill();
    fleet.assert_nothing_left();
    fleet.expect_live(&[None; 3]);
    fs::remove_file(hold).unwrap();
    // What the operator edits meanwhile would stop every host.
    fs::write(&playbook, "app: shop\nhooks: {after_stage: [\"exit 1\"]}\n").unwrap();

    let resumed = operator.resume(&[]).expect_code(0).expect_states(&[Active; 3]);
    let resumed = resumed.expect_stderr(&["has changed since: the plan that the run began with is followed"]);
    let bytes = resumed.summary().bytes;
    assert_eq!(bytes.received(), bytes.from_disk, "hosts had it in their caches: {resumed:?}");
    fleet.expect_live(&[Some("1"); 3]);
    fleet.assert_nothing_left();
}

/// A fleet of four on version 1, where the deploy of version 2 was cut off in its second wave of three.
fn cut_off_in_the_second_wave() -> (Operator, SshdFleet, String) {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(4));
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 200_000));
    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);
    let (playbook, hold) = operator.holding_playbook("{waves: [1, 2, 1]}", "after_activate", "host-02");
    let mut run = operator.start_deploy(&fleet.fleet(), &two, &playbook);
    run.wait_for_state("host-03", Active);
    run.wait_for_state("host-02", Checking);
    let killed = run.kill();
    fleet.assert_nothing_left();
    fleet.expect_live(&[Some("2"), Some("1"), Some("2"), Some("1")]);
    fs::remove_file(hold).unwrap();
    (operator, fleet, killed)
}

#[test]
fn a_controller_that_was_killed_in_the_second_wave_goes_on_there() {
    let (operator, fleet, killed) = cut_off_in_the_second_wave();
    let resumed = operator.resume(&[&killed[..8]]).expect_code(0).expect_states(&[Active; 4]);
    assert_eq!(resumed.waves(), [(2, 3, vec!["host-02"]), (3, 3, vec!["host-04"])]);
    assert!(resumed.host("host-01").unchanged && resumed.host("host-03").unchanged && !resumed.host("host-02").unchanged);
    fleet.expect_live(&[Some("2"); 4]);
    for host in fleet.hosts() {
        assert_eq!(App(host.deploy_to()).releases().len(), 2);
    }
    fleet.assert_nothing_left();
}

#[test]
fn a_run_that_was_cut_off_is_rolled_back_where_it_had_switched() {
    let (operator, fleet, killed) = cut_off_in_the_second_wave();
    let back = operator.resume(&["--rollback"]).expect_code(0).expect_states(&[Active; 2]);
    let hosts: Vec<_> = back.summary().hosts.iter().map(|host| host.host.as_str()).collect();
    assert_eq!(hosts, ["host-03", "host-01"], "who switched last goes back first");
    fleet.expect_live(&[Some("1"); 4]);
    fleet.assert_nothing_left();
    let runs = operator.history(&["--limit", "1"]);
    assert_eq!((&runs["runs"][0]["action"], &runs["runs"][0]["continues"]), (&"rollback".into(), &killed.as_str().into()));
}

#[test]
fn a_first_deploy_that_was_cut_off_is_taken_back_and_who_gives_no_answer_is_told() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(3));
    let one = artifact::shop(&operator.work(), "1", 50_000);
    let (playbook, hold) = operator.holding_playbook("{waves: [2, 1]}", "before_activate", "host-03");
    let mut run = operator.start_deploy(&fleet.fleet(), &one, &playbook);
    run.wait_for_state("host-01", Active);
    run.wait_for_state("host-02", Active);
    run.wait_for_state("host-03", Activating);
    let killed = run.kill();
    fleet.assert_nothing_left();
    fs::remove_file(hold).unwrap();
    fleet.expect_live(&[Some("1"), Some("1"), None]);
    fleet.host_mut(1).stop();
    let back = operator.resume(&[&killed, "--rollback"]).expect_code(4).expect_states(&[Reverted]);
    let back = back.expect_stderr(&["1 host may be live on it and can't be asked: host-02 (", "--rollback --force"]);
    assert_eq!(back.failure("host-01").message, format!("run {killed} is taken back: nothing is live"));
    assert_eq!(back.host("host-01").release, None);
    fleet.expect_live(&[None, Some("1"), None]);
    // It is a run as others are.
    let runs = operator.history(&["--limit", "1"]);
    assert_eq!(runs["runs"][0]["run"], back.run_id().as_str());
    assert_eq!((&runs["runs"][0]["action"], &runs["runs"][0]["outcome"]), (&"rollback".into(), &"rolled_back".into()));
    assert_eq!((&runs["runs"][0]["continues"], &runs["runs"][0]["hosts"]["reverted"]), (&killed.as_str().into(), &1.into()));
}

#[test]
fn a_plan_that_rolls_back_takes_back_what_was_switched_before_the_run_was_cut_off() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 20_000));
    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);
    let bad = operator.work().join("bad");
    let (playbook, hold) = operator.holding_playbook("{waves: [1], on_failure: rollback}", "before_activate", "host-02");
    let text = fs::read_to_string(&playbook).unwrap();
    let check = format!("grep -qvx 2 $FLEETDROP_RELEASE_DIR/VERSION || test ! -e {}", bad.display());
    fs::write(&playbook, text + &format!("  after_activate: [\"{check}\"]\n")).unwrap();
    let mut run = operator.start_deploy(&fleet.fleet(), &two, &playbook);
    run.wait_for_state("host-01", Active);
    run.wait_for_state("host-02", Activating);
    run.kill();
    fleet.assert_nothing_left();
    fs::remove_file(hold).unwrap();
    fs::write(&bad, "").unwrap();
    let resumed = operator.resume(&[]).expect_code(8);
    // Two runs, one after the other: the deploy that went on, and the rollback of what had been switched before.
    let runs: Vec<_> = resumed.events.chunk_by(|one, next| one.run == next.run).collect();
    let told: Vec<_> = runs
        .iter()
        .map(|run| match (&run[0].event, &run[run.len() - 1].event) {
            (RunEvent::RunStarted { action, .. }, RunEvent::RunFinished(summary)) => {
                (action.as_str(), summary.hosts.iter().map(|host| (host.host.as_str(), host.state)).collect())
            }
            others => panic!("{others:?}"),
        })
        .collect();
    let wanted: [(&str, Vec<_>); 2] =
        [("deploy", vec![("host-01", Active), ("host-02", Reverted)]), ("rollback", vec![("host-01", Active)])];
    assert_eq!(told, wanted, "{resumed:?}");
    fleet.expect_live(&[Some("1"); 2]);
    fleet.assert_nothing_left();
}

#[test]
fn what_is_no_run_to_finish_is_refused_and_nothing_is_touched() {
    let (operator, fleet) = (Operator::new(), Embedded::start(2));
    operator.resume(&[]).expect_code(5).expect_stderr(&["no run that was cut off", "hint:"]);
    let [one, two, three] = ["1", "2", "3"].map(|version| artifact::shop(&operator.work(), version, 50_000));
    let done = operator.deploy(&fleet.fleet(), &one).run().expect_code(0).run_id();
    for force in [&[][..], &["--force"]] {
        let line: Vec<&str> = [done.as_str()].iter().chain(force).copied().collect();
        operator.resume(&line).expect_code(5).expect_stderr(&["every host active: nothing is left to finish"]);
    }
    operator.deploy(&fleet.fleet(), &two).run().expect_code(0);
    let rollback = operator.rollback(&fleet.fleet()).run().expect_code(0).run_id();
    operator.resume(&[&rollback]).expect_code(5).expect_stderr(&["was a rollback"]);

    // One that was cut off, while it still ran and afterwards.
    let (playbook, hold) = operator.holding_playbook("{waves: [100%]}", "before_stage", "demo-02");
    let mut run = operator.start_deploy(&fleet.fleet(), &three, &playbook);
    run.wait_for_state("demo-01", Staged);
    let going_on = run.events_run_id();
    operator.resume(&[&going_on]).expect_code(5).expect_stderr(&["is still going on: process"]);
    let killed = run.kill();
    assert_eq!(killed, going_on);
    fs::remove_file(hold).unwrap();

    let bytes = fs::read(&three).unwrap();
    fs::write(&three, [bytes.as_slice(), b"changed"].concat()).unwrap();
    operator.resume(&[]).expect_code(5).expect_stderr(&["is not what run", "SHA-256", "hint:"]);
    fs::write(&three, bytes).unwrap();
    let inventory = fleet.fleet().inventory;
    let text = fs::read_to_string(&inventory).unwrap();
    fs::write(&inventory, text.replace("demo-02", "demo-09")).unwrap();
    operator.resume(&[]).expect_code(5).expect_stderr(&["has no demo-02 any more"]);
    fs::write(&inventory, text).unwrap();
    fleet.expect_live(&[Some("1"); 2]);

    // Somebody deployed something else to one of its hosts.
    operator.deploy(&fleet.fleet(), &two).with(["--limit", "demo-01"]).run().expect_code(0);
    operator.resume(&[]).expect_code(5).expect_stderr(&["was at work on hosts of run", "--force"]);
    fleet.expect_live(&[Some("2"), Some("1")]);
    operator.resume(&["--force"]).expect_code(0).expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("3"); 2]);
}

/// Returns the time in the unit that ids of releases have.
pub(crate) fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn hosts_that_another_controller_moved_on_are_not_taken_back_unasked() {
    let (operator, other, fleet) = (Operator::new(), Operator::new(), Embedded::start(2));
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 50_000));
    let (playbook, hold) = operator.holding_playbook("{waves: [100%]}", "before_stage", "demo-02");
    let mut run = operator.start_deploy(&fleet.fleet(), &one, &playbook);
    run.wait_for_state("demo-01", Staged);
    run.kill();
    fs::remove_file(hold).unwrap();
    // The killed controller's agents notice its end and let go of their locks.
    let staged = seconds();
    while seconds() == staged || operator.status(&fleet.fleet()).stdout.contains("\"locked_by\":\"") {}
    other.deploy(&fleet.fleet(), &two).run().expect_code(0);
    operator.resume(&[]).expect_code(5).expect_stderr(&["somebody else was at work since the run: demo-01 (", "--force"]);
    fleet.expect_live(&[Some("2"); 2]);
}
