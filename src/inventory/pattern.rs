//! Ansible's host patterns, as `--limit` takes them: `web*:!web03:&prod`, `~regex`, `@file`, `web[0:2]`.
//!
//! The hosts a pattern names come out in inventory order, as with `ansible --limit`. Unlike Ansible, a part that matches nothing is
//! an error: a typo must neither deploy to too few hosts nor, after `!`, to one that was meant to be left out.

use std::{collections::HashSet, fmt::Write as _, path::Path};

use regex::{Regex, RegexBuilder};

use super::{
    Inventory, InventoryError, ranges,
    tree::{ALL, HostIndex, Tree},
};
use crate::yaml::{Location, YamlError, nearest};

/// The longest pattern, in bytes, from the command line or a line of a file.
const MAX_PATTERN: usize = 64 << 10;
/// The most parts of a pattern, files included.
const MAX_PARTS: usize = 100_000;
/// The most memory a compiled regular expression may take, in bytes.
const MAX_REGEX: usize = 1 << 20;

/// Returns the hosts that `limit` leaves of the whole inventory, in inventory order.
pub(super) fn select(inventory: &Inventory, limit: Option<&str>) -> Result<Vec<HostIndex>, InventoryError> {
    let all = inventory.tree.hosts_below(ALL);
    let Some(limit) = limit else { return Ok(all) };
    let parts = parts(limit).map_err(|error| error.of(inventory))?;
    if parts.is_empty() {
        return Err(refuse(inventory, limit, "the pattern is empty", "leave `--limit` out to mean every host"));
    }
    let chosen = evaluate(&inventory.tree, &parts).map_err(|error| error.of(inventory))?;
    Ok(all.into_iter().filter(|host| chosen.contains(host)).collect())
}

/// Returns the error of a pattern that leads to no hosts of that inventory.
pub(super) fn refuse(inventory: &Inventory, pattern: &str, why: &str, hint: &str) -> InventoryError {
    PatternError::new(pattern, why).hint(hint).of(inventory)
}

/// Says why a pattern is none, before it is known whose.
enum PatternError {
    File(YamlError),
    Bad { pattern: String, place: Option<Location>, reason: String, hint: Option<String> },
}

impl PatternError {
    fn new(pattern: &str, why: impl std::fmt::Display) -> Self {
        let shown = pattern.chars().take(120).collect();
        Self::Bad { pattern: shown, place: None, reason: why.to_string(), hint: None }
    }

    fn hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Bad { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    fn at(mut self, location: Option<&Location>) -> Self {
        if let Self::Bad { place, .. } = &mut self {
            *place = location.cloned();
        }
        self
    }

    fn of(self, inventory: &Inventory) -> InventoryError {
        match self {
            Self::File(error) => error.into(),
            Self::Bad { pattern, place, reason, hint } => {
                InventoryError::Limit { inventory: inventory.path.clone(), pattern, place, reason, hint }
            }
        }
    }
}

/// One part of a pattern.
struct Part {
    text: String,
    /// Where it stands, if it comes from a file.
    place: Option<Location>,
}

impl Part {
    /// Returns the pattern without the sign.
    fn after(&self, sign: char) -> Option<&str> {
        self.text.strip_prefix(sign)
    }

