//! Peers that break the rules, and peers that keep them and do nothing, against engines of this process: each is dropped or bounded,
//! and who is honest gets the right bytes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use fleetdrop::swarm::{EngineHandle, FleetEngine, Role};
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};

use crate::{
    attacker::{Fault, Siege, Torrent, attack, connect, source},
    swarm::{ANY, Swarm, complete, stop, within},
};

const PIECE: u32 = 64 << 10;

impl Swarm {
    pub(crate) fn known_to_attackers(&self) -> Torrent {
        Torrent {
            info_hash: self.metainfo.info_hash().0,
            length: self.metainfo.length(),
            piece_length: self.metainfo.piece_length(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_alone_is_dropped_or_does_no_harm() {
    join_all(Fault::ALL.map(|fault| async move {
        let swarm = Swarm::new(600_000, PIECE).await;
        let torrent = swarm.known_to_attackers();
        let mut host = swarm.host("host", &[]).await;
        let mut siege = Siege::default();
        if fault.is_violation() {
            let attacked = attack(fault, &torrent, source(1), host.local_addr);
            within(&format!("{fault:?} is dropped"), attacked).await;
            assert_eq!(host.stats().borrow().pieces_done, 0, "{fault:?} was believed");
        }
        siege.add(fault, &torrent, source(1), host.local_addr);
        let seed = swarm.seed().await;
        siege.add(fault, &torrent, source(1), seed.local_addr);
        host.add_peers(vec![seed.local_addr]).await;
        complete(&mut host).await;
        swarm.assert_same("host");
        stop([host, seed]).await;
    }))
    .await;
}

/// Three hosts and a seed; the attackers are generated.
async fn assert_survives(attackers: &[(Fault, usize, usize)], listening: &[(Fault, usize)]) {
    let swarm = Swarm::new(80 * PIECE as usize + 12_345, PIECE).await;
    let torrent = swarm.known_to_attackers();
    let mut siege = Siege::default();
    let seed = swarm.seed().await;
    let mut first = vec![seed.local_addr];
    for (fault, at) in listening {
        first.push(siege.lie_in_wait(*fault, &torrent, source(*at)).await);
    }
    let mut hosts: Vec<EngineHandle> = Vec::new();
    for part in ["one", "two", "three"] {
        let peers: Vec<SocketAddr> = first.iter().copied().chain(hosts.iter().map(|host| host.local_addr)).collect();
        hosts.push(swarm.host(part, &peers).await);
    }
    for (fault, victim, from) in attackers {
        let victim = if *victim == 3 { seed.local_addr } else { hosts[*victim].local_addr };
        siege.add(*fault, &torrent, source(*from), victim);
    }
    for host in &mut hosts {
        complete(host).await;
        assert_eq!(host.stats().borrow().bytes.received(), swarm.metainfo.length());
    }
    for part in ["one", "two", "three"] {
        swarm.assert_same(part);
    }
    drop(siege);
    stop(hosts).await;
    seed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_at_once_and_without_end_stop_nobody() {
    let attackers: Vec<_> = Fault::ALL
        .into_iter()
        .enumerate()
        .flat_map(|(number, fault)| (0..4).map(move |victim| (fault, victim, number)))
        .collect();
    let listening: Vec<_> = Fault::ALL.into_iter().enumerate().map(|(number, fault)| (fault, 100 + number)).collect();
    assert_survives(&attackers, &listening).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_promise_everything_and_send_nothing_do_not_take_all_places() {
    let attackers: Vec<_> = (0..100).map(|number| (Fault::NoAnswer, number % 3, number)).collect();
    assert_survives(&attackers, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_pass_for_the_seed_and_push_halves_of_all_pieces_keep_nobody_from_asking() {
    let attackers: Vec<_> = (0..48).map(|number| (Fault::HalfPushes, number % 3, number)).collect();
    assert_survives(&attackers, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_do_nothing_are_no_reason_to_leave_the_tracker_unasked() {
    let swarm = Swarm::new(3 * PIECE as usize, PIECE).await;
    let torrent = swarm.known_to_attackers();
    let mut host = swarm.announced(FleetEngine, Role::Host { file: swarm.file("host") }).await;
    let mut siege = Siege::default();
    for number in 0..40 {
        siege.add(Fault::NoAnswer, &torrent, source(number), host.local_addr);
    }
    let mut stats = host.stats();
    within("they are connected", stats.wait_for(|stats| stats.peers >= 40)).await.unwrap();
    let seed = swarm.seed().await;
    swarm.tracker.add_seed(seed.local_addr);
    complete(&mut host).await;
    stop([host, seed]).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn whatever_attackers_come_the_honest_complete(
        attackers in prop::collection::vec((prop::sample::select(&Fault::ALL[..]), 0usize..4, 0usize..8), 0..24),
        listening in prop::collection::vec((prop::sample::select(&Fault::ALL[..]), 0usize..8), 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(assert_survives(&attackers, &listening));
    }
}

/// The clock is paused: it jumps ahead whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_dropped_in_time() {
    for (fault, seconds) in [
        (Fault::Silence, 10),
        (Fault::HalfHandshake, 10),
        (Fault::HalfMessage, 60),
        (Fault::HalfBlock, 60),
        (Fault::SilenceAfterHandshake, 180),
    ] {
        let swarm = Swarm::new(100_000, PIECE).await;
        let host = swarm.host("host", &[]).await;
        let began = Instant::now();
        attack(fault, &swarm.known_to_attackers(), source(1), host.local_addr).await;
        let took = began.elapsed();
        let limit = Duration::from_secs(seconds);
        assert!(took > limit / 2 && took < limit + Duration::from_secs(2), "{fault:?}: {took:?}");
        host.stop().await;
    }
}

/// Besieges a host with peers that shake hands and say nothing until it takes no more of them.
async fn besieged(swarm: &Swarm, host: &EngineHandle, from: impl Fn(usize) -> Ipv4Addr) -> Siege {
    let torrent = swarm.known_to_attackers();
    let mut siege = Siege::default();
    for number in 0..500 {
        siege.add(Fault::SilenceAfterHandshake, &torrent, from(number), host.local_addr);
    }
    let refused = async {
        loop {
            let one_more = attack(Fault::SilenceAfterHandshake, &torrent, from(0), host.local_addr);
            if tokio::time::timeout(Duration::from_secs(1), one_more).await.is_ok() {
                return;
            }
        }
    };
    within("the host is full", refused).await;
    siege
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_peers_from_one_address_leave_room_for_one_from_another() {
    let swarm = Swarm::new(3 * PIECE as usize, PIECE).await;
    let (seed, host) = (swarm.seed().await, swarm.host("host", &[]).await);
    let _siege = besieged(&swarm, &host, |_| source(1)).await;
    let mut other = swarm.host("other", &[host.local_addr]).await;
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut other).await;
    stop([host, other, seed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_peers_from_many_addresses_do_not_keep_a_host_from_dialling() {
    let swarm = Swarm::new(3 * PIECE as usize, PIECE).await;
    let (seed, mut host) = (swarm.seed().await, swarm.host("host", &[]).await);
    let _siege = besieged(&swarm, &host, source).await;
    host.add_peers(vec![seed.local_addr]).await;
    complete(&mut host).await;
    stop([host, seed]).await;
}

#[tokio::test]
async fn a_stranger_at_an_address_from_the_controller_is_tried_again() {
    let swarm = Swarm::new(100_000, PIECE).await;
    let taken = TcpListener::bind(ANY).await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut host = swarm.host("host", &[address]).await;
    for _ in 0..2 {
        let (mut stranger, _) = within("the host dials", taken.accept()).await.unwrap();
        stranger
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n----------")
            .await
            .unwrap();
        let _ = stranger.read_to_end(&mut Vec::new()).await;
    }
    let seed = swarm.seed().await;
    let (from_host, _) = within("the host dials again", taken.accept()).await.unwrap();
    let mut to_seed = connect(Ipv4Addr::LOCALHOST, seed.local_addr).await.unwrap();
    let mut from_host = from_host;
    let carry = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from_host, &mut to_seed).await });
    complete(&mut host).await;
    swarm.assert_same("host");
    carry.abort();
    stop([host, seed]).await;
}
