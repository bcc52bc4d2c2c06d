//! The history: what this controller's runs did, in one SQLite file, so that it can be looked up and an interrupted run finished.
//!
//! | part | owns |
//! |---|---|
//! | `database` | the file: where it may be, who may read it, its schema and bounds |
//! | `record` | what is known of a run and its hosts, as types |
//! | `recorder` | a [`crate::report::Reporter`] that writes a run down while it goes on |
//! | `query` | reading it again |
//! | `process` | whether a run's controller still lives |
//!
//! Promises: a run is in the history before its first host is touched; what happens to it is there within [`WRITE_EVERY`], written in
//! batches on a thread of its own, so that neither a thousand hosts nor a slow disk hold up a run; the file is private to its user
//! (0600) and bounded ([`MAX_RUNS`], [`MAX_HOSTS`], [`MAX_LISTINGS`]: what is oldest goes first). What hooks printed is not kept; their command lines are, in what
//! was asked for and, the first 80 characters, in messages of those that failed. No key or password of ours ever gets here. Never prints, decides nothing about hosts, and nothing that fails here stops a run.

mod database;
mod process;
mod query;
mod record;
mod recorder;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use self::{
    database::{History, MAX_HOSTS, MAX_LISTINGS, MAX_RUNS},
    query::Filter,
    record::{Action, ArtifactRecord, End, HostRecord, Outcome, RunRecord, RunStart, Step},
    recorder::{Recorder, Recording, WRITE_EVERY},
};

/// Says why the history can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file or its directory can't be made or opened.
    #[error("cannot open the history {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{} is not a history of fleetdrop", .0.display())]
    Foreign(PathBuf),
    /// A later version of this program wrote it.
    #[error("the history {} is of a newer fleetdrop (format {format})", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format's version.
        format: i64,
    },
    /// SQLite refuses.
    #[error("cannot {what} the history {}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
    /// More happened than could be written down.
    #[error("the history {} was too slow: {lost} steps of hosts are not in it", path.display())]
    Slow {
        /// The file.
        path: PathBuf,
        /// How many.
        lost: usize,
    },
    /// The thread that writes does not end.
    #[error("the history {} does not answer", .0.display())]
    Silent(PathBuf),
}

impl HistoryError {
    fn database(path: &Path, what: &'static str) -> impl Fn(rusqlite::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Database { path: path.clone(), what, source }
    }

    /// Returns what to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::File { .. } | Self::Database { .. } | Self::Silent(_) | Self::Slow { .. } => {
                Some("choose another file with `--history FILE`, or none with `--no-history`")
            }
            Self::Foreign(_) => Some("choose another file with `--history FILE`"),
            Self::Newer { .. } => Some("use the fleetdrop that wrote it, or another file with `--history FILE`"),
        }
    }

    /// True if somebody else is writing right now.
    fn is_busy(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        match self {
            Self::Database { source, .. } => matches!(source.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked)),
            _ => false,
        }
    }
}
