//! `revisions.log`: a line for every change of what is live, for people, as Capistrano's file of that name.
//!
//! ```text
//! 2026-11-20T03:15:04Z activated 20261120T031500Z-1a2b3c4d replaced=20261113T101500Z-99887766 app=shop sha256=1a2b… run=1f9a64c2d03b77e1 by=anna@laptop
//! 2026-11-20T03:15:06Z confirmed 20261120T031500Z-1a2b3c4d app=shop …
//! ```
//!
//! Lines are appended and on the disk when a note returns; what a power cut left of one is ended by the next. The file is bounded: a
//! full one becomes `revisions.log.1`. Nothing reads it: the journal decides, and a line may be missing where an agent was killed
//! between the two. A log that can't be written stops nothing; it is told once a job.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::{
    Clock,
    disk::{self, At as _, DiskError},
    failure::chain,
    journal::JournalEntry,
    releases,
    root::Root,
};
use crate::{failpoint, model::ReleaseId};

/// Where a file is full, in bytes: some thousand lines.
const FULL: u64 = 1 << 20;

/// What changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change<'a> {
    /// The release of a deploy became live instead of another.
    Activated(Option<&'a ReleaseId>),
    /// The release of a rollback became live instead of another.
    RolledBack(Option<&'a ReleaseId>),
    /// It stays.
    Confirmed,
    /// It went, and this is live.
    Reverted(Option<&'a ReleaseId>),
}

/// What one job writes into the log.
#[derive(Debug)]
pub(crate) struct Revisions {
    path: PathBuf,
    clock: Clock,
    release: ReleaseId,
    /// The end of every line: what the release is, and who made it live.
    about: String,
    told: bool,
}

impl Revisions {
    /// Prepares the lines about one switch.
    pub(crate) fn of(root: &Root, clock: Clock, entry: &JournalEntry) -> Self {
        let mut about = String::new();
        if let Ok(Some(record)) = releases::record(root, &entry.release) {
            about = format!(" app={} sha256={}", record.manifest.app, record.manifest.digest);
        }
        about += &format!(" run={}", entry.run);
        if let Some(by) = &entry.by {
            about += &format!(" by={by}");
        }
        Self { path: root.revisions(), clock, release: entry.release.clone(), about, told: false }
    }

    /// Writes a line. Returns what to tell if that fails and has not been told.
    pub(crate) fn note(&mut self, change: Change<'_>) -> Option<String> {
        let (verb, other) = match change {
            Change::Activated(before) => ("activated", Some(("replaced", before))),
            Change::RolledBack(before) => ("rolled-back-to", Some(("replaced", before))),
            Change::Confirmed => ("confirmed", None),
            Change::Reverted(live) => ("reverted", Some(("live", live))),
        };
        let other = other.map_or(String::new(), |(name, id)| format!(" {name}={}", id.map_or("-", ReleaseId::as_str)));
        let line = format!("{} {verb} {}{other}{}\n", self.clock.stamp(), self.release, self.about);
        let error = append(&self.path, &line).err()?;
        let first = !std::mem::replace(&mut self.told, true);
        first.then(|| format!("what is live is not written down: {}", chain(&error)))
    }
}

/// Adds a line and waits until it is on the disk.
fn append(path: &Path, line: &str) -> Result<(), DiskError> {
    let (mut file, mut length) = open(path)?;
    if length > 0 && length + line.len() as u64 > FULL {
        let mut full = path.as_os_str().to_owned();
        full.push(".1");
        disk::rename(path, Path::new(&full))?;
        (file, length) = open(path)?;
    }
    let written = (|| {
        let cut_short = length > 0 && {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            last != *b"\n"
        };
        // In one go: whoever reads meanwhile sees whole lines.
        let text = if cut_short { format!("\n{line}") } else { line.to_owned() };
        file.write_all(text.as_bytes())?;
        failpoint::reach("revisions.written");
        file.sync_data()
    })();
    written.at("write", path)?;
    match path.parent() {
        Some(directory) if length == 0 => disk::sync_dir(directory),
        _ => Ok(()),
    }
}

/// Opens the log to add to it, and returns how long it is. Whatever else has its name is left alone.
fn open(path: &Path) -> Result<(File, u64), DiskError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o644).custom_flags(flags).open(path).at("open", path)?;
    let meta = file.metadata().at("look at", path)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file")).at("write", path);
    }
    Ok((file, meta.len()))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        time::{Duration, SystemTime},
    };

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::{
        agent::journal::Stage,
        model::{ArchiveKind, Digest, Manifest, plan::Linked},
    };

    const CLOCK: Clock = Clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));

    fn id(text: &str) -> ReleaseId {
        text.parse().unwrap()
    }

    /// A log about the release `r2`, which has a record.
    fn log(dir: &Path) -> Revisions {
        let root = Root::new(dir.join("app").to_str().unwrap(), None).unwrap();
        root.prepare(rustix::process::geteuid().as_raw()).unwrap();
        let manifest = Manifest {
            app: "shop".parse().unwrap(),
            file_name: "shop.tar".into(),
            digest: Digest([0xab; 32]),
            size: 1,
            archive: ArchiveKind::Tar,
            tree: None,
        };
        let record = releases::Record {
            signed: None,
            release: id("r2"),
            manifest,
            linked: Linked::default(),
            by: None,
            sequence: 1,
            staged_at: CLOCK.stamp(),
            activated_at: None,
            replaced: None,
        };
        releases::write_record(&root, &record).unwrap();
        let entry = JournalEntry {
            stage: Stage::Prepared,
            run: "00000000000000aa".parse().unwrap(),
            by: Some("anna@laptop".parse().unwrap()),
            release: id("r2"),
            previous: Some(id("r1")),
            at: CLOCK.stamp(),
            undo: None,
        };
        Revisions::of(&root, CLOCK, &entry)
    }

    #[test]
    fn every_change_is_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        let r1 = id("r1");
        for change in [
            Change::Activated(None),
            Change::RolledBack(Some(&r1)),
            Change::Confirmed,
            Change::Reverted(Some(&r1)),
            Change::Reverted(None),
        ] {
            assert_eq!(log.note(change), None);
        }
        let about = format!("app=shop sha256={} run=00000000000000aa by=anna@laptop", "ab".repeat(32));
        let lines = fs::read_to_string(&log.path).unwrap().replace(&about, "ABOUT");
        insta::assert_snapshot!(lines, @"
        2027-01-15T08:00:00Z activated r2 replaced=- ABOUT
        2027-01-15T08:00:00Z rolled-back-to r2 replaced=r1 ABOUT
        2027-01-15T08:00:00Z confirmed r2 ABOUT
        2027-01-15T08:00:00Z reverted r2 live=r1 ABOUT
        2027-01-15T08:00:00Z reverted r2 live=- ABOUT
        ");
    }

    #[test]
    fn a_line_that_was_cut_short_is_ended_and_whatever_stands_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        fs::write(&log.path, b"Branch main \xff deployed\n2026-11-20T03:1").unwrap();
        assert_eq!(log.note(Change::Confirmed), None);
        let bytes = fs::read(&log.path).unwrap();
        assert!(bytes.starts_with(b"Branch main \xff deployed\n2026-11-20T03:1\n2027-01-15T08:00:00Z confirmed r2 "));
    }

    #[test]
    fn a_full_log_makes_room_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        for full in ["first", "second"] {
            fs::write(&log.path, format!("{full}{}\n", " ".repeat(FULL as usize))).unwrap();
            assert_eq!(log.note(Change::Confirmed), None);
            assert_eq!(fs::read_to_string(&log.path).unwrap().lines().count(), 1);
            assert!(fs::read_to_string(log.path.with_extension("log.1")).unwrap().starts_with(full));
        }
    }

    #[test]
    fn what_is_no_log_is_told_once_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for plant in ["directory", "symlink", "fifo"] {
            let mut log = log(dir.path());
            let victim = dir.path().join("victim");
            fs::write(&victim, "precious").unwrap();
            match plant {
                "directory" => fs::create_dir(&log.path).unwrap(),
                "symlink" => std::os::unix::fs::symlink(&victim, &log.path).unwrap(),
                _ => mknodat(CWD, &log.path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
            }
            let told = log.note(Change::Confirmed).unwrap();
            assert!(told.starts_with("what is live is not written down: cannot ") && told.contains("revisions.log"), "{told}");
            assert_eq!(log.note(Change::Confirmed), None, "it is told once");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
            disk::remove_tree(&log.path).unwrap();
        }
    }
}
