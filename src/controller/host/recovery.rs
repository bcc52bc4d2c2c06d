//! What is done about an agent that died between its switch and the confirmation: a new one undoes the switch, at once.
//!
//! Without it the host would stay on an unconfirmed release until the next run.

use std::time::Duration;

use tokio::time::timeout;

use super::{super::transport::Transport, AgentSession, End, HostTask, ReadyAgent, Report};
use crate::{
    model::HostFailure,
    wire::{FromAgent, ToAgent},
};

/// How long the new agent may take: it waits some seconds for the dead one's lock.
const LIMIT: Duration = Duration::from_secs(60);

impl HostTask {
    /// Undoes what the dead agent with that process id left. `failure` is why it ended; it stands if there was nothing to undo.
    pub(super) async fn recover(&self, transport: &Transport, agent: &ReadyAgent, dead: u32, failure: HostFailure) -> End {
        let Some(job) = self.plan.recovery(&self.entry, agent, dead) else { return End::Failed(failure) };
        let work = async {
            let mut session = AgentSession::start(transport, agent).await.ok()?;
            session.send(ToAgent::Job(job)).await;
            let answer = answer(&mut session).await;
            session.close().await;
            answer
        };
        match timeout(LIMIT, work).await.ok().flatten() {
            Some(FromAgent::Reverted { current, reason }) => {
                let reason = format!("{}; {reason}", failure.message);
                self.report(Report::Agent(Box::new(FromAgent::Reverted { current, reason }))).await;
                End::Done
            }
            Some(FromAgent::Status(status)) => {
                let live = status.current.map_or("nothing".to_owned(), |release| release.to_string());
                let message = format!("{}; {live} is live there", failure.message);
                End::Failed(HostFailure { message, hint: None, ..failure })
            }
            _ => End::Failed(failure),
        }
    }
}

async fn answer(session: &mut AgentSession) -> Option<FromAgent> {
    loop {
        match session.receive().await {
            Ok(Some(answer @ (FromAgent::Reverted { .. } | FromAgent::Status(_) | FromAgent::Failed(_)))) => {
                return Some(answer);
            }
            Ok(Some(_)) => (),
            Ok(None) | Err(_) => return None,
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
tell({"type": "hello", "wire_version": 2, "version": "test", "pid": os.getpid()})
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
            plan: Arc::new(JobPlan::Rollback(RollbackPlan { run, placement, to: None })),
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
        let FromAgent::Reverted { current: Some(current), reason } = &**last else { panic!("{last:?}") };
        assert_eq!(current.as_str(), "r1");
        assert!(reason.starts_with("the agent ended unexpectedly") && reason.ends_with("; undone after True"), "{reason}");
    }
}
