//! Why a command could not do its work, what to do about it, and the one place that prints that.
//!
//! What happens to single hosts is no error of a command: it is in the run's summary, and [`super::exit::of_run`] speaks for it.

use std::{error::Error as StdError, fmt, io::Write as _};

use super::{Output, exit};
use crate::report::{Palette, escape};

/// The longest shown text of one cause, in characters.
const MAX_CAUSE: usize = 4000;
/// How many causes are shown.
const MAX_CAUSES: usize = 16;

/// What went wrong in principle; it decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The arguments or the files they name are no good. No host was touched.
    Input,
    /// This process or its machine failed, or the run had to be given up.
    Internal,
    /// The operator stopped it before there was a run to report on.
    Interrupted,
}

/// A command's error: a kind, a chain of causes and hints.
#[derive(Debug)]
pub struct CommandError {
    kind: ErrorKind,
    error: anyhow::Error,
    hints: Vec<String>,
}

impl CommandError {
    /// Makes an error of the given kind out of any error or message; its causes come along.
    pub fn new(kind: ErrorKind, error: impl Into<anyhow::Error>) -> Self {
        Self { kind, error: error.into(), hints: Vec::new() }
    }

    /// Makes an [`ErrorKind::Input`] error that says `message`.
    pub fn input(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Input, anyhow::anyhow!("{message}"))
    }

    /// Makes an [`ErrorKind::Internal`] error that says `message`.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, anyhow::anyhow!("{message}"))
    }

    /// Makes an [`ErrorKind::Input`] error about a place in a file, shown with the line there and what to do about it.
    pub fn in_file(error: impl StdError + Send + Sync + 'static, snippet: Option<String>, hint: Option<String>) -> Self {
        let error = match snippet {
            Some(snippet) => Self::input(format!("{error}\n{snippet}")),
            None => Self::new(ErrorKind::Input, error),
        };
        error.hints(hint)
    }

    /// Makes the error of a command that the operator stopped.
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, anyhow::anyhow!("interrupted"))
    }

    /// Says what was tried; what was said so far becomes the cause.
    pub fn context(mut self, what: impl fmt::Display + Send + Sync + 'static) -> Self {
        self.error = self.error.context(what);
        self
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds hints that another error brought along.
    pub fn hints(mut self, hints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hints.extend(hints.into_iter().map(Into::into));
        self
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the exit code.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::Input => exit::BAD_INPUT,
            ErrorKind::Internal => exit::INTERNAL,
            ErrorKind::Interrupted => exit::INTERRUPTED,
        }
    }

    /// Returns the lines shown to people: the error, its causes, the hints. A cause that only repeats the text before it is left out.
    pub fn render(&self, palette: Palette) -> String {
        let mut text = String::new();
        let mut previous = String::new();
        for (depth, cause) in self.error.chain().take(MAX_CAUSES).enumerate() {
            let cause = escape::block(&cause.to_string(), MAX_CAUSE);
            if depth == 0 {
                text = format!("{} {cause}\n", palette.bad("error:"));
            } else if !previous.ends_with(&cause) {
                text += &format!("  {} {cause}\n", palette.dim("caused by:"));
            }
            previous = cause;
        }
        for hint in &self.hints {
            text += &format!("  {} {}\n", palette.note("hint:"), escape::block(hint, MAX_CAUSE));
        }
        text
    }

    /// Prints it on stderr.
    pub fn print(&self, output: &Output) {
        // Without a stderr there is nobody to tell; the exit code still does.
        let _ = std::io::stderr().lock().write_all(self.render(output.palette()).as_bytes());
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// Turns any result into a command's result: the caller says whose fault it is.
pub trait ResultExt<T> {
    /// The operator's input is to blame; `what` says what was tried.
    fn or_input(self, what: impl fmt::Display + Send + Sync + 'static) -> Result<T, CommandError>;
    /// This process or its machine is to blame; `what` says what was tried.
    fn or_internal(self, what: impl fmt::Display + Send + Sync + 'static) -> Result<T, CommandError>;
}

impl<T, E: StdError + Send + Sync + 'static> ResultExt<T> for Result<T, E> {
    fn or_input(self, what: impl fmt::Display + Send + Sync + 'static) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::new(ErrorKind::Input, error).context(what))
    }

    fn or_internal(self, what: impl fmt::Display + Send + Sync + 'static) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::new(ErrorKind::Internal, error).context(what))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_shows_its_causes_and_ends_in_a_hint() {
        let lost: Result<(), _> = Err(io::Error::new(io::ErrorKind::NotFound, "No such file or directory (os error 2)"));
        let error = lost.or_input("cannot read the inventory `hosts.yaml`").unwrap_err().hint("check `--hosts`");
        insta::assert_snapshot!(error.render(Palette::PLAIN), @r"
        error: cannot read the inventory `hosts.yaml`
          caused by: No such file or directory (os error 2)
          hint: check `--hosts`
        ");
        assert_eq!(error.exit_code(), 5);
    }

    #[test]
    fn a_cause_that_says_the_same_again_is_left_out() {
        let error = CommandError::internal("disk full").context("cannot write state: disk full");
        insta::assert_snapshot!(error.render(Palette::PLAIN), @"error: cannot write state: disk full");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_snippet_keeps_its_lines_and_control_characters_do_not_reach_the_terminal() {
        let error = CommandError::input("bad key\n3 | hosts:\u{1b}[2J\n  | ^");
        insta::assert_snapshot!(error.render(Palette::PLAIN), @r"
        error: bad key
        3 | hosts:\u{1b}[2J
          | ^
        ");
    }
}
