//! The agent is killed in every part of its work, at moments nobody chose. Whatever it was doing, `current` names a complete release, and
//! the next agent puts things in order.

use std::{path::Path, time::Duration};

use fleetdrop::{
    model::{HostState, ReleaseId},
    wire::{FromAgent, StopReason, ToAgent},
};

use crate::agent_rig::{Agent, Seeded, fast_dir, live};

/// Tells whether a message is the one before a part of an agent's work.
type Begins = fn(&FromAgent) -> bool;

/// What an agent says before a part of its work begins.
const PARTS: [(&str, Begins); 7] = [
    ("prepared", |message| matches!(message, FromAgent::Prepared { .. })),
    ("downloading", |message| matches!(message, FromAgent::State { state: HostState::Downloading })),
    ("extracting", |message| matches!(message, FromAgent::State { state: HostState::Extracting })),
    ("staged", |message| matches!(message, FromAgent::Staged { .. })),
    ("activated", |message| matches!(message, FromAgent::Activated { .. })),
    ("checked", |message| matches!(message, FromAgent::Checked)),
    ("confirmed", |message| matches!(message, FromAgent::Confirmed)),
];
/// How often it is killed in each of them.
const TIMES: usize = 3;
/// How long after it said so it is killed at most: about as long as such a part takes.
const MOMENT: Duration = Duration::from_millis(15);
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

/// Talks to an agent like a controller until it has said what `last` likes, and has its answer.
async fn converse(agent: &mut Agent, reached: &mut Reached, last: impl Fn(&FromAgent) -> bool) {
    loop {
        let message = agent.hear().await.expect("nobody has killed it yet");
        let is_last = last(&message);
        let answer = match message {
            FromAgent::Prepared { .. } => Some(ToAgent::Start { peers: Vec::new() }),
            FromAgent::Staged { .. } => Some(ToAgent::Activate),
            FromAgent::Checked => {
                reached.confirm_sent = true;
                Some(ToAgent::Confirm)
            }
            FromAgent::Confirmed => {
                reached.confirmed = true;
                Some(ToAgent::Stop { reason: StopReason::Finished })
            }
            FromAgent::Failed(failure) => panic!("{failure:?}"),
            _ => None,
        };
        if let Some(answer) = answer {
            agent.tell(answer).await;
        }
        if is_last {
            return;
        }
    }
}

#[tokio::test]
async fn an_agent_killed_in_any_part_of_its_work_leaves_a_complete_release_live_and_the_next_one_recovers() {
    let dir = fast_dir();
    let mut confirmed: Option<ReleaseId> = None;
    let deaths = PARTS.iter().cycle().take(PARTS.len() * TIMES);
    for (round, (part, begins)) in (1..).zip(deaths) {
        let artifact = Seeded::new("shop.tar", &archive(round)).await;
        let release = format!("r{round}");
        let mut reached = Reached::default();
        let mut agent = Agent::deploying(artifact.job(dir.path(), &release)).await;
        converse(&mut agent, &mut reached, begins).await;
        let moment = MOMENT.mul_f64(fastrand::f64());
        tokio::time::sleep(moment).await;
        agent.child.kill().await.unwrap();
        let story = || format!("round {round}: killed {moment:?} after it was {part}");

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
}
