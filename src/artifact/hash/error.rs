//! Why a file or a directory can't be hashed, and what to do about it.

use std::{io, path::PathBuf};

use crate::model::tree::TreeFault;

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
    /// Something in a directory can't be part of a release.
    #[error("{}: {fault}", path.display())]
    Entry {
        /// The directory as given, and the path in it.
        path: PathBuf,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// No bytes in a file, nothing in a directory.
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

/// What is wrong with something in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// Neither file nor directory nor link: what it is, with its article.
    #[error("it is {0}")]
    Special(&'static str),
    /// Its name, or a link's target, is not UTF-8.
    #[error("its name, or where it points, is not UTF-8")]
    NotUtf8,
    /// It breaks a rule for listings.
    #[error(transparent)]
    Listing(TreeFault),
}

impl EntryFault {
    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::Special(_) => "leave it out; create it on the host if the app needs it",
            Self::NotUtf8 | Self::Listing(TreeFault::Name) => "rename it: not every system has a place for such a name",
            Self::Listing(TreeFault::Long | TreeFault::Deep) => "shorten the path",
            Self::Listing(TreeFault::Mode) => "remove the bits: chmod -R u-s,g-s,-t DIR",
            Self::Listing(TreeFault::Link(fault)) => fault.hint(),
            Self::Listing(TreeFault::TooMany) => "pack it first: tar --zstd -cf APP.tar.zst -C DIR .",
            Self::Listing(_) => return None,
        })
    }
}

impl ArtifactError {
    /// Returns what to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Missing { .. } => "check the path; a relative path starts at the current directory".to_owned(),
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "make it readable for the user who runs fleetdrop".to_owned()
            }
            Self::Entry { fault, .. } => return fault.hint().map(str::to_owned),
            Self::NotRegular { .. } => "write it to a file first: an artifact is read more than once".to_owned(),
            Self::Empty { .. } => "check the step that builds it: there is nothing to deploy".to_owned(),
            Self::Changed { .. } => "wait until the step that builds it has finished, then try again".to_owned(),
            Self::Directory { .. }
            | Self::Unreadable { .. }
            | Self::Read { .. }
            | Self::PieceLength { .. }
            | Self::Threads { .. } => return None,
        };
        Some(hint)
    }
}
