//! One command of the operator's on this host: started in its own process group, bounded in time and in what is kept of its output.
//!
//! A command that fails, takes too long or is no longer wanted is ended with everything in its group. What a command that
//! succeeded left running, a service for example, is left alone. If it still writes to the command's output, a `cat` reads and forgets
//! that until it ends, also when the agent is gone: a pipe without a reader would kill it at its next line, and a file would grow.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::Child,
    time::{Instant, timeout_at},
};

use crate::{
    failpoint,
    model::plan::{Command, Hook},
};

/// Bytes that are kept of the beginning of a command's output, and of its end.
const HEAD: usize = 4 << 10;
const TAIL: usize = 12 << 10;
/// Lines that are kept of the beginning, and of the end, and the longest of them in characters.
const HEAD_LINES: usize = 10;
const TAIL_LINES: usize = 30;
const LINE: usize = 400;
/// Where programs are sought if nothing else says it.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Says how a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It could not be started.
    #[error("cannot be started: {0}")]
    Start(io::Error),
    /// It could not be waited for.
    #[error("cannot be watched: {0}")]
    Watch(io::Error),
    /// It ended, and not well.
    #[error("{}", describe(*.0))]
    Exit(ExitStatus),
    /// It was out of time.
    #[error("did not end within {}", humantime::format_duration(*.0))]
    Time(Duration),
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".into(),
    }
}

/// A command that failed, and what it wrote.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub(crate) struct Failed {
    /// How.
    pub(crate) failure: Failure,
    /// Its output as lines, oldest first; the middle may be left out.
    pub(crate) output: Vec<String>,
}

/// Where commands run and what they are told.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Their working directory.
    pub(crate) directory: PathBuf,
    /// Their whole environment.
    pub(crate) variables: Vec<(&'static str, OsString)>,
}

impl Place {
    /// Runs a command to its end. Dropping the future kills it.
    pub(crate) async fn run(&self, command: &Command, limit: Duration) -> Result<(), Failed> {
        let mut output = Output::default();
        let ran = self.watch(command, limit, &mut output).await;
        ran.map_err(|failure| Failed { failure, output: output.lines() })
    }

    async fn watch(&self, command: &Command, limit: Duration, output: &mut Output) -> Result<(), Failure> {
        let (mut child, mut pipe) = self.start(command).map_err(Failure::Start)?;
        let group = Group::of(&child);
        let until = Instant::now() + limit;
        let (ended, still_open) = match timeout_at(until, end(&mut child, &mut pipe, output)).await {
            Ok(ended) => ended.map_err(Failure::Watch)?,
            Err(_) => {
                group.signal(Signal::TERM);
                let _ = timeout_at(Instant::now() + Hook::GRACE, end(&mut child, &mut pipe, output)).await;
                return Err(Failure::Time(limit));
            }
        };
        if !ended.success() {
            return Err(Failure::Exit(ended));
        }
        group.let_live();
        if still_open && let Err(error) = forget(pipe) {
            tracing::warn!("nothing reads the output of what the command left running: {error}");
        }
        Ok(())
    }

    fn start(&self, command: &Command) -> io::Result<(Child, Receiver)> {
        let nothing = || io::Error::new(io::ErrorKind::InvalidInput, "it is empty");
        let mut process = match command {
            Command::Shell(text) => {
                let mut shell = tokio::process::Command::new("/bin/sh");
                shell.args(["-c", text]);
                shell
            }
            Command::Argv(words) => {
                let (program, arguments) = words.split_first().ok_or_else(nothing)?;
                let mut process = tokio::process::Command::new(program);
                process.args(arguments);
                process
            }
        };
        // One pipe for both: lines come in the order they were written.
        let (reader, writer) = io::pipe()?;
        process
            .current_dir(&self.directory)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        let child = process.spawn()?;
        failpoint::reach("command.started");
        Ok((child, Receiver::from_owned_fd(OwnedFd::from(reader))?))
    }
}

