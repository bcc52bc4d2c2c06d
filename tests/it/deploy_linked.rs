//! A playbook's `linked_dirs` and `linked_files`, on real sshd hosts.

use std::fs;

use fleetdrop::model::HostState::{Active, Failed, Skipped};

use crate::{artifact, operator::Operator, sshd::SshdFleet};

#[test]
fn shared_files_have_to_be_on_every_host_before_any_of_them_switches() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let playbook = operator.work().join("shop.yaml");
    fs::write(&playbook, "linked_dirs: [log, share/uploads]\nlinked_files: [.env]\n").unwrap();
    let with = ["--playbook", playbook.to_str().unwrap()];
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 10_000));
    let shared = |host: usize| fleet.hosts()[host].deploy_to().join("shared");
    fs::create_dir_all(shared(0)).unwrap();
    fs::write(shared(0).join(".env"), "secret").unwrap();

    let run = operator.deploy(&fleet.fleet(), &one).with(with).run().expect_code(8).expect_states(&[Skipped, Failed]);
    let failure = run.failure("host-02");
    assert_eq!(failure.message, format!("{} has no .env", shared(1).display()));
    assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("`linked_files`")), "{failure:?}");
    fleet.expect_live(&[None; 2]);

    fs::write(shared(1).join(".env"), "secret").unwrap();
    operator.deploy(&fleet.fleet(), &one).with(with).run().expect_code(0).expect_no_warning().expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("1"); 2]);
    for host in fleet.hosts() {
        let current = host.deploy_to().join("current");
        assert_eq!(fs::read_to_string(current.join(".env")).unwrap(), "secret");
        fs::write(current.join("share/uploads/cat.png"), "meow").unwrap();
    }
    operator.deploy(&fleet.fleet(), &two).with(with).run().expect_code(0).expect_no_warning().expect_states(&[Active; 2]);
    fleet.expect_live(&[Some("2"); 2]);
    operator.rollback(&fleet.fleet()).run().expect_code(0);
    fleet.expect_live(&[Some("1"); 2]);
    for host in fleet.hosts() {
        let current = host.deploy_to().join("current");
        assert_eq!(fs::read_to_string(current.join("share/uploads/cat.png")).unwrap(), "meow");
        assert!(current.join("share/data.bin").exists(), "what is beside the link stays");
    }
    fleet.assert_nothing_left();
}
