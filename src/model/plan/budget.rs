//! What the operator allows: how many hosts may drop out.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How many hosts may drop out before the run stops: a number or a share of the fleet. Zero by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureBudget {
    /// That many hosts.
    Hosts(u32),
    /// That share of the fleet in percent, 0 to 100, rounded down.
    Percent(u8),
}

/// Says that a text is neither a number nor a percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a number of hosts (3) nor a percentage from 0% to 100% (10%)")]
pub struct BudgetParseError(String);

impl FailureBudget {
    /// No host may drop out.
    pub const NONE: Self = Self::Hosts(0);

    /// Returns how many hosts of a fleet of `fleet` hosts may drop out.
    pub fn allowed(self, fleet: usize) -> usize {
        match self {
            Self::Hosts(hosts) => hosts as usize,
            Self::Percent(percent) => fleet.saturating_mul(percent as usize) / 100,
        }
    }
}

impl fmt::Display for FailureBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(hosts) => write!(f, "{hosts}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for FailureBudget {
    type Err = BudgetParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || BudgetParseError(text.chars().take(60).collect());
        let digits = text.strip_suffix('%').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        if text.ends_with('%') {
            let percent = digits.parse().map_err(|_| error())?;
            if percent <= 100 { Ok(Self::Percent(percent)) } else { Err(error()) }
        } else {
            Ok(Self::Hosts(digits.parse().map_err(|_| error())?))
        }
    }
}

/// How many hosts may drop out, told apart by when. One value alone is the whole fleet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureBudgets {
    /// Of the first wave's hosts, once they have been told to switch, also where it is the only wave. A share is one of that wave.
    /// Without it the first wave is bounded as the fleet is.
    pub canary: Option<FailureBudget>,
    /// Of the whole fleet, from first to last: also of hosts that are lost before anything is switched.
    pub after: FailureBudget,
}

impl FailureBudgets {
    /// No host may drop out.
    pub const NONE: Self = Self::of_fleet(FailureBudget::NONE);

    /// Returns the budgets that one value stands for: nothing of its own for the first wave.
    pub const fn of_fleet(after: FailureBudget) -> Self {
        Self { canary: None, after }
    }
}

impl Default for FailureBudgets {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_from_text() {
        assert_eq!("3".parse(), Ok(FailureBudget::Hosts(3)));
        assert_eq!("10%".parse(), Ok(FailureBudget::Percent(10)));
        for bad in ["", "%", "-1", "+1", "101%", "1.5", "300%", "99999999999", "3 "] {
            assert!(bad.parse::<FailureBudget>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn percentage_is_rounded_down() {
        assert_eq!(FailureBudget::Percent(10).allowed(19), 1);
        assert_eq!(FailureBudget::Percent(10).allowed(9), 0);
        assert_eq!(FailureBudget::Percent(100).allowed(7), 7);
    }
}
