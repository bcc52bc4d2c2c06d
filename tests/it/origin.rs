//! Transfers with origins: real web servers, and all that can be wrong with one.

use std::{fs, sync::Arc};

use fleetdrop::{
    model::{
        Digest, Tree,
        origin::{OriginPart, OriginSettings, OriginStyle, Origins},
        tree::{EntryKind, TreeEntry, TreeFile},
    },
    swarm::{Engine as _, EngineConfig, EngineHandle, FleetEngine, Metainfo, Role, TransferStats},
};
use sha2::{Digest as _, Sha256};

use crate::{
    client::Program,
    origin_rig::{Asked, Canned, Nginx, PythonServer, Reply, origin, origins},
    swarm::{Swarm, complete, hashes, stop, within},
};

const LENGTH: usize = (3 << 20) + 12_345;
const PIECE: u32 = 64 << 10;

/// Starts a host that has nothing but origins.
async fn alone(swarm: &Swarm, part: &str, origins: Origins) -> EngineHandle {
    let config = EngineConfig { origins: Some(Box::new(origins)), ..swarm.config(Role::Host { file: swarm.file(part) }, &[]) };
    FleetEngine.start(config).await.unwrap()
}

/// Lets a host transfer everything from these origins alone; returns what it told at the end.
async fn fetched(swarm: &Swarm, part: &str, origins: Origins) -> TransferStats {
    let mut host = alone(swarm, part, origins).await;
    complete(&mut host).await;
    swarm.assert_same(part);
    let stats = host.stats().borrow().clone();
    host.stop().await;
    stats
}

/// Lets a host transfer everything from the seed, beside an origin that is of no use; returns what was told of that.
async fn told_of(swarm: &Swarm, part: &str, origins: Origins) -> (String, TransferStats) {
    let seed = swarm.seed().await;
    let host = alone(swarm, part, origins).await;
    let mut stats = host.stats();
    within("a notice", stats.wait_for(|stats| !stats.notices.is_empty())).await.unwrap();
    host.add_peers(vec![seed.local_addr]).await;
    let mut host = host;
    complete(&mut host).await;
    swarm.assert_same(part);
    let stats = host.stats().borrow().clone();
    stop([host, seed]).await;
    let notice = &stats.notices[0];
    (format!("{} ({})", notice.message, notice.hint.unwrap_or_default()), stats)
}

async fn nginx_with(swarm: &Swarm) -> Nginx {
    let nginx = Nginx::start();
    fs::write(nginx.files().join("artifact.bin"), &swarm.content).unwrap();
    nginx
}

