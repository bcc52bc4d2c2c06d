//! What is read of a host, and what is only warned of.

use std::net::IpAddr;

use super::*;

/// Returns the one host of this name.
fn host(yaml: &str, name: &str) -> HostEntry {
    let hosts = load(yaml).inventory.select(None).unwrap();
    hosts.into_iter().find(|host| host.name.as_str() == name).unwrap()
}

/// Returns warnings as `line: message (hint)`.
fn warnings(yaml: &str) -> Vec<String> {
    let show = |warning: &Warning| {
        let line = warning.location.line().map_or("-".to_owned(), |line| line.to_string());
        format!("{line}: {} ({})", warning.message, warning.hint.as_deref().unwrap_or("-"))
    };
    load(yaml).warnings.iter().map(show).collect()
}

#[test]
fn connection_variables_become_a_host() {
    let yaml = r#"
all:
  vars:
    ansible_user: deploy
    ansible_ssh_common_args: -J bastion
    ansible_become: "yes"
    fleetdrop_deploy_to: /srv/shop
  hosts:
    plain:
    full:2200:
      ansible_host: 10.0.0.9
      ansible_user: ops
      ansible_ssh_private_key_file: ~/.ssh/my key
      ansible_ssh_extra_args: -o "ServerAliveInterval=5"
      ansible_ssh_host_key_checking: no
      ansible_become_user: shop
      fleetdrop_deploy_to: ~/shop
      fleetdrop_zone: eu-1
      fleetdrop_advertise: 2001:db8::9
    here:
      ansible_connection: local
      ansible_host: "{{ not needed }}"
      ansible_port: !vault x
      ansible_become: false
      ansible_become_method: "{{ not needed either }}"
    nulls:
      ansible_user:
      ansible_port: ""
      ansible_become: 0
      fleetdrop_deploy_to: null
"#;
    let full = host(yaml, "full");
    assert_eq!((full.address.as_str(), full.port, full.user.as_deref()), ("10.0.0.9", Some(2200), Some("ops")));
    assert_eq!(full.identity_file.unwrap().to_str().unwrap(), "~/.ssh/my key");
    assert_eq!(full.ssh_args, ["-J", "bastion", "-o", "ServerAliveInterval=5"]);
    assert_eq!(full.host_key_checking, Some(false));
    assert_eq!(full.r#become.unwrap().user, "shop");
    assert_eq!((full.deploy_to.as_deref(), full.zone.as_deref()), (Some("~/shop"), Some("eu-1")));
    assert_eq!(full.advertise, Some("2001:db8::9".parse::<IpAddr>().unwrap()));
    assert_eq!(full.connection, Connection::Ssh);

    let plain = host(yaml, "plain");
    assert_eq!((plain.address.as_str(), plain.port, plain.user.as_deref()), ("plain", None, Some("deploy")));
    assert_eq!(plain.r#become.unwrap().user, "root");
    assert_eq!((plain.identity_file, plain.host_key_checking, plain.zone, plain.advertise), (None, None, None, None));
    assert_eq!(plain.groups, ["ungrouped"]);

    let here = host(yaml, "here");
    assert_eq!((here.connection, here.r#become), (Connection::Local, None));

    let nulls = host(yaml, "nulls");
    assert_eq!((nulls.user, nulls.port, nulls.deploy_to, nulls.r#become), (None, None, None, None));
}

#[test]
fn of_two_names_for_one_thing_the_ssh_one_wins_as_in_ansible() {
    let yaml =
        "all: {hosts: {h: {ansible_port: 1, ansible_ssh_port: '2', ansible_host: a, ansible_ssh_host: b, ansible_user: 1000}}}";
    let h = host(yaml, "h");
    assert_eq!((h.port, h.address.as_str(), h.user.as_deref()), (Some(2), "b", Some("1000")));
}

#[test]
fn values_nobody_needs_may_be_templates_or_encrypted_and_an_unselected_host_is_not_looked_at() {
    let yaml =
        "all:\n  vars: {motd: '{{ x }}', db_password: !vault y, odd: !thing z}\n  hosts: {good: , bad: {ansible_port: x}}\n";
    let loaded = load(yaml);
    assert_eq!(names(&loaded.inventory, Some("good")), ["good"]);
    assert!(
        loaded
            .inventory
            .select(None)
            .unwrap_err()
            .to_string()
            .contains(":3:39: `ansible_port` of host `bad` must be a port from 1 to 65535")
    );
    host("all: {hosts: {h: {ansible_host: !unsafe 'a{{b'}}}", "h");
}

#[test]
fn secrets_are_hidden_in_what_is_displayed() {
    let yaml = "all:\n  vars:\n    ansible_password: p1\n    api: {Token: p2, url: u}\n    key: !vault p3\n    list: [{db_passwd: p4}]\n  hosts: {h: }\n";
    let shown = serde_json::to_string(&host(yaml, "h").vars.to_json()).unwrap();
    assert_eq!(
        shown,
        r#"{"ansible_password":"(hidden)","api":{"Token":"(hidden)","url":"u"},"key":"(vault)","list":[{"db_passwd":"(hidden)"}]}"#
    );
}

#[test]
fn what_is_skipped_is_warned_of_once_and_with_a_place() {
    let yaml = "\
version: 2
web:
  host: {w1: }
  hosts:
    w1: {fleetdrop_deployto: /srv/x, fleetdrop_colour: red}
    w2: {fleetdrop_deployto: /srv/x}
    \"e[3:1]\":
    again:
    again2:2222:
  vars: {5: five, a: 1}
  roles: [x]
db:
  hosts:
    again2:3333:
    web: {}
";
    let shown = warnings(yaml).join("\n");
    insta::assert_snapshot!(shown, @r#"
    1: `version` should be a group, but it is a whole number; skipped (a group is a mapping with `hosts`, `children` and `vars`)
    3: unknown key `host` in group `web`; skipped (did you mean `hosts`?)
    7: the range in `e[3:1]` is empty: its begin is above its end (-)
    10: a whole number is no variable's name; skipped (quote it if it is meant as text)
    11: unknown key `roles` in group `web`; skipped (a group has `hosts`, `children` and `vars`; variables belong under `vars`)
    14: this port is ignored: the first mention of `again2` counts, on line 9 (write the port there, or set `ansible_port`)
    15: `web` is both a host and a group; `--limit web` means the host (rename one of the two)
    5: unknown variable `fleetdrop_colour`; nothing uses it (there are `fleetdrop_deploy_to`, `fleetdrop_zone`, `fleetdrop_advertise`)
    5: unknown variable `fleetdrop_deployto`; nothing uses it (did you mean `fleetdrop_deploy_to`?)
    "#);
}

#[test]
fn warnings_are_bounded() {
    let keys: String = (0..500).map(|number| format!("  key{number}: 1\n")).collect();
    let warnings = warnings(&format!("web:\n{keys}  hosts: {{a: }}\n"));
    assert_eq!(warnings.len(), 21);
    assert_eq!(warnings.last().unwrap(), "-: 480 more warnings (-)");
}

#[test]
fn an_encrypted_variables_file_is_skipped_with_a_warning() {
    let files = Files::new(&[
        ("hosts.yml", "web: {hosts: {a: }}"),
        ("group_vars/web/vars.yml", "ansible_user: u\n"),
        ("group_vars/web/vault.yml", "$ANSIBLE_VAULT;1.1;AES256\n6162\n"),
        ("host_vars", "not a directory"),
    ]);
    let loaded = files.load("hosts.yml").unwrap();
    assert_eq!(loaded.inventory.select(None).unwrap()[0].user.as_deref(), Some("u"));
    let shown: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(
        shown[0].ends_with("group_vars/web/vault.yml: encrypted with ansible-vault; skipped, its variables are not known here")
    );
    assert!(shown[1].ends_with("host_vars: this should be a directory; skipped"));
}

#[test]
fn errors_in_variables_files_name_the_file() {
    let files = Files::new(&[("hosts.yml", "web: {hosts: {a: }}"), ("host_vars/a.yml", "x: 1\nansible_port: none\n")]);
    let error = files.load("hosts.yml").unwrap().inventory.select(None).unwrap_err();
    assert!(error.to_string().contains("host_vars/a.yml:2:15: `ansible_port` of host `a`"), "{error}");
}

#[test]
fn the_examples_load_without_a_warning() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/inventories");
    for (file, hosts) in [("simple.yaml", 3), ("local.yaml", 1), ("production/inventory.yaml", 40)] {
        let loaded = Inventory::load(&examples.join(file)).unwrap();
        assert!(loaded.warnings.is_empty(), "{file}: {:?}", loaded.warnings);
        assert_eq!(loaded.inventory.select(None).unwrap().len(), hosts, "{file}");
    }
    let loaded = Inventory::load(&examples.join("production/inventory.yaml")).unwrap();
    let last = &loaded.inventory.select(Some("oslo[-1]")).unwrap()[0];
    assert_eq!((last.address.as_str(), last.zone.as_deref()), ("192.0.2.20", Some("oslo")));
    assert_eq!(last.groups, ["oslo", "web", "web_oslo"]);
}
