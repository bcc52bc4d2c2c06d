//! YAML as Ansible reads it, with the place of every value. The one module that knows the YAML parser; inventories and playbooks are
//! read through it.
//!
//! Ansible reads YAML 1.1 through PyYAML; so does this module: `yes`/`no`/`on`/`off` are booleans, `010` is octal, `1:30` is
//! sexagesimal, `<<` merges. On top of that it promises:
//!
//! * every [`Node`] knows its file, line and column;
//! * `!vault`, `!unsafe` and unknown tags stay on their node, nothing is guessed about them;
//! * a duplicate key is an error that names both places (Ansible only warns and takes the last);
//! * a file too large, nested too deeply, with too many values or with aliases that multiply is refused with a clear error
//!   before it costs memory: see the limits below. No input makes it panic or recurse without bound.
//!
//! It reads one document a file. Parser events come from `serde-saphyr`'s parser; the tree is built here, because serde's data
//! model has no room for places and tags.

mod compose;
mod location;
pub mod nearest;
mod scalar;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use location::{Diagnostic, Location, Source, is_secret_name, may_hold_secret};

/// The deepest nesting of sequences and mappings, counted with aliases expanded.
pub const MAX_DEPTH: usize = 64;
/// The most values in one file, counted with aliases expanded.
pub const MAX_VALUES: u64 = 1_000_000;
/// The most bytes of text in one file, counted with aliases expanded.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Says why a YAML file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The file cannot be opened or read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error(transparent)]
    Invalid(#[from] Box<Diagnostic>),
}

impl From<Diagnostic> for YamlError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Invalid(Box::new(diagnostic))
    }
}

impl YamlError {
    /// Returns what to do about it, where there is something to do.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("check the path; it is relative to the current directory"),
                io::ErrorKind::PermissionDenied => Some("give the user who runs fleetdrop read access to it"),
                io::ErrorKind::IsADirectory => Some("name one YAML file, not a directory"),
                _ => None,
            },
            Self::Invalid(diagnostic) => diagnostic.hint.as_deref(),
        }
    }

    /// Returns the source line with a caret under the column, if there is one and it may be shown.
    pub fn snippet(&self) -> Option<String> {
        match self {
            Self::Read { .. } => None,
            Self::Invalid(diagnostic) => diagnostic.snippet(),
        }
    }
}

/// One value with its place and, if it has one that YAML itself does not define, its tag.
#[derive(Clone)]
pub struct Node {
    /// What.
    pub value: Value,
    /// `!vault`, `!unsafe` or any other tag outside YAML's own; the value is then as written.
    pub tag: Option<Arc<str>>,
    /// Where it starts. For an alias, where the anchored value is.
    pub location: Location,
}

/// A value. Cloning is cheap: collections and text are shared.
#[derive(Clone)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// A YAML 1.1 boolean.
    Bool(bool),
    /// A whole number. One that does not fit is kept as text.
    Int(i128),
    /// A number with a fraction, `.inf` or `.nan`.
    Float(f64),
    /// Text; dates too, as written.
    String(Arc<str>),
    /// A sequence.
    Seq(Arc<[Node]>),
    /// A mapping.
    Map(Arc<Map>),
}

/// A mapping in the order of the file, merges (`<<`) resolved, without duplicate keys.
#[derive(Default)]
pub struct Map {
    entries: Vec<(Node, Node)>,
}

impl Map {
    /// Returns the entry with this text as its key.
    pub fn entry(&self, key: &str) -> Option<&(Node, Node)> {
        self.entries.iter().find(|(name, _)| name.as_str() == Some(key))
    }

    /// Returns the value of this key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Iterates over keys and values in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, (Node, Node)> {
        self.entries.iter()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Node {
    /// Returns the text of an untagged string.
    pub fn as_str(&self) -> Option<&str> {
        match (&self.value, &self.tag) {
            (Value::String(text), None) => Some(text),
            _ => None,
        }
    }

    /// Returns the mapping of an untagged mapping.
    pub fn as_map(&self) -> Option<&Arc<Map>> {
        match (&self.value, &self.tag) {
            (Value::Map(map), None) => Some(map),
            _ => None,
        }
    }

    /// True for an untagged null.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null) && self.tag.is_none()
    }

    /// True for a value encrypted with `ansible-vault`.
    pub fn is_vault(&self) -> bool {
        matches!(self.tag.as_deref(), Some("!vault" | "!vault-encrypted"))
    }

    /// Returns what kind of value it is, for error messages: "a mapping", "text".
    pub fn kind(&self) -> &'static str {
        if self.is_vault() {
            return "an encrypted value";
        }
        match self.value {
            Value::Null => "nothing (null)",
            Value::Bool(true) => "the boolean true",
            Value::Bool(false) => "the boolean false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::String(_) => "text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Returns the value as JSON. `show` decides by the key whether an entry's value may be shown; hidden ones read
    /// `(hidden)`, encrypted ones `(vault)`. A number JSON cannot hold becomes text.
    pub fn to_json(&self, show: &dyn Fn(&str) -> bool) -> serde_json::Value {
        use serde_json::Value as Json;
        if self.is_vault() {
            return Json::String("(vault)".to_owned());
        }
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => {
                serde_json::Number::from_i128(*value).map_or_else(|| Json::String(value.to_string()), Json::Number)
            }
            Value::Float(value) => {
                serde_json::Number::from_f64(*value).map_or_else(|| Json::String(float_text(*value)), Json::Number)
            }
            Value::String(text) => Json::String(text.to_string()),
            Value::Seq(items) => Json::Array(items.iter().map(|item| item.to_json(show)).collect()),
            Value::Map(map) => Json::Object(
                map.iter()
                    .map(|(key, value)| {
                        let key = key.key_text();
                        let value = if show(&key) { value.to_json(show) } else { Json::String("(hidden)".to_owned()) };
                        (key, value)
                    })
                    .collect(),
            ),
        }
    }

    /// Returns a key as text, whatever its type; scalars only, as every key is.
    fn key_text(&self) -> String {
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => float_text(*value),
            Value::String(text) => text.to_string(),
            Value::Seq(_) | Value::Map(_) => self.kind().to_owned(),
        }
    }
}

fn float_text(value: f64) -> String {
    match value {
        value if value.is_nan() => ".nan".to_owned(),
        value if value.is_infinite() => if value > 0.0 { ".inf" } else { "-.inf" }.to_owned(),
        value => value.to_string(),
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind(), self.location)
    }
}

/// Reads a file as text: UTF-8, at most `max_bytes`; a byte order mark is dropped. A pipe will do, a directory won't.
pub fn read(path: &Path, max_bytes: u64) -> Result<Arc<Source>, YamlError> {
    let failed = |source| YamlError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let mut bytes = Vec::new();
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max_bytes {
        let message = format!("the file is larger than {} KiB", max_bytes >> 10);
        return Err(Diagnostic::new(&Location::whole(path), message).into());
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map(|text| Source::new(path, text)).map_err(|error| not_utf8(path, &error).into())
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Diagnostic {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let text = String::from_utf8_lossy(good);
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    let location = Location::new(&Source::new(path, String::new()), line, column);
    Diagnostic::new(&location, "the file is not UTF-8 text from here on")
        .with_hint("convert it, for example with `iconv -t utf-8`")
}

/// Parses one document. An empty one is [`Value::Null`].
pub fn parse(source: &Arc<Source>) -> Result<Node, Diagnostic> {
    compose::compose(source)
}
