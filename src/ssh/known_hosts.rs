//! Who is known: OpenSSH's `known_hosts` files, read and matched by OpenSSH's rules. PURE: text in, verdicts out.
//!
//! The rules, as `sshd(8)` states them and `ssh` applies them:
//!
//! - A line is `[@marker] names type key [comment]`. Names are patterns with `*` and `?`, comma-separated, case-insensitive, a
//!   leading `!` excludes; or one hashed name `|1|salt|hash` (HMAC-SHA1). A port other than 22 is part of the name:
//!   `[name]:port`. A line that does not parse is skipped.
//! - Any line with the very key the host shows makes it known. Lines for the host with other keys only make it *changed*.
//! - `@revoked` beats everything. `@cert-authority` lines vouch for host certificates only, plain lines for plain keys only.
//! - A host on another port that has no line of its own is also known by a line for the bare name.
//!
//! Stricter than `ssh` in two points: a key revoked under the bare name is revoked on every port, and a revoked key is refused
//! even without strict checking. A property test holds that no input makes this module panic.

use std::{fmt, path::Path, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

#[cfg(test)]
mod tests;

/// The port that is not part of a name.
const DEFAULT_PORT: u16 = 22;
/// The longest pattern, in bytes, that can match, as in OpenSSH.
const MAX_PATTERN: usize = 1023;
/// The length of a hashed name's salt and hash: SHA-1's.
const HASH_LEN: usize = 20;
/// Key types that are known to be plain host keys.
const KEY_TYPES: [&str; 8] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "ssh-dss",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A line of a file, for messages: `/home/ada/.ssh/known_hosts:12`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub path: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// What a line says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Plain,
    Authority,
    Revoked,
}

#[derive(Debug, Clone)]
enum Names {
    Patterns(Box<[u8]>),
    Hashed { salt: [u8; HASH_LEN], hash: [u8; HASH_LEN] },
}

#[derive(Debug, Clone)]
struct Entry {
    at: Location,
    marker: Marker,
    names: Names,
    key_type: &'static str,
    key: Box<[u8]>,
}

/// The lines of one file.
#[derive(Debug, Clone, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
}

impl KnownHosts {
    /// Reads a file's contents. Lines that do not parse are skipped, as OpenSSH does.
    pub fn parse(path: &Path, text: &[u8]) -> Self {
        let path: Arc<Path> = path.into();
        let lines = text.split(|byte| *byte == b'\n').enumerate();
        let entries = lines.filter_map(|(index, line)| {
            let at = Location { path: path.clone(), line: index + 1 };
            parse_line(line, at)
        });
        Self { entries: entries.collect() }
    }

    /// Adds to `found` what this file says about the host.
    fn look_up(&self, name: &HostId, found: &mut HostKeys) {
        for entry in &self.entries {
            if entry.names.matches(name.full.as_bytes()) {
                found.own.push(entry.clone());
            } else if name.bare.as_ref().is_some_and(|bare| entry.names.matches(bare.as_bytes())) {
                found.portless.push(entry.clone());
            }
        }
    }
}

/// The name a host goes by in `known_hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostId {
    /// `name`, or `[name]:port`.
    full: String,
    /// The name without its port, if `full` has one.
    bare: Option<String>,
    /// What a host certificate must name.
    principal: String,
}

impl HostId {
    /// Makes the name of a host at an address and port.
    pub fn new(host: &str, port: u16) -> Self {
        let host = host.to_ascii_lowercase();
        if port == DEFAULT_PORT {
            return Self { full: host.clone(), bare: None, principal: host };
        }
        Self { full: format!("[{host}]:{port}"), bare: Some(host.clone()), principal: host }
    }

    /// Makes the name of a host with a `HostKeyAlias`, which stands for itself whatever the port.
    pub fn alias(alias: &str) -> Self {
        let alias = alias.to_ascii_lowercase();
        Self { full: alias.clone(), bare: None, principal: alias }
    }

    /// Returns the name that a host certificate must carry.
    pub fn principal(&self) -> &str {
        &self.principal
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.full)
    }
}

/// What is known about one host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This very key is listed here.
    Known(Location),
    /// Nothing is listed for the host.
    Unknown,
    /// Other keys are listed for the host; the last one here.
    Changed(Location),
    /// The key (or the authority behind it) is listed as revoked here.
    Revoked(Location),
}

/// Everything that is said about one host, in file order.
#[derive(Debug, Clone, Default)]
pub struct HostKeys {
    own: Vec<Entry>,
    portless: Vec<Entry>,
}

