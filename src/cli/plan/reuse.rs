//! How much of a directory need not come to hosts, because files with the same content are in their live release or the one before.
//!
//! The hosts are not asked: what those releases consist of is in the history of this machine, if it deployed them and has not forgotten it since. So
//! it costs nothing, and hosts with other releases than the history knows count as if they had nothing. Not foreseen is what applications changed in their release, what still older
//! releases have, and what an earlier attempt left.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::history::HistoryArgs, Row};
use crate::{
    controller::{Artifact, Listing},
    history::History,
    model::{AppName, Digest, ReleaseId},
    swarm::Metainfo,
};

/// Fills in what hosts have. A history that can't be read is one that knows nothing.
pub(super) fn predict(rows: &mut [Row], artifact: &Artifact, args: &HistoryArgs) {
    if artifact.manifest.tree.is_none() || args.no_history {
        return;
    }
    let opened = args.file.open();
    let Ok(Some(history)) = opened.inspect_err(|error| tracing::debug!("the history is not asked: {error}")) else { return };
    let mut known = Known { history, app: &artifact.manifest.app, contents: BTreeMap::new() };
    // Most hosts have the same.
    let mut reused: BTreeMap<Vec<ReleaseId>, u64> = BTreeMap::new();
    for row in rows {
        let Some(preview) = row.preview().filter(|_| row.transfer() > 0) else { continue };
        let releases: Vec<ReleaseId> = preview.current.iter().chain(&preview.previous).cloned().collect();
        let bytes = reused.entry(releases).or_insert_with_key(|releases| known.reused(&artifact.metainfo, releases));
        row.reused = *bytes;
    }
}

/// What the history knows of releases.
struct Known<'a> {
    history: History,
    app: &'a AppName,
    /// What files have that are in a release.
    contents: BTreeMap<ReleaseId, BTreeSet<Digest>>,
}

impl Known<'_> {
    /// Returns how many bytes of the directory are in one of these releases.
    fn reused(&mut self, metainfo: &Metainfo, releases: &[ReleaseId]) -> u64 {
        for release in releases {
            if !self.contents.contains_key(release) {
                let contents = self.read(release).unwrap_or_default();
                self.contents.insert(release.clone(), contents);
            }
        }
        let there: Vec<_> = releases.iter().filter_map(|release| self.contents.get(release)).collect();
        bytes_there(metainfo, |digest| there.iter().any(|contents| contents.contains(digest)))
    }

    fn read(&self, release: &ReleaseId) -> Option<BTreeSet<Digest>> {
        let run = self.history.deploy_of(release).ok().flatten()?;
        let listing: Listing = serde_json::from_str(&self.history.listing(&run).ok().flatten()?).ok()?;
        let listed = listing.read(self.app.clone())?;
        Some(listed.tree()?.files().map(|(_, _, file)| file.digest).collect())
    }
}

/// Returns how many bytes are in pieces that consist of files alone whose content is there.
fn bytes_there(metainfo: &Metainfo, is_there: impl Fn(&Digest) -> bool) -> u64 {
    let Some(tree) = metainfo.tree() else { return 0 };
    let mut comes = vec![false; metainfo.piece_count() as usize];
    for (start, _, file) in tree.files().filter(|(_, _, file)| !is_there(&file.digest)) {
        let piece = |at: u64| (at / u64::from(metainfo.piece_length())) as usize;
        comes[piece(start)..=piece(start + file.length - 1)].fill(true);
    }
    let pieces = (0..).zip(comes).filter(|(_, comes)| !comes);
    pieces.filter_map(|(piece, _)| metainfo.piece_size(piece)).map(u64::from).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        Tree,
        tree::{EntryKind, TreeEntry, TreeFile},
    };

    #[test]
    fn a_piece_need_not_come_if_all_of_it_is_there() {
        const PIECE: u64 = 16 << 10;
        let file = |path: &str, length: u64, content: u8| {
            let kind = EntryKind::File(TreeFile { mode: 0o644, length, digest: Digest([content; 32]) });
            TreeEntry { path: path.to_owned(), kind }
        };
        let files = vec![file("a", PIECE, 1), file("b", PIECE / 2, 2), file("c", 0, 0), file("d", PIECE, 3), file("e", 7, 4)];
        let tree = Arc::new(Tree::new(files).unwrap());
        let metainfo = Metainfo::of_tree("dist", tree.clone(), PIECE as u32, vec![[0; 20]; 3]).unwrap();
        let there = |contents: &[u8]| bytes_there(&metainfo, |digest| contents.contains(&digest.0[0]));
        assert_eq!(there(&[]), 0);
        assert_eq!(there(&[1]), PIECE);
        assert_eq!(there(&[2]), 0, "its piece has another file's bytes as well");
        assert_eq!(there(&[2, 3]), PIECE);
        assert_eq!(there(&[3, 4]), PIECE / 2 + 7);
        assert_eq!(there(&[1, 2, 3, 4]), tree.size());
    }
}
