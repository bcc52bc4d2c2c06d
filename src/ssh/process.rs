//! One command on a host: its three streams and how it ended.
//!
//! russh gives back window as soon as data arrives, not when it is read, and its session loop waits when a channel's queue
//! is full: left alone, one unread stream would stop everything else on the connection for good. So each channel has a task here
//! that keeps draining it into two bounded queues. While a queue is full the connection waits (that is the back-pressure); when
//! nobody takes anything from a full queue for [`STALL_LIMIT`] the command is given up, with an error that says so.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use russh::{ChannelMsg, Sig, client::Msg};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    sync::{Notify, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{SshError, link::Life};

#[cfg(test)]
mod tests;

/// How much of one stream waits for its reader before the host is made to wait.
const QUEUE: usize = 4 << 20;
/// What a waiting piece costs beyond its bytes, so that a host that sends single bytes fills a queue too.
const PIECE: usize = 64;
/// How long a full queue may go without being read before the command is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// How much the writer of stdin may be ahead of the connection.
const STDIN_BUFFER: usize = 256 << 10;
/// The largest piece of stdin sent at once: what OpenSSH takes in one packet.
const STDIN_CHUNK: usize = 32 << 10;
/// The extended data type of stderr, RFC 4254 section 5.2.
const STDERR: u32 = 1;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code; 0 is success.
    Code(u32),
    /// A signal ended it; the name is without `SIG`, for example `KILL`.
    Signal(String),
}

impl ExitStatus {
    /// True if the command exited with 0.
    pub fn success(&self) -> bool {
        matches!(self, Self::Code(0))
    }

    /// Returns the exit code, if it exited.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Code(code) => Some(*code),
            Self::Signal(_) => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// A running command. The streams are independent: each may be read, written or dropped in any order and by any task.
///
/// Dropping `stdin` (or shutting it down) is end of input for the command; dropping `stdout` or `stderr` discards what comes.
/// When all parts are dropped the channel is closed. Bytes wait in bounded queues: a reader that does not read makes the host
/// wait, and after 30 s without any progress the command is given up with an error on the stream.
pub struct Process {
    /// The command's standard input.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// The command's standard output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// The command's standard error.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Resolves when the host says how the command ended, or when the connection is lost. Output may still follow.
    pub exit: BoxFuture<'static, Result<ExitStatus, SshError>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

/// Bounds of a command that is run to its end.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// How long it may take from start to exit.
    pub timeout: Duration,
    /// How many bytes each of stdout and stderr may have.
    pub max_output: usize,
}

impl Default for RunLimits {
    /// One minute, 1 MiB.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60), max_output: 1 << 20 }
    }
}

/// What a command that ran to its end left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Process {
    /// Runs the process to its end: feeds `input`, collects both outputs. It is given up when a limit is passed; `address` is for the
    /// error's text.
    pub async fn finish(self, address: &str, input: &[u8], limits: RunLimits) -> Result<Output, SshError> {
        let Self { mut stdin, stdout, stderr, exit } = self;
        let feed = async move {
            // A command need not read its input, so a broken pipe is no failure.
            if stdin.write_all(input).await.is_ok() {
                let _ = stdin.shutdown().await;
            }
            Ok(())
        };
        let all = async {
            tokio::try_join!(
                feed,
                read_bounded(address, "standard output", stdout, limits.max_output),
                read_bounded(address, "standard error", stderr, limits.max_output),
                exit,
            )
        };
        match timeout(limits.timeout, all).await {
            Ok(done) => done.map(|((), stdout, stderr, status)| Output { status, stdout, stderr }),
            Err(_) => Err(SshError::Timeout { address: address.to_owned(), what: "the command", limit: limits.timeout }),
        }
    }
}

async fn read_bounded(
    address: &str,
    what: &'static str,
    mut stream: Box<dyn AsyncRead + Send + Unpin>,
    limit: usize,
) -> Result<Vec<u8>, SshError> {
    let mut bytes = Vec::new();
    let read = (&mut stream).take(limit as u64 + 1).read_to_end(&mut bytes).await;
    read.map_err(|error| SshError::io(address, what, error))?;
    if bytes.len() > limit {
        return Err(SshError::OutputTooLarge { address: address.to_owned(), limit });
    }
    Ok(bytes)
}

