//! Hosts that have lost the release which is to be gone back to, and the artifact that brings it to them again: the file that the
//! operator names, the one that the history knows, or what the cache of a host still has.
//!
//! A host that was made anew, or whose releases were pruned, need not stand in the way of all others, nor stay on the bad release.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        CommandError, Output, deploy, fleet,
        history::{HistoryArgs, history_error},
        request::Request,
    },
    RollbackArgs,
};
use crate::{
    controller::{
        self, Again, Artifact, FleetSettings,
        chore::{self, Look},
    },
    history::{History, RunRecord},
    model::{AppName, Digest, HostFailure, HostName, HostStatus, Plan, ReleaseId},
    report::measure,
};

/// How many hosts a note names.
const MAX_NAMED: usize = 3;

/// What brings a lost release back.
pub struct Lost {
    /// To which hosts, and of what.
    pub again: Again,
    /// Where the artifact is kept until the run is over, if it came from a host.
    pub keeps: Option<TempDir>,
}

/// What is known of a release's artifact.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    app: AppName,
    file_name: String,
    digest: Digest,
    size: u64,
}

/// Looks for hosts that have lost a release.
pub(super) struct Search<'a> {
    pub(super) fleet: &'a FleetSettings,
    pub(super) app: Option<&'a AppName>,
    pub(super) release: &'a ReleaseId,
    pub(super) args: &'a RollbackArgs,
    pub(super) plan: &'a Plan,
    pub(super) interrupt: &'a CancellationToken,
    pub(super) output: &'a Output,
}

type Answers = Vec<(HostName, Result<HostStatus, HostFailure>)>;
/// The artifact and where it is kept if it came from a host, or why it can't be had.
type Found = Result<(Artifact, Option<TempDir>), String>;
/// A deploy that the history has, and what was asked for.
type Recorded = (RunRecord, Option<Request>);

impl Search<'_> {
    /// Returns what brings the release to the hosts that have lost it; none if none has, or if its artifact can't be found, which is
    /// told: then those hosts drop out, and the plan says how many may.
    pub(super) async fn run(&self) -> Result<Option<Lost>, CommandError> {
        let answers = chore::on_all(self.fleet.clone(), self.app.cloned(), Look);
        let answers = self.unless_interrupted(answers).await?;
        let answers: Answers = answers.into_iter().map(|(host, answer)| (host, answer.map(|answer| answer.answer))).collect();
        let hosts = without(self.release, &answers);
        if hosts.is_empty() {
            return Ok(None);
        }
        let run = self.recorded();
        let known = known(self.release, &answers).or_else(|| run.as_ref().and_then(|run| recorded(&run.0)));
        let named = named(&hosts);
        let (artifact, keeps) = match self.artifact(known.as_ref(), run.as_ref()).await? {
            Ok(found) => found,
            Err(why) => {
                let message = format!("{named} lost {}, and it can't be fetched again: {why}", self.release);
                let hint = "give its artifact with `--artifact FILE`, or leave these hosts out with `--limit`";
                fleet::warn(&message, Some(hint), self.output);
                return Ok(None);
            }
        };
        self.output.note(&format!("{named} lost {}: it is fetched again", self.release));
        Ok(Some(Lost { again: self.again(hosts, artifact, run), keeps }))
    }

    async fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Result<T, CommandError> {
        tokio::select! {
            done = work => Ok(done),
            () = self.interrupt.cancelled() => Err(CommandError::interrupted()),
        }
    }

    /// Returns the last deploy of the release that the history has, and what was asked for.
    fn recorded(&self) -> Option<Recorded> {
        let HistoryArgs { file, no_history } = &self.args.history;
        if *no_history {
            return None;
        }
        let read = |history: History| -> Result<_, CommandError> {
            let Some(run) = history.deploy_of(self.release).map_err(history_error)? else {
                return Ok(None);
            };
            let kept = history.request(&run).map_err(history_error)?;
            // What another version kept is no help, and no reason to stop.
            Ok(Some((run, kept.and_then(|text| Request::read(&text).ok()))))
        };
        match file.open().and_then(|history| history.map_or(Ok(None), read)) {
            Ok(found) => found,
            Err(error) => {
                fleet::warn(&format!("the history is not asked for the artifact: {error}"), None, self.output);
                None
            }
        }
    }

    /// Finds the artifact.
    async fn artifact(&self, known: Option<&Known>, run: Option<&Recorded>) -> Result<Found, CommandError> {
        if let Some(file) = &self.args.artifact {
            return self.named(file, known).await.map(|artifact| Ok((artifact, None)));
        }
        let Some(known) = known else { return Ok(Err("nobody knows its artifact".to_owned())) };
        if let Some(file) = run.and_then(|(run, _)| run.artifact.as_ref()).map(|artifact| PathBuf::from(&artifact.path))
            && file.exists()
            && let Ok(artifact) = self.open(&file, &known.app, false).await
            && artifact.manifest.digest == known.digest
        {
            self.output.note(&format!("{} is its artifact", file.display()));
            return Ok(Ok((artifact, None)));
        }
        self.recall(known).await
    }

    /// Opens the artifact that the operator names, which has to be the right one.
    async fn named(&self, file: &Path, known: Option<&Known>) -> Result<Artifact, CommandError> {
        let app = known.map(|known| &known.app).or(self.app);
        let app =
            app.ok_or_else(|| CommandError::input("nothing says which application it is").hint("name it with `--app`"))?;
        let artifact = self.open(file, app, false).await?;
        let digest = artifact.manifest.digest;
        if known.map_or_else(|| self.release.is_of(&digest), |known| known.digest == digest) {
            return Ok(artifact);
        }
        let error = format!("{} is not what {} was made of: its SHA-256 is {digest}", file.display(), self.release);
        Err(CommandError::input(error)
            .hint("`fleetdrop releases` shows what hosts have; `fleetdrop deploy` makes a new release"))
    }

    /// Hashes the artifact; with `passes` nothing of that is kept, for the file won't stay.
    async fn open(&self, file: &Path, app: &AppName, passes: bool) -> Result<Artifact, CommandError> {
        deploy::open(file, app.clone(), self.fleet.hosts.len(), passes, self.interrupt, self.output).await
    }

    /// Brings the artifact here from a host's cache.
    async fn recall(&self, known: &Known) -> Result<Found, CommandError> {
        let directory = match TempDir::with_prefix("fleetdrop-") {
            Ok(directory) => directory,
            Err(error) => return Ok(Err(format!("no temporary directory can be made here: {error}"))),
        };
        let file = directory.path().join(&known.file_name);
        let recalled = controller::recall(self.fleet, &known.digest, known.size, &file);
        match self.unless_interrupted(recalled).await? {
            Ok(host) => self.output.note(&format!("its artifact comes from the cache of {host}")),
            Err(error) => return Ok(Err(format!("its artifact is not here any more, and {:#}", anyhow::Error::new(error)))),
        }
        self.open(&file, &known.app, true).await.map(|artifact| Ok((artifact, Some(directory))))
    }

    /// Puts together what hosts need to get the release again: what it links to is as in the playbook, else as it was deployed.
    fn again(&self, hosts: BTreeSet<HostName>, artifact: Artifact, run: Option<Recorded>) -> Again {
        let asked = run.and_then(|(_, request)| request);
        let plan = match &asked {
            Some(asked) if self.args.target.playbook.playbook.is_none() => &asked.plan,
            _ => self.plan,
        };
        Again {
            hosts,
            artifact,
            linked: plan.linked.clone(),
            keep_releases: plan.keep_releases,
            cache_limit: asked.as_ref().map_or(deploy::CACHE_LIMIT, |asked| asked.deploy.cache_limit),
            advertise: self.args.advertise.or(asked.as_ref().and_then(|asked| asked.deploy.advertise)),
            zone: asked.and_then(|asked| asked.deploy.controller_zone),
        }
    }
}

