//! What the releases of an application share: links in each release that lead to `shared/`.

use serde::{Deserialize, Serialize};

use super::LinkedPath;

/// Says why paths can't all be links of one release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkedError {
    /// Too many.
    #[error("at most {} paths of one kind can be linked", Linked::MOST)]
    TooMany,
    /// One is the other or lies below it.
    #[error("`{0}` and `{1}` can't both be linked: they are the same, or one lies below the other")]
    Overlap(LinkedPath, LinkedPath),
}

/// The directories and files that every release shares. No two of them overlap; at most [`Linked::MOST`] of each kind. Each list is
/// sorted, so that the same links are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Lists")]
pub struct Linked {
    dirs: Vec<LinkedPath>,
    files: Vec<LinkedPath>,
}

impl Linked {
    /// The most links of one kind.
    pub const MOST: usize = 100;

    /// Takes directories and files that can all be links of one release.
    pub fn new(mut dirs: Vec<LinkedPath>, mut files: Vec<LinkedPath>) -> Result<Self, LinkedError> {
        if dirs.len().max(files.len()) > Self::MOST {
            return Err(LinkedError::TooMany);
        }
        let all: Vec<&LinkedPath> = dirs.iter().chain(&files).collect();
        for (number, path) in all.iter().enumerate() {
            if let Some(other) = all[..number].iter().find(|other| other.overlaps(path)) {
                return Err(LinkedError::Overlap((*other).clone(), (*path).clone()));
            }
        }
        dirs.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        files.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        Ok(Self { dirs, files })
    }

    /// Returns the directories; they are made below `shared/` where they are missing.
    pub fn dirs(&self) -> &[LinkedPath] {
        &self.dirs
    }

    /// Returns the files; they must be below `shared/` before a release can use them.
    pub fn files(&self) -> &[LinkedPath] {
        &self.files
    }

    /// True if nothing is linked.
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.files.is_empty()
    }
}

/// What is written, before it is checked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Lists {
    dirs: Vec<LinkedPath>,
    files: Vec<LinkedPath>,
}

impl TryFrom<Lists> for Linked {
    type Error = LinkedError;
    fn try_from(lists: Lists) -> Result<Self, LinkedError> {
        Self::new(lists.dirs, lists.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Linked, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_comes_over_the_wire_is_checked_as_a_playbook_is() {
        let linked = read(r#"{"dirs": ["log", "a/b"], "files": [".env"]}"#).unwrap();
        assert_eq!(serde_json::to_string(&linked).unwrap(), r#"{"dirs":["a/b","log"],"files":[".env"]}"#);
        assert_eq!(read("{}").unwrap(), Linked::default());
        for (bad, why) in [
            (r#"{"dirs": ["log", "log"]}"#, "`log` and `log` can't both be linked"),
            (r#"{"dirs": ["log/old"], "files": ["log"]}"#, "`log/old` and `log` can't both be linked"),
            (r#"{"files": ["../x"]}"#, "must not contain `..`"),
            (r#"{"files": ["/etc/passwd"]}"#, "below the release"),
            (r#"{"files": ["a\u0000b"]}"#, "control characters"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        let many: Vec<String> = (0..=Linked::MOST).map(|n| format!("\"d{n}\"")).collect();
        assert!(read(&format!("{{\"dirs\": [{}]}}", many.join(","))).unwrap_err().contains("at most 100"));
    }

    #[test]
    fn the_order_in_which_paths_are_named_makes_no_difference() {
        let paths = |names: [&str; 3]| names.map(|name| LinkedPath::new(name).unwrap()).to_vec();
        let linked = |names| Linked::new(paths(names), Vec::new()).unwrap();
        assert_eq!(linked(["a", "b", "c"]), linked(["c", "a", "b"]));
    }
}
