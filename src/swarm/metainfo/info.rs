//! The info dictionary's bytes. The keys stand in bencode's order; what is read is built and written anew by the caller, and has to be the
//! same, so nothing is checked here that this shows.

use std::cmp::Ordering;

use crate::{
    model::{
        Digest,
        tree::{EntryKind, MAX_TREE_ENTRIES, Tree, TreeEntry, TreeFile, compare_paths},
    },
    swarm::bencode::{Reader, Writer},
};

/// Where standard clients put the padding of a directory without bytes.
const PADDING: [&str; 2] = [".pad", "1"];

/// What an info dictionary says.
pub(super) struct Info<'a> {
    /// Of the file; 0 for a directory.
    pub(super) length: u64,
    /// What is in the directory, in a listing's order.
    pub(super) listing: Option<Vec<TreeEntry>>,
    pub(super) name: &'a [u8],
    pub(super) piece_length: u32,
    pub(super) pieces: &'a [u8],
    pub(super) private: u64,
}

impl<'a> Info<'a> {
    /// Reads exactly the keys of a file or of a directory, in their order.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        begin(&mut reader, b'd')?;
        let (mut length, mut listing) = (0, None);
        match reader.bytes()? {
            b"length" => length = reader.unsigned()?,
            b"directories" => {
                let directories = read_list(&mut reader, read_directory)?;
                key(&mut reader, "files")?;
                listing = Some(merge(directories, read_list(&mut reader, read_file)?));
            }
            _ => return None,
        }
        let info = Self {
            length,
            listing,
            name: key(&mut reader, "name")?.bytes()?,
            piece_length: key(&mut reader, "piece length")?.unsigned()?.try_into().ok()?,
            pieces: key(&mut reader, "pieces")?.bytes()?,
            private: key(&mut reader, "private")?.unsigned()?,
        };
        (reader.eat(b'e') && reader.is_empty()).then_some(info)
    }
}

/// Puts two lists in order into one that is.
fn merge(directories: Vec<TreeEntry>, files: Vec<Option<TreeEntry>>) -> Vec<TreeEntry> {
    let mut entries = Vec::with_capacity(directories.len() + files.len());
    let mut directories = directories.into_iter().peekable();
    for file in files.into_iter().flatten() {
        while let Some(before) = directories.next_if(|before| compare_paths(&before.path, &file.path) == Ordering::Less) {
            entries.push(before);
        }
        entries.push(file);
    }
    entries.extend(directories);
    entries
}

/// Writes the dictionary of a file, or of a directory with that listing.
pub(super) fn write(name: &str, length: u64, tree: Option<&Tree>, piece_length: u32, pieces: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.open(b'd');
    match tree {
        None => {
            writer.bytes("length").unsigned(length);
        }
        Some(tree) => write_listing(&mut writer, tree),
    }
    writer.bytes("name").bytes(name).bytes("piece length").unsigned(piece_length);
    writer.bytes("pieces").bytes(pieces).bytes("private").unsigned(1_u32).close();
    writer.finish()
}

fn write_listing(writer: &mut Writer, tree: &Tree) {
    writer.bytes("directories").open(b'l');
    for entry in tree.entries() {
        if let EntryKind::Directory { mode } = entry.kind {
            writer.open(b'd').bytes("mode").unsigned(mode).bytes("path").texts(entry.path.split('/')).close();
        }
    }
    writer.close().bytes("files").open(b'l');
    for entry in tree.entries() {
        match &entry.kind {
            EntryKind::Directory { .. } => {}
            EntryKind::File(file) => write_file(writer, &entry.path, file),
            EntryKind::Symlink { target } => write_link(writer, &entry.path, target),
        }
    }
    if tree.size() == 0 {
        writer.open(b'd').bytes("attr").bytes("p").bytes("length").unsigned(1_u32);
        writer.bytes("path").texts(PADDING.into_iter()).close();
    }
    writer.close();
}

