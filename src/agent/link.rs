//! The channel to the controller: messages in, messages out, and the lease.
//!
//! A reader task and a writer task own the streams; both end with the [`Link`]. Any message renews the lease, also while nobody
//! asks for messages, and a ping is answered by the reader itself: whatever the job does, only a process that does not run
//! is silent. A silent controller, an ended or broken stream, a signal: each ends the link with the reason, once. Both
//! queues are bounded; an answer that the controller does not take within the lease ends the link too.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    model::{FailureKind, HostFailure, HostState},
    wire::{self, FrameError, FromAgent, ToAgent},
};

/// How many messages wait at most, in either direction.
const QUEUE: usize = 32;
/// How long the controller may take to send the job.
const FIRST_LEASE: Duration = Duration::from_secs(60);
/// How long the last messages may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why there will be no more messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Gone {
    /// The controller closed the channel.
    #[error("the controller closed the channel")]
    Closed,
    /// Nothing was heard for the lease.
    #[error("nothing was heard from the controller for {} s", .0.as_secs())]
    Silent(Duration),
    /// The stream broke.
    #[error("the channel to the controller broke: {0}")]
    Broken(String),
    /// The agent's process was told to end.
    #[error("the agent was told to end by a signal")]
    Signal,
    /// What arrived is not the protocol.
    #[error("the controller sent {0}")]
    Nonsense(String),
}

/// What arrives.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A message.
    Message(ToAgent),
    /// The end. Asking again gives it again.
    Gone(Gone),
}

/// The agent's end of the channel.
#[derive(Debug)]
pub(crate) struct Link {
    inbox: mpsc::Receiver<Result<ToAgent, Gone>>,
    outbox: Option<mpsc::Sender<FromAgent>>,
    heard: Arc<Mutex<Instant>>,
    lease: Duration,
    stop: CancellationToken,
    gone: Option<Gone>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Link {
    /// Takes over the streams. `stop` ends the link when a signal asks for it.
    pub(crate) fn new<R, W>(input: R, output: W, stop: CancellationToken) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (to_inbox, inbox) = mpsc::channel(QUEUE);
        let (outbox, from_outbox) = mpsc::channel(QUEUE);
        let heard = Arc::new(Mutex::new(Instant::now()));
        let reader = tokio::spawn(read(input, to_inbox, outbox.downgrade(), heard.clone()));
        let writer = tokio::spawn(write(output, from_outbox));
        Self { inbox, outbox: Some(outbox), heard, lease: FIRST_LEASE, stop, gone: None, reader, writer }
    }

    /// Sets the lease, which counts from the last message.
    pub(crate) fn set_lease(&mut self, lease: Duration) {
        self.lease = lease;
    }

    /// Waits for the next message other than a ping, or the end. Cancel-safe. Pings never get here: the reader answers them.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            if let Some(gone) = &self.gone {
                return Heard::Gone(gone.clone());
            }
            let deadline = *self.heard.lock().unwrap_or_else(PoisonError::into_inner) + self.lease;
            let gone = tokio::select! {
                biased;
                () = self.stop.cancelled() => Gone::Signal,
                message = self.inbox.recv() => match message {
                    Some(Ok(message)) => return Heard::Message(message),
                    Some(Err(gone)) => gone,
                    None => Gone::Closed,
                },
                () = tokio::time::sleep_until(deadline) => {
                    // A message may have renewed the lease meanwhile.
                    let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                    if heard + self.lease > Instant::now() {
                        continue;
                    }
                    Gone::Silent(self.lease)
                }
            };
            self.gone = Some(gone);
        }
    }

    /// Sends a message. Once the link has ended it is dropped; that it has ended is told by [`Link::next`].
    pub(crate) async fn send(&mut self, message: FromAgent) {
        let Some(outbox) = &self.outbox else { return };
        let sent = tokio::select! {
            // First: last words still go out when a signal has ended the link.
            biased;
            sent = outbox.send(message) => sent.map_err(|_| Gone::Broken("it takes no more messages".into())),
            () = tokio::time::sleep(self.lease) => Err(Gone::Silent(self.lease)),
            () = self.stop.cancelled() => Err(Gone::Signal),
        };
        if let Err(gone) = sent {
            self.outbox = None;
            self.gone.get_or_insert(gone);
        }
    }

    /// Sends a message that may be dropped if the controller is slow.
    pub(crate) fn send_if_idle(&self, message: FromAgent) {
        if let Some(outbox) = &self.outbox {
            // Full or closed: progress is told again, and the end is noticed elsewhere.
            let _ = outbox.try_send(message);
        }
    }

    /// Lets the last messages leave and ends both tasks.
    pub(crate) async fn close(mut self) {
        self.outbox = None;
        if tokio::time::timeout(LAST_WORDS, &mut self.writer).await.is_err() {
            self.writer.abort();
        }
        self.reader.abort();
    }
}

