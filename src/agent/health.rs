//! Whether a release that was just made live works: an URL that has to answer, a command that has to succeed, for a while.
//!
//! Every try, and all of them together, have a limit. HTTP is plain, without proxy and redirects, and no answer's body is read.

use std::{error::Error as _, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use super::{command::Place, hooks::shown};
use crate::{
    http::{self, HttpError},
    model::plan::{CommandCheck, Health, HttpCheck, Rhythm},
};

/// A release that did not pass its checks.
#[derive(Debug, thiserror::Error)]
#[error("the health check failed: {what} {why}")]
pub(crate) struct HealthError {
    what: String,
    why: String,
    /// What the last command that failed wrote.
    pub(crate) output: Vec<String>,
}

/// Why one try failed.
#[derive(Debug)]
struct Miss {
    why: String,
    output: Vec<String>,
}

/// What is tried, again and again.
trait Probe {
    fn name(&self) -> String;

    fn rhythm(&self) -> &Rhythm;

    /// Tries once, for at most `limit`.
    fn attempt(&self, limit: Duration) -> impl Future<Output = Result<(), Miss>> + Send;
}

/// An address.
struct Http<'a>(&'a HttpCheck);

impl Probe for Http<'_> {
    fn name(&self) -> String {
        self.0.url.clone()
    }

    fn rhythm(&self) -> &Rhythm {
        &self.0.rhythm
    }

    async fn attempt(&self, limit: Duration) -> Result<(), Miss> {
        ask(self.0, limit).await
    }
}

/// A command and where it runs.
struct Run<'a>(&'a Place, &'a CommandCheck);

impl Probe for Run<'_> {
    fn name(&self) -> String {
        format!("`{}`", shown(&self.1.command))
    }

    fn rhythm(&self) -> &Rhythm {
        &self.1.rhythm
    }

    async fn attempt(&self, limit: Duration) -> Result<(), Miss> {
        let ran = self.0.run(&self.1.command, limit).await;
        ran.map_err(|failed| Miss { why: failed.failure.to_string(), output: failed.output })
    }
}

