//! `playbooks/blue-green.yaml` on a real sshd host: two installations with a service each, a proxy before them, and a switch.
//!
//! The playbook is used as it stands but for paths, ports and how long a release must be healthy; a `systemctl` of the test's own starts
//! the services and makes the proxy look at the link anew, as nginx does.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fleetdrop::model::HostState::{Active, Failed, Reverted};
use tempfile::TempDir;

use crate::{
    artifact,
    operator::{Finished, Operator},
    sshd::SshdFleet,
};

/// Says its version, or that it has no such page if it is version 3.
const SERVICE: &str = r#"
import http.server, os, sys
version = open(sys.argv[1] + "/current/VERSION").read()
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404 if version == "3" else 200)
        self.send_header("Content-Length", str(len(version)))
        self.end_headers()
        self.wfile.write(version.encode())
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Service).serve_forever()
"#;

/// Leads on to the service of the installation that it was told of last.
const PROXY: &str = r#"
import http.server, sys, urllib.error, urllib.request
directory, port, blue, green = sys.argv[1:]
class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            live = open(directory + "/proxied").read().strip()
            service = blue if live.endswith("-blue") else green
            body, status = urllib.request.urlopen("http://127.0.0.1:" + service + self.path).read(), 200
        except urllib.error.HTTPError as error:
            body, status = b"", error.code
        except OSError:
            body, status = b"", 503
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Proxy).serve_forever()
"#;

const SYSTEMCTL: &str = r#"#!/bin/sh
case "$1 $2" in
"restart shop@blue") root=DIR/shop-blue port=BLUE ;;
"restart shop@green") root=DIR/shop-green port=GREEN ;;
"reload nginx") readlink DIR/shop-live > DIR/proxied.new; exec mv DIR/proxied.new DIR/proxied ;;
*) exit 1 ;;
esac
if test -e $root/pid; then
    kill $(cat $root/pid)
    while kill -0 $(cat $root/pid) 2> /dev/null; do sleep 0.02; done
fi
python3 DIR/service.py $root $port > $root/service.log 2>&1 < /dev/null &
echo $! > $root/pid
"#;

/// One host with both installations.
struct Rig {
    operator: Operator,
    fleet: SshdFleet,
    dir: TempDir,
    /// Of the proxy, blue and green.
    ports: [u16; 3],
    proxy: Child,
}

impl Rig {
    fn start() -> Self {
        let dir = TempDir::with_prefix("fleetdrop-blue-green-").unwrap();
        let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        fs::write(dir.path().join("service.py"), SERVICE).unwrap();
        fs::write(dir.path().join("proxy.py"), PROXY).unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let place = dir.path().to_str().unwrap();
        let systemctl =
            SYSTEMCTL.replace("DIR", place).replace("BLUE", &ports[1].to_string()).replace("GREEN", &ports[2].to_string());
        fs::write(bin.join("systemctl"), systemctl).unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut fleet = SshdFleet::start(0);
        fleet.add_with_path(&format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
        let proxy = Command::new("python3")
            .arg(dir.path().join("proxy.py"))
            .arg(dir.path())
            .args(ports.map(|port| port.to_string()))
            .stdin(Stdio::null())
            .spawn()
            .expect("this test needs python3");
        let rig = Self { operator: Operator::new(), fleet, dir, ports, proxy };
        let until = Instant::now() + Duration::from_secs(30);
        while get(rig.ports[0]).is_none() {
            assert!(Instant::now() < until, "the proxy does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        rig
    }

    fn root(&self, colour: &str) -> PathBuf {
        self.dir.path().join(format!("shop-{colour}"))
    }

    /// Deploys with the playbook that is shipped.
    fn deploy(&self, artifact: &Path, colour: &str) -> Finished {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks/blue-green.yaml");
        let mut text = fs::read_to_string(shipped).unwrap();
        let place = self.dir.path().join("shop");
        for (shipped, here) in [
            ("/srv/shop", place.to_str().unwrap().to_owned()),
            ("8081", self.ports[1].to_string()),
            ("8082", self.ports[2].to_string()),
            ("127.0.0.1/healthz", format!("127.0.0.1:{}/healthz", self.ports[0])),
            ("healthy_for: 10s", "healthy_for: 1s".to_owned()),
        ] {
            assert!(text.contains(shipped), "the playbook has no {shipped} any more");
            text = text.replace(shipped, &here);
        }
        let playbook = self.operator.work().join("blue-green.yaml");
        fs::write(&playbook, text).unwrap();
        let root = self.root(colour);
        let with = ["--playbook", playbook.to_str().unwrap(), "--deploy-to", root.to_str().unwrap()];
        self.operator.deploy(&self.fleet.fleet(), artifact).with(with).run()
    }

    /// Checks what users get, and what blue and green would serve.
    #[track_caller]
    fn expect_served(&self, versions: [&str; 3]) {
        assert_eq!(self.ports.map(|port| get(port).unwrap_or_default()), versions);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

/// Returns what answers on the port, empty unless all is well with it.
fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let body = text.rsplit("\r\n").next()?;
    Some(if text.contains(" 200 ") { body.to_owned() } else { String::new() })
}

#[test]
fn the_switch_moves_to_the_idle_installation_and_back_and_never_to_a_sick_one() {
    let rig = Rig::start();
    let [one, two, three] = ["1", "2", "3"].map(|version| artifact::shop(&rig.operator.work(), version, 10_000));
    rig.deploy(&one, "blue").expect_code(0).expect_states(&[Active]);
    rig.expect_served(["1", "1", ""]);

    let live = rig.deploy(&two, "blue").expect_code(8).expect_states(&[Failed]);
    assert!(live.failure("host-01").log_tail[0].ends_with("/shop-blue is live: deploy to the other one"), "{live:?}");
    rig.expect_served(["1", "1", ""]);

    rig.deploy(&two, "green").expect_code(0).expect_states(&[Active]);
    rig.expect_served(["2", "1", "2"]);

    // Blue has version 1 already: it only has to be led to.
    let back = rig.deploy(&one, "blue").expect_code(0).expect_no_warning().expect_states(&[Active]);
    let bytes = back.summary().bytes;
    assert_eq!((bytes.from_peers + bytes.from_controller, back.summary().controller_sent), (0, 0), "{back:?}");
    rig.expect_served(["1", "1", "2"]);
    assert_eq!(fs::read_link(rig.dir.path().join("shop-live")).unwrap(), rig.root("blue"));

    let sick = rig.deploy(&three, "green").expect_code(2).expect_states(&[Reverted]);
    assert!(sick.failure("host-01").message.contains("after_activate hook"), "{sick:?}");
    rig.expect_served(["1", "1", ""]);
    assert_eq!(fs::read_link(rig.dir.path().join("shop-live")).unwrap(), rig.root("blue"));

    // Green has version 2 again, and only its service is started anew.
    rig.deploy(&two, "green").expect_code(0).expect_states(&[Active]);
    assert_eq!(get(rig.ports[0]).as_deref(), Some("2"));
}
