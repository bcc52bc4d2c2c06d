//! What is on a host for one application.

use serde::{Deserialize, Serialize};

use super::{AppName, Digest, Operator, ReleaseId, RunId};

/// What is on one host for one application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The application's root as the host resolved it.
    pub deploy_to: String,
    /// The live release.
    #[serde(default)]
    pub current: Option<ReleaseId>,
    /// The release a rollback would go to.
    #[serde(default)]
    pub previous: Option<ReleaseId>,
    /// All complete releases, newest first.
    #[serde(default)]
    pub releases: Vec<ReleaseInfo>,
    /// The run that holds the lock, if one does.
    #[serde(default)]
    pub locked_by: Option<RunId>,
}

/// One release on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseInfo {
    /// Its id and directory name.
    pub id: ReleaseId,
    /// The application it was deployed as, if its record is readable.
    #[serde(default)]
    pub app: Option<AppName>,
    /// The name of the artifact's file, if its record is readable.
    #[serde(default)]
    pub artifact: Option<String>,
    /// The artifact's digest, if its record is readable.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// The artifact's size in bytes, if its record is readable.
    #[serde(default)]
    pub size: Option<u64>,
    /// When it was unpacked, RFC 3339 in UTC, if its record is readable.
    #[serde(default)]
    pub staged_at: Option<String>,
    /// When it was activated last and confirmed, RFC 3339 in UTC; none if it never was.
    #[serde(default)]
    pub activated_at: Option<String>,
    /// Who deployed it, if that is known.
    #[serde(default)]
    pub by: Option<Operator>,
}
