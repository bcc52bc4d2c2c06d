//! The messages between peers: BEP 3, the extension handshake of BEP 10, and our own extension in it.
//!
//! Fixed-size messages are written and read by `librqbit-peer-protocol`; this module adds the limits. Pieces' payload never
//! passes through here: the connection moves it between socket and buffer itself.
//!
//! # Our extension
//! A fleet peer lists `fd_push` in `m`: it accepts pieces it did not ask for from a peer that says `fd_seed` = 1 at the top level.
//! Nothing is ever sent under the message id; it only says that the peer understands. In a fleet with zones, `fd_zone` at the top level is the
//! number of the peer's zone and `fd_rank` its own among the zone's hosts.

use librqbit_core::hash_id::Id20;
use librqbit_peer_protocol::{Handshake, Message, Request, extended::PeerExtendedMessageIds};

use super::{bencode::Reader, policy::PieceSet};
use crate::model::Place;

/// A block: the unit of requests.
pub(super) const BLOCK: u32 = 16 << 10;
/// A handshake's length in bytes.
pub(super) const HANDSHAKE_LEN: usize = 68;
/// A piece message's bytes before the block.
pub(super) const PIECE_HEADER_LEN: usize = 13;
/// The length of a message that announces a piece, in bytes.
pub(super) const HAVE_LEN: usize = 9;
/// The message ids that are handled by hand.
pub(super) const ID_BITFIELD: u8 = 5;
pub(super) const ID_PIECE: u8 = 7;
pub(super) const ID_EXTENDED: u8 = 20;
/// The longest message of a kind that is not known to be longer: unknown ones are skipped up to this length.
const MAX_OTHER: u32 = 4 << 10;
const MAX_EXTENDED: u32 = 32 << 10;
/// How many requests a peer may have queued with us.
pub(super) const MAX_QUEUED_REQUESTS: usize = 2048;

/// A peer broke the protocol; the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Violation(pub(super) &'static str);

/// What is known of a peer from its extension handshake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    /// It speaks our extension.
    pub(super) fleet: bool,
    /// It says it is the controller's seed.
    pub(super) seed: bool,
    /// The number of its zone, and its own among the zone's hosts.
    pub(super) zone: Option<u32>,
    /// See `zone`.
    pub(super) rank: Option<u32>,
    /// Where it listens.
    pub(super) port: Option<u16>,
    /// How many requests it queues for us.
    pub(super) queue: Option<u32>,
}

/// Writes the handshake.
pub(super) fn handshake(info_hash: Id20, peer_id: Id20) -> [u8; HANDSHAKE_LEN] {
    let mut bytes = [0; HANDSHAKE_LEN];
    let _ = Handshake::new(info_hash, peer_id).serialize_unchecked_len(&mut bytes);
    bytes
}

/// Reads a handshake and checks that it is for our torrent; returns the peer's id and whether it speaks BEP 10.
pub(super) fn read_handshake(bytes: &[u8; HANDSHAKE_LEN], info_hash: Id20) -> Result<(Id20, bool), Violation> {
    let (shake, _) = Handshake::deserialize(bytes).map_err(|_| Violation("it does not speak BitTorrent"))?;
    if shake.info_hash != info_hash {
        return Err(Violation("it is in another swarm"));
    }
    Ok((shake.peer_id, shake.supports_extended()))
}

/// Writes the extension handshake.
pub(super) fn extension_handshake(seed: bool, place: Option<Place>, port: u16) -> Vec<u8> {
    let zone = place.map(|place| format!("7:fd_zonei{}e", place.zone)).unwrap_or_default();
    let rank = place.filter(|_| !seed).map(|place| format!("7:fd_ranki{}e", place.rank)).unwrap_or_default();
    let seed = if seed { "7:fd_seedi1e" } else { "" };
    let client = concat!("fleetdrop ", env!("CARGO_PKG_VERSION"));
    let dictionary =
        format!("d{rank}{seed}{zone}1:md7:fd_pushi1ee1:pi{port}e4:reqqi{MAX_QUEUED_REQUESTS}e1:v{}:{client}e", client.len());
    let mut bytes = Vec::with_capacity(dictionary.len() + 6);
    bytes.extend_from_slice(&(dictionary.len() as u32 + 2).to_be_bytes());
    bytes.extend_from_slice(&[ID_EXTENDED, 0]);
    bytes.extend_from_slice(dictionary.as_bytes());
    bytes
}

