//! The secret of a run that lets a host fetch the agent from another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of what lies beside an agent that came compressed: the same in gzip, as it came.
pub const PACKED_AGENT: &str = "fleetdrop-agent.gz";

/// Who knows it may fetch the agent. 128 random bits, as 32 hexadecimal digits. Its `Debug` form shows nothing of it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelayToken(String);

impl RelayToken {
    /// Makes a token of bytes which the caller drew.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(bytes)))
    }

    /// Returns the path under which a host serves its agent, in gzip. It holds the token: not for logs.
    pub fn path(&self) -> String {
        format!("/{}/{PACKED_AGENT}", self.0)
    }

    /// Returns the text without the token in it, for logs.
    pub fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, "...")
    }

    /// True if `path` is the one under which the agent is served. Takes the same time wherever a guess of the right length goes
    /// wrong.
    pub fn opens(&self, path: &[u8]) -> bool {
        let right = self.path();
        let differences = right.bytes().zip(path).fold(0, |differences, (right, guess)| differences | (right ^ guess));
        right.len() == path.len() && std::hint::black_box(differences) == 0
    }
}

impl fmt::Debug for RelayToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_path_opens_and_debug_hides_the_token() {
        let token = RelayToken::from_random([0x0a; 16]);
        let path = token.path();
        assert_eq!(token.hide_in(&format!("http://a:1{path}: refused")), "http://a:1/.../fleetdrop-agent.gz: refused");
        assert_eq!(path, format!("/{}/fleetdrop-agent.gz", "0a".repeat(16)));
        assert!(token.opens(path.as_bytes()));
        let wrong = ["", "/", "/fleetdrop-agent.gz", &path[..path.len() - 1], &format!("{path}x"), &path.to_uppercase()];
        for wrong in wrong {
            assert!(!token.opens(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("0a"));
    }
}