/// Every way to a file, with one connection's pieces shorter and longer than a chunk of memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_peers_gets_everything_from_an_origin() {
    for (length, piece) in [(LENGTH, PIECE), (LENGTH, 1 << 20), (1, PIECE), (4 * PIECE as usize, PIECE)] {
        let swarm = Swarm::new(length, piece).await;
        let nginx = nginx_with(&swarm).await;
        for (part, url) in [("file", "plain/artifact.bin"), ("directory", "plain/"), ("moved", "moved/"), ("slow", "slow/")] {
            let stats = fetched(&swarm, part, origins([nginx.url(url).as_str()])).await;
            assert_eq!((stats.bytes.from_origin, stats.bytes.from_peers, stats.peers), (length as u64, 0, 0), "{url}");
            assert_eq!(stats.notices.len(), 0, "{url}: {:?}", stats.notices);
        }
        // One byte more for each look.
        assert_eq!(nginx.sent_in_all("/slow/", length as u64 + 1), length as u64 + 1, "more was fetched than is needed");
        swarm.tracker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_is_fetched() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let there = 20 * PIECE as usize;
    let mut partial = swarm.content[..there].to_vec();
    partial.resize(LENGTH, 0);
    fs::write(swarm.file("host"), partial).unwrap();
    let stats = fetched(&swarm, "host", origins([nginx.url("plain/").as_str()])).await;
    assert_eq!((stats.bytes.from_disk, stats.bytes.from_origin), (there as u64, (LENGTH - there) as u64));
    let missing = (LENGTH - there) as u64 + 1;
    assert_eq!(nginx.sent_in_all("/plain/", missing), missing);
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_without_ranges_are_not_used_for_pieces() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let python = PythonServer::start(&nginx.files());
    for (part, url) in [("nginx", nginx.url("whole/artifact.bin")), ("python", python.url("artifact.bin"))] {
        let (told, stats) = told_of(&swarm, part, origins([url.as_str()])).await;
        assert!(told.contains(&url) && told.contains("only the whole file"), "{told}");
        assert_eq!(stats.bytes.from_origin, 0);
    }
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_origin_is_told_and_stops_nothing() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    fs::write(nginx.files().join("shorter.bin"), &swarm.content[1..]).unwrap();
    fs::write(nginx.files().join("empty.bin"), "").unwrap();
    let nowhere = crate::swarm::free_address();
    let zipped = swarm.content.clone();
    let zipped = Canned::start(move |asked, _| Reply {
        headers: [Reply::part(&zipped, asked).headers, vec![("Content-Encoding", "gzip".into())]].concat(),
        ..Reply::part(&zipped, asked)
    });
    for (part, url, wanted) in [
        ("gone", nginx.url("plain/nothing.bin"), "404 Not Found (is the artifact there"),
        ("shorter", nginx.url("plain/shorter.bin"), &*format!("it has {} bytes, the artifact has {LENGTH}", LENGTH - 1)),
        ("empty", nginx.url("plain/empty.bin"), "it has 0 bytes"),
        ("closed", nginx.url("auth/artifact.bin"), "401 Unauthorized (put what it asks for into a file"),
        ("loop", nginx.url("loop/artifact.bin"), "more than five"),
        ("nobody", format!("http://{nowhere}/a"), "can't be asked yet: can't connect to"),
        ("unknown", "http://no-such-name.invalid/a".to_owned(), "the name no-such-name.invalid was not found"),
        ("untrusted", nginx.secure_url("plain/artifact.bin"), "--origin-ca"),
        ("no_tls", format!("https://{}", nginx.url("plain/").strip_prefix("http://").unwrap()), "no TLS connection"),
        ("zipped", zipped.url("a"), "compresses"),
    ] {
        let (told, stats) = told_of(&swarm, part, origins([url.as_str()])).await;
        assert!(told.contains(wanted), "{part}: {told}");
        assert_eq!(stats.bytes.from_origin, 0, "{part}");
    }
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_with_other_content_is_banned() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let mut other = swarm.content.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(nginx.files().join("other.bin"), other).unwrap();
    // Signatures in addresses are nobody's business.
    let url = nginx.url("plain/other.bin?signature=s3cret");
    let (told, _) = told_of(&swarm, "host", origins([url.as_str()])).await;
    assert!(told.contains("other content") && told.contains("not used any more"), "{told}");
    assert!(!told.contains("s3cret"), "{told}");
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_that_break_off_are_asked_again_for_the_rest() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let content = Arc::new(swarm.content.clone());
    let served = content.clone();
    let cutting = Canned::start(move |asked: &Asked, before| {
        let part = Reply::part(&served, asked);
        // Every second answer is cut in the middle of a piece.
        let cut = (before % 2 == 1).then_some(part.body.len().min(PIECE as usize * 3 / 2));
        Reply { cut, ..part }
    });
    let stats = fetched(&swarm, "cut", origins([cutting.url("a").as_str()])).await;
    assert_eq!(stats.bytes.from_origin, LENGTH as u64);

    let served = content.clone();
    let lying = Canned::start(move |asked: &Asked, before| {
        let part = Reply::part(&served, asked);
        match before {
            2 => Reply { headers: vec![("Content-Range", "bytes 0-65535/9999999".into())], ..part },
            3 => Reply { body: [part.body, vec![0; 9]].concat(), headers: part.headers, ..Reply::status(206) },
            4 => Reply::status(500),
            5 => Reply { headers: vec![("Retry-After", "1".into())], ..Reply::status(503) },
            _ => part,
        }
    });
    fetched(&swarm, "lies", origins([lying.url("a").as_str()])).await;
    assert!(lying.asked().len() > 6);
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_go_to_their_origin_alone_and_a_secret_is_never_told() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let basic = |password: &str| {
        use base64::Engine as _;
        format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("bob:{password}")))
    };
    let closed = |password| {
        let auth = basic(password);
        Origins { sources: vec![origin(&nginx.url("auth/"), &[("authorization", auth.as_str())])], ..origins([]) }
    };
    fetched(&swarm, "known", closed("s3cret")).await;
    let (told, stats) = told_of(&swarm, "unknown", closed("wrong")).await;
    assert!(told.contains("401"), "{told}");
    assert!(!format!("{stats:?}").contains(&basic("wrong")));

    let (served, elsewhere) = (swarm.content.clone(), Arc::new(std::sync::OnceLock::<String>::new()));
    let target = Canned::start(move |asked, _| Reply::part(&served, asked));
    elsewhere.set(target.url("b")).unwrap();
    let leading = Canned::start(move |_, _| Reply {
        headers: vec![("Location", elsewhere.get().unwrap().clone())],
        ..Reply::status(302)
    });
    let wants = origin(&leading.url("a"), &[("x-token", "s3cret")]);
    fetched(&swarm, "led", Origins { sources: vec![wants], ..origins([]) }).await;
    let has_token = |asked: &Asked| asked.headers.iter().any(|(name, _)| name == "x-token");
    assert!(leading.asked().iter().all(has_token));
    assert!(!target.asked().iter().any(has_token), "a secret went to another server");
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked_with_the_authority_that_is_named() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let certificates = Some(fs::read_to_string(nginx.authority()).unwrap());
    let url = nginx.secure_url("plain/");
    let stats = fetched(&swarm, "trusted", Origins { certificates, ..origins([url.as_str()]) }).await;
    assert_eq!(stats.bytes.from_origin, LENGTH as u64);
    let stranger = Some(fs::read_to_string(Nginx::start().authority()).unwrap());
    let (told, _) = told_of(&swarm, "stranger", Origins { certificates: stranger, ..origins([url.as_str()]) }).await;
    assert!(told.contains("no TLS connection"), "{told}");
    let nothing = Some("no certificate".to_owned());
    let (told, _) = told_of(&swarm, "nothing", Origins { certificates: nothing, ..origins([url.as_str()]) }).await;
    assert!(told.contains("there is none in the file"), "{told}");
    swarm.tracker.stop().await;
}

