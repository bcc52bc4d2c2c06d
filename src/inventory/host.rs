//! What fleetdrop needs to know of a host, read from its variables.
//!
//! A variable is only looked at when it is needed: a template or an encrypted value anywhere else is no error.

use std::{net::IpAddr, path::PathBuf};

use super::{
    InventoryError,
    vars::{HostVars, opaque},
};
use crate::{
    model::{HostName, plan::DeployTo},
    yaml::{Diagnostic, Node, Value},
};

/// The longest path, in bytes.
const MAX_PATH: usize = 1024;
/// The longest zone, address or user name, in bytes.
const MAX_WORD: usize = 253;

/// The `fleetdrop_*` variables there are.
pub(super) const OWN_VARIABLES: [&str; 3] = ["fleetdrop_deploy_to", "fleetdrop_zone", "fleetdrop_advertise"];

/// How a host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// Over SSH.
    Ssh,
    /// It is this machine: the agent is a subprocess.
    Local,
}

/// The agent runs as another user, by `sudo -n`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Become {
    /// Which user; `root` unless said otherwise.
    pub user: String,
}

/// One host of the inventory, ready to be connected to.
#[derive(Debug, Clone)]
pub struct HostEntry {
    /// Its name in the inventory.
    pub name: HostName,
    /// The groups it is in, directly or not, without `all`; by name.
    pub groups: Vec<String>,
    /// From `ansible_connection`.
    pub connection: Connection,
    /// `ansible_host`, or the name.
    pub address: String,
    /// `ansible_port`, or the port in the host's key.
    pub port: Option<u16>,
    /// `ansible_user`.
    pub user: Option<String>,
    /// `ansible_ssh_private_key_file`; a `~` at the start is left as it is.
    pub identity_file: Option<PathBuf>,
    /// `ansible_ssh_args`, `ansible_ssh_common_args` and `ansible_ssh_extra_args`, in this order, split as a shell would.
    pub ssh_args: Vec<String>,
    /// `ansible_host_key_checking`, if set.
    pub host_key_checking: Option<bool>,
    /// Set if `ansible_become` is true.
    pub r#become: Option<Become>,
    /// `fleetdrop_deploy_to`: an absolute path, or one that starts with `~/`.
    pub deploy_to: Option<String>,
    /// `fleetdrop_zone`.
    pub zone: Option<String>,
    /// `fleetdrop_advertise`: the address other hosts reach this one at.
    pub advertise: Option<IpAddr>,
    /// Everything that is set for the host, for display.
    pub vars: HostVars,
}

/// Reads what is needed of one host.
pub(super) fn entry(name: HostName, groups: Vec<String>, vars: HostVars) -> Result<HostEntry, InventoryError> {
    let reader = Reader { host: name.as_str(), vars: &vars };
    let connection = reader.connection()?;
    let mut entry = HostEntry {
        groups,
        connection,
        address: name.as_str().to_owned(),
        port: None,
        user: None,
        identity_file: None,
        ssh_args: Vec::new(),
        host_key_checking: None,
        r#become: reader.become_user()?,
        deploy_to: reader.deploy_to()?,
        zone: reader.word(&["fleetdrop_zone"])?,
        advertise: reader.advertise()?,
        vars: HostVars::default(),
        name: name.clone(),
    };
    if connection == Connection::Ssh {
        // Of two names for one thing the last wins, as in Ansible's ssh plugin.
        entry.address = reader.word(&["ansible_host", "ansible_ssh_host"])?.unwrap_or(entry.address);
        entry.port = reader.port()?;
        entry.user = reader.word(&["ansible_user", "ansible_ssh_user"])?;
        entry.identity_file = reader.identity_file()?;
        entry.ssh_args = reader.ssh_args()?;
        entry.host_key_checking = reader.boolean(&["ansible_host_key_checking", "ansible_ssh_host_key_checking"])?;
    }
    entry.vars = vars;
    Ok(entry)
}

struct Reader<'a> {
    host: &'a str,
    vars: &'a HostVars,
}

/// A variable that is set.
struct Found<'a> {
    name: &'a str,
    node: &'a Node,
}

