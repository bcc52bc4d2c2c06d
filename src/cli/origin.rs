//! The options about origins.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{CommandError, ErrorKind, Output, ResultExt as _, fleet};
use crate::{
    controller::{OriginRequest, read_credentials},
    model::{
        Plan,
        origin::{OriginStyle, WebSeed},
    },
    swarm::{ForeignTorrent, MAX_TORRENT},
};

/// The largest file with certificates or credentials, in bytes.
const MAX_FILE: u64 = 256 << 10;

/// Web servers that have the artifact.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerArgs {
    /// A web server that has the artifact too: its address, or its directory's, with / at the end. Hosts fetch from it what the
    /// swarm lacks. May be repeated
    #[arg(long = "web-seed", value_name = "URL")]
    pub web_seeds: Vec<WebSeed>,

    /// The certificates, in PEM, that web servers are trusted by instead of those that each machine trusts
    #[arg(long, value_name = "FILE")]
    pub origin_ca: Option<PathBuf>,

    /// What web servers want to know, in a file like .netrc that nobody else may read. It goes to the hosts over SSH
    #[arg(long, value_name = "FILE")]
    pub origin_auth: Option<PathBuf>,
}

/// Where else the artifact is.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct OriginArgs {
    /// Web servers that have it.
    #[command(flatten)]
    #[serde(flatten)]
    pub servers: ServerArgs,

    /// A torrent of the artifact, whose web servers are used as well
    #[arg(long, value_name = "FILE")]
    pub torrent: Option<PathBuf>,
}

impl ServerArgs {
    /// Puts what the options say over the plan.
    pub fn go_over(&self, plan: &mut Plan) {
        if !self.web_seeds.is_empty() {
            plan.web_seeds.clone_from(&self.web_seeds);
        }
    }

    /// Returns the plan's web servers with what they want to know.
    pub fn request(&self, plan: &Plan) -> Result<OriginRequest, CommandError> {
        let certificates = self.origin_ca.as_ref().map(|path| text(path)).transpose()?;
        let credentials = match &self.origin_auth {
            Some(path) => read_credentials(&secret(path)?).map_err(|error| in_file(path, error))?,
            None => Vec::new(),
        };
        let sources = plan.web_seeds.iter().map(|seed| (seed.clone(), OriginStyle::File)).collect();
        Ok(OriginRequest { sources, settings: plan.origin.clone(), certificates, credentials })
    }
}

impl OriginArgs {
    /// Returns the paths of the files that are named.
    pub fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { servers: ServerArgs { origin_ca, origin_auth, .. }, torrent } = self;
        [origin_ca, origin_auth, torrent].into_iter().filter_map(Option::as_mut)
    }

    /// Returns what hosts may use beside the swarm. Reads all of the artifact if there is a torrent, which must be one of it.
    pub async fn request(&self, plan: &Plan, artifact: &Path, output: &Output) -> Result<OriginRequest, CommandError> {
        let mut request = self.servers.request(plan)?;
        for source in self.of_torrent(artifact, output).await? {
            if !request.sources.contains(&source) {
                request.sources.push(source);
            }
        }
        if request.sources.len() > WebSeed::MOST {
            let text = format!("there are {} web servers, the most is {}", request.sources.len(), WebSeed::MOST);
            return Err(CommandError::input(text));
        }
        Ok(request)
    }

    /// Returns what the torrent names, if there is one. One of another file is an error.
    async fn of_torrent(&self, artifact: &Path, output: &Output) -> Result<Vec<(WebSeed, OriginStyle)>, CommandError> {
        let Some(path) = &self.torrent else { return Ok(Vec::new()) };
        let torrent = ForeignTorrent::read(&read(path, MAX_TORRENT)?).map_err(|error| in_file(path, error))?;
        for address in &torrent.unusable {
            fleet::warn(&format!("{} names an address that can't be used: {address}", path.display()), None, output);
        }
        let file = artifact.to_owned();
        let checked =
            tokio::task::spawn_blocking(move || File::open(file).and_then(|file| Ok((torrent.describes(file)?, torrent))));
        let checked = checked.await.or_internal("hashing the artifact failed")?;
        let (same, torrent) = checked.or_input(format!("can't read {}", artifact.display()))?;
        if !same {
            let text = format!("{} describes another file than {}", path.display(), artifact.display());
            return Err(CommandError::input(text).hint("leave --torrent out, or name the artifact that it was made of"));
        }
        Ok(torrent.origins)
    }
}

fn in_file(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> CommandError {
    CommandError::new(ErrorKind::Input, error).context(format!("can't use {}", path.display()))
}

/// Reads a file of at most so many bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let shown = path.display();
    let file = File::open(path).or_input(format!("can't read {shown}"))?;
    file.take(most + 1).read_to_end(&mut bytes).or_input(format!("can't read {shown}"))?;
    if bytes.len() as u64 > most {
        return Err(CommandError::input(format!("{shown} is larger than {most} bytes")));
    }
    Ok(bytes)
}

fn text(path: &Path) -> Result<String, CommandError> {
    String::from_utf8(read(path, MAX_FILE)?).map_err(|_| CommandError::input(format!("{} is not text", path.display())))
}

/// Reads a file that nobody else may read.
fn secret(path: &Path) -> Result<String, CommandError> {
    let mode = std::fs::metadata(path).or_input(format!("can't read {}", path.display()))?.mode();
    if mode & 0o077 != 0 {
        let text = format!("others may read {}, which holds secrets", path.display());
        return Err(CommandError::input(text).hint(format!("chmod 600 {}", path.display())));
    }
    text(path)
}
