//! Deploys that get through whatever is missing: peers, the controller, origins, SSH for a while.

use std::{fs, path::Path};

use fleetdrop::model::{
    HostState::{Active, Skipped},
    RunEvent,
    distribution::Mode,
};
use rustix::process::Signal;

use crate::{
    artifact,
    fallback::{NOWHERE, modes, planned},
    machines::Machines,
    operator::{Finished, Fleet, Operator, Running},
    origin_rig::{Nginx, PythonServer},
    sshd::SshdFleet,
    swarm::free_address,
};

/// What a request may fetch beyond what is kept of it: those that are cut off, and a byte for each look.
const CUT_OFF: u64 = 4 * (1 << 20) + 100;

/// Returns the fleet as hosts that nobody can connect to.
fn closed(operator: &Operator, fleet: &SshdFleet) -> Fleet {
    let inventory = operator.work().join("closed.yaml");
    let vars = "    fleetdrop_advertise: 255.255.255.255\n";
    fs::write(&inventory, fleet.inventory_of(|_| true) + vars).unwrap();
    Fleet { inventory, known_hosts: fleet.known_hosts() }
}

fn put(artifact: &Path, nginx: &Nginx) -> u64 {
    fs::copy(artifact, nginx.files().join(artifact.file_name().unwrap())).unwrap()
}

/// Returns the reasons that hosts gave for a mode.
fn reasons(run: &Finished, wanted: Mode) -> Vec<&str> {
    let told = run.events.iter().filter_map(|envelope| match &envelope.event {
        RunEvent::HostMode { mode, reason, .. } if *mode == wanted => Some(reason.as_str()),
        _ => None,
    });
    told.collect()
}

/// Waits until so many bytes came from an origin, or over SSH.
fn wait_for_bytes(run: &mut Running, bytes: u64) {
    run.wait_for("a part of the artifact came", |event| match event {
        RunEvent::HostProgress { bytes: came, .. } if came.from_origin + came.from_ssh >= bytes => Some(()),
        _ => None,
    });
}

#[test]
fn hosts_that_reach_no_peer_and_no_controller_get_it_from_an_origin() {
    const HOSTS: usize = 3;
    let (operator, fleet, nginx) = (Operator::new(), SshdFleet::start(HOSTS), Nginx::start());
    let artifact = artifact::shop(&operator.work(), "1", 6_000_000);
    let size = put(&artifact, &nginx);
    let url = nginx.url("slow/");
    let run = operator.deploy(&closed(&operator, &fleet), &artifact).with(NOWHERE).with(["--web-seed", &url]).run();
    let run = run.expect_code(0).expect_states(&[Active; HOSTS]);
    fleet.expect_live(&[Some("1"); HOSTS]);
    fleet.assert_nothing_left();
    assert_eq!(modes(&run), [Mode::Origin; HOSTS]);
    assert!(reasons(&run, Mode::Origin)[0].starts_with("can't connect to the controller at 255.255.255.255:"), "{run:?}");
    let bytes = run.summary().bytes;
    assert_eq!((bytes.from_origin, bytes.moved()), (HOSTS as u64 * size, HOSTS as u64 * size), "{run:?}");
    // Nothing was fetched twice. One byte for each look: the controller's and the hosts'.
    let all = HOSTS as u64 * size + HOSTS as u64 + 1;
    assert_eq!(nginx.sent_in_all("/slow/", all), all);
}

#[test]
fn an_origin_that_serves_no_parts_is_good_enough_where_nothing_else_works() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 3_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let python = PythonServer::start(&operator.work());
    let url = python.url(artifact.file_name().unwrap().to_str().unwrap());
    let run = operator.deploy(&closed(&operator, &fleet), &artifact).with(NOWHERE).with(["--web-seed", &url]).run();
    // So small that each host would have got it from the controller.
    let run = run.expect_code(0).expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("1"); 2]);
    assert_eq!(modes(&run), [Mode::Origin; 2]);
    assert_eq!(run.summary().bytes.from_origin, 2 * size, "{run:?}");
    let warnings = run.warnings();
    assert!(warnings.iter().any(|told| told.contains("only the whole file")), "{run:?}");
}

#[test]
fn hosts_that_reach_neither_controller_nor_origin_get_it_over_ssh() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 3_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let url = format!("http://{}/shop", free_address());
    let run = operator.deploy(&fleet.fleet(), &artifact).with(NOWHERE).with(["--web-seed", &url, "--swarm"]).run();
    let run = run.expect_code(0).expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("1"); 2]);
    fleet.assert_nothing_left();
    assert!(modes(&run).contains(&Mode::Ssh), "{run:?}");
    let bytes = run.summary().bytes;
    assert!(bytes.from_ssh >= size && bytes.from_controller + bytes.from_origin == 0, "{run:?}");
}

