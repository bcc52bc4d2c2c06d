//! What a person reads when a playbook is no good.

use super::*;

/// Returns the problems of playbooks as people see them.
fn refusals(playbooks: &[&str]) -> String {
    let shown = |problem: &Diagnostic| {
        let snippet = problem.snippet().map(|snippet| format!("\n{snippet}"));
        let hint = problem.hint.as_ref().map(|hint| format!("\n  hint: {hint}"));
        format!("{problem}{}{}", snippet.unwrap_or_default(), hint.unwrap_or_default())
    };
    let refusal = |text: &&str| {
        let problems = read(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
        problems.iter().map(shown).collect::<Vec<_>>().join("\n")
    };
    playbooks.iter().map(refusal).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn every_problem_is_told_at_once_with_place_line_and_advice() {
    let text = "\
app: my shop
deploy-to: srv/shop
keep_releases: 1
linked_dirs: [log, log/old]
linked_files: [/etc, log]
rollout:
  waves: [1, 0%, 200%]
  pause: 10
  order: zones
hooks:
  after_activate: systemctl restart shop
  on_revert: [{comand: x, timeout: 2h}]
health:
  http: {status: 99, healthy_for: 5m}
";
    insta::assert_snapshot!(refusals(&[text]), @r#"
    p.yaml:1:6: `app` must be a name of letters, digits, `.`, `_` and `-` that starts with a letter, a digit or `_`, but it is `my shop`
    1 | app: my shop
      |      ^
    p.yaml:2:1: unknown key `deploy-to`
    2 | deploy-to: srv/shop
      | ^
      hint: did you mean `deploy_to`?
    p.yaml:3:16: `keep_releases` must be a whole number from 2 to 1000, but it is the number 1
    3 | keep_releases: 1
      |                ^
    p.yaml:4:20: `log/old` can't be linked beside `log` on line 4: one lies below the other
    4 | linked_dirs: [log, log/old]
      |                    ^
      hint: remove one of the two
    p.yaml:5:16: `linked_files[0]` must be a path below the release, without `/` at its start, but it is `/etc`
    5 | linked_files: [/etc, log]
      |                ^
    p.yaml:7:14: `rollout.waves[1]` must be a number of hosts from 1 up or a percentage from 1% to 100%, but it is `0%`
    7 |   waves: [1, 0%, 200%]
      |              ^
    p.yaml:7:18: `rollout.waves[2]` must be a number of hosts from 1 up or a percentage from 1% to 100%, but it is `200%`
    7 |   waves: [1, 0%, 200%]
      |                  ^
    p.yaml:8:10: `rollout.pause` must be `confirm` or a duration from 0s to 24h, but it is the number 10
    8 |   pause: 10
      |          ^
    p.yaml:9:10: `rollout.order` must be `inventory`, `shuffled` or `zone`, but it is `zones`
    9 |   order: zones
      |          ^
      hint: did you mean `zone`?
    p.yaml:11:19: `hooks.after_activate` must be a list, but it is `systemctl restart shop`
    11 |   after_activate: systemctl restart shop
       |                   ^
      hint: write it as a list of one: `[...]`
    p.yaml:12:15: `hooks.on_revert[0]` needs `run`
    12 |   on_revert: [{comand: x, timeout: 2h}]
       |               ^
      hint: run: A command for the shell, or a list of a program and its arguments.
    p.yaml:12:16: unknown key `comand` in `hooks.on_revert[0]`
    12 |   on_revert: [{comand: x, timeout: 2h}]
       |                ^
      hint: there are `run`, `timeout`
    p.yaml:12:36: `hooks.on_revert[0].timeout` must be a duration from 1s to 1h, but it is `2h`
    12 |   on_revert: [{comand: x, timeout: 2h}]
       |                                    ^
    p.yaml:14:9: `health.http` needs `url`
    14 |   http: {status: 99, healthy_for: 5m}
       |         ^
      hint: url: The address, for example http://127.0.0.1:8080/healthz.
    p.yaml:14:18: `health.http.status` must be a whole number from 100 to 599, but it is the number 99
    14 |   http: {status: 99, healthy_for: 5m}
       |                  ^
    p.yaml:14:35: `health.http.healthy_for` and one `interval` must fit into `health.http.deadline`, or no host ever counts as healthy
    14 |   http: {status: 99, healthy_for: 5m}
       |                                   ^
      hint: make `deadline` longer
    "#);
}

#[test]
fn a_file_that_is_something_else_says_so() {
    insta::assert_snapshot!(refusals(&["", "- app: shop\n", "shop\n", "app: [\n", "app: a\napp: b\n", "a: 1\n---\nb: 2\n"]), @r#"
    p.yaml:1:1: the playbook is empty
      hint: start with `app: NAME`; the directory playbooks/ has complete ones

    p.yaml:1:1: a playbook must be a mapping, but it is a list
    1 | - app: shop
      | ^

    p.yaml:1:1: a playbook must be a mapping, but it is `shop`
    1 | shop
      | ^

    p.yaml:1:6: not valid YAML: unclosed bracket '['
    1 | app: [
      |      ^
      hint: look at this line and the ones before it: indentation, quotes, brackets

    p.yaml:2:1: the key `app` is already in this mapping, on line 1
    2 | app: b
      | ^
      hint: remove one of the two, or join what is under them

    p.yaml:2:1: a second document starts here; one file holds one document
    2 | ---
      | ^
      hint: remove the extra `---` or use two files
    "#);
}

#[test]
fn a_wrong_value_at_the_top_is_told_with_key_value_and_range() {
    let shown = refusals(&[
        "app: 42",
        "app: ../etc",
        "app: !vault x",
        "deploy_to: srv",
        "deploy_to: /srv/../etc",
        "keep_releases: 1001",
        "keep_releases: five",
        "keep_releases: 2.5",
        "linked_dirs: log",
        "linked_files: [{path: .env}]",
        "confirm_timeout: 1s",
        "confirm_timeout: soon",
        "confirm_timeout:",
        "1: 2",
    ]);
    insta::assert_snapshot!(shown, @r#"
    p.yaml:1:6: `app` must be a name of letters, digits, `.`, `_` and `-` that starts with a letter, a digit or `_`, but it is the number 42
    1 | app: 42
      |      ^
      hint: put it in quotation marks if it is meant as text

    p.yaml:1:6: `app` must be a name of letters, digits, `.`, `_` and `-` that starts with a letter, a digit or `_`, but it is `../etc`
    1 | app: ../etc
      |      ^

    p.yaml:1:6: `app` must be a name of letters, digits, `.`, `_` and `-` that starts with a letter, a digit or `_`, but it is an encrypted value

    p.yaml:1:12: `deploy_to` must be a directory's absolute path, or start with `~/`, but it is `srv`
    1 | deploy_to: srv
      |            ^

    p.yaml:1:12: `deploy_to` must not contain `..`, but it is `/srv/../etc`
    1 | deploy_to: /srv/../etc
      |            ^

    p.yaml:1:16: `keep_releases` must be a whole number from 2 to 1000, but it is the number 1001
    1 | keep_releases: 1001
      |                ^

    p.yaml:1:16: `keep_releases` must be a whole number from 2 to 1000, but it is `five`
    1 | keep_releases: five
      |                ^

    p.yaml:1:16: `keep_releases` must be a whole number from 2 to 1000, but it is the number 2.5
    1 | keep_releases: 2.5
      |                ^

    p.yaml:1:14: `linked_dirs` must be a list, but it is `log`
    1 | linked_dirs: log
      |              ^
      hint: write it as a list of one: `[...]`

    p.yaml:1:16: `linked_files[0]` must be a path below the release, without `/` at its start, but it is a mapping
    1 | linked_files: [{path: .env}]
      |                ^

    p.yaml:1:18: `confirm_timeout` must be a duration from 5s to 1h, but it is `1s`
    1 | confirm_timeout: 1s
      |                  ^

    p.yaml:1:18: `confirm_timeout` must be a duration from 5s to 1h, but it is `soon`
    1 | confirm_timeout: soon
      |                  ^

    p.yaml:1:1: `confirm_timeout` has no value
    1 | confirm_timeout:
      | ^
      hint: write a value, or remove the key

    p.yaml:1:1: a key must be a word, but YAML reads this as a whole number
    1 | 1: 2
      | ^
    "#);
}

#[test]
fn a_wrong_value_in_the_rollout_is_told_with_key_value_and_range() {
    let shown = refusals(&[
        "rollout: fast",
        "rollout: {waves: []}",
        "rollout: {waves: {first: 1}}",
        "rollout: {max_failures: -1}",
        "rollout: {max_failures: {canary: 101%}}",
        "rollout: {pause: comfirm}",
        "rollout: {pause: 25h}",
        "rollout: {on_failure: no}",
        "rollout: {progress_deadline: 1:30}",
    ]);
    insta::assert_snapshot!(shown, @r#"
    p.yaml:1:10: `rollout` must be a mapping, but it is `fast`
    1 | rollout: fast
      |          ^

    p.yaml:1:18: `rollout.waves` must have 1 to 100 entries, but it has 0
    1 | rollout: {waves: []}
      |                  ^

    p.yaml:1:18: `rollout.waves` must be a number of hosts from 1 up or a percentage from 1% to 100% or a list, but it is a mapping
    1 | rollout: {waves: {first: 1}}
      |                  ^

    p.yaml:1:25: `rollout.max_failures` must be a number of hosts from 0 up or a percentage from 0% to 100%, but it is the number -1
    1 | rollout: {max_failures: -1}
      |                         ^

    p.yaml:1:34: `rollout.max_failures.canary` must be a number of hosts from 0 up or a percentage from 0% to 100%, but it is `101%`
    1 | rollout: {max_failures: {canary: 101%}}
      |                                  ^

    p.yaml:1:18: `rollout.pause` must be `confirm` or a duration from 0s to 24h, but it is `comfirm`
    1 | rollout: {pause: comfirm}
      |                  ^
      hint: did you mean `confirm`?

    p.yaml:1:18: `rollout.pause` must be `confirm` or a duration from 0s to 24h, but it is `25h`
    1 | rollout: {pause: 25h}
      |                  ^

    p.yaml:1:23: `rollout.on_failure` must be `rollback`, `stop` or `continue`, but it is the boolean false
    1 | rollout: {on_failure: no}
      |                       ^

    p.yaml:1:30: `rollout.progress_deadline` must be a duration from 10s to 24h, but it is the number 90
    1 | rollout: {progress_deadline: 1:30}
      |                              ^
      hint: a duration needs its unit: ms, s, m, h or d, as in `90s`
    "#);
}

#[test]
fn a_wrong_command_or_check_is_told_with_key_value_and_range() {
    let shown = refusals(&[
        "hooks: {after_stage: [[]]}",
        "hooks: {after_stage: ['']}",
        "hooks: {after_stage: [{timeout: 1m}]}",
        "hooks: {after_stage: [{run: [sleep, 5]}]}",
        "health: {http: {}}",
        "health: {http: {url: 'https://127.0.0.1/'}}",
        "health: {http: {url: 'http://u:p@h/'}}",
        "health: {http: {url: 'http://h:99999/'}}",
        "health: {command: {run: x, interval: 10ms}}",
    ]);
    insta::assert_snapshot!(shown, @r#"
    p.yaml:1:23: `hooks.after_stage[0]` must have 1 to 256 entries, but it has 0
    1 | hooks: {after_stage: [[]]}
      |                       ^

    p.yaml:1:23: `hooks.after_stage[0]` must be a command for the shell, but it is empty
    1 | hooks: {after_stage: ['']}
      |                       ^

    p.yaml:1:23: `hooks.after_stage[0]` needs `run`
    1 | hooks: {after_stage: [{timeout: 1m}]}
      |                       ^
      hint: run: A command for the shell, or a list of a program and its arguments.

    p.yaml:1:37: `hooks.after_stage[0].run[1]` must be a word of a command, but it is the number 5
    1 | hooks: {after_stage: [{run: [sleep, 5]}]}
      |                                     ^
      hint: put it in quotation marks if it is meant as text

    p.yaml:1:16: `health.http` needs `url`
    1 | health: {http: {}}
      |                ^
      hint: url: The address, for example http://127.0.0.1:8080/healthz.

    p.yaml:1:22: `health.http.url` must be an address that starts with `http://`, but it is `https://127.0.0.1/`
    1 | health: {http: {url: 'https://127.0.0.1/'}}
      |                      ^

    p.yaml:1:22: `health.http.url` must not contain a user or a password, but it is text that may hold a secret

    p.yaml:1:22: `health.http.url` must be an address that starts with `http://`, but it is `http://h:99999/`
    1 | health: {http: {url: 'http://h:99999/'}}
      |                      ^

    p.yaml:1:38: `health.command.interval` must be a duration from 100ms to 5m, but it is `10ms`
    1 | health: {command: {run: x, interval: 10ms}}
      |                                      ^
    "#);
}

#[test]
fn a_deadline_in_which_a_host_that_works_would_count_as_failed_is_refused() {
    let shown = refusals(&[
        "{rollout: {progress_deadline: 2m}, hooks: {after_activate: [a]}, health: {command: b}}",
        "{rollout: {progress_deadline: 60s}, hooks: {on_revert: [a]}}",
    ]);
    insta::assert_snapshot!(shown, @r#"
    p.yaml:1:31: `rollout.progress_deadline` is 2m, but hooks and health checks of one host may take 423s: it would count as failed while it still works
    1 | {rollout: {progress_deadline: 2m}, hooks: {after_activate: [a]}, health: {command: b}}
      |                               ^
      hint: make it at least 423s, or give them shorter timeouts

    p.yaml:1:31: `rollout.progress_deadline` is 1m, but hooks and health checks of one host may take 123s: it would count as failed while it still works
    1 | {rollout: {progress_deadline: 60s}, hooks: {on_revert: [a]}}
      |                               ^
      hint: make it at least 123s, or give them shorter timeouts
    "#);
    let day = format!("hooks:\n  before_activate:\n{}", "  - {run: a, timeout: 1h}\n".repeat(24));
    let told = read(&day).unwrap_err()[0].to_string();
    assert!(told.contains("may take 86472s, longer than the longest progress deadline (24h)"), "{told}");
}

#[test]
fn revert_hooks_that_a_host_could_not_keep_are_refused() {
    let word = "x".repeat(16 << 10);
    let problems = read(&format!("hooks: {{on_revert: [{}]}}", vec![format!("[{word}, {word}]"); 9].join(", "))).unwrap_err();
    let told = problems[0].to_string();
    assert!(told.contains("`hooks.on_revert` has 288 KiB of commands, but a host keeps at most 256 KiB"), "{told}");
}

#[test]
fn the_number_of_problems_told_is_bounded() {
    let text: String = (0..5000).map(|number| format!("key{number}: 1\n")).collect();
    let problems = read(&text).unwrap_err();
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].to_string(), "p.yaml: 4900 more problems");
}

#[test]
fn settings_of_origins_name_their_bounds() {
    let text = "\
web_seeds: [ftp://h/a, https://user:secret@h/a, http://h/#a]
origin:
  enabled: sometimes
  max_requests_per_seed: 17
  connect_timeout: 10
  request_timeout: 1h
  max_bandwidth_fraction: 1.5
  peer_rate_threshold: 50KiB
  max_origin_bytes: 1kB
  max_origin_rate: 1000000
";
    insta::assert_snapshot!(refusals(&[text]), @r"
    p.yaml:1:13: `web_seeds[0]` must be an address that starts with `http://` or `https://`, but it is `ftp://h/a`
    p.yaml:1:24: `web_seeds[1]` must not contain a user or a password: put them into a file and name that with --origin-auth, but it is text that may hold a secret
    p.yaml:1:49: `web_seeds[2]` must not contain `#`, which is never sent, but it is `http://h/#a`
    p.yaml:3:12: `origin.enabled` must be `true` or `false`, but it is `sometimes`
    3 |   enabled: sometimes
      |            ^
    p.yaml:4:26: `origin.max_requests_per_seed` must be a whole number from 1 to 16, but it is the number 17
    4 |   max_requests_per_seed: 17
      |                          ^
    p.yaml:5:20: `origin.connect_timeout` must be a duration from 1s to 2m, but it is the number 10
    5 |   connect_timeout: 10
      |                    ^
      hint: a duration needs its unit: ms, s, m, h or d, as in `90s`
    p.yaml:6:20: `origin.request_timeout` must be a duration from 1s to 10m, but it is `1h`
    6 |   request_timeout: 1h
      |                    ^
    p.yaml:7:27: `origin.max_bandwidth_fraction` must be a number from 0.01 to 1, but it is the number 1.5
    7 |   max_bandwidth_fraction: 1.5
      |                           ^
    p.yaml:8:24: `origin.peer_rate_threshold` must be a rate from 1KiB/s to 1GiB/s, but it is `50KiB`
    8 |   peer_rate_threshold: 50KiB
      |                        ^
    p.yaml:9:21: `origin.max_origin_bytes` must be a size of at least 1MiB, but it is `1kB`
    9 |   max_origin_bytes: 1kB
      |                     ^
    p.yaml:10:20: `origin.max_origin_rate` must be a rate from 64KiB/s to 1TiB/s, but it is the number 1000000
    10 |   max_origin_rate: 1000000
       |                    ^
      hint: it needs its unit, as in `10MiB/s`
    ");
}

#[test]
fn settings_of_the_transfer_name_their_bounds() {
    let text = "\
transfer:
  swarm: sometimes
  upload_limit: 1KiB/s
  download_limit: 10mbit
  controller_upload_limit: 5
  stall_timeout: 1s
  stal_timeout: 5s
";
    insta::assert_snapshot!(refusals(&[text]), @r"
    p.yaml:2:10: `transfer.swarm` must be `auto`, `always`, `never` or `origin_only`, but it is `sometimes`
    2 |   swarm: sometimes
      |          ^
    p.yaml:3:17: `transfer.upload_limit` must be a rate from 16KiB/s to 1TiB/s, but it is `1KiB/s`
    3 |   upload_limit: 1KiB/s
      |                 ^
    p.yaml:4:19: `transfer.download_limit` must be a rate from 16KiB/s to 1TiB/s, but it is `10mbit`
    4 |   download_limit: 10mbit
      |                   ^
    p.yaml:5:28: `transfer.controller_upload_limit` must be a rate from 16KiB/s to 1TiB/s, but it is the number 5
    5 |   controller_upload_limit: 5
      |                            ^
      hint: it needs its unit, as in `10MiB/s`
    p.yaml:6:18: `transfer.stall_timeout` must be a duration from 2s to 1h, but it is `1s`
    6 |   stall_timeout: 1s
      |                  ^
    p.yaml:7:3: unknown key `stal_timeout` in `transfer`
    7 |   stal_timeout: 5s
      |   ^
      hint: did you mean `stall_timeout`?
    ");
}
