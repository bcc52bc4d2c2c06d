//! `fleetdrop demo`.
//!
//! Each step is a command line that anybody could type: it is printed, parsed by [`super::Cli`] and run by the very code that
//! command runs. What it should have done is then checked on disk, not taken from what it reported.

use std::{
    ffi::OsString,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, Parser};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Cli, Command, CommandError, Output, ResultExt, deploy, exit, fleet, interrupt, rollback, status};
use crate::{
    controller::local_fleet::{LocalFleet, LocalFleetConfig},
    report::measure,
};

/// The application the demo deploys.
const APP: &str = "shop";
/// Bytes of the artifact that no compression makes smaller, so that there is something to share.
const PAYLOAD: usize = 8 << 20;
/// The file in each release that says which version it is.
const VERSION_FILE: &str = "VERSION";

/// What the demo starts.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How many SSH servers
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub hosts: u16,

    /// Keep the servers' directories and say where they are
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo and returns the exit code: that of the first step that did not succeed, else 0.
pub async fn run(args: DemoArgs, output: &Output) -> Result<u8, CommandError> {
    let interrupted = interrupt::watch()?;
    let dir = tempfile::Builder::new()
        .prefix("fleetdrop-demo-")
        .tempdir()
        .or_internal("cannot make a temporary directory for the demo")?;
    let mut config = LocalFleetConfig::new(usize::from(args.hosts), dir.path());
    config.search_path = fleet::search_path().unwrap_or(config.search_path);
    let fleet = LocalFleet::start(config).await.or_internal("cannot start the SSH servers")?;
    let story = Story { output, fleet: &fleet, interrupted };
    let result = story.tell().await;
    fleet.stop().await;
    tidy_up(dir, args.keep, output)?;
    result
}

/// Removes the demo's directory or says where it is.
fn tidy_up(dir: TempDir, keep: bool, output: &Output) -> Result<(), CommandError> {
    let path = dir.path().to_owned();
    if keep {
        let path = dir.keep();
        say(output, &format!("\nNothing of the demo runs any more; its files are in {}\n", path.display()));
        return Ok(());
    }
    dir.close().or_internal(format!("cannot remove {}", path.display()))?;
    say(output, "\nNothing of the demo runs any more, and everything the demo wrote is gone.\n");
    Ok(())
}

