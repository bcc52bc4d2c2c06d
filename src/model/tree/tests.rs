use proptest::prelude::*;

use super::*;

fn directory(path: &str) -> TreeEntry {
    TreeEntry { path: path.into(), kind: EntryKind::Directory { mode: 0o755 } }
}

fn file(path: &str, length: u64) -> TreeEntry {
    let digest = Digest(Sha256::digest(path).into());
    TreeEntry { path: path.into(), kind: EntryKind::File(TreeFile { mode: 0o644, length, digest }) }
}

fn link(path: &str, target: &str) -> TreeEntry {
    TreeEntry { path: path.into(), kind: EntryKind::Symlink { target: target.into() } }
}

#[test]
fn parts_of_a_range_are_the_files_it_lies_in() {
    let tree = Tree::new(vec![file("a", 10), directory("b"), file("b/empty", 0), file("b/x", 5), link("c", "a"), file("d", 1)]);
    let tree = tree.unwrap();
    assert_eq!(tree.size(), 16);
    let parts = |range: Range<u64>| -> Vec<(usize, String, Range<u64>)> {
        tree.parts(range).map(|part| (part.index, part.path.to_owned(), part.range)).collect()
    };
    assert_eq!(parts(0..16), [(0, "a".into(), 0..10), (1, "b/x".into(), 0..5), (2, "d".into(), 0..1)]);
    assert_eq!(parts(9..11), [(0, "a".into(), 9..10), (1, "b/x".into(), 0..1)]);
    assert_eq!(parts(10..15), [(1, "b/x".into(), 0..5)]);
    assert_eq!(parts(15..99), [(2, "d".into(), 0..1)]);
    assert_eq!(parts(16..17), []);
    assert_eq!(parts(3..3), []);
    let empty = Tree::new(vec![file("only", 0)]).unwrap();
    assert_eq!((empty.size(), empty.parts(0..1).count()), (0, 0));
}

#[test]
fn what_an_enemy_would_list_is_refused() {
    let long = "x".repeat(256);
    let deep = vec!["d"; MAX_TREE_DEPTH + 1].join("/");
    let special = |mode| TreeEntry { path: "a".into(), kind: EntryKind::Directory { mode } };
    for (entries, fault) in [
        (vec![], TreeFault::Nothing),
        (vec![file("", 1)], TreeFault::Name),
        (vec![file("/etc/passwd", 1)], TreeFault::Name),
        (vec![file("..", 1)], TreeFault::Name),
        (vec![directory("a"), file("a/../b", 1)], TreeFault::Name),
        (vec![file("a\n", 1)], TreeFault::Name),
        (vec![file("a\\b", 1)], TreeFault::Name),
        (vec![file("a\0", 1)], TreeFault::Name),
        (vec![directory("a"), file("a/", 1)], TreeFault::Name),
        (vec![file(&long, 1)], TreeFault::Long),
        (vec![file(&"x/".repeat(2100), 1)], TreeFault::Long),
        (vec![file(&deep, 1)], TreeFault::Deep),
        (vec![file("a", 1), file("a", 1)], TreeFault::Order),
        (vec![directory("a"), link("a", "b")], TreeFault::Order),
        (vec![file("b", 1), file("a", 1)], TreeFault::Order),
        (vec![file("a-b", 1), directory("a"), file("a/b", 1)], TreeFault::Order),
        (vec![file("a/b", 1)], TreeFault::Orphan),
        (vec![file("a", 1), file("a/b", 1)], TreeFault::Orphan),
        (vec![link("a", "b"), file("a/b", 1)], TreeFault::Orphan),
        (vec![directory("a"), directory("a/b"), file("a/c", 1), file("a/c/d", 1)], TreeFault::Orphan),
        (vec![special(0o4755)], TreeFault::Mode),
        (vec![special(0o1777)], TreeFault::Mode),
        (vec![special(u32::MAX)], TreeFault::Mode),
        (vec![link("a", "/etc")], TreeFault::Link(LinkFault::Absolute)),
        (vec![link("a", "../b")], TreeFault::Link(LinkFault::Outside)),
        (vec![link("a", "b/../c")], TreeFault::Link(LinkFault::ParentAfterName)),
        (vec![link("a", "")], TreeFault::Link(LinkFault::Bad)),
        (vec![file("a", u64::MAX), file("b", 1)], TreeFault::TooLarge),
        (vec![file("a", i64::MAX as u64), file("b", 1)], TreeFault::TooLarge),
        ((0..=MAX_TREE_ENTRIES).map(|n| file(&format!("{n:06}"), 1)).collect(), TreeFault::TooMany),
    ] {
        let shown = format!("{:.200}", format!("{entries:?}"));
        assert_eq!(Tree::new(entries).map_err(|error| error.fault), Err(fault), "{shown}");
    }
}

#[test]
fn what_is_sound_is_taken() {
    let entries = vec![
        directory("a"),
        file("a/b", 1),
        directory("a/empty"),
        link("a/up", "../z"),
        file("a-b", 0),
        file("with space", 3),
        link("z", "a/b"),
        file("ü/ü".split_once('/').unwrap().0, 1),
    ];
    Tree::new(entries).unwrap();
}

#[test]
fn everything_that_makes_a_release_differ_is_in_the_digest() {
    let base = || vec![directory("d"), file("d/a", 1), link("l", "d/a")];
    let digest = |entries| Tree::new(entries).unwrap().digest();
    let mut seen = vec![digest(base())];
    assert_eq!(seen[0], digest(base()));
    let change = |at: usize, kind: EntryKind| {
        let mut entries = base();
        entries[at].kind = kind;
        entries
    };
    let sum = Digest([1; 32]);
    for other in [
        change(0, EntryKind::Directory { mode: 0o700 }),
        change(1, EntryKind::File(TreeFile { mode: 0o755, length: 1, digest: Digest(Sha256::digest("d/a").into()) })),
        change(1, EntryKind::File(TreeFile { mode: 0o644, length: 2, digest: Digest(Sha256::digest("d/a").into()) })),
        change(1, EntryKind::File(TreeFile { mode: 0o644, length: 1, digest: sum })),
        change(2, EntryKind::Symlink { target: "d".into() }),
        vec![directory("d"), file("d/b", 1), link("l", "d/a")],
        vec![directory("d"), file("d/a", 1)],
    ] {
        let found = digest(other);
        assert!(!seen.contains(&found));
        seen.push(found);
    }
}

proptest! {
    #[test]
    fn parts_cover_any_range_once(lengths in prop::collection::vec(0_u64..50, 1..40), a in 0_u64..2000, b in 0_u64..2000) {
        let entries: Vec<TreeEntry> = lengths.iter().enumerate().map(|(n, length)| file(&format!("{n:03}"), *length)).collect();
        let tree = Tree::new(entries).unwrap();
        let (from, to) = (a.min(b).min(tree.size()), a.max(b).min(tree.size()));
        let starts: Vec<(u64, u64)> = tree.files().map(|(start, _, file)| (start, file.length)).collect();
        let mut at = from;
        for part in tree.parts(from..to) {
            let (start, length) = starts[part.index];
            prop_assert_eq!(start + part.range.start, at);
            prop_assert!(part.range.start < part.range.end && part.range.end <= length);
            at = start + part.range.end;
        }
        prop_assert_eq!(at, to);
    }
}
