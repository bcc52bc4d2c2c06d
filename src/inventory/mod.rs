//! Ansible's YAML inventories, loaded unchanged, and its host patterns.
//!
//! Owns everything between an inventory file's path and a list of hosts to connect to. It promises to understand an inventory as
//! `ansible-inventory` does: groups, ranges, merges, `group_vars/` and `host_vars/` beside the file, and the precedence
//! of variables (tested against the real thing). It is stricter where leniency would deploy to the wrong hosts: a duplicate
//! key, a pattern that matches nothing, a template or an encrypted value in a variable it needs are errors with file, line, column
//! and a hint. It reads files and nothing else: no environment, no `ansible.cfg`, no plugin, no script, no network.
//!
//! | file | does |
//! |---|---|
//! | `parse` | YAML to groups and hosts |
//! | `ranges` | `web[01:50].example.com:2222` |
//! | `tree` | who is in what; order and depth |
//! | `vars_files` | `group_vars/` and `host_vars/` |
//! | `vars`, `host` | a host's variables, and what is needed of them |
//! | `pattern` | `--limit` |

mod host;
mod parse;
mod pattern;
mod ranges;
#[cfg(test)]
mod tests;
mod tree;
mod vars;
mod vars_files;
mod warnings;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use host::{Become, Connection, HostEntry};
pub use vars::HostVars;

use tree::{ALL, GroupId, HostIndex, Tree, VarMap};
use warnings::Warnings;

use crate::yaml::{self, Diagnostic, Location, Source, YamlError, nearest};

/// The most hosts in an inventory.
pub const MAX_HOSTS: usize = 100_000;
/// The most groups in an inventory.
pub const MAX_GROUPS: usize = 10_000;
/// The most levels of groups below `all`.
pub const MAX_GROUP_DEPTH: usize = 64;
/// The most times hosts may be mentioned, ranges written out.
const MAX_MENTIONS: usize = 1_000_000;
/// The most files in `group_vars/` and `host_vars/` that are read.
const MAX_VARS_FILES: usize = 20_000;
/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// The most bytes in those files.
const MAX_VARS_BYTES: u64 = 256 << 20;

/// Something that was skipped or may not mean what it seems to: place, message, hint.
pub type Warning = Diagnostic;

/// Says why there is no list of hosts.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// A file cannot be read or does not say what it should.
    #[error(transparent)]
    File(#[from] YamlError),
    /// The pattern of `--limit` does not lead to hosts.
    #[error("{}: --limit `{pattern}`{}: {reason}", inventory.display(), place.as_ref().map(|at| format!(" at {at}")).unwrap_or_default())]
    Limit {
        /// The inventory's file.
        inventory: PathBuf,
        /// The pattern, or the part of it that is wrong.
        pattern: String,
        /// Where that part stands, if it comes from a file (`@file`).
        place: Option<Location>,
        /// What is wrong with it.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

impl From<Diagnostic> for InventoryError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::File(diagnostic.into())
    }
}

impl InventoryError {
    /// Returns what to do about it, where there is something to do.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::File(error) => error.hint(),
            Self::Limit { hint, .. } => hint.as_deref(),
        }
    }

    /// Returns the source line with a caret under the column, if there is one and it may be shown.
    pub fn snippet(&self) -> Option<String> {
        match self {
            Self::File(error) => error.snippet(),
            Self::Limit { place, .. } => place.as_ref().and_then(Location::snippet),
        }
    }
}

/// An inventory, with what is worth saying about it.
#[derive(Debug)]
pub struct Loaded {
    /// The inventory.
    pub inventory: Inventory,
    /// At most about twenty; the last one says how many more there were.
    pub warnings: Vec<Warning>,
}

/// Groups, hosts and their variables.
#[derive(Debug)]
pub struct Inventory {
    path: PathBuf,
    tree: Tree,
}

