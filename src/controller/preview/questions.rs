//! What a host is asked in shell, and its answers.

use super::super::push::{blob, find_cache, quote_path};
use crate::model::{Digest, plan::Linked};

/// Returns lines of shell that look at the application's root and the cache and print lines `KEY=VALUE`. `roots` are the root's path for
/// root and for others. They read and change nothing.
pub(super) fn script(roots: &[String; 2], cache: Option<&str>, digest: &Digest, linked: &Linked) -> String {
    let [root_of_root, root_of_user] = roots.each_ref().map(|root| quote_path(root));
    let caches = find_cache(cache);
    let files: Vec<String> = linked.files().iter().map(|file| quote_path(file.as_str())).collect();
    let (files, blob) = (files.join(" "), blob(digest));
    format!(
        r#"if [ "$uid" = 0 ]; then root={root_of_root}; else root={root_of_user}; fi
{caches}
echo "root=$root"
there=$(near "$root/releases")
if [ ! -d "$there" ]; then echo "blocked=$there is not a directory"; elif [ ! -w "$there" ]; then echo "blocked=$there cannot be written"; fi
table() {{ df "$1" "$there" 2>/dev/null | sed -n '2,$s/^.* \([0-9][0-9]*\)  *[0-9][0-9]*  *\([0-9][0-9]*\)  *[0-9-]*%* .*$/\1 \2/p'; }}
echo "blocks=$(table -Pk)"
echo "files=$(table -Pi)"
if [ -L "$root/current" ]; then
  target=$(readlink "$root/current"); echo "current=$target"
  if [ -d "$root/current/" ]; then echo current_is=release; else echo current_is=dangling; fi
  record=$root/.fleetdrop/releases/${{target##*/}}.json
  if [ -r "$record" ]; then printf 'record=%s\n' "$(head -c 65536 "$record" | tr -d '\n')"; fi
elif [ -d "$root/current" ]; then echo current_is=directory
elif [ -e "$root/current" ]; then echo current_is=file
fi
size() {{ if [ -f "$1" ] && [ ! -L "$1" ]; then wc -c < "$1"; fi; }}
echo "cached=$(size "$cache/{blob}")"
part=$root/.fleetdrop/partial/{digest}
echo "partial=$(size "$part")"
if [ -f "$part" ]; then echo "allocated=$(du -k "$part" 2>/dev/null | sed 's/[^0-9].*//')"; fi
for file in {files}; do
  if [ ! -f "$root/shared/$file" ]; then printf 'missing=%s\n' "$file"; fi
done
lock=$root/.fleetdrop/lock
if [ -s "$lock" ] && [ -r "$lock" ]; then
  pid=$(sed -n 's/.*"pid":\([0-9][0-9]*\).*/\1/p' "$lock")
  if [ -n "$pid" ] && [ -d "/proc/$pid" ]; then printf 'lock=%s\n' "$(head -c 4096 "$lock" | tr -d '\n')"; fi
fi"#
    )
}

/// A host's answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers<'a>(pub(super) &'a str);

impl<'a> Answers<'a> {
    /// Returns the last answer under that key; none if it is empty.
    pub(super) fn get(self, key: &str) -> Option<&'a str> {
        self.all(key).last()
    }

    /// Returns the answers under that key that are not empty.
    pub(super) fn all(self, key: &str) -> impl Iterator<Item = &'a str> {
        let lines = self.0.lines().filter_map(|line| line.split_once('='));
        lines.filter(move |(name, _)| *name == key).map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    /// Returns a whole number.
    pub(super) fn number(self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// Returns two whole numbers.
    pub(super) fn numbers(self, key: &str) -> Option<(u64, u64)> {
        let (first, second) = self.get(key)?.split_once(' ')?;
        Some((first.parse().ok()?, second.trim().parse().ok()?))
    }
}
