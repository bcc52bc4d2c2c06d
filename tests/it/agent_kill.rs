//! The agent is killed, again and again, at moments nobody chose. Whatever it was doing, `current` names a complete release, and the
//! next agent puts things in order.

use std::{path::Path, time::Duration};

use fleetdrop::{
    model::ReleaseId,
    wire::{FromAgent, StopReason, ToAgent},
};
use tokio::time::Instant;

use crate::agent_rig::{Agent, Seeded, fast_dir, live};

const ROUNDS: u32 = 24;
const FILES: usize = 40;

/// A release of many files that all say which version they are of.
fn archive(version: u32) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for n in 0..FILES {
        let content = format!("version {version} ").repeat(4000);
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, format!("lib/part-{n}"), content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Returns the live release after checking that it is whole.
fn checked(dir: &Path) -> Option<ReleaseId> {
    let current = dir.join("app/current");
    let Some(live) = live(dir) else {
        assert!(!current.is_symlink(), "current points to nothing");
        return None;
    };
    let id = live.file_name().unwrap().to_str().unwrap().to_owned();
    let expected = format!("version {} ", id.trim_start_matches('r'));
    for n in 0..FILES {
        let content = std::fs::read_to_string(live.join(format!("lib/part-{n}"))).unwrap();
        assert!(content == expected.repeat(4000), "{id} is not whole: lib/part-{n}");
    }
    Some(id.parse().unwrap())
}

/// How far a conversation got.
#[derive(Debug, Default, Clone, Copy)]
struct Reached {
    confirm_sent: bool,
    confirmed: bool,
}

/// Talks to an agent like a controller until it has ended or the deploy is confirmed.
async fn converse(agent: &mut Agent, reached: &mut Reached) {
    while let Some(message) = agent.answer().await {
        let answer = match message {
            FromAgent::Prepared { .. } => ToAgent::Start { peers: Vec::new() },
            FromAgent::Staged { .. } => ToAgent::Activate,
            FromAgent::Activated { .. } => continue,
            FromAgent::Checked => {
                reached.confirm_sent = true;
                ToAgent::Confirm
            }
            FromAgent::Confirmed => {
                reached.confirmed = true;
                ToAgent::Stop { reason: StopReason::Finished }
            }
            other => panic!("{other:?}"),
        };
        agent.tell(answer).await;
    }
}

#[tokio::test]
async fn an_agent_killed_at_any_moment_leaves_a_complete_release_live_and_the_next_one_recovers() {
    let dir = fast_dir();
    let mut confirmed: Option<ReleaseId> = None;
    let mut whole = Duration::from_millis(100);
    let mut moments = Vec::new();
    for round in 1..=ROUNDS {
        let artifact = Seeded::new("shop.tar", &archive(round)).await;
        let release = format!("r{round}");
        let mut reached = Reached::default();
        let begin = Instant::now();
        let mut agent = Agent::deploying(artifact.job(dir.path(), &release)).await;
        // Every fourth one may live, so that there is something to go back to and to measure.
        let death = if round % 4 == 2 { Duration::from_secs(60) } else { whole.mul_f64(fastrand::f64() * 1.1) };
        if tokio::time::timeout(death, converse(&mut agent, &mut reached)).await.is_ok() {
            whole = begin.elapsed();
        }
        agent.child.kill().await.unwrap();
        moments.push((death, reached));
        let story = || format!("round {round}: killed after {death:?} of {whole:?}, {reached:?}");

        let now = checked(dir.path());
        let new: ReleaseId = release.parse().unwrap();
        assert!(now == confirmed || now.as_ref() == Some(&new), "{}: {now:?} is live", story());

        // The next agent: same artifact, another release; stopped before it changes anything.
        let mut next = Agent::deploying(artifact.job(dir.path(), "next")).await;
        let current = match next.answer().await {
            Some(FromAgent::Prepared { current, .. }) => current,
            Some(FromAgent::AlreadyActive { current, .. }) => Some(current),
            other => panic!("{}: {other:?}", story()),
        };
        next.tell(ToAgent::Stop { reason: StopReason::Interrupted }).await;
        assert!(next.exit().await.success());
        assert_eq!(checked(dir.path()), current, "{}", story());
        if reached.confirmed {
            assert_eq!(current.as_ref(), Some(&new), "{}", story());
        } else if !reached.confirm_sent {
            assert_eq!(current, confirmed, "{}", story());
        } else {
            // The confirmation was on its way: either it was journalled or it was not.
            assert!(current == confirmed || current.as_ref() == Some(&new), "{}", story());
        }
        let leftovers: Vec<_> = std::fs::read_dir(dir.path().join("app/releases"))
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| !name.starts_with('r'))
            .collect();
        assert!(leftovers.is_empty(), "{}: {leftovers:?}", story());
        confirmed = current;
        artifact.seed.stop().await;
    }
    assert!(confirmed.is_some(), "no deploy went through");
    assert!(moments.iter().any(|(_, reached)| !reached.confirm_sent), "no agent was killed early");
}
