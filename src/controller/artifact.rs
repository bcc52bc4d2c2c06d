//! What is deployed: a file or a directory, hashed, with its torrent.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::run::RunError;
use crate::{
    artifact::{HashCache, hash_artifact, hash_tree},
    failpoint,
    model::{AppName, ArchiveKind, Digest, Manifest, ReleaseId, Tree},
    swarm::{MAX_INFO, Metainfo, choose_piece_length},
    wire::PackedInfo,
};

/// A hashed artifact with its torrent.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The file or directory.
    pub path: PathBuf,
    /// What hosts must end up having.
    pub manifest: Manifest,
    /// The torrent.
    pub metainfo: Arc<Metainfo>,
    /// The torrent as hosts get it.
    pub info: PackedInfo,
    /// How long hashing took.
    pub hash_time: Duration,
}

/// What a directory consists of, to be kept: what its files hold is enough then to have all of it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    blob: Digest,
    info: PackedInfo,
}

/// A directory's listing that was read again.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The release's manifest.
    pub manifest: Manifest,
    metainfo: Arc<Metainfo>,
    info: PackedInfo,
}

impl Listing {
    /// Reads it; none if it is none, or another version's.
    pub fn read(self, app: AppName) -> Option<Listed> {
        let metainfo = Arc::new(Metainfo::from_info_bytes(&self.info.unpack(MAX_INFO).ok()?).ok()?);
        let tree = metainfo.tree()?;
        let manifest = Manifest {
            app,
            file_name: metainfo.name().to_owned(),
            digest: tree.digest(),
            size: metainfo.length(),
            archive: ArchiveKind::Directory,
            tree: Some(tree.facts(self.blob)),
        };
        Some(Listed { manifest, metainfo, info: self.info })
    }
}

impl Listed {
    /// Returns what is in the directory.
    pub fn tree(&self) -> Option<&Arc<Tree>> {
        self.metainfo.tree()
    }

    /// Returns the artifact: the directory at `path`, whose files have been made of bytes with the manifest's SHA-256.
    pub fn at(self, path: PathBuf) -> Artifact {
        let Self { manifest, metainfo, info } = self;
        Artifact { path, manifest, metainfo, info, hash_time: Duration::ZERO }
    }
}

/// Returns what an artifact is called: the last part of its path, and if that says nothing (`.`, `..`) the name of the directory that it
/// leads to. None for the root directory.
pub fn artifact_name(path: &Path) -> Option<OsString> {
    let resolved = || fs::canonicalize(path).ok()?.file_name().map(OsString::from);
    path.file_name().map(OsString::from).or_else(resolved)
}

impl Artifact {
    /// Hashes a file or directory, or takes a file's hashes from the cache, and makes the torrent. The piece length follows from the size and the
    /// fleet.
    ///
    /// `cache` is the directory where hashes are kept, if they are. Nothing of a hash that is not waited for is kept.
    pub async fn open(path: &Path, app: AppName, hosts: usize, cache: Option<PathBuf>) -> Result<Self, RunError> {
        let began = Instant::now();
        let artifact = path.to_owned();
        let hashing = tokio::task::spawn_blocking(move || match artifact.is_dir() {
            true => directory(&artifact, app, hosts),
            false => file(&artifact, app, hosts, cache),
        });
        let (manifest, metainfo) = hashing.await.map_err(RunError::Task)??;
        let info = PackedInfo::new(metainfo.info_bytes()).map_err(RunError::Info)?;
        failpoint::reach("controller.hashed");
        Ok(Self { path: path.to_owned(), manifest, metainfo: Arc::new(metainfo), info, hash_time: began.elapsed() })
    }

    /// Returns what a directory consists of; none if it is a file, which is what it is by its bytes alone.
    pub fn listing(&self) -> Option<Listing> {
        self.manifest.tree.as_ref().map(|tree| Listing { blob: tree.blob, info: self.info.clone() })
    }

    /// Returns the id of a release that is made of it now.
    pub fn release(&self) -> Result<ReleaseId, RunError> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        ReleaseId::compose(&now, &self.manifest.digest).map_err(RunError::Release)
    }
}

fn file(path: &Path, app: AppName, hosts: usize, cache: Option<PathBuf>) -> Result<(Manifest, Metainfo), RunError> {
    let cache = cache.map(HashCache::new);
    let hashed = hash_artifact(path, |size| choose_piece_length(size, hosts), cache.as_ref(), &|_| ());
    let hashed = hashed.map_err(RunError::Artifact)?;
    let file_name = name(path);
    let (archive, _) = ArchiveKind::of_file_name(&file_name);
    let metainfo = Metainfo::new(&file_name, hashed.size, hashed.piece_length, hashed.pieces).map_err(RunError::Metainfo)?;
    Ok((Manifest { app, file_name, digest: hashed.digest, size: hashed.size, archive, tree: None }, metainfo))
}

fn directory(path: &Path, app: AppName, hosts: usize) -> Result<(Manifest, Metainfo), RunError> {
    let hashed = hash_tree(path, |size| choose_piece_length(size, hosts), &|_| ()).map_err(RunError::Artifact)?;
    let (file_name, tree) = (name(path), Arc::new(hashed.tree));
    let (digest, facts) = (tree.digest(), tree.facts(hashed.blob));
    let metainfo = Metainfo::of_tree(&file_name, tree, hashed.piece_length, hashed.pieces).map_err(RunError::Metainfo)?;
    let archive = ArchiveKind::Directory;
    Ok((Manifest { app, file_name, digest, size: metainfo.length(), archive, tree: Some(facts) }, metainfo))
}

fn name(path: &Path) -> String {
    artifact_name(path).unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_called_as_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let shop = dir.path().join("shop");
        fs::create_dir_all(shop.join("below")).unwrap();
        std::os::unix::fs::symlink("shop", dir.path().join("latest")).unwrap();
        for (given, name) in
            [("shop", "shop"), ("shop/", "shop"), ("shop/.", "shop"), ("shop/below/..", "shop"), ("latest", "latest")]
        {
            assert_eq!(artifact_name(&dir.path().join(given)).unwrap(), name, "{given}");
        }
        assert_eq!(artifact_name(Path::new("/")), None);
        assert!(artifact_name(Path::new(".")).is_some());
    }
}
