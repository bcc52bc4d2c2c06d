//! Who may sign: OpenSSH's `allowed_signers` files (`ssh-keygen(1)`, "ALLOWED SIGNERS"). PURE: text in, keys out.
//!
//! A line is `principals [options] type key [comment]`. All principals of the file count, as the file is the operator's own; a key
//! that is limited to other namespaces, or whose time has not come or is over, does not. Stricter than `ssh-keygen`: a line that
//! can't be understood is an error, for it may be one that takes a right away; so is one of a certificate authority, which is not
//! supported, and a time without `Z`, whose zone would depend on the machine.

use std::time::SystemTime;

use super::known_hosts::matches_list;
use crate::model::trust::{MOST_KEYS, NAMESPACE, TrustedKey, TrustedKeyError};

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowedSignersError {
    /// With a line.
    #[error("line {line}: {fault}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What.
        fault: Fault,
    },
    /// With all of it.
    #[error("more than {MOST_KEYS} keys may sign")]
    TooMany,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Something is missing.
    #[error("a line is `principals [options] type key`")]
    Incomplete,
    /// A quote without its end.
    #[error("a quote does not end")]
    Quote,
    /// Authorities are not supported.
    #[error("certificate authorities can't sign here: name each key")]
    Authority,
    /// Not an option that is known.
    #[error("`{0}` is not an option of this file")]
    Option(String),
    /// Not a time.
    #[error("`{0}` is not a time such as 20261231Z or 20261231235959Z")]
    Time(String),
    /// The key.
    #[error("the key {0}")]
    Key(#[from] TrustedKeyError),
}

/// Returns the keys that may sign for fleetdrop now, in the file's order.
pub fn allowed_signers(text: &str, now: SystemTime) -> Result<Vec<TrustedKey>, AllowedSignersError> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = parse_line(line, now).map_err(|fault| AllowedSignersError::Line { line: index + 1, fault })?;
        keys.extend(key.filter(|key| !keys.contains(key)));
        if keys.len() > MOST_KEYS {
            return Err(AllowedSignersError::TooMany);
        }
    }
    Ok(keys)
}

/// Returns the line's key if it may sign now.
fn parse_line(line: &str, now: SystemTime) -> Result<Option<TrustedKey>, Fault> {
    let (_principals, rest) = word(line)?;
    let (mut first, mut rest) = word(rest)?;
    let mut may_sign = true;
    if !is_key_type(first) {
        for option in options(first)? {
            may_sign &= holds(option, now)?;
        }
        (first, rest) = word(rest)?;
    }
    let (body, _comment) = word(rest)?;
    if body.is_empty() {
        return Err(Fault::Incomplete);
    }
    let key = format!("{first} {body}").parse()?;
    Ok(may_sign.then_some(key))
}

/// Options never have one of these forms.
fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start))
}

/// Splits off a word, which ends with a blank that is in no quotes.
fn word(text: &str) -> Result<(&str, &str), Fault> {
    let mut quoted = false;
    let end = text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        !quoted && c.is_ascii_whitespace()
    });
    if quoted {
        return Err(Fault::Quote);
    }
    let (word, rest) = end.map_or((text, ""), |(at, _)| text.split_at(at));
    if word.is_empty() { Err(Fault::Incomplete) } else { Ok((word, rest.trim_start())) }
}

/// Splits options at the commas that are in no quotes.
fn options(text: &str) -> Result<impl Iterator<Item = &str>, Fault> {
    if !text.matches('"').count().is_multiple_of(2) {
        return Err(Fault::Quote);
    }
    let mut quoted = false;
    Ok(text.split(move |c| {
        quoted ^= c == '"';
        !quoted && c == ','
    }))
}

/// True unless the option keeps the key from signing here and now.
fn holds(option: &str, now: SystemTime) -> Result<bool, Fault> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let value = value.trim_matches('"');
    match name.to_ascii_lowercase().as_str() {
        "cert-authority" => Err(Fault::Authority),
        "namespaces" => Ok(matches_list(value.as_bytes(), NAMESPACE.as_bytes())),
        "valid-after" => Ok(time(value)? <= now),
        "valid-before" => Ok(now <= time(value)?),
        _ => Err(Fault::Option(name.chars().take(40).collect())),
    }
}

/// Reads `YYYYMMDDZ`, `YYYYMMDDHHMMZ` or `YYYYMMDDHHMMSSZ`.
fn time(text: &str) -> Result<SystemTime, Fault> {
    let fault = || Fault::Time(text.chars().take(40).collect());
    let digits = text.strip_suffix(['Z', 'z']).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let digits = digits.filter(|digits| matches!(digits.len(), 8 | 12 | 14)).ok_or_else(fault)?;
    let whole = format!("{digits:0<14}");
    let part = |from: usize, to: usize| &whole[from..to];
    let rfc3339 = format!("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14));
    humantime::parse_rfc3339(&rfc3339).map_err(|_| fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    fn count(line: &str) -> Result<usize, Fault> {
        let now = humantime::parse_rfc3339("2026-11-20T12:00:00Z").unwrap();
        allowed_signers(line, now).map(|keys| keys.len()).map_err(|error| match error {
            AllowedSignersError::Line { fault, .. } => fault,
            AllowedSignersError::TooMany => panic!("{error}"),
        })
    }

    #[test]
    fn a_key_signs_unless_an_option_forbids_it() {
        for (options, expected) in [
            ("", 1),
            ("namespaces=\"git,fleetdrop\"", 1),
            ("namespaces=\"fleet*\"", 1),
            ("namespaces=\"git\"", 0),
            ("namespaces=\"*,!fleetdrop\"", 0),
            ("valid-after=\"20261120Z\",valid-before=\"202611201201Z\"", 1),
            ("valid-after=\"20261121Z\"", 0),
            ("valid-before=\"20261120115959Z\"", 0),
            ("namespaces=\"file, fleetdrop\"", 0),
        ] {
            assert_eq!(count(&format!("ada@example.com,\"bob b\" {options} {KEY} a comment")), Ok(expected), "{options}");
        }
        assert_eq!(count(&format!("# nobody\n\n a {KEY}\r\nb {KEY}\n")), Ok(1));
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        let error = allowed_signers(&format!("a {KEY}\nb nonsense {KEY}"), SystemTime::now()).unwrap_err();
        assert_eq!(error.to_string(), "line 2: `nonsense` is not an option of this file");
        for (line, fault) in [
            ("a".to_owned(), Fault::Incomplete),
            ("a ssh-ed25519".into(), Fault::Incomplete),
            (format!("a namespaces=\"x {KEY}"), Fault::Quote),
            (format!("a cert-authority {KEY}"), Fault::Authority),
            (format!("a valid-after=\"20261120\" {KEY}"), Fault::Time("20261120".into())),
            (format!("a valid-after=\"20261320Z\" {KEY}"), Fault::Time("20261320Z".into())),
            ("a ssh-ed25519 !!!!".into(), Fault::Key(TrustedKeyError::Unknown)),
        ] {
            assert_eq!(count(&line), Err(fault), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|[a-z =\",\\n]{0,80}") {
            let _ = allowed_signers(&text, SystemTime::UNIX_EPOCH);
            let _ = allowed_signers(&format!("a {text} {KEY}"), SystemTime::UNIX_EPOCH);
        }
    }
}
