//! Archives that must be refused, each for its reason, with nothing changed outside the release.

use std::os::unix::fs::symlink;

use super::{
    tars::{Tar, gnu_sparse},
    zips::{Entry, zip},
    *,
};
use crate::model::tree::LinkFault;

/// Unpacks and returns the rule that was broken and the entry that broke it.
fn refusal(what: &str, archive: &[u8], kind: ArchiveKind) -> (Rule, String) {
    match Bed::new().unpack(archive, kind) {
        Err(UnpackError::Refused { entry, rule }) => (rule, entry),
        other => panic!("{what}: {other:?}"),
    }
}

/// A case: what it is, the archive, the rule it breaks, how the entry's name begins.
type Case<'a> = (&'a str, Vec<u8>, Rule, &'a str);

fn refuse_all(cases: &[Case<'_>]) {
    for (what, archive, rule, entry) in cases {
        let (found, at) = refusal(what, archive, ArchiveKind::Tar);
        assert_eq!(found, *rule, "{what}, at {at}");
        assert!(at.starts_with(entry), "{what}: {at} is not {entry}");
    }
}

#[test]
fn tar_names_that_lead_out_or_are_unfit() {
    let tar = Tar::new;
    let fine = || Tar::new().file("fine", b"1");
    let deep = "d/".repeat(129) + "f";
    let long = vec![b'n'; 256];
    let endless = "p/".repeat(2100) + "p";
    refuse_all(&[
        ("parent", fine().file("../victim", b"x").end(), Rule::ParentInName, "../victim"),
        ("parent inside", tar().file("a/../../victim", b"x").end(), Rule::ParentInName, "a/../../victim"),
        ("parent directory", tar().dir("..").end(), Rule::ParentInName, ".."),
        ("absolute", tar().file("/tmp/x", b"x").end(), Rule::AbsoluteName, "/tmp/x"),
        ("empty name", tar().file("", b"x").end(), Rule::EmptyName, ""),
        ("NUL in a pax path", tar().pax(&[("path", b"a\0b")]).file("a", b"x").end(), Rule::NulInName, "a\\u{0}b"),
        ("NUL in a GNU name", tar().gnu_name(b"a\0b").file("a", b"x").end(), Rule::NulInName, "a\\u{0}b"),
        ("parent in a pax path", tar().pax(&[("path", b"../victim")]).file("a", b"x").end(), Rule::ParentInName, "../victim"),
        ("parent in a GNU name", tar().gnu_name(b"../victim").file("a", b"x").end(), Rule::ParentInName, "../victim"),
        ("too deep", tar().gnu_name(deep.as_bytes()).file("a", b"x").end(), Rule::TooDeep, &deep[..200]),
        ("long component", tar().gnu_name(&long).file("a", b"x").end(), Rule::LongComponent, "nnn"),
        ("long path", tar().pax(&[("path", endless.as_bytes())]).file("a", b"x").end(), Rule::LongName, "p/p"),
    ]);
}

#[test]
fn tar_entries_that_get_in_each_others_way() {
    let tar = Tar::new;
    refuse_all(&[
        ("file twice", tar().file("a", b"1").file("a", b"2").end(), Rule::Duplicate, "a"),
        ("file twice, written otherwise", tar().file("a/b", b"1").file("./a//b", b"2").end(), Rule::Duplicate, "a/b"),
        ("directory twice", tar().dir("a").dir("./a/").end(), Rule::Duplicate, "a"),
        ("implied directory named twice", tar().file("a/b", b"1").dir("a").dir("a").end(), Rule::Duplicate, "a"),
        ("root twice", tar().dir("./").dir(".").end(), Rule::Duplicate, "."),
        ("file over directory", tar().dir("a").file("a", b"1").end(), Rule::Duplicate, "a"),
        ("file over implied directory", tar().file("a/b", b"1").file("a", b"1").end(), Rule::Duplicate, "a"),
        ("directory over file", tar().file("a", b"1").dir("a").end(), Rule::Duplicate, "a"),
        ("directory over link", tar().dir("b").symlink("a", "b").dir("a").end(), Rule::Duplicate, "a"),
        ("file over link", tar().symlink("a", "b").file("a", b"1").end(), Rule::Duplicate, "a"),
        ("link over file", tar().file("a", b"1").symlink("a", "b").end(), Rule::Duplicate, "a"),
        ("hard link over file", tar().file("a", b"1").file("b", b"2").hard_link("b", "a").end(), Rule::Duplicate, "b"),
        ("through a link", tar().dir("b").symlink("a", "b").file("a/x", b"1").end(), Rule::ThroughNonDirectory, "a/x"),
        ("through a file", tar().file("a", b"1").file("a/x", b"1").end(), Rule::ThroughNonDirectory, "a/x"),
        ("directory through a link", tar().dir("b").symlink("a", "b").dir("a/x").end(), Rule::ThroughNonDirectory, "a/x"),
        ("link through a link", tar().dir("b").symlink("a", "b").symlink("a/x", "y").end(), Rule::ThroughNonDirectory, "a/x"),
        ("root as file", tar().file(".", b"1").end(), Rule::RootNotDirectory, "."),
        ("root as link", tar().symlink("./", "neighbour").end(), Rule::RootNotDirectory, "."),
    ]);
}

#[test]
fn tar_entries_of_forbidden_types() {
    let tar = Tar::new;
    refuse_all(&[
        ("character device", tar().entry(b"d", b'3', 0o644, b"", b"").end(), Rule::Device, "d"),
        ("block device", tar().entry(b"d", b'4', 0o644, b"", b"").end(), Rule::Device, "d"),
        ("FIFO", tar().entry(b"p", b'6', 0o644, b"", b"").end(), Rule::Fifo, "p"),
        ("multi-volume", tar().entry(b"m", b'M', 0o644, b"", b"").end(), Rule::UnknownType(u32::from(b'M')), "m"),
        ("set-user-id", tar().entry(b"s", b'0', 0o4755, b"", b"").end(), Rule::SpecialBits, "s"),
        ("set-group-id", tar().entry(b"s", b'0', 0o2755, b"", b"").end(), Rule::SpecialBits, "s"),
        ("sticky directory", tar().entry(b"s", b'5', 0o1777, b"", b"").end(), Rule::SpecialBits, "s"),
        ("set-user-id hard link", tar().file("a", b"1").entry(b"s", b'1', 0o4755, b"a", b"").end(), Rule::SpecialBits, "s"),
        ("link with content", tar().entry(b"l", b'2', 0o777, b"a", b"x").end(), Rule::UnexpectedContent, "l"),
        ("directory with content", tar().entry(b"d", b'5', 0o755, b"", b"x").end(), Rule::UnexpectedContent, "d"),
        ("old directory with content", tar().entry(b"d/", 0, 0o755, b"", b"x").end(), Rule::UnexpectedContent, "d/"),
        (
            "global path",
            tar().global(&[("path", b"../victim")]).file("a", b"1").end(),
            Rule::GlobalOverride,
            "pax_global_header",
        ),
        ("global size", tar().global(&[("size", b"0")]).file("a", b"1").end(), Rule::GlobalOverride, "pax_global_header"),
    ]);
}

#[test]
fn tar_links_that_lead_out() {
    let tar = Tar::new;
    refuse_all(&[
        ("absolute link", tar().symlink("l", "/etc/passwd").end(), Rule::Link(LinkFault::Absolute), "l"),
        ("link outside", tar().symlink("l", "../victim").end(), Rule::Link(LinkFault::Outside), "l"),
        ("link outside from below", tar().symlink("a/b/l", "../../../victim").end(), Rule::Link(LinkFault::Outside), "a/b/l"),
        (
            "link outside by pax",
            tar().pax(&[("linkpath", b"../victim")]).symlink("l", "ok").end(),
            Rule::Link(LinkFault::Outside),
            "l",
        ),
        ("link outside by GNU", tar().gnu_link(b"../victim").symlink("l", "ok").end(), Rule::Link(LinkFault::Outside), "l"),
        (
            "chain of links, each inside by its letters",
            tar().dir("top").symlink("a/b/s", "../../top").symlink("out", "a/b/s/../../victim").end(),
            Rule::Link(LinkFault::ParentAfterName),
            "out",
        ),
        ("link to nothing", tar().symlink("l", "").end(), Rule::Link(LinkFault::Bad), "l"),
        ("hard link outside", tar().hard_link("l", "../victim").end(), Rule::HardLinkTarget, "l"),
        ("hard link to absolute", tar().hard_link("l", "/etc/passwd").end(), Rule::HardLinkTarget, "l"),
        ("hard link to the future", tar().hard_link("l", "a").file("a", b"1").end(), Rule::HardLinkTarget, "l"),
        ("hard link to itself", tar().hard_link("l", "l").end(), Rule::HardLinkTarget, "l"),
        ("hard link to a directory", tar().dir("a").hard_link("l", "a").end(), Rule::HardLinkTarget, "l"),
        ("hard link to a link", tar().file("a", b"1").symlink("b", "a").hard_link("l", "b").end(), Rule::HardLinkTarget, "l"),
        (
            "hard link through a link",
            tar().file("a/x", b"1").symlink("b", "a").hard_link("l", "b/x").end(),
            Rule::HardLinkTarget,
            "l",
        ),
    ]);
}

#[test]
fn tar_sparse_maps_that_contradict_themselves() {
    let bad_sparse = |pieces: &[(u64, u64)], size| Tar::new().raw(&gnu_sparse("s", pieces, size, 4)).body(b"data").end();
    let pax_sparse = |version: &[u8], size: &[u8], body: &[u8]| {
        let version: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", version),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", size),
        ];
        Tar::new().pax(&version).file("s", body).end()
    };
    let map = |text: &str, data: &[u8]| {
        let mut body = text.as_bytes().to_vec();
        body.resize(512, 0);
        body.extend_from_slice(data);
        body
    };
    refuse_all(&[
        ("sparse overlap", bad_sparse(&[(0, 3), (2, 1)], 10), Rule::Sparse, "s"),
        ("sparse beyond the end", bad_sparse(&[(8, 4)], 10), Rule::Sparse, "s"),
        ("sparse overflow", bad_sparse(&[(0o77777777777, 4)], 10), Rule::Sparse, "s"),
        ("sparse not all stored", bad_sparse(&[(0, 3)], 10), Rule::Sparse, "s"),
        ("pax sparse 0.1", pax_sparse(b"0", b"10", b"data"), Rule::Sparse, "pax"),
        ("pax sparse map of words", pax_sparse(b"1", b"10", &map("one\n", b"")), Rule::Sparse, "s"),
        ("pax sparse overlap", pax_sparse(b"1", b"10", &map("2\n0\n3\n2\n1\n", b"data")), Rule::Sparse, "s"),
        ("pax sparse beyond the end", pax_sparse(b"1", b"3", &map("1\n0\n4\n", b"data")), Rule::Sparse, "s"),
        (
            "pax sparse size beyond i64",
            pax_sparse(b"1", b"18446744073709551615", &map("1\n0\n4\n", b"data")),
            Rule::Sparse,
            "s",
        ),
    ]);
}

