//! Many logins: jump hosts, busy servers, limits, and hosts that do not answer.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use fleetdrop::ssh::{Connector, SshSettings, Step, Target};
use tokio::{task::JoinSet, time::timeout};

use crate::ssh_rig::{Rig, Server, refusal, run, user};

/// Logs in to all targets at once and runs a command on each.
async fn log_in_to_all(connector: &Connector, targets: Vec<Target>) {
    let mut logins = JoinSet::new();
    for target in targets {
        let connector = connector.clone();
        logins.spawn(async move {
            let connection = connector.connect(&target).await.unwrap();
            assert_eq!(run(&connection, "echo hello").await, "hello");
            connection
        });
    }
    for connection in logins.join_all().await {
        connection.close().await;
    }
}

fn jump_to(server: &Server) -> String {
    format!("{}@{}:{}", user(), server.address.ip(), server.address.port())
}

#[tokio::test]
async fn a_jump_host_is_connected_to_once_for_all_hosts_behind_it() {
    let rig = Rig::new();
    let bastion = rig.server("");
    let hosts: Vec<Server> = (0..3).map(|_| rig.server("")).collect();
    rig.ssh_config(&format!(
        "Match host {}\n  ProxyJump none\nMatch all\n  ProxyJump {}\n",
        bastion.address.ip(),
        jump_to(&bastion)
    ));
    let connector = rig.connector();
    let targets = hosts.iter().flat_map(|host| [host.target(), host.target(), host.target()]).collect();
    log_in_to_all(&connector, targets).await;
    assert_eq!(bastion.logins(), 1);
    assert_eq!(hosts.iter().map(Server::logins).sum::<usize>(), 9);
    let connection = connector.connect(&hosts[0].target()).await.unwrap();
    assert_eq!(connection.remote_addr(), None);
    assert!(run(&connection, "echo $SSH_CLIENT").await.starts_with(&bastion.address.ip().to_string()[..4]));

    // A jump host that went away takes the hosts behind it along; the next login connects to it again.
    bastion.kill_sessions();
    timeout(Duration::from_secs(60), connection.closed()).await.unwrap();
    connector.connect(&hosts[0].target()).await.unwrap().close().await;
    assert_eq!(bastion.logins(), 2);
}

#[tokio::test]
async fn jump_hosts_form_chains_also_from_the_inventorys_arguments() {
    let rig = Rig::new();
    let (first, second, host) = (rig.server(""), rig.server(""), rig.server(""));
    let mut target = host.target();
    target.ssh_args = vec!["-J".to_owned(), format!("{},{}", jump_to(&first), jump_to(&second))];
    let connection = rig.connector().connect(&target).await.unwrap();
    assert_eq!(run(&connection, "echo hello").await, "hello");
    assert_eq!([&first, &second, &host].map(Server::logins), [1, 1, 1]);
    // The second is reached through the first, the host through the second.
    let opened = |server: &Server, peer: &Server| server.log().contains(&peer.address.port().to_string());
    assert!(!opened(&first, &host));
}

#[tokio::test]
async fn much_data_goes_through_a_jump_host() {
    let rig = Rig::new();
    let (bastion, host) = (rig.server(""), rig.server(""));
    let mut target = host.target();
    target.ssh_args = vec!["-o".to_owned(), format!("ProxyJump={}", jump_to(&bastion))];
    let connection = rig.connector().connect(&target).await.unwrap();
    let data = vec![7; 8 << 20];
    let limits = fleetdrop::ssh::RunLimits { timeout: Duration::from_secs(60), max_output: data.len() };
    assert!(connection.run("cat", &data, limits).await.unwrap().stdout == data);
}

#[tokio::test]
async fn a_jump_hosts_failure_is_told_as_such_and_shared() {
    let rig = Rig::new();
    let host = rig.server("");
    let dead = unused_address();
    let mut target = host.target();
    target.ssh_args = vec!["-J".to_owned(), format!("{}:{}", dead.ip(), dead.port())];
    let connector = Connector::new(SshSettings { retries: 0, ..rig.settings() }).unwrap();
    for _ in 0..2 {
        let refused = refusal(connector.connect(&target).await);
        let expected = format!("{}: connect: jump host {dead}: connect: connection refused\nhint: is sshd", host.address);
        assert!(refused.starts_with(&expected), "{refused}");
    }

    let strict = rig.server("AllowTcpForwarding no");
    target.ssh_args = vec!["-J".to_owned(), jump_to(&strict)];
    let refused = refusal(connector.connect(&target).await);
    assert!(refused.contains("forwarding is not allowed") && refused.contains("AllowTcpForwarding"), "{refused}");

    // A jump host's own key is checked like any other.
    let unknown = rig.stranger("");
    target.ssh_args = vec!["-J".to_owned(), jump_to(&unknown)];
    let refused = refusal(connector.connect(&target).await);
    assert!(refused.contains(&format!("jump host {}: host key:", unknown.address)), "{refused}");
}

#[tokio::test]
async fn jump_hosts_in_a_loop_are_an_error() {
    let rig = Rig::new();
    let host = rig.server("");
    rig.ssh_config("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\nHost *\n  ProxyJump a\n");
    let connecting = rig.connector();
    let target = host.target();
    let refused = timeout(Duration::from_secs(60), connecting.connect(&target)).await.expect("no deadlock");
    let refused = refusal(refused);
    assert!(refused.contains("form a loop") && refused.contains("ProxyJump none"), "{refused}");
}

#[tokio::test]
async fn twenty_logins_to_a_server_that_takes_two_at_a_time_all_succeed() {
    let rig = Rig::new();
    let server = rig.server("MaxStartups 2");
    log_in_to_all(&rig.connector(), (0..20).map(|_| server.target()).collect()).await;
    assert_eq!(server.logins(), 20);
    assert!(server.log().contains("MaxStartups"), "none was turned away, so nothing was shown");
}

