//! A reader and a writer without a session: what they say and when.

use librqbit_peer_protocol::{Message, Request};
use proptest::prelude::*;
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;
use tokio::io::DuplexStream;

use super::*;
use crate::swarm::{
    Role,
    protocol::{BLOCK, HAVE_LEN},
    storage::{CHUNK, Report, Threads},
};

const KEY: PeerKey = PeerKey(7);
/// So many pieces may arrive at the same time.
const ARRIVING: usize = 3;

struct Rig {
    context: Arc<Context>,
    link: Arc<Link>,
    events: mpsc::Receiver<(PeerKey, Event)>,
    /// The peer's end.
    peer: DuplexStream,
    threads: Threads,
    _dir: TempDir,
}

/// A host that has nothing of a torrent of zeros, and the reader of its connection to the controller.
fn rig(pieces: u32, piece_length: u32) -> (Rig, impl Future<Output = Exit>) {
    rig_of(pieces, piece_length, true)
}

/// The same for a connection to the controller or to anybody.
fn rig_of(pieces: u32, piece_length: u32, controller: bool) -> (Rig, impl Future<Output = Exit>) {
    let hash = Sha1::digest(vec![0; piece_length as usize]).into();
    let length = u64::from(pieces) * u64::from(piece_length);
    let meta = Arc::new(Metainfo::new("a", length, piece_length, vec![hash; pieces as usize]).unwrap());
    let dir = TempDir::new().unwrap();
    let (storage, threads, _) = Storage::open(meta.clone(), &Role::Host { file: dir.path().join("a") }).unwrap();
    let (sender, events) = mpsc::channel(1024);
    let queued = Arc::new(Semaphore::new(0));
    let link = Arc::new(Link::new(&meta, queued.clone()));
    let context = Arc::new(Context {
        meta,
        storage,
        tls: None,
        peer_id: Id20::new([1; 20]),
        seed: false,
        place: None,
        port: 1,
        haves: HaveLog::new(pieces),
        queued,
        arriving: Arc::new(Semaphore::new(ARRIVING)),
        bounds: crate::swarm::Bounds::default(),
        counters: Counters::default(),
        events: sender,
    });
    let (near, peer) = tokio::io::duplex(16 << 20);
    let reader = {
        let (context, link) = (context.clone(), link.clone());
        let (input, output) = tokio::io::split(Box::new(near) as Stream);
        async move {
            let exit = reader::run(
                &context,
                &link,
                KEY,
                Terms { extended: true, controller, shook: Instant::now(), answered: Some(Duration::ZERO) },
                input,
            )
            .await;
            drop(output);
            exit
        }
    };
    (Rig { context, link, events, peer, threads, _dir: dir }, reader)
}

impl Rig {
    async fn send_piece(&mut self, piece: u32) {
        let blocks = self.link.size(piece) / BLOCK;
        for block in 0..blocks {
            self.peer.write_all(&protocol::piece_header(piece, block * BLOCK, BLOCK)).await.unwrap();
            self.peer.write_all(&[0; BLOCK as usize]).await.unwrap();
        }
    }

    fn heard(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|(_, event)| event).collect()
    }

    async fn end(self) {
        drop((self.context, self.link));
        drop(self.events);
        self.threads.join().await;
    }
}

