//! Why an archive is not unpacked: the entry, the rule or limit, and what to do about it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::model::tree::LinkFault;

/// What an entry of an archive must not be or do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// A name with nothing in it.
    EmptyName,
    /// A NUL byte in the name.
    NulInName,
    /// A name that starts with `/`.
    AbsoluteName,
    /// A `..` component in the name.
    ParentInName,
    /// A component over [`super::UnpackLimits::component`] bytes.
    LongComponent,
    /// A name over [`super::UnpackLimits::path`] bytes.
    LongName,
    /// More components than [`super::UnpackLimits::depth`].
    TooDeep,
    /// A backslash in a zip entry's name.
    Backslash,
    /// The file name of a single-file artifact is more than one component.
    NotOneComponent,
    /// The path was there before: as file, link or directory.
    Duplicate,
    /// A parent of the path is a file or a link.
    ThroughNonDirectory,
    /// Something other than a directory that would be the release itself.
    RootNotDirectory,
    /// A device.
    Device,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// An entry type that is neither file, directory nor link; the tar type flag or the zip entry's file type.
    UnknownType(u32),
    /// A set-user-id, set-group-id or sticky bit.
    SpecialBits,
    /// A symbolic link that leads out of the release, or may.
    Link(LinkFault),
    /// A hard link to something that the archive has not yet put there as a file.
    HardLinkTarget,
    /// A link or directory with content.
    UnexpectedContent,
    /// A tar header for the whole archive that renames or resizes entries.
    GlobalOverride,
    /// A sparse file in a form that is not supported or contradicts itself.
    Sparse,
    /// An encrypted zip entry.
    Encrypted,
    /// A zip compression method other than stored and deflate.
    Compression,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyName => "its name is empty",
            Self::NulInName => "its name holds a NUL byte",
            Self::AbsoluteName => "its name is an absolute path",
            Self::ParentInName => "its name holds `..`",
            Self::LongComponent => "a component of its name is too long",
            Self::LongName => "its name is too long",
            Self::TooDeep => "it lies too deep",
            Self::Backslash => "its name holds a backslash",
            Self::NotOneComponent => "the file name is a path",
            Self::Duplicate => "the archive holds this path twice",
            Self::ThroughNonDirectory => "its path goes through a file or link of the archive",
            Self::RootNotDirectory => "it would replace the release's directory",
            Self::Device => "it is a device",
            Self::Fifo => "it is a named pipe",
            Self::Socket => "it is a socket",
            Self::UnknownType(kind) => match u8::try_from(*kind) {
                Ok(flag) if flag.is_ascii_graphic() => return write!(f, "its type `{}` is not supported", char::from(flag)),
                _ => return write!(f, "its type {kind:#o} is not supported"),
            },
            Self::SpecialBits => "it has a set-user-id, set-group-id or sticky bit",
            Self::Link(fault) => return fault.fmt(f),
            Self::HardLinkTarget => "it is a hard link to something that is not a file earlier in the archive",
            Self::UnexpectedContent => "it is a link or directory, yet has content",
            Self::GlobalOverride => "a global pax header renames or resizes it",
            Self::Sparse => "its sparse map is contradictory or of an unsupported version",
            Self::Encrypted => "it is encrypted",
            Self::Compression => "its compression method is not supported",
        })
    }
}

impl Rule {
    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::EmptyName | Self::NulInName | Self::UnexpectedContent => return None,
            Self::AbsoluteName | Self::ParentInName => "pack relative to the directory: tar -C DIR -cf app.tar .",
            Self::LongComponent | Self::LongName | Self::TooDeep => "shorten the path",
            Self::Backslash => "pack it with a tool that writes `/` between directories",
            Self::NotOneComponent => "name the artifact without directories",
            Self::Duplicate | Self::ThroughNonDirectory => "pack each path once, from one clean directory",
            Self::RootNotDirectory => "pack the directory's contents, not a link to it",
            Self::Device | Self::Fifo | Self::Socket => "leave it out; create it on the host if the app needs it",
            Self::UnknownType(_) => "pack with GNU tar or bsdtar and default settings",
            Self::SpecialBits => "remove the bits: chmod -R u-s,g-s,-t DIR before packing, or tar --mode=u-s,g-s,-t",
            Self::Link(fault) => fault.hint(),
            Self::HardLinkTarget => "pack with tar --hard-dereference",
            Self::GlobalOverride => "pack with GNU tar or bsdtar and default settings",
            Self::Sparse => "pack without --sparse, or with --sparse-version=1.0",
            Self::Encrypted => "pack without a password",
            Self::Compression => "pack with deflate, zip's default, or as tar.zst",
        })
    }
}