impl HostKeys {
    /// Collects what the files say about a host.
    pub fn find<'a>(files: impl IntoIterator<Item = &'a KnownHosts>, name: &HostId) -> Self {
        let mut found = Self::default();
        files.into_iter().for_each(|file| file.look_up(name, &mut found));
        found
    }

    /// Judges a plain host key, given as its wire encoding.
    pub fn check(&self, key: &[u8]) -> Verdict {
        if let Some(at) = self.revoked(key) {
            return Verdict::Revoked(at);
        }
        match check_among(&self.own, Marker::Plain, key) {
            Verdict::Unknown => match check_among(&self.portless, Marker::Plain, key) {
                known @ Verdict::Known(_) => known,
                _ => Verdict::Unknown,
            },
            verdict => verdict,
        }
    }

    /// Judges a host certificate by the key in it and the key that signed it; never [`Verdict::Changed`]. The caller checks
    /// the certificate itself: signature, kind, names, validity.
    pub fn check_certificate(&self, key: &[u8], authority: &[u8]) -> Verdict {
        if let Some(at) = self.revoked(key).or_else(|| self.revoked(authority)) {
            return Verdict::Revoked(at);
        }
        let among = |entries| match check_among(entries, Marker::Authority, authority) {
            Verdict::Known(at) => Some(at),
            _ => None,
        };
        match among(&self.own).or_else(|| among(&self.portless)) {
            Some(at) => Verdict::Known(at),
            None => Verdict::Unknown,
        }
    }

    /// Returns the types of the plain keys that would make the host known, without repetition, in file order.
    pub fn key_types(&self) -> Vec<&'static str> {
        let plain = |entries: &[Entry]| {
            let mut types = Vec::new();
            for entry in entries.iter().filter(|entry| entry.marker == Marker::Plain) {
                if !types.contains(&entry.key_type) {
                    types.push(entry.key_type);
                }
            }
            types
        };
        let own = plain(&self.own);
        if own.is_empty() { plain(&self.portless) } else { own }
    }

    /// True if a certificate authority vouches for this host.
    pub fn has_authority(&self) -> bool {
        self.own.iter().chain(&self.portless).any(|entry| entry.marker == Marker::Authority)
    }

    fn revoked(&self, key: &[u8]) -> Option<Location> {
        let revoked = |entry: &&Entry| entry.marker == Marker::Revoked && *entry.key == *key;
        self.own.iter().chain(&self.portless).find(revoked).map(|entry| entry.at.clone())
    }
}

fn check_among(entries: &[Entry], marker: Marker, key: &[u8]) -> Verdict {
    let mut verdict = Verdict::Unknown;
    for entry in entries.iter().filter(|entry| entry.marker == marker) {
        if *entry.key == *key {
            return Verdict::Known(entry.at.clone());
        }
        verdict = Verdict::Changed(entry.at.clone());
    }
    verdict
}

/// Returns the line that makes a host known, without line break. With a `salt` the name is hashed.
pub fn new_line(name: &HostId, key_type: &str, key: &[u8], salt: Option<[u8; HASH_LEN]>) -> String {
    let key = BASE64_STANDARD.encode(key);
    match salt {
        None => format!("{name} {key_type} {key}"),
        Some(salt) => {
            let hash = BASE64_STANDARD.encode(hash_name(&salt, name.full.as_bytes()));
            format!("|1|{}|{hash} {key_type} {key}", BASE64_STANDARD.encode(salt))
        }
    }
}

impl Names {
    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Patterns(patterns) => matches_list(patterns, name),
            Self::Hashed { salt, hash } => hash_name(salt, name) == *hash,
        }
    }
}

fn hash_name(salt: &[u8; HASH_LEN], name: &[u8]) -> [u8; HASH_LEN] {
    // HMAC takes a key of any length, so this cannot fail; an empty hash would match nothing.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(salt) else { return [0; HASH_LEN] };
    mac.update(name);
    mac.finalize().into_bytes().into()
}

/// True if a pattern of the list matches and no excluding one does.
pub(super) fn matches_list(patterns: &[u8], name: &[u8]) -> bool {
    let mut matched = false;
    for pattern in patterns.split(|byte| *byte == b',') {
        let (excludes, pattern) = match pattern.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        if pattern.len() > MAX_PATTERN {
            return false;
        }
        if matches_pattern(pattern, name) {
            if excludes {
                return false;
            }
            matched = true;
        }
    }
    matched
}

/// Matches `*` and `?`, ignoring ASCII case of the pattern (names are lower-case already). Takes at most
/// `pattern.len() * name.len()` steps.
fn matches_pattern(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on if the text after the last `*` does not fit: that `*`, one byte further in the name.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&name[n]) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn parse_line(line: &[u8], at: Location) -> Option<Entry> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let mut names = words.next()?;
    if names.starts_with(b"#") {
        return None;
    }
    let marker = match names {
        b"@cert-authority" => Marker::Authority,
        b"@revoked" => Marker::Revoked,
        _ if names.starts_with(b"@") => return None,
        _ => Marker::Plain,
    };
    if marker != Marker::Plain {
        names = words.next().filter(|names| !names.starts_with(b"@"))?;
    }
    let names = parse_names(names)?;
    let key_type = words.next()?;
    let key_type = KEY_TYPES.into_iter().find(|known| known.as_bytes() == key_type)?;
    let key = BASE64_STANDARD.decode(words.next()?).ok()?;
    (encoded_type(&key)? == key_type.as_bytes()).then(|| Entry { at, marker, names, key_type, key: key.into() })
}

fn parse_names(field: &[u8]) -> Option<Names> {
    if !field.starts_with(b"|") {
        return Some(Names::Patterns(field.into()));
    }
    let mut parts = field.strip_prefix(b"|1|")?.split(|byte| *byte == b'|');
    let mut part = || BASE64_STANDARD.decode(parts.next()?).ok()?.try_into().ok();
    let (salt, hash) = (part()?, part()?);
    parts.next().is_none().then_some(Names::Hashed { salt, hash })
}

/// Returns the type that a key's wire encoding starts with.
fn encoded_type(key: &[u8]) -> Option<&[u8]> {
    let (length, rest) = key.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}
