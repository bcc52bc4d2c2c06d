//! Links of a fleet: made, shaped, made to lose packets, cut and counted, with `ip` and `tc`.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::program::{ip, output, run};

/// One end of a link: a device in a network namespace.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) namespace: String,
    pub(crate) device: String,
}

impl End {
    /// Names an end.
    pub(crate) fn new(namespace: &str, device: &str) -> Self {
        Self { namespace: namespace.to_owned(), device: device.to_owned() }
    }

    /// Makes a link between two ends.
    pub(crate) fn join(&self, other: &Self) -> Result<()> {
        let (here, there) = (&self.namespace, &other.namespace);
        ip(&["-n", here, "link", "add", &self.device, "type", "veth", "peer", "name", &other.device, "netns", there])
    }

    /// Makes this end a port of the bridge in its namespace.
    pub(crate) fn plug_in(&self) -> Result<()> {
        ip(&["-n", &self.namespace, "link", "set", &self.device, "master", super::BRIDGE, "up"])
    }

    /// Limits what leaves this end.
    pub(crate) fn shape(&self, kbit: Option<u32>) -> Result<()> {
        let Some(kbit) = kbit else { return Ok(()) };
        let rate = format!("{kbit}kbit");
        run(Command::new("tc")
            .args(["-n", &self.namespace, "qdisc", "add", "dev", &self.device, "root", "tbf"])
            .args(["rate", &rate, "burst", "64kb", "latency", "50ms"]))
    }

    /// Drops this share of the packets that come in, at random.
    ///
    /// A program of four instructions does it, because not every kernel has `netem`: load a random number, compare, drop or go on.
    pub(crate) fn lose(&self, percent: f64) -> Result<()> {
        let threshold = (percent / 100.0 * f64::from(u32::MAX)) as u32;
        // SKF_AD_OFF + SKF_AD_RANDOM; TC_ACT_SHOT is 2, TC_ACT_UNSPEC -1.
        let program = format!("4,32 0 0 4294963256,37 1 0 {threshold},6 0 0 2,6 0 0 4294967295");
        let (namespace, device) = (self.namespace.as_str(), self.device.as_str());
        run(Command::new("tc").args(["-n", namespace, "qdisc", "add", "dev", device, "clsact"]))?;
        run(Command::new("tc")
            .args(["-n", namespace, "filter", "add", "dev", device, "ingress", "bpf", "direct-action", "bytecode"])
            .arg(program))
    }

    /// Cuts the link: nothing gets through in either direction, and neither side is told.
    pub(crate) fn cut(&self) -> Result<()> {
        ip(&["-n", &self.namespace, "link", "set", &self.device, "down"])
    }

    /// Mends what [`End::cut`] cut.
    pub(crate) fn mend(&self) -> Result<()> {
        ip(&["-n", &self.namespace, "link", "set", &self.device, "up"])
    }

    /// Returns the bytes that left this end so far.
    pub(crate) fn sent_bytes(&self) -> Result<u64> {
        let output = output(Command::new("ip").args(["-n", &self.namespace, "-s", "-j", "link", "show", "dev", &self.device]))?;
        let links: serde_json::Value = serde_json::from_str(&output)?;
        links[0]["stats64"]["tx"]["bytes"].as_u64().context("no interface statistics")
    }
}
