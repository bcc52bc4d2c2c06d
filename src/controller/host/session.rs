//! A running agent, seen from the controller: messages out, messages in, the last lines of its log.
//!
//! Reading, writing and logging are tasks of their own, so that a host that reads slowly or logs much holds up nobody.
//! Their queues are bounded; they end with the session.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    super::{
        push::{AGENT_MARKER, ReadyAgent},
        transport::Transport,
    },
    End, HELLO_TIMEOUT, failed,
};
use crate::{
    model::{FailureKind, HostFailure, HostState},
    ssh::{ExitStatus, Process, SshError},
    wire::{FrameError, FromAgent, ToAgent, WIRE_VERSION, read_frame, write_frame},
};

const QUEUE: usize = 64;
/// Bytes a login shell may print before the agent starts.
const MAX_BANNER: usize = 64 << 10;
/// Lines of the agent's log that are kept, and their length in characters.
const LOG_LINES: usize = 20;
const LOG_LINE: usize = 400;
/// How long to wait for the exit status and the last log lines of an agent whose messages have ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running agent.
pub(in crate::controller) struct AgentSession {
    outbox: Option<mpsc::Sender<ToAgent>>,
    inbox: mpsc::Receiver<Result<FromAgent, FrameError>>,
    log: Arc<LogTail>,
    /// None once it has ended: a handle must not be polled again then.
    log_task: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    exit: Option<BoxFuture<'static, Result<ExitStatus, SshError>>>,
    pid: u32,
    died: bool,
}

/// The last lines of an agent's log.
#[derive(Debug, Default)]
struct LogTail(Mutex<VecDeque<String>>);

impl LogTail {
    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        // Lines are pushed whole: a panic elsewhere leaves nothing half-done here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AgentSession {
    /// Starts the agent and waits for its hello.
    pub(in crate::controller) async fn start(transport: &Transport, agent: &ReadyAgent) -> Result<Self, HostFailure> {
        let during = HostState::Preparing;
        let process = agent.start(transport).await.map_err(|error| error.failure(during, "starting the agent"))?;
        let mut session = Self::over(process);
        let hello = match tokio::time::timeout(HELLO_TIMEOUT, session.receive()).await {
            Ok(Ok(Some(FromAgent::Hello(hello)))) => hello,
            Ok(Ok(None)) => {
                let failure = session.why_ended(during).await;
                session.close().await;
                return Err(failure);
            }
            Ok(Ok(Some(_))) => return Err(session.broken("the agent's first message is not a hello").await),
            Ok(Err(error)) => return Err(session.broken(&format!("the agent's messages: {error}")).await),
            Err(_) => {
                let seconds = HELLO_TIMEOUT.as_secs();
                return Err(session.broken(&format!("the agent said nothing for {seconds} s")).await);
            }
        };
        if hello.wire_version != WIRE_VERSION {
            let message = format!(
                "the agent speaks protocol version {}, this fleetdrop {WIRE_VERSION} (agent {})",
                hello.wire_version, hello.version
            );
            let failure = session.broken(&message).await;
            return Err(failure.with_hint("replace the agent in --agent-dir by the one built with this fleetdrop"));
        }
        session.pid = hello.pid;
        Ok(session)
    }

    /// Returns the agent's process id on the host.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// True if the agent's process is known to have ended without being told to.
    pub(super) fn has_died(&self) -> bool {
        self.died
    }

    fn over(process: Process) -> Self {
        let Process { stdin, stdout, stderr, exit } = process;
        let (outbox, to_write) = mpsc::channel(QUEUE);
        let (read, inbox) = mpsc::channel(QUEUE);
        let log = Arc::new(LogTail::default());
        let tasks = vec![tokio::spawn(write_all(stdin, to_write, read.downgrade())), tokio::spawn(read_all(stdout, read))];
        let log_task = Some(tokio::spawn(keep_log(stderr, log.clone())));
        Self { outbox: Some(outbox), inbox, log, log_task, tasks, exit: Some(exit), pid: 0, died: false }
    }

    /// Queues a message. A host that has stopped reading is noticed by its silence, not here.
    pub(in crate::controller) async fn send(&mut self, message: ToAgent) {
        let Some(outbox) = &self.outbox else { return };
        if let ToAgent::Ping = message {
            // A full queue will carry other messages, which renew the lease as well.
            let _ = outbox.try_send(message);
        } else {
            let _ = outbox.send_timeout(message, LAST_WORDS).await;
        }
    }

    /// Waits for the agent's next message; `None` when it has ended. Cancel-safe.
    pub(in crate::controller) async fn receive(&mut self) -> Result<Option<FromAgent>, FrameError> {
        self.inbox.recv().await.transpose()
    }

