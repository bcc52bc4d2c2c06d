//! What becomes of a host whose agent was lost between its switch and the end of the run: a new agent undoes the switch, if the lost
//! one has not and it was not confirmed, or if the run wants the host back; then it is told what is live.
//!
//! Without it a host whose agent died would stay on an unconfirmed release until the next run, nobody would know of one that went
//! back while the controller could not see it, and a host that is live but lost its connection could not be rolled back.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{push::ensure_agent, transport::Transport},
    AWAY, AgentSession, Command, End, HostTask, LONGEST_PAUSE, Progress, REACH, ReadyAgent, Report, bounded, failed, vigil,
};
use crate::{
    model::{FailureKind, HostFailure, HostState},
    wire::{FromAgent, ToAgent},
};

/// How long the new agent may take besides its hooks: it waits some seconds for the dead one's lock.
const LIMIT: Duration = Duration::from_secs(60);

/// Why nothing is known yet: what the new agent said last, if it said something.
pub(super) struct Unknown(Option<HostFailure>);

/// The ear for the dispatcher while a host is looked for.
struct Ear {
    commands: mpsc::Receiver<Command>,
    /// Set once the host is no longer wanted.
    stop: CancellationToken,
    /// Why the host is to go back, if that was heard.
    back: Option<String>,
}

impl Ear {
    /// Has `search` done and listens meanwhile. It is not cut off by a stop: it sees that one and comes to its own end.
    async fn during<T>(&mut self, search: impl Future<Output = T>) -> T {
        let mut search = std::pin::pin!(search);
        loop {
            let command = tokio::select! {
                found = &mut search => return found,
                command = self.commands.recv(), if !self.stop.is_cancelled() => command,
            };
            match command {
                Some(Command::GoBack(reason)) => self.back = Some(reason),
                Some(Command::Stop(_)) | None => {
                    // Whoever listens next learns of it, too.
                    self.commands.close();
                    self.stop.cancel();
                }
                Some(Command::Start(_) | Command::Activate | Command::Confirm) => (),
            }
        }
    }
}

/// What a new agent answers.
struct Answer {
    last: FromAgent,
    /// The run's switch was confirmed before.
    confirmed: bool,
}

impl HostTask {
    /// Comes back to a host that was lost while it was between two releases, as long as it may take to go back by itself, and
    /// reports what became of it; a stop ends that early. Returns why it has no agent if it is live on the new release.
    pub(super) async fn find_out(&mut self, progress: &mut Progress, lost: HostFailure) -> Option<HostFailure> {
        self.report(Report::Reconnecting(lost.message.clone())).await;
        let end = match self.seek(progress, &lost, self.plan.confirm() + AWAY).await {
            Ok(end) => end,
            Err(Unknown(said)) => {
                let said = said.map_or_else(
                    || "it goes back by itself unless the controller comes back".to_owned(),
                    |said| format!("a new agent could not tell what became of it: {}", said.message),
                );
                End::Failed(HostFailure { message: format!("{}; {said}", lost.message), ..lost })
            }
        };
        match end {
            End::Alone(failure) => Some(failure),
            End::Failed(failure) => {
                self.report(Report::Dropped(failure)).await;
                None
            }
            End::Done | End::Lost(_) | End::Adrift(_) => None,
        }
    }

    /// Waits, for a host that is live and has no agent any more, until the run is over or wants the host back. `lost` is why.
    pub(super) async fn stand_by(&mut self, progress: &mut Progress, lost: HostFailure) {
        tracing::info!(host = %self.entry.name, "live, and without its agent: {}", lost.message);
        while progress.back.is_none() {
            match self.commands.recv().await {
                Some(Command::GoBack(reason)) => progress.back = Some(reason),
                Some(Command::Stop(_)) | None => return,
                Some(Command::Start(_) | Command::Activate | Command::Confirm) => (),
            }
        }
        self.report(Report::Reconnecting(lost.message.clone())).await;
        let failure = match self.seek(progress, &lost, AWAY).await {
            Ok(End::Failed(failure)) => failure,
            Ok(_) => return,
            Err(Unknown(Some(said))) => HostFailure { message: format!("{}; {}", lost.message, said.message), ..said },
            Err(Unknown(None)) => HostFailure {
                kind: FailureKind::Unreachable,
                message: format!("{}; it was not reached again and is on the new release unless it went back", lost.message),
                ..lost
            },
        };
        self.report(Report::Dropped(failure)).await;
    }

