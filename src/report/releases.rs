//! Which releases are on the hosts, for people: hosts that have the same are one group with one table.

use super::{
    Palette,
    answers::{Answers, minute, names},
    measure, phrase, status,
    table::{self, Tone},
};
use crate::model::{Digest, HostName, HostStatus, Operator, ReleaseId, ReleaseInfo};

const HEADER: [&str; 6] = ["release", "", "activated (UTC)", "SHA-256", "size", "by"];
/// What stands where there is nothing to say.
const NOTHING: &str = "-";
/// How many digits of a digest are shown.
const DIGITS: usize = 12;

/// Returns the report: the groups, then what is odd about single hosts, then how many run what.
pub fn render(answers: &Answers<HostStatus>, width: usize, palette: Palette) -> String {
    let mut text: String = groups(answers).iter().map(|group| group.render(width, palette) + "\n").collect();
    text += &answers.notes(status::at_work, width, palette);
    text + &phrase::wrap(&status::sums(answers), width, 2) + "\n"
}

/// What two hosts must have in common to be shown as one. Times are left out: no two hosts switch in the same second.
type Same<'a> = Vec<(&'a ReleaseId, &'static str, Option<Digest>, Option<&'a Operator>)>;

/// Hosts with the same releases.
struct Group<'a> {
    hosts: Vec<&'a HostName>,
    /// What the first of them has.
    first: &'a HostStatus,
    same: Same<'a>,
}

/// Puts hosts together, in inventory order of each group's first.
fn groups(answers: &Answers<HostStatus>) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (host, status) in answers.answered() {
        let about = |release: &'_ ReleaseInfo| mark(status, release);
        let same: Same<'_> =
            status.releases.iter().map(|release| (&release.id, about(release), release.digest, release.by.as_ref())).collect();
        match groups.iter_mut().find(|group| group.same == same) {
            Some(group) => group.hosts.push(host),
            None => groups.push(Group { hosts: vec![host], first: status, same }),
        }
    }
    groups
}

/// Says what a release is on its host.
fn mark(status: &HostStatus, release: &ReleaseInfo) -> &'static str {
    let is = |other: &Option<ReleaseId>| other.as_ref() == Some(&release.id);
    match release {
        _ if is(&status.current) => "current",
        _ if is(&status.previous) => "previous",
        ReleaseInfo { digest: None, .. } => "not fleetdrop's",
        ReleaseInfo { activated_at: None, .. } => "never live",
        _ => "",
    }
}

impl Group<'_> {
    fn render(&self, width: usize, palette: Palette) -> String {
        let hosts = format!("{}: {}", measure::count(self.hosts.len(), "host"), names(&self.hosts));
        let title = palette.strong(phrase::wrap(&hosts, width, 2)) + "\n";
        let rows: Vec<_> = self.first.releases.iter().map(|release| row(self.first, release)).collect();
        if rows.is_empty() {
            return title + "no release\n";
        }
        if table::needed(&HEADER, &rows) <= width {
            return title + &table::render(&HEADER, rows, width, palette);
        }
        let stacked = rows.iter().map(|row| phrase::wrap(&stacked(row), width, 2) + "\n");
        title + &stacked.collect::<String>()
    }
}

fn row(status: &HostStatus, release: &ReleaseInfo) -> Vec<(String, Tone)> {
    let mark = mark(status, release);
    let tone = if mark == "current" { Tone::Good } else { Tone::Normal };
    let or_nothing = |text: Option<String>| (text.unwrap_or_else(|| NOTHING.into()), Tone::Normal);
    vec![
        (release.id.to_string(), Tone::Normal),
        (mark.to_owned(), tone),
        or_nothing(release.activated_at.as_deref().map(minute)),
        or_nothing(release.digest.map(|digest| digest.to_string()[..DIGITS].to_owned())),
        or_nothing(release.size.map(measure::bytes)),
        or_nothing(release.by.as_ref().map(Operator::to_string)),
    ]
}

/// Returns a row as a sentence.
fn stacked(row: &[(String, Tone)]) -> String {
    let known = row[1..].iter().map(|(text, _)| text.as_str()).filter(|text| !text.is_empty() && *text != NOTHING);
    let parts: Vec<&str> = known.collect();
    if parts.is_empty() { row[0].0.clone() } else { format!("{}: {}", row[0].0, parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::rehearsal::{self, PREVIOUS, RELEASE};

    const FIRST: &str = "20261106T090000Z-55555555";

    fn release(id: &str, activated_at: Option<&str>) -> ReleaseInfo {
        ReleaseInfo {
            id: id.parse().unwrap(),
            app: Some("shop".parse().unwrap()),
            artifact: None,
            digest: Some("1a2b3c4d".repeat(8).parse().unwrap()),
            size: Some(64 << 20),
            staged_at: None,
            activated_at: activated_at.map(str::to_owned),
            by: Some("anna@laptop".parse().unwrap()),
        }
    }

    fn answers() -> Answers<HostStatus> {
        let there = |second: &str| HostStatus {
            current: Some(PREVIOUS.parse().unwrap()),
            previous: Some(FIRST.parse().unwrap()),
            releases: vec![
                release(RELEASE, None),
                release(PREVIOUS, Some(&format!("2026-11-13T10:15:{second}Z"))),
                release(FIRST, Some("2026-11-06T09:00:30Z")),
                ReleaseInfo { app: None, digest: None, size: None, by: None, ..release("by-hand", None) },
            ],
            ..HostStatus::default()
        };
        let behind = HostStatus { releases: vec![release(FIRST, None)], ..HostStatus::default() };
        let busy = HostStatus { locked_by: Some("1f9a64c2d03b77e1".parse().unwrap()), ..HostStatus::default() };
        let good = [there("12"), behind, there("13"), busy].map(|status| Ok(status.into()));
        let all = good.into_iter().chain([Err(rehearsal::no_answer())]);
        Answers::new(None, (1..).map(rehearsal::host_name).zip(all))
    }

    #[test]
    fn hosts_that_have_the_same_are_told_once() {
        insta::assert_snapshot!(render(&answers(), 110, Palette::PLAIN), @"
        2 hosts: web01, web03
        release                                     activated (UTC)   SHA-256       size      by
        ---------------------------------------------------------------------------------------------------
        20261120T031500Z-1a2b3c4d  never live       -                 1a2b3c4d1a2b  64.0 MiB  anna@laptop
        20261113T101500Z-99887766  current          2026-11-13 10:15  1a2b3c4d1a2b  64.0 MiB  anna@laptop
        20261106T090000Z-55555555  previous         2026-11-06 09:00  1a2b3c4d1a2b  64.0 MiB  anna@laptop
        by-hand                    not fleetdrop's  -                 -             -         -

        1 host: web02
        release                                activated (UTC)  SHA-256       size      by
        ---------------------------------------------------------------------------------------------
        20261106T090000Z-55555555  never live  -                1a2b3c4d1a2b  64.0 MiB  anna@laptop

        1 host: web04
        no release

        web04: run 1f9a64c2d03b77e1 is at work
        web05 unreachable while connecting: no answer from 10.0.0.7:22 within 10 s, tried 3 times
          hint: check the address and the network, or leave the host out with `--limit '!HOST'`

        5 hosts: 2 on 20261113T101500Z-99887766, 2 without a release, 1 without an answer
        ");
    }

    #[test]
    fn where_the_columns_do_not_fit_release_ids_stay_whole() {
        let text = render(&answers(), 60, Palette::PLAIN);
        assert!(text.contains("\n20261113T101500Z-99887766: current, 2026-11-13 10:15,\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 60), "{text}");
    }
}
