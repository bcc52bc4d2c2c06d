//! Writes zip archives byte by byte, also ones that no tool would write.

/// An entry; `Default` is a stored, empty file made on Unix.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// The name in the local header, if it differs.
    pub(super) local_name: Option<Vec<u8>>,
    pub(super) mode: u32,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) data: Vec<u8>,
    /// Uncompressed size as told, if it is not that of `data`.
    pub(super) size: Option<u32>,
    pub(super) crc: Option<u32>,
}

impl Entry {
    pub(super) fn new(name: &str, mode: u32, data: &[u8]) -> Self {
        Self { name: name.into(), local_name: None, mode, flags: 0, method: 0, data: data.into(), size: None, crc: None }
    }

    fn fields(&self) -> Vec<u8> {
        let crc = self.crc.unwrap_or_else(|| crc32(&self.data));
        let stored = self.data.len() as u32;
        let size = self.size.unwrap_or(stored);
        let mut fields = Vec::new();
        for field in [20, self.flags, self.method, 0, 0x5a21] {
            fields.extend_from_slice(&field.to_le_bytes());
        }
        for field in [crc, stored, size] {
            fields.extend_from_slice(&field.to_le_bytes());
        }
        fields
    }
}

/// Writes an archive with these entries.
pub(super) fn zip(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let offset = bytes.len() as u32;
        let local_name = entry.local_name.as_ref().unwrap_or(&entry.name);
        bytes.extend_from_slice(b"PK\x03\x04");
        bytes.extend_from_slice(&entry.fields());
        bytes.extend_from_slice(&(local_name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(local_name);
        bytes.extend_from_slice(&entry.data);

        directory.extend_from_slice(b"PK\x01\x02\x14\x03");
        directory.extend_from_slice(&entry.fields());
        directory.extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
        directory.extend_from_slice(&[0; 8]);
        directory.extend_from_slice(&(entry.mode << 16).to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(&entry.name);
    }
    end(bytes, &directory, entries.len() as u16)
}

fn end(mut bytes: Vec<u8>, directory: &[u8], count: u16) -> Vec<u8> {
    let offset = bytes.len() as u32;
    bytes.extend_from_slice(directory);
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes
}

pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
