//! Logging in to a real sshd: key files, ssh-agent, encrypted keys, what `ssh_config` says, and what is said when nothing works.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fleetdrop::ssh::{Connector, SshSettings, Step};

use crate::ssh_rig::{Agent, Rig, refusal, run, sign, user};

const ED25519: &[&str] = &["-t", "ed25519", "-N", ""];
const RSA: &[&str] = &["-t", "rsa", "-b", "2048", "-N", ""];
const LOCKED: &[&str] = &["-t", "ed25519", "-a", "1", "-N", "sesame"];

fn with_key(rig: &Rig, key: &Path) -> SshSettings {
    SshSettings { identity_files: vec![key.to_owned()], ..rig.settings() }
}

#[tokio::test]
async fn a_key_file_of_every_kind_gets_in() {
    let rig = Rig::new();
    let server = rig.server("");
    let kinds = [
        ("ed25519", ED25519),
        ("p256", &["-t", "ecdsa", "-b", "256", "-N", ""]),
        ("p384", &["-t", "ecdsa", "-b", "384", "-N", ""]),
        ("rsa", RSA),
        ("rsa_pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]),
    ];
    for (name, args) in kinds {
        let key = rig.key(name, args);
        server.authorize(&key.with_extension("pub"));
        let connection = Connector::new(with_key(&rig, &key)).unwrap().connect(&server.target()).await.unwrap();
        assert_eq!(run(&connection, "echo hello").await, "hello", "{name}");
        assert_eq!(connection.remote_addr(), Some(server.address.into()));
        connection.close().await;
    }
}

#[tokio::test]
async fn the_agent_gets_in_and_without_any_key_the_hint_says_what_to_do() {
    let rig = Rig::new();
    let server = rig.server("");
    let agent = Agent::start(&rig);
    let settings = SshSettings { identity_files: Vec::new(), agent_socket: Some(agent.socket.clone()), ..rig.settings() };
    let connector = Connector::new(settings).unwrap();
    let refused = refusal(connector.connect(&server.target()).await);
    assert!(refused.contains("permission denied") && refused.contains("ssh-add"), "{refused}");
    let rsa = rig.key("rsa", RSA);
    server.authorize(&rsa.with_extension("pub"));
    agent.add(&rsa);
    let connection = connector.connect(&server.target()).await.unwrap();
    assert_eq!(run(&connection, "echo hello").await, "hello");
}

#[tokio::test]
async fn a_certificate_gets_in_from_the_agent_and_from_beside_its_key() {
    let rig = Rig::new();
    let authority = rig.key("ca", ED25519);
    let server = rig.server(&format!("TrustedUserCAKeys {}.pub", authority.display()));
    let key = rig.key("certified", ED25519);
    let bare = Connector::new(with_key(&rig, &key)).unwrap();
    assert!(refusal(bare.connect(&server.target()).await).contains("permission denied"));
    sign(&authority, &key, &["-I", "ada", "-n", &user()]);
    Connector::new(with_key(&rig, &key)).unwrap().connect(&server.target()).await.unwrap().close().await;
    let agent = Agent::start(&rig);
    agent.add(&key);
    let settings = SshSettings { identity_files: Vec::new(), agent_socket: Some(agent.socket.clone()), ..rig.settings() };
    Connector::new(settings).unwrap().connect(&server.target()).await.unwrap().close().await;
}

#[tokio::test]
async fn an_encrypted_key_nobody_can_unlock_is_named_with_its_remedy() {
    let rig = Rig::new();
    let server = rig.server("");
    for (name, args) in [("locked", LOCKED), ("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "sesame"])] {
        let key = rig.key(name, args);
        server.authorize(&key.with_extension("pub"));
        let refused = refusal(Connector::new(with_key(&rig, &key)).unwrap().connect(&server.target()).await);
        assert!(refused.contains("it is encrypted"), "{refused}");
        assert!(refused.ends_with(&format!("ssh-add {}", key.display())), "{refused}");
    }
}

#[tokio::test]
async fn the_passphrase_is_asked_for_once_for_the_whole_fleet() {
    let rig = Rig::new();
    let (first, second) = (rig.server(""), rig.server(""));
    let key = rig.key("locked", LOCKED);
    for server in [&first, &second] {
        server.authorize(&key.with_extension("pub"));
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let mut settings = with_key(&rig, &key);
    settings.passphrase = Some(Arc::new(move |path| {
        assert!(path.ends_with("locked"));
        // The first answer is a typing error.
        Some(if counter.fetch_add(1, Ordering::SeqCst) == 0 { "sesam" } else { "sesame" }.to_owned())
    }));
    let connector = Connector::new(settings).unwrap();
    let (first, second) = (first.target(), second.target());
    let (one, two) = tokio::join!(connector.connect(&first), connector.connect(&second));
    assert_eq!(run(&one.unwrap(), "echo 1").await + &run(&two.unwrap(), "echo 2").await, "12");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_encrypted_key_is_not_asked_for_when_the_agent_has_it() {
    let rig = Rig::new();
    let server = rig.server("");
    let open = rig.key("key", ED25519);
    server.authorize(&open.with_extension("pub"));
    let agent = Agent::start(&rig);
    agent.add(&open);
    // Now the file on disk is encrypted.
    let mut encrypt = std::process::Command::new("ssh-keygen");
    let encrypted = encrypt.args(["-q", "-p", "-P", "", "-N", "sesame", "-f"]).arg(&open).output().unwrap();
    assert!(encrypted.status.success());
    let mut settings = with_key(&rig, &open);
    settings.agent_socket = Some(agent.socket.clone());
    settings.passphrase = Some(Arc::new(|_| panic!("asked")));
    Connector::new(settings).unwrap().connect(&server.target()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_key_file_that_cannot_be_used_is_named() {
    let rig = Rig::new();
    let server = rig.server("");
    let missing = refusal(Connector::new(with_key(&rig, &rig.path("nope"))).unwrap().connect(&server.target()).await);
    assert!(missing.contains(&format!("there is no key file {}", rig.path("nope").display())), "{missing}");
    fs::write(rig.path("junk"), "junk").unwrap();
    fs::set_permissions(rig.path("junk"), fs::Permissions::from_mode(0o600)).unwrap();
    let junk = refusal(Connector::new(with_key(&rig, &rig.path("junk"))).unwrap().connect(&server.target()).await);
    assert!(junk.contains("junk: it is no private key"), "{junk}");
    fs::set_permissions(rig.path("id"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = refusal(rig.connector().connect(&server.target()).await);
    assert!(open.contains("others can read it (mode 0644)"), "{open}");
}

#[tokio::test]
async fn a_key_that_is_not_authorized_is_refused_and_not_tried_again() {
    let rig = Rig::new();
    let server = rig.server("");
    let key = rig.key("other", ED25519);
    let error = Connector::new(with_key(&rig, &key)).unwrap().connect(&server.target()).await.unwrap_err();
    assert_eq!(error.step(), Step::Authenticate);
    let text = error.to_string();
    assert!(text.starts_with(&format!("{}: authentication: permission denied for {}", server.address, user())), "{text}");
    assert!(text.contains(&key.display().to_string()) && !text.contains("attempts"), "{text}");
    assert!(error.hint().unwrap().contains("authorized_keys"));
}

#[tokio::test]
async fn too_many_keys_in_the_agent_is_said_so_and_identities_only_helps() {
    let rig = Rig::new();
    let server = rig.server("MaxAuthTries 3");
    let agent = Agent::start(&rig);
    for name in ["a", "b", "c", "d"] {
        agent.add(&rig.key(name, ED25519));
    }
    let settings = SshSettings { identity_files: Vec::new(), agent_socket: Some(agent.socket.clone()), ..rig.settings() };
    let connector = Connector::new(settings).unwrap();
    let refused = refusal(connector.connect(&server.target()).await);
    assert!(refused.contains("Too many authentication failures") && refused.contains("IdentitiesOnly"), "{refused}");
    rig.ssh_config(&format!("IdentitiesOnly yes\nIdentityFile {}\n", rig.path("id").display()));
    connector.connect(&server.target()).await.unwrap().close().await;
    // A key that the inventory names goes before the agent's.
    rig.ssh_config("");
    let mut target = server.target();
    target.identity_file = Some(rig.path("id"));
    connector.connect(&target).await.unwrap().close().await;
}

#[tokio::test]
async fn ssh_config_names_address_port_user_key_and_alias() {
    let rig = Rig::new();
    let server = rig.stranger("");
    rig.know(&format!("the-alias {}\n", server.host_key("ed25519")));
    rig.ssh_config(&format!(
        "Match host web1\n  HostName {}\n  Port {}\n  User {}\n  IdentityFile {}\n  HostKeyAlias the-alias\n",
        server.address.ip(),
        server.address.port(),
        user(),
        rig.path("id").display(),
    ));
    let mut settings = SshSettings { identity_files: Vec::new(), ..rig.settings() };
    settings.local_user = "nobody-in-particular".to_owned();
    let mut target = server.target();
    (target.address, target.port) = ("web1".to_owned(), None);
    let connection = Connector::new(settings.clone()).unwrap().connect(&target).await.unwrap();
    assert_eq!(run(&connection, "id -un").await, user());
    // The same through the inventory's ssh arguments.
    settings.config_file = Some("/dev/null".into());
    target.ssh_args = vec!["-F".to_owned(), rig.path("ssh_config").display().to_string()];
    settings.config_file = None;
    Connector::new(settings).unwrap().connect(&target).await.unwrap().close().await;
}

#[tokio::test]
async fn a_proxy_command_carries_the_connection_and_its_complaint_is_shown() {
    let rig = Rig::new();
    let server = rig.server("");
    rig.ssh_config("ProxyCommand /bin/bash -c 'exec 3<>/dev/tcp/%h/%p; cat <&3 & cat >&3'\n");
    let connection = rig.connector().connect(&server.target()).await.unwrap();
    assert_eq!(run(&connection, "echo hello").await, "hello");
    assert_eq!(connection.remote_addr(), None);
    rig.ssh_config("ProxyCommand /bin/sh -c 'echo no such bastion >&2; exit 1'\n");
    let refused = refusal(rig.connector().connect(&server.target()).await);
    assert!(refused.contains("ProxyCommand says: no such bastion"), "{refused}");
}

#[tokio::test]
async fn bad_ssh_configuration_is_an_error_before_anything_is_contacted() {
    let rig = Rig::new();
    let server = rig.server("");
    rig.ssh_config("Nonsense yes\n");
    let error = rig.connector().connect(&server.target()).await.unwrap_err();
    assert_eq!(error.step(), Step::Config);
    assert!(error.to_string().contains("nonsense"), "{error}");
    rig.ssh_config("");
    let mut target = server.target();
    target.address = "-oProxyCommand=true".to_owned();
    let refused = refusal(rig.connector().connect(&target).await);
    assert!(refused.contains("starts with `-`"), "{refused}");
}
