//! How much room a deploy needs on a host: what both the agent, which checks it, and the controller, which previews it, go by.

use super::{ArchiveKind, Manifest};

/// How much larger than its archive a release usually is at most.
const EXPANSION: u64 = 3;
/// What stays free: this share of the file system, at most [`MAX_RESERVE`] bytes.
const RESERVE_SHARE: u64 = 50;
const MAX_RESERVE: u64 = 64 << 20;

/// How many files must at least be possible, beside those of a directory.
const MIN_FILES: u64 = 16;

/// Returns the bytes that stay free on a file system of `total` bytes.
pub fn reserve(total: u64) -> u64 {
    (total / RESERVE_SHARE).min(MAX_RESERVE)
}

/// Returns the bytes that the release usually takes at most. How large an archive becomes is not known before it is unpacked; it is
/// at least its own size.
pub fn usual_release(manifest: &Manifest) -> u64 {
    match (&manifest.tree, manifest.archive) {
        (Some(tree), _) => tree.on_disk.max(manifest.size),
        (None, ArchiveKind::Tar | ArchiveKind::File) => manifest.size,
        (None, _) => manifest.size.saturating_mul(EXPANSION),
    }
}

/// Returns how many files the file system must have room for. How many an archive holds is not known.
pub fn files(manifest: &Manifest) -> u64 {
    manifest.tree.map_or(0, |tree| u64::from(tree.entries)) + MIN_FILES
}

/// Writes a number of bytes for people: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{count} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        for (count, text) in [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(bytes(count), text);
        }
    }
}
