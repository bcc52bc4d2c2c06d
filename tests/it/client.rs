//! Other people's BitTorrent clients: how each is started on a torrent and a directory.
//!
//! They tell nobody but the torrent's tracker of themselves, serve what they have until they are dropped, and write what they say to a log
//! that a failed test shows.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    swarm::{PATIENCE, free_address},
    venv,
};

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// From the Python package index.
    Libtorrent,
    /// aria2.
    Aria2,
    /// transmission-cli. It never dials addresses in 127.0.0.0/8, so that here others have to dial it.
    Transmission,
}

/// A running program. Dropping it ends it.
pub(crate) struct Client {
    child: Child,
    log: PathBuf,
    /// Where its file is.
    pub(crate) file: PathBuf,
}

impl Program {
    /// Starts the program on a torrent; what is in `place` already is checked and served.
    pub(crate) fn start(self, torrent: &Path, place: &Path, seeds: bool) -> Client {
        let log = place.with_extension("log");
        let mut command = match self {
            Self::Libtorrent => libtorrent(torrent, place, seeds),
            Self::Aria2 => aria2(torrent, place, seeds),
            Self::Transmission => transmission(torrent, place),
        };
        let out = File::create(&log).unwrap();
        command.stdin(Stdio::piped()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("this test needs {self:?}: see tests/run ({error})"));
        if self == Self::Libtorrent {
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        }
        Client { child, log, file: place.join("artifact.bin") }
    }
}

/// It seeds and downloads until its standard input is closed.
fn libtorrent(torrent: &Path, place: &Path, seeds: bool) -> Command {
    let mut command = Command::new(venv::python_with_libtorrent().unwrap());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/libtorrent_node.py"));
    command.arg(if seeds { "seed" } else { "host" }).arg(torrent).arg(place).arg("127.0.0.1:0");
    command
}

fn aria2(torrent: &Path, place: &Path, seeds: bool) -> Command {
    let mut command = Command::new("aria2c");
    command.args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--disable-ipv6=true"]);
    command.args(["--enable-peer-exchange=false", "--seed-ratio=0.0", "--file-allocation=none", "--disk-cache=0"]);
    command.args(["--summary-interval=0", "--show-console-readout=false"]);
    command.arg(format!("--listen-port={}", free_address().port())).arg(format!("--check-integrity={seeds}"));
    command.arg("--dir").arg(place).arg(torrent);
    command
}

fn transmission(torrent: &Path, place: &Path) -> Command {
    let settings = place.with_extension("settings");
    fs::create_dir_all(&settings).unwrap();
    // One upload at a time: whoever downloads from it is choked most of the time.
    let text = r#"{ "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
        "port-forwarding-enabled": false, "rpc-enabled": false, "bind-address-ipv4": "127.0.0.1", "bind-address-ipv6": "::1",
        "upload-slots-per-torrent": 1 }"#;
    fs::write(settings.join("settings.json"), text).unwrap();
    let mut command = Command::new("transmission-cli");
    command.arg("--no-portmap").arg("--port").arg(free_address().port().to_string());
    command.arg("--config-dir").arg(&settings).arg("--download-dir").arg(place).arg(torrent);
    // Its download directory may be another's home otherwise.
    command.env("HOME", &settings);
    command
}

impl Client {
    /// Waits until the client's file has these bytes. No client tells others of it in the same way, and none has to be trusted.
    pub(crate) async fn arrived(&mut self, content: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while fs::read(&self.file).unwrap_or_default() != content {
            assert!(Instant::now() < deadline, "{} is not what was sent", self.file.display());
            assert_eq!(self.child.try_wait().unwrap(), None, "the client ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let tail = log.char_indices().rev().nth(3000).map_or(0, |(at, _)| at);
            eprintln!("--- {}:\n{}", self.log.display(), &log[tail..]);
        }
    }
}
