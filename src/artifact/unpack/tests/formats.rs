//! Archives as the real tools write them, back to the tree they were made of.

use std::{
    ffi::OsStr,
    fs::{FileTimes, OpenOptions},
    os::unix::{ffi::OsStrExt, fs::symlink},
    time::{Duration, SystemTime},
};

use super::{
    hostile::noise,
    tars::{Tar, gnu_sparse},
    *,
};

const MTIME: i64 = 1_700_000_000;

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(MTIME as u64);
    OpenOptions::new().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with everything that a release may hold, under `src` in the bed.
fn tree(bed: &Bed, rich: bool) -> PathBuf {
    let src = bed.file("src");
    write(&src.join("bin/run"), b"#!/bin/sh\n", 0o755);
    write(&src.join("conf/app.conf"), b"port=80\n", 0o640);
    write(&src.join("data/noise"), &noise(300_000), 0o644);
    write(&src.join("data/zeros"), &vec![0; 100_000], 0o444);
    write(&src.join("data/empty"), b"", 0o600);
    write(&src.join("données/ü b\\x2d"), b"named", 0o644);
    fs::create_dir_all(src.join("empty")).unwrap();
    fs::set_permissions(src.join("empty"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../bin/run", src.join("data/link")).unwrap();
    symlink("bin", src.join("directory-link")).unwrap();
    symlink("nowhere", src.join("dangling")).unwrap();
    fs::hard_link(src.join("data/noise"), src.join("data/same")).unwrap();
    if rich {
        write(&src.join("n".repeat(150)).join("m".repeat(255)), b"long", 0o644);
        write(&src.join(OsStr::from_bytes(b"latin-\xe9")), b"bytes", 0o644);
        let link = "l/".repeat(100) + "l";
        symlink(link, src.join("long-link")).unwrap();
    }
    src
}

/// Unpacks and compares with the tree it came from.
fn assert_same(bed: &Bed, what: &str, archive: &[u8], kind: ArchiveKind) {
    let done = bed.unpack(archive, kind).unwrap_or_else(|error| panic!("{what}: {error}"));
    let (found, wanted) = (list(&bed.dest()), list(&bed.file("src")));
    for path in wanted.keys().chain(found.keys()) {
        assert_eq!(found.get(path), wanted.get(path), "{what}: {}", path.display());
    }
    assert_eq!(done.entries as usize, wanted.len(), "{what}");
    remove_tree(&bed.dest()).unwrap();
    assert!(!bed.dest().exists());
}

#[test]
fn tar_in_every_format_and_compression() {
    let bed = Bed::new();
    let src = tree(&bed, true);
    for format in ["gnu", "posix", "oldgnu"] {
        let format = format!("--format={format}");
        assert_same(&bed, &format, &run("tar", &[&format, "-cf", "-", "."], &src, b""), ArchiveKind::Tar);
    }
    for (flag, kind) in
        [("--zstd", ArchiveKind::TarZst), ("-z", ArchiveKind::TarGz), ("-J", ArchiveKind::TarXz), ("-j", ArchiveKind::TarBz2)]
    {
        assert_same(&bed, flag, &run("tar", &[flag, "-cf", "-", "."], &src, b""), kind);
    }
}

#[test]
fn tar_in_the_old_formats() {
    let bed = Bed::new();
    let src = tree(&bed, false);
    for format in ["ustar", "v7"] {
        let format = format!("--format={format}");
        assert_same(&bed, &format, &run("tar", &[&format, "-cf", "-", "."], &src, b""), ArchiveKind::Tar);
    }
}

#[test]
fn tar_with_names_instead_of_a_directory() {
    let bed = Bed::new();
    let src = tree(&bed, true);
    let mut names: Vec<String> = list(&src)
        .into_iter()
        .filter(|(_, what)| !what.starts_with("dir 755"))
        .filter_map(|(path, _)| path.to_str().map(str::to_owned))
        .collect();
    names.push(".".into());
    fs::remove_file(src.join(OsStr::from_bytes(b"latin-\xe9"))).unwrap();
    names.pop();
    let arguments: Vec<&str> = ["--no-recursion", "-cf", "-"].into_iter().chain(names.iter().map(String::as_str)).collect();
    // The directories that have the default mode are only implied.
    assert_same(&bed, "implied directories", &run("tar", &arguments, &src, b""), ArchiveKind::Tar);
}

#[test]
fn sparse_files_keep_content_and_holes() {
    let bed = Bed::new();
    let src = bed.file("src");
    fs::create_dir(&src).unwrap();
    let file = fs::File::create(src.join("holes")).unwrap();
    for number in 0..40 {
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(5000), number * 200_000 + 100_000).unwrap();
    }
    file.set_len(9 << 20).unwrap();
    write(&src.join("after"), b"after", 0o644);
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(MTIME as u64)).unwrap();
    for options in [
        ["-S", "--format=gnu", "--hole-detection=seek"],
        ["-S", "--format=posix", "--sparse-version=1.0"],
        ["-S", "--format=gnu", "--hole-detection=raw"],
    ] {
        let archive = run("tar", &[&options[..], &["-cf", "-", "."]].concat(), &src, b"");
        assert!(archive.len() < 2 << 20, "{options:?}: tar made no sparse archive");
        bed.unpack(&archive, ArchiveKind::Tar).unwrap();
        let unpacked = bed.dest().join("holes");
        assert!(fs::read(&unpacked).unwrap() == fs::read(src.join("holes")).unwrap(), "{options:?}");
        assert!(fs::metadata(&unpacked).unwrap().blocks() * 512 < 4 << 20, "{options:?}: the holes were filled");
        assert_eq!(fs::read(bed.dest().join("after")).unwrap(), b"after", "{options:?}");
        remove_tree(&bed.dest()).unwrap();
    }
    let refused = run("tar", &["-S", "--format=posix", "--sparse-version=0.1", "-cf", "-", "."], &src, b"");
    let error = bed.unpack(&refused, ArchiveKind::Tar).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { rule: Rule::Sparse, .. }), "{error:?}");
}

