//! Origins for tests: a real nginx, Python's server, and one that answers as a test wants it to.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fleetdrop::model::origin::{Origin, OriginPart, OriginSettings, OriginStyle, Origins, Secret, WebSeed};

use crate::swarm::free_address;

/// How long a server may take to come up.
const START: Duration = Duration::from_secs(20);

/// Returns the origins of one host of a fleet of one.
pub(crate) fn origins<'a>(urls: impl IntoIterator<Item = &'a str>) -> Origins {
    Origins {
        sources: urls.into_iter().map(|url| origin(url, &[])).collect(),
        settings: OriginSettings::default(),
        certificates: None,
        part: OriginPart { rank: 0, of: 1 },
        max_pieces: None,
        max_rate: None,
    }
}

/// Returns an origin that wants these headers.
pub(crate) fn origin(url: &str, headers: &[(&str, &str)]) -> Origin {
    Origin {
        seed: WebSeed::new(url).unwrap(),
        style: OriginStyle::File,
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned()))).collect(),
        addresses: Vec::new(),
        ranges: true,
    }
}

/// nginx with one directory behind several addresses: `/plain/`, `/slow/` (1 MB/s), `/whole/` (no ranges), `/slow-whole/` (both), `/auth/` (bob, s3cret), `/moved/`
/// (leads to `/plain/`), `/loop/` (leads to itself). Over TLS the same.
pub(crate) struct Nginx {
    child: Child,
    directory: tempfile::TempDir,
    http: SocketAddr,
    https: SocketAddr,
}

impl Nginx {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (http, https) = (free_address(), free_address());
        let place = directory.path();
        fs::create_dir(place.join("files")).unwrap();
        // The password in `openssl passwd -apr1`.
        let password = run("openssl", &["passwd", "-apr1", "s3cret"], place);
        fs::write(place.join("users"), format!("bob:{password}")).unwrap();
        certificates(place);
        let conf = configuration(place, http, https);
        fs::write(place.join("nginx.conf"), conf).unwrap();
        let mut nginx = Command::new(program("nginx"));
        nginx.args(["-p", place.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"]).stdin(Stdio::null());
        let child = nginx.spawn().expect("nginx is needed: tests/run installs it");
        let nginx = Self { child, directory, http, https };
        wait_for(http, || fs::read_to_string(nginx.directory.path().join("error.log")).unwrap_or_default());
        nginx
    }

    /// Returns where its files are.
    pub(crate) fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    /// Returns the address of a file in one of its directories.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.http)
    }

