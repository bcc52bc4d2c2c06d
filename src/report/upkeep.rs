//! What was removed from hosts, and what became of their locks, for people and programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Palette,
    answers::{Answers, holder},
    measure, phrase,
    table::{self, Tone},
};
use crate::model::{Pruned, ReleaseId, Unlocked};

const HEADER: [&str; 6] = ["host", "releases", "unfinished", "downloads", "cached", "size"];

/// What was removed, as JSON shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// The hosts' answers.
    #[serde(flatten)]
    pub answers: Answers<Pruned>,
    /// True if nothing was removed: it is what would be.
    pub dry_run: bool,
}

impl PruneReport {
    /// Returns the report: a row a host, the releases, what is odd about single hosts, then the sums.
    pub fn render(&self, width: usize, palette: Palette) -> String {
        let rows = |(host, pruned): (_, &Pruned)| {
            let numbers =
                [pruned.releases.len(), pruned.unfinished as usize, pruned.downloads as usize, pruned.cached as usize];
            let name = (phrase::host(host), Tone::Normal);
            let size = (measure::bytes(pruned.bytes), Tone::Normal);
            [name].into_iter().chain(numbers.map(|number| (number.to_string(), Tone::Normal))).chain([size]).collect()
        };
        let mut text = table::render(&HEADER, self.answers.answered().map(rows).collect(), width, palette) + "\n";
        let mut releases: BTreeMap<&ReleaseId, usize> = BTreeMap::new();
        for id in self.answers.answered().flat_map(|(_, pruned)| &pruned.releases) {
            *releases.entry(id).or_default() += 1;
        }
        for (id, hosts) in &releases {
            text += &format!("{} {id} on {}\n", self.verb("removed"), measure::count(*hosts, "host"));
        }
        if !releases.is_empty() {
            text.push('\n');
        }
        text += &self.answers.notes(|_| None, width, palette);
        text + &phrase::wrap(&self.sums(), width, 2) + "\n"
    }

    fn verb(&self, verb: &str) -> String {
        if self.dry_run { format!("would be {verb}:") } else { format!("{verb}:") }
    }

