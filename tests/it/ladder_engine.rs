//! Direct downloads of one engine: origins that send only whole files, and the controller's own web server.

use std::fs;

use fleetdrop::{
    model::origin::{Origin, OriginStyle, Origins},
    swarm::{Engine as _, EngineConfig, EngineHandle, FleetEngine, Reach, Role, policy::Direct},
};

use crate::{
    origin_rig::{Canned, Nginx, PythonServer, Reply, origin, origins},
    swarm::{Swarm, complete, stop, within},
};

const LENGTH: usize = (3 << 20) + 12_345;
const PIECE: u32 = 64 << 10;

/// Starts a host that knows origins and nobody else.
async fn alone(swarm: &Swarm, part: &str, origins: Option<Origins>) -> EngineHandle {
    let config = EngineConfig { origins: origins.map(Box::new), ..swarm.config(Role::Host { file: swarm.file(part) }, &[]) };
    FleetEngine.start(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_without_ranges_sends_the_whole_file_to_a_host_that_needs_it() {
    for piece in [PIECE, 1 << 20] {
        let swarm = Swarm::new(LENGTH, piece).await;
        let nginx = Nginx::start();
        fs::write(nginx.files().join("artifact.bin"), &swarm.content).unwrap();
        let python = PythonServer::start(&nginx.files());
        for (part, url) in [("nginx", nginx.url("whole/artifact.bin")), ("python", python.url("artifact.bin"))] {
            // Some of it is there, at the beginning and in the middle.
            let mut there = vec![0; LENGTH];
            for range in [0..piece as usize, 2 * piece as usize..3 * piece as usize] {
                there[range.clone()].copy_from_slice(&swarm.content[range]);
            }
            fs::write(swarm.file(part), there).unwrap();
            let mut host = alone(&swarm, part, Some(origins([url.as_str()]))).await;
            let mut stats = host.stats();
            within("the origin is known", stats.wait_for(|stats| stats.origins)).await.unwrap();
            assert_eq!(host.stats().borrow().bytes.from_origin, 0, "{url}");
            host.go_direct(Direct::Origins, None).await;
            complete(&mut host).await;
            swarm.assert_same(part);
            let bytes = host.stats().borrow().bytes;
            let had = 2 * u64::from(piece);
            assert_eq!((bytes.from_disk, bytes.from_origin), (had, LENGTH as u64 - had), "{url}");
            host.stop().await;
        }
        swarm.tracker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_that_breaks_off_is_asked_for_again() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let served = swarm.content.clone();
    let server = Canned::start(move |asked, before| {
        let whole = Reply::part(&served, &crate::origin_rig::Asked { range: None, ..asked.clone() });
        Reply { cut: (before == 1).then_some(LENGTH / 2), ..whole }
    });
    let mut host = alone(&swarm, "host", Some(origins([server.url("a").as_str()]))).await;
    host.go_direct(Direct::Origins, None).await;
    complete(&mut host).await;
    swarm.assert_same("host");
    let stats = host.stats().borrow().clone();
    assert_eq!(stats.bytes.from_origin, LENGTH as u64);
    assert_eq!(server.asked().len(), 3, "a look, a broken one and a whole one");
    stop([host]).await;
    swarm.tracker.stop().await;
}

/// Peers and a direct download race; no piece counts twice, and peers that come later help.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_brings_a_piece_first_wins() {
    let swarm = Swarm::new(16 << 20, PIECE).await;
    let nginx = Nginx::start();
    fs::write(nginx.files().join("artifact.bin"), &swarm.content).unwrap();
    for (part, url) in [("ranges", "slow/artifact.bin"), ("whole", "slow-whole/artifact.bin")] {
        let seed = swarm.seed().await;
        let mut host = alone(&swarm, part, Some(origins([nginx.url(url).as_str()]))).await;
        host.go_direct(Direct::Origins, None).await;
        let mut stats = host.stats();
        within("the origin gives", stats.wait_for(|stats| stats.bytes.from_origin > 0)).await.unwrap();
        host.add_peers(vec![seed.local_addr]).await;
        complete(&mut host).await;
        swarm.assert_same(part);
        let bytes = host.stats().borrow().bytes;
        assert_eq!(bytes.moved(), swarm.content.len() as u64, "{bytes:?}");
        let swarm = bytes.from_controller + bytes.from_peers;
        assert!(swarm > bytes.from_origin && bytes.from_origin > 0, "{bytes:?}");
        stop([host, seed]).await;
    }
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_web_server_counts_as_the_controller_and_waits_for_its_turn() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let served = swarm.content.clone();
    let web = Canned::start(move |asked, _| Reply::part(&served, asked));
    let web_origin = Origin { style: OriginStyle::Content, ..origin(&web.url("key/artifact"), &[]) };
    let mut host = alone(&swarm, "host", None).await;
    host.go_direct(Direct::Controller, Some(Box::new(web_origin))).await;
    complete(&mut host).await;
    swarm.assert_same("host");
    let stats = host.stats().borrow().clone();
    assert_eq!((stats.bytes.from_controller, stats.bytes.from_origin), (LENGTH as u64, 0));
    assert_eq!(stats.web, Reach::Stands);
    stop([host]).await;

    // One that is not there is told to nobody but who asks.
    let nowhere = origin(&format!("http://{}/a", crate::swarm::free_address()), &[]);
    let host = alone(&swarm, "other", None).await;
    host.go_direct(Direct::Controller, Some(Box::new(nowhere))).await;
    let mut stats = host.stats();
    within("it is known", stats.wait_for(|stats| matches!(stats.web, Reach::Failed(_)))).await.unwrap();
    assert_eq!(stats.borrow().notices.len(), 0);
    stop([host]).await;
    swarm.tracker.stop().await;
}

/// Stopping the engine ends its requests: nothing more leaves the origin.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_stopped_asks_no_more() {
    let swarm = Swarm::new(64 << 20, PIECE).await;
    let nginx = Nginx::start();
    fs::write(nginx.files().join("artifact.bin"), &swarm.content).unwrap();
    let url = nginx.url("slow/artifact.bin");
    let host = alone(&swarm, "host", Some(origins([url.as_str()]))).await;
    host.go_direct(Direct::Origins, None).await;
    let mut stats = host.stats();
    within("something comes", stats.wait_for(|stats| stats.payload > 0)).await.unwrap();
    let began = std::time::Instant::now();
    host.stop().await;
    assert!(began.elapsed().as_secs() < 3, "it took {:?}", began.elapsed());
    // Connections that were cut are logged with what had left by then.
    let sent = nginx.sent_in_all("/slow/", 2);
    assert!(sent < (32 << 20), "{sent} bytes");
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_cannot_be_reached_stops_nothing_and_is_known() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let seed = swarm.seed().await;
    let nowhere = format!("http://{}/key/announce", crate::swarm::free_address());
    let role = Role::Host { file: swarm.file("host") };
    let config = EngineConfig { tracker: Some(nowhere), ..swarm.config(role, &[seed.local_addr]) };
    let mut host = FleetEngine.start(config).await.unwrap();
    let mut stats = host.stats();
    within("it is known", stats.wait_for(|stats| matches!(stats.tracker, Reach::Failed(_)))).await.unwrap();
    complete(&mut host).await;
    swarm.assert_same("host");
    stop([host, seed]).await;
    swarm.tracker.stop().await;
}
