//! The fleet written down as an Ansible inventory. It says nothing of known hosts: that would take an ssh client to read.

use std::{fmt::Write as _, path::Path};

use super::{GROUP, LocalFleet, LocalFleetError, USER};

/// Returns the inventory of the fleet as YAML.
pub(super) fn render(fleet: &LocalFleet) -> Result<String, LocalFleetError> {
    let mut text = String::from("# A fleet of SSH hosts inside one process, for `fleetdrop demo` and for tests.\n");
    let key = quoted(&fleet.client_key())?;
    // Writing to a String can't fail.
    let _ = write!(text, "{GROUP}:\n  hosts:\n");
    for host in fleet.hosts() {
        let deploy_to = quoted(&host.deploy_to())?;
        let _ = write!(
            text,
            "    {}:\n      ansible_host: {}\n      ansible_port: {}\n      fleetdrop_deploy_to: {deploy_to}\n",
            host.name(),
            host.address().ip(),
            host.address().port(),
        );
    }
    let _ = write!(
        text,
        "  vars:\n    ansible_user: {USER}\n    ansible_ssh_private_key_file: {key}\n    fleetdrop_advertise: 127.0.0.1\n"
    );
    Ok(text)
}

/// Returns the path as a JSON string, which YAML reads as a double-quoted scalar.
fn quoted(path: &Path) -> Result<String, LocalFleetError> {
    let text = path.to_str().ok_or_else(|| LocalFleetError::PathNotUtf8(path.to_owned()))?;
    Ok(serde_json::Value::from(text).to_string())
}