/// Returns the hosts that answered and have not got the release.
fn without(release: &ReleaseId, answers: &Answers) -> BTreeSet<HostName> {
    let has_not = |status: &HostStatus| !status.releases.iter().any(|there| there.id == *release);
    let lost = answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(has_not));
    lost.map(|(host, _)| host.clone()).collect()
}

/// Returns what hosts that have the release know of its artifact.
fn known(release: &ReleaseId, answers: &Answers) -> Option<Known> {
    let statuses = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let mut there = statuses.flat_map(|status| &status.releases).filter(|there| there.id == *release);
    there.find_map(|there| {
        let (app, digest, size) = (there.app.clone()?, there.digest?, there.size?);
        Some(Known { app, file_name: plain(there.artifact.as_ref()?)?, digest, size })
    })
}

/// Returns what the history knows of it.
fn recorded(run: &RunRecord) -> Option<Known> {
    let artifact = run.artifact.as_ref()?;
    let file_name = Path::new(&artifact.path).file_name()?.to_str()?;
    Some(Known { app: run.app.clone()?, file_name: plain(file_name)?, digest: artifact.digest, size: artifact.size })
}

/// Returns a file name that leads nowhere else.
fn plain(name: &str) -> Option<String> {
    let is_plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    is_plain.then(|| name.to_owned())
}

/// Names hosts, not too many: "2 hosts (a, b) have".
fn named(hosts: &BTreeSet<HostName>) -> String {
    let names: Vec<&str> = hosts.iter().take(MAX_NAMED).map(HostName::as_str).collect();
    let more = if hosts.len() > MAX_NAMED { ", …" } else { "" };
    let have = if hosts.len() == 1 { "has" } else { "have" };
    format!("{} ({}{more}) {have}", measure::count(hosts.len(), "host"), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ReleaseInfo;

    const RELEASE: &str = "20261120T031500Z-1a2b3c4d";

    fn status(release: &str, artifact: &str) -> HostStatus {
        let info = ReleaseInfo {
            id: release.parse().unwrap(),
            app: Some("shop".parse().unwrap()),
            artifact: Some(artifact.to_owned()),
            digest: Some("1a2b3c4d".repeat(8).parse().unwrap()),
            size: Some(7),
            staged_at: None,
            activated_at: None,
            by: None,
        };
        HostStatus { releases: vec![info], ..HostStatus::default() }
    }

    fn answers(statuses: Vec<Result<HostStatus, HostFailure>>) -> Answers {
        let name = |index: usize| format!("host-{index}").parse().unwrap();
        statuses.into_iter().enumerate().map(|(index, status)| (name(index), status)).collect()
    }

    #[test]
    fn who_has_lost_it_is_told_and_who_gives_no_answer_is_not() {
        let silent = crate::report::rehearsal::no_answer();
        let answers =
            answers(vec![Ok(status(RELEASE, "shop.tar")), Ok(status("r1", "x")), Ok(HostStatus::default()), Err(silent)]);
        let release = RELEASE.parse().unwrap();
        let lost = without(&release, &answers);
        assert_eq!(named(&lost), "2 hosts (host-1, host-2) have");
        let known = known(&release, &answers).unwrap();
        assert_eq!((known.file_name.as_str(), known.size), ("shop.tar", 7));
    }

    #[test]
    fn a_file_name_that_leads_elsewhere_is_none() {
        for bad in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b"] {
            assert_eq!(known(&RELEASE.parse().unwrap(), &answers(vec![Ok(status(RELEASE, bad))])), None, "{bad:?}");
        }
    }
}
