//! What an artifact is: its digest, its size and how to unpack it. How it is cut into pieces is no part of it: a manifest outlives
//! the run and is kept on the host beside each release.

use serde::{Deserialize, Serialize};

use super::{AppName, Digest, tree::TreeFacts};

/// How the artifact becomes a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveKind {
    /// An uncompressed tar archive.
    Tar,
    /// A tar archive in zstd.
    TarZst,
    /// A tar archive in gzip.
    TarGz,
    /// A tar archive in xz.
    TarXz,
    /// A tar archive in bzip2.
    TarBz2,
    /// A zip archive.
    Zip,
    /// Any other file: the release is a directory with that one file in it.
    File,
    /// A directory: the release is the same directory.
    Directory,
}

/// File name endings, longest first where one ends in another.
const SUFFIXES: [(&str, ArchiveKind); 12] = [
    (".tar.zst", ArchiveKind::TarZst),
    (".tar.zstd", ArchiveKind::TarZst),
    (".tzst", ArchiveKind::TarZst),
    (".tar.gz", ArchiveKind::TarGz),
    (".tgz", ArchiveKind::TarGz),
    (".tar.xz", ArchiveKind::TarXz),
    (".txz", ArchiveKind::TarXz),
    (".tar.bz2", ArchiveKind::TarBz2),
    (".tbz2", ArchiveKind::TarBz2),
    (".tbz", ArchiveKind::TarBz2),
    (".tar", ArchiveKind::Tar),
    (".zip", ArchiveKind::Zip),
];

impl ArchiveKind {
    /// Tells the kind by the file name's ending (ASCII case ignored) and returns the name without it.
    pub fn of_file_name(name: &str) -> (Self, &str) {
        for (suffix, kind) in SUFFIXES {
            if let Some(split) = name.len().checked_sub(suffix.len())
                && split > 0
                && name.is_char_boundary(split)
                && name[split..].eq_ignore_ascii_case(suffix)
            {
                return (kind, &name[..split]);
            }
        }
        (Self::File, name)
    }
}

/// One artifact, as every host must end up having it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The application it belongs to.
    pub app: AppName,
    /// The artifact's file name, without directories. In a [`ArchiveKind::File`] release it is the file's name.
    pub file_name: String,
    /// What it is: SHA-256 of the file, or of the directory's listing ([`super::Tree::digest`]).
    pub digest: Digest,
    /// The length of what travels in bytes, at least 1.
    pub size: u64,
    /// How it is unpacked.
    pub archive: ArchiveKind,
    /// What is to be known of a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeFacts>,
}

impl Manifest {
    /// Returns SHA-256 of what travels: the hard gate before anything is unpacked.
    pub fn blob(&self) -> &Digest {
        self.tree.as_ref().map_or(&self.digest, |tree| &tree.blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_kind_by_name() {
        for (name, kind, stem) in [
            ("shop.tar.zst", ArchiveKind::TarZst, "shop"),
            ("shop-1.2.TAR.GZ", ArchiveKind::TarGz, "shop-1.2"),
            ("a.tbz", ArchiveKind::TarBz2, "a"),
            ("a.tar", ArchiveKind::Tar, "a"),
            ("model.bin", ArchiveKind::File, "model.bin"),
            (".zip", ArchiveKind::File, ".zip"),
            ("é.zip", ArchiveKind::Zip, "é"),
            ("zst", ArchiveKind::File, "zst"),
        ] {
            assert_eq!(ArchiveKind::of_file_name(name), (kind, stem), "{name}");
        }
    }
}
