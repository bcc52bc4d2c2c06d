//! Length-prefixed JSON frames with a size limit, the long ones compressed: a job goes to every host over the controller's own link.
//!
//! A frame is four bytes of length, big endian, whose highest bit says whether the body is compressed (zlib, RFC 1950), and the body.

use std::io::{Read, Write};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest frame in bytes: a job with the piece hashes of the largest torrent allowed, and room to spare.
///
/// It holds for the body as it travels and for what it becomes.
pub const MAX_FRAME: usize = 8 << 20;

/// The bit of the length that says that the body is compressed.
const COMPRESSED: u32 = 1 << 31;

/// Bodies of this many bytes and more are compressed; below, the time and the header would be for nothing.
const WORTH_COMPRESSING: usize = 1024;

/// Quick, and unlike the quickest it codes what has no repeats, such as piece hashes, by how often each byte occurs.
const LEVEL: Compression = Compression::new(2);

/// Says why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream broke, also in the middle of a frame.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// The other side announced more than [`MAX_FRAME`] bytes.
    #[error("a message of {0} bytes, the limit is {MAX_FRAME}")]
    TooLong(usize),
    /// The bytes are not the expected message.
    #[error("a message that cannot be understood")]
    Malformed(#[source] serde_json::Error),
}

/// Reads one message; `None` at a clean end of the stream. Not cancel-safe: give it a task of its own.
///
/// Memory grows with what arrives, not with what the length announces.
pub async fn read_frame<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>, FrameError> {
    let mut length = [0; 4];
    let first = stream.read(&mut length[..1]).await?;
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = u32::from_be_bytes(length);
    let (compressed, length) = (length & COMPRESSED != 0, (length & !COMPRESSED) as usize);
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    if compressed {
        body = decompress(&body)?;
    }
    serde_json::from_slice(&body).map(Some).map_err(FrameError::Malformed)
}

/// Writes one message and flushes it.
pub async fn write_frame<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), FrameError> {
    let body = serde_json::to_vec(message).map_err(FrameError::Malformed)?;
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLong(body.len()));
    }
    let (flag, body) = match compress(&body) {
        Some(shorter) => (COMPRESSED, shorter),
        None => (0, body),
    };
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&(body.len() as u32 | flag).to_be_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

/// Returns the body compressed if it is long and that makes it shorter.
fn compress(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() < WORTH_COMPRESSING {
        return None;
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), LEVEL);
    encoder.write_all(body).ok()?;
    encoder.finish().ok().filter(|shorter| shorter.len() < body.len())
}

/// Returns what the body was, if that is not too long.
fn decompress(body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut whole = Vec::new();
    ZlibDecoder::new(body)
        .take(MAX_FRAME as u64 + 1)
        .read_to_end(&mut whole)
        .map_err(|error| FrameError::Malformed(serde::de::Error::custom(error)))?;
    if whole.len() > MAX_FRAME {
        return Err(FrameError::TooLong(whole.len()));
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{FromAgent, StopReason, ToAgent};

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_message_survives_the_trip_and_the_end_is_clean() {
        block_on(async {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, &ToAgent::Stop { reason: StopReason::Interrupted }).await.unwrap();
            let mut stream = bytes.as_slice();
            let back: Option<ToAgent> = read_frame(&mut stream).await.unwrap();
            assert!(matches!(back, Some(ToAgent::Stop { reason: StopReason::Interrupted })));
            assert!(read_frame::<ToAgent>(&mut stream).await.unwrap().is_none());
        });
    }

    #[test]
    fn a_long_message_travels_compressed() {
        // As piece hashes do: random bytes in base64.
        let text: String = (0..20_000).map(|_| char::from(b'A' + fastrand::u8(..26))).collect();
        let mut bytes = Vec::new();
        block_on(write_frame(&mut bytes, &text)).unwrap();
        assert!(bytes.len() < text.len() * 2 / 3, "{} of {} bytes", bytes.len(), text.len());
        let back: Option<String> = block_on(read_frame(&mut bytes.as_slice())).unwrap();
        assert_eq!(back, Some(text));
    }

    #[test]
    fn what_becomes_too_long_or_is_damaged_is_refused() {
        let bomb = compress(&vec![b' '; MAX_FRAME + 1]).unwrap();
        let frame = |body: &[u8]| [&(body.len() as u32 | COMPRESSED).to_be_bytes()[..], body].concat();
        let read = |body: &[u8]| block_on(read_frame::<FromAgent>(&mut frame(body).as_slice())).unwrap_err();
        assert!(matches!(read(&bomb), FrameError::TooLong(_)), "{} bytes become more than the limit", bomb.len());
        for damaged in [&bomb[..100], b"not compressed at all", b""] {
            let error = read(damaged);
            assert!(matches!(error, FrameError::Malformed(_)), "{error:?}");
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_anything_is_read() {
        let error = block_on(read_frame::<FromAgent>(&mut [0xff_u8; 8].as_slice())).unwrap_err();
        assert!(matches!(error, FrameError::TooLong(_)), "{error:?}");
    }

    #[test]
    fn a_frame_cut_short_is_an_error_not_an_end() {
        for bytes in [&[0_u8][..], &[0, 0, 0, 9, b'{'][..]] {
            let mut stream = bytes;
            let error = block_on(read_frame::<FromAgent>(&mut stream)).unwrap_err();
            assert!(matches!(error, FrameError::Io(_)), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_message_an_end_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = bytes.as_slice();
            while let Ok(Some(_)) = block_on(read_frame::<FromAgent>(&mut stream)) {}
        }
    }
}
