//! Host names as Ansible writes them: `web[01:50].example.com:2222`, `[2001:db8::1]:22`, `db-[a:f][0:10:2]`.

use std::net::Ipv6Addr;

/// The longest host name that a pattern can make, in bytes.
const MAX_NAME: usize = 253;
/// The most ranges in one name.
const MAX_RANGES: usize = 8;
/// Why a range is refused, with what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RangeError {
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

impl RangeError {
    fn new(message: impl Into<String>, hint: &'static str) -> Self {
        Self { message: message.into(), hint: Some(hint) }
    }
}

/// How a range is written.
const SYNTAX: &str = "a range is `[begin:end]` or `[begin:end:step]`, as in `web[01:50].example.com` or `db-[a:f]`";

/// Splits `name:port` and `[address]:port`. None if the text is no network name, port or not, as far as Ansible is concerned;
/// it then takes the whole text as the name.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u32>)> {
    let mut name = text;
    let mut port = None;
    if let Some((inner, digits)) = bracketed(text) {
        (name, port) = (inner, Some(digits));
    }
    if let Some((inner, digits)) = host_and_port(name) {
        (name, port) = (inner, Some(digits));
    }
    if !is_network_name(name) {
        return None;
    }
    match port {
        // A port beyond u32 is no port; it is refused where the port is used.
        Some(digits) => Some((name, Some(digits.parse().unwrap_or(u32::MAX)))),
        None => Some((name, None)),
    }
}

fn trailing_port(text: &str) -> Option<(&str, &str)> {
    let (rest, digits) = text.rsplit_once(':')?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some((rest, digits))
}

fn bracketed(text: &str) -> Option<(&str, &str)> {
    let (rest, digits) = trailing_port(text)?;
    let inner = rest.strip_prefix('[')?.strip_suffix(']')?;
    (!inner.is_empty()).then_some((inner, digits))
}

fn host_and_port(text: &str) -> Option<(&str, &str)> {
    let (rest, digits) = trailing_port(text)?;
    let mut inside = false;
    for c in rest.chars() {
        match (inside, c) {
            (true, ']') => inside = false,
            (true, _) => {}
            (false, '[') => inside = true,
            (false, ':' | ']') => return None,
            (false, _) => {}
        }
    }
    (!inside).then_some((rest, digits))
}

/// True for host names and addresses, with ranges in them.
fn is_network_name(text: &str) -> bool {
    is_host_name(text) || is_ipv6(text)
}

fn is_host_name(text: &str) -> bool {
    let mut after_dot = true;
    let mut last = '.';
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '[' {
            let Some(length) = range_length(rest, false) else { return false };
            rest = &rest[length..];
            (after_dot, last) = (false, ']');
            continue;
        }
        let ok = match c {
            '.' => !after_dot && !matches!(last, '_' | '-'),
            '-' => !after_dot,
            c => c == '_' || c.is_alphanumeric(),
        };
        if !ok {
            return false;
        }
        (after_dot, last) = (c == '.', c);
        rest = &rest[c.len_utf8()..];
    }
    !after_dot && !matches!(last, '_' | '-')
}

fn is_ipv6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    let mut plain = String::with_capacity(address.len());
    let mut rest = address;
    while let Some(c) = rest.chars().next() {
        if c == '[' {
            let Some(length) = range_length(rest, true) else { return false };
            rest = &rest[length..];
            plain.push('1');
        } else {
            plain.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    plain.parse::<Ipv6Addr>().is_ok()
}

/// Returns the length in bytes of the well-formed range a text starts with.
fn range_length(text: &str, hexadecimal: bool) -> Option<usize> {
    let end = text.find(']')?;
    let inner = text.get(1..end)?;
    let parts: Vec<&str> = inner.splitn(4, ':').collect();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let letter = |part: &str| part.len() == 1 && part.bytes().all(|b| b.is_ascii_alphabetic());
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    let (begin, last, step) = match parts[..] {
        [begin, last] => (begin, last, None),
        [begin, last, step] => (begin, last, Some(step)),
        _ => return None,
    };
    let bounds =
        if hexadecimal { hex(begin) && hex(last) } else { (number(begin) && number(last)) || (letter(begin) && letter(last)) };
    (bounds && step.is_none_or(number)).then_some(end + 1)
}

/// One part of a pattern.
#[derive(Debug)]
enum Piece<'a> {
    Text(&'a str),
    Letters { first: u8, step: u64, count: u64 },
    Numbers { first: u64, step: u64, count: u64, width: usize },
}

impl Piece<'_> {
    fn count(&self) -> u64 {
        match self {
            Self::Text(_) => 1,
            Self::Letters { count, .. } | Self::Numbers { count, .. } => *count,
        }
    }

    fn push(&self, index: u64, name: &mut String) {
        match *self {
            Self::Text(text) => name.push_str(text),
            Self::Letters { first, step, .. } => {
                let place = u64::from(first) + index * step;
                name.push(usize::try_from(place).ok().and_then(|place| LETTERS.get(place)).map_or('?', |b| char::from(*b)));
            }
            Self::Numbers { first, step, width, .. } => {
                let number = (first + index * step).to_string();
                name.extend(std::iter::repeat_n('0', width.saturating_sub(number.len())));
                name.push_str(&number);
            }
        }
    }
}

