//! What `fleetdrop history` knows of runs, and that nothing about it can stop one.

use std::{fs, path::PathBuf};

use fleetdrop::model::HostState::{Active, Unreachable};
use serde_json::Value;

use crate::{
    artifact,
    hosts::Embedded,
    operator::{Finished, Operator},
    sshd::SshdFleet,
};

impl Operator {
    /// Returns where this operator's history is.
    pub(crate) fn history_file(&self) -> PathBuf {
        self.work().join("../home/.local/state/fleetdrop/history.db")
    }

    /// Asks for the history and returns the answer.
    #[track_caller]
    pub(crate) fn history(&self, arguments: &[&str]) -> Value {
        let line: Vec<&str> = ["history", "--output", "json"].iter().chain(arguments).copied().collect();
        serde_json::from_str(&self.run(&line).expect_code(0).stdout).unwrap()
    }
}

impl Finished {
    /// Returns the run's id.
    #[track_caller]
    pub(crate) fn run_id(&self) -> String {
        self.events.first().expect("a run has events").run.to_string()
    }
}

#[test]
fn runs_are_listed_and_one_is_shown_with_its_hosts() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(3));
    assert_eq!(operator.history(&[])["runs"], Value::Array(Vec::new()), "nothing was run yet");
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 20_000));
    let torrent = operator.work().join("run.torrent");
    let first = operator.deploy(&fleet.fleet(), &one).with(["--encryption", "off", "--advertise", "127.0.0.1"]);
    let first = first.with(["--torrent-out".as_ref(), torrent.as_os_str()]).run().expect_code(0);
    fleet.host_mut(2).stop();
    let second = operator.deploy(&fleet.fleet(), &two).with(["--max-failures", "1", "--limit", "all"]).run().expect_code(4);
    let third = operator.rollback(&fleet.fleet()).with(["--limit", "host-01"]).run().expect_code(0);

    let list = operator.history(&[]);
    assert_eq!(list["v"], 1);
    let runs = list["runs"].as_array().unwrap();
    let ids: Vec<_> = runs.iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, [third.run_id(), second.run_id(), first.run_id()]);
    assert_eq!((&runs[0]["action"], &runs[0]["outcome"]), (&"rollback".into(), &"completed".into()));
    assert_eq!((&runs[1]["end"]["exit_code"], &runs[1]["hosts"]["unreachable"]), (&4.into(), &1.into()));
    assert_eq!(runs[1]["pattern"], "all");
    assert_eq!(runs[2]["artifact"]["path"], one.to_str().unwrap());
    assert_eq!(runs[2]["artifact"]["size"], fs::metadata(&one).unwrap().len());

    assert_eq!(operator.history(&["--host", "host-02"])["runs"].as_array().unwrap().len(), 2);
    assert_eq!(operator.history(&["--app", "store"])["runs"].as_array().unwrap().len(), 0);
    assert_eq!(operator.history(&["--limit", "1"])["runs"].as_array().unwrap().len(), 1);

    let detail = operator.history(&[&second.run_id()[..6]]);
    let hosts = detail["hosts"].as_array().unwrap();
    assert_eq!(
        hosts.iter().map(|host| host["state"].as_str().unwrap()).collect::<Vec<_>>(),
        ["active", "active", "unreachable"]
    );
    assert!(hosts[0]["steps"].as_array().unwrap().iter().any(|step| step["state"] == "staged"), "{detail}");
    assert!(hosts[2]["failure"]["message"].is_string() && hosts[2]["failure"]["hint"].is_string(), "{detail}");
    assert!(detail["phases"].as_array().unwrap().iter().any(|time| time["phase"] == "distribute"), "{detail}");

    // The same for people.
    let table = operator.run(&["history"]).expect_code(0).stdout;
    for wanted in [first.run_id().as_str(), "deploy shop", "rollback shop", "completed", "2 of 3 active, 1 out"] {
        assert!(table.contains(wanted), "{wanted}\n{table}");
    }
    let text = operator.run(&["history", &second.run_id()]).expect_code(0).stdout;
    for wanted in ["host-03", "unreachable while connecting", "hint:", "exit code 4"] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    operator.run(&["history", "ffff"]).expect_code(5).expect_stderr(&["the history has no run ffff", "hint:"]);

    // No key of anybody's is in it.
    let key = fs::read_to_string(fleet.client_key()).unwrap();
    let torrent = fs::read(&torrent).unwrap();
    let announce = b"announce";
    let url = torrent.windows(announce.len()).position(|part| part == announce).map(|at| &torrent[at + 11..at + 60]).unwrap();
    let run_key = url.split(|byte| *byte == b'/').max_by_key(|part| part.len()).unwrap();
    assert!(run_key.len() >= 16, "{}", String::from_utf8_lossy(url));
    for secret in [key.lines().nth(1).unwrap().as_bytes(), run_key] {
        let bytes = fs::read(operator.history_file()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{}", String::from_utf8_lossy(secret));
    }
}

#[test]
fn a_history_that_cannot_be_used_is_a_warning_and_stops_nothing() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    let work = operator.work();
    fs::write(work.join("file"), "").unwrap();
    fs::write(
        work.join("text.db"),
        "this is a text, and longer than the header of a database would be; SQLite looks at that first",
    )
    .unwrap();
    fs::create_dir(work.join("directory.db")).unwrap();
    let locked = work.join("locked.db");
    operator
        .deploy(&fleet.fleet(), &artifact::shop(&work, "0", 1000))
        .with(["--history".as_ref(), locked.as_os_str()])
        .run()
        .expect_code(0);
    let holder = rusqlite::Connection::open(&locked).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    for (number, (file, why)) in [
        ("file/history.db", "file is not a directory"),
        ("text.db", "is not a history of fleetdrop"),
        ("directory.db", "cannot open the history"),
        ("/proc/history.db", "cannot open the history"),
        ("locked.db", "database is locked"),
    ]
    .into_iter()
    .enumerate()
    {
        let artifact = artifact::shop(&work, &number.to_string(), 1000 + number);
        let run = operator.deploy(&fleet.fleet(), &artifact).with(["--history", file]).run();
        let run = run.expect_code(0).expect_states(&[Active]).expect_stderr(&["warning: this run is not in the history", why]);
        assert!(run.stderr.contains("hint:") && run.stderr.contains("`--history FILE`"), "{run:?}");
    }
    operator.run(&["history", "--history", "text.db"]).expect_code(5).expect_stderr(&["is not a history of fleetdrop"]);
}

#[test]
fn nothing_is_written_down_for_those_who_do_not_want_it() {
    let (operator, fleet) = (Operator::new(), Embedded::start(1));
    let artifact = artifact::shop(&operator.work(), "1", 1000);
    operator.deploy(&fleet.fleet(), &artifact).with(["--no-history"]).run().expect_code(0).expect_states(&[Active]);
    assert!(!operator.history_file().exists());
    // A run that could not begin is none.
    operator.deploy(&fleet.fleet(), &artifact).but("--agent-dir", operator.work()).run().expect_code(5);
    assert_eq!(operator.history(&[])["runs"].as_array().unwrap().len(), 0);
    let nobody = operator.deploy(&fleet.fleet(), &artifact).but("--known-hosts", "/dev/null").run().expect_code(8);
    nobody.expect_states(&[Unreachable]);
    assert_eq!(operator.history(&[])["runs"][0]["outcome"], "stopped_by_budget");
}
