//! The conversation with a host's agent while it does its job: commands in, what it says out, and whether it still gets on.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep_until, timeout};

use super::{
    Addresses, AgentSession, Command, End, HostTask, JobPlan, Report, bounded, failed, late,
    login::Login,
    progress::Progress,
    vigil::{self, Concern, Vigil},
    way::Way,
};
use crate::{
    controller::{
        push::{Errand, Word},
        transport::Transport,
    },
    model::{FailureKind, HostFailure, HostState},
    wire::{FrameError, FromAgent, PeerAddr, ToAgent},
};

/// How long an agent may take to end after it was told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long messages that had arrived before the connection ended may take to be read.
const LAST_MESSAGES: Duration = Duration::from_secs(2);
/// What helps where a message is too long.
const LENGTH_HINT: &str = "long commands are better put into scripts that are part of the release";

/// What helps where hosts can't reach each other.
pub(in crate::controller) const ADDRESS_HINT: &str = "hosts use the addresses of their SSH connections: `--advertise IP` sets the controller's, `fleetdrop_advertise` in the inventory a host's; look for firewalls between them";

/// Returns what follows from logging in anew: a host that keeps the controller out goes back.
fn logged_in(result: Result<(), HostFailure>) -> ToAgent {
    match result {
        Ok(()) => ToAgent::Confirm,
        Err(failure) => ToAgent::Revert { reason: format!("the controller cannot log in anew: {}", failure.message) },
    }
}

/// Returns how it ends with an agent that is not listened to any more.
fn given_up(state: HostState, failure: HostFailure) -> End {
    match state {
        HostState::Activating | HostState::Checking => End::Adrift(failure),
        HostState::Active => End::Alone(failure),
        _ => End::Failed(failure),
    }
}

