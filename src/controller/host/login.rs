//! The login before a confirmation: a release that keeps the controller out must not stay.

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::timeout;

use super::{super::transport::Transport, HostTask};
use crate::model::{FailureKind, HostFailure, HostState};

/// A login that is under way, if one is.
#[derive(Default)]
pub(super) struct Login(Option<BoxFuture<'static, Result<(), HostFailure>>>);

impl Login {
    /// Waits until it is done; for ever if none is under way. Cancel-safe.
    pub(super) async fn done(&mut self) -> Result<(), HostFailure> {
        let Some(login) = &mut self.0 else { return std::future::pending().await };
        let result = login.await;
        self.0 = None;
        result
    }
}

impl HostTask {
    /// Begins to log in by a connection of its own, which is closed at once. The host waits no longer than its time for the
    /// confirmation, so neither does this.
    pub(super) fn log_in_anew(&self) -> Login {
        let (connector, entry, target, limit) =
            (self.connector.clone(), self.entry.clone(), self.target.clone(), self.plan.confirm());
        let login = async move {
            match timeout(limit, Transport::open(&connector, &entry, &target)).await {
                Ok(Ok(transport)) => {
                    transport.close().await;
                    Ok(())
                }
                Ok(Err(refused)) => Err(refused.failure),
                Err(_) => {
                    let message = format!("no login within {} s", limit.as_secs());
                    Err(HostFailure::new(FailureKind::Unreachable, HostState::Checking, message))
                }
            }
        };
        Login(Some(login.boxed()))
    }
}
