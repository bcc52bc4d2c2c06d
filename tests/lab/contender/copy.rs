//! Copies from the controller: a plain download, scp, clush.

use std::{fs, path::Path};

use anyhow::Result;

use super::{Round, place, script, start_all};
use crate::{Lab, program, race::race, transfer_node::Node};

/// One host of each class downloads, one after the other. What was used is told of the first.
pub(super) async fn http(lab: &Lab) -> Result<Round> {
    let controller = &lab.fleet.controller;
    let configuration = controller.directory.join("nginx.conf");
    fs::write(&configuration, nginx_configuration(&controller.directory, &lab.payload.directory))?;
    let mut server = controller.command("sh");
    // nginx listens when its master process goes to the background, which is when the shell goes on.
    server.args(["-c", "nginx -c \"$1\" && echo ready && read go", "sh"]).arg(&configuration);
    let server = Node::start("nginx", server).await?;
    let round = downloads(lab).await;
    program::run(controller.command("nginx").arg("-c").arg(&configuration).args(["-s", "stop"]))?;
    server.end().await?;
    round
}

async fn downloads(lab: &Lab) -> Result<Round> {
    let url = format!("http://{}/{}", lab.fleet.controller.address, lab.payload.name());
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

fn nginx_configuration(directory: &Path, root: &Path) -> String {
    let (directory, root) = (directory.display(), root.display());
    format!(
        "pid {directory}/nginx.pid; error_log {directory}/nginx.log; worker_processes 1; user root;\n\
         events {{}}\n\
         http {{ access_log off; sendfile on; client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;\n\
         fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;\n\
         server {{ listen 80; root {root}; }} }}\n"
    )
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