#[test]
fn a_way_through_ssh_that_breaks_is_opened_again_and_goes_on_where_it_was() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let artifact = artifact::shop(&operator.work(), "1", 6_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let slowly = ["--controller-upload-limit", "1MiB/s"];
    let mut run = operator.deploy(&fleet.fleet(), &artifact).with(NOWHERE).with(slowly).start();
    wait_for_bytes(&mut run, 1 << 20);
    fleet.hosts()[0].cut_connections();
    let run = run.finish().expect_code(0).expect_states(&[Active]);
    fleet.expect_live(&[Some("1")]);
    fleet.assert_nothing_left();
    let (bytes, sent) = (run.summary().bytes, run.summary().controller_sent);
    assert!(bytes.from_disk >= 1 << 20 && bytes.from_disk + bytes.from_ssh == size, "{run:?}");
    assert!(sent < size + (2 << 20), "{sent} bytes left the controller");
}

/// The seed and the hosts are fast enough to count as such, but an origin is far faster.
#[test]
fn hosts_that_would_have_it_much_earlier_by_a_direct_download_go_there() {
    let (operator, fleet, nginx) = (Operator::new(), SshdFleet::start(2), Nginx::start());
    let artifact = artifact::shop(&operator.work(), "1", 8_000_000);
    let size = put(&artifact, &nginx);
    let url = nginx.url("slow/");
    let options = ["--controller-upload-limit", "64KiB/s", "--upload-limit", "64KiB/s", "--stall-timeout", "3s"];
    let run = operator.deploy(&fleet.fleet(), &artifact).with(options).with(["--web-seed", &url]).run();
    let run = run.expect_code(0).expect_no_warning();
    assert_eq!(modes(&run), [Mode::Origin; 2]);
    assert!(reasons(&run, Mode::Origin)[0].contains("so slowly"), "{run:?}");
    assert_eq!(run.summary().bytes.moved(), 2 * size, "something was fetched twice\n{run:?}");
    // Half of it over these links takes more than a minute.
    let slowest = run.summary().slowest.as_ref().unwrap().1;
    assert!(slowest < 30.0, "{slowest} s");
}

#[test]
fn a_run_that_is_stopped_asks_origins_for_no_more_and_the_next_one_for_what_is_missing() {
    let (operator, fleet, nginx) = (Operator::new(), SshdFleet::start(1), Nginx::start());
    let artifact = artifact::shop(&operator.work(), "1", 24 << 20);
    let size = put(&artifact, &nginx);
    let url = nginx.url("slow/");
    let options = ["--advertise", "255.255.255.255", "--web-seed", &url];
    let mut run = operator.deploy(&fleet.fleet(), &artifact).with(options).start();
    wait_for_bytes(&mut run, 4 << 20);
    run.signal(Signal::INT);
    run.finish().expect_code(130).expect_states(&[Skipped]);
    fleet.assert_nothing_left();
    // Whatever was asked for has ended by now: nginx logs what it sent of it.
    let sent = nginx.sent_in_all("/slow/", 4 << 20);
    assert!(sent < size / 2, "{sent} bytes had left the origin when the run was stopped");

    let run = operator.deploy(&fleet.fleet(), &artifact).with(options).run().expect_code(0);
    fleet.expect_live(&[Some("1")]);
    let bytes = run.summary().bytes;
    assert!(bytes.from_disk >= 4 << 20 && bytes.from_disk + bytes.from_origin == size, "{run:?}");
    let all = nginx.sent("/slow/");
    assert!(all <= size + CUT_OFF, "{all} bytes left the origin, {} of them twice", all - size);
}

#[test]
fn without_a_swarm_origins_and_controller_serve_each_host_and_the_summary_says_so() {
    let (operator, fleet, nginx) = (Operator::new(), SshdFleet::start(2), Nginx::start());
    let artifact = artifact::shop(&operator.work(), "1", 8_000_000);
    let size = put(&artifact, &nginx);
    let url = nginx.url("plain/");
    let run = operator.deploy(&fleet.fleet(), &artifact).with(["--no-swarm", "--web-seed", &url]).run().expect_code(0);
    let planned = planned(&run);
    assert!(planned.origins && !planned.use_swarm, "{planned:?}");
    assert_eq!(modes(&run), [Mode::Origin; 2]);
    let bytes = run.summary().bytes;
    assert_eq!((bytes.from_peers, bytes.moved()), (0, 2 * size), "{run:?}");
    assert!(bytes.from_origin > 0, "{run:?}");
    assert!(run.summary().hosts.iter().all(|host| host.verified && host.peers <= 1), "{run:?}");
}

/// Where packets to the controller's address vanish nothing refuses a connection.
#[test]
fn hosts_whose_packets_to_the_controller_vanish_get_it_over_ssh() {
    let machines = Machines::start(2);
    for host in 0..2 {
        // Nobody has that address on the wire.
        let nobody = "ip neigh add 10.77.0.250 lladdr 02:00:00:00:00:99 nud permanent dev eth0";
        machines.on_host(host, &format!("{nobody} && ip route add 198.51.100.0/24 via 10.77.0.250"));
    }
    let artifact = artifact::shop(&machines.operator.work(), "1", 6_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let run = machines.operator.deploy(&machines.fleet.fleet(), &artifact).with(["--advertise", "198.51.100.7"]).run();
    let run = run.expect_code(0).expect_states(&[Active; 2]);
    assert!(modes(&run).contains(&Mode::Ssh), "{run:?}");
    let bytes = run.summary().bytes;
    assert!(bytes.from_ssh >= size && bytes.from_controller == 0 && bytes.received() == 2 * size, "{run:?}");
}
