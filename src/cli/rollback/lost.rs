//! Hosts that have lost the release which is to be gone back to, and what brings it to them again.
//!
//! A host that was made anew, or whose releases were pruned, need not stand in the way of all others, nor stay on the bad release.

use std::{collections::BTreeSet, path::Path};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        CommandError, Output, deploy, fleet,
        history::{HistoryArgs, history_error},
        origin::ServerArgs,
        request::Request,
    },
    RollbackArgs,
};
use crate::{
    controller::{
        Again, FleetSettings, Listed, Listing, OriginRequest,
        chore::{self, Look},
    },
    history::{History, RunRecord},
    model::{AppName, Digest, HostFailure, HostName, HostStatus, Manifest, Plan, ReleaseId, origin::WebSeed},
    report::measure,
};

/// How many hosts a note names.
const MAX_NAMED: usize = 3;

/// What brings a lost release back.
pub struct Lost {
    /// To which hosts, and of what.
    pub again: Again,
    /// Where the artifact is kept until the run is over, if it came from elsewhere.
    pub keeps: Option<TempDir>,
}

/// What is known of a release's artifact.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) app: AppName,
    pub(super) file_name: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A deploy that the history has.
pub(super) struct Recorded {
    pub(super) run: RunRecord,
    /// What was asked for.
    asked: Option<Request>,
    /// What the directory consists of, if it was one.
    pub(super) listed: Option<Listed>,
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
        let known = known(self.release, &answers).or_else(|| run.as_ref().and_then(recorded));
        let named = named(&hosts);
        let plan = self.plan(run.as_ref());
        let mut origins = self.origins(&plan, run.as_ref())?;
        let (artifact, keeps) = match self.artifact(known.as_ref(), run.as_ref(), &mut origins).await? {
            Ok(found) => found,
            Err(why) => {
                let message = format!("{named} lost {}, and it can't be fetched again: {why}", self.release);
                let hint = "give its artifact with `--artifact FILE`, or leave these hosts out with `--limit`";
                fleet::warn(&message, Some(hint), self.output);
                return Ok(None);
            }
        };
        self.output.note(&format!("{named} lost {}: it is fetched again", self.release));
        let asked = run.and_then(|found| found.asked).map(|asked| asked.deploy);
        let again = Again {
            hosts,
            artifact,
            linked: plan.linked,
            keep_releases: plan.keep_releases,
            cache_limit: asked.as_ref().map_or(deploy::CACHE_LIMIT, |asked| asked.cache_limit),
            advertise: self.args.advertise.or(asked.as_ref().and_then(|asked| asked.advertise)),
            encrypted: asked.as_ref().is_none_or(|asked| asked.encryption == deploy::Encryption::On),
            zone: asked.and_then(|asked| asked.controller_zone),
            transfer: plan.transfer,
            origins,
        };
        Ok(Some(Lost { again, keeps }))
    }

    pub(super) async fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Result<T, CommandError> {
        tokio::select! {
            done = work => Ok(done),
            () = self.interrupt.cancelled() => Err(CommandError::interrupted()),
        }
    }

    /// Returns the last deploy of the release that the history has.
    fn recorded(&self) -> Option<Recorded> {
        let HistoryArgs { file, no_history } = &self.args.history;
        if *no_history {
            return None;
        }
        let read = |history: History| -> Result<_, CommandError> {
            let Some(run) = history.deploy_of(self.release).map_err(history_error)? else {
                return Ok(None);
            };
            let (asked, listing) = (history.request(&run), history.listing(&run));
            // What another version kept is no help, and no reason to stop.
            let asked = asked.map_err(history_error)?.and_then(|text| Request::read(&text).ok());
            let listing = listing.map_err(history_error)?.and_then(|text| serde_json::from_str::<Listing>(&text).ok());
            let listed = run.app.clone().zip(listing).and_then(|(app, listing)| listing.read(app));
            Ok(Some(Recorded { run, asked, listed }))
        };
        match file.open().and_then(|history| history.map_or(Ok(None), read)) {
            Ok(found) => found,
            Err(error) => {
                fleet::warn(&format!("the history is not asked for the artifact: {error}"), None, self.output);
                None
            }
        }
    }

    /// Returns how hosts get the release again: as the playbook says, else as it was deployed; options go before both.
    fn plan(&self, run: Option<&Recorded>) -> Plan {
        let asked = run.and_then(|found| found.asked.as_ref()).map(|asked| &asked.plan);
        let mut plan = asked.filter(|_| self.args.target.playbook.playbook.is_none()).unwrap_or(self.plan).clone();
        self.args.limits.go_over(&mut plan.transfer);
        // Where it was then, it may be now; a playbook may have moved on to the next version's address.
        plan.web_seeds.clone_from(&self.plan.web_seeds);
        if self.args.servers.web_seeds.is_empty() {
            for seed in asked.into_iter().flat_map(|asked| &asked.web_seeds) {
                if !plan.web_seeds.contains(seed) && plan.web_seeds.len() < WebSeed::MOST {
                    plan.web_seeds.push(seed.clone());
                }
            }
        }
        plan
    }

    /// Returns the plan's web servers, with the secrets and certificates that the options name, else those that the deploy did.
    fn origins(&self, plan: &Plan, run: Option<&Recorded>) -> Result<OriginRequest, CommandError> {
        let named = self.args.servers.clone();
        let own = named.request(plan)?;
        let Some(then) = run.and_then(|found| found.asked.as_ref()).map(|asked| &asked.deploy.origins.servers) else {
            return Ok(own);
        };
        let ServerArgs { web_seeds, origin_ca, origin_auth } = named;
        let both = ServerArgs {
            web_seeds,
            origin_ca: origin_ca.or_else(|| then.origin_ca.clone()),
            origin_auth: origin_auth.or_else(|| then.origin_auth.clone()),
        };
        Ok(both.request(plan).unwrap_or_else(|error| {
            let message = format!("web servers are asked without what the deploy named for them: {error}");
            fleet::warn(&message, Some("name it anew with `--origin-auth` or `--origin-ca`"), self.output);
            own
        }))
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
fn recorded(found: &Recorded) -> Option<Known> {
    let Recorded { run, listed, .. } = found;
    if let Some(Manifest { app, file_name, digest, size, .. }) = listed.as_ref().map(|listed| listed.manifest.clone()) {
        return Some(Known { app, file_name, digest, size });
    }
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
