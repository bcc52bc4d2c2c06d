//! The run's origins: what the operator says of them, and whether they have the artifact, before hosts hear of them.
//!
//! An origin that says itself that it is of no use is left out, with a warning; one that can't be reached from here may be by the hosts, and
//! stays. A run goes on whatever becomes of its origins.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::future::join_all;
use serde::Serialize;
use url::Host;

use super::{artifact::Artifact, run::RunError};
use crate::{
    http::HttpError,
    model::{
        HostId, RunEvent,
        distribution::Distribution,
        origin::{Origin, OriginPart, OriginSettings, OriginStyle, Origins, Secret, WebSeed},
    },
    swarm::{
        Metainfo,
        origin::{Access, Client, Good, hint},
    },
};

/// How long looking at all origins may take.
const LOOK: Duration = Duration::from_secs(15);
/// How long looking a name up may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// Headers that a machine wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The machine's name; none: every machine's.
    machine: Option<String>,
    header: (String, Secret),
}

/// Says why a file with credentials can't be used. Nothing of its content is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// A word that is no keyword, or a keyword without its value.
    #[error("line {0}: expected `machine NAME`, `default`, `login NAME`, `password TEXT` or `header NAME: VALUE`")]
    Form(usize),
    /// A header that can't be sent.
    #[error("line {0}: this is no header")]
    Header(usize),
    /// Only half of a pair.
    #[error("line {0}: the machine has a `login` without a `password`, or the other way round")]
    Half(usize),
}

/// Reads a file like `.netrc`: `machine NAME login USER password TEXT`, `default` for all others; and, for origins that want something
/// else, lines of `header NAME: VALUE` after their `machine`. What comes after `#` at the beginning of a line is left out.
pub fn read_credentials(text: &str) -> Result<Vec<Credential>, CredentialError> {
    let mut reading = Credentials::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if let Some(header) = line.strip_prefix("header ") {
            reading.header(number, header)?;
        } else if !line.starts_with('#') {
            reading.words(number, line)?;
        }
    }
    reading.end(text.lines().count())?;
    Ok(reading.found)
}

#[derive(Default)]
struct Credentials {
    found: Vec<Credential>,
    /// The machine that is spoken of; the inner one is none for `default`.
    machine: Option<Option<String>>,
    login: Option<String>,
    password: Option<String>,
}

impl Credentials {
    fn words(&mut self, number: usize, line: &str) -> Result<(), CredentialError> {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            if word == "default" {
                self.end(number)?;
                self.machine = Some(None);
                continue;
            }
            let value = words.next().ok_or(CredentialError::Form(number))?.to_owned();
            match word {
                "machine" => {
                    self.end(number)?;
                    self.machine = Some(Some(value));
                }
                "login" if self.machine.is_some() => self.login = Some(value),
                "password" if self.machine.is_some() => self.password = Some(value),
                // Of no meaning here.
                "account" if self.machine.is_some() => {}
                _ => return Err(CredentialError::Form(number)),
            }
        }
        Ok(())
    }

    fn header(&mut self, number: usize, header: &str) -> Result<(), CredentialError> {
        let machine = self.machine.clone().ok_or(CredentialError::Form(number))?;
        let (name, value) = header.split_once(':').ok_or(CredentialError::Header(number))?;
        let (name, value) = (name.trim(), value.trim());
        let sendable = hyper::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && hyper::header::HeaderValue::from_str(value).is_ok();
        if !sendable {
            return Err(CredentialError::Header(number));
        }
        self.found.push(Credential { machine, header: (name.to_ascii_lowercase(), Secret::new(value.to_owned())) });
        Ok(())
    }

    /// Ends what is said of a machine.
    fn end(&mut self, number: usize) -> Result<(), CredentialError> {
        let machine = self.machine.take();
        match (machine, self.login.take(), self.password.take()) {
            (Some(machine), Some(login), Some(password)) => {
                let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{login}:{password}")));
                self.found.push(Credential { machine, header: ("authorization".to_owned(), Secret::new(basic)) });
                Ok(())
            }
            (_, None, None) => Ok(()),
            _ => Err(CredentialError::Half(number)),
        }
    }
}

/// What an origin is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginUse {
    /// It serves any part of the artifact.
    Parts,
    /// It serves the artifact only as a whole.
    Whole,
    /// It can't be asked from here; hosts try it themselves.
    Unreached,
    /// Nothing: it does not have the artifact, or does not give it to us.
    Nothing,
}

