//! Kinds of values. Each says side by side how it is read and how a JSON Schema describes it.

use std::{ops::RangeInclusive, time::Duration};

use regex::Regex;
use serde_json::{Value as Json, json};

use super::reading::Reading;
use crate::yaml::{Diagnostic, Location, Node, Value, may_hold_secret, nearest};

/// The longest shown value, in characters.
const MAX_SHOWN: usize = 60;
/// A duration: numbers with units.
const DURATION: &str = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)( ?[0-9]+(\.[0-9]+)?(ms|s|m|h|d))*$";

/// What may stand somewhere.
pub(super) trait Shape {
    /// What it becomes.
    type Value;

    /// Reads a value; none if it is no good, which is then told.
    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<Self::Value>;

    /// Returns the JSON Schema of what may stand there.
    fn schema(&self) -> Json;

    /// Returns what may stand there, for people: "a duration from 1s to 1h".
    fn expected(&self) -> String;

    /// Returns what to do about this value, if it is known what was meant.
    fn advice(&self, _node: &Node) -> Option<String> {
        None
    }

    /// Makes something else of the value.
    fn map<T>(self, make: fn(Self::Value) -> T) -> Mapped<Self, T>
    where
        Self: Sized,
    {
        Mapped { shape: self, make }
    }
}

/// Returns the problem that a value is not what is expected there.
pub(super) fn mismatch(shape: &(impl Shape + ?Sized), node: &Node, key: &str) -> Diagnostic {
    let problem = wrong(node, key, &format!("must be {}", shape.expected()));
    match shape.advice(node) {
        Some(advice) => problem.with_hint(advice),
        None => problem,
    }
}

/// Returns the problem that a value breaks a rule: "must not contain `..`".
fn wrong(node: &Node, key: &str, rule: &str) -> Diagnostic {
    let subject = if key.is_empty() { "a playbook".to_owned() } else { format!("`{key}`") };
    let found = match (&node.tag, &node.value) {
        (Some(tag), _) if !node.is_vault() => format!("a value with the tag `{}`", shorten(tag)),
        (None, Value::String(text)) if text.is_empty() => "empty".to_owned(),
        (None, Value::String(text)) if may_hold_secret(text) => "text that may hold a secret".to_owned(),
        (None, Value::String(text)) => format!("`{}`", shorten(text)),
        (None, Value::Int(number)) => format!("the number {number}"),
        (None, Value::Float(number)) => format!("the number {number}"),
        _ => node.kind().to_owned(),
    };
    Diagnostic::new(&node.location, format!("{subject} {rule}, but it is {found}"))
}

fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// [`Shape::map`].
pub(super) struct Mapped<H: Shape, T> {
    shape: H,
    make: fn(H::Value) -> T,
}

impl<H: Shape, T> Shape for Mapped<H, T> {
    type Value = T;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<T> {
        self.shape.read(node, key, reading).map(self.make)
    }

    fn schema(&self) -> Json {
        self.shape.schema()
    }

    fn expected(&self) -> String {
        self.shape.expected()
    }

    fn advice(&self, node: &Node) -> Option<String> {
        self.shape.advice(node)
    }
}

/// Text of a certain form.
pub(super) struct Text<T> {
    /// For people: "a directory's absolute path".
    pub(super) expected: &'static str,
    /// A regular expression that it must match, the same in Rust and in JavaScript; empty if any text will do.
    pub(super) pattern: &'static str,
    /// The most bytes.
    pub(super) longest: usize,
    /// Makes the value, or says which rule the text breaks: "must not contain `..`".
    pub(super) parse: fn(&str) -> Result<T, String>,
}

impl<T> Shape for Text<T> {
    type Value = T;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<T> {
        let Some(text) = node.as_str() else {
            reading.problem(mismatch(self, node, key));
            return None;
        };
        if text.len() > self.longest {
            let message = format!("`{key}` must have at most {} bytes, but it has {}", self.longest, text.len());
            reading.problem(Diagnostic::new(&node.location, message));
            return None;
        }
        let parsed = match matches(self.pattern, text) {
            true => (self.parse)(text),
            false => Err(format!("must be {}", self.expected)),
        };
        parsed.map_err(|rule| reading.problem(wrong(node, key, &rule))).ok()
    }

    fn schema(&self) -> Json {
        let mut schema = json!({ "type": "string", "maxLength": self.longest });
        if !self.pattern.is_empty() {
            schema["pattern"] = self.pattern.into();
        }
        schema
    }

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let scalar = matches!(node.value, Value::Bool(_) | Value::Int(_) | Value::Float(_));
        scalar.then(|| "put it in quotation marks if it is meant as text".to_owned())
    }
}

