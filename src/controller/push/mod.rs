//! Gets the agent onto a host: one probe, and a push only where that very binary is missing.
//!
//! Promises: the agent is found or kept by its SHA-256, checked on the host before it is run, written under a temporary name and
//! renamed into place; a host without gzip, with a `noexec` or unwritable cache gets a working alternative or a clear
//! error. Never leaves a half-written agent behind, never runs one whose digest is wrong.

mod binary;
mod script;

use std::{net::IpAddr, time::Duration};

pub use binary::{AgentFinder, AgentFinderError};
pub(in crate::controller) use script::is_link_local;
use script::{Facts, Found};

use super::transport::{Output, Transport, shell_quote};
use crate::{
    inventory::Become,
    model::{FailureKind, HostFailure, HostState},
};

/// How long the probe may take, and how long the push.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
const PUSH_TIMEOUT: Duration = Duration::from_secs(3600);

/// The line after which an agent's stdout is its own: a login shell may print something before it.
pub(in crate::controller) const AGENT_MARKER: &str = "FLEETDROP-AGENT-STARTS";

/// An agent that can be started, and what the probe learnt about the host.
#[derive(Debug, Clone)]
pub(in crate::controller) struct ReadyAgent {
    /// The command that starts it.
    pub(in crate::controller) command: String,
    /// True if the job runs as root.
    pub(in crate::controller) is_root: bool,
    /// The controller's address as the host sees it, and the host's own: the two ends of its SSH connection.
    pub(in crate::controller) ssh_ends: Option<(IpAddr, IpAddr)>,
    /// True if the agent had to be pushed.
    pub(in crate::controller) pushed: bool,
}

/// Makes sure the agent is on the host.
pub(in crate::controller) async fn ensure_agent(
    transport: &Transport,
    finder: &AgentFinder,
    r#become: Option<&Become>,
    cache: Option<&str>,
) -> Result<ReadyAgent, HostFailure> {
    let agents = finder.available().await.map_err(|error| failed(error.to_string()))?;
    let prefix = r#become.map(sudo_prefix).unwrap_or_default();
    let command = format!("{prefix}sh -s");
    let probe = script::probe(agents, cache);
    let output = transport
        .run(&command, probe.as_bytes(), PROBE_TIMEOUT)
        .await
        .map_err(|error| error.failure(HostState::Preparing, "looking at the host"))?;
    let facts = read_facts(&output, r#become)?;
    let agent = finder.find(&facts.os, &facts.arch).await.map_err(|error| {
        let failure = failed(error.to_string());
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    })?;
    let (path, pushed) = match &facts.found {
        Found::Agent(path) => (path.clone(), false),
        Found::Directory(directory) => {
            let _turn = finder.push_turn().await;
            (push(transport, &prefix, &agent, directory, facts.has_gzip).await?, true)
        }
        Found::Nothing(refused) => {
            return Err(failed(format!("no directory for the agent: {}", refused.join("; ")))
                .with_hint("choose a directory on the host that can be written and executed from with --cache"));
        }
    };
    let serve: Vec<_> = agent.arguments().iter().chain(&["serve"]).map(|argument| shell_quote(argument)).collect();
    let starter = shell_quote(&format!("echo {AGENT_MARKER}; exec \"$0\" \"$@\""));
    let command = format!("{prefix}sh -c {starter} {} {}", shell_quote(&path), serve.join(" "));
    Ok(ReadyAgent { command, is_root: facts.uid == 0, ssh_ends: facts.ssh_ends, pushed })
}

async fn push(
    transport: &Transport,
    prefix: &str,
    agent: &binary::AgentBinary,
    directory: &str,
    has_gzip: bool,
) -> Result<String, HostFailure> {
    let body = if has_gzip { agent.gzipped().await } else { agent.plain().await };
    let body = body.map_err(|error| failed(error.to_string()))?;
    let command = format!("{prefix}{}", script::install(agent, directory, has_gzip));
    let output = transport
        .run(&command, &body, PUSH_TIMEOUT)
        .await
        .map_err(|error| error.failure(HostState::Preparing, "pushing the agent"))?;
    let words = output.last_words();
    match output.status.code() {
        Some(0) => Ok(format!("{directory}/fleetdrop-agent")),
        Some(script::WRITE_FAILED) => Err(failed(format!("can't write the agent to {directory}: {words}"))
            .with_hint("free some space there, or choose another directory with --cache")),
        Some(script::WRONG_DIGEST) => Err(failed(format!("the agent arrived damaged in {directory}"))
            .with_hint("something on the way changes data; run the deploy again and look at the host's disk if it persists")),
        Some(script::DOES_NOT_RUN) => Err(failed(format!("the agent does not run on this host: {words}")).with_hint(
            "build the static agent (`cargo agent`) for the host's architecture and put it in --agent-dir as fleetdrop-agent-<arch>",
        )),
        _ => Err(failed(format!("pushing the agent failed ({}): {words}", output.status))),
    }
}

/// Makes the prefix that runs a command as another user, keeping what the SSH connection told the login user.
fn sudo_prefix(r#become: &Become) -> String {
    format!("sudo -n -H -u {} -- env FLEETDROP_SSH=\"$SSH_CONNECTION\" ", shell_quote(&r#become.user))
}

fn read_facts(output: &Output, r#become: Option<&Become>) -> Result<Facts, HostFailure> {
    if let Some(facts) = Facts::parse(&output.stdout) {
        return Ok(facts);
    }
    let words = output.last_words();
    if let Some(r#become) = r#become
        && !output.status.success()
    {
        return Err(failed(format!("can't become {} with sudo: {words}", r#become.user))
            .with_hint("allow the login user `sudo -n` without a password (NOPASSWD in sudoers), or deploy without become"));
    }
    Err(failed(format!("the host does not run a POSIX shell for us ({}): {words}", output.status))
        .with_hint("the login user needs a shell: check with `ssh HOST sh -c true`"))
}

fn failed(message: String) -> HostFailure {
    HostFailure::new(FailureKind::Failed, HostState::Preparing, message)
}
