//! From the parser's events to one tree of nodes, with every limit applied while it grows.
//!
//! Iterative: the stack of open collections is a `Vec` of at most [`MAX_DEPTH`] frames. What an alias stands for is shared, not
//! copied, but counts against the limits as if it were copied, because whoever walks the tree later sees it that way.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use serde_saphyr::granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{Diagnostic, Location, MAX_DEPTH, MAX_TEXT_BYTES, MAX_VALUES, Map, Node, Source, Value, scalar};

/// YAML's own tags start with this.
const CORE: &str = "tag:yaml.org,2002:";
/// What a plain `<<` is tagged with.
const MERGE: &str = "!!merge";

/// How much a node is with its aliases expanded.
#[derive(Clone, Copy, Default)]
struct Extent {
    values: u64,
    bytes: u64,
    /// Levels of collections: 0 for a scalar.
    height: usize,
}

/// A finished node with its extent.
#[derive(Clone)]
struct Built {
    node: Node,
    extent: Extent,
}

/// An open collection.
struct Frame {
    kind: Kind,
    anchor: usize,
    tag: Option<Arc<str>>,
    location: Location,
    extent: Extent,
}

enum Kind {
    Seq(Vec<Node>),
    Map { entries: Vec<(Node, Node)>, key: Option<Node> },
}

struct Composer {
    source: Arc<Source>,
    /// The whole file is JSON: numbers follow its rules.
    json: bool,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Built>,
    /// What has been built so far, aliases expanded.
    total: Extent,
    root: Option<Node>,
    documents: usize,
}

/// Builds the tree of the one document in `source`.
pub(super) fn compose(source: &Arc<Source>) -> Result<Node, Diagnostic> {
    let text = source.text();
    let mut options = Options::default();
    options.set_emit_comments(false);
    // The parser reads ahead of what is built here, so it has the limit too.
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut composer = Composer {
        source: Arc::clone(source),
        json: text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(),
        stack: Vec::new(),
        anchors: HashMap::new(),
        total: Extent::default(),
        root: None,
        documents: 0,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| composer.syntax(&error))?;
        composer.event(event, span)?;
    }
    let whole = Location::new(source, 1, 1);
    Ok(composer.root.unwrap_or(Node { value: Value::Null, tag: None, location: whole }))
}

impl Composer {
    /// Returns where a value begins, its tag included.
    fn at(&self, span: Span) -> Location {
        let start = span.tag_start().unwrap_or(span.start);
        Location::new(&self.source, start.line(), start.col() + 1)
    }

