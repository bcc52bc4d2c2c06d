//! Which known names a mistyped one may have meant.

/// The most suggestions.
const MAX_SUGGESTIONS: usize = 3;
/// A longer text is no typing mistake.
const MAX_LENGTH: usize = 100;

/// Returns a hint that suggests the known names nearest to `name`, or none if no name is near.
pub fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near = nearest(name, known);
    let quoted: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    (!quoted.is_empty()).then(|| format!("did you mean {}?", quoted.join(" or ")))
}

/// Returns up to three known names within a few edits of `name`, nearest first.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted: Vec<char> = name.to_lowercase().chars().collect();
    if wanted.is_empty() || wanted.len() > MAX_LENGTH {
        return Vec::new();
    }
    let allowed = (wanted.len() / 3).clamp(1, 4);
    let mut found: Vec<(usize, &str)> = Vec::new();
    for candidate in known {
        if candidate.len() > 4 * MAX_LENGTH || candidate.len() + allowed < wanted.len() {
            continue;
        }
        let letters: Vec<char> = candidate.to_lowercase().chars().collect();
        if letters.len().abs_diff(wanted.len()) > allowed {
            continue;
        }
        let distance = edits(&wanted, &letters);
        if distance <= allowed && !found.iter().any(|(_, name)| *name == candidate) {
            found.push((distance, candidate));
            found.sort();
            found.truncate(MAX_SUGGESTIONS);
        }
    }
    found.into_iter().map(|(_, name)| name).collect()
}

/// Returns the number of insertions, deletions and substitutions between two texts.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        row[0] = left;
        for (place, to) in row[1..].iter_mut().zip(b) {
            left = (diagonal + usize::from(from != to)).min(left + 1).min(*place + 1);
            diagonal = std::mem::replace(place, left);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_nearest_first() {
        let known = ["web01", "web02", "web10", "db01", "prod", "production"];
        assert_eq!(nearest("web1", known), ["web01", "web10"]);
        assert_eq!(nearest("prd", known), ["prod"]);
        assert!(nearest("zzzzzz", known).is_empty());
        assert!(nearest("", known).is_empty());
        assert_eq!(suggestion("prodution", known).unwrap(), "did you mean `production`?");
        assert_eq!(edits(&['a', 'b'], &['b']), 1);
    }
}
