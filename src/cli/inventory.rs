//! `fleetdrop inventory`: what was understood of an inventory, before anything is done with it.

use std::{collections::BTreeSet, path::Path};

use clap::Args;
use serde::{Serialize, Serializer};

use super::{CommandError, Output, connection::FleetArgs, exit, fleet, output::Format};
use crate::{
    inventory::{Become, Connection, HostEntry, HostVars, Inventory, Warning},
    model::HostName,
    report::{
        Palette, escape, measure,
        table::{self, Tone},
    },
};

/// The version of the JSON object. A change that breaks consumers raises it.
const INVENTORY_VERSION: u32 = 1;
/// The longest shown value, in characters.
const MAX_CELL: usize = 200;

/// What to show.
#[derive(Debug, Clone, Args)]
pub struct InventoryArgs {
    /// Which hosts.
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// Shows what was understood and returns the exit code.
pub async fn run(args: InventoryArgs, output: &Output) -> Result<u8, CommandError> {
    let loaded = Inventory::load(&args.fleet.hosts).map_err(fleet::inventory_error)?;
    if output.format != Format::Json {
        fleet::show_warnings(&loaded.warnings, output);
    }
    let hosts = loaded.inventory.select(args.fleet.limit.as_deref()).map_err(fleet::inventory_error)?;
    if output.format == Format::Json {
        output.print_json(&Report::new(&args.fleet.hosts, &hosts, &loaded.warnings))?;
    } else {
        output.print(&render(&hosts, output.stdout_width(), output.stdout_palette()))?;
    }
    Ok(exit::SUCCESS)
}

/// The whole answer, as JSON shows it.
#[derive(Serialize)]
struct Report<'a> {
    /// [`INVENTORY_VERSION`].
    v: u32,
    /// The file, as it was named.
    inventory: String,
    /// The selected hosts, in inventory order.
    hosts: Vec<HostRow<'a>>,
    warnings: Vec<WarningRow<'a>>,
}

/// One host. Absent values are null.
#[derive(Serialize)]
struct HostRow<'a> {
    host: &'a HostName,
    connection: Connection,
    address: &'a str,
    port: Option<u16>,
    user: Option<&'a str>,
    identity_file: Option<String>,
    ssh_args: &'a [String],
    host_key_checking: Option<bool>,
    r#become: Option<&'a Become>,
    deploy_to: Option<&'a str>,
    zone: Option<&'a str>,
    advertise: Option<std::net::IpAddr>,
    groups: &'a [String],
    #[serde(serialize_with = "visible_vars")]
    vars: &'a HostVars,
}

/// One warning; without line and column it is about the whole file.
#[derive(Serialize)]
struct WarningRow<'a> {
    file: String,
    line: Option<u32>,
    column: Option<u32>,
    message: &'a str,
    hint: Option<&'a str>,
}

fn visible_vars<S: Serializer>(vars: &HostVars, serializer: S) -> Result<S::Ok, S::Error> {
    vars.to_json().serialize(serializer)
}

impl<'a> Report<'a> {
    fn new(file: &Path, hosts: &'a [HostEntry], warnings: &'a [Warning]) -> Self {
        Self {
            v: INVENTORY_VERSION,
            inventory: file.display().to_string(),
            hosts: hosts.iter().map(HostRow::new).collect(),
            warnings: warnings.iter().map(WarningRow::new).collect(),
        }
    }
}

impl<'a> HostRow<'a> {
    fn new(host: &'a HostEntry) -> Self {
        Self {
            host: &host.name,
            connection: host.connection,
            address: &host.address,
            port: host.port,
            user: host.user.as_deref(),
            identity_file: host.identity_file.as_ref().map(|path| path.display().to_string()),
            ssh_args: &host.ssh_args,
            host_key_checking: host.host_key_checking,
            r#become: host.r#become.as_ref(),
            deploy_to: host.deploy_to.as_deref(),
            zone: host.zone.as_deref(),
            advertise: host.advertise,
            groups: &host.groups,
            vars: &host.vars,
        }
    }
}

impl<'a> WarningRow<'a> {
    fn new(warning: &'a Warning) -> Self {
        Self {
            file: warning.location.path().display().to_string(),
            line: warning.location.line(),
            column: warning.location.column(),
            message: &warning.message,
            hint: warning.hint.as_deref(),
        }
    }
}

/// A column of the table: its header and what it says about a host, nothing if there is nothing to say.
type Column = (&'static str, fn(&HostEntry) -> String);

/// In order. A column that says nothing about any host is left out.
const COLUMNS: [Column; 8] = [
    ("host", |host| host.name.to_string()),
    ("address", address),
    ("port", |host| host.port.map(|port| port.to_string()).unwrap_or_default()),
    ("user", user),
    ("groups", |host| host.groups.join(", ")),
    ("deploy_to", |host| host.deploy_to.clone().unwrap_or_default()),
    ("zone", |host| host.zone.clone().unwrap_or_default()),
    ("advertise", |host| host.advertise.map(|address| address.to_string()).unwrap_or_default()),
];

fn address(host: &HostEntry) -> String {
    match host.connection {
        Connection::Local => "(this machine)".to_owned(),
        Connection::Ssh if host.address == host.name.as_str() => String::new(),
        Connection::Ssh => host.address.clone(),
    }
}

fn user(host: &HostEntry) -> String {
    let login = host.user.as_deref().unwrap_or_default();
    match &host.r#become {
        Some(becomes) => format!("{login} (sudo {})", becomes.user).trim_start().to_owned(),
        None => login.to_owned(),
    }
}

