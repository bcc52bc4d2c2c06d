//! The artifact as a file: hashing it on the controller, unpacking it safely on a host.
//!
//! | part | owns | feature |
//! |---|---|---|
//! | `hash` | one pass over a file for SHA-256 and the pieces' SHA-1; the cache of results | both |
//! | `unpack` | tar (plain, zstd, gzip, xz, bzip2), zip and single files into a new directory | `agent` |
//!
//! Everything here blocks and is meant for `spawn_blocking` or a thread of its own. Memory is bounded whatever the file
//! holds. An archive is hostile until proven otherwise: nothing is ever written outside the directory that is being made.

mod hash;
#[cfg(feature = "agent")]
mod unpack;

pub use hash::{ArtifactError, FileIdentity, HashCache, Hashed, hash_artifact, sha256_file};
#[cfg(feature = "agent")]
pub use unpack::{Limit, Rule, UnpackError, UnpackLimits, Unpacked, remove_tree, unpack};
