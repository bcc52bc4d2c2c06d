//! Origins: web servers that have the artifact, and how the fleet may use them. Plain data that has been checked.

use std::{fmt, net::IpAddr, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

/// Says why a text is no origin's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebSeedError {
    /// Not an absolute address with one of the two schemes.
    #[error("must be an address that starts with `http://` or `https://`")]
    NotHttp,
    /// Longer than [`WebSeed::LONGEST`].
    #[error("must have at most {} bytes", WebSeed::LONGEST)]
    TooLong,
    /// Everybody who can read the playbook or the list of processes would know them.
    #[error("must not contain a user or a password: put them into a file and name that with --origin-auth")]
    Credentials,
    /// It is never sent.
    #[error("must not contain `#`, which is never sent")]
    Fragment,
}

/// The address of an origin: the artifact itself, or, with `/` at its end, the directory that it is in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebSeed(Url);

impl WebSeed {
    /// The most origins of a run.
    pub const MOST: usize = 16;
    /// The longest address, in bytes.
    pub const LONGEST: usize = 2048;

    /// Checks an address.
    pub fn new(text: &str) -> Result<Self, WebSeedError> {
        if text.len() > Self::LONGEST {
            return Err(WebSeedError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| WebSeedError::NotHttp)?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(WebSeedError::NotHttp);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WebSeedError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(WebSeedError::Fragment);
        }
        Ok(Self(url))
    }

    /// Returns the address.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Returns the address of the artifact of that name (BEP 19: a directory's address is completed with the name).
    pub fn of_file(&self, name: &str) -> Url {
        let mut url = self.0.clone();
        if url.path().ends_with('/')
            && let Ok(mut segments) = url.path_segments_mut()
        {
            segments.pop_if_empty().push(name);
        }
        url
    }
}

impl WebSeed {
    /// Returns the address of a file, by its path below a directory of that name that the origin has (BEP 19).
    pub fn of_file_in(&self, directory: &str, path: &str) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(directory).extend(path.split('/'));
        }
        url
    }
}

/// Shows the address without what may be a secret: a query may hold a signature.
impl fmt::Display for WebSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&shown(&self.0))
    }
}

impl fmt::Debug for WebSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebSeed({self})")
    }
}

impl TryFrom<String> for WebSeed {
    type Error = WebSeedError;

    fn try_from(text: String) -> Result<Self, WebSeedError> {
        Self::new(&text)
    }
}

impl From<WebSeed> for String {
    fn from(seed: WebSeed) -> Self {
        seed.0.into()
    }
}

impl std::str::FromStr for WebSeed {
    type Err = WebSeedError;

    fn from_str(text: &str) -> Result<Self, WebSeedError> {
        Self::new(text)
    }
}

/// Returns an address as it may be shown: without its query, which may hold a signature.
pub fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    plain.set_query(None);
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{plain}{query}")
}

/// Text that must not be seen: it is left out where it would be printed for people or logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the secret, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How the fleet may use its origins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OriginSettings {
    /// Whether origins are used at all.
    pub enabled: bool,
    /// Requests to one origin that a host may have under way; within [`OriginSettings::REQUESTS_PER_SEED`].
    pub max_requests_per_seed: u32,
    /// Requests to all origins that a host may have under way; within [`OriginSettings::REQUESTS_GLOBAL`].
    pub max_requests_global: u32,
    /// How long connecting may take; within [`OriginSettings::CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// How long a request may go on without a byte; within [`OriginSettings::REQUEST_TIMEOUT`].
    pub request_timeout: Duration,
    /// After so many failures in a row an origin is left alone; within [`OriginSettings::BACKOFF_THRESHOLD`].
    pub failure_backoff_threshold: u32,
    /// For how long; within [`OriginSettings::BACKOFF_DURATION`].
    pub failure_backoff_duration: Duration,
    /// The largest part of what a host receives that may come from origins while peers deliver, in thousandths; within
    /// [`OriginSettings::BANDWIDTH_FRACTION`].
    pub max_bandwidth_fraction: u32,
    /// Whether an origin is spared what peers that are fast enough can give.
    pub prefer_peers: bool,
    /// How fast is fast enough, in bytes a second; within [`OriginSettings::PEER_RATE`].
    pub peer_rate_threshold: u64,
    /// The most bytes that the whole fleet may fetch from origins; at least [`OriginSettings::LEAST_BYTES`].
    pub max_origin_bytes: Option<u64>,
    /// How many bytes a second the whole fleet may fetch from origins; within [`OriginSettings::ORIGIN_RATE`].
    pub max_origin_rate: Option<u64>,
}

