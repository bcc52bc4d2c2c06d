//! One connection to a server, through a proxy where the environment names one (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`).

use std::{io, net::IpAddr, pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::HeaderValue,
};
use hyper_util::{
    client::proxy::matcher::{Intercept, Matcher},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use url::{Host, Url};

use super::{HttpError, resolve};

/// Memory for what has come and is not taken yet.
const BUFFER: usize = 64 << 10;
/// The longest answer of a proxy to a request for a tunnel.
const MAX_TUNNEL_ANSWER: usize = 8 << 10;

/// A connection's bytes.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
type Stream = Box<dyn Duplex>;

/// A body of no bytes.
pub(crate) type NoBody = Empty<Bytes>;
type Connection = http1::Connection<TokioIo<Stream>, NoBody>;

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    secure: bool,
    host: Host<String>,
    port: u16,
}

impl Place {
    /// Returns where an address leads.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let secure = url.scheme() == "https";
        let host = url.host()?.to_owned();
        Some(Self { secure, host, port: url.port_or_known_default()? })
    }

    /// Returns whether what is sent there is encrypted.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    fn shown(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// What connections are made with.
pub(crate) struct Dialer<'a> {
    pub(crate) limit: Duration,
    /// Where the server's name led elsewhere.
    pub(crate) known: &'a [IpAddr],
    pub(crate) proxies: &'a Matcher,
    pub(crate) tls: Option<Secure<'a>>,
}

/// How encrypted connections are made.
pub(crate) struct Secure<'a> {
    pub(crate) connector: &'a TlsConnector,
    /// Who has to be there, if not who is dialled.
    pub(crate) expects: Option<ServerName<'static>>,
}

/// A connection. It moves only while one of its methods is awaited.
pub(crate) struct Line {
    place: Place,
    sender: SendRequest<NoBody>,
    /// None once it has ended.
    connection: Option<Pin<Box<Connection>>>,
    /// The proxy that requests go through in full, with what it wants to know.
    proxy: Option<Option<HeaderValue>>,
}

impl Line {
    /// Connects.
    pub(crate) async fn open(place: &Place, dialer: &Dialer<'_>) -> Result<Self, HttpError> {
        let limit = dialer.limit;
        let opened = timeout(limit, Self::establish(place, dialer)).await;
        opened.map_err(|_| HttpError::Timeout { what: "connecting", limit })?
    }

    async fn establish(place: &Place, dialer: &Dialer<'_>) -> Result<Self, HttpError> {
        let scheme = if place.secure { "https" } else { "http" };
        let uri: Option<Uri> = format!("{scheme}://{}/", place.shown()).parse().ok();
        let proxy = uri.and_then(|uri| dialer.proxies.intercept(&uri));
        let mut stream: Stream = match &proxy {
            None => Box::new(connect(&as_ref(&place.host), place.port, dialer.known).await?),
            Some(proxy) => Box::new(connect_to_proxy(proxy).await?),
        };
        if let (Some(proxy), true) = (&proxy, place.secure) {
            open_tunnel(&mut stream, place, proxy).await?;
        }
        if let Some(tls) = dialer.tls.as_ref().filter(|_| place.secure) {
            stream = Box::new(tls.secure(place, stream).await?);
        }
        let (sender, connection) = http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await?;
        let in_full = proxy.filter(|_| !place.secure).map(|proxy| proxy.basic_auth().cloned());
        Ok(Self { place: place.clone(), sender, connection: Some(Box::pin(connection)), proxy: in_full })
    }

    /// Returns whether it leads there.
    pub(crate) fn leads_to(&self, place: &Place) -> bool {
        self.place == *place
    }

    /// Returns whether no end of it is known.
    pub(crate) fn lives(&self) -> bool {
        self.connection.is_some() && !self.sender.is_closed()
    }

