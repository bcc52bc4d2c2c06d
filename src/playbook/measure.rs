//! Kinds of values that are measured: sizes, rates, fractions. And switches.

use std::ops::RangeInclusive;

use serde_json::{Value as Json, json};

use super::{
    reading::Reading,
    shape::{Shape, mismatch},
};
use crate::{
    model::size::{parse_size, write_size},
    yaml::{Node, Value},
};

/// The longest size, in bytes of its text.
const LONGEST: usize = 40;
/// A number with a unit of bytes, as in [`parse_size`]; for a rate `/s` follows.
const SIZE: &str = r"[0-9]+(\.[0-9]{1,9})? ?([kKmMgGtT][iI]?)?[bB]";

/// A number of bytes within bounds, or so many a second.
pub(super) struct Bytes {
    pub(super) bounds: RangeInclusive<u64>,
    pub(super) a_second: bool,
}

impl Bytes {
    fn unit(&self) -> &'static str {
        if self.a_second { "/s" } else { "" }
    }

    fn pattern(&self) -> String {
        format!("^{SIZE}{}$", self.unit())
    }
}

impl Shape for Bytes {
    type Value = u64;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<u64> {
        let fits = |text: &&str| text.len() <= LONGEST && super::shape::matches(&self.pattern(), text);
        let text = node.as_str().filter(fits).map(|text| text.trim_end_matches("/s"));
        let bytes = text.and_then(|text| parse_size(text).ok()).filter(|bytes| self.bounds.contains(bytes));
        if bytes.is_none() {
            reading.problem(mismatch(self, node, key));
        }
        bytes
    }

    fn schema(&self) -> Json {
        json!({ "type": "string", "pattern": self.pattern(), "maxLength": LONGEST })
    }

    fn expected(&self) -> String {
        let what = if self.a_second { "a rate" } else { "a size" };
        let shown = |bytes: &u64| format!("{}{}", write_size(*bytes), self.unit());
        match *self.bounds.end() {
            u64::MAX => format!("{what} of at least {}", shown(self.bounds.start())),
            _ => format!("{what} from {} to {}", shown(self.bounds.start()), shown(self.bounds.end())),
        }
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let number = matches!(node.value, Value::Int(_) | Value::Float(_));
        let example = if self.a_second { "10MiB/s" } else { "10GiB" };
        number.then(|| format!("it needs its unit, as in `{example}`"))
    }
}

/// A fraction of one, in thousandths, within bounds.
pub(super) struct Thousandths(pub(super) RangeInclusive<u32>);

impl Thousandths {
    fn bounds(&self) -> (f64, f64) {
        (f64::from(*self.0.start()) / 1000.0, f64::from(*self.0.end()) / 1000.0)
    }
}

impl Shape for Thousandths {
    type Value = u32;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<u32> {
        let (least, most) = self.bounds();
        let number = match (&node.value, &node.tag) {
            (Value::Float(number), None) => Some(*number),
            (Value::Int(1), None) => Some(1.0),
            _ => None,
        };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            reading.problem(mismatch(self, node, key));
        }
        number.map(|number| (number * 1000.0).round() as u32)
    }

    fn schema(&self) -> Json {
        let (least, most) = self.bounds();
        json!({ "type": "number", "minimum": least, "maximum": most })
    }

    fn expected(&self) -> String {
        let (least, most) = self.bounds();
        format!("a number from {least} to {most}")
    }
}

/// `true` or `false`.
pub(super) struct Switch;

impl Shape for Switch {
    type Value = bool;

    fn read(&self, node: &Node, key: &str, reading: &mut Reading) -> Option<bool> {
        let Value::Bool(on) = node.value else {
            reading.problem(mismatch(self, node, key));
            return None;
        };
        Some(on)
    }

    fn schema(&self) -> Json {
        json!({ "type": "boolean" })
    }

    fn expected(&self) -> String {
        "`true` or `false`".to_owned()
    }
}
