//! Labs on one machine take turns.

use std::{
    fs::{File, TryLockError},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// How often a lab that waits for its turn looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for its turn: an exclusive lock on a file, as `flock` takes it, until the result is dropped.
pub(crate) async fn take(lock: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = lock else { return Ok(None) };
    let file = File::options().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            // Asked again and again, because a thread that is blocked in the kernel could not be interrupted.
            Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
}
