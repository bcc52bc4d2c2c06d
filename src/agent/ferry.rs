//! The way to the controller where SSH forwards no ports: a process of its own that carries one stream between a port on the host's
//! loopback and its standard streams, which are an SSH channel.
//!
//! Promises: it listens on the loopback only, takes one stream and no second one, and ends with whichever side ends first, or when nobody
//! came for a while. Never looks at what it carries.

use std::{io, net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::wire::ferry_line;

/// How long it waits for its stream.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that wait in each direction.
const BUFFER: usize = 64 << 10;

/// Tells where it listens, then carries one stream.
pub(super) async fn run() -> io::Result<()> {
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    output.write_all(ferry_line(listener.local_addr()?.port()).as_bytes()).await?;
    output.flush().await?;
    let stream = tokio::select! {
        accepted = timeout(PATIENCE, listener.accept()) => accepted.map_err(|_| io::ErrorKind::TimedOut)??.0,
        // The other side speaks second: until then this is its end.
        _ = input.read_u8() => return Ok(()),
    };
    drop(listener);
    stream.set_nodelay(true)?;
    carry(stream, input, output).await
}

async fn carry(stream: TcpStream, input: tokio::io::Stdin, mut output: tokio::io::Stdout) -> io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let mut input = tokio::io::BufReader::with_capacity(BUFFER, input);
    let outward = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            output.write_all(&buffer[..read]).await?;
            // Requests are small, and wait for no more.
            output.flush().await?;
        }
    };
    tokio::select! {
        ended = outward => ended,
        ended = tokio::io::copy_buf(&mut input, &mut to) => ended.map(|_| ()),
    }
}
