//! Signatures of OpenSSH keys: OpenSSH's `PROTOCOL.sshsig`, and `PROTOCOL.u2f` for keys in FIDO tokens.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    digest::{self, SHA256, SHA512, digest},
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
        RsaPublicKeyComponents, UnparsedPublicKey,
    },
};

use super::SignatureError;
use crate::model::trust::{NAMESPACE, Reader, fingerprint};

/// The first line.
pub(super) const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
/// The last line.
const END: &str = "-----END SSH SIGNATURE-----";
/// What the blob and the signed data begin with.
const MAGIC: &[u8] = b"SSHSIG";
/// The version of the format.
const VERSION: u32 = 1;
/// The flag of a FIDO token that somebody touched it.
const PRESENT: u8 = 1;

/// A signature that was read.
#[derive(Debug)]
pub(super) struct Signature {
    /// The blob of the key that claims to have made it.
    pub(super) key: Vec<u8>,
    hash: Hash,
    signature: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn of(self, text: &[u8]) -> digest::Digest {
        match self {
            Self::Sha256 => digest(&SHA256, text),
            Self::Sha512 => digest(&SHA512, text),
        }
    }
}

impl Signature {
    pub(super) fn read(text: &str) -> Result<Self, SignatureError> {
        let bad = SignatureError::Unreadable;
        let body = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let body: String = body.ok_or(bad("its last line is missing"))?.split_ascii_whitespace().collect();
        let blob = BASE64_STANDARD.decode(body).map_err(|_| bad("it is not base64"))?;
        let mut fields = Reader::new(&blob);
        let parts = (|| {
            (fields.bytes(MAGIC.len())? == MAGIC).then_some(())?;
            (fields.number()? == VERSION).then_some(())?;
            Some((fields.string()?, fields.text()?, fields.string()?, fields.text()?, fields.string()?))
        })();
        let (key, namespace, _reserved, hash, signature) = parts.ok_or(bad("it is cut short"))?;
        if !fields.is_at_end() {
            return Err(bad("something follows it"));
        }
        if namespace != NAMESPACE {
            return Err(SignatureError::Purpose(namespace.chars().take(64).collect::<String>().escape_debug().to_string()));
        }
        let hash = match hash {
            "sha256" => Hash::Sha256,
            "sha512" => Hash::Sha512,
            _ => return Err(bad("its hash is unknown")),
        };
        Ok(Self { key: key.to_vec(), hash, signature: signature.to_vec() })
    }

    /// True if its key signed the text.
    pub(super) fn is_of(&self, text: &[u8]) -> bool {
        let signed = self.signed_data(text);
        verify(&self.key, &self.signature, &signed).is_some()
    }

    /// Names the key that claims to have made it.
    pub(super) fn signer(&self) -> String {
        fingerprint(&self.key)
    }

    /// Returns what the key signs in place of the text.
    fn signed_data(&self, text: &[u8]) -> Vec<u8> {
        let mut data = MAGIC.to_vec();
        for field in [NAMESPACE.as_bytes(), b"", self.hash.name().as_bytes(), self.hash.of(text).as_ref()] {
            // None of them is longer than a hash.
            data.extend((field.len() as u32).to_be_bytes());
            data.extend(field);
        }
        data
    }
}

/// Checks a signature (RFC 4253, section 6.6, and its extensions) by the key's type. None: it is wrong.
fn verify(key: &[u8], signature: &[u8], data: &[u8]) -> Option<()> {
    let (mut key, mut signature) = (Reader::new(key), Reader::new(signature));
    let (kind, made_with, body) = (key.text()?, signature.text()?, signature.string()?);
    match kind {
        "ssh-ed25519" if made_with == kind => ed25519(key.string()?, body, data)?,
        "ecdsa-sha2-nistp256" if made_with == kind => p256(&mut key, body, data)?,
        "ecdsa-sha2-nistp384" if made_with == kind => {
            let point = (key.text()? == "nistp384").then(|| key.string())??;
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(data, &fixed(body, 48)?).ok()?;
        }
        "ssh-rsa" => rsa(&mut key, made_with, body, data)?,
        "sk-ssh-ed25519@openssh.com" if made_with == kind => {
            let point = key.string()?;
            ed25519(point, body, &of_token(key.string()?, &mut signature, data)?)?;
        }
        "sk-ecdsa-sha2-nistp256@openssh.com" if made_with == kind => {
            // The application follows the point.
            let mut after = key.clone();
            after.string()?;
            after.string()?;
            let data = of_token(after.string()?, &mut signature, data)?;
            p256(&mut key, body, &data)?;
            key.string()?;
        }
        _ => return None,
    }
    let is_whole = signature.is_at_end();
    is_whole.then_some(())
}

fn ed25519(point: &[u8], body: &[u8], data: &[u8]) -> Option<()> {
    UnparsedPublicKey::new(&ED25519, point).verify(data, body).ok()
}

fn p256(key: &mut Reader<'_>, body: &[u8], data: &[u8]) -> Option<()> {
    let point = (key.text()? == "nistp256").then(|| key.string())??;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(data, &fixed(body, 32)?).ok()
}

fn rsa(key: &mut Reader<'_>, made_with: &str, body: &[u8], data: &[u8]) -> Option<()> {
    let (e, n) = (key.positive()?, key.positive()?);
    let parameters = match made_with {
        "rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
        "rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
        // SHA-1 is broken.
        _ => return None,
    };
    RsaPublicKeyComponents { n, e }.verify(parameters, data, body).ok()
}

/// Brings an ECDSA signature, two numbers, into so many bytes each.
fn fixed(body: &[u8], width: usize) -> Option<Vec<u8>> {
    let mut numbers = Reader::new(body);
    let mut bytes = Vec::with_capacity(2 * width);
    for number in [numbers.positive()?, numbers.positive()?] {
        bytes.resize(bytes.len() + width.checked_sub(number.len())?, 0);
        bytes.extend(number);
    }
    numbers.is_at_end().then_some(bytes)
}

/// Returns what a FIDO token signs in place of the data. One that nobody touched does not count.
fn of_token(application: &[u8], signature: &mut Reader<'_>, data: &[u8]) -> Option<Vec<u8>> {
    let rest = signature.bytes(5)?;
    let is_touched = rest[0] & PRESENT != 0;
    is_touched.then(|| [digest(&SHA256, application).as_ref(), rest, digest(&SHA256, data).as_ref()].concat())
}
