//! Brings an artifact back to the controller from an origin, where it is nowhere else any more.
//!
//! The controller needs all of it: only from its bytes come the hashes that hosts check pieces with. It is one copy, whatever the fleet's size,
//! comes no faster than the fleet may fetch from origins, and counts towards what the fleet may fetch from them. It is worth something only with its SHA-256: what
//! one origin has not, the next one may have. Every wait has a limit, and so has the number of attempts.

use std::{path::Path, time::Duration};

use super::{
    incoming::{Incoming, Miss},
    origins::OriginRequest,
};
use crate::{
    http::HttpError,
    model::{Digest, Tree, origin::OriginStyle},
    swarm::{
        Throttle,
        origin::{Access, Client, File},
    },
};

/// The pause after an answer broke off.
const PAUSE: Duration = Duration::from_secs(1);

/// Says why an artifact did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no origin, or none may be used.
    #[error("no web server is named that has it")]
    NoOrigin,
    /// None has it; why, each.
    #[error("no web server gives it: {0}")]
    Nobody(String),
    /// The fleet may not fetch that much.
    #[error("`max_origin_bytes` does not allow to fetch its {0} bytes from a web server")]
    Cap(u64),
    /// It can't be written here.
    #[error("it can't be written here")]
    Disk(#[source] std::io::Error),
}

/// An artifact that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes: for a directory, of its files' contents one after the other.
    pub digest: &'a Digest,
    /// What is in it, if it is a directory.
    pub tree: Option<&'a Tree>,
}

/// Writes an artifact to `file`, which is made, and returns the address of the origin that it came from. For a directory the file holds its files'
/// contents, one after the other. What was fetched is taken off what the origins may give to the fleet.
pub async fn fetch(origins: &mut OriginRequest, wanted: Wanted<'_>, file: &Path) -> Result<String, FetchError> {
    let clients: Vec<Client> = if origins.settings.enabled { clients(origins) } else { Vec::new() };
    if clients.is_empty() {
        return Err(FetchError::NoOrigin);
    }
    let rate = Throttle::new(origins.settings.max_origin_rate);
    let mut whys = Vec::new();
    for client in clients {
        if origins.settings.max_origin_bytes.is_some_and(|left| left < wanted.size) {
            return Err(FetchError::Cap(wanted.size));
        }
        let mut copy = Copy { client: &client, rate: rate.clone(), fetched: 0 };
        let copied = copy.run(wanted, file).await;
        let fetched = copy.fetched;
        origins.settings.max_origin_bytes = origins.settings.max_origin_bytes.map(|left| left.saturating_sub(fetched));
        let address = client.origin().seed.to_string();
        match copied {
            Ok(()) => return Ok(address),
            Err(Miss::Disk(error)) => return Err(FetchError::Disk(error)),
            Err(Miss::Source(why)) => whys.push(format!("{address}: {why}")),
        }
    }
    Err(FetchError::Nobody(whys.join("; ")))
}

/// Returns whoever can be asked for all of an artifact.
fn clients(origins: &OriginRequest) -> Vec<Client> {
    let access = Access::new(origins.settings.clone(), origins.certificates.clone());
    let files = origins.sources.iter().filter(|(_, style)| *style == OriginStyle::File);
    files.map(|(seed, style)| Client::new(access.clone(), origins.origin(seed, style))).collect()
}

/// One attempt with one origin.
struct Copy<'a> {
    client: &'a Client,
    rate: Throttle,
    fetched: u64,
}

/// Why a file does not come to its end.
enum Stop {
    Missed(Miss),
    Http(HttpError),
}

impl From<HttpError> for Stop {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl From<Miss> for Stop {
    fn from(miss: Miss) -> Self {
        Self::Missed(miss)
    }
}

impl Copy<'_> {
    async fn run(&mut self, wanted: Wanted<'_>, file: &Path) -> Result<(), Miss> {
        let mut incoming = Incoming::create(file, wanted.size).await?;
        for file in self.client.files(wanted.name, wanted.size, wanted.tree) {
            self.file(&file, &mut incoming).await?;
        }
        if wanted.tree.is_some_and(|tree| tree.size() == 0) {
            // What travels of a directory without bytes is one that nobody has.
            incoming.take(&[0]).await?;
        }
        incoming.finish(wanted.digest).await
    }

    /// Copies a file, and goes on where an answer breaks off.
    async fn file(&mut self, file: &File, incoming: &mut Incoming) -> Result<(), Miss> {
        let attempts = self.client.access().settings().failure_backoff_threshold;
        let (mut at, mut failures) = (0, 0);
        loop {
            match self.stretch(file, &mut at, incoming).await {
                Ok(()) => return Ok(()),
                Err(Stop::Missed(miss)) => return Err(miss),
                Err(Stop::Http(error)) => {
                    failures += 1;
                    // What was never reached does not come by waiting for it here.
                    if !error.may_pass() || (at == 0 && error.is_unreached()) || failures >= attempts {
                        return Err(Miss::Source(error.chain()));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Copies a file from `at` on, as far as one answer goes.
    async fn stretch(&mut self, file: &File, at: &mut u64, incoming: &mut Incoming) -> Result<(), Stop> {
        let limit = self.client.access().settings().request_timeout;
        let mut answer = self.client.rest_of(file, *at).await?;
        while *at < file.length {
            let ended = || HttpError::Answer("its answer ended before its end".to_owned());
            let data = answer.chunk(limit).await?.ok_or_else(ended)?;
            *at += data.len() as u64;
            self.fetched += data.len() as u64;
            incoming.take(&data).await?;
            self.rate.pass(data.len()).await;
        }
        if *at > file.length {
            return Err(HttpError::Answer("it sends more than it was asked for".to_owned()).into());
        }
        self.client.keep(answer).await;
        Ok(())
    }
}
