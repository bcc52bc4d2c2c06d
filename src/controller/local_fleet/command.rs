//! One command a client asked for: a child process with its three streams.
//!
//! The child leads a process group of its own and stays unreaped until that group has been killed, so the group's number
//! can't belong to anybody else.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path, process::Stdio, time::Duration};

use bytes::{Bytes, BytesMut};
use russh::{
    ChannelWriteHalf, Sig,
    server::{Handle, Msg},
};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::USER;

/// SSH's number for a command's second output stream (RFC 4254, section 5.2).
const STDERR: u32 = 1;
/// How much output is read at once.
const CHUNK: usize = 32 * 1024;

/// What to run and where.
pub(super) struct CommandSpec<'a> {
    /// Home and working directory.
    pub(super) home: &'a Path,
    /// The value of `PATH`.
    pub(super) search_path: &'a OsStr,
    /// The value of `SSH_CONNECTION`.
    pub(super) ssh_connection: &'a str,
    /// The command line for `/bin/sh -c`.
    pub(super) text: &'a [u8],
}

/// A command that runs.
pub(super) struct Command {
    child: Child,
    group: Pid,
}

impl Command {
    /// Starts the command.
    pub(super) fn spawn(spec: &CommandSpec<'_>) -> io::Result<Self> {
        let child = tokio::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(OsStr::from_bytes(spec.text))
            .env_clear()
            .env("HOME", spec.home)
            .env("PATH", spec.search_path)
            .env("USER", USER)
            .env("LOGNAME", USER)
            .env("SHELL", "/bin/sh")
            .env("TMPDIR", spec.home.join("tmp"))
            .env("SSH_CONNECTION", spec.ssh_connection)
            .current_dir(spec.home)
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the child process has no id"))?;
        Ok(Self { child, group })
    }

    /// Carries input and output until the command and its output have ended or `over` is cancelled, reports how it ended, and
    /// leaves nothing of its process group behind.
    pub(super) async fn run(
        mut self,
        input: mpsc::Receiver<Bytes>,
        output: ChannelWriteHalf<Msg>,
        handle: Handle,
        over: CancellationToken,
        grace: Duration,
    ) {
        let ended = over.run_until_cancelled(self.converse(input, &output)).await;
        match ended {
            Some(Ok(status)) => {
                over.run_until_cancelled(report(&handle, &output, &status)).await;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "lost track of a command on a host of the local fleet");
                over.run_until_cancelled(output.close()).await;
            }
            // The pipes are closed now: the command sees the end of its input.
            None => drop(timeout(grace, wait_unreaped(self.group)).await),
        }
        // Children the command left in its group, and the command itself if it outlived its grace.
        if let Err(error) = kill_process_group(self.group, Signal::KILL) {
            tracing::debug!(%error, "can't kill a command's process group");
        }
        if let Err(error) = self.child.wait().await {
            tracing::warn!(%error, "can't reap a command on a host of the local fleet");
        }
        over.cancel();
    }

    async fn converse(&mut self, input: mpsc::Receiver<Bytes>, output: &ChannelWriteHalf<Msg>) -> io::Result<WaitIdStatus> {
        let (stdin, stdout, stderr) = (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(io::Error::other("the child process has no pipes"));
        };
        let work = async {
            tokio::join!(wait_unreaped(self.group), forward(stdout, output, None), forward(stderr, output, Some(STDERR)))
        };
        let feed = async {
            feed(stdin, input).await;
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            (status, (), ()) = work => status,
            never = feed => match never {},
        }
    }
}

/// Writes what the client sends to the command; closes its input when the client is done or the command does not want more.
async fn feed(mut stdin: ChildStdin, mut input: mpsc::Receiver<Bytes>) {
    while let Some(data) = input.recv().await {
        if stdin.write_all(&data).await.is_err() {
            return;
        }
    }
}

/// Sends what the command writes to the client, as fast as the client takes it.
async fn forward(mut pipe: impl AsyncRead + Unpin, output: &ChannelWriteHalf<Msg>, stream: Option<u32>) {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match pipe.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let data = buffer.split().freeze();
        let sent = match stream {
            None => output.data_bytes(data).await,
            Some(stream) => output.extended_data_bytes(stream, data).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Waits until the process has ended and leaves it unreaped.
async fn wait_unreaped(pid: Pid) -> io::Result<WaitIdStatus> {
    let mut child_ended = signal(SignalKind::child())?;
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if let Some(status) = waitid(WaitId::Pid(pid), options)? {
            return Ok(status);
        }
        child_ended.recv().await;
    }
}

/// Tells the client how the command ended, then closes the channel (RFC 4254, section 6.10).
async fn report(handle: &Handle, output: &ChannelWriteHalf<Msg>, status: &WaitIdStatus) {
    let id = output.id();
    // Each of these fails only if the connection is gone, and then there is nobody to tell.
    let _ = output.eof().await;
    let told = match status.terminating_signal() {
        Some(number) => {
            handle.exit_signal_request(id, signal_name(number), status.dumped(), String::new(), String::new()).await
        }
        None => {
            let code = status.exit_status().and_then(|code| u32::try_from(code).ok()).unwrap_or(255);
            handle.exit_status_request(id, code).await
        }
    };
    if told.is_ok() {
        let _ = output.close().await;
    }
}

fn signal_name(number: i32) -> Sig {
    match Signal::from_named_raw(number) {
        Some(Signal::ABORT) => Sig::ABRT,
        Some(Signal::ALARM) => Sig::ALRM,
        Some(Signal::FPE) => Sig::FPE,
        Some(Signal::HUP) => Sig::HUP,
        Some(Signal::ILL) => Sig::ILL,
        Some(Signal::INT) => Sig::INT,
        Some(Signal::KILL) => Sig::KILL,
        Some(Signal::PIPE) => Sig::PIPE,
        Some(Signal::QUIT) => Sig::QUIT,
        Some(Signal::SEGV) => Sig::SEGV,
        Some(Signal::TERM) => Sig::TERM,
        Some(Signal::USR1) => Sig::USR1,
        _ => Sig::Custom(format!("{number}@fleetdrop")),
    }
}
