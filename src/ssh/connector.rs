//! Logins for a whole fleet: how many at once, what is tried again, and jump hosts that are connected to once.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

use super::{
    ConnectError, Output, Process, RunLimits, SshError, SshSettings, SshWarning, Step, Target, auth,
    config::{self, Hop, Resolved},
    error::Retry,
    gate::Gate,
    keys::KeyRing,
    known_hosts::HostId,
    link::{Life, Link},
    transport::{self, ByteStream, ProxyLog},
    trust::{HostTrust, Refusal, TrustSources, TrustStore},
};

/// How many `ssh -G` run at once.
const MAX_CONFIG_QUERIES: usize = 8;
/// How often something is tried again that does not answer at all.
const FEW_RETRIES: u32 = 2;
/// The pause before the first retry; it doubles, up to [`MAX_PAUSE`], and is spread by half in both directions.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause before a retry.
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// How long hosts behind a jump host that could not be reached share that answer.
const BASTION_VERDICT: Duration = Duration::from_secs(5);
/// The longest chain of jump hosts, counting what their own configurations add.
const MAX_DEPTH: usize = 8;

/// Logs in to hosts. One for the whole fleet: its clones share limits, jump hosts, unlocked keys and `known_hosts`.
///
/// Connections to jump hosts live as long as the last clone or the last connection through them.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    settings: SshSettings,
    ring: KeyRing,
    trust: Arc<TrustStore>,
    gate: Gate,
    addresses: Mutex<HashMap<String, Arc<Semaphore>>>,
    queries: Semaphore,
    bastions: Mutex<HashMap<String, Arc<Bastion>>>,
}

/// A jump host's place in the table; the key is all that makes it another one.
#[derive(Default)]
struct Bastion {
    host: OnceCell<Resolved>,
    state: tokio::sync::Mutex<BastionState>,
}

#[derive(Default)]
enum BastionState {
    #[default]
    Untried,
    Up(Arc<Session>),
    Down(Instant, ConnectError),
}

