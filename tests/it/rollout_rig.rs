//! A run with waves, hooks and health checks over real sshd hosts, and the service that its hooks manage.
//!
//! The service is a small HTTP server. It says the version of the release it was started from, with status 500 if that release is
//! one that does not work on its host. Hosts share one network, so each has a port of its own.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleetdrop::{
    cli::exit,
    controller::{self, AgentFinder, Approval, Artifact, DeployRequest, EventSink, FleetSettings, OriginRequest},
    inventory::Inventory,
    model::{
        Envelope, HostState, RunEvent, RunId, RunSummary,
        plan::{Command, Health, Hook, Hooks, HttpCheck, Linked, OnFailure, Rhythm, RolloutPlan, Unchanged, WaveSize, Waves},
    },
    ssh::{Connector, SshSettings},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;

use crate::{artifact, hosts::AGENT, operator::CACHE, ports::free_port, sshd::SshdFleet};

const SERVICE: &str = r#"
import http.server, os, sys, time
version = open(os.environ["FLEETDROP_DEPLOY_TO"] + "/current/VERSION").read()
bad = os.path.exists(os.environ["FLEETDROP_DEPLOY_TO"] + "/bad-" + version)
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500 if bad else 200)
        self.send_header("Content-Length", str(len(version)))
        self.end_headers()
        self.wfile.write(version.encode())
    def log_message(self, *words):
        pass
while True:
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service)
        break
    except OSError:
        # The service before this one is just being killed.
        time.sleep(0.02)
print("serving", version, flush=True)
server.serve_forever()
"#;

/// How long a hook may take: more than it does on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ends the host's service, if it runs.
const STOP: &str = "cd $FLEETDROP_DEPLOY_TO; test ! -e pid || { kill -9 $(cat pid); rm pid; }";

/// A fleet of sshd hosts with a controller inside this process.
pub(crate) struct Rig {
    pub(crate) fleet: SshdFleet,
    dir: TempDir,
    runtime: Runtime,
    ports: Vec<u16>,
}

/// How a run ended, with all its events.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) summary: RunSummary,
    pub(crate) events: Vec<RunEvent>,
}

/// What is to be done.
pub(crate) struct Orders {
    pub(crate) rollout: RolloutPlan,
    pub(crate) hooks: Hooks,
    pub(crate) health: Health,
    pub(crate) confirm: Duration,
    pub(crate) approval: Approval,
}

impl Orders {
    /// Waves of these sizes, without hooks and checks.
    pub(crate) fn waves(sizes: &[&str], on_failure: OnFailure) -> Self {
        let sizes = sizes.iter().map(|size| size.parse::<WaveSize>().unwrap()).collect();
        let rollout = RolloutPlan { waves: Waves::new(sizes).unwrap(), on_failure, ..RolloutPlan::default() };
        let (hooks, health) = (Hooks::default(), Health::default());
        Self { rollout, hooks, health, confirm: Duration::from_secs(20), approval: Approval::Given }
    }
}

pub(crate) fn shell(text: &str) -> Hook {
    Hook { command: Command::Shell(text.into()), timeout: PATIENCE }
}

fn rhythm(deadline: u64) -> Rhythm {
    Rhythm {
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(10),
        healthy_for: Duration::from_millis(300),
        deadline: Duration::from_secs(deadline),
    }
}

impl Rig {
    pub(crate) fn start(hosts: usize) -> Self {
        let fleet = SshdFleet::start(hosts);
        let dir = TempDir::with_prefix("fleetdrop-rollout-").unwrap();
        fs::create_dir(dir.path().join("agents")).unwrap();
        let agent = dir.path().join("agents").join(format!("fleetdrop-agent-{}", std::env::consts::ARCH));
        std::os::unix::fs::symlink(AGENT, agent).unwrap();
        fs::write(dir.path().join("service.py"), SERVICE).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ports: Vec<u16> = (0..hosts).map(|_| free_port()).collect();
        for (host, port) in fleet.hosts().iter().zip(&ports) {
            fs::create_dir_all(host.deploy_to()).unwrap();
            fs::write(host.deploy_to().join("port"), port.to_string()).unwrap();
        }
        Self { fleet, dir, runtime, ports }
    }

    /// Writes an artifact of that version.
    pub(crate) fn artifact(&self, version: &str) -> PathBuf {
        artifact::shop(self.dir.path(), version, 50_000)
    }

    /// Makes a version one that does not work on a host.
    pub(crate) fn break_on(&self, host: usize, version: &str) {
        fs::write(self.fleet.hosts()[host].deploy_to().join(format!("bad-{version}")), "").unwrap();
    }

    /// Starts the service anew, from what is live.
    fn restart(&self) -> String {
        let service = self.dir.path().join("service.py");
        format!(
            "{STOP}; test -e $FLEETDROP_DEPLOY_TO/current || exit 0; cd $FLEETDROP_DEPLOY_TO; \
             rm -f service.log; python3 {} $(cat port) > service.log 2>&1 < /dev/null & \
             echo $! > $FLEETDROP_DEPLOY_TO/pid; cd $FLEETDROP_DEPLOY_TO; until grep -q serving service.log; do sleep 0.02; done",
            service.display()
        )
    }

    /// Hooks that restart the service after a switch and after the way back.
    pub(crate) fn service(&self) -> Hooks {
        let restart = vec![shell(&self.restart())];
        Hooks { after_activate: restart.clone(), on_revert: restart, ..Hooks::default() }
    }

