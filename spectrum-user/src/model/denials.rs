//! What was said at run time of whom services let in, with when each word ends. Carries nothing out and keeps no file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Prefix, ServiceName, SourceEntry, SourcePolicy, SourceRule};

/// The words said of prefixes at run time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum DenyWord {
    /// They are denied.
    #[default]
    Deny,
    /// They are denied by that no more.
    Allow,
    /// They may come in whatever shorter or configured prefixes say.
    Except,
    /// Such an exception is taken back.
    Undo,
}

/// The service that is meant, and the clients: `None` are all services.
pub type DenialKey = (Option<ServiceName>, Prefix);

/// The words that hold of one prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeldDenial {
    /// Denied, or let in as an exception.
    pub rule: SourceRule,
    /// The moment of its end.
    pub until: Option<Instant>,
    /// The user that said it.
    pub uid: Option<u32>,
    /// The moment at which it was said.
    pub since: SystemTime,
    /// The packets of its clients that were turned away by it, as far as samples tell.
    pub packets: u64,
}

/// All that holds.
#[derive(Clone, Debug, Default)]
pub struct Denials {
    entries: BTreeMap<DenialKey, HeldDenial>,
    ends: BTreeSet<(Instant, DenialKey)>,
    /// The services of which anything was said since the instance began, which have a place in the steering table.
    named: BTreeSet<ServiceName>,
    is_in_use: bool,
}

/// The outcome of a change, with the means to take it back.
#[derive(Debug, Default)]
pub struct DenialChange {
    before: Vec<(DenialKey, Option<HeldDenial>)>,
    /// The prefixes of which something else holds now, or until another time.
    pub changed: usize,
    /// Those of which that held already.
    pub unchanged: usize,
    /// True if other sources are let in than before.
    pub judges_otherwise: bool,
}

