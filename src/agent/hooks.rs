//! The operator's hooks and checks around staging and switching: what they are told, and what becomes of a failure.
//!
//! Each command runs in the release's directory (`before_stage` in the application's root: there is no release yet) with
//! `FLEETDROP_APP`, `_HOST`, `_RUN_ID`, `_RELEASE_ID`, `_RELEASE_DIR`, `_PREVIOUS_DIR` (empty if nothing was live before) and
//! `_DEPLOY_TO`, and with little else. The variables keep their meaning on a revert: the release is the one that goes, the
//! previous one is what is live again.

use std::{ffi::OsString, path::PathBuf};

use super::{
    command::{Failed, Place},
    health::{self, HealthError},
    journal::Undo,
    root::Root,
};
use crate::{
    model::{
        ReleaseId, RunId,
        plan::{Command, Hook, HookPoint},
    },
    wire::Procedure,
};

/// Variables that commands get from the agent's own environment.
const INHERITED: [&str; 8] = ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TZ", "USER", "XDG_RUNTIME_DIR"];
/// Where programs are sought if the agent itself was not told.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The largest hooks, in bytes, that are kept for an agent that has to finish what this one began.
const MAX_UNDO: usize = 256 << 10;
/// How much of a command is shown, in characters.
const SHOWN: usize = 80;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("the {} hook `{command}` {failed}", .point.name())]
pub(crate) struct HookError {
    point: HookPoint,
    command: String,
    pub(crate) failed: Failed,
}

/// The hooks and checks of one job, and what they are told.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    procedure: Procedure,
    app: Option<String>,
    root: PathBuf,
    /// The release's directory.
    release: Place,
}

impl Operations {
    /// Prepares the commands of `run`'s job that makes `release` of `app` live after `previous`.
    pub(crate) fn new(
        procedure: Procedure,
        run: &RunId,
        app: Option<&str>,
        root: &Root,
        release: &ReleaseId,
        previous: Option<&ReleaseId>,
    ) -> Self {
        let inherited = |name: &'static str| Some((name, std::env::var_os(name)?));
        let mut variables: Vec<(&'static str, OsString)> = INHERITED.into_iter().filter_map(inherited).collect();
        if !variables.iter().any(|(name, _)| *name == "PATH") {
            variables.push(("PATH", DEFAULT_PATH.into()));
        }
        let directory = root.release(release);
        variables.extend([
            ("FLEETDROP_APP", app.unwrap_or_default().into()),
            ("FLEETDROP_HOST", procedure.host.as_ref().map_or("", |host| host.as_str()).into()),
            ("FLEETDROP_RUN_ID", run.as_str().into()),
            ("FLEETDROP_RELEASE_ID", release.as_str().into()),
            ("FLEETDROP_RELEASE_DIR", directory.clone().into()),
            ("FLEETDROP_PREVIOUS_DIR", previous.map(|id| root.release(id)).unwrap_or_default().into()),
            ("FLEETDROP_DEPLOY_TO", root.path().into()),
        ]);
        let app = app.map(str::to_owned);
        Self { procedure, app, root: root.path().to_owned(), release: Place { directory, variables } }
    }

    /// Returns what another agent needs to run the hooks of a revert; none if there are none, or too many to be kept.
    pub(crate) fn undo(&self) -> Option<Undo> {
        let hooks = self.procedure.hooks.on_revert.clone();
        let undo = Undo { host: self.procedure.host.clone(), app: self.app.clone(), hooks };
        let size = serde_json::to_vec(&undo).map_or(usize::MAX, |bytes| bytes.len());
        (!undo.hooks.is_empty() && size <= MAX_UNDO).then_some(undo)
    }

    /// Runs the hooks of one point, one after the other, until one fails.
    pub(crate) async fn run(&self, point: HookPoint) -> Result<(), HookError> {
        for hook in self.procedure.hooks.at(point) {
            self.hook(point, hook).await?;
        }
        Ok(())
    }

    /// Runs the hooks of a revert, all of them, and returns the failures.
    pub(crate) async fn run_on_revert(&self) -> Vec<HookError> {
        let mut failures = Vec::new();
        for hook in self.procedure.hooks.at(HookPoint::OnRevert) {
            failures.extend(self.hook(HookPoint::OnRevert, hook).await.err());
        }
        failures
    }

    async fn hook(&self, point: HookPoint, hook: &Hook) -> Result<(), HookError> {
        tracing::info!("running the {} hook `{}`", point.name(), shown(&hook.command));
        let ran = if point == HookPoint::BeforeStage {
            let root = Place { directory: self.root.clone(), ..self.release.clone() };
            root.run(&hook.command, hook.timeout).await
        } else {
            self.release.run(&hook.command, hook.timeout).await
        };
        ran.map_err(|failed| HookError { point, command: shown(&hook.command), failed })
    }

    /// Waits until the release that was made live passes its checks, or fails them.
    pub(crate) async fn check_health(&self) -> Result<(), HealthError> {
        health::check(&self.procedure.health, &self.release).await
    }
}

/// Returns a command as it is told to people: one line, not too long.
pub(crate) fn shown(command: &Command) -> String {
    let text = match command {
        Command::Shell(text) => text.clone(),
        Command::Argv(words) => words.join(" "),
    };
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(end);
        line.push('…');
    }
    line
}
