//! A host's variables: layers shared with other hosts, the last one that has a name wins.

use std::{collections::BTreeMap, sync::Arc};

use super::tree::VarMap;
use crate::yaml::{Node, Value, is_secret_name};

/// Everything that is set for one host, from `all` to its own. Cheap to keep: hosts share what their groups set.
#[derive(Debug, Clone, Default)]
pub struct HostVars {
    /// What its groups set, lowest precedence first.
    groups: Arc<[Arc<VarMap>]>,
    /// What is set for the host itself, lowest precedence first.
    own: Vec<Arc<VarMap>>,
}

impl HostVars {
    pub(super) fn new(groups: Arc<[Arc<VarMap>]>, own: Vec<Arc<VarMap>>) -> Self {
        Self { groups, own }
    }

    /// Returns what is set for this name, with the place.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.own.iter().rev().chain(self.groups.iter().rev()).find_map(|layer| layer.get(name))
    }

    /// Returns every variable by name.
    pub fn merged(&self) -> BTreeMap<&str, &Node> {
        let layers = self.groups.iter().chain(&self.own);
        layers.flat_map(|layer| layer.iter()).map(|(name, node)| (&**name, node)).collect()
    }

    /// Returns every variable as JSON for display. Values of variables that look secret by name read `(hidden)`, at any depth;
    /// encrypted ones read `(vault)`.
    pub fn to_json(&self) -> BTreeMap<String, serde_json::Value> {
        let show = |name: &str| !is_secret_name(name);
        let hidden = || serde_json::Value::String("(hidden)".to_owned());
        let value = |name: &str, node: &Node| if show(name) { node.to_json(&show) } else { hidden() };
        self.merged().into_iter().map(|(name, node)| (name.to_owned(), value(name, node))).collect()
    }
}

/// Why a value cannot be used as it stands.
pub(super) fn opaque(node: &Node) -> Option<String> {
    if node.is_vault() {
        return Some("is encrypted with ansible-vault".to_owned());
    }
    match (&node.value, node.tag.as_deref()) {
        (_, Some("!unsafe")) => None,
        (_, Some(tag)) => Some(format!("has the tag `{tag}`, which only Ansible understands")),
        (Value::String(text), None) if is_template(text) => Some("is a Jinja template".to_owned()),
        _ => None,
    }
}

/// True if Ansible would run the text through Jinja.
fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}
