//! Why a file can't be hashed, and what to do about it.

use std::{io, path::PathBuf};

/// Says why a file is not usable as an artifact.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Nothing is there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It can't be opened.
    #[error("{} cannot be opened", path.display())]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A directory.
    #[error("{} is a directory", path.display())]
    Directory {
        /// The path as given.
        path: PathBuf,
    },
    /// A pipe, socket or device.
    #[error("{} is {what}, not a regular file", path.display())]
    NotRegular {
        /// The path as given.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// No bytes in it.
    #[error("{} is empty", path.display())]
    Empty {
        /// The path as given.
        path: PathBuf,
    },
    /// Reading broke off.
    #[error("reading {} failed at byte {offset}", path.display())]
    Read {
        /// The path as given.
        path: PathBuf,
        /// How many bytes had been read.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Size, modification time or inode are not what they were when reading began.
    #[error("{} changed while it was being hashed", path.display())]
    Changed {
        /// The path as given.
        path: PathBuf,
    },
    /// The caller chose pieces of no length.
    #[error("the piece length for {} is zero", path.display())]
    PieceLength {
        /// The path as given.
        path: PathBuf,
    },
    /// A hashing thread could not be started or ended early.
    #[error("the threads that hash {} failed", path.display())]
    Threads {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ArtifactError {
    /// Returns what to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Missing { .. } => "check the path; a relative path starts at the current directory".to_owned(),
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "make it readable for the user who runs fleetdrop".to_owned()
            }
            Self::Directory { path } => {
                let name = path.file_name().map_or("release".into(), |name| name.to_string_lossy());
                format!("pack it first: tar --zstd -cf {name}.tar.zst -C {} .", path.display())
            }
            Self::NotRegular { .. } => "write it to a file first: an artifact is read more than once".to_owned(),
            Self::Empty { .. } => "check the step that builds it: an artifact has at least one byte".to_owned(),
            Self::Changed { .. } => "wait until the step that builds it has finished, then try again".to_owned(),
            Self::Unreadable { .. } | Self::Read { .. } | Self::PieceLength { .. } | Self::Threads { .. } => return None,
        };
        Some(hint)
    }
}