/// Lets a process of its own read a pipe to its end, however long that takes.
fn forget(pipe: Receiver) -> io::Result<()> {
    let mut reader = tokio::process::Command::new("/bin/sh");
    reader.args(["-c", "exec cat"]).current_dir("/").env_clear().env("PATH", DEFAULT_PATH).process_group(0);
    reader.stdin(pipe.into_blocking_fd()?).stdout(Stdio::null()).stderr(Stdio::null());
    // Reaped by the runtime, or by the system's first process when the agent has ended.
    reader.spawn().map(|_| ())
}

/// Waits for the command's end; what it started and left running is not waited for. Returns also whether that can still write.
async fn end(child: &mut Child, pipe: &mut Receiver, output: &mut Output) -> io::Result<(ExitStatus, bool)> {
    let mut buffer = [0; 4096];
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            read = pipe.read(&mut buffer), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(read) => output.push(&buffer[..read]),
            },
            status = child.wait() => {
                let status = status?;
                while open {
                    match pipe.try_read(&mut buffer) {
                        Ok(read @ 1..) => output.push(&buffer[..read]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Ok(0) | Err(_) => open = false,
                    }
                }
                return Ok((status, open));
            }
        }
    }
}

/// A command's process group. Dropping it kills what is left of it.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // Nobody is left in it: nothing is left to do.
            let _ = kill_process_group(group, signal);
        }
    }

    fn let_live(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The beginning and the end of what a command wrote.
#[derive(Debug, Default)]
struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    /// Bytes between them.
    left_out: usize,
}

impl Output {
    fn push(&mut self, bytes: &[u8]) {
        let (head, tail) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(tail);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
        self.left_out += surplus;
    }

    fn lines(mut self) -> Vec<String> {
        let bytes = self.left_out;
        if bytes == 0 {
            self.head.extend(self.tail);
            let all = split(&self.head);
            let surplus = all.len().saturating_sub(HEAD_LINES + TAIL_LINES);
            if surplus == 0 {
                return all;
            }
            let (head, rest) = all.split_at(HEAD_LINES);
            return join(head, &format!("[{surplus} lines left out]"), &rest[surplus..]);
        }
        let (head, tail) = (split(&self.head), split(self.tail.make_contiguous()));
        let head = &head[..head.len().min(HEAD_LINES)];
        let tail = &tail[tail.len().saturating_sub(TAIL_LINES)..];
        join(head, &format!("[more than {bytes} bytes left out]"), tail)
    }
}

fn join(head: &[String], gap: &str, tail: &[String]) -> Vec<String> {
    head.iter().cloned().chain([gap.to_owned()]).chain(tail.iter().cloned()).collect()
}