#[test]
fn small_sparse_files_by_the_byte() {
    for (pieces, size, stored, wanted) in [
        (&[(2, 3)][..], 8, &b"abc"[..], &b"\0\0abc\0\0\0"[..]),
        (&[(0, 3), (3, 1), (6, 0)], 6, b"abcd", b"abcd\0\0"),
        (&[(4, 0)], 4, b"", b"\0\0\0\0"),
    ] {
        let bed = Bed::new();
        let tar = Tar::new().raw(&gnu_sparse("s", pieces, size, stored.len() as u64)).body(stored).file("after", b"x").end();
        bed.unpack(&tar, ArchiveKind::Tar).unwrap();
        assert_eq!(fs::read(bed.dest().join("s")).unwrap(), wanted, "{pieces:?}");
        assert!(bed.dest().join("after").exists());
    }
}

#[test]
fn streams_of_several_members() {
    let bed = Bed::new();
    let src = tree(&bed, true);
    let tar = run("tar", &["-cf", "-", "."], &src, b"");
    let (head, tail) = tar.split_at(tar.len() / 3);
    for kind in TARS {
        assert_same(&bed, &format!("{kind:?}"), &[pack(head, kind), pack(tail, kind)].concat(), kind);
    }
}

#[test]
fn zip_as_the_tool_writes_it() {
    let bed = Bed::new();
    let src = tree(&bed, false);
    // Without hard links, and without backslashes, which are refused in zip archives.
    fs::remove_file(src.join("data/same")).unwrap();
    fs::rename(src.join("données/ü b\\x2d"), src.join("données/ü b")).unwrap();
    for option in ["-qry", "-qry0", "-qry9", "-qryX", "-qryfz"] {
        let _ = fs::remove_file(bed.file("z.zip"));
        run("zip", &[option, "../z.zip", "."], &src, b"");
        let archive = fs::read(bed.file("z.zip")).unwrap();
        if option == "-qryX" {
            // Without the extra field there is only DOS's local time.
            bed.unpack(&archive, ArchiveKind::Zip).unwrap();
            assert_eq!(fs::read(bed.dest().join("data/noise")).unwrap(), noise(300_000));
            remove_tree(&bed.dest()).unwrap();
        } else {
            assert_same(&bed, &format!("zip {option}"), &archive, ArchiveKind::Zip);
        }
    }
    // Into a pipe: sizes follow the data, and zip64 is announced before they are known.
    let streamed = run("zip", &["-qrD", "-", "bin", "conf", "data/noise", "data/zeros"], &src, b"");
    assert_eq!(bed.unpack(&streamed, ArchiveKind::Zip).unwrap().entries, 4 + 3);
    assert_eq!(fs::read(bed.dest().join("data/zeros")).unwrap(), [0; 100_000]);
    remove_tree(&bed.dest()).unwrap();
    run("zip", &["-qr", "-P", "secret", "../e.zip", "bin"], &src, b"");
    let error = bed.unpack(&fs::read(bed.file("e.zip")).unwrap(), ArchiveKind::Zip).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { rule: Rule::Encrypted, .. }), "{error:?}");
}

