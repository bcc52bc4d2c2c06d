//! The playbooks in `playbooks/`, as they stand, on hosts that are machines of their own.
//!
//! They run beside each other, for most of their time is waiting: for the next wave, for a release to be healthy for long enough.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use fleetdrop::model::{
    HostState::{Active, Failed, Reverted, Skipped},
    RunEvent,
};

use crate::{artifact, machines::Machines, operator::Finished};

/// The playbooks with what is to be seen of each.
const STORIES: [(&str, fn()); 7] = [
    ("all-at-once.yaml", all_at_once),
    ("blue-green.yaml", blue_green),
    ("canary.yaml", canary),
    ("model-weights.yaml", model_weights),
    ("rolling.yaml", rolling),
    ("static-site.yaml", static_site),
    ("systemd-service.yaml", systemd_service),
];

/// Serves the files that are live, as a web server does that is not told of a deploy.
const WEB_SERVER: &str = r#"
import functools, http.server
class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass
handler = functools.partial(Files, directory="/srv/www/current")
http.server.ThreadingHTTPServer(("127.0.0.1", 80), handler).serve_forever()
"#;

/// Leads on to the service of the installation that it was told of last.
const PROXY: &str = r#"
import http.server, sys, urllib.error, urllib.request
class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            live = open(sys.argv[1] + "/proxied").read().strip()
            port = {"/srv/shop-blue": "8081", "/srv/shop-green": "8082"}[live]
            body, status = urllib.request.urlopen("http://127.0.0.1:" + port + self.path).read(), 200
        except urllib.error.HTTPError as error:
            body, status = b"", error.code
        except (OSError, KeyError):
            body, status = b"", 503
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 80), Proxy).serve_forever()
"#;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks")
}

impl Machines {
    /// Writes an artifact of that version.
    fn artifact(&self, version: &str) -> PathBuf {
        artifact::shop(&self.operator.work(), version, 100_000)
    }

    /// Deploys with a playbook of those that are shipped, and with no word beside it of how or where.
    fn follow(&self, playbook: &str, artifact: &Path, options: &[&str]) -> Finished {
        let playbook = shipped().join(playbook);
        let line = self.operator.deploy(&self.fleet.fleet(), artifact).without("--app");
        line.with(["--playbook".as_ref(), playbook.as_os_str()]).with(options).run()
    }
}

/// Returns how many hosts each wave had.
pub(crate) fn waves(run: &Finished) -> Vec<usize> {
    let waves = run.events.iter().filter_map(|envelope| match &envelope.event {
        RunEvent::WaveStarted { hosts, .. } => Some(hosts.len()),
        _ => None,
    });
    waves.collect()
}

