//! One announce over HTTP: no proxy, no redirect, bounded in time and size.

use std::{net::SocketAddr, time::Duration};

use hyper::StatusCode;
use tokio::time::timeout;
use url::Url;

use super::{
    AnnounceError, Exchange,
    reply::{self, Filter, MAX_REPLY, Reply},
    request::Request,
};
use crate::{
    http::{self, HttpError},
    swarm::Tls,
};

/// A connection must be there after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The client for one announce URL.
pub(super) struct Http {
    url: String,
    /// What proves who we are, and who the tracker is.
    tls: Option<Tls>,
    /// True if the tracker is on this machine's loopback.
    loopback: bool,
    /// How long one exchange may take.
    limit: Duration,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http(..)")
    }
}

impl Http {
    /// Checks `url`, which is an `https://` one where there is `tls` and an `http://` one otherwise; each exchange takes at most `limit`.
    pub(super) fn new(url: &str, tls: Option<Tls>, limit: Duration) -> Result<Self, AnnounceError> {
        let parsed = Url::parse(url).map_err(|_| AnnounceError::Url("not a URL"))?;
        match (parsed.scheme(), &tls) {
            ("http", None) | ("https", Some(_)) => {}
            ("http", Some(_)) => return Err(AnnounceError::Url("an encrypted run's tracker is an https:// one")),
            _ => return Err(AnnounceError::Url("only http:// is supported where nothing is encrypted")),
        }
        if parsed.fragment().is_some() {
            return Err(AnnounceError::Url("it has a fragment"));
        }
        let host = parsed.host_str().ok_or(AnnounceError::Url("it names no host"))?;
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let loopback = address.map_or(host == "localhost", |address| address.to_canonical().is_loopback());
        Ok(Self { url: url.to_owned(), tls, loopback, limit })
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, AnnounceError> {
        let url = Url::parse(url).map_err(|_| AnnounceError::Url("not a URL"))?;
        let (limit, tls) = (self.limit, self.tls.as_ref().map(Tls::to_controller));
        let exchange = async {
            let mut answer = http::get(&url, CONNECT_TIMEOUT.min(limit), tls).await.map_err(AnnounceError::Http)?;
            if answer.status != StatusCode::OK {
                return Err(AnnounceError::Status(answer.status.as_u16()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = answer.next().await.map_err(AnnounceError::Http)? {
                if body.len() + chunk.len() > MAX_REPLY {
                    return Err(AnnounceError::TooLong(MAX_REPLY));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body)
        };
        let late = |_| AnnounceError::Http(HttpError::Timeout { what: "an answer", limit });
        timeout(limit, exchange).await.map_err(late)?
    }
}

impl Exchange for Http {
    async fn announce(&self, request: &Request) -> Result<Reply, AnnounceError> {
        let body = self.get(&request.url(&self.url)).await?;
        let mut reply = reply::parse(&body)?;
        let own = request.advertise.map(|address| SocketAddr::new(address, request.port));
        reply.peers = Filter { loopback: self.loopback, own }.select(reply.peers);
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use librqbit_core::hash_id::Id;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{controller::Authority, swarm::announce::AnnounceProgress};

    const REQUEST: Request = Request {
        info_hash: Id([1; 20]),
        peer_id: Id([2; 20]),
        port: 7,
        advertise: None,
        progress: AnnounceProgress { uploaded: 0, downloaded: 0, left: 1 },
        event: None,
    };

    /// Serves one connection: `head`, then `chunk` until the client hangs up if it is not empty, then nothing.
    async fn announce_to(head: String, chunk: &'static [u8]) -> Result<Reply, AnnounceError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secretkey/announce", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            while !chunk.is_empty() && stream.write_all(chunk).await.is_ok() {}
            let _ = stream.read(&mut [0; 16]).await;
        });
        let answer = Http::new(&url, None, Duration::from_millis(500)).unwrap().announce(&REQUEST).await;
        server.await.unwrap();
        if let Err(error) = &answer {
            let text = format!("{error} {error:?} {:?}", error.source().map(ToString::to_string));
            assert!(!text.contains("secretkey"), "{text}");
        }
        answer
    }

    #[tokio::test]
    async fn an_answer_is_read_and_filtered() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\nd5:peers12:\x7f\0\0\x01\0\x01\n\0\0\x01\0\0e";
        let reply = announce_to(head.into(), b"").await.unwrap();
        assert_eq!(reply.peers, ["127.0.0.1:1".parse().unwrap()]);
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let answer = announce_to("HTTP/1.1 200 OK\r\n\r\nd".into(), &[b'9'; 65536]).await;
        assert!(matches!(answer, Err(AnnounceError::TooLong(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_times_out() {
        let answer = announce_to("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nd".into(), b"").await;
        assert!(matches!(&answer, Err(AnnounceError::Http(HttpError::Timeout { .. }))), "{answer:?}");
    }

    #[tokio::test]
    async fn redirects_are_not_followed_and_other_statuses_are_errors() {
        let head = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(announce_to(head.into(), b"").await, Err(AnnounceError::Status(302))));
        let head = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(announce_to(head.into(), b"").await, Err(AnnounceError::Status(404))));
        assert!(matches!(announce_to("SSH-2.0-x\r\n".into(), b"").await, Err(AnnounceError::Http(_))));
    }

    #[test]
    fn an_encrypted_runs_tracker_has_an_https_url() {
        let tls = Tls::new(&Authority::new().unwrap().member().unwrap()).unwrap();
        assert!(Http::new("https://127.0.0.1:1/a", Some(tls.clone()), CONNECT_TIMEOUT).is_ok());
        assert!(matches!(Http::new("http://127.0.0.1:1/a", Some(tls), CONNECT_TIMEOUT), Err(AnnounceError::Url(_))));
    }

    #[test]
    fn only_http_urls_are_taken() {
        for bad in ["", "announce", "https://h/a", "udp://h:1/a", "file:///etc/passwd", "http://h/a#b"] {
            assert!(matches!(Http::new(bad, None, CONNECT_TIMEOUT), Err(AnnounceError::Url(_))), "{bad}");
        }
        for (url, loopback) in [
            ("http://127.0.0.9:1/a", true),
            ("http://[::1]/a", true),
            ("http://localhost/a", true),
            ("http://10.0.0.1/a", false),
        ] {
            assert_eq!(Http::new(url, None, CONNECT_TIMEOUT).unwrap().loopback, loopback, "{url}");
        }
    }
}
