//! What can go wrong with a request.

use std::{io, time::Duration};

/// Says why a request came to nothing. No text holds an address's path, query or headers.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The name leads nowhere.
    #[error("the name {0} was not found")]
    Resolve(String),
    /// No connection came about.
    #[error("can't connect to {to}")]
    Connect {
        /// Where to.
        to: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The other side did not prove who it is, or speaks no TLS.
    #[error("no TLS connection to {to}")]
    Tls {
        /// To whom.
        to: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The certificates to trust can't be used.
    #[error("{0}")]
    Certificates(String),
    /// The proxy does not help.
    #[error("the proxy {proxy}: {why}")]
    Proxy {
        /// Which.
        proxy: String,
        /// What it does.
        why: String,
    },
    /// Nothing came for too long.
    #[error("{what} took longer than {}", humantime::format_duration(*.limit))]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        limit: Duration,
    },
    /// The exchange broke.
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    /// Another status than was hoped for.
    #[error("it answered with {}", status_text(*.0))]
    Status(u16),
    /// It is busy.
    #[error("it is busy for {}", humantime::format_duration(*.0))]
    Busy(Duration),
    /// It leads on and on, or where nobody should go.
    #[error("its redirection is no good: {0}")]
    Redirect(&'static str),
    /// It answers with other bytes than were asked for.
    #[error("{0}")]
    Answer(String),
}

impl HttpError {
    /// Returns it with what is below it.
    pub(crate) fn chain(&self) -> String {
        let below = std::iter::successors(std::error::Error::source(self), |error| error.source());
        below.fold(self.to_string(), |told, error| format!("{told}: {error}"))
    }

    /// Returns whether the server was never reached: from elsewhere it may be.
    pub(crate) fn is_unreached(&self) -> bool {
        matches!(self, Self::Resolve(_) | Self::Connect { .. } | Self::Proxy { .. } | Self::Timeout { .. })
    }

    /// Returns whether it may be better soon.
    pub(crate) fn may_pass(&self) -> bool {
        self.is_unreached() || matches!(self, Self::Status(500..) | Self::Busy(_) | Self::Http(_))
    }
}

fn status_text(status: u16) -> String {
    let known = hyper::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    known.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}
