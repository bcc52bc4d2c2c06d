//! The lab's own nodes: one engine or one tracker in one namespace, as a hidden subcommand of the lab.
//!
//! Every node of every contender speaks the same protocol with the lab: it says `ready`, waits for a line, transfers, says `complete`, and serves
//! until its standard input is closed.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use fleetdrop::{
    model::Place,
    swarm::{Engine, EngineConfig, EngineHandle, Metainfo, Role},
    tracker::{Tracker, TrackerConfig, TrackerKey},
};
use tokio::io::{AsyncBufReadExt as _, BufReader, Stdin};

/// The key of the lab's tracker: everything in the lab is one user's.
const KEY: [u8; 16] = [0x1a; 16];
/// The port of the lab's tracker.
const TRACKER_PORT: u16 = 6969;

/// Returns the announce URL of the lab's tracker on `controller`.
pub(crate) fn announce_url(controller: std::net::Ipv4Addr) -> String {
    let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("http://{controller}:{TRACKER_PORT}/{key}/announce")
}

/// What `lab engine` runs.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Which engine.
    #[arg(long)]
    engine: EngineKind,
    /// The file is there and is to be served.
    #[arg(long)]
    seed: bool,
    #[arg(long)]
    file: PathBuf,
    /// The torrent's info dictionary.
    #[arg(long)]
    info: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    peer: Vec<SocketAddr>,
    #[arg(long)]
    controller: Option<SocketAddr>,
    #[arg(long)]
    tracker: Option<String>,
    /// Its zone, its number there, how many there are.
    #[arg(long, num_args = 3)]
    place: Vec<u32>,
}

/// The engines there are.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EngineKind {
    /// Our own.
    Fleet,
    /// The stock rqbit session.
    #[cfg(feature = "engine-librqbit")]
    Librqbit,
}

/// What `lab tracker` runs.
#[derive(Debug, Args)]
pub(crate) struct TrackerArgs {
    /// The torrent's info dictionary.
    #[arg(long)]
    info: PathBuf,
    #[arg(long)]
    listen: std::net::IpAddr,
    /// A seed that is listed from the start.
    #[arg(long)]
    seed: SocketAddr,
}

/// Runs one engine.
pub(crate) async fn engine(args: EngineArgs) -> Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let info = tokio::fs::read(&args.info).await.with_context(|| args.info.display().to_string())?;
    let config = EngineConfig {
        metainfo: Arc::new(Metainfo::from_info_bytes(&info)?),
        role: if args.seed { Role::Seed { file: args.file } } else { Role::Host { file: args.file } },
        listen: args.listen,
        advertise: None,
        peers: args.peer,
        place: args.place.first_chunk().map(|[zone, rank, of]| Place { zone: *zone, rank: *rank, of: *of }),
        controller_peers: args.controller.into_iter().collect(),
        tracker: args.tracker,
        tls: None,
        ports: None,
        bounds: Default::default(),
        origins: None,
    };
    if !args.seed {
        say("ready");
        wait_for_line(&mut input).await?;
    }
    let mut handle = start(args.engine, config).await?;
    if args.seed {
        say("ready");
        wait_for_line(&mut input).await?;
    } else {
        handle.wait_complete().await?;
        say("complete");
    }
    tokio::select! {
        error = handle.failed() => return Err(error.into()),
        _ = wait_for_line(&mut input) => {}
    }
    handle.stop().await;
    Ok(())
}

async fn start(kind: EngineKind, config: EngineConfig) -> Result<EngineHandle> {
    Ok(match kind {
        EngineKind::Fleet => fleetdrop::swarm::FleetEngine.start(config).await?,
        #[cfg(feature = "engine-librqbit")]
        EngineKind::Librqbit => fleetdrop::swarm::stock::LibrqbitEngine.start(config).await?,
    })
}

/// Runs a tracker.
pub(crate) async fn tracker(args: TrackerArgs) -> Result<()> {
    let info = tokio::fs::read(&args.info).await.with_context(|| args.info.display().to_string())?;
    let tracker = Tracker::start(TrackerConfig {
        listen: SocketAddr::new(args.listen, TRACKER_PORT),
        info_hash: Metainfo::from_info_bytes(&info)?.info_hash(),
        key: TrackerKey::from_bytes(KEY),
        interval: Duration::from_secs(5),
        max_peers: 2000,
        tls: None,
        ports: None,
    })
    .await?;
    tracker.add_seed(args.seed);
    say("ready");
    while wait_for_line(&mut BufReader::new(tokio::io::stdin())).await? {}
    tracker.stop().await;
    Ok(())
}

/// Waits for a line; false at the end of the input.
async fn wait_for_line(input: &mut BufReader<Stdin>) -> Result<bool> {
    Ok(input.read_line(&mut String::new()).await? > 0)
}

/// Says a word to the lab.
fn say(word: &str) {
    println!("{word}");
}