    /// Starts to listen.
    fn listen(&mut self) -> Ear {
        // While others hold the ear nothing is heard here.
        let commands = std::mem::replace(&mut self.commands, mpsc::channel(1).1);
        Ear { commands, stop: CancellationToken::new(), back: None }
    }

    /// Ends listening and notes what was heard.
    fn heard(&mut self, ear: Ear, progress: &mut Progress) {
        self.commands = ear.commands;
        progress.back = ear.back.or(progress.back.take());
    }

    /// Tries to learn what became of a host, until it is told to stop.
    async fn seek(&mut self, progress: &mut Progress, lost: &HostFailure, away: Duration) -> Result<End, Unknown> {
        let mut ear = self.listen();
        let stop = ear.stop.clone();
        let found = ear.during(self.search(progress, lost, away, &stop)).await;
        self.heard(ear, progress);
        found
    }

    /// Tries to reach a host for `away`, and from then on as long as its hooks may take.
    async fn search(
        &self,
        progress: &mut Progress,
        lost: &HostFailure,
        away: Duration,
        stop: &CancellationToken,
    ) -> Result<End, Unknown> {
        let mut until = Instant::now() + away;
        let (mut attempts, mut said) = (0, None);
        while let Some(Ok(reached)) = stop.run_until_cancelled(timeout_at(until, self.reach())).await {
            if let Some((transport, agent)) = reached {
                if attempts == 0 {
                    until = until.max(Instant::now() + self.plan.way_back() + LIMIT);
                }
                let asked = self.ask(&transport, &agent, progress, lost, attempts, stop).await;
                transport.close().await;
                attempts += 1;
                match asked {
                    Ok(end) => return Ok(end),
                    Err(Unknown(now)) => said = now.or(said),
                }
            }
            stop.run_until_cancelled(sleep(LONGEST_PAUSE.mul_f64(0.2 + 0.4 * fastrand::f64()))).await;
        }
        Err(Unknown(said))
    }

    /// Tries once to reach a host and to have an agent there.
    async fn reach(&self) -> Option<(Transport, ReadyAgent)> {
        let transport = Transport::open_again(&self.connector, &self.entry, &self.target, Some(REACH)).await.ok()?;
        let errand = self.courier.errand(self.id);
        match ensure_agent(&transport, &errand, &self.entry, self.plan.cache()).await {
            Ok(agent) => Some((transport, agent)),
            Err(_) => {
                transport.close().await;
                None
            }
        }
    }

    /// Undoes what the lost agent of `progress` left and reports what is live; a stop ends that early. `lost` is why the agent was lost.
    pub(super) async fn recover(
        &mut self,
        transport: &Transport,
        agent: &ReadyAgent,
        progress: &mut Progress,
        lost: &HostFailure,
    ) -> Result<End, Unknown> {
        let mut ear = self.listen();
        let stop = ear.stop.clone();
        let found = ear.during(self.ask(transport, agent, progress, lost, 0, &stop)).await;
        self.heard(ear, progress);
        found
    }

    /// Has a new agent look and undo, and passes on what it answers.
    async fn ask(
        &self,
        transport: &Transport,
        agent: &ReadyAgent,
        progress: &mut Progress,
        lost: &HostFailure,
        attempt: u32,
        stop: &CancellationToken,
    ) -> Result<End, Unknown> {
        let job = self.plan.recovery(&self.entry, agent, progress.predecessor(attempt), progress.back.as_deref());
        let job = job.ok_or(Unknown(None))?;
        let work = async {
            let mut session = AgentSession::start(transport, agent).await.ok()?;
            progress.successor = Some(session.pid());
            session.send(ToAgent::Job(job)).await;
            let answer = stop.run_until_cancelled(self.answer(&mut session)).await.flatten();
            session.close().await;
            answer
        };
        let Answer { last, confirmed } =
            timeout(self.plan.way_back() + LIMIT, work).await.ok().flatten().ok_or(Unknown(None))?;
        let why = |reason: String| if progress.back.is_some() { reason } else { format!("{}; {reason}", lost.message) };
        let message = match last {
            FromAgent::Reverted { current, reason, output } => {
                FromAgent::Reverted { current, reason: why(reason), output: bounded(output) }
            }
            FromAgent::Kept { release } => {
                let message =
                    format!("{}; {release} was not confirmed, and stays live: the release before it is gone", lost.message);
                return Ok(End::Failed(
                    failed(progress.state, message).with_hint("look whether it works, or deploy another one"),
                ));
            }
            // The confirmation had reached it, and it is still live.
            FromAgent::Status(status) if confirmed && status.current.is_some() && status.current == progress.release => {
                if progress.state != HostState::Active {
                    progress.state = HostState::Active;
                    self.report(Report::Agent(Box::new(FromAgent::Confirmed))).await;
                }
                return match progress.back {
                    None => Ok(End::Alone(lost.clone())),
                    Some(_) => {
                        Ok(End::Failed(failed(progress.state, "another run confirmed the release meanwhile".to_owned())))
                    }
                };
            }
            FromAgent::Status(status) => {
                let reason = progress.back.clone().unwrap_or_else(|| why("it went back by itself".to_owned()));
                FromAgent::Reverted { current: status.current, reason, output: Vec::new() }
            }
            FromAgent::Failed(failure) => return Err(Unknown(Some(failure))),
            _ => return Err(Unknown(None)),
        };
        self.report(Report::Agent(Box::new(message))).await;
        Ok(End::Done)
    }

