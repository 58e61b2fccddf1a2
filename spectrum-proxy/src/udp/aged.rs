//! A map that can tell which entry was used least recently, at no price per use. Evicts nothing by itself.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use tokio::time::Instant;

/// The map. The order is corrected late: that an entry was used is noticed when it has come to the front.
pub(super) struct Aged<K, V> {
    entries: HashMap<K, (V, Place)>,
    order: BTreeMap<Place, K>,
    used: fn(&V) -> Instant,
    next: u64,
}

/// The place of an entry: its last use, as far as that was noticed, and what tells equal times apart.
type Place = (Instant, u64);

impl<K: Clone + Eq + Hash, V> Aged<K, V> {
    /// An empty map whose entries were last used when `used` says.
    pub(super) fn new(used: fn(&V) -> Instant) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), used, next: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// In no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.keys()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let place = ((self.used)(&value), self.next);
        self.next += 1;
        self.order.insert(place, key.clone());
        if let Some((_, former)) = self.entries.insert(key, (value, place)) {
            self.order.remove(&former);
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let (value, place) = self.entries.remove(key)?;
        self.order.remove(&place);
        Some(value)
    }

    /// The entry used least recently, and when that was.
    pub(super) fn oldest(&mut self) -> Option<(K, Instant)> {
        loop {
            let first = self.order.first_entry()?;
            let noted = *first.key();
            let (value, place) = self.entries.get_mut(first.get())?;
            let used = (self.used)(value);
            // Every other entry was used no earlier than noted, and that is no earlier than this.
            if used <= noted.0 {
                return Some((first.get().clone(), used));
            }
            *place = (used, noted.1);
            let key = first.remove();
            self.order.insert((used, noted.1), key);
        }
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = V> {
        self.order.clear();
        std::mem::take(&mut self.entries).into_values().map(|(value, _)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Evict,
        Insert(u8),
        Remove(u8),
        Use(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Evict),
            (0..20u8).prop_map(Step::Insert),
            (0..20u8).prop_map(Step::Remove),
            (0..20u8).prop_map(Step::Use),
        ]
    }

    proptest! {
        #[test]
        fn the_oldest_is_the_one_that_a_search_finds(steps in proptest::collection::vec(step(), 0..200)) {
            let start = Instant::now();
            let mut aged: Aged<u8, Rc<Cell<Instant>>> = Aged::new(|value| value.get());
            let mut plain: HashMap<u8, Rc<Cell<Instant>>> = HashMap::new();
            for (time, step) in (0u64..).zip(steps) {
                let now = start + Duration::from_secs(time);
                match step {
                    Step::Evict => {
                        let oldest = plain.iter().min_by_key(|(_, value)| value.get()).map(|(key, value)| (*key, value.get()));
                        prop_assert_eq!(aged.oldest(), oldest);
                        if let Some((key, _)) = oldest {
                            aged.remove(&key);
                            plain.remove(&key);
                        }
                    }
                    Step::Insert(key) => {
                        let value = Rc::new(Cell::new(now));
                        aged.insert(key, Rc::clone(&value));
                        plain.insert(key, value);
                    }
                    Step::Remove(key) => {
                        prop_assert_eq!(aged.remove(&key).is_some(), plain.remove(&key).is_some());
                    }
                    Step::Use(key) => {
                        if let Some(value) = plain.get(&key) {
                            value.set(now);
                        }
                    }
                }
                prop_assert_eq!(aged.len(), plain.len());
                prop_assert_eq!(aged.order.len(), plain.len());
            }
        }
    }
}