impl OriginSettings {
    /// The bounds of [`OriginSettings::max_requests_per_seed`].
    pub const REQUESTS_PER_SEED: RangeInclusive<u32> = 1..=16;
    /// The bounds of [`OriginSettings::max_requests_global`].
    pub const REQUESTS_GLOBAL: RangeInclusive<u32> = 1..=32;
    /// The bounds of [`OriginSettings::connect_timeout`].
    pub const CONNECT_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(120);
    /// The bounds of [`OriginSettings::request_timeout`].
    pub const REQUEST_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
    /// The bounds of [`OriginSettings::failure_backoff_threshold`].
    pub const BACKOFF_THRESHOLD: RangeInclusive<u32> = 1..=100;
    /// The bounds of [`OriginSettings::failure_backoff_duration`].
    pub const BACKOFF_DURATION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
    /// The bounds of [`OriginSettings::max_bandwidth_fraction`].
    pub const BANDWIDTH_FRACTION: RangeInclusive<u32> = 10..=1000;
    /// The bounds of [`OriginSettings::peer_rate_threshold`].
    pub const PEER_RATE: RangeInclusive<u64> = 1 << 10..=1 << 30;
    /// The least [`OriginSettings::max_origin_bytes`].
    pub const LEAST_BYTES: u64 = 1 << 20;
    /// The bounds of [`OriginSettings::max_origin_rate`].
    pub const ORIGIN_RATE: RangeInclusive<u64> = 64 << 10..=1 << 40;
}

impl Default for OriginSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_requests_per_seed: 4,
            max_requests_global: 16,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            failure_backoff_threshold: 5,
            failure_backoff_duration: Duration::from_secs(300),
            max_bandwidth_fraction: 800,
            prefer_peers: true,
            peer_rate_threshold: 50 << 10,
            max_origin_bytes: None,
            max_origin_rate: None,
        }
    }
}

/// How an origin is asked for a part of the artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "style", rename_all = "snake_case")]
pub enum OriginStyle {
    /// It serves the file, and ranges of it (BEP 19).
    File,
    /// It serves all of the torrent's bytes as if they were one file, and ranges of them: the controller does.
    Content,
    /// It serves pieces of a torrent by their number (BEP 17).
    Pieces {
        /// The torrent's info hash, in hexadecimal.
        info_hash: String,
        /// How long its pieces are, in bytes: not ours.
        piece_length: u32,
    },
}

/// One origin, as a host needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its address.
    pub seed: WebSeed,
    /// How it is asked.
    #[serde(flatten)]
    pub style: OriginStyle,
    /// Headers that it wants, and no other server gets.
    #[serde(default)]
    pub headers: Vec<(String, Secret)>,
    /// Where its name led on the controller: for hosts that can't look it up.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Whether it serves parts of the artifact; else it is good only for the whole of it.
    #[serde(default = "yes")]
    pub ranges: bool,
}

fn yes() -> bool {
    true
}

/// Which part of the artifact a host asks of the origins first: the hosts' parts are disjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginPart {
    /// The host's number in the fleet, from 0.
    pub rank: u32,
    /// How many hosts the fleet has.
    pub of: u32,
}

/// The origins of a job and how one host may use them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origins {
    /// The origins that the controller found usable; at most [`WebSeed::MOST`].
    pub sources: Vec<Origin>,
    /// How they may be used.
    pub settings: OriginSettings,
    /// Certificates that their TLS is checked with, in PEM; none: those that the host trusts.
    #[serde(default)]
    pub certificates: Option<String>,
    /// What this host asks for first.
    pub part: OriginPart,
    /// The most pieces this host may fetch: its part of [`OriginSettings::max_origin_bytes`].
    #[serde(default)]
    pub max_pieces: Option<u32>,
    /// How many bytes a second this host may fetch: its part of [`OriginSettings::max_origin_rate`].
    #[serde(default)]
    pub max_rate: Option<u64>,
}

