//! The keys of `health`.

use super::{
    commands::{argv, command, shell},
    section::{Key, Mapping, Section, Seen, key},
    shape::{ByKind, Shape as _, Text, Time, Whole},
};
use crate::{
    model::plan::{Command, CommandCheck, Health, HttpCheck, Rhythm},
    yaml::Diagnostic,
};

/// The longest address, in bytes.
const MAX_URL: usize = 2048;

/// `health`.
#[derive(Default)]
pub(super) struct HealthKeys(Health);

impl Section for HealthKeys {
    type Value = Health;

    fn keys() -> Vec<Key<Self>> {
        let plain = |command| CommandCheck { command, rhythm: Rhythm::default() };
        let command = ByKind::scalar(shell().map(plain)).list(argv().map(plain)).mapping(Mapping::<CommandKeys>::new());
        vec![
            key(
                "http",
                "An address that must answer, asked by the host itself.",
                Mapping::<HttpKeys>::new(),
                |health: &mut Self, http| {
                    health.0.http = Some(http);
                },
            ),
            key(
                "command",
                "A command that must end well: a line for the shell, a list of a program and its arguments, or a mapping.",
                command,
                |health: &mut Self, command| health.0.command = Some(command),
            ),
        ]
    }

    fn finish(self, _: &mut Seen<'_>) -> Option<Health> {
        Some(self.0)
    }
}

/// `health.http`.
#[derive(Default)]
struct HttpKeys {
    url: Option<String>,
    status: Option<u16>,
    rhythm: Rhythm,
}

impl Section for HttpKeys {
    type Value = HttpCheck;

    fn keys() -> Vec<Key<Self>> {
        let url = Text {
            expected: "an address that starts with `http://`",
            pattern: r"^http://[^\s]+$",
            longest: MAX_URL,
            parse: check_url,
        };
        let mut keys = vec![
            key("url", "The address, for example http://127.0.0.1:8080/healthz.", url, |http: &mut Self, url| {
                http.url = Some(url)
            })
            .required(),
            key("status", "The status it must answer with.", Whole(100..=599), |http: &mut Self, status| {
                http.status = u16::try_from(status).ok();
            })
            .default(200),
        ];
        keys.extend(rhythm(|http: &mut Self| &mut http.rhythm));
        keys
    }

    fn finish(self, seen: &mut Seen<'_>) -> Option<HttpCheck> {
        check_rhythm(&self.rhythm, seen);
        Some(HttpCheck { url: self.url?, status: self.status.unwrap_or(200), rhythm: self.rhythm })
    }
}

/// A user or password in it would be seen by whoever can read the playbook or list the host's processes.
fn check_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|_| "must be an address that starts with `http://`".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user or a password".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not contain `#`, which is never sent".to_owned());
    }
    Ok(text.to_owned())
}

/// `health.command` as a mapping.
#[derive(Default)]
struct CommandKeys {
    run: Option<Command>,
    rhythm: Rhythm,
}

impl Section for CommandKeys {
    type Value = CommandCheck;

    fn keys() -> Vec<Key<Self>> {
        let about = "A command for the shell, or a list of a program and its arguments.";
        let mut keys = vec![key("run", about, command(), |check: &mut Self, run| check.run = Some(run)).required()];
        keys.extend(rhythm(|check: &mut Self| &mut check.rhythm));
        keys
    }

    fn finish(self, seen: &mut Seen<'_>) -> Option<CommandCheck> {
        check_rhythm(&self.rhythm, seen);
        Some(CommandCheck { command: self.run?, rhythm: self.rhythm })
    }
}

/// Returns the keys that every check has.
fn rhythm<S: 'static>(of: fn(&mut S) -> &mut Rhythm) -> [Key<S>; 4] {
    [
        key("interval", "The time between two tries.", Time(Rhythm::INTERVAL), move |check, time| of(check).interval = time)
            .default("1s"),
        key("timeout", "How long one try may take.", Time(Rhythm::TIMEOUT), move |check, time| of(check).timeout = time)
            .default("2s"),
        key("healthy_for", "How long every try must succeed; with 0s one success will do.", Time(Rhythm::HEALTHY_FOR), {
            move |check, time| of(check).healthy_for = time
        })
        .default("10s"),
        key("deadline", "When the host counts as unhealthy and goes back.", Time(Rhythm::DEADLINE), {
            move |check, time| of(check).deadline = time
        })
        .default("5m"),
    ]
}

/// Tells of a check that could never pass.
fn check_rhythm(rhythm: &Rhythm, seen: &mut Seen<'_>) {
    if rhythm.healthy_for + rhythm.interval <= rhythm.deadline {
        return;
    }
    let (long, short) = (seen.path("healthy_for"), seen.path("deadline"));
    let message = format!("`{long}` and one `interval` must fit into `{short}`, or no host ever counts as healthy");
    let place = seen.place("healthy_for");
    seen.problem(Diagnostic::new(&place, message).with_hint("make `deadline` longer"));
}
