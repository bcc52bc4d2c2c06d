//! Engines that are far from each other.

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::*;

/// How long a byte is on its way.
const ONE_WAY: Duration = Duration::from_millis(50);
/// What may be on its way in one direction, in parts of at most as many bytes.
const PARTS: usize = 1024;
const PART: usize = 64 << 10;

/// Passes on what comes in one direction, each byte so much later.
async fn delay(mut from: impl tokio::io::AsyncRead + Unpin, mut to: impl tokio::io::AsyncWrite + Unpin) {
    let (sender, mut parts) = mpsc::channel::<(Instant, Vec<u8>)>(PARTS);
    let take = async move {
        let mut part = vec![0; PART];
        while let Ok(length @ 1..) = from.read(&mut part).await {
            if sender.send((Instant::now() + ONE_WAY, part[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let give = async move {
        while let Some((at, part)) = parts.recv().await {
            sleep_until(at).await;
            if to.write_all(&part).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(take, give);
}

/// A far way to an address; it ends with the test's runtime.
async fn far(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let here = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((from, to), (far_from, far_to)) = (near.into_split(), far.into_split());
            tokio::spawn(delay(from, far_to));
            tokio::spawn(delay(far_from, to));
        }
    });
    here
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_neighbour_is_asked_for_as_much_as_the_way_holds() {
    let artifact = Artifact::new(8 << 20, 16 << 10);
    // A complete host: nothing is pushed.
    std::fs::copy(artifact.path("artifact"), artifact.path("complete")).unwrap();
    let complete_host = artifact.host("complete", &[]).await;
    let begun = Instant::now();
    let mut host = artifact.host("host", &[far(complete_host.local_addr).await]).await;
    complete(&mut host).await;
    let took = begun.elapsed();
    host.stop().await;
    complete_host.stop().await;
    artifact.assert_same(&artifact.path("host"));
    // With the usual four pieces for each round trip.
    let one_by_one = ONE_WAY * 2 * artifact.meta.piece_count() / 4;
    assert!(took * 3 < one_by_one, "{took:?}, with the usual few pieces {one_by_one:?}");
}
