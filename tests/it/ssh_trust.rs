//! Whom we talk to: `known_hosts` against a real sshd, and the same files against the real ssh.

use std::fs;

use fleetdrop::ssh::{Connector, HostKeyPolicy, SshSettings, Step};

use crate::ssh_rig::{Rig, Server, refusal, run, sign};

const ED25519: &[&str] = &["-t", "ed25519", "-N", ""];

fn with_policy(rig: &Rig, policy: HostKeyPolicy) -> Connector {
    Connector::new(SshSettings { host_keys: Some(policy), ..rig.settings() }).unwrap()
}

fn known_hosts(rig: &Rig) -> String {
    fs::read_to_string(rig.path("known_hosts")).unwrap()
}

/// Hashes the names in `known_hosts` with OpenSSH's own tool.
fn hash_names(rig: &Rig) {
    let status = std::process::Command::new("ssh-keygen")
        .args(["-H", "-f"])
        .arg(rig.path("known_hosts"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    fs::remove_file(rig.path("known_hosts.old")).unwrap();
}

#[tokio::test]
async fn an_unknown_host_is_refused_with_its_fingerprint() {
    let rig = Rig::new();
    let server = rig.stranger("");
    let error = rig.connector().connect(&server.target()).await.unwrap_err();
    assert_eq!(error.step(), Step::HostKey);
    let text = error.to_string();
    assert!(text.contains("is not in") && text.contains("known_hosts") && text.contains("SHA256:"), "{text}");
    assert!(error.hint().unwrap().contains("accept-new"));
    assert_eq!(server.logins(), 0);
}

#[tokio::test]
async fn a_changed_key_is_refused_with_file_line_and_remedy() {
    let rig = Rig::new();
    let server = rig.stranger("");
    let other = rig.stranger("");
    rig.know(&format!("# a comment\n{} {}\n", server.known_hosts_name(), other.host_key("ed25519")));
    for policy in [HostKeyPolicy::Strict, HostKeyPolicy::AcceptNew] {
        let before = known_hosts(&rig);
        let refused = refusal(with_policy(&rig, policy).connect(&server.target()).await);
        let at = format!("{}:2", rig.path("known_hosts").display());
        assert!(refused.contains(&format!("is not the one in {at}")), "{refused}");
        assert!(refused.contains(&format!("-R '{}'", server.known_hosts_name())), "{refused}");
        assert_eq!(known_hosts(&rig), before);
    }
    with_policy(&rig, HostKeyPolicy::No).connect(&server.target()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_revoked_key_is_refused_whatever_the_policy() {
    let rig = Rig::new();
    let server = rig.server("");
    rig.know(&format!("@revoked * {}\n@revoked * {}\n", server.host_key("ed25519"), server.host_key("ecdsa")));
    for policy in [HostKeyPolicy::Strict, HostKeyPolicy::AcceptNew, HostKeyPolicy::No] {
        let refused = refusal(with_policy(&rig, policy).connect(&server.target()).await);
        assert!(refused.contains("is revoked in") && refused.contains("known_hosts:"), "{refused}");
    }
    assert_eq!(server.logins(), 0);
}

#[tokio::test]
async fn the_key_that_is_known_is_the_one_asked_for() {
    let rig = Rig::new();
    let server = rig.stranger("");
    // The server prefers ed25519; only its ecdsa key is known.
    rig.know(&format!("{} {}\n", server.known_hosts_name(), server.host_key("ecdsa")));
    let connection = rig.connector().connect(&server.target()).await.unwrap();
    assert_eq!(run(&connection, "echo hello").await, "hello");
}

#[tokio::test]
async fn accept_new_writes_each_host_once_also_when_many_come_at_once() {
    let rig = Rig::new();
    // A last line without line break must not swallow the first new one.
    rig.know("# end");
    let servers: Vec<Server> = (0..4).map(|_| rig.stranger("")).collect();
    let connector = with_policy(&rig, HostKeyPolicy::AcceptNew);
    let other = with_policy(&rig, HostKeyPolicy::AcceptNew);
    let mut tasks = tokio::task::JoinSet::new();
    for target in servers.iter().flat_map(|server| [server.target(), server.target(), server.target()]) {
        for connector in [connector.clone(), other.clone()] {
            let target = target.clone();
            tasks.spawn(async move { connector.connect(&target).await.unwrap().close().await });
        }
    }
    tasks.join_all().await;
    let text = known_hosts(&rig);
    assert_eq!(text.lines().count(), 1 + servers.len(), "{text}");
    for server in &servers {
        assert!(text.contains(&format!("\n{} {}\n", server.known_hosts_name(), server.host_key("ed25519"))), "{text}");
        assert!(rig.ssh_gets_in(server, &["-o", "StrictHostKeyChecking=yes"]), "ssh understands what was written");
        rig.connector().connect(&server.target()).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn accept_new_makes_the_directory_and_hashes_names_where_ssh_would() {
    let rig = Rig::new();
    let server = rig.stranger("");
    rig.ssh_config("StrictHostKeyChecking accept-new\nHashKnownHosts yes\n");
    let file = rig.path("new/known_hosts");
    let settings = SshSettings { known_hosts: Some(file.clone()), ..rig.settings() };
    Connector::new(settings.clone()).unwrap().connect(&server.target()).await.unwrap().close().await;
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("|1|") && !text.contains(&server.address.ip().to_string()), "{text}");
    let strict = SshSettings { host_keys: Some(HostKeyPolicy::Strict), ..settings };
    Connector::new(strict).unwrap().connect(&server.target()).await.unwrap().close().await;
}

#[tokio::test]
async fn host_certificates_count_when_everything_about_them_is_right() {
    let rig = Rig::new();
    let authority = rig.key("ca", ED25519);
    let authority_key = fs::read_to_string(authority.with_extension("pub")).unwrap();
    let server = rig.stranger("");
    let ip = server.address.ip().to_string();
    let certificate = server.host_key_file("ed25519").with_file_name("host_ed25519-cert.pub");
    let extra = format!("HostCertificate {}", certificate.display());
    sign(&authority, &server.host_key_file("ed25519"), &["-h", "-I", "host", "-n", &ip]);
    let server = server.restart(&extra);
    assert!(refusal(rig.connector().connect(&server.target()).await).contains("is not in"), "no authority is trusted yet");
    rig.know(&format!("@cert-authority 127.0.1.* {authority_key}"));
    rig.connector().connect(&server.target()).await.unwrap().close().await;
    assert!(rig.ssh_gets_in(&server, &[]));
    let bad: [(&str, &[&str]); 4] = [
        ("does not name this host", &["-h", "-I", "host", "-n", "127.0.1.*"]),
        ("does not name this host", &["-h", "-I", "host", "-n", "other"]),
        ("expired", &["-h", "-I", "host", "-n", &ip, "-V", "20200101:20200102"]),
        ("user certificate", &["-I", "host", "-n", &ip]),
    ];
    let mut server = server;
    for (why, args) in bad {
        sign(&authority, &server.host_key_file("ed25519"), args);
        server = server.restart(&extra);
        let refused = refusal(rig.connector().connect(&server.target()).await);
        assert!(refused.contains("is not in") && refused.contains(why), "{refused}");
        assert!(!rig.ssh_gets_in(&server, &[]), "ssh accepts what {why}");
    }
    sign(&authority, &server.host_key_file("ed25519"), &["-h", "-I", "host", "-n", &ip]);
    let server = server.restart(&extra);
    rig.know(&format!("@revoked * {authority_key}"));
    let refused = refusal(rig.connector().connect(&server.target()).await);
    assert!(refused.contains("is revoked in"), "{refused}");
}

/// The verdict on each file must be ssh's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verdicts_are_those_of_the_real_ssh() {
    let rig = Rig::new();
    let server = rig.stranger("");
    let stranger = rig.stranger("");
    let (ip, port, full) = (server.address.ip(), server.address.port(), server.known_hosts_name());
    let (own, ecdsa, foreign) = (server.host_key("ed25519"), server.host_key("ecdsa"), stranger.host_key("ed25519"));
    let hash: &[&str] = &["hash"];
    let files: Vec<(String, &[&str])> = vec![
        (String::new(), &[]),
        (format!("{full} {own}\n"), &[]),
        (format!("{full} {own}\n"), hash),
        (format!("{full} {foreign}\n"), &[]),
        (format!("{full} {foreign}\n"), hash),
        (format!("{full} {foreign}\n{full} {own}\n"), &[]),
        (format!("{full} {ecdsa}\n"), &[]),
        (format!("{ip} {own}\n"), &[]),
        (format!("{ip} {own}\n"), hash),
        (format!("{ip} {foreign}\n"), &[]),
        (format!("{ip} {own}\n{full} {foreign}\n"), &[]),
        (format!("[127.0.1.*]:{port} {own}\n"), &[]),
        (format!("[127.0.1.*]:{port},!{full} {own}\n"), &[]),
        (format!("!{full},* {own}\n"), &[]),
        (format!("* {own}\n"), &[]),
        (format!("[*]:* {own}\n"), &[]),
        (format!("other,{full} {own}\n"), &[]),
        (format!("other {own}\n"), &[]),
        (format!("{full} {own}\n@revoked {full} {own}\n@revoked * {ecdsa}\n"), &[]),
        (format!("{full} {own}\n@revoked other {own}\n"), &[]),
        (format!("{full} {own}\n@revoked {full} {foreign}\n"), &[]),
        (format!("@cert-authority {full} {own}\n"), &[]),
        (format!("@cert-authority {full} {foreign}\n{full} {own}\n"), &[]),
        (format!("@unknown {full} {own}\n"), &[]),
        (format!("  {full}\t{own} a comment\n"), &[]),
        (format!("# {full} {own}\n"), &[]),
        (format!("{full} ssh-rsa {}\n", own.split(' ').nth(1).unwrap()), &[]),
        (format!("{full} {own}"), &[]),
    ];
    let connector = rig.connector();
    for (text, how) in files {
        fs::write(rig.path("known_hosts"), &text).unwrap();
        if how == hash {
            hash_names(&rig);
        }
        let theirs = rig.ssh_gets_in(&server, &["-o", "StrictHostKeyChecking=yes"]);
        let ours = connector.connect(&server.target()).await;
        assert_eq!(ours.is_ok(), theirs, "{text:?} {how:?}: ours {:?}", ours.err().map(|error| error.to_string()));
    }
}
