//! Whom services let in, by the prefix that a packet's source is in. Says nothing of what is done on which path, and reads no
//! files.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Prefix;

/// The word on a source prefix.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum SourceRule {
    /// Its sources may come in.
    Allow,
    /// They may not.
    Deny,
}

/// What a denied client is told.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    Ord,
    PartialEq,
    PartialOrd,
    strum::Display,
    strum::EnumString,
    strum::VariantNames,
)]
#[strum(serialize_all = "kebab-case")]
pub enum OnDeny {
    /// That nobody is there: a RST, or an ICMP port unreachable.
    #[default]
    Refuse,
    /// Nothing.
    Silent,
}

/// The name of an interface, there or not.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for InterfaceName {
    type Err = ParseInterfaceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // dev_valid_name (net/core/dev.c); quotes and stars are words of nft, and a plus at the end is one of iptables.
        let is_name = (1..16).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'"' | b'*' | b'\\'))
            && !text.ends_with('+')
            && text != "."
            && text != "..";
        if is_name { Ok(Self(text.to_owned())) } else { Err(ParseInterfaceNameError) }
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = ParseInterfaceNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

/// The text is no name of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected the name of an interface, as `ip link` shows it: 1 to 15 letters, digits and signs")]
pub struct ParseInterfaceNameError;

/// One entry of a [`SourcePolicy`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceEntry {
    /// The sources.
    pub prefix: Prefix,
    /// The word on them.
    pub rule: SourceRule,
}

/// A prefix that is allowed and denied at once. The numbers are those of the entries that [`SourcePolicy::of`] was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SourceTie {
    /// The prefix.
    pub prefix: Prefix,
    /// The number of an entry that allows it.
    pub allowed: usize,
    /// The number of one that denies it.
    pub denied: usize,
}

/// Allowed and denied source prefixes. Of those that contain a source the longest decides; whom none contains may come in.
/// A clone shares the entries.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SourcePolicy {
    /// Sorted by prefix, which occurs once.
    entries: Arc<[SourceEntry]>,
}

impl SourcePolicy {
    /// The policy of `entries`, in any order; one that is there twice is there once.
    ///
    /// # Errors
    /// Every prefix that is allowed and denied.
    pub fn of(entries: &[SourceEntry]) -> Result<Self, Vec<SourceTie>> {
        let mut numbered: Vec<(SourceEntry, usize)> = entries.iter().copied().zip(0..).collect();
        numbered.sort_unstable();
        let ties = numbered.chunk_by(|(one, _), (other, _)| one.prefix == other.prefix).filter_map(|run| {
            let ((first, allowed), (last, denied)) =
                (run.first()?, run.iter().find(|(entry, _)| entry.rule == SourceRule::Deny)?);
            let prefix = last.prefix;
            (first.rule == SourceRule::Allow).then_some(SourceTie {
                prefix,
                allowed: *allowed,
                denied: *denied,
            })
        });
        let ties: Vec<SourceTie> = ties.collect();
        if !ties.is_empty() {
            return Err(ties);
        }
        numbered.dedup_by_key(|(entry, _)| *entry);
        Ok(Self { entries: numbered.into_iter().map(|(entry, _)| entry).collect() })
    }

    /// The entries, in the order of their prefixes: each follows those that contain it.
    #[must_use]
    pub fn entries(&self) -> &[SourceEntry] {
        &self.entries
    }

    /// True if it says nothing of any source.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry that decides on `source`, if one contains it: a look for the prefix of each length.
    #[must_use]
    pub fn longest(&self, source: IpAddr) -> Option<SourceEntry> {
        let longest = if source.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|length| {
            let prefix = Prefix::containing(source, length).ok()?;
            let at = self.entries.binary_search_by_key(&prefix, |entry| entry.prefix).ok()?;
            self.entries.get(at).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> SourceEntry {
        let (rule, prefix) = text.split_once(' ').unwrap();
        let rule = if rule == "allow" { SourceRule::Allow } else { SourceRule::Deny };
        SourceEntry { prefix: prefix.parse().unwrap(), rule }
    }

    #[test]
    fn the_longest_prefix_that_contains_a_source_decides() {
        let policy = SourcePolicy::of(
            &[
                "deny 0.0.0.0/0",
                "allow 10.0.0.0/8",
                "deny 10.1.0.0/16",
                "allow 10.1.2.3",
                "deny 2001:db8::/32",
            ]
            .map(entry),
        )
        .unwrap();
        for (source, expected) in [
            ("198.51.100.1", Some("deny 0.0.0.0/0")),
            ("10.2.0.1", Some("allow 10.0.0.0/8")),
            ("10.1.0.1", Some("deny 10.1.0.0/16")),
            ("10.1.2.3", Some("allow 10.1.2.3")),
            ("2001:db8::1", Some("deny 2001:db8::/32")),
            ("2001:db9::1", None),
        ] {
            assert_eq!(policy.longest(source.parse().unwrap()), expected.map(entry), "{source}");
        }
        assert_eq!(SourcePolicy::default().longest("10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn a_prefix_that_is_allowed_and_denied_is_a_tie_that_names_both() {
        let entries =
            ["deny 10.0.0.0/8", "allow 10.0.0.0/9", "deny 10.0.0.0/8", "allow 10.0.0.0/8", "deny ::1"]
                .map(entry);
        let prefix = "10.0.0.0/8".parse().unwrap();
        assert_eq!(SourcePolicy::of(&entries), Err(vec![SourceTie { prefix, allowed: 3, denied: 0 }]));
        assert_eq!(SourcePolicy::of(&entries[..3]).unwrap().entries().len(), 2);
    }
}
