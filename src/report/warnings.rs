//! What hosts warn of: each text is told when the first host says it, and once more at the end if others said the same, with how many.
//!
//! A thousand hosts that miss the same origin are one line, not a thousand. For people only: in JSON every host's warning is an event.

use std::collections::{BTreeSet, HashMap};

use super::{Palette, measure, phrase};
use crate::model::HostName;

/// How many different texts are kept. Of others each is told as it comes.
const MAX_TEXTS: usize = 50;
/// How many hosts are named for one text.
const MAX_NAMED: usize = 8;

/// A message and what to do about it.
type Text = (String, Option<String>);

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    said: Vec<Said>,
    places: HashMap<Text, usize>,
}

/// Who said the same.
#[derive(Debug)]
struct Said {
    text: Text,
    hosts: BTreeSet<HostName>,
}

impl Warnings {
    /// Takes a warning and returns the lines to tell now: none if a host said the same.
    pub(super) fn hear(&mut self, host: Option<&HostName>, message: &str, hint: Option<&str>, palette: Palette) -> Vec<String> {
        let lines = || phrase::warning(host, message, hint, palette);
        let Some(name) = host else { return lines() };
        let text = (message.to_owned(), hint.map(str::to_owned));
        if let Some(said) = self.places.get(&text).and_then(|place| self.said.get_mut(*place)) {
            said.hosts.insert(name.clone());
            return Vec::new();
        }
        if self.said.len() < MAX_TEXTS {
            self.places.insert(text.clone(), self.said.len());
            self.said.push(Said { text, hosts: BTreeSet::from([name.clone()]) });
        }
        lines()
    }

    /// Returns a line for each text that several hosts said, in the order in which the first ones did.
    pub(super) fn repeated(&self, palette: Palette) -> Vec<String> {
        let repeated = self.said.iter().filter(|said| said.hosts.len() > 1);
        let line = |Said { text: (message, _), hosts }: &Said| {
            let names: Vec<_> = hosts.iter().take(MAX_NAMED).map(phrase::host).collect();
            let more = hosts.len() - names.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let who = format!("{} ({}{more}): ", measure::count(hosts.len(), "host"), names.join(", "));
            phrase::warning_of(&who, message, None, palette)
        };
        repeated.flat_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> HostName {
        HostName::new(&format!("web{number:02}")).unwrap()
    }

    #[test]
    fn what_many_hosts_say_is_told_at_once_and_counted_at_the_end() {
        let mut warnings = Warnings::default();
        let mut hear = |number: usize, message: &str| warnings.hear(Some(&name(number)), message, Some("look"), Palette::PLAIN);
        assert_eq!(hear(1, "no origin"), ["warning: web01: no origin", "  hint: look"]);
        assert_eq!(hear(2, "no room").len(), 2);
        // Some say it twice, and events may come twice.
        for number in (2..=11).chain(1..=3) {
            assert_eq!(hear(number, "no origin"), [""; 0]);
        }
        let names = (1..=8).map(|number| name(number).to_string()).collect::<Vec<_>>().join(", ");
        assert_eq!(
            warnings.repeated(Palette::PLAIN),
            [format!("warning: 11 hosts ({names} and 3 more): no origin")],
            "who alone said something has said it"
        );
        assert_eq!(warnings.hear(None, "no origin", None, Palette::PLAIN), ["warning: no origin"], "the controller is no host");
    }

    #[test]
    fn what_is_kept_is_bounded_and_nothing_is_lost() {
        let mut warnings = Warnings::default();
        for round in 0..2 {
            for number in 0..MAX_TEXTS + 10 {
                let lines = warnings.hear(Some(&name(round)), &format!("{number}"), None, Palette::PLAIN);
                assert_eq!(lines.is_empty(), round == 1 && number < MAX_TEXTS);
            }
        }
        assert_eq!(warnings.repeated(Palette::PLAIN).len(), MAX_TEXTS);
    }
}
