//! Ctrl-C (or SIGTERM, which is how a CI runner cancels): once stops cleanly, twice stops at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{CommandError, ResultExt, exit};

/// Watches both signals from now on and returns the token that the first one cancels. The second one ends the process.
pub fn watch() -> Result<CancellationToken, CommandError> {
    let listen = |kind| signal(kind).or_internal("cannot watch for signals");
    let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let token = CancellationToken::new();
    tokio::spawn(obey(interrupt, terminate, token.clone()));
    Ok(token)
}

async fn obey(mut interrupt: Signal, mut terminate: Signal, token: CancellationToken) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
        if token.is_cancelled() {
            // Agents notice that their channel ends and stop by themselves.
            std::process::exit(i32::from(exit::INTERRUPTED));
        }
        token.cancel();
    }
}

/// Watches for SIGUSR1 from now on and returns the token that it cancels: hosts are to exchange nothing any more.
pub fn swarm_off() -> Result<CancellationToken, CommandError> {
    let mut asked = signal(SignalKind::user_defined1()).or_internal("cannot watch for signals")?;
    let token = CancellationToken::new();
    let watched = token.clone();
    tokio::spawn(async move {
        // A runtime that ends ends this, too.
        asked.recv().await;
        watched.cancel();
    });
    Ok(token)
}
