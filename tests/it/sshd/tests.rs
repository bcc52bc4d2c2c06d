//! The harness itself: what the other tests rely on.

use super::*;

fn ssh(fleet: &SshdFleet, host: &SshdHost, command: &str) -> std::process::Output {
    Command::new("ssh")
        .args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=/dev/null", "-o"])
        .arg(format!("UserKnownHostsFile={}", fleet.known_hosts().display()))
        .arg("-i")
        .arg(fleet.client_key())
        .args(["-p", &host.address.port().to_string(), &format!("{}@{}", host.user, host.address.ip()), command])
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null())
        .output()
        .expect("this test needs ssh: apt-get install openssh-client")
}

#[test]
fn each_host_has_a_home_and_an_identity_of_its_own() {
    let mut fleet = SshdFleet::start(2);
    let [first, second] = fleet.hosts() else { panic!("two hosts") };
    assert_ne!(first.address().ip(), second.address().ip());
    for host in fleet.hosts() {
        let output = ssh(&fleet, host, "printf %s \"$HOME\"");
        assert_eq!(String::from_utf8_lossy(&output.stdout), host.home().to_str().unwrap(), "{output:?}");
    }

    fleet.host_mut(1).replace_host_key();
    let output = ssh(&fleet, &fleet.hosts()[1], "true");
    assert!(String::from_utf8_lossy(&output.stderr).contains("IDENTIFICATION HAS CHANGED"), "{output:?}");

    fleet.hosts()[0].forget_client_key();
    let output = ssh(&fleet, &fleet.hosts()[0], "true");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
}

#[test]
fn stopping_a_host_ends_what_runs_there_and_nothing_else() {
    let mut fleet = SshdFleet::start(2);
    for host in fleet.hosts() {
        let output = ssh(&fleet, host, "nohup sleep 1000 > /dev/null 2>&1 < /dev/null & echo started");
        assert!(output.status.success(), "{output:?}");
    }
    fleet.host_mut(0).stop();
    assert_eq!(fleet.hosts()[0].processes(), []);
    assert_eq!(fleet.hosts()[1].processes().len(), 1);
    assert!(!says_ssh(fleet.hosts()[0].address().into()));
    let left: Vec<Pid> = fleet.hosts()[1].processes().into_iter().map(|process| process.pid).collect();
    drop(fleet);
    assert!(!left.into_iter().any(is_running), "dropping the fleet left a process");
}

#[test]
fn cutting_connections_leaves_the_host_up() {
    let fleet = SshdFleet::start(1);
    let host = &fleet.hosts()[0];
    std::thread::scope(|scope| {
        let session = scope.spawn(|| ssh(&fleet, host, "sleep 1000"));
        while host.processes().is_empty() {
            assert!(!session.is_finished(), "{:?}", session.join());
            std::thread::sleep(Duration::from_millis(5));
        }
        host.cut_connections();
        assert!(!session.join().unwrap().status.success());
    });
    assert!(says_ssh(host.address().into()));
}