fn split(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(|line| line.trim_end().chars().take(LINE).collect()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SECONDS: Duration = Duration::from_secs(20);

    fn shell(text: &str) -> Command {
        Command::Shell(text.into())
    }

    fn place(directory: &Path, more: &[(&'static str, &str)]) -> Place {
        let path = [("PATH", "/usr/bin:/bin")];
        let variables = path.iter().chain(more).map(|(name, value)| (*name, OsString::from(value))).collect();
        Place { directory: directory.to_owned(), variables }
    }

    async fn fail(text: &str) -> Failed {
        place(Path::new("/"), &[]).run(&shell(text), SECONDS).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_command_has_its_directory_its_variables_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let env = Command::Argv(vec!["/bin/sh".into(), "-c".into(), "pwd > got; env >> got".into()]);
        place(dir.path(), &[("FLEETDROP_APP", "shop")]).run(&env, SECONDS).await.unwrap();
        let got = std::fs::read_to_string(dir.path().join("got")).unwrap();
        let mut lines: Vec<_> =
            got.lines().filter(|line| !["_=", "PWD=", "SHLVL="].iter().any(|own| line.starts_with(own))).collect();
        lines.sort_unstable();
        let here = dir.path().canonicalize().unwrap();
        assert_eq!(lines, [here.to_str().unwrap(), "FLEETDROP_APP=shop", "PATH=/usr/bin:/bin"]);
    }

    #[tokio::test]
    async fn both_outputs_are_kept_in_order_and_the_end_is_told() {
        let failed = fail("echo one; echo two >&2; echo three; exit 3").await;
        assert_eq!(
            (failed.to_string().as_str(), failed.output),
            ("failed with exit code 3", vec!["one".into(), "two".into(), "three".into()])
        );
        assert_eq!(fail("kill -9 $$").await.to_string(), "was ended by signal 9");
        let missing = Command::Argv(vec!["/nonexistent/program".into()]);
        let failed = place(Path::new("/"), &[]).run(&missing, SECONDS).await.unwrap_err();
        assert!(failed.to_string().starts_with("cannot be started: No such file"), "{failed}");
    }

    #[tokio::test]
    async fn endless_output_is_cut_in_the_middle() {
        let failed = fail("echo first; yes | head -c 1000000; echo last; exit 1").await;
        assert_eq!((failed.output[0].as_str(), failed.output.last().unwrap().as_str()), ("first", "last"));
        assert!(failed.output.len() <= HEAD_LINES + TAIL_LINES + 1, "{}", failed.output.len());
        assert!(failed.output[HEAD_LINES].contains("left out"), "{:?}", failed.output);
        let failed = fail("seq 1 100; exit 1").await;
        assert_eq!(failed.output[HEAD_LINES], "[60 lines left out]");
        assert_eq!((failed.output[9].as_str(), failed.output[11].as_str()), ("10", "71"));
    }

    /// True once no process has that variable in its environment.
    async fn nobody_has(variable: &str) -> bool {
        let has = |pid: &std::ffi::OsStr| {
            let environment = std::fs::read(Path::new("/proc").join(pid).join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
        };
        for _ in 0..500 {
            if !std::fs::read_dir("/proc").unwrap().flatten().any(|entry| has(&entry.file_name())) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_goes_with_everything_it_started() {
        let mark = format!("fleetdrop-test-{}-time", std::process::id());
        let stubborn = shell("trap '' TERM; (trap '' TERM; sleep 60) & echo begun; sleep 60");
        let failed = place(Path::new("/"), &[("MARK", &mark)]).run(&stubborn, Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(failed.to_string(), "did not end within 300ms");
        assert_eq!(failed.output, ["begun"]);
        assert!(nobody_has(&format!("MARK={mark}")).await);
    }

    #[tokio::test]
    async fn a_command_that_is_no_longer_wanted_goes_at_once() {
        let mark = format!("fleetdrop-test-{}-drop", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let marked = place(dir.path(), &[("MARK", &mark)]);
        let command = shell("sleep 60 & touch begun; sleep 60");
        let begun = async {
            while !dir.path().join("begun").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = marked.run(&command, SECONDS) => panic!("{ended:?}"),
            () = begun => {}
        }
        assert!(nobody_has(&format!("MARK={mark}")).await);
    }

    #[tokio::test]
    async fn what_is_left_running_may_go_on_writing() {
        let dir = tempfile::tempdir().unwrap();
        // More than fits into a pipe, after the command has ended.
        let command = shell("(until test -e ended; do sleep 0.01; done; yes | head -c 300000 && touch alive) & echo started");
        place(dir.path(), &[]).run(&command, SECONDS).await.unwrap();
        std::fs::write(dir.path().join("ended"), "").unwrap();
        for _ in 0..2000 {
            if dir.path().join("alive").exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it died of its output");
    }

    #[tokio::test]
    async fn what_a_good_command_leaves_running_lives_on() {
        let dir = tempfile::tempdir().unwrap();
        let command = shell("(sleep 1; touch alive) & echo started");
        let begin = Instant::now();
        place(dir.path(), &[]).run(&command, SECONDS).await.unwrap();
        assert!(begin.elapsed() < Duration::from_millis(900), "it was waited for");
        for _ in 0..1000 {
            if dir.path().join("alive").exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it was killed");
    }
}
