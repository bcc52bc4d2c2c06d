//! The fleet written down as an Ansible inventory.

use std::{fmt::Write as _, path::Path};

use super::{GROUP, LocalFleet, LocalFleetError, USER};

/// Returns the inventory of the fleet as YAML.
pub(super) fn render(fleet: &LocalFleet) -> Result<String, LocalFleetError> {
    let mut text = String::from("# A fleet of SSH hosts inside one process, for `fleetdrop demo` and for tests.\n");
    let key = quoted(&fleet.client_key())?;
    let known_hosts = quoted_text(&format!("-o UserKnownHostsFile={}", shell_word(path_text(&fleet.known_hosts())?)));
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
        "  vars:\n    ansible_user: {USER}\n    ansible_ssh_private_key_file: {key}\n    ansible_ssh_common_args: {known_hosts}\n    \
         fleetdrop_advertise: 127.0.0.1\n"
    );
    Ok(text)
}

fn path_text(path: &Path) -> Result<&str, LocalFleetError> {
    path.to_str().ok_or_else(|| LocalFleetError::PathNotUtf8(path.to_owned()))
}

/// Returns the path as a YAML double-quoted scalar.
fn quoted(path: &Path) -> Result<String, LocalFleetError> {
    Ok(quoted_text(path_text(path)?))
}

/// Returns the text as a JSON string, which YAML reads as a double-quoted scalar.
fn quoted_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the text so that a POSIX shell reads it as one word.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
