//! A release of a directory: its files are ranges of the artifact.

use super::{UnpackError, blob::Blob, dest::Dest, name::EntryPath};
use crate::model::{Tree, tree::EntryKind};

/// Makes everything that is listed. The listing was checked, and each name and link is checked here like an archive's.
pub(super) fn copy(artifact: Blob<'_>, tree: &Tree, dest: &mut Dest<'_>) -> Result<(), UnpackError> {
    let mut start = 0;
    for entry in tree.entries() {
        let name = entry.path.as_bytes();
        let path = EntryPath::parse(name, dest.meter.limits).map_err(|rule| UnpackError::refused(name, rule))?;
        match &entry.kind {
            EntryKind::Directory { mode } => dest.directory(&path, *mode)?,
            EntryKind::Symlink { target } => dest.symlink(&path, target.as_bytes())?,
            EntryKind::File(listed) => {
                let mut file = dest.new_file(&path, listed.mode)?;
                artifact.copy(start..start + listed.length, &path, &mut file, dest)?;
                dest.complete_file(&path, file, listed.mode, None)?;
                start += listed.length;
            }
        }
    }
    Ok(())
}