    /// Returns the address and the header for the proxy with which a request is sent on this connection.
    pub(crate) fn target<'a>(&'a self, url: &'a Url) -> (&'a str, Option<&'a HeaderValue>) {
        match &self.proxy {
            Some(auth) => (&url[..url::Position::AfterQuery], auth.as_ref()),
            None => (&url[url::Position::BeforePath..url::Position::AfterQuery], None),
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(&mut self, request: Request<NoBody>) -> Result<Response<Incoming>, hyper::Error> {
        let Self { sender, connection, .. } = self;
        drive(connection, async {
            sender.ready().await?;
            sender.send_request(request).await
        })
        .await
    }

    /// Waits for something that comes over this connection.
    pub(crate) async fn drive<T>(&mut self, future: impl Future<Output = T>) -> T {
        drive(&mut self.connection, future).await
    }
}

/// Keeps a connection moving until something that depends on it has happened.
async fn drive<T>(connection: &mut Option<Pin<Box<Connection>>>, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    if let Some(moving) = connection {
        tokio::select! {
            biased;
            done = &mut future => return done,
            // Whoever waits for an answer hears of the end.
            _ = moving.as_mut() => *connection = None,
        }
    }
    future.await
}

fn as_ref(host: &Host<String>) -> Host<&str> {
    match host {
        Host::Domain(name) => Host::Domain(name),
        Host::Ipv4(ip) => Host::Ipv4(*ip),
        Host::Ipv6(ip) => Host::Ipv6(*ip),
    }
}

/// Tries a host's addresses, one after the other.
async fn connect(host: &Host<&str>, port: u16, known: &[IpAddr]) -> Result<TcpStream, HttpError> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for addr in resolve::addresses(host, port, known).await? {
        match TcpStream::connect(addr).await {
            Ok(stream) => {
                // Without it the only loss is time.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(HttpError::Connect { to: format!("{host}:{port}"), source: last })
}

/// Returns an error about a proxy.
fn by_proxy(proxy: &Intercept, why: impl Into<String>) -> HttpError {
    let uri = proxy.uri();
    HttpError::Proxy { proxy: uri.authority().map_or_else(|| "?".to_owned(), ToString::to_string), why: why.into() }
}

async fn connect_to_proxy(proxy: &Intercept) -> Result<TcpStream, HttpError> {
    let uri = proxy.uri();
    if uri.scheme_str() != Some("http") {
        return Err(by_proxy(proxy, "only proxies whose address starts with http:// can be used"));
    }
    let host = uri.host().and_then(|host| Host::parse(host).ok()).ok_or_else(|| by_proxy(proxy, "no such address"))?;
    let connected = connect(&as_ref(&host), uri.port_u16().unwrap_or(80), &[]).await;
    connected.map_err(|error| match error {
        HttpError::Connect { source, .. } => by_proxy(proxy, source.to_string()),
        other => by_proxy(proxy, other.to_string()),
    })
}

/// Asks a proxy for a connection to a server (RFC 9110, section 9.3.6).
async fn open_tunnel(stream: &mut Stream, place: &Place, proxy: &Intercept) -> Result<(), HttpError> {
    let to = place.shown();
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(auth) = proxy.basic_auth() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(auth.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let exchange = async {
        stream.write_all(&request).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows is not for us to read.
        while !answer.ends_with(b"\r\n\r\n") && answer.len() < MAX_TUNNEL_ANSWER {
            answer.push(stream.read_u8().await?);
        }
        Ok::<_, io::Error>(answer)
    };
    let answer = exchange.await.map_err(|error| by_proxy(proxy, error.to_string()))?;
    let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(by_proxy(proxy, format!("it answered `{}`", line.escape_debug().take(80).collect::<String>()))),
    }
}

impl Secure<'_> {
    async fn secure(&self, place: &Place, stream: Stream) -> Result<impl Duplex + use<>, HttpError> {
        let to = place.shown();
        let dialled = || match &place.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).ok(),
            Host::Ipv4(ip) => Some(ServerName::from(IpAddr::from(*ip))),
            Host::Ipv6(ip) => Some(ServerName::from(IpAddr::from(*ip))),
        };
        let name = self.expects.clone().or_else(dialled).ok_or_else(|| HttpError::Resolve(to.clone()))?;
        self.connector.connect(name, stream).await.map_err(|source| HttpError::Tls { to, source })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with `answer` and returns its head.
    async fn proxy(answer: &'static str) -> (Matcher, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://user:secret@{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (Matcher::builder().all(address).no("direct.invalid").build(), task)
    }

    fn dialer(proxies: &Matcher) -> Dialer<'_> {
        Dialer { limit: Duration::from_secs(20), known: &[], proxies, tls: None }
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_the_whole_address() {
        let (proxies, asked) = proxy("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        let url = Url::parse("http://origin.invalid:81/a?b=c#d").unwrap();
        let mut line = Line::open(&Place::of(&url).unwrap(), &dialer(&proxies)).await.unwrap();
        let (target, auth) = line.target(&url);
        let request = Request::get(target).header("proxy-authorization", auth.unwrap()).body(NoBody::new()).unwrap();
        let response = line.send(request).await.unwrap();
        assert_eq!(line.drive(response.into_body().collect()).await.unwrap().to_bytes(), "hi");
        let head = asked.await.unwrap();
        assert!(head.starts_with("GET http://origin.invalid:81/a?b=c HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("Basic dXNlcjpzZWNyZXQ="), "{head}");
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_a_tunnel_where_it_may_not_look_inside() {
        let (proxies, asked) = proxy("HTTP/1.1 403 Not here\r\n\r\n").await;
        let place = Place::of(&Url::parse("https://origin.invalid/a").unwrap()).unwrap();
        let error = Line::open(&place, &dialer(&proxies)).await.err().unwrap().to_string();
        assert!(error.contains("403 Not here") && !error.contains("secret"), "{error}");
        let head = asked.await.unwrap();
        assert!(head.starts_with("CONNECT origin.invalid:443 HTTP/1.1\r\nHost: origin.invalid:443\r\n"), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ="), "{head}");
    }

    #[tokio::test]
    async fn some_servers_are_for_no_proxy() {
        let (proxies, _) = proxy("").await;
        let place = Place::of(&Url::parse("http://direct.invalid/").unwrap()).unwrap();
        assert!(matches!(Line::open(&place, &dialer(&proxies)).await, Err(HttpError::Resolve(_))));
        let socks = Matcher::builder().all("socks5://127.0.0.1:1").build();
        let place = Place::of(&Url::parse("http://origin.invalid/").unwrap()).unwrap();
        let error = Line::open(&place, &dialer(&socks)).await.err().unwrap().to_string();
        assert!(error.contains("only proxies whose address starts with http://"), "{error}");
    }
}
