//! The engine's interface: what a caller configures, what it can ask, what it learns.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{Metainfo, Throttle, Tls, policy::Direct};
use crate::model::{
    ByteCounts, Place, PortRange,
    origin::{Origin, Origins},
};

/// What this side of the swarm is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The controller's seed: has the whole file from the start, pushes each piece once before it repeats one. Checks each piece
    /// against its hash when it reads it and fails with [`EngineError::SourceChanged`] if it differs.
    Seed {
        /// The artifact: the torrent's file, or the directory with its files. Opened read-only.
        file: PathBuf,
    },
    /// A host: downloads into `file`, uploads what it has. Resumes from what is in `file` if that is there (each piece is
    /// hash-checked first). A complete file makes it a further seed.
    Host {
        /// The partial download, all of the torrent's bytes in one file. Created and preallocated if missing.
        file: PathBuf,
    },
}

/// How an engine is started.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The torrent.
    pub metainfo: Arc<Metainfo>,
    /// Seed or host.
    pub role: Role,
    /// Where to listen; port 0 for any, or for any of `ports`.
    pub listen: SocketAddr,
    /// The ports to choose from.
    pub ports: Option<PortRange>,
    /// The address other peers reach this one at, announced to the tracker; without it a specified `listen` address is.
    pub advertise: Option<IpAddr>,
    /// First peers to connect to.
    pub peers: Vec<SocketAddr>,
    /// Where this side is, in a fleet with zones.
    pub place: Option<Place>,
    /// Where the controller's seed listens. Who is dialled there, and nobody else, may push pieces; its bytes count as `from_controller`.
    pub controller_peers: Vec<SocketAddr>,
    /// The tracker's announce URL; none means no announces.
    pub tracker: Option<String>,
    /// What this side shows to peers and tracker, and whom it believes. None: everything is plain BitTorrent.
    pub tls: Option<Tls>,
    /// Web servers that have the artifact, to be used from the start. Of no use to a seed.
    pub origins: Option<Box<Origins>>,
    /// What the exchange keeps to.
    pub bounds: Bounds,
}

/// What an exchange keeps to. The default is no bound at all.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Nothing is exchanged with anybody but the controller, and nobody may connect to this side.
    pub alone: bool,
    /// What all that is sent keeps to.
    pub upload: Throttle,
    /// What all that is received keeps to.
    pub download: Throttle,
}

/// The most notices of one engine.
pub const MAX_NOTICES: usize = 32;

/// Something an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What.
    pub message: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

/// What an engine tells while it runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TransferStats {
    /// Verified bytes by source, and bytes sent.
    pub bytes: ByteCounts,
    /// Payload bytes that came so far, verified or not, repeats included: grows even while the first long piece crawls in.
    pub payload: u64,
    /// Verified pieces.
    pub pieces_done: u32,
    /// Bytes from the file's beginning up to the first piece that is not verified.
    pub in_order: u64,
    /// Received bytes a second over the last seconds.
    pub rate: u64,
    /// Connected peers.
    pub peers: u32,
    /// Whether the controller's seed can be reached.
    pub controller: Reach,
    /// Whether the tracker can be reached.
    pub tracker: Reach,
    /// Why nobody can connect to this side, if it was to listen and can't.
    pub deaf: Option<String>,
    /// Whether an origin, the controller's web server aside, can be hoped for.
    pub origins: bool,
    /// Whether the controller's web server can be reached; untried until [`EngineHandle::go_direct`] names it.
    pub web: Reach,
    /// How many bytes a second a download from an origin alone would bring at least, if that is known.
    pub direct_rate: Option<u64>,
    /// What an operator should know and what stops nothing, in the order in which it happened; at most [`MAX_NOTICES`].
    pub notices: Arc<[Notice]>,
    /// True once every piece is verified and in the file.
    pub complete: bool,
}

/// Whether the controller's seed can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reach {
    /// Nobody tried, or the first attempt goes on.
    #[default]
    Untried,
    /// A connection stands.
    Stands,
    /// No connection stands; why the last attempt failed or the last connection ended.
    Failed(String),
}

/// Says why an engine could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file or socket failed.
    #[error("{what}")]
    Io {
        /// What was tried, with path or address.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The artifact on the controller is no longer what was hashed.
    #[error("{path} changed while it was being sent (piece {piece})")]
    SourceChanged {
        /// The artifact, or the file of it that changed.
        path: PathBuf,
        /// The first piece that differs.
        piece: u32,
    },
    /// The engine itself failed.
    #[error("the swarm engine failed: {0}")]
    Engine(String),
}

/// Something that can run a torrent: `fleet` (ours) or `librqbit` (cargo feature `engine-librqbit`).
pub trait Engine {
    /// Opens storage and sockets and starts moving pieces. Returns once it listens.
    fn start(&self, config: EngineConfig) -> impl Future<Output = Result<EngineHandle, EngineError>> + Send;
}