    fn refuse(&self, why: impl std::fmt::Display) -> PatternError {
        PatternError::new(&self.text, why).at(self.place.as_ref())
    }
}

/// Splits a pattern into its parts and reads the files among them.
fn parts(limit: &str) -> Result<Vec<Part>, PatternError> {
    let mut parts = Vec::new();
    for part in split(limit)? {
        match part.strip_prefix('@') {
            Some(file) => {
                let before = parts.len();
                read_file(file, &mut parts)?;
                // Nothing named must not come to mean everything.
                if parts.len() == before {
                    return Err(PatternError::new(part, "the file names no host"));
                }
            }
            None => parts.push(Part { text: part.to_owned(), place: None }),
        }
        if parts.len() > MAX_PARTS {
            return Err(PatternError::new(limit, format!("more than {MAX_PARTS} parts")));
        }
    }
    Ok(parts)
}

/// Reads one part a line, without empty lines and comments.
fn read_file(file: &str, parts: &mut Vec<Part>) -> Result<(), PatternError> {
    let source = super::read(Path::new(file)).map_err(PatternError::File)?;
    for (line, number) in source.text().lines().zip(1..) {
        let text = line.trim();
        if !text.is_empty() && !text.starts_with('#') {
            let column = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
            parts.push(Part { text: text.to_owned(), place: Some(Location::new(&source, number, column)) });
        }
    }
    Ok(())
}

/// Splits at commas; without any, at colons and white space, unless the whole is one name or address.
fn split(limit: &str) -> Result<Vec<&str>, PatternError> {
    let bad = |why: &str| PatternError::new(limit, why);
    if limit.len() > MAX_PATTERN {
        return Err(bad("the pattern is too long").hint("put the hosts into a file, one a line, and use `--limit @FILE`"));
    }
    if limit.contains(',') {
        return Ok(limit.split(',').map(str::trim).filter(|part| !part.is_empty()).collect());
    }
    if ranges::split_port(limit).is_some() {
        return Ok(vec![limit]);
    }
    let mut parts = Vec::new();
    let mut start = 0;
    let mut inside = false;
    for (place, c) in limit.char_indices() {
        match c {
            '[' if !inside => inside = true,
            ']' if inside => inside = false,
            ']' => return Err(bad("a `]` without its `[`")),
            c if !inside && (c == ':' || c.is_whitespace()) => {
                parts.push(&limit[start..place]);
                start = place + c.len_utf8();
            }
            _ => {}
        }
    }
    if inside {
        return Err(bad("a `[` without its `]`"));
    }
    parts.push(&limit[start..]);
    Ok(parts.into_iter().filter(|part| !part.is_empty()).collect())
}

/// First what is wanted (everything, if nothing is named), then `&`, then `!`: the order of the parts does not matter.
fn evaluate(tree: &Tree, parts: &[Part]) -> Result<HashSet<HostIndex>, PatternError> {
    let mut chosen = HashSet::new();
    let mut wanted = parts.iter().filter(|part| !part.text.starts_with(['!', '&'])).peekable();
    if wanted.peek().is_none() {
        chosen.extend(tree.hosts_below(ALL));
    }
    for part in wanted {
        chosen.extend(matches(tree, &part.text, part)?);
    }
    for part in parts {
        if let Some(pattern) = part.after('&') {
            let these: HashSet<_> = matches(tree, pattern, part)?.into_iter().collect();
            chosen.retain(|host| these.contains(host));
        }
    }
    for part in parts {
        if let Some(pattern) = part.after('!') {
            for host in matches(tree, pattern, part)? {
                chosen.remove(&host);
            }
        }
    }
    Ok(chosen)
}

/// Returns the hosts one part names; an error if it names nothing that exists. `pattern` is the part without its sign.
fn matches(tree: &Tree, pattern: &str, part: &Part) -> Result<Vec<HostIndex>, PatternError> {
    // A plain name is the host before it is a group.
    if let Some(host) = tree.find_host(&part.text) {
        return Ok(vec![host]);
    }
    if pattern.is_empty() {
        return Err(part.refuse("there is nothing after the sign"));
    }
    let (name, subscript) = split_subscript(pattern);
    let matcher = Matcher::new(name).map_err(|why| part.refuse(why))?;
    let groups: Vec<_> = tree.groups().filter(|(_, group)| matcher.matches(&group.name)).collect();
    let mut hosts = Vec::new();
    for (id, _) in &groups {
        hosts.extend(tree.hosts_below(*id));
    }
    if groups.is_empty() || name.starts_with('~') || name.contains(['.', '?', '*', '[']) {
        hosts.extend(tree.hosts().filter(|(_, host)| matcher.matches(host.name.as_str())).map(|(id, _)| id));
    }
    if groups.is_empty() && hosts.is_empty() {
        return Err(unmatched(tree, name, part));
    }
    let Some(subscript) = subscript else { return Ok(hosts) };
    // As in Ansible a host counts twice here if two of the matched groups have it.
    let count = hosts.len();
    let picked = subscript.apply(hosts);
    if picked.is_empty() {
        return Err(part.refuse(format!("`{name}` has {count} hosts, none at that place")));
    }
    Ok(picked)
}

fn unmatched(tree: &Tree, name: &str, part: &Part) -> PatternError {
    let known = tree.groups().map(|(_, group)| &*group.name).chain(tree.hosts().map(|(_, host)| host.name.as_str()));
    let error = part.refuse("matches no host and no group of the inventory");
    match nearest::suggestion(name, known) {
        Some(hint) => error.hint(hint),
        None if name.contains(':') => error.hint("separate parts either by commas or by colons, not by both"),
        None => error.hint("`fleetdrop inventory --hosts FILE` shows what there is"),
    }
}

/// Which of a part's hosts are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscript {
    /// From the start, or from the end if negative.
    One(i64),
    /// Both ends included; no end means the last.
    Slice(usize, Option<usize>),
}

