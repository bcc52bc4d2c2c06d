//! What can go wrong with a job, and what the operator is told: one line with path and numbers, and a hint.

use std::{error::Error, io, path::Path};

use super::{
    activation::SwitchError,
    disk::DiskError,
    health::HealthError,
    hooks::HookError,
    link::Gone,
    lock::LockError,
    releases::CurrentError,
    root::RootError,
    shared::SharedError,
    space::{self, SpaceError},
    store::VerifyError,
    trust::TrustError,
};
use crate::{
    artifact::UnpackError,
    model::{FailureKind, HostFailure, HostState, ReleaseId},
    swarm::{EngineError, MetainfoError, TlsError},
};

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The application's root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Somebody else deploys there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No room.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// `current` is not ours to switch.
    #[error(transparent)]
    Current(#[from] CurrentError),
    /// The switch.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The gate.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Whose it is.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The archive.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// What releases share.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// The transfer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The job's certificates.
    #[error(transparent)]
    Identity(TlsError),
    /// The job's torrent.
    #[error("the job's torrent is not usable")]
    Torrent(#[from] MetainfoError),
    /// The job contradicts itself.
    #[error("the job is not usable: {0}")]
    BadJob(String),
    /// A message at the wrong time.
    #[error("the controller sent `{message}` while the host was {during}")]
    OutOfOrder {
        /// The message.
        message: &'static str,
        /// What the host was doing.
        during: HostState,
    },
    /// The channel ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// A rollback without a target.
    #[error("no earlier release to go back to in {0}")]
    NoPrevious(String),
    /// A rollback to something that is not there.
    #[error("release {release} is not in {releases}")]
    NoSuchRelease {
        /// The release.
        release: ReleaseId,
        /// Where it was sought.
        releases: String,
    },
    /// One of the operator's hooks.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A release that does not work.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// The switch failed, and then hooks that undo what came before it.
    #[error("{}; then {}", chain(error), hooks.iter().map(ToString::to_string).collect::<Vec<_>>().join("; then "))]
    AndHooks {
        /// Why the switch failed.
        error: SwitchError,
        /// The hooks, at least one.
        hooks: Vec<HookError>,
    },
    /// A bug: work ended without a result.
    #[error("the agent failed: {0}")]
    Internal(String),
}

impl JobError {
    /// Returns the I/O error at the bottom of it, if there is one.
    fn io(&self) -> Option<&io::Error> {
        let mut error: Option<&(dyn Error + 'static)> = match self {
            Self::AndHooks { error, .. } => Some(error),
            error => Some(error),
        };
        while let Some(current) = error {
            if let Some(io) = current.downcast_ref() {
                return Some(io);
            }
            error = current.source();
        }
        None
    }

    /// True if a disk is full.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self.io().map(io::Error::kind), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// True if an address to listen on is not one of the host's, or cannot be without saying which interface: binding a
    /// link-local IPv6 address without its zone is "invalid argument".
    pub(crate) fn is_foreign_address(&self) -> bool {
        matches!(self.io().map(io::Error::kind), Some(io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput))
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Lock(LockError::Held { .. }) => {
                "wait until it has ended, or end it with `fleetdrop unlock --force`; if it is this very run, the inventory names the \
                 machine twice"
            }
            Self::Lock(LockError::Foreign(_)) => {
                "on a file system that several machines share, one of the others holds it; in a container, look outside"
            }
            Self::Lock(LockError::Endless { .. }) => {
                "look at that process on the host: it may hang in a disk that does not answer"
            }
            Self::Space(SpaceError::Files { .. }) => "remove files there: the file system is out of inodes",
            Self::Space(SpaceError::Bytes { .. }) => "free space there, keep fewer releases, or deploy to another file system",
            Self::Root(RootError::Untrusted { .. }) | Self::Shared(SharedError::Root(RootError::Untrusted { .. })) => {
                "choose another path, or make this one belong to the deploying user or root with mode 0755"
            }
            Self::Root(RootError::BadPath { .. }) => "set deploy_to to an absolute path or one that starts with `~/`",
            Self::Current(error) | Self::Switch(SwitchError::Current(error)) => match error {
                CurrentError::NotALink { .. } => "move it away once: fleetdrop makes `current` a symlink to the live release",
                CurrentError::Elsewhere { .. } => {
                    "move what it points to into releases/, or remove the symlink once, then deploy again"
                }
                CurrentError::Disk(_) => return self.disk_hint(),
            },
            Self::Switch(SwitchError::Stuck { .. }) => "look at the host: set `current` by hand, then deploy again",
            Self::Switch(SwitchError::Missing { .. }) => "something removed the release; deploy it again",
            Self::Verify(VerifyError::Mismatch { .. }) => {
                "the data was discarded and the old release stays live; deploy again, and if it happens again check the \
                 artifact on the controller and the host's disk and memory"
            }
            Self::Trust(error) => match error.hint() {
                Some(hint) => hint,
                None => return self.disk_hint(),
            },
            Self::Unpack(error) => {
                let stays = "nothing became visible and the old release stays live";
                return Some(error.hint().map_or(stays.into(), |hint| format!("{hint}; {stays}")));
            }
            Self::Shared(SharedError::Missing { .. }) => {
                "put them there once, by hand or with what configures the host (a `before_stage` hook can, too), then deploy again; \
                 they are `linked_files` of the playbook"
            }
            Self::Shared(SharedError::Unusable { .. }) => {
                "put right what is there, or take it out of the playbook's `linked_dirs` or `linked_files`"
            }
            Self::Shared(SharedError::InTheWay { .. }) => {
                "make it a directory in the artifact, or take the path out of the playbook's `linked_dirs` or `linked_files`"
            }
            Self::OutOfOrder { .. } | Self::BadJob(_) | Self::Torrent(_) | Self::Identity(_) => {
                "controller and agent disagree; use the same version of both"
            }
            Self::AndHooks { .. } => "look whether the service runs on the old release",
            Self::Hook(_) => "the old release stays live; run the command by hand on the host",
            Self::Gone(Gone::Silent(_)) => "check the network between controller and host, then deploy again",
            Self::NoPrevious(_) => {
                "name one with `--to RELEASE`: a host that has lost it gets it again (`fleetdrop releases` lists what hosts have)"
            }
            Self::NoSuchRelease { .. } => "`fleetdrop releases` lists what is there",
            _ => return self.disk_hint(),
        };
        Some(hint.to_owned())
    }

    fn disk_hint(&self) -> Option<String> {
        let hint = match self.io()?.kind() {
            io::ErrorKind::StorageFull => "free space there, then deploy again",
            io::ErrorKind::QuotaExceeded => "the user's disk quota is used up: free space or raise it, then deploy again",
            io::ErrorKind::PermissionDenied => {
                "give the deploying user the right to write there, choose another deploy_to, or use become"
            }
            io::ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only: remount it or choose another path",
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => {
                "check fleetdrop_advertise: it must be an address of this host"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Returns what the operator's own commands wrote, if they are to blame.
    pub(crate) fn output(&self) -> Vec<String> {
        match self {
            Self::Hook(error) => error.failed.output.clone(),
            Self::AndHooks { hooks, .. } => hooks.iter().flat_map(|error| error.failed.output.iter().cloned()).collect(),
            Self::Health(error) => error.output.clone(),
            _ => Vec::new(),
        }
    }

    /// Makes what the operator is told. `place` is where space is measured if a disk is full.
    pub(crate) fn report(&self, during: HostState, place: Option<&Path>) -> HostFailure {
        let mut message = chain(self);
        if self.is_disk_full()
            && let Some(left) = place.and_then(space::left)
        {
            message = format!("{message} ({left})");
        }
        let mut failure = HostFailure::new(FailureKind::Failed, during, message);
        failure.log_tail = self.output();
        match self.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

/// Writes an error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrapped errors often repeat their cause.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::disk::At as _;

    #[test]
    fn an_address_that_cannot_be_bound_here_is_foreign() {
        // Documentation addresses (RFC 5737), and a link-local one without its zone.
        for address in ["192.0.2.1:0", "[fe80::1]:0"] {
            let source = std::net::TcpListener::bind(address).unwrap_err();
            let error = JobError::Engine(EngineError::Io { what: format!("cannot listen on {address}"), source });
            assert!(error.is_foreign_address(), "{}", chain(&error));
        }
    }

    #[test]
    fn a_full_disk_is_told_with_path_numbers_and_hint() {
        let full = Err::<(), _>(io::Error::from_raw_os_error(28)).at("write", Path::new("/srv/shop/x")).unwrap_err();
        let error = JobError::from(SwitchError::from(full));
        assert!(error.is_disk_full());
        let failure = error.report(HostState::Activating, Some(Path::new("/")));
        assert!(failure.message.starts_with("cannot write /srv/shop/x: No space left on device"), "{failure:?}");
        assert!(failure.message.contains(" free") && failure.message.ends_with("in /)"), "{failure:?}");
        assert!(failure.hint.unwrap().contains("free space"));
    }

    #[test]
    fn a_read_only_or_forbidden_directory_has_a_hint() {
        for (code, word) in [(30, "read-only"), (13, "right to write")] {
            let error = Err::<(), _>(io::Error::from_raw_os_error(code)).at("create", Path::new("/srv")).unwrap_err();
            let failure = JobError::from(RootError::from(error)).report(HostState::Preparing, None);
            assert!(failure.hint.unwrap().contains(word));
        }
    }
}