/// More than there may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "there would be {count} prefixes denied or excepted at run time, and {} are the most; write them into a file that the \
     configuration names (policy = {{ deny = {{ file = \"denied.txt\" }} }}), which may have millions",
    Denials::MOST
)]
pub struct TooManyDenials {
    /// The number that there would be.
    pub count: usize,
}

impl Denials {
    /// The most that there may be.
    pub const MOST: usize = 100_000;

    /// Has `word` hold of `keys`, for `time` if that is given.
    ///
    /// # Errors
    /// There would be too many; then nothing is changed.
    pub fn say(
        &mut self,
        word: DenyWord,
        keys: impl IntoIterator<Item = DenialKey>,
        time: Option<Duration>,
        uid: Option<u32>,
    ) -> Result<DenialChange, TooManyDenials> {
        let (now, since) = (Instant::now(), SystemTime::now());
        // What ends beyond the end of the clock does not end.
        let until = time.and_then(|time| now.checked_add(time));
        let mut change = DenialChange::default();
        for key in keys {
            let before = self.entries.get(&key);
            let (held, packets) = (before.map(|one| one.rule), before.map_or(0, |one| one.packets));
            let next = match (word, held) {
                (DenyWord::Deny, _) => Some(SourceRule::Deny),
                (DenyWord::Except, _) => Some(SourceRule::Allow),
                (DenyWord::Allow, Some(SourceRule::Deny)) | (DenyWord::Undo, Some(SourceRule::Allow)) => None,
                (DenyWord::Allow | DenyWord::Undo, _) => {
                    change.unchanged += 1;
                    continue;
                }
            };
            if next == held {
                change.unchanged += 1;
            } else {
                change.changed += 1;
                change.judges_otherwise = true;
            }
            let packets = if next == held { packets } else { 0 };
            let next = next.map(|rule| HeldDenial { rule, until, uid, since, packets });
            let before = self.set(&key, next);
            change.before.push((key, before));
        }
        if self.entries.len() > Self::MOST {
            let count = self.entries.len();
            self.take_back(change);
            return Err(TooManyDenials { count });
        }
        Ok(change)
    }

    /// Has what was before a change hold again.
    pub fn take_back(&mut self, change: DenialChange) {
        for (key, before) in change.before.into_iter().rev() {
            self.set(&key, before);
        }
    }

    /// Ends what is due by `now`.
    pub fn end(&mut self, now: Instant) -> DenialChange {
        let mut change = DenialChange::default();
        while let Some((_, key)) = self.ends.first().filter(|(end, _)| *end <= now).cloned() {
            let before = self.set(&key, None);
            change.before.push((key, before));
            change.changed += 1;
            change.judges_otherwise = true;
        }
        change
    }

    /// Takes up what was kept, or handed over.
    pub fn adopt(&mut self, kept: impl IntoIterator<Item = (DenialKey, HeldDenial)>) {
        for (key, denial) in kept.into_iter().take(Self::MOST) {
            self.set(&key, Some(denial));
        }
    }

    /// So many packets more were turned away by the word on `key`, if that holds still.
    pub fn count(&mut self, key: &DenialKey, packets: u64) {
        if let Some(held) = self.entries.get_mut(key) {
            held.packets = held.packets.saturating_add(packets);
        }
    }

    fn set(&mut self, key: &DenialKey, denial: Option<HeldDenial>) -> Option<HeldDenial> {
        if denial.is_some() {
            self.is_in_use = true;
            if let (Some(service), _) = key
                && !self.named.contains(service)
            {
                self.named.insert(service.clone());
            }
        }
        let before = match denial {
            Some(denial) => self.entries.insert(key.clone(), denial),
            None => self.entries.remove(key),
        };
        if let Some(end) = before.and_then(|before| before.until) {
            self.ends.remove(&(end, key.clone()));
        }
        if let Some(end) = denial.and_then(|denial| denial.until) {
            self.ends.insert((end, key.clone()));
        }
        before
    }

    /// The moment at which the next one ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// All of them, those of all services first, in the order of prefixes.
    pub fn iter(&self) -> impl Iterator<Item = (&DenialKey, &HeldDenial)> {
        self.entries.iter()
    }

    /// The word on `key`.
    #[must_use]
    pub fn get(&self, key: &DenialKey) -> Option<&HeldDenial> {
        self.entries.get(key)
    }

    /// The numbers of prefixes that are denied, and of those that are let in as exceptions.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let denied = self.entries.values().filter(|one| one.rule == SourceRule::Deny).count();
        (denied, self.entries.len() - denied)
    }

    /// The policies that they come to for steering: the policy for all services, those of single ones, and whether there is or was any.
    #[must_use]
    pub fn policies(&self) -> (SourcePolicy, BTreeMap<ServiceName, SourcePolicy>, bool) {
        let entry =
            |(key, denial): (&DenialKey, &HeldDenial)| SourceEntry { prefix: key.1, rule: denial.rule };
        // Of each prefix one thing is said, so that none ties.
        let policy = |entries: Vec<SourceEntry>| SourcePolicy::of(&entries).unwrap_or_default();
        let mut by_service: BTreeMap<Option<&ServiceName>, Vec<SourceEntry>> =
            self.named.iter().map(|name| (Some(name), Vec::new())).collect();
        for said in &self.entries {
            by_service.entry(said.0.0.as_ref()).or_default().push(entry(said));
        }
        let common = by_service.remove(&None).map(policy).unwrap_or_default();
        let own = by_service.into_iter().filter_map(|(name, entries)| Some((name?.clone(), policy(entries))));
        (common, own.collect(), self.is_in_use)
    }
}

/// All that holds, as several threads look at it.
#[derive(Clone, Debug, Default)]
pub struct SharedDenials(Arc<Mutex<Denials>>);

impl SharedDenials {
    /// It, for as long as nobody else needs it.
    pub fn lock(&self) -> MutexGuard<'_, Denials> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> DenialKey {
        match text.split_once(' ') {
            Some((service, prefix)) => (Some(service.parse().unwrap()), prefix.parse().unwrap()),
            None => (None, text.parse().unwrap()),
        }
    }

    fn shown(denials: &Denials) -> Vec<String> {
        let shown = |((service, prefix), denial): (&DenialKey, &HeldDenial)| {
            let service = service.as_ref().map_or(String::new(), |name| format!("{name} "));
            format!("{:?} {service}{prefix}", denial.rule)
        };
        denials.iter().map(shown).collect()
    }

    #[test]
    fn a_word_holds_until_another_one_does_or_it_is_taken_back() {
        let mut denials = Denials::default();
        let say = |denials: &mut Denials, word, typed: &str| {
            let change = denials.say(word, [key(typed)], None, Some(7)).unwrap();
            (change.changed, change.unchanged)
        };
        assert!(!denials.policies().2);
        assert_eq!(say(&mut denials, DenyWord::Deny, "10.0.0.0/8"), (1, 0));
        assert_eq!(say(&mut denials, DenyWord::Deny, "10.0.0.0/8"), (0, 1));
        assert_eq!(say(&mut denials, DenyWord::Except, "games 10.0.0.1"), (1, 0));
        assert_eq!(say(&mut denials, DenyWord::Allow, "games 10.0.0.1"), (0, 1), "it is not denied");
        assert_eq!(say(&mut denials, DenyWord::Allow, "10.0.0.0/9"), (0, 1), "of another prefix");
        assert_eq!(shown(&denials), ["Deny 10.0.0.0/8", "Allow games 10.0.0.1/32"]);
        assert_eq!(denials.counts(), (1, 1));
        assert_eq!(say(&mut denials, DenyWord::Deny, "games 10.0.0.1"), (1, 0));
        assert_eq!(say(&mut denials, DenyWord::Undo, "games 10.0.0.1"), (0, 1), "it is no exception");
        assert_eq!(say(&mut denials, DenyWord::Allow, "games 10.0.0.1"), (1, 0));
        assert_eq!(say(&mut denials, DenyWord::Allow, "10.0.0.0/8"), (1, 0));
        let (common, own, is_in_use) = denials.policies();
        assert!(common.is_empty() && is_in_use);
        assert_eq!(own.len(), 1, "the place of one that was named is kept");
    }

    #[test]
    fn packets_are_counted_for_as_long_as_the_word_is_the_same() {
        let mut denials = Denials::default();
        let packets = |denials: &Denials| denials.get(&key("10.0.0.1")).map(|held| held.packets);
        let deny = |denials: &mut Denials, word| denials.say(word, [key("10.0.0.1")], None, None).unwrap();
        denials.count(&key("10.0.0.1"), 7);
        assert_eq!(packets(&denials), None, "of what nobody said");
        deny(&mut denials, DenyWord::Deny);
        denials.count(&key("10.0.0.1"), 7);
        deny(&mut denials, DenyWord::Deny);
        denials.count(&key("10.0.0.1"), u64::MAX);
        assert_eq!(packets(&denials), Some(u64::MAX), "said once more, and no overflow");
        let change = deny(&mut denials, DenyWord::Except);
        assert_eq!(packets(&denials), Some(0));
        denials.take_back(change);
        assert_eq!(packets(&denials), Some(u64::MAX));
    }

    #[test]
    fn each_ends_at_its_time_and_leaves_nothing() {
        let mut denials = Denials::default();
        let seconds = |count| Some(Duration::from_secs(count));
        denials.say(DenyWord::Deny, [key("10.0.0.1"), key("10.0.0.2")], seconds(10), None).unwrap();
        denials.say(DenyWord::Deny, [key("10.0.0.3")], None, None).unwrap();
        let begun = Instant::now();
        denials.say(DenyWord::Deny, [key("10.0.0.2")], seconds(1_000), None).unwrap();
        assert!(denials.next_end().unwrap() <= begun + Duration::from_secs(10));
        assert!(!denials.end(begun).judges_otherwise);
        assert_eq!(denials.end(begun + Duration::from_secs(11)).changed, 1);
        assert_eq!(shown(&denials), ["Deny 10.0.0.2/32", "Deny 10.0.0.3/32"]);
        denials.say(DenyWord::Deny, [key("10.0.0.2")], None, None).unwrap();
        assert_eq!((denials.next_end(), denials.ends.len()), (None, 0));
        denials.say(DenyWord::Deny, [key("10.0.0.2")], Some(Duration::MAX), None).unwrap();
        assert_eq!(denials.next_end(), None, "beyond the end of the clock");
    }

    #[test]
    fn too_many_are_refused_whole_and_what_is_taken_back_is_as_it_was() {
        let mut denials = Denials::default();
        let many = |from: u32, count: usize| {
            let host = |number| Prefix::host(std::net::Ipv4Addr::from_bits(number).into());
            (from..).take(count).map(host).map(|prefix| (None, prefix)).collect::<Vec<_>>()
        };
        denials.say(DenyWord::Deny, many(0x0a00_0000, Denials::MOST - 1), None, None).unwrap();
        let error = denials.say(DenyWord::Deny, many(0x0b00_0000, 2), None, None).unwrap_err();
        assert_eq!(error.count, Denials::MOST + 1);
        assert!(error.to_string().contains("100000 are the most"), "{error}");
        assert_eq!(denials.counts(), (Denials::MOST - 1, 0));
        let change = denials.say(DenyWord::Except, many(0x0a00_0000, 3), Some(Duration::from_secs(9)), None);
        denials.take_back(change.unwrap());
        assert_eq!((denials.counts(), denials.next_end()), ((Denials::MOST - 1, 0), None));
    }
}
