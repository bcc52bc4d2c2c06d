//! Nothing in a file or a pattern makes this panic, hang or grow without bound.

use std::{fmt::Write as _, time::Instant};

use proptest::prelude::*;

use super::*;

/// Loads whatever this is and, if it loads, selects and shows everything.
fn exercise(files: &Files, limit: &str) {
    if let Ok(loaded) = files.load("hosts.yml") {
        for limit in [None, Some(limit)] {
            if let Ok(hosts) = loaded.inventory.select(limit) {
                assert!(hosts.len() <= MAX_HOSTS);
                hosts.iter().take(50).for_each(|host| drop(host.vars.to_json()));
            }
        }
    }
}

const GOOD: &str = "\
all:
  vars: &v {ansible_user: deploy, ansible_port: 22, nested: {a: [1, 2]}}
  children:
    web:
      hosts:
        web[01:03].example.com:2222: {<<: *v, fleetdrop_zone: a}
        'db-[a:c]': !vault x
    prod: {children: {web: , other: }, vars: {ansible_group_priority: 3}}
  hosts: {lonely: , '[2001:db8::1]:22': }
";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let files = Files::new(&[]);
        files.write("hosts.yml", &bytes);
        exercise(&files, "*");
    }

    #[test]
    fn a_damaged_inventory_never_panics(
        edits in proptest::collection::vec((0..GOOD.len(), 0usize..12, "[\\PC\\n\\t:\\[\\]{}&*!<]{0,6}"), 1..6),
        limit in "[a-z0-9*?!&~:,\\[\\]\\-@.()|^ ]{0,20}",
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (place, removed, inserted) in edits {
            let start = place.min(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, inserted.chars());
        }
        let text: String = text.into_iter().collect();
        let files = Files::new(&[("hosts.yml", &text), ("group_vars/web.yml", &text)]);
        exercise(&files, &limit);
    }

    #[test]
    fn any_pattern_is_answered(limit in "\\PC{0,40}|[a-z0-9*?!&~:,\\[\\]\\-.(){}|^$\\\\ ]{0,40}") {
        // Files of the machine are none of this test's business.
        prop_assume!(!limit.contains('@'));
        let inventory = load(GOOD.replace("!vault x", "").as_str()).inventory;
        if let Ok(hosts) = pattern::select(&inventory, Some(&limit)) {
            prop_assert!(hosts.len() <= 8);
        }
    }
}

#[test]
fn limits_hold_and_hold_quickly() {
    let begin = Instant::now();
    let hosts = |ranges: &str| load_error(&format!("all:\n  hosts:\n{ranges}"));
    assert!(hosts("    'a[1:60000]':\n    'b[1:60000]':\n").contains("more than 100000 hosts"));
    assert!(hosts("    'a[1:99999][1:99999][1:99999]':\n").contains("stands for"));
    let mut same = String::new();
    for group in 0..20 {
        let _ = writeln!(same, "g{group}: {{hosts: {{'a[1:90000]': {{x: 1}}}}}}");
    }
    assert!(load_error(&same).contains("stands for 90000 hosts"));
    let groups: String = (0..10_001).map(|group| format!("g{group}:\n")).collect();
    assert!(load_error(&groups).contains("more than 10000 groups"));
    let chain: String = (0..100).map(|group| format!("g{group}: {{children: {{g{}: }}}}\n", group + 1)).collect();
    assert!(load_error(&chain).contains("nested more than 64 levels deep"));
    assert!(begin.elapsed().as_secs() < 60, "took {:?}", begin.elapsed());
}

fn load_error(yaml: &str) -> String {
    Files::new(&[("hosts.yml", yaml)]).load("hosts.yml").unwrap_err().to_string()
}

#[test]
fn a_big_fleet_loads_and_shares_its_groups_variables() {
    let vars: String = (0..200).map(|number| format!("    v{number}: {}\n", "x".repeat(200))).collect();
    let loaded = load(&format!("web:\n  vars:\n{vars}  hosts:\n    'web[00001:50000].example.com': {{a: 1}}\n"));
    let hosts = loaded.inventory.select(None).unwrap();
    assert_eq!(hosts.len(), 50_000);
    assert_eq!(hosts[49_999].vars.merged().len(), 201);
    assert_eq!(loaded.inventory.select(Some("web4999*:!*0.example.com")).unwrap().len(), 9);
}

#[test]
fn directories_that_loop_end() {
    let files = Files::new(&[("hosts.yml", "all: {hosts: {a: }}"), ("group_vars/all/x.yml", "a: 1\n")]);
    std::os::unix::fs::symlink("..", files.path("group_vars/all/up")).unwrap();
    let error = files.load("hosts.yml").unwrap_err().to_string();
    assert!(error.contains("nested more than 8 levels deep"), "{error}");
}
