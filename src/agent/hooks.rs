//! The operator's hooks and checks around staging and switching: what they are told, and what becomes of a failure.
//!
//! Each command runs in the release's directory (`before_stage` in the application's root: there is no release yet) with
//! `FLEETDROP_APP`, `_HOST`, `_RUN_ID`, `_RELEASE_ID`, `_RELEASE_DIR`, `_PREVIOUS_DIR` (empty if nothing was live before) and
//! `_DEPLOY_TO`, and with little else; `_STEP` tells the commands of one run apart. The variables keep their meaning on a revert: the release is the one that goes, the
//! previous one is what is live again.

use std::ffi::OsString;

use super::{
    command::{DEFAULT_PATH, Failed, Place},
    failure::JobError,
    health::{self, HealthError},
    journal::Undo,
    root::Root,
    stray::{self, Running},
};
use crate::{
    failpoint,
    model::{
        ReleaseId, RunId,
        plan::{Command, Hook, HookPoint, Hooks},
    },
    wire::Procedure,
};

/// Variables that commands get from the agent's own environment.
const INHERITED: [&str; 8] = ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TZ", "USER", "XDG_RUNTIME_DIR"];
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
    run: RunId,
    app: Option<String>,
    root: Root,
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
        Self { procedure, run: run.clone(), app, root: root.clone(), release: Place { directory, variables } }
    }

    /// Returns what another agent needs to run the hooks of a revert; none if there are none. Fails if they are too large to be
    /// kept for it.
    pub(crate) fn undo(&self) -> Result<Option<Undo>, JobError> {
        let hooks = self.procedure.hooks.on_revert.clone();
        let size = self.procedure.hooks.revert_bytes();
        if size > Hooks::MOST_REVERT_BYTES {
            let text =
                format!("its on_revert hooks have {size} bytes, more than the {} that a host keeps", Hooks::MOST_REVERT_BYTES);
            return Err(JobError::BadJob(text));
        }
        Ok((!hooks.is_empty()).then(|| Undo { host: self.procedure.host.clone(), app: self.app.clone(), hooks }))
    }

    /// Runs the hooks of one point, one after the other, until one fails.
    pub(crate) async fn run(&self, point: HookPoint) -> Result<(), HookError> {
        for (number, hook) in self.procedure.hooks.at(point).iter().enumerate() {
            self.hook(point, number, hook).await?;
        }
        Ok(())
    }

    /// Runs the hooks of a revert, all of them, and returns the failures.
    pub(crate) async fn run_on_revert(&self) -> Vec<HookError> {
        let mut failures = Vec::new();
        for (number, hook) in self.procedure.hooks.at(HookPoint::OnRevert).iter().enumerate() {
            failures.extend(self.hook(HookPoint::OnRevert, number, hook).await.err());
        }
        failures
    }

    async fn hook(&self, point: HookPoint, number: usize, hook: &Hook) -> Result<(), HookError> {
        tracing::info!("running the {} hook `{}`", point.name(), shown(&hook.command));
        let (mut place, _running) = self.begin(&format!("{}.{number}", point.name()));
        failpoint::reach("hook.noted");
        if point == HookPoint::BeforeStage {
            place.directory = self.root.path().to_owned();
        }
        let ran = place.run(&hook.command, hook.timeout).await;
        failpoint::reach("hook.ended");
        ran.map_err(|failed| HookError { point, command: shown(&hook.command), failed })
    }

    /// Waits until the release that was made live passes its checks, or fails them.
    pub(crate) async fn check_health(&self) -> Result<(), HealthError> {
        let (place, _running) = self.begin("health");
        health::check(&self.procedure.health, &place).await?;
        failpoint::reach("health.passed");
        Ok(())
    }

    /// Returns where a step's commands run, and the note that they do, which is kept until they have ended.
    fn begin(&self, step: &str) -> (Place, Running) {
        let mut place = self.release.clone();
        place.variables.push((stray::STEP, step.into()));
        (place, Running::note(&self.root, &self.run, step))
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
