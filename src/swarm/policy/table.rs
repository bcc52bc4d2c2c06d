//! A map for tens of entries that are looked up all the time: sorted keys in one array, values in another.
//!
//! Looking a key up touches the keys' two or three cache lines and the value, where a tree of large values touches one more line
//! for each step. Adding and removing move what is behind, which is fine for entries that come and go seldom or are few.

/// The map.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Copy + Ord, V> Table<K, V> {
    /// Returns an empty map.
    pub(super) fn new() -> Self {
        Self { keys: Vec::new(), values: Vec::new() }
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns a key's value.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.keys.binary_search(key).ok().and_then(|at| self.values.get(at))
    }

    /// Returns a key's value to change it.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.keys.binary_search(key).ok().and_then(|at| self.values.get_mut(at))
    }

    /// Sets a key's value; returns the one it had.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.keys.binary_search(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.values[at], value)),
            Err(at) => {
                self.keys.insert(at, key);
                self.values.insert(at, value);
                None
            }
        }
    }

    /// Returns a key's value to change it; adds the default one first if the key is not in.
    pub(super) fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let at = self.keys.binary_search(&key).unwrap_or_else(|at| {
            self.keys.insert(at, key);
            self.values.insert(at, V::default());
            at
        });
        &mut self.values[at]
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.keys.binary_search(key).ok()?;
        self.keys.remove(at);
        Some(self.values.remove(at))
    }

    /// Returns the keys in ascending order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.iter()
    }

    /// Returns the values in the order of their keys.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter()
    }

    /// Returns the entries in the order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.keys.iter().zip(&self.values)
    }

    /// Returns the entries in the order of their keys, to change their values.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.keys.iter().zip(&mut self.values)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn does_what_a_tree_does(steps in prop::collection::vec((0u8..4, 0u32..30, any::<u16>()), 0..200)) {
            let (mut table, mut tree) = (Table::new(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0 => prop_assert_eq!(table.insert(key, value), tree.insert(key, value)),
                    1 => prop_assert_eq!(table.remove(&key), tree.remove(&key)),
                    2 => prop_assert_eq!(table.get_or_default(key), tree.entry(key).or_default()),
                    _ => prop_assert_eq!(table.get_mut(&key), tree.get_mut(&key)),
                }
                prop_assert_eq!(table.get(&key), tree.get(&key));
                prop_assert_eq!(table.len(), tree.len());
            }
            prop_assert!(table.iter().eq(tree.iter()) && table.keys().eq(tree.keys()) && table.values().eq(tree.values()));
            prop_assert!(table.iter_mut().eq(tree.iter_mut()));
        }
    }
}
