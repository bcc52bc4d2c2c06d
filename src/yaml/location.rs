//! Where something stands in a file, and what can be said about it there.
//!
//! A [`Location`] keeps its file's text alive, so that an error found long after parsing can still show the line. Lines that
//! look as if they held a secret are never shown.

use std::{fmt, path::Path, sync::Arc};

/// The longest source line shown with an error, in characters.
const MAX_SNIPPET: usize = 160;

/// Words in a variable's name that say its value must not be shown.
const SECRET_WORDS: [&str; 6] = ["pass", "secret", "token", "vault", "credential", "api_key"];

/// Returns true if a variable of this name must not be shown: passwords, secrets, tokens, vault entries.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Returns true if this text may hold a secret: a secret's name, or a URL with a password in it.
pub fn may_hold_secret(text: &str) -> bool {
    is_secret_name(text) || text.split("://").skip(1).any(has_password)
}

/// True for what follows `://` if it names a password before its host.
fn has_password(rest: &str) -> bool {
    let authority = rest.split(|c: char| matches!(c, '/' | '?' | '#') || c.is_whitespace()).next().unwrap_or(rest);
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

/// A file's text with its path.
pub struct Source {
    path: Box<Path>,
    text: String,
}

impl Source {
    /// Wraps a text that came from `path`.
    pub fn new(path: &Path, text: String) -> Arc<Self> {
        Arc::new(Self { path: path.into(), text })
    }

    /// Returns the file's path as the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the whole text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// A place in a file. Displays as `file:line:column`, or as `file` where it means the whole file.
#[derive(Clone)]
pub struct Location {
    source: Arc<Source>,
    /// From 1; 0 means the whole file.
    line: u32,
    /// From 1, in characters.
    column: u32,
}

impl Location {
    /// Returns the place at `line` and `column`, both from 1.
    pub fn new(source: &Arc<Source>, line: usize, column: usize) -> Self {
        let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { source: Arc::clone(source), line: clamp(line), column: clamp(column) }
    }

    /// Returns a place that means a whole file or directory whose text is of no interest.
    pub fn whole(path: &Path) -> Self {
        Self { source: Source::new(path, String::new()), line: 0, column: 0 }
    }

    /// Returns the file's path as the user gave it.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Returns the line from 1, or none where the whole file is meant.
    pub fn line(&self) -> Option<u32> {
        (self.line > 0).then_some(self.line)
    }

    /// Returns the column from 1, or none where the whole file is meant.
    pub fn column(&self) -> Option<u32> {
        (self.line > 0).then_some(self.column)
    }

    /// Returns the source line with a caret under the column; none if there is nothing to show or it might be a secret.
    pub fn snippet(&self) -> Option<String> {
        let index = usize::try_from(self.line.checked_sub(1)?).ok()?;
        let lines: Vec<&str> = self.source.text().lines().take(index + 1).collect();
        let line = *lines.get(index)?;
        let before = usize::try_from(self.column.saturating_sub(1)).ok()?;
        if line.trim().is_empty() || before >= MAX_SNIPPET || may_be_secret(&lines) {
            return None;
        }
        let show = |c: char| if c.is_control() { ' ' } else { c };
        let shown: String = line.chars().take(MAX_SNIPPET).map(show).collect();
        let number = self.line.to_string();
        Some(format!("{number} | {shown}\n{:width$} | {:before$}^", "", "", width = number.len()))
    }
}

/// True if the last of these lines, or a line it stands under by its indentation, may hold a secret.
fn may_be_secret(lines: &[&str]) -> bool {
    let mut indentation = usize::MAX;
    for line in lines.iter().rev().filter(|line| !line.trim().is_empty()) {
        let own = line.len() - line.trim_start().len();
        if own < indentation {
            indentation = own;
            if may_hold_secret(line) {
                return true;
            }
        }
    }
    false
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source.path().display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A remark about a place in a file: an error or a warning. Displays as `file:line:column: message`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{location}: {message}")]
pub struct Diagnostic {
    /// Where.
    pub location: Location,
    /// What is wrong there.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Makes a remark without a hint.
    pub fn new(location: &Location, message: impl Into<String>) -> Self {
        Self { location: location.clone(), message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the source line with a caret under the column, if it may be shown.
    pub fn snippet(&self) -> Option<String> {
        self.location.snippet()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippet_points_at_the_column_and_never_shows_a_secret() {
        let source = Source::new(Path::new("a.yml"), "x: 1\n  y: [\nmy_password: hunter2 ]\n".into());
        let at = Location::new(&source, 2, 6);
        assert_eq!(at.to_string(), "a.yml:2:6");
        assert_eq!(at.snippet().unwrap(), "2 |   y: [\n  |      ^");
        assert_eq!(Location::new(&source, 3, 22).snippet(), None);
        assert_eq!(Location::new(&source, 9, 1).snippet(), None);
        let nested = "db_passwords:\n  shop: |\n\n    hunter2\nother:\n  x: 1\n";
        let source = Source::new(Path::new("a.yml"), nested.into());
        assert_eq!(Location::new(&source, 4, 5).snippet(), None, "it stands under a secret's name");
        assert!(Location::new(&source, 6, 3).snippet().is_some());
        let source = Source::new(Path::new("a.yml"), "u: http://me:hunter2@h/\nv: http://h:80/a@b\n".into());
        assert_eq!(Location::new(&source, 1, 4).snippet(), None, "it holds a password");
        assert!(Location::new(&source, 2, 4).snippet().is_some());
        assert_eq!(Location::whole(Path::new("dir")).to_string(), "dir");
    }
}
