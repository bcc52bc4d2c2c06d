//! What a tracker answers, and how much of it is believed. Pure.
//!
//! The tracker is the controller's own, but its answer comes over the network: anything may be in it. Peers come compact (BEP 23, BEP 7)
//! or as dictionaries (BEP 3).

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::AnnounceError;
use crate::swarm::bencode::Reader;

/// The longest answer that is read, in bytes.
pub(super) const MAX_REPLY: usize = 1 << 20;
/// The most peers that are looked at in one answer.
const MAX_LOOKED_AT: usize = 10_000;
/// The most peers that are taken from one answer.
pub(super) const MAX_PEERS: usize = 200;
/// The longest failure reason that is passed on, in characters.
const MAX_REASON: usize = 200;

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) interval: Option<Duration>,
    pub(super) min_interval: Option<Duration>,
    pub(super) peers: Vec<SocketAddr>,
}

/// Reads an answer's bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<Reply, AnnounceError> {
    let mut reader = Reader::new(bytes);
    let mut reply = Reply::default();
    let mut refused = None;
    read(&mut reader, &mut reply, &mut refused).ok_or(AnnounceError::Malformed)?;
    match refused {
        Some(reason) => Err(AnnounceError::Refused(reason)),
        None => Ok(reply),
    }
}

fn read(reader: &mut Reader<'_>, reply: &mut Reply, refused: &mut Option<String>) -> Option<()> {
    if !reader.eat(b'd') {
        return None;
    }
    while !reader.eat(b'e') {
        match reader.bytes()? {
            b"failure reason" => *refused = Some(printable(reader.bytes()?)),
            b"interval" => reply.interval = Some(Duration::from_secs(reader.unsigned()?)),
            b"min interval" => reply.min_interval = Some(Duration::from_secs(reader.unsigned()?)),
            b"peers" if reader.eat(b'l') => read_list(reader, &mut reply.peers)?,
            b"peers" => read_compact::<6>(reader.bytes()?, &mut reply.peers)?,
            b"peers6" => read_compact::<18>(reader.bytes()?, &mut reply.peers)?,
            _ => reader.skip()?,
        }
    }
    // Some trackers end their answer with a line feed.
    Some(())
}

/// Reads addresses of `N` bytes, the last two of which are the port.
fn read_compact<const N: usize>(bytes: &[u8], peers: &mut Vec<SocketAddr>) -> Option<()> {
    let (entries, []) = bytes.as_chunks::<N>() else { return None };
    for entry in entries {
        let (address, port) = entry.split_last_chunk::<2>()?;
        let address = match <[u8; 4]>::try_from(address) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        };
        push(peers, SocketAddr::new(address, u16::from_be_bytes(*port)));
    }
    Some(())
}

/// Reads the rest of a list of dictionaries. A peer without a literal address or with a wrong port is passed over.
fn read_list(reader: &mut Reader<'_>, peers: &mut Vec<SocketAddr>) -> Option<()> {
    while !reader.eat(b'e') {
        if !reader.eat(b'd') {
            return None;
        }
        let (mut ip, mut port) = (None::<IpAddr>, None);
        while !reader.eat(b'e') {
            match reader.bytes()? {
                b"ip" => ip = std::str::from_utf8(reader.bytes()?).ok().and_then(|text| text.parse().ok()),
                b"port" => port = u16::try_from(reader.unsigned()?).ok(),
                _ => reader.skip()?,
            }
        }
        if let (Some(ip), Some(port)) = (ip, port) {
            push(peers, SocketAddr::new(ip, port));
        }
    }
    Some(())
}

fn push(peers: &mut Vec<SocketAddr>, peer: SocketAddr) {
    if peers.len() < MAX_LOOKED_AT {
        peers.push(peer);
    }
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_REASON)]);
    text.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Which peers of an answer are worth a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter {
    /// Peers on loopback make sense only if the tracker is there too.
    pub(super) loopback: bool,
    /// This peer, as far as it knows its address.
    pub(super) own: Option<SocketAddr>,
}

