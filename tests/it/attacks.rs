//! Hosts that are somebody else's by now, in deploys over real sshd: whatever one of them says or does, the others go live, the
//! controller stays small, and what the attacker did is told. Strangers on the network are in `strangers`, peers that lie in `swarm_faults`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::{Duration, Instant},
};

use fleetdrop::{
    model::HostState::{Active, Failed, Unreachable},
    wire::WIRE_VERSION,
};

use crate::{
    artifact,
    operator::{Operator, Running},
    sshd::SshdFleet,
};

/// The most memory that a controller may take that is lied to, in KiB.
const MOST_MEMORY: u64 = 200 << 10;

/// What stands in the agent's place on a host that is taken over. It begins well, for whoever does not is given up at once.
const EVIL: &str = r#"
import json, os, struct, sys, zlib
out, mode = sys.stdout.buffer, sys.argv[1]
def raw(flag, body):
    out.write(struct.pack(">I", len(body) | flag) + body)
    out.flush()
def say(**message):
    raw(0, json.dumps(message).encode())
def hear():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        sys.exit()
    sys.stdin.buffer.read(struct.unpack(">I", head)[0] & 0x7fffffff)
most, bytes_ = 2**64 - 1, ("from_peers", "from_controller", "from_ssh", "from_origin", "from_disk", "uploaded")
counts = {name: most for name in bytes_}
out.write(b"FLEETDROP-AGENT-STARTS\n")
say(type="hello", wire_version=VERSION, version="0.1.0", pid=4294967295)
hear()
try:
    if mode == "garbage":
        out.write(os.urandom(1 << 20)); out.flush()
    elif mode == "endless":
        out.write(struct.pack(">I", 0x7fffffff) + b"x" * (64 << 20)); out.flush()
    elif mode == "bomb":
        raw(1 << 31, zlib.compress(bytes(1 << 30), 9))
    elif mode == "deep":
        raw(0, b"[" * (4 << 20))
    elif mode == "long":
        say(type="failed", kind="failed", during="preparing", message="\x1b[2J\x1b]0;x\x07" + "lie " * (1 << 20), log_tail=["x" * (1 << 20)] * 4)
    else:
        say(type="prepared", port=1, have=most, current=None)
        hear()
        if mode == "flood":
            while True:
                say(type="progress", bytes=counts, payload=most, rate=most, peers=4294967295)
        say(type="progress", bytes=counts, payload=most, rate=most, peers=4294967295)
        if mode == "forged":
            say(type="staged", release="20200101T000000Z-00000000", bytes=counts)
        elif mode == "early":
            say(type="activated", release="20200101T000000Z-00000000", previous=None)
        elif mode == "confirmed":
            say(type="confirmed")
        elif mode == "status":
            say(type="unlocked", **{"holder": None})
    while True:
        hear()
except BrokenPipeError:
    pass
"#;

/// Has everything but the agent work as usual on a host: the shell is real, the agent is not.
fn take_over(fleet: &mut SshdFleet, host: usize, place: &Path, mode: &str) {
    let (evil, gate) = (place.join("evil.py"), place.join(format!("gate-{mode}")));
    fs::write(&evil, EVIL.replace("VERSION", &WIRE_VERSION.to_string())).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$SSH_ORIGINAL_COMMAND\" in\n*serve*) exec python3 {} {mode};;\n*) exec sh -c \"$SSH_ORIGINAL_COMMAND\";;\nesac\n",
        evil.display()
    );
    fs::write(&gate, script).unwrap();
    fs::set_permissions(&gate, fs::Permissions::from_mode(0o755)).unwrap();
    fleet.host_mut(host).configure(&format!("ForceCommand {}", gate.display()));
}