/// Reads the payload of an extended message: none if it is not the handshake.
pub(super) fn read_extension_handshake(payload: &[u8]) -> Result<Option<Extensions>, Violation> {
    match payload.split_first() {
        Some((0, dictionary)) => match parse_extensions(dictionary) {
            Some(extensions) => Ok(Some(extensions)),
            None => Err(Violation("its extension handshake is not bencode")),
        },
        Some(_) => Ok(None),
        None => Err(Violation("it sent an empty extended message")),
    }
}

fn parse_extensions(dictionary: &[u8]) -> Option<Extensions> {
    let mut found = Extensions::default();
    let mut reader = Reader::new(dictionary);
    if !reader.eat(b'd') {
        return None;
    }
    while !reader.eat(b'e') {
        match reader.bytes()? {
            b"m" => found.fleet = read_push_id(&mut reader)?,
            // Values of an unexpected kind are skipped: BEP 10 wants to be extended.
            key => {
                let mut value = reader;
                reader.skip()?;
                match key {
                    b"fd_rank" => found.rank = value.unsigned().and_then(|rank| u32::try_from(rank).ok()),
                    b"fd_zone" => found.zone = value.unsigned().and_then(|zone| u32::try_from(zone).ok()),
                    b"fd_seed" => found.seed = value.unsigned() == Some(1),
                    b"p" => found.port = value.unsigned().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
                    b"reqq" => found.queue = value.unsigned().and_then(|queue| u32::try_from(queue).ok()),
                    _ => {}
                }
            }
        }
    }
    Some(found)
}

/// Reads the dictionary of extensions: true if ours is in it.
fn read_push_id(reader: &mut Reader<'_>) -> Option<bool> {
    let mut found = false;
    if !reader.eat(b'd') {
        return None;
    }
    while !reader.eat(b'e') {
        let key = reader.bytes()?;
        let mut value = *reader;
        reader.skip()?;
        found |= key == b"fd_push" && value.unsigned().is_some_and(|id| id > 0);
    }
    Some(found)
}

/// Appends a message of fixed size.
pub(super) fn write_message(message: &Message<'_>, out: &mut Vec<u8>) {
    let mut bytes = [0; 32];
    // The messages written here have at most 17 bytes.
    if let Ok(length) = message.serialize(&mut bytes, &PeerExtendedMessageIds::default) {
        out.extend_from_slice(&bytes[..length]);
    }
}

/// Appends the bitfield.
pub(super) fn write_bitfield(have: &PieceSet, out: &mut Vec<u8>) {
    let bits = have.to_wire();
    out.extend_from_slice(&(bits.len() as u32 + 1).to_be_bytes());
    out.push(ID_BITFIELD);
    out.extend_from_slice(&bits);
}

/// Returns what precedes a block.
pub(super) fn piece_header(piece: u32, begin: u32, length: u32) -> [u8; PIECE_HEADER_LEN] {
    let mut bytes = [0; PIECE_HEADER_LEN];
    bytes[..4].copy_from_slice(&(length + 9).to_be_bytes());
    bytes[4] = ID_PIECE;
    bytes[5..9].copy_from_slice(&piece.to_be_bytes());
    bytes[9..].copy_from_slice(&begin.to_be_bytes());
    bytes
}

/// Checks a message's length (id included) before anything is read into memory.
pub(super) fn check_length(id: u8, length: u32, pieces: u32) -> Result<(), Violation> {
    let allowed = match id {
        ID_BITFIELD => 1 + pieces.div_ceil(8),
        ID_PIECE => 9 + BLOCK,
        ID_EXTENDED => MAX_EXTENDED,
        _ => MAX_OTHER,
    };
    if length > allowed || (id == ID_PIECE && length < 10) {
        return Err(Violation("it sent a message of a forbidden length"));
    }
    Ok(())
}

/// Reads the announcement of a piece that `bytes` begin with; none if they begin with anything else, or with a part of it.
pub(super) fn read_have(bytes: &[u8]) -> Option<u32> {
    let [0, 0, 0, 5, 4, piece @ ..] = *bytes.first_chunk::<HAVE_LEN>()? else { return None };
    Some(u32::from_be_bytes(piece))
}

/// A message without payload worth keeping.
#[derive(Debug)]
pub(super) enum Control {
    Choke(bool),
    Have(u32),
    Request(Request),
    Cancel(Request),
    /// Keep-alive, interest, or an unknown kind.
    Nothing,
}

