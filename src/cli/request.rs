//! What a deploy was asked for, as the history keeps it, so that `fleetdrop resume` can finish it: the options, with paths that mean
//! the same from everywhere, and the plan that came of them and the playbook, whatever becomes of that file.

use std::{
    io,
    path::{Path, PathBuf, absolute},
};

use serde::{Deserialize, Serialize};

use super::{CommandError, deploy::DeployArgs};
use crate::model::Plan;

/// The version of the form it is kept in. A change that older versions of this program would misread raises it.
const REQUEST_VERSION: u32 = 1;

/// A deploy that was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    v: u32,
    /// The options.
    pub deploy: DeployArgs,
    /// What they and the playbook came to.
    pub plan: Plan,
    /// What the order of hosts is drawn from, where it is drawn.
    pub order_seed: u64,
}

impl Request {
    /// Makes a request; its paths become absolute. Origins whose addresses have a query are left out: it may hold a signature, which
    /// does not belong into a file, and none of them is needed.
    pub fn new(deploy: &DeployArgs, plan: &Plan, order_seed: u64) -> io::Result<Self> {
        let (mut deploy, mut plan) = (deploy.clone(), plan.clone());
        for seeds in [&mut deploy.origins.servers.web_seeds, &mut plan.web_seeds] {
            seeds.retain(|seed| seed.url().query().is_none());
        }
        let connection = &mut deploy.connection;
        let ssh_config = connection.ssh_config.as_mut().filter(|file| file.as_path() != Path::new("none"));
        let named = [&mut deploy.artifact, &mut connection.fleet.hosts].into_iter();
        let optional: [Option<&mut PathBuf>; 5] = [
            connection.identity_file.as_mut(),
            ssh_config,
            connection.known_hosts.as_mut(),
            connection.agent_dir.as_mut(),
            deploy.playbook.playbook.as_mut(),
        ];
        let others = deploy.torrent_out.as_mut().into_iter().chain(deploy.origins.files()).chain(deploy.trust.files());
        for path in named.chain(optional.into_iter().flatten()).chain(others) {
            *path = absolute(&path)?;
        }
        Ok(Self { v: REQUEST_VERSION, deploy, plan, order_seed })
    }

    /// Returns it as it is kept; an error for paths that are not UTF-8.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Reads what was kept.
    pub fn read(text: &str) -> Result<Self, CommandError> {
        let request: Result<Self, _> = serde_json::from_str(text);
        request.ok().filter(|request| request.v == REQUEST_VERSION).ok_or_else(|| {
            CommandError::input("this version of fleetdrop does not understand what the run was asked for")
                .hint("use the version that began it, or deploy again: hosts keep what they have")
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        deploy: DeployArgs,
    }

    fn request(words: &[&str]) -> Request {
        let line = Line::try_parse_from(["x", "shop.tar", "-i", "hosts.yaml"].iter().chain(words)).unwrap();
        Request::new(&line.deploy, &Plan::default(), 7).unwrap()
    }

    #[test]
    fn paths_mean_the_same_from_everywhere_and_all_options_come_back() {
        let words =
            ["--known-hosts", "/k", "--ssh-config", "none", "--agent-dir", "agents", "-u", "bob", "--lease", "45s", "--yes"];
        let kept = request(&words).to_text().unwrap();
        let back = Request::read(&kept).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(back.deploy.artifact, here.join("shop.tar"));
        assert_eq!(back.deploy.connection.fleet.hosts, here.join("hosts.yaml"));
        assert_eq!(back.deploy.connection.agent_dir, Some(here.join("agents")));
        assert_eq!(back.deploy.connection.known_hosts, Some("/k".into()));
        assert_eq!(back.deploy.connection.ssh_config, Some("none".into()));
        assert_eq!(back.to_text().unwrap(), kept);
    }

    #[test]
    fn what_another_version_kept_is_refused() {
        for bad in ["", "{}", &request(&[]).to_text().unwrap().replace("\"v\":1", "\"v\":2")] {
            let error = Request::read(bad).unwrap_err();
            assert_eq!(error.exit_code(), crate::cli::exit::BAD_INPUT, "{bad}");
        }
    }
}