/// True if the text matches. The patterns are this module's own; one that were no pattern would match nothing.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

/// A whole number within bounds.
pub(super) struct Whole(pub(super) RangeInclusive<u32>);

impl Shape for Whole {
    type Value = u32;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<u32> {
        let number = whole(node).filter(|number| self.0.contains(number));
        if number.is_none() {
            reading.problem(mismatch(self, node, key));
        }
        number
    }

    fn schema(&self) -> Json {
        json!({ "type": "integer", "minimum": self.0.start(), "maximum": self.0.end() })
    }

    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.0.start(), self.0.end())
    }
}

/// Returns an untagged whole number.
fn whole(node: &Node) -> Option<u32> {
    match (&node.value, &node.tag) {
        (Value::Int(number), None) => u32::try_from(*number).ok(),
        _ => None,
    }
}

/// A duration within bounds.
pub(super) struct Time(pub(super) RangeInclusive<Duration>);

impl Shape for Time {
    type Value = Duration;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<Duration> {
        let text = node.as_str().filter(|text| text.len() <= MAX_SHOWN && matches(DURATION, text));
        let time = text.and_then(|text| humantime::parse_duration(text).ok()).filter(|time| self.0.contains(time));
        if time.is_none() {
            reading.problem(mismatch(self, node, key));
        }
        time
    }

    fn schema(&self) -> Json {
        json!({ "type": "string", "pattern": DURATION, "maxLength": MAX_SHOWN })
    }

    fn expected(&self) -> String {
        format!("a duration from {} to {}", duration(*self.0.start()), duration(*self.0.end()))
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let number = matches!(node.value, Value::Int(_) | Value::Float(_));
        number.then(|| "a duration needs its unit: ms, s, m, h or d, as in `90s`".to_owned())
    }
}

/// Writes a duration as a playbook may have it, in one unit: `90s`, `24h`.
pub(super) fn duration(time: Duration) -> String {
    let millis = time.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let exact = units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    exact.map_or("0s".to_owned(), |(unit, name)| format!("{}{name}", millis / unit))
}

/// A number of hosts, or a share of them in percent.
pub(super) struct Amount<T> {
    /// The least number and the least percentage: 0 or 1.
    pub(super) least: u8,
    pub(super) hosts: fn(u32) -> T,
    pub(super) percent: fn(u8) -> T,
}

impl<T> Amount<T> {
    fn percentage(&self) -> &'static str {
        if self.least == 0 { "^(100|[1-9]?[0-9])%$" } else { "^(100|[1-9][0-9]?)%$" }
    }
}

impl<T> Shape for Amount<T> {
    type Value = T;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<T> {
        let hosts = whole(node).filter(|hosts| *hosts >= u32::from(self.least)).map(self.hosts);
        let text = node.as_str().filter(|text| matches(self.percentage(), text));
        let percent = || text?.trim_end_matches('%').parse().ok().map(self.percent);
        let amount = hosts.or_else(percent);
        if amount.is_none() {
            reading.problem(mismatch(self, node, key));
        }
        amount
    }

