//! Asks one origin: connections that are kept, redirections, headers that only it gets.
//!
//! Promises: nothing takes longer than the settings allow; a redirection leads at most five steps on, never from `https` to `http`, and
//! what the origin wants to know of us (its headers) goes to no other place; no address's query and no header gets into an error or a log.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, ACCEPT_ENCODING, HOST, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION, RANGE, USER_AGENT},
};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::{sync::OnceCell, time::timeout};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{reply, tls};
use crate::{
    http::{AGENT, Answer, Dialer, HttpError, Line, NoBody, Place, Secure},
    model::origin::{Origin, OriginSettings, Secret},
    swarm::{Tls, storage::lock},
};

/// How often a redirection is followed.
const MAX_REDIRECTS: usize = 5;
/// How much of an answer that is not a file is read.
const MAX_REMARK: usize = 4 << 10;

/// What all origins of an engine share: their settings, whom they are trusted by, the proxies.
pub(crate) struct Access {
    settings: OriginSettings,
    certificates: Option<String>,
    tls: OnceCell<TlsConnector>,
    /// What proves who we are to the run's controller, and who it is.
    run: Option<Tls>,
    proxies: Matcher,
}

impl Access {
    /// Takes the proxies from the environment. Certificates are read when they are needed first.
    pub(crate) fn new(settings: OriginSettings, certificates: Option<String>) -> Arc<Self> {
        Arc::new(Self { settings, certificates, tls: OnceCell::new(), run: None, proxies: Matcher::from_env() })
    }

    /// Asks the run's controller, and no proxy, with the usual settings.
    pub(super) fn of_controller(run: Option<Tls>) -> Arc<Self> {
        let (settings, proxies) = (OriginSettings::default(), Matcher::builder().build());
        Arc::new(Self { settings, certificates: None, tls: OnceCell::new(), run, proxies })
    }

    pub(crate) fn settings(&self) -> &OriginSettings {
        &self.settings
    }

    async fn secure(&self) -> Result<Secure<'_>, HttpError> {
        match &self.run {
            Some(run) => Ok(run.to_controller()),
            None => Ok(Secure { connector: self.tls().await?, expects: None }),
        }
    }

    async fn tls(&self) -> Result<&TlsConnector, HttpError> {
        let load = async || {
            let certificates = self.certificates.clone();
            let loaded = tokio::task::spawn_blocking(move || tls::connector(certificates.as_deref())).await;
            loaded.map_err(|error| HttpError::Certificates(error.to_string()))?
        };
        self.tls.get_or_try_init(load).await
    }
}

/// One origin, and the connections to it.
pub(crate) struct Client {
    access: Arc<Access>,
    origin: Origin,
    /// Where its headers may go.
    home: Option<Place>,
    idle: Mutex<Vec<Line>>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) url: Url,
    /// The first byte, and the one after the last.
    pub(super) range: Option<std::ops::Range<u64>>,
}

impl Client {
    /// Makes a client; nothing is asked yet.
    pub(crate) fn new(access: Arc<Access>, origin: Origin) -> Self {
        let home = Place::of(origin.seed.url());
        Self { access, origin, home, idle: Mutex::new(Vec::new()) }
    }

