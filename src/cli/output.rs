//! How a command prints: the options, what they come to on this terminal, and the way to stdout.
//!
//! Results that were asked for (`status`, `inventory`) and JSON go to stdout; progress, warnings, summaries and errors go to stderr. A
//! reader of stdout that goes away (`| head`) is no error.

use std::io::{self, IsTerminal, Write};

use clap::{ArgAction, Args, ValueEnum};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use super::{CommandError, ResultExt};
use crate::report::Palette;

/// How to print.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// `human` draws progress on a terminal, `plain` never does, `json` writes one event a line on stdout
    #[arg(help_heading = "Output", long, value_enum, value_name = "FORMAT", default_value_t = Format::Human, global = true)]
    pub output: Format,

    /// When to use colour; `auto` means on a terminal, unless NO_COLOR is set
    #[arg(help_heading = "Output", long, value_enum, value_name = "WHEN", default_value_t = Color::Auto, global = true)]
    pub color: Color,

    /// Show what happens inside, in plain lines; twice for more, three times for everything
    #[arg(help_heading = "Output", long, short, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Show failures and the summary only
    #[arg(help_heading = "Output", long, short, global = true)]
    pub quiet: bool,
}

/// The forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: a progress display on a terminal, plain lines elsewhere and in CI
    Human,
    /// For people and logs: plain lines, never redrawn
    Plain,
    /// For programs: versioned JSON on stdout, plain lines on stderr
    Json,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What the process finds around itself.
#[derive(Debug, Clone, Copy, Default)]
struct Surroundings {
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    /// `NO_COLOR` is set and not empty (no-color.org).
    no_color: bool,
    /// `CI` is set and says neither nothing nor `false`.
    ci: bool,
    /// `TERM` is `dumb`: it can't move its cursor.
    dumb: bool,
}

impl Surroundings {
    fn detect() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            no_color: variable("NO_COLOR").is_some(),
            ci: variable("CI").is_some_and(|value| value != "false"),
            dumb: variable("TERM").is_some_and(|value| value == "dumb"),
        }
    }
}

/// How this command prints, decided once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// The form asked for.
    pub format: Format,
    /// True if progress may be drawn and redrawn on stderr.
    pub redraws: bool,
    /// True if only failures and the summary are shown.
    pub quiet: bool,
    /// How many times `-v` was given.
    pub verbose: u8,
    color_stdout: bool,
    color_stderr: bool,
}

impl Output {
    /// Decides by the options, the streams and the environment.
    pub fn detect(args: &OutputArgs) -> Self {
        Self::decide(args, Surroundings::detect())
    }

    fn decide(args: &OutputArgs, around: Surroundings) -> Self {
        let color = |is_terminal: bool| match args.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => is_terminal && !around.no_color && !around.dumb,
        };
        // Log lines and a redrawn display don't share a terminal.
        let calm = args.verbose > 0 || args.quiet || around.ci || around.dumb;
        Self {
            format: args.output,
            redraws: args.output == Format::Human && around.stderr_is_terminal && !calm,
            quiet: args.quiet,
            verbose: args.verbose,
            color_stdout: args.output != Format::Json && color(around.stdout_is_terminal),
            color_stderr: color(around.stderr_is_terminal),
        }
    }

    /// Returns the colours for stderr.
    pub fn palette(&self) -> Palette {
        Palette::new(self.color_stderr)
    }

    /// Returns the colours for what a command prints on stdout.
    pub fn stdout_palette(&self) -> Palette {
        Palette::new(self.color_stdout)
    }

    /// Returns the width for text on stdout in columns; wide where there is no terminal to wrap it.
    pub fn stdout_width(&self) -> usize {
        columns(&console::Term::stdout())
    }

    /// Returns the width for text on stderr in columns; wide where there is no terminal to wrap it.
    pub fn stderr_width(&self) -> usize {
        columns(&console::Term::stderr())
    }

    /// Writes `text` to stdout as it is.
    pub fn print(&self, text: &str) -> Result<(), CommandError> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.or_internal("cannot write to stdout"),
        }
    }

    /// Tells a person on stderr what goes on, unless only failures are wanted.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            // Without a stderr there is nobody to tell.
            let _ = writeln!(io::stderr().lock(), "{}", crate::report::escape::line(text, 500));
        }
    }

    /// Writes `value` to stdout as one line of JSON.
    pub fn print_json(&self, value: &impl serde::Serialize) -> Result<(), CommandError> {
        let text = serde_json::to_string(value).or_internal("cannot write the result as JSON")?;
        self.print(&format!("{}\n", crate::report::escape::json(&text)))
    }

    /// Starts the log on stderr that `-v` asks for.
    pub fn start_log(&self) {
        use tracing::level_filters::LevelFilter as Level;
        let targets = match self.verbose {
            0 => return,
            1 => Targets::new().with_target("fleetdrop", Level::INFO),
            2 => Targets::new().with_target("fleetdrop", Level::DEBUG).with_default(Level::INFO),
            _ => Targets::new().with_target("fleetdrop", Level::TRACE).with_default(Level::DEBUG),
        };
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(self.color_stderr);
        // It fails only where a log was started before, as in tests.
        let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    }
}

fn columns(terminal: &console::Term) -> usize {
    terminal.size_checked().map_or(crate::report::WIDE, |(_, columns)| usize::from(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: Surroundings =
        Surroundings { stdout_is_terminal: true, stderr_is_terminal: true, no_color: false, ci: false, dumb: false };

    fn args(output: Format, color: Color) -> OutputArgs {
        OutputArgs { output, color, verbose: 0, quiet: false }
    }

    #[test]
    fn progress_is_drawn_only_where_it_can_be_redrawn() {
        let human = args(Format::Human, Color::Auto);
        assert!(Output::decide(&human, TERMINAL).redraws);
        let pipe = Surroundings { stderr_is_terminal: false, ..TERMINAL };
        let ci = Surroundings { ci: true, ..TERMINAL };
        let dumb = Surroundings { dumb: true, ..TERMINAL };
        for around in [pipe, ci, dumb, Surroundings::default()] {
            assert!(!Output::decide(&human, around).redraws, "{around:?}");
        }
        for calm in [OutputArgs { quiet: true, ..human.clone() }, OutputArgs { verbose: 1, ..human }] {
            assert!(!Output::decide(&calm, TERMINAL).redraws, "{calm:?}");
        }
        for format in [Format::Plain, Format::Json] {
            assert!(!Output::decide(&args(format, Color::Auto), TERMINAL).redraws, "{format:?}");
        }
    }

    #[test]
    fn colour_follows_the_option_then_no_color_then_the_stream() {
        let no_color = Surroundings { no_color: true, ..TERMINAL };
        for (color, around, expected) in [
            (Color::Auto, TERMINAL, true),
            (Color::Auto, no_color, false),
            (Color::Auto, Surroundings { stderr_is_terminal: false, ..TERMINAL }, false),
            (Color::Always, no_color, true),
            (Color::Always, Surroundings::default(), true),
            (Color::Never, TERMINAL, false),
        ] {
            let output = Output::decide(&args(Format::Plain, color), around);
            assert_eq!(output.color_stderr, expected, "{color:?} {around:?}");
        }
    }
}
