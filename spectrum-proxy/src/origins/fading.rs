//! A map of things that others have, which forgets those that nobody has any more. Never looks through all of them at each
//! change: of those that are gone it holds about as many as it has.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// So few are not worth looking through.
const FEW: usize = 4;

/// Things of `T` that somebody has, any number under one key.
#[derive(Debug)]
pub(super) struct Fading<K, T> {
    kept: HashMap<K, Things<T>>,
    /// The number of keys that were left when all were looked through last.
    swept: usize,
}

/// Those under one key. One that was added again may be there twice.
#[derive(Debug)]
struct Things<T> {
    list: Vec<Weak<T>>,
    /// The number that were left when all were looked through last.
    swept: usize,
}

impl<K, T> Default for Fading<K, T> {
    fn default() -> Self {
        Self { kept: HashMap::new(), swept: 0 }
    }
}

impl<T> Default for Things<T> {
    fn default() -> Self {
        Self { list: Vec::new(), swept: 0 }
    }
}

impl<K: Eq + Hash, T> Fading<K, T> {
    /// The one under `key` that was added last of those that somebody has still.
    pub(super) fn last(&self, key: &K) -> Option<Arc<T>> {
        self.kept.get(key)?.list.iter().rev().find_map(Weak::upgrade)
    }

    /// All of those under `key`, the one that was added last is last.
    pub(super) fn of(&self, key: &K) -> Vec<Arc<T>> {
        self.kept.get(key).map_or_else(Vec::new, Things::alive)
    }

    /// Makes `thing` the last one under `key`.
    pub(super) fn add(&mut self, key: K, thing: &Arc<T>) {
        // Rarely, so that the cost of one more does not grow with how many there are.
        if self.kept.len() > FEW.max(self.swept * 2) {
            self.kept.retain(|_, things| things.list.iter().any(|thing| thing.strong_count() > 0));
            self.swept = self.kept.len();
        }
        let things = self.kept.entry(key).or_default();
        if things.list.len() > FEW.max(things.swept * 2) {
            things.list = things.alive().iter().map(Arc::downgrade).collect();
            things.swept = things.list.len();
        }
        things.list.push(Arc::downgrade(thing));
    }
}

impl<T> Things<T> {
    fn alive(&self) -> Vec<Arc<T>> {
        let mut seen = HashSet::new();
        let latest_first = self.list.iter().rev().filter_map(Weak::upgrade);
        let mut alive: Vec<Arc<T>> =
            latest_first.filter(|thing| seen.insert(Arc::as_ptr(thing).addr())).collect();
        alive.reverse();
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_is_forgotten_in_time() {
        let (mut fading, stays) = (Fading::default(), Arc::new(0));
        fading.add(0, &stays);
        for number in 1..1000 {
            fading.add(number, &Arc::new(number));
            fading.add(0, &Arc::new(number));
        }
        assert!(fading.kept.len() < 8 && fading.kept[&0].list.len() < 8, "{fading:?}");
        assert_eq!((fading.of(&0), fading.of(&999)), (vec![Arc::clone(&stays)], Vec::new()));
        assert_eq!(fading.last(&0), Some(stays));
    }

    #[test]
    fn what_is_added_again_is_last_and_there_once() {
        let (mut fading, one, two) = (Fading::default(), Arc::new(1), Arc::new(2));
        for thing in [&one, &two].into_iter().cycle().take(101) {
            fading.add("key", thing);
        }
        assert_eq!(fading.of(&"key"), [Arc::clone(&two), Arc::clone(&one)]);
        drop(one);
        assert_eq!(fading.last(&"key"), Some(two));
    }
}