#[test]
fn every_shipped_playbook_does_on_real_hosts_what_it_says() {
    let mut there: Vec<String> =
        fs::read_dir(shipped()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.retain(|name| name.ends_with(".yaml"));
    there.sort();
    assert_eq!(there, STORIES.map(|(playbook, _)| playbook));
    thread::scope(|scope| {
        for (playbook, story) in STORIES {
            thread::Builder::new().name(playbook.to_owned()).spawn_scoped(scope, story).unwrap();
        }
    });
}

fn all_at_once() {
    let machines = Machines::start(3);
    let run = machines.follow("all-at-once.yaml", &machines.artifact("1"), &[]).expect_code(0).expect_no_warning();
    assert_eq!(waves(&run), [3]);
    machines.expect_live("/srv/shop", &["1"; 3]);
    // One host cannot be staged: its `current` is somebody else's.
    let current = machines.path(1, "/srv/shop/current");
    fs::remove_file(&current).unwrap();
    fs::create_dir(&current).unwrap();
    let run = machines.follow("all-at-once.yaml", &machines.artifact("2"), &[]).expect_code(8);
    run.expect_states(&[Skipped, Failed, Skipped]);
    machines.expect_live("/srv/shop", &["1", "", "1"]);
}

fn canary() {
    let machines = Machines::start(2);
    let run = machines.follow("canary.yaml", &machines.artifact("1"), &[]).expect_code(0).expect_no_warning();
    assert_eq!(waves(&run), [1, 1]);
    machines.expect_served(8080, &["1"; 2]);
    let run = machines.follow("canary.yaml", &machines.artifact("crashes"), &[]).expect_code(8);
    let run = run.expect_states(&[Reverted, Skipped]);
    let failure = run.failure("host-01");
    assert!(failure.message.starts_with("the after_activate hook `systemctl restart shop` "), "{failure:?}");
    assert_eq!(failure.log_tail, ["shop.service: Failed with result 'exit-code'."]);
    machines.expect_live("/srv/shop", &["1"; 2]);
    machines.expect_served(8080, &["1"; 2]);
}

fn rolling() {
    let machines = Machines::start(3);
    let run = machines.follow("rolling.yaml", &machines.artifact("1"), &[]).expect_code(0).expect_no_warning();
    assert_eq!(waves(&run), [1, 1, 1]);
    machines.expect_served(8080, &["1"; 3]);
    // A tenth of three hosts is none: the first that fails ends it, and nobody else goes back.
    let run = machines.follow("rolling.yaml", &machines.artifact("crashes"), &[]).expect_code(8);
    run.expect_states(&[Reverted, Skipped, Skipped]);
    machines.expect_served(8080, &["1"; 3]);
}

fn systemd_service() {
    let machines = Machines::start(2);
    let run = machines.follow("systemd-service.yaml", &machines.artifact("1"), &[]).expect_code(0).expect_no_warning();
    assert_eq!(waves(&run), [1, 1]);
    machines.expect_served(8080, &["1"; 2]);
    // One host may fail.
    let crashes = machines.artifact("crashes");
    let run = machines.follow("systemd-service.yaml", &crashes, &["--limit", "host-02"]).expect_code(2);
    run.expect_states(&[Reverted]);
    machines.expect_live("/srv/shop", &["1"; 2]);
    machines.expect_served(8080, &["1"; 2]);
}

fn static_site() {
    let mut machines = Machines::start(2);
    for host in 0..2 {
        machines.serve(host, 80, WEB_SERVER, &[]);
    }
    let one = machines.artifact("1");
    let run = machines.follow("static-site.yaml", &one, &[]).expect_code(0).expect_no_warning();
    assert_eq!(waves(&run), [2]);
    machines.expect_live("/srv/www", &["1"; 2]);
    machines.follow("static-site.yaml", &machines.artifact("2"), &[]).expect_code(0);
    machines.expect_live("/srv/www", &["2"; 2]);
}

fn model_weights() {
    let machines = Machines::start(2);
    let work = machines.operator.work();
    fs::create_dir(work.join("weights")).unwrap();
    fs::write(work.join("weights/config.json"), "{}").unwrap();
    fs::write(work.join("weights/part-1"), vec![7; 1_000_000]).unwrap();
    let artifact = work.join("weights.tar");
    let tar = std::process::Command::new("tar").arg("-cf").arg(&artifact).arg("-C").arg(work.join("weights")).arg(".").status();
    assert!(tar.unwrap().success());
    let run = machines.follow("model-weights.yaml", &artifact, &[]).expect_code(0).expect_no_warning();
    assert_eq!(waves(&run), [1, 1]);
    for host in 0..2 {
        assert_eq!(fs::read(machines.path(host, "/srv/weights/current/part-1")).unwrap().len(), 1_000_000);
    }
    // What has no configuration is no model.
    let run = machines.follow("model-weights.yaml", &machines.artifact("1"), &[]).expect_code(8);
    run.expect_states(&[Reverted, Skipped]);
    assert!(machines.path(0, "/srv/weights/current/config.json").exists());
}

/// Two installations with a service each, a proxy before them, and a switch.
fn blue_green() {
    let mut machines = Machines::start(1);
    let home = machines.fleet.hosts()[0].home();
    machines.serve(0, 80, PROXY, &[&home]);
    let machines = machines;
    let [one, two, three] = ["1", "2", "3"].map(|version| machines.artifact(version));
    let deploy = |artifact: &Path, colour: &str| {
        machines.follow("blue-green.yaml", artifact, &["--deploy-to", &format!("/srv/shop-{colour}")])
    };
    // What users get, and what blue and green would serve.
    let expect_served = |versions: [&str; 3]| assert_eq!([80, 8081, 8082].map(|port| machines.get(0, port)), versions);
    let leads_to = || fs::read_link(machines.path(0, "/srv/shop-live")).unwrap();
    deploy(&one, "blue").expect_code(0).expect_states(&[Active]);
    expect_served(["1", "1", ""]);

    let live = deploy(&two, "blue").expect_code(8).expect_states(&[Failed]);
    assert!(live.failure("host-01").log_tail[0].ends_with("/shop-blue is live: deploy to the other one"), "{live:?}");
    expect_served(["1", "1", ""]);

    deploy(&two, "green").expect_code(0).expect_states(&[Active]);
    expect_served(["2", "1", "2"]);

    // Blue has version 1 already: it only has to be led to.
    let back = deploy(&one, "blue").expect_code(0).expect_no_warning().expect_states(&[Active]);
    let bytes = back.summary().bytes;
    assert_eq!((bytes.from_peers + bytes.from_controller, back.summary().controller_sent), (0, 0), "{back:?}");
    expect_served(["1", "1", "2"]);
    assert_eq!(leads_to(), Path::new("/srv/shop-blue"));

    machines.break_on(0, "3");
    let sick = deploy(&three, "green").expect_code(2).expect_states(&[Reverted]);
    assert!(sick.failure("host-01").message.contains("after_activate hook"), "{sick:?}");
    expect_served(["1", "1", ""]);
    assert_eq!(leads_to(), Path::new("/srv/shop-blue"));

    // Green has version 2 again, and only its service is started anew.
    deploy(&two, "green").expect_code(0).expect_states(&[Active]);
    assert_eq!(machines.get(0, 80), "2");
}
