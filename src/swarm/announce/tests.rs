//! The loop against a scripted tracker. The clock is paused: it jumps ahead when everybody waits.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::*;

const LEFT: AnnounceProgress = AnnounceProgress { uploaded: 0, downloaded: 0, left: 10 };
const NOTHING_LEFT: AnnounceProgress = AnnounceProgress { uploaded: 0, downloaded: 10, left: 0 };

/// Answers by number of the request, remembers what it was told and when, and says each request to whom it may concern.
struct Script<F> {
    answer: F,
    began: Instant,
    asked: AtomicUsize,
    told: Mutex<Vec<(Option<Event>, u64, Duration)>>,
    asks: watch::Sender<usize>,
}

impl<F: Fn(usize) -> Result<Reply, AnnounceError> + Sync> Script<F> {
    fn new(answer: F) -> Self {
        Self { answer, began: Instant::now(), asked: AtomicUsize::new(0), told: Mutex::default(), asks: watch::channel(0).0 }
    }

    async fn asked(&self, times: usize) {
        self.asks.subscribe().wait_for(|asked| *asked >= times).await.unwrap();
    }

    fn events(&self) -> Vec<(Option<Event>, u64)> {
        self.told.lock().unwrap().iter().map(|(event, left, _)| (*event, *left)).collect()
    }

    fn pauses(&self) -> Vec<Duration> {
        self.told.lock().unwrap().windows(2).map(|pair| pair[1].2 - pair[0].2).collect()
    }
}

impl<F: Fn(usize) -> Result<Reply, AnnounceError> + Sync> Exchange for Script<F> {
    async fn announce(&self, request: &Request) -> Result<Reply, AnnounceError> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        self.told.lock().unwrap().push((request.event, request.progress.left, self.began.elapsed()));
        self.asks.send_replace(asked + 1);
        (self.answer)(asked)
    }
}

fn request() -> Request {
    let (info_hash, peer_id) = (Id20::new([1; 20]), Id20::new([2; 20]));
    Request { info_hash, peer_id, port: 7, advertise: None, progress: LEFT, event: None }
}

fn every(seconds: u64) -> Reply {
    Reply { interval: Some(Duration::from_secs(seconds)), ..Reply::default() }
}

/// Runs the loop with `start` as the first progress while `act` works on it; then stops it.
async fn drive<F, A>(script: &Script<F>, start: AnnounceProgress, act: A)
where
    F: Fn(usize) -> Result<Reply, AnnounceError> + Sync,
    A: AsyncFnOnce(&watch::Sender<AnnounceProgress>, &mut mpsc::Receiver<Vec<SocketAddr>>),
{
    let (progress, progress_rx) = watch::channel(start);
    let (peers, mut peers_rx) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let acting = async {
        act(&progress, &mut peers_rx).await;
        stop.cancel();
    };
    tokio::join!(run(script, request(), progress_rx, stop.clone(), peers), acting);
}

#[tokio::test(start_paused = true)]
async fn a_peers_life_is_told_in_order() {
    let script = Script::new(|_| Ok(every(60)));
    drive(&script, LEFT, async |progress, _| {
        script.asked(2).await;
        progress.send_replace(NOTHING_LEFT);
        script.asked(4).await;
    })
    .await;
    use Event::{Completed, Started, Stopped};
    assert_eq!(script.events(), [(Some(Started), 10), (None, 10), (Some(Completed), 0), (None, 0), (Some(Stopped), 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_seed_completes_nothing() {
    let script = Script::new(|_| Ok(every(60)));
    drive(&script, NOTHING_LEFT, async |progress, _| {
        progress.send_replace(AnnounceProgress { uploaded: 5, ..NOTHING_LEFT });
        script.asked(2).await;
    })
    .await;
    assert_eq!(script.events(), [(Some(Event::Started), 0), (None, 0), (Some(Event::Stopped), 0)]);
}

#[tokio::test(start_paused = true)]
async fn the_interval_is_jittered_and_kept_within_bounds() {
    for (said, least, most) in [(0, 5.0, 5.0), (100, 85.0, 100.0), (u64::MAX, 1530.0, 1800.0)] {
        let script = Script::new(|_| Ok(every(said)));
        drive(&script, LEFT, async |_, _| script.asked(20).await).await;
        let pauses = script.pauses();
        for pause in &pauses[..18] {
            let pause = pause.as_secs_f64();
            assert!(pause >= least - 0.01 && pause <= most + 0.01, "{pause} for {said}");
        }
        assert!(said == 0 || pauses[0] != pauses[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn errors_are_retried_with_growing_pauses_until_started_is_heard() {
    let script = Script::new(|asked| if asked < 12 { Err(AnnounceError::Malformed) } else { Ok(every(60)) });
    drive(&script, LEFT, async |progress, _| {
        script.asked(3).await;
        progress.send_replace(NOTHING_LEFT);
        script.asked(14).await;
    })
    .await;
    let events = script.events();
    assert!(events[..13].iter().all(|(event, _)| *event == Some(Event::Started)), "{events:?}");
    // It was complete when the tracker first heard of it.
    assert_eq!(events[12..], [(Some(Event::Started), 0), (None, 0), (Some(Event::Stopped), 0)]);
    let pauses = script.pauses();
    assert!(pauses[0] >= FIRST_PAUSE / 2 && pauses[0] <= FIRST_PAUSE, "{pauses:?}");
    assert!(pauses[..12].iter().all(|pause| *pause <= MAX_PAUSE), "{pauses:?}");
    assert!(pauses[11] >= MAX_PAUSE / 2, "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn completed_is_told_again_if_it_was_not_heard() {
    let script = Script::new(|asked| if asked == 1 { Err(AnnounceError::Status(500)) } else { Ok(every(60)) });
    drive(&script, LEFT, async |progress, _| {
        script.asked(1).await;
        progress.send_replace(NOTHING_LEFT);
        script.asked(4).await;
    })
    .await;
    use Event::{Completed, Started, Stopped};
    assert_eq!(
        script.events(),
        [(Some(Started), 10), (Some(Completed), 0), (Some(Completed), 0), (None, 0), (Some(Stopped), 0)]
    );
}

#[tokio::test(start_paused = true)]
async fn peers_are_handed_over_and_a_slow_taker_holds_nothing_up() {
    let peer: SocketAddr = "10.0.0.1:1".parse().unwrap();
    let script = Script::new(|_| Ok(Reply { peers: vec![peer], ..every(5) }));
    drive(&script, LEFT, async |_, peers| {
        assert_eq!(peers.recv().await, Some(vec![peer]));
        // Nobody takes the next ones: the loop waits with one set in the channel and one in hand, and can still be stopped.
        script.asked(3).await;
    })
    .await;
    assert_eq!(script.events().last(), Some(&(Some(Event::Stopped), 10)));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_is_there_any_more() {
    for close_peers in [true, false] {
        let script = Script::new(|_| Ok(every(60)));
        let (progress, progress_rx) = watch::channel(LEFT);
        let (peers, peers_rx) = mpsc::channel(1);
        let closing = async {
            script.asked(1).await;
            if close_peers { drop(peers_rx) } else { drop(progress) }
        };
        tokio::join!(run(&script, request(), progress_rx, CancellationToken::new(), peers), closing);
        assert_eq!(script.events().len(), 2, "{close_peers}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tracker_that_never_heard_of_us_is_not_told_that_we_leave() {
    let script = Script::new(|_| Err(AnnounceError::Malformed));
    drive(&script, LEFT, async |_, _| script.asked(2).await).await;
    assert!(script.events().iter().all(|(event, _)| *event == Some(Event::Started)));
}
