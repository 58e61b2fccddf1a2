//! Inclusive ranges of ports. Port 0 is in none: it cannot be dialled.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use super::notation;

/// The ports `first..=last`, never empty. Host byte order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// Every port there is: `1-65535`.
    pub const ALL: Self = Self { first: NonZeroU16::MIN, last: NonZeroU16::MAX };

    /// The ports `first..=last`, or `None` when `first` is greater than `last`.
    #[must_use]
    pub fn new(first: NonZeroU16, last: NonZeroU16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    #[must_use]
    pub fn first(&self) -> u16 {
        self.first.get()
    }

    /// The highest port.
    #[must_use]
    pub fn last(&self) -> u16 {
        self.last.get()
    }

    /// The number of ports: 1 to 65,535.
    #[must_use]
    pub fn width(&self) -> u16 {
        self.last.get() - self.first.get() + 1
    }

    /// True if `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first()..=self.last()).contains(&port)
    }

    /// True if every port of `other` is one of these.
    #[must_use]
    pub fn encloses(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The ports of both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        Self::new(first, last)
    }

    /// True if the two share a port.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl From<PortRange> for String {
    fn from(value: PortRange) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for PortRange {
    type Error = <Self as FromStr>::Err;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = ParsePortRangeError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| {
            let text = text.trim();
            text.parse::<NonZeroU16>()
                .ok()
                .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(|| match notation::ports(typed) {
                    Some(cure) => ParsePortRangeError::Notation { cure },
                    None => ParsePortRangeError::Port { port: text.to_owned() },
                })
        };
        let (first, last) = match typed.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(typed)?, port(typed)?),
        };
        Self::new(first, last)
            .ok_or(ParsePortRangeError::Reversed { suggestion: Self { first: last, last: first } })
    }
}

/// Parses a comma-separated list of ranges, `"80,443,27000-27100"`, in the order typed.
///
/// # Errors
/// The first piece that is not a range.
pub fn parse_port_ranges(typed: &str) -> Result<Vec<PortRange>, ParsePortRangeError> {
    typed.split(',').map(str::parse).collect()
}

/// The error of a text that is not a [`PortRange`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParsePortRangeError {
    /// Written as another product has it.
    #[error("{cure}")]
    Notation {
        /// The text to write instead.
        cure: String,
    },
    /// Not a number, or one that is no port.
    #[error("port {port:?} is not a number from 1 to 65535")]
    Port {
        /// The text that was typed.
        port: String,
    },
    /// The first port is greater than the last.
    #[error("the range is empty, its first port is greater than its last; did you mean {suggestion}?")]
    Reversed {
        /// The range with its ends exchanged.
        suggestion: PortRange,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_print_as_they_are_typed() {
        for text in ["1", "80", "1-65535", "27000-27100"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (text, message) in [
            ("0", "for every port leave ports out, or write 1-65535"),
            ("80:90", "a range is written 80-90"),
            ("70000", "port \"70000\" is not a number from 1 to 65535"),
            ("9-3", "the range is empty, its first port is greater than its last; did you mean 3-9?"),
            ("", "port \"\" is not a number from 1 to 65535"),
            ("80-", "port \"\" is not a number from 1 to 65535"),
            ("+80", "port \"+80\" is not a number from 1 to 65535"),
            ("http", "port \"http\" is not a number from 1 to 65535"),
        ] {
            assert_eq!(text.parse::<PortRange>().unwrap_err().to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn a_list_keeps_its_order() {
        let ranges = parse_port_ranges("443, 80,27000-27100").unwrap();
        assert_eq!(ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["443", "80", "27000-27100"]);
    }

    #[test]
    fn all_ports_are_65535() {
        assert_eq!(PortRange::ALL.width(), 65535);
        assert!(!PortRange::ALL.contains(0));
    }
}
