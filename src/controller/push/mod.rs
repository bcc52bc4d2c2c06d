//! Gets the agent onto a host: one probe, and a transfer only where that very binary is missing.
//!
//! The first hosts get it over SSH. A host that has it can serve it to the next, which fetch it with whatever program they have: so
//! the agent spreads over the fleet's links, and a few copies leave the controller whatever the fleet's size.
//!
//! | part | owns |
//! |---|---|
//! | `binary` | the agents on the controller |
//! | `script` | the probe and the installer, which run on a host before the agent does |
//! | `fetcher` | the installer that fetches, and the programs it does that with |
//! | `spread` | who gets it from whom. Pure |
//! | `courier` | those decisions on their way between the hosts' tasks |
//!
//! Promises: the agent is found or kept by its SHA-256, checked on the host before it is run, written under a temporary name and
//! renamed into place; what came from another host is run only if its SHA-256 is the one that came over SSH; a host without gzip, with a
//! `noexec` or unwritable cache, or out of the others' reach gets a working alternative or a clear error. Never leaves a half-written
//! agent behind, never runs one whose digest is wrong.

mod binary;
mod courier;
mod fetcher;
mod script;
mod spread;

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use binary::AgentBinary;
pub use binary::{AgentFinder, AgentFinderError};
use courier::Order;
pub(in crate::controller) use courier::{Courier, Errand, Word};
use fetcher::Fetcher;
use script::{Facts, Found};
pub(in crate::controller) use script::{blob, find_cache, quote_path};
use spread::Kind;
pub(in crate::controller) use spread::Place;

use super::transport::{Begun, Output, Transport, TransportError, shell_quote};
use crate::{
    inventory::{Become, HostEntry},
    model::{FailureKind, HostFailure, HostId, HostState},
    ssh::Process,
    wire::RelayToken,
};

/// How long the probe may take, and how long the push.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
const PUSH_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a fetch may take beyond its limit, to start, to check what came and to clean up.
const FETCH_MARGIN: Duration = Duration::from_secs(30);

/// The line after which an agent's stdout is its own: a login shell may print something before it.
pub(in crate::controller) const AGENT_MARKER: &str = "FLEETDROP-AGENT-STARTS";

/// An agent that can be started, and what the probe learnt about the host.
#[derive(Debug)]
pub(in crate::controller) struct ReadyAgent {
    /// The command that starts it.
    command: String,
    /// The command that starts a ferry.
    ferry: String,
    /// What fetched it has started it, too.
    running: Mutex<Option<Process>>,
    /// True if the job runs as root.
    pub(in crate::controller) is_root: bool,
    /// The controller's address as the host sees it, and the host's own: the two ends of its SSH connection.
    pub(in crate::controller) ssh_ends: Option<(IpAddr, IpAddr)>,
    /// Where other hosts reach it.
    pub(in crate::controller) advertise: Option<IpAddr>,
    /// Its place among hosts that have the same agent; none if others can't reach it.
    pub(in crate::controller) place: Option<Place>,
    /// How it came, if it was not there.
    pub(in crate::controller) came: Option<Came>,
    /// The fetch that failed before it was pushed.
    pub(in crate::controller) failed_fetch: Option<FailedFetch>,
}

impl ReadyAgent {
    /// Starts it, unless it runs already.
    pub(in crate::controller) async fn start(&self, transport: &Transport) -> Result<Process, TransportError> {
        // A whole process is put there and taken: nothing is half-done after a panic.
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        match running {
            Some(process) => Ok(process),
            None => transport.exec(&self.command).await,
        }
    }

    /// Returns the command that starts a ferry.
    pub(in crate::controller) fn ferry(&self) -> &str {
        &self.ferry
    }
}

/// How an agent came to its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::controller) enum Came {
    OverSsh,
    From(HostId),
}

/// A fetch that brought no agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controller) struct FailedFetch {
    pub(in crate::controller) from: HostId,
    pub(in crate::controller) address: SocketAddr,
    pub(in crate::controller) reason: String,
}

