//! What holds for one host: the target, the settings and what `ssh -G` says of `ssh_config`, put together.
//!
//! `ssh -G` is the authority: it knows `Match`, `Include`, canonical names and every release's defaults. Its output is read, not
//! its input. Nothing from an inventory reaches a command line or a shell in a place where it could be an option or a command.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{
    ConnectError, HostKeyPolicy, SshError, SshSettings, SshWarning, Step, Target,
    error::{one_line, seconds},
};

#[cfg(test)]
mod tests;

/// How long `ssh -G` may take; `Match exec` and name canonicalization can make it wait.
const LIMIT: Duration = Duration::from_secs(20);
/// The default key files, as OpenSSH tries them.
const DEFAULT_IDENTITIES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];
/// The system's `known_hosts` files.
const GLOBAL_KNOWN_HOSTS: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];
/// What stands for no configuration file at all, as with `ssh -F`.
const NO_FILE: &str = "none";
/// How long a step to the connection may take where neither the settings nor `ssh_config` say.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest chain of jump hosts.
const MAX_JUMPS: usize = 8;

/// One hop to log in to: a target, or a jump host on the way to it.
#[derive(Debug, Clone)]
pub(super) struct Hop {
    pub(super) address: String,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) identity_file: Option<PathBuf>,
    pub(super) ssh_args: Vec<String>,
    pub(super) host_keys: Option<HostKeyPolicy>,
    /// The jump hosts before this one, where the command line of the host behind it says so; else `ssh_config` decides.
    pub(super) jumps: Option<Vec<Jump>>,
}

impl Hop {
    pub(super) fn of(target: &Target) -> Self {
        Self {
            address: target.address.clone(),
            port: target.port,
            user: target.user.clone(),
            identity_file: target.identity_file.clone(),
            ssh_args: target.ssh_args.clone(),
            host_keys: target.host_keys,
            jumps: None,
        }
    }

    /// Makes the hop for the last of `jumps`; the others come before it. As `ssh -J` does, it takes over no option but `-F`.
    pub(super) fn through(jumps: &[Jump], behind: &Self) -> Option<Self> {
        let (last, before) = jumps.split_last()?;
        Some(Self {
            address: last.host.clone(),
            port: last.port,
            user: last.user.clone(),
            identity_file: None,
            ssh_args: config_file_args(&behind.ssh_args),
            host_keys: behind.host_keys,
            jumps: (!before.is_empty()).then(|| before.to_vec()),
        })
    }
}

/// One element of `ProxyJump`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Jump {
    pub(super) user: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// Where the ssh-agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Agent {
    /// Nowhere, or it is not to be asked.
    None,
    /// At this socket.
    Socket(PathBuf),
}

/// A key file and whether somebody named it on purpose for this run; such a file must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) path: PathBuf,
    pub(super) explicit: bool,
}

/// Everything that holds for one hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) identities: Vec<Identity>,
    pub(super) certificates: Vec<PathBuf>,
    pub(super) identities_only: bool,
    pub(super) agent: Agent,
    pub(super) jumps: Vec<Jump>,
    pub(super) proxy_command: Option<String>,
    pub(super) user_known_hosts: Vec<PathBuf>,
    pub(super) global_known_hosts: Vec<PathBuf>,
    pub(super) hash_known_hosts: bool,
    pub(super) host_keys: HostKeyPolicy,
    pub(super) host_key_alias: Option<String>,
    pub(super) connect_timeout: Duration,
}

/// Checks the settings themselves.
pub(super) fn check(settings: &SshSettings) -> Result<(), SshError> {
    if settings.max_logins == 0 || settings.max_logins_per_address == 0 {
        return Err(SshError::settings("at least one login at a time must be allowed"));
    }
    match &settings.config_file {
        Some(file) if settings.ssh_client.is_none() && file != Path::new(NO_FILE) => {
            let file = file.display();
            Err(SshError::settings(format!("{file} cannot be honoured: there is no ssh client that could read it")))
        }
        _ => Ok(()),
    }
}