impl Origins {
    /// Returns what one host of the fleet is given: its part of the artifact and of what the fleet may fetch. Together the hosts' parts
    /// are never more than the whole.
    pub fn for_host(&self, part: OriginPart, piece_length: u32) -> Self {
        let hosts = u64::from(part.of.max(1));
        let pieces = self.settings.max_origin_bytes.map(|bytes| bytes / u64::from(piece_length.max(1)));
        // Whole pieces: of less than one nobody can make use.
        let pieces = pieces.map(|pieces| pieces / hosts + u64::from(u64::from(part.rank) < pieces % hosts));
        Self {
            part,
            max_pieces: pieces.map(|pieces| u32::try_from(pieces).unwrap_or(u32::MAX)),
            max_rate: self.settings.max_origin_rate.map(|rate| (rate / hosts).max(1)),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let name = |url: &str| WebSeed::new(url).unwrap().of_file("my app.tar").to_string();
        assert_eq!(name("http://h/a.tar"), "http://h/a.tar");
        assert_eq!(name("http://h/dir/"), "http://h/dir/my%20app.tar");
        assert_eq!(name("https://h"), "https://h/my%20app.tar");
        assert_eq!(name("https://h/d/?v=1"), "https://h/d/my%20app.tar?v=1");
        for (bad, why) in [
            ("ftp://h/a", WebSeedError::NotHttp),
            ("h/a", WebSeedError::NotHttp),
            ("", WebSeedError::NotHttp),
            ("https://u@h/a", WebSeedError::Credentials),
            ("https://:p@h/a", WebSeedError::Credentials),
            ("https://h/a#b", WebSeedError::Fragment),
        ] {
            assert_eq!(WebSeed::new(bad), Err(why), "{bad}");
        }
        assert_eq!(WebSeed::new(&format!("http://h/{}", "a".repeat(2048))), Err(WebSeedError::TooLong));
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let seed = WebSeed::new("https://h/a?X-Signature=abc").unwrap();
        let origin = Origin {
            seed: seed.clone(),
            style: OriginStyle::File,
            headers: vec![("authorization".into(), Secret::new("Bearer abc".into()))],
            addresses: Vec::new(),
            ranges: true,
        };
        assert_eq!(seed.to_string(), "https://h/a?…");
        assert!(!format!("{origin:?}").contains("abc"), "{origin:?}");
        let sent = serde_json::to_string(&origin).unwrap();
        assert_eq!(serde_json::from_str::<Origin>(&sent).unwrap(), origin);
    }

    /// Whatever the cap: together the hosts never fetch more, and no whole piece of it is left to nobody.
    #[test]
    fn the_hosts_parts_of_a_cap_are_the_cap() {
        let settings = OriginSettings { max_origin_bytes: Some(10_500), max_origin_rate: Some(1000), ..Default::default() };
        let fleet = Origins {
            sources: Vec::new(),
            settings,
            certificates: None,
            part: OriginPart { rank: 0, of: 1 },
            max_pieces: None,
            max_rate: None,
        };
        for of in [1, 3, 7, 10, 500] {
            let parts = (0..of).map(|rank| fleet.for_host(OriginPart { rank, of }, 1000));
            let (pieces, rate) =
                parts.fold((0, 0), |(pieces, rate), host| (pieces + host.max_pieces.unwrap(), rate + host.max_rate.unwrap()));
            assert_eq!(pieces, 10, "{of} hosts");
            assert!(rate <= 1000, "{of} hosts: {rate}");
        }
        let free = Origins { settings: OriginSettings::default(), ..fleet }.for_host(OriginPart { rank: 1, of: 2 }, 1000);
        assert_eq!((free.max_pieces, free.max_rate), (None, None));
    }
}
