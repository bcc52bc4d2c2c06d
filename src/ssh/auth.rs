//! Proving who we are: which keys, in which order, and what to say when none will do.
//!
//! An sshd lets us try about six keys, so the likely ones go first: key files named for this run, `ssh_config`'s files that the
//! agent has, the agent's other keys, the remaining files, and last the encrypted files whose passphrase must be asked for.

use std::{path::Path, sync::Arc, time::Duration};

use russh::{
    MethodKind,
    client::AuthResult,
    keys::{
        Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey,
        agent::{AgentIdentity, client::AgentClient},
    },
};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout},
};

use super::{
    ConnectError, Step,
    config::{Agent, Resolved},
    error::{Retry, seconds},
    keys::{self, KeyContent, KeyFile, KeyRing},
    link::{Link, describe},
};

/// How long the host may take to answer one key, and an agent to sign; some agents ask a person.
const LIMIT: Duration = Duration::from_secs(30);
/// How long all of it may take, not counting a person who is asked for a passphrase; an sshd gives us two minutes by default.
const TOTAL_LIMIT: Duration = Duration::from_secs(120);
/// How long the agent may take to answer at all.
const AGENT_LIMIT: Duration = Duration::from_secs(5);
/// How many keys are tried before giving up; an sshd closes the connection much earlier.
const MAX_TRIES: usize = 24;

/// Something to try.
enum Candidate {
    Agent(Box<AgentIdentity>),
    Key { name: String, key: Arc<PrivateKey> },
    Certificate { name: String, key: Arc<PrivateKey>, certificate: Box<Certificate> },
    Locked(Arc<KeyFile>),
}

type AgentConnection = AgentClient<UnixStream>;

/// Logs in over a link that is past its handshake.
pub(super) async fn authenticate(link: &mut Link, host: &Resolved, ring: &KeyRing) -> Result<(), ConnectError> {
    let deadline = Instant::now() + TOTAL_LIMIT;
    let mut attempt = Attempt { host, ring, deadline, tried: Vec::new(), skipped: Vec::new(), locked: None, methods: None };
    let mut agent = attempt.open_agent(link).await;
    let candidates = attempt.candidates(agent.as_mut(), link.life.address()).await?;
    if candidates.is_empty() && attempt.none(link).await? {
        return Ok(());
    }
    for candidate in candidates.into_iter().take(MAX_TRIES) {
        if Instant::now() > attempt.deadline {
            let cause = format!("not finished within {}, after {}", seconds(TOTAL_LIMIT), attempt.list());
            return Err(ConnectError::new(link.life.address(), Step::Authenticate, cause));
        }
        if attempt.try_one(link, agent.as_mut(), candidate).await? {
            return Ok(());
        }
    }
    Err(attempt.denied(link.life.address()))
}

struct Attempt<'a> {
    host: &'a Resolved,
    ring: &'a KeyRing,
    deadline: Instant,
    tried: Vec<String>,
    /// Keys that were not tried, with the reason.
    skipped: Vec<String>,
    /// The first encrypted key file that could not be unlocked.
    locked: Option<Arc<KeyFile>>,
    /// What the host said it would accept instead.
    methods: Option<Vec<MethodKind>>,
}

