//! The keys of `origin`, and `web_seeds`.

use super::{
    measure::{Bytes, Switch, Thousandths},
    section::{Key, Section, Seen, key},
    shape::{List, Text, Time, Whole},
};
use crate::model::origin::{OriginSettings, WebSeed};

/// Returns what may stand under `web_seeds`.
pub(super) fn web_seeds() -> List<Text<WebSeed>> {
    let seed = Text {
        expected: "an address that starts with `http://` or `https://`",
        pattern: r"^https?://[^\s]+$",
        longest: WebSeed::LONGEST,
        parse: |text| WebSeed::new(text).map_err(|error| error.to_string()),
    };
    List { entries: 0..=WebSeed::MOST, of: seed }
}

/// `origin`.
#[derive(Default)]
pub(super) struct OriginKeys(OriginSettings);

impl Section for OriginKeys {
    type Value = OriginSettings;

    fn keys() -> Vec<Key<Self>> {
        let rate = |bounds| Bytes { bounds, a_second: true };
        vec![
            key("enabled", "Whether origins are used at all.", Switch, |origin: &mut Self, on| origin.0.enabled = on)
                .default(true),
            key(
                "max_requests_per_seed",
                "How many requests a host may have under way to one origin.",
                Whole(OriginSettings::REQUESTS_PER_SEED),
                |origin: &mut Self, number| origin.0.max_requests_per_seed = number,
            )
            .default(4),
            key(
                "max_requests_global",
                "How many requests a host may have under way to all origins.",
                Whole(OriginSettings::REQUESTS_GLOBAL),
                |origin: &mut Self, number| origin.0.max_requests_global = number,
            )
            .default(16),
            key(
                "connect_timeout",
                "How long connecting to an origin may take.",
                Time(OriginSettings::CONNECT_TIMEOUT),
                |origin: &mut Self, time| origin.0.connect_timeout = time,
            )
            .default("10s"),
            key(
                "request_timeout",
                "How long a request may go on without a byte of its answer.",
                Time(OriginSettings::REQUEST_TIMEOUT),
                |origin: &mut Self, time| origin.0.request_timeout = time,
            )
            .default("60s"),
            key(
                "failure_backoff_threshold",
                "After so many failed requests in a row a host leaves an origin alone.",
                Whole(OriginSettings::BACKOFF_THRESHOLD),
                |origin: &mut Self, number| origin.0.failure_backoff_threshold = number,
            )
            .default(5),
            key(
                "failure_backoff_duration",
                "For how long it does.",
                Time(OriginSettings::BACKOFF_DURATION),
                |origin: &mut Self, time| origin.0.failure_backoff_duration = time,
            )
            .default("300s"),
            key(
                "max_bandwidth_fraction",
                "How much of what a host receives may come from origins while peers deliver.",
                Thousandths(OriginSettings::BANDWIDTH_FRACTION),
                |origin: &mut Self, fraction| origin.0.max_bandwidth_fraction = fraction,
            )
            .default(0.8),
            key(
                "prefer_peers",
                "Whether origins are asked only for what no peer can give while at least two peers are fast enough.",
                Switch,
                |origin: &mut Self, on| origin.0.prefer_peers = on,
            )
            .default(true),
            key(
                "peer_rate_threshold",
                "How fast a peer is that is fast enough.",
                rate(OriginSettings::PEER_RATE),
                |origin: &mut Self, rate| origin.0.peer_rate_threshold = rate,
            )
            .default("50KiB/s"),
            key(
                "max_origin_bytes",
                "How much the whole fleet may fetch from origins in one run. Default: no limit.",
                Bytes { bounds: OriginSettings::LEAST_BYTES..=u64::MAX, a_second: false },
                |origin: &mut Self, bytes| origin.0.max_origin_bytes = Some(bytes),
            ),
            key(
                "max_origin_rate",
                "How fast the whole fleet may fetch from origins. Default: no limit.",
                rate(OriginSettings::ORIGIN_RATE),
                |origin: &mut Self, rate| origin.0.max_origin_rate = Some(rate),
            ),
        ]
    }

    fn finish(self, _: &mut Seen<'_>) -> Option<OriginSettings> {
        Some(self.0)
    }
}
