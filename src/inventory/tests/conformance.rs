//! The same inventories, understood by Ansible and by us: hosts and their order, groups, merged variables, patterns.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Serialize)]
struct Case {
    file: PathBuf,
    patterns: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    /// Ansible could not read it; nothing else is set then.
    error: Option<String>,
    order: Vec<String>,
    order_is_defined: bool,
    hosts: BTreeMap<String, HostAnswer>,
    selected: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct HostAnswer {
    vars: BTreeMap<String, serde_json::Value>,
    groups: Vec<String>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/inventory")
}

/// Asks Ansible, in one process for all cases, run by the interpreter that `ansible-inventory` itself uses.
fn ask_ansible(cases: &[Case]) -> Vec<Answer> {
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|directory| directory.join("ansible-inventory"))
        .find(|path| path.is_file())
        .expect("`ansible-inventory` must be installed (Debian: ansible-core)");
    let first =
        fs::read_to_string(&program).expect("`ansible-inventory` is a Python script").lines().next().unwrap().to_owned();
    let python = first.strip_prefix("#!").expect("`ansible-inventory` names its interpreter").trim();
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(python)
        .arg(data().join("oracle.py"))
        .current_dir(home.path())
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let question = serde_json::to_vec(&serde_json::json!({ "cases": cases })).unwrap();
    child.stdin.take().unwrap().write_all(&question).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "Ansible failed:\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}:\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// Compares one inventory with Ansible's answer.
fn compare(case: &Case, answer: &Answer) {
    let file = case.file.display();
    assert_eq!(answer.error, None, "{file}");
    let inventory = Inventory::load(&case.file).unwrap_or_else(|error| panic!("{error} {:?}", error.hint())).inventory;
    let ids = pattern::select(&inventory, None).unwrap();
    let name = |id: &HostIndex| inventory.tree.host(*id).name.to_string();
    let mut order: Vec<String> = ids.iter().map(name).collect();
    let mut expected = answer.order.clone();
    if !answer.order_is_defined {
        order.sort();
        expected.sort();
    }
    assert_eq!(order, expected, "order of {file}");
    for id in &ids {
        let view = inventory.view(inventory.tree.direct_groups(*id));
        let host = &answer.hosts[&name(id)];
        assert_eq!(view.names, host.groups, "groups of {} in {file}", name(id));
        let vars = HostVars::new(view.layers, inventory.tree.host(*id).vars.clone());
        let values: BTreeMap<String, serde_json::Value> =
            vars.merged().into_iter().map(|(name, node)| (name.to_owned(), node.to_json(&|_| true))).collect();
        assert_eq!(values, host.vars, "variables of {} in {file}", name(id));
    }
    for (pattern, expected) in &answer.selected {
        let ours = pattern::select(&inventory, Some(pattern));
        let mut ours: Vec<String> = ours.map_or_else(|_| Vec::new(), |ids| ids.iter().map(name).collect());
        let mut theirs: Vec<String> = serde_json::from_value(expected.clone()).unwrap_or_default();
        if !answer.order_is_defined {
            ours.sort();
            theirs.sort();
        }
        assert_eq!(ours, theirs, "`{pattern}` in {file}");
    }
}

#[test]
fn the_corpus_is_understood_as_ansible_understands_it() {
    let mut cases = Vec::new();
    for entry in fs::read_dir(data()).unwrap() {
        let directory = entry.unwrap().path();
        let Some(file) =
            ["hosts.yml", "hosts.json", "hosts"].map(|name| directory.join(name)).into_iter().find(|f| f.is_file())
        else {
            continue;
        };
        let patterns = fs::read_to_string(directory.join("patterns.txt")).unwrap_or_default();
        cases.push(Case { file, patterns: patterns.lines().map(str::to_owned).collect() });
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/inventories");
    let production = ["web:!canary", "berlin:&canary", "web_oslo[-1]", "*.ber.*"].map(str::to_owned).to_vec();
    cases.push(Case { file: examples.join("production/inventory.yaml"), patterns: production });
    cases.push(Case { file: examples.join("simple.yaml"), patterns: Vec::new() });
    assert!(cases.len() >= 14, "the corpus is gone: {} cases in {}", cases.len(), data().display());
    let answers = ask_ansible(&cases);
    assert_eq!(answers.len(), cases.len());
    cases.iter().zip(&answers).for_each(|(case, answer)| compare(case, answer));
}

#[test]
fn plain_scalars_mean_what_they_mean_to_ansible() {
    let mut random = fastrand::Rng::with_seed(11);
    let letters: Vec<char> = "0011223456789__..::+-eExbo~".chars().collect();
    let directory = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for number in 0..400 {
        let text: String = (0..random.usize(1..8)).map(|_| *random.choice(&letters).unwrap()).collect();
        let file = directory.path().join(format!("{number}.yml"));
        fs::write(&file, format!("all: {{hosts: {{h: {{v: {text} }}}}}}\n")).unwrap();
        cases.push(Case { file, patterns: Vec::new() });
    }
    let answers = ask_ansible(&cases);
    // What stops PyYAML (`0b_`, a 13th month) may stop us or not.
    let understood: Vec<_> = cases.iter().zip(&answers).filter(|(_, answer)| answer.error.is_none()).collect();
    assert!(understood.len() > 300, "only {} of {}", understood.len(), cases.len());
    understood.into_iter().for_each(|(case, answer)| {
        if std::panic::catch_unwind(|| compare(case, answer)).is_err() {
            panic!("differs: {}", fs::read_to_string(&case.file).unwrap());
        }
    });
}

/// Writes an inventory of random groups, hosts and variables, without loops.
fn generate(random: &mut fastrand::Rng) -> String {
    let groups = random.usize(2..8);
    let mut yaml = String::new();
    for group in 0..groups {
        let name = if random.u8(0..8) == 0 { "all".to_owned() } else { format!("g{group}") };
        if yaml.contains(&format!("\n{name}:")) || yaml.starts_with(&format!("{name}:")) {
            continue;
        }
        yaml += &format!("{name}:\n");
        if random.bool() {
            yaml += "  vars:\n";
            if random.u8(0..3) == 0 {
                yaml += &format!("    ansible_group_priority: {}\n", random.i8(-2..3));
            }
            for variable in ["x", "y", "z"].iter().filter(|_| random.bool()) {
                yaml += &format!("    {variable}: {name}\n");
            }
        }
        let children: Vec<usize> = (group + 1..groups).filter(|_| random.u8(0..3) == 0).collect();
        if !children.is_empty() {
            yaml += "  children:\n";
            for child in random.choose_multiple(children.iter(), children.len()) {
                yaml += &format!("    g{child}:\n");
                if random.u8(0..3) == 0 {
                    yaml += &format!("      vars: {{y: nested{child}}}\n      hosts: {{n{}: }}\n", random.u8(0..4));
                }
            }
        }
        if random.bool() {
            yaml += "  hosts:\n";
            let first = random.u8(0..6);
            for host in first..first + random.u8(1..4) {
                let vars = if random.u8(0..3) == 0 { format!("{{z: {name}-h{host}}}") } else { String::new() };
                yaml += &format!("    h{host}: {vars}\n");
            }
        }
    }
    yaml + "ungrouped:\n  hosts: {sure: }\n"
}

#[test]
fn generated_inventories_are_understood_as_ansible_understands_them() {
    let patterns = ["g*", "g1:g3", "all:!g2", "&g1", "h*[0:2]", "~h[0-3]$:!g1", "*[1]", "ungrouped", "g2[-1]", "!h1"];
    let mut random = fastrand::Rng::with_seed(20_261_120);
    let directory = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for number in 0..80 {
        let file = directory.path().join(number.to_string()).join("hosts.yml");
        fs::create_dir_all(file.with_file_name("group_vars")).unwrap();
        fs::write(&file, generate(&mut random)).unwrap();
        for name in ["all", "g1", "g2"].iter().filter(|_| random.u8(0..4) == 0) {
            let path = file.with_file_name("group_vars").join(format!("{name}.yml"));
            fs::write(path, format!("y: file_{name}\nf: file_{name}\n")).unwrap();
        }
        cases.push(Case { file, patterns: Vec::new() });
    }
    // A part that matches nothing is an error here and a warning there: ask only for what exists.
    for case in &mut cases {
        let inventory = Inventory::load(&case.file).unwrap().inventory;
        let known = patterns.iter().filter(|pattern| pattern::select(&inventory, Some(pattern)).is_ok());
        case.patterns = known.map(|pattern| (*pattern).to_owned()).collect();
    }
    assert!(cases.iter().map(|case| case.patterns.len()).sum::<usize>() > 200);
    let answers = ask_ansible(&cases);
    cases.iter().zip(&answers).for_each(|(case, answer)| {
        if std::panic::catch_unwind(|| compare(case, answer)).is_err() {
            panic!("differs:\n{}", fs::read_to_string(&case.file).unwrap());
        }
    });
}
