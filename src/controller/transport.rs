//! One way to run a command on a host, whether it is reached over SSH or is this machine (`ansible_connection: local`).
//!
//! Promises: a command's output and its time are bounded. Never interprets what a command prints.

use std::{net::IpAddr, os::unix::process::ExitStatusExt as _, process::Stdio, time::Duration};

use futures_util::FutureExt as _;

use crate::{
    inventory::{Connection as ConnectionKind, HostEntry},
    model::{FailureKind, HostFailure, HostState},
    ssh::{Connection, Connector, ExitStatus, Process, RunLimits, SshError, Step, Target},
};

/// Bytes a command may write; more is an error.
const MAX_OUTPUT: usize = 256 << 10;
/// What errors call the controller's own machine.
const THIS_MACHINE: &str = "this machine";

/// An open way to one host.
pub(super) enum Transport {
    Ssh(Connection),
    Local,
}

/// Why there is no way to a host.
pub(super) struct Refused {
    pub(super) failure: HostFailure,
    /// True if the network or a server that starts may be to blame, rather than keys and configuration.
    pub(super) may_pass: bool,
    /// True if something answers there: the host is up, and perhaps busy.
    pub(super) answers: bool,
}

/// What a finished command left.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    /// Returns the last line of stderr, or of stdout, that says something.
    pub(super) fn last_words(&self) -> &str {
        let last = |text| str::lines(text).map(str::trim).rfind(|line| !line.is_empty());
        last(&self.stderr).or_else(|| last(&self.stdout)).unwrap_or("it printed nothing")
    }
}

/// Says why a command could not be run or finished on a host that was reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error("can't run a command on this machine: {0}")]
    Local(#[source] std::io::Error),
}

impl TransportError {
    /// True if the connection is gone.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Ssh(SshError::Lost { .. }))
    }

    /// Turns the error into a host's failure.
    pub(super) fn failure(&self, during: HostState, what: &str) -> HostFailure {
        let kind = if self.is_lost() { FailureKind::Unreachable } else { FailureKind::Failed };
        HostFailure::new(kind, during, format!("{what}: {self}"))
    }
}

impl Transport {
    /// Opens the way to a host.
    pub(super) async fn open(connector: &Connector, host: &HostEntry, target: &Target) -> Result<Self, Refused> {
        Self::open_again(connector, host, target, None).await
    }

    /// As [`Transport::open`]. With a limit the way was open a moment ago, and is tried once, the network with that much time.
    pub(super) async fn open_again(
        connector: &Connector,
        host: &HostEntry,
        target: &Target,
        limit: Option<Duration>,
    ) -> Result<Self, Refused> {
        if host.connection == ConnectionKind::Local {
            return Ok(Self::Local);
        }
        let opened = match limit {
            None => connector.connect(target).await,
            Some(limit) => connector.connect_again(target, limit).await,
        };
        match opened {
            Ok(connection) => Ok(Self::Ssh(connection)),
            Err(error) => {
                let mut failure = HostFailure::new(FailureKind::Unreachable, HostState::Connecting, error.to_string());
                failure.hint = error.hint();
                let may_pass = (Step::Resolve..=Step::Handshake).contains(&error.step());
                Err(Refused { failure, may_pass, answers: error.step() > Step::Connect })
            }
        }
    }

    /// Returns the address the connection goes to, when it goes there directly.
    pub(super) fn remote_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ssh(connection) => connection.remote_addr().map(|addr| addr.ip().to_canonical()),
            Self::Local => None,
        }
    }

    /// Returns where other hosts reach this one: the inventory's word, then the host's end of its SSH connection (the second of
    /// `ssh_ends`), then where the connection goes.
    pub(super) fn address_for_others(&self, host: &HostEntry, ssh_ends: Option<(IpAddr, IpAddr)>) -> Option<IpAddr> {
        let local = || (host.connection == ConnectionKind::Local).then_some(IpAddr::from([127, 0, 0, 1]));
        let from_ssh = ssh_ends.map(|(_, host)| host);
        let from_here = || self.remote_ip().filter(|ip| !is_link_local(*ip));
        host.advertise.or(from_ssh).or_else(from_here).or_else(local)
    }

    /// Starts a command and hands out its streams.
    pub(super) async fn exec(&self, command: &str) -> Result<Process, TransportError> {
        match self {
            Self::Ssh(connection) => connection.exec(command).await.map_err(TransportError::from),
            Self::Local => spawn_local(command).map_err(TransportError::Local),
        }
    }

    /// Runs a command to its end with that input.
    pub(super) async fn run(&self, command: &str, input: &[u8], timeout: Duration) -> Result<Output, TransportError> {
        let limits = RunLimits { timeout, max_output: MAX_OUTPUT };
        let output = match self {
            Self::Ssh(connection) => connection.run(command, input, limits).await?,
            Self::Local => spawn_local(command).map_err(TransportError::Local)?.finish(THIS_MACHINE, input, limits).await?,
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) })
    }

    /// Resolves when the connection is gone; never for this machine.
    pub(super) async fn closed(&self) {
        match self {
            Self::Ssh(connection) => connection.closed().await,
            Self::Local => std::future::pending().await,
        }
    }

    /// Ends the connection politely.
    pub(super) async fn close(self) {
        if let Self::Ssh(connection) = self {
            connection.close().await;
        }
    }
}

fn spawn_local(command: &str) -> std::io::Result<Process> {
    let mut child = tokio::process::Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C at the terminal is for the controller, which tells the agent in its own words.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let missing = || std::io::Error::other("a pipe is missing");
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let exit = async move {
        let waited = child.wait().await;
        waited.map(exit_status).map_err(|error| SshError::Lost { address: THIS_MACHINE.into(), reason: error.to_string() })
    };
    Ok(Process { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), exit: exit.boxed() })
}

fn exit_status(status: std::process::ExitStatus) -> ExitStatus {
    match status.code() {
        // Exit codes are 0 to 255.
        Some(code) => ExitStatus::Code(code.unsigned_abs()),
        None => ExitStatus::Signal(status.signal().unwrap_or_default().to_string()),
    }
}

/// True for addresses that are only valid on one link (RFC 4291, RFC 3927).
pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Quotes a text for a POSIX shell.
pub(super) fn shell_quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b'=' | b':' | b',' | b'+' | b'@');
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_reaches_the_shell_unchanged() {
        for text in ["plain/path-1.0", "", "a b", "it's", "$(id) `id` \\ \"x\" !", "~root", "*"] {
            let command = format!("printf %s {}", shell_quote(text));
            let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn a_local_command_gets_its_input_and_both_outputs_are_kept() {
        let local = Transport::Local;
        let output = local.run("cat; echo oops >&2; exit 3", b"hello", Duration::from_secs(20)).await.unwrap();
        assert_eq!((output.stdout.as_str(), output.last_words()), ("hello", "oops"));
        assert_eq!(output.status.code(), Some(3));
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_given_up() {
        let error = Transport::Local.run("sleep 60", b"", Duration::from_millis(100)).await.err().unwrap();
        assert!(matches!(error, TransportError::Ssh(SshError::Timeout { .. })), "{error}");
    }

    #[tokio::test]
    async fn endless_output_is_an_error() {
        let error = Transport::Local.run("yes", b"", Duration::from_secs(20)).await.err().unwrap();
        assert!(matches!(error, TransportError::Ssh(SshError::OutputTooLarge { .. })), "{error}");
    }
}
