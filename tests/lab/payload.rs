//! The file that is sent.

use std::{
    fs,
    io::{BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use fleetdrop::swarm::{Metainfo, choose_piece_length};
use sha1::{Digest as _, Sha1};

/// The file that is sent, and its torrent.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) file: PathBuf,
    /// The directory that holds the file.
    pub(crate) directory: PathBuf,
    /// A torrent file for other clients.
    pub(crate) torrent: PathBuf,
    /// The torrent's info dictionary.
    pub(crate) info: PathBuf,
    pub(crate) length: u64,
    pub(crate) piece_length: u32,
}

impl Payload {
    /// Writes `length` random bytes and their torrent under `directory`.
    pub(crate) fn make(directory: &Path, length: u64, hosts: usize, announce: &str) -> Result<Self> {
        let piece_length = choose_piece_length(length, hosts);
        let directory = directory.join("payload");
        fs::create_dir(&directory)?;
        let file = directory.join("artifact.bin");
        let mut output = fs::File::create(&file)?;
        let mut piece = vec![0; piece_length as usize];
        let mut hashes = Vec::new();
        let mut left = length;
        while left > 0 {
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            fastrand::fill(&mut piece);
            output.write_all(&piece).with_context(|| file.display().to_string())?;
            hashes.push(Sha1::digest(&piece).into());
            left -= piece.len() as u64;
        }
        let metainfo = Metainfo::new("artifact.bin", length, piece_length, hashes)?;
        let (torrent, info) = (directory.join("artifact.torrent"), directory.join("artifact.info"));
        fs::write(&torrent, metainfo.to_torrent(announce, &[]))?;
        fs::write(&info, metainfo.info_bytes())?;
        Ok(Self { file, directory, torrent, info, length, piece_length })
    }

    /// Returns the file's name.
    pub(crate) fn name(&self) -> &'static str {
        "artifact.bin"
    }
}

/// True if two files have the same content.
pub(crate) fn same_content(one: &Path, other: &Path) -> Result<bool> {
    let open = |path: &Path| fs::File::open(path).with_context(|| path.display().to_string());
    let (one, other) = (open(one)?, open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    let (mut one_part, mut other_part) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.by_ref().take(1 << 20).read(&mut one_part)?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut other_part[..read])?;
        if one_part[..read] != other_part[..read] {
            return Ok(false);
        }
    }
}
