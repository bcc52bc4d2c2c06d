//! A directory on the controller: what is in it, and one pass over its files for all their hashes.
//!
//! Owns what a directory may hold to be deployed ([`crate::model::Tree`] has the rules for names, modes and links; nothing but files,
//! directories and links may be in it) and the check that nothing of it changed meanwhile: it is listed before and after the pass, and
//! each file is compared with the listing when it is opened. Follows no link. Never writes. Memory is bounded by the listing.

mod input;
mod listing;

#[cfg(test)]
mod tests;

use std::path::Path;

use super::hash::{ArtifactError, pipeline};
use crate::model::{Digest, Tree};
use input::Files;
use listing::Listing;

/// A directory that was read once from end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedTree {
    /// Its listing.
    pub tree: Tree,
    /// SHA-256 of its files' contents, one after the other: of one zero byte, where there are none.
    pub blob: Digest,
    /// Length of a piece in bytes; only the last piece may be shorter.
    pub piece_length: u32,
    /// SHA-1 of each piece of the contents.
    pub pieces: Vec<[u8; 20]>,
}

/// Lists a directory and hashes what is in it.
///
/// `piece_length` gets the length of all contents in bytes and returns the length of a piece. `progress` is called on this thread with the
/// number of bytes read so far, about once a mebibyte. Blocks; uses three more threads and about 4 MiB beside the listing.
///
/// # Errors
///
/// A directory that can't be read or in which nothing is; the first thing in it that can't be part of a release, can't be read or
/// changes meanwhile, by its path.
pub fn hash_tree(
    path: &Path,
    piece_length: impl FnOnce(u64) -> u32,
    progress: &dyn Fn(u64),
) -> Result<HashedTree, ArtifactError> {
    let listing = Listing::of(path)?;
    let tree = listing.tree()?;
    let size = tree.size().max(1);
    let piece_length = piece_length(size);
    if piece_length == 0 {
        return Err(ArtifactError::PieceLength { path: path.into() });
    }
    let lengths = tree.files().map(|(.., file)| file.length).collect();
    let wanted = pipeline::Wanted { size, piece_length: Some(piece_length), files: Some(lengths) };
    let sums = pipeline::run(&mut Files::new(&listing), path, wanted, progress)?;
    listing.check_unchanged()?;
    Ok(HashedTree { tree: tree.with_digests(sums.files), blob: sums.digest, piece_length, pieces: sums.pieces })
}
