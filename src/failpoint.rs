//! Places where a test kills this process, as the kernel would when memory runs out: without any warning, in the middle of a step.
//!
//! Only with the feature `failpoints`, which nothing that ships has; without it [`reach`] is nothing. With it,
//! `FLEETDROP_FAILPOINT=NAME[:COUNT]` ends the process by SIGKILL when it comes to that place for the COUNTth time (the first, if that is left
//! out), and `FLEETDROP_FAILPOINT_TRACE=FILE` writes down every place it comes to, so that a test knows which there are on a way.

#[cfg(feature = "failpoints")]
pub use armed::{AGENT, CONTROLLER, KILL, TRACE, reach};

/// Says that this process has come to the place `point`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_point: &'static str) {}

#[cfg(feature = "failpoints")]
mod armed {
    use std::{
        fs::OpenOptions,
        io::Write as _,
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    use rustix::process::{Signal, getpid, kill_process};

    /// The variable that names the place where the process ends.
    pub const KILL: &str = "FLEETDROP_FAILPOINT";
    /// The variable that names the file in which the places are written down.
    pub const TRACE: &str = "FLEETDROP_FAILPOINT_TRACE";

    /// The agent's places, about in the order of a deploy.
    pub const AGENT: &[&str] = &[
        "lock.opened",
        "lock.taken",
        "lock.announced",
        "recover.switched_back",
        "recover.hooks_run",
        "recover.journalled",
        "leftovers.removing",
        "leftovers.removed",
        "reuse.copied",
        "download.begun",
        "download.verified",
        "extract.begun",
        "extract.file_created",
        "extract.file",
        "extract.sync_file",
        "extract.sync_directory",
        "extract.done",
        "release.recorded",
        "release.renamed",
        "release.flushed",
        "cache.adopting",
        "cache.copying",
        "cache.copied",
        "cache.adopted",
        "hook.noted",
        "command.started",
        "hook.ended",
        "write.temporary",
        "write.renamed",
        "journal.prepared",
        "journal.prepared.written",
        "journal.activated",
        "journal.activated.written",
        "journal.confirmed",
        "journal.confirmed.written",
        "journal.reverted",
        "journal.reverted.written",
        "symlink.temporary",
        "symlink.renamed",
        "switch.flushed",
        "revisions.written",
        "health.passed",
        "confirm.recorded",
        "revert.removed",
        "revert.flushed",
        "prune.renamed",
        "prune.emptied",
        "prune.done",
        "cache.evicted",
        "tidy.done",
    ];

    /// The controller's places, about in the order of a deploy.
    pub const CONTROLLER: &[&str] = &[
        "controller.hashed",
        "controller.seeding",
        "controller.queued",
        "controller.connecting",
        "controller.preparing",
        "controller.downloading",
        "controller.backfilling",
        "controller.verifying",
        "controller.extracting",
        "controller.staged",
        "controller.barrier",
        "controller.activating",
        "controller.checking",
        "controller.active",
        "controller.dropped",
        "controller.ended",
    ];

    /// Where the process ends.
    struct Death {
        point: String,
        /// How often it is still to be passed by.
        left: AtomicU32,
    }

    static DEATH: LazyLock<Option<Death>> = LazyLock::new(|| {
        let text = std::env::var(KILL).ok()?;
        let (point, count) = text.split_once(':').unwrap_or((&text, "1"));
        let count: u32 = count.parse().ok().filter(|count| *count > 0)?;
        Some(Death { point: point.to_owned(), left: AtomicU32::new(count - 1) })
    });

    /// Says that this process has come to the place `point`. Ends it if that is where it has to end.
    pub fn reach(point: &'static str) {
        debug_assert!(AGENT.contains(&point) || CONTROLLER.contains(&point), "{point} is not in the list");
        if let Some(file) = std::env::var_os(TRACE) {
            let written =
                OpenOptions::new().append(true).create(true).open(file).and_then(|mut file| writeln!(file, "{point}"));
            debug_assert!(written.is_ok(), "{written:?}");
        }
        let Some(death) = DEATH.as_ref().filter(|death| death.point == point) else { return };
        let passes = death.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if passes.is_err() {
            // The signal is delivered before the call returns; whatever happens, nobody goes on from here.
            while kill_process(getpid(), Signal::KILL).is_ok() {}
            std::process::abort();
        }
    }
}
