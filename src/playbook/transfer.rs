//! The keys of `transfer`.

use super::{
    measure::Bytes,
    section::{Key, Section, Seen, key},
    shape::{Choice, Text, Time},
};
use crate::model::{
    PortRange,
    distribution::{RATE, STALL_TIMEOUT, SwarmChoice, TransferPlan},
};

/// `transfer`.
#[derive(Default)]
pub(super) struct TransferKeys(TransferPlan);

impl Section for TransferKeys {
    type Value = TransferPlan;

    fn keys() -> Vec<Key<Self>> {
        let ports = Text {
            expected: "ports as LOW-HIGH, at least 4 from 1024 to 65535",
            pattern: "^[0-9]{4,5} ?- ?[0-9]{4,5}$",
            longest: 20,
            parse: |text| text.parse::<PortRange>().map_err(|error| error.to_string()),
        };
        let rate = || Bytes { bounds: RATE, a_second: true };
        let swarm = Choice(&[
            ("auto", SwarmChoice::Auto),
            ("always", SwarmChoice::Always),
            ("never", SwarmChoice::Never),
            ("origin_only", SwarmChoice::OriginOnly),
        ]);
        vec![
            key(
                "swarm",
                "Whether hosts exchange pieces: where that pays, always, or never, so that each takes the artifact from origins and the controller; with origin_only from origins alone.",
                swarm,
                |transfer: &mut Self, choice| transfer.0.swarm = choice,
            )
            .default("auto"),
            key(
                "upload_limit",
                "What each host sends at most. Default: no limit.",
                rate(),
                |transfer: &mut Self, rate| transfer.0.hosts.upload = Some(rate),
            ),
            key(
                "download_limit",
                "What each host receives at most, from wherever. Default: no limit.",
                rate(),
                |transfer: &mut Self, rate| transfer.0.hosts.download = Some(rate),
            ),
            key(
                "controller_upload_limit",
                "What the controller sends to all hosts together at most. Default: no limit.",
                rate(),
                |transfer: &mut Self, rate| transfer.0.controller_upload = Some(rate),
            ),
            key(
                "port_range",
                "Ports that hosts and the controller listen on while the artifact travels: LOW-HIGH. Default: any free one.",
                ports,
                |transfer: &mut Self, ports| transfer.0.ports = Some(ports),
            ),
            key(
                "stall_timeout",
                "A host to which nothing comes for so long, or which would have the artifact so much earlier by a direct download, fetches \
                 it from an origin or from the controller as well.",
                Time(STALL_TIMEOUT),
                |transfer: &mut Self, time| transfer.0.stall_timeout = time,
            )
            .default("30s"),
        ]
    }

    fn finish(self, _: &mut Seen<'_>) -> Option<TransferPlan> {
        Some(self.0)
    }
}
