//! What an announce or a scrape asks (BEP 3, 23, 48): a strict parser of the raw query string. Pure.
//!
//! `info_hash` and `peer_id` are 20 raw bytes, percent-encoded: not UTF-8, so no form decoder is involved. Keys this tracker does not
//! use are ignored, as BEP 3 clients send many; a key it does use must be there once and be well-formed.

use std::net::IpAddr;

use librqbit_core::hash_id::Id20;

/// The longest query that is looked at, in bytes. A client's announce has some 400.
pub(super) const MAX_QUERY: usize = 2048;

/// The most peers one announce is answered with, whatever it wants.
pub(super) const MAX_WANTED: usize = 200;

/// How many peers a client gets that does not say.
const DEFAULT_WANTED: usize = 50;

/// Says what is wrong with a query; the client sees it as its `failure reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("query too long")]
    TooLong,
    #[error("bad percent-encoding")]
    Encoding,
    #[error("missing {0}")]
    Missing(&'static str),
    #[error("invalid {0}")]
    Invalid(&'static str),
    #[error("{0} given twice")]
    Duplicate(&'static str),
}

/// Why a peer announces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It has just begun.
    Started,
    /// It leaves.
    Stopped,
    /// It has just got the last piece.
    Completed,
}

/// One announce, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnnounceQuery {
    pub(super) info_hash: Id20,
    pub(super) peer_id: Id20,
    /// Where it listens; never 0.
    pub(super) port: u16,
    /// Bytes it lacks; none if it does not say.
    pub(super) left: Option<u64>,
    /// None for a periodic announce.
    pub(super) event: Option<Event>,
    /// How many peers it wants, at most [`MAX_WANTED`].
    pub(super) wanted: usize,
    /// False if it asks for the list of dictionaries.
    pub(super) compact: bool,
    /// True if it does not care for the others' peer ids.
    pub(super) no_peer_id: bool,
    /// The address it says it is reached at. A host name is as good as nothing here.
    pub(super) ip: Option<IpAddr>,
}

/// Reads an announce's query string.
pub(super) fn parse_announce(raw: &str) -> Result<AnnounceQuery, QueryError> {
    let [info_hash, peer_id, port, left, event, numwant, compact, no_peer_id, ip] =
        collect(raw, ["info_hash", "peer_id", "port", "left", "event", "numwant", "compact", "no_peer_id", "ip"])?;
    let port = number(required(port, "port")?, "port")?;
    let port = u16::try_from(port).ok().filter(|port| *port != 0).ok_or(QueryError::Invalid("port"))?;
    let event = match event.as_deref() {
        Some(b"started") => Some(Event::Started),
        Some(b"stopped") => Some(Event::Stopped),
        Some(b"completed") => Some(Event::Completed),
        // `empty` is BEP 3's name for none, and other extensions' events (BEP 21's `paused`) count as a periodic announce.
        _ => None,
    };
    // Clients that don't care send -1.
    let wanted = numwant
        .filter(|text| text != b"-1")
        .map(|text| number(text, "numwant"))
        .transpose()?
        .map_or(DEFAULT_WANTED, |wanted| usize::try_from(wanted).unwrap_or(MAX_WANTED).min(MAX_WANTED));
    Ok(AnnounceQuery {
        info_hash: id(info_hash, "info_hash")?,
        peer_id: id(peer_id, "peer_id")?,
        port,
        left: left.map(|text| number(text, "left")).transpose()?,
        event,
        wanted,
        compact: compact.as_deref() != Some(b"0"),
        no_peer_id: no_peer_id.as_deref() == Some(b"1"),
        ip: ip.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok()),
    })
}

/// Reads a scrape's query string: the info-hashes it asks about, as they come. BEP 48 allows several and none.
pub(super) fn parse_scrape(raw: &str) -> Result<Vec<Id20>, QueryError> {
    if raw.len() > MAX_QUERY {
        return Err(QueryError::TooLong);
    }
    pairs(raw).filter(|(key, _)| *key == "info_hash").map(|(_, value)| id(Some(percent_decode(value)?), "info_hash")).collect()
}

/// Picks the values of `keys`, decoded.
fn collect<const N: usize>(raw: &str, keys: [&'static str; N]) -> Result<[Option<Vec<u8>>; N], QueryError> {
    if raw.len() > MAX_QUERY {
        return Err(QueryError::TooLong);
    }
    let mut values = [const { None }; N];
    for (key, value) in pairs(raw) {
        let Some(at) = keys.iter().position(|known| *known == key) else { continue };
        if values[at].replace(percent_decode(value)?).is_some() {
            return Err(QueryError::Duplicate(keys[at]));
        }
    }
    Ok(values)
}

fn pairs(raw: &str) -> impl Iterator<Item = (&str, &str)> {
    raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Undoes percent-encoding (RFC 3986, 2.1). `+` is itself: these values are bytes, not a form.
fn percent_decode(text: &str) -> Result<Vec<u8>, QueryError> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(QueryError::Encoding);
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            decoded.push((high * 16 + low) as u8);
        } else {
            decoded.push(byte);
        }
    }
    Ok(decoded)
}

fn required(value: Option<Vec<u8>>, what: &'static str) -> Result<Vec<u8>, QueryError> {
    value.ok_or(QueryError::Missing(what))
}

fn id(value: Option<Vec<u8>>, what: &'static str) -> Result<Id20, QueryError> {
    let bytes = required(value, what)?;
    bytes.try_into().map(Id20::new).map_err(|_| QueryError::Invalid(what))
}

