//! Rolling deploys and rollbacks of a fleet whose hosts all have a service and are all asked over HTTP whether it works.

use std::fs;

use fleetdrop::model::HostState::{Active, Reverted, Skipped};

use crate::{artifact, machines::Machines, operator::Finished, shipped_playbooks::waves};

const HOSTS: usize = 10;

/// The hooks count how many hosts are between stopping and starting their service.
const PLAYBOOK: &str = r#"
app: shop
deploy_to: /srv/shop
rollout: {waves: 2, max_failures: 10%, on_failure: stop}
hooks:
  before_activate:
    - touch SEEN/now/$FLEETDROP_HOST && ls SEEN/now | wc -l >> SEEN/counts
    - systemctl stop shop
  after_activate:
    - systemctl start shop
    - rm SEEN/now/$FLEETDROP_HOST
  on_revert: [systemctl restart shop]
health:
  http: {url: "http://127.0.0.1:8080/healthz", interval: 100ms, timeout: 5s, healthy_for: 500ms, deadline: 15s}
"#;

/// The fleet with its playbook.
struct Rolling(Machines);

impl Rolling {
    fn start() -> Self {
        let machines = Machines::start(HOSTS as u8);
        let seen = machines.operator.work().join("seen");
        fs::create_dir_all(seen.join("now")).unwrap();
        let playbook = PLAYBOOK.replace("SEEN", seen.to_str().unwrap());
        fs::write(machines.operator.work().join("rolling.yaml"), playbook).unwrap();
        Self(machines)
    }

    fn deploy(&self, version: &str) -> Finished {
        let operator = &self.0.operator;
        let artifact = artifact::shop(&operator.work(), version, 50_000);
        operator.deploy(&self.0.fleet.fleet(), &artifact).with(["--playbook", "rolling.yaml"]).run()
    }

    fn rollback(&self, options: &[&str]) -> Finished {
        let rollback = self.0.operator.rollback(&self.0.fleet.fleet());
        rollback.with(["--playbook", "rolling.yaml"]).with(options).run()
    }

    /// Checks that no more hosts than a wave has were ever without their service, and forgets what was counted.
    #[track_caller]
    fn expect_waves_kept(&self, wave: u32) {
        let file = self.0.operator.work().join("seen/counts");
        let counts = fs::read_to_string(&file).unwrap();
        let most = counts.lines().map(|line| line.trim().parse::<u32>().unwrap()).max();
        assert!(most.is_some_and(|most| (1..=wave).contains(&most)), "{counts}");
        fs::remove_file(file).unwrap();
    }

    fn live(&self, host: usize) -> String {
        let target = fs::read_link(self.0.path(host, "/srv/shop/current")).unwrap();
        target.file_name().unwrap().to_str().unwrap().to_owned()
    }
}

#[test]
fn a_fleet_goes_on_and_back_in_waves_while_every_host_is_healthy_and_failures_are_few() {
    let fleet = Rolling::start();
    let run = fleet.deploy("1").expect_code(0).expect_states(&[Active; HOSTS]).expect_no_warning();
    assert_eq!(waves(&run), [2; 5]);
    fleet.0.expect_served(8080, &["1"; HOSTS]);
    fleet.expect_waves_kept(2);
    let one = fleet.live(0);

    // One host of ten may fail.
    fleet.0.break_on(4, "2");
    let run = fleet.deploy("2").expect_code(2);
    let mut states = [Active; HOSTS];
    states[4] = Reverted;
    let run = run.expect_states(&states);
    let failure = run.failure("host-05");
    assert!(failure.message.contains("answered with status 404 instead of 200"), "{failure:?}");
    assert_eq!(waves(&run), [2; 5]);
    let mut served = ["2"; HOSTS];
    served[4] = "1";
    fleet.0.expect_served(8080, &served);
    fleet.expect_waves_kept(2);
    let two = fleet.live(0);

    // Back, in waves, each host with its check. The one that never left has nothing to do.
    let run = fleet.rollback(&["--to", &one]).expect_code(0).expect_states(&[Active; HOSTS]).expect_no_warning();
    assert_eq!(waves(&run), [2, 2, 2, 2, 1]);
    assert!(run.host("host-05").unchanged && !run.host("host-06").unchanged);
    let bytes = run.summary().bytes;
    assert_eq!((bytes.received(), run.summary().controller_sent), (0, 0), "nothing is transferred");
    fleet.0.expect_served(8080, &["1"; HOSTS]);
    fleet.expect_waves_kept(2);

    // Where the earlier release does not work any more, a rollback stops in its first wave.
    fleet.0.break_on(0, "2");
    let run = fleet.rollback(&["--to", &two, "--limit", "host-01,host-02,host-03,host-04"]).expect_code(8);
    run.expect_states(&[Reverted, Active, Skipped, Skipped]);
    let mut served = ["1"; HOSTS];
    served[1] = "2";
    fleet.0.expect_served(8080, &served);
}
