//! Signatures of minisign: <https://jedisct1.github.io/minisign/>, "Signature format".

use base64::{Engine as _, prelude::BASE64_STANDARD};
use blake2::{Blake2b512, Digest as _};
use ring::signature::{ED25519, UnparsedPublicKey};

use super::SignatureError;

/// What the first line begins with.
const UNTRUSTED: &str = "untrusted comment:";
/// What the third line begins with.
const TRUSTED: &str = "trusted comment: ";
/// The length of an Ed25519 signature.
const LENGTH: usize = 64;

/// A signature that was read.
#[derive(Debug)]
pub(super) struct Signature {
    /// Which key claims to have made it.
    pub(super) id: [u8; 8],
    /// Over the text's hash, or in the old form over the text.
    over_hash: bool,
    of_text: [u8; LENGTH],
    /// The trusted comment, and the signature over it and `of_text`.
    comment: String,
    of_all: [u8; LENGTH],
}

impl Signature {
    pub(super) fn read(text: &str) -> Result<Self, SignatureError> {
        let bad = SignatureError::Unreadable;
        let mut lines = text.lines();
        if !lines.next().is_some_and(|line| line.starts_with(UNTRUSTED)) {
            return Err(bad("it is neither minisign's nor OpenSSH's"));
        }
        let of_text = lines.next().and_then(decode).ok_or(bad("its second line is not base64"))?;
        let comment = lines.next().and_then(|line| line.strip_prefix(TRUSTED)).ok_or(bad("its trusted comment is missing"))?;
        let of_all = lines.next().and_then(decode).ok_or(bad("its fourth line is not base64"))?;
        if lines.any(|line| !line.is_empty()) {
            return Err(bad("something follows its fourth line"));
        }
        let (algorithm, rest) = of_text.split_first_chunk::<2>().ok_or(bad("its second line is too short"))?;
        let (id, of_text) = rest.split_first_chunk::<8>().ok_or(bad("its second line is too short"))?;
        let over_hash = match algorithm {
            b"ED" => true,
            b"Ed" => false,
            _ => return Err(bad("its algorithm is unknown")),
        };
        Ok(Self {
            id: *id,
            over_hash,
            of_text: of_text.try_into().map_err(|_| bad("its second line has the wrong length"))?,
            comment: comment.to_owned(),
            of_all: of_all.as_slice().try_into().map_err(|_| bad("its fourth line has the wrong length"))?,
        })
    }

    /// True if that key signed the text, and the comment with it.
    pub(super) fn is_of(&self, text: &[u8], point: &[u8; 32]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, point);
        let signed = if self.over_hash { Blake2b512::digest(text).to_vec() } else { text.to_vec() };
        let all = [&self.of_text, self.comment.as_bytes()].concat();
        key.verify(&signed, &self.of_text).is_ok() && key.verify(&all, &self.of_all).is_ok()
    }

    /// Names the key that claims to have made it.
    pub(super) fn signer(&self) -> String {
        format!("minisign key {:016X}", u64::from_le_bytes(self.id))
    }
}

fn decode(line: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(line.trim_end()).ok()
}
