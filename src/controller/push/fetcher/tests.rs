use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Instant,
};

use super::*;
use crate::{
    controller::push::{AgentFinder, script, script::Facts},
    wire::PACKED_AGENT,
};

const PATH: &str = "/token/agent.gz";
/// Shows what the agent would start with.
const STARTER: &str = "echo \"starts: $(ulimit -f) $(umask) $http_proxy $FLEETDROP_RELAY$WGETRC\"";
/// What the script needs beside something to fetch with.
const PROGRAMS: [&str; 16] = [
    "sh",
    "cat",
    "chmod",
    "gzip",
    "sha256sum",
    "sleep",
    "mv",
    "rm",
    "rmdir",
    "ls",
    "grep",
    "tail",
    "wc",
    "uname",
    "id",
    "mkdir",
];

/// What a source does with a connection.
#[derive(Clone)]
enum Source {
    /// Answers with these bytes after the head, if the path is right.
    Serves(Arc<[u8]>),
    /// Says these, whatever it is asked, and closes.
    Says(&'static str),
    /// Takes the request and is silent.
    Silent,
    /// Sends a small part after the head, then nothing.
    Stops,
    /// Never ends.
    Endless,
}

impl Source {
    /// Listens until the test ends.
    fn start(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let source = self.clone();
                std::thread::spawn(move || source.answer(stream.unwrap()));
            }
        });
        address
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        let is_right = request.starts_with(format!("GET {PATH} HTTP/1.").as_bytes());
        // A fetcher that is ended in the middle closes the connection: then writing fails.
        let _ = match self {
            Self::Serves(body) if is_right => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").and_then(|()| stream.write_all(body))
            }
            Self::Serves(_) => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            Self::Says(text) => stream.write_all(text.as_bytes()),
            Self::Silent => stream.read(&mut [0]).map(drop),
            Self::Stops => stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                .and_then(|()| stream.write_all(&[7; 16 << 10]))
                .and_then(|()| stream.read(&mut [0]).map(drop)),
            Self::Endless => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").and_then(|()| {
                loop {
                    stream.write_all(&[7; 65536])?;
                }
            }),
        };
    }
}

/// A host with those programs only.
struct Host {
    dir: tempfile::TempDir,
    agent: Arc<AgentBinary>,
}

impl Host {
    async fn new(programs: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for below in ["bin", "host", "cache"] {
            fs::create_dir(dir.path().join(below)).unwrap();
        }
        for (name, target) in
            PROGRAMS.iter().map(|name| (name, name)).chain(programs.iter().map(|(name, target)| (name, target)))
        {
            std::os::unix::fs::symlink(which(target), dir.path().join("bin").join(name)).unwrap();
        }
        fs::write(dir.path().join("host/fleetdrop-agent"), format!("#!/bin/sh\n# {}\nexit 0\n", "x".repeat(20_000))).unwrap();
        let finder = AgentFinder::new(None, dir.path().join("host/fleetdrop"));
        let agent = finder.available().await.unwrap()[0].clone();
        Self { dir, agent }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache").join(self.agent.digest.to_string())
    }