    fn schema(&self) -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": self.least, "maximum": u32::MAX },
            { "type": "string", "pattern": self.percentage() },
        ] })
    }

    fn expected(&self) -> String {
        format!("a number of hosts from {0} up or a percentage from {0}% to 100%", self.least)
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy> Shape for Choice<T> {
    type Value = T;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<T> {
        let chosen = self.0.iter().find(|(word, _)| node.as_str() == Some(word)).map(|(_, value)| *value);
        if chosen.is_none() {
            reading.problem(mismatch(self, node, key));
        }
        chosen
    }

    fn schema(&self) -> Json {
        json!({ "enum": self.0.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }

    fn expected(&self) -> String {
        alternatives(self.0.iter().map(|(word, _)| format!("`{word}`")))
    }

    fn advice(&self, node: &Node) -> Option<String> {
        nearest::suggestion(node.as_str()?, self.0.iter().map(|(word, _)| *word))
    }
}

/// One word, or a value of another shape.
pub(super) struct WordOr<T, H> {
    pub(super) word: &'static str,
    pub(super) means: T,
    pub(super) other: H,
}

impl<T: Copy, H: Shape<Value = T>> Shape for WordOr<T, H> {
    type Value = T;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<T> {
        if node.as_str() == Some(self.word) {
            return Some(self.means);
        }
        // What the other shape has to say is part of what this one says.
        let value = self.other.read(node, key, &mut Reading::default());
        if value.is_none() {
            reading.problem(mismatch(self, node, key));
        }
        value
    }

    fn schema(&self) -> Json {
        json!({ "anyOf": [{ "enum": [self.word] }, self.other.schema()] })
    }

    fn expected(&self) -> String {
        format!("`{}` or {}", self.word, self.other.expected())
    }

    fn advice(&self, node: &Node) -> Option<String> {
        nearest::suggestion(node.as_str()?, [self.word]).or_else(|| self.other.advice(node))
    }
}

/// A list with so many entries.
pub(super) struct List<H> {
    pub(super) entries: RangeInclusive<usize>,
    pub(super) of: H,
}

impl<H: Shape> Shape for List<H> {
    type Value = Vec<H::Value>;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<Vec<H::Value>> {
        let (Value::Seq(items), None) = (&node.value, &node.tag) else {
            reading.problem(mismatch(self, node, key));
            return None;
        };
        if !self.entries.contains(&items.len()) {
            let (least, most) = (self.entries.start(), self.entries.end());
            let message = format!("`{key}` must have {least} to {most} entries, but it has {}", items.len());
            reading.problem(Diagnostic::new(&node.location, message));
            return None;
        }
        let read = |(index, item)| self.of.read(item, &format!("{key}[{index}]"), reading);
        // Every entry is read, so that every problem is told.
        let values: Vec<Option<H::Value>> = items.iter().enumerate().map(read).collect();
        values.into_iter().collect()
    }

    fn schema(&self) -> Json {
        json!({ "type": "array", "minItems": self.entries.start(), "maxItems": self.entries.end(), "items": self.of.schema() })
    }

    fn expected(&self) -> String {
        "a list".to_owned()
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let single = !matches!(node.value, Value::Seq(_) | Value::Map(_) | Value::Null);
        single.then(|| "write it as a list of one: `[...]`".to_owned())
    }
}

/// A value together with its place.
pub(super) struct Placed<H>(pub(super) H);

impl<H: Shape> Shape for Placed<H> {
    type Value = (H::Value, Location);

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<Self::Value> {
        Some((self.0.read(node, key, reading)?, node.location.clone()))
    }

    fn schema(&self) -> Json {
        self.0.schema()
    }

    fn expected(&self) -> String {
        self.0.expected()
    }
}

/// Different shapes for the same thing, told apart by what kind of YAML stands there.
pub(super) struct ByKind<T> {
    scalar: Option<Box<dyn Shape<Value = T>>>,
    list: Option<Box<dyn Shape<Value = T>>>,
    mapping: Option<Box<dyn Shape<Value = T>>>,
}

impl<T> ByKind<T> {
    /// Starts with what may stand there as a single word, number or line.
    pub(super) fn scalar(shape: impl Shape<Value = T> + 'static) -> Self {
        Self { scalar: Some(Box::new(shape)), list: None, mapping: None }
    }

    /// Adds what may stand there as a list.
    pub(super) fn list(mut self, shape: impl Shape<Value = T> + 'static) -> Self {
        self.list = Some(Box::new(shape));
        self
    }

    /// Adds what may stand there as a mapping.
    pub(super) fn mapping(mut self, shape: impl Shape<Value = T> + 'static) -> Self {
        self.mapping = Some(Box::new(shape));
        self
    }

    fn shapes(&self) -> impl Iterator<Item = &dyn Shape<Value = T>> {
        [&self.scalar, &self.list, &self.mapping].into_iter().filter_map(|shape| shape.as_deref())
    }
}

impl<T> Shape for ByKind<T> {
    type Value = T;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<T> {
        let shape = match node.value {
            Value::Seq(_) => &self.list,
            Value::Map(_) => &self.mapping,
            _ => &self.scalar,
        };
        match shape.as_deref().filter(|_| node.tag.is_none() && !node.is_null()) {
            Some(shape) => shape.read(node, key, reading),
            None => {
                reading.problem(mismatch(self, node, key));
                None
            }
        }
    }

    fn schema(&self) -> Json {
        json!({ "anyOf": self.shapes().map(Shape::schema).collect::<Vec<_>>() })
    }

    fn expected(&self) -> String {
        alternatives(self.shapes().map(Shape::expected))
    }
}

/// Returns "a, b or c".
fn alternatives(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}
