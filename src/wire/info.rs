//! A torrent's info dictionary on its way to hosts. That of a directory holds its listing, most of which is paths: it is packed once, and not
//! for every host anew, so that it stays far below what a message may hold.

use std::io::{self, Read, Write};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use serde::{Deserialize, Serialize};

use super::MAX_FRAME;

/// What a job holds beside it, in bytes.
const REST: usize = 1 << 20;

/// An info dictionary as it travels: zlib (RFC 1950) in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackedInfo(String);

/// Says why an info dictionary can't travel, or is not one that did.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// It fits in no message.
    #[error("the torrent takes {0} bytes packed, which fits in no message")]
    TooLong(usize),
    /// It is not packed as it should be, or is longer than it may be.
    #[error("the packed torrent cannot be read")]
    Damaged(#[source] io::Error),
}

impl PackedInfo {
    /// Packs a bencoded info dictionary.
    ///
    /// # Errors
    /// If it fits in no message.
    pub fn new(info: &[u8]) -> Result<Self, InfoError> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        let packed = encoder.write_all(info).and_then(|()| encoder.finish()).map_err(InfoError::Damaged)?;
        let text = BASE64.encode(packed);
        if text.len() > MAX_FRAME - REST { Err(InfoError::TooLong(text.len())) } else { Ok(Self(text)) }
    }

    /// Returns the info dictionary, of `most` bytes at most.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn unpack(&self, most: usize) -> Result<Vec<u8>, InfoError> {
        let packed = BASE64.decode(&self.0).map_err(|error| InfoError::Damaged(io::Error::other(error)))?;
        let mut info = Vec::new();
        ZlibDecoder::new(&*packed).take(most as u64 + 1).read_to_end(&mut info).map_err(InfoError::Damaged)?;
        if info.len() > most {
            return Err(InfoError::Damaged(io::Error::other(format!("it is longer than {most} bytes"))));
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_out_and_a_bomb_does_not() {
        let paths: String = (0..10_000).map(|n| format!("assets/image-{n}.png")).collect();
        let packed = PackedInfo::new(paths.as_bytes()).unwrap();
        assert!(packed.0.len() < paths.len() / 3, "{} of {}", packed.0.len(), paths.len());
        assert_eq!(packed.unpack(paths.len()).unwrap(), paths.as_bytes());
        assert!(packed.unpack(paths.len() - 1).is_err());
        let bomb = PackedInfo::new(&vec![0; 8 << 20]).unwrap();
        assert!(bomb.unpack(1 << 20).is_err());
        for bad in ["", "AAAA", "no base64", &packed.0[..packed.0.len() / 2]] {
            assert!(PackedInfo(bad.to_owned()).unpack(1 << 20).is_err(), "{bad:.20}");
        }
    }

    #[test]
    fn what_fits_in_no_message_is_told() {
        let mut noise = vec![0; 6 << 20];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        assert!(matches!(PackedInfo::new(&noise), Err(InfoError::TooLong(_))));
    }
}
