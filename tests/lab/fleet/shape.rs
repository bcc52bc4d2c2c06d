//! What a fleet looks like: how many hosts, how wide their links, and in what some of them differ. Plain data.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// What a fleet looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// How many hosts, without the controller.
    pub(crate) hosts: usize,
    /// Mbit/s of every link and direction, the controller's too; none leaves the links as fast as the machine.
    pub(crate) rate_mbit: Option<u32>,
    /// In what some hosts differ.
    pub(crate) variation: Variation,
}

/// In what some hosts of a fleet differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Variation {
    /// All are alike.
    Equal,
    /// Every `every`th host's link is that much narrower.
    Slow { every: usize, divisor: u32 },
    /// Every `every`th host loses this share of the packets that come in.
    Lossy { every: usize, percent: f64 },
    /// Two zones. The controller and the first half of the hosts are in the first; a link as wide as the second half's links together
    /// over `divisor` joins them.
    Zones { divisor: u32 },
    /// Hosts are alike. The controller's link is narrower by `divisor`, and a web server has a link that is wider by `factor`.
    Origin { divisor: u32, factor: u32 },
}

/// Which of a fleet's hosts are alike: each class has its own floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    /// Nothing is odd about it.
    Plain,
    /// Its link is narrower.
    Slow,
    /// Packets to it get lost.
    Lossy,
    /// It is in the other zone than the controller.
    Far,
}

impl Class {
    /// Returns the word used in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Slow => "slow",
            Self::Lossy => "lossy",
            Self::Far => "far zone",
        }
    }
}

