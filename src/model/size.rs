//! Sizes in bytes, as people write them: `512`, `64MiB`, `1.5 GB`.

/// What a size may end in, and the bytes it stands for.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Says why a text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a unit.
    #[error("expected a number with an optional unit of kB, MB, GB, TB, KiB, MiB, GiB or TiB, for example 64MiB")]
    Form,
    /// More bytes than this program can count.
    #[error("this is more than 2^64 bytes")]
    TooLarge,
}

/// Reads a size in bytes. Units are case-insensitive; fractions are rounded down.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SizeError::Form)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Nine decimals are more than anybody means, and keep the arithmetic exact.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(SizeError::Form);
    }
    let whole: u64 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| SizeError::Form)?;
    let bytes = u128::from(whole) * u128::from(*scale) + u128::from(nanos) * u128::from(*scale) / 1_000_000_000;
    u64::try_from(bytes).map_err(|_| SizeError::TooLarge)
}

/// Writes a size as [`parse_size`] reads it, in the largest binary unit that leaves no fraction.
pub fn write_size(bytes: u64) -> String {
    let exact = UNITS.iter().rev().filter(|(name, _)| name.contains('i'));
    let found = exact.copied().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    let name = |unit: &str| unit.to_uppercase().replace('I', "i");
    found.map_or_else(|| format!("{bytes}B"), |(unit, scale)| format!("{}{}", bytes / scale, name(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("64MiB", 64 << 20),
            ("2GB", 2_000_000_000),
            ("10 gib", 10 << 30),
            ("1.5KiB", 1536),
            ("0.1kB", 100),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "B", "MiB", "1XB", "-1", "+1", "1e3", ".5GB", "1.GB", "1.2.3GB", "1,5GB", "1 000", "1.0000000001GB", "é"]
        {
            assert_eq!(parse_size(bad), Err(SizeError::Form), "{bad}");
        }
        for huge in ["18446744073709551616", "99999999TiB", "16777216TiB"] {
            assert_eq!(parse_size(huge), Err(SizeError::TooLarge), "{huge}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (bytes, text) in [(0, "0B"), (1000, "1000B"), (50 << 10, "50KiB"), (1 << 40, "1TiB"), (3 << 30, "3GiB")] {
            assert_eq!(write_size(bytes), text);
            assert_eq!(parse_size(text), Ok(bytes));
        }
    }
}