/// Returns the hosts for people: a row a host, then how many there are.
fn render(hosts: &[HostEntry], width: usize, palette: Palette) -> String {
    let cells = |(header, cell): &Column| {
        let column: Vec<String> = hosts.iter().map(|host| escape::line(&cell(host), MAX_CELL)).collect();
        column.iter().any(|text| !text.is_empty()).then_some((*header, column))
    };
    let columns: Vec<_> = COLUMNS.iter().filter_map(cells).collect();
    let header: Vec<&str> = columns.iter().map(|(header, _)| *header).collect();
    let cell = |text: &String| (if text.is_empty() { "-".to_owned() } else { text.clone() }, Tone::Normal);
    let rows = (0..hosts.len()).map(|row| columns.iter().map(|(_, column)| cell(&column[row])).collect()).collect();
    let groups: BTreeSet<&str> = hosts.iter().flat_map(|host| &host.groups).map(String::as_str).collect();
    let table = table::render(&header, rows, width, palette);
    format!("{table}\n{} in {}\n", measure::count(hosts.len(), "host"), measure::count(groups.len(), "group"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "\
web:
  vars: {ansible_user: deploy, fleetdrop_deploy_to: /srv/shop, api_token: hush}
  hosts:
    web1: {ansible_host: 10.0.0.1, fleetdrop_zone: a}
    web2:2222: {ansible_become: yes}
tools:
  hosts:
    here: {ansible_connection: local, fleetdrop_nonsense: 1}
";

    fn load() -> (tempfile::TempDir, crate::inventory::Loaded) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("hosts.yml"), YAML).unwrap();
        let loaded = Inventory::load(&directory.path().join("hosts.yml")).unwrap();
        (directory, loaded)
    }

    #[test]
    fn people_see_a_row_a_host_and_only_columns_that_say_something() {
        let (_directory, loaded) = load();
        let show = |limit| render(&loaded.inventory.select(limit).unwrap(), 100, Palette::PLAIN);
        insta::assert_snapshot!(show(None), @r#"
        host  address         port  user                groups  deploy_to  zone
        -------------------------------------------------------------------------
        web1  10.0.0.1        -     deploy              web     /srv/shop  a
        web2  -               2222  deploy (sudo root)  web     /srv/shop  -
        here  (this machine)  -     -                   tools   -          -

        3 hosts in 2 groups
        "#);
        insta::assert_snapshot!(show(Some("here")), @r#"
        host  address         groups
        ------------------------------
        here  (this machine)  tools

        1 host in 1 group
        "#);
    }

    #[test]
    fn programs_see_every_field_and_no_secret() {
        let (_directory, loaded) = load();
        let hosts = loaded.inventory.select(Some("web1,here")).unwrap();
        let mut report = Report::new(Path::new("hosts.yml"), &hosts, &loaded.warnings);
        report.warnings.iter_mut().for_each(|warning| warning.file = "hosts.yml".to_owned());
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
        {
          "v": 1,
          "inventory": "hosts.yml",
          "hosts": [
            {
              "host": "web1",
              "connection": "ssh",
              "address": "10.0.0.1",
              "port": null,
              "user": "deploy",
              "identity_file": null,
              "ssh_args": [],
              "host_key_checking": null,
              "become": null,
              "deploy_to": "/srv/shop",
              "zone": "a",
              "advertise": null,
              "groups": [
                "web"
              ],
              "vars": {
                "ansible_host": "10.0.0.1",
                "ansible_user": "deploy",
                "api_token": "(hidden)",
                "fleetdrop_deploy_to": "/srv/shop",
                "fleetdrop_zone": "a"
              }
            },
            {
              "host": "here",
              "connection": "local",
              "address": "here",
              "port": null,
              "user": null,
              "identity_file": null,
              "ssh_args": [],
              "host_key_checking": null,
              "become": null,
              "deploy_to": null,
              "zone": null,
              "advertise": null,
              "groups": [
                "tools"
              ],
              "vars": {
                "ansible_connection": "local",
                "fleetdrop_nonsense": 1
              }
            }
          ],
          "warnings": [
            {
              "file": "hosts.yml",
              "line": 8,
              "column": 59,
              "message": "unknown variable `fleetdrop_nonsense`; nothing uses it",
              "hint": "there are `fleetdrop_deploy_to`, `fleetdrop_zone`, `fleetdrop_advertise`"
            }
          ]
        }
        "#);
    }
}