    fn sums(&self) -> String {
        let (mut releases, mut bytes) = (0, 0_u64);
        for (_, pruned) in self.answers.answered() {
            releases += pruned.releases.len();
            bytes = bytes.saturating_add(pruned.bytes);
        }
        let would = if self.dry_run { "would be " } else { "" };
        let failed = match self.answers.failures().count() {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        let hosts = measure::count(self.answers.hosts.len(), "host");
        let releases = measure::count(releases, "release");
        format!("{hosts}: {releases} {would}removed, {} {would}freed{failed}", measure::bytes(bytes))
    }
}

/// Returns what became of locks: a line for each that was found, what is odd, then the sums.
pub fn render_unlocked(answers: &Answers<Unlocked>, width: usize, palette: Palette) -> String {
    let mut text = answers.notes(found, width, palette);
    let (mut free, mut freed) = (0, 0);
    for (_, unlocked) in answers.answered() {
        *if *unlocked == Unlocked::Free { &mut free } else { &mut freed } += 1;
    }
    let failed = answers.failures().count();
    let parts = [(freed, "freed"), (free, "not locked"), (failed, "failed")];
    let parts: Vec<String> =
        parts.into_iter().filter(|(hosts, _)| *hosts > 0).map(|(hosts, what)| format!("{hosts} {what}")).collect();
    text += &format!("{}: {}\n", measure::count(answers.hosts.len(), "host"), parts.join(", "));
    text
}

fn found(unlocked: &Unlocked) -> Option<String> {
    match unlocked {
        Unlocked::Free => None,
        Unlocked::Left { holder: dead } => Some(format!("{} is gone; what it left is cleared up", holder(dead))),
        Unlocked::Ended { holder: alive, killed } => {
            let who = alive.as_ref().map_or("an agent that did not tell its name".to_owned(), holder);
            let how = if *killed { "was killed, for it did not end when it was asked to" } else { "was ended" };
            Some(format!("{who} held the lock and {how}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{HostAnswer, HostWarning, LockHolder},
        report::rehearsal::{self, PREVIOUS, RELEASE},
    };

    fn pruned(dry_run: bool) -> PruneReport {
        let one = Pruned {
            deploy_to: "/srv/shop".into(),
            releases: vec![RELEASE.parse().unwrap(), PREVIOUS.parse().unwrap()],
            unfinished: 1,
            downloads: 0,
            cached: 3,
            bytes: 192 << 20,
        };
        let two =
            Pruned { releases: vec![PREVIOUS.parse().unwrap()], unfinished: 0, cached: 0, bytes: 64 << 20, ..one.clone() };
        let warnings = vec![HostWarning { message: "the journal\nwas damaged".into(), hint: Some("check the disk".into()) }];
        let answers = [Ok(one.into()), Ok(HostAnswer { answer: two, warnings }), Err(rehearsal::no_answer())];
        PruneReport { answers: Answers::new(None, (1..).map(rehearsal::host_name).zip(answers)), dry_run }
    }

    #[test]
    fn what_was_removed() {
        insta::assert_snapshot!(pruned(false).render(80, Palette::PLAIN), @"
        host   releases  unfinished  downloads  cached  size
        -----------------------------------------------------------
        web01  2         1           0          3       192.0 MiB
        web02  1         0           0          0       64.0 MiB

        removed: 20261113T101500Z-99887766 on 2 hosts
        removed: 20261120T031500Z-1a2b3c4d on 1 host

        warning: web02: the journal was damaged
          hint: check the disk
        web03 unreachable while connecting: no answer from 10.0.0.7:22 within 10 s,
            tried 3 times
          hint: check the address and the network, or leave the host out with `--limit
            '!HOST'`

        3 hosts: 3 releases removed, 256.0 MiB freed, 1 failed
        ");
    }

    #[test]
    fn what_would_be_removed() {
        let text = pruned(true).render(80, Palette::PLAIN);
        assert!(text.contains("\nwould be removed: 20261120T031500Z-1a2b3c4d on 1 host\n"), "{text}");
        assert!(text.ends_with("\n3 hosts: 3 releases would be removed, 256.0 MiB would be freed, 1 failed\n"), "{text}");
    }

    #[test]
    fn what_became_of_locks() {
        let holder = LockHolder {
            run: "1f9a64c2d03b77e1".parse().unwrap(),
            pid: 4711,
            since: "2026-11-20T03:15:12Z".into(),
            by: Some("anna@laptop".parse().unwrap()),
        };
        let answers = [
            Ok(Unlocked::Free.into()),
            Ok(Unlocked::Left { holder: holder.clone() }.into()),
            Ok(Unlocked::Ended { holder: Some(holder), killed: false }.into()),
            Ok(Unlocked::Ended { holder: None, killed: true }.into()),
            Err(rehearsal::no_answer()),
        ];
        let answers = Answers::new(None, (1..).map(rehearsal::host_name).zip(answers));
        insta::assert_snapshot!(render_unlocked(&answers, 100, Palette::PLAIN), @"
        web02: run 1f9a64c2d03b77e1 of anna@laptop (process 4711, since 2026-11-20 03:15) is gone; what it
            left is cleared up
        web03: run 1f9a64c2d03b77e1 of anna@laptop (process 4711, since 2026-11-20 03:15) held the lock and
            was ended
        web04: an agent that did not tell its name held the lock and was killed, for it did not end when it
            was asked to
        web05 unreachable while connecting: no answer from 10.0.0.7:22 within 10 s, tried 3 times
          hint: check the address and the network, or leave the host out with `--limit '!HOST'`

        5 hosts: 3 freed, 1 not locked, 1 failed
        ");
        let json = serde_json::to_value(&answers).unwrap();
        assert_eq!((&json["hosts"][1]["lock"], &json["hosts"][1]["holder"]["pid"]), (&"left".into(), &4711.into()));
    }
}