#[test]
fn zip_from_other_systems_gets_default_modes_and_dos_time() {
    let bed = Bed::new();
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let time = ::zip::DateTime::from_date_and_time(2024, 2, 29, 23, 59, 58).unwrap();
    let options = ::zip::write::SimpleFileOptions::default().system(System::Dos).last_modified_time(time);
    writer.start_file("d/a.txt", options).unwrap();
    std::io::Write::write_all(&mut writer, b"text").unwrap();
    bed.unpack(&writer.finish().unwrap().into_inner(), ArchiveKind::Zip).unwrap();
    let meta = fs::metadata(bed.dest().join("d/a.txt")).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.mtime()), (0o644, 1_709_251_198));
    use ::zip::System;
}

#[test]
fn tars_of_the_crate_and_of_git() {
    let bed = Bed::new();
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_mode(0o750);
    header.set_size(4);
    header.set_mtime(MTIME as u64);
    builder.append_data(&mut header, "x/".repeat(80) + "file", &b"text"[..]).unwrap();
    bed.unpack(&builder.into_inner().unwrap(), ArchiveKind::Tar).unwrap();
    let meta = fs::metadata(bed.dest().join("x/".repeat(80) + "file")).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.mtime(), meta.len()), (0o750, MTIME, 4));
    remove_tree(&bed.dest()).unwrap();

    let with_commit = Tar::new().global(&[("comment", b"0123456789abcdef")]).dir("app").file("app/a", b"1").end();
    assert_eq!(bed.unpack(&with_commit, ArchiveKind::Tar).unwrap(), Unpacked { entries: 2, bytes: 1 });
}

#[test]
fn pax_records_win_over_headers() {
    let bed = Bed::new();
    let records: [(&str, &[u8]); 4] = [
        ("path", b"real/name\nwith newline"),
        ("size", b"5"),
        ("mtime", b"1700000000.25"),
        ("SCHILY.xattr.user.x", b"a\n7 b=c\n"),
    ];
    let archive = Tar::new().pax(&records).header(b"short", b'0', 0o644, b"", 0).body(b"12345").file("after", b"x").end();
    bed.unpack(&archive, ArchiveKind::Tar).unwrap();
    let path = bed.dest().join("real/name\nwith newline");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((fs::read(path).unwrap().as_slice(), meta.mtime(), meta.mtime_nsec()), (&b"12345"[..], MTIME, 250_000_000));
    assert!(bed.dest().join("after").exists());
}

#[test]
fn modes_are_safe_and_directories_stay_removable() {
    let bed = Bed::new();
    let tar = Tar::new().entry(b"open", b'0', 0o666, b"", b"").entry(b"locked", b'5', 0o555, b"", b"");
    let tar = tar.entry(b"wide", b'5', 0o777, b"", b"").file("locked/a", b"1").entry(b"x", b'0', 0o100_777, b"", b"").end();
    bed.unpack(&tar, ArchiveKind::Tar).unwrap();
    let mode = |name: &str| fs::metadata(bed.dest().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("open"), mode("locked"), mode("wide"), mode("x")), (0o664, 0o755, 0o775, 0o775));
}

