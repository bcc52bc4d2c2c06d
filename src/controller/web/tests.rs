use std::{net::Ipv4Addr, time::Instant};

use http_body_util::Empty;
use hyper::header::HOST;
use sha1::{Digest as _, Sha1};

use super::*;

const LENGTH: usize = (1 << 20) + 12_345;
const PIECE: usize = 64 << 10;

struct Rig {
    _dir: tempfile::TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    server: WebServer,
}

fn rig(limit: Option<u64>) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("artifact");
    let bytes: Vec<u8> = (0..LENGTH as u32).map(|at| (at * 13 / 7) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let hashes = bytes.chunks(PIECE).map(|piece| Sha1::digest(piece).into()).collect();
    let metainfo = Arc::new(Metainfo::new("artifact", LENGTH as u64, PIECE as u32, hashes).unwrap());
    let key = TrackerKey::from_bytes([7; 16]);
    let served = Served { path: path.clone(), metainfo, key, upload: Throttle::new(limit), tls: None };
    let server = WebServer::start((Ipv4Addr::LOCALHOST, 0).into(), None, served).unwrap();
    Rig { _dir: dir, path, bytes, server }
}

/// Asks on a connection of its own; the body is none where the connection broke in it.
async fn ask(server: SocketAddr, method: Method, path: &str, range: Option<&str>) -> (Response<()>, Option<Bytes>) {
    try_to_ask(server, method, path, range).await.unwrap()
}

/// The same; none where the connection broke before an answer began.
async fn try_to_ask(
    server: SocketAddr,
    method: Method,
    path: &str,
    range: Option<&str>,
) -> Option<(Response<()>, Option<Bytes>)> {
    let stream = TcpStream::connect(server).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(HOST, "controller");
    if let Some(range) = range {
        request = request.header(RANGE, range);
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.ok()?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.ok().map(|body| body.to_bytes());
    drop(sender);
    let _ = driver.await;
    Some((Response::from_parts(head, ()), body))
}

fn key_path() -> String {
    let url = TrackerKey::from_bytes([7; 16]).artifact_url("127.0.0.1:1".parse().unwrap(), false);
    url.strip_prefix("http://127.0.0.1:1").unwrap().to_owned()
}

#[tokio::test]
async fn it_serves_the_whole_or_a_part_and_counts_it() {
    let rig = rig(None);
    let at = rig.server.local_addr;
    let (head, body) = ask(at, Method::GET, &key_path(), None).await;
    assert_eq!((head.status(), head.headers()[CONTENT_LENGTH].to_str().unwrap()), (StatusCode::OK, &*LENGTH.to_string()));
    assert!(body.unwrap() == rig.bytes);
    for (asked, part) in [("bytes=0-0", 0..1), ("bytes=70000-400000", 70_000..400_001), ("bytes=1000000-", 1_000_000..LENGTH)] {
        let (head, body) = ask(at, Method::GET, &key_path(), Some(asked)).await;
        assert_eq!(head.status(), StatusCode::PARTIAL_CONTENT);
        let told = format!("bytes {}-{}/{LENGTH}", part.start, part.end - 1);
        assert_eq!(head.headers()[CONTENT_RANGE], told);
        assert!(body.unwrap() == rig.bytes[part], "{asked}");
    }
    let (head, _) = ask(at, Method::GET, &key_path(), Some("bytes=9999999-")).await;
    assert_eq!(head.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(head.headers()[CONTENT_RANGE], format!("bytes */{LENGTH}"));
    let sent = rig.server.stop().await;
    assert_eq!(sent as usize, LENGTH + 1 + 330_001 + LENGTH - 1_000_000);
    assert!(TcpStream::connect(at).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn who_does_not_know_the_key_learns_nothing() {
    let rig = rig(None);
    let at = rig.server.local_addr;
    let path = key_path();
    for wrong in ["/", "/artifact", &path[..path.len() - 1], &format!("{path}x"), &path.replace('7', "8")] {
        let (head, body) = ask(at, Method::GET, wrong, None).await;
        assert_eq!((head.status(), body.unwrap().len()), (StatusCode::NOT_FOUND, 0), "{wrong}");
    }
    assert_eq!(ask(at, Method::POST, &path, None).await.0.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(rig.server.stop().await, 0);
}

#[tokio::test]
async fn it_keeps_to_the_limit() {
    let rig = rig(Some(1 << 20));
    let began = Instant::now();
    let (_, body) = ask(rig.server.local_addr, Method::GET, &key_path(), None).await;
    assert!(body.unwrap() == rig.bytes);
    let took = began.elapsed().as_secs_f64();
    assert!(took > 0.8, "{took} s");
    rig.server.stop().await;
}

#[tokio::test]
async fn an_artifact_that_changed_is_an_error_and_nothing_of_it_is_sent() {
    let mut rig = rig(None);
    let mut other = rig.bytes.clone();
    other[0] ^= 1;
    let at = rig.server.local_addr;
    assert_eq!(ask(at, Method::GET, &key_path(), Some("bytes=100000-100000")).await.0.status(), StatusCode::PARTIAL_CONTENT);
    std::fs::write(&rig.path, other).unwrap();
    let body = try_to_ask(at, Method::GET, &key_path(), None).await.and_then(|(_, body)| body);
    assert!(body.is_none(), "an answer that is not all there looks complete");
    assert!(matches!(rig.server.failed().await, EngineError::SourceChanged { .. }));
    rig.server.stop().await;
}

#[test]
fn what_is_asked_for() {
    let of = |value: &str| asked(&HeaderMap::from_iter([(RANGE, value.parse().unwrap())]), 100);
    assert_eq!(asked(&HeaderMap::new(), 100), Asked::Whole);
    for (value, range) in [("bytes=0-99", 0..100), ("bytes=5-", 5..100), ("bytes=5-999", 5..100), ("bytes=99-99", 99..100)] {
        assert_eq!(of(value), Asked::Part(range), "{value}");
    }
    for value in ["bytes=100-", "bytes=100-200", "bytes=18446744073709551615-"] {
        assert_eq!(of(value), Asked::Nothing, "{value}");
    }
    for value in ["", "bytes", "bytes=", "bytes=-5", "bytes=5-4", "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "bytes=+1-2"] {
        assert_eq!(of(value), Asked::Whole, "{value}");
    }
}