#[test]
fn broken_tars_are_errors() {
    let pax = |body: &[u8]| Tar::new().entry(b"pax", b'x', 0o644, b"", body).file("a", b"1").end();
    let mut bad_sum = Tar::new().file("a", b"1").end();
    bad_sum[0] = b'b';
    for (what, archive, reason) in [
        ("nothing", vec![], "without an end-of-archive"),
        ("no tar", b"hello, world".repeat(100), "checksum"),
        ("checksum", bad_sum, "checksum"),
        ("no end", Tar::new().file("a", b"1").unfinished(), "without an end-of-archive"),
        ("half a header", Tar::new().file("a", b"1").raw(&[1; 100]).unfinished(), "middle of a block"),
        ("cut in the content", Tar::new().header(b"a", b'0', 0o644, b"", 2000).body(b"x").unfinished(), "middle of an entry"),
        ("cut in the padding", Tar::new().header(b"a", b'0', 0o644, b"", 1).raw(b"xyz").unfinished(), "middle of an entry"),
        ("second archive", [Tar::new().file("a", b"1").end(), Tar::new().file("b", b"1").end()].concat(), "follows its end"),
        ("long name of nothing", Tar::new().gnu_name(b"a").end(), "after an extended header"),
        ("two long names", Tar::new().gnu_name(b"a").gnu_name(b"b").file("c", b"").end(), "say the same"),
        ("two pax headers", Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", b"").end(), "say the same"),
        ("huge size", Tar::new().header(b"a", b'0', 0o644, b"", u64::MAX).end(), "impossibly large"),
        ("huge pax size", Tar::new().pax(&[("size", b"18446744073709551615")]).file("a", b"1").end(), "impossibly large"),
        ("pax size beyond the end", Tar::new().pax(&[("size", b"5000")]).file("a", b"1").end(), "middle of an entry"),
        ("pax size no number", Tar::new().pax(&[("size", b"-1")]).file("a", b"1").end(), "number in a pax header"),
        ("pax length too long", pax(b"99 path=a\n"), "pax header cannot be read"),
        ("pax length too short", pax(b"3 path=a\n"), "pax header cannot be read"),
        ("pax length zero", pax(b"0 path=a\n"), "pax header cannot be read"),
        ("pax length overflow", pax(b"99999999999999999999999 path=a\n"), "number in a pax header"),
        ("pax without equals", pax(b"7 path\n"), "pax header cannot be read"),
    ] {
        match Bed::new().unpack(&archive, ArchiveKind::Tar) {
            Err(error @ UnpackError::Broken { .. }) => assert!(error.to_string().contains(reason), "{what}: {error}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn hostile_zips_are_refused() {
    let file = |name: &str| Entry::new(name, 0o100_644, b"x");
    let typed = |mode| Entry::new("e", mode, b"x");
    let link = |name: &str, target: &[u8]| Entry::new(name, 0o120_777, target);
    let dir = |name: &str| Entry::new(name, 0o040_755, b"");
    for (what, entries, rule) in [
        ("parent", vec![file("../victim")], Rule::ParentInName),
        ("absolute", vec![file("/tmp/x")], Rule::AbsoluteName),
        ("empty name", vec![file("")], Rule::EmptyName),
        ("NUL", vec![file("a\0b")], Rule::NulInName),
        ("backslashes", vec![file("..\\victim")], Rule::Backslash),
        ("long component", vec![file(&"n".repeat(256))], Rule::LongComponent),
        ("twice", vec![file("a"), file("b"), file("a")], Rule::Duplicate),
        ("twice, written otherwise", vec![file("a/b"), file("a//b")], Rule::Duplicate),
        ("file over directory", vec![dir("a/"), file("a")], Rule::Duplicate),
        ("through a link", vec![dir("b/"), link("a", b"b"), file("a/x")], Rule::ThroughNonDirectory),
        ("absolute link", vec![link("l", b"/etc/passwd")], Rule::Link(LinkFault::Absolute)),
        ("link outside", vec![link("l", b"../victim")], Rule::Link(LinkFault::Outside)),
        ("chained links", vec![link("a/b/s", b"../../t"), link("o", b"a/b/s/../../x")], Rule::Link(LinkFault::ParentAfterName)),
        ("link to nothing", vec![link("l", b"")], Rule::Link(LinkFault::Bad)),
        ("long link", vec![link("l", &[b'x'; 5000])], Rule::Link(LinkFault::Bad)),
        ("endless link", vec![link("l", &[b'x'; 50_000])], Rule::Link(LinkFault::Bad)),
        ("character device", vec![typed(0o020_644)], Rule::Device),
        ("block device", vec![typed(0o060_644)], Rule::Device),
        ("FIFO", vec![typed(0o010_644)], Rule::Fifo),
        ("socket", vec![typed(0o140_644)], Rule::Socket),
        ("set-user-id", vec![typed(0o104_755)], Rule::SpecialBits),
        ("directory with content", vec![Entry::new("d/", 0o040_755, b"x")], Rule::UnexpectedContent),
        ("encrypted", vec![Entry { flags: 1, ..file("e") }], Rule::Encrypted),
        ("bzip2", vec![Entry { method: 12, ..file("e") }], Rule::Compression),
        ("unknown method", vec![Entry { method: 77, ..file("e") }], Rule::Compression),
    ] {
        assert_eq!(refusal(what, &zip(&entries), ArchiveKind::Zip).0, rule, "{what}");
    }
}

#[test]
fn broken_zips_are_errors() {
    let file = Entry::new("a", 0o100_644, b"content");
    let good = zip(std::slice::from_ref(&file));
    let deflated = |data: &[u8]| Entry { method: 8, data: data.to_vec(), size: Some(7), ..file.clone() };
    for (what, archive) in [
        ("nothing", vec![]),
        ("no zip", b"hello, world".repeat(100)),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("followed by a byte", [good.as_slice(), b"x"].concat()),
        ("only the end", good[good.len() - 22..].to_vec()),
        ("wrong checksum", zip(&[Entry { crc: Some(1), ..file.clone() }])),
        ("shorter than told", zip(&[Entry { size: Some(8), ..file.clone() }])),
        ("longer than told", zip(&[Entry { size: Some(6), ..file.clone() }])),
        ("another name in the local header", zip(&[Entry { local_name: Some(b"b".to_vec()), ..file.clone() }])),
        ("no deflate stream", zip(&[deflated(b"\xff\xff\xff\xff")])),
        ("empty deflate stream", zip(&[deflated(b"")])),
    ] {
        match Bed::new().unpack(&archive, ArchiveKind::Zip) {
            Err(UnpackError::Broken { .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn empty_archives_are_errors() {
    for (archive, kind) in [
        (Tar::new().end(), ArchiveKind::Tar),
        (Tar::new().dir("./").end(), ArchiveKind::Tar),
        (zip(&[]), ArchiveKind::Zip),
        (vec![], ArchiveKind::File),
    ] {
        let error = Bed::new().unpack(&archive, kind).unwrap_err();
        assert!(matches!(error, UnpackError::Empty { .. }), "{kind:?}: {error:?}");
    }
}

#[test]
fn streams_cut_short_damaged_or_followed_by_something_are_errors() {
    let tar = Tar::new().file("a", &vec![b'a'; 5000]).file("b", &noise(20_000)).end();
    for kind in TARS.into_iter().filter(|kind| *kind != ArchiveKind::Tar) {
        let good = pack(&tar, kind);
        assert_eq!(Bed::new().unpack(&good, kind).unwrap().entries, 2, "{kind:?}");
        let check = |what: &str, archive: &[u8]| match Bed::new().unpack(archive, kind) {
            Err(UnpackError::Broken { .. }) => {}
            other => panic!("{kind:?} {what}: {other:?}"),
        };
        for cut in [0, 1, 10, good.len() / 2, good.len() - 9, good.len() - 4, good.len() - 1] {
            check(&format!("cut at {cut} of {}", good.len()), &good[..cut]);
        }
        check("followed by text", &[good.as_slice(), b"more"].concat());
        check("followed by half of itself", &[good.as_slice(), &good[..good.len() / 2]].concat());
        let mut damaged = good.clone();
        damaged[good.len() / 2] ^= 0x40;
        check("damaged", &damaged);
        check("of another kind", &tar);
    }
}

#[test]
fn limits_hold() {
    let defaults = UnpackLimits::default;
    let tar = Tar::new().file("a/b/c", &[1; 3000]).file("a/d", &[2; 3000]).end();
    let zeros = pack(&Tar::new().file("z", &vec![0; 3 << 20]).end(), ArchiveKind::TarZst);
    let padded = pack(&[Tar::new().file("z", b"1").end(), vec![0; 3 << 20]].concat(), ArchiveKind::TarZst);
    let holes = Tar::new().raw(&gnu_sparse("s", &[(0, 4)], 5 << 30, 4)).body(b"data").end();
    let wide = run("zstd", &["-q", "-c", "--long=24", "-1"], Path::new("/"), &Tar::new().file("a", &noise(9 << 20)).end());
    let xz = run("xz", &["-c", "--lzma2=dict=8MiB"], Path::new("/"), &tar);
    let huge_pax = Tar::new().header(b"pax", b'x', 0o644, b"", 2 << 20).end();
    let pieces = [("GNU.sparse.major", b"1".as_slice()), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"s")];
    let pieces = Tar::new()
        .pax(&[&pieces[..], &[("GNU.sparse.realsize", b"9")]].concat())
        .file("s", &[&b"999999999\n"[..], &[0; 600]].concat())
        .end();
    let deflate = zip(&[{
        let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut deflated, &vec![0; 3 << 20]).unwrap();
        let crc = Some(super::zips::crc32(&vec![0; 3 << 20]));
        Entry { method: 8, data: deflated.finish().unwrap(), size: Some(3 << 20), crc, ..Entry::new("z", 0o100_644, b"") }
    }]);
    for (what, archive, kind, limits, limit) in [
        ("entries, implied ones too", &tar, ArchiveKind::Tar, UnpackLimits { entries: 3, ..defaults() }, Limit::Entries(3)),
        ("bytes", &tar, ArchiveKind::Tar, UnpackLimits::for_space(5999), Limit::Bytes(5999)),
        ("bytes of holes", &holes, ArchiveKind::Tar, UnpackLimits::for_space(4 << 30), Limit::Bytes(4 << 30)),
        ("ratio", &zeros, ArchiveKind::TarZst, UnpackLimits { ratio_from: 1 << 20, ..defaults() }, Limit::Ratio(1000)),
        (
            "ratio of padding",
            &padded,
            ArchiveKind::TarZst,
            UnpackLimits { ratio_from: 1 << 20, ..defaults() },
            Limit::Ratio(1000),
        ),
        ("ratio of holes", &holes, ArchiveKind::Tar, defaults(), Limit::Ratio(1000)),
        (
            "zip ratio",
            &deflate,
            ArchiveKind::Zip,
            UnpackLimits { ratio: 900, ratio_from: 1 << 20, ..defaults() },
            Limit::Ratio(900),
        ),
        ("zip bytes", &deflate, ArchiveKind::Zip, UnpackLimits::for_space(1 << 20), Limit::Bytes(1 << 20)),
        ("zstd window", &wide, ArchiveKind::TarZst, UnpackLimits { window: 8 << 20, ..defaults() }, Limit::Memory(8 << 20)),
        ("xz dictionary", &xz, ArchiveKind::TarXz, UnpackLimits { window: 4 << 20, ..defaults() }, Limit::Memory(4 << 20)),
        ("pax header", &huge_pax, ArchiveKind::Tar, defaults(), Limit::ExtendedHeader(1 << 20)),
        ("sparse pieces", &pieces, ArchiveKind::Tar, defaults(), Limit::SparsePieces(1 << 17)),
    ] {
        match Bed::new().unpack_with(archive, kind, &limits) {
            Err(UnpackError::TooMuch { limit: found, .. }) => assert_eq!(found, limit, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let exact = UnpackLimits { entries: 4, ..UnpackLimits::for_space(6000) };
    let done = Bed::new().unpack_with(&tar, ArchiveKind::Tar, &exact).unwrap();
    assert_eq!(done, Unpacked { entries: 4, bytes: 6000 });
}

#[test]
fn an_existing_destination_is_left_alone() {
    let archive = Tar::new().file("a", b"1").end();
    for make in [
        (|dest: &Path| fs::create_dir(dest).unwrap()) as fn(&Path),
        |dest| symlink("neighbour", dest).unwrap(),
        |dest| fs::write(dest, "x").unwrap(),
    ] {
        let bed = Bed::new();
        make(&bed.dest());
        let before = list(bed.dir.path().join("outer").as_path());
        fs::write(bed.file("archive"), &archive).unwrap();
        let result =
            super::super::unpack(&bed.file("archive"), ArchiveKind::Tar, "", &bed.dest(), &UnpackLimits::default(), &|| false);
        assert!(matches!(result, Err(UnpackError::Io { .. })), "{result:?}");
        assert_eq!(list(bed.dir.path().join("outer").as_path()), before);
    }
}

#[test]
fn single_files_keep_to_their_name() {
    for (name, rule) in [
        ("../victim", Rule::ParentInName),
        ("/tmp/x", Rule::AbsoluteName),
        ("a/b", Rule::NotOneComponent),
        ("./a", Rule::NotOneComponent),
        (".", Rule::NotOneComponent),
        ("", Rule::EmptyName),
    ] {
        let bed = Bed::new();
        fs::write(bed.file("archive"), "x").unwrap();
        let limits = UnpackLimits::default();
        match super::super::unpack(&bed.file("archive"), ArchiveKind::File, name, &bed.dest(), &limits, &|| false) {
            Err(UnpackError::Refused { rule: found, .. }) => assert_eq!(found, rule, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        bed.assert_contained();
    }
}

/// Bytes that don't compress.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}