#[test]
fn the_umask_takes_nothing_away() {
    const INNER: &str = "FLEETDROP_TEST_UMASK";
    if std::env::var_os(INNER).is_none() {
        // The umask belongs to the process, so this needs one of its own.
        let me = std::env::current_exe().unwrap();
        let name = "artifact::unpack::tests::formats::the_umask_takes_nothing_away";
        let script = "umask 077; exec \"$0\" --exact \"$1\"";
        let output = Command::new("sh").args(["-c", script]).arg(me).arg(name).env(INNER, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let bed = Bed::new();
    bed.unpack(&Tar::new().file("d/a", b"1").dir("e").end(), ArchiveKind::Tar).unwrap();
    let mode = |name: &str| fs::metadata(bed.dest().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("."), mode("d"), mode("e"), mode("d/a")), (0o755, 0o755, 0o755, 0o644));
}

#[test]
fn any_other_file_is_a_release_of_one_file() {
    for (content, mode) in [
        (noise(3 << 20), 0o644),
        (b"\x7fELF\x02\x01".to_vec(), 0o755),
        (b"#!/bin/sh\n".to_vec(), 0o755),
        (b"x".to_vec(), 0o644),
    ] {
        let bed = Bed::new();
        let done = bed.unpack(&content, ArchiveKind::File).unwrap();
        let path = bed.dest().join("app.bin");
        assert_eq!(done, Unpacked { entries: 1, bytes: content.len() as u64 });
        assert!(fs::read(&path).unwrap() == content);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
        // A copy: what happens to the release must not reach the cache.
        fs::write(&path, "changed").unwrap();
        assert!(fs::read(bed.file("archive")).unwrap() == content);
    }
    let bed = Bed::new();
    let error = bed.unpack_with(&noise(100), ArchiveKind::File, &UnpackLimits::for_space(99)).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { limit: Limit::Bytes(99), .. }), "{error:?}");
}

#[test]
fn single_files_are_copied_across_file_systems() {
    let other = TempDir::new().unwrap();
    let bed = Bed::new();
    let archive = other.path().join("archive");
    fs::write(&archive, noise(1 << 20)).unwrap();
    super::super::unpack(&archive, ArchiveKind::File, "model", &bed.dest(), &UnpackLimits::default(), &|| false).unwrap();
    assert!(fs::read(bed.dest().join("model")).unwrap() == noise(1 << 20));
}

#[test]
fn many_files_and_deep_directories() {
    let bed = Bed::new();
    let mut tar = Tar::new();
    for number in 0..2000 {
        tar = tar.file(&format!("d{}/e{}/f{number}", number % 7, number % 11), &[b'x'; 100]);
    }
    let deep = "d/".repeat(127) + "f";
    let done = bed.unpack(&tar.gnu_name(deep.as_bytes()).file("x", b"1").end(), ArchiveKind::Tar).unwrap();
    assert_eq!(done, Unpacked { entries: 2000 + 7 + 77 + 127 + 1, bytes: 200_001 });
    assert!(bed.dest().join(deep).exists());
}

#[test]
fn cancelling_stops_in_the_middle_and_the_rest_can_be_removed() {
    let bed = Bed::new();
    let archive = Tar::new().file("a", &[1; 100]).file("big", &vec![2; 5 << 20]).file("never", b"").end();
    fs::write(bed.file("archive"), archive).unwrap();
    let asked = std::cell::Cell::new(0);
    let cancel = || {
        asked.set(asked.get() + 1);
        asked.get() > 12
    };
    let result =
        super::super::unpack(&bed.file("archive"), ArchiveKind::Tar, "", &bed.dest(), &UnpackLimits::default(), &cancel);
    assert!(matches!(result, Err(UnpackError::Cancelled)), "{result:?}");
    assert!(bed.dest().join("big").exists() && !bed.dest().join("never").exists());
    remove_tree(&bed.dest()).unwrap();
    remove_tree(&bed.dest()).unwrap();
    bed.assert_contained();
}

#[test]
fn removing_does_not_follow_links_and_opens_locked_directories() {
    let bed = Bed::new();
    let locked = bed.dest().join("locked/inner");
    fs::create_dir_all(&locked).unwrap();
    fs::write(locked.join("a"), "1").unwrap();
    symlink(bed.file("outer/neighbour"), bed.dest().join("link")).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(locked.parent().unwrap(), fs::Permissions::from_mode(0o555)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Root is never refused, so the step that others need is taken by hand.
        super::super::remove::grant_owner(&bed.dest()).unwrap();
        assert_eq!(fs::metadata(&locked).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(locked.parent().unwrap()).unwrap().mode() & 0o777, 0o755);
    }
    remove_tree(&bed.dest()).unwrap();
    assert!(!bed.dest().exists());
    bed.assert_contained();
}