/// Makes sure the agent is on the host.
pub(in crate::controller) async fn ensure_agent(
    transport: &Transport,
    errand: &Errand,
    host: &HostEntry,
    cache: Option<&str>,
) -> Result<ReadyAgent, HostFailure> {
    let finder = &errand.courier.finder;
    let agents = finder.available().await.map_err(|error| failed(error.to_string()))?;
    let prefix = host.r#become.as_ref().map(sudo_prefix).unwrap_or_default();
    let command = format!("{prefix}sh -s");
    let probe = script::probe(agents, cache);
    let output = transport
        .run(&command, probe.as_bytes(), PROBE_TIMEOUT)
        .await
        .map_err(|error| error.failure(HostState::Preparing, "looking at the host"))?;
    let facts = read_facts(&output, host.r#become.as_ref())?;
    let agent = finder.find(&facts.os, &facts.arch).await.map_err(|error| no_agent(&error))?;
    let advertise = transport.address_for_others(host, facts.ssh_ends);
    let place = advertise.map(|ip| Place { kind: Kind::new(agent.digest, agent.size, ip), zone: host.zone.clone() });
    let mut ready = ReadyAgent {
        command: String::new(),
        ferry: String::new(),
        running: Mutex::default(),
        is_root: facts.uid == 0,
        ssh_ends: facts.ssh_ends,
        advertise,
        place,
        came: None,
        failed_fetch: None,
    };
    let path = match &facts.found {
        Found::Agent(path) => path.clone(),
        Found::Directory(directory) => {
            let delivery = Delivery { transport, prefix: &prefix, agent: &agent, directory, facts: &facts };
            delivery.bring(errand, &mut ready).await?
        }
        Found::Nothing(refused) => return Err(nowhere(refused)),
    };
    ready.command = start_command(&prefix, &agent, &path);
    ready.ferry = ferry_command(&prefix, &agent, &path);
    Ok(ready)
}

/// Returns the command that starts the agent at `path`.
fn start_command(prefix: &str, agent: &AgentBinary, path: &str) -> String {
    let starter = shell_quote(&format!("echo {AGENT_MARKER}; exec \"$0\" \"$@\""));
    format!("{prefix}sh -c {starter} {}", words(agent, path, "serve"))
}

/// Returns the command that starts a ferry with the agent at `path`.
fn ferry_command(prefix: &str, agent: &AgentBinary, path: &str) -> String {
    format!("{prefix}{}", words(agent, path, "ferry"))
}

/// What can be seen of a host without changing anything there.
#[derive(Debug)]
pub(in crate::controller) struct Sight {
    /// The agent, if it is there.
    pub(in crate::controller) agent: Option<ReadyAgent>,
    /// The agent's size in bytes, where one is to come.
    pub(in crate::controller) agent_size: u64,
    /// Why it can't come.
    pub(in crate::controller) refused: Option<HostFailure>,
    /// True if the job would run as root.
    pub(in crate::controller) is_root: bool,
    pub(in crate::controller) has_gzip: bool,
    /// The program it would fetch the agent with from other hosts.
    pub(in crate::controller) fetcher: Option<&'static str>,
    /// What the host answered, in lines `KEY=VALUE`; the facts are among them.
    pub(in crate::controller) answers: String,
}

/// Looks at a host and changes nothing there. `questions` are lines of shell that print lines `KEY=VALUE`; see [`quote_path`].
pub(in crate::controller) async fn look(
    transport: &Transport,
    finder: &AgentFinder,
    host: &HostEntry,
    cache: Option<&str>,
    questions: &str,
) -> Result<Sight, HostFailure> {
    let agents = finder.available().await.map_err(|error| failed(error.to_string()))?;
    let prefix = host.r#become.as_ref().map(sudo_prefix).unwrap_or_default();
    let script = script::look(agents, cache, questions);
    let output = transport
        .run(&format!("{prefix}sh -s"), script.as_bytes(), PROBE_TIMEOUT)
        .await
        .map_err(|error| error.failure(HostState::Preparing, "looking at the host"))?;
    let facts = read_facts(&output, host.r#become.as_ref())?;
    let mut sight = Sight {
        agent: None,
        agent_size: 0,
        refused: None,
        is_root: facts.uid == 0,
        has_gzip: facts.has_gzip,
        fetcher: facts.fetcher.map(Fetcher::program),
        answers: script::answer(&output.stdout).unwrap_or_default().to_owned(),
    };
    match (finder.find(&facts.os, &facts.arch).await, facts.found) {
        (Err(error), _) => sight.refused = Some(no_agent(&error)),
        (Ok(agent), Found::Agent(path)) => {
            sight.agent = Some(ReadyAgent {
                command: start_command(&prefix, &agent, &path),
                ferry: ferry_command(&prefix, &agent, &path),
                running: Mutex::default(),
                is_root: sight.is_root,
                ssh_ends: facts.ssh_ends,
                advertise: transport.address_for_others(host, facts.ssh_ends),
                place: None,
                came: None,
                failed_fetch: None,
            });
        }
        (Ok(agent), Found::Directory(_)) => sight.agent_size = agent.size,
        (Ok(_), Found::Nothing(refused)) => sight.refused = Some(nowhere(&refused)),
    }
    Ok(sight)
}

fn no_agent(error: &AgentFinderError) -> HostFailure {
    let failure = failed(error.to_string());
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn nowhere(refused: &[String]) -> HostFailure {
    failed(format!("no directory for the agent: {}", refused.join("; ")))
        .with_hint("choose a directory on the host that can be written and executed from with --cache")
}

/// Returns the words that start a command of the agent at that path, for a shell.
fn words(agent: &AgentBinary, path: &str, command: &str) -> String {
    let words = std::iter::once(path).chain(agent.arguments().iter().copied()).chain([command]);
    words.map(shell_quote).collect::<Vec<_>>().join(" ")
}

/// An agent on its way to a host.
struct Delivery<'a> {
    transport: &'a Transport,
    /// What makes a command run as the user of the job.
    prefix: &'a str,
    agent: &'a AgentBinary,
    /// Where it goes.
    directory: &'a str,
    facts: &'a Facts,
}

/// What a host does to get its agent.
enum Turn {
    Push,
    Fetch {
        from: HostId,
        address: SocketAddr,
        limit: Duration,
        /// What runs the script.
        shell: Result<Process, TransportError>,
    },
}

impl Delivery<'_> {
    /// Waits for the host's turn and does what is its turn then. Returns the agent's path.
    async fn bring(&self, errand: &Errand, ready: &mut ReadyAgent) -> Result<String, HostFailure> {
        let fetches = self.facts.fetcher.zip(errand.courier.token());
        let path = format!("{}/fleetdrop-agent", self.directory);
        let place = ready.place.clone().filter(|_| fetches.is_some());
        let mut is_pushed = true;
        if let (Turn::Fetch { from, address, limit, shell }, Some((fetcher, token))) = (self.turn(errand, place).await, fetches)
        {
            let starter = format!("echo {AGENT_MARKER}; exec {}", words(self.agent, &path, "serve"));
            let script = fetcher::script(self.agent, self.directory, fetcher, address, &token.path(), limit, &starter);
            match self.fetch(shell, &script, token, limit, || errand.arrived()).await? {
                Ok(process) => {
                    ready.running = Mutex::new(Some(process));
                    ready.came = Some(Came::From(from));
                    is_pushed = false;
                }
                Err(reason) => {
                    ready.failed_fetch = Some(FailedFetch { from, address, reason });
                    is_pushed = errand.fetch_failed().await == Order::Push;
                }
            }
        }
        if is_pushed {
            self.push().await?;
            ready.came = Some(Came::OverSsh);
        }
        errand.got();
        Ok(path)
    }

    /// Waits for the host's turn. A host that has to wait gets a shell meanwhile, in which it can fetch: while an agent leaves the
    /// controller, whatever else does waits behind it, and opening a shell takes two round trips.
    async fn turn(&self, errand: &Errand, place: Option<Place>) -> Turn {
        let fetches = place.is_some();
        let command = format!("{}sh -s", self.prefix);
        let (mut ordered, mut opening) = (pin!(errand.wants(place)), pin!(self.transport.exec(&command)));
        let mut shell = None;
        let order = loop {
            tokio::select! {
                biased;
                order = &mut ordered => break order,
                opened = &mut opening, if fetches && shell.is_none() => shell = Some(opened),
            }
        };
        match (order, shell) {
            (Order::Fetch { from, address, limit }, Some(shell)) => Turn::Fetch { from, address, limit, shell },
            (Order::Fetch { from, address, limit }, None) => Turn::Fetch { from, address, limit, shell: opening.await },
            (Order::Push, Some(Ok(shell))) => {
                // A server may allow no second command at a time.
                self.transport.dismiss(shell).await;
                Turn::Push
            }
            (Order::Push, _) => Turn::Push,
        }
    }

    async fn push(&self) -> Result<(), HostFailure> {
        let Self { agent, directory, .. } = *self;
        let gzipped = self.facts.has_gzip;
        let body = if gzipped { agent.gzipped().await } else { agent.plain().await };
        let body = body.map_err(|error| failed(error.to_string()))?;
        let command = format!("{}{}", self.prefix, script::install(agent, directory, gzipped));
        let output = self
            .transport
            .run(&command, &body, PUSH_TIMEOUT)
            .await
            .map_err(|error| error.failure(HostState::Preparing, "pushing the agent"))?;
        let words = output.last_words();
        match output.status.code() {
            Some(0) => Ok(()),
            Some(script::WRITE_FAILED) => Err(failed(format!("can't write the agent to {directory}: {words}"))
                .with_hint("free some space there, or choose another directory with --cache")),
            Some(script::WRONG_DIGEST) => Err(failed(format!("the agent arrived damaged in {directory}")).with_hint(
                "something on the way changes data; run the deploy again and look at the host's disk if it persists",
            )),
            Some(script::DOES_NOT_RUN) => Err(failed(format!("the agent does not run on this host: {words}")).with_hint(
                "build the static agent (`cargo agent`) for the host's architecture and put it in --agent-dir as \
                 fleetdrop-agent-<arch>",
            )),
            _ => Err(failed(format!("pushing the agent failed ({}): {words}", output.status))),
        }
    }

    /// Lets the host fetch it from another with that script, which starts it. Returns why that did not work; an error only for a host
    /// that is lost.
    async fn fetch(
        &self,
        shell: Result<Process, TransportError>,
        script: &str,
        token: &RelayToken,
        limit: Duration,
        arrived: impl Fn(),
    ) -> Result<Result<Process, String>, HostFailure> {
        let hear = |line: &str| {
            if line.ends_with(fetcher::ARRIVED) {
                arrived();
            }
            line.ends_with(fetcher::FETCHED)
        };
        let begun = match shell {
            Ok(shell) => self.transport.begin(shell, script.as_bytes(), limit + FETCH_MARGIN, hear).await,
            Err(error) => Err(error),
        };
        let output = match begun {
            Ok(Begun::Runs(process)) => return Ok(Ok(process)),
            Ok(Begun::Ended(output)) => output,
            Err(error) if error.is_lost() => {
                return Err(error.failure(HostState::Preparing, "fetching the agent from another host"));
            }
            Err(error) => return Ok(Err(error.to_string())),
        };
        let words = token.hide_in(output.last_words());
        Ok(Err(match output.status.code() {
            Some(script::WRITE_FAILED) => format!("can't write the agent to {}: {words}", self.directory),
            Some(script::WRONG_DIGEST) => "what came has not the agent's SHA-256".to_owned(),
            Some(fetcher::NOT_FETCHED) => words,
            _ => format!("{words} ({})", output.status),
        }))
    }
}

/// Makes the prefix that runs a command as another user, keeping what the SSH connection told the login user.
pub(in crate::controller) fn sudo_prefix(r#become: &Become) -> String {
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