    /// Returns what it shares with the others.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Returns the origin.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Sends a request and follows where it leads.
    pub(super) async fn get(&self, ask: &Ask) -> Result<Answer, HttpError> {
        let mut ask = ask.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.exchange(&ask).await?;
            if !answer.status.is_redirection() || answer.status == StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| ask.url.join(location).ok());
            let next = next.ok_or(HttpError::Redirect("it says not where to"))?;
            let mut next = next;
            // What is never sent, and what is nobody's to give us.
            next.set_fragment(None);
            if next.set_username("").and(next.set_password(None)).is_err() {
                return Err(HttpError::Redirect("it leads nowhere"));
            }
            if !matches!(next.scheme(), "http" | "https") || (ask.url.scheme() == "https" && next.scheme() == "http") {
                return Err(HttpError::Redirect("it leads from https to something else"));
            }
            ask.url = next;
            // What is left of it is short, or the connection is not worth keeping.
            self.keep(answer).await;
        }
        Err(HttpError::Redirect("there are more than five"))
    }

    /// Sends one request. A kept connection may have been closed meanwhile, which shows only when it is used: then a new one is made.
    async fn exchange(&self, ask: &Ask) -> Result<Answer, HttpError> {
        let place = Place::of(&ask.url).ok_or(HttpError::Redirect("it leads nowhere"))?;
        while let Some(mut line) = self.take_idle(&place) {
            match self.ask(&mut line, &place, ask).await {
                Ok(response) => return Ok(Answer::new(response, line)),
                Err(HttpError::Http(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let tls = if place.is_secure() { Some(self.access.secure().await?) } else { None };
        let home = self.home.as_ref() == Some(&place);
        let known: &[_] = if home { &self.origin.addresses } else { &[] };
        let dialer = Dialer { limit: self.access.settings.connect_timeout, known, proxies: &self.access.proxies, tls };
        let mut line = Line::open(&place, &dialer).await?;
        Ok(Answer::new(self.ask(&mut line, &place, ask).await?, line))
    }

    fn take_idle(&self, place: &Place) -> Option<Line> {
        let mut idle = lock(&self.idle);
        idle.retain(Line::lives);
        let at = idle.iter().position(|line| line.leads_to(place))?;
        Some(idle.swap_remove(at))
    }

    async fn ask(&self, line: &mut Line, place: &Place, ask: &Ask) -> Result<Response<Incoming>, HttpError> {
        let request = self.request(line, place, ask)?;
        let limit = self.access.settings.request_timeout;
        let answered = timeout(limit, line.send(request)).await;
        Ok(answered.map_err(|_| HttpError::Timeout { what: "an answer", limit })??)
    }

    fn request(&self, line: &Line, place: &Place, ask: &Ask) -> Result<Request<NoBody>, HttpError> {
        let (target, proxy_auth) = line.target(&ask.url);
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(target)
            .header(HOST, &ask.url[url::Position::BeforeHost..url::Position::AfterPort])
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "*/*")
            .header(ACCEPT_ENCODING, "identity");
        if let Some(range) = &ask.range {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        if let Some(auth) = proxy_auth {
            request = request.header(PROXY_AUTHORIZATION, auth);
        }
        if self.home.as_ref() == Some(place) {
            for (name, value) in &self.origin.headers {
                let (name, value) = header(name, value).ok_or_else(|| HttpError::Answer("a header can't be sent".into()))?;
                request = request.header(name, value);
            }
        }
        request.body(NoBody::new()).map_err(|_| HttpError::Redirect("it leads to what is no address"))
    }

    /// Turns an answer that is not what was asked for into the error that it is.
    pub(super) async fn refusal(&self, mut answer: Answer) -> HttpError {
        match answer.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                let limit = self.access.settings.connect_timeout;
                let remark = timeout(limit, answer.beginning(MAX_REMARK)).await.unwrap_or_default();
                HttpError::Busy(reply::rest(&answer.headers, &remark))
            }
            status => HttpError::Status(status.as_u16()),
        }
    }

    /// Closes the connections that no request is made on.
    pub(super) fn close_idle(&self) {
        lock(&self.idle).clear();
    }

    /// Keeps the connection of an answer whose body has come, for the next request.
    pub(crate) async fn keep(&self, mut answer: Answer) {
        // What the connection still has to do for this answer takes no time: its end has come.
        let Ok(rest) = timeout(Duration::from_millis(100), answer.beginning(MAX_REMARK)).await else { return };
        if rest.len() < MAX_REMARK {
            let mut idle = lock(&self.idle);
            if idle.len() < self.access.settings.max_requests_per_seed as usize {
                idle.push(answer.into_line());
            }
        }
    }
}

/// Reads a header; none if it can't be one.
fn header(name: &str, value: &Secret) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(value.reveal()).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
}
