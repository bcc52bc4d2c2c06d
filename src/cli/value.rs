//! Option values with a unit: sizes, rates and durations, each within bounds.

use std::{ops::RangeInclusive, time::Duration};

use crate::model::{
    distribution::{RATE, STALL_TIMEOUT},
    plan::HOST_PATIENCE,
    size::{SizeError, parse_size},
};

/// Says why a text is not a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a size.
    #[error(transparent)]
    Size(#[from] SizeError),
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
    Ok(parse_size(text)?)
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

/// Reads a duration of `1m` to `3650d`: for how long a signature holds.
pub fn validity(text: &str) -> Result<Duration, ValueError> {
    duration_in(text, Duration::from_secs(60)..=Duration::from_secs(3650 * 86_400))
}

/// Reads a duration of `2s` to `1h`: how long nothing may come to a host.
pub fn stall_timeout(text: &str) -> Result<Duration, ValueError> {
    duration_in(text, STALL_TIMEOUT)
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
