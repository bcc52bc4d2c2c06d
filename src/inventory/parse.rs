//! From YAML to groups and hosts, by the rules of Ansible's YAML inventory plugin.
//!
//! Where Ansible skips something with a warning, so does this; where it silently does something nobody can want (a duplicate key,
//! a host's variables that end up on a group), this refuses.

use std::sync::Arc;

use super::{
    MAX_GROUPS, MAX_HOSTS, MAX_MENTIONS, ranges,
    tree::{ALL, GroupId, Tree, VarMap},
    warnings::Warnings,
};
use crate::{
    model::HostName,
    yaml::{Diagnostic, Location, Map, Node, Source, Value, nearest},
};

/// What a group may have in it.
const SECTIONS: [&str; 3] = ["hosts", "children", "vars"];
/// How to turn anything Ansible understands into a YAML inventory.
const CONVERT: &str = "fleetdrop reads Ansible's YAML inventories; convert it with \
                       `ansible-inventory -i FILE --list --yaml > inventory.yaml`";

/// Says whether a text looks like an INI inventory or an inventory script, and which.
fn other_format(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim);
    if text.starts_with("#!") {
        return Some("an inventory script");
    }
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(['#', ';']))?;
    let header = |line: &str| {
        let line = line.split(" #").next().unwrap_or(line).trim();
        line.starts_with('[') && line.ends_with(']') && !line.contains(',')
    };
    let host_line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().is_some_and(|name| !name.contains(['=', '{', '"', '\'']) && !name.ends_with(':'));
        name && words.all(|word| word.contains('='))
    };
    (header(first) || (host_line(first) && lines.any(header)) || (host_line(first) && first.contains('=')))
        .then_some("an INI inventory")
}

/// Adds what is known about the file's format to a syntax error.
pub(super) fn explain_syntax(source: &Arc<Source>, error: Diagnostic) -> Diagnostic {
    match other_format(source.text()) {
        Some(format) => not_yaml(source, format),
        None => error,
    }
}

fn not_yaml(source: &Arc<Source>, format: &str) -> Diagnostic {
    Diagnostic::new(&Location::new(source, 1, 1), format!("this looks like {format}, not YAML")).with_hint(CONVERT)
}

/// Builds the tree of an inventory file.
pub(super) fn parse(source: &Arc<Source>, root: &Node, warnings: &mut Warnings) -> Result<Tree, Diagnostic> {
    let top = top_level(source, root)?;
    let mut parser = Parser { tree: Tree::new(&Location::whole(source.path())), warnings, mentions: 0 };
    for (name, data) in top.iter() {
        parser.group(name, data, None)?;
    }
    let Parser { mut tree, .. } = parser;
    tree.settle()?;
    check_shared_names(&tree, warnings)?;
    Ok(tree)
}

fn top_level<'a>(source: &Arc<Source>, root: &'a Node) -> Result<&'a Map, Diagnostic> {
    let Some(top) = root.as_map().filter(|map| !map.is_empty()) else {
        let empty = root.is_null() || root.as_map().is_some();
        if let Some(format) = other_format(source.text()).filter(|_| !empty) {
            return Err(not_yaml(source, format));
        }
        let (message, hint) = if empty {
            ("the inventory is empty".to_owned(), "start with `all:`, `  hosts:`, `    web1.example.com:`")
        } else {
            (format!("an inventory is a mapping of groups, but this is {}", root.kind()), CONVERT)
        };
        return Err(Diagnostic::new(&root.location, message).with_hint(hint));
    };
    if let Some((key, value)) = top.entry("plugin") {
        let truthy = !matches!(&value.value, Value::Null | Value::Bool(false) | Value::Int(0))
            && !matches!(&value.value, Value::String(text) if text.is_empty());
        if truthy {
            let message = "this configures an inventory plugin; it is not an inventory";
            return Err(Diagnostic::new(&key.location, message)
                .with_hint("write out what it yields: `ansible-inventory -i FILE --list --yaml > inventory.yaml`"));
        }
    }
    if let Some((key, _)) = top.entry("_meta") {
        let message = "this is the JSON output of an inventory script or of `ansible-inventory --list`";
        return Err(
            Diagnostic::new(&key.location, message).with_hint("write it as YAML: `ansible-inventory -i FILE --list --yaml`")
        );
    }
    Ok(top)
}

struct Parser<'a> {
    tree: Tree,
    warnings: &'a mut Warnings,
    /// Host names written out so far, each mention counted.
    mentions: usize,
}