impl<'a> Reader<'a> {
    /// Returns the last of these variables that is set to something; an error if it cannot be read.
    fn needed(&self, names: &[&'a str]) -> Result<Option<Found<'a>>, Diagnostic> {
        let set = names.iter().rev().filter_map(|name| Some((*name, self.vars.get(name)?)));
        let Some((name, node)) = set.into_iter().find(|(_, node)| !node.is_null()) else { return Ok(None) };
        let found = Found { name, node };
        match opaque(node) {
            Some(why) => {
                let message = format!("`{name}` of host `{}` {why}, and fleetdrop needs its value", self.host);
                Err(Diagnostic::new(&node.location, message).with_hint("write the value itself, in plain text"))
            }
            None => Ok(Some(found)),
        }
    }

    fn wrong(&self, found: &Found<'_>, why: impl std::fmt::Display) -> Diagnostic {
        Diagnostic::new(&found.node.location, format!("`{}` of host `{}` {why}", found.name, self.host))
    }

    /// Returns a variable's text; none if it is not set or empty. A whole number is taken as its digits.
    fn text(&self, names: &[&'a str]) -> Result<Option<(Found<'a>, String)>, Diagnostic> {
        let Some(found) = self.needed(names)? else { return Ok(None) };
        match &found.node.value {
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) => {
                let text = text.to_string();
                Ok(Some((found, text)))
            }
            Value::Int(number) => {
                let text = number.to_string();
                Ok(Some((found, text)))
            }
            _ => {
                let error = self.wrong(&found, format!("must be text, but YAML reads it as {}", found.node.kind()));
                let scalar = !matches!(found.node.value, Value::Seq(_) | Value::Map(_));
                Err(if scalar { error.with_hint("put the value in quotation marks") } else { error })
            }
        }
    }

    /// Returns a text that goes to ssh or into a message as one word.
    fn word(&self, names: &[&'a str]) -> Result<Option<String>, Diagnostic> {
        let Some((found, text)) = self.text(names)? else { return Ok(None) };
        if text.len() > MAX_WORD || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(self.wrong(&found, format!("must be one word of at most {MAX_WORD} bytes")));
        }
        if text.starts_with('-') {
            return Err(self.wrong(&found, "must not start with `-`"));
        }
        Ok(Some(text))
    }

    fn boolean(&self, names: &[&'a str]) -> Result<Option<bool>, Diagnostic> {
        let Some(found) = self.needed(names)? else { return Ok(None) };
        let value = match &found.node.value {
            Value::Bool(value) => Some(*value),
            Value::Int(number @ (0 | 1)) => Some(*number == 1),
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "y" | "yes" | "on" | "1" | "true" | "t" => Some(true),
                "n" | "no" | "off" | "0" | "false" | "f" => Some(false),
                _ => None,
            },
            _ => None,
        };
        let wrong = || self.wrong(&found, format!("must be true or false, but it is {}", found.node.kind()));
        value.map(Some).ok_or_else(wrong)
    }

    fn connection(&self) -> Result<Connection, Diagnostic> {
        let Some((found, text)) = self.text(&["ansible_connection"])? else { return Ok(Connection::Ssh) };
        match text.strip_prefix("ansible.builtin.").unwrap_or(&text) {
            "ssh" | "smart" | "paramiko" | "paramiko_ssh" => Ok(Connection::Ssh),
            "local" => Ok(Connection::Local),
            _ => {
                let shown: String = text.chars().take(60).collect();
                let error = self.wrong(&found, format!("is `{shown}`; fleetdrop knows `ssh` and `local`"));
                Err(error.with_hint("leave such hosts out with `--limit '!PATTERN'`"))
            }
        }
    }

    fn port(&self) -> Result<Option<u16>, Diagnostic> {
        let Some((found, text)) = self.text(&["ansible_port", "ansible_ssh_port"])? else { return Ok(None) };
        let port = text.trim().parse().ok().filter(|port| *port != 0);
        port.map(Some).ok_or_else(|| self.wrong(&found, "must be a port from 1 to 65535"))
    }

    fn identity_file(&self) -> Result<Option<PathBuf>, Diagnostic> {
        let Some((found, text)) = self.text(&["ansible_private_key_file", "ansible_ssh_private_key_file"])? else {
            return Ok(None);
        };
        if text.len() > MAX_PATH || text.chars().any(char::is_control) {
            return Err(self.wrong(&found, format!("must be a path of at most {MAX_PATH} bytes")));
        }
        Ok(Some(PathBuf::from(text)))
    }

    fn ssh_args(&self) -> Result<Vec<String>, Diagnostic> {
        let mut args = Vec::new();
        for name in ["ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"] {
            let Some((found, text)) = self.text(&[name])? else { continue };
            match split_words(&text) {
                Some(words) => args.extend(words),
                None => return Err(self.wrong(&found, "has a quotation mark or a backslash without its end")),
            }
        }
        Ok(args)
    }

    fn become_user(&self) -> Result<Option<Become>, Diagnostic> {
        if self.boolean(&["ansible_become"])? != Some(true) {
            return Ok(None);
        }
        if let Some((found, method)) = self.text(&["ansible_become_method"])?
            && !matches!(method.as_str(), "sudo" | "ansible.builtin.sudo")
        {
            let shown: String = method.chars().take(60).collect();
            let error = self.wrong(&found, format!("is `{shown}`; fleetdrop becomes another user by `sudo` only"));
            return Err(error.with_hint("log in as that user, or allow `sudo -n` for the login user"));
        }
        let user = self.word(&["ansible_sudo_user", "ansible_become_user"])?;
        Ok(Some(Become { user: user.unwrap_or_else(|| "root".to_owned()) }))
    }

    fn deploy_to(&self) -> Result<Option<String>, Diagnostic> {
        let Some((found, text)) = self.text(&["fleetdrop_deploy_to"])? else { return Ok(None) };
        let wrong = |error| self.wrong(&found, error).with_hint("for example `/srv/shop` or `~/apps/shop`");
        DeployTo::new(&text).map(|_| Some(text)).map_err(wrong)
    }

    fn advertise(&self) -> Result<Option<IpAddr>, Diagnostic> {
        let Some((found, text)) = self.text(&["fleetdrop_advertise"])? else { return Ok(None) };
        let address: Option<IpAddr> = text.parse().ok();
        let usable = address.filter(|address| !address.is_unspecified() && !address.is_multicast());
        usable.map(Some).ok_or_else(|| {
            let error = self.wrong(&found, "must be the host's own IP address, without a port");
            error.with_hint("for example \"10.0.0.7\" or \"2001:db8::7\"")
        })
    }
}

/// Splits a text into words as a POSIX shell does, without expanding anything; none if a quotation is not closed.
fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let split = |text| split_words(text).unwrap();
        assert_eq!(split("-o A=b  -o 'C=d e'"), ["-o", "A=b", "-o", "C=d e"]);
        assert_eq!(split(r#"-o ProxyCommand="ssh -W %h:%p \"jump\"""#), ["-o", "ProxyCommand=ssh -W %h:%p \"jump\""]);
        assert_eq!(split(r"a\ b '' "), ["a b", ""]);
        assert_eq!(split(r#""a\b""#), [r"a\b"]);
        assert!(split("").is_empty());
        for open in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(split_words(open), None, "{open}");
        }
    }
}
