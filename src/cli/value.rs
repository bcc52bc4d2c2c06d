//! Option values with a unit: sizes, rates and durations, each within bounds.

use std::{ops::RangeInclusive, time::Duration};

use crate::model::{distribution::RATE, plan::HOST_PATIENCE};

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

/// Says why a text is not a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a number with a unit.
    #[error("expected a number with an optional unit of kB, MB, GB, TB, KiB, MiB, GiB or TiB, for example 64MiB")]
    Size,
    /// More bytes than this program can count.
    #[error("this is more than 2^64 bytes")]
    SizeTooLarge,
    /// Not a rate.
    #[error("expected a rate from 64kbit to 1000gbit (a second), for example 50mbit, 1gbit or 125MB")]
    Rate,
    /// Not a rate to keep to.
    #[error("expected a rate from 16KiB/s up, for example 20MiB/s or 100mbit")]
    Limit,
    /// Not a duration.
    #[error("expected a duration, for example 10s, 500ms or 2m")]
    Duration,
    /// Outside what makes sense.
    #[error("expected a duration from {0} to {1}")]
    DurationRange(humantime::Duration, humantime::Duration),
}

/// Reads a size in bytes: `512`, `64MiB`, `1.5 GB`. Units are case-insensitive; fractions are rounded down.
pub fn size(text: &str) -> Result<u64, ValueError> {
    let text = text.trim();
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(ValueError::Size)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Nine decimals are more than anybody means, and keep the arithmetic exact.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(ValueError::Size);
    }
    let whole: u64 = whole.parse().map_err(|_| ValueError::SizeTooLarge)?;
    let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| ValueError::Size)?;
    let bytes = u128::from(whole) * u128::from(*scale) + u128::from(nanos) * u128::from(*scale) / 1_000_000_000;
    u64::try_from(bytes).map_err(|_| ValueError::SizeTooLarge)
}

/// Reads a link's rate, in bits (`50mbit`, as `tc` writes it) or bytes (`125MB`) a second, and returns it in bytes a second.
pub fn rate(text: &str) -> Result<u64, ValueError> {
    const BITS: [(&str, &str); 4] = [("kbit", "kB"), ("mbit", "MB"), ("gbit", "GB"), ("bit", "")];
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix("/s").unwrap_or(&text);
    let bits = BITS.iter().find_map(|(unit, bytes)| Some(size(&format!("{}{bytes}", text.strip_suffix(unit)?))));
    let bytes = match bits {
        Some(bits) => bits.map(|bits| bits / 8),
        None => size(text),
    };
    bytes.ok().filter(|rate| (8_000..=125_000_000_000).contains(rate)).ok_or(ValueError::Rate)
}

/// Reads a rate to keep to, written as for [`rate`], in bytes a second.
pub fn limit(text: &str) -> Result<u64, ValueError> {
    rate(text).ok().filter(|limit| RATE.contains(limit)).ok_or(ValueError::Limit)
}

/// Reads a duration of `50us` to `1s`: how long a message takes.
pub fn latency(text: &str) -> Result<Duration, ValueError> {
    duration_in(text, Duration::from_micros(50)..=Duration::from_secs(1))
}

/// Reads a duration of up to `1s`.
pub fn delay(text: &str) -> Result<Duration, ValueError> {
    duration_in(text, Duration::ZERO..=Duration::from_secs(1))
}

/// Reads a duration of `1s` to `10m`: what a network step may take.
pub fn network_timeout(text: &str) -> Result<Duration, ValueError> {
    duration_in(text, Duration::from_secs(1)..=Duration::from_secs(600))
}

/// Reads a duration of whole seconds, `5s` to `1h`: how long a host may be without its controller.
pub fn host_patience(text: &str) -> Result<Duration, ValueError> {
    let duration = duration_in(text, HOST_PATIENCE)?;
    Ok(Duration::from_secs(duration.as_secs()))
}

fn duration_in(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, ValueError> {
    let duration = humantime::parse_duration(text).map_err(|_| ValueError::Duration)?;
    if range.contains(&duration) {
        return Ok(duration);
    }
    Err(ValueError::DurationRange((*range.start()).into(), (*range.end()).into()))
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
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "B", "MiB", "1XB", "-1", "+1", "1e3", ".5GB", "1.GB", "1.2.3GB", "1,5GB", "1 000", "1.0000000001GB", "é"]
        {
            assert_eq!(size(bad), Err(ValueError::Size), "{bad}");
        }
        for huge in ["18446744073709551616", "99999999TiB", "16777216TiB"] {
            assert_eq!(size(huge), Err(ValueError::SizeTooLarge), "{huge}");
        }
    }

    #[test]
    fn rates_in_bits_and_bytes() {
        for (text, bytes) in [
            ("50mbit", 6_250_000),
            ("1gbit", 125_000_000),
            ("2.5 Gbit/s", 312_500_000),
            ("125MB", 125_000_000),
            ("64kbit", 8_000),
            ("64000bit", 8_000),
            ("1000gbit", 125_000_000_000),
        ] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for bad in ["", "bit", "fast", "-1mbit", "63kbit", "1001gbit", "99999999999tib", "1gbit/m", "1e9bit"] {
            assert_eq!(rate(bad), Err(ValueError::Rate), "{bad}");
        }
    }

    #[test]
    fn durations_within_bounds() {
        assert_eq!(network_timeout("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(network_timeout("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(host_patience("5500ms"), Ok(Duration::from_secs(5)));
        for bad in ["", "10", "ten", "-1s"] {
            assert_eq!(network_timeout(bad), Err(ValueError::Duration), "{bad}");
        }
        let error = host_patience("2h").unwrap_err();
        assert_eq!(error.to_string(), "expected a duration from 5s to 1h");
        assert!(network_timeout("0s").is_err());
    }
}
