//! Swarms: our engine alone, the stock rqbit session, libtorrent, aria2.

use std::{path::Path, process::Command};

use anyhow::Result;
use fleetdrop::{
    model::Place,
    swarm::policy::{self, Neighbours},
};

use super::{Round, place, script, start_all, write_script};
use crate::{Lab, fleet::Machine, race::race, transfer_node::Node, venv};

/// Where peers listen.
const PORT: u16 = 6881;

fn place_arguments(place: Option<Place>) -> Vec<String> {
    let Some(Place { zone, rank, of }) = place else { return Vec::new() };
    ["--place".to_owned()].into_iter().chain([zone, rank, of].map(|number| number.to_string())).collect()
}

/// `kind` of engine on every machine, with the neighbours a deploy would give.
pub(super) async fn engine(lab: &Lab, kind: &str) -> Result<Round> {
    let fleet = &lab.fleet;
    let info = lab.payload.info.to_string_lossy();
    let seed_address = format!("{}:{PORT}", fleet.controller.address);
    let zones = (0..fleet.hosts.len()).map(|number| fleet.shape.zone(number));
    let mut neighbours = Neighbours::new(policy::degree(fleet.hosts.len()), zones, fastrand::u64(..));
    let command = |machine: &Machine, file: &Path| {
        let mut command = machine.command(&lab.executable);
        command.args(["engine", "--engine", kind, "--info", &info, "--listen", &format!("{}:{PORT}", machine.address)]);
        command.arg("--file").arg(file);
        command
    };
    let mut seed = command(&fleet.controller, &lab.payload.file);
    seed.arg("--seed").args(place_arguments(neighbours.controllers_place(fleet.shape.zone(0))));
    let seed = Node::start("seed", seed).await?;
    let mut hosts = Vec::new();
    for (number, host) in fleet.hosts.iter().enumerate() {
        let mut command = command(host, &place(host).join(lab.payload.name()));
        command.args(["--controller", &seed_address, "--peer", &seed_address]);
        command.args(place_arguments(neighbours.place(number)));
        for neighbour in neighbours.join(number) {
            command.args(["--peer", &format!("{}:{PORT}", fleet.hosts[neighbour].address)]);
        }
        hosts.push((host.name.as_str(), command));
    }
    let (times, usage) = race(fleet, start_all(hosts).await?, lab.timeout).await?;
    seed.end().await?;
    Ok(Round::of_all(times, usage))
}

/// libtorrent on every machine with these settings, each told of every other.
pub(super) async fn libtorrent(lab: &Lab, settings: &str) -> Result<Round> {
    let fleet = &lab.fleet;
    let python = tokio::task::spawn_blocking(venv::python_with_libtorrent).await?.map_err(anyhow::Error::msg)?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/libtorrent_node.py");
    let command = |machine: &Machine, role: &str, directory: &Path| {
        let mut command = machine.command(&python);
        command.arg(&program).args(["--settings", settings]).arg(role).arg(&lab.payload.torrent).arg(directory);
        command.arg(format!("{}:{PORT}", machine.address));
        command
    };
    let seed = Node::start("seed", command(&fleet.controller, "seed", &lab.payload.directory)).await?;
    let mut hosts = Vec::new();
    for host in &fleet.hosts {
        let mut command = command(host, "host", &place(host));
        let others = fleet.machines().filter(|other| other.address != host.address);
        command.args(others.map(|other| format!("{}:{PORT}", other.address)));
        hosts.push((host.name.as_str(), command));
    }
    let (times, usage) = race(fleet, start_all(hosts).await?, lab.timeout).await?;
    seed.end().await?;
    Ok(Round::of_all(times, usage))
}

/// aria2 on every machine, which finds the others through our tracker.
pub(super) async fn aria2(lab: &Lab) -> Result<Round> {
    let fleet = &lab.fleet;
    let seed_address = format!("{}:{PORT}", fleet.controller.address);
    let mut tracker = fleet.controller.command(&lab.executable);
    tracker.arg("tracker").arg("--info").arg(&lab.payload.info);
    tracker.args(["--listen", &fleet.controller.address.to_string(), "--seed", &seed_address]);
    let tracker = Node::start("tracker", tracker).await?;
    let [seeding, completing] = ["ready", "complete"].map(|word| fleet.directory.join(format!("aria2-{word}")));
    write_script(&seeding, "#!/bin/sh\necho ready\n")?;
    write_script(&completing, "#!/bin/sh\necho complete\n")?;
    let arguments = format!(
        "exec aria2c --no-conf --quiet --enable-dht=false --bt-enable-lpd=false --enable-peer-exchange=false --seed-ratio=0.0 \
         --file-allocation=falloc --listen-port={PORT} --on-bt-download-complete=\"$1\" --dir=\"$2\" --check-integrity=\"$3\" {}",
        lab.payload.torrent.display()
    );
    let mut seed: Command = fleet.controller.command("sh");
    seed.args(["-c", &arguments, "sh"]).arg(&seeding).arg(&lab.payload.directory).arg("true");
    let seed = Node::start("seed", seed).await?;
    let hosts = fleet.hosts.iter().map(|host| {
        let place = place(host);
        let command = script(host, false, &arguments, &[&completing.to_string_lossy(), &place.to_string_lossy(), "false"]);
        (host.name.as_str(), command)
    });
    let (times, usage) = race(fleet, start_all(hosts.collect()).await?, lab.timeout).await?;
    seed.end().await?;
    tracker.end().await?;
    Ok(Round::of_all(times, usage))
}