impl Parser<'_> {
    /// Reads one group and everything in it.
    fn group(&mut self, key: &Node, data: &Node, parent: Option<GroupId>) -> Result<(), Diagnostic> {
        let name = text_key(key, "group")?;
        if !(data.is_null() || data.as_map().is_some()) {
            let message = format!("`{name}` should be a group, but it is {}", data.kind());
            let hint = "a group is a mapping with `hosts`, `children` and `vars`";
            let diagnostic = Diagnostic::new(&key.location, message).with_hint(hint);
            if parent.is_some() {
                return Err(diagnostic);
            }
            self.warnings.push(Diagnostic { message: format!("{}; skipped", diagnostic.message), ..diagnostic });
            return Ok(());
        }
        let id = self.tree.add_group(name, &key.location);
        if self.tree.group_count() > MAX_GROUPS {
            return Err(Diagnostic::new(&key.location, format!("more than {MAX_GROUPS} groups")));
        }
        if let Some(data) = data.as_map() {
            for (section, content) in data.iter() {
                self.section(id, section, content)?;
            }
        }
        if let Some(parent) = parent {
            self.tree.add_child(parent, id, &key.location);
        }
        Ok(())
    }

    fn section(&mut self, group: GroupId, key: &Node, content: &Node) -> Result<(), Diagnostic> {
        let section = key.as_str().unwrap_or_default();
        if !SECTIONS.contains(&section) {
            let name = Arc::clone(&self.tree.group(group).name);
            let message = format!("unknown key {} in group `{name}`; skipped", describe(key));
            let hint = nearest::suggestion(section, SECTIONS)
                .unwrap_or_else(|| "a group has `hosts`, `children` and `vars`; variables belong under `vars`".to_owned());
            self.warnings.push(Diagnostic::new(&key.location, message).with_hint(hint));
            return Ok(());
        }
        let entries = match (&content.value, content.as_map()) {
            (_, Some(map)) => map.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            (Value::Null, _) => Vec::new(),
            // A text stands for a mapping with that one key.
            (Value::String(_), _) if content.tag.is_none() => {
                let null = Node { value: Value::Null, tag: None, location: content.location.clone() };
                vec![(content.clone(), null)]
            }
            _ => {
                let name = &self.tree.group(group).name;
                let message = format!("`{section}` of group `{name}` must be a mapping, but it is {}", content.kind());
                let hint = format!("write each entry as a key: `{section}:`, then `  name:` without a dash");
                return Err(Diagnostic::new(&content.location, message).with_hint(hint));
            }
        };
        for (key, value) in &entries {
            match section {
                "vars" => self.group_variable(group, key, value)?,
                "children" => self.group(key, value, Some(group))?,
                _ => self.host(group, key, value)?,
            }
        }
        Ok(())
    }

    fn group_variable(&mut self, group: GroupId, key: &Node, value: &Node) -> Result<(), Diagnostic> {
        let Some(name) = self.variable_name(key) else { return Ok(()) };
        if &*name == "ansible_group_priority" {
            let priority = match &value.value {
                Value::Int(priority) => Some(*priority),
                Value::Bool(value) => Some((*value).into()),
                Value::String(text) => text.trim().parse().ok(),
                _ => None,
            };
            let Some(priority) = priority else {
                let message = format!("`ansible_group_priority` must be a whole number, but it is {}", value.kind());
                return Err(Diagnostic::new(&value.location, message));
            };
            self.tree.group_mut(group).priority = priority;
        } else {
            Arc::make_mut(&mut self.tree.group_mut(group).vars).insert(name, value.clone());
        }
        Ok(())
    }

    /// Returns a variable's name, or none with a warning if it cannot be one.
    fn variable_name(&mut self, key: &Node) -> Option<Arc<str>> {
        let name = variable_name(key);
        if name.is_none() {
            let message = format!("{} is no variable's name; skipped", describe(key));
            self.warnings.push(Diagnostic::new(&key.location, message).with_hint("quote it if it is meant as text"));
        }
        name
    }

    fn host(&mut self, group: GroupId, key: &Node, data: &Node) -> Result<(), Diagnostic> {
        let written = text_key(key, "host")?;
        let vars = self.host_variables(written, data)?;
        let (pattern, port) = ranges::split_port(written).unwrap_or((written, None));
        let room = MAX_MENTIONS - self.mentions;
        let names = ranges::expand(pattern, MAX_HOSTS.min(room)).map_err(|error| {
            let diagnostic = Diagnostic::new(&key.location, error.message);
            Diagnostic { hint: error.hint.map(str::to_owned), ..diagnostic }
        })?;
        self.mentions += names.len();
        if names.is_empty() {
            let message = format!("the range in `{written}` is empty: its begin is above its end");
            self.warnings.push(Diagnostic::new(&key.location, message));
        }
        let port_vars = port.map(|port| {
            let value = Node { value: Value::Int(port.into()), tag: None, location: key.location.clone() };
            Arc::new(VarMap::from([("ansible_port".into(), value)]))
        });
        for name in &names {
            self.add_host(group, name, key, port_vars.as_ref(), vars.as_ref())?;
        }
        Ok(())
    }

    fn add_host(
        &mut self,
        group: GroupId,
        name: &str,
        key: &Node,
        port: Option<&Arc<VarMap>>,
        vars: Option<&Arc<VarMap>>,
    ) -> Result<(), Diagnostic> {
        let id = HostName::new(name).map_err(|error| Diagnostic::new(&key.location, error.to_string()))?;
        let (host, new) = self.tree.add_host(id, &key.location);
        if self.tree.host_count() > MAX_HOSTS {
            return Err(Diagnostic::new(&key.location, format!("more than {MAX_HOSTS} hosts")));
        }
        self.tree.join(host, group);
        match port {
            Some(port) if new => self.tree.host_mut(host).vars.push(Arc::clone(port)),
            Some(_) => {
                let first = self.tree.host(host).location.line();
                if first != key.location.line() {
                    let line = first.unwrap_or(0);
                    let message = format!("this port is ignored: the first mention of `{name}` counts, on line {line}");
                    self.warnings
                        .push(Diagnostic::new(&key.location, message).with_hint("write the port there, or set `ansible_port`"));
                }
            }
            None => {}
        }
        if let Some(vars) = vars {
            self.tree.host_mut(host).vars.push(Arc::clone(vars));
        }
        Ok(())
    }

    fn host_variables(&mut self, host: &str, data: &Node) -> Result<Option<Arc<VarMap>>, Diagnostic> {
        let empty = match &data.value {
            Value::Null | Value::Bool(false) | Value::Int(0) => true,
            Value::String(text) => text.is_empty(),
            Value::Seq(items) => items.is_empty(),
            Value::Map(map) => map.is_empty(),
            _ => false,
        };
        if empty && data.tag.is_none() {
            return Ok(None);
        }
        let Some(map) = data.as_map() else {
            let message = format!("the variables of host `{host}` must be a mapping, but this is {}", data.kind());
            return Err(
                Diagnostic::new(&data.location, message).with_hint("write `name: value` lines under the host, or nothing")
            );
        };
        let mut vars = VarMap::new();
        for (key, value) in map.iter() {
            if let Some(name) = self.variable_name(key) {
                vars.insert(name, value.clone());
            }
        }
        Ok(Some(Arc::new(vars)))
    }
}

