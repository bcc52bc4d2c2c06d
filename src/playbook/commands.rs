//! Commands, and the keys of `hooks`.

use std::time::Duration;

use super::{
    section::{Key, Mapping, Section, Seen, key},
    shape::{ByKind, List, Shape, Text, Time},
};
use crate::{
    model::plan::{Command, Hook, Hooks},
    yaml::Diagnostic,
};

/// Returns the shape of a command: a line for the shell, or a program and its arguments.
pub(super) fn command() -> ByKind<Command> {
    ByKind::scalar(shell()).list(argv())
}

/// Returns the shape of a line for the shell.
pub(super) fn shell() -> impl Shape<Value = Command> {
    Text {
        expected: "a command for the shell",
        pattern: r"\S",
        longest: Command::LONGEST,
        parse: |text| without_nul(text).map(Command::Shell),
    }
}

/// Returns the shape of a program and its arguments.
pub(super) fn argv() -> impl Shape<Value = Command> {
    let word = Text { expected: "a word of a command", pattern: "", longest: Command::LONGEST, parse: without_nul };
    List { entries: 1..=Command::MOST_WORDS, of: word }.map(Command::Argv)
}

fn without_nul(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("must not contain a NUL character".to_owned()) } else { Ok(text.to_owned()) }
}

/// `hooks`.
#[derive(Default)]
pub(super) struct HookLists(Hooks);

impl Section for HookLists {
    type Value = Hooks;

    fn keys() -> Vec<Key<Self>> {
        let none = Vec::<String>::new;
        vec![
            key("before_stage", "Before anything is fetched.", hooks(), |lists: &mut Self, hooks| lists.0.before_stage = hooks)
                .default(none()),
            key("after_stage", "When the release is complete beside the current one.", hooks(), |lists: &mut Self, hooks| {
                lists.0.after_stage = hooks;
            })
            .default(none()),
            key("before_activate", "Before `current` is switched.", hooks(), |lists: &mut Self, hooks| {
                lists.0.before_activate = hooks
            })
            .default(none()),
            key(
                "after_activate",
                "When `current` has been switched, before the health check.",
                hooks(),
                |lists: &mut Self, hooks| {
                    lists.0.after_activate = hooks;
                },
            )
            .default(none()),
            key(
                "on_revert",
                "When `current` leads to the previous release again. Must bear being repeated: what was cut short runs anew.",
                hooks(),
                |lists: &mut Self, hooks| {
                    lists.0.on_revert = hooks;
                },
            )
            .default(none()),
        ]
    }

    fn finish(self, seen: &mut Seen<'_>) -> Option<Hooks> {
        let size = self.0.revert_bytes();
        if size > Hooks::MOST_REVERT_BYTES {
            let (key, most) = (seen.path("on_revert"), Hooks::MOST_REVERT_BYTES >> 10);
            let message = format!("`{key}` has {} KiB of commands, but a host keeps at most {most} KiB", size >> 10);
            let problem = Diagnostic::new(&seen.place("on_revert"), message);
            seen.problem(problem.with_hint("put long commands into scripts that are part of the release"));
        }
        Some(self.0)
    }
}

/// Returns the shape of the hooks of one point.
fn hooks() -> List<ByKind<Hook>> {
    let patient = |command| Hook { command, timeout: Hook::DEFAULT_TIMEOUT };
    let hook = ByKind::scalar(shell().map(patient)).list(argv().map(patient)).mapping(Mapping::<HookKeys>::new());
    List { entries: 0..=Hooks::MOST, of: hook }
}

/// A hook as a mapping.
struct HookKeys {
    run: Option<Command>,
    timeout: Duration,
}

impl Default for HookKeys {
    fn default() -> Self {
        Self { run: None, timeout: Hook::DEFAULT_TIMEOUT }
    }
}

impl Section for HookKeys {
    type Value = Hook;

    fn keys() -> Vec<Key<Self>> {
        vec![
            key(
                "run",
                "A command for the shell, or a list of a program and its arguments.",
                command(),
                |hook: &mut Self, run| {
                    hook.run = Some(run);
                },
            )
            .required(),
            key("timeout", "How long it may run.", Time(Hook::TIMEOUT), |hook: &mut Self, time| hook.timeout = time)
                .default("2m"),
        ]
    }

    fn finish(self, _: &mut Seen<'_>) -> Option<Hook> {
        Some(Hook { command: self.run?, timeout: self.timeout })
    }
}
