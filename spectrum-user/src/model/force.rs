//! Which of the host's own addresses may be served although that cuts something: those that somebody has named. Knows no host.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{ParsePrefixError, Prefix};

/// The word for every address.
const ALL: &str = "all";

/// One value of `--force`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Forced {
    /// Every address.
    All,
    /// Those of a prefix.
    Prefix(Prefix),
}

impl fmt::Display for Forced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for Forced {
    type Err = ParsePrefixError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        if typed == ALL { Ok(Self::All) } else { typed.parse().map(Self::Prefix) }
    }
}

/// Everything that was forced.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Force(Vec<Forced>);

impl Force {
    /// True if `address` is among it.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        self.0.iter().any(|forced| match forced {
            Forced::All => true,
            Forced::Prefix(prefix) => prefix.contains(address),
        })
    }

    /// All of it.
    pub fn values(&self) -> impl Iterator<Item = Forced> {
        self.0.iter().copied()
    }

    /// Adds `more`.
    pub fn extend(&mut self, more: &Self) {
        for forced in &more.0 {
            if !self.0.contains(forced) {
                self.0.push(*forced);
            }
        }
    }
}

impl From<Vec<Forced>> for Force {
    fn from(forced: Vec<Forced>) -> Self {
        Self(forced)
    }
}

impl Force {
    /// Each of it, as it is typed.
    pub fn each(&self) -> impl Iterator<Item = &Forced> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_forced_and_nothing_else() {
        let force = |words: &[&str]| {
            let forced: Vec<Forced> = words.iter().map(|word| word.parse().unwrap()).collect();
            Force::from(forced)
        };
        let covers = |force: &Force, address: &str| force.covers(address.parse().unwrap());
        assert!(!covers(&Force::default(), "203.0.113.10"));
        assert!(covers(&force(&["all"]), "2001:db8::1"));
        let mut some = force(&["203.0.113.10", "2001:db8::/64"]);
        assert!(covers(&some, "203.0.113.10") && covers(&some, "2001:db8::1"));
        assert!(!covers(&some, "203.0.113.11") && !covers(&some, "2001:db9::1"));
        some.extend(&force(&["203.0.113.11", "203.0.113.10"]));
        assert_eq!(some, force(&["203.0.113.10", "2001:db8::/64", "203.0.113.11"]));
        assert!("everything".parse::<Forced>().is_err());
    }
}
