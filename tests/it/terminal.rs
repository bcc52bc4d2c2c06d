//! A person at a terminal: `fleetdrop` in a pty of its own (made by `script`), with keys that are typed.

use std::{
    ffi::OsString,
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use fleetdrop::model::HostState::Staged;
use rustix::process::{Signal, kill_process};

use crate::{
    artifact,
    hosts::{Door, Embedded},
    operator::Operator,
    sshd::SshdFleet,
};

const TIMEOUT: Duration = Duration::from_secs(60);
const CTRL_C: &[u8] = b"\x03";

/// A terminal in which a command runs. Dropping it closes it.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: String,
    deadline: Instant,
}

impl Terminal {
    /// Opens a terminal for a command, whose environment it takes over.
    fn open(command: &Command) -> Self {
        let words: Vec<String> = [command.get_program()].into_iter().chain(command.get_args()).map(quoted).collect();
        let mut script = Command::new("script");
        // A terminal of a common size, and the command in the shell's place.
        let line = format!("stty cols 100 rows 30; exec {}", words.join(" "));
        script.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        script.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        script.current_dir(command.get_current_dir().expect("a command of the operator's has a directory"));
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut script = script.expect("this test needs script: apt-get install bsdutils");
        let (keys, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { script, keys, output, seen: String::new(), deadline: Instant::now() + TIMEOUT }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
        self.keys.flush().unwrap();
    }

    /// Takes what is written next; false at the end.
    #[track_caller]
    fn read(&mut self) -> bool {
        match self.output.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            // A character may be cut in two: none of those that tests look for.
            Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("the terminal is still busy:\n{}", self.seen),
        }
        true
    }

    /// Waits until the text is shown.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            assert!(self.read(), "{text:?} was never shown:\n{}", self.seen);
        }
    }

    /// Waits for the command's end; returns its exit code and all that was shown.
    #[track_caller]
    fn finish(mut self) -> (Option<i32>, String) {
        while self.read() {}
        (self.script.wait().unwrap().code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What runs in it hangs up.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn quoted(word: &std::ffi::OsStr) -> String {
    format!("'{}'", OsString::from(word).into_string().unwrap().replace('\'', r"'\''"))
}

#[test]
fn a_deploy_shows_its_progress_and_ends_with_the_summary() {
    let (operator, fleet) = (Operator::new(), Embedded::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 3_000_000);
    let deploy = operator.deploy(&fleet.fleet(), &artifact).but("--output", "human").with(["--color", "never"]);
    let (code, shown) = Terminal::open(&deploy.command()).finish();
    assert_eq!(code, Some(0), "{shown}");
    // Only the display has a bar.
    assert!(shown.contains("[>"), "no progress was shown:\n{shown}");
    assert!(shown.contains("2 hosts are live on "), "no summary was shown:\n{shown}");
    fleet.expect_live(&[Some("1"); 2]);
    operator.assert_nothing_runs();
}

#[test]
fn ctrl_c_typed_twice_ends_at_once() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let door = Door::before(&fleet.hosts()[0]);
    let command_line = fleet.behind([&door], &operator.work());
    let deploy = operator.deploy(&command_line, &artifact).but("--output", "human").with(["--connect-timeout", "60s"]);
    let mut terminal = Terminal::open(&deploy.command());
    terminal.wait_for(&format!("1 {Staged}"));
    // An agent that does not answer keeps a clean stop waiting.
    let agent = fleet.hosts()[1].agent();
    kill_process(agent, Signal::STOP).unwrap();
    terminal.press(CTRL_C);
    terminal.wait_for("Ctrl-C again to stop at once");
    let second = Instant::now();
    terminal.press(CTRL_C);
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(130), "{shown}");
    assert!(second.elapsed() < Duration::from_secs(5), "it took {:?}", second.elapsed());
    // The cursor, if it was hidden, is shown again, and the alternate screen is not in use.
    for (on, off) in [("\x1b[?25l", "\x1b[?25h"), ("\x1b[?1049h", "\x1b[?1049l")] {
        assert!(shown.rfind(on) <= shown.rfind(off), "the terminal is left in disorder: {shown:?}");
    }
    kill_process(agent, Signal::CONT).unwrap();
    fleet.assert_nothing_left();
    operator.assert_nothing_runs();
    fleet.expect_live(&[None; 2]);
}
