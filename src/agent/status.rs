//! What is on the host for one application. Changes nothing and holds no lock.

use super::{
    failure::JobError,
    lock, releases,
    root::Root,
    session::{Halt, Session},
};
use crate::{
    model::{HostState, HostStatus, ReleaseInfo},
    wire::FromAgent,
};

/// Reports and ends.
pub(crate) async fn status(session: &mut Session, deploy_to: String) -> Result<(), Halt> {
    session.during = HostState::Preparing;
    let env = session.env.clone();
    let status = session.blocking(move |_| read(&Root::new(&deploy_to, env.home.as_deref())?)).await?;
    session.tell(FromAgent::Status(status)).await;
    session.mark_settled();
    Ok(())
}

/// Looks at what is there.
pub(crate) fn read(root: &Root) -> Result<HostStatus, JobError> {
    let current = releases::current(root)?.live();
    let releases = releases::list(root)?;
    let previous = current.as_ref().and_then(|current| releases::previous(&releases, current));
    let locked_by = match lock::holder(&root.lock()) {
        // Only its owner may look into the private directory; the rest of the status is worth having.
        Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => None,
        holder => holder?.map(|holder| holder.run),
    };
    let info = |release: releases::Release| {
        let record = release.record;
        ReleaseInfo {
            id: release.id,
            app: record.as_ref().map(|record| record.manifest.app.clone()),
            artifact: record.as_ref().map(|record| record.manifest.file_name.clone()),
            digest: record.as_ref().map(|record| record.manifest.digest),
            size: record.as_ref().map(|record| record.manifest.size),
            staged_at: record.as_ref().map(|record| record.staged_at.clone()),
            by: record.as_ref().and_then(|record| record.by.clone()),
            activated_at: record.and_then(|record| record.activated_at),
        }
    };
    Ok(HostStatus {
        deploy_to: root.path().display().to_string(),
        current,
        previous,
        releases: releases.into_iter().map(info).collect(),
        locked_by,
    })
}
