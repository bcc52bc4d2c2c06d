//! The agent's process: arguments, log, signals, runtime, exit code.
//!
//! stdin and stdout belong to the wire protocol. The log goes to stderr, plain, bounded in bytes and never waited for: a controller that
//! does not read it cannot stall the agent. SIGTERM and SIGHUP stop the agent as a lost channel does; SIGINT is left to the
//! controller, which a local agent shares its terminal with; SIGPIPE is ignored by Rust's runtime and shows as a broken channel.

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use super::{AgentEnv, Ended, ferry, serve};
use crate::{swarm::FleetEngine, wire::WIRE_VERSION};

/// Bytes of log that are written at most.
const LOG_BUDGET: usize = 256 << 10;
/// Log lines that wait at most.
const LOG_QUEUE: usize = 256;
/// Exit code for arguments that are not understood, as the controller's.
const BAD_USAGE: u8 = 5;

const USAGE: &str = "usage: fleetdrop-agent serve [--log off|error|warn|info|debug|trace]\n       fleetdrop-agent ferry\n       fleetdrop-agent --version\n\
                     hint: fleetdrop starts the agent by itself; nobody needs to do it by hand\n";

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Serve { log: LevelFilter },
    Ferry,
    Version,
}

fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
    match args.next().as_deref() {
        Some("--version" | "-V") => Ok(Command::Version),
        Some("ferry") => match args.next() {
            None => Ok(Command::Ferry),
            Some(arg) => Err(format!("unknown argument `{arg}`")),
        },
        Some("serve") => {
            let mut log = LevelFilter::INFO;
            while let Some(arg) = args.next() {
                let value = match arg.strip_prefix("--log") {
                    Some("") => args.next().ok_or("--log needs a level")?,
                    Some(rest) if rest.starts_with('=') => rest[1..].to_owned(),
                    _ => return Err(format!("unknown argument `{arg}`")),
                };
                log = value.parse().map_err(|_| format!("`{value}` is not a log level"))?;
            }
            Ok(Command::Serve { log })
        }
        Some(other) => Err(format!("unknown command `{other}`")),
        None => Err("no command".into()),
    }
}

/// Runs the agent with the arguments after the program's name (or after the controller's hidden `agent` subcommand): `serve`, `ferry` or
/// `--version`. Exits with 0 if the controller learned how the job ended, 1 if the channel was lost, 5 for bad arguments.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match parse(args) {
        Ok(Command::Serve { log }) => serve_process(log),
        Ok(Command::Ferry) => ferry_process(),
        Ok(Command::Version) => {
            let version = format!("fleetdrop-agent {} wire {WIRE_VERSION}\n", env!("CARGO_PKG_VERSION"));
            exit_code(io::stdout().write_all(version.as_bytes()).is_ok())
        }
        Err(problem) => {
            // Nowhere to tell it if stderr is closed.
            let _ = io::stderr().write_all(format!("error: {problem}\n{USAGE}").as_bytes());
            ExitCode::from(BAD_USAGE)
        }
    }
}

fn exit_code(fine: bool) -> ExitCode {
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a ferry. What goes wrong is told on stderr: the controller keeps that.
fn ferry_process() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(ferry::run());
        // A thread may still wait for stdin.
        runtime.shutdown_background();
        ended
    });
    if let Err(error) = &ended {
        let _ = io::stderr().write_all(format!("error: {error}\n").as_bytes());
    }
    exit_code(ended.is_ok())
}

fn serve_process(log: LevelFilter) -> ExitCode {
    let log = start_log(log);
    // One thread for the network beside this one: a second would be woken for next to nothing, and costs a quarter more processor time.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(16).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(serve_streams());
            // A thread may still wait for stdin, which nobody closes before this process ends. Nothing else is running.
            runtime.shutdown_background();
            ended
        }
        Err(error) => could_not(&format!("cannot start: {error}")),
    };
    if let Some(log) = log {
        log.finish();
    }
    exit_code(ended == Ended::Orderly)
}

async fn serve_streams() -> Ended {
    let stop = CancellationToken::new();
    let watcher = match watch_signals(stop.clone()) {
        Ok(watcher) => watcher,
        Err(error) => return could_not(&format!("cannot watch signals: {error}")),
    };
    let ended = serve(FleetEngine, tokio::io::stdin(), tokio::io::stdout(), AgentEnv::of_process(stop)).await;
    watcher.abort();
    ended
}

fn could_not(what: &str) -> Ended {
    tracing::error!("{what}");
    Ended::Lost(what.to_owned())
}

fn watch_signals(stop: CancellationToken) -> io::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = hangup.recv() => break,
                _ = interrupt.recv() => tracing::debug!("SIGINT is left to the controller"),
            }
        }
        stop.cancel();
    }))
}

/// The log's thread.
struct Log {
    lines: SyncSender<Option<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Log {
    /// Lets the lines that wait go out, unless nobody reads them.
    fn finish(self) {
        if self.lines.try_send(None).is_ok() {
            // The thread may hang in a write that nobody reads: the process does not wait for it longer than this.
            let deadline = std::time::Instant::now() + std::time::Duration::from_millis(500);
            while !self.thread.is_finished() && std::time::Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }
}

/// One log line on its way to the thread. Dropped if too many wait.
struct Line(SyncSender<Option<Vec<u8>>>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(Some(bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start_log(level: LevelFilter) -> Option<Log> {
    let (lines, waiting) = sync_channel::<Option<Vec<u8>>>(LOG_QUEUE);
    let write_out = move || {
        let mut budget = LOG_BUDGET;
        while let Ok(Some(line)) = waiting.recv() {
            let fits = line.len() <= budget;
            let text: &[u8] = if fits { &line } else { b"the agent's log is cut off here\n" };
            if io::stderr().write_all(text).is_err() || !fits {
                break;
            }
            budget -= line.len();
        }
        // Lines sent from now on meet a closed queue and are dropped.
    };
    let thread = std::thread::Builder::new().name("log".into()).spawn(write_out).ok()?;
    let sender = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_writer(move || Line(sender.clone()))
        .try_init()
        .ok()?;
    Some(Log { lines, thread })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> impl Iterator<Item = OsString> {
        text.split_whitespace().map(OsString::from)
    }

    #[test]
    fn arguments() {
        assert_eq!(parse(args("--version")), Ok(Command::Version));
        assert_eq!(parse(args("serve")), Ok(Command::Serve { log: LevelFilter::INFO }));
        assert_eq!(parse(args("serve --log debug")), Ok(Command::Serve { log: LevelFilter::DEBUG }));
        assert_eq!(parse(args("serve --log=off")), Ok(Command::Serve { log: LevelFilter::OFF }));
        assert_eq!(parse(args("ferry")), Ok(Command::Ferry));
        for bad in ["", "run", "ferry x", "serve --log", "serve --log loud", "serve --logx", "serve x"] {
            assert!(parse(args(bad)).is_err(), "{bad:?} was accepted");
        }
    }
}
