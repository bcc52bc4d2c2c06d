//! The ports that a run may listen on.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Some consecutive ports, for a firewall that lets them through: at least [`PortRange::LEAST`], none below 1024. Text and JSON: `40000-40099`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    low: u16,
    high: u16,
}

/// Says that a text is no [`PortRange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected LOW-HIGH, at least {} ports from 1024 to 65535, for example 40000-40099", PortRange::LEAST)]
pub struct PortRangeError;

impl PortRange {
    /// How many ports there are at least: a machine listens for peers, and as the controller or to pass on the agent for more.
    pub const LEAST: u16 = 4;

    /// Makes a range of the ports from `low` to `high`.
    pub fn new(low: u16, high: u16) -> Result<Self, PortRangeError> {
        let is_good = low >= 1024 && high >= low && high - low >= Self::LEAST - 1;
        if is_good { Ok(Self { low, high }) } else { Err(PortRangeError) }
    }

    /// Returns the ports, all of them once, beginning at one that `random` picks.
    pub fn beginning_anywhere(self, random: u16) -> impl Iterator<Item = u16> {
        // At most 64512, as there are none below 1024.
        let begin = self.low + random % (self.high - self.low + 1);
        (begin..=self.high).chain(self.low..begin)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (low, high) = text.split_once('-').ok_or(PortRangeError)?;
        let port = |text: &str| text.trim().parse().map_err(|_| PortRangeError);
        Self::new(port(low)?, port(high)?)
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, PortRangeError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(ports: PortRange) -> Self {
        ports.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_within_bounds() {
        let range: PortRange = "40000-40003".parse().unwrap();
        assert_eq!(range.to_string(), "40000-40003");
        assert_eq!(serde_json::from_str::<PortRange>("\"40000 - 40003\"").unwrap(), range);
        assert_eq!("1024-65535".parse::<PortRange>().unwrap().beginning_anywhere(u16::MAX).count(), 64512);
        for bad in ["", "40000", "40000-", "-40003", "40003-40000", "40000-40002", "1000-2000", "65530-65540", "a-b", "1-2-3"] {
            assert_eq!(bad.parse::<PortRange>(), Err(PortRangeError), "{bad}");
        }
    }

    #[test]
    fn every_port_is_tried_once_wherever_it_begins() {
        let range = PortRange::new(2000, 2003).unwrap();
        assert_eq!(range.beginning_anywhere(6).collect::<Vec<_>>(), [2002, 2003, 2000, 2001]);
        assert_eq!(range.beginning_anywhere(0).collect::<Vec<_>>(), [2000, 2001, 2002, 2003]);
    }
}
