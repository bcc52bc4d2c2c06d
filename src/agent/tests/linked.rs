//! Deploys whose releases share directories and files.

use std::{fs, time::Duration};

use super::{
    engine::Manner,
    support::{Artifact, Host, names, tar},
};
use crate::{
    agent::Ended,
    model::plan::{Command, Hook, Linked, LinkedPath},
    wire::{DeployJob, FromAgent, Job},
};

fn linked(dirs: &[&str], files: &[&str]) -> Linked {
    let paths = |texts: &[&str]| texts.iter().map(|text| LinkedPath::new(text).unwrap()).collect();
    Linked::new(paths(dirs), paths(files)).unwrap()
}

#[tokio::test]
async fn what_is_shared_lives_across_releases_and_their_removal() {
    let host = Host { linked: linked(&["log"], &["conf/key"]), keep_releases: 2, ..Host::new() };
    fs::create_dir_all(host.path("app/shared/conf")).unwrap();
    fs::write(host.path("app/shared/conf/key"), "secret").unwrap();
    for version in ["1", "2", "3"] {
        let files = [("bin/shop", version.as_bytes()), ("log/of-the-artifact", b"x"), ("conf/key", b"not secret")];
        let artifact = Artifact::new("shop.tar", tar(&files));
        host.deploy(&artifact, &format!("r{version}")).await;
        assert_eq!(host.live().as_deref(), Some(version));
        assert_eq!(fs::read_to_string(host.path("app/current/conf/key")).unwrap(), "secret");
        fs::write(host.path("app/current/log").join(version), "").unwrap();
    }
    assert_eq!(host.releases(), ["r2", "r3"]);
    assert_eq!(names(&host.path("app/shared/log")), ["1", "2", "3"]);
    assert_eq!(fs::read_to_string(host.path("app/shared/conf/key")).unwrap(), "secret");
}

#[tokio::test]
async fn a_missing_file_is_told_before_anything_is_transferred_and_the_old_release_stays() {
    let plain = Host::new();
    plain.deploy(&Artifact::version("1"), "r1").await;
    // An engine that never gets everything.
    let host = Host { linked: linked(&[], &[".env", "conf/key"]), manner: Manner::Stalls, ..plain };
    let mut agent = host.deploying(&Artifact::version("2"), "r2").await;
    agent.start().await;
    let failure = agent.failure().await;
    assert!(failure.message.ends_with("/app/shared has no .env, conf/key"), "{failure:?}");
    assert!(failure.hint.unwrap().contains("put them there once"));
    assert_eq!(agent.ended().await, Ended::Orderly);
    assert_eq!((host.live().as_deref(), host.releases()), (Some("shop 1"), vec!["r1".to_owned()]));
}

#[tokio::test]
async fn a_hook_before_staging_may_make_what_is_linked() {
    let mut host = Host { linked: linked(&[], &[".env"]), ..Host::new() };
    let make = "echo made > $FLEETDROP_DEPLOY_TO/shared/.env";
    host.procedure.hooks.before_stage = vec![Hook { command: Command::Shell(make.into()), timeout: Duration::from_secs(20) }];
    host.deploy(&Artifact::version("1"), "r1").await;
    assert_eq!(fs::read_to_string(host.path("app/current/.env")).unwrap(), "made\n");
}

#[tokio::test]
async fn the_same_artifact_with_other_links_is_another_release_and_is_not_transferred_again() {
    let host = Host::new();
    let artifact = Artifact::version("1");
    host.deploy(&artifact, "r1").await;
    let host = Host { linked: linked(&["log"], &[]), manner: Manner::Stalls, ..host };
    host.deploy(&artifact, "r2").await;
    assert!(host.path("app/current/log").is_symlink());
    // Now it is the same.
    let mut agent = host.deploying(&artifact, "r3").await;
    let message = agent.hear().await;
    assert!(matches!(&message, FromAgent::AlreadyActive { current, .. } if current.as_str() == "r2"), "{message:?}");
    agent.stop().await;
}

#[tokio::test]
async fn an_artifact_that_would_lead_a_link_elsewhere_is_refused() {
    let host = Host { linked: linked(&[], &["conf/key"]), ..Host::new() };
    fs::create_dir_all(host.path("app/shared/conf")).unwrap();
    fs::write(host.path("app/shared/conf/key"), "secret").unwrap();
    let artifact = Artifact::new("shop.tar", tar(&[("bin/shop", b"1"), ("conf", b"a file")]));
    let mut agent = host.deploying(&artifact, "r1").await;
    agent.start().await;
    let failure = agent.failure().await;
    assert_eq!(failure.message, "`conf/key` can't be linked: `conf` in the artifact is not a directory");
    assert!(failure.hint.is_some());
    agent.ended().await;
    assert_eq!(host.releases(), [""; 0], "nothing is left of it");
}

#[tokio::test]
async fn a_job_whose_links_are_not_to_be_trusted_is_not_understood() {
    let host = Host::new();
    let job = host.deploy_job(&Artifact::version("1"), "r1");
    for bad in [r#"{"dirs": ["../x"]}"#, r#"{"files": ["a", "a/b"]}"#] {
        let mut job = serde_json::to_value(Job::Deploy(Box::new(job.clone()))).unwrap();
        job["linked"] = serde_json::from_str(bad).unwrap();
        assert!(serde_json::from_value::<Job>(job).is_err(), "{bad}");
    }
    let mut without = serde_json::to_value(&job).unwrap();
    without.as_object_mut().unwrap().remove("linked");
    assert!(serde_json::from_value::<DeployJob>(without).unwrap().linked.is_empty());
}
