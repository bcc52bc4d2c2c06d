//! Ten thousand connections at once to each listener of a real deploy: the seed's, the tracker's and a downloading host's.

use std::net::Ipv4Addr;

use fleetdrop::model::HostState::{Active, Downloading};
use rustix::process::Pid;

use crate::{
    artifact,
    attacker::source,
    hosts::Door,
    interop_deploy::{AGENT_FILES, AGENT_MEMORY, FLOOD, RunTorrent, flood, raise_file_limit, usage},
    operator::Operator,
    sshd::SshdFleet,
};

/// With the limit below, one host downloads it as long as the flood takes to come.
const SIZE: usize = 20 << 20;
const DOWNLOAD_LIMIT: &str = "2MiB";
/// The seed has at most 2,048 connections, the tracker 512; then there are SSH, the artifact and what the process itself needs.
const CONTROLLER_FILES: usize = 2048 + 512 + 100;
/// How much memory the controller may take, in KiB: without a flood it is a quarter of that.
const CONTROLLER_MEMORY: u64 = 128 << 10;

#[track_caller]
fn assert_bounded(who: &str, process: Pid, most_files: usize, most_memory: u64) {
    let (memory, files) = usage(process);
    assert!(files <= most_files, "{who} has {files} files open");
    assert!(memory <= most_memory, "{who} took {memory} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_to_every_listener_stop_no_host() {
    raise_file_limit();
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let torrent_file = operator.work().join("run.torrent");
    let door = Door::before(&fleet.hosts()[1]);
    let command_line = fleet.behind([&door], &operator.work());
    let mut run = operator
        .deploy(&command_line, &artifact::shop(&operator.work(), "1", SIZE))
        .with(["--encryption", "off", "--connect-timeout", "120s", "--download-limit", DOWNLOAD_LIMIT, "--torrent-out"])
        .with([torrent_file.as_os_str()])
        .start();
    run.wait_for_state("host-01", Downloading);
    let torrent = RunTorrent::read(&torrent_file).await;
    let (known, first) = (torrent.known(), *fleet.hosts()[0].address().ip());
    let peers = torrent.peers(9, &[Ipv4Addr::LOCALHOST, first]).await;
    let at = |address: Ipv4Addr| peers.iter().copied().find(|peer| peer.ip() == address && peer.port() != 9).unwrap();
    let tracker = torrent.announce_url.split('/').nth(2).unwrap().parse().unwrap();

    // Half of them come from one address, which a limit for each address stops; the others only a limit for all.
    let from = |number| if number < FLOOD / 2 { source(0) } else { source(number) };
    let _floods = tokio::join!(
        flood(&known, at(Ipv4Addr::LOCALHOST), from),
        flood(&known, tracker, from),
        flood(&known, at(first), from),
    );
    let (controller, agent) = (run.pid(), fleet.hosts()[0].agent());
    let assert_all_bounded = || {
        assert_bounded("the controller", controller, CONTROLLER_FILES, CONTROLLER_MEMORY);
        assert_bounded("an agent", agent, AGENT_FILES, AGENT_MEMORY);
    };
    assert_all_bounded();
    // The second host has to find its way through all of it.
    door.open();
    run.wait_for_state("host-02", Downloading);
    assert_all_bounded();
    run.finish().expect_code(0).expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("1"); 2]);
    fleet.assert_nothing_left();
}
