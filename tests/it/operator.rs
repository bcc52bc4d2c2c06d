//! Somebody at a command line: runs the `fleetdrop` binary in a home of its own and reads what it says.
//!
//! Nothing of the real user's leaks in: the environment is cleared, HOME and the XDG directories are temporary, there is no
//! ssh-agent, and ssh_config is an empty file.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fleetdrop::model::{Envelope, HostFailure, HostResult, HostState, RunEvent, RunSummary};
use rustix::process::{Pid, Signal, kill_process};
use sha2::Digest as _;
use tempfile::TempDir;

use crate::hosts::AGENT;
use crate::sshd::{assert_none_left, inside, processes_with};

/// No run of these tests takes nearly that long.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Where the agent and its caches go on every host: below its own home.
pub(crate) const CACHE: &str = "~/.cache/fleetdrop";

/// A controller's machine.
pub(crate) struct Operator {
    dir: TempDir,
    program: PathBuf,
    search_path: OsString,
    /// A process in whose network the commands run, if not in the tests'.
    inside: Option<u32>,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix("fleetdrop-operator-").unwrap();
        for below in ["home", "tmp", "agents", "work"] {
            fs::create_dir(dir.path().join(below)).unwrap();
        }
        fs::write(dir.path().join("ssh_config"), "").unwrap();
        let agent = dir.path().join("agents").join(format!("fleetdrop-agent-{}", std::env::consts::ARCH));
        std::os::unix::fs::symlink(AGENT, agent).unwrap();
        let search_path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        Self { dir, program: env!("CARGO_BIN_EXE_fleetdrop").into(), search_path, inside: None }
    }

    /// A machine in the network of that process.
    pub(crate) fn inside(process: u32) -> Self {
        Self { inside: Some(process), ..Self::new() }
    }

    /// Replaces the agent by one without debug information, which is what it is where it travels to many hosts.
    pub(crate) fn strip_agent(&self) {
        let agent = self.agents().join(format!("fleetdrop-agent-{}", std::env::consts::ARCH));
        fs::remove_file(&agent).unwrap();
        let status = Command::new("strip").arg("-o").arg(&agent).arg(AGENT).status();
        assert!(status.expect("this test needs strip: apt-get install binutils").success());
    }

    /// A machine that has nothing but `fleetdrop` itself: no agent beside it.
    pub(crate) fn without_agent() -> Self {
        let mut operator = Self::new();
        operator.program = operator.dir.path().join("fleetdrop");
        fs::copy(env!("CARGO_BIN_EXE_fleetdrop"), &operator.program).unwrap();
        operator
    }

    /// A machine with the programs that every system has, and among them no ssh client.
    pub(crate) fn without_ssh_client() -> Self {
        const PROGRAMS: [&str; 16] = [
            "sh",
            "cat",
            "chmod",
            "env",
            "gzip",
            "id",
            "ls",
            "mkdir",
            "mv",
            "rm",
            "rmdir",
            "sha256sum",
            "sleep",
            "tail",
            "uname",
            "wc",
        ];
        let mut operator = Self::new();
        let bin = operator.dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for program in PROGRAMS {
            let mut places = std::env::split_paths(&operator.search_path).map(|directory| directory.join(program));
            let place = places.find(|place| place.is_file()).unwrap_or_else(|| panic!("this test needs {program}"));
            std::os::unix::fs::symlink(place, bin.join(program)).unwrap();
        }
        operator.search_path = bin.into();
        operator
    }

    /// A machine whose ssh client is this shell script.
    pub(crate) fn with_ssh_client(script: &str) -> Self {
        let operator = Self::without_ssh_client();
        let client = operator.dir.path().join("bin/ssh");
        fs::write(&client, script).unwrap();
        fs::set_permissions(&client, fs::Permissions::from_mode(0o755)).unwrap();
        operator
    }

    /// Writes the operator's own `~/.ssh/config`.
    pub(crate) fn write_own_ssh_config(&self, text: &str) -> PathBuf {
        let directory = self.dir.path().join("home/.ssh");
        fs::create_dir(&directory).unwrap();
        let file = directory.join("config");
        fs::write(&file, text).unwrap();
        file
    }

    /// Returns the directory the commands run in.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(crate) fn agents(&self) -> PathBuf {
        self.dir.path().join("agents")
    }

    pub(crate) fn ssh_config(&self) -> PathBuf {
        self.dir.path().join("ssh_config")
    }

    /// Returns what commands see as `TMPDIR`.
    pub(crate) fn temporary_directory(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// Returns how many temporary files and directories commands have left.
    pub(crate) fn temporary_files(&self) -> usize {
        fs::read_dir(self.temporary_directory()).unwrap().count()
    }

    /// Waits until nothing runs on this machine that commands of this operator have started.
    #[track_caller]
    pub(crate) fn assert_nothing_runs(&self) {
        let below = format!("={}", self.dir.path().display());
        assert_none_left(|| processes_with(|variable| variable.contains(&below)));
    }

    /// Rewrites every remembered hash of an artifact so that it names another SHA-256, and seals it again.
    pub(crate) fn falsify_hashes(&self) {
        let directory = self.dir.path().join("home/.cache/fleetdrop");
        let mut falsified = 0;
        let mut directories = vec![directory];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "hash") {
                    falsify(&path);
                    falsified += 1;
                }
            }
        }
        assert!(falsified > 0, "no hash was remembered");
    }

    /// Returns a command with exactly these arguments.
    fn command(&self, arguments: &[OsString]) -> Command {
        let home = self.dir.path().join("home");
        let mut command = match self.inside {
            None => Command::new(&self.program),
            Some(process) => inside(process, &["--net"], &self.program),
        };
        command.args(arguments).current_dir(self.work()).env_clear();
        command.env("PATH", &self.search_path);
        command.env("HOME", &home).env("TMPDIR", self.dir.path().join("tmp"));
        for (variable, below) in
            [("CACHE", ".cache"), ("CONFIG", ".config"), ("DATA", ".local/share"), ("STATE", ".local/state")]
        {
            command.env(format!("XDG_{variable}_HOME"), home.join(below));
        }
        command
    }

    /// Starts a command with exactly these arguments.
    pub(crate) fn start(&self, arguments: &[OsString]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Runs a command with exactly these arguments to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        self.start(&arguments).finish()
    }

    /// Begins a command that talks to a fleet and reports in JSON.
    pub(crate) fn fleet_command(&self, name: &str, fleet: &Fleet) -> Invocation<'_> {
        let mut arguments: Vec<OsString> = vec![name.into(), "--output".into(), "json".into()];
        for (option, value) in [
            ("--hosts", &fleet.inventory),
            ("--known-hosts", &fleet.known_hosts),
            ("--ssh-config", &self.ssh_config()),
            ("--agent-dir", &self.agents()),
        ] {
            arguments.extend([option.into(), value.into()]);
        }
        Invocation { operator: self, arguments }.with(["--cache", CACHE])
    }

    pub(crate) fn deploy(&self, fleet: &Fleet, artifact: &Path) -> Invocation<'_> {
        self.fleet_command("deploy", fleet).with([artifact.as_os_str()]).with(["--app", "shop"])
    }

    pub(crate) fn rollback(&self, fleet: &Fleet) -> Invocation<'_> {
        self.fleet_command("rollback", fleet).with(["--app", "shop"])
    }

    pub(crate) fn status(&self, fleet: &Fleet) -> Finished {
        self.fleet_command("status", fleet).with(["--app", "shop"]).run()
    }
}

