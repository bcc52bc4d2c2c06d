//! What the operator's hooks and checks are told, when they run, and what their failure leads to.

use std::time::Duration;

use super::support::{Agent, Artifact, Host};
use crate::{
    agent::Ended,
    model::{
        HostState, RunId,
        plan::{Command, CommandCheck, Health, Hook, Hooks, Rhythm},
    },
    wire::{FromAgent, Job, Procedure, StopReason, ToAgent, WayBack},
};

fn hook(text: &str) -> Vec<Hook> {
    vec![Hook { command: Command::Shell(text.into()), timeout: Duration::from_secs(20) }]
}

/// Hooks that note their names and what they are told in `log` beside the application's root.
fn noting() -> Hooks {
    let note = |name: &str| {
        hook(&format!(
            "echo {name} ${{PWD##*/}} $FLEETDROP_APP $FLEETDROP_HOST $FLEETDROP_RELEASE_ID ${{FLEETDROP_RELEASE_DIR##*/}} \
             ${{FLEETDROP_PREVIOUS_DIR##*/}} >> $FLEETDROP_DEPLOY_TO/../log"
        ))
    };
    Hooks {
        before_stage: note("before_stage"),
        after_stage: note("after_stage"),
        before_activate: note("before_activate"),
        after_activate: note("after_activate"),
        on_revert: note("on_revert"),
    }
}

fn host(hooks: Hooks, health: Health) -> Host {
    Host { procedure: Procedure { host: Some("web01".parse().unwrap()), hooks, health }, ..Host::new() }
}

fn health(command: &str) -> Health {
    let rhythm = Rhythm {
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(20),
        healthy_for: Duration::ZERO,
        deadline: Duration::from_secs(1),
    };
    Health { http: None, command: Some(CommandCheck { command: Command::Shell(command.into()), rhythm }) }
}

/// Puts a first release on the host, without hooks.
async fn with_first_release(hooks: Hooks, health: Health) -> Host {
    let plain = Host::new();
    plain.deploy(&Artifact::version("1"), "r1").await;
    Host { procedure: Procedure { host: Some("web01".parse().unwrap()), hooks, health }, ..plain }
}

