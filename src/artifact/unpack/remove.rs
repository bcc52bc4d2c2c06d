//! Removing a release, also one whose directories refuse it.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

/// Removes a directory with everything in it; no error if it does not exist. Never follows links.
///
/// A directory whose mode keeps its owner from removing what is in it (an app may make such) gets the owner's rights back first.
///
/// # Errors
///
/// What the system says about the first thing that can't be removed, for example files of another user.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            grant_owner(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// Adds the owner's rights to every directory in the tree.
///
/// Works on paths, so it could be led astray by whoever swaps a directory for a link just then. That gains nobody anything: root is
/// never refused and so never comes here, and another user only reaches what is his own.
pub(super) fn grant_owner(path: &Path) -> io::Result<()> {
    let mut directories = vec![path.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let mode = fs::symlink_metadata(&directory)?.permissions().mode();
        if mode & 0o700 != 0o700 {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode | 0o700))?;
        }
        for item in fs::read_dir(&directory)? {
            let item = item?;
            // The type of the item itself: a link to a directory is no directory.
            if item.file_type()?.is_dir() {
                directories.push(item.path());
            }
        }
    }
    Ok(())
}