/// A remembered hash is a line of JSON and a line with that line's SHA-256.
fn falsify(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let mut entry: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(entry["digest"].is_string(), "{entry}");
    entry["digest"] = "0123456789abcdef".repeat(4).into();
    let line = entry.to_string();
    let seal = fleetdrop::model::Digest(sha2::Sha256::digest(&line).into());
    fs::write(path, format!("{line}\n{seal}\n")).unwrap();
}

/// What a command line has to know of a fleet.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    pub(crate) inventory: PathBuf,
    pub(crate) known_hosts: PathBuf,
}

/// A command line that is being put together.
pub(crate) struct Invocation<'a> {
    operator: &'a Operator,
    arguments: Vec<OsString>,
}

impl Invocation<'_> {
    pub(crate) fn with<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Leaves out an option that is there, with its value.
    pub(crate) fn without(mut self, option: &str) -> Self {
        let place = self.arguments.iter().position(|argument| argument == option).expect("the option is there");
        self.arguments.drain(place..place + 2);
        self
    }

    /// Replaces the value of an option that is there already.
    pub(crate) fn but(mut self, option: &str, value: impl Into<OsString>) -> Self {
        let place = self.arguments.iter().position(|argument| argument == option).expect("the option is there");
        self.arguments[place + 1] = value.into();
        self
    }

    /// Returns it as a command that is not started.
    pub(crate) fn command(&self) -> Command {
        self.operator.command(&self.arguments)
    }

    pub(crate) fn start(self) -> Running {
        self.operator.start(&self.arguments)
    }

    /// Starts it with one more variable in its environment.
    #[cfg(feature = "failpoints")]
    pub(crate) fn start_with(self, variable: &str, value: impl AsRef<OsStr>) -> Running {
        let mut command = self.command();
        command.env(variable, value);
        Running::start(command)
    }

    pub(crate) fn run(self) -> Finished {
        self.start().finish()
    }
}

