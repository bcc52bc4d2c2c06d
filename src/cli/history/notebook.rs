//! Writing a run down beside its report. Whatever is wrong with the history is a warning and stops nothing.

use super::{super::fleet, HistoryArgs};
use crate::{
    cli::Output,
    history::{History, HistoryError, Recorder, Recording, RunStart},
    report::{Both, Reporter},
};

/// What writes a run down, if anything does.
#[derive(Debug, Default)]
pub struct Notebook(Option<(Recorder, Recording)>);

/// What is known about the writing once the run is over.
#[derive(Debug)]
pub struct Aftermath(Option<Recording>);

impl HistoryArgs {
    /// Writes down that a run begins.
    pub fn begin(&self, start: &RunStart, output: &Output) -> Notebook {
        if self.no_history {
            return Notebook::default();
        }
        let path = match self.file.path() {
            Ok(path) => path,
            Err(error) => {
                fleet::warn(&format!("this run is not in the history: {error}"), None, output);
                return Notebook::default();
            }
        };
        match History::open(&path).and_then(|history| history.record(start)) {
            Ok(recorder) => Notebook(Some(recorder)),
            Err(error) => {
                warn("this run is not in the history", error, output);
                Notebook::default()
            }
        }
    }
}

impl Notebook {
    /// Puts the writing beside a reporter.
    pub fn beside(self, reporter: Box<dyn Reporter>) -> (Box<dyn Reporter>, Aftermath) {
        match self.0 {
            Some((recorder, recording)) => (Box::new(Both(recorder, reporter)), Aftermath(Some(recording))),
            None => (reporter, Aftermath(None)),
        }
    }
}

impl Aftermath {
    /// Tells what is missing in the history.
    pub fn tell(self, output: &Output) {
        if let Some(problem) = self.0.and_then(|recording| recording.problem()) {
            warn("this run is not whole in the history", problem, output);
        }
    }
}

fn warn(what: &str, error: HistoryError, output: &Output) {
    let hint = error.hint();
    fleet::warn(&format!("{what}: {:#}", anyhow::Error::new(error)), hint, output);
}
