//! Bencode: a small reader for input from strangers (no allocation, no recursion, overflow is an error) and a smaller writer.
//!
//! Why not `librqbit-bencode`: its reader adds up an integer's digits unchecked, so a peer's `i99999999999999999999e` panics in a
//! build with overflow checks. Accepts only canonical integers and lengths (no leading zeros, no `-0`); the order of keys is the
//! caller's business.

/// How deep lists and dictionaries may be nested.
const MAX_DEPTH: usize = 32;

/// A position in bencoded bytes. Every read returns none on anything malformed, and is then used no more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns true when nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Consumes `byte` if it comes next.
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let Some(rest) = self.rest.strip_prefix(&[byte]) else { return false };
        self.rest = rest;
        true
    }

    /// Reads a byte string.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.digits(b':')?).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// Reads an integer that is not negative.
    pub(super) fn unsigned(&mut self) -> Option<u64> {
        if self.eat(b'i') { self.digits(b'e') } else { None }
    }

    /// Reads one value of any kind as it stands there.
    #[cfg(feature = "controller")]
    pub(super) fn value(&mut self) -> Option<&'a [u8]> {
        let before = self.rest;
        self.skip()?;
        Some(&before[..before.len() - self.rest.len()])
    }

    /// Skips one value of any kind.
    pub(super) fn skip(&mut self) -> Option<()> {
        let mut depth = 0;
        loop {
            match self.rest.first()? {
                b'd' | b'l' => {
                    self.rest = &self.rest[1..];
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return None;
                    }
                }
                b'e' if depth > 0 => {
                    self.rest = &self.rest[1..];
                    depth -= 1;
                }
                b'i' => {
                    self.rest = &self.rest[1..];
                    self.eat(b'-');
                    self.digits(b'e')?;
                }
                _ => {
                    self.bytes()?;
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Reads decimal digits up to `end`.
    fn digits(&mut self, end: u8) -> Option<u64> {
        let mut value = 0u64;
        let mut count = 0;
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'0'..=b'9' if count == 0 || value > 0 => {
                    value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
                    count += 1;
                }
                _ => return (byte == end && count > 0).then_some(value),
            }
        }
    }
}

/// Writes bencode. The order of keys is the caller's business.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Writes a byte string.
    pub(super) fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.bytes.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Writes an integer.
    pub(super) fn unsigned(&mut self, value: impl Into<u64>) -> &mut Self {
        self.bytes.extend_from_slice(format!("i{}e", value.into()).as_bytes());
        self
    }

    /// Writes a list of byte strings.
    pub(super) fn texts<'a>(&mut self, texts: impl Iterator<Item = &'a str>) -> &mut Self {
        self.open(b'l');
        texts.for_each(|text| {
            self.bytes(text);
        });
        self.close()
    }

    /// Begins a dictionary (`d`) or a list (`l`).
    pub(super) fn open(&mut self, kind: u8) -> &mut Self {
        self.bytes.push(kind);
        self
    }

    /// Ends the dictionary or list that was begun last.
    pub(super) fn close(&mut self) -> &mut Self {
        self.open(b'e')
    }

    /// Returns what was written.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_is_canonical_and_refuses_the_rest() {
        assert_eq!(Reader::new(b"i0e").unsigned(), Some(0));
        assert_eq!(Reader::new(b"i18446744073709551615e").unsigned(), Some(u64::MAX));
        for bad in [&b"i18446744073709551616e"[..], b"i01e", b"ie", b"i-1e", b"i1", b"1e", b""] {
            assert_eq!(Reader::new(bad).unsigned(), None, "{bad:?}");
        }
        assert_eq!(Reader::new(b"3:abcd").bytes(), Some(&b"abc"[..]));
        for bad in [&b"4:abc"[..], b"03:abc", b":", b"99999999999999999999:a", b""] {
            assert_eq!(Reader::new(bad).bytes(), None, "{bad:?}");
        }
    }

    #[test]
    fn skips_nested_values_and_refuses_endless_nesting() {
        let mut reader = Reader::new(b"d1:ali1ei-2e0:d1:bleeee4:rest");
        assert_eq!(Reader::new(b"d1:ali1ei-2e0:d1:bleeee4:rest").value(), Some(&b"d1:ali1ei-2e0:d1:bleeee"[..]));
        assert_eq!(reader.skip(), Some(()));
        assert_eq!(reader.bytes(), Some(&b"rest"[..]));
        assert_eq!(Reader::new(&b"l".repeat(100_000)).skip(), None);
        assert_eq!(Reader::new(b"e").skip(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reader::new(&bytes).skip();
            let _ = Reader::new(&bytes).bytes();
            let _ = Reader::new(&bytes).unsigned();
        }
    }
}
