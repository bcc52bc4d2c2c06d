//! Bytes, rates and durations as people read them. Binary units, one decimal, never more than five significant characters.

use std::time::Duration;

/// Returns bytes with a binary unit: `0 B`, `1023 B`, `64.0 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be printed as 1024.0 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns a rate: `12.3 MiB/s`.
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// Returns a measured time in seconds: `0.4 s`, `12.3 s`, `4 min 10 s`, `2 h 5 min`. Anything that is no time is `?`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".into();
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    whole(seconds.round() as u64)
}

/// Returns an elapsed or remaining time in whole seconds: `9 s`, `4 min 10 s`, `2 h 5 min`.
pub fn about(duration: Duration) -> String {
    whole(duration.as_secs() + u64::from(duration.subsec_millis() >= 500))
}

/// Returns a time since the start: `0:09`, `12:05`, `1:02:03`.
pub fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

fn whole(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Returns a count with its noun: `1 host`, `3 hosts`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_binary_units() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), text, "{number}");
        }
        assert_eq!(rate(0), "0 B/s");
    }

    #[test]
    fn times() {
        for (number, text) in [
            (0.0, "0.0 s"),
            (12.34, "12.3 s"),
            (59.96, "1 min 0 s"),
            (250.0, "4 min 10 s"),
            (7500.0, "2 h 5 min"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(seconds(number), text, "{number}");
        }
        assert_eq!(about(Duration::from_millis(9600)), "10 s");
        assert_eq!(about(Duration::ZERO), "0 s");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(clock(Duration::from_millis(9900)), "0:09");
    }
}
