//! The operator's word before a wave, where the plan waits for it.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Arc,
};

use super::CommandError;
use crate::{
    controller::{Approval, Question},
    model::plan::Pause,
    report::{Screen, measure},
};

/// Finds out who is asked before a wave: nobody with `--yes` or where the plan waits for nobody, else the person at the terminal.
pub fn approval(pause: Pause, yes: bool) -> Result<Approval, CommandError> {
    if yes || pause != Pause::Confirm {
        return Ok(Approval::Given);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let error = CommandError::input("the plan waits for your word between waves, and there is no terminal to ask on");
        return Err(error.hint("run it on a terminal, let every wave go with --yes, or give the playbook's `pause` a time"));
    }
    Ok(Approval::Ask(Arc::new(ask)))
}

/// Asks on the terminal. No answer, and anything but a yes, is a no.
fn ask(question: Question) -> bool {
    Screen::stderr().ask(|| {
        let mut terminal = console::Term::stderr();
        let answer = write!(terminal, "{} [y/N] ", sentence(question)).and_then(|()| terminal.read_line());
        answer.is_ok_and(|line| is_yes(&line))
    })
}

fn sentence(question: Question) -> String {
    let Question { wave, waves, hosts, active, patience } = question;
    let are = if active == 1 { "is" } else { "are" };
    format!(
        "{} {are} active. Let wave {wave} of {waves} switch {}? (within {})",
        measure::count(active, "host"),
        measure::count(hosts, "host"),
        measure::about(patience),
    )
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_question_says_what_is_at_stake() {
        let question = Question { wave: 2, waves: 4, hosts: 10, active: 1, patience: Duration::from_secs(600) };
        assert_eq!(sentence(question), "1 host is active. Let wave 2 of 4 switch 10 hosts? (within 10 min 0 s)");
    }

    #[test]
    fn only_a_yes_is_one() {
        assert!(is_yes("y\n") && is_yes(" Yes "));
        assert!(!is_yes("") && !is_yes("n") && !is_yes("yep"));
    }

    #[test]
    fn nobody_is_asked_where_nothing_waits_or_all_is_allowed() {
        for (pause, yes) in [(Pause::For(Duration::ZERO), false), (Pause::Confirm, true)] {
            assert!(matches!(approval(pause, yes).unwrap(), Approval::Given));
        }
    }
}