/// A channel with a command already started on it, or a tunnel.
pub(super) type Channel = russh::Channel<Msg>;

/// Turns a channel with a started command into a [`Process`].
pub(super) fn start(channel: Channel, life: &Life) -> Process {
    let (exit_tx, exit_rx) = oneshot::channel();
    let (stdin, stdout, stderr) = pump(channel, life, exit_tx);
    let address = life.address().to_owned();
    let exit = async move { exit_rx.await.unwrap_or(Err(SshError::NoStatus { address })) };
    Process { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), exit: Box::pin(exit) }
}

/// Turns a `direct-tcpip` channel into a byte stream.
pub(super) fn tunnel(channel: Channel, life: &Life) -> impl AsyncRead + AsyncWrite + Send + Unpin + use<> {
    let (exit_tx, _) = oneshot::channel();
    let (stdin, stdout, _) = pump(channel, life, exit_tx);
    tokio::io::join(stdout, stdin)
}

fn pump(channel: Channel, life: &Life, exit: oneshot::Sender<ExitResult>) -> (DuplexStream, Reader, Reader) {
    let (read_half, write_half) = channel.split();
    let write_half = Arc::new(write_half);
    let (stdin, stdin_source) = tokio::io::duplex(STDIN_BUFFER);
    let (out, err) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
    let over = CancellationToken::new();
    life.spawn(feed_stdin(stdin_source, write_half.clone(), over.clone()));
    let demux = Demux { life: life.clone(), out: out.clone(), err: err.clone(), exit: Some(exit), over };
    life.spawn(demux.run(read_half, write_half));
    (stdin, Reader(out), Reader(err))
}

type ExitResult = Result<ExitStatus, SshError>;
type WriteHalf = russh::ChannelWriteHalf<Msg>;

/// Sends what the user writes until the user is done or the channel is over; then the user's next write is a broken pipe.
async fn feed_stdin(mut source: DuplexStream, channel: Arc<WriteHalf>, over: CancellationToken) {
    let feed = async {
        let mut buffer = BytesMut::with_capacity(4 * STDIN_CHUNK);
        loop {
            buffer.reserve(STDIN_CHUNK);
            match source.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => channel.data_bytes(buffer.split().freeze()).await?,
            }
        }
        channel.eof().await
    };
    tokio::select! {
        // A window that never opens again must not keep this task: russh does not wake a writer when its channel closes.
        () = over.cancelled() => {}
        result = feed => {
            if let Err(error) = result {
                tracing::debug!(%error, "standard input of a command ended");
            }
        }
    }
}

struct Demux {
    life: Life,
    out: Arc<Queue>,
    err: Arc<Queue>,
    exit: Option<oneshot::Sender<ExitResult>>,
    over: CancellationToken,
}

/// Why draining a channel ended.
enum End {
    /// The host closed it, or the connection is gone.
    Closed,
    /// Nobody holds any part of the process any more.
    Abandoned,
    /// A full queue was not read for too long.
    Stalled,
}

impl Demux {
    async fn run(mut self, mut channel: russh::ChannelReadHalf, write_half: Arc<WriteHalf>) {
        let end = self.drain(&mut channel).await;
        // Before anything else: russh's session may be waiting for room in this receiver.
        drop(channel);
        self.over.cancel();
        let failure = match end {
            End::Closed => self.life.lost(),
            End::Abandoned => None,
            End::Stalled => Some(SshError::Timeout {
                address: self.life.address().to_owned(),
                what: "a command's output waited to be read and",
                limit: STALL_LIMIT,
            }),
        };
        self.out.end(failure.as_ref());
        self.err.end(failure.as_ref());
        if let Some(exit) = self.exit.take() {
            let error = failure.unwrap_or_else(|| SshError::NoStatus { address: self.life.address().to_owned() });
            let _ = exit.send(Err(error));
        }
        if !matches!(end, End::Closed) {
            let _ = write_half.close().await;
        }
    }

