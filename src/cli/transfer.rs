//! How the artifact comes to the hosts: whether they exchange pieces, and how fast.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::value;
use crate::model::{
    PortRange,
    distribution::{SwarmChoice, TransferPlan},
};

/// How the artifact comes to the hosts.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct TransferArgs {
    /// Let no host exchange anything with another: each takes the artifact from here. SIGUSR1 does that to a deploy that is under way
    #[arg(long, conflicts_with_all = ["swarm", "origin_only", "torrent_out"])]
    pub no_swarm: bool,

    /// Let hosts exchange pieces also where the fleet or the artifact is too small for that to pay
    #[arg(long, conflicts_with = "origin_only")]
    pub swarm: bool,

    /// Let every host take the artifact from web servers alone: nothing from other hosts, and nothing from here while these serve it
    #[arg(long, conflicts_with = "torrent_out")]
    pub origin_only: bool,

    /// How fast.
    #[command(flatten)]
    #[serde(flatten)]
    pub limits: LimitArgs,
}

/// How fast the artifact may come to the hosts.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitArgs {
    /// What each host sends at most [default: what its link carries]
    #[arg(long, value_name = "RATE", value_parser = value::limit)]
    pub upload_limit: Option<u64>,

    /// What each host receives at most [default: what its link carries]
    #[arg(long, value_name = "RATE", value_parser = value::limit)]
    pub download_limit: Option<u64>,

    /// What this machine sends to all hosts together at most [default: what its link carries]
    #[arg(long, value_name = "RATE", value_parser = value::limit)]
    pub controller_upload_limit: Option<u64>,

    /// Ports that hosts and this machine listen on while the artifact travels, for firewalls: LOW-HIGH [default: any free one]
    #[arg(long, value_name = "PORTS")]
    pub port_range: Option<PortRange>,

    /// A host to which nothing comes for so long, or which would have the artifact so much earlier by a direct download, fetches it from a
    /// web server that has it, or from here, as well [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = value::stall_timeout)]
    pub stall_timeout: Option<Duration>,
}

impl TransferArgs {
    /// Puts what the options say over the plan.
    pub fn go_over(&self, plan: &mut TransferPlan) {
        let said = [
            (self.no_swarm, SwarmChoice::Never),
            (self.swarm, SwarmChoice::Always),
            (self.origin_only, SwarmChoice::OriginOnly),
        ];
        if let Some((_, choice)) = said.into_iter().find(|(is_said, _)| *is_said) {
            plan.swarm = choice;
        }
        self.limits.go_over(plan);
    }
}

impl LimitArgs {
    /// Puts what the options say over the plan.
    pub fn go_over(&self, plan: &mut TransferPlan) {
        plan.hosts.upload = self.upload_limit.or(plan.hosts.upload);
        plan.hosts.download = self.download_limit.or(plan.hosts.download);
        plan.ports = self.port_range.or(plan.ports);
        plan.controller_upload = self.controller_upload_limit.or(plan.controller_upload);
        plan.stall_timeout = self.stall_timeout.unwrap_or(plan.stall_timeout);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        transfer: TransferArgs,
        #[arg(long)]
        torrent_out: Option<String>,
    }

    fn plan(words: &[&str]) -> Result<TransferPlan, clap::Error> {
        let mut plan = TransferPlan { controller_upload: Some(7 << 20), ..TransferPlan::default() };
        Line::try_parse_from(["x"].iter().chain(words))?.transfer.go_over(&mut plan);
        Ok(plan)
    }

    #[test]
    fn options_go_over_the_plan_and_keep_to_its_bounds() {
        let given = ["--no-swarm", "--upload-limit", "8mbit", "--download-limit", "2MiB/s"];
        let changed = plan(&given).unwrap();
        assert_eq!(changed.swarm, SwarmChoice::Never);
        assert_eq!((changed.hosts.upload, changed.hosts.download), (Some(1_000_000), Some(2 << 20)));
        assert_eq!(changed.controller_upload, Some(7 << 20));
        assert_eq!(plan(&["--port-range", "40000-40099"]).unwrap().ports, Some("40000-40099".parse().unwrap()));
        assert_eq!(changed.stall_timeout, Duration::from_secs(30));
        assert_eq!(plan(&["--stall-timeout", "5s"]).unwrap().stall_timeout, Duration::from_secs(5));
        assert_eq!(plan(&["--swarm"]).unwrap().swarm, SwarmChoice::Always);
        assert_eq!(plan(&["--origin-only"]).unwrap().swarm, SwarmChoice::OriginOnly);
        assert_eq!(plan(&[]).unwrap().swarm, SwarmChoice::Auto);
        for bad in [
            &["--swarm", "--no-swarm"] as &[&str],
            &["--origin-only", "--no-swarm"],
            &["--origin-only", "--swarm"],
            &["--origin-only", "--torrent-out", "x"],
            &["--no-swarm", "--torrent-out", "x"],
            &["--upload-limit", "1KiB/s"],
            &["--download-limit", "0"],
            &["--controller-upload-limit", "fast"],
            &["--port-range", "80-90"],
            &["--port-range", "40000"],
            &["--stall-timeout", "1s"],
        ] {
            assert!(plan(bad).is_err(), "{bad:?}");
        }
    }
}