/// Writes what the demo has to say to stderr, where all text for people goes.
fn say(output: &Output, text: &str) {
    if !output.quiet {
        // Without a stderr there is nobody to tell; the exit code still does.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// The steps, and what they need.
struct Story<'a> {
    output: &'a Output,
    fleet: &'a LocalFleet,
    interrupted: CancellationToken,
}

impl Story<'_> {
    async fn tell(&self) -> Result<u8, CommandError> {
        let hosts = self.fleet.hosts().len();
        let (first, second) = (self.build("1.0").await?, self.build("2.0").await?);
        say(
            self.output,
            &format!(
                "{} inside this process, on 127.0.0.1: nothing leaves this machine.\n\
                 All files are in {}\n",
                measure::count(hosts, "SSH server"),
                self.fleet.root().display()
            ),
        );
        let steps = [
            Step {
                title: "Deploy version 1.0",
                story: "Each server gets the agent over SSH, once. The agents fetch the artifact from here and from\n\
                        each other, check its SHA-256 and unpack it beside what is live. When all are ready, all\n\
                        switch.",
                command: vec!["deploy".into(), first.into()],
                live: "1.0",
            },
            Step {
                title: "Deploy version 2.0",
                story: "The agent is there already. Version 1.0 stays on disk.",
                command: vec!["deploy".into(), second.clone().into()],
                live: "2.0",
            },
            Step {
                title: "Deploy version 2.0 again",
                story: "Every server has it: nothing is sent and nothing changes.",
                command: vec!["deploy".into(), second.into()],
                live: "2.0",
            },
            Step {
                title: "Ask what is live",
                story: "Status changes nothing.",
                command: vec!["status".into(), "--app".into(), APP.into()],
                live: "2.0",
            },
            Step {
                title: "Roll back",
                story: "Every server switches to the release before, which it still has: nothing is sent.",
                command: vec!["rollback".into(), "--app".into(), APP.into()],
                live: "1.0",
            },
            Step {
                title: "Ask again",
                story: "Version 1.0 is live.",
                command: vec!["status".into(), "--app".into(), APP.into()],
                live: "1.0",
            },
        ];
        for (number, step) in (1..).zip(steps) {
            if self.interrupted.is_cancelled() {
                return Ok(exit::INTERRUPTED);
            }
            let code = self.take(number, step).await?;
            if code != exit::SUCCESS {
                return Ok(code);
            }
        }
        Ok(exit::SUCCESS)
    }

    /// Takes one step, then looks on every server's disk whether it did what it should.
    async fn take(&self, number: usize, step: Step) -> Result<u8, CommandError> {
        let palette = self.output.palette();
        let shown = step.command.iter().map(|word| self.shown(word)).collect::<Vec<_>>().join(" ");
        say(
            self.output,
            &format!(
                "\n{}\n{}\n{}\n\n",
                palette.strong(format!("{number}. {}", step.title)),
                step.story,
                palette.dim(format!("$ fleetdrop {shown} --hosts inventory.yaml")),
            ),
        );
        let code = self.execute(step.command).await?;
        if code != exit::SUCCESS {
            return Ok(code);
        }
        for host in self.fleet.hosts() {
            let path = host.deploy_to().join("current").join(VERSION_FILE);
            let live = fs::read_to_string(&path).or_internal(format!("{}: cannot read {}", host.name(), path.display()))?;
            if live != step.live {
                return Err(CommandError::internal(format!("{}: {live} is live instead of {}", host.name(), step.live)));
            }
        }
        let hosts = measure::count(self.fleet.hosts().len(), "server");
        say(self.output, &format!("Checked on disk: {} is live on {hosts}.\n", step.live));
        Ok(code)
    }

    /// Shows an argument as somebody in the demo's directory would type it.
    fn shown(&self, word: &OsString) -> String {
        Path::new(word).strip_prefix(self.fleet.root()).unwrap_or(Path::new(word)).display().to_string()
    }

    /// Runs a command line, with the options that keep the demo apart from this user's own SSH settings and from what other demos
    /// leave on this machine, which here is every host.
    async fn execute(&self, command: Vec<OsString>) -> Result<u8, CommandError> {
        let options: [(&str, PathBuf); 4] = [
            ("--hosts", self.fleet.inventory()),
            ("--known-hosts", self.fleet.known_hosts()),
            ("--ssh-config", "none".into()),
            ("--cache", "~/.cache/fleetdrop".into()),
        ];
        let mut line = vec![OsString::from("fleetdrop")];
        line.extend(command);
        for (option, value) in options {
            line.extend([option.into(), value.into()]);
        }
        let parsed = Cli::try_parse_from(line).or_internal("the demo's command line is wrong")?;
        match parsed.command {
            // This user's history has nothing to do with it.
            Command::Deploy(mut args) => {
                args.history.no_history = true;
                deploy::run(*args, self.output).await
            }
            Command::Rollback(mut args) => {
                args.history.no_history = true;
                rollback::run(*args, self.output).await
            }
            Command::Status(args) => status::run(args, self.output).await,
            _ => Err(CommandError::internal("the demo has no such step")),
        }
    }

    /// Writes an artifact of that version and returns its path.
    async fn build(&self, version: &'static str) -> Result<PathBuf, CommandError> {
        let dir = self.fleet.root().join(version);
        let path = dir.join(format!("{APP}.tar.zst"));
        let file = path.clone();
        let written = tokio::task::spawn_blocking(move || {
            fs::create_dir(&dir)?;
            write_artifact(&file, version)
        });
        written.await.or_internal("writing the artifact failed")?.or_internal(format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// One step of the demo.
struct Step {
    title: &'static str,
    story: &'static str,
    command: Vec<OsString>,
    /// The version that has to be live on every server afterwards.
    live: &'static str,
}

fn write_artifact(path: &Path, version: &str) -> io::Result<()> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(fs::File::create_new(path)?, 1)?);
    let mut payload = vec![0; PAYLOAD];
    fastrand::fill(&mut payload);
    let script = format!("#!/bin/sh\necho \"{APP} {version}\"\n");
    let files: [(&str, u32, &[u8]); 3] = [
        (VERSION_FILE, 0o644, version.as_bytes()),
        ("bin/shop", 0o755, script.as_bytes()),
        ("assets/payload.bin", 0o644, &payload),
    ];
    for (name, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content)?;
    }
    tar.into_inner()?.finish()?.sync_all()
}