impl HostTask {
    /// Carries messages both ways until the agent ends.
    pub(super) async fn relay(
        &mut self,
        transport: &Transport,
        session: &mut AgentSession,
        progress: &mut Progress,
        addresses: &Addresses,
        errand: &mut Errand,
        way: &mut Way<'_>,
    ) -> End {
        let mut held = None;
        let mut ping = interval((self.plan.lease() / 3).min(vigil::PING));
        let mut vigil = Vigil::new(Instant::now());
        let mut stop_deadline: Option<Instant> = None;
        let mut login = Login::default();
        loop {
            let give_up = stop_deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                message = session.receive() => match message {
                    Ok(Some(message)) => {
                        vigil.heard(&message, Instant::now());
                        if let FromAgent::Relays { port } = message {
                            errand.serves(addresses.with(port));
                        } else if let FromAgent::Stranded { seconds, .. } = message {
                            way.ask(&self.ways, self.id, seconds);
                        } else if self.waits_for_agents(&message, progress, errand) {
                            held = Some(message);
                        } else if let Some(end) = self.agent_said(message, session, progress, addresses).await {
                            return end;
                        }
                    }
                    Ok(None) | Err(_) if stop_deadline.is_some() => return End::Done,
                    Ok(None) | Err(FrameError::Io(_)) => return session.ended(progress.state).await,
                    Err(error) => {
                        let failure = failed(progress.state, format!("the conversation with the agent: {error}"));
                        return End::Failed(match error {
                            FrameError::TooLong(_) => failure.with_hint(LENGTH_HINT),
                            _ => failure,
                        });
                    }
                },
                command = self.commands.recv() => match command {
                    Some(Command::Stop(reason)) => {
                        session.send(ToAgent::Stop { reason }).await;
                        stop_deadline = Some(Instant::now() + STOP_TIMEOUT);
                    }
                    Some(Command::Confirm) => login = self.log_in_anew(),
                    // It was lost, is not staged again, and has nothing to go back from.
                    Some(Command::GoBack(_)) if progress.must_switch => return End::Failed(late()),
                    Some(command) => {
                        if let Command::GoBack(_) = command {
                            // Nobody needs to know any more whether the host would let the controller in.
                            login = Login::default();
                        }
                        self.obey(command, session, progress).await;
                    }
                    // The dispatcher is gone: closing the channel makes the agent stop.
                    None => return End::Done,
                },
                word = errand.word(held.is_some()) => match (word, held.take()) {
                    (Word::Calm, Some(message)) => {
                        if let Some(end) = self.agent_said(message, session, progress, addresses).await {
                            return end;
                        }
                    }
                    (_, waiting) => {
                        held = waiting;
                        self.ask_to_relay(session, addresses).await;
                    }
                },
                news = way.news() => self.tell_way(news, session, addresses).await,
                result = login.done() => session.send(logged_in(result)).await,
                _ = ping.tick() => {
                    session.send(ToAgent::Ping).await;
                    if let Some(end) = self.look_after(&mut vigil, progress, addresses).await
                        && stop_deadline.is_none()
                    {
                        return end;
                    }
                }
                () = transport.closed() => {
                    if stop_deadline.is_some() {
                        return End::Done;
                    }
                    return self.last_messages(session, progress, addresses).await;
                }
                () = sleep_until(give_up), if stop_deadline.is_some() => return End::Done,
            }
        }
    }

    /// True for the message after which a transfer would begin, while other hosts still need the links for their agents.
    fn waits_for_agents(&self, message: &FromAgent, progress: &Progress, errand: &Errand) -> bool {
        matches!(message, FromAgent::Prepared { .. })
            && matches!(*self.plan, JobPlan::Deploy(_))
            && progress.started.is_none()
            && !errand.is_calm()
    }

    /// Asks the agent to serve itself to other hosts.
    async fn ask_to_relay(&self, session: &mut AgentSession, addresses: &Addresses) {
        if let (Some(address), Some(token)) = (addresses.host, self.courier.token()) {
            session.send(ToAgent::Relay { address, ports: self.plan.ports(), token: token.clone() }).await;
        }
    }

    /// Tells an agent its way to the controller, or the operator that a host that can't connect has no other way either.
    async fn tell_way(&self, news: Result<ToAgent, String>, session: &mut AgentSession, addresses: &Addresses) {
        let reason = match news {
            Ok(message) => return session.send(message).await,
            Err(reason) => reason,
        };
        let message = format!("can't connect to {}, and there is no way through SSH: {reason}", addresses.controller());
        let warning = FromAgent::Warning { message, hint: Some(ADDRESS_HINT.to_owned()) };
        self.report(Report::Agent(Box::new(warning))).await;
    }

    /// Acts on what the vigil sees; the end, if the host is to be given up.
    async fn look_after(&self, vigil: &mut Vigil, progress: &Progress, addresses: &Addresses) -> Option<End> {
        let controller = addresses.controller();
        match vigil.concern(Instant::now())? {
            Concern::Lonely => {
                let message = format!("no connection to {controller} or any other host for {} s", vigil::LONELY.as_secs());
                let warning = FromAgent::Warning { message, hint: Some(ADDRESS_HINT.to_owned()) };
                self.report(Report::Agent(Box::new(warning))).await;
                None
            }
            Concern::Silent(limit) => {
                let message = format!("the agent has said nothing for {} s", limit.as_secs());
                let hint = "the host hangs or is overloaded: look at its load and its disks";
                let failure = failed(progress.state, message).with_hint(hint);
                Some(given_up(progress.state, failure))
            }
            Concern::Stalled(limit) => {
                let minutes = limit.as_secs() / 60;
                let message = format!("no data from {controller} or any other host for {minutes} minutes");
                Some(End::Failed(failed(progress.state, message).with_hint(ADDRESS_HINT)))
            }
        }
    }

    /// Takes what had arrived when the connection ended: it may tell why.
    async fn last_messages(&mut self, session: &mut AgentSession, progress: &mut Progress, addresses: &Addresses) -> End {
        while let Ok(Ok(Some(message))) = timeout(LAST_MESSAGES, session.receive()).await {
            if let Some(end) = self.agent_said(message, session, progress, addresses).await {
                return end;
            }
        }
        session.ended(progress.state).await
    }

    /// Passes on a command that needs nothing but the agent.
    async fn obey(&self, command: Command, session: &mut AgentSession, progress: &mut Progress) {
        match command {
            Command::Start(peers) => {
                progress.state = HostState::Downloading;
                progress.started = Some(peers.clone());
                session.send(ToAgent::Start { peers }).await;
            }
            // It was lost while it waited, and is being staged again.
            Command::Activate if progress.state != HostState::Staged => progress.must_switch = true,
            Command::Activate => {
                progress.must_switch = false;
                progress.state = HostState::Activating;
                session.send(ToAgent::Activate).await;
            }
            Command::GoBack(reason) => {
                progress.back = Some(reason.clone());
                session.send(ToAgent::Revert { reason }).await;
            }
            Command::Stop(reason) => session.send(ToAgent::Stop { reason }).await,
            Command::Confirm => (),
        }
    }

    /// Passes on what the agent said; the end, if that was its last word.
    async fn agent_said(
        &mut self,
        mut message: FromAgent,
        session: &mut AgentSession,
        progress: &mut Progress,
        addresses: &Addresses,
    ) -> Option<End> {
        if let Some(name) = progress.objection(&message, self.plan.only_release()) {
            let message = format!("the agent said `{name}` while the host was {}", progress.state);
            let hint = "that is no agent of this version: look at the host, somebody may have changed what runs there";
            return Some(given_up(progress.state, failed(progress.state, message).with_hint(hint)));
        }
        match message {
            FromAgent::Prepared { port, .. } => {
                // The new connection has got as far as the lost one: a later loss is another one.
                progress.found();
                let address = addresses.with(port).map(PeerAddr);
                self.report(Report::Prepared { address, seed: addresses.seed, certificate: addresses.certificate }).await;
                if let Some(peers) = progress.started.clone() {
                    self.obey(Command::Start(peers), session, progress).await;
                }
                return None;
            }
            // Nothing to pass on.
            FromAgent::Alive => return None,
            FromAgent::Failed(mut failure) => {
                failure.log_tail = if failure.log_tail.is_empty() { session.log_tail() } else { bounded(failure.log_tail) };
                // A host whose agent reports being unreachable is still one that was reached.
                failure.kind = FailureKind::Failed;
                return Some(End::Failed(failure));
            }
            FromAgent::State { state } if state < HostState::Staged => progress.state = state,
            FromAgent::Staged { ref release, .. } => {
                progress.state = HostState::Staged;
                progress.release = Some(release.clone());
                if progress.must_switch {
                    self.obey(Command::Activate, session, progress).await;
                }
            }
            FromAgent::Activated { .. } => progress.state = HostState::Checking,
            FromAgent::AlreadyActive { .. } | FromAgent::Confirmed => progress.state = HostState::Active,
            FromAgent::Reverted { ref mut output, .. } => {
                progress.state = HostState::Reverted;
                *output = bounded(std::mem::take(output));
            }
            _ => (),
        }
        self.report(Report::Agent(Box::new(message))).await;
        None
    }
}
