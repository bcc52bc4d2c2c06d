use proptest::prelude::*;

use super::*;

fn settings() -> SshSettings {
    SshSettings { agent_socket: Some("/run/agent".into()), ..SshSettings::new("/home/ada", "ada") }
}

fn hop(address: &str) -> Hop {
    Hop {
        address: address.to_owned(),
        port: None,
        user: None,
        identity_file: None,
        ssh_args: Vec::new(),
        host_keys: None,
        jumps: None,
    }
}

fn read(dump: &str) -> Resolved {
    read_dump(dump, &settings(), &hop("web1")).unwrap()
}

fn paths(identities: &[Identity]) -> Vec<(&str, bool)> {
    identities.iter().map(|identity| (identity.path.to_str().unwrap(), identity.explicit)).collect()
}

#[test]
fn without_an_ssh_client_the_defaults_apply() {
    let host = read("");
    assert_eq!((host.host.as_str(), host.port, host.user.as_str()), ("web1", 22, "ada"));
    let defaults = ["/home/ada/.ssh/id_ed25519", "/home/ada/.ssh/id_ecdsa", "/home/ada/.ssh/id_rsa"];
    assert_eq!(paths(&host.identities), defaults.map(|path| (path, false)));
    assert_eq!(host.agent, Agent::Socket("/run/agent".into()));
    assert_eq!(host.user_known_hosts, [Path::new("/home/ada/.ssh/known_hosts")]);
    assert_eq!(host.global_known_hosts, GLOBAL_KNOWN_HOSTS.map(PathBuf::from));
    assert_eq!(host.host_keys, HostKeyPolicy::Strict);
    assert!(host.jumps.is_empty());
}