    /// As [`Rig::service`], and a hook that asks the host's own service whether it works. It fails at once where that does not, and
    /// does not depend on how long a busy machine takes.
    pub(crate) fn probed_service(&self) -> Hooks {
        let ask = "exec 3<> /dev/tcp/127.0.0.1/$(cat $FLEETDROP_DEPLOY_TO/port); printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; \
                   read -r line <&3; echo \"$line\"; [[ $line = *' 200 '* ]]";
        let probe = Hook { command: Command::Argv(vec!["bash".into(), "-c".into(), ask.into()]), timeout: PATIENCE };
        let mut hooks = self.service();
        hooks.after_activate.push(probe);
        hooks
    }

    /// A check of one host's service by its URL.
    pub(crate) fn url_answers(&self, host: usize, deadline: u64) -> Health {
        let url = format!("http://127.0.0.1:{}/healthz", self.ports[host]);
        Health { http: Some(HttpCheck { url, status: 200, rhythm: rhythm(deadline) }), command: None }
    }

    /// Returns the version that each host's service says; none where none answers.
    pub(crate) fn served(&self) -> Vec<Option<String>> {
        let served = |port: &u16| {
            let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text.rsplit("\r\n").next()?.to_owned())
        };
        self.ports.iter().map(served).collect()
    }

    /// Deploys to the whole fleet. `watch` sees every event as it comes.
    pub(crate) fn deploy(&self, artifact: &Path, orders: Orders, watch: impl FnMut(&RunEvent)) -> Ended {
        self.deploy_until(CancellationToken::new(), artifact, orders, watch)
    }

    /// As [`Rig::deploy`]; cancelling the token is Ctrl-C.
    pub(crate) fn deploy_until(
        &self,
        interrupt: CancellationToken,
        artifact: &Path,
        orders: Orders,
        mut watch: impl FnMut(&RunEvent),
    ) -> Ended {
        let request = self.request(orders);
        let artifact = artifact.to_owned();
        self.runtime.block_on(async {
            let app = "shop".parse().unwrap();
            let artifact = Artifact::open(&artifact, app, request.hosts.len(), None).await.unwrap();
            let release = artifact.release().unwrap();
            let request = DeployRequest {
                origins: OriginRequest::default(),
                endorsement: None,
                fleet: request,
                artifact,
                advertise: None,
                zone: None,
                encrypted: true,
                torrent_out: None,
                cache_limit: 1 << 30,
                keep_releases: 5,
                linked: Linked::default(),
                release,
                order_seed: 0,
                goes_on: false,
                unchanged: Unchanged::default(),
                transfer: Default::default(),
                no_swarm: Default::default(),
            };
            let (sink, mut received): (_, mpsc::Receiver<Envelope>) =
                EventSink::new(RunId::from_random(fastrand::u64(..).to_be_bytes()));
            let run = controller::deploy(request, sink, interrupt);
            let collect = async {
                let mut events = Vec::new();
                while let Some(envelope) = received.recv().await {
                    watch(&envelope.event);
                    events.push(envelope.event);
                }
                events
            };
            let (summary, events) = tokio::join!(run, collect);
            Ended { summary: summary.unwrap(), events }
        })
    }

    fn request(&self, orders: Orders) -> FleetSettings {
        let inventory = Inventory::load(&self.fleet.inventory()).unwrap().inventory;
        let mut ssh = SshSettings::new(self.dir.path(), "nobody");
        ssh.known_hosts = Some(self.fleet.known_hosts());
        ssh.config_file = Some("none".into());
        FleetSettings {
            operator: Some("anna@laptop".parse().unwrap()),
            hosts: inventory.select(None).unwrap(),
            connector: Connector::new(ssh).unwrap(),
            finder: Arc::new(AgentFinder::new(Some(self.dir.path().join("agents")), AGENT.into())),
            cache: Some(CACHE.into()),
            deploy_to: None,
            lease: Duration::from_secs(30),
            confirm: orders.confirm,
            rollout: orders.rollout,
            hooks: orders.hooks,
            health: orders.health,
            approval: orders.approval,
            exit_code: exit::of_run,
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for host in self.fleet.hosts() {
            let status =
                std::process::Command::new("sh").args(["-c", STOP]).env("FLEETDROP_DEPLOY_TO", host.deploy_to()).status();
            if !std::thread::panicking() {
                assert!(status.is_ok_and(|status| status.success()), "the service of {} cannot be ended", host.name());
            }
        }
    }
}

impl Ended {
    /// Checks exit code and how every host ended, in inventory order.
    #[track_caller]
    pub(crate) fn expect(&self, code: u8, states: &[HostState]) -> &Self {
        let ended: Vec<HostState> = self.summary.hosts.iter().map(|result| result.state).collect();
        assert_eq!((self.summary.exit_code, ended.as_slice()), (code, states), "{:#?}", self.summary);
        self
    }

    /// Returns why a host dropped out.
    #[track_caller]
    pub(crate) fn why(&self, host: usize) -> &str {
        &self.summary.hosts[host].failure.as_ref().expect("it dropped out").message
    }

    /// Returns the hosts' names in the order in which they entered that state.
    pub(crate) fn entered(&self, state: HostState) -> Vec<&str> {
        let hosts = self.events.iter().filter_map(|event| match event {
            RunEvent::HostState { host, state: entered, .. } if *entered == state => Some(host.as_str()),
            _ => None,
        });
        hosts.collect()
    }
}
