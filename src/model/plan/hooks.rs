//! What runs on a host around a switch.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

/// Something to run on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// For the host's shell; at most [`Command::LONGEST`] bytes.
    Shell(String),
    /// A program and its arguments: at least the program, at most [`Command::MOST_WORDS`] words of at most [`Command::LONGEST`]
    /// bytes each.
    Argv(Vec<String>),
}

impl Command {
    /// The most bytes of a shell command or of one word.
    pub const LONGEST: usize = 16 << 10;
    /// The most words of a program with its arguments.
    pub const MOST_WORDS: usize = 256;
}

/// A command that must end well within its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// What runs.
    pub command: Command,
    /// How long it may run; within [`Hook::TIMEOUT`].
    pub timeout: Duration,
}

impl Hook {
    /// How long a hook may run that says nothing about it.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
    /// How long a hook that is out of time may take to end.
    pub const GRACE: Duration = Duration::from_secs(3);
    /// The bounds of [`Hook::timeout`].
    pub const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPoint {
    /// Before anything is fetched or unpacked.
    BeforeStage,
    /// When the release is complete beside the current one. A failure means that the host is not staged.
    AfterStage,
    /// Before `current` is switched. A failure means that it is not.
    BeforeActivate,
    /// When `current` has been switched, before the health check. A failure means that the host goes back.
    AfterActivate,
    /// When `current` leads to the previous release again, or nowhere after a first deploy.
    /// These hooks must bear being repeated: where they were cut short, the next agent runs them anew.
    OnRevert,
}

impl HookPoint {
    /// Every point, in the order of a deploy.
    pub const ALL: [Self; 5] = [Self::BeforeStage, Self::AfterStage, Self::BeforeActivate, Self::AfterActivate, Self::OnRevert];

    /// Returns its key in a playbook.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeStage => "before_stage",
            Self::AfterStage => "after_stage",
            Self::BeforeActivate => "before_activate",
            Self::AfterActivate => "after_activate",
            Self::OnRevert => "on_revert",
        }
    }
}

/// The hooks of a deploy. Those of one point run one after the other, at most [`Hooks::MOST`]; the first that fails ends them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// For [`HookPoint::BeforeStage`].
    pub before_stage: Vec<Hook>,
    /// For [`HookPoint::AfterStage`].
    pub after_stage: Vec<Hook>,
    /// For [`HookPoint::BeforeActivate`].
    pub before_activate: Vec<Hook>,
    /// For [`HookPoint::AfterActivate`].
    pub after_activate: Vec<Hook>,
    /// For [`HookPoint::OnRevert`].
    pub on_revert: Vec<Hook>,
}

impl Hooks {
    /// The most hooks of one point.
    pub const MOST: usize = 32;
    /// The most bytes of [`Hooks::revert_bytes`]: a host keeps the hooks of a revert for an agent that finishes what a dead one began.
    pub const MOST_REVERT_BYTES: usize = 256 << 10;

    /// Returns the hooks of one point, in order.
    pub fn at(&self, point: HookPoint) -> &[Hook] {
        match point {
            HookPoint::BeforeStage => &self.before_stage,
            HookPoint::AfterStage => &self.after_stage,
            HookPoint::BeforeActivate => &self.before_activate,
            HookPoint::AfterActivate => &self.after_activate,
            HookPoint::OnRevert => &self.on_revert,
        }
    }

    /// Returns how long the hooks of one point may take together.
    pub fn longest(&self, point: HookPoint) -> Duration {
        self.at(point).iter().map(|hook| hook.timeout + Hook::GRACE).sum()
    }

    /// Returns how many bytes the hooks of a revert take where they are kept.
    pub fn revert_bytes(&self) -> usize {
        serde_json::to_vec(&self.on_revert).map_or(usize::MAX, |bytes| bytes.len())
    }

    /// True if nothing runs at any point.
    pub fn is_empty(&self) -> bool {
        HookPoint::ALL.iter().all(|point| self.at(*point).is_empty())
    }
}