#[test]
fn a_dump_of_ssh_is_read_whole() {
    let host = read(
        "host web1\nuser deploy\nhostname 10.0.0.7\nport 2222\nidentitiesonly yes\nhashknownhosts yes\n\
         stricthostkeychecking accept-new\nidentityagent none\nidentityfile ~/.ssh/%h-%r\nidentityfile none\n\
         certificatefile %d/c%%.pub\nglobalknownhostsfile /dev/null\nuserknownhostsfile /a /b\nhostkeyalias web\n\
         connecttimeout 3\nproxyjump a@b:23,[::1]:24,c\n",
    );
    assert_eq!((host.host.as_str(), host.port, host.user.as_str()), ("10.0.0.7", 2222, "deploy"));
    assert!(host.identities_only && host.hash_known_hosts);
    assert_eq!(host.host_keys, HostKeyPolicy::AcceptNew);
    assert_eq!(host.agent, Agent::None);
    assert_eq!(paths(&host.identities), [("/home/ada/.ssh/10.0.0.7-deploy", false)]);
    assert_eq!(host.certificates, [Path::new("/home/ada/c%.pub")]);
    assert_eq!(host.user_known_hosts, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(host.global_known_hosts, [Path::new("/dev/null")]);
    assert_eq!(host.host_key_alias.as_deref(), Some("web"));
    assert_eq!(host.connect_timeout, Duration::from_secs(3));
    let jump = |user: Option<&str>, host: &str, port| Jump { user: user.map(str::to_owned), host: host.to_owned(), port };
    assert_eq!(host.jumps, [jump(Some("a"), "b", Some(23)), jump(None, "::1", Some(24)), jump(None, "c", None)]);
}

#[test]
fn the_operators_words_win_in_their_order() {
    let dump =
        "host web1\nuser fromssh\nhostname web1\nport 22\nidentityfile /k3\nstricthostkeychecking no\nuserknownhostsfile /x\n";
    let mut settings = settings();
    settings.identity_files = vec!["/k2".into()];
    settings.user = Some("flag".to_owned());
    settings.known_hosts = Some("/kh".into());
    let mut hop = hop("web1");
    hop.identity_file = Some("~/k1".into());
    hop.host_keys = Some(HostKeyPolicy::AcceptNew);
    let host = read_dump(dump, &settings, &hop).unwrap();
    assert_eq!(paths(&host.identities), [("/home/ada/k1", true), ("/k2", true), ("/k3", false)]);
    assert_eq!((host.user.as_str(), host.host_keys), ("flag", HostKeyPolicy::AcceptNew));
    assert_eq!((host.user_known_hosts, host.global_known_hosts), (vec!["/kh".into()], vec![]));
    hop.user = Some("inventory".to_owned());
    settings.host_keys = Some(HostKeyPolicy::Strict);
    let host = read_dump(dump, &settings, &hop).unwrap();
    assert_eq!((host.user.as_str(), host.host_keys), ("inventory", HostKeyPolicy::Strict));
}

#[test]
fn a_proxy_command_gets_its_tokens_and_unknown_ones_are_refused() {
    let host = read("hostname h1\nport 2\nuser u\nproxycommand nc -X 5 %h %p %r %n %%\n");
    assert_eq!(host.proxy_command.as_deref(), Some("nc -X 5 h1 2 u web1 %"));
    assert_eq!(read("proxycommand none\nproxyjump none\n").proxy_command, None);
    let error = read_dump("proxycommand nc %C\n", &settings(), &hop("web1")).unwrap_err();
    assert!(error.contains("`%C`"), "{error}");
    let error = read_dump("hostname $(reboot)\nproxycommand nc %h\n", &settings(), &hop("web1")).unwrap_err();
    assert!(error.contains("not allowed"), "{error}");
}

#[test]
fn names_that_could_be_options_or_commands_are_refused() {
    for bad in [
        "",
        "-oProxyCommand=reboot",
        "a b",
        "a;b",
        "$(a)",
        "`a`",
        "a\nb",
        "a@b",
        "ssh://a",
        "a/b",
        "a%h",
        "a:%b c",
        "a:%$(b)",
        "é\u{7f}",
    ] {
        assert!(check_words(&hop(bad)).is_err(), "{bad:?} was accepted");
    }
    for good in ["web1", "web-1.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "web_1"] {
        check_words(&hop(good)).unwrap();
    }
    let mut with_user = hop("web1");
    for bad in ["-l", "a b", "$(a)"] {
        with_user.user = Some(bad.to_owned());
        assert!(check_words(&with_user).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn ssh_arguments_cannot_replace_the_host() {
    let error = read_dump("host other\nhostname other\n", &settings(), &hop("web1")).unwrap_err();
    assert!(error.contains("another host, `other`"), "{error}");
}

#[test]
fn a_jump_hosts_hop_keeps_the_configuration_file_and_the_hosts_before_it() {
    let jumps = read_jumps("a,b:23").unwrap();
    let mut behind = hop("web1");
    behind.ssh_args = ["-o", "Port=5", "-F", "/cfg", "-v"].map(str::to_owned).to_vec();
    behind.identity_file = Some("/k".into());
    let last = Hop::through(&jumps, &behind).unwrap();
    assert_eq!((last.address.as_str(), last.port, last.identity_file.as_ref()), ("b", Some(23), None));
    assert_eq!(last.ssh_args, ["-F", "/cfg"]);
    assert_eq!(last.jumps.as_deref(), Some(&jumps[..1]));
    let first = Hop::through(last.jumps.as_deref().unwrap(), &last).unwrap();
    assert_eq!((first.address.as_str(), first.jumps), ("a", None));
    assert!(Hop::through(&[], &behind).is_none());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let mut bad = settings();
    bad.max_logins = 0;
    assert!(check(&bad).is_err());
    let mut bad = settings();
    bad.config_file = Some("/cfg".into());
    assert!(check(&bad).unwrap_err().to_string().contains("no ssh client"));
    bad.ssh_client = Some("/usr/bin/ssh".into());
    check(&bad).unwrap();
    check(&SshSettings { config_file: Some("none".into()), ..settings() }).unwrap();
}

#[test]
fn a_configuration_that_nobody_can_read_is_warned_of() {
    let home = tempfile::tempdir().unwrap();
    let settings = SshSettings::new(home.path(), "ada");
    let file = home.path().join(".ssh/config");
    assert_eq!(warnings(&settings), [], "there is no such file");
    std::fs::create_dir(home.path().join(".ssh")).unwrap();
    std::fs::write(&file, "# nothing\n\n").unwrap();
    assert_eq!(warnings(&settings), [], "it says nothing");
    std::fs::write(&file, "# mine\nHost web*\n  User deploy\n").unwrap();
    let [warning] = &warnings(&settings)[..] else { panic!("no warning") };
    assert!(warning.message.starts_with(&format!("{} is ignored", file.display())), "{warning:?}");
    assert!(warning.hint.contains("OpenSSH client"), "{warning:?}");
    assert_eq!(warnings(&SshSettings { ssh_client: Some("/usr/bin/ssh".into()), ..settings.clone() }), [], "ssh reads it");
    assert_eq!(warnings(&SshSettings { config_file: Some("none".into()), ..settings }), [], "it is not wanted");
}

#[test]
fn the_operators_connect_timeout_wins_over_ssh_config() {
    let limit = |option: Option<u64>, dump: &str| {
        let settings = SshSettings { connect_timeout: option.map(Duration::from_secs), ..settings() };
        read_dump(dump, &settings, &hop("web1")).unwrap().connect_timeout.as_secs()
    };
    for (option, dump, expected) in [
        (None, "", 10),
        (None, "connecttimeout none\n", 10),
        (None, "connecttimeout 3\n", 3),
        (Some(7), "", 7),
        (Some(7), "connecttimeout 3\n", 7),
    ] {
        assert_eq!(limit(option, dump), expected, "{option:?} {dump:?}");
    }
}

#[tokio::test]
async fn ssh_arguments_without_an_ssh_client_are_an_error_with_a_hint() {
    let mut hop = hop("web1");
    hop.ssh_args = vec!["-J".to_owned(), "b".to_owned()];
    let error = resolve(&settings(), &hop).await.unwrap_err();
    assert_eq!(error.step(), Step::Config);
    assert!(error.hint().unwrap().contains("openssh-client"));
}

proptest! {
    #[test]
    fn no_dump_and_no_jump_panics(dump in "[a-z %~$,@:\\[\\]/\n0-9-]{0,200}", jump in any::<String>()) {
        let _ = read_dump(&dump, &settings(), &hop("web1"));
        let _ = read_dump(&format!("proxyjump {jump}\nproxycommand {jump}\nidentityfile {jump}"), &settings(), &hop("web1"));
        let _ = read_jumps(&jump);
    }
}