/// Returns the most memory that the process has taken so far, in KiB.
fn peak_memory(run: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", run.pid().as_raw_nonzero())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

#[test]
fn whatever_a_host_says_it_alone_fails() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 300_000);
    // A first deploy leaves the agent there, so that nothing but the agent's conversation is left to lie about.
    operator.deploy(&fleet.fleet(), &artifact).run().expect_code(0);
    for (round, mode) in
        ["garbage", "endless", "bomb", "deep", "long", "forged", "early", "confirmed", "status"].into_iter().enumerate()
    {
        take_over(&mut fleet, 0, &operator.work(), mode);
        let version = (round + 2).to_string();
        let artifact = artifact::shop(&operator.work(), &version, 300_000);
        let began = Instant::now();
        let mut run = operator.deploy(&fleet.fleet(), &artifact).with(["--max-failures", "1"]).start();
        run.wait_for_state("host-02", Active);
        let memory = peak_memory(&run);
        assert!((1..MOST_MEMORY).contains(&memory), "{mode}: the controller took {memory} KiB");
        let run = run.finish().expect_code(2).expect_states(&[Failed, Active]);
        let failure = run.failure("host-01");
        assert!(failure.message.len() < 2000 && !failure.message.contains('\x1b'), "{mode}: {failure:?}");
        assert!(run.stderr.len() < 100_000 && !run.stderr.contains("\x1b]0"), "{mode}");
        assert!(began.elapsed() < Duration::from_secs(60), "{mode}: {:?}", began.elapsed());
        fleet.expect_live(&[Some("1"), Some(&version)]);
    }
}

#[test]
fn an_agent_that_somebody_replaced_in_the_cache_is_not_started() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 100_000));
    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);
    let agents = fleet.hosts()[0].home().join(".cache/fleetdrop/agent");
    let marker = operator.work().join("started");
    let mut replaced = 0;
    for entry in fs::read_dir(&agents).unwrap().flatten() {
        let agent = entry.path().join("fleetdrop-agent");
        if agent.exists() {
            fs::remove_file(&agent).unwrap();
            fs::write(&agent, format!("#!/bin/sh\ntouch {}\n", marker.display())).unwrap();
            fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
            replaced += 1;
        }
    }
    assert!(replaced > 0, "no agent in {}", agents.display());
    operator.deploy(&fleet.fleet(), &two).run().expect_code(0).expect_states(&[Active; 2]);
    assert!(!marker.exists(), "what somebody put into the agent's place was started");
    fleet.expect_live(&[Some("2"); 2]);
    fleet.assert_nothing_left();
}

#[test]
fn a_host_key_that_changes_in_the_middle_ends_that_host() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(2));
    let [one, two] = ["1", "2"].map(|version| artifact::shop(&operator.work(), version, 100_000));
    operator.deploy(&fleet.fleet(), &one).run().expect_code(0);
    let (playbook, door) = (operator.work().join("shop.yaml"), operator.work().join("door"));
    let wait = format!("touch {0}-$FLEETDROP_HOST; until [ -e {0} ]; do sleep 0.05; done", door.display());
    fs::write(&playbook, format!("hooks:\n  after_stage: ['{wait}']\n")).unwrap();
    let with = ["--playbook".as_ref(), playbook.as_os_str(), "--max-failures".as_ref(), "1".as_ref()];
    let mut run = operator.deploy(&fleet.fleet(), &two).with(with).start();
    for host in ["host-01", "host-02"] {
        run.wait_for_state(host, fleetdrop::model::HostState::Extracting);
    }
    fleet.host_mut(0).replace_host_key();
    run.wait_for_state("host-01", Unreachable);
    fs::write(&door, "").unwrap();
    let run = run.finish().expect_code(4).expect_states(&[Unreachable, Active]);
    let failure = run.failure("host-01");
    assert!(failure.message.contains("host key"), "{failure:?}");
    fleet.expect_live(&[Some("1"), Some("2")]);
}

#[test]
fn a_symlink_that_another_user_planted_is_not_followed() {
    let (operator, mut fleet) = (Operator::new(), SshdFleet::start(2));
    let artifact = artifact::shop(&operator.work(), "1", 100_000);
    let (everybody, victim) = (operator.work().join("everybody"), operator.work().join("victim"));
    for directory in [&everybody, &victim] {
        fs::create_dir(directory).unwrap();
    }
    fs::set_permissions(&everybody, fs::Permissions::from_mode(0o1777)).unwrap();
    let planted = everybody.join("shop");
    symlink(&victim, &planted).unwrap();
    std::os::unix::fs::lchown(&planted, Some(65534), Some(65534)).unwrap();
    fleet.set_deploy_to(0, &planted);
    let run = operator.deploy(&fleet.fleet(), &artifact).with(["--max-failures", "1"]).run();
    let run = run.expect_code(2).expect_states(&[Failed, Active]);
    let failure = run.failure("host-01");
    assert!(failure.message.contains(everybody.to_str().unwrap()) && failure.hint.is_some(), "{failure:?}");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "something was written where the link leads");
    fleet.assert_nothing_left();
}