/// Returns what the settings leave out that their owner may count on: a configuration that nobody here can read.
pub(super) fn warnings(settings: &SshSettings) -> Vec<SshWarning> {
    let user = settings.home.join(".ssh/config");
    if settings.ssh_client.is_some() || settings.config_file.is_some() || !has_settings(&user) {
        return Vec::new();
    }
    let message = format!("{} is ignored: there is no ssh client that could read it", user.display());
    let hint =
        "install the OpenSSH client (openssh-client on Debian), or do without the file on purpose with `--ssh-config none`";
    vec![SshWarning { message, hint: hint.to_owned() }]
}

fn has_settings(path: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Finds out what holds for a hop.
pub(super) async fn resolve(settings: &SshSettings, hop: &Hop) -> Result<Resolved, ConnectError> {
    let failed = |cause: String| ConnectError::new(one_line(&hop.address), Step::Config, cause);
    check_words(hop).map_err(failed)?;
    let dump = match &settings.ssh_client {
        Some(client) => ask(client, settings, hop).await?,
        None if !hop.ssh_args.is_empty() => {
            return Err(failed("its ssh arguments need an OpenSSH client to be understood".to_owned())
                .with_hint("install openssh-client, or remove `ansible_ssh_common_args`"));
        }
        None => String::new(),
    };
    let mut resolved = read_dump(&dump, settings, hop).map_err(failed)?;
    if let Some(jumps) = &hop.jumps {
        resolved.jumps.clone_from(jumps);
        resolved.proxy_command = None;
    }
    if resolved.jumps.len() > MAX_JUMPS {
        return Err(failed(format!("more than {MAX_JUMPS} jump hosts")));
    }
    Ok(resolved)
}

/// Refuses names that a command line or a shell could take for something else.
fn check_words(hop: &Hop) -> Result<(), String> {
    check_word("address", &hop.address)?;
    if hop.address.contains(['/', '@']) {
        return Err("the address must be a host name alone: use `ansible_user` and `ansible_port`".to_owned());
    }
    hop.user.as_ref().map_or(Ok(()), |user| check_word("user name", user))
}

fn check_word(what: &str, word: &str) -> Result<(), String> {
    const FORBIDDEN: &str = "'\"`$\\;&|<>(){}!*?,%#";
    if word.is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if word.starts_with('-') {
        return Err(format!("the {what} `{}` starts with `-`", one_line(word)));
    }
    // A scope, as in `fe80::1%eth0`, is the one place for a percent sign.
    let scoped = word.contains(':');
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || (FORBIDDEN.contains(c) && !(c == '%' && scoped));
    if word.chars().any(forbidden) {
        return Err(format!("the {what} `{}` has a character that is not allowed there", one_line(word)));
    }
    Ok(())
}

async fn ask(client: &Path, settings: &SshSettings, hop: &Hop) -> Result<String, ConnectError> {
    let failed = |cause: String| ConnectError::new(&hop.address, Step::Config, cause);
    let mut command = Command::new(client);
    command.arg("-G");
    if let Some(file) = &settings.config_file {
        command.arg("-F").arg(file);
    }
    // The first value of an option counts, so the inventory's own variables go before its ssh arguments.
    if let Some(port) = hop.port {
        command.arg("-o").arg(format!("Port={port}"));
    }
    if let Some(user) = hop.user.as_ref().or(settings.user.as_ref()) {
        command.arg("-o").arg(format!("User={user}"));
    }
    command.args(&hop.ssh_args).arg("--").arg(&hop.address);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match timeout(LIMIT, command.output()).await {
        Ok(output) => output.map_err(|error| failed(format!("cannot run {}: {error}", client.display())))?,
        Err(_) => return Err(failed(format!("`ssh -G` did not end within {}", seconds(LIMIT)))),
    };
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("`ssh -G` failed: {why}")).with_hint("check ssh_config and `ansible_ssh_common_args`"));
    }
    String::from_utf8(output.stdout).map_err(|_| failed("`ssh -G` wrote something that is not UTF-8".to_owned()))
}