/// Makes all checks at once and returns when all have passed, or the first has failed. Commands run in `place`.
pub(crate) async fn check(health: &Health, place: &Place) -> Result<(), HealthError> {
    let http = async {
        let Some(check) = &health.http else { return Ok(()) };
        pass(&Http(check)).await
    };
    let command = async {
        match &health.command {
            Some(check) => pass(&Run(place, check)).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(http, command).map(|_| ())
}

async fn ask(check: &HttpCheck, limit: Duration) -> Result<(), Miss> {
    let miss = |why| Miss { why, output: Vec::new() };
    let time = humantime::format_duration(limit);
    let url = Url::parse(&check.url).map_err(|error| miss(format!("could not be asked: {error}")))?;
    // A connection each time: a service that is being restarted must not answer through one of the time before.
    let answered = timeout(limit, http::get(&url, limit, None)).await;
    let answer = answered.map_err(|_| miss(format!("gave no answer within {time}")))?;
    let answer = answer.map_err(|error| miss(format!("could not be asked: {}", root(&error))))?;
    match answer.status.as_u16() {
        status if status == check.status => Ok(()),
        status => Err(miss(format!("answered with status {status} instead of {}", check.status))),
    }
}

/// Returns what is at the bottom of an error: the layers above it say the same in more words.
fn root(error: &HttpError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

/// Rounds up: nobody wants to read of nanoseconds.
fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}

/// Tries until every try has succeeded for long enough.
async fn pass(probe: &impl Probe) -> Result<(), HealthError> {
    let rhythm = probe.rhythm();
    let end = Instant::now() + rhythm.deadline;
    let mut healthy_since = None;
    let mut last = Miss { why: "gave no answer".into(), output: Vec::new() };
    let mut tries = 0;
    loop {
        let began = Instant::now();
        let limit = whole_millis(end - began).min(rhythm.timeout);
        tries += 1;
        match probe.attempt(limit).await {
            Ok(()) => {
                let since = *healthy_since.get_or_insert(began);
                if since.elapsed() >= rhythm.healthy_for {
                    return Ok(());
                }
            }
            // A try that only the deadline cut short tells less than the one before.
            Err(_) if tries > 1 && limit < rhythm.timeout && Instant::now() >= end => {}
            Err(miss) => (healthy_since, last) = (None, miss),
        }
        let next = Instant::now() + rhythm.interval;
        if next >= end {
            let time = humantime::format_duration(rhythm.deadline);
            let why = match healthy_since {
                Some(_) => format!("was not well for {} within {time}", humantime::format_duration(rhythm.healthy_for)),
                None => format!("{} ({time} are over)", last.why),
            };
            return Err(HealthError { what: probe.name(), why, output: last.output });
        }
        sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn rhythm(healthy_for: u64, deadline: u64) -> Rhythm {
        Rhythm {
            interval: Duration::from_millis(50),
            timeout: Duration::from_millis(2000),
            healthy_for: Duration::from_millis(healthy_for),
            deadline: Duration::from_millis(deadline),
        }
    }

    /// Serves these status lines in turn, the last one for ever; an empty one is no answer at all.
    async fn serve(lines: &'static [&'static str]) -> (String, std::sync::Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/healthz", listener.local_addr().unwrap());
        let served = std::sync::Arc::new(AtomicUsize::new(0));
        let count = served.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let line = lines[count.fetch_add(1, Ordering::Relaxed).min(lines.len() - 1)];
                let _ = stream.read(&mut [0; 4096]).await;
                if line.is_empty() {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                        drop(stream);
                    });
                } else {
                    let head = format!("HTTP/1.1 {line}\r\nContent-Length: 1000000\r\nLocation: /elsewhere\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                }
            }
        });
        (url, served)
    }

    fn nowhere() -> Place {
        Place { directory: "/nonexistent".into(), variables: Vec::new() }
    }

    async fn http(url: &str, rhythm: Rhythm) -> Result<(), HealthError> {
        let health = Health { http: Some(HttpCheck { url: url.into(), status: 200, rhythm }), command: None };
        check(&health, &nowhere()).await
    }

    /// A probe with these answers in turn, the last one for ever, each after half a second; an empty one is that all is well.
    struct Script {
        answers: &'static [&'static str],
        given: AtomicUsize,
        rhythm: Rhythm,
    }

    impl Probe for Script {
        fn name(&self) -> String {
            "the service".into()
        }

        fn rhythm(&self) -> &Rhythm {
            &self.rhythm
        }

        async fn attempt(&self, limit: Duration) -> Result<(), Miss> {
            let miss = |why: &str| Miss { why: why.into(), output: Vec::new() };
            let answer = self.answers[self.given.fetch_add(1, Ordering::Relaxed).min(self.answers.len() - 1)];
            let took = timeout(limit, tokio::time::sleep(Duration::from_millis(500))).await;
            took.map_err(|_| miss("was cut short"))?;
            if answer.is_empty() { Ok(()) } else { Err(miss(answer)) }
        }
    }

    async fn script(answers: &'static [&'static str], rhythm: Rhythm) -> Result<(), String> {
        let script = Script { answers, given: AtomicUsize::new(0), rhythm };
        pass(&script).await.map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_fails_at_its_deadline_and_tells_the_last_answer_that_says_something() {
        let failed = |why: &str| Err(format!("the health check failed: the service {why}"));
        assert_eq!(script(&["", "", "is ill"], rhythm(600, 2000)).await, Ok(()));
        assert_eq!(script(&["is ill"], rhythm(0, 2000)).await, failed("is ill (2s are over)"));
        assert_eq!(script(&[""], rhythm(60_000, 2000)).await, failed("was not well for 1m within 2s"));
        assert_eq!(script(&["", "is ill"], rhythm(1000, 2000)).await, failed("is ill (2s are over)"));
        let patient = Rhythm { timeout: Duration::from_secs(60), ..rhythm(0, 400) };
        assert_eq!(script(&["is ill"], patient).await, failed("was cut short (400ms are over)"));
    }

    #[tokio::test]
    async fn a_service_may_take_its_time_to_start_and_has_to_stay_up() {
        let (url, served) = serve(&["503 Starting", "200 OK", "500 Oops", "200 OK"]).await;
        http(&url, rhythm(200, 20_000)).await.unwrap();
        // Twice wrong and once right in vain, then right for 200 ms.
        assert!(served.load(Ordering::Relaxed) >= 5, "{served:?}");
        let (url, served) = serve(&["503 Starting", "200 OK"]).await;
        http(&url, rhythm(0, 20_000)).await.unwrap();
        assert_eq!(served.load(Ordering::Relaxed), 2, "one right answer is enough");
    }

    #[tokio::test]
    async fn what_is_wrong_is_told() {
        let (redirected, _) = serve(&["302 Found"]).await;
        let (silent, _) = serve(&[""]).await;
        // Nobody listens on the port of a listener that is gone.
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let gone = format!("http://{gone}/");
        let why = async |url: &str, limit| {
            let asked = HttpCheck { url: url.into(), status: 200, rhythm: Rhythm::default() };
            ask(&asked, limit).await.unwrap_err().why
        };
        let (enough, short) = (Duration::from_secs(60), Duration::from_millis(100));
        assert_eq!(why(&redirected, enough).await, "answered with status 302 instead of 200");
        assert_eq!(why(&silent, short).await, "gave no answer within 100ms");
        assert!(why(&gone, enough).await.starts_with("could not be asked: Connection refused"));
    }

    #[tokio::test]
    async fn a_command_is_tried_again_and_its_last_output_is_kept() {
        use crate::model::plan::Command;
        let dir = tempfile::tempdir().unwrap();
        let place = Place { directory: dir.path().into(), variables: vec![("PATH", "/usr/bin:/bin".into())] };
        let health = |text: &str, rhythm| Health {
            http: None,
            command: Some(CommandCheck { command: Command::Shell(text.into()), rhythm }),
        };
        check(&health("echo x >> tries; test $(wc -l < tries) = 3", rhythm(0, 20_000)), &place).await.unwrap();
        // At least one try is made, however short the deadline.
        let once = Rhythm { timeout: Duration::from_secs(20), interval: Duration::from_secs(60), ..rhythm(0, 20_000) };
        let error = check(&health("echo broken; exit 1", once), &place).await.unwrap_err();
        assert!(error.to_string().contains("`echo broken; exit 1` failed with exit code 1"), "{error}");
        assert_eq!(error.output, ["broken"]);
    }
}