impl Subscript {
    fn apply(self, hosts: Vec<HostIndex>) -> Vec<HostIndex> {
        match self {
            Self::One(place) => {
                let place = if place < 0 {
                    usize::try_from(place.unsigned_abs()).ok().and_then(|back| hosts.len().checked_sub(back))
                } else {
                    usize::try_from(place).ok()
                };
                place.and_then(|place| hosts.get(place)).copied().into_iter().collect()
            }
            Self::Slice(start, end) => {
                let end = end.map_or(usize::MAX, |end| end.saturating_add(1));
                let length = end.saturating_sub(start);
                hosts.into_iter().skip(start).take(length).collect()
            }
        }
    }
}

/// Splits `[0]`, `[-1]`, `[0:2]`, `[1:]` off a pattern that is no regular expression.
fn split_subscript(pattern: &str) -> (&str, Option<Subscript>) {
    let parse = || {
        let (name, inner) = pattern.strip_suffix(']')?.rsplit_once('[')?;
        if name.is_empty() {
            return None;
        }
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let subscript = match inner.split_once(':') {
            Some((start, end)) if digits(start) && (end.is_empty() || digits(end)) => {
                let end = if end.is_empty() { None } else { Some(end.parse().ok()?) };
                Subscript::Slice(start.parse().ok()?, end)
            }
            None if digits(inner.strip_prefix('-').unwrap_or(inner)) => Subscript::One(inner.parse().ok()?),
            _ => return None,
        };
        Some((name, Some(subscript)))
    };
    if pattern.starts_with('~') { (pattern, None) } else { parse().unwrap_or((pattern, None)) }
}

/// A name, a glob or a regular expression.
enum Matcher<'a> {
    Name(&'a str),
    Regex(Regex),
}

impl<'a> Matcher<'a> {
    fn new(pattern: &'a str) -> Result<Self, String> {
        let regex = match pattern.strip_prefix('~') {
            // Anchored at the start only.
            Some(regex) => format!("^(?:{regex})"),
            None if pattern.contains(['*', '?', '[']) => glob(pattern),
            None => return Ok(Self::Name(pattern)),
        };
        let built = RegexBuilder::new(&regex).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build();
        built.map(Self::Regex).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "the pattern is too complex".to_owned(),
            error => {
                // The last line of a syntax error says what is wrong; the ones before draw it.
                let error = error.to_string();
                let last = error.lines().next_back().unwrap_or_default().trim();
                format!("not a valid pattern: {}", last.strip_prefix("error: ").unwrap_or(last))
            }
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(wanted) => *wanted == name,
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

/// Returns a shell glob (`*`, `?`, `[a-c]`, `[!x]`) as a regular expression.
fn glob(pattern: &str) -> String {
    let mut regex = String::from("^(?s:");
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => match class(rest.as_str()) {
                Some((class, after)) => {
                    regex.push_str(&class);
                    rest = after.chars();
                }
                None => regex.push_str("\\["),
            },
            c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    regex.push_str(")$");
    regex
}

/// Reads a bracket expression after its `[`; none if it is not closed. Returns the class and what follows.
fn class(text: &str) -> Option<(String, &str)> {
    let (negated, body) = text.strip_prefix('!').map_or((false, text), |body| (true, body));
    // A `]` in first place is a member.
    let first = body.chars().next()?.len_utf8();
    let end = first + body.get(first..)?.find(']')?;
    let (members, after) = (&body[..end], &body[end + 1..]);
    let mut class = String::from(if negated { "[^" } else { "[" });
    let letters: Vec<char> = members.chars().collect();
    for (place, c) in letters.iter().enumerate() {
        let range = *c == '-' && place > 0 && place + 1 < letters.len();
        if range {
            class.push('-');
        } else {
            // By number, so that no character means anything special.
            let _ = write!(class, "\\x{{{:x}}}", u32::from(*c));
        }
    }
    class.push(']');
    Some((class, after))
}
