//! The file: who may read it, its schema, how large it grows.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rustix::fs::OFlags;

use super::HistoryError;

/// How many runs are kept.
pub const MAX_RUNS: u32 = 1000;
/// How many hosts of runs are kept, all runs together: 200 runs of 1,000 hosts take some 70 MB.
pub const MAX_HOSTS: u32 = 200_000;
/// How many bytes of listings of directories are kept, all runs together: that of a directory with 10,000 files takes some 500 KB.
pub const MAX_LISTINGS: u32 = 64 << 20;

/// How long another process may be writing before a command goes without the history.
const BUSY: Duration = Duration::from_secs(2);
/// Marks the file as a history: `fldr`.
const APPLICATION: i64 = 0x666c_6472;

/// What brings an older file up to date, one entry a version. An entry that was released never changes.
const MIGRATIONS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// An open history.
#[derive(Debug)]
pub struct History {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
}

impl History {
    /// Opens the history in `path`, makes it if it is missing and brings it up to date.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let unusable = |source| HistoryError::File { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            make_directory(directory).map_err(unusable)?;
        }
        // SQLite would make it readable for everybody, and gives its files beside it the same mode.
        private(path).map_err(unusable)?;
        let mut history = Self::connect(path)?;
        let format = history.format()?;
        history.bring_up_to_date(format).map_err(HistoryError::database(path, "open"))?;
        Ok(history)
    }

    /// Opens the history in `path` to look at it; none if there is none.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, HistoryError> {
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(source) => return Err(HistoryError::File { path: path.to_owned(), source }),
        }
        let history = Self::connect(path)?;
        match history.format()? {
            // Made by a run that went no further.
            0 => Ok(None),
            _ => Ok(Some(history)),
        }
    }

    /// Connects to a file that is there. One that may only be read is opened for that.
    fn connect(path: &Path) -> Result<Self, HistoryError> {
        let error = HistoryError::database(path, "open");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connection = Connection::open_with_flags(path, flags).map_err(&error)?;
        connection.busy_timeout(BUSY).map_err(&error)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Returns the version of the file's format, 0 for an empty one; an error for one that this program can't read.
    pub(super) fn format(&self) -> Result<i64, HistoryError> {
        let error = HistoryError::database(&self.path, "read");
        let number = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (application, format) = match (number("application_id"), number("user_version")) {
            (Err(source), _) if source.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
                return Err(HistoryError::Foreign(self.path.clone()));
            }
            (application, format) => (application.map_err(&error)?, format.map_err(&error)?),
        };
        let tables = || self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
        match (application, format) {
            (APPLICATION, format) if format <= MIGRATIONS.len() as i64 => Ok(format),
            (APPLICATION, format) => Err(HistoryError::Newer { path: self.path.clone(), format }),
            (0, 0) if tables().map_err(&error)? == 0 => Ok(0),
            _ => Err(HistoryError::Foreign(self.path.clone())),
        }
    }

    fn bring_up_to_date(&mut self, format: i64) -> rusqlite::Result<()> {
        let connection = &mut self.connection;
        // What a power cut takes of the last moments is no loss; the file stays sound.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        if format == MIGRATIONS.len() as i64 {
            return Ok(());
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Somebody else may have been faster.
        let format: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(format).unwrap_or_default()) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
        transaction.commit()
    }

    /// Removes the oldest listings so that the rest takes so many bytes at most.
    pub(super) fn prune_listings(&mut self, bytes: u32) -> rusqlite::Result<usize> {
        self.connection.execute(
            "UPDATE runs SET listing = NULL WHERE number IN (
                SELECT number FROM (
                    SELECT number, sum(length(listing)) OVER (ORDER BY number DESC) AS together FROM runs WHERE listing IS NOT NULL
                ) WHERE together > ?1
            )",
            [bytes],
        )
    }

    /// Removes the oldest runs beyond the bounds. The last run always stays.
    pub(super) fn prune(&mut self, runs: u32, hosts: u32) -> rusqlite::Result<usize> {
        self.connection.execute(
            "DELETE FROM runs WHERE number < (SELECT max(number) FROM runs) AND number NOT IN (
                SELECT number FROM (
                    SELECT number, row_number() OVER latest AS place, sum(fleet) OVER latest AS together
                    FROM runs WINDOW latest AS (ORDER BY number DESC)
                ) WHERE place <= ?1 AND together <= ?2
            )",
            [runs, hosts],
        )
    }
}

/// Makes a directory if it is missing.
fn make_directory(directory: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => io::Error::other(format!("{} is not a directory", directory.display())),
        _ => error,
    })
}

/// Makes the file if it is missing and keeps it from others.
fn private(path: &Path) -> io::Result<()> {
    let flags = (OFlags::NONBLOCK).bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600).custom_flags(flags);
    let file = match options.clone().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path)?,
        made => made?,
    };
    close_to_others(&file)
}

fn close_to_others(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    if is_own && metadata.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}