/// BEP 17: pieces by number, of a torrent with other pieces than ours; the server is busy at first and says for how long.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_serves_pieces_is_an_origin() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let (served, theirs) = (swarm.content.clone(), 96 << 10);
    let script = Canned::start(move |asked, before| {
        if before == 0 {
            return Reply { body: b"1".to_vec(), ..Reply::status(503) };
        }
        let of = |name: &str| asked.target.split(['?', '&']).find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap();
        assert_eq!(of("info_hash"), "%00%11%22");
        let (first, last) = of("ranges").split_once('-').unwrap();
        let start = of("piece").parse::<usize>().unwrap() * theirs;
        let body = served[start + first.parse::<usize>().unwrap()..=start + last.parse::<usize>().unwrap()].to_vec();
        Reply { body, ..Reply::status(200) }
    });
    let style = OriginStyle::Pieces { info_hash: "001122".into(), piece_length: theirs as u32 };
    let sources = vec![fleetdrop::model::origin::Origin { style, ..origin(&script.url("seed"), &[]) }];
    let stats = fetched(&swarm, "host", Origins { sources, ..origins([]) }).await;
    assert_eq!(stats.bytes.from_origin, LENGTH as u64);
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let url = nginx.url("plain/");
    let seed = swarm.seed().await;
    let capped = Origins { max_pieces: Some(7), ..origins([url.as_str()]) };
    let mut host = alone(&swarm, "bytes", capped).await;
    let mut stats = host.stats();
    // The last piece, with which a host begins, is short.
    let cap = 6 * u64::from(PIECE) + LENGTH as u64 % u64::from(PIECE);
    within("the cap", stats.wait_for(|stats| stats.bytes.from_origin == cap)).await.unwrap();
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    assert_eq!(host.stats().borrow().bytes.from_origin, cap);
    stop([host, seed]).await;
    assert_eq!(nginx.sent_in_all("/plain/", cap + 1), cap + 1);

    let began = std::time::Instant::now();
    fetched(&swarm, "rate", Origins { max_rate: Some(2 << 20), ..origins([url.as_str()]) }).await;
    let took = began.elapsed().as_secs_f64();
    assert!(took > LENGTH as f64 / f64::from(2 << 20) * 0.9, "{took} s");
    swarm.tracker.stop().await;
}

