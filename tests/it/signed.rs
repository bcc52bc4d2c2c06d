//! Artifacts that must be signed, with the tools that people sign with: `ssh-keygen` and `minisign`, real sshd hosts, real agents.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fleetdrop::{
    model::{
        HostState::{Active, Failed, Preparing, Skipped},
        trust::{Endorsement, Stamp, Statement},
    },
    wire::{DeployJob, FromAgent, StopReason, ToAgent},
};

use crate::{
    agent_rig::{Agent, Seeded, fast_dir, live},
    artifact,
    operator::Operator,
    sshd::SshdFleet,
};

fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S], dir: &Path) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("can't start {program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Makes an OpenSSH key and returns the text of its public half.
fn ssh_key(dir: &Path, name: &str) -> String {
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", name], dir);
    fs::read_to_string(dir.join(name).with_extension("pub")).unwrap().trim().to_owned()
}

/// Has an artifact signed and returns where the signature is.
fn sign(operator: &Operator, artifact: &Path, key: &str, version: &str) -> PathBuf {
    let key = operator.work().join(key);
    let words = ["sign".as_ref(), artifact.as_os_str(), "--app".as_ref(), "shop".as_ref(), "--version".as_ref()];
    let more = [version.as_ref(), "--expires".as_ref(), "1h".as_ref(), "--key".as_ref(), key.as_os_str()];
    operator.run(&[&words[..], &more[..]].concat()).expect_code(0);
    let mut signature = artifact.as_os_str().to_owned();
    signature.push(".manifest.json.sig");
    signature.into()
}

#[test]
fn only_what_somebody_trusted_signed_goes_live_and_nothing_older() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let work = operator.work();
    let playbook = work.join("shop.yaml");
    fs::write(&playbook, "allowed_signers: signers\n").unwrap();
    let key = ssh_key(&work, "ada");
    ssh_key(&work, "mallory");
    fs::write(work.join("signers"), format!("# who releases\nada@example.com namespaces=\"fleetdrop\" {key}\n")).unwrap();
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&work, version, 10_000));
    let deploy = |artifact: &Path, signature: Option<&Path>, more: &[&str]| {
        let call = operator.deploy(&fleet.fleet(), artifact).with(["--playbook".as_ref(), playbook.as_os_str()]);
        let call = match signature {
            Some(file) => call.with(["--signature".as_ref(), file.as_os_str()]),
            None => call,
        };
        call.with(more).run()
    };
    let untouched = || assert!(fleet.hosts().iter().all(|host| !host.deploy_to().exists()));

    deploy(&one, None, &[])
        .expect_code(5)
        .expect_stderr(&["asks for a signed artifact", "hint: make one with `fleetdrop sign`"]);
    let by_mallory = sign(&operator, &one, "mallory", "1.0");
    deploy(&one, Some(&by_mallory), &[]).expect_code(5).expect_stderr(&["signed with a key that is not trusted (SHA256:"]);
    let of_one = sign(&operator, &one, "ada", "1.0");
    deploy(&two, Some(&of_one), &[]).expect_code(5).expect_stderr(&["the signed manifest is of another artifact"]);
    let manifest = of_one.with_extension("");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("1.0", "9.9")).unwrap();
    deploy(&one, Some(&of_one), &[]).expect_code(5).expect_stderr(&["it was changed after SHA256:"]);
    untouched();

    // The tools agree: OpenSSH finds ours good, and we find OpenSSH's good.
    fs::write(&manifest, &text).unwrap();
    let verify = ["-Y", "verify", "-f", "signers", "-I", "ada@example.com", "-n", "fleetdrop", "-s"];
    let mut ssh_keygen = Command::new("ssh-keygen");
    ssh_keygen.args(verify).arg(&of_one).current_dir(&work).stdin(fs::File::open(&manifest).unwrap());
    let good = ssh_keygen.output().unwrap();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let past: Stamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut late = Statement::read(&text).unwrap();
    (late.created, late.expires) = (past, Some(past));
    fs::write(work.join("late.json"), late.to_text()).unwrap();
    run("ssh-keygen", &["-q", "-Y", "sign", "-n", "fleetdrop", "-f", "ada", "late.json"], &work);
    deploy(&one, Some(&work.join("late.json.sig")), &[]).expect_code(5).expect_stderr(&["expired at 2026-01-01T00:00:00Z"]);
    untouched();

    deploy(&one, Some(&of_one), &[]).expect_code(0).expect_no_warning().expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("1"); 2]);
    // Times of signing are told apart by the second.
    let created = Statement::read(&text).unwrap().created;
    while Stamp::of(std::time::SystemTime::now()) <= created {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let of_two = sign(&operator, &two, "ada", "2.0");
    deploy(&two, Some(&of_two), &[]).expect_code(0).expect_states(&[Active; 2]);
    let refused = deploy(&one, Some(&of_one), &[]).expect_code(8).expect_states(&[Failed; 2]);
    let failure = refused.failure("host-01");
    assert!(
        failure.message.starts_with("version 1.0, signed at ") && failure.message.contains("is older than 2.0"),
        "{failure:?}"
    );
    assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("--allow-downgrade")), "{failure:?}");
    assert_eq!(failure.during, Preparing);
    fleet.expect_live(&[Some("2"); 2]);

    // To go back on purpose needs no signature where the release is still there, and a word where it is deployed anew.
    operator.rollback(&fleet.fleet()).run().expect_code(0);
    fleet.expect_live(&[Some("1"); 2]);
    deploy(&two, Some(&of_two), &[]).expect_code(0);
    deploy(&one, Some(&of_one), &["--allow-downgrade"]).expect_code(0);
    fleet.expect_live(&[Some("1"); 2]);
    deploy(&one, Some(&of_one), &[]).expect_code(8).expect_states(&[Failed; 2]);
    fleet.assert_nothing_left();
}

