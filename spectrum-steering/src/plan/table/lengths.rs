//! The binary search tree over the prefix lengths of a domain, and the markers it needs.

use std::collections::BTreeMap;

use spectrum_common::{Address, MAX_STEPS, Value};

use super::prefixes::BoundPrefix;

/// A step of the search: an address that is found at this length is looked for among longer prefixes, else shorter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SearchStep {
    /// The prefix length.
    pub(super) length: u8,
    /// The next step when not found.
    pub(super) shorter: Option<usize>,
    /// The next step when found.
    pub(super) longer: Option<usize>,
}

/// A key of one length's hash table, and what it leads to.
pub(super) type Entry = (Address, Value);

/// The order in which lengths are tried. The root is the first step.
#[derive(Debug, Default)]
pub(super) struct SearchTree {
    steps: Vec<SearchStep>,
}

impl SearchTree {
    /// The tree that finds the given prefixes in the fewest steps on average, or a balanced one where that one would
    /// be deeper than the kernel program looks.
    pub(super) fn over(prefixes: &[BoundPrefix]) -> Self {
        let mut counts: BTreeMap<u8, u64> = BTreeMap::new();
        for prefix in prefixes {
            *counts.entry(prefix.length).or_default() += 1;
        }
        let lengths: Vec<(u8, u64)> = counts.into_iter().collect();
        let cheapest = Self::built(&lengths, &cheapest_roots(&lengths));
        if cheapest.depth(0) <= MAX_STEPS {
            return cheapest;
        }
        let count = lengths.len();
        let middles =
            (0..count).map(|from| (0..=count).map(|to| usize::midpoint(from, to)).collect()).collect();
        Self::built(&lengths, &Roots(middles))
    }

    /// The steps; the first is the root.
    pub(super) fn steps(&self) -> &[SearchStep] {
        &self.steps
    }

    /// The entries of each length's hash table: its prefixes, and for every longer prefix that the search reaches
    /// through it a marker, which says what the prefixes up to this length say.
    pub(super) fn entries(&self, prefixes: &[BoundPrefix]) -> BTreeMap<u8, Vec<Entry>> {
        let mut entries: BTreeMap<u8, Vec<Entry>> = BTreeMap::new();
        let mut containing: Vec<BoundPrefix> = Vec::new();
        for prefix in prefixes {
            while containing.last().is_some_and(|outer| !outer.contains(prefix.address)) {
                containing.pop();
            }
            containing.push(*prefix);
            let mut at = (!self.steps.is_empty()).then_some(0);
            while let Some(step) = at.and_then(|index| self.steps.get(index)) {
                at = if prefix.length < step.length { step.shorter } else { step.longer };
                if prefix.length < step.length {
                    continue;
                }
                let key = prefix.address.masked(step.length);
                let table = entries.entry(step.length).or_default();
                // In this order of prefixes equal keys follow each other, a prefix before the markers it makes needless.
                if table.last().is_none_or(|(last, _)| *last != key) {
                    let value = containing
                        .iter()
                        .rev()
                        .find(|outer| outer.length <= step.length)
                        .map_or(Value::PASS, |outer| outer.value);
                    table.push((key, value));
                }
                if prefix.length == step.length {
                    break;
                }
            }
        }
        entries
    }

    fn built(lengths: &[(u8, u64)], roots: &Roots) -> Self {
        let mut tree = Self::default();
        tree.add(lengths, roots, 0, lengths.len());
        tree
    }

    fn add(&mut self, lengths: &[(u8, u64)], roots: &Roots, from: usize, to: usize) -> Option<usize> {
        let root = (from < to).then(|| roots.of(from, to))?;
        let (length, _) = lengths.get(root)?;
        let at = self.steps.len();
        self.steps.push(SearchStep { length: *length, shorter: None, longer: None });
        let shorter = self.add(lengths, roots, from, root);
        let longer = self.add(lengths, roots, root + 1, to);
        if let Some(step) = self.steps.get_mut(at) {
            *step = SearchStep { shorter, longer, ..*step };
        }
        Some(at)
    }

    fn depth(&self, at: usize) -> usize {
        let below = |next: Option<usize>| next.map_or(0, |next| self.depth(next));
        self.steps.get(at).map_or(0, |step| 1 + below(step.shorter).max(below(step.longer)))
    }
}

/// For every run `from..to` of lengths, which of them to try first.
struct Roots(Vec<Vec<usize>>);

impl Roots {
    fn of(&self, from: usize, to: usize) -> usize {
        self.0.get(from).and_then(|row| row.get(to)).copied().unwrap_or(from)
    }
}

/// Knuth's optimal binary search trees (Acta Informatica 1, 1971), where a search that ends right after a length has
/// as much weight as there are prefixes of it: addresses are taken to be dialled evenly.
fn cheapest_roots(lengths: &[(u8, u64)]) -> Roots {
    let count = lengths.len();
    let total: u64 = lengths.iter().map(|(_, prefixes)| prefixes).sum();
    // Searches also end where nothing is bound, and rare lengths should not end up too deep.
    let floor = total / 64 + 1;
    // gaps[i]: searches that end between length i - 1 and length i.
    let gaps: Vec<u64> =
        std::iter::once(floor).chain(lengths.iter().map(|(_, prefixes)| prefixes + floor)).collect();
    let weight = |from: usize, to: usize| gaps.iter().skip(from).take(to - from + 1).sum::<u64>();
    let mut costs = vec![vec![0_u64; count + 1]; count + 1];
    let mut roots = vec![vec![0_usize; count + 1]; count + 1];
    for width in 1..=count {
        for from in 0..=count - width {
            let to = from + width;
            let cost = |root: usize| costs[from][root] + costs[root + 1][to];
            let root = (from..to).min_by_key(|root| cost(*root)).unwrap_or(from);
            let cheapest = cost(root);
            costs[from][to] = cheapest + weight(from, to);
            roots[from][to] = root;
        }
    }
    Roots(roots)
}