/// Keeps the thread of piece 0 busy and its queue full until the returned sender is dropped.
async fn hang(storage: &Storage) -> std::sync::mpsc::Sender<()> {
    let (release, hung) = std::sync::mpsc::channel::<()>();
    let (started, running) = oneshot::channel();
    let first: Report = Box::new(move |_| {
        started.send(()).unwrap();
        let _ = hung.recv();
    });
    storage.reserve(0).await.unwrap().finish(0, vec![1].into(), Sha1::default(), None, first);
    running.await.unwrap();
    while let Ok(place) = timeout(Duration::from_millis(1), storage.reserve(0)).await {
        place.unwrap().finish(0, vec![1].into(), Sha1::default(), None, Box::new(|_| ()));
    }
    release
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_our_busy_storage_did_not_take_was_never_received() {
    let (mut rig, reader) = rig(2, 64 << 10);
    let release = hang(&rig.context.storage).await;
    rig.link.ask(0);
    rig.send_piece(0).await;
    let exit = timeout(STALL_TIMEOUT * 10, reader).await;
    assert!(exit.is_err(), "the peer was blamed for our storage: {exit:?}");
    let heard = rig.heard();
    assert!(heard.iter().any(|event| matches!(event, Event::Progress(0))), "{heard:?}");
    assert!(!heard.iter().any(|event| matches!(event, Event::Received(_))), "its check was never submitted: {heard:?}");
    assert!(rig.link.expects(0).is_some());
    drop(release);
    rig.end().await;
}

#[tokio::test]
async fn a_received_piece_is_checked_and_one_taken_back_meanwhile_is_not() {
    let (mut rig, reader) = rig(2, 64 << 10);
    let mut reader = Box::pin(reader);
    let release = hang(&rig.context.storage).await;
    rig.link.ask(0);
    rig.send_piece(0).await;
    assert!(timeout(Duration::from_millis(20), &mut reader).await.is_err());
    rig.link.forget(0);
    drop(release);
    rig.link.ask(1);
    rig.send_piece(1).await;
    let mut heard = Vec::new();
    while !heard.iter().any(|event| matches!(event, Event::Checked(..))) {
        tokio::select! {
            exit = &mut reader => panic!("{exit:?}"),
            Some((_, event)) = rig.events.recv() => heard.push(event),
        }
    }
    let received: Vec<_> = heard.iter().filter(|event| matches!(event, Event::Received(_))).collect();
    assert!(matches!(received[..], [Event::Received(1)]), "{heard:?}");
    assert!(matches!(heard.last(), Some(Event::Checked(1, Checked::Good))), "{heard:?}");
    drop(reader);
    rig.end().await;
}

#[tokio::test]
async fn a_push_of_a_long_piece_that_another_delivers_is_cancelled_and_no_violation() {
    let (mut rig, reader) = rig(1, 8 << 20);
    let other = rig.context.storage.claim(0);
    rig.peer.write_all(&protocol::extension_handshake(true, None, 1)).await.unwrap();
    rig.send_piece(0).await;
    rig.peer.shutdown().await.unwrap();
    let exit = timeout(HANDSHAKE_TIMEOUT * 5, reader).await.unwrap();
    assert!(matches!(exit, Exit::Io(_)), "{exit:?}");
    assert_eq!(rig.link.cancels().len(), (8 << 20) / BLOCK as usize);
    drop(other);
    rig.end().await;
}

#[tokio::test]
async fn who_says_that_it_is_the_seed_is_not_believed() {
    for controller in [true, false] {
        let (mut rig, reader) = rig_of(2, 64 << 10, controller);
        rig.peer.write_all(&protocol::extension_handshake(true, None, 1)).await.unwrap();
        rig.send_piece(0).await;
        rig.peer.shutdown().await.unwrap();
        let exit = timeout(HANDSHAKE_TIMEOUT * 5, reader).await.unwrap();
        assert!(matches!(exit, Exit::Io(_)), "{exit:?}");
        let heard = rig.heard();
        let joined =
            heard.iter().any(|event| matches!(event, Event::Joined(Extensions { seed, .. }, _) if *seed == controller));
        let pushed = heard.iter().any(|event| matches!(event, Event::Pushed(0)));
        assert!(joined && pushed == controller, "{heard:?}");
        assert_eq!(rig.link.cancels().len(), if controller { 0 } else { 4 });
        rig.end().await;
    }
}

#[tokio::test]
async fn pieces_that_arrive_at_the_same_time_are_bounded_and_the_rest_wait_for_memory() {
    let (mut rig, reader) = rig(5, 64 << 10);
    let mut reader = Box::pin(reader);
    for piece in 0..5 {
        rig.link.ask(piece);
        rig.peer.write_all(&protocol::piece_header(piece, 0, BLOCK)).await.unwrap();
        rig.peer.write_all(&[0; BLOCK as usize]).await.unwrap();
    }
    let begun = |rig: &mut Rig| rig.heard().iter().filter(|event| matches!(event, Event::Progress(_))).count();
    assert!(timeout(Duration::from_millis(20), &mut reader).await.is_err());
    assert_eq!((begun(&mut rig), rig.context.arriving.available_permits()), (ARRIVING, 0));
    // What is taken back makes room, what is complete as well.
    rig.link.forget(0);
    assert!(timeout(Duration::from_millis(20), &mut reader).await.is_err());
    assert_eq!(begun(&mut rig), 1);
    (1..5).for_each(|piece| drop(rig.link.forget(piece)));
    assert!(timeout(Duration::from_millis(20), &mut reader).await.is_err());
    assert_eq!(rig.context.arriving.available_permits(), ARRIVING, "something is kept");
    drop(reader);
    rig.end().await;
}

#[tokio::test]
async fn announcements_that_came_together_are_reported_together() {
    let (mut rig, reader) = rig(4, 64 << 10);
    let mut bytes = Vec::new();
    for piece in [3, 0, 2] {
        protocol::write_message(&Message::Have(piece), &mut bytes);
    }
    rig.peer.write_all(&bytes).await.unwrap();
    rig.peer.shutdown().await.unwrap();
    assert!(matches!(reader.await, Exit::Io(_)));
    let heard = rig.heard();
    assert!(matches!(&heard[..], [Event::Joined(..), Event::Have(pieces)] if *pieces == [3, 0, 2]), "{heard:?}");
    rig.end().await;
}

#[tokio::test]
async fn many_announcements_are_reported_in_parts() {
    let (mut rig, reader) = rig(1000, 16 << 10);
    let mut bytes = Vec::new();
    (0..1000).for_each(|piece| protocol::write_message(&Message::Have(piece), &mut bytes));
    rig.peer.write_all(&bytes).await.unwrap();
    rig.peer.shutdown().await.unwrap();
    assert!(matches!(reader.await, Exit::Io(_)));
    let reported =
        rig.heard().into_iter().filter_map(|event| if let Event::Have(pieces) = event { Some(pieces) } else { None });
    let reported: Vec<Vec<u32>> = reported.collect();
    assert!(reported.iter().all(|pieces| pieces.len() <= 256), "{reported:?}");
    assert!(reported.concat().into_iter().eq(0..1000), "{reported:?}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn announcements_go_together_or_with_whatever_else_is_written() {
    let (rig, reader) = rig(1 << 10, BLOCK);
    drop(reader);
    let (commands, orders) = mpsc::channel(COMMANDS);
    let welcome = Welcome { have: PieceSet::new(1 << 10), cursor: 0, commands: orders };
    let (near, mut peer) = tokio::io::duplex(1 << 10);
    let (_input, output) = tokio::io::split(Box::new(near) as Stream);
    let every = Duration::from_millis(10);
    let check = async {
        let (haves, mut bytes, start) = (&rig.context.haves, [0; 1 << 10], Instant::now());
        let pieces_come = async {
            for piece in 0..100 {
                haves.push(piece);
                tokio::time::sleep(every).await;
            }
        };
        let peer_hears = async {
            let mut heard = Vec::new();
            while heard.last().is_none_or(|(told, _)| *told < 100) {
                let read = peer.read(&mut bytes).await.unwrap();
                let before = heard.last().map_or(0, |(told, _)| *told);
                let told = before + (read / HAVE_LEN) as u32;
                assert!(bytes[..read].chunks(HAVE_LEN).map(protocol::read_have).eq((before..told).map(Some)));
                heard.push((told, start.elapsed()));
            }
            heard
        };
        let ((), heard) = tokio::join!(pieces_come, peer_hears);
        assert_eq!(heard[0].0, 1);
        assert!(heard[0].1 < every, "the first had to wait");
        assert!(heard.len() < 20, "hardly any went together: {heard:?}");
        assert!(heard[heard.len() - 1].1 <= every * (99 + 17), "the last was told late: {heard:?}");
        let before = Instant::now();
        haves.push(100);
        commands.send(Command::Unchoke).await.unwrap();
        assert_eq!(peer.read(&mut bytes).await.unwrap(), 5 + HAVE_LEN, "it goes along");
        assert!(before.elapsed() < every);
    };
    tokio::select! {
        exit = writer::run(&rig.context, &rig.link, KEY, false, welcome, output) => panic!("{exit:?}"),
        () = check => {}
    }
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_chunk_is_kept_for_a_peer_that_takes_nothing() {
    // More than the storage remembers.
    const PIECES: u32 = 20;
    let (mut rig, reader) = rig(PIECES, CHUNK);
    drop(reader);
    let file = rig._dir.path().join("complete");
    std::fs::write(&file, vec![0; (PIECES * CHUNK) as usize]).unwrap();
    let (storage, threads, _) = Storage::open(rig.context.meta.clone(), &Role::Seed { file }).unwrap();
    Arc::get_mut(&mut rig.context).unwrap().storage = storage;
    let begins = || (0..CHUNK).step_by(BLOCK as usize);
    for begin in begins() {
        rig.link.wanted(&Request::new(0, begin, BLOCK)).unwrap();
    }
    let (commands, orders) = mpsc::channel(COMMANDS);
    commands.send(Command::Send { piece: 0, push: false }).await.unwrap();
    let welcome = Welcome { have: PieceSet::new(PIECES), cursor: 0, commands: orders };
    let (near, mut peer) = tokio::io::duplex(1 << 10);
    let (_input, output) = tokio::io::split(Box::new(near) as Stream);
    let storage = &rig.context.storage;
    let chunk = storage.read(0, 0).await.unwrap();
    let mut writing = Box::pin(writer::run(&rig.context, &rig.link, KEY, false, welcome, output));
    let mut bytes = vec![0; begins().map(|begin| protocol::piece_header(0, begin, BLOCK).len() + BLOCK as usize).sum()];
    tokio::select! {
        exit = &mut writing => panic!("{exit:?}"),
        read = peer.read_exact(&mut bytes[..1]) => drop(read.unwrap()),
    }
    for piece in 1..PIECES {
        storage.read(piece, 0).await.unwrap();
    }
    let check = async {
        tokio::time::sleep(writer::SLOW * 2).await;
        assert!(chunk.is_unique(), "somebody else has it");
        peer.read_exact(&mut bytes[1..]).await.unwrap();
        let sent = begins().flat_map(|begin| [&protocol::piece_header(0, begin, BLOCK)[..], &[0; BLOCK as usize]].concat());
        assert!(sent.eq(bytes), "what was written late is not the same");
    };
    tokio::select! {
        exit = writing => panic!("{exit:?}"),
        () = check => {}
    }
    rig.end().await;
    threads.join().await;
}

/// Bytes as a peer may send them: messages of every kind, right and wrong, and noise.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let frame = |message: Message<'_>| {
        let mut out = Vec::new();
        protocol::write_message(&message, &mut out);
        out
    };
    let block = |piece: u32, block: u32, length: u32| {
        [&protocol::piece_header(piece, block * BLOCK, length)[..], &vec![0; length as usize]].concat()
    };
    let some = |most| prop::collection::vec(any::<u8>(), 0..most);
    let part = prop_oneof![
        2 => Just(frame(Message::KeepAlive)),
        2 => any::<bool>().prop_map(move |choke| frame(if choke { Message::Choke } else { Message::Unchoke })),
        2 => (0u32..4).prop_map(move |piece| frame(Message::Have(piece))),
        2 => (0u32..5, 0u32..70_000, 0u32..20_000).prop_map(move |(p, b, l)| frame(Message::Request(Request::new(p, b, l)))),
        4 => (0u32..3, 0u32..5, prop_oneof![4 => Just(BLOCK), 1 => 1..BLOCK]).prop_map(move |(p, b, l)| block(p, b, l)),
        1 => Just(protocol::extension_handshake(false, None, 1)),
        1 => some(3).prop_map(|bits| [&(bits.len() as u32 + 1).to_be_bytes()[..], &[5], &bits].concat()),
        1 => (8u8.., some(50)).prop_map(|(id, rest)| [&(rest.len() as u32 + 1).to_be_bytes()[..], &[id], &rest].concat()),
        1 => some(20),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// What a reader says of bytes that come in those packets, and how it ends. Progress depends on the clock, checks on other threads.
async fn heard_of(packets: Vec<&[u8]>) -> (Vec<String>, String) {
    let (mut rig, reader) = rig(4, 64 << 10);
    for piece in [0, 1] {
        rig.link.ask(piece);
    }
    rig.link.requests();
    let mut reader = Box::pin(reader);
    let mut ended = None;
    for packet in packets {
        if ended.is_some() {
            break;
        }
        rig.peer.write_all(packet).await.unwrap();
        // As long as it has something to read, it reads.
        for _ in 0..20 {
            if ended.is_none() {
                ended = tokio::select! { biased; exit = &mut reader => Some(exit), () = tokio::task::yield_now() => None };
            }
        }
    }
    // It may have hung up.
    let _ = rig.peer.shutdown().await;
    let exit = match ended {
        Some(exit) => exit,
        None => timeout(HANDSHAKE_TIMEOUT * 5, &mut reader).await.unwrap(),
    };
    let heard = rig.heard().into_iter().filter(|event| !matches!(event, Event::Progress(_) | Event::Checked(..)));
    let said = |event| match event {
        // Those that come together are reported together.
        Event::Have(pieces) => pieces.into_iter().map(|piece| format!("Have({piece})")).collect(),
        event => vec![format!("{event:?}")],
    };
    let heard = heard.flat_map(said).collect();
    drop(reader);
    rig.end().await;
    (heard, exit.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_is_read_the_same_however_it_is_split(bytes in any_bytes(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let packets = [0].into_iter().chain(cuts.iter().copied()).zip(ends).map(|(start, end)| &bytes[start..end]).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (whole, split) = runtime.block_on(async { (heard_of(vec![&bytes]).await, heard_of(packets).await) });
        prop_assert_eq!(whole, split);
    }
}