    /// Returns the same over TLS, by the name that is in the certificate.
    pub(crate) fn secure_url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.https.port())
    }

    /// Returns the authority that its certificate is from, in PEM.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Waits until it has logged so many bytes under addresses that begin so, which it does when a request has ended, and returns how many it
    /// has by then.
    pub(crate) fn sent_in_all(&self, prefix: &str, expected: u64) -> u64 {
        let until = Instant::now() + START;
        while self.sent(prefix) < expected && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.sent(prefix)
    }

    /// Returns how many bytes of bodies it has sent under addresses that begin so, as far as it has logged them.
    pub(crate) fn sent(&self, prefix: &str) -> u64 {
        let log = fs::read_to_string(self.directory.path().join("access.log")).unwrap();
        let lines = log.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(_, uri)| uri.starts_with(prefix)).map(|(bytes, _)| bytes.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(place: &Path, http: SocketAddr, https: SocketAddr) -> String {
    let files = place.join("files");
    let files = files.display();
    let locations = format!(
        "location /plain/ {{ alias {files}/; }}
         location /slow/ {{ alias {files}/; limit_rate 1m; }}
         location /whole/ {{ alias {files}/; max_ranges 0; }}
         location /slow-whole/ {{ alias {files}/; max_ranges 0; limit_rate 1m; }}
         location /auth/ {{ alias {files}/; auth_basic x; auth_basic_user_file users; }}
         location /moved/ {{ rewrite ^/moved/(.*)$ /plain/$1 redirect; }}
         location /loop/ {{ return 302 $uri; }}"
    );
    format!(
        "daemon off; master_process off; pid nginx.pid; worker_rlimit_nofile 1024;
         events {{ worker_connections 512; }}
         http {{
             log_format sent '$body_bytes_sent $uri'; access_log access.log sent;
             client_body_temp_path tmp1; proxy_temp_path tmp2; fastcgi_temp_path tmp3; uwsgi_temp_path tmp4; scgi_temp_path tmp5;
             server {{ listen {http}; {locations} }}
             server {{ listen {https} ssl; ssl_certificate server.pem; ssl_certificate_key server.key; {locations} }}
         }}"
    )
}

/// Makes an authority and a certificate of it for `localhost`.
fn certificates(place: &Path) {
    let key = |name: &str| run("openssl", &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", name], place);
    key("ca.key");
    key("server.key");
    run(
        "openssl",
        &["req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=test authority", "-days", "2", "-out", "ca.pem"],
        place,
    );
    run("openssl", &["req", "-new", "-key", "server.key", "-subj", "/CN=localhost", "-out", "server.csr"], place);
    fs::write(place.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem";
    run("openssl", &sign.split(' ').collect::<Vec<_>>(), place);
}

fn run(program: &str, arguments: &[&str], place: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(place).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed, tests/run installs it: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns where a program is that may be in a directory for the system alone.
fn program(name: &str) -> PathBuf {
    let system = Path::new("/usr/sbin").join(name);
    if system.exists() { system } else { name.into() }
}

/// Waits until something listens. There is no event for it.
fn wait_for(addr: SocketAddr, log: impl Fn() -> String) {
    let until = Instant::now() + START;
    while TcpStream::connect(addr).is_err() {
        assert!(Instant::now() < until, "nothing listens on {addr}: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `python3 -m http.server`, which serves no ranges.
pub(crate) struct PythonServer {
    child: Child,
    addr: SocketAddr,
}

impl PythonServer {
    pub(crate) fn start(directory: &Path) -> Self {
        let addr = free_address();
        let mut python = Command::new("python3");
        python.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(directory).arg(addr.port().to_string());
        let child = python.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, addr };
        wait_for(addr, String::new);
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr)
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is asked of a [`Canned`] server.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Path and query.
    pub(crate) target: String,
    pub(crate) range: Option<Range<usize>>,
    /// All headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

/// What it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// After so many bytes of the body the connection is closed.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Answers with the part of the content that is asked for.
    pub(crate) fn part(content: &[u8], asked: &Asked) -> Self {
        let Some(range) = asked.range.clone() else {
            return Self { status: 200, body: content.to_vec(), ..Self::default() };
        };
        let range = range.start..range.end.min(content.len());
        let told = format!("bytes {}-{}/{}", range.start, range.end - 1, content.len());
        Self { status: 206, headers: vec![("Content-Range", told)], body: content[range].to_vec(), cut: None }
    }
}

/// A server that answers as it is told to. It ends with the process.
pub(crate) struct Canned {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Canned {
    /// Starts one; `answer` is given what is asked and how many requests came before.
    pub(crate) fn start(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (answer, log) = (Arc::new(answer), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (answer.clone(), log.clone());
                // The client's end of a connection ends its thread.
                std::thread::spawn(move || drop(serve(&stream, &*answer, &log)));
            }
        });
        Self { addr, asked }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, answer: &dyn Fn(&Asked, usize) -> Reply, log: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(first) = lines.next() else { return Ok(()) };
        let target = first?.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        for line in lines.by_ref() {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let range = headers.iter().find(|(name, _)| name == "range").map(|(_, value)| {
            let (first, last) = value.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
        });
        let asked = Asked { target, range, headers };
        let before = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len() - 1
        };
        let Reply { status, headers, body, cut } = answer(&asked, before);
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{more}\r\n", body.len());
        let mut stream = stream;
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body[..cut.unwrap_or(body.len())])?;
        if cut.is_some() {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
