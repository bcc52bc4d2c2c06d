//! When a release that has been switched to counts as healthy.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::Command;

/// What a host checks after its switch. With several checks all must pass; without any it is healthy at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// An address that must answer.
    pub http: Option<HttpCheck>,
    /// A command that must end well.
    pub command: Option<CommandCheck>,
}

impl Health {
    /// True if nothing is checked.
    pub fn is_empty(&self) -> bool {
        self.http.is_none() && self.command.is_none()
    }

    /// Returns how long the checks, which are made at once, may take.
    pub fn longest(&self) -> Duration {
        let http = self.http.as_ref().map(|check| check.rhythm);
        let command = self.command.as_ref().map(|check| check.rhythm);
        [http, command].into_iter().flatten().map(|rhythm| rhythm.deadline).max().unwrap_or_default()
    }
}

/// An address that the host itself asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// An `http://` address, without user or password.
    pub url: String,
    /// The status it must answer with, 100 to 599. Redirections are not followed.
    pub status: u16,
    /// How often it is asked, and for how long.
    pub rhythm: Rhythm,
}

/// A command that the host runs; healthy while it ends with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandCheck {
    /// What runs.
    pub command: Command,
    /// How often it runs, and for how long.
    pub rhythm: Rhythm,
}

/// How often a check is made and when it has passed or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rhythm {
    /// The time from the end of one try to the begin of the next; within [`Rhythm::INTERVAL`].
    pub interval: Duration,
    /// How long one try may take; within [`Rhythm::TIMEOUT`].
    pub timeout: Duration,
    /// How long every try must succeed; zero: one success will do. Within [`Rhythm::HEALTHY_FOR`] and shorter than the deadline.
    pub healthy_for: Duration,
    /// When the check has failed, counted from the end of the hooks; within [`Rhythm::DEADLINE`].
    pub deadline: Duration,
}

impl Rhythm {
    /// The bounds of [`Rhythm::interval`].
    pub const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
    /// The bounds of [`Rhythm::timeout`].
    pub const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
    /// The bounds of [`Rhythm::healthy_for`].
    pub const HEALTHY_FOR: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
    /// The bounds of [`Rhythm::deadline`].
    pub const DEADLINE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(4 * 3600);
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            healthy_for: Duration::from_secs(10),
            deadline: Duration::from_secs(300),
        }
    }
}