/// What a look at an origin showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OriginLook {
    /// Its address, as it may be shown.
    pub address: String,
    /// What it is good for.
    #[serde(rename = "use")]
    pub good_for: OriginUse,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// What to do about that.
    pub hint: Option<&'static str>,
}

/// What the operator says of a run's origins.
#[derive(Debug, Clone, Default)]
pub struct OriginRequest {
    /// Where they are and how they are asked.
    pub sources: Vec<(WebSeed, OriginStyle)>,
    /// How they may be used.
    pub settings: OriginSettings,
    /// Certificates that their TLS is checked with, in PEM.
    pub certificates: Option<String>,
    /// What they want to know.
    pub credentials: Vec<Credential>,
}

impl OriginRequest {
    /// Returns an origin with what it wants to know: that of its machine, or else that of all.
    pub(super) fn origin(&self, seed: &WebSeed, style: &OriginStyle) -> Origin {
        let own =
            |credential: &&Credential| credential.machine.is_some() && credential.machine.as_deref() == seed.url().host_str();
        let common = |credential: &&Credential| credential.machine.is_none();
        let headers = |of: &dyn Fn(&&Credential) -> bool| {
            let of = self.credentials.iter().filter(of);
            of.map(|credential| credential.header.clone()).collect::<Vec<_>>()
        };
        let mut wanted = headers(&own);
        if wanted.is_empty() {
            wanted = headers(&common);
        }
        Origin { seed: seed.clone(), style: style.clone(), headers: wanted, addresses: Vec::new(), ranges: true }
    }

    /// Looks at all origins, as a run does before it tells hosts of them. None is where they may not be used.
    pub async fn look(&self, metainfo: &Metainfo) -> Vec<OriginLook> {
        self.look_at_all(metainfo).await.into_iter().map(|(_, look)| look).collect()
    }

    async fn look_at_all(&self, metainfo: &Metainfo) -> Vec<(Origin, OriginLook)> {
        if !self.settings.enabled {
            return Vec::new();
        }
        let access = Access::new(self.settings.clone(), self.certificates.clone());
        let looks = self.sources.iter().take(WebSeed::MOST).map(async |(seed, style)| {
            let mut origin = self.origin(seed, style);
            origin.addresses = addresses(seed).await;
            let client = Client::new(access.clone(), origin.clone());
            let limit = HttpError::Timeout { what: "an answer", limit: LOOK };
            let found = tokio::time::timeout(LOOK, client.probe(metainfo)).await.unwrap_or(Err(limit));
            let look = judge(&origin.seed, found);
            (origin, look)
        });
        join_all(looks).await
    }

    /// Looks at all origins and returns what these hosts are told of them, if there is something to tell, and warnings about the others.
    ///
    /// # Errors
    /// Where hosts are to take everything from origins and can't, or may not.
    pub(super) async fn offer(
        &self,
        artifact: &Artifact,
        hosts: BTreeSet<HostId>,
        way: &Distribution,
    ) -> Result<(Option<FleetOrigins>, Vec<RunEvent>), RunError> {
        let metainfo = &artifact.metainfo;
        if way.origin_only
            && let Some(allowed) = self.settings.max_origin_bytes
        {
            // Each host has an equal part of it, in whole pieces.
            let piece = u64::from(metainfo.piece_length());
            let needed = u64::from(metainfo.piece_count()).saturating_mul(piece).saturating_mul(hosts.len() as u64);
            if allowed < needed {
                return Err(RunError::OriginCap { allowed, needed, hosts: hosts.len() });
            }
        }
        let (mut sources, mut warnings, mut first) = (Vec::new(), Vec::new(), None);
        for (origin, look) in self.look_at_all(metainfo).await {
            let OriginLook { good_for, problem, hint, .. } = look;
            if good_for != OriginUse::Nothing {
                sources.push(Origin { ranges: good_for != OriginUse::Whole, ..origin });
            }
            let hint = hint.map(str::to_owned);
            first = first.or_else(|| problem.clone());
            warnings.extend(problem.map(|message| RunEvent::Warning { host: None, message, hint }));
        }
        let origins = Origins {
            sources,
            settings: self.settings.clone(),
            certificates: self.certificates.clone(),
            part: OriginPart { rank: 0, of: 1 },
            max_pieces: None,
            max_rate: None,
        };
        if way.origin_only && !origins.sources.iter().any(|origin| origin.ranges) {
            return Err(RunError::NoOrigin(first));
        }
        let fleet = FleetOrigins { origins, piece_length: metainfo.piece_length(), hosts, alone: way.origin_only };
        Ok((Some(fleet).filter(|fleet| !fleet.sources().is_empty()), warnings))
    }
}