impl Inventory {
    /// Loads an inventory file and the variables files beside it.
    pub fn load(path: &Path) -> Result<Loaded, InventoryError> {
        let source = read(path)?;
        let mut warnings = Warnings::default();
        let root = yaml::parse(&source).map_err(|error| parse::explain_syntax(&source, error))?;
        let mut tree = parse::parse(&source, &root, &mut warnings)?;
        vars_files::load(path, &mut tree, &mut warnings)?;
        warn_of_unknown_variables(&tree, &mut warnings);
        let warnings = warnings.finish(&Location::whole(path));
        Ok(Loaded { inventory: Self { path: path.to_owned(), tree }, warnings })
    }

    /// Returns the file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the hosts that the pattern leaves, all without one, in inventory order. No host at all is an error.
    pub fn select(&self, limit: Option<&str>) -> Result<Vec<HostEntry>, InventoryError> {
        let hosts = pattern::select(self, limit)?;
        if hosts.is_empty() {
            let Some(limit) = limit else {
                let message = "the inventory has no hosts";
                let whole = Location::whole(&self.path);
                return Err(Diagnostic::new(&whole, message).with_hint("name hosts under `hosts:` of a group").into());
            };
            let hint = "`fleetdrop inventory --hosts FILE` shows what there is";
            return Err(pattern::refuse(self, limit, "no host is left", hint));
        }
        let mut shared = HashMap::new();
        hosts.into_iter().map(|host| self.entry(host, &mut shared)).collect()
    }

    fn entry<'a>(&'a self, id: HostIndex, shared: &mut HashMap<&'a [GroupId], GroupView>) -> Result<HostEntry, InventoryError> {
        let host = self.tree.host(id);
        let direct = self.tree.direct_groups(id);
        let view = shared.entry(direct).or_insert_with(|| self.view(direct));
        let vars = HostVars::new(Arc::clone(&view.layers), host.vars.clone());
        host::entry(host.name.clone(), view.names.clone(), vars)
    }

    /// Collects what hosts in these groups have in common. Precedence, lowest first: `all`, the other groups, then the files of
    /// `all`, the files of the other groups.
    fn view(&self, direct: &[GroupId]) -> GroupView {
        let others = self.tree.in_order_of_precedence(direct);
        let ordered = || std::iter::once(ALL).chain(others.iter().copied()).map(|id| self.tree.group(id));
        let inline = ordered().map(|group| &group.vars);
        let files = ordered().flat_map(|group| &group.files);
        let layers = inline.chain(files).filter(|layer| !layer.is_empty()).cloned().collect();
        let mut names: Vec<String> = others.iter().map(|id| self.tree.group(*id).name.to_string()).collect();
        names.sort_unstable();
        GroupView { layers, names }
    }
}

/// Reads a file of an inventory.
fn read(path: &Path) -> Result<Arc<Source>, YamlError> {
    yaml::read(path, MAX_FILE_BYTES)
}

/// What hosts in the same groups share.
struct GroupView {
    layers: Arc<[Arc<VarMap>]>,
    names: Vec<String>,
}

/// Warns of variables that look like fleetdrop's own but are not.
fn warn_of_unknown_variables(tree: &Tree, warnings: &mut Warnings) {
    let of_groups = tree.groups().flat_map(|(_, group)| std::iter::once(&group.vars).chain(&group.files));
    let of_hosts = tree.hosts().flat_map(|(_, host)| &host.vars);
    let mut layers_seen = HashSet::new();
    let mut names_seen = HashSet::new();
    for layer in of_groups.chain(of_hosts).filter(|layer| layers_seen.insert(Arc::as_ptr(layer))) {
        for (name, node) in layer.iter().filter(|(name, _)| name.starts_with("fleetdrop_")) {
            if host::OWN_VARIABLES.contains(&&**name) || !names_seen.insert(name) {
                continue;
            }
            let message = format!("unknown variable `{name}`; nothing uses it");
            let known = || format!("there are {}", host::OWN_VARIABLES.map(|name| format!("`{name}`")).join(", "));
            let hint = nearest::suggestion(name, host::OWN_VARIABLES).unwrap_or_else(known);
            warnings.push(Diagnostic::new(&node.location, message).with_hint(hint));
        }
    }
}
