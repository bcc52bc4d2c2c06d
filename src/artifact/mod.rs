//! The artifact as a file or a directory: hashing it on the controller, unpacking it safely on a host.
//!
//! | part | owns | feature |
//! |---|---|---|
//! | `hash` | one pass over a file for SHA-256 and the pieces' SHA-1; the cache of results | both |
//! | `signature` | whose signature is beside an artifact | both |
//! | `tree` | a directory: its listing, the hashes of all that is in it | `controller` |
//! | `walk` | going through a directory without following a link | both |
//! | `unpack` | tar (plain, zstd, gzip, xz, bzip2), zip, single files and directories into a new directory | `agent` |
//!
//! Everything here blocks and is meant for `spawn_blocking` or a thread of its own. Memory is bounded whatever the file
//! holds. An archive is hostile until proven otherwise: nothing is ever written outside the directory that is being made.

mod hash;
mod signature;
#[cfg(feature = "controller")]
mod tree;
#[cfg(feature = "agent")]
mod unpack;
pub(crate) mod walk;

pub use hash::{ArtifactError, EntryFault, FileIdentity, HashCache, Hashed, hash_artifact, sha256_file};
pub use signature::{SignatureError, open as open_endorsement, verify as verify_signature};
#[cfg(feature = "controller")]
pub use tree::{HashedTree, hash_tree};
#[cfg(feature = "agent")]
pub use unpack::{Limit, Rule, UnpackError, UnpackLimits, Unpacked, remove_tree, unpack, unpack_tree};
