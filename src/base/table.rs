//! A map for the few: a sorted list.
//!
//! Processes, runs, calls and names come in tens. std's maps are 8 KiB of code for each pair of types,
//! this is a tenth of that, and a search in a list is as fast. An entry that does not come last moves
//! those after it, so nothing that comes in hundreds of thousands belongs here.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// Keys in order, each with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<K, V> {
    entries: Vec<(K, V)>,
}

/// Keys in order.
pub type Set<K> = Table<K, ()>;

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<K: Ord, V> Table<K, V> {
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.entries
            .binary_search_by(|(known, _)| known.borrow().cmp(key))
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        Some(&self.entries[at].1)
    }

    /// The same, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        Some(&mut self.entries[at].1)
    }

    /// There is such a key.
    pub fn has<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// Sets the value of a key; gives the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.entries[at].1, value)),
            Err(at) => {
                self.entries.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes a key out; gives its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// The value of a key, a default one if it had none.
    pub fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let at = match self.find(&key) {
            Ok(at) => at,
            Err(at) => {
                self.entries.insert(at, (key, V::default()));
                at
            }
        };
        &mut self.entries[at].1
    }

    /// Keeps the entries that are wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain_mut(|(key, value)| wanted(key, value));
    }
}

impl<K, V> Table<K, V> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All, by key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// The same, the values to be changed.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// All values, by key.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }
}

impl<K: Ord> Set<K> {
    /// Puts a key in; false: it was there.
    pub fn add(&mut self, key: K) -> bool {
        self.insert(key, ()).is_none()
    }

    /// A list of the keys.
    pub fn into_keys(self) -> Vec<K> {
        self.entries.into_iter().map(|(key, ())| key).collect()
    }
}

/// Sorts a list; equal ones stay as they stand. std's sorts are 4 KiB of code for each type: here one of
/// them sorts the places of all lists.
pub fn sort<T>(list: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let order = places(list.len(), &|a, b| compare(&list[a], &list[b]));
    arrange(order, &mut |a, b| list.swap(a, b));
}

/// The places of a list in order.
fn places(len: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.sort_unstable_by(|a, b| compare(*a, *b).then(a.cmp(b)));
    order
}

/// Brings to each place what `order` says for it, one cycle of the permutation after the other.
fn arrange(mut order: Vec<usize>, swap: &mut dyn FnMut(usize, usize)) {
    for begin in 0..order.len() {
        let mut at = begin;
        loop {
            let next = std::mem::replace(&mut order[at], at);
            if next == begin {
                break;
            }
            swap(at, next);
            at = next;
        }
    }
}

/// A list in the order of a number that each has; equal ones stay as they stand.
pub fn in_order<T>(mut list: Vec<T>, number: impl Fn(&T) -> u64) -> Vec<T> {
    sort(&mut list, |a, b| number(a).cmp(&number(b)));
    list
}

impl<K: Ord, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut table = Self::default();
        for (key, value) in entries {
            table.insert(key, value);
        }
        table
    }
}

impl<K: Ord> FromIterator<K> for Set<K> {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Self {
        keys.into_iter().map(|key| (key, ())).collect()
    }
}

impl<K, V> IntoIterator for Table<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_does_what_a_map_does() {
        let (mut table, mut map) = (Table::default(), BTreeMap::new());
        let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
        for step in 0..20_000 {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let key = (dice >> 32) % 64;
            match dice % 6 {
                0 | 1 => assert_eq!(table.insert(key, step), map.insert(key, step)),
                2 | 3 => assert_eq!(table.remove(&key), map.remove(&key)),
                4 => *table.or_default(key) = *map.entry(key).or_insert(0),
                _ => assert_eq!(table.get(&key), map.get(&key)),
            }
            if step % 1_000 == 0 {
                table.retain(|key, _| key % 5 > 0);
                map.retain(|key, _| key % 5 > 0);
            }
            assert!(table.iter().eq(map.iter()), "step {step}");
        }
        assert!(table.keys().eq(map.keys()) && table.values().eq(map.values()));
        assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
        assert!(table.clone().into_iter().eq(map));
    }

    #[test]
    fn a_set_has_each_key_once() {
        let mut set: Set<&str> = ["b", "a", "b"].into_iter().collect();
        assert!(set.keys().eq(&["a", "b"]));
        assert!(set.add("c") && !set.add("a"));
        assert!(set.has("c") && !set.has("d"));
        assert_eq!(set.into_keys(), ["a", "b", "c"]);
    }

    #[test]
    fn equal_ones_stay_as_they_stand() {
        let list = vec![(2, 'a'), (1, 'b'), (2, 'c'), (0, 'd'), (1, 'e')];
        let sorted = [(0, 'd'), (1, 'b'), (1, 'e'), (2, 'a'), (2, 'c')];
        assert_eq!(in_order(list, |(n, _)| *n), sorted);
    }

    #[test]
    fn lists_are_sorted_as_std_does() {
        let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
        for len in 0..200 {
            let roll = |at| {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                (dice % (len + 1), at)
            };
            let mut list: Vec<(u64, u64)> = (0..len).map(roll).collect();
            let mut by_std = list.clone();
            sort(&mut list, |a, b| a.0.cmp(&b.0));
            by_std.sort_by_key(|(n, _)| *n);
            assert_eq!(list, by_std);
        }
    }
}
