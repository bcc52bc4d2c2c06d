//! Feeds a run's events to the reporter that the options ask for.

use std::{
    io::{self, Write as _},
    time::Instant,
};

use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{CommandError, Output, fleet, history::Notebook, output::Format};
use crate::{
    controller::{EventSink, RunError},
    model::{Envelope, RunId, RunSummary},
    report::{Both, Reporter, escape, json::Json, measure, plain::Plain, terminal::Terminal},
};

/// A report in progress. It ends when every sender of its events is gone.
#[derive(Debug)]
pub struct Reporting {
    task: JoinHandle<io::Result<()>>,
    output: Output,
}

impl Reporting {
    /// Starts to feed `events` to `reporter`. Must be called within a runtime.
    ///
    /// Writing to a slow terminal or pipe blocks; it happens on a thread of its own, so that it holds up nothing but the events.
    pub fn start(output: &Output, reporter: Box<dyn Reporter>, events: mpsc::Receiver<Envelope>) -> Self {
        let runtime = Handle::current();
        let task = tokio::task::spawn_blocking(move || runtime.block_on(drive(reporter, events)));
        Self { task, output: *output }
    }

    /// Waits until everything is shown. That somebody missed events changes nothing about the run, so it is only told.
    pub async fn finish(self) {
        let error = match self.task.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let palette = self.output.palette();
        let error = escape::line(&error, 500);
        // Without a stderr there is nobody to tell.
        let _ = writeln!(io::stderr(), "{} the report of this run is not complete: {error}", palette.note("warning:"));
    }
}

/// Makes the reporter that `output` asks for.
pub fn reporter(output: &Output) -> Box<dyn Reporter> {
    let plain = Plain::new(io::stderr(), output.palette(), output.stderr_width(), output.quiet);
    match output.format {
        Format::Json => Box::new(Both(Json::new(io::stdout()), plain)),
        Format::Human if output.redraws => Box::new(Terminal::stderr(output.palette())),
        Format::Human | Format::Plain => Box::new(plain),
    }
}

/// Feeds `events` to `reporter`, with ticks between them, until every sender is gone.
pub async fn drive(mut reporter: Box<dyn Reporter>, mut events: mpsc::Receiver<Envelope>) -> io::Result<()> {
    let start = Instant::now();
    let mut ticks = interval(reporter.tick_every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => reporter.event(&event, start.elapsed()),
                None => return reporter.finish(),
            },
            _ = ticks.tick() => reporter.tick(start.elapsed()),
        }
    }
}

/// Draws the id of a run.
pub fn new_run() -> Result<RunId, CommandError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(CommandError::internal)?;
    Ok(RunId::from_random(random))
}

/// Runs something that sends events, reports them and writes them down; returns its summary.
pub async fn report<F>(run_id: RunId, notebook: Notebook, output: &Output, run: F) -> Result<RunSummary, CommandError>
where
    F: AsyncFnOnce(EventSink) -> Result<RunSummary, RunError>,
{
    let (events, received) = EventSink::new(run_id);
    let (reporter, aftermath) = notebook.beside(reporter(output));
    let reporting = Reporting::start(output, reporter, received);
    let result = run(events.clone()).await;
    let lost = events.lost();
    drop(events);
    reporting.finish().await;
    aftermath.tell(output);
    if lost > 0 {
        let told = format!("the report of this run lacks {}: its reader was too slow", measure::count(lost as usize, "event"));
        let _ = writeln!(io::stderr(), "{} {told}", output.palette().note("warning:"));
    }
    result.map_err(fleet::run_error)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, sync::Mutex, time::Duration};

    use super::*;
    use crate::model::{EVENT_VERSION, RunEvent, RunId};

    #[derive(Debug, Default, Clone)]
    struct Seen(Arc<Mutex<Vec<&'static str>>>);

    impl Seen {
        fn note(&self, what: &'static str) {
            let mut seen = self.0.lock().unwrap();
            if seen.last() != Some(&what) {
                seen.push(what);
            }
        }
    }

    impl Reporter for Seen {
        fn event(&mut self, _: &Envelope, _: Duration) {
            self.note("event");
        }
        fn tick(&mut self, _: Duration) {
            self.note("tick");
        }
        fn finish(&mut self) -> io::Result<()> {
            self.note("finish");
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_ticks_and_the_end_arrive() {
        let seen = Seen::default();
        let (sender, receiver) = mpsc::channel(4);
        let driven = tokio::spawn(drive(Box::new(seen.clone()), receiver));
        let event = RunEvent::Interrupted;
        let envelope = Envelope { v: EVENT_VERSION, at: String::new(), run: RunId::from_random([0; 8]), event };
        // The clock is paused: it goes on only when nothing else can, so each step ends before the next begins.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        sender.send(envelope).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        drop(sender);
        assert_eq!(driven.await.unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(*seen.0.lock().unwrap(), ["tick", "event", "tick", "finish"]);
    }
}