async fn read(
    mut input: impl AsyncRead + Unpin,
    inbox: mpsc::Sender<Result<ToAgent, Gone>>,
    // Weak: the writer ends when the link lets go of its end.
    answers: mpsc::WeakSender<FromAgent>,
    heard: Arc<Mutex<Instant>>,
) {
    loop {
        let message = match wire::read_frame::<ToAgent>(&mut input).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Gone::Closed),
            Err(FrameError::Io(error)) => Err(Gone::Broken(error.to_string())),
            Err(error @ FrameError::Malformed(_)) => {
                let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(" ({cause})"));
                Err(Gone::Nonsense(format!("{error}{cause}")))
            }
            Err(error) => Err(Gone::Nonsense(error.to_string())),
        };
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if matches!(message, Ok(ToAgent::Ping)) {
            if let Some(answers) = answers.upgrade() {
                // Never waits, for the lease depends on reading on. Where the queue is full, what waits in it tells the same.
                let _ = answers.try_send(FromAgent::Alive);
            }
            continue;
        }
        let ended = message.is_err();
        if inbox.send(message).await.is_err() || ended {
            return;
        }
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut outbox: mpsc::Receiver<FromAgent>) {
    while let Some(message) = outbox.recv().await {
        let written = match wire::write_frame(&mut output, &message).await {
            // Nothing of it was written. The controller waits for an answer, so it gets one.
            Err(error @ FrameError::TooLong(_)) => {
                let failure =
                    HostFailure::new(FailureKind::Failed, HostState::Preparing, format!("the agent's answer is {error}"));
                wire::write_frame(&mut output, &FromAgent::Failed(failure)).await
            }
            written => written,
        };
        if let Err(error) = written {
            tracing::debug!("cannot write to the controller: {error}");
            return;
        }
    }
    let _ = output.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::StopReason;

    fn link() -> (Link, tokio::io::DuplexStream, CancellationToken) {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (input, output) = tokio::io::split(ours);
        let stop = CancellationToken::new();
        (Link::new(input, output, stop.clone()), theirs, stop)
    }

    #[tokio::test(start_paused = true)]
    async fn pings_renew_the_lease_and_silence_ends_it() {
        let (mut link, mut controller, _stop) = link();
        link.set_lease(Duration::from_secs(9));
        let begin = Instant::now();
        let pings = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                wire::write_frame(&mut controller, &ToAgent::Ping).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let heard = tokio::select! {
            heard = link.next() => heard,
            () = pings => unreachable!(),
        };
        assert!(matches!(heard, Heard::Gone(Gone::Silent(_))), "{heard:?}");
        assert_eq!(begin.elapsed().as_secs(), 5 * 8 + 9);
        assert!(matches!(link.next().await, Heard::Gone(Gone::Silent(_))));
    }

    #[tokio::test]
    async fn every_ping_is_answered_though_nobody_asks_for_messages() {
        let (link, mut controller, _stop) = link();
        for _ in 0..QUEUE * 2 {
            wire::write_frame(&mut controller, &ToAgent::Ping).await.unwrap();
            let answer = wire::read_frame::<FromAgent>(&mut controller).await.unwrap();
            assert!(matches!(answer, Some(FromAgent::Alive)), "{answer:?}");
        }
        let begin = Instant::now();
        link.close().await;
        assert!(begin.elapsed() < LAST_WORDS, "the reader keeps the writer from ending");
        assert!(wire::read_frame::<FromAgent>(&mut controller).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_told_instead_of_dropped() {
        let (mut link, mut controller, _stop) = link();
        link.send(FromAgent::Warning { message: "x".repeat(wire::MAX_FRAME), hint: None }).await;
        link.send(FromAgent::Checked).await;
        let told = wire::read_frame::<FromAgent>(&mut controller).await.unwrap();
        assert!(
            matches!(&told, Some(FromAgent::Failed(failure)) if failure.message.contains("the limit is 8388608")),
            "{told:?}"
        );
        assert!(matches!(wire::read_frame::<FromAgent>(&mut controller).await.unwrap(), Some(FromAgent::Checked)));
    }

    #[tokio::test]
    async fn every_end_has_its_reason() {
        let (mut link, mut controller, _stop) = self::link();
        wire::write_frame(&mut controller, &ToAgent::Stop { reason: StopReason::Finished }).await.unwrap();
        drop(controller);
        assert!(matches!(link.next().await, Heard::Message(ToAgent::Stop { .. })));
        assert!(matches!(link.next().await, Heard::Gone(Gone::Closed)));

        let (mut link, mut controller, _stop) = self::link();
        controller.write_all(&[0, 0, 0, 1, b'?']).await.unwrap();
        assert!(matches!(link.next().await, Heard::Gone(Gone::Nonsense(_))));

        let (mut link, mut controller, _stop) = self::link();
        controller.write_all(&[0, 0]).await.unwrap();
        drop(controller);
        assert!(matches!(link.next().await, Heard::Gone(Gone::Broken(_))));

        let (mut link, _controller, stop) = self::link();
        stop.cancel();
        assert!(matches!(link.next().await, Heard::Gone(Gone::Signal)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_takes_no_answers_ends_the_link() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let (input, output) = tokio::io::split(ours);
        let mut link = Link::new(input, output, CancellationToken::new());
        for _ in 0..QUEUE + 3 {
            link.send(FromAgent::Confirmed).await;
        }
        assert!(matches!(link.next().await, Heard::Gone(Gone::Silent(_))));
    }
}