/// Ansible's alphabet: lower case before upper case, so that `[x:C]` is a range.
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Writes out the ranges of a name, the last one running fastest. An empty range (`[5:1]`) makes no names.
///
/// Fails if there would be more than `limit` names; nothing is made then.
pub(super) fn expand(pattern: &str, limit: usize) -> Result<Vec<String>, RangeError> {
    let pieces = pieces(pattern)?;
    let total = pieces.iter().fold(1u64, |total, piece| total.saturating_mul(piece.count()));
    let total = usize::try_from(total).ok().filter(|total| *total <= limit).ok_or_else(|| RangeError {
        message: format!("`{}` stands for {total} hosts; the whole inventory may have {}", shorten(pattern), super::MAX_HOSTS),
        hint: None,
    })?;
    let mut names = Vec::with_capacity(total);
    let mut places = vec![0u64; pieces.len()];
    for _ in 0..total {
        let mut name = String::with_capacity(pattern.len());
        pieces.iter().zip(&places).for_each(|(piece, place)| piece.push(*place, &mut name));
        if name.len() > MAX_NAME {
            return Err(RangeError { message: format!("the host name `{}...` is too long", shorten(&name)), hint: None });
        }
        names.push(name);
        for (piece, place) in pieces.iter().zip(&mut places).rev() {
            *place += 1;
            if *place < piece.count() {
                break;
            }
            *place = 0;
        }
    }
    Ok(names)
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

fn pieces(pattern: &str) -> Result<Vec<Piece<'_>>, RangeError> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while let Some((text, after)) = rest.split_once('[') {
        let Some((range, tail)) = after.split_once(']') else {
            return Err(RangeError::new(format!("`{}` has a `[` without its `]`", shorten(pattern)), SYNTAX));
        };
        if pieces.len() >= 2 * MAX_RANGES {
            return Err(RangeError { message: format!("more than {MAX_RANGES} ranges in one host name"), hint: None });
        }
        pieces.push(Piece::Text(text));
        pieces.push(parse_range(range)?);
        rest = tail;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn parse_range(range: &str) -> Result<Piece<'_>, RangeError> {
    let wrong = |why: &str| RangeError::new(format!("`[{}]`: {why}", shorten(range)), SYNTAX);
    let parts: Vec<&str> = range.splitn(9, ':').collect();
    let (begin, end, step) = match parts[..] {
        [begin, end] => (begin, end, "1"),
        [begin, end, step] => (begin, end, step),
        [_] => return Err(wrong("a range needs a begin and an end")),
        _ if range.parse::<Ipv6Addr>().is_ok() => {
            return Err(RangeError::new(
                format!("`[{range}]` is read as a range"),
                "write an IPv6 address without brackets, or with brackets and a port: `\"[2001:db8::1]:22\"`",
            ));
        }
        _ => return Err(wrong("too many parts")),
    };
    if end.is_empty() {
        return Err(wrong("the end is missing"));
    }
    let begin = if begin.is_empty() { "0" } else { begin };
    let step: u64 = number(step).filter(|step| *step > 0).ok_or_else(|| wrong("the step must be a whole number from 1"))?;
    if let (Some(first), Some(last)) = (letter(begin), letter(end)) {
        if first > last {
            return Err(wrong("the begin comes after the end"));
        }
        return Ok(Piece::Letters { first, step, count: u64::from(last - first) / step + 1 });
    }
    let (Some(first), Some(last)) = (number(begin), number(end)) else {
        return Err(wrong("both ends must be whole numbers or single letters"));
    };
    let padded = begin.len() > 1 && begin.starts_with('0');
    if padded && begin.len() != end.len() {
        return Err(wrong("with leading zeros both ends need the same number of digits"));
    }
    let count = last.checked_sub(first).map_or(0, |span| span / step + 1);
    Ok(Piece::Numbers { first, step, count, width: if padded { begin.len() } else { 0 } })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn letter(text: &str) -> Option<u8> {
    let [byte] = text.as_bytes() else { return None };
    LETTERS.iter().position(|letter| letter == byte).and_then(|place| u8::try_from(place).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(pattern: &str) -> Vec<String> {
        expand(pattern, 1000).unwrap()
    }

    #[test]
    fn ranges_become_names() {
        let table: [(&str, &[&str]); 14] = [
            ("web1", &["web1"]),
            ("web[1:3]", &["web1", "web2", "web3"]),
            ("web[08:11].x", &["web08.x", "web09.x", "web10.x", "web11.x"]),
            ("[a:c]", &["a", "b", "c"]),
            ("[y:B]", &["y", "z", "A", "B"]),
            ("n[0:10:5]", &["n0", "n5", "n10"]),
            ("n[:2]", &["n0", "n1", "n2"]),
            ("n[a:f:2]", &["na", "nc", "ne"]),
            ("r[1:2]-[a:b]", &["r1-a", "r1-b", "r2-a", "r2-b"]),
            ("10.0.0.[9:10]", &["10.0.0.9", "10.0.0.10"]),
            ("n[5:1]", &[]),
            ("n[9:11]", &["n9", "n10", "n11"]),
            ("n[001:003:2]", &["n001", "n003"]),
            ("2001:db8::[1:2]", &["2001:db8::1", "2001:db8::2"]),
        ];
        for (pattern, expected) in table {
            assert_eq!(names(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn bad_ranges_say_what_is_wrong() {
        for (pattern, part) in [
            ("n[1]", "needs a begin and an end"),
            ("n[1:", "without its `]`"),
            ("n[1:2:3:4]", "too many parts"),
            ("n[1:]", "the end is missing"),
            ("n[01:100]", "same number of digits"),
            ("n[a:5]", "whole numbers or single letters"),
            ("n[c:a]", "the begin comes after"),
            ("n[1:5:0]", "the step"),
            ("n[1:5:-1]", "the step"),
            ("n[-1:5]", "whole numbers"),
            ("[2001:db8::1]", "read as a range"),
            ("n[1:2000]", "stands for 2000 hosts"),
            ("n[1:999999999999999999][1:999999999999999999]", "stands for"),
        ] {
            let error = expand(pattern, 1000).unwrap_err();
            assert!(error.message.contains(part), "{pattern}: {}", error.message);
        }
    }

    #[test]
    fn ports_are_split_off_network_names_only() {
        for (text, expected) in [
            ("web1", Some(("web1", None))),
            ("web1:2222", Some(("web1", Some(2222)))),
            ("web[1:3]:2222", Some(("web[1:3]", Some(2222)))),
            ("web[1:3]", Some(("web[1:3]", None))),
            ("10.0.0.1:22", Some(("10.0.0.1", Some(22)))),
            ("2001:db8::1", Some(("2001:db8::1", None))),
            ("[2001:db8::1]:22", Some(("2001:db8::1", Some(22)))),
            ("[web1]:22", Some(("web1", Some(22)))),
            ("web_:22", None),
            ("web:db", None),
            ("web*", None),
            ("", None),
            ("a..b", None),
            ("web1:99999999999999999999", Some(("web1", Some(u32::MAX)))),
        ] {
            assert_eq!(split_port(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_split_and_expanded_without_panic_or_excess(text in "\\PC{0,30}|[\\[\\]:0-9a-z.]{0,30}") {
            let name = split_port(&text).map_or(text.as_str(), |(name, _)| name);
            if let Ok(names) = expand(name, 50) {
                prop_assert!(names.len() <= 50);
            }
        }
    }
}