#[test]
fn a_signature_that_nobody_asked_for_is_no_proof() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let work = operator.work();
    ssh_key(&work, "ada");
    let artifact = artifact::shop(&work, "1", 1000);
    let signature = sign(&operator, &artifact, "ada", "1.0");
    let with = ["--signature".as_ref(), signature.as_os_str()];
    let said = operator.deploy(&fleet.fleet(), &artifact).with(with).run().expect_code(5);
    said.expect_stderr(&["nothing says whose signature counts", "hint: name keys with `trusted_keys`"]);
    let call = operator.deploy(&fleet.fleet(), &artifact).with(["--signature".as_ref(), artifact.as_os_str()]);
    let playbook = work.join("p.yaml");
    fs::write(&playbook, "allowed_signers: nobody\n").unwrap();
    fs::write(work.join("nobody"), "ada cert-authority ssh-ed25519 AAAA\n").unwrap();
    let said = call.with(["--playbook".as_ref(), playbook.as_os_str()]).run().expect_code(5);
    said.expect_stderr(&["nobody: line 1: certificate authorities can't sign here"]);
}

/// A playbook's key of minisign, a directory as artifact, and `sign` with that key.
#[test]
fn minisign_signs_directories_too() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(1));
    let work = operator.work();
    run("minisign", &["-G", "-W", "-p", "ada.pub", "-s", "ada"], &work);
    let key = fs::read_to_string(work.join("ada.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    let playbook = work.join("shop.yaml");
    fs::write(&playbook, format!("trusted_keys:\n  - {key}\n")).unwrap();
    let dist = work.join("dist");
    fs::create_dir_all(dist.join("share")).unwrap();
    fs::write(dist.join("VERSION"), "1\n").unwrap();
    sign(&operator, &dist, "ada", "1.0");
    let signature = work.join("dist.manifest.json.minisig");
    let call = || {
        let with = ["--playbook".as_ref(), playbook.as_os_str(), "--signature".as_ref(), signature.as_os_str()];
        operator.deploy(&fleet.fleet(), &dist).with(with)
    };
    call().run().expect_code(0).expect_states(&[Active]);
    fs::write(dist.join("share/more"), "x").unwrap();
    call().run().expect_code(5).expect_stderr(&["the signed manifest is of another artifact"]);
    let current = fleet.hosts()[0].deploy_to().join("current");
    assert!(!current.join("share/more").exists());
}

/// A controller that is wrong, or somebody in its place, is not believed: the host decides once more.
#[tokio::test]
async fn a_host_checks_what_its_controller_let_through() {
    let dir = fast_dir();
    let [one, two] = [Seeded::new("one", b"1").await, Seeded::new("two", b"2").await];
    let keys = vec![ssh_key(dir.path(), "ada").parse().unwrap()];
    ssh_key(dir.path(), "mallory");
    let endorse = |of: &Seeded, key: &str, created: &str, expires: Option<&str>| {
        let [created, expires] = [Some(created), expires].map(|time| time.map(|time| time.parse().unwrap()));
        let statement = Statement::new(&of.manifest, "1".parse().unwrap(), created.unwrap(), expires).to_text();
        fs::write(dir.path().join("m"), &statement).unwrap();
        let _ = fs::remove_file(dir.path().join("m.sig"));
        run("ssh-keygen", &["-q", "-Y", "sign", "-n", "fleetdrop", "-f", key, "m"], dir.path());
        let signature = fs::read_to_string(dir.path().join("m.sig")).unwrap();
        Endorsement { statement, signature, keys: keys.clone(), allow_downgrade: false }
    };
    let job = |endorsement| DeployJob { endorsement: Some(Box::new(endorsement)), ..one.job(dir.path(), "r1") };
    let (day, next) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let good = endorse(&one, "ada", day, None);
    for (bad, says) in [
        (endorse(&one, "mallory", day, None), "not trusted"),
        (endorse(&two, "ada", day, None), "of another artifact"),
        (endorse(&one, "ada", day, Some(next)), "expired at"),
        (endorse(&one, "ada", "2100-01-01T00:00:00Z", None), "here it is only"),
        (Endorsement { statement: good.statement.replace("\"1\"", "\"2\""), ..good.clone() }, "changed after"),
        (Endorsement { keys: Vec::new(), ..good.clone() }, "not trusted"),
    ] {
        let mut agent = Agent::deploying(job(bad)).await;
        let Some(FromAgent::Failed(failure)) = agent.answer().await else { panic!("{says}") };
        assert!(failure.message.contains(says) && failure.hint.is_some(), "{failure:?}");
        agent.exit().await;
        assert!(!dir.path().join("app").exists(), "nothing is made before it is decided");
    }
    let mut agent = Agent::deploying(job(good)).await;
    agent.until_activated().await;
    agent.tell(ToAgent::Confirm).await;
    assert!(matches!(agent.answer().await, Some(FromAgent::Confirmed)));
    agent.tell(ToAgent::Stop { reason: StopReason::Finished }).await;
    assert_eq!(agent.exit().await.code(), Some(0));
    assert!(live(dir.path()).unwrap().ends_with("releases/r1"));
}

#[test]
fn states_of_hosts_that_were_not_asked_are_told() {
    // One host had the newer version, the other one never had any: the first refuses, so nobody switches.
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let work = operator.work();
    let key = ssh_key(&work, "ada");
    let playbook = work.join("shop.yaml");
    fs::write(&playbook, format!("trusted_keys: [\"{key}\"]\n")).unwrap();
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&work, version, 1000));
    let of_one = sign(&operator, &one, "ada", "1.0");
    let created = Statement::read(&fs::read_to_string(of_one.with_extension("")).unwrap()).unwrap().created;
    while Stamp::of(std::time::SystemTime::now()) <= created {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let of_two = sign(&operator, &two, "ada", "2.0");
    let deploy = |artifact: &Path, signature: &Path, limit: &str| {
        let with = ["--playbook".as_ref(), playbook.as_os_str(), "--signature".as_ref(), signature.as_os_str()];
        operator.deploy(&fleet.fleet(), artifact).with(with).with(["--limit", limit]).run()
    };
    deploy(&two, &of_two, "host-01").expect_code(0);
    deploy(&one, &of_one, "all").expect_code(8).expect_states(&[Failed, Skipped]);
    fleet.expect_live(&[Some("2"), None]);
}