/// Reads a whole message (length prefix included) that is neither bitfield, piece nor extended.
pub(super) fn read_control(frame: &[u8]) -> Result<Control, Violation> {
    use librqbit_peer_protocol::MessageDeserializeError::UnsupportedMessageId;
    match Message::deserialize(frame, &[]) {
        Ok((Message::Choke, _)) => Ok(Control::Choke(true)),
        Ok((Message::Unchoke, _)) => Ok(Control::Choke(false)),
        Ok((Message::Have(piece), _)) => Ok(Control::Have(piece)),
        Ok((Message::Request(request), _)) => Ok(Control::Request(request)),
        Ok((Message::Cancel(request), _)) => Ok(Control::Cancel(request)),
        Ok(_) | Err(UnsupportedMessageId(_)) => Ok(Control::Nothing),
        Err(_) => Err(Violation("it sent a malformed message")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn our_extension_handshake_is_understood_by_us_and_by_rqbit() {
        let place = Place { zone: 3, rank: 70_000, of: 90_000 };
        for (seed, place) in [(false, None), (true, None), (false, Some(place)), (true, Some(Place::of_controller(3)))] {
            let bytes = extension_handshake(seed, place, 4711);
            let read = read_extension_handshake(&bytes[5..]).unwrap().unwrap();
            let (zone, rank) = (place.map(|place| place.zone), place.map(|place| place.rank).filter(|_| !seed));
            assert_eq!(read, Extensions { fleet: true, seed, zone, rank, port: Some(4711), queue: Some(2048) });
            let (message, length) = Message::deserialize(&bytes, &[]).unwrap();
            assert!(matches!(message, Message::Extended(_)));
            assert_eq!(length, bytes.len());
        }
    }

    #[test]
    fn foreign_extension_handshakes() {
        let libtorrent = b"\0d1:md11:ut_metadatai2ee1:pi0e4:reqqi99999999999e1:v10:libtorrent6:yourip4:abcde";
        let read = read_extension_handshake(libtorrent).unwrap().unwrap();
        assert_eq!(read, Extensions::default());
        let disabled = read_extension_handshake(b"\0d1:md7:fd_pushi0eee").unwrap().unwrap();
        assert!(!disabled.fleet);
        for bad in [&b""[..], b"\0", b"\0d1:mi1ee", b"\0d1:m", b"\0i1e"] {
            assert!(read_extension_handshake(bad).is_err(), "{bad:?}");
        }
        assert!(read_extension_handshake(b"\x07anything").unwrap().is_none());
    }

    #[test]
    fn lengths_are_checked_by_kind() {
        assert!(check_length(ID_PIECE, 9 + BLOCK, 10).is_ok());
        assert!(check_length(ID_PIECE, 10 + BLOCK, 10).is_err());
        assert!(check_length(ID_PIECE, 9, 10).is_err());
        assert!(check_length(ID_BITFIELD, 3, 9).is_ok());
        assert!(check_length(ID_BITFIELD, 4, 9).is_err());
        assert!(check_length(99, 5000, 9).is_err());
    }

    #[test]
    fn only_a_whole_announcement_is_read_as_one() {
        let mut bytes = Vec::new();
        write_message(&Message::Have(0x0102_0304), &mut bytes);
        assert_eq!(bytes.len(), HAVE_LEN);
        assert_eq!(read_have(&bytes[..HAVE_LEN - 1]), None);
        bytes.push(0);
        assert_eq!(read_have(&bytes), Some(0x0102_0304));
        bytes[4] = 6;
        assert_eq!(read_have(&bytes), None);
    }

    #[test]
    fn a_handshake_for_another_torrent_is_refused() {
        let (a, b) = (Id20::new([1; 20]), Id20::new([2; 20]));
        assert_eq!(read_handshake(&handshake(a, b), a).unwrap(), (b, true));
        assert!(read_handshake(&handshake(a, b), b).is_err());
        assert!(read_handshake(&[0; HANDSHAKE_LEN], b).is_err());
    }

    proptest! {
        #[test]
        fn any_frame_is_an_answer(id: u8, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut frame = (body.len() as u32 + 1).to_be_bytes().to_vec();
            frame.push(id);
            frame.extend_from_slice(&body);
            if ![ID_BITFIELD, ID_PIECE, ID_EXTENDED].contains(&id) {
                let _ = read_control(&frame);
            }
            let _ = read_extension_handshake(&body);
        }
    }
}