/// Returns a key's text if a variable can have that name.
pub(super) fn variable_name(key: &Node) -> Option<Arc<str>> {
    match (&key.value, &key.tag) {
        (Value::String(text), None) if !text.is_empty() => Some(Arc::clone(text)),
        _ => None,
    }
}

/// Returns the text of a group's or host's name, or an error that says how YAML read it.
fn text_key<'a>(key: &'a Node, what: &str) -> Result<&'a str, Diagnostic> {
    match key.as_str() {
        Some("") => Err(Diagnostic::new(&key.location, format!("a {what} needs a name"))),
        Some(name) => Ok(name),
        None => {
            let message = format!("a {what}'s name must be text, but YAML reads this as {}", key.kind());
            Err(Diagnostic::new(&key.location, message).with_hint("put the name in quotation marks"))
        }
    }
}

fn describe(key: &Node) -> String {
    match key.as_str() {
        Some(name) => format!("`{}`", name.chars().take(60).collect::<String>()),
        None => key.kind().to_owned(),
    }
}

/// Warns of names that are both a group's and a host's. Ansible gives such a host's variables to the group; where that would reach
/// other hosts it is refused.
fn check_shared_names(tree: &Tree, warnings: &mut Warnings) -> Result<(), Diagnostic> {
    for (id, host) in tree.hosts() {
        let Some(group) = tree.find_group(host.name.as_str()) else { continue };
        let name = &host.name;
        let with_others = group == ALL || tree.hosts_below(group).iter().any(|member| *member != id);
        if !host.vars.is_empty() && with_others {
            let message = format!("`{name}` is a host with variables and a group with other hosts");
            let hint = "Ansible would give the host's variables to the whole group; rename one of the two";
            return Err(Diagnostic::new(&host.location, message).with_hint(hint));
        }
        let message = format!("`{name}` is both a host and a group; `--limit {name}` means the host");
        warnings.push(Diagnostic::new(&host.location, message).with_hint("rename one of the two"));
    }
    Ok(())
}