/// Reads decimal digits, and nothing but digits.
fn number(text: Vec<u8>, what: &'static str) -> Result<u64, QueryError> {
    std::str::from_utf8(&text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or(QueryError::Invalid(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "%00%01%02%ff%FEabcdefghijklmno";
    const PEER: &str = "-FD0100-%20%25%26%3D%2B3456789";

    fn announce(rest: &str) -> Result<AnnounceQuery, QueryError> {
        parse_announce(&format!("info_hash={HASH}&peer_id={PEER}&{rest}"))
    }

    #[test]
    fn binary_ids_survive_their_encoding() {
        let query = announce("port=6881&left=7&event=started&numwant=9&compact=0&no_peer_id=1&ip=10.0.0.7&key=x").unwrap();
        assert_eq!(&query.info_hash.0, b"\x00\x01\x02\xff\xfeabcdefghijklmno");
        assert_eq!(&query.peer_id.0, b"-FD0100- %&=+3456789");
        assert_eq!((query.port, query.left, query.event), (6881, Some(7), Some(Event::Started)));
        assert_eq!((query.wanted, query.compact, query.no_peer_id), (9, false, true));
        assert_eq!(query.ip, Some("10.0.0.7".parse().unwrap()));
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let query = announce("port=1").unwrap();
        assert_eq!((query.left, query.event, query.wanted), (None, None, DEFAULT_WANTED));
        assert!(query.compact && !query.no_peer_id && query.ip.is_none());
        assert_eq!(announce("port=1&numwant=-1").unwrap().wanted, DEFAULT_WANTED);
        assert_eq!(announce("port=1&numwant=4000000000").unwrap().wanted, MAX_WANTED);
        assert_eq!(announce("port=1&event=paused").unwrap().event, None);
        assert_eq!(announce("port=1&ip=host.example").unwrap().ip, None);
        assert_eq!(announce("port=1&ip=2001:db8::1").unwrap().ip, Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (rest, expected) in [
            ("", QueryError::Missing("port")),
            ("port=0", QueryError::Invalid("port")),
            ("port=65536", QueryError::Invalid("port")),
            ("port=99999999999999999999999", QueryError::Invalid("port")),
            ("port=", QueryError::Invalid("port")),
            ("port", QueryError::Invalid("port")),
            ("port=+80", QueryError::Invalid("port")),
            ("port=-1", QueryError::Invalid("port")),
            ("port=%c3", QueryError::Invalid("port")),
            ("port=1&port=2", QueryError::Duplicate("port")),
            ("port=1&left=-1", QueryError::Invalid("left")),
            ("port=1&numwant=many", QueryError::Invalid("numwant")),
            ("port=1&event=%4", QueryError::Encoding),
            ("port=1&event=%zz", QueryError::Encoding),
            ("port=1&info_hash=x", QueryError::Duplicate("info_hash")),
        ] {
            assert_eq!(announce(rest), Err(expected), "{rest}");
        }
        assert_eq!(parse_announce(&format!("peer_id={PEER}&port=1")), Err(QueryError::Missing("info_hash")));
        assert_eq!(parse_announce(&format!("info_hash={HASH}&port=1")), Err(QueryError::Missing("peer_id")));
        assert_eq!(parse_announce(&format!("info_hash={HASH}x&peer_id={PEER}&port=1")), Err(QueryError::Invalid("info_hash")));
        assert_eq!(announce(&format!("port=1&x={}", "y".repeat(MAX_QUERY))), Err(QueryError::TooLong));
        assert_eq!(parse_scrape(&"x".repeat(MAX_QUERY + 1)), Err(QueryError::TooLong));
    }

    #[test]
    fn a_scrape_asks_for_any_number_of_torrents() {
        assert_eq!(parse_scrape(""), Ok(vec![]));
        let two = parse_scrape(&format!("info_hash={HASH}&info_hash={PEER}")).unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(parse_scrape("info_hash=short"), Err(QueryError::Invalid("info_hash")));
    }

    fn encode(bytes: &[u8], raw: &[bool]) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        bytes
            .iter()
            .zip(raw.iter().cycle())
            .map(|(byte, raw)| if *raw && plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    }

    proptest! {
        #[test]
        fn any_announce_a_client_can_write_is_read_back(
            hash: [u8; 20], peer: [u8; 20], port in 1u16.., left: Option<u64>, wanted: Option<u32>,
            raw in prop::collection::vec(any::<bool>(), 1..20),
        ) {
            let mut text = format!("port={port}&peer_id={}&info_hash={}", encode(&peer, &raw), encode(&hash, &raw));
            if let Some(left) = left { text += &format!("&left={left}"); }
            if let Some(wanted) = wanted { text += &format!("&numwant={wanted}"); }
            let query = parse_announce(&text).unwrap();
            prop_assert_eq!((query.info_hash.0, query.peer_id.0, query.port, query.left), (hash, peer, port, left));
            prop_assert_eq!(query.wanted, wanted.map_or(DEFAULT_WANTED, |wanted| MAX_WANTED.min(wanted as usize)));
        }

        #[test]
        fn no_query_panics(raw in "(info_hash|peer_id|port|left|numwant|ip|[ -~]|[&=%0-9a-f]){0,60}") {
            let _ = parse_announce(&raw);
            let _ = parse_scrape(&raw);
        }
    }
}
