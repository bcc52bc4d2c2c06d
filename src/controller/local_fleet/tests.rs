use std::{os::unix::fs::PermissionsExt, process::ExitStatus, time::Instant};

use bytes::Bytes;
use russh::{
    ChannelMsg, Sig,
    client::{self, AuthResult},
    keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key},
};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);

struct TrustKnownHosts(PathBuf, u16);

impl client::Handler for TrustKnownHosts {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        Ok(russh::keys::check_known_hosts_path("127.0.0.1", self.1, key, &self.0).unwrap())
    }
}

type Client = client::Handle<TrustKnownHosts>;

async fn fleet(hosts: usize) -> (TempDir, LocalFleet) {
    let dir = TempDir::new().unwrap();
    let config = LocalFleetConfig { grace: Duration::from_millis(200), ..LocalFleetConfig::new(hosts, dir.path()) };
    let fleet = LocalFleet::start(config).await.unwrap();
    (dir, fleet)
}

async fn connect(fleet: &LocalFleet, host: usize) -> Client {
    let stream = tokio::net::TcpStream::connect(fleet.hosts()[host].address()).await.unwrap();
    connect_over(stream, fleet).await
}

async fn connect_over(stream: tokio::net::TcpStream, fleet: &LocalFleet) -> Client {
    stream.set_nodelay(true).unwrap();
    let handler = TrustKnownHosts(fleet.known_hosts(), stream.peer_addr().unwrap().port());
    client::connect_stream(Arc::default(), stream, handler).await.unwrap()
}

async fn authenticate(client: &mut Client, key: PrivateKey, user: &str) -> AuthResult {
    client.authenticate_publickey(user, PrivateKeyWithHashAlg::new(Arc::new(key), None)).await.unwrap()
}

async fn login(fleet: &LocalFleet, host: usize) -> Client {
    let mut client = connect(fleet, host).await;
    let key = load_secret_key(fleet.client_key(), None).unwrap();
    assert!(authenticate(&mut client, key, USER).await.success());
    client
}

#[derive(Debug, Default)]
struct Outcome {
    out: Vec<u8>,
    err: Vec<u8>,
    code: Option<u32>,
    signal: Option<Sig>,
    /// What came, by name, in order; data left out.
    order: Vec<&'static str>,
}

async fn run(client: &Client, command: &str, input: Vec<u8>) -> Outcome {
    let channel = client.channel_open_session().await.unwrap();
    channel.exec(true, command).await.unwrap();
    let (mut reader, writer) = channel.split();
    let send = async move {
        if writer.data_bytes(Bytes::from(input)).await.is_ok() {
            let _ = writer.eof().await;
        }
        std::future::pending::<()>().await;
    };
    let mut outcome = Outcome::default();
    let receive = async {
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => outcome.out.extend_from_slice(&data),
                ChannelMsg::ExtendedData { data, ext: 1 } => outcome.err.extend_from_slice(&data),
                ChannelMsg::ExitStatus { exit_status } => {
                    outcome.code = Some(exit_status);
                    outcome.order.push("exit-status");
                }
                ChannelMsg::ExitSignal { signal_name, .. } => outcome.signal = Some(signal_name),
                ChannelMsg::Eof => outcome.order.push("eof"),
                ChannelMsg::Close => outcome.order.push("close"),
                ChannelMsg::Failure => outcome.order.push("refused"),
                _ => {}
            }
        }
    };
    timeout(SOON, async {
        tokio::select! { () = send => {}, () = receive => {} }
    })
    .await
    .expect("the command never ended");
    outcome
}

/// Waits until no process of that group is left (tests know the group from the command's `$$`).
async fn group_gone(leader: &str) {
    let pid = rustix::process::Pid::from_raw(leader.trim().parse().unwrap()).unwrap();
    let gone = async {
        while rustix::process::test_kill_process_group(pid).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, gone).await.expect("a process was left behind");
}

