use super::*;

fn queue() -> (Arc<Queue>, Reader) {
    let queue = Arc::new(Queue::default());
    (queue.clone(), Reader(queue))
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_waits_for_its_reader_but_not_for_ever() {
    let (queue, mut reader) = queue();
    assert!(queue.room().await);
    queue.push(Bytes::from(vec![0; QUEUE - PIECE]));
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.room().await }
    });
    tokio::time::sleep(STALL_LIMIT - Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    // A reader that is slow but reads is waited for.
    reader.read_exact(&mut [0; 1]).await.unwrap();
    assert!(waiting.await.unwrap());
    queue.push(Bytes::from_static(&[0; 10]));
    assert!(!queue.room().await, "nothing was read for {STALL_LIMIT:?}");
}

#[tokio::test(start_paused = true)]
async fn single_bytes_fill_a_queue_by_what_they_cost_and_leave_nothing_behind() {
    let (queue, mut reader) = queue();
    for _ in 0..QUEUE / PIECE {
        queue.push(Bytes::from_static(b"x"));
    }
    assert!(!queue.room().await);
    reader.read_exact(&mut vec![0; QUEUE / PIECE]).await.unwrap();
    assert_eq!(queue.lock().size, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_makes_room_and_what_follows_is_discarded() {
    let (queue, reader) = queue();
    queue.push(Bytes::from(vec![0; QUEUE]));
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.room().await }
    });
    tokio::task::yield_now().await;
    drop(reader);
    assert!(waiting.await.unwrap());
    queue.push(Bytes::from(vec![0; QUEUE]));
    assert_eq!(queue.lock().size, 0);
    queue.reader_gone().await;
}

#[tokio::test]
async fn what_came_before_the_end_is_read_before_it() {
    let (queue, mut reader) = queue();
    queue.push(Bytes::from_static(b"last "));
    queue.push(Bytes::from_static(b"words"));
    queue.end(Some(&SshError::Lost { address: "web1".to_owned(), reason: "gone".to_owned() }));
    queue.push(Bytes::from_static(b"too late"));
    let mut text = Vec::new();
    let error = reader.read_to_end(&mut text).await.unwrap_err();
    assert_eq!((&text[..], error.to_string().as_str()), (&b"last words"[..], "web1: the SSH connection was lost: gone"));
    queue.end(None);
    assert!(reader.read(&mut [0]).await.is_err(), "the first end counts");
}

#[test]
fn statuses_say_what_happened() {
    assert_eq!(ExitStatus::Code(3).to_string(), "exit code 3");
    assert_eq!(ExitStatus::Signal(signal(Sig::KILL)).to_string(), "signal KILL");
    assert_eq!(signal(Sig::Custom("X\x1b".to_owned())), "X?");
    assert!(ExitStatus::Code(0).success() && !ExitStatus::Signal("TERM".to_owned()).success());
}