impl Shape {
    /// Checks that such a fleet can be built.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!((1..=1000).contains(&self.hosts), "a fleet has 1 to 1000 hosts");
        match self.variation {
            Variation::Equal => {}
            Variation::Slow { every, divisor } => {
                ensure!(every > 0 && divisor > 0, "every 0th host, or a rate over 0");
                ensure!(self.rate_mbit.is_some(), "slow hosts need a rate to be slower than");
            }
            Variation::Lossy { every, percent } => {
                ensure!(every > 0 && (0.0..100.0).contains(&percent), "every 0th host, or a loss that is not below 100 %");
            }
            Variation::Zones { divisor } => {
                ensure!(divisor > 0 && self.hosts > 1, "zones need two hosts, and a link that is not over 0");
                ensure!(self.rate_mbit.is_some(), "zones need a rate");
            }
            Variation::Origin { divisor, factor } => {
                ensure!(divisor > 0 && (1..=100).contains(&factor), "a link over 0, and one up to 100 times as wide");
                ensure!(self.rate_mbit.is_some(), "a web server needs a rate to be wider than");
            }
        }
        Ok(())
    }

    /// Returns a host's class; hosts count from 0.
    pub(crate) fn class(&self, host: usize) -> Class {
        match self.variation {
            Variation::Slow { every, .. } if host % every == every - 1 => Class::Slow,
            Variation::Lossy { every, .. } if host % every == every - 1 => Class::Lossy,
            Variation::Zones { .. } if host >= self.hosts.div_ceil(2) => Class::Far,
            _ => Class::Plain,
        }
    }

    /// Returns the classes there are, each with its first host.
    pub(crate) fn representatives(&self) -> Vec<(Class, usize)> {
        let mut found: Vec<(Class, usize)> = Vec::new();
        for host in 0..self.hosts {
            if found.iter().all(|(class, _)| *class != self.class(host)) {
                found.push((self.class(host), host));
            }
        }
        found
    }

    /// Returns the kbit/s of a host's link.
    pub(crate) fn rate_kbit(&self, host: usize) -> Option<u32> {
        let rate = self.usual_rate_kbit()?;
        match self.variation {
            Variation::Slow { divisor, .. } if self.class(host) == Class::Slow => Some(rate / divisor),
            _ => Some(rate),
        }
    }

    fn usual_rate_kbit(&self) -> Option<u32> {
        self.rate_mbit.map(|rate| rate * 1000)
    }

    /// Returns the kbit/s of the controller's link.
    pub(crate) fn controller_rate_kbit(&self) -> Option<u32> {
        let rate = self.usual_rate_kbit()?;
        match self.variation {
            Variation::Origin { divisor, .. } => Some(rate / divisor),
            _ => Some(rate),
        }
    }

    /// Returns the kbit/s of the web server's link, if there is one.
    pub(crate) fn origin_rate_kbit(&self) -> Option<u32> {
        match self.variation {
            Variation::Origin { factor, .. } => Some(self.usual_rate_kbit()? * factor),
            _ => None,
        }
    }

    /// Returns the share of the packets to a host that get lost, in percent.
    pub(crate) fn loss_percent(&self, host: usize) -> Option<f64> {
        match self.variation {
            Variation::Lossy { percent, .. } if self.class(host) == Class::Lossy => Some(percent),
            _ => None,
        }
    }

    /// Returns a host's zone, as the inventory names it.
    pub(crate) fn zone(&self, host: usize) -> Option<&'static str> {
        matches!(self.variation, Variation::Zones { .. }).then(|| if self.class(host) == Class::Far { "far" } else { "near" })
    }

    /// Returns the kbit/s of the link between the zones, if there are zones.
    pub(crate) fn zone_link_kbit(&self) -> Option<u32> {
        let Variation::Zones { divisor } = self.variation else { return None };
        let far = (0..self.hosts).filter(|host| self.class(*host) == Class::Far);
        let sum: u64 = far.filter_map(|host| self.rate_kbit(host)).map(u64::from).sum();
        Some(u32::try_from(sum / u64::from(divisor)).unwrap_or(u32::MAX))
    }

    /// Describes it in a few words.
    pub(crate) fn describe(&self) -> String {
        let rate = self.rate_mbit.map_or("links as fast as the machine".to_owned(), |rate| format!("{rate} Mbit/s"));
        let variation = match &self.variation {
            Variation::Equal => String::new(),
            Variation::Slow { every, divisor } => format!(", 1 of {every} with 1/{divisor} of the rate"),
            Variation::Lossy { every, percent } => format!(", 1 of {every} loses {percent} % of the packets"),
            Variation::Zones { .. } => {
                let link = self.zone_link_kbit().unwrap_or_default();
                format!(", two zones with {:.1} Mbit/s between them", f64::from(link) / 1e3)
            }
            Variation::Origin { .. } => {
                let mbit = |rate: Option<u32>| f64::from(rate.unwrap_or_default()) / 1e3;
                let (controller, origin) = (mbit(self.controller_rate_kbit()), mbit(self.origin_rate_kbit()));
                format!(", the controller {controller:.1}, a web server {origin:.1}")
            }
        };
        format!("{} hosts, {rate}{variation}", self.hosts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(hosts: usize, variation: Variation) -> Shape {
        Shape { hosts, rate_mbit: Some(50), variation }
    }

    #[test]
    fn every_fourth_host_is_slow() {
        let shape = shape(8, Variation::Slow { every: 4, divisor: 4 });
        let rates: Vec<_> = (0..8).filter_map(|host| shape.rate_kbit(host)).collect();
        assert_eq!(rates, [50_000, 50_000, 50_000, 12_500, 50_000, 50_000, 50_000, 12_500]);
        assert_eq!(shape.controller_rate_kbit(), Some(50_000));
        assert_eq!(shape.representatives(), [(Class::Plain, 0), (Class::Slow, 3)]);
    }

    #[test]
    fn the_second_half_is_far_behind_a_part_of_its_links() {
        let shape = shape(16, Variation::Zones { divisor: 8 });
        let far: Vec<_> = (0..16).filter(|host| shape.zone(*host) == Some("far")).collect();
        assert_eq!(far, (8..16).collect::<Vec<_>>());
        assert_eq!(shape.zone_link_kbit(), Some(50_000));
    }

    #[test]
    fn a_web_server_is_wider_and_the_controller_narrower() {
        let shape = shape(2, Variation::Origin { divisor: 4, factor: 3 });
        let rates = [shape.controller_rate_kbit(), shape.rate_kbit(1), shape.origin_rate_kbit()];
        assert_eq!(rates, [Some(12_500), Some(50_000), Some(150_000)]);
        assert_eq!(shape.describe(), "2 hosts, 50 Mbit/s, the controller 12.5, a web server 150.0");
    }

    #[test]
    fn equal_hosts_have_no_zones_and_no_loss() {
        let shape = shape(16, Variation::Equal);
        assert_eq!((shape.zone(9), shape.zone_link_kbit(), shape.loss_percent(3)), (None, None, None));
        assert_eq!(shape.representatives(), [(Class::Plain, 0)]);
    }

    #[test]
    fn what_can_not_be_built_is_refused() {
        for variation in [
            Variation::Slow { every: 0, divisor: 4 },
            Variation::Slow { every: 4, divisor: 0 },
            Variation::Lossy { every: 4, percent: 100.0 },
            Variation::Zones { divisor: 0 },
            Variation::Origin { divisor: 0, factor: 1 },
            Variation::Origin { divisor: 1, factor: 0 },
        ] {
            assert!(shape(4, variation.clone()).check().is_err(), "{variation:?}");
        }
        assert!(shape(0, Variation::Equal).check().is_err());
        assert!(Shape { rate_mbit: None, ..shape(4, Variation::Zones { divisor: 8 }) }.check().is_err());
    }
}