impl Attempt<'_> {
    async fn open_agent(&mut self, link: &Link) -> Option<AgentConnection> {
        let Agent::Socket(path) = &self.host.agent else { return None };
        let open = async {
            let mut agent = AgentClient::connect_uds(path).await?;
            // Keys that may only be used for certain hosts need to know which one this is. Agents that do not know of such keys
            // refuse, or hang up.
            if let Some(binding) = link.handle.agent_session_binding()
                && let Err(russh::keys::Error::IO(_)) = agent.bind_session(binding, false).await
            {
                agent = AgentClient::connect_uds(path).await?;
            }
            Ok::<_, russh::keys::Error>(agent)
        };
        let problem = match timeout(AGENT_LIMIT, open).await {
            Ok(Ok(agent)) => return Some(agent),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {}", seconds(AGENT_LIMIT)),
        };
        self.skipped.push(format!("ssh-agent at {}: {problem}", path.display()));
        None
    }

    /// Lists what to try, in order. A key file that was named for this run and can't be used at all is an error.
    async fn candidates(&mut self, agent: Option<&mut AgentConnection>, address: &str) -> Result<Vec<Candidate>, ConnectError> {
        let mut in_agent = match agent {
            Some(agent) => self.agent_identities(agent).await,
            None => Vec::new(),
        };
        let (mut first, mut matched, mut later, mut locked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for identity in &self.host.identities {
            let file = self.ring.file(&identity.path);
            let from_agent = take_matching(&mut in_agent, file.public().await.as_ref());
            let explicit = identity.explicit;
            match file.content().await {
                _ if !from_agent.is_empty() => {
                    let list = if explicit { &mut first } else { &mut matched };
                    list.extend(from_agent.into_iter().map(|identity| Candidate::Agent(Box::new(identity))));
                }
                KeyContent::Open(key) => {
                    let list = if explicit { &mut first } else { &mut later };
                    list.extend(self.with_certificates(&identity.path, key).await);
                }
                KeyContent::Locked(_) => locked.push(Candidate::Locked(file)),
                KeyContent::Missing if explicit => {
                    let cause = format!("there is no key file {}", identity.path.display());
                    return Err(ConnectError::new(address, Step::Authenticate, cause));
                }
                KeyContent::Unusable(why) => self.skipped.push(format!("{}: {why}", identity.path.display())),
                KeyContent::Public(_) if explicit => {
                    self.skipped
                        .push(format!("{}: only its public half is there and the agent lacks it", identity.path.display()));
                }
                KeyContent::Missing | KeyContent::Public(_) => {}
            }
        }
        if self.host.identities_only {
            in_agent.clear();
        }
        first.extend(matched);
        first.extend(in_agent.into_iter().map(|identity| Candidate::Agent(Box::new(identity))));
        first.extend(later);
        first.extend(locked);
        Ok(first)
    }

    async fn agent_identities(&mut self, agent: &mut AgentConnection) -> Vec<AgentIdentity> {
        match timeout(AGENT_LIMIT, agent.request_identities()).await {
            Ok(Ok(identities)) => identities,
            Ok(Err(error)) => {
                self.skipped.push(format!("ssh-agent: {error}"));
                Vec::new()
            }
            Err(_) => {
                self.skipped.push(format!("ssh-agent: no answer within {}", seconds(AGENT_LIMIT)));
                Vec::new()
            }
        }
    }

    /// Returns the key, after the certificates for it: `CertificateFile`s and the file beside it.
    async fn with_certificates(&self, path: &Path, key: &Arc<PrivateKey>) -> Vec<Candidate> {
        let beside = keys::with_suffix(path, "-cert.pub");
        let mut candidates = Vec::new();
        for path in self.host.certificates.iter().chain([&beside]) {
            // russh signs for an RSA certificate with SHA-1 only, which no current sshd takes.
            if let Some(certificate) = keys::certificate(path.clone()).await
                && certificate.public_key() == key.public_key().key_data()
                && !key.algorithm().is_rsa()
            {
                let name = path.display().to_string();
                candidates.push(Candidate::Certificate { name, key: key.clone(), certificate: Box::new(certificate) });
            }
        }
        candidates.push(Candidate::Key { name: path.display().to_string(), key: key.clone() });
        candidates
    }

    /// Logs in without any key, which some servers (for example Tailscale's) allow; also tells what else they would take.
    async fn none(&mut self, link: &mut Link) -> Result<bool, ConnectError> {
        let answer = timeout(LIMIT, link.handle.authenticate_none(&self.host.user)).await;
        self.judge(link, answer.map(|answer| answer.map_err(|error| describe(&error))))
    }

    async fn try_one(
        &mut self,
        link: &mut Link,
        agent: Option<&mut AgentConnection>,
        candidate: Candidate,
    ) -> Result<bool, ConnectError> {
        let user = self.host.user.as_str();
        let answer = match candidate {
            Candidate::Locked(file) => match self.unlock(&file).await {
                Some(key) => {
                    self.tried.push(file.path().display().to_string());
                    self.offer(link, key).await
                }
                None => return Ok(false),
            },
            Candidate::Key { name, key } => {
                self.tried.push(name);
                self.offer(link, key).await
            }
            Candidate::Certificate { name, key, certificate } => {
                self.tried.push(name);
                let offered = link.handle.authenticate_openssh_cert(user, key, *certificate);
                Some(timeout(LIMIT, offered).await.map(|answer| answer.map_err(|error| describe(&error))))
            }
            Candidate::Agent(identity) => {
                let Some(agent) = agent else { return Ok(false) };
                self.tried.push(format!("{} (agent)", name(&identity)));
                self.offer_from_agent(link, agent, *identity).await
            }
        };
        match answer {
            Some(answer) => self.judge(link, answer),
            None => Ok(false),
        }
    }

    async fn unlock(&mut self, file: &Arc<KeyFile>) -> Option<Arc<PrivateKey>> {
        let asked = Instant::now();
        let unlocked = self.ring.unlock(file).await;
        self.deadline += asked.elapsed();
        match unlocked {
            Ok(key) => Some(key),
            Err(why) => {
                self.skipped.push(format!("{}: {why}", file.path().display()));
                self.locked.get_or_insert_with(|| file.clone());
                None
            }
        }
    }

    /// Offers a key we hold. None: it can't be used with this host.
    async fn offer(&mut self, link: &mut Link, key: Arc<PrivateKey>) -> Option<Answer> {
        let hash = self.rsa_hash(link, key.algorithm().is_rsa()).await?;
        let offered = link.handle.authenticate_publickey(&self.host.user, PrivateKeyWithHashAlg::new(key, hash));
        Some(timeout(LIMIT, offered).await.map(|answer| answer.map_err(|error| describe(&error))))
    }

    async fn offer_from_agent(&mut self, link: &mut Link, agent: &mut AgentConnection, key: AgentIdentity) -> Option<Answer> {
        let hash = self.rsa_hash(link, key.public_key().algorithm().is_rsa()).await?;
        let user = self.host.user.as_str();
        let answer = match key {
            AgentIdentity::PublicKey { key, .. } => {
                timeout(LIMIT, link.handle.authenticate_publickey_with(user, key, hash, agent)).await
            }
            AgentIdentity::Certificate { certificate, .. } => {
                timeout(LIMIT, link.handle.authenticate_certificate_with(user, certificate, hash, agent)).await
            }
        };
        if let Ok(Err(error)) = &answer
            && !link.life.is_gone()
        {
            // The agent would not sign (locked, or its owner said no): the next key may do.
            self.skipped.push(format!("the agent did not sign: {error}"));
            return None;
        }
        Some(answer.map(|answer| answer.map_err(|error| error.to_string())))
    }

    /// Returns the hash to sign with: none for keys other than RSA, SHA-2 for RSA. Outer none: the host knows only SHA-1.
    async fn rsa_hash(&mut self, link: &Link, is_rsa: bool) -> Option<Option<HashAlg>> {
        if !is_rsa {
            return Some(None);
        }
        match link.handle.best_supported_rsa_hash().await {
            Ok(Some(None)) => {
                self.skipped.push("the host takes RSA keys with SHA-1 only, which is off because it is weak".to_owned());
                None
            }
            Ok(Some(hash)) => Some(hash),
            // It did not say; everything of the last ten years takes SHA-512.
            Ok(None) | Err(_) => Some(Some(HashAlg::Sha512)),
        }
    }

    /// True: we are in. False: the next key. Errors end the login.
    fn judge(&mut self, link: &Link, answer: Answer) -> Result<bool, ConnectError> {
        let failed = |cause: String| ConnectError::new(link.life.address(), Step::Authenticate, cause);
        match answer {
            Ok(Ok(AuthResult::Success)) => Ok(true),
            // russh reports a connection that ended as a refusal without any method.
            Ok(Ok(AuthResult::Failure { remaining_methods, .. })) if !remaining_methods.is_empty() => {
                self.methods = Some(remaining_methods.to_vec());
                Ok(false)
            }
            Ok(Ok(AuthResult::Failure { .. })) if !link.handle.is_closed() && !link.life.is_gone() => {
                self.methods = Some(Vec::new());
                Ok(false)
            }
            Ok(Ok(AuthResult::Failure { .. }) | Err(_)) => {
                let why = link.life.reason().unwrap_or_else(|| "connection closed by the host".to_owned());
                let error = failed(format!("{why}, after {}", self.list()));
                Err(if why.contains("Too many authentication failures") {
                    error.with_hint("name the right key with `ansible_ssh_private_key_file`, or set `IdentitiesOnly yes`")
                } else if self.prompted() {
                    // A person thinking about a passphrase took longer than the host would wait; now the key is unlocked.
                    error.with_retry(Retry::Few)
                } else {
                    error
                })
            }
            Err(_) => Err(failed(format!("no answer within {} to {}", seconds(LIMIT), self.list()))),
        }
    }

    fn prompted(&self) -> bool {
        self.ring.can_ask() && self.tried.last().is_some_and(|last| self.ring.was_unlocked(Path::new(last)))
    }

    fn list(&self) -> String {
        if self.tried.is_empty() { "no key".to_owned() } else { self.tried.join(", ") }
    }

    fn denied(self, address: &str) -> ConnectError {
        let mut cause = format!("permission denied for {}; tried {}", self.host.user, self.list());
        if !self.skipped.is_empty() {
            cause = format!("{cause}; not tried: {}", self.skipped.join("; "));
        }
        if let Some(methods) = self.methods.filter(|methods| !methods.contains(&MethodKind::PublicKey)) {
            let names: Vec<&str> = methods.iter().map(Into::into).collect();
            let names = if names.is_empty() { "nothing we know".to_owned() } else { names.join(", ") };
            cause = format!("{cause}; the host takes {names}");
        }
        let error = ConnectError::new(address, Step::Authenticate, cause);
        error.with_hint(match self.locked {
            Some(file) => format!("add it to ssh-agent with: ssh-add {}", file.path().display()),
            None if self.tried.is_empty() => {
                "add a key to ssh-agent with ssh-add, or name one with `ansible_ssh_private_key_file`".to_owned()
            }
            None => {
                format!("add one of these keys to ~{}/.ssh/authorized_keys on the host, or use another user", self.host.user)
            }
        })
    }
}

/// What came of offering a key: in time or not, an answer or a failure.
type Answer = Result<Result<AuthResult, String>, tokio::time::error::Elapsed>;

/// Takes the identities that belong to a public key out of the agent's list.
fn take_matching(identities: &mut Vec<AgentIdentity>, key: Option<&PublicKey>) -> Vec<AgentIdentity> {
    let Some(key) = key else { return Vec::new() };
    let (matching, others) = identities.drain(..).partition(|identity| identity.public_key().key_data() == key.key_data());
    *identities = others;
    matching
}

/// Returns how people know an agent's key: its comment, or else its fingerprint.
fn name(identity: &AgentIdentity) -> String {
    match identity.comment() {
        "" => identity.public_key().fingerprint(HashAlg::Sha256).to_string(),
        comment => comment.to_owned(),
    }
}
