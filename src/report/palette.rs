//! The few colours, by meaning. Apply them last: to text that is already escaped, cut and padded.

use std::fmt::Display;

use console::Style;

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    color: bool,
}

impl Palette {
    /// No colours.
    pub const PLAIN: Self = Self { color: false };

    /// Makes a palette with colours, or one without.
    pub fn new(color: bool) -> Self {
        Self { color }
    }

    /// True if this palette has colours.
    pub fn has_color(self) -> bool {
        self.color
    }

    /// Marks what went wrong.
    pub fn bad(self, text: impl Display) -> String {
        self.apply(Style::new().red().bold(), text)
    }

    /// Marks what went well.
    pub fn good(self, text: impl Display) -> String {
        self.apply(Style::new().green(), text)
    }

    /// Marks what needs attention: warnings and hints.
    pub fn note(self, text: impl Display) -> String {
        self.apply(Style::new().yellow(), text)
    }

    /// Marks what stands out.
    pub fn strong(self, text: impl Display) -> String {
        self.apply(Style::new().bold(), text)
    }

    /// Marks what is less important.
    pub fn dim(self, text: impl Display) -> String {
        self.apply(Style::new().dim(), text)
    }

    fn apply(self, style: Style, text: impl Display) -> String {
        style.apply_to(text).force_styling(self.color).to_string()
    }
}
