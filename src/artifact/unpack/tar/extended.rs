//! What may precede a member: GNU long names and pax records.

use std::path::Path;

use super::{Rule, Time, UnpackError};

/// The longest body of an extended header in bytes.
pub(super) const LONGEST_EXTENDED: u64 = 1 << 20;

/// Why an extended header is not accepted; where it stands is added by the caller.
#[derive(Debug)]
pub(super) enum ExtendedError {
    Broken(&'static str),
    Refused(Rule),
}

impl ExtendedError {
    pub(super) fn at(self, archive: &Path, entry: &[u8]) -> UnpackError {
        match self {
            Self::Broken(reason) => UnpackError::broken(archive, reason),
            Self::Refused(rule) => UnpackError::refused(entry, rule),
        }
    }
}

/// Everything that extended headers say about the next member. Pax wins over GNU, both over the header itself.
#[derive(Debug, Default)]
pub(super) struct Extended {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

/// The pax records that matter here. Others (owners, extended attributes, comments) are ignored.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Time>,
    sparse: bool,
    sparse_version: (Option<u64>, Option<u64>),
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
}

impl Extended {
    pub(super) fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.pax.is_none()
    }

    /// Returns the best name known so far, for errors.
    pub(super) fn name(&self) -> &[u8] {
        self.path().unwrap_or(b"end of archive")
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        let pax = self.pax.as_ref();
        pax.and_then(|pax| pax.sparse_name.as_deref().or(pax.path.as_deref())).or(self.long_name.as_deref())
    }

    pub(super) fn link(&self) -> Option<&[u8]> {
        self.pax.as_ref().and_then(|pax| pax.link.as_deref()).or(self.long_link.as_deref())
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.pax.as_ref().and_then(|pax| pax.size)
    }

    pub(super) fn mtime(&self) -> Option<Time> {
        self.pax.as_ref().and_then(|pax| pax.mtime)
    }

    pub(super) fn is_sparse(&self) -> bool {
        self.pax.as_ref().is_some_and(|pax| pax.sparse)
    }

    /// Returns the length with holes of a pax sparse file, whose map then is at the start of its body.
    pub(super) fn sparse_size(&self) -> Option<u64> {
        self.pax.as_ref().and_then(|pax| pax.sparse_size)
    }

    pub(super) fn set_long_name(&mut self, body: Vec<u8>) -> Result<(), ExtendedError> {
        set_once(&mut self.long_name, without_end(body))
    }

    pub(super) fn set_long_link(&mut self, body: Vec<u8>) -> Result<(), ExtendedError> {
        set_once(&mut self.long_link, without_end(body))
    }

    pub(super) fn set_pax(&mut self, body: &[u8]) -> Result<(), ExtendedError> {
        let mut pax = Pax::default();
        for_each_record(body, |key, value| pax.set(key, value))?;
        pax.check_sparse()?;
        set_once(&mut self.pax, pax)
    }

    /// Accepts a global header that changes nothing about what is unpacked, like the commit id that `git archive` writes.
    pub(super) fn check_global(body: &[u8]) -> Result<(), ExtendedError> {
        for_each_record(body, |key, _| match key {
            b"path" | b"linkpath" | b"size" => Err(ExtendedError::Refused(Rule::GlobalOverride)),
            _ if key.starts_with(b"GNU.sparse.") => Err(ExtendedError::Refused(Rule::GlobalOverride)),
            _ => Ok(()),
        })
    }
}

impl Pax {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), ExtendedError> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            // A time that can't be read is not worth a failed deploy.
            b"mtime" => self.mtime = time(value),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.set_sparse(key, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<(), ExtendedError> {
        self.sparse = true;
        match key {
            b"major" => self.sparse_version.0 = Some(number(value)?),
            b"minor" => self.sparse_version.1 = Some(number(value)?),
            b"name" => self.sparse_name = Some(value.to_vec()),
            b"realsize" => self.sparse_size = Some(number(value)?),
            _ => {}
        }
        Ok(())
    }

    /// Only version 1.0 is read: 0.0 and 0.1 have not been written by default since 2006.
    fn check_sparse(&self) -> Result<(), ExtendedError> {
        let supported = self.sparse_version == (Some(1), Some(0)) && self.sparse_name.is_some() && self.sparse_size.is_some();
        if self.sparse && !supported { Err(ExtendedError::Refused(Rule::Sparse)) } else { Ok(()) }
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), ExtendedError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ExtendedError::Broken("two extended headers say the same about one entry")),
    }
}

/// GNU tar writes the terminating NUL as part of a long name.
fn without_end(mut body: Vec<u8>) -> Vec<u8> {
    if body.last() == Some(&0) {
        body.pop();
    }
    body
}

/// Calls `each` for every `length key=value\n` record; values may hold any byte.
fn for_each_record(
    mut body: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), ExtendedError>,
) -> Result<(), ExtendedError> {
    const BROKEN: ExtendedError = ExtendedError::Broken("a pax header cannot be read");
    while !body.is_empty() {
        let digits = body.iter().position(|byte| *byte == b' ').ok_or(BROKEN)?;
        let length = usize::try_from(number(&body[..digits])?).map_err(|_| BROKEN)?;
        let record = body.get(digits + 1..length).ok_or(BROKEN)?;
        let (b'\n', record) = record.split_last().ok_or(BROKEN)? else { return Err(BROKEN) };
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BROKEN)?;
        each(&record[..equals], &record[equals + 1..])?;
        body = &body[length..];
    }
    Ok(())
}

fn number(digits: &[u8]) -> Result<u64, ExtendedError> {
    decimal(digits).ok_or(ExtendedError::Broken("a number in a pax header cannot be read"))
}

/// Reads a decimal number: digits only.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Reads seconds with a fraction, at or after 1970.
fn time(text: &[u8]) -> Option<Time> {
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = decimal(&digits.collect::<Vec<u8>>())?;
    Some((seconds, u32::try_from(nanoseconds).ok()?))
}