    /// Runs a script for `sh -s`; the user's configuration is a trap.
    fn sh(&self, script: &str) -> Output {
        let home = self.dir.path();
        fs::write(home.join(".curlrc"), "proxy = http://127.0.0.1:1\n").unwrap();
        fs::write(home.join(".wgetrc"), "use_proxy = on\nhttp_proxy = http://127.0.0.1:1\n").unwrap();
        let mut child = Command::new(which("sh"))
            .arg("-s")
            .env_clear()
            .env("PATH", self.dir.path().join("bin"))
            .env("HOME", home)
            .env("http_proxy", "http://127.0.0.1:1")
            .env("ALL_PROXY", "http://127.0.0.1:1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn fetch(&self, fetcher: Fetcher, source: SocketAddr, path: &str, limit: u64) -> Output {
        fs::create_dir_all(self.cache()).unwrap();
        let limit = Duration::from_secs(limit);
        self.sh(&script(&self.agent, self.cache().to_str().unwrap(), fetcher, source, path, limit, STARTER))
    }

    #[track_caller]
    fn expect_nothing(&self) {
        assert_eq!(fs::read_dir(self.cache()).unwrap().count(), 0, "something stays");
    }
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|directory| directory.join(program));
    // A version manager's shim is a script that needs more than is on this host.
    let found = places.find(|place| place.is_file() && !place.components().any(|part| part.as_os_str() == "shims"));
    found.unwrap_or_else(|| panic!("this test needs {program}"))
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Each fetcher with a program that it is, where there are several kinds.
fn all() -> Vec<(Fetcher, (&'static str, &'static str))> {
    let mut all: Vec<_> = Fetcher::ALL.iter().map(|fetcher| (*fetcher, (fetcher.program(), fetcher.program()))).collect();
    all.push((Fetcher::Wget, ("wget", "busybox")));
    all
}

#[tokio::test]
async fn every_program_fetches_the_agent_and_nothing_else() {
    for (fetcher, program) in all() {
        let host = Host::new(&[program]).await;
        let probe = script::probe(std::slice::from_ref(&host.agent), host.dir.path().join("other").to_str());
        let told = host.sh(&probe);
        let facts = Facts::parse(&String::from_utf8_lossy(&told.stdout)).unwrap();
        assert_eq!(facts.fetcher, Some(fetcher), "{told:?}");
        let source = Source::Serves(host.agent.gzipped().await.unwrap()).start();

        let refused = host.fetch(fetcher, source, "/wrong/agent.gz", 20);
        assert_eq!(refused.status.code(), Some(NOT_FETCHED as i32), "{program:?}: {refused:?}");
        host.expect_nothing();

        let fetched = host.fetch(fetcher, source, PATH, 20);
        assert!(fetched.status.success(), "{program:?}: {fetched:?}");
        let starts = String::from_utf8_lossy(&host.sh(STARTER).stdout).into_owned();
        let told = format!("{ARRIVED}\n{FETCHED}\n{starts}");
        assert_eq!(String::from_utf8_lossy(&fetched.stdout), told, "the agent has nothing of the fetch's limits");
        let packed = fs::read(host.cache().join(PACKED_AGENT)).unwrap();
        assert!(packed == *host.agent.gzipped().await.unwrap(), "others get it as it came");
        assert_eq!(fs::read_dir(host.cache()).unwrap().count(), 2);
        assert_eq!(fs::read(host.cache().join("fleetdrop-agent")).unwrap(), &*host.agent.plain().await.unwrap());
    }
}

#[tokio::test]
async fn what_is_not_the_agent_is_neither_run_nor_kept() {
    let host = Host::new(&[("curl", "curl")]).await;
    let other = Host::new(&[]).await;
    fs::write(other.dir.path().join("host/fleetdrop-agent"), "#!/bin/sh\ntouch /it/ran\n").unwrap();
    let impostor = AgentFinder::new(None, other.dir.path().join("host/fleetdrop")).available().await.unwrap()[0].clone();
    for body in [impostor.gzipped().await.unwrap(), b"not gzip".as_slice().into(), impostor.plain().await.unwrap()] {
        let output = host.fetch(Fetcher::Curl, Source::Serves(body).start(), PATH, 20);
        assert_eq!(output.status.code(), Some(WRONG_DIGEST as i32), "{output:?}");
        host.expect_nothing();
    }
}

#[tokio::test]
async fn a_slow_source_is_not_taken_for_a_silent_one() {
    for (fetcher, program) in all() {
        let host = Host::new(&[program]).await;
        let output = host.fetch(fetcher, Source::Stops.start(), PATH, 4);
        assert!(words(&output).contains("not complete after 4 s"), "{program:?}: {output:?}");
    }
}

#[tokio::test]
async fn a_full_disk_is_not_taken_for_a_wrong_agent() {
    let host = Host::new(&[("curl", "curl")]).await;
    let gzip = host.dir.path().join("bin/gzip");
    fs::remove_file(&gzip).unwrap();
    let full = "#!/bin/sh\n[ \"$1\" = -t ] && exit 0\necho 'gzip: No space left on device' >&2\nexit 1\n";
    fs::write(&gzip, full).unwrap();
    fs::set_permissions(&gzip, fs::Permissions::from_mode(0o755)).unwrap();
    let source = Source::Serves(host.agent.gzipped().await.unwrap()).start();
    let output = host.fetch(Fetcher::Curl, source, PATH, 20);
    assert_eq!(output.status.code(), Some(script::WRITE_FAILED as i32), "{output:?}");
    assert!(words(&output).contains("No space left"), "{output:?}");
    host.expect_nothing();
}

#[tokio::test]
async fn a_source_that_is_no_good_costs_seconds_and_leaves_nothing() {
    for (fetcher, program) in all() {
        let host = Host::new(&[program]).await;
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (source, limit, most) in [
            (gone, 20, 2),
            (Source::Says("").start(), 20, 2),
            (Source::Says("HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n").start(), 20, 2),
            (Source::Silent.start(), 20, 5),
            (Source::Stops.start(), 4, 6),
            (Source::Endless.start(), 20, 4),
        ] {
            let began = Instant::now();
            let output = host.fetch(fetcher, source, PATH, limit);
            assert_eq!(output.status.code(), Some(NOT_FETCHED as i32), "{program:?}: {output:?}");
            assert!(began.elapsed() < Duration::from_secs(most * 3), "{program:?}: {:?} {output:?}", began.elapsed());
            assert!(!words(&output).trim().is_empty(), "{program:?}: {output:?}");
            host.expect_nothing();
        }
    }
}

#[test]
fn small_programs_have_no_quotes_that_end_them() {
    assert!([PERL, PYTHON, BASH].iter().all(|program| !program.contains('\'')));
}
