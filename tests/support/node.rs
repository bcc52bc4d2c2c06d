//! A program that takes part in a transfer: it says `ready`, waits for a line, transfers, says `complete`.

use std::{
    process::{Command as StdCommand, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A node may take this long to say `ready`.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A started program that says `ready`, waits for a line and says `complete`. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Node {
    /// Starts `command` and waits until it is ready.
    pub(crate) async fn start(name: &str, command: StdCommand) -> Result<Self> {
        let mut child = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| name.to_owned())?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut node = Self { name: name.to_owned(), input, output, child };
        let ready = tokio::time::timeout(READY_TIMEOUT, node.wait_for("ready")).await;
        ready.with_context(|| format!("{name} is not ready after {READY_TIMEOUT:?}"))??;
        Ok(node)
    }

    /// Lets it begin.
    pub(crate) async fn go(&mut self) -> Result<()> {
        self.input.write_all(b"go\n").await.with_context(|| self.name.clone())
    }

    /// Waits until it is complete.
    pub(crate) async fn complete(&mut self) -> Result<()> {
        self.wait_for("complete").await
    }

    /// Reads its output up to a line that is `word`.
    async fn wait_for(&mut self, word: &str) -> Result<()> {
        while let Some(line) = self.output.next_line().await? {
            if line == word {
                return Ok(());
            }
        }
        bail!("{} ended before it was {word}", self.name)
    }

    /// Ends it and waits until it has ended.
    pub(crate) async fn end(mut self) -> Result<()> {
        // It may have ended by itself.
        let _ = self.child.start_kill();
        self.child.wait().await.with_context(|| self.name)?;
        Ok(())
    }
}