/// An authenticated session with all it stands on.
struct Session {
    link: Link,
    peer: Option<SocketAddr>,
    /// The jump host it goes through. Kept so that it lives as long as this.
    through: Option<Arc<Session>>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Connector {
    /// Makes a connector. Fails if the settings make no sense; contacts nobody.
    pub fn new(settings: SshSettings) -> Result<Self, SshError> {
        config::check(&settings)?;
        let shared = Shared {
            ring: KeyRing::new(settings.passphrase.clone()),
            trust: Arc::default(),
            gate: Gate::new(settings.max_logins),
            addresses: Mutex::default(),
            queries: Semaphore::new(MAX_CONFIG_QUERIES),
            bastions: Mutex::default(),
            settings,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns what is worth telling the operator before the first login. Reads files; contacts nobody.
    pub fn warnings(&self) -> Vec<SshWarning> {
        config::warnings(&self.shared.settings)
    }

    /// Logs in to a host. Waits for a free login slot, then tries within the limits of each step; what fails before
    /// authentication is tried again with growing, jittered pauses. Dropping the future cuts the attempt.
    pub async fn connect(&self, target: &Target) -> Result<Connection, ConnectError> {
        let session = self.shared.login_to(Hop::of(target), None).await?;
        Ok(Connection { session })
    }

    /// Logs in anew to a host that was connected a moment ago: once, and with at most `limit` for name resolution and TCP connection
    /// (or the channel through a jump host), each. Dropping the future cuts the attempt.
    pub async fn connect_again(&self, target: &Target, limit: Duration) -> Result<Connection, ConnectError> {
        let session = self.shared.login_to(Hop::of(target), Some(limit)).await?;
        Ok(Connection { session })
    }
}

impl Shared {
    /// Logs in, once if there is a `limit` for the connection.
    async fn login_to(&self, hop: Hop, limit: Option<Duration>) -> Result<Session, ConnectError> {
        let mut host = self.resolve(&hop).await?;
        self.check_jumps(&hop, &host).await?;
        match limit {
            None => self.login(&hop, &host).await,
            Some(limit) => {
                host.connect_timeout = host.connect_timeout.min(limit);
                self.attempt(&hop, &host).await
            }
        }
    }

    async fn resolve(&self, hop: &Hop) -> Result<Resolved, ConnectError> {
        let _query = self.queries.acquire().await;
        config::resolve(&self.settings, hop).await
    }

    /// Follows the jump hosts to the last one. In a loop of them, logins would wait for each other for ever.
    async fn check_jumps(&self, hop: &Hop, host: &Resolved) -> Result<(), ConnectError> {
        let mut next = Hop::through(&host.jumps, hop);
        for _ in 0..MAX_DEPTH {
            let Some(jump) = next else { return Ok(()) };
            let place = self.place(&jump);
            let host = place.host.get_or_try_init(|| self.resolve(&jump)).await?;
            next = Hop::through(&host.jumps, &jump);
        }
        let at = transport::address(&host.host, host.port);
        let error = ConnectError::new(at, Step::Config, "its jump hosts form a loop, or a very long chain");
        Err(error.with_hint("a jump host whose own `ProxyJump` must not apply needs `ProxyJump none`"))
    }

    /// Logs in to a hop, through its jump hosts. Boxed because jump hosts recur.
    fn login<'a>(
        &'a self,
        hop: &'a Hop,
        host: &'a Resolved,
    ) -> Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send + 'a>> {
        Box::pin(async move {
            let mut attempts = 0;
            loop {
                attempts += 1;
                let error = match self.attempt(hop, host).await {
                    Ok(session) => return Ok(session),
                    Err(error) => error,
                };
                let allowed = match error.retry() {
                    Retry::Never => 0,
                    Retry::Few => self.settings.retries.min(FEW_RETRIES),
                    Retry::Full => self.settings.retries,
                };
                if attempts > allowed {
                    return Err(error.after(attempts));
                }
                tracing::debug!(%error, attempts, "trying again");
                sleep(pause(attempts)).await;
            }
        })
    }

    async fn attempt(&self, hop: &Hop, host: &Resolved) -> Result<Session, ConnectError> {
        let at = transport::address(&host.host, host.port);
        // Before any slot is taken: a jump host needs slots itself, and hosts waiting for it must not hold all of them.
        let through = self.bastion(hop, host).await.map_err(|error| error.behind(&at))?;
        // The address first: who waits for a busy address must not keep a slot from hosts that are free.
        let _of_address = self.slot_of(&at).await;
        self.gate.pass(self.enter(host, &at, through)).await
    }

    /// Connects and logs in.
    async fn enter(&self, host: &Resolved, at: &str, through: Option<Arc<Session>>) -> Result<Session, ConnectError> {
        let trust = self.trust(host).await.map_err(|refusal| refused(at, refusal))?;
        let life = Life::new(at);
        let (stream, peer, log) = self.open(host, through.as_deref(), &life).await?;
        let mut link = Link::handshake(stream, &life, Arc::new(trust), log.as_ref()).await?;
        auth::authenticate(&mut link, host, &self.ring).await?;
        Ok(Session { link, peer, through })
    }

    async fn open(
        &self,
        host: &Resolved,
        through: Option<&Session>,
        life: &Life,
    ) -> Result<(Box<dyn ByteStream>, Option<SocketAddr>, Option<ProxyLog>), ConnectError> {
        if let Some(bastion) = through {
            let stream = bastion.link.tunnel(&host.host, host.port, host.connect_timeout).await?;
            return Ok((Box::new(stream), None, None));
        }
        if let Some(command) = &host.proxy_command {
            let started = transport::proxy_command(command, life);
            let failed =
                |error| ConnectError::new(life.address(), Step::Connect, format!("cannot start ProxyCommand: {error}"));
            let (stream, log) = started.map_err(failed)?;
            return Ok((Box::new(stream), None, Some(log)));
        }
        let (stream, peer) = transport::tcp(&host.host, host.port, host.connect_timeout).await?;
        Ok((Box::new(stream), Some(peer), None))
    }

    /// Returns the connection to the hop's jump host, opening it if nobody did yet.
    async fn bastion(&self, hop: &Hop, host: &Resolved) -> Result<Option<Arc<Session>>, ConnectError> {
        let Some(jump) = Hop::through(&host.jumps, hop) else { return Ok(None) };
        let place = self.place(&jump);
        let host = place.host.get_or_try_init(|| self.resolve(&jump)).await?;
        // Everybody behind the same jump host waits here while the first one logs in to it.
        let mut state = place.state.lock().await;
        match &*state {
            BastionState::Up(session) if !session.link.life.is_gone() => return Ok(Some(session.clone())),
            BastionState::Down(since, error) if since.elapsed() < BASTION_VERDICT => return Err(error.clone()),
            _ => {}
        }
        match self.login(&jump, host).await {
            Ok(session) => {
                let session = Arc::new(session);
                *state = BastionState::Up(session.clone());
                Ok(Some(session))
            }
            Err(error) => {
                *state = BastionState::Down(Instant::now(), error.clone());
                Err(error)
            }
        }
    }

    fn place(&self, jump: &Hop) -> Arc<Bastion> {
        let mut bastions = self.bastions.lock().unwrap_or_else(PoisonError::into_inner);
        bastions.entry(format!("{jump:?}")).or_default().clone()
    }

    /// Waits until one more login to that address may begin.
    async fn slot_of(&self, address: &str) -> Option<OwnedSemaphorePermit> {
        let of_address = {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(self.settings.max_logins_per_address.min(Semaphore::MAX_PERMITS)));
            addresses.entry(address.to_owned()).or_insert_with(new).clone()
        };
        // Never closed.
        of_address.acquire_owned().await.ok()
    }

