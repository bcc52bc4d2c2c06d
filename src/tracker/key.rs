//! The run's key: whoever knows the announce URL may announce, nobody else learns that there is a tracker. So it is with the controller's web
//! server.

use std::{fmt, net::SocketAddr};

use subtle::ConstantTimeEq as _;

use super::TrackerError;

/// The secret part of the paths of a run's tracker and web server: 128 random bits, as 32 hexadecimal digits. Its `Debug` form shows nothing of it.
#[derive(Clone)]
pub struct TrackerKey(String);

impl TrackerKey {
    /// Draws a new key from the system's random source.
    pub fn random() -> Result<Self, TrackerError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(TrackerError::Random)?;
        Ok(Self::from_bytes(bytes))
    }

    /// Makes a key of bytes which the caller drew.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(bytes)))
    }

    /// Returns the announce URL of a tracker at that address, which speaks TLS or not. It holds the key: not for logs.
    pub fn announce_url(&self, tracker: SocketAddr, encrypted: bool) -> String {
        let scheme = if encrypted { "https" } else { "http" };
        format!("{scheme}://{tracker}/{}/announce", self.0)
    }

    /// Returns the address of the artifact on a web server at that address, as for the tracker. It holds the key: not for logs.
    pub fn artifact_url(&self, server: SocketAddr, encrypted: bool) -> String {
        let scheme = if encrypted { "https" } else { "http" };
        format!("{scheme}://{server}/{}/artifact", self.0)
    }

    /// Returns the text of the key.
    #[cfg(test)]
    fn reveal(&self) -> &str {
        &self.0
    }

    /// True if `text` is this key. Takes the same time wherever a guess of the right length goes wrong.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

impl fmt::Debug for TrackerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrackerKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_matches_and_debug_hides_it() {
        let key = TrackerKey::from_bytes([0x0a; 16]);
        let text = "0a".repeat(16);
        assert_eq!(key.reveal(), text);
        assert!(key.matches(&text));
        for wrong in ["", "0a", &text[..31], &format!("{text}0"), &format!("{}b", &text[..31]), &text.to_uppercase()] {
            assert!(!key.matches(wrong), "{wrong}");
        }
        assert!(!format!("{key:?}").contains("0a"));
    }

    #[test]
    fn random_keys_differ() {
        let (one, other) = (TrackerKey::random().unwrap(), TrackerKey::random().unwrap());
        assert_ne!(one.reveal(), other.reveal());
    }
}