/// Starts a command that first tells its process id, and returns that and the channel.
async fn start(client: &Client, command: &str) -> (String, russh::Channel<client::Msg>) {
    let mut channel = client.channel_open_session().await.unwrap();
    channel.exec(true, format!("echo $$; {command}")).await.unwrap();
    let pid = loop {
        match channel.wait().await.unwrap() {
            ChannelMsg::Data { data } => break String::from_utf8(data.to_vec()).unwrap(),
            ChannelMsg::Success | ChannelMsg::WindowAdjusted { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    };
    (pid, channel)
}

#[tokio::test]
async fn commands_run_at_home_with_a_clean_environment() {
    let (_dir, fleet) = fleet(2).await;
    let client = login(&fleet, 1).await;
    let home = fleet.hosts()[1].dir().to_str().unwrap().to_owned();

    let outcome = run(&client, "pwd; env | grep -v '^_=' | cut -d= -f1 | sort | tr '\\n' ' '", Vec::new()).await;
    let text = String::from_utf8(outcome.out).unwrap();
    assert_eq!(text, format!("{home}\nHOME LOGNAME PATH PWD SHELL SSH_CONNECTION TMPDIR USER "), "no variable of ours leaks");

    let outcome = run(&client, "echo $PATH", Vec::new()).await;
    assert_eq!(outcome.out, b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n", "the configured one, not ours");

    let outcome = run(&client, "echo $HOME; echo $SSH_CONNECTION; echo oops >&2; exit 7", Vec::new()).await;
    let text = String::from_utf8(outcome.out).unwrap();
    let (first, second) = text.trim_end().split_once('\n').unwrap();
    assert_eq!(first, home);
    let fields: Vec<&str> = second.split(' ').collect();
    let port = fleet.hosts()[1].address().port().to_string();
    assert_eq!((fields[0], fields[2], fields[3]), ("127.0.0.1", "127.0.0.1", port.as_str()));
    assert_eq!(outcome.err, b"oops\n");
    assert_eq!(outcome.code, Some(7));
    assert_eq!(outcome.order, ["eof", "exit-status", "close"]);
    fleet.stop().await;
}

#[tokio::test]
async fn a_signal_is_reported_as_one() {
    let (_dir, fleet) = fleet(1).await;
    let client = login(&fleet, 0).await;
    let outcome = run(&client, "kill -9 $$", Vec::new()).await;
    assert!(matches!((outcome.code, &outcome.signal), (None, Some(Sig::KILL))), "{outcome:?}");
    fleet.stop().await;
}

#[tokio::test]
async fn twenty_megabytes_in_and_out_arrive_whole_and_fast() {
    let (_dir, fleet) = fleet(1).await;
    let client = login(&fleet, 0).await;
    let input: Vec<u8> = (0..20_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let started = Instant::now();
    let outcome = run(&client, "cat > received; wc -c < received", input.clone()).await;
    let uploaded = started.elapsed();
    assert_eq!(String::from_utf8_lossy(&outcome.out).trim(), "20000000");
    let back = run(&client, "cat received", Vec::new()).await;
    assert!(back.out == input, "{} bytes came back, or other ones", back.out.len());
    assert!(uploaded < Duration::from_secs(10), "the upload took {uploaded:?}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_command_that_closes_its_input_does_not_hold_up_the_rest() {
    let (_dir, fleet) = fleet(1).await;
    let client = login(&fleet, 0).await;
    let outcome = run(&client, "exec <&-; echo done", vec![0; 8_000_000]).await;
    assert_eq!((outcome.out.as_slice(), outcome.code), (&b"done\n"[..], Some(0)));
    fleet.stop().await;
}

#[tokio::test]
async fn only_the_fleets_key_and_user_get_in() {
    let (_dir, fleet) = fleet(1).await;
    let key = load_secret_key(fleet.client_key(), None).unwrap();

    let mut stranger = connect(&fleet, 0).await;
    assert!(!authenticate(&mut stranger, new_key().unwrap(), USER).await.success());
    assert!(!authenticate(&mut stranger, key.clone(), "root").await.success());
    assert!(!stranger.authenticate_password(USER, "").await.unwrap().success());
    assert!(!stranger.authenticate_none(USER).await.unwrap().success());
    assert!(authenticate(&mut stranger, key, USER).await.success());
    fleet.stop().await;
}

#[tokio::test]
async fn nothing_but_exec_is_served() {
    let (_dir, fleet) = fleet(1).await;
    let client = login(&fleet, 0).await;
    let mut channel = client.channel_open_session().await.unwrap();
    channel.request_shell(true).await.unwrap();
    assert!(matches!(channel.wait().await, Some(ChannelMsg::Failure)));
    channel.request_subsystem(true, "sftp").await.unwrap();
    assert!(matches!(channel.wait().await, Some(ChannelMsg::Failure)));
    let port = fleet.hosts()[0].address().port().into();
    assert!(client.channel_open_direct_tcpip("127.0.0.1", port, "127.0.0.1", 1).await.is_err());
    assert!(client.tcpip_forward("127.0.0.1", 0).await.is_err());
    fleet.stop().await;
}

#[tokio::test]
async fn channels_are_limited_and_come_back() {
    let (_dir, fleet) = fleet(1).await;
    let client = login(&fleet, 0).await;
    for _ in 0..25 {
        assert_eq!(run(&client, "true", Vec::new()).await.code, Some(0));
    }
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(start(&client, "cat").await);
    }
    assert!(client.channel_open_session().await.is_err(), "an eleventh channel was opened");
    fleet.stop().await;
}

#[tokio::test]
async fn a_command_sees_the_end_of_its_input_when_its_connection_is_cut() {
    let (_dir, fleet) = fleet(1).await;
    let stream = tokio::net::TcpStream::connect(fleet.hosts()[0].address()).await.unwrap();
    let cut = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned().unwrap();
    let mut client = connect_over(stream, &fleet).await;
    authenticate(&mut client, load_secret_key(fleet.client_key(), None).unwrap(), USER).await;
    let (pid, mut channel) = start(&client, "cat > /dev/null; echo clean > how-it-ended").await;
    rustix::net::shutdown(&cut, rustix::net::Shutdown::Both).unwrap();
    timeout(SOON, async { while channel.wait().await.is_some() {} }).await.expect("the client never noticed");
    group_gone(&pid).await;
    assert_eq!(fs::read_to_string(fleet.hosts()[0].dir().join("how-it-ended")).unwrap(), "clean\n");
    assert_eq!(run(&login(&fleet, 0).await, "echo back", Vec::new()).await.out, b"back\n", "the host itself is still up");
    fleet.stop().await;
}

#[tokio::test]
async fn a_command_that_outlives_its_channel_is_killed_with_its_children() {
    let (_dir, fleet) = fleet(1).await;
    let client = login(&fleet, 0).await;
    let (pid, channel) = start(&client, "sleep 1000 & sleep 1000").await;
    channel.close().await.unwrap();
    group_gone(&pid).await;
    fleet.stop().await;
}

#[tokio::test]
async fn after_stop_nothing_is_left() {
    let (_dir, fleet) = fleet(3).await;
    let addresses: Vec<_> = fleet.hosts().iter().map(LocalHost::address).collect();
    let mut pids = Vec::new();
    let mut held = Vec::new();
    for host in 0..3 {
        let client = login(&fleet, host).await;
        // Neither reads nor ends by itself.
        let (pid, channel) = start(&client, "trap '' TERM HUP PIPE; while :; do sleep 1000; done").await;
        pids.push(pid);
        held.push((client, channel));
    }
    timeout(SOON, fleet.stop()).await.expect("stop never returned");
    for pid in pids {
        // All are dead by now; a killed grandchild counts until init has reaped it.
        group_gone(&pid).await;
    }
    for address in addresses {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{address} still listens");
    }
}

#[tokio::test]
async fn the_files_are_private_and_openssh_reads_them() {
    let (_dir, fleet) = fleet(2).await;
    for path in [fleet.client_key(), fleet.known_hosts(), fleet.inventory()] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    let known_hosts = fs::read_to_string(fleet.known_hosts()).unwrap();
    for host in fleet.hosts() {
        assert!(known_hosts.contains(&format!("[127.0.0.1]:{} ssh-ed25519 ", host.address().port())));
    }
    let status: ExitStatus = tokio::process::Command::new("ssh")
        .args([
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
        ])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", fleet.known_hosts().display()))
        .arg("-i")
        .arg(fleet.client_key())
        .args(["-p", &fleet.hosts()[0].address().port().to_string(), "demo@127.0.0.1", "exit 3"])
        .env_remove("SSH_AUTH_SOCK")
        .status()
        .await
        .expect("this test needs ssh: apt-get install openssh-client");
    assert_eq!(status.code(), Some(3));
    fleet.stop().await;
}

#[tokio::test]
async fn bad_configurations_are_refused() {
    let dir = TempDir::new().unwrap();
    for hosts in [0, MAX_HOSTS + 1] {
        let result = LocalFleet::start(LocalFleetConfig::new(hosts, dir.path())).await;
        assert!(matches!(result, Err(LocalFleetError::HostCount(count)) if count == hosts));
    }
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let result = LocalFleet::start(LocalFleetConfig::new(1, file.join("below"))).await;
    assert!(matches!(result, Err(LocalFleetError::Write { .. })), "{result:?}");
}