/// A running engine. Dropping it stops the engine; [`EngineHandle::stop`] also waits until it has stopped.
#[derive(Debug)]
pub struct EngineHandle {
    /// Where it listens.
    pub local_addr: SocketAddr,
    stats: watch::Receiver<TransferStats>,
    control: mpsc::Sender<Control>,
    end: End,
}

/// How an engine's task ended; a finished task can't be asked twice.
#[derive(Debug)]
enum End {
    Running(JoinHandle<Result<(), EngineError>>),
    /// The error as it was told the first time.
    Ended(String),
}

/// What a handle asks of its engine's task. The end of the channel means stop.
#[derive(Debug)]
pub(crate) enum Control {
    AddPeers(Vec<SocketAddr>),
    UseOrigins(Box<Origins>),
    /// Download directly as well.
    Direct(Direct, Option<Box<Origin>>),
    /// The controller can be reached another way.
    Way {
        seed: SocketAddr,
        tracker: Option<String>,
    },
    /// Exchange nothing with anybody but the controller from now on.
    Isolate,
    Stop,
}

impl EngineHandle {
    /// Wraps an engine's task, which must end on [`Control::Stop`] and when `control` closes.
    pub(crate) fn new(
        local_addr: SocketAddr,
        stats: watch::Receiver<TransferStats>,
        control: mpsc::Sender<Control>,
        task: JoinHandle<Result<(), EngineError>>,
    ) -> Self {
        Self { local_addr, stats, control, end: End::Running(task) }
    }

    /// Adds peers to connect to. Ignored by an engine that has ended.
    pub async fn add_peers(&self, peers: Vec<SocketAddr>) {
        // A closed channel means the engine has ended: `wait_complete` and `stop` tell why.
        let _ = self.control.send(Control::AddPeers(peers)).await;
    }

    /// Tells a way to the controller that leads through SSH: its seed's address, which is connected to at once and whose bytes count as
    /// `from_ssh`, and the announce URL, which replaces the one before. Ignored by an engine that has ended.
    pub async fn add_way(&self, seed: SocketAddr, tracker: Option<String>) {
        let _ = self.control.send(Control::Way { seed, tracker }).await;
    }

    /// Ends every exchange with anybody but the controller, for good; the controller's seed serves everybody at once from then on. Ignored by an
    /// engine that has ended.
    pub async fn isolate(&self) {
        let _ = self.control.send(Control::Isolate).await;
    }

    /// Lets it use origins from now on. Called once; without effect where nothing is missing.
    pub async fn use_origins(&self, origins: Box<Origins>) {
        // As above.
        let _ = self.control.send(Control::UseOrigins(origins)).await;
    }

    /// Downloads directly from now on, beside the peers: each piece counts when it comes first. `web` is the controller's own web server,
    /// whose bytes count as `from_controller`. Never goes less far than before; without effect where nothing is missing.
    pub async fn go_direct(&self, direct: Direct, web: Option<Box<Origin>>) {
        // As above.
        let _ = self.control.send(Control::Direct(direct, web)).await;
    }

    /// Returns the latest statistics; the receiver can be watched for changes (at most about ten a second).
    pub fn stats(&self) -> watch::Receiver<TransferStats> {
        self.stats.clone()
    }

    /// Waits until every piece is verified and written. What the kernel has not put on the disk yet is checked again by whoever
    /// finds the file after a crash: nobody waits for a flush. The engine goes on uploading. Cancel safe.
    ///
    /// # Errors
    /// What ended the engine before that.
    pub async fn wait_complete(&mut self) -> Result<(), EngineError> {
        if self.stats.wait_for(|stats| stats.complete).await.is_ok() {
            return Ok(());
        }
        Err(self.ended().await)
    }

    /// Waits until the engine ends by itself, which it does only on an error. Cancel safe.
    pub async fn failed(&mut self) -> EngineError {
        self.ended().await
    }

    /// Stops the engine and waits until its tasks have ended and its sockets are closed.
    pub async fn stop(self) {
        let _ = self.control.send(Control::Stop).await;
        if let End::Running(task) = self.end
            && let Ok(Err(error)) = task.await
        {
            tracing::debug!(%error, "the swarm engine had failed before it was stopped");
        }
    }

    /// Waits for the task's end; told again, an error is only text.
    async fn ended(&mut self) -> EngineError {
        let error = match &mut self.end {
            End::Ended(text) => return EngineError::Engine(text.clone()),
            End::Running(task) => match task.await {
                Ok(Err(error)) => error,
                Ok(Ok(())) => EngineError::Engine("it stopped".into()),
                Err(error) => EngineError::Engine(error.to_string()),
            },
        };
        self.end = End::Ended(error.to_string());
        error
    }
}