    /// Says why an agent ended that was not told to, and whether another connection is worth a try.
    pub(super) async fn ended(&mut self, during: HostState) -> End {
        let failure = self.why_ended(during).await;
        match during {
            HostState::Activating | HostState::Checking => End::Adrift(failure),
            HostState::Active => End::Alone(failure),
            during if during <= HostState::Staged && !self.died => End::Lost(failure),
            _ => End::Failed(failure),
        }
    }

    /// Says why an agent ended that was not told to. A lost connection makes a host unreachable before it is staged; later its
    /// state has to be looked at, so that it counts as failed.
    pub(in crate::controller) async fn why_ended(&mut self, during: HostState) -> HostFailure {
        let status = match self.exit.take() {
            Some(exit) => tokio::time::timeout(LAST_WORDS, exit).await.ok(),
            None => None,
        };
        if let Some(log_task) = &mut self.log_task
            && tokio::time::timeout(LAST_WORDS, log_task).await.is_ok()
        {
            self.log_task = None;
        }
        let log_tail = self.log_tail();
        self.died = matches!(status, Some(Ok(_)));
        let (kind, message) = match status {
            Some(Ok(status)) => (FailureKind::Failed, format!("the agent ended unexpectedly ({status})")),
            Some(Err(error)) => (lost_kind(during), format!("the connection was lost: {error}")),
            None => (lost_kind(during), "the connection was lost".to_owned()),
        };
        let mut failure = HostFailure::new(kind, during, message);
        if during >= HostState::Activating {
            failure = failure.with_hint(
                "look with `fleetdrop status`: an agent that lives undoes an unconfirmed switch; where it died, the next deploy or \
                 rollback there does",
            );
        }
        failure.log_tail = log_tail;
        failure
    }

    /// Returns the last lines of the agent's log.
    pub(super) fn log_tail(&self) -> Vec<String> {
        self.log.lock().iter().cloned().collect()
    }

    async fn broken(mut self, message: &str) -> HostFailure {
        let mut failure = failed(HostState::Preparing, message.to_owned());
        failure.log_tail = self.log_tail();
        self.outbox = None;
        self.close().await;
        failure
    }

    /// Closes the agent's input, which ends it, and joins the session's tasks.
    pub(in crate::controller) async fn close(mut self) {
        self.outbox = None;
        self.inbox.close();
        if let Some(exit) = self.exit.take() {
            let _ = tokio::time::timeout(LAST_WORDS, exit).await;
        }
        for task in self.tasks.into_iter().chain(self.log_task) {
            task.abort();
            let _ = task.await;
        }
    }
}

fn lost_kind(during: HostState) -> FailureKind {
    if during < HostState::Staged { FailureKind::Unreachable } else { FailureKind::Failed }
}

/// Writes what is to be sent. A message that can't be is told where the answer to it is awaited; that the agent has gone is
/// noticed there anyway.
async fn write_all(
    mut stdin: Box<dyn AsyncWrite + Send + Unpin>,
    mut messages: mpsc::Receiver<ToAgent>,
    // Weak: the answers end when the agent's messages do.
    answers: mpsc::WeakSender<Result<FromAgent, FrameError>>,
) {
    while let Some(message) = messages.recv().await {
        match write_frame(&mut stdin, &message).await {
            Ok(()) => (),
            Err(FrameError::Io(_)) => return,
            Err(error) => {
                if let Some(answers) = answers.upgrade() {
                    let _ = answers.send(Err(error)).await;
                }
                return;
            }
        }
    }
    let _ = stdin.shutdown().await;
}

async fn read_all(stdout: Box<dyn AsyncRead + Send + Unpin>, messages: mpsc::Sender<Result<FromAgent, FrameError>>) {
    let mut stdout = BufReader::new(stdout);
    if !skip_banner(&mut stdout).await {
        return;
    }
    loop {
        let message = read_frame(&mut stdout).await.transpose();
        let Some(message) = message else { return };
        let is_last = message.is_err();
        if messages.send(message).await.is_err() || is_last {
            return;
        }
    }
}

/// Skips what the login shell printed; false if the agent's marker never came.
async fn skip_banner(stdout: &mut (impl AsyncBufRead + Unpin)) -> bool {
    let mut banner = stdout.take(MAX_BANNER as u64);
    loop {
        let mut line = Vec::new();
        match banner.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return false,
            Ok(_) if line.ends_with(b"\n") && line[..line.len() - 1].ends_with(AGENT_MARKER.as_bytes()) => return true,
            Ok(_) => (),
        }
    }
}

async fn keep_log(stderr: Box<dyn AsyncRead + Send + Unpin>, log: Arc<LogTail>) {
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut stderr).take(8 << 10).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => (),
        }
        let line: String = String::from_utf8_lossy(&line).trim_end().chars().take(LOG_LINE).collect();
        tracing::debug!(target: "agent", "{line}");
        let mut log = log.lock();
        if log.len() == LOG_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}
