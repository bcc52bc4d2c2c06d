//! Brings an artifact back to the controller from the cache of a host that still has it.
//!
//! It comes once over SSH, whatever the fleet's size, and counts only with its SHA-256: what one host has spoilt, the next one may have.
//! Changes nothing on any host. Every wait has a limit.

use std::{path::Path, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::{io::AsyncReadExt as _, time::timeout};

use super::{
    incoming::{Incoming, Miss},
    push::{blob, find_cache, sudo_prefix},
    run::{FleetSettings, target},
    transport::{Begun, Transport},
};
use crate::{
    inventory::HostEntry,
    model::{Digest, HostName},
    ssh::Process,
};

/// How many hosts are asked at a time.
const AT_ONCE: usize = 8;
/// How long a host may take to say whether it has the artifact, and how long it may then send nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// What is read at a time, in bytes.
const STEP: usize = 256 << 10;
/// The line after which the artifact comes: a login shell may print something before it.
const MARKER: &str = "FLEETDROP-ARTIFACT-FOLLOWS";

/// Says why an artifact did not come back.
#[derive(Debug, thiserror::Error)]
pub enum RecallError {
    /// No host that could be reached has it.
    #[error("no host that can be reached has it in its cache")]
    Nobody,
    /// It can't be written here.
    #[error("it can't be written here")]
    Disk(#[source] std::io::Error),
}

/// A host that has the artifact and waits to send it.
struct Source<'a> {
    host: &'a HostName,
    transport: Transport,
    process: Process,
}

/// Writes the artifact with that digest and size to `file`, which is made, and returns whose cache it came from: the
/// first host's that says that it has it.
pub async fn recall(fleet: &FleetSettings, digest: &Digest, size: u64, file: &Path) -> Result<HostName, RecallError> {
    let mut sources = stream::iter(&fleet.hosts).map(|host| find(fleet, host, digest, size)).buffer_unordered(AT_ONCE);
    while let Some(found) = sources.next().await {
        let Some(source) = found else { continue };
        let host = source.host.clone();
        match source.copy(digest, size, file).await {
            Ok(()) => return Ok(host),
            Err(Miss::Disk(error)) => return Err(RecallError::Disk(error)),
            Err(Miss::Source(why)) => tracing::warn!(%host, "its copy of the artifact is not used: {why}"),
        }
    }
    Err(RecallError::Nobody)
}

/// Looks whether a host has the artifact; one that can't be asked has not.
async fn find<'a>(fleet: &FleetSettings, host: &'a HostEntry, digest: &Digest, size: u64) -> Option<Source<'a>> {
    let transport = Transport::open(&fleet.connector, host, &target(host)).await.ok()?;
    let prefix = host.r#become.as_ref().map(sudo_prefix).unwrap_or_default();
    let script = format!(
        "uid=$(id -u)\n{}\nblob=$cache/{}\n\
         if [ -f \"$blob\" ] && [ ! -L \"$blob\" ] && [ \"$(wc -c < \"$blob\")\" -eq {size} ]; then\n\
         echo {MARKER}\nexec cat \"$blob\"\nfi\nexit 0\n",
        find_cache(fleet.cache.as_deref()),
        blob(digest)
    );
    let begun = async {
        let process = transport.exec(&format!("{prefix}sh -s")).await?;
        transport.begin(process, script.as_bytes(), SILENCE, |line| line.ends_with(MARKER)).await
    };
    if let Ok(Begun::Runs(process)) = begun.await {
        return Some(Source { host: &host.name, transport, process });
    }
    transport.close().await;
    None
}

impl Source<'_> {
    async fn copy(self, digest: &Digest, size: u64, file: &Path) -> Result<(), Miss> {
        let Self { transport, mut process, .. } = self;
        let copied = copy(&mut process, digest, size, file).await;
        drop(process);
        transport.close().await;
        copied
    }
}

/// Copies what a process prints, which has to have that size and digest.
async fn copy(process: &mut Process, digest: &Digest, size: u64, file: &Path) -> Result<(), Miss> {
    let mut incoming = Incoming::create(file, size).await?;
    let mut buffer = vec![0; STEP];
    while incoming.missing() > 0 {
        let part = usize::try_from(incoming.missing()).unwrap_or(STEP).min(STEP);
        let read = match timeout(SILENCE, process.stdout.read(&mut buffer[..part])).await {
            Ok(Ok(0)) => break,
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(Miss::Source(error.to_string())),
            Err(_) => return Err(Miss::Source(format!("nothing came for {} s", SILENCE.as_secs()))),
        };
        incoming.take(&buffer[..read]).await?;
    }
    incoming.finish(digest).await
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::super::transport::TransportError;
    use super::*;

    async fn copied(text: &str, digest: &Digest, size: u64) -> Result<String, String> {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("artifact");
        let mut process: Process =
            Transport::Local.exec(&format!("printf {text}")).await.map_err(|error: TransportError| error.to_string())?;
        match copy(&mut process, digest, size, &file).await {
            Ok(()) => Ok(std::fs::read_to_string(&file).unwrap()),
            Err(Miss::Source(why)) => Err(why),
            Err(Miss::Disk(error)) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn only_the_right_bytes_come_back() {
        let digest = Digest(Sha256::digest("hello").into());
        assert_eq!(copied("hello", &digest, 5).await.unwrap(), "hello");
        assert_eq!(copied("hell", &digest, 5).await.unwrap_err(), "it ends 1 bytes too early");
        assert!(copied("hallo", &digest, 5).await.unwrap_err().starts_with("its SHA-256 is "));
    }
}
