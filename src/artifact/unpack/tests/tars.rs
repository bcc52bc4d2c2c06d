//! Writes tar archives byte by byte, also ones that no tool would write.

/// A tar archive under construction.
#[derive(Clone, Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a header with these fields as they are; `size` need not be the body's.
    pub(super) fn header(mut self, name: &[u8], flag: u8, mode: u32, link: &[u8], size: u64) -> Self {
        self.0.extend_from_slice(&header(name, flag, mode, link, size));
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds a body, padded to whole blocks.
    pub(super) fn body(mut self, body: &[u8]) -> Self {
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn entry(self, name: &[u8], flag: u8, mode: u32, link: &[u8], body: &[u8]) -> Self {
        self.header(name, flag, mode, link, body.len() as u64).body(body)
    }

    pub(super) fn file(self, name: &str, body: &[u8]) -> Self {
        self.entry(name.as_bytes(), b'0', 0o644, b"", body)
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(name.as_bytes(), b'5', 0o755, b"", b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name.as_bytes(), b'2', 0o777, target.as_bytes(), b"")
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(name.as_bytes(), b'1', 0o644, target.as_bytes(), b"")
    }

    /// Adds a pax header for the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.entry(b"pax", b'x', 0o644, b"", &pax_body(records))
    }

    pub(super) fn global(self, records: &[(&str, &[u8])]) -> Self {
        self.entry(b"pax_global_header", b'g', 0o644, b"", &pax_body(records))
    }

    pub(super) fn gnu_name(self, name: &[u8]) -> Self {
        self.entry(b"././@LongLink", b'L', 0o644, b"", &[name, b"\0"].concat())
    }

    pub(super) fn gnu_link(self, link: &[u8]) -> Self {
        self.entry(b"././@LongLink", b'K', 0o644, b"", &[link, b"\0"].concat())
    }

    /// Ends the archive.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    /// Leaves the archive without its end.
    pub(super) fn unfinished(self) -> Vec<u8> {
        self.0
    }
}

pub(super) fn pax_body(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length += 1;
        }
        body.extend_from_slice(format!("{length} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

fn header(name: &[u8], flag: u8, mode: u32, link: &[u8], size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(100)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000\x000000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"14000000000");
    put(156, &[flag]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    seal(&mut block);
    block
}

/// Sets a header's checksum.
pub(super) fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A GNU header of a sparse file with these pieces (at most four) and this length.
pub(super) fn gnu_sparse(name: &str, pieces: &[(u64, u64)], size: u64, stored: u64) -> Vec<u8> {
    let mut block = header(name.as_bytes(), b'S', 0o644, b"", stored);
    block[257..265].copy_from_slice(b"ustar  \0");
    for (slot, (offset, length)) in pieces.iter().enumerate() {
        let at = 386 + slot * 24;
        block[at..at + 11].copy_from_slice(format!("{offset:011o}").as_bytes());
        block[at + 12..at + 23].copy_from_slice(format!("{length:011o}").as_bytes());
    }
    block[483..494].copy_from_slice(format!("{size:011o}").as_bytes());
    seal(&mut block);
    block.to_vec()
}
