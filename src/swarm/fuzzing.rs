//! Entrances for the fuzzer: what peers, trackers and origins say.

use hyper::{HeaderMap, header};
use librqbit_core::hash_id::Id20;

use super::{announce, origin, protocol};

/// A torrent of so many pieces.
const PIECES: u32 = 100;

/// A handshake, then messages as a connection's reader takes them apart.
pub(crate) fn messages(bytes: &[u8]) {
    let Some((handshake, mut rest)) = bytes.split_first_chunk::<{ protocol::HANDSHAKE_LEN }>() else { return };
    let _ = protocol::read_handshake(handshake, Id20::new([0; 20]));
    while let Some((length, body)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length);
        let Some(id) = body.first().filter(|_| length > 0) else {
            rest = body;
            continue;
        };
        if protocol::check_length(*id, length, PIECES).is_err() || body.len() < length as usize {
            return;
        }
        let frame = &rest[..4 + length as usize];
        let broken = match *id {
            protocol::ID_EXTENDED => protocol::read_extension_handshake(&frame[5..]).is_err(),
            protocol::ID_BITFIELD | protocol::ID_PIECE => false,
            _ => protocol::read_control(frame).is_err(),
        };
        if broken {
            return;
        }
        let _ = protocol::read_have(frame);
        rest = &body[length as usize..];
    }
}

/// A tracker's answer.
pub(crate) fn tracker_reply(bytes: &[u8]) {
    announce::read_any_reply(bytes);
}

/// An origin's headers, one a line, and after an empty line its body.
pub(crate) fn origin_reply(bytes: &[u8]) {
    const NAMES: [header::HeaderName; 4] =
        [header::CONTENT_RANGE, header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::RETRY_AFTER];
    let mut headers = HeaderMap::new();
    let mut lines = bytes.split(|byte| *byte == b'\n');
    for (name, line) in NAMES.into_iter().zip(lines.by_ref()) {
        if let Ok(value) = header::HeaderValue::from_bytes(line) {
            headers.insert(name, value);
        }
    }
    origin::read_any_reply(&headers, lines.next().unwrap_or_default());
}