impl Filter {
    /// Returns the usable peers: each once, in random order, at most [`MAX_PEERS`].
    pub(super) fn select(self, peers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let distinct: BTreeSet<SocketAddr> = peers
            .into_iter()
            .map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()))
            .filter(|peer| self.admits(*peer))
            .collect();
        let mut chosen = fastrand::choose_multiple(distinct, MAX_PEERS);
        fastrand::shuffle(&mut chosen);
        chosen
    }

    fn admits(self, peer: SocketAddr) -> bool {
        let ip = peer.ip();
        let nowhere = match ip {
            IpAddr::V4(ip) => ip.is_broadcast() || ip.octets()[0] == 0,
            // Without its zone a link-local address leads nowhere.
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let own = self.own.is_some_and(|own| own == peer);
        peer.port() != 0
            && !own
            && !nowhere
            && !ip.is_unspecified()
            && !ip.is_multicast()
            && (self.loopback || !ip.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_forms_and_families_are_read() {
        let compact =
            b"d8:completei1e8:intervali30e12:min intervali5e5:peers12:\x0a\0\0\x01\x01\x02\x0a\0\0\x02\0\x016:peers618:\
            \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\0e";
        let reply = parse(compact).unwrap();
        assert_eq!(reply.peers, [address("10.0.0.1:258"), address("10.0.0.2:1"), address("[2001:db8::1]:256")]);
        assert_eq!((reply.interval, reply.min_interval), (Some(Duration::from_secs(30)), Some(Duration::from_secs(5))));
        let list = b"d5:peersld2:ip8:10.0.0.17:peer id20:-FD0100-abcdefghijkl4:porti258eed2:ip4:host4:porti1eed4:porti1eeee\n";
        assert_eq!(parse(list).unwrap().peers, [address("10.0.0.1:258")]);
        assert_eq!(parse(b"de").unwrap(), Reply::default());
    }

    #[test]
    fn garbage_is_an_error_and_a_refusal_is_printable_and_short() {
        for bad in [
            &b""[..],
            b"<html>",
            b"i1e",
            b"d",
            b"d5:peers5:abcdee",
            b"d5:peersi1ee",
            b"d5:peersl1:xee",
            b"d8:intervali-1ee",
            b"d8:intervali99999999999999999999ee",
            b"d1:xllllllllllllllllllllllllllllllllllllllllllllllll",
        ] {
            assert!(matches!(parse(bad), Err(AnnounceError::Malformed)), "{}", bad.escape_ascii());
        }
        let Err(AnnounceError::Refused(reason)) = parse(b"d14:failure reason6:no\x1b[2\xffe") else { panic!("not refused") };
        assert_eq!(reason, "no [2\u{fffd}");
        let long = format!("d14:failure reason9000:{}e", "ä".repeat(4500));
        let Err(AnnounceError::Refused(reason)) = parse(long.as_bytes()) else { panic!("not refused") };
        assert_eq!(reason, "ä".repeat(MAX_REASON));
    }

    #[test]
    fn peers_that_make_no_sense_are_left_out() {
        let own = Some(address("10.0.0.9:1"));
        let lies = [
            "10.0.0.9:1",
            "10.0.0.1:0",
            "0.0.0.0:1",
            "0.1.2.3:1",
            "255.255.255.255:1",
            "224.0.0.1:1",
            "[::]:1",
            "[ff02::1]:1",
            "[fe80::1]:1",
            "127.0.0.1:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ];
        let peers: Vec<_> = lies.into_iter().chain(["10.0.0.9:2", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"]).map(address).collect();
        let mut kept = Filter { loopback: false, own }.select(peers.clone());
        kept.sort();
        assert_eq!(kept, [address("10.0.0.1:1"), address("10.0.0.9:2")]);
        assert_eq!(Filter { loopback: true, own }.select(peers).len(), 4);
    }

    #[test]
    fn a_flood_is_cut_to_a_random_handful() {
        let entries: Vec<u8> = (0..20_000u32).flat_map(|n| [10, (n >> 16) as u8, (n >> 8) as u8, n as u8, 0, 1]).collect();
        let reply = parse(&[format!("d5:peers{}:", entries.len()).as_bytes(), &entries, b"e"].concat()).unwrap();
        assert_eq!(reply.peers.len(), MAX_LOOKED_AT);
        let first = reply.peers[..MAX_PEERS].to_vec();
        let mut kept = Filter { loopback: false, own: None }.select(reply.peers);
        kept.sort();
        assert_eq!(kept.len(), MAX_PEERS);
        assert_ne!(kept, first);
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_answer_of_plausible_parts_panics(
            text in "d(5:peers|6:peers6|8:interval|2:ip|4:port|14:failure reason|i-?[0-9]{1,22}e|[0-9]{1,3}:|d|l|e|[a-z]){0,40}"
        ) {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn nothing_unusable_gets_through(
            peers in prop::collection::vec((any::<[u8; 4]>(), 0u16..3), 0..300), loopback: bool,
        ) {
            let peers: Vec<SocketAddr> = peers.into_iter().map(SocketAddr::from).collect();
            let own = peers.first().copied();
            let kept = Filter { loopback, own }.select(peers);
            prop_assert!(kept.len() <= MAX_PEERS);
            prop_assert_eq!(kept.iter().collect::<BTreeSet<_>>().len(), kept.len());
            for peer in kept {
                prop_assert!(peer.port() != 0 && Some(peer) != own && !peer.ip().is_unspecified());
                prop_assert!(loopback || !peer.ip().is_loopback());
            }
        }
    }
}
