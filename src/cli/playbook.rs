//! `fleetdrop playbook`: looks at playbooks without a host. Also the option `--playbook` of the commands that follow one.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::{CommandError, Output, exit, output::Format, trust};
use crate::{
    model::Plan,
    playbook::{self, Playbook, PlaybookError},
    report::escape,
    yaml::{Diagnostic, YamlError},
};

/// The version of the JSON object. A change that breaks consumers raises it.
const CHECK_VERSION: u32 = 1;
/// The longest shown path, in characters.
const MAX_PATH: usize = 500;

/// The playbook that a command follows.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct PlaybookArgs {
    /// What to deploy where and how the fleet switches, in a YAML file; options go before it
    #[arg(long, value_name = "FILE")]
    pub playbook: Option<PathBuf>,
}

impl PlaybookArgs {
    /// Returns what the playbook asks for, or what is done without one. Everything that is wrong with it is told.
    pub fn plan(&self, output: &Output) -> Result<Plan, CommandError> {
        let Some(file) = &self.playbook else { return Ok(Plan::default()) };
        let playbook = Playbook::load(file).map_err(|error| playbook_error(error, output))?;
        let mut plan = playbook.plan;
        trust::read_signers(&mut plan.trust, file)?;
        Ok(plan)
    }
}

/// Turns a playbook's error into the command's; of several problems all but the last are printed right away.
fn playbook_error(error: PlaybookError, output: &Output) -> CommandError {
    match error {
        PlaybookError::File(error) => file_error(error),
        PlaybookError::Problems(problems) => all(&problems, output),
    }
}

fn file_error(error: YamlError) -> CommandError {
    let (snippet, hint) = (error.snippet(), error.hint().map(str::to_owned));
    CommandError::in_file(error, snippet, hint)
}

fn all(problems: &[Diagnostic], output: &Output) -> CommandError {
    let mut errors =
        problems.iter().map(|problem| CommandError::in_file(problem.clone(), problem.snippet(), problem.hint.clone()));
    // There is no playbook error without a problem.
    let last = errors.next_back().unwrap_or_else(|| CommandError::input("the playbook is no good"));
    errors.for_each(|error| error.print(output));
    last
}

/// What to do with playbooks.
#[derive(Debug, Clone, Args)]
pub struct PlaybookCommandArgs {
    /// What.
    #[command(subcommand)]
    pub command: PlaybookCommand,
}

/// The commands about playbooks.
#[derive(Debug, Clone, Subcommand)]
pub enum PlaybookCommand {
    /// Check playbooks and tell every problem at once; no host is touched
    Check {
        /// The playbooks
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the JSON Schema of playbooks, for editors and other programs
    Schema,
}

/// Runs one of them and returns the exit code.
pub async fn run(args: PlaybookCommandArgs, output: &Output) -> Result<u8, CommandError> {
    match args.command {
        PlaybookCommand::Check { files } => check(&files, output),
        PlaybookCommand::Schema => {
            output.print(&format!("{:#}\n", playbook::schema()))?;
            Ok(exit::SUCCESS)
        }
    }
}

fn check(files: &[PathBuf], output: &Output) -> Result<u8, CommandError> {
    let checked: Vec<_> = files.iter().map(|file| (file, Playbook::load(file))).collect();
    let code = if checked.iter().all(|(_, playbook)| playbook.is_ok()) { exit::SUCCESS } else { exit::BAD_INPUT };
    if output.format == Format::Json {
        let playbooks = checked.iter().map(|(file, playbook)| Checked::new(file, playbook)).collect();
        output.print_json(&Report { v: CHECK_VERSION, playbooks })?;
        return Ok(code);
    }
    for (file, playbook) in checked {
        match playbook {
            Ok(_) => output.print(&format!("{} is a good playbook\n", escape::line(&file.to_string_lossy(), MAX_PATH)))?,
            Err(error) => playbook_error(error, output).print(output),
        }
    }
    Ok(code)
}

/// The whole answer, as JSON shows it.
#[derive(Debug, Serialize)]
struct Report {
    /// [`CHECK_VERSION`].
    v: u32,
    playbooks: Vec<Checked>,
}

/// One playbook.
#[derive(Debug, Serialize)]
struct Checked {
    /// The file, as it was named.
    playbook: String,
    /// False if there are problems.
    good: bool,
    problems: Vec<Remark>,
}

/// One problem; without line and column it is about the whole file.
#[derive(Debug, Serialize)]
struct Remark {
    line: Option<u32>,
    column: Option<u32>,
    message: String,
    hint: Option<String>,
}

impl Checked {
    fn new(file: &Path, playbook: &Result<Playbook, PlaybookError>) -> Self {
        let problems = match playbook {
            Ok(_) => Vec::new(),
            Err(PlaybookError::Problems(problems)) => problems.iter().map(Remark::at).collect(),
            Err(PlaybookError::File(error)) => vec![Remark::of_file(error)],
        };
        Self { playbook: file.display().to_string(), good: playbook.is_ok(), problems }
    }
}

impl Remark {
    fn at(diagnostic: &Diagnostic) -> Self {
        let (line, column) = (diagnostic.location.line(), diagnostic.location.column());
        Self { line, column, message: diagnostic.message.clone(), hint: diagnostic.hint.clone() }
    }

    fn of_file(error: &YamlError) -> Self {
        match error {
            YamlError::Invalid(problem) => Self::at(problem),
            YamlError::Read { source, .. } => {
                let message = format!("cannot be read: {source}");
                Self { line: None, column: None, message, hint: error.hint().map(str::to_owned) }
            }
        }
    }
}