/// The origins of a run, before they are told to a host.
#[derive(Debug, Clone)]
pub(super) struct FleetOrigins {
    origins: Origins,
    piece_length: u32,
    /// Who shares them.
    hosts: BTreeSet<HostId>,
    /// Nobody else gives anything: each host needs all parts, at once.
    alone: bool,
}

impl FleetOrigins {
    /// Returns the origins.
    pub(super) fn sources(&self) -> &[Origin] {
        &self.origins.sources
    }

    /// Returns what one host is told of them.
    pub(super) fn for_host(&self, host: HostId) -> Origins {
        let number = |hosts: usize| u32::try_from(hosts).unwrap_or(u32::MAX);
        let part = OriginPart { rank: number(self.hosts.range(..host).count()), of: number(self.hosts.len()) };
        let own = self.origins.for_host(part, self.piece_length);
        if self.alone { Origins { part: OriginPart { rank: 0, of: 1 }, ..own } } else { own }
    }
}

/// Decides what an origin is good for, by the answer that came.
fn judge(seed: &WebSeed, found: Result<Good, HttpError>) -> OriginLook {
    let (good_for, problem, hint) = match found {
        Ok(Good::Parts) => (OriginUse::Parts, None, None),
        Ok(Good::Whole) => {
            let problem = format!("the origin {seed} serves only the whole file, no parts of it: it is not used for pieces");
            (OriginUse::Whole, Some(problem), Some("does a proxy in between take the ranges out of requests?"))
        }
        Err(error) if error.is_unreached() => {
            let problem = format!("the origin {seed} can't be asked from here, hosts try it themselves: {}", error.chain());
            (OriginUse::Unreached, Some(problem), hint(&error))
        }
        Err(error) => (OriginUse::Nothing, Some(format!("the origin {seed} is not used: {}", error.chain())), hint(&error)),
    };
    OriginLook { address: seed.to_string(), good_for, problem, hint }
}

/// Returns where an origin's name leads from here.
async fn addresses(seed: &WebSeed) -> Vec<IpAddr> {
    let Some(Host::Domain(name)) = seed.url().host() else { return Vec::new() };
    let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name, 0))).await;
    let mut addresses: Vec<IpAddr> = found.ok().and_then(Result::ok).into_iter().flatten().map(|found| found.ip()).collect();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(request: &OriginRequest, url: &str) -> Vec<String> {
        let origin = request.origin(&WebSeed::new(url).unwrap(), &OriginStyle::File);
        origin.headers.iter().map(|(name, value)| format!("{name}: {}", value.reveal())).collect()
    }

    #[test]
    fn each_origin_is_told_what_is_its_own() {
        let text = "\
# a comment
machine store.example.com
  login bob password s3cret
machine cdn.example.com
header X-Token: a b:c
header X-More: d
machine other.example.com login a account x password b
default login anonymous password me
";
        let request = OriginRequest { credentials: read_credentials(text).unwrap(), ..OriginRequest::default() };
        assert_eq!(headers(&request, "https://store.example.com/a"), ["authorization: Basic Ym9iOnMzY3JldA=="]);
        assert_eq!(headers(&request, "http://cdn.example.com:81/"), ["x-token: a b:c", "x-more: d"]);
        assert_eq!(headers(&request, "http://else/"), ["authorization: Basic YW5vbnltb3VzOm1l"]);
        let shown = format!("{request:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("Ym9i") && !shown.contains("a b:c"), "{shown}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_without_its_content() {
        for (text, error) in [
            ("login a", CredentialError::Form(1)),
            ("machine", CredentialError::Form(1)),
            ("machine a\npasswort x", CredentialError::Form(2)),
            ("header a: b", CredentialError::Form(1)),
            ("machine a\nheader a b", CredentialError::Header(2)),
            ("machine a\nheader a: \u{7f}", CredentialError::Header(2)),
            ("machine a login b", CredentialError::Half(1)),
            ("machine a password b\nmachine c", CredentialError::Half(2)),
        ] {
            assert_eq!(read_credentials(text), Err(error), "{text}");
        }
        assert_eq!(read_credentials("\n\n"), Ok(Vec::new()));
    }
}