    /// Waits for the answer to a recovery; passes on what the agent warns of meanwhile, and keeps it from thinking that it is alone.
    async fn answer(&self, session: &mut AgentSession) -> Option<Answer> {
        let mut ping = interval(vigil::PING);
        let mut confirmed = false;
        loop {
            let message = tokio::select! {
                message = session.receive() => message,
                _ = ping.tick() => {
                    session.send(ToAgent::Ping).await;
                    continue;
                }
            };
            match message {
                Ok(Some(
                    last @ (FromAgent::Reverted { .. } | FromAgent::Kept { .. } | FromAgent::Status(_) | FromAgent::Failed(_)),
                )) => return Some(Answer { last, confirmed }),
                Ok(Some(FromAgent::Confirmed)) => confirmed = true,
                Ok(Some(warning @ FromAgent::Warning { .. })) => self.report(Report::Agent(Box::new(warning))).await,
                Ok(Some(_)) => (),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        controller::{
            host::{Command, JobPlan, Placement, RollbackPlan},
            push::{AgentFinder, Courier},
            run::target,
        },
        inventory::Inventory,
        model::{
            HostId, RunId,
            plan::{Command as Line, Hook, Hooks},
        },
        ssh::{Connector, SshSettings},
        wire::{Procedure, StopReason, WIRE_VERSION},
    };

    /// How long a host is looked for, and its new agent waited for, unless somebody says stop.
    const UNSTOPPED: Duration = Duration::from_secs(3600);
    /// Far less than that, and more than any of it takes on a busy machine.
    const STOPPED: Duration = Duration::from_secs(300);

    /// An agent that dies right after its switch, and whose successor undoes it.
    const DYING_AGENT: &str = r#"#!/usr/bin/env python3
import json, os, struct, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(0)
def tell(message):
    body = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(body)) + body)
    sys.stdout.buffer.flush()
tell({"type": "hello", "wire_version": WIRE_VERSION, "version": "test", "pid": os.getpid()})
while True:
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        sys.exit(0)
    message = json.loads(sys.stdin.buffer.read(struct.unpack(">I", head)[0]))
    if message["type"] == "job" and message["job"] == "recover":
        tell({"type": "reverted", "current": "r1", "reason": "undone after " + str(message["replaces"] > 0)})
    elif message["type"] == "job":
        tell({"type": "prepared", "have": 0})
    elif message["type"] == "start":
        tell({"type": "staged", "release": "r2", "bytes": {}})
    elif message["type"] == "activate":
        tell({"type": "activated", "release": "r2"})
        os.kill(os.getpid(), 9)
"#;

