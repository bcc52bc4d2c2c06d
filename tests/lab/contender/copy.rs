//! Copies from the controller: a plain download, scp, clush.

use anyhow::Result;

use super::{Round, place, script, start_all};
use crate::{Lab, race::race, web::WebServer};

/// One host of each class downloads, one after the other. What was used is told of the first.
pub(super) async fn http(lab: &Lab) -> Result<Round> {
    let server = WebServer::start(&lab.fleet.controller, &lab.payload.directory).await?;
    let round = downloads(lab, &server.url()).await;
    server.stop().await?;
    round
}

async fn downloads(lab: &Lab, root: &str) -> Result<Round> {
    let url = format!("{root}{}", lab.payload.name());
    let mut times = vec![None; lab.fleet.hosts.len()];
    let mut first = None;
    for (_, number) in lab.fleet.shape.representatives() {
        let host = &lab.fleet.hosts[number];
        let target = place(host).join(lab.payload.name());
        let download = script(host, false, "curl -sSf -o \"$1\" \"$2\" && echo complete", &[&target.to_string_lossy(), &url]);
        let (time, usage) = race(&lab.fleet, start_all(vec![(host.name.as_str(), download)]).await?, lab.timeout).await?;
        times[number] = Some(time[0]);
        first.get_or_insert(usage);
    }
    Ok(Round { times, whole: None, usage: first.unwrap_or_default(), copies: 1 })
}

/// One scp a host, all at once.
pub(super) async fn scp(lab: &Lab) -> Result<Round> {
    let file = lab.payload.file.to_string_lossy();
    let copies = lab.fleet.hosts.iter().map(|host| {
        let target = format!("{}:round/", host.address);
        let command =
            script(&lab.fleet.controller, true, "scp -q -o BatchMode=yes \"$1\" \"$2\" && echo complete", &[&file, &target]);
        (host.name.as_str(), command)
    });
    let (times, usage) = race(&lab.fleet, start_all(copies.collect()).await?, lab.timeout).await?;
    Ok(Round::of_all(times, usage))
}

/// One program for all hosts: its time is every host's.
pub(super) async fn clush(lab: &Lab) -> Result<Round> {
    let file = lab.payload.file.to_string_lossy();
    let targets: Vec<String> = lab.fleet.hosts.iter().map(|host| host.address.to_string()).collect();
    let copy = "clush -q -o '-o BatchMode=yes' -f 64 -w \"$1\" --copy \"$2\" --dest /root/round/ && echo complete";
    let command = script(&lab.fleet.controller, true, copy, &[&targets.join(","), &file]);
    let (times, usage) = race(&lab.fleet, start_all(vec![("clush", command)]).await?, lab.timeout).await?;
    Ok(Round::of_all(vec![times[0]; lab.fleet.hosts.len()], usage))
}
