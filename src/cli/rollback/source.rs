//! Where the artifact of an earlier release comes from: the file that the operator names, the one that the history knows, the cache of a host,
//! an origin. It is worth something only with the SHA-256 that it had.
//!
//! A directory can come from a cache or an origin as long as the history has its listing: its names and modes are nowhere else.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{
    super::{CommandError, deploy},
    lost::{Known, Recorded, Search},
};
use crate::{
    artifact::{UnpackLimits, unpack_tree},
    controller::{self, Artifact, FetchError, Listed, OriginRequest, RecallError, Wanted},
    model::AppName,
};

/// The artifact and where it is kept if it came from elsewhere, or why it can't be had.
type Found = Result<(Artifact, Option<TempDir>), String>;

impl Search<'_> {
    /// Finds the artifact. What is fetched from origins is taken off what they may give.
    pub(super) async fn artifact(
        &self,
        known: Option<&Known>,
        run: Option<&Recorded>,
        origins: &mut OriginRequest,
    ) -> Result<Found, CommandError> {
        if let Some(file) = &self.args.artifact {
            return self.named(file, known).await.map(|artifact| Ok((artifact, None)));
        }
        let Some(known) = known else { return Ok(Err("nobody knows its artifact".to_owned())) };
        if let Some(file) = run.and_then(|found| found.run.artifact.as_ref()).map(|artifact| PathBuf::from(&artifact.path))
            && file.exists()
            && let Ok(artifact) = self.open(&file, &known.app, false).await
            && artifact.manifest.digest == known.digest
        {
            self.output.note(&format!("{} is its artifact", file.display()));
            return Ok(Ok((artifact, None)));
        }
        let listed = run.and_then(|found| found.listed.as_ref()).filter(|listed| listed.manifest.digest == known.digest);
        self.bring(known, listed, origins).await
    }

    /// Opens the artifact that the operator names, which has to be the right one.
    async fn named(&self, file: &Path, known: Option<&Known>) -> Result<Artifact, CommandError> {
        let app = known.map(|known| &known.app).or(self.app);
        let app =
            app.ok_or_else(|| CommandError::input("nothing says which application it is").hint("name it with `--app`"))?;
        let artifact = self.open(file, app, false).await?;
        let digest = artifact.manifest.digest;
        if known.map_or_else(|| self.release.is_of(&digest), |known| known.digest == digest) {
            return Ok(artifact);
        }
        let error = format!("{} is not what {} was made of: its SHA-256 is {digest}", file.display(), self.release);
        Err(CommandError::input(error)
            .hint("`fleetdrop releases` shows what hosts have; `fleetdrop deploy` makes a new release"))
    }

    /// Hashes the artifact; with `passes` nothing of that is kept, for the file won't stay.
    async fn open(&self, file: &Path, app: &AppName, passes: bool) -> Result<Artifact, CommandError> {
        deploy::open(file, app.clone(), self.fleet.hosts.len(), passes, self.interrupt, self.output).await
    }

    /// Brings the artifact here from wherever it still is.
    async fn bring(&self, known: &Known, listed: Option<&Listed>, origins: &mut OriginRequest) -> Result<Found, CommandError> {
        let directory = match TempDir::with_prefix("fleetdrop-") {
            Ok(directory) => directory,
            Err(error) => return Ok(Err(format!("no temporary directory can be made here: {error}"))),
        };
        let place = directory.path().join(&known.file_name);
        let Some(listed) = listed else {
            let wanted = Wanted { name: &known.file_name, size: known.size, digest: &known.digest, tree: None };
            if let Err(why) = self.copy(wanted, &place, origins).await? {
                return Ok(Err(why));
            }
            return self.open(&place, &known.app, true).await.map(|artifact| Ok((artifact, Some(directory))));
        };
        let content = match TempDir::with_prefix("fleetdrop-") {
            Ok(content) => content,
            Err(error) => return Ok(Err(format!("no temporary directory can be made here: {error}"))),
        };
        let blob = content.path().join("content");
        let (manifest, tree) = (&listed.manifest, listed.tree().map(AsRef::as_ref));
        let wanted = Wanted { name: &known.file_name, size: manifest.size, digest: manifest.blob(), tree };
        if let Err(why) = self.copy(wanted, &blob, origins).await? {
            return Ok(Err(why));
        }
        Ok(self.unpack(listed.clone(), blob, place).await?.map(|artifact| (artifact, Some(directory))))
    }

    /// Copies what the artifact consists of to `file`: from the cache of a host, else from an origin. Returns why that failed, if it did.
    async fn copy(
        &self,
        wanted: Wanted<'_>,
        file: &Path,
        origins: &mut OriginRequest,
    ) -> Result<Result<(), String>, CommandError> {
        let recalled = controller::recall(self.fleet, wanted.digest, wanted.size, file);
        let none = match self.unless_interrupted(recalled).await? {
            Ok(host) => {
                self.output.note(&format!("its artifact comes from the cache of {host}"));
                return Ok(Ok(()));
            }
            Err(error @ RecallError::Disk(_)) => return Ok(Err(format!("{:#}", anyhow::Error::new(error)))),
            Err(error @ RecallError::Nobody) => error,
        };
        let why = match self.unless_interrupted(controller::fetch(origins, wanted, file)).await? {
            Ok(address) => {
                self.output.note(&format!("its artifact comes from {address}"));
                return Ok(Ok(()));
            }
            Err(FetchError::NoOrigin) => format!("its artifact is not here any more, and {none}"),
            Err(error) => format!("its artifact is not here any more, {none}, and {:#}", anyhow::Error::new(error)),
        };
        Ok(Err(why))
    }

    /// Makes a directory of what its files hold.
    async fn unpack(&self, listed: Listed, blob: PathBuf, place: PathBuf) -> Result<Result<Artifact, String>, CommandError> {
        let (Some(tree), interrupt) = (listed.tree().cloned(), self.interrupt.clone()) else {
            return Ok(Err("its listing is damaged".to_owned()));
        };
        let at = place.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            unpack_tree(&blob, &tree, &at, &UnpackLimits::default(), &|| interrupt.is_cancelled())
        });
        let unpacked = unpacking.await.map_err(|error| CommandError::internal(format!("unpacking failed: {error}")))?;
        if self.interrupt.is_cancelled() {
            return Err(CommandError::interrupted());
        }
        Ok(match unpacked {
            Ok(_) => Ok(listed.at(place)),
            Err(error) => Err(format!("it can't be unpacked here: {:#}", anyhow::Error::new(error))),
        })
    }
}
