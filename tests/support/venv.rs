//! A Python with libtorrent, for the interoperability tests and the lab: a virtual environment under `target/`, made on demand.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

/// The version that is tested against.
const LIBTORRENT: &str = "libtorrent==2.1.1";

/// Returns the environment's Python, which can import libtorrent. Installs it from the package index the first time.
///
/// A lock file makes it safe to call from several processes at once.
pub(crate) fn python_with_libtorrent() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let venv = target.join("interop-venv");
    let python = venv.join("bin/python");
    std::fs::create_dir_all(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    let lock = target.join("interop-venv.lock");
    let lock = File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(|error| format!("lock: {error}"))?;
    if !runs(&python) {
        // Half an environment, from an interrupted run, is made anew.
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", LIBTORRENT]))?;
        if !runs(&python) {
            return Err(format!("{} can't import {LIBTORRENT} after it was installed", python.display()));
        }
    }
    drop(lock);
    Ok(python)
}

fn runs(python: &Path) -> bool {
    let script =
        format!("import libtorrent; assert 'libtorrent==' + libtorrent.__version__ in ('{LIBTORRENT}', '{LIBTORRENT}.0')");
    Command::new(python).args(["-c", &script]).output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr)))
}