/// A command that runs. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    line: String,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    stdout: String,
    events: Vec<Envelope>,
    deadline: Instant,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        let line = format!("fleetdrop {}", words.join(" "));
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start fleetdrop");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let deadline = Instant::now() + TIMEOUT;
        Self { child, line, lines, stderr: Some(stderr), stdout: String::new(), events: Vec::new(), deadline }
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Returns the id of the run, whose first event has come.
    pub(crate) fn events_run_id(&self) -> String {
        self.events.first().expect("the run has begun").run.to_string()
    }

    /// Sends the process a signal, as a person at a keyboard does.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process still runs");
    }

    /// Takes the next line of stdout; None at its end.
    fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.stdout += &line;
                self.stdout.push('\n');
                self.events.extend(serde_json::from_str::<Envelope>(&line).ok());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                let stderr = self.take_stderr();
                panic!("{} did not end in time\nstdout:\n{}\nstderr:\n{stderr}", self.line, self.stdout);
            }
        }
    }

    fn take_stderr(&mut self) -> String {
        self.stderr.take().map(|thread| thread.join().unwrap()).unwrap_or_default()
    }

    /// Waits for an event that `wanted` likes, from the start of the run on.
    #[track_caller]
    pub(crate) fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&RunEvent) -> Option<T>) -> T {
        let mut looked_at = 0;
        loop {
            while let Some(envelope) = self.events.get(looked_at) {
                if let Some(found) = wanted(&envelope.event) {
                    return found;
                }
                looked_at += 1;
            }
            if self.next_line().is_none() {
                let _ = self.child.wait();
                let stderr = self.take_stderr();
                panic!("the run ended before {what}\n{}\nstdout:\n{}\nstderr:\n{stderr}", self.line, self.stdout);
            }
        }
    }

    /// Waits until the host enters the state.
    #[track_caller]
    pub(crate) fn wait_for_state(&mut self, host: &str, state: HostState) {
        self.wait_for(&format!("{host} was {state}"), |event| match event {
            RunEvent::HostState { host: who, state: entered, .. } if who.as_str() == host && *entered == state => Some(()),
            _ => None,
        });
    }

    /// Waits for the command to end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        while self.next_line().is_some() {}
        let status = self.child.wait().unwrap();
        Finished {
            line: self.line.clone(),
            code: status.code(),
            stdout: std::mem::take(&mut self.stdout),
            stderr: self.take_stderr(),
            events: std::mem::take(&mut self.events),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that has ended, with all it said.
pub(crate) struct Finished {
    line: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) events: Vec<Envelope>,
}

impl std::fmt::Debug for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {:?}\nstdout:\n{}\nstderr:\n{}", self.line, self.code, self.stdout, self.stderr)
    }
}

impl Finished {
    /// Checks the exit code and returns itself.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Checks that everything in `wanted` is somewhere on stderr.
    #[track_caller]
    pub(crate) fn expect_stderr(self, wanted: &[&str]) -> Self {
        for text in wanted {
            assert!(self.stderr.contains(text), "{text:?} is not on stderr\n{self:?}");
        }
        self
    }

    /// Returns the run's last event.
    #[track_caller]
    pub(crate) fn summary(&self) -> &RunSummary {
        match self.events.last().map(|envelope| &envelope.event) {
            Some(RunEvent::RunFinished(summary)) => summary,
            last => panic!("the last event is {last:?}\n{self:?}"),
        }
    }

    /// Returns what became of a host.
    #[track_caller]
    pub(crate) fn host(&self, name: &str) -> &HostResult {
        let found = self.summary().hosts.iter().find(|result| result.host.as_str() == name);
        found.unwrap_or_else(|| panic!("no host {name}\n{self:?}"))
    }

    /// Returns why a host dropped out.
    #[track_caller]
    pub(crate) fn failure(&self, name: &str) -> &HostFailure {
        self.host(name).failure.as_ref().unwrap_or_else(|| panic!("{name} did not fail\n{self:?}"))
    }

    /// Returns what the run warned of.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        let messages = self.events.iter().filter_map(|envelope| match &envelope.event {
            RunEvent::Warning { message, .. } => Some(message.as_str()),
            _ => None,
        });
        messages.collect()
    }

    /// Checks that the run warned of nothing.
    #[track_caller]
    pub(crate) fn expect_no_warning(self) -> Self {
        assert_eq!(self.warnings(), [""; 0], "{self:?}");
        self
    }

    /// Checks how every host ended, in inventory order.
    #[track_caller]
    pub(crate) fn expect_states(self, states: &[HostState]) -> Self {
        let ended: Vec<HostState> = self.summary().hosts.iter().map(|result| result.state).collect();
        assert_eq!(ended, states, "{self:?}");
        self
    }
}