/// Eight hosts that have each other and an origin, and no seed.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_takes_about_one_copy_out_of_its_origin() {
    let swarm = Swarm::new(16 << 20, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let url = nginx.url("slow/");
    let parts: Vec<String> = (0..8).map(|number| format!("host{number}")).collect();
    let mut hosts = Vec::new();
    for (rank, part) in (0..).zip(&parts) {
        let origins = Origins { part: OriginPart { rank, of: 8 }, ..origins([url.as_str()]) };
        let peers: Vec<_> = hosts.iter().map(|host: &EngineHandle| host.local_addr).collect();
        let role = Role::Host { file: swarm.file(part) };
        let config = EngineConfig { origins: Some(Box::new(origins)), ..swarm.config(role, &peers) };
        hosts.push(FleetEngine.start(config).await.unwrap());
    }
    let mut from_origin = 0;
    for (host, part) in hosts.iter_mut().zip(&parts) {
        complete(host).await;
        swarm.assert_same(part);
        from_origin += host.stats().borrow().bytes.from_origin;
    }
    stop(hosts).await;
    let copies = nginx.sent_in_all("/slow/", from_origin) as f64 / swarm.content.len() as f64;
    assert!((1.0..=1.3).contains(&copies), "{copies} copies left the origin");
    swarm.tracker.stop().await;
}

/// Four hosts that can't reach each other: each gets all of it from the origin.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_reach_nobody_else_finish_from_the_origin() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let url = nginx.url("plain/");
    let closed = crate::swarm::free_address();
    let mut hosts = Vec::new();
    for rank in 0..4 {
        let origins = Origins { part: OriginPart { rank, of: 4 }, ..origins([url.as_str()]) };
        let role = Role::Host { file: swarm.file(&format!("host{rank}")) };
        let config = EngineConfig { origins: Some(Box::new(origins)), ..swarm.config(role, &[closed]) };
        hosts.push(FleetEngine.start(config).await.unwrap());
    }
    for (rank, host) in hosts.iter_mut().enumerate() {
        complete(host).await;
        swarm.assert_same(&format!("host{rank}"));
        assert_eq!(host.stats().borrow().bytes.from_origin, LENGTH as u64);
    }
    stop(hosts).await;
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_that_are_switched_off_are_not_asked() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    let seed = swarm.seed().await;
    let settings = OriginSettings { enabled: false, ..OriginSettings::default() };
    let mut host = alone(&swarm, "host", Origins { settings, ..origins([nginx.url("plain/").as_str()]) }).await;
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    stop([host, seed]).await;
    assert_eq!(nginx.sent("/"), 0);
    swarm.tracker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_downloads_from_the_origin_that_our_torrent_names() {
    let swarm = Swarm::new(LENGTH, PIECE).await;
    let nginx = nginx_with(&swarm).await;
    for (part, url) in [("file", nginx.url("plain/artifact.bin")), ("directory", nginx.url("plain/"))] {
        fs::write(swarm.torrent(), swarm.metainfo.to_torrent(&swarm.announce_url(), &[url])).unwrap();
        let (torrent, place) = (swarm.torrent(), swarm.place(part));
        let start = tokio::task::spawn_blocking(move || Program::Libtorrent.start(&torrent, &place, false));
        start.await.unwrap().arrived(&swarm.content).await;
        swarm.assert_same(part);
    }
    assert!(nginx.sent("/plain/") >= 2 * LENGTH as u64);
    swarm.tracker.stop().await;
}

/// A directory: a request for each file that a piece has a part of.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_directory_are_put_together() {
    let nginx = Nginx::start();
    let root = nginx.files().join("site");
    fs::create_dir_all(root.join("a b")).unwrap();
    let mut content = Vec::new();
    let mut entries = vec![TreeEntry { path: "a b".into(), kind: EntryKind::Directory { mode: 0o755 } }];
    for (path, length) in [("a b/one", 100_000), ("a b/two", 7), ("empty", 0), ("three", 300_000)] {
        let mut file = vec![0; length];
        fastrand::fill(&mut file);
        fs::write(root.join(path), &file).unwrap();
        let digest = Digest(Sha256::digest(&file).into());
        let kind = EntryKind::File(TreeFile { mode: 0o644, length: length as u64, digest });
        entries.push(TreeEntry { path: path.into(), kind });
        content.extend_from_slice(&file);
    }
    let tree = Arc::new(Tree::new(entries).unwrap());
    let metainfo = Metainfo::of_tree("site", tree, PIECE, hashes(&content, PIECE)).unwrap();
    let swarm = Swarm::of(content.clone(), metainfo).await;
    let url = nginx.url("plain/");
    let stats = fetched(&swarm, "host", origins([url.as_str()])).await;
    assert_eq!(stats.bytes.from_origin, content.len() as u64);
    swarm.tracker.stop().await;
}