    fn syntax(&self, error: &ScanError) -> Diagnostic {
        let location = Location::new(&self.source, error.marker().line().max(1), error.marker().col() + 1);
        if *error.kind() == ErrorKind::RecursionLimitExceeded {
            return too_deep(&location);
        }
        let message = format!("not valid YAML: {}", error.info());
        let hint = match self.source.text().lines().nth(error.marker().line().saturating_sub(1)) {
            Some(line) if line.trim_start_matches(' ').starts_with('\t') => "indent with spaces; YAML allows no tabs there",
            Some(line) if line.contains(": {{") => "quote a value that starts with `{`: `\"{{ ... }}\"`",
            _ => "look at this line and the ones before it: indentation, quotes, brackets",
        };
        Diagnostic::new(&location, message).with_hint(hint)
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Diagnostic> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let message = "a second document starts here; one file holds one document";
                    return Err(Diagnostic::new(&self.at(span), message).with_hint("remove the extra `---` or use two files"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(&text, style, tag.as_deref(), self.at(span))?;
                let extent = Extent { values: 1, bytes: text.len() as u64, height: 0 };
                self.grow(extent, &node.location)?;
                self.finish(Built { node, extent }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => self.open(Kind::Seq(Vec::new()), anchor, tag.as_deref(), span),
            Event::MappingStart(_, anchor, tag) => {
                self.open(Kind::Map { entries: Vec::new(), key: None }, anchor, tag.as_deref(), span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => Ok(()),
        }
    }

    fn open(&mut self, kind: Kind, anchor: usize, tag: Option<&Tag>, span: Span) -> Result<(), Diagnostic> {
        let location = self.at(span);
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(&location));
        }
        let extent = Extent { values: 1, bytes: 0, height: 1 };
        self.grow(extent, &location)?;
        let own = match kind {
            Kind::Seq(_) => "seq",
            Kind::Map { .. } => "map",
        };
        let tag = tag.and_then(|tag| foreign_tag(tag, own));
        self.stack.push(Frame { kind, anchor, tag, location, extent });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Diagnostic> {
        let location = self.at(span);
        let Some(built) = self.anchors.get(&anchor).cloned() else {
            return Err(Diagnostic::new(&location, "this alias stands for a value that contains it"));
        };
        if self.stack.len() + built.extent.height > MAX_DEPTH {
            return Err(too_deep(&location));
        }
        self.grow(built.extent, &location)?;
        self.finish(built, 0)
    }

    /// Counts something against the file's limits.
    fn grow(&mut self, extent: Extent, location: &Location) -> Result<(), Diagnostic> {
        self.total.values = self.total.values.saturating_add(extent.values);
        self.total.bytes = self.total.bytes.saturating_add(extent.bytes);
        if self.total.values > MAX_VALUES || self.total.bytes > MAX_TEXT_BYTES {
            let message = format!(
                "the file holds more than {MAX_VALUES} values or {} MiB of text, aliases expanded",
                MAX_TEXT_BYTES >> 20
            );
            return Err(
                Diagnostic::new(location, message).with_hint("aliases (`*name`) that contain aliases multiply; write less")
            );
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Diagnostic> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let value = match frame.kind {
            Kind::Seq(items) => Value::Seq(items.into()),
            Kind::Map { entries, .. } => Value::Map(Arc::new(build_map(entries)?)),
        };
        let node = Node { value, tag: frame.tag, location: frame.location };
        self.finish(Built { node, extent: frame.extent }, frame.anchor)
    }

    /// Puts a finished node where it belongs.
    fn finish(&mut self, built: Built, anchor: usize) -> Result<(), Diagnostic> {
        if anchor != 0 {
            self.anchors.insert(anchor, built.clone());
        }
        let Built { node, extent } = built;
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        frame.extent.values = frame.extent.values.saturating_add(extent.values);
        frame.extent.bytes = frame.extent.bytes.saturating_add(extent.bytes);
        frame.extent.height = frame.extent.height.max(extent.height + 1);
        match &mut frame.kind {
            Kind::Seq(items) => items.push(node),
            Kind::Map { entries, key } => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(check_key(node)?),
            },
        }
        Ok(())
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, location: Location) -> Result<Node, Diagnostic> {
        let plain = matches!(style, ScalarStyle::Plain);
        let resolve = || if self.json { scalar::json(text) } else { scalar::plain(text) };
        // A lone `!` changes nothing for PyYAML.
        let (value, tag) = match tag.filter(|tag| !is_bare(tag)) {
            None if plain && text == "<<" => (Value::String(text.into()), Some(MERGE.into())),
            None if plain => (resolve(), None),
            None => (Value::String(text.into()), None),
            Some(tag) => match core_name(tag).as_deref() {
                Some(name) => match core_scalar(name, text) {
                    Core::Value(value) => (value, None),
                    Core::Wrong => {
                        return Err(Diagnostic::new(&location, format!("`{}` is not a YAML `!!{name}`", shorten(text))));
                    }
                    Core::Foreign => (Value::String(text.into()), Some(format!("!!{name}").into())),
                },
                None => (Value::String(text.into()), Some(tag.original().into())),
            },
        };
        Ok(Node { value, tag, location })
    }
}

/// What one of YAML's own tags makes of a text.
enum Core {
    Value(Value),
    Wrong,
    Foreign,
}

fn core_scalar(name: &str, text: &str) -> Core {
    let value = match name {
        "str" => Some(Value::String(text.into())),
        "null" => Some(Value::Null),
        "bool" => scalar::boolean(&text.to_ascii_lowercase()).map(Value::Bool),
        "int" => scalar::integer(text).map(Value::Int),
        "float" => scalar::float(text).or_else(|| text.parse().ok()).map(Value::Float),
        "timestamp" => Some(Value::String(text.into())),
        _ => return Core::Foreign,
    };
    value.map_or(Core::Wrong, Core::Value)
}

/// Returns `int` for `!!int`, however it was written.
fn core_name(tag: &Tag) -> Option<String> {
    tag.suffix_in_namespace(CORE).map(std::borrow::Cow::into_owned)
}

/// True for a `!` alone.
fn is_bare(tag: &Tag) -> bool {
    matches!(tag.parts(), ("!", "") | ("", "!"))
}

/// Returns the tag of a collection unless it is the one it has anyway.
fn foreign_tag(tag: &Tag, own: &str) -> Option<Arc<str>> {
    match core_name(tag) {
        Some(name) if name == own => None,
        Some(name) => Some(format!("!!{name}").into()),
        None if is_bare(tag) => None,
        None => Some(tag.original().into()),
    }
}

fn too_deep(location: &Location) -> Diagnostic {
    Diagnostic::new(location, format!("nested more than {MAX_DEPTH} levels deep"))
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

fn check_key(node: Node) -> Result<Node, Diagnostic> {
    match node.value {
        Value::Seq(_) | Value::Map(_) => {
            let hint = "quote a key that starts with `{` or `[`";
            Err(Diagnostic::new(&node.location, format!("a key cannot be {}", node.kind())).with_hint(hint))
        }
        _ => Ok(node),
    }
}

/// Keys that are equal in Python are equal here: `1`, `1.0` and `true` are one key.
#[derive(PartialEq, Eq, Hash)]
enum KeyIdentity {
    Null,
    Int(i128),
    Float(u64),
    Text(Arc<str>),
}

fn identity(key: &Node) -> KeyIdentity {
    match &key.value {
        Value::Bool(value) => KeyIdentity::Int((*value).into()),
        Value::Int(value) => KeyIdentity::Int(*value),
        // The cast saturates; only a whole number in range survives the comparison.
        Value::Float(value) if (*value as i128) as f64 == *value => KeyIdentity::Int(*value as i128),
        Value::Float(value) => KeyIdentity::Float(value.to_bits()),
        Value::String(text) => KeyIdentity::Text(Arc::clone(text)),
        Value::Null | Value::Seq(_) | Value::Map(_) => KeyIdentity::Null,
    }
}

/// True for the key `<<`, unless it is quoted.
fn is_merge(key: &Node) -> bool {
    key.tag.as_deref() == Some(MERGE)
}

/// Resolves merges and refuses duplicate keys. Merged entries come first, in PyYAML's order; the mapping's own win.
fn build_map(entries: Vec<(Node, Node)>) -> Result<Map, Diagnostic> {
    let mut merged = Vec::new();
    let mut own = Vec::with_capacity(entries.len());
    let mut seen: HashMap<KeyIdentity, Location> = HashMap::with_capacity(entries.len());
    for (key, value) in entries {
        if is_merge(&key) {
            collect_merge(&key, &value, &mut merged)?;
            continue;
        }
        match seen.entry(identity(&key)) {
            Entry::Occupied(first) => return Err(duplicate(&key, first.get())),
            Entry::Vacant(free) => {
                free.insert(key.location.clone());
                own.push((key, value));
            }
        }
    }
    if merged.is_empty() {
        return Ok(Map { entries: own });
    }
    let mut places: HashMap<KeyIdentity, usize> = HashMap::new();
    let mut result: Vec<(Node, Node)> = Vec::new();
    for (key, value) in merged.into_iter().chain(own) {
        match places.entry(identity(&key)) {
            Entry::Occupied(place) => result[*place.get()] = (key, value),
            Entry::Vacant(free) => {
                free.insert(result.len());
                result.push((key, value));
            }
        }
    }
    Ok(Map { entries: result })
}

fn collect_merge(key: &Node, value: &Node, merged: &mut Vec<(Node, Node)>) -> Result<(), Diagnostic> {
    let wrong = |node: &Node| {
        let message = format!("`<<` merges mappings, but this is {}", node.kind());
        Diagnostic::new(&key.location, message).with_hint("write `<<: *name` or `<<: [*one, *two]`")
    };
    match &value.value {
        Value::Map(map) => merged.extend(map.iter().cloned()),
        // The first mapping of a list wins, so it comes last.
        Value::Seq(items) => {
            for item in items.iter().rev() {
                let Value::Map(map) = &item.value else { return Err(wrong(item)) };
                merged.extend(map.iter().cloned());
            }
        }
        _ => return Err(wrong(value)),
    }
    Ok(())
}

fn duplicate(key: &Node, first: &Location) -> Diagnostic {
    let name = shorten(&key.key_text());
    let line = first.line().unwrap_or(0);
    let message = format!("the key `{name}` is already in this mapping, on line {line}");
    Diagnostic::new(&key.location, message).with_hint("remove one of the two, or join what is under them")
}
