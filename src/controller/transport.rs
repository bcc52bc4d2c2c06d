//! One way to run a command on a host, whether it is reached over SSH or is this machine (`ansible_connection: local`).
//!
//! Promises: a command's output and its time are bounded. Never interprets what a command prints.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::process::ExitStatusExt as _,
    process::Stdio,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use crate::{
    inventory::{Connection as ConnectionKind, HostEntry},
    model::{FailureKind, HostFailure, HostState},
    ssh::{Connection, Connector, ExitStatus, Process, RunLimits, SshError, Step, Target},
};

/// Bytes a command may write; more is an error.
const MAX_OUTPUT: usize = 256 << 10;
/// How long a command that is not needed may take to end.
const DISMISSAL: Duration = Duration::from_secs(5);
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

impl From<crate::ssh::Output> for Output {
    fn from(output: crate::ssh::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Output {
    /// Returns the last line of stderr, or of stdout, that says something.
    pub(super) fn last_words(&self) -> &str {
        let last = |text| str::lines(text).map(str::trim).rfind(|line| !line.is_empty());
        last(&self.stderr).or_else(|| last(&self.stdout)).unwrap_or("it printed nothing")
    }
}

/// What became of a command that was begun.
pub(super) enum Begun {
    /// It runs, and its input is open.
    Runs(Process),
    /// It has ended.
    Ended(Output),
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

    /// Makes the host listen on a port of its loopback whose streams lead to `target` here.
    pub(super) async fn forward(&self, target: SocketAddr) -> Result<SocketAddr, TransportError> {
        match self {
            Self::Ssh(connection) => Ok(connection.forward(target).await?),
            Self::Local => Ok(target),
        }
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
        Ok(self.exec(command).await?.finish(self.address(), input, limits).await?.into())
    }

    /// Gives a command that was started its input, which stays open, and each line that it prints to `hear`, until that returns true.
    /// What the command prints then is for who gets its process.
    pub(super) async fn begin(
        &self,
        mut process: Process,
        input: &[u8],
        limit: Duration,
        hear: impl FnMut(&str) -> bool,
    ) -> Result<Begun, TransportError> {
        let begun = async {
            // A command that does not read its input says why by how it ends.
            if process.stdin.write_all(input).await.is_ok() {
                let _ = process.stdin.flush().await;
            }
            let mut stdout = BufReader::new(process.stdout);
            let heard = listen(&mut stdout, hear).await;
            process.stdout = Box::new(stdout);
            let Some(said) = heard else { return Ok(Begun::Runs(process)) };
            let limits = RunLimits { timeout: limit, max_output: MAX_OUTPUT };
            let output = Output::from(process.finish(self.address(), &[], limits).await?);
            Ok(Begun::Ended(Output { stdout: said, ..output }))
        };
        let late = || SshError::Timeout { address: self.address().to_owned(), what: "the command", limit };
        timeout(limit, begun).await.unwrap_or_else(|_| Err(late().into()))
    }

    /// Ends a command by the end of its input, and waits until it has ended; not for long.
    pub(super) async fn dismiss(&self, process: Process) {
        let limits = RunLimits { timeout: DISMISSAL, max_output: MAX_OUTPUT };
        if let Err(error) = process.finish(self.address(), &[], limits).await {
            tracing::debug!(%error, "a command that was not needed did not end well");
        }
    }

    /// Returns what errors call the host.
    fn address(&self) -> &str {
        match self {
            Self::Ssh(connection) => connection.address(),
            Self::Local => THIS_MACHINE,
        }
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

/// Gives line after line to `hear` until it returns true; all of them, if the stream ends before or is too long.
async fn listen(stdout: &mut (impl AsyncBufRead + Unpin), mut hear: impl FnMut(&str) -> bool) -> Option<String> {
    let mut stdout = stdout.take(MAX_OUTPUT as u64);
    let mut said = Vec::new();
    loop {
        let before = said.len();
        // Why a stream breaks is told by how the command ends.
        if !matches!(stdout.read_until(b'\n', &mut said).await, Ok(1..)) {
            return Some(String::from_utf8_lossy(&said).into_owned());
        }
        if hear(String::from_utf8_lossy(&said[before..]).trim_end()) {
            return None;
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
    async fn a_command_that_was_begun_is_handed_over_at_its_word() {
        let mut heard = Vec::new();
        let hear = |line: &str| {
            heard.push(line.to_owned());
            line == "ready"
        };
        let script = b"echo banner\necho ready\necho more\nexec cat\n";
        let process = Transport::Local.exec("sh -s").await.unwrap();
        let begun = Transport::Local.begin(process, script, Duration::from_secs(20), hear).await.unwrap();
        assert_eq!(heard, ["banner", "ready"]);
        let Begun::Runs(process) = begun else { panic!("it ended") };
        let limits = RunLimits { timeout: Duration::from_secs(20), max_output: 100 };
        let output = process.finish("here", b"later", limits).await.unwrap();
        assert_eq!(output.stdout, b"more\nlater");
    }

    async fn begin(command: &str, limit: Duration) -> Result<Begun, TransportError> {
        let process = Transport::Local.exec(command).await.unwrap();
        Transport::Local.begin(process, b"", limit, |line| line == "ready").await
    }

    #[tokio::test]
    async fn a_command_that_ends_without_its_word_says_why() {
        for command in ["echo no; echo because >&2; exit 7", "exec 0<&-; echo no; echo because >&2; exit 7"] {
            let begun = begin(command, Duration::from_secs(20)).await.unwrap();
            let Begun::Ended(output) = begun else { panic!("{command} runs") };
            assert_eq!((output.stdout.as_str(), output.last_words()), ("no\n", "because"));
            assert_eq!(output.status.code(), Some(7));
        }
        let error = begin("sleep 60", Duration::from_millis(100)).await.err().unwrap();
        assert!(matches!(error, TransportError::Ssh(SshError::Timeout { .. })), "{error}");
        let error = begin("yes", Duration::from_secs(20)).await.err().unwrap();
        assert!(matches!(error, TransportError::Ssh(SshError::OutputTooLarge { .. })), "{error}");
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
