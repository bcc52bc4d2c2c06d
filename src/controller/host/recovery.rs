//! What is done about an agent that was lost between its switch and the confirmation: a new one undoes the switch, if the lost
//! one has not, and tells what is live.
//!
//! Without it a host whose agent died would stay on an unconfirmed release until the next run, and nobody would know of one that
//! went back while the controller could not see it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    super::{push::ensure_agent, transport::Transport},
    AWAY, AgentSession, End, HostTask, LONGEST_PAUSE, Progress, ReadyAgent, Report, bounded,
};
use crate::{
    model::HostFailure,
    wire::{FromAgent, ToAgent},
};

/// How long the new agent may take: it waits some seconds for the dead one's lock.
const LIMIT: Duration = Duration::from_secs(60);

impl HostTask {
    /// Comes back to a host whose connection broke while it was between two releases, as long as it may take to go back by
    /// itself, and reports what became of it.
    pub(super) async fn find_out(&self, progress: &Progress, failure: HostFailure) {
        let message = format!("{}; it goes back by itself unless the controller comes back", failure.message);
        self.report(Report::Reconnecting(failure.message.clone())).await;
        let until = Instant::now() + self.plan.confirm() + AWAY;
        let seek = async {
            loop {
                if let Some(end) = self.seek(progress, &failure).await {
                    return end;
                }
                sleep(LONGEST_PAUSE.mul_f64(0.2 + 0.4 * fastrand::f64())).await;
            }
        };
        if let End::Failed(failure) =
            timeout_at(until, seek).await.unwrap_or(End::Failed(HostFailure { message, ..failure.clone() }))
        {
            self.report(Report::Dropped(failure)).await;
        }
    }

    /// Tries once to learn what became of a host.
    async fn seek(&self, progress: &Progress, failure: &HostFailure) -> Option<End> {
        let transport = Transport::open(&self.connector, &self.entry, &self.target).await.ok()?;
        let errand = self.courier.errand(self.id);
        let ready = ensure_agent(&transport, &errand, &self.entry, self.plan.cache()).await;
        let end = match ready {
            Ok(agent) => self.recover(&transport, &agent, progress, failure).await,
            Err(_) => None,
        };
        transport.close().await;
        end
    }

    /// Undoes what the lost agent of `progress` left and reports what is live; none if that can't be told. `failure` is why the
    /// agent was lost.
    pub(super) async fn recover(
        &self,
        transport: &Transport,
        agent: &ReadyAgent,
        progress: &Progress,
        failure: &HostFailure,
    ) -> Option<End> {
        let job = self.plan.recovery(&self.entry, agent, progress.agent?)?;
        let work = async {
            let mut session = AgentSession::start(transport, agent).await.ok()?;
            session.send(ToAgent::Job(job)).await;
            let answer = self.answer(&mut session).await;
            session.close().await;
            answer
        };
        let message = match timeout(LIMIT, work).await.ok().flatten()? {
            FromAgent::Reverted { current, reason, output } => {
                FromAgent::Reverted { current, reason: format!("{}; {reason}", failure.message), output: bounded(output) }
            }
            // Its lock is free and nothing was left to undo: the confirmation had reached it.
            FromAgent::Status(status) if status.current.is_some() && status.current == progress.release => FromAgent::Confirmed,
            FromAgent::Status(status) => {
                let reason = format!("{}; it went back by itself", failure.message);
                FromAgent::Reverted { current: status.current, reason, output: Vec::new() }
            }
            _ => return None,
        };
        self.report(Report::Agent(Box::new(message))).await;
        Some(End::Done)
    }

    /// Waits for the answer to a recovery; passes on what the agent warns of meanwhile.
    async fn answer(&self, session: &mut AgentSession) -> Option<FromAgent> {
        loop {
            match session.receive().await {
                Ok(Some(answer @ (FromAgent::Reverted { .. } | FromAgent::Status(_) | FromAgent::Failed(_)))) => {
                    return Some(answer);
                }
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
        model::{HostId, RunId},
        ssh::{Connector, SshSettings},
        wire::Procedure,
    };

    /// An agent that dies right after its switch, and whose successor undoes it.
    const DYING_AGENT: &str = r#"#!/usr/bin/env python3
import json, os, struct, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(0)
def tell(message):
    body = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(body)) + body)
    sys.stdout.buffer.flush()
tell({"type": "hello", "wire_version": 3, "version": "test", "pid": os.getpid()})
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
        write(&dir.join("fleetdrop-agent"), DYING_AGENT);
        let inventory = dir.join("inventory.yaml");
        write(&inventory, "all: {hosts: {here: {ansible_connection: local}}}");
        let entry = Inventory::load(&inventory).unwrap().inventory.select(None).unwrap().remove(0);
        let placement = Placement {
            app: None,
            deploy_to: Some(dir.join("app").to_string_lossy().into_owned()),
            cache: Some(dir.join("cache").to_string_lossy().into_owned()),
            lease: Duration::from_secs(30),
            confirm: Duration::from_secs(30),
        };
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
                procedure: Procedure::default(),
            }))),
            place: None,
            reports,
            commands,
        }
    }

    #[tokio::test]
    async fn a_switch_whose_agent_died_is_undone_by_a_new_agent() {
        let dir = tempfile::tempdir().unwrap();
        let (reports, mut reported) = mpsc::channel(64);
        let (tell, commands) = mpsc::channel(4);
        let running = tokio::spawn(task(dir.path(), reports, commands).run());
        let mut seen = Vec::new();
        while let Some((_, report)) = reported.recv().await {
            match &report {
                Report::Prepared { .. } => tell.send(Command::Start(Vec::new())).await.unwrap(),
                Report::Agent(message) if matches!(**message, FromAgent::Staged { .. }) => {
                    tell.send(Command::Activate).await.unwrap();
                }
                _ => (),
            }
            seen.push(report);
        }
        running.await.unwrap();
        let Some(Report::Agent(last)) = seen.last() else { panic!("{seen:?}") };
        let FromAgent::Reverted { current: Some(current), reason, .. } = &**last else { panic!("{last:?}") };
        assert_eq!(current.as_str(), "r1");
        assert!(reason.starts_with("the agent ended unexpectedly") && reason.ends_with("; undone after True"), "{reason}");
    }
}