/// Takes that many connections without ever answering; no more may come.
async fn connections(listener: &tokio::net::TcpListener, expected: usize) -> Vec<tokio::net::TcpStream> {
    let mut open = Vec::new();
    for _ in 0..expected {
        open.push(timeout(Duration::from_secs(15), listener.accept()).await.expect("too few logins").unwrap().0);
    }
    assert!(timeout(Duration::from_millis(500), listener.accept()).await.is_err(), "more than {expected} logins at once");
    open
}

#[tokio::test]
async fn no_more_logins_than_allowed_are_under_way_at_once() {
    let rig = Rig::new();
    let limits = SshSettings { retries: 0, max_logins: 5, max_logins_per_address: 3, ..rig.settings() };
    let connector = Connector::new(limits).unwrap();
    let listeners = [tokio::net::TcpListener::bind("127.0.0.1:0").await, tokio::net::TcpListener::bind("127.0.0.1:0").await];
    let [first, second] = listeners.map(Result::unwrap);
    let mut logins = JoinSet::new();
    let mut start = |listener: &tokio::net::TcpListener| {
        for _ in 0..10 {
            let mut target = Target::new(fleetdrop::model::HostName::new("host").unwrap(), "127.0.0.1");
            target.port = Some(listener.local_addr().unwrap().port());
            let connector = connector.clone();
            logins.spawn(async move { connector.connect(&target).await.map(drop) });
        }
    };
    start(&first);
    // The limit of one address, then the limit over all.
    let mut of_first = connections(&first, 3).await;
    start(&second);
    let of_second = connections(&second, 2).await;
    // One that ended makes room for one: the one that waits longest for a slot.
    of_first.pop();
    connections(&second, 1).await;
    drop((of_first, of_second));
}

#[tokio::test]
async fn a_refused_port_is_tried_a_few_times_and_named() {
    let rig = Rig::new();
    let mut target = rig.server("").target();
    let dead = unused_address();
    (target.address, target.port) = (dead.ip().to_string(), Some(dead.port()));
    let error = rig.connector().connect(&target).await.unwrap_err();
    assert_eq!((error.step(), error.to_string()), (Step::Connect, format!("{dead}: connect: connection refused (3 attempts)")));
    assert!(error.hint().unwrap().contains(&format!("port {}", dead.port())));
}

#[tokio::test]
async fn an_address_that_swallows_packets_times_out() {
    let rig = Rig::new();
    // A listener whose queue is full: Linux drops further SYNs, as a firewall would.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fillers: Vec<_> = (0..4).map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100))).collect();
    assert!(fillers.iter().any(Result::is_err), "the queue is not full");
    let settings = SshSettings { retries: 0, connect_timeout: Some(Duration::from_millis(400)), ..rig.settings() };
    let mut target = Target::new(fleetdrop::model::HostName::new("hole").unwrap(), "127.0.0.1");
    target.port = Some(address.port());
    let error = Connector::new(settings).unwrap().connect(&target).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{address}: connect: no answer within 400 ms"));
    assert!(error.hint().unwrap().contains("firewalls"));
}

/// Takes connections and never says a word. The clock is stopped, so the limit of 20 s takes no time.
#[tokio::test]
async fn a_server_that_says_nothing_times_out_and_its_connection_is_closed() {
    let rig = Rig::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = SshSettings { retries: 0, ..rig.settings() };
    let mut target = Target::new(fleetdrop::model::HostName::new("silent").unwrap(), "127.0.0.1");
    target.port = Some(silent.local_addr().unwrap().port());
    let connector = Connector::new(settings).unwrap();
    let login = tokio::spawn(async move { connector.connect(&target).await.unwrap_err() });
    let (mut stream, _) = silent.accept().await.unwrap();
    let mut line = [0; 8];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut line).await.unwrap();
    assert_eq!(&line, b"SSH-2.0-");
    tokio::time::pause();
    let error = login.await.unwrap();
    assert_eq!(error.step(), Step::Handshake);
    assert!(error.to_string().contains("not finished within 20 s"), "{error}");
    // The rest of the version line, then the end: nothing is left open.
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn something_else_than_an_ssh_server_is_recognised() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let long_line = [b'x'; 4096];
        let _ = std::io::Write::write_all(&mut stream, &long_line);
    });
    let mut target = Target::new(fleetdrop::model::HostName::new("web").unwrap(), "127.0.0.1");
    target.port = Some(port);
    let refused = refusal(rig.connector().connect(&target).await);
    assert!(refused.contains("no SSH version line") && refused.contains("is it an SSH server"), "{refused}");
    server.join().unwrap();
}

#[tokio::test]
async fn a_name_without_address_is_a_resolution_error() {
    let rig = Rig::new();
    let target = Target::new(fleetdrop::model::HostName::new("nowhere").unwrap(), "no-such-host.invalid");
    let settings = SshSettings { retries: 0, ..rig.settings() };
    let error = Connector::new(settings).unwrap().connect(&target).await.unwrap_err();
    assert_eq!(error.step(), Step::Resolve);
    assert!(error.address().starts_with("no-such-host.invalid:22"), "{error}");
}

#[tokio::test]
async fn without_an_ssh_client_the_defaults_get_in() {
    let rig = Rig::new();
    let server = rig.server("");
    let settings = SshSettings { ssh_client: None, config_file: None, ..rig.settings() };
    let connection = Connector::new(settings).unwrap().connect(&server.target()).await.unwrap();
    assert_eq!(run(&connection, "echo hello").await, "hello");
}

/// Returns a loopback address where nobody listens.
fn unused_address() -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, crate::ports::free_port()))
}
