//! What values mean.

use std::time::Duration;

use super::*;
use crate::model::{
    FailureBudget,
    distribution::{Limits, SwarmChoice, TransferPlan},
    origin::OriginSettings,
    plan::{Command, FailureBudgets, Hook, HookPoint, OnFailure, Order, Pause, Rhythm, Unchanged},
};

/// The playbook of the documentation, with every key.
pub(super) const EVERY_KEY: &str = "\
app: shop
deploy_to: /srv/shop
keep_releases: 7
linked_dirs: [log, uploads]
linked_files: [.env]
web_seeds: [\"https://store.example.com/shop/\", \"http://10.0.0.1/shop.tar?v=1\"]
origin:
  enabled: false
  max_requests_per_seed: 2
  max_requests_global: 8
  connect_timeout: 3s
  request_timeout: 20s
  failure_backoff_threshold: 3
  failure_backoff_duration: 1m
  max_bandwidth_fraction: 0.5
  prefer_peers: false
  peer_rate_threshold: 1MiB/s
  max_origin_bytes: 10 GiB
  max_origin_rate: 12.5MB/s
transfer:
  swarm: always
  upload_limit: 10MiB/s
  download_limit: 1 GB/s
  controller_upload_limit: 16KiB/s
  port_range: 40000-40099
  stall_timeout: 90s
unchanged: activate
rollout:
  waves: [1, 10%, 50%, 100%]
  max_failures: {canary: 0, after: 10%}
  pause: 10s
  order: zone
  on_failure: rollback
  progress_deadline: 20m
hooks:
  before_stage: []
  after_stage: [[find, ., -type, f]]
  before_activate: [\"systemctl stop shop\"]
  after_activate: [{run: systemctl restart shop, timeout: 1m 30s}]
  on_revert: [{run: [systemctl, restart, shop]}]
health:
  http: {url: \"http://127.0.0.1:8080/healthz\", status: 204, interval: 2s, timeout: 500ms, healthy_for: 5s, deadline: 1m}
  command: [\"/srv/shop/current/bin/check\"]
confirm_timeout: 45s
";

#[test]
fn every_key_reaches_the_plan() {
    let plan = plan(EVERY_KEY);
    assert_eq!(plan.app.unwrap().as_str(), "shop");
    assert_eq!(plan.deploy_to.unwrap().as_str(), "/srv/shop");
    assert_eq!(plan.keep_releases, 7);
    let paths = |paths: &[crate::model::plan::LinkedPath]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(paths(plan.linked.dirs()), ["log", "uploads"]);
    assert_eq!(paths(plan.linked.files()), [".env"]);
    assert_eq!(plan.unchanged, Unchanged::Activate);
    assert_eq!(plan.rollout.waves.to_string(), "1, 10%, 50%, 100%");
    let budgets = FailureBudgets { canary: Some(FailureBudget::NONE), after: FailureBudget::Percent(10) };
    assert_eq!(plan.rollout.max_failures, budgets);
    assert_eq!(plan.rollout.pause, Pause::For(Duration::from_secs(10)));
    assert_eq!(plan.rollout.order, Order::Zone);
    assert_eq!(plan.rollout.on_failure, OnFailure::Rollback);
    assert_eq!(plan.rollout.progress_deadline, Duration::from_secs(1200));
    assert_eq!(plan.confirm_timeout, Duration::from_secs(45));
    let http = plan.health.http.unwrap();
    assert_eq!((http.url.as_str(), http.status), ("http://127.0.0.1:8080/healthz", 204));
    let seconds = Duration::from_secs;
    let rhythm =
        Rhythm { interval: seconds(2), timeout: Duration::from_millis(500), healthy_for: seconds(5), deadline: seconds(60) };
    assert_eq!(http.rhythm, rhythm);
    let check = plan.health.command.unwrap();
    assert_eq!(check.command, Command::Argv(vec!["/srv/shop/current/bin/check".to_owned()]));
    assert_eq!(check.rhythm, Rhythm::default());
}

#[test]
fn hosts_have_as_long_as_their_hooks_and_checks_may_take() {
    let deadline = |text: &str| plan(text).rollout.progress_deadline.as_secs();
    assert_eq!(deadline("hooks: {after_activate: [one]}"), 600);
    // Three hooks of 2 min, each with 3 s to end, the 5 min of the check, and a minute to spare.
    assert_eq!(deadline("{hooks: {after_activate: [a, b, c]}, health: {command: check}}"), 3 * 123 + 300 + 60);
    assert_eq!(deadline("{hooks: {before_activate: [{run: a, timeout: 1h}]}, health: {command: check}}"), 3603 + 60);
    assert_eq!(deadline("hooks: {on_revert: [{run: a, timeout: 1h}]}"), 3603 + 60);
    assert_eq!(deadline("{rollout: {progress_deadline: 4m}, hooks: {after_activate: [one], before_stage: [a, b]}}"), 240);
}

#[test]
fn a_command_is_a_line_for_the_shell_or_a_list_of_words_with_or_without_a_time() {
    let argv = |words: &[&str]| Command::Argv(words.iter().map(|word| (*word).to_owned()).collect());
    let shell = |line: &str| Command::Shell(line.to_owned());
    let hooks = plan(EVERY_KEY).hooks;
    assert!(hooks.at(HookPoint::BeforeStage).is_empty());
    let hook = |command| [Hook { command, timeout: Hook::DEFAULT_TIMEOUT }];
    assert_eq!(hooks.at(HookPoint::AfterStage), hook(argv(&["find", ".", "-type", "f"])));
    assert_eq!(hooks.at(HookPoint::BeforeActivate), hook(shell("systemctl stop shop")));
    let timed = Hook { command: shell("systemctl restart shop"), timeout: Duration::from_secs(90) };
    assert_eq!(hooks.at(HookPoint::AfterActivate), [timed]);
    assert_eq!(hooks.at(HookPoint::OnRevert), hook(argv(&["systemctl", "restart", "shop"])));
    let check = |text: &str| plan(text).health.command.unwrap();
    assert_eq!(check("health: {command: bin/check --fast}").command, shell("bin/check --fast"));
    let slow = check("health: {command: {run: [bin/check], timeout: 20s}}");
    assert_eq!((slow.command, slow.rhythm.timeout), (argv(&["bin/check"]), Duration::from_secs(20)));
}

#[test]
fn short_forms_mean_the_long_ones() {
    let rollout = |text: &str| plan(&format!("rollout: {{{text}}}")).rollout;
    assert_eq!(rollout("waves: 10%"), rollout("waves: [10%]"));
    assert_eq!(rollout("waves: 3").waves.split(7), [3, 3, 1]);
    assert_eq!(rollout("max_failures: 5%"), rollout("max_failures: {after: 5%}"));
    assert_eq!(rollout("max_failures: {after: 3}").max_failures, FailureBudgets::of_fleet(FailureBudget::Hosts(3)));
    assert_eq!(rollout("max_failures: {canary: 0}").max_failures.canary, Some(FailureBudget::NONE));
    assert_eq!(rollout("pause: confirm").pause, Pause::Confirm);
    assert_eq!(plan("confirm_timeout: 5500ms").confirm_timeout, Duration::from_secs(5), "whole seconds, as the option");
}

#[test]
fn anchors_and_merges_save_writing() {
    let text = "hooks: {after_activate: &restart [systemctl restart shop], on_revert: *restart}";
    let hooks = plan(text).hooks;
    assert_eq!(hooks.after_activate, hooks.on_revert);
}

#[test]
fn what_a_playbook_does_not_say_is_as_without_one() {
    assert_eq!(plan("{}"), Plan::default());
    assert_eq!(plan("rollout: {}\nhooks: {}\nhealth: {}\nlinked_dirs: []\n"), Plan::default());
}

#[test]
fn the_bounds_belong_to_the_values() {
    for good in [
        "keep_releases: 2",
        "keep_releases: 1000",
        "confirm_timeout: 5s",
        "confirm_timeout: 1h",
        "rollout: {pause: 0s, progress_deadline: 24h}",
        "rollout: {pause: 1d, max_failures: 100%}",
        "rollout: {waves: [1%, 4294967295]}",
        "health: {http: {url: 'http://[::1]:80/', status: 599, interval: 100ms, deadline: 4h}}",
    ] {
        plan(good);
    }
}

#[test]
fn origins_and_how_they_may_be_used() {
    let Plan { web_seeds, origin, .. } = plan(EVERY_KEY);
    let seeds: Vec<String> = web_seeds.iter().map(|seed| seed.url().to_string()).collect();
    assert_eq!(seeds, ["https://store.example.com/shop/", "http://10.0.0.1/shop.tar?v=1"]);
    let expected = OriginSettings {
        enabled: false,
        max_requests_per_seed: 2,
        max_requests_global: 8,
        connect_timeout: Duration::from_secs(3),
        request_timeout: Duration::from_secs(20),
        failure_backoff_threshold: 3,
        failure_backoff_duration: Duration::from_secs(60),
        max_bandwidth_fraction: 500,
        prefer_peers: false,
        peer_rate_threshold: 1 << 20,
        max_origin_bytes: Some(10 << 30),
        max_origin_rate: Some(12_500_000),
    };
    assert_eq!(origin, expected);
    assert_eq!(plan("origin: {max_bandwidth_fraction: 1}").origin.max_bandwidth_fraction, 1000);
}

#[test]
fn how_the_artifact_comes_to_the_hosts() {
    let expected = TransferPlan {
        swarm: SwarmChoice::Always,
        hosts: Limits { upload: Some(10 << 20), download: Some(1_000_000_000) },
        controller_upload: Some(16 << 10),
        ports: Some("40000-40099".parse().unwrap()),
        stall_timeout: Duration::from_secs(90),
    };
    assert_eq!(plan(EVERY_KEY).transfer, expected);
    assert_eq!(plan("transfer: {swarm: never}").transfer.swarm, SwarmChoice::Never);
    assert_eq!(plan("app: shop").transfer, TransferPlan::default());
}
