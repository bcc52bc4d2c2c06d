//! The run's torrent as a file, for standard BitTorrent clients beside the fleet.
//!
//! Its announce URL holds the run's key: only this user may read the file. It is of no use once the run has ended.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use super::seed::{Distribution, SeedAddresses, local_end_towards};
use crate::{
    inventory::HostEntry,
    model::origin::{Origin, OriginStyle},
    swarm::Metainfo,
    wire::PeerAddr,
};

/// How long finding a host's address may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Says why there is no torrent file.
#[derive(Debug, thiserror::Error)]
pub enum TorrentFileError {
    /// Nothing tells under which address others reach this machine.
    #[error("it is not known at which address other machines reach this one, which the torrent has to say")]
    NoAddress,
    /// The file can't be written.
    #[error("can't write the torrent to {path}")]
    Write {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What goes into the file.
pub(super) struct Torrent<'a> {
    pub(super) metainfo: &'a Metainfo,
    pub(super) web_seeds: Vec<&'a Origin>,
}

impl Torrent<'_> {
    /// Returns the addresses that standard clients can use (BEP 19). Those of directories end in `/`, and get the name from clients.
    fn url_list(&self) -> Vec<String> {
        let files = self.web_seeds.iter().filter(|origin| origin.style == OriginStyle::File && origin.headers.is_empty());
        files.map(|origin| origin.seed.url().to_string()).collect()
    }
}

/// Writes the torrent and lets the tracker name the seed at the address that the file names: the operator's word, or else this
/// machine's address on the way to the fleet's hosts.
pub(super) async fn write(
    path: &Path,
    torrent: Torrent<'_>,
    addresses: &SeedAddresses,
    distribution: &Distribution,
    hosts: &[HostEntry],
) -> Result<(), TorrentFileError> {
    let address = match addresses.advertised() {
        Some(address) => address,
        None => address_towards(hosts).await.ok_or(TorrentFileError::NoAddress)?,
    };
    let (seed, announce_url) = addresses.at(address);
    distribution.name_seed(PeerAddr(seed.0));
    let torrent = torrent.metainfo.to_torrent(&announce_url, &torrent.url_list());
    let file = path.to_owned();
    let written = tokio::task::spawn_blocking(move || replace(&file, &torrent)).await.unwrap_or_else(|error| Err(error.into()));
    written.map_err(|source| TorrentFileError::Write { path: path.display().to_string(), source })
}

/// Returns this machine's address on the way to the first host that has one.
async fn address_towards(hosts: &[HostEntry]) -> Option<IpAddr> {
    let lookup = async {
        for host in hosts {
            let found = tokio::net::lookup_host((host.address.as_str(), 0)).await;
            if let Some(address) = found.ok().and_then(|mut found| found.next()).and_then(|found| local_end_towards(found.ip()))
            {
                return Some(address);
            }
        }
        None
    };
    tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await.ok().flatten()
}

/// Puts a file in place that only this user may read, whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(content)?;
        std::fs::rename(&unfinished, path)
    })();
    if written.is_err() {
        // Most likely it could not be made in the first place.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_replaced_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.torrent");
        std::fs::write(&path, "old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("missing/run.torrent"), b"").is_err());
    }
}
