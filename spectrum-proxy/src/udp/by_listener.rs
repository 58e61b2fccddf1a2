//! What a worker's listeners have open, so that one of them cannot crowd out what the others have. Ends nothing by itself.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use super::aged::Aged;

/// A thing that says by whose listener it came.
pub(super) trait OfListener: Clone + Eq + Hash {
    /// The listener's number.
    fn listener(&self) -> u64;
}

/// A map for each listener that has anything in it.
pub(super) struct ByListener<K, V> {
    listeners: HashMap<u64, Aged<K, V>>,
    used: fn(&V) -> Instant,
    len: usize,
}

impl<K: OfListener, V> ByListener<K, V> {
    /// Nothing yet; entries were last used when `used` says.
    pub(super) fn new(used: fn(&V) -> Instant) -> Self {
        Self { listeners: HashMap::new(), used, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.listeners.get(&key.listener())?.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let used = self.used;
        let aged = self.listeners.entry(key.listener()).or_insert_with(|| Aged::new(used));
        let before = aged.len();
        aged.insert(key, value);
        self.len += aged.len() - before;
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let aged = self.listeners.get_mut(&key.listener())?;
        let removed = aged.remove(key)?;
        self.len -= 1;
        if aged.len() == 0 {
            self.listeners.remove(&key.listener());
        }
        Some(removed)
    }

    /// True if there is anything of these.
    pub(super) fn any_of(&self, listeners: &[u64]) -> bool {
        listeners.iter().any(|listener| self.listeners.contains_key(listener))
    }

    /// The number of these.
    pub(super) fn keys_of(&self, listeners: &[u64]) -> Vec<K> {
        listeners.iter().filter_map(|of| self.listeners.get(of)).flat_map(Aged::keys).cloned().collect()
    }

    /// The one that `listener` has used least recently.
    pub(super) fn oldest_of(&mut self, listener: u64) -> Option<K> {
        Some(self.listeners.get_mut(&listener)?.oldest()?.0)
    }

    /// The one that is to make room for one more of `listener`: the oldest of its own, or of the one that has most where
    /// it has less than comes to each.
    pub(super) fn dispensable(&mut self, listener: u64) -> Option<K> {
        let own = self.listeners.get(&listener).map_or(0, Aged::len);
        let others = self.listeners.len() - usize::from(own > 0);
        if own * (others + 1) >= self.len {
            return self.oldest_of(listener);
        }
        let most = self.listeners.iter().max_by_key(|(_, aged)| aged.len()).map(|(most, _)| *most)?;
        self.oldest_of(most)
    }

    /// Those last used before `deadline`, one of each listener; and the time at which the first of the others was.
    pub(super) fn overdue(&mut self, deadline: Instant) -> (Vec<K>, Option<Instant>) {
        let (mut overdue, mut next) = (Vec::new(), None::<Instant>);
        for aged in self.listeners.values_mut() {
            match aged.oldest() {
                Some((key, used)) if used <= deadline => overdue.push(key),
                Some((_, used)) => next = Some(next.map_or(used, |next| next.min(used))),
                None => {}
            }
        }
        (overdue, next)
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> Vec<V> {
        self.len = 0;
        self.listeners.drain().flat_map(|(_, mut aged)| aged.drain().collect::<Vec<_>>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    impl OfListener for (u64, u32) {
        fn listener(&self) -> u64 {
            self.0
        }
    }

    /// Listeners with so many entries each, each entry a second younger than the one before it.
    fn filled(counts: &[(u64, u32)]) -> ByListener<(u64, u32), Instant> {
        let begin = Instant::now();
        let mut all = ByListener::new(|used: &Instant| *used);
        for (listener, count) in counts {
            for number in 0..*count {
                all.insert((*listener, number), begin + Duration::from_secs(number.into()));
            }
        }
        all
    }

    #[test]
    fn who_has_as_much_as_the_others_gives_up_its_own() {
        let mut all = filled(&[(1, 90), (2, 10)]);
        assert_eq!(all.dispensable(1), Some((1, 0)));
        assert_eq!(all.dispensable(2), Some((1, 0)), "who has little loses nothing");
        assert_eq!(all.dispensable(3), Some((1, 0)));
        let mut equal = filled(&[(1, 50), (2, 50)]);
        assert_eq!(equal.dispensable(2), Some((2, 0)));
    }

    #[test]
    fn a_flood_never_takes_what_the_quiet_have() {
        let mut all = filled(&[(1, 20), (2, 20)]);
        let later = Instant::now() + Duration::from_secs(1000);
        for number in 1000..5000 {
            if all.len() >= 100 {
                let gone = all.dispensable(1).unwrap();
                assert_eq!(gone.0, 1);
                all.remove(&gone);
            }
            all.insert((1, number), later);
        }
        assert_eq!((all.len(), all.keys_of(&[2]).len()), (100, 20));
    }

    #[test]
    fn what_is_gone_is_in_no_count() {
        let mut all = filled(&[(1, 2), (2, 1)]);
        all.insert((2, 0), Instant::now());
        assert_eq!(all.len(), 3);
        assert!(all.remove(&(2, 0)).is_some() && all.remove(&(2, 0)).is_none());
        assert!(!all.any_of(&[2]) && all.any_of(&[2, 1]));
        assert_eq!(all.drain().len(), 2);
        assert_eq!((all.len(), all.dispensable(1)), (0, None));
    }

    #[test]
    fn what_is_overdue_is_told_with_the_next_that_will_be() {
        let mut all = filled(&[(1, 3), (2, 1)]);
        let first = *all.get(&(1, 0)).unwrap();
        all.remove(&(2, 0));
        all.insert((2, 7), first + Duration::from_secs(9));
        assert_eq!(all.overdue(first), (vec![(1, 0)], Some(first + Duration::from_secs(9))));
    }
}
