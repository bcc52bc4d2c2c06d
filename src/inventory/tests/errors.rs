//! What a person reads when an inventory is no good.

use super::*;

/// Returns the errors of inventories that must not load or select, as people see them.
fn refusals(inventories: &[&str]) -> String {
    let refusal = |yaml: &&str| {
        let files = Files::new(&[("hosts.yml", yaml)]);
        let error = match files.load("hosts.yml") {
            Ok(loaded) => loaded.inventory.select(None).expect_err(yaml),
            Err(error) => error,
        };
        files.explain(&error)
    };
    inventories.iter().map(refusal).collect::<Vec<_>>().join("\n\n")
}

/// As [`refusals`], for one host with these variables each.
fn refused_variables(variables: &[&str]) -> String {
    let inventories: Vec<_> = variables.iter().map(|line| format!("all:\n  hosts:\n    w1:\n      {line}\n")).collect();
    refusals(&inventories.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_file_that_is_something_else_says_what_and_what_to_do() {
    let shown = refusals(&[
        "# nothing yet\n",
        "[web]\nweb1 ansible_host=10.0.0.1\n",
        "web1 ansible_host=10.0.0.1\n\n[db]\ndb1\n",
        "web1\nweb2\n",
        "#!/bin/sh\necho '{}'\n",
        "- web1\n",
        "plugin: amazon.aws.aws_ec2\nregions: [eu]\n",
        "_meta: {hostvars: {}}\n",
        "all:\n  hosts:\n   web1:\n    ansible_port: 22\n  bad\n",
        "all:\n  hosts:\n    w:\n      ansible_password: [\n",
    ]);
    insta::assert_snapshot!(shown, @r#"
    hosts.yml:1:1: the inventory is empty
    1 | # nothing yet
      | ^
      hint: start with `all:`, `  hosts:`, `    web1.example.com:`

    hosts.yml:1:1: this looks like an INI inventory, not YAML
    1 | [web]
      | ^
      hint: fleetdrop reads Ansible's YAML inventories; convert it with `ansible-inventory -i FILE --list --yaml > inventory.yaml`

    hosts.yml:1:1: this looks like an INI inventory, not YAML
    1 | web1 ansible_host=10.0.0.1
      | ^
      hint: fleetdrop reads Ansible's YAML inventories; convert it with `ansible-inventory -i FILE --list --yaml > inventory.yaml`

    hosts.yml:1:1: an inventory is a mapping of groups, but this is text
    1 | web1
      | ^
      hint: fleetdrop reads Ansible's YAML inventories; convert it with `ansible-inventory -i FILE --list --yaml > inventory.yaml`

    hosts.yml:1:1: this looks like an inventory script, not YAML
    1 | #!/bin/sh
      | ^
      hint: fleetdrop reads Ansible's YAML inventories; convert it with `ansible-inventory -i FILE --list --yaml > inventory.yaml`

    hosts.yml:1:1: an inventory is a mapping of groups, but this is a list
    1 | - web1
      | ^
      hint: fleetdrop reads Ansible's YAML inventories; convert it with `ansible-inventory -i FILE --list --yaml > inventory.yaml`

    hosts.yml:1:1: this configures an inventory plugin; it is not an inventory
    1 | plugin: amazon.aws.aws_ec2
      | ^
      hint: write out what it yields: `ansible-inventory -i FILE --list --yaml > inventory.yaml`

    hosts.yml:1:1: this is the JSON output of an inventory script or of `ansible-inventory --list`
    1 | _meta: {hostvars: {}}
      | ^
      hint: write it as YAML: `ansible-inventory -i FILE --list --yaml`

    hosts.yml:5:3: not valid YAML: simple key expected ':'
    5 |   bad
      |   ^
      hint: look at this line and the ones before it: indentation, quotes, brackets

    hosts.yml:4:25: not valid YAML: unclosed bracket '['
      hint: look at this line and the ones before it: indentation, quotes, brackets
    "#);
}

#[test]
fn bad_hosts_are_refused_with_their_place() {
    let shown = refusals(&[
        "all:\n  hosts:\n    web1:\n    web2:\n    web1:\n",
        "all:\n  hosts:\n    web1:\n    42:\n",
        "all:\n  hosts:\n    no:\n",
        "all:\n  hosts:\n    - web1\n",
        "all:\n  hosts:\n    web1: fast\n",
        "all:\n  hosts:\n    web[1:x]:\n",
        "all:\n  hosts:\n    web[1:200000]:\n",
        "all:\n  hosts:\n    web 1:\n",
        "all:\n  children:\n    web:\n",
    ]);
    insta::assert_snapshot!(shown, @r#"
    hosts.yml:5:5: the key `web1` is already in this mapping, on line 3
    5 |     web1:
      |     ^
      hint: remove one of the two, or join what is under them

    hosts.yml:4:5: a host's name must be text, but YAML reads this as a whole number
    4 |     42:
      |     ^
      hint: put the name in quotation marks

    hosts.yml:3:5: a host's name must be text, but YAML reads this as the boolean false
    3 |     no:
      |     ^
      hint: put the name in quotation marks

    hosts.yml:3:5: `hosts` of group `all` must be a mapping, but it is a list
    3 |     - web1
      |     ^
      hint: write each entry as a key: `hosts:`, then `  name:` without a dash

    hosts.yml:3:11: the variables of host `web1` must be a mapping, but this is text
    3 |     web1: fast
      |           ^
      hint: write `name: value` lines under the host, or nothing

    hosts.yml:3:5: `[1:x]`: both ends must be whole numbers or single letters
    3 |     web[1:x]:
      |     ^
      hint: a range is `[begin:end]` or `[begin:end:step]`, as in `web[01:50].example.com` or `db-[a:f]`

    hosts.yml:3:5: `web[1:200000]` stands for 200000 hosts; the whole inventory may have 100000
    3 |     web[1:200000]:
      |     ^

    hosts.yml:3:5: `web 1` is not a valid host name: printable characters without white space, at most 253 bytes
    3 |     web 1:
      |     ^

    hosts.yml: the inventory has no hosts
      hint: name hosts under `hosts:` of a group
    "#);
}

#[test]
fn bad_groups_are_refused_with_their_place() {
    let shown = refusals(&[
        "a:\n  children:\n    b:\n      children:\n        c:\nc:\n  children:\n    a:\n",
        "a:\n  children:\n    a:\n",
        "a:\n  children:\n    all:\n",
        "a:\n  children:\n    b: 5\n",
        "7:\n  hosts: {x: }\n",
        "a:\n  vars:\n    ansible_group_priority: high\n  hosts: {x: }\n",
        "db:\n  hosts:\n    db: {ansible_host: 10.0.0.1}\n    db2:\n",
    ]);
    insta::assert_snapshot!(shown, @r#"
    hosts.yml:3:5: groups contain each other in a loop: `b` > `c` > `a` > `b`
    3 |     b:
      |     ^
      hint: remove one of them from the other's `children`

    hosts.yml:3:5: groups contain each other in a loop: `a` > `a`
    3 |     a:
      |     ^
      hint: remove one of them from the other's `children`

    hosts.yml:1:1: groups contain each other in a loop: `a` > `all` > `a`
    1 | a:
      | ^
      hint: remove one of them from the other's `children`

    hosts.yml:3:5: `b` should be a group, but it is a whole number
    3 |     b: 5
      |     ^
      hint: a group is a mapping with `hosts`, `children` and `vars`

    hosts.yml:1:1: a group's name must be text, but YAML reads this as a whole number
    1 | 7:
      | ^
      hint: put the name in quotation marks

    hosts.yml:3:29: `ansible_group_priority` must be a whole number, but it is text
    3 |     ansible_group_priority: high
      |                             ^

    hosts.yml:3:5: `db` is a host with variables and a group with other hosts
    3 |     db: {ansible_host: 10.0.0.1}
      |     ^
      hint: Ansible would give the host's variables to the whole group; rename one of the two
    "#);
}

#[test]
fn a_needed_variable_that_cannot_be_used_says_so() {
    let shown = refused_variables(&[
        "ansible_host: \"{{ inventory_hostname }}.example.com\"",
        "ansible_user: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        6162",
        "ansible_port: !thing 22",
        "ansible_port: 70000",
        "ansible_user: no",
        "ansible_host: [10.0.0.1]",
        "ansible_host: -oProxyCommand=x",
        "ansible_connection: winrm",
        "ansible_become: maybe",
        "ansible_become: true\n      ansible_become_method: su",
        "ansible_ssh_common_args: -o 'x",
    ]);
    insta::assert_snapshot!(shown, @r#"
    hosts.yml:4:21: `ansible_host` of host `w1` is a Jinja template, and fleetdrop needs its value
    4 |       ansible_host: "{{ inventory_hostname }}.example.com"
      |                     ^
      hint: write the value itself, in plain text

    hosts.yml:4:21: `ansible_user` of host `w1` is encrypted with ansible-vault, and fleetdrop needs its value
      hint: write the value itself, in plain text

    hosts.yml:4:21: `ansible_port` of host `w1` has the tag `!thing`, which only Ansible understands, and fleetdrop needs its value
    4 |       ansible_port: !thing 22
      |                     ^
      hint: write the value itself, in plain text

    hosts.yml:4:21: `ansible_port` of host `w1` must be a port from 1 to 65535
    4 |       ansible_port: 70000
      |                     ^

    hosts.yml:4:21: `ansible_user` of host `w1` must be text, but YAML reads it as the boolean false
    4 |       ansible_user: no
      |                     ^
      hint: put the value in quotation marks

    hosts.yml:4:21: `ansible_host` of host `w1` must be text, but YAML reads it as a list
    4 |       ansible_host: [10.0.0.1]
      |                     ^

    hosts.yml:4:21: `ansible_host` of host `w1` must not start with `-`
    4 |       ansible_host: -oProxyCommand=x
      |                     ^

    hosts.yml:4:27: `ansible_connection` of host `w1` is `winrm`; fleetdrop knows `ssh` and `local`
    4 |       ansible_connection: winrm
      |                           ^
      hint: leave such hosts out with `--limit '!PATTERN'`

    hosts.yml:4:23: `ansible_become` of host `w1` must be true or false, but it is text
    4 |       ansible_become: maybe
      |                       ^

    hosts.yml:5:30: `ansible_become_method` of host `w1` is `su`; fleetdrop becomes another user by `sudo` only
    5 |       ansible_become_method: su
      |                              ^
      hint: log in as that user, or allow `sudo -n` for the login user

    hosts.yml:4:32: `ansible_ssh_common_args` of host `w1` has a quotation mark or a backslash without its end
    4 |       ansible_ssh_common_args: -o 'x
      |                                ^
    "#);
}

#[test]
fn our_own_variables_are_checked() {
    let shown = refused_variables(&[
        "fleetdrop_deploy_to: srv/shop",
        "fleetdrop_deploy_to: /srv/../etc",
        "fleetdrop_deploy_to: /",
        "fleetdrop_zone: 1.5",
        "fleetdrop_advertise: web1",
        "fleetdrop_advertise: 0.0.0.0",
    ]);
    insta::assert_snapshot!(shown, @r#"
    hosts.yml:4:28: `fleetdrop_deploy_to` of host `w1` must be a directory's absolute path, or start with `~/`
    4 |       fleetdrop_deploy_to: srv/shop
      |                            ^
      hint: for example `/srv/shop` or `~/apps/shop`

    hosts.yml:4:28: `fleetdrop_deploy_to` of host `w1` must not contain `..`
    4 |       fleetdrop_deploy_to: /srv/../etc
      |                            ^
      hint: for example `/srv/shop` or `~/apps/shop`

    hosts.yml:4:28: `fleetdrop_deploy_to` of host `w1` must be a directory's absolute path, or start with `~/`
    4 |       fleetdrop_deploy_to: /
      |                            ^
      hint: for example `/srv/shop` or `~/apps/shop`

    hosts.yml:4:23: `fleetdrop_zone` of host `w1` must be text, but YAML reads it as a number
    4 |       fleetdrop_zone: 1.5
      |                       ^
      hint: put the value in quotation marks

    hosts.yml:4:28: `fleetdrop_advertise` of host `w1` must be the host's own IP address, without a port
    4 |       fleetdrop_advertise: web1
      |                            ^
      hint: for example "10.0.0.7" or "2001:db8::7"

    hosts.yml:4:28: `fleetdrop_advertise` of host `w1` must be the host's own IP address, without a port
    4 |       fleetdrop_advertise: 0.0.0.0
      |                            ^
      hint: for example "10.0.0.7" or "2001:db8::7"
    "#);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let files = Files::new(&[("dir/x", ""), ("good.yml", "all: {hosts: {a: }}"), ("group_vars/all.yml", "- 1\n")]);
    files.write("latin1.yml", b"all:\n  hosts:\n    m\xfcnchen:\n");
    let explain = |name: &str| files.explain(&files.load(name).unwrap_err());
    insta::assert_snapshot!(["none.yml", "dir", "latin1.yml", "good.yml"].map(explain).join("\n\n"), @r#"
    none.yml: cannot be read
      caused by: No such file or directory (os error 2)
      hint: check the path; it is relative to the current directory

    dir: cannot be read
      caused by: is a directory
      hint: name one YAML file, not a directory

    latin1.yml:3:6: the file is not UTF-8 text from here on
      hint: convert it, for example with `iconv -t utf-8`

    group_vars/all.yml:1:1: a variables file must be a mapping, but this is a list
    1 | - 1
      | ^
      hint: write `name: value` lines
    "#);
}

#[test]
fn patterns_that_lead_nowhere_are_named() {
    let files = Files::new(&[("hosts.yml", "web:\n  hosts: {web01: , web02: }\nempty:\nprod:\n  hosts: {web01: }\n")]);
    let loaded = files.load("hosts.yml").unwrap();
    let explain = |limit: &str| {
        let error = loaded.inventory.select(Some(limit)).expect_err(limit);
        let error = format!("{error}\n  hint: {}", error.hint().unwrap_or("-"));
        error.replace(&format!("{}/", files.0.path().display()), "")
    };
    let limits = [
        "web1",
        "prd",
        "web:!web03",
        "web:&prodd",
        "zzz",
        "empty",
        "web:!web",
        "web[7]",
        "~web(",
        "~(?=x)",
        "web[",
        "web]",
        "",
        ",",
        "a:b,web",
        "!",
        "@/nonexistent/limit",
        "web*:nothing*",
        "~x{1000}{1000}{1000}",
    ];
    insta::assert_snapshot!(limits.map(explain).join("\n"), @r#"
    hosts.yml: --limit `web1`: matches no host and no group of the inventory
      hint: did you mean `web` or `web01`?
    hosts.yml: --limit `prd`: matches no host and no group of the inventory
      hint: did you mean `prod`?
    hosts.yml: --limit `!web03`: matches no host and no group of the inventory
      hint: did you mean `web01` or `web02`?
    hosts.yml: --limit `&prodd`: matches no host and no group of the inventory
      hint: did you mean `prod`?
    hosts.yml: --limit `zzz`: matches no host and no group of the inventory
      hint: `fleetdrop inventory --hosts FILE` shows what there is
    hosts.yml: --limit `empty`: no host is left
      hint: `fleetdrop inventory --hosts FILE` shows what there is
    hosts.yml: --limit `web:!web`: no host is left
      hint: `fleetdrop inventory --hosts FILE` shows what there is
    hosts.yml: --limit `web[7]`: `web` has 2 hosts, none at that place
      hint: -
    hosts.yml: --limit `~web(`: not a valid pattern: unclosed group
      hint: -
    hosts.yml: --limit `~(?=x)`: not a valid pattern: look-around, including look-ahead and look-behind, is not supported
      hint: -
    hosts.yml: --limit `web[`: a `[` without its `]`
      hint: -
    hosts.yml: --limit `web]`: a `]` without its `[`
      hint: -
    hosts.yml: --limit ``: the pattern is empty
      hint: leave `--limit` out to mean every host
    hosts.yml: --limit `,`: the pattern is empty
      hint: leave `--limit` out to mean every host
    hosts.yml: --limit `a:b`: matches no host and no group of the inventory
      hint: separate parts either by commas or by colons, not by both
    hosts.yml: --limit `!`: there is nothing after the sign
      hint: -
    /nonexistent/limit: cannot be read
      hint: check the path; it is relative to the current directory
    hosts.yml: --limit `nothing*`: matches no host and no group of the inventory
      hint: `fleetdrop inventory --hosts FILE` shows what there is
    hosts.yml: --limit `~x{1000}{1000}{1000}`: the pattern is too complex
      hint: -
    "#);
}

#[test]
fn a_pattern_from_a_file_is_named_with_its_place() {
    let files = Files::new(&[("hosts.yml", "web:\n  hosts: {web01: }\n"), ("retry.txt", "# failed\nweb01\n  !web02\n")]);
    let limit = format!("@{}", files.path("retry.txt").display());
    let error = files.load("hosts.yml").unwrap().inventory.select(Some(&limit)).unwrap_err();
    insta::assert_snapshot!(files.explain(&error), @"
    hosts.yml: --limit `!web02` at retry.txt:3:3: matches no host and no group of the inventory
    3 |   !web02
      |   ^
      hint: did you mean `web01`?
    ");
}
