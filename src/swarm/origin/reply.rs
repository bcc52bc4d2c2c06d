//! What an origin's headers say. Pure.

use std::{ops::Range, time::Duration};

use hyper::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderName, RETRY_AFTER},
};

/// How long an origin is left alone that is busy and does not say for how long.
const USUAL_REST: Duration = Duration::from_secs(5);

/// A `Content-Range` (RFC 9110, section 14.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// Which bytes come.
    pub(super) bytes: Range<u64>,
    /// How many there are, if it is said.
    pub(super) of: Option<u64>,
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Returns what a `206 Partial Content` says to be.
pub(super) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let (range, of) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (number(first)?, number(last)?);
    let of = if of == "*" { None } else { Some(number(of)?) };
    (first <= last && of.is_none_or(|of| last < of)).then(|| ContentRange { bytes: first..last.saturating_add(1), of })
}

/// Returns how long a body is, if it is said.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    number(text(headers, CONTENT_LENGTH)?)
}

/// Returns whether the body is something else than the bytes of the file, for example compressed.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    text(headers, CONTENT_ENCODING).is_some_and(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity"))
}

/// Returns for how long an origin that is busy wants to be left alone; `body` may say it as well (BEP 17: a number of seconds).
pub(super) fn rest(headers: &HeaderMap, body: &[u8]) -> Duration {
    let said = text(headers, RETRY_AFTER).and_then(number);
    let said = said.or_else(|| number(std::str::from_utf8(body).ok()?.trim()));
    said.map_or(USUAL_REST, Duration::from_secs)
}

/// Reads a number of digits alone.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn ranges() {
        let range = |value: &str| content_range(&headers(CONTENT_RANGE, value));
        assert_eq!(range("bytes 0-0/5"), Some(ContentRange { bytes: 0..1, of: Some(5) }));
        assert_eq!(range("bytes 7-9/*"), Some(ContentRange { bytes: 7..10, of: None }));
        for bad in
            ["", "bytes", "bytes */5", "bytes 3-2/5", "bytes 0-5/5", "bytes -1-2/5", "0-1/5", "bytes 0-1", "bytes +1-2/5"]
        {
            assert_eq!(range(bad), None, "{bad}");
        }
    }

    #[test]
    fn busy_origins_say_for_how_long() {
        let none = HeaderMap::new();
        assert_eq!(rest(&headers(RETRY_AFTER, "120"), b"7"), Duration::from_secs(120));
        assert_eq!(rest(&none, b" 30\n"), Duration::from_secs(30));
        assert_eq!(rest(&headers(RETRY_AFTER, "Fri, 31 Dec 1999 23:59:59 GMT"), b"<html>"), USUAL_REST);
        assert_eq!(rest(&none, &[0xff]), USUAL_REST);
    }

    #[test]
    fn other_bodies_than_the_file() {
        assert!(is_encoded(&headers(CONTENT_ENCODING, "gzip")));
        assert!(!is_encoded(&headers(CONTENT_ENCODING, "Identity")) && !is_encoded(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_not(value in "[ -~]{0,40}") {
            let _ = content_range(&headers(CONTENT_RANGE, &value));
            let _ = content_length(&headers(CONTENT_LENGTH, &value));
            let _ = rest(&headers(RETRY_AFTER, &value), value.as_bytes());
        }
    }
}
