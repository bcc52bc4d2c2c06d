//! The bytes of an answer: bencoded dictionaries with their keys in order (BEP 3, 7, 23, 48). Pure.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use librqbit_core::hash_id::Id20;

use super::registry::{Listed, TrackerCounts};

/// Returns the dictionary that tells a client why it is refused.
pub(super) fn failure(reason: &str) -> Vec<u8> {
    let mut out = vec![b'd'];
    text(&mut out, b"failure reason");
    text(&mut out, reason.as_bytes());
    out.push(b'e');
    out
}

/// How an announce is answered.
pub(super) struct AnnounceReply<'a> {
    pub(super) counts: TrackerCounts,
    pub(super) interval: Duration,
    pub(super) min_interval: Duration,
    pub(super) peers: &'a [Listed],
    pub(super) compact: bool,
    pub(super) no_peer_id: bool,
}

impl AnnounceReply<'_> {
    /// Returns the answer's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![b'd'];
        text(&mut out, b"complete");
        number(&mut out, self.counts.complete as u64);
        text(&mut out, b"downloaded");
        number(&mut out, self.counts.downloaded);
        text(&mut out, b"incomplete");
        number(&mut out, self.counts.incomplete as u64);
        text(&mut out, b"interval");
        number(&mut out, self.interval.as_secs());
        text(&mut out, b"min interval");
        number(&mut out, self.min_interval.as_secs());
        if self.compact {
            let (v4, v6) = compact(self.peers);
            text(&mut out, b"peers");
            text(&mut out, &v4);
            if !v6.is_empty() {
                text(&mut out, b"peers6");
                text(&mut out, &v6);
            }
        } else {
            text(&mut out, b"peers");
            self.peer_list(&mut out);
        }
        out.push(b'e');
        out
    }

    fn peer_list(&self, out: &mut Vec<u8>) {
        out.push(b'l');
        for peer in self.peers {
            out.push(b'd');
            text(out, b"ip");
            text(out, peer.address.ip().to_string().as_bytes());
            if let Some(id) = peer.id.filter(|_| !self.no_peer_id) {
                text(out, b"peer id");
                text(out, &id.0);
            }
            text(out, b"port");
            number(out, peer.address.port().into());
            out.push(b'e');
        }
        out.push(b'e');
    }
}

/// Returns a scrape's answer: the torrent's counts, if it was asked for.
pub(super) fn scrape(info_hash: Id20, counts: Option<TrackerCounts>) -> Vec<u8> {
    let mut out = vec![b'd'];
    text(&mut out, b"files");
    out.push(b'd');
    if let Some(counts) = counts {
        text(&mut out, &info_hash.0);
        out.push(b'd');
        text(&mut out, b"complete");
        number(&mut out, counts.complete as u64);
        text(&mut out, b"downloaded");
        number(&mut out, counts.downloaded);
        text(&mut out, b"incomplete");
        number(&mut out, counts.incomplete as u64);
        out.push(b'e');
    }
    out.extend(b"ee");
    out
}

/// Returns the peers as `peers` (6 bytes each, BEP 23) and `peers6` (18 bytes each, BEP 7).
fn compact(peers: &[Listed]) -> (Vec<u8>, Vec<u8>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for peer in peers {
        let port = peer.address.port().to_be_bytes();
        match peer.address {
            SocketAddr::V4(address) => v4.extend(address.ip().octets().into_iter().chain(port)),
            SocketAddr::V6(address) => v6.extend(address.ip().octets().into_iter().chain(port)),
        }
    }
    (v4, v6)
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    // Writing to a vector can't fail.
    let _ = write!(out, "{}:", bytes.len());
    out.extend_from_slice(bytes);
}

fn number(out: &mut Vec<u8>, value: u64) {
    let _ = write!(out, "i{value}e");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(peers: &[Listed], compact: bool, no_peer_id: bool) -> String {
        let counts = TrackerCounts { complete: 1, incomplete: 2, downloaded: 3 };
        let (interval, min_interval) = (Duration::from_secs(30), Duration::from_secs(5));
        AnnounceReply { counts, interval, min_interval, peers, compact, no_peer_id }.encode().escape_ascii().to_string()
    }

    const HEAD: &str = "d8:completei1e10:downloadedi3e10:incompletei2e8:intervali30e12:min intervali5e";

    #[test]
    fn peers_come_in_both_forms_and_families() {
        let v4 = Listed { address: "10.0.0.1:258".parse().unwrap(), id: Some(Id20::new(*b"-FD0100-abcdefghijkl")) };
        let v6 = Listed { address: "[2001:db8::1]:1".parse().unwrap(), id: None };
        assert_eq!(reply(&[], true, false), format!("{HEAD}5:peers0:e"));
        assert_eq!(
            reply(&[v4, v6], true, false),
            format!(r"{HEAD}5:peers6:\n\x00\x00\x01\x01\x026:peers618: \x01\r\xb8{}\x01\x00\x01e", r"\x00".repeat(11))
        );
        assert_eq!(
            reply(&[v4, v6], false, false),
            format!("{HEAD}5:peersld2:ip8:10.0.0.17:peer id20:-FD0100-abcdefghijkl4:porti258eed2:ip11:2001:db8::14:porti1eeee")
        );
        assert_eq!(reply(&[v4], false, true), format!("{HEAD}5:peersld2:ip8:10.0.0.14:porti258eeee"));
    }

    #[test]
    fn failures_and_scrapes_are_dictionaries() {
        assert_eq!(failure("no"), b"d14:failure reason2:noe");
        let hash = Id20::new([b'h'; 20]);
        let counts = TrackerCounts { complete: 4, incomplete: 5, downloaded: 6 };
        assert_eq!(
            scrape(hash, Some(counts)),
            b"d5:filesd20:hhhhhhhhhhhhhhhhhhhhd8:completei4e10:downloadedi6e10:incompletei5eeee"
        );
        assert_eq!(scrape(hash, None), b"d5:filesdee");
    }
}