impl Host {
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

async fn reverted(agent: &mut Agent) -> (Option<String>, String, Vec<String>) {
    match agent.hear().await {
        FromAgent::Reverted { current, reason, output } => (current.map(|id| id.to_string()), reason, output),
        message => panic!("{message:?}"),
    }
}

#[tokio::test]
async fn hooks_run_in_order_and_know_where_they_are() {
    let host = host(noting(), Health::default());
    host.deploy(&Artifact::version("1"), "r1").await;
    host.deploy(&Artifact::version("2"), "r2").await;
    let rest = |before: &str| if before.is_empty() { String::new() } else { format!(" {before}") };
    let expected = |release: &str, before: &str| {
        ["before_stage", "after_stage", "before_activate", "after_activate"].map(|name| {
            let directory = if name == "before_stage" { "app" } else { release };
            format!("{name} {directory} shop web01 {release} {release}{}", rest(before))
        })
    };
    assert_eq!(host.log(), [expected("r1", ""), expected("r2", "r1")].concat());
}

#[tokio::test]
async fn hooks_and_checks_are_told_everything_by_name() {
    let told = "env | grep ^FLEETDROP_ | grep -v ^FLEETDROP_STEP= | sort >> $FLEETDROP_DEPLOY_TO/../log";
    let host = host(Hooks { after_activate: hook(told), ..Hooks::default() }, health(told));
    host.deploy(&Artifact::version("1"), "r1").await;
    host.deploy(&Artifact::version("2"), "r2").await;
    let expected = |run: u8, previous: &str| {
        let (root, release) = (host.path("app").display().to_string(), format!("r{run}"));
        vec![
            "FLEETDROP_APP=shop".to_owned(),
            format!("FLEETDROP_DEPLOY_TO={root}"),
            "FLEETDROP_HOST=web01".to_owned(),
            format!("FLEETDROP_PREVIOUS_DIR={previous}"),
            format!("FLEETDROP_RELEASE_DIR={root}/releases/{release}"),
            format!("FLEETDROP_RELEASE_ID={release}"),
            format!("FLEETDROP_RUN_ID={run:016x}"),
        ]
    };
    let before = host.path("app/releases/r1").display().to_string();
    // The hook and the check of each run; nothing was live before the first.
    assert_eq!(host.log(), [expected(1, ""), expected(1, ""), expected(2, &before), expected(2, &before)].concat());
}

#[tokio::test]
async fn a_rollback_has_the_hooks_of_the_switch_and_no_others() {
    let host = with_first_release(Hooks::default(), Health::default()).await;
    host.deploy(&Artifact::version("2"), "r2").await;
    let host = Host { procedure: Procedure { hooks: noting(), ..Procedure::default() }, ..host };
    let mut agent = host.agent(&Artifact::version("1"), host.rollback_job(None)).await;
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    assert_eq!(host.log(), ["before_activate r1 shop r1 r1 r2", "after_activate r1 shop r1 r1 r2"]);
}

#[tokio::test]
async fn a_hook_that_fails_before_the_switch_fails_the_host_and_says_what_it_wrote() {
    for hooks in [
        Hooks { before_stage: hook("echo no room; exit 4"), ..noting() },
        Hooks { after_stage: hook("echo no room; exit 4"), ..noting() },
    ] {
        let host = with_first_release(hooks, Health::default()).await;
        let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
        agent.start().await;
        let failure = agent.failure().await;
        assert!(failure.message.ends_with("hook `echo no room; exit 4` failed with exit code 4"), "{failure:?}");
        assert_eq!(failure.log_tail, ["no room"]);
        agent.ended().await;
        assert_eq!((host.live().as_deref(), host.releases()), (Some("shop 1"), vec!["r1".to_owned()]));
        assert!(!host.log().iter().any(|line| line.starts_with("on_revert")), "nothing was to be undone");
    }
}

#[tokio::test]
async fn a_hook_that_fails_just_before_the_switch_is_undone_by_the_revert_hooks() {
    let hooks = Hooks { before_activate: hook("echo stopping; exit 1"), ..noting() };
    let host = with_first_release(hooks, Health::default()).await;
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.until_staged().await;
    agent.tell(ToAgent::Activate).await;
    let (current, reason, output) = reverted(&mut agent).await;
    assert_eq!(current.as_deref(), Some("r1"));
    assert_eq!(reason, "the before_activate hook `echo stopping; exit 1` failed with exit code 1");
    assert_eq!(output, ["stopping"]);
    agent.ended().await;
    assert_eq!(host.log().last().unwrap(), "on_revert r2 shop web01 r2 r2 r1");
    assert_eq!((host.live().as_deref(), host.releases()), (Some("shop 1"), vec!["r1".to_owned()]));
}

#[tokio::test]
async fn a_release_that_does_not_work_goes_back_and_so_does_a_first_one() {
    for first in [true, false] {
        for (hooks, check, why) in [
            (Hooks { after_activate: hook("echo broken; exit 1"), ..noting() }, Health::default(), "the after_activate hook"),
            (noting(), health("echo broken; exit 1"), "the health check failed"),
        ] {
            let host = if first { self::host(hooks, check) } else { with_first_release(hooks, check).await };
            let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
            agent.until_staged().await;
            agent.tell(ToAgent::Activate).await;
            assert!(matches!(agent.hear().await, FromAgent::Activated { .. }));
            let (current, reason, output) = reverted(&mut agent).await;
            assert_eq!(current.is_none(), first);
            assert!(reason.starts_with(why), "{reason}");
            assert_eq!(output, ["broken"]);
            agent.ended().await;
            let before = if first { "" } else { " r1" };
            assert_eq!(*host.log().last().unwrap(), format!("on_revert r2 shop web01 r2 r2{before}"));
            assert_eq!(host.live().as_deref(), (!first).then_some("shop 1"));
            assert_eq!(host.path("app/current").is_symlink(), !first);
            assert!(host.releases().contains(&"r2".to_owned()), "it stays to be looked at");
        }
    }
}

#[tokio::test]
async fn a_revert_hook_that_fails_is_told_and_the_others_run() {
    let on_revert = [hook("echo cannot; exit 7"), noting().on_revert].concat();
    let hooks = Hooks { after_activate: hook("exit 1"), on_revert, ..Hooks::default() };
    let host = with_first_release(hooks, Health::default()).await;
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.until_staged().await;
    agent.tell(ToAgent::Activate).await;
    assert!(matches!(agent.hear().await, FromAgent::Activated { .. }));
    let (_, reason, output) = reverted(&mut agent).await;
    assert!(reason.ends_with("; then the on_revert hook `echo cannot; exit 7` failed with exit code 7"), "{reason}");
    assert_eq!((output, host.log().len()), (vec!["cannot".to_owned()], 1));
}

#[tokio::test]
async fn a_confirmed_host_goes_back_when_it_is_told_to_and_stays_in_touch() {
    for first in [true, false] {
        let hooks = Hooks { on_revert: noting().on_revert, ..Hooks::default() };
        let host =
            if first { self::host(hooks, Health::default()) } else { with_first_release(hooks, Health::default()).await };
        let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
        agent.until_staged().await;
        agent.activate().await;
        agent.confirm().await;
        agent.tell(ToAgent::Revert { reason: "the run is rolled back".into() }).await;
        let (current, reason, _) = reverted(&mut agent).await;
        assert_eq!((current.is_none(), reason.as_str()), (first, "the run is rolled back"));
        assert_eq!((host.live().as_deref(), host.log().len()), ((!first).then_some("shop 1"), 1));
        agent.tell(ToAgent::Ping).await;
        assert!(matches!(agent.hear_any().await, Some(FromAgent::Alive)));
        assert_eq!(agent.stop().await, Ended::Orderly);
        // The release was never confirmed for good: the next deploy removes it and goes live.
        host.deploy(&Artifact::version("3"), "r3").await;
        assert!(!host.releases().contains(&"r2".to_owned()), "{:?}", host.releases());
    }
}

/// Waits until a process that was killed is gone.
async fn assert_ends(pid: u32) {
    for _ in 0..1000 {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} still runs");
}

#[tokio::test]
async fn whatever_ends_the_run_during_a_hook_ends_the_hook_and_undoes_the_switch() {
    let slow = "echo $$ > $FLEETDROP_DEPLOY_TO/../pid; sleep 60";
    for (hooks, switched) in [
        (Hooks { before_activate: hook(slow), on_revert: noting().on_revert, ..Hooks::default() }, false),
        (Hooks { after_activate: hook(slow), on_revert: noting().on_revert, ..Hooks::default() }, true),
    ] {
        for message in [ToAgent::Stop { reason: StopReason::Interrupted }, ToAgent::Revert { reason: "too slow".into() }] {
            let host = with_first_release(hooks.clone(), Health::default()).await;
            let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
            agent.until_staged().await;
            agent.tell(ToAgent::Activate).await;
            if switched {
                assert!(matches!(agent.hear().await, FromAgent::Activated { .. }));
            }
            let pid = loop {
                if let Ok(text) = std::fs::read_to_string(host.path("pid"))
                    && let Ok(pid) = text.trim().parse::<u32>()
                {
                    break pid;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            agent.tell(message).await;
            let (current, ..) = reverted(&mut agent).await;
            assert_eq!(current.as_deref(), Some("r1"));
            assert_eq!(agent.ended().await, Ended::Orderly);
            assert_eq!((host.live().as_deref(), host.log().len()), (Some("shop 1"), 1));
            assert_ends(pid).await;
        }
    }
}

#[tokio::test]
async fn hooks_are_told_in_which_state_they_failed() {
    let host = self::host(Hooks { after_stage: hook("exit 1"), ..Hooks::default() }, Health::default());
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.start().await;
    assert_eq!(agent.failure().await.during, HostState::Extracting);
}

/// Lets an agent switch to version 2 and die in the hook that makes the file `begun`.
async fn killed_in_a_hook(host: &Host) -> RunId {
    let job = host.deploy_job(&Artifact::version("2"), "r2");
    let run = job.run.clone();
    let mut agent = host.agent(&Artifact::version("2"), Job::Deploy(Box::new(job))).await;
    agent.until_staged().await;
    agent.tell(ToAgent::Activate).await;
    while !host.path("begun").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    agent.task.abort();
    assert!(agent.task.await.unwrap_err().is_cancelled());
    run
}

#[tokio::test]
async fn the_hooks_of_an_agent_that_died_are_run_by_the_next() {
    for (hooks, switched) in [
        (Hooks { before_activate: hook("touch $FLEETDROP_DEPLOY_TO/../begun; sleep 60"), ..noting() }, false),
        (Hooks { after_activate: hook("touch $FLEETDROP_DEPLOY_TO/../begun; sleep 60"), ..noting() }, true),
    ] {
        let host = with_first_release(hooks, Health::default()).await;
        let run = killed_in_a_hook(&host).await;
        assert_eq!(host.live().as_deref() == Some("shop 2"), switched);
        let mut next = host.agent(&Artifact::version("2"), host.recovery(&run)).await;
        let (current, ..) = reverted(&mut next).await;
        assert_eq!((current.as_deref(), host.live().as_deref()), (Some("r1"), Some("shop 1")));
        assert_eq!(host.log().last().unwrap(), "on_revert r2 shop web01 r2 r2 r1");
    }
}

#[tokio::test]
async fn a_hook_that_outlived_its_agent_is_ended_by_the_next() {
    let host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    // As a hook that the killed agent of another run had started.
    let run: RunId = "00000000000000cc".parse().unwrap();
    let app = host.path("app").display().to_string();
    let mut orphan = tokio::process::Command::new("sleep")
        .arg("60")
        .env("FLEETDROP_RUN_ID", run.as_str())
        .env("FLEETDROP_STEP", "after_activate.0")
        .env("FLEETDROP_DEPLOY_TO", &app)
        .process_group(0)
        .spawn()
        .unwrap();
    std::fs::write(host.path("app/.fleetdrop/running"), format!("{{\"run\":\"{run}\",\"step\":\"after_activate.0\"}}"))
        .unwrap();
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    assert_eq!(
        agent.warning().await,
        format!("after_activate.0 of run {run} still ran although its agent was killed: it was ended")
    );
    assert!(!orphan.wait().await.unwrap().success());
    assert_eq!(agent.stop().await, Ended::Orderly);
}

#[tokio::test]
async fn the_step_that_runs_is_noted_as_long_as_it_does() {
    let look = "cp $FLEETDROP_DEPLOY_TO/.fleetdrop/running $FLEETDROP_DEPLOY_TO/../$FLEETDROP_STEP";
    let hooks = Hooks { before_stage: hook(look), after_activate: [hook("true"), hook(look)].concat(), ..Hooks::default() };
    let host = host(hooks, health(look));
    host.deploy(&Artifact::version("1"), "r1").await;
    for step in ["before_stage.0", "after_activate.1", "health"] {
        let noted = std::fs::read_to_string(host.path(step)).unwrap();
        assert!(noted.contains(&format!("\"step\":\"{step}\"")), "{noted}");
    }
    assert!(!host.path("app/.fleetdrop/running").exists());
}

#[tokio::test]
async fn a_confirmed_host_whose_agent_is_gone_is_brought_back_when_the_run_wants_it() {
    for first in [true, false] {
        let hooks = Hooks { on_revert: [noting().on_revert, hook("echo cannot; exit 7")].concat(), ..Hooks::default() };
        let host =
            if first { self::host(hooks, Health::default()) } else { with_first_release(hooks, Health::default()).await };
        let two = Artifact::version("2");
        let job = host.deploy_job(&two, "r2");
        let run = job.run.clone();
        let mut agent = host.agent(&two, Job::Deploy(Box::new(job))).await;
        agent.until_staged().await;
        agent.activate().await;
        agent.confirm().await;
        agent.task.abort();
        assert!(agent.task.await.unwrap_err().is_cancelled());
        let back = |run: &RunId| {
            let Job::Recover { run, deploy_to, replaces, .. } = host.recovery(run) else { unreachable!() };
            let back = WayBack { reason: "the run is rolled back".into(), procedure: host.procedure.clone() };
            Job::Recover { run, deploy_to, replaces, back: Some(Box::new(back)) }
        };
        // Nobody asked for it, or another run did.
        for (job, is_its) in [(host.recovery(&run), true), (back(&"00000000000000ff".parse().unwrap()), false)] {
            let mut agent = host.agent(&two, job).await;
            let mut message = agent.hear().await;
            assert_eq!(matches!(message, FromAgent::Confirmed), is_its);
            if is_its {
                message = agent.hear().await;
            }
            let FromAgent::Status(status) = message else { panic!("{message:?}") };
            assert_eq!(status.current, Some("r2".parse().unwrap()));
        }
        let (current, reason, output) = reverted(&mut host.agent(&two, back(&run)).await).await;
        assert_eq!((current.is_none(), output), (first, vec!["cannot".to_owned()]));
        assert!(reason.starts_with("the run is rolled back; then the on_revert hook `echo cannot;"), "{reason}");
        assert_eq!((host.live().as_deref(), host.log().len()), ((!first).then_some("shop 1"), 1));
    }
}

#[tokio::test]
async fn a_release_that_cannot_be_undone_is_told_as_such() {
    let host = with_first_release(
        Hooks { after_activate: hook("touch $FLEETDROP_DEPLOY_TO/../begun; sleep 60"), ..noting() },
        Health::default(),
    )
    .await;
    let run = killed_in_a_hook(&host).await;
    std::fs::remove_dir_all(host.path("app/releases/r1")).unwrap();
    let told = host.agent(&Artifact::version("2"), host.recovery(&run)).await.hear().await;
    assert!(matches!(&told, FromAgent::Kept { release } if release.as_str() == "r2"), "{told:?}");
    assert_eq!(host.live().as_deref(), Some("shop 2"));
}

#[tokio::test]
async fn revert_hooks_that_fail_after_a_switch_that_failed_are_told() {
    let spoil = "rm $FLEETDROP_DEPLOY_TO/.fleetdrop/journal; mkdir -p $FLEETDROP_DEPLOY_TO/.current.new/x; echo spoilt";
    let hooks = Hooks { before_activate: hook(spoil), on_revert: hook("echo cannot; exit 7"), ..Hooks::default() };
    let host = with_first_release(hooks, Health::default()).await;
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.until_staged().await;
    agent.tell(ToAgent::Activate).await;
    let failure = agent.failure().await;
    assert!(failure.message.starts_with("cannot remove "), "{failure:?}");
    assert!(
        failure.message.ends_with("; then the on_revert hook `echo cannot; exit 7` failed with exit code 7"),
        "{failure:?}"
    );
    assert_eq!(failure.log_tail, ["cannot"]);
    assert_eq!(host.live().as_deref(), Some("shop 1"));
}

#[tokio::test]
async fn revert_hooks_too_large_to_be_kept_are_refused_before_anything_is_done() {
    let host = host(Hooks { on_revert: hook(&"x".repeat(300 << 10)), ..Hooks::default() }, Health::default());
    let mut agent = host.deploying(&Artifact::version("1"), "r1").await;
    let failure = agent.failure().await;
    assert!(failure.message.contains("its on_revert hooks have ") && failure.during == HostState::Preparing, "{failure:?}");
}

#[tokio::test]
async fn revert_hooks_that_were_cut_short_are_repeated_and_what_fails_in_them_is_told() {
    let twice = "echo again; test -e $FLEETDROP_DEPLOY_TO/../begun && exit 7; touch $FLEETDROP_DEPLOY_TO/../begun; sleep 60";
    let on_revert = [hook(twice), noting().on_revert].concat();
    let hooks = Hooks { after_activate: hook("exit 1"), on_revert, ..Hooks::default() };
    let host = with_first_release(hooks, Health::default()).await;
    let run = killed_in_a_hook(&host).await;
    assert_eq!(host.live().as_deref(), Some("shop 1"), "it has gone back");
    assert!(host.log().is_empty());
    let mut next = host.agent(&Artifact::version("2"), host.recovery(&run)).await;
    let (current, reason, output) = reverted(&mut next).await;
    assert_eq!(current.as_deref(), Some("r1"));
    assert!(
        reason.contains("; then the on_revert hook `echo again;") && reason.ends_with("failed with exit code 7"),
        "{reason}"
    );
    assert_eq!((output, host.log()), (vec!["again".to_owned()], vec!["on_revert r2 shop web01 r2 r2 r1".to_owned()]));
}
