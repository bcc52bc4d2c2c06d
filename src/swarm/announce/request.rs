//! The request's URL (BEP 3, 23): raw bytes, percent-encoded. Pure.

use std::{fmt::Write as _, net::IpAddr};

use librqbit_core::hash_id::Id20;

use super::AnnounceProgress;

/// How many peers are asked for.
const WANTED: usize = 50;

/// Why an announce is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Started,
    Stopped,
    Completed,
}

/// One announce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) info_hash: Id20,
    pub(super) peer_id: Id20,
    pub(super) port: u16,
    pub(super) advertise: Option<IpAddr>,
    pub(super) progress: AnnounceProgress,
    pub(super) event: Option<Event>,
}

impl Request {
    /// Returns the URL to get, made of the announce URL `base`, which may have a query of its own.
    pub(super) fn url(&self, base: &str) -> String {
        let AnnounceProgress { uploaded, downloaded, left } = self.progress;
        let (separator, port) = (if base.contains('?') { '&' } else { '?' }, self.port);
        let (hash, id) = (percent_encode(&self.info_hash.0), percent_encode(&self.peer_id.0));
        let wanted = if self.event == Some(Event::Stopped) { 0 } else { WANTED };
        let mut url = format!(
            "{base}{separator}info_hash={hash}&peer_id={id}&port={port}&uploaded={uploaded}&downloaded={downloaded}\
             &left={left}&numwant={wanted}&compact=1&no_peer_id=1"
        );
        match self.event {
            Some(Event::Started) => url += "&event=started",
            Some(Event::Stopped) => url += "&event=stopped",
            Some(Event::Completed) => url += "&event=completed",
            None => {}
        }
        if let Some(address) = self.advertise {
            // Writing to a string can't fail.
            let _ = write!(url, "&ip={address}");
        }
        url
    }
}

/// Encodes every byte but RFC 3986's unreserved ones.
fn percent_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 3);
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_everything_in_raw_bytes() {
        let mut request = Request {
            info_hash: Id20::new(*b"\x00\xff%&=+ ~-._09azAZ[]\x7f"),
            peer_id: Id20::new(*b"-FD0100-abcdefghijkl"),
            port: 6881,
            advertise: Some("2001:db8::1".parse().unwrap()),
            progress: AnnounceProgress { uploaded: 1, downloaded: 2, left: 3 },
            event: Some(Event::Started),
        };
        assert_eq!(
            request.url("http://h:1/k/announce"),
            "http://h:1/k/announce?info_hash=%00%FF%25%26%3D%2B%20~-._09azAZ%5B%5D%7F&peer_id=-FD0100-abcdefghijkl&port=6881\
             &uploaded=1&downloaded=2&left=3&numwant=50&compact=1&no_peer_id=1&event=started&ip=2001:db8::1"
        );
        (request.event, request.advertise) = (None, None);
        assert!(request.url("http://h/a?x=y").starts_with("http://h/a?x=y&info_hash=%00%FF"));
        assert!(request.url("http://h/a").ends_with("no_peer_id=1"));
        request.event = Some(Event::Stopped);
        assert!(request.url("http://h/a").contains("&numwant=0&"));
    }
}