/// Reads the output of `ssh -G`. PURE. An empty one means the defaults.
fn read_dump(dump: &str, settings: &SshSettings, hop: &Hop) -> Result<Resolved, String> {
    let fields = Dump(dump);
    if let Some(host) = fields.one("host")
        && !host.eq_ignore_ascii_case(&hop.address)
    {
        return Err(format!("the ssh arguments name another host, `{}`", one_line(host)));
    }
    let host = fields.one("hostname").unwrap_or(&hop.address).to_owned();
    check_word("host name in ssh_config", &host)?;
    let port = match fields.one("port") {
        Some(port) => port.parse().map_err(|_| format!("`ssh -G` says port `{}`", one_line(port)))?,
        None => hop.port.unwrap_or(22),
    };
    let own_user = hop.user.as_deref().or(settings.user.as_deref());
    let user = own_user.or(fields.one("user")).unwrap_or(&settings.local_user).to_owned();
    check_word("user name", &user)?;
    let alias = fields.one("hostkeyalias").map(str::to_owned);
    let tokens = Tokens { settings, original: &hop.address, host: &host, port, user: &user, alias: alias.as_deref() };
    let proxy_command = match fields.some("proxycommand") {
        Some(command) => Some(tokens.expand(command)?),
        None => None,
    };
    let (user_known_hosts, global_known_hosts) = known_hosts_files(&fields, &tokens)?;
    let host_keys = match settings.host_keys.or(hop.host_keys) {
        Some(policy) => policy,
        None => fields
            .one("stricthostkeychecking")
            .map_or(Ok(HostKeyPolicy::Strict), |word| word.parse().map_err(|error: SshError| error.to_string()))?,
    };
    let configured = || fields.one("connecttimeout").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let connect_timeout = settings.connect_timeout.or_else(configured).filter(|limit| !limit.is_zero());
    Ok(Resolved {
        identities: identities(&fields, &tokens, hop)?,
        certificates: tokens.paths(fields.all("certificatefile"))?,
        identities_only: fields.one("identitiesonly") == Some("yes"),
        agent: agent(&fields, &tokens)?,
        jumps: fields.some("proxyjump").map_or(Ok(Vec::new()), read_jumps)?,
        proxy_command,
        user_known_hosts,
        global_known_hosts,
        hash_known_hosts: fields.one("hashknownhosts") == Some("yes"),
        host_keys,
        host_key_alias: alias,
        connect_timeout: connect_timeout.unwrap_or(CONNECT_LIMIT),
        host,
        port,
        user,
    })
}

/// The lines `key value` that `ssh -G` writes; keys in lower case.
struct Dump<'a>(&'a str);

impl<'a> Dump<'a> {
    fn all(&self, key: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.lines().filter_map(move |line| {
            let (name, value) = line.split_once(' ')?;
            name.eq_ignore_ascii_case(key).then(|| value.trim())
        })
    }