    fn write(path: &Path, content: &str) {
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn task(dir: &Path, reports: mpsc::Sender<(HostId, Report)>, commands: mpsc::Receiver<Command>) -> HostTask {
        let inventory = dir.join("inventory.yaml");
        write(&inventory, "all: {hosts: {here: {ansible_connection: local}}}");
        let entry = Inventory::load(&inventory).unwrap().inventory.select(None).unwrap().remove(0);
        let placement = Placement {
            by: None,
            app: None,
            deploy_to: Some(dir.join("app").to_string_lossy().into_owned()),
            cache: Some(dir.join("cache").to_string_lossy().into_owned()),
            lease: Duration::from_secs(30),
            confirm: UNSTOPPED,
        };
        let on_revert = vec![Hook { command: Line::Shell("true".to_owned()), timeout: UNSTOPPED }];
        let hooks = Hooks { on_revert, ..Hooks::default() };
        let run = RunId::from_random([1; 8]);
        HostTask {
            id: HostId(0),
            target: target(&entry),
            entry,
            connector: Connector::new(SshSettings::new(dir, "nobody")).unwrap(),
            courier: Arc::new(Courier::new(Arc::new(AgentFinder::new(None, dir.join("fleetdrop"))), 1)),
            plan: Arc::new(JobPlan::Rollback(Box::new(RollbackPlan {
                run,
                placement,
                to: None,
                procedure: Procedure { hooks, ..Procedure::default() },
            }))),
            ways: Arc::default(),
            no_swarm: tokio_util::sync::CancellationToken::new(),
            place: None,
            reports,
            commands,
        }
    }

    /// Lets a host switch and die, and tells it to stop once `stops` says so. Returns what it reported.
    async fn reported_by(agent: &str, stops: impl Fn(&Report) -> bool) -> Vec<Report> {
        let dir = tempfile::tempdir().unwrap();
        let (reports, mut reported) = mpsc::channel(64);
        let (tell, commands) = mpsc::channel(4);
        let task = task(dir.path(), reports, commands);
        write(&dir.path().join("fleetdrop-agent"), &agent.replace("WIRE_VERSION", &WIRE_VERSION.to_string()));
        let running = tokio::spawn(task.run());
        let mut seen = Vec::new();
        while let Some((_, report)) = reported.recv().await {
            match &report {
                Report::Prepared { .. } => tell.send(Command::Start(Vec::new())).await.unwrap(),
                Report::Agent(message) if matches!(**message, FromAgent::Staged { .. }) => {
                    tell.send(Command::Activate).await.unwrap();
                }
                _ => (),
            }
            if stops(&report) {
                tell.send(Command::Stop(StopReason::Interrupted)).await.unwrap();
            }
            seen.push(report);
        }
        running.await.unwrap();
        seen
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait_for_an_agent_that_undoes_a_switch() {
        // It would take as long as the hooks of a way back may.
        let hanging = DYING_AGENT.replace(
            r#"tell({"type": "reverted", "current": "r1", "reason": "undone after " + str(message["replaces"] > 0)})"#,
            r#"tell({"type": "warning", "message": "it takes its time"}); sys.stdin.buffer.read()"#,
        );
        assert_ne!(hanging, DYING_AGENT);
        let is_at_it =
            |report: &Report| matches!(report, Report::Agent(message) if matches!(**message, FromAgent::Warning { .. }));
        let seen = timeout(STOPPED, reported_by(&hanging, is_at_it)).await.expect("the stop was not heard");
        let Some(Report::Dropped(failure)) = seen.last() else { panic!("{seen:?}") };
        assert!(failure.message.ends_with("; it goes back by itself unless the controller comes back"), "{failure:?}");
    }

    #[tokio::test]
    async fn a_stop_ends_the_search_for_a_host_that_was_lost() {
        // The successor says nothing that can be understood, so that the host is sought again and again.
        let useless = DYING_AGENT.replace(r#"{"type": "reverted", "current": "r1", "#, r#"{"type": "checked", "#);
        let useless = useless.replace(r#"str(message["replaces"] > 0)})"#, r#"str(message["replaces"] > 0)}); sys.exit(0)"#);
        let is_sought = |report: &Report| matches!(report, Report::Reconnecting(_));
        let seen = timeout(STOPPED, reported_by(&useless, is_sought)).await.expect("the stop was not heard");
        let Some(Report::Dropped(failure)) = seen.last() else { panic!("{seen:?}") };
        assert!(failure.message.contains("the agent ended unexpectedly"), "{failure:?}");
    }

    #[tokio::test]
    async fn a_switch_whose_agent_died_is_undone_by_a_new_agent() {
        let seen = reported_by(DYING_AGENT, |_| false).await;
        let Some(Report::Agent(last)) = seen.last() else { panic!("{seen:?}") };
        let FromAgent::Reverted { current: Some(current), reason, .. } = &**last else { panic!("{last:?}") };
        assert_eq!(current.as_str(), "r1");
        assert!(reason.starts_with("the agent ended unexpectedly") && reason.ends_with("; undone after True"), "{reason}");
    }
}
