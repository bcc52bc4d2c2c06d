//! The small jobs besides deploys: prune, unlock, and the log of revisions that deploys leave.

use std::fs;

use super::support::{Artifact, Host, names};
use crate::{
    agent::Ended,
    model::{HostFailure, HostState, LockHolder, Pruned, RunId, Unlocked},
    wire::{FromAgent, Job, PruneJob, StopReason, ToAgent},
};

impl Host {
    /// Has an agent do a small job.
    async fn answer(&self, job: Job) -> Result<FromAgent, HostFailure> {
        let mut agent = self.agent(&Artifact::version("none"), job).await;
        let answer = match agent.hear().await {
            FromAgent::Failed(failure) => Err(failure),
            answer => Ok(answer),
        };
        assert_eq!(agent.ended().await, Ended::Orderly);
        answer
    }

    async fn prune(&self, keep_releases: u32, cache_limit: u64, dry_run: bool) -> Result<Pruned, HostFailure> {
        let job = PruneJob {
            run: RunId::from_random([9; 8]),
            by: None,
            deploy_to: self.path("app").display().to_string(),
            cache: Some(self.path("cache").display().to_string()),
            cache_limit,
            keep_releases,
            dry_run,
        };
        match self.answer(Job::Prune(Box::new(job))).await? {
            FromAgent::Pruned(pruned) => Ok(pruned),
            other => panic!("{other:?}"),
        }
    }

    async fn unlock(&self) -> Result<Unlocked, HostFailure> {
        let deploy_to = self.path("app").display().to_string();
        match self.answer(Job::Unlock { run: RunId::from_random([9; 8]), deploy_to, force: false, by: None }).await? {
            FromAgent::Unlocked(unlocked) => Ok(unlocked),
            other => panic!("{other:?}"),
        }
    }

    /// The verbs and releases in `revisions.log`.
    fn revisions(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("app/revisions.log")).unwrap_or_default();
        text.lines().map(|line| line.split(' ').skip(1).take(2).collect::<Vec<_>>().join(" ")).collect()
    }
}

fn ids(pruned: &Pruned) -> Vec<&str> {
    pruned.releases.iter().map(|id| id.as_str()).collect()
}

#[tokio::test]
async fn pruning_takes_what_is_old_and_what_dead_runs_left_and_nothing_else() {
    let host = Host { keep_releases: 10, ..Host::new() };
    for number in 1..=5 {
        host.deploy(&Artifact::version(&number.to_string()), &format!("r{number}")).await;
    }
    // Back to a release that is not among the newest.
    let mut agent = host.agent(&Artifact::version("2"), host.rollback_job(Some("r2"))).await;
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    fs::create_dir_all(host.path("app/releases/.tmp-r9/half")).unwrap();
    fs::write(host.path("app/releases/.tmp-r9/half/file"), [0; 9000]).unwrap();
    fs::create_dir(host.path("app/releases/by-hand")).unwrap();
    fs::write(host.path("app/.fleetdrop/partial/abc"), [0; 9000]).unwrap();
    fs::write(host.path("app/shared/precious"), "kept").unwrap();

    let all = names(&host.path("app/releases"));
    let told = host.prune(2, 1 << 30, true).await.unwrap();
    assert_eq!(ids(&told), ["r3"], "r5 and r4 are the newest, r2 is live, r1 is what it replaced");
    assert_eq!((told.unfinished, told.downloads, told.cached), (1, 1, 0));
    assert!(told.bytes >= 18_000, "{told:?}");
    assert_eq!(names(&host.path("app/releases")), all, "a dry run changes nothing");

    assert_eq!(host.prune(2, 1 << 30, false).await.unwrap(), told, "what was told is what goes");
    assert_eq!(names(&host.path("app/releases")), ["by-hand", "r1", "r2", "r4", "r5"]);
    assert_eq!((host.live().as_deref(), names(&host.path("app/.fleetdrop/partial")).len()), (Some("shop 2"), 0));
    assert_eq!(fs::read_to_string(host.path("app/shared/precious")).unwrap(), "kept");
    let again = host.prune(2, 0, false).await.unwrap();
    assert_eq!((again.releases.len(), again.unfinished, again.cached), (0, 0, 5), "only the cache is left to be cut down");
    assert_eq!(names(&host.path("cache/blobs/sha256")), [""; 0]);
}