/// Which limit was reached, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Files, directories and links.
    Entries(u64),
    /// Bytes in files.
    Bytes(u64),
    /// Unpacked bytes per packed byte.
    Ratio(u64),
    /// Bytes in headers and padding.
    Overhead(u64),
    /// Bytes in one entry's extended header.
    ExtendedHeader(u64),
    /// Pieces of one sparse file.
    SparsePieces(u64),
    /// Memory that the decoder may use, in bytes.
    Memory(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(limit) => write!(f, "the archive has more than {limit} entries"),
            Self::Bytes(limit) => write!(f, "the archive unpacks to more than {limit} bytes"),
            Self::Ratio(limit) => write!(f, "the archive unpacks to more than {limit} times its size"),
            Self::Overhead(limit) => write!(f, "the archive has more than {limit} bytes of headers and padding"),
            Self::ExtendedHeader(limit) => write!(f, "an extended header is over {limit} bytes"),
            Self::SparsePieces(limit) => write!(f, "a sparse file has more than {limit} pieces"),
            Self::Memory(limit) => write!(f, "unpacking needs more than {limit} bytes of memory"),
        }
    }
}

/// Says why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry breaks a rule.
    #[error("archive entry `{entry}` was refused: {rule}")]
    Refused {
        /// The entry's name: printable, shortened.
        entry: String,
        /// The rule.
        rule: Rule,
    },
    /// The archive is larger than allowed.
    #[error("{limit}, reached at entry `{entry}`")]
    TooMuch {
        /// The entry at which it showed: printable, shortened.
        entry: String,
        /// The limit.
        limit: Limit,
    },
    /// Not an archive of this kind, damaged, cut short, or followed by something else.
    #[error("{} is not a sound archive: {reason}", archive.display())]
    Broken {
        /// The archive.
        archive: PathBuf,
        /// What is wrong.
        reason: String,
        /// What the decoder said.
        #[source]
        source: Option<io::Error>,
    },
    /// Nothing in it.
    #[error("{} holds no entries", archive.display())]
    Empty {
        /// The archive.
        archive: PathBuf,
    },
    /// The file system failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("unpacking was cancelled")]
    Cancelled,
}

impl UnpackError {
    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }

    pub(super) fn refused(entry: &[u8], rule: Rule) -> Self {
        Self::Refused { entry: printable(entry), rule }
    }

    pub(super) fn too_much(entry: &[u8], limit: Limit) -> Self {
        Self::TooMuch { entry: printable(entry), limit }
    }

    pub(super) fn broken(archive: &Path, reason: impl Into<String>) -> Self {
        Self::Broken { archive: archive.into(), reason: reason.into(), source: None }
    }

    /// Returns what to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { rule, .. } => rule.hint()?,
            Self::TooMuch { limit: Limit::Bytes(_), .. } => "free space on the host, or pack less",
            Self::TooMuch { limit: Limit::Memory(_), .. } => {
                "pack with a smaller window: zstd without --ultra --long, xz -9 or less"
            }
            Self::TooMuch { limit: Limit::Ratio(_), .. } => "if that is meant, pack with less compression or fewer holes",
            Self::TooMuch { .. } => "pack less, or in fewer and larger files",
            Self::Broken { .. } => "build the artifact again, and check that its name says what it is",
            Self::Empty { .. } => "check the step that builds the artifact",
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on the host",
                io::ErrorKind::PermissionDenied => "check the owner and mode of the directory above",
                io::ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only",
                _ => return None,
            },
            Self::Cancelled => return None,
        };
        Some(hint.to_owned())
    }
}

/// Makes a name from an archive fit for a message: no control characters, at most 200 characters.
fn printable(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    let head = &name[..name.len().min(4 * LONGEST)];
    let text = String::from_utf8_lossy(head);
    let mut shown: String =
        text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if let Some((cut, _)) = shown.char_indices().nth(LONGEST) {
        shown.truncate(cut);
        shown.push('…');
    }
    shown
}