fn write_file(writer: &mut Writer, path: &str, file: &TreeFile) {
    writer.open(b'd');
    if file.mode & 0o100 != 0 {
        writer.bytes("attr").bytes("x");
    }
    writer.bytes("length").unsigned(file.length).bytes("mode").unsigned(file.mode);
    writer.bytes("path").texts(path.split('/')).bytes("sha256").bytes(file.digest.0).close();
}

/// Writes a link: for standard clients where it leads to, from the directory; for us what is written in it.
fn write_link(writer: &mut Writer, path: &str, target: &str) {
    let steps = target.split('/').filter(|step| !matches!(*step, "" | "."));
    let ups = steps.clone().filter(|step| *step == "..").count();
    let depth = path.split('/').count();
    let place = path.split('/').take(depth.saturating_sub(1 + ups));
    let mut leads_to = place.chain(steps.filter(|step| *step != "..")).peekable();
    writer.open(b'd').bytes("attr").bytes("l").bytes("length").unsigned(0_u32);
    writer.bytes("path").texts(path.split('/'));
    // The directory itself has no such path.
    if leads_to.peek().is_some() {
        writer.bytes("symlink path").texts(leads_to);
    }
    writer.bytes("target").bytes(target).close();
}

fn begin(reader: &mut Reader<'_>, kind: u8) -> Option<()> {
    reader.eat(kind).then_some(())
}

/// Reads that key.
fn key<'r, 'a>(reader: &'r mut Reader<'a>, name: &str) -> Option<&'r mut Reader<'a>> {
    (reader.bytes()? == name.as_bytes()).then_some(reader)
}

/// Reads that key if it comes next.
fn has_key(reader: &mut Reader<'_>, name: &str) -> bool {
    let mut ahead = *reader;
    let is_it = ahead.bytes() == Some(name.as_bytes());
    if is_it {
        *reader = ahead;
    }
    is_it
}

fn read_list<'a, T>(reader: &mut Reader<'a>, mut item: impl FnMut(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    begin(reader, b'l')?;
    let mut items = Vec::new();
    while !reader.eat(b'e') {
        // The padding is one more.
        if items.len() > MAX_TREE_ENTRIES {
            return None;
        }
        items.push(item(reader)?);
    }
    Some(items)
}

fn read_text(reader: &mut Reader<'_>) -> Option<String> {
    String::from_utf8(reader.bytes()?.to_vec()).ok()
}

fn read_path(reader: &mut Reader<'_>) -> Option<String> {
    let mut path = String::new();
    begin(key(reader, "path")?, b'l')?;
    while !reader.eat(b'e') {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(std::str::from_utf8(reader.bytes()?).ok()?);
    }
    Some(path)
}

fn read_mode(reader: &mut Reader<'_>) -> Option<u32> {
    key(reader, "mode")?.unsigned()?.try_into().ok()
}

fn read_directory(reader: &mut Reader<'_>) -> Option<TreeEntry> {
    begin(reader, b'd')?;
    let mode = read_mode(reader)?;
    let path = read_path(reader)?;
    begin(reader, b'e')?;
    Some(TreeEntry { path, kind: EntryKind::Directory { mode } })
}

/// Reads a file or a link; nothing for padding.
fn read_file(reader: &mut Reader<'_>) -> Option<Option<TreeEntry>> {
    begin(reader, b'd')?;
    let attr = if has_key(reader, "attr") { reader.bytes()? } else { b"" };
    let length = key(reader, "length")?.unsigned()?;
    let entry = match attr {
        b"p" => {
            read_path(reader)?;
            None
        }
        b"l" => {
            let path = read_path(reader)?;
            if has_key(reader, "symlink path") {
                reader.skip()?;
            }
            let target = read_text(key(reader, "target")?)?;
            Some(TreeEntry { path, kind: EntryKind::Symlink { target } })
        }
        _ => {
            let mode = read_mode(reader)?;
            let path = read_path(reader)?;
            let digest = Digest(key(reader, "sha256")?.bytes()?.try_into().ok()?);
            Some(TreeEntry { path, kind: EntryKind::File(TreeFile { mode, length, digest }) })
        }
    };
    begin(reader, b'e')?;
    Some(entry)
}