    async fn drain(&mut self, channel: &mut russh::ChannelReadHalf) -> End {
        loop {
            if !(self.out.room().await && self.err.room().await) {
                return End::Stalled;
            }
            let message = tokio::select! {
                message = channel.wait() => message,
                () = Self::abandoned(&mut self.exit, &self.out, &self.err) => return End::Abandoned,
            };
            match message {
                None | Some(ChannelMsg::Close) => return End::Closed,
                Some(ChannelMsg::Data { data }) => self.out.push(data),
                Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => self.err.push(data),
                Some(ChannelMsg::Eof) => {
                    self.out.end(None);
                    self.err.end(None);
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => self.exited(ExitStatus::Code(exit_status)),
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => self.exited(ExitStatus::Signal(signal(signal_name))),
                Some(_) => {}
            }
        }
    }

    fn exited(&mut self, status: ExitStatus) {
        if let Some(exit) = self.exit.take() {
            let _ = exit.send(Ok(status));
        }
    }

    async fn abandoned(exit: &mut Option<oneshot::Sender<ExitResult>>, out: &Queue, err: &Queue) {
        if let Some(exit) = exit {
            exit.closed().await;
        }
        out.reader_gone().await;
        err.reader_gone().await;
    }
}

/// Returns a signal's name without `SIG`.
fn signal(signal: Sig) -> String {
    match signal {
        Sig::ABRT => "ABRT".to_owned(),
        Sig::ALRM => "ALRM".to_owned(),
        Sig::FPE => "FPE".to_owned(),
        Sig::HUP => "HUP".to_owned(),
        Sig::ILL => "ILL".to_owned(),
        Sig::INT => "INT".to_owned(),
        Sig::KILL => "KILL".to_owned(),
        Sig::PIPE => "PIPE".to_owned(),
        Sig::QUIT => "QUIT".to_owned(),
        Sig::SEGV => "SEGV".to_owned(),
        Sig::TERM => "TERM".to_owned(),
        Sig::USR1 => "USR1".to_owned(),
        Sig::Custom(name) => super::error::one_line(&name),
    }
}

/// The bytes of one stream on their way from the connection to the reader.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    /// Told whenever the reader took something or went away.
    read: Notify,
}

#[derive(Default)]
struct QueueState {
    chunks: VecDeque<Bytes>,
    /// Bytes that wait, and [`PIECE`] for each chunk.
    size: usize,
    /// Bytes taken so far; what tells a slow reader from one that does not read.
    taken: u64,
    ended: Option<Option<SshError>>,
    reader: Option<Waker>,
    reader_gone: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Nothing panics while it is held; a poisoned lock still guards consistent data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, data: Bytes) {
        let mut state = self.lock();
        if state.reader_gone || state.ended.is_some() || data.is_empty() {
            return;
        }
        state.size += data.len() + PIECE;
        state.chunks.push_back(data);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Ends the stream: what is queued can still be read, then comes end of file or the error. The first end counts.
    fn end(&self, failure: Option<&SshError>) {
        let mut state = self.lock();
        state.ended.get_or_insert_with(|| failure.cloned());
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Waits until there is room. False: the reader took nothing for [`STALL_LIMIT`].
    async fn room(&self) -> bool {
        loop {
            let notified = self.read.notified();
            let taken = {
                let state = self.lock();
                if state.reader_gone || state.size < QUEUE {
                    return true;
                }
                state.taken
            };
            if timeout(STALL_LIMIT, notified).await.is_err() && self.lock().taken == taken {
                return self.lock().reader_gone;
            }
        }
    }

    async fn reader_gone(&self) {
        loop {
            let notified = self.read.notified();
            if self.lock().reader_gone {
                return;
            }
            notified.await;
        }
    }
}

/// The reader's end of a [`Queue`].
struct Reader(Arc<Queue>);

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.chunks.is_empty() {
            return match &state.ended {
                Some(None) => Poll::Ready(Ok(())),
                Some(Some(error)) => Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error.clone()))),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        while buf.remaining() > 0
            && let Some(chunk) = state.chunks.front_mut()
        {
            let part = chunk.split_to(chunk.len().min(buf.remaining()));
            let empty = chunk.is_empty();
            buf.put_slice(&part);
            state.size -= part.len();
            state.taken += part.len() as u64;
            if empty {
                state.chunks.pop_front();
                state.size -= PIECE;
            }
        }
        drop(state);
        self.0.read.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.reader_gone = true;
        state.chunks.clear();
        state.size = 0;
        drop(state);
        self.0.read.notify_one();
    }
}