    fn one(&self, key: &'static str) -> Option<&'a str> {
        self.all(key).next().filter(|value| !value.is_empty())
    }

    /// As [`Self::one`], for settings that are switched off by `none`.
    fn some(&self, key: &'static str) -> Option<&'a str> {
        self.one(key).filter(|value| !value.eq_ignore_ascii_case("none"))
    }
}

fn known_hosts_files(fields: &Dump<'_>, tokens: &Tokens<'_>) -> Result<(Vec<PathBuf>, Vec<PathBuf>), String> {
    if let Some(file) = &tokens.settings.known_hosts {
        return Ok((vec![file.clone()], Vec::new()));
    }
    let listed = |key, default: Vec<PathBuf>| match fields.one(key) {
        // Already expanded by ssh but for a tilde; a percent sign would be part of the name.
        Some(list) => list.split_whitespace().filter(|name| *name != "none").map(|name| tokens.home(name)).collect(),
        None => default,
    };
    let user = listed("userknownhostsfile", vec![tokens.settings.home.join(".ssh/known_hosts")]);
    let global = listed("globalknownhostsfile", GLOBAL_KNOWN_HOSTS.map(PathBuf::from).to_vec());
    Ok((user, global))
}

fn identities(fields: &Dump<'_>, tokens: &Tokens<'_>, hop: &Hop) -> Result<Vec<Identity>, String> {
    let named = hop.identity_file.iter().chain(&tokens.settings.identity_files);
    let mut found: Vec<Identity> = Vec::new();
    let mut add = |path: PathBuf, explicit| {
        if !found.iter().any(|identity| identity.path == path) {
            found.push(Identity { path, explicit });
        }
    };
    named.for_each(|path| add(tokens.home(&path.to_string_lossy()), true));
    if fields.0.is_empty() {
        DEFAULT_IDENTITIES.iter().for_each(|name| add(tokens.settings.home.join(".ssh").join(name), false));
    }
    tokens.paths(fields.all("identityfile"))?.into_iter().for_each(|path| add(path, false));
    Ok(found)
}

fn agent(fields: &Dump<'_>, tokens: &Tokens<'_>) -> Result<Agent, String> {
    let own = || tokens.settings.agent_socket.clone().map_or(Agent::None, Agent::Socket);
    match fields.one("identityagent") {
        None | Some("SSH_AUTH_SOCK" | "$SSH_AUTH_SOCK" | "${SSH_AUTH_SOCK}") => Ok(own()),
        Some(word) if word.eq_ignore_ascii_case("none") => Ok(Agent::None),
        Some(variable) if variable.starts_with('$') => {
            Err(format!("IdentityAgent `{}`: only $SSH_AUTH_SOCK is supported", one_line(variable)))
        }
        // Already expanded by ssh.
        Some(path) => Ok(Agent::Socket(tokens.home(path))),
    }
}

/// Reads `[user@]host[:port],...`, each also as `ssh://[user@]host[:port]`.
fn read_jumps(list: &str) -> Result<Vec<Jump>, String> {
    list.split(',').map(str::trim).map(read_jump).collect()
}

fn read_jump(text: &str) -> Result<Jump, String> {
    let bad = || format!("ProxyJump `{}` is not [user@]host[:port]", one_line(text));
    let spec = text.strip_prefix("ssh://").unwrap_or(text).trim_end_matches('/');
    let (user, place) = match spec.rsplit_once('@') {
        Some((user, place)) => (Some(user.to_owned()), place),
        None => (None, spec),
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(bad)?) })
        }
        // More than one colon without brackets is an IPv6 address.
        None if place.matches(':').count() > 1 => (place, None),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(str::parse).transpose().map_err(|_| bad())?;
    check_word("jump host", host)?;
    if let Some(user) = &user {
        check_word("jump host's user name", user)?;
    }
    Ok(Jump { user, host: host.to_owned(), port })
}

/// Returns `-F file` if the arguments have it.
fn config_file_args(args: &[String]) -> Vec<String> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if let Some(file) = arg.strip_prefix("-F") {
            let file = if file.is_empty() { args.next().cloned() } else { Some(file.to_owned()) };
            return file.map(|file| vec!["-F".to_owned(), file]).unwrap_or_default();
        }
    }
    Vec::new()
}

/// What `%` tokens in paths and commands stand for (`ssh_config(5)`, TOKENS).
struct Tokens<'a> {
    settings: &'a SshSettings,
    original: &'a str,
    host: &'a str,
    port: u16,
    user: &'a str,
    alias: Option<&'a str>,
}

impl Tokens<'_> {
    fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                expanded.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => expanded.push('%'),
                Some('h') => expanded.push_str(self.host),
                Some('n') => expanded.push_str(self.original),
                Some('p') => expanded.push_str(&self.port.to_string()),
                Some('r') => expanded.push_str(self.user),
                Some('u') => expanded.push_str(&self.settings.local_user),
                Some('k') => expanded.push_str(self.alias.unwrap_or(self.original)),
                Some('d') => expanded.push_str(&self.settings.home.to_string_lossy()),
                Some('i') => expanded.push_str(&rustix::process::getuid().as_raw().to_string()),
                other => {
                    let token: String = other.into_iter().collect();
                    return Err(format!("`%{token}` in `{}` is not supported", one_line(text)));
                }
            }
        }
        Ok(expanded)
    }

    /// Replaces a leading `~`.
    fn home(&self, path: &str) -> PathBuf {
        match path.strip_prefix("~/") {
            Some(rest) => self.settings.home.join(rest),
            None => path.into(),
        }
    }

    fn paths<'p>(&self, paths: impl Iterator<Item = &'p str>) -> Result<Vec<PathBuf>, String> {
        paths.filter(|path| *path != "none").map(|path| Ok(self.home(&self.expand(path)?))).collect()
    }
}
