//! How many hosts switch at a time.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The size of one wave: at least one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WaveSize {
    /// That many hosts; at least 1.
    Hosts(u32),
    /// That share of the fleet in percent, 1 to 100, rounded down, but at least one host.
    Percent(u8),
}

/// Says that a text is neither a number of hosts nor a percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a number of hosts from 1 (3) nor a percentage from 1% to 100% (10%)")]
pub struct WaveSizeError(String);

impl WaveSize {
    /// Returns how many hosts of a fleet of `fleet` hosts it stands for; never 0.
    pub fn of(self, fleet: usize) -> usize {
        let hosts = match self {
            Self::Hosts(hosts) => hosts as usize,
            Self::Percent(percent) => fleet.saturating_mul(percent as usize) / 100,
        };
        hosts.max(1)
    }
}

impl fmt::Display for WaveSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(hosts) => write!(f, "{hosts}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for WaveSize {
    type Err = WaveSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_suffix('%').unwrap_or(text);
        let number: Option<u32> = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        match number {
            Some(percent @ 1..=100) if text.ends_with('%') => Ok(Self::Percent(percent as u8)),
            Some(hosts @ 1..) if !text.ends_with('%') => Ok(Self::Hosts(hosts)),
            _ => Err(WaveSizeError(text.chars().take(60).collect())),
        }
    }
}

impl TryFrom<String> for WaveSize {
    type Error = WaveSizeError;
    fn try_from(text: String) -> Result<Self, WaveSizeError> {
        text.parse()
    }
}

impl From<WaveSize> for String {
    fn from(size: WaveSize) -> String {
        size.to_string()
    }
}

/// The sizes of all waves in order. The last one is repeated until every host has switched. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<WaveSize>", into = "Vec<WaveSize>")]
pub struct Waves {
    first: Vec<WaveSize>,
    repeated: WaveSize,
}

impl Waves {
    /// The most sizes that can be written down.
    pub const MOST: usize = 100;

    /// Returns waves of these sizes, the last one repeated; none without a size or with more than [`Waves::MOST`].
    pub fn new(mut sizes: Vec<WaveSize>) -> Option<Self> {
        if sizes.len() > Self::MOST {
            return None;
        }
        let repeated = sizes.pop()?;
        Some(Self { first: sizes, repeated })
    }

    /// Returns the one wave that has every host.
    pub fn all_at_once() -> Self {
        Self { first: Vec::new(), repeated: WaveSize::Percent(100) }
    }

    /// Returns the number of hosts in each wave of a fleet of `fleet` hosts; no wave is empty and together they have every host.
    pub fn split(&self, fleet: usize) -> Vec<usize> {
        let mut left = fleet;
        let mut sizes = self.first.iter().copied().chain(std::iter::repeat(self.repeated));
        std::iter::from_fn(|| {
            let size = sizes.next()?.of(fleet).min(left);
            left -= size;
            (size > 0).then_some(size)
        })
        .collect()
    }
}

impl TryFrom<Vec<WaveSize>> for Waves {
    type Error = &'static str;
    fn try_from(sizes: Vec<WaveSize>) -> Result<Self, Self::Error> {
        Self::new(sizes).ok_or("no waves or too many")
    }
}

impl From<Waves> for Vec<WaveSize> {
    fn from(waves: Waves) -> Self {
        waves.first.into_iter().chain([waves.repeated]).collect()
    }
}

impl fmt::Display for Waves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.iter().try_for_each(|size| write!(f, "{size}, "))?;
        write!(f, "{}", self.repeated)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waves(sizes: &[&str]) -> Waves {
        Waves::new(sizes.iter().map(|size| size.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn a_size_is_a_number_or_a_share_and_never_nothing() {
        assert_eq!("3".parse(), Ok(WaveSize::Hosts(3)));
        assert_eq!("100%".parse(), Ok(WaveSize::Percent(100)));
        for bad in ["", "%", "0", "0%", "-1", "+1", "101%", "1.5", "99999999999", "3 ", "%3"] {
            assert!(bad.parse::<WaveSize>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(WaveSize::Percent(10).of(9), 1);
        assert_eq!(WaveSize::Percent(10).of(39), 3);
    }

    #[test]
    fn the_last_size_is_repeated_until_every_host_has_its_wave() {
        assert_eq!(waves(&["1", "10%", "50%", "100%"]).split(40), [1, 4, 20, 15]);
        assert_eq!(waves(&["10%"]).split(20), [2; 10]);
        assert_eq!(waves(&["1", "5"]).split(12), [1, 5, 5, 1]);
        assert_eq!(Waves::all_at_once().split(7), [7]);
        assert_eq!(waves(&["4000000000"]).split(3), [3]);
        assert!(Waves::all_at_once().split(0).is_empty());
        assert_eq!(waves(&["1", "10%", "100%"]).to_string(), "1, 10%, 100%");
    }

    #[test]
    fn no_waves_and_too_many_are_refused() {
        assert_eq!(Waves::new(Vec::new()), None);
        assert_eq!(Waves::new(vec![WaveSize::Hosts(1); Waves::MOST + 1]), None);
    }

    #[test]
    fn waves_are_written_as_a_playbook_has_them_and_read_back() {
        let sizes = waves(&["1", "10%", "100%"]);
        let json = serde_json::to_string(&sizes).unwrap();
        assert_eq!(json, r#"["1","10%","100%"]"#);
        assert_eq!(serde_json::from_str::<Waves>(&json).unwrap(), sizes);
        assert!(serde_json::from_str::<Waves>("[]").is_err());
        assert!(serde_json::from_str::<Waves>(r#"["0"]"#).is_err());
    }

    proptest! {
        #[test]
        fn every_host_is_in_one_wave_and_no_wave_is_empty_or_too_large(
            sizes in proptest::collection::vec(prop_oneof![
                (1u32..200).prop_map(WaveSize::Hosts),
                (1u8..=100).prop_map(WaveSize::Percent),
            ], 1..8),
            fleet in 0usize..500,
        ) {
            let split = Waves::new(sizes.clone()).unwrap().split(fleet);
            prop_assert_eq!(split.iter().sum::<usize>(), fleet);
            for (index, hosts) in split.iter().enumerate() {
                let size = sizes[index.min(sizes.len() - 1)];
                prop_assert!((1..=size.of(fleet)).contains(hosts));
            }
        }
    }
}
