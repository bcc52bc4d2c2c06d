//! The ways between controller and hosts: through a bastion, and over an address that the operator chose.

use std::{fs, net::Ipv4Addr};

use fleetdrop::model::{
    HostState::{Active, Staged, Unreachable},
    RunEvent,
};

use crate::{
    artifact,
    hosts::Door,
    operator::{Fleet, Operator},
    sshd::SshdFleet,
};

#[test]
fn hosts_behind_a_bastion_share_one_connection_to_it() {
    const BEHIND: usize = 3;
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(1 + BEHIND));
    let bastion = &fleet.hosts()[0];
    let address = bastion.address();
    // As with `ssh -J`, what a host's variables say is not for the bastion: ssh_config is.
    let ssh_config = format!("Host {}\n  IdentityFile {}\n", address.ip(), fleet.client_key().display());
    fs::write(operator.ssh_config(), ssh_config).unwrap();
    let jump = format!("-o ProxyJump={}@{}:{}", bastion.user(), address.ip(), address.port());
    let inventory = operator.work().join("behind.yaml");
    let text = fleet.inventory_of(|host| host.name() != "host-01") + &format!("    ansible_ssh_common_args: {jump}\n");
    fs::write(&inventory, text).unwrap();
    let command_line = Fleet { inventory, ..fleet.fleet() };

    let artifact = artifact::shop(&operator.work(), "1", 3_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let run = operator.deploy(&command_line, &artifact).run().expect_code(0).expect_no_warning();
    let run = run.expect_states(&[Active; BEHIND]);
    fleet.expect_live(&[None, Some("1"), Some("1"), Some("1")]);
    assert_eq!(run.summary().bytes.received(), BEHIND as u64 * size, "{run:?}");
    let logins: Vec<usize> = fleet.hosts().iter().map(|host| host.logins()).collect();
    // Behind it a host is logged in to once for the job, and once more before it is confirmed.
    assert_eq!(logins, [1, 2, 2, 2]);
    fleet.assert_nothing_left();

    // There is no other way: without the bastion nobody is reached.
    fleet.host_mut(0).stop();
    let run = operator.deploy(&command_line, &artifact).run().expect_code(8).expect_states(&[Unreachable; BEHIND]);
    let failure = run.failure("host-02");
    assert!(failure.message.contains("jump host") && failure.message.contains(&address.to_string()), "{failure:?}");
}

/// Returns the TCP ports that something listens on at an address.
fn listening_at(address: Ipv4Addr) -> Vec<u16> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let sockets = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
        let (ip, port) = local.split_once(':')?;
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
        (ip == address && state == "0A").then(|| u16::from_str_radix(port, 16).unwrap())
    });
    sockets.collect()
}

#[test]
fn hosts_find_the_controller_where_it_says() {
    // No other test's.
    const ADVERTISED: Ipv4Addr = Ipv4Addr::new(127, 3, 2, 1);
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 1_000_000);
    let size = fs::metadata(&artifact).unwrap().len();
    let door = Door::before(&fleet.hosts()[0]);
    let command_line = fleet.behind([&door], &operator.work());
    let options = ["--connect-timeout", "60s", "--advertise", &ADVERTISED.to_string()];
    let mut run = operator.deploy(&command_line, &artifact).with(options).start();
    run.wait_for_state("host-02", Staged);
    // Seed, tracker and web server listen there and nowhere else, so that what came from the controller came from there.
    assert_eq!(listening_at(ADVERTISED).len(), 3);
    door.open();
    let run = run.finish().expect_code(0).expect_no_warning().expect_states(&[Active; 2]);
    assert!(run.host("host-02").bytes.from_controller == size, "{run:?}");
    fleet.expect_live(&[Some("1"); 2]);
    assert_eq!(listening_at(ADVERTISED), [0; 0]);
}

#[test]
fn an_address_that_is_not_the_controllers_is_told() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    // No TCP connection can be made to the broadcast address: the kernel refuses it without sending anything.
    let run = operator.deploy(&fleet.fleet(), &artifact).with(["--advertise", "255.255.255.255"]).run().expect_code(0);
    let told = run.events.iter().find_map(|envelope| match &envelope.event {
        RunEvent::Warning { host, message, hint } => Some((host.as_ref()?.as_str(), message, hint.as_deref()?)),
        _ => None,
    });
    let (host, message, hint) = told.unwrap_or_else(|| panic!("{run:?}"));
    assert_eq!(host, "host-01");
    assert!(message.starts_with("can't connect to the controller at 255.255.255.255:"), "{message}");
    assert!(hint.contains("--advertise"), "{hint}");
    fleet.expect_live(&[Some("1")]);
    fleet.assert_nothing_left();
}
