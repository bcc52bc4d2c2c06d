//! Runs one swarm engine alone, without controller and SSH: for experiments with the piece policy.
//!
//! ```text
//! swarm_node seed FILE --listen ADDR --hosts N --info FILE     writes the info dictionary to --info, seeds until stdin closes
//! swarm_node host --info FILE --listen ADDR --out FILE --peer ADDR [--peer ADDR ...]
//! ```
//!
//! Prints one JSON object a line: `{"listen": ...}` when it listens, `{"seconds": ..., ...}` when a host is complete, and
//! `{"uploaded": ...}` at the end. A host keeps uploading until stdin closes.

#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::{collections::HashMap, error::Error, io::Read, path::PathBuf, sync::Arc, time::Instant};

use fleetdrop::swarm::{Engine as _, EngineConfig, EngineHandle, FleetEngine, Metainfo, Role, choose_piece_length};
use sha1::{Digest as _, Sha1};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The command line: positional arguments, and options with their values.
struct Arguments {
    positional: Vec<String>,
    options: HashMap<String, Vec<String>>,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut parsed = Self { positional: Vec::new(), options: HashMap::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix("--") {
                Some(name) => {
                    let value = arguments.next().ok_or_else(|| format!("--{name} needs a value"))?;
                    parsed.options.entry(name.to_owned()).or_default().push(value);
                }
                None => parsed.positional.push(argument),
            }
        }
        Ok(parsed)
    }

    fn one(&self, name: &str) -> Result<&str> {
        match self.options.get(name).map(Vec::as_slice) {
            Some([value]) => Ok(value),
            _ => Err(format!("--{name} is needed, once").into()),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let mut config = match arguments.positional.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["seed", file] => seed(&arguments, file.into())?,
        ["host"] => host(&arguments)?,
        _ => return Err("say `seed FILE` or `host`".into()),
    };
    for peer in arguments.options.get("peer").into_iter().flatten() {
        config.peers.push(peer.parse()?);
    }
    let is_host = matches!(config.role, Role::Host { .. });
    let length = config.metainfo.length();
    let start = Instant::now();
    let mut engine = FleetEngine.start(config).await?;
    println!("{}", serde_json::json!({ "listen": engine.local_addr.to_string() }));
    if is_host {
        engine.wait_complete().await?;
        let stats = engine.stats().borrow().clone();
        println!(
            "{}",
            serde_json::json!({ "seconds": start.elapsed().as_secs_f64(), "length": length, "bytes": stats.bytes, "peers": stats.peers })
        );
    }
    run_until_stdin_closes(engine).await
}

/// Reads the artifact once for its piece hashes.
fn seed(arguments: &Arguments, file: PathBuf) -> Result<EngineConfig> {
    let hosts = arguments.one("hosts")?.parse()?;
    let bytes = std::fs::read(&file)?;
    let piece_length = match arguments.options.get("piece-length") {
        Some(values) => values.concat().parse()?,
        None => choose_piece_length(bytes.len() as u64, hosts),
    };
    let pieces = bytes.chunks(piece_length as usize).map(|piece| Sha1::digest(piece).into()).collect();
    let meta = Metainfo::new("artifact", bytes.len() as u64, piece_length, pieces)?;
    std::fs::write(arguments.one("info")?, meta.info_bytes())?;
    configure(arguments, meta, Role::Seed { file })
}

fn host(arguments: &Arguments) -> Result<EngineConfig> {
    let meta = Metainfo::from_info_bytes(&std::fs::read(arguments.one("info")?)?)?;
    configure(arguments, meta, Role::Host { file: arguments.one("out")?.into() })
}

fn configure(arguments: &Arguments, meta: Metainfo, role: Role) -> Result<EngineConfig> {
    let listen = arguments.one("listen")?.parse()?;
    let metainfo = Arc::new(meta);
    Ok(EngineConfig { metainfo, role, listen, advertise: None, peers: Vec::new(), controller_peers: Vec::new(), tracker: None })
}

async fn run_until_stdin_closes(mut engine: EngineHandle) -> Result<()> {
    let stdin = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        error = engine.failed() => return Err(error.into()),
        _ = stdin => {}
    }
    let stats = engine.stats();
    engine.stop().await;
    println!("{}", serde_json::json!({ "uploaded": stats.borrow().bytes.uploaded }));
    Ok(())
}
