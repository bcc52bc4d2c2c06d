//! Makes text from elsewhere (hosts, files, other programs) safe to show: nothing in it can move the cursor, change
//! colours, reorder what is read, or fill the screen.

use std::fmt::Write as _;

/// True for characters that do something to a terminal or to the reading order instead of being seen.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

/// Returns `text` as one line of at most `limit` characters (plus an ellipsis): line breaks and tabs become spaces,
/// other control characters are written as `\u{1b}`.
pub fn line(text: &str, limit: usize) -> String {
    escape(text.trim_end(), limit, |c| matches!(c, '\n' | '\r' | '\t').then_some(' '))
}

/// Returns `text` of at most `limit` characters with its line breaks kept; for snippets of files.
pub fn block(text: &str, limit: usize) -> String {
    escape(text.trim_end(), limit, |c| match c {
        '\n' => Some('\n'),
        '\t' => Some(' '),
        _ => None,
    })
}

/// Returns JSON text with the control characters escaped that JSON allows but some terminals obey (U+007F to U+009F).
pub fn json(text: &str) -> String {
    if !text.contains(|c| ('\u{7f}'..='\u{9f}').contains(&c)) {
        return text.to_owned();
    }
    // Outside strings JSON has none of them, so each stands where an escape may stand.
    text.chars().fold(String::with_capacity(text.len() + 16), |mut out, c| {
        if ('\u{7f}'..='\u{9f}').contains(&c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
        out
    })
}

fn escape(text: &str, limit: usize, replace: impl Fn(char) -> Option<char>) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for (position, c) in text.chars().enumerate() {
        if position >= limit {
            out.push('…');
            break;
        }
        match replace(c) {
            Some(other) => out.push(other),
            None if is_unsafe(c) => out.extend(c.escape_unicode()),
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_and_reordering_characters_become_visible() {
        assert_eq!(line("\u{1b}[31mred\u{1b}[0m", 99), r"\u{1b}[31mred\u{1b}[0m");
        assert_eq!(line("a\r\nb\tc\n", 99), "a  b c");
        assert_eq!(line("exe\u{202e}gpj", 99), r"exe\u{202e}gpj");
        assert_eq!(line("\u{9b}2J", 99), r"\u{9b}2J");
        assert_eq!(line("größe 大きい", 99), "größe 大きい");
        assert_eq!(block("a\nb\u{7}", 99), "a\nb\\u{7}");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(line("ééééé", 3), "ééé…");
        assert_eq!(line("ééé", 3), "ééé");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "m": "a\u{9b}2J\u{7f}é\u{1b}" });
        let text = json(&value.to_string());
        assert!(text.chars().all(|c| !c.is_control()), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    proptest! {
        #[test]
        fn no_text_gets_through_unsafe_or_unbounded(text in "\\PC*|[\\x00-\\x{2fff}]{0,60}", limit in 0usize..40) {
            let shown = line(&text, limit);
            prop_assert!(shown.chars().all(|c| !is_unsafe(c)), "{shown:?}");
            prop_assert!(shown.chars().count() <= limit * 10 + 1);
        }
    }
}
