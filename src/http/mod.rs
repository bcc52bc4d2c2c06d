//! HTTP/1.1 as a client, over hyper: one connection, one request after the other, and no more than that.
//!
//! Promises: memory for an answer does not depend on its length; names are looked up as the host does ([`resolve`](self), never through
//! `getaddrinfo`, which a static binary must not use); no error holds an address's path, query or headers. Times are the
//! caller's to bound. Follows no redirection, keeps no cookie, knows no cache.
//!
//! # Why not reqwest
//! It brings `getaddrinfo`, and with it 750 KB of the C library's resolver and loader into the static agent; its TLS brings a verifier and a
//! connector of its own; and it has no bound for a connection's buffer. hyper, which is below it, is all that is needed.

mod error;
mod line;
mod resolve;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, HOST, USER_AGENT},
};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::time::timeout;
use url::{Position, Url};

pub use error::HttpError;
pub(crate) use line::{Dialer, Line, NoBody, Place, Secure};

/// How we call ourselves.
pub(crate) const AGENT: &str = concat!("fleetdrop/", env!("CARGO_PKG_VERSION"));

/// An answer, of which the head has come.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    line: Line,
}

/// Asks for an address, over a connection of its own that must stand within `connect`, without any proxy. An `https://` address needs `tls`.
pub(crate) async fn get(url: &Url, connect: Duration, tls: Option<Secure<'_>>) -> Result<Answer, HttpError> {
    let place = Place::of(url).filter(|place| place.is_secure() == tls.is_some());
    let place = place.ok_or_else(|| HttpError::Resolve("the address".to_owned()))?;
    let dialer = Dialer { limit: connect, known: &[], proxies: &Matcher::builder().build(), tls };
    let mut line = Line::open(&place, &dialer).await?;
    let request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
        .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .body(NoBody::new())
        .map_err(|_| HttpError::Resolve("the address".to_owned()))?;
    let response = line.send(request).await?;
    Ok(Answer::new(response, line))
}

impl Answer {
    /// Puts an answer together with the connection that it comes over.
    pub(crate) fn new(response: Response<Incoming>, line: Line) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body, line }
    }

    /// Waits for more of the body, at most so long; none at its end.
    pub(crate) async fn chunk(&mut self, limit: Duration) -> Result<Option<Bytes>, HttpError> {
        let came = timeout(limit, self.next()).await;
        came.map_err(|_| HttpError::Timeout { what: "more of the answer", limit })?
    }

    /// Waits for more of the body; none at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        let Self { body, line, .. } = self;
        loop {
            match line.drive(body.frame()).await {
                None => return Ok(None),
                Some(frame) => {
                    // Trailers are of no interest.
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Returns the first bytes of the body, at most so many.
    pub(crate) async fn beginning(&mut self, most: usize) -> Vec<u8> {
        let mut beginning = Vec::new();
        while beginning.len() < most
            && let Ok(Some(more)) = self.next().await
        {
            beginning.extend_from_slice(&more);
        }
        beginning.truncate(most);
        beginning
    }

    /// Returns the connection, for the next request. The body must have been read to its end.
    pub(crate) fn into_line(self) -> Line {
        self.line
    }
}