    async fn trust(&self, host: &Resolved) -> Result<HostTrust, Refusal> {
        let name = match &host.host_key_alias {
            Some(alias) => HostId::alias(alias),
            None => HostId::new(&host.host, host.port),
        };
        let sources = TrustSources {
            name,
            policy: host.host_keys,
            user_files: host.user_known_hosts.clone(),
            global_files: host.global_known_hosts.clone(),
            hash_names: host.hash_known_hosts,
        };
        HostTrust::load(self.trust.clone(), sources).await
    }
}

fn refused(address: &str, refusal: Refusal) -> ConnectError {
    let error = ConnectError::new(address, Step::HostKey, refusal.cause);
    match refusal.hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// Returns how long to wait after a failed attempt, from 1.
fn pause(attempt: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(MAX_PAUSE).mul_f64(0.5 + fastrand::f64())
}

/// One host, logged in to. Dropping it cuts the connection and everything on it; [`Connection::close`] says goodbye first.
pub struct Connection {
    session: Session,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.session.link.life.address()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Starts a command in the login shell of the user. Several may run at once (an sshd allows 10 by default).
    pub async fn exec(&self, command: &str) -> Result<Process, SshError> {
        self.session.link.exec(command).await
    }

    /// Runs a command to its end with `input` on its standard input. A limit that is passed is an error and gives the command up.
    pub async fn run(&self, command: &str, input: &[u8], limits: RunLimits) -> Result<Output, SshError> {
        let process = self.exec(command).await?;
        process.finish(self.address(), input, limits).await
    }

    /// Makes the host listen on a port of its loopback whose streams lead to `target` here; returns where it listens. The port is closed with
    /// the connection.
    pub async fn forward(&self, target: SocketAddr) -> Result<SocketAddr, SshError> {
        self.session.link.forward(target).await
    }

    /// Returns what errors call the host: its name and port.
    pub fn address(&self) -> &str {
        self.session.link.life.address()
    }

    /// Returns the address the TCP connection goes to; none through a jump host or a `ProxyCommand`.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.session.peer
    }

    /// Resolves when the connection is gone, for whatever reason; a host that died silently is noticed within 20 s.
    pub async fn closed(&self) {
        self.session.link.life.gone().await;
    }

    /// Says goodbye and waits until everything on the connection has ended; takes at most a few seconds.
    pub async fn close(self) {
        let Session { link, through, .. } = self.session;
        link.close().await;
        drop(through);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_spread_and_stay_bounded() {
        for attempt in 1..40 {
            let longest = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16)).min(MAX_PAUSE).mul_f64(1.5);
            let pauses: Vec<Duration> = (0..50).map(|_| pause(attempt)).collect();
            assert!(pauses.iter().all(|pause| *pause >= FIRST_PAUSE / 2 && *pause <= longest), "{attempt}: {pauses:?}");
            assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let settings = SshSettings { max_logins: 0, ..SshSettings::new("/home/ada", "ada") };
        assert!(matches!(Connector::new(settings), Err(SshError::Settings { .. })));
    }
}
