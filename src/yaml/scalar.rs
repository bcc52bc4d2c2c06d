//! What a plain scalar means: YAML 1.1 by PyYAML's rules, or JSON's where the whole file is JSON.

use super::Value;

/// Returns what a plain, untagged scalar means in YAML 1.1. Dates stay text.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        _ => {}
    }
    if let Some(value) = boolean(text) {
        return Value::Bool(value);
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::String(text.into());
    }
    integer(text).map(Value::Int).or_else(|| float(text).map(Value::Float)).unwrap_or_else(|| Value::String(text.into()))
}

/// Returns what a plain scalar means in a file that is JSON.
pub(super) fn json(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Null) => Value::Null,
        Ok(serde_json::Value::Bool(value)) => Value::Bool(value),
        Ok(serde_json::Value::Number(number)) => match (number.as_i128(), number.as_f64()) {
            (Some(value), _) => Value::Int(value),
            (None, Some(value)) => Value::Float(value),
            (None, None) => Value::String(text.into()),
        },
        _ => Value::String(text.into()),
    }
}

/// Returns the meaning of YAML 1.1's words for true and false.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// Returns a whole number: decimal, `0b`, `0x`, octal with a leading `0`, sexagesimal; `_` between digits.
pub(super) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = sign(text);
    let magnitude = magnitude(digits)?;
    Some(if negative { -magnitude } else { magnitude })
}

fn magnitude(digits: &str) -> Option<i128> {
    if let Some(binary) = digits.strip_prefix("0b") {
        return radix(binary, 2);
    }
    if let Some(hexadecimal) = digits.strip_prefix("0x") {
        return radix(hexadecimal, 16);
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return radix(&digits[1..], 8);
    }
    let mut parts = digits.split(':');
    let first = parts.next()?;
    if !first.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut total = radix(first, 10)?;
    for part in parts {
        if digits.starts_with('0') {
            return None;
        }
        total = total.checked_mul(60)?.checked_add(minute(part)?)?;
    }
    Some(total)
}

/// Reads digits of a base with `_` among them; at least one digit.
fn radix(digits: &str, base: u32) -> Option<i128> {
    let clean: String = digits.chars().filter(|c| *c != '_').collect();
    if clean.is_empty() || !clean.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    i128::from_str_radix(&clean, base).ok()
}

/// Reads one sexagesimal place: `0` to `59`.
fn minute(text: &str) -> Option<i128> {
    let digits = !text.is_empty() && text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|value| digits && *value < 60)
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Returns a number with a point, as PyYAML reads it: an exponent needs its sign, `.5` takes none in front.
pub(super) fn float(text: &str) -> Option<f64> {
    let (negative, digits) = sign(text);
    let signed = |value: f64| if negative { -value } else { value };
    match digits {
        ".inf" | ".Inf" | ".INF" => return Some(signed(f64::INFINITY)),
        ".nan" | ".NaN" | ".NAN" if digits.len() == text.len() => return Some(f64::NAN),
        _ => {}
    }
    let (whole, rest) = digits.split_once('.')?;
    let places = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    if whole.contains(':') {
        return sexagesimal_float(whole, rest).map(signed);
    }
    let (fraction, exponent) = match rest.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, Some(exponent)),
        None => (rest, None),
    };
    let starts_with_digit = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let whole_ok = if whole.is_empty() {
        digits.len() == text.len() && starts_with_digit(fraction)
    } else {
        starts_with_digit(whole) && places(whole)
    };
    let exponent_ok = exponent.is_none_or(|exponent| {
        exponent.strip_prefix(['-', '+']).is_some_and(|e| !e.is_empty() && e.bytes().all(|b| b.is_ascii_digit()))
    });
    if !whole_ok || !places(fraction) || !exponent_ok {
        return None;
    }
    let clean: String = digits.chars().filter(|c| *c != '_').collect();
    clean.parse().ok().map(signed)
}

fn sexagesimal_float(whole: &str, fraction: &str) -> Option<f64> {
    let mut parts = whole.split(':');
    let first = parts.next()?;
    if !first.starts_with(|c: char| c.is_ascii_digit()) || !fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        return None;
    }
    let mut total = radix(first, 10)?;
    for part in parts {
        total = total.checked_mul(60)?.checked_add(minute(part)?)?;
    }
    let fraction: String = fraction.chars().filter(|c| *c != '_').collect();
    format!("{total}.{fraction}").parse().ok()
}
