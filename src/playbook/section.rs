//! Mappings with known keys.

use serde_json::{Value as Json, json};

use super::{
    reading::Reading,
    shape::{Shape, mismatch},
};
use crate::yaml::{Diagnostic, Location, Map, Node, nearest};

/// A mapping of the playbook: its keys, and what is made of their values. The implementing type takes the values one by one.
pub(super) trait Section: Default + 'static {
    /// What it becomes.
    type Value;

    /// Declares the keys.
    fn keys() -> Vec<Key<Self>>;

    /// Puts the values together and tells what is wrong with them as a whole. None only if a value that must be there is not,
    /// which has been told already.
    fn finish(self, seen: &mut Seen<'_>) -> Option<Self::Value>;
}

/// A key of a section.
pub(super) struct Key<S> {
    name: &'static str,
    about: &'static str,
    default: Option<Json>,
    required: bool,
    value: Box<dyn Slot<S>>,
}

/// Declares a key: its name, what it means, what may stand there and where it goes.
pub(super) fn key<S: 'static, T: 'static>(
    name: &'static str,
    about: &'static str,
    shape: impl Shape<Value = T> + 'static,
    set: impl Fn(&mut S, T) + 'static,
) -> Key<S> {
    Key { name, about, default: None, required: false, value: Box::new(Slotted { shape, set }) }
}

impl<S> Key<S> {
    /// Says what stands for the key where it is missing. It is only told: the section's own default does it.
    pub(super) fn default(mut self, value: impl Into<Json>) -> Self {
        self.default = Some(value.into());
        self
    }

    /// Says that the key must be there.
    pub(super) fn required(mut self) -> Self {
        self.required = true;
        self
    }

    fn schema(&self) -> Json {
        let mut schema = self.value.schema();
        schema["description"] = self.about.into();
        if let Some(default) = &self.default {
            schema["default"] = default.clone();
        }
        schema
    }
}

/// Where a value goes, whatever its type.
trait Slot<S> {
    fn read(&self, section: &mut S, node: &Node, key: &str, reading: &mut Reading);
    fn schema(&self) -> Json;
}

struct Slotted<H, F> {
    shape: H,
    set: F,
}

impl<S, H: Shape, F: Fn(&mut S, H::Value)> Slot<S> for Slotted<H, F> {
    fn read(&self, section: &mut S, node: &Node, key: &str, reading: &mut Reading) {
        if let Some(value) = self.shape.read(node, key, reading) {
            (self.set)(section, value);
        }
    }

    fn schema(&self) -> Json {
        self.shape.schema()
    }
}

/// What the whole of a section is checked with.
pub(super) struct Seen<'a> {
    key: &'a str,
    node: &'a Node,
    map: &'a Map,
    reading: &'a mut Reading,
}

impl Seen<'_> {
    /// Returns a key of this section by its way from the top.
    pub(super) fn path(&self, name: &str) -> String {
        path(self.key, name)
    }

    /// Returns the place of a key's value, or of the section where the key is missing.
    pub(super) fn place(&self, name: &str) -> Location {
        self.map.get(name).unwrap_or(self.node).location.clone()
    }

    pub(super) fn problem(&mut self, problem: Diagnostic) {
        self.reading.problem(problem);
    }
}

/// The shape of a section.
pub(super) struct Mapping<S> {
    keys: Vec<Key<S>>,
}

impl<S: Section> Mapping<S> {
    pub(super) fn new() -> Self {
        Self { keys: S::keys() }
    }

    fn unknown(&self, name: &Node, key: &str) -> Diagnostic {
        let parent = if key.is_empty() { String::new() } else { format!(" in `{key}`") };
        let Some(text) = name.as_str() else {
            let message = format!("a key{parent} must be a word, but YAML reads this as {}", name.kind());
            return Diagnostic::new(&name.location, message);
        };
        let known = || self.keys.iter().map(|key| key.name);
        let list = || format!("there are {}", known().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
        let hint = nearest::suggestion(text, known()).unwrap_or_else(list);
        let shown: String = text.chars().take(60).collect();
        Diagnostic::new(&name.location, format!("unknown key `{shown}`{parent}")).with_hint(hint)
    }

    fn read_keys(&self, map: &Map, key: &str, reading: &mut Reading) -> S {
        let mut section = S::default();
        for (name, value) in map.iter() {
            let Some(known) = self.keys.iter().find(|known| name.as_str() == Some(known.name)) else {
                reading.problem(self.unknown(name, key));
                continue;
            };
            let key = path(key, known.name);
            if value.is_null() {
                let problem = Diagnostic::new(&name.location, format!("`{key}` has no value"));
                reading.problem(problem.with_hint("write a value, or remove the key"));
            } else {
                known.value.read(&mut section, value, &key, reading);
            }
        }
        section
    }
}

impl<S: Section> Shape for Mapping<S> {
    type Value = S::Value;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<S::Value> {
        let Some(map) = node.as_map() else {
            reading.problem(mismatch(self, node, key));
            return None;
        };
        for missing in self.keys.iter().filter(|known| known.required && map.entry(known.name).is_none()) {
            let problem = Diagnostic::new(&node.location, format!("`{key}` needs `{}`", missing.name));
            reading.problem(problem.with_hint(format!("{}: {}", missing.name, missing.about)));
        }
        let section = self.read_keys(map, key, reading);
        section.finish(&mut Seen { key, node, map, reading })
    }

    fn schema(&self) -> Json {
        let properties: serde_json::Map<String, Json> =
            self.keys.iter().map(|key| (key.name.to_owned(), key.schema())).collect();
        let required: Vec<&str> = self.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
        let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        schema
    }

    fn expected(&self) -> String {
        "a mapping".to_owned()
    }
}

fn path(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}