#[tokio::test]
async fn nothing_is_pruned_under_a_running_deploy() {
    let host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.until_staged().await;
    for dry_run in [true, false] {
        let failure = host.prune(2, 0, dry_run).await.unwrap_err();
        assert!(failure.message.starts_with("another deploy works there: run 0000000000000002 of anna@laptop"), "{failure:?}");
        assert!(failure.hint.unwrap().contains("`fleetdrop unlock --force`"));
    }
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    assert_eq!(host.live().as_deref(), Some("shop 2"));
}

#[tokio::test]
async fn a_host_without_a_deploy_has_nothing_to_prune_and_no_lock() {
    let host = Host::new();
    let pruned = host.prune(2, 0, false).await.unwrap();
    assert_eq!((pruned.releases.len(), pruned.bytes), (0, 0));
    assert_eq!(host.unlock().await.unwrap(), Unlocked::Free);
    assert_eq!(names(host.dir.path()), [""; 0], "nothing was made");
}

#[tokio::test]
async fn a_lock_is_freed_after_its_holder_and_never_under_it() {
    let host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    assert_eq!(host.unlock().await.unwrap(), Unlocked::Free);
    let holder = LockHolder {
        run: RunId::from_random([3; 8]),
        pid: 4_194_304,
        since: "2026-11-20T03:15:00Z".into(),
        by: Some("anna@laptop".parse().unwrap()),
    };
    fs::write(host.path("app/.fleetdrop/lock"), serde_json::to_vec(&holder).unwrap()).unwrap();
    assert_eq!(host.unlock().await.unwrap(), Unlocked::Left { holder });
    assert_eq!(host.unlock().await.unwrap(), Unlocked::Free, "the trace is gone");

    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.until_staged().await;
    let failure = host.unlock().await.unwrap_err();
    assert_eq!(failure.during, HostState::Preparing);
    assert!(failure.message.contains("has held"), "{failure:?}");
    agent.tell(ToAgent::Stop { reason: StopReason::Interrupted }).await;
    assert_eq!(agent.ended().await, Ended::Orderly);
    assert_eq!(host.unlock().await.unwrap(), Unlocked::Free);
}

#[tokio::test]
async fn deploys_rollbacks_and_reverts_are_written_down() {
    let host = Host::new();
    host.deploy(&Artifact::version("1"), "r1").await;
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.until_staged().await;
    agent.activate().await;
    agent.tell(ToAgent::Revert { reason: "a test".into() }).await;
    agent.reverted().await;
    agent.stop().await;
    host.deploy(&Artifact::version("3"), "r3").await;
    let mut agent = host.agent(&Artifact::version("1"), host.rollback_job(None)).await;
    agent.until_staged().await;
    agent.activate().await;
    agent.confirm().await;
    agent.stop().await;
    assert_eq!(
        host.revisions(),
        [
            "activated r1",
            "confirmed r1",
            "activated r2",
            "reverted r2",
            "activated r3",
            "confirmed r3",
            "rolled-back-to r1",
            "confirmed r1",
        ]
    );
    let log = fs::read_to_string(host.path("app/revisions.log")).unwrap();
    let last = log.lines().last().unwrap();
    let digest = Artifact::version("1").digest();
    let about = format!(" confirmed r1 app=shop sha256={digest} run=0000000000000004 by=anna@laptop");
    assert!(last.ends_with(&about), "{last}");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_told_once_and_stops_nothing() {
    let host = Host::new();
    fs::create_dir_all(host.path("app/revisions.log")).unwrap();
    let mut agent = host.deploying(&Artifact::version("1"), "r1").await;
    agent.until_staged().await;
    agent.tell(ToAgent::Activate).await;
    let warning = agent.warning().await;
    assert!(warning.starts_with("what is live is not written down: cannot open "), "{warning}");
    assert!(matches!(agent.hear().await, FromAgent::Checked));
    agent.tell(ToAgent::Confirm).await;
    let mut said = Vec::new();
    agent.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
    while let Some(message) = agent.hear_any().await {
        said.push(message);
    }
    assert!(!said.iter().any(|message| matches!(message, FromAgent::Warning { .. })), "{said:?}");
    assert_eq!((agent.ended().await, host.live().as_deref()), (Ended::Orderly, Some("shop 1")));
}
