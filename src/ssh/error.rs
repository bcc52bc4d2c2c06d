//! What can go wrong, in words an operator can act on.

use std::{fmt, io, sync::Arc, time::Duration};

/// Says what went wrong with the settings, a connection that was open, or a command on it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SshError {
    /// The settings or a host's variables make no sense.
    #[error("{message}")]
    Settings {
        /// What is wrong with them.
        message: String,
    },
    /// The connection ended.
    #[error("{address}: the SSH connection was lost: {reason}")]
    Lost {
        /// The host.
        address: String,
        /// Why, as far as known.
        reason: String,
    },
    /// The host would not do what it was asked for.
    #[error("{address}: the host refused to {what}: {reason}")]
    Refused {
        /// The host.
        address: String,
        /// What it refused.
        what: &'static str,
        /// Its reason.
        reason: String,
    },
    /// Something took too long.
    #[error("{address}: {what} took longer than {}", seconds(*limit))]
    Timeout {
        /// The host.
        address: String,
        /// What took too long.
        what: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// A command wrote more than the caller allowed.
    #[error("{address}: the command wrote more than {limit} bytes")]
    OutputTooLarge {
        /// The host.
        address: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The command's channel ended and the host did not say how the command ended.
    #[error("{address}: the host did not say how the command ended")]
    NoStatus {
        /// The host.
        address: String,
    },
    /// A stream of the command failed.
    #[error("{address}: {what}")]
    Io {
        /// The host.
        address: String,
        /// Which stream.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
}

impl SshError {
    pub(super) fn settings(message: impl Into<String>) -> Self {
        Self::Settings { message: message.into() }
    }

    pub(super) fn io(address: &str, what: &'static str, source: io::Error) -> Self {
        Self::Io { address: address.to_owned(), what, source: Arc::new(source) }
    }
}

/// The steps of a login, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Finding out what `ssh_config` says about the host.
    Config,
    /// Name to addresses.
    Resolve,
    /// TCP, `ProxyCommand`, or a channel through the jump host.
    Connect,
    /// Version exchange and key exchange.
    Handshake,
    /// Checking the host's key against `known_hosts`.
    HostKey,
    /// Proving who we are.
    Authenticate,
}

impl Step {
    /// Returns the words used in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "ssh configuration",
            Self::Resolve => "name resolution",
            Self::Connect => "connect",
            Self::Handshake => "SSH handshake",
            Self::HostKey => "host key",
            Self::Authenticate => "authentication",
        }
    }
}

/// Says why a host could not be logged in to: one line with address, step and cause, and what to do about it.
#[derive(Debug, Clone)]
pub struct ConnectError {
    address: String,
    step: Step,
    cause: String,
    hint: Option<String>,
    attempts: u32,
    retry: Retry,
}

/// Whether another attempt may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// The answer would be the same, or it is not safe to ask again.
    Never,
    /// Nobody answered: worth a second look, not a long wait.
    Few,
    /// The server is there and busy: worth the full number of retries.
    Full,
}

impl ConnectError {
    pub(super) fn new(address: impl Into<String>, step: Step, cause: impl fmt::Display) -> Self {
        let cause = one_line(&cause.to_string());
        Self { address: address.into(), step, cause, hint: None, attempts: 1, retry: Retry::Never }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    pub(super) fn after(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Turns a jump host's failure into the failure of a host behind it.
    pub(super) fn behind(self, address: &str) -> Self {
        let cause = format!("jump host {self}");
        Self { address: address.to_owned(), step: Step::Connect, cause, hint: self.hint, attempts: 1, retry: Retry::Never }
    }

    pub(super) fn retry(&self) -> Retry {
        self.retry
    }

    /// Returns which step failed.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Returns the address that was tried, with its port where it is known.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns what to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.address, self.step.as_str(), self.cause)?;
        if self.attempts > 1 {
            write!(f, " ({} attempts)", self.attempts)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

/// Makes one printable line, of bounded length, of whatever a host or a program wrote.
pub(super) fn one_line(text: &str) -> String {
    const MAX: usize = 600;
    let words = text.split_whitespace().map(|word| word.replace(|c: char| c.is_control(), "?"));
    let mut line = String::new();
    for word in words {
        if line.len() + word.len() >= MAX {
            line.push_str(" ...");
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    line
}

/// Returns a duration as people say it: `10 s`, `300 ms`.
pub(super) fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 { format!("{} s", duration.as_secs()) } else { format!("{} ms", duration.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_address_step_cause_and_attempts() {
        let error = ConnectError::new("web1:22", Step::Connect, "connection\nrefused").after(3);
        assert_eq!(error.to_string(), "web1:22: connect: connection refused (3 attempts)");
        let error = ConnectError::new("jump:22", Step::Authenticate, "no").with_hint("do it").behind("web1");
        assert_eq!(error.to_string(), "web1: connect: jump host jump:22: authentication: no");
        assert_eq!(error.hint().as_deref(), Some("do it"));
    }

    #[test]
    fn what_a_host_wrote_cannot_break_the_line_or_the_terminal() {
        assert_eq!(one_line("a\r\n\x1b[31mb\0"), "a ?[31mb?");
        assert!(one_line(&"word ".repeat(1000)).len() < 700);
    }
}
