//! Where a name leads.
//!
//! The agent is a static binary: it has no part in what the host's C library knows of names (`nsswitch.conf`, mDNS, a resolver on the host). A
//! resolver of its own would cost a tenth of its size and still know less. So the host's `getent` is asked, which is there with every C library
//! in use; where it is not, the addresses serve that the controller found.

use std::{
    net::{IpAddr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;
use url::Host;

use super::HttpError;

/// How long looking a name up may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The most addresses of a name that are tried.
const MOST: usize = 8;

/// Returns the addresses of a host; `known` are those that somebody else found.
pub(super) async fn addresses(host: &Host<&str>, port: u16, known: &[IpAddr]) -> Result<Vec<SocketAddr>, HttpError> {
    let name = match host {
        Host::Ipv4(ip) => return Ok(vec![SocketAddr::from((*ip, port))]),
        Host::Ipv6(ip) => return Ok(vec![SocketAddr::from((*ip, port))]),
        Host::Domain(name) => *name,
    };
    let mut found = tokio::time::timeout(LIMIT, look_up(name)).await.unwrap_or_default();
    if found.is_empty() {
        found = known.to_vec();
    }
    found.truncate(MOST);
    if found.is_empty() {
        return Err(HttpError::Resolve(name.to_owned()));
    }
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Asks the host; nothing if it does not know.
async fn look_up(name: &str) -> Vec<IpAddr> {
    // It would be taken for an option.
    if name.starts_with('-') {
        return Vec::new();
    }
    let asked = Command::new("getent").args(["ahosts", name]).stdin(Stdio::null()).kill_on_drop(true).output().await;
    match asked {
        Ok(answer) => read(&String::from_utf8_lossy(&answer.stdout)),
        Err(_) => ask_library(name).await,
    }
}

/// A controller may run where there is no `getent`.
#[cfg(not(target_feature = "crt-static"))]
async fn ask_library(name: &str) -> Vec<IpAddr> {
    tokio::net::lookup_host((name, 0)).await.map(|found| found.map(|addr| addr.ip()).collect()).unwrap_or_default()
}

#[cfg(target_feature = "crt-static")]
async fn ask_library(_: &str) -> Vec<IpAddr> {
    Vec::new()
}

/// Reads what `getent ahosts` says: a line for each address and kind of socket.
fn read(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for ip in text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_once_in_order() {
        let text = "::1             STREAM localhost\n::1             DGRAM  \n127.0.0.1 STREAM\nfe80::1%eth0 RAW\n\n";
        assert_eq!(read(text), ["::1".parse::<IpAddr>().unwrap(), "127.0.0.1".parse().unwrap()]);
    }

    #[tokio::test]
    async fn names_are_looked_up_and_else_the_known_addresses_serve() {
        let known = ["192.0.2.7".parse().unwrap()];
        let of = async |host| addresses(&Host::Domain(host), 80, &known).await.unwrap();
        assert!(of("localhost").await.iter().all(|addr| addr.ip().is_loopback()));
        assert_eq!(of("no-such-name.invalid").await, ["192.0.2.7:80".parse().unwrap()]);
        assert_eq!(of("-x").await, ["192.0.2.7:80".parse().unwrap()]);
        let six = addresses(&Host::Ipv6("::2".parse().unwrap()), 80, &known).await.unwrap();
        assert_eq!(six, ["[::2]:80".parse().unwrap()]);
        let nowhere = addresses(&Host::Domain("no-such-name.invalid"), 80, &[]).await;
        assert!(matches!(nowhere, Err(HttpError::Resolve(_))));
    }
}
